//! What was acknowledged is there, whatever is lost in a crash.

use std::collections::BTreeMap;

use engram_engine::model::{Link, LinkKind, MemoryId, SpaceName, Weight};
use engram_engine::request::{Answer, Code, Direction, Patch, Request, StoreMode, Wait, With};
use engram_engine::shard::{Budget, LogRoom, Writes};

use super::{Cluster, Outcome, Random, id, memory};

fn read(cluster: &mut Cluster, name: &str) -> Option<String> {
    let (space, with) = (SpaceName::default(), With::DEFAULT);
    match cluster.call(0, Request::Read { space, id: id(name), with }) {
        Ok(Answer::Memory(memory)) => memory.content,
        Err(rejection) if rejection.code == Code::NotFound => None,
        other => panic!("neither there nor not: {other:?}"),
    }
}

fn links(cluster: &mut Cluster, name: &str, direction: Direction) -> Vec<(String, String)> {
    let request =
        Request::Links { space: SpaceName::default(), id: id(name), direction, kind: None };
    match cluster.call(0, request) {
        Ok(Answer::Links(views)) => {
            let ends = |v: &engram_engine::model::LinkView| {
                (v.from.as_str().to_owned(), v.to.as_str().to_owned())
            };
            views.iter().filter(|v| !v.automatic).map(ends).collect()
        }
        other => panic!("no links: {other:?}"),
    }
}

fn link(to: &str) -> Link {
    Link { to: id(to), weight: Weight::ONE, kind: LinkKind::default() }
}

#[test]
fn acknowledged_writes_survive_crashes_at_any_moment() {
    for seed in 0..30 {
        let shards = [1, 2, 5][seed as usize % 3];
        let mut cluster = Cluster::new(shards, seed);
        let mut random = Random::new(seed + 1000);
        let mut model: BTreeMap<String, Option<String>> = BTreeMap::new();
        for round in 0..60 {
            let name = format!("m{}", random.below(20));
            if random.below(4) == 0 {
                let request = Request::Delete {
                    space: SpaceName::default(),
                    id: id(&name),
                    wait: Wait::Durable,
                };
                if cluster.call(0, request).is_ok() {
                    model.insert(name, None);
                }
            } else {
                let content = format!("content {round}");
                cluster.store(vec![memory(&name, &content)])[0].as_ref().expect("valid");
                model.insert(name, Some(content));
            }
            if random.below(8) == 0 {
                // A write that nobody waits for: it may survive or not.
                let lost = memory(&format!("lost{round}"), "nobody waits");
                let (space, mode, wait) = (SpaceName::default(), StoreMode::Upsert, Wait::Durable);
                cluster.begin(0, Request::Store { space, memories: vec![lost], mode, wait });
                (0..random.below(6)).for_each(|_| {
                    cluster.advance();
                });
                cluster.crash();
            }
        }
        for (name, content) in model {
            assert_eq!(read(&mut cluster, &name), content, "seed {seed}, {name}");
        }
    }
}

#[test]
fn links_go_with_the_memory_they_lead_to_and_stay_gone_after_a_crash() {
    for shards in [1, 2, 4] {
        let mut cluster = Cluster::new(shards, 3);
        let mut names: Vec<MemoryId> = Vec::new();
        for i in 0..12 {
            let mut made = memory(&format!("from{i}"), "source");
            made.links = Some(vec![link("target")]);
            names.push(made.id.clone());
            cluster.store(vec![made]);
        }
        cluster.store(vec![memory("target", "the target")]);
        assert_eq!(links(&mut cluster, "target", Direction::In).len(), 12);
        let space = SpaceName::default();
        cluster.call(0, Request::Delete { space, id: id("target"), wait: Wait::Durable }).unwrap();
        // The unlinks of other shards may not be durable yet: the deletion outlives them.
        cluster.crash();
        cluster.store(vec![memory("target", "another target")]);
        cluster.settle();
        assert_eq!(links(&mut cluster, "target", Direction::In).len(), 0, "{shards} shards");
        for name in &names {
            let out = links(&mut cluster, name.as_str(), Direction::Out);
            assert_eq!(out.len(), 0, "{shards} shards");
        }
    }
}

#[test]
fn a_patch_merges_and_survives() {
    let mut cluster = Cluster::new(3, 1);
    let mut made = memory("a", "before");
    made.metadata = serde_json::from_str(r#"{"keep": 1, "drop": 2, "deep": {"x": 1}}"#).unwrap();
    cluster.store(vec![made]);
    let metadata = serde_json::from_str(r#"{"drop": null, "deep": {"y": 2}}"#).unwrap();
    let patch = Patch {
        content: Some(Some("after".to_owned())),
        metadata: Some(Some(metadata)),
        ..Patch::default()
    };
    let (space, wait) = (SpaceName::default(), Wait::Durable);
    let request = Request::Patch { space, id: id("a"), patch: Box::new(patch), wait };
    cluster.call(1, request).expect("the memory is there");
    cluster.crash();
    let (space, with) = (SpaceName::default(), With::DEFAULT);
    let Ok(Answer::Memory(read)) = cluster.call(2, Request::Read { space, id: id("a"), with })
    else {
        panic!("the memory is there");
    };
    assert_eq!(read.content.as_deref(), Some("after"));
    let text = serde_json::to_string(&read.metadata).unwrap();
    assert_eq!(text, r#"{"deep":{"x":1,"y":2},"keep":1}"#);
}

#[test]
fn a_full_budget_refuses_what_grows_and_lets_forgetting_and_reading_go_on() {
    let mut cluster = Cluster::new(2, 3);
    let space = SpaceName::default;
    let names = ["a", "b", "c", "d"];
    cluster.store(names.iter().map(|name| memory(name, "before")).collect());
    for (writes, code) in
        [(Writes::MemoryFull, Code::MemoryBudget), (Writes::DiskFull, Code::DiskBudget)]
    {
        cluster.allow(Budget { writes, background: true });
        let store = Request::Store {
            space: space(),
            memories: vec![memory("e", "after")],
            mode: StoreMode::Upsert,
            wait: Wait::Durable,
        };
        let link = Request::Link {
            space: space(),
            links: vec![(id("a"), link("b"))],
            wait: Wait::Durable,
        };
        let patch = Patch { content: Some(Some("after".to_owned())), ..Patch::default() };
        let patch = Request::Patch {
            space: space(),
            id: id("a"),
            patch: Box::new(patch),
            wait: Wait::Durable,
        };
        for request in [store, link, patch] {
            assert_eq!(cluster.call(0, request).expect_err("it would grow").code, code);
        }
        assert_eq!(read(&mut cluster, "a").as_deref(), Some("before"));
    }
    for name in ["c", "d"] {
        let delete = Request::Delete { space: space(), id: id(name), wait: Wait::Durable };
        cluster.call(1, delete).expect("forgetting makes room");
        assert_eq!(read(&mut cluster, name), None);
    }
    cluster.allow(Budget::default());
    cluster.store(vec![memory("e", "after")])[0].as_ref().expect("there is room again");
}

#[test]
fn a_log_without_room_refuses_what_it_cannot_keep_until_there_is_room() {
    let mut cluster = Cluster::new(2, 1);
    let one = |name: &str| Request::Store {
        space: SpaceName::default(),
        memories: vec![memory(name, "content")],
        mode: StoreMode::Upsert,
        wait: Wait::Durable,
    };
    let forget = |name: &str| Request::Delete {
        space: SpaceName::default(),
        id: id(name),
        wait: Wait::Durable,
    };
    let refused = |outcome: Outcome| match outcome {
        Ok(Answer::Stored { verdicts, .. }) => verdicts[0].as_ref().err().map(|r| r.code),
        Ok(_) => None,
        Err(rejection) => Some(rejection.code),
    };
    for name in ["a", "b"] {
        assert_eq!(refused(cluster.call(0, one(name))), None);
    }
    cluster.find_room(LogRoom::Last);
    assert_eq!(refused(cluster.call(0, one("c"))), Some(Code::DiskBudget));
    assert_eq!(refused(cluster.call(0, forget("a"))), None, "forgetting has a reserve");
    cluster.find_room(LogRoom::Enough);
    let ticket = cluster.begin(0, one("d"));
    for _ in 0..3 {
        // What is under way is told that it was not made durable, whether it was appended or not.
        cluster.find_room(LogRoom::None);
    }
    assert_eq!(refused(cluster.finish(ticket)), Some(Code::DiskBudget));
    assert_eq!(refused(cluster.call(0, forget("b"))), Some(Code::DiskBudget));
    let read = Request::Read { space: SpaceName::default(), id: id("b"), with: With::ALL };
    assert!(cluster.call(1, read).is_ok(), "reads go on");
    cluster.find_room(LogRoom::Enough);
    assert_eq!(refused(cluster.call(0, one("c"))), None);
    assert_eq!(refused(cluster.call(0, forget("b"))), None);
}

/// Which core a connection lies on says nothing about whether a write can be kept.
#[test]
fn a_poisoned_log_refuses_the_writes_of_its_own_memories_whoever_is_asked() {
    let mut cluster = Cluster::new(2, 3);
    cluster.store(vec![memory("target", "content")])[0].as_ref().expect("nothing failed yet");
    cluster.poison(0);
    let mut refused = [0, 0];
    for number in 0..20 {
        let name = format!("m{number}");
        let store = || Request::Store {
            space: SpaceName::default(),
            memories: vec![memory(&name, "content")],
            mode: StoreMode::Upsert,
            wait: Wait::Durable,
        };
        let link = || Request::Link {
            space: SpaceName::default(),
            links: vec![(id(&name), link("target"))],
            wait: Wait::Durable,
        };
        let mut codes = |home, request| match cluster.call(home, request) {
            Ok(Answer::Stored { verdicts, .. }) => verdicts[0].as_ref().err().map(|r| r.code),
            Ok(Answer::Linked { verdicts, .. }) => verdicts[0].as_ref().err().map(|r| r.code),
            Ok(other) => panic!("not an answer to a write: {other:?}"),
            Err(rejection) => Some(rejection.code),
        };
        let outcomes = [codes(0, store()), codes(1, store()), codes(0, link()), codes(1, link())];
        let first = outcomes[0];
        assert!(outcomes.iter().all(|outcome| *outcome == first), "{name}: {outcomes:?}");
        assert!(matches!(first, None | Some(Code::Poisoned)), "{name}: {first:?}");
        refused[usize::from(first.is_some())] += 1;
    }
    assert!(refused.iter().all(|count| *count > 0), "both shards have memories: {refused:?}");
}

/// Where other shards have to hear of a deletion it is durable when it is answered, and the answer
/// said that it was not.
#[test]
fn a_deletion_says_whether_it_is_durable() {
    for (shards, wait, durable) in
        [(1, Wait::Applied, false), (1, Wait::Durable, true), (3, Wait::Applied, true)]
    {
        let mut cluster = Cluster::new(shards, 1);
        let stored = cluster.store(vec![memory("a", "content")]);
        stored.into_iter().for_each(|verdict| drop(verdict.expect("it is valid")));
        let delete = Request::Delete { space: SpaceName::default(), id: id("a"), wait };
        match cluster.call(0, delete) {
            Ok(Answer::Deleted { durable: said }) => assert_eq!(said, durable, "{shards} shards"),
            other => panic!("it is there: {other:?}"),
        }
    }
}
