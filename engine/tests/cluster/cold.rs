//! Memories in the cold tier: found as before, lost never, forgotten for good.

use engram_engine::cold::ColdSegmentId;
use engram_engine::filter::Filter;
use engram_engine::model::{SpaceName, Tier, Timestamp};
use engram_engine::record::{Contents, Kind};
use engram_engine::request::{
    Answer, Code, Cue, CueKind, Patch, Recall, Recalled, Request, Wait, With,
};

use super::agreement::{corpus, cues};
use super::{Cluster, Outcome, Random, id, memory};

const COUNT: usize = 120;

fn space() -> SpaceName {
    SpaceName::default()
}

fn cluster(shards: u16) -> Cluster {
    let mut cluster = Cluster::new(shards, 3);
    let stored = cluster.store(corpus(4, COUNT));
    assert!(stored.iter().all(Result::is_ok));
    cluster.settle();
    cluster
}

fn names(every: usize) -> Vec<String> {
    (0..COUNT).step_by(every).map(|i| format!("m{i}")).collect()
}

fn demote(cluster: &mut Cluster, names: &[String]) -> Outcome {
    let ids = names.iter().map(|name| id(name)).collect();
    cluster.call(0, Request::Demote { space: space(), ids })
}

fn demoted(outcome: Outcome) -> u64 {
    match outcome {
        Ok(Answer::Demoted(count)) => count,
        other => panic!("not demoted: {other:?}"),
    }
}

fn recall(cluster: &mut Cluster, recall: Recall) -> Recalled {
    match cluster.call(0, Request::Recall { space: space(), recall: Box::new(recall) }) {
        Ok(Answer::Recalled(recalled)) => *recalled,
        other => panic!("not recalled: {other:?}"),
    }
}

fn everywhere(cues: Vec<Cue>, with: With) -> Recall {
    let tiers = vec![Tier::Fast, Tier::Warm, Tier::Cold];
    Recall { cues, exact: true, tiers, with, top_k: 20, ..Recall::default() }
}

/// Without contents a cold memory is found and stays cold.
const BARE: With = With::NONE;

fn answers(cluster: &mut Cluster) -> Vec<String> {
    let mut random = Random::new(99);
    let queries = (0..30).map(|_| everywhere(cues(&mut random, COUNT), BARE));
    let queries: Vec<Recall> = queries.collect();
    let shown = |recalled: Recalled| {
        let rows = recalled.memories.iter().map(|m| (m.memory.id.clone(), m.score, m.breakdown));
        format!("{:?} {}", rows.collect::<Vec<_>>(), recalled.truncated)
    };
    queries.into_iter().map(|query| shown(recall(cluster, query))).collect()
}

fn read(cluster: &mut Cluster, name: &str) -> Outcome {
    let with = With { links: true, ..With::ALL };
    cluster.call(0, Request::Read { space: space(), id: id(name), with })
}

fn cold_memories(cluster: &mut Cluster) -> u64 {
    match cluster.call(0, Request::Stats) {
        Ok(Answer::Stats(stats)) => stats.cold_memories,
        other => panic!("no stats: {other:?}"),
    }
}

fn segments(cluster: &Cluster) -> Vec<(ColdSegmentId, u32)> {
    let cold = cluster.cold.as_ref().expect("the cold tier is up");
    cold.iter().map(|(id, (records, _))| (*id, *records)).collect()
}

/// Sweeps as the shell does, until nothing is left to do.
fn sweep(cluster: &mut Cluster) {
    for _ in 0..10 {
        let listed = segments(cluster);
        let outcome = cluster.call(0, Request::Sweep { listed });
        let Ok(Answer::Swept { unused, rewritten }) = outcome else {
            panic!("not swept: {outcome:?}")
        };
        let cold = cluster.cold.as_mut().expect("the cold tier is up");
        unused.iter().for_each(|(id, _)| drop(cold.remove(id)));
        if unused.is_empty() && rewritten == 0 {
            return;
        }
    }
    panic!("sweeps never end");
}

#[test]
fn demotion_and_restarts_change_no_answer() {
    for shards in [1, 3] {
        let mut cluster = cluster(shards);
        let before = answers(&mut cluster);
        let whole: Vec<_> =
            names(1).iter().map(|name| format!("{:?}", read(&mut cluster, name))).collect();
        let warm_images = cluster.images();
        assert_eq!(demoted(demote(&mut cluster, &names(2))), COUNT as u64 / 2);
        assert_eq!(cold_memories(&mut cluster), COUNT as u64 / 2);
        let cold_images = cluster.images();
        for images in [warm_images, cold_images] {
            cluster.crash_to(&images);
            cluster.settle();
            assert_eq!(cold_memories(&mut cluster), COUNT as u64 / 2);
            assert_eq!(answers(&mut cluster), before, "{shards} shards, from images");
        }
        assert_eq!(answers(&mut cluster), before, "{shards} shards");
        cluster.crash();
        cluster.settle();
        assert_eq!(cold_memories(&mut cluster), COUNT as u64 / 2);
        assert_eq!(answers(&mut cluster), before, "{shards} shards, after a restart");
        for (name, whole) in names(1).iter().zip(whole) {
            let again = format!("{:?}", read(&mut cluster, name));
            assert_eq!(again.replace("tier: Cold", "tier: Warm"), whole);
        }
        assert_eq!(demoted(demote(&mut cluster, &names(2))), 0, "they are cold already");
    }
}

#[test]
fn a_recall_reaches_the_tiers_that_it_names_and_what_it_finds_cold_comes_back() {
    let mut cluster = cluster(2);
    demoted(demote(&mut cluster, &names(1)));
    let cue = || vec![Cue { kind: CueKind::Id(id("m0")), weight: 1.0 }];
    let warm = recall(&mut cluster, Recall { cues: cue(), ..Recall::default() });
    assert!(warm.memories.is_empty() && !warm.truncated);
    let cold = recall(&mut cluster, everywhere(cue(), With::DEFAULT));
    assert!(!cold.memories.is_empty() && !cold.truncated);
    assert!(cold.memories.iter().all(|m| m.memory.tier == Tier::Cold));
    assert!(cold.memories.iter().all(|m| m.memory.content.is_some()));
    let promoted = cold.memories.len() as u64;
    assert_eq!(cold_memories(&mut cluster), COUNT as u64 - promoted);
    cluster.settle();
    cluster.crash();
    let warm = recall(&mut cluster, Recall { cues: cue(), top_k: 20, ..Recall::default() });
    assert_eq!(warm.memories.len() as u64, promoted, "they are warm, also after a restart");
    let only = Recall { tiers: vec![Tier::Cold], ..everywhere(cue(), BARE) };
    let only = recall(&mut cluster, only);
    assert!(only.memories.iter().all(|m| m.memory.tier == Tier::Cold));
}

#[test]
fn a_cold_tier_that_is_down_is_said_and_hurts_nothing_else() {
    let mut cluster = cluster(2);
    let names = names(2);
    demoted(demote(&mut cluster, &names));
    let bytes = cluster.cold.take();
    let cue = || vec![Cue { kind: CueKind::Id(id("m1")), weight: 1.0 }];
    let warm = Recall { cues: cue(), ..Recall::default() };
    let without = recall(&mut cluster, warm.clone());
    assert!(!without.truncated && !without.memories.is_empty());
    let with = recall(&mut cluster, everywhere(cue(), With::DEFAULT));
    assert!(with.truncated, "what could not be read is said");
    let warm_only = with.memories.iter().all(|m| m.memory.tier == Tier::Warm);
    assert!(warm_only && !with.memories.is_empty());
    let refused = read(&mut cluster, "m0").expect_err("its content lies in the cold tier");
    assert_eq!(refused.code, Code::ColdUnavailable);
    assert!(read(&mut cluster, "m1").is_ok());
    let metadata = With { content: false, metadata: true, ..BARE };
    let known = cluster.call(0, Request::Read { space: space(), id: id("m0"), with: metadata });
    assert!(known.is_ok(), "metadata are in the log");
    let refused = demote(&mut cluster, &["m1".to_owned()]).expect_err("nothing can be written");
    assert_eq!(refused.code, Code::ColdUnavailable);
    assert!(matches!(read(&mut cluster, "m1"), Ok(Answer::Memory(m)) if m.tier == Tier::Warm));
    cluster.cold = bytes;
    assert!(read(&mut cluster, "m0").is_ok());
}

#[test]
fn what_is_forgotten_leaves_the_cold_tier() {
    let mut cluster = cluster(2);
    demoted(demote(&mut cluster, &names(1)));
    sweep(&mut cluster);
    let before = segments(&cluster);
    let delete = Request::Delete { space: space(), id: id("m7"), wait: Wait::Durable };
    assert!(cluster.call(0, delete).is_ok());
    let patch = Patch { content: Some(Some("new words".to_owned())), ..Patch::default() };
    let patch = Box::new(patch);
    let patch = Request::Patch { space: space(), id: id("m8"), patch, wait: Wait::Durable };
    assert!(cluster.call(0, patch).is_ok());
    sweep(&mut cluster);
    assert_ne!(segments(&cluster), before);
    let total: u32 = segments(&cluster).iter().map(|(_, records)| records).sum();
    assert_eq!(total as usize, COUNT - 2, "only what is in use is kept");
    cluster.crash();
    cluster.settle();
    sweep(&mut cluster);
    for name in names(1).iter().filter(|name| *name != "m7") {
        assert!(read(&mut cluster, name).is_ok(), "{name}");
    }
    assert!(matches!(read(&mut cluster, "m7"), Err(no) if no.code == Code::NotFound));
    let drop_space = Request::DropSpace { space: SpaceName::new("other").expect("valid") };
    assert!(cluster.call(0, drop_space).is_err());
}

#[test]
fn a_memory_that_changes_while_it_is_demoted_stays_warm() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(2, seed);
        cluster.store(corpus(4, COUNT));
        cluster.settle();
        let ids = names(1).iter().map(|name| id(name)).collect();
        let demotion = cluster.begin(0, Request::Demote { space: space(), ids });
        for _ in 0..seed * 3 {
            cluster.advance();
        }
        let mut changed = memory("m5", "written meanwhile");
        changed.links = Some(Vec::new());
        cluster.store(vec![changed]);
        let outcome = cluster.finish(demotion);
        assert!(demoted(outcome) >= COUNT as u64 - 1);
        cluster.settle();
        cluster.crash();
        let Ok(Answer::Memory(read)) = read(&mut cluster, "m5") else { panic!("m5 is there") };
        assert_eq!(read.content.as_deref(), Some("written meanwhile"), "seed {seed}");
    }
}

#[test]
fn a_crash_at_any_moment_loses_no_memory() {
    for moment in 0..150 {
        let mut cluster = Cluster::new(2, moment);
        cluster.store(corpus(4, 30));
        cluster.settle();
        let ids: Vec<_> = (0..30).map(|i| id(&format!("m{i}"))).collect();
        cluster.begin(0, Request::Demote { space: space(), ids });
        for _ in 0..moment {
            cluster.advance();
        }
        cluster.crash();
        cluster.settle();
        sweep(&mut cluster);
        for i in 0..30 {
            assert!(read(&mut cluster, &format!("m{i}")).is_ok(), "m{i} after {moment} steps");
        }
    }
}

#[test]
fn what_expired_is_forgotten() {
    let mut cluster = Cluster::new(2, 1);
    let memories = (0..200).map(|i| {
        let mut made = memory(&format!("m{i}"), "for a while");
        made.expires_at = (i % 2 == 0).then_some(Timestamp(2_000_000));
        made
    });
    cluster.store(memories.collect());
    cluster.settle();
    assert!(matches!(cluster.call(0, Request::Expire), Ok(Answer::Expired(0))));
    cluster.wait_until(Timestamp(3_000_000));
    assert!(matches!(cluster.call(0, Request::Expire), Ok(Answer::Expired(100))));
    assert!(matches!(cluster.call(0, Request::Expire), Ok(Answer::Expired(0))));
    let count = Request::Count { space: space(), filter: Filter::default() };
    assert!(matches!(cluster.call(0, count), Ok(Answer::Count(100))));
    cluster.crash();
    assert_eq!(cluster.shards.iter().map(|s| s.report().stats.memories).sum::<u64>(), 100);
}

#[test]
fn any_bytes_of_a_demotion_are_a_value_or_an_error() {
    let mut cluster = cluster(1);
    demoted(demote(&mut cluster, &names(1)));
    let records = cluster.records();
    let demotions = records.iter().filter(|(kind, _, _)| *kind == Kind::Demote);
    let mut seen = 0;
    for (kind, head, tail) in demotions {
        assert!(Contents::read(*kind, head, tail).is_ok());
        seen += 1;
        for at in 0..head.len() {
            let mut bad = head.clone();
            bad[at] ^= 0xA5;
            let _any = Contents::read(*kind, &bad, tail);
            let _cut = Contents::read(*kind, &head[..at], tail);
        }
    }
    assert_eq!(seen, COUNT);
}
