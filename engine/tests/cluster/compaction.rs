//! A log from which dead records were taken out says what it said before.

use engram_engine::life::Outcome;
use engram_engine::model::{Link, LinkKind, SpaceName, Timestamp, Weight};
use engram_engine::request::{
    Answer, Cue, CueKind, Direction, LinkName, Recall, Request, Wait, With,
};
use engram_engine::shard::ConsolidateAsk;

use super::agreement::{answers, corpus};
use super::{Cluster, Random, id};

const COUNT: usize = 60;

fn space() -> SpaceName {
    SpaceName::default()
}

fn name(i: usize) -> String {
    format!("m{i}")
}

/// One change of any kind; what it meets may not exist.
fn change(cluster: &mut Cluster, random: &mut Random) {
    let (a, b) = (name(random.below(COUNT)), name(random.below(COUNT)));
    let wait = Wait::Durable;
    let kind = LinkKind::new(["cites", "near_by"][random.below(2)]).expect("valid");
    let request = match random.below(16) {
        0..4 => {
            let mut memories = corpus(random.next(), COUNT);
            let mut memory = memories.swap_remove(random.below(COUNT));
            if random.below(3) == 0 {
                memory.links = None;
            }
            if random.below(6) == 0 {
                memory.expires_at = Some(Timestamp(cluster.now() + 200));
            }
            let (memories, mode) = (vec![memory], engram_engine::request::StoreMode::Upsert);
            Request::Store { space: space(), memories, mode, wait }
        }
        4..6 => Request::Delete { space: space(), id: id(&a), wait },
        6..9 => {
            let weight = Weight::new(0.5 + random.unit() / 2.0).expect("in range");
            let link = Link { to: id(&b), weight, kind };
            Request::Link { space: space(), links: vec![(id(&a), link)], wait }
        }
        9..11 => {
            let kind = Some(kind).filter(|_| random.below(2) == 0);
            let links = vec![LinkName { from: id(&a), to: id(&b), kind }];
            Request::Unlink { space: space(), links, wait }
        }
        11 => {
            let (ids, outcome) = (vec![id(&a), id(&b)], Outcome::new(1.0));
            Request::Reinforce { space: space(), ids, outcome, wait }
        }
        12 => Request::Demote { space: space(), ids: vec![id(&a), id(&b)] },
        13 => Request::Expire,
        14 => {
            let ask = ConsolidateAsk::Start { threshold: 0.3, dry_run: false };
            Request::Consolidate { space: space(), ask }
        }
        _ => {
            let cue = Cue { kind: CueKind::Id(id(&a)), weight: 1.0 };
            let recall = Recall {
                cues: vec![cue],
                reinforce: true,
                tiers: vec![engram_engine::model::Tier::Warm, engram_engine::model::Tier::Cold],
                ..Recall::default()
            };
            Request::Recall { space: space(), recall: Box::new(recall) }
        }
    };
    // What is not there is refused, which is as good here.
    let _ignored = cluster.call(random.below(cluster.shards.len()) as u16, request);
}

fn undo_one(cluster: &mut Cluster, random: &mut Random) {
    let all = Request::Consolidate { space: space(), ask: ConsolidateAsk::Runs };
    let Ok(Answer::Runs(runs)) = cluster.call(0, all) else { panic!("runs are listed") };
    if let Some(run) = runs.get(random.below(runs.len().max(1))) {
        let ask = ConsolidateAsk::Undo(run.run.id);
        let _ignored = cluster.call(0, Request::Consolidate { space: space(), ask });
        cluster.settle();
    }
}

/// Everything that clients can see.
fn seen(cluster: &mut Cluster) -> Vec<String> {
    let mut seen = Vec::new();
    for i in 0..COUNT {
        let with = With { links: true, merged: true, ..With::ALL };
        let (space, of) = (space(), id(&name(i)));
        seen.push(format!("{:?}", cluster.call(0, Request::Read { space, id: of, with })));
        for direction in [Direction::Out, Direction::In] {
            let (space, of) = (SpaceName::default(), id(&name(i)));
            let links = cluster.call(0, Request::Links { space, id: of, direction, kind: None });
            seen.push(format!("{links:?}"));
        }
    }
    let all = Request::Consolidate { space: space(), ask: ConsolidateAsk::Runs };
    seen.push(format!("{:?}", cluster.call(0, all)));
    match cluster.call(0, Request::Stats) {
        Ok(Answer::Stats(stats)) => seen.push(format!("{} {}", stats.memories, stats.traces)),
        other => panic!("no stats: {other:?}"),
    }
    seen.extend(answers(cluster, COUNT));
    seen
}

#[test]
fn a_compacted_log_says_what_the_whole_one_said() {
    let (mut dead, mut kept) = (0, 0);
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new(1 + (seed % 3) as u16, seed);
        for verdict in cluster.store(corpus(seed, COUNT)) {
            verdict.expect("the corpus is valid");
        }
        for round in 0..4 {
            let mut images = None;
            for step in 0..60 {
                change(&mut cluster, &mut random);
                if step == 20 {
                    images = Some(cluster.images());
                }
            }
            undo_one(&mut cluster, &mut random);
            cluster.settle();
            // What expires has expired before anything is compared.
            let later = Timestamp(cluster.now() + 1000);
            cluster.wait_until(later);
            cluster.crash();
            let expected = seen(&mut cluster);
            cluster.settle();
            let (images, logs) = (images.expect("they were made"), cluster.copy_logs());
            cluster.crash_to(&images);
            let from_images = seen(&mut cluster);
            cluster.crash_to_logs(logs);
            compare(&expected, &seen(&mut cluster), &format!("seed {seed}.{round}, whole"));
            for _ in 0..2 {
                let (gone, left) = cluster.compact(random.below(3) + 1);
                (dead, kept) = (dead + gone, kept + left);
                compare(&expected, &seen(&mut cluster), &format!("seed {seed}.{round}, running"));
            }
            cluster.crash();
            compare(&expected, &seen(&mut cluster), &format!("seed {seed}.{round}, replayed"));
            let logs = cluster.copy_logs();
            cluster.crash_to(&images);
            let what = format!("seed {seed}.{round}, from an image");
            compare(&from_images, &seen(&mut cluster), &what);
            cluster.crash_to_logs(logs);
        }
    }
    assert!(dead > 500 && kept > 500, "{dead} dead and {kept} kept records were met");
}

fn compare(expected: &[String], found: &[String], what: &str) {
    for (i, (a, b)) in expected.iter().zip(found).enumerate() {
        assert_eq!(a, b, "{what}: {i}");
    }
}
