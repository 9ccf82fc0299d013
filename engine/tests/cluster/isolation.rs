//! What happens in one space shows nowhere in another.

use engram_engine::filter::Filter;
use engram_engine::model::{MemoryId, SpaceName};
use engram_engine::request::{
    Answer, Code, Cue, CueKind, Direction, Recall, Request, StoreMode, Wait, With,
};

use super::agreement::{all_links, answers, corpus, workload_beside};
use super::{Cluster, Random, id};

const COUNT: usize = 120;

fn neighbour() -> SpaceName {
    SpaceName::new("neighbour").expect("a valid name")
}

/// One act of a neighbour who has the same ids, names, words and links.
fn act(cluster: &mut Cluster, random: &mut Random) {
    let (space, wait) = (neighbour(), Wait::Durable);
    let some = |random: &mut Random| -> MemoryId { id(&format!("m{}", random.below(COUNT))) };
    let request = match random.below(6) {
        0..3 => {
            let memories = corpus(random.next(), COUNT).into_iter().skip(random.below(COUNT / 2));
            let memories = memories.take(20).collect();
            Request::Store { space, memories, mode: StoreMode::Upsert, wait }
        }
        3 => Request::Delete { space, id: some(random), wait },
        4 => {
            let cues = vec![Cue { kind: CueKind::Id(some(random)), weight: 1.0 }];
            Request::Recall { space, recall: Box::new(Recall { cues, ..Recall::default() }) }
        }
        _ => Request::DropSpace { space },
    };
    // A refusal, of a memory or space that is not there, is as good as an answer.
    let _ = cluster.call(0, request);
}

fn count(cluster: &mut Cluster, space: SpaceName) -> u64 {
    match cluster.call(0, Request::Count { space, filter: Filter::default() }) {
        Ok(Answer::Count(count)) => count,
        other => panic!("no count: {other:?}"),
    }
}

#[test]
fn a_space_answers_as_if_it_were_alone() {
    for (shards, seed) in [(1, 1), (2, 2), (4, 3), (2, 4)] {
        let mut alone = Cluster::new(shards, seed);
        workload_beside(&mut alone, seed, COUNT, |_| {});
        let mut beside = Cluster::new(shards, seed + 100);
        let mut random = Random::new(seed + 200);
        workload_beside(&mut beside, seed, COUNT, |cluster| act(cluster, &mut random));
        let (a, b) = (answers(&mut alone, COUNT), answers(&mut beside, COUNT));
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            assert_eq!(a, b, "{shards} shards, seed {seed}, query {i}");
        }
        for direction in [Direction::Out, Direction::In] {
            let links = all_links(&mut alone, COUNT, direction);
            assert_eq!(links, all_links(&mut beside, COUNT, direction), "seed {seed}");
        }
        let space = SpaceName::default;
        assert_eq!(count(&mut alone, space()), count(&mut beside, space()));
    }
}

#[test]
fn an_id_of_another_space_names_nothing() {
    let mut cluster = Cluster::new(2, 9);
    workload_beside(&mut cluster, 9, COUNT, |_| {});
    let memories = corpus(1, 1);
    let (space, mode, wait) = (neighbour(), StoreMode::Upsert, Wait::Durable);
    cluster.call(0, Request::Store { space, memories, mode, wait }).expect("a valid memory");
    for i in 1..COUNT {
        let id = id(&format!("m{i}"));
        let read = Request::Read { space: neighbour(), id: id.clone(), with: With::DEFAULT };
        let refused = cluster.call(0, read).expect_err("it lies in another space");
        assert_eq!(refused.code, Code::NotFound);
        let delete = Request::Delete { space: neighbour(), id, wait };
        assert!(cluster.call(0, delete).is_err());
    }
    assert_eq!(count(&mut cluster, neighbour()), 1);
}
