//! Work that is too long for one slice is done in several, and nothing is lost between them.

use engram_engine::model::{Link, LinkKind, SpaceName, Weight};
use engram_engine::request::{Answer, Cue, CueKind, Recall, Recalled, Request};
use engram_engine::shard::Remaining;

use super::{Cluster, Random, id, memory};

const MEMORIES: usize = 2_000;
const LINKS: usize = 40;

fn dense(shards: u16) -> Cluster {
    let mut random = Random::new(3);
    let mut cluster = Cluster::new(shards, 1);
    let memories = (0..MEMORIES).map(|i| {
        let mut made = memory(&format!("m{i}"), "a common word");
        made.links = Some((0..LINKS).map(|_| link(&mut random)).collect());
        made
    });
    let stored = cluster.store(memories.collect());
    assert!(stored.iter().all(Result::is_ok));
    cluster.settle();
    cluster
}

fn link(random: &mut Random) -> Link {
    Link {
        to: id(&format!("m{}", random.below(MEMORIES))),
        weight: Weight::new(0.1 + 0.9 * random.unit()).expect("in range"),
        kind: LinkKind::new("related").expect("valid"),
    }
}

fn request() -> Request {
    let recall = Recall {
        cues: vec![Cue { kind: CueKind::Id(id("m7")), weight: 1.0 }],
        max_hops: Some(3),
        min_activation: 0.0,
        top_k: 200,
        explain: true,
        ..Recall::default()
    };
    Request::Recall { space: SpaceName::default(), recall: Box::new(recall) }
}

fn answer(cluster: &mut Cluster) -> Box<Recalled> {
    match cluster.call(0, request()) {
        Ok(Answer::Recalled(recalled)) => recalled,
        other => panic!("no answer: {other:?}"),
    }
}

#[test]
fn a_hop_over_very_many_links_leaves_the_core_in_between() {
    let mut cluster = dense(1);
    let ticket = cluster.begin(0, request());
    while cluster.shards[0].has_local() {
        cluster.step(0, engram_engine::shard::Event::Local);
    }
    let now = engram_engine::model::Timestamp(cluster.now);
    assert_eq!(cluster.shards[0].work(now), Remaining::Foreground, "the third hop is not over");
    let Ok(Answer::Recalled(recalled)) = cluster.finish(ticket) else { panic!("no answer") };
    assert!(recalled.visited.links > 20_000, "{:?}", recalled.visited);
}

#[test]
fn a_hop_in_slices_gives_the_same_answer_on_any_number_of_shards() {
    let [one, four] = [1, 4].map(|shards| answer(&mut dense(shards)));
    assert_eq!(one.visited.links, four.visited.links);
    assert_eq!(one.visited.memories, four.visited.memories);
    let said = |recalled: &Recalled| -> Vec<String> {
        let rows = recalled.memories.iter();
        rows.map(|m| format!("{:?} {:x} {:?}", m.memory.id, m.score.to_bits(), m.path)).collect()
    };
    assert_eq!(said(&one), said(&four));
}
