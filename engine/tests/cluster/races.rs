//! What crosses on its way between shards changes nothing about what was acknowledged.

use engram_engine::model::{Link, LinkKind, SpaceName, Weight};
use engram_engine::request::{Answer, Code, Direction, Request, StoreMode, Wait, With};
use engram_engine::shard::ConsolidateAsk;

use super::{Cluster, Random, id, memory};

const SEEDS: u64 = 60;

fn embedded(name: &str) -> engram_engine::model::NewMemory {
    let mut made = memory(name, "something");
    made.embedding = Some(vec![1.0, 2.0, 3.0]);
    made
}

fn link(to: &str) -> Link {
    Link { to: id(to), weight: Weight::ONE, kind: LinkKind::default() }
}

fn links_out(cluster: &mut Cluster, home: u16, name: &str) -> usize {
    let (space, direction) = (SpaceName::default(), Direction::Out);
    match cluster.call(home, Request::Links { space, id: id(name), direction, kind: None }) {
        Ok(Answer::Links(views)) => views.iter().filter(|view| !view.automatic).count(),
        other => panic!("no links: {other:?}"),
    }
}

fn exists(cluster: &mut Cluster, home: u16, name: &str) -> bool {
    let (space, with) = (SpaceName::default(), With::NONE);
    match cluster.call(home, Request::Read { space, id: id(name), with }) {
        Ok(_) => true,
        Err(rejection) if rejection.code == Code::NotFound => false,
        Err(other) => panic!("neither there nor not: {other:?}"),
    }
}

fn delete(name: &str) -> Request {
    Request::Delete { space: SpaceName::default(), id: id(name), wait: Wait::Durable }
}

/// A home that had heard of a new space asked owners that had not, and they refused.
#[test]
fn a_store_in_a_space_that_is_just_being_made_is_never_refused() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(4, seed);
        let space = SpaceName::new("new").expect("valid");
        let mut stores = Vec::new();
        for i in 0..12u16 {
            let memories = (0..4).map(|j| embedded(&format!("m{i}-{j}"))).collect();
            let (space, mode, wait) = (space.clone(), StoreMode::Upsert, Wait::Durable);
            let store = Request::Store { space, memories, mode, wait };
            stores.push(cluster.begin(i % 4, store));
            (0..3).for_each(|_| {
                cluster.advance();
            });
        }
        for store in stores {
            let outcome = cluster.finish(store);
            let Ok(Answer::Stored { verdicts, .. }) = outcome else {
                panic!("seed {seed}: {outcome:?}")
            };
            assert!(verdicts.iter().all(Result::is_ok), "seed {seed}: {verdicts:?}");
        }
    }
}

/// A shard that had heard of a space stored in it and was acknowledged, while another had not heard
/// yet and said that there is no such space.
#[test]
fn what_is_stored_in_a_space_that_is_just_being_made_is_found_from_everywhere() {
    let space = || SpaceName::new("new").expect("valid");
    let store = |name: &str| {
        let (memories, mode) = (vec![memory(name, "something")], StoreMode::Upsert);
        Request::Store { space: space(), memories, mode, wait: Wait::Durable }
    };
    for seed in 0..8 * SEEDS {
        let (mut cluster, mut random) = (Cluster::new(6, seed), Random::new(seed));
        cluster.begin(1, store("first"));
        (0..random.below(40)).for_each(|_| {
            cluster.advance();
        });
        cluster.call(2, store("second")).expect("it is valid");
        let ask = ConsolidateAsk::Start { threshold: 0.0, dry_run: false };
        let run = cluster.call(3, Request::Consolidate { space: space(), ask });
        assert!(matches!(run, Ok(Answer::Run(_))), "seed {seed}: {run:?}");
        for home in 0..6 {
            let (id, with) = (id("second"), With::NONE);
            let read = cluster.call(home, Request::Read { space: space(), id, with });
            assert!(read.is_ok(), "seed {seed}, shard {home}: {read:?}");
        }
    }
}

/// The client's shard asked for a barrier that could overtake what the authority had told.
#[test]
fn every_shard_has_heard_of_a_space_when_that_is_acknowledged() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(5, seed);
        let space = || SpaceName::new("new").expect("valid");
        let config = engram_engine::model::SpaceConfig::default();
        cluster.call(3, Request::PutSpace { space: space(), config }).expect("it is new");
        for home in 0..5 {
            let known = cluster.call(home, Request::ReadSpace { space: space() });
            assert!(known.is_ok(), "seed {seed}, shard {home}: {known:?}");
        }
        cluster.call(2, Request::DropSpace { space: space() }).expect("it is there");
        for home in 0..5 {
            let known = cluster.call(home, Request::ReadSpace { space: space() });
            assert!(known.is_err(), "seed {seed}, shard {home}: {known:?}");
        }
        cluster.crash();
        for home in 0..5 {
            let known = cluster.call(home, Request::ReadSpace { space: space() });
            assert!(known.is_err(), "seed {seed}, shard {home}: {known:?}");
        }
    }
}

/// Other shards heard of a deletion before it was durable and logged that links were gone; a crash
/// took the deletion back, and the links stayed away.
#[test]
fn a_deletion_that_a_crash_undoes_takes_no_links_with_it() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(4, seed);
        let mut random = Random::new(seed);
        let sources: Vec<String> = (0..8).map(|i| format!("from{i}")).collect();
        cluster.store(vec![memory("target", "the target")]);
        for name in &sources {
            let mut made = memory(name, "source");
            made.links = Some(vec![link("target")]);
            cluster.store(vec![made]);
        }
        cluster.settle();
        cluster.begin(1, delete("target"));
        (0..random.below(40)).for_each(|_| {
            cluster.advance();
        });
        cluster.crash();
        let expected = usize::from(exists(&mut cluster, 0, "target"));
        for name in &sources {
            assert_eq!(links_out(&mut cluster, 2, name), expected, "seed {seed}, {name}");
        }
    }
}

/// The news of a deletion that was acknowledged could still be on its way, and take away a link that
/// was written later to what has the same id again.
#[test]
fn a_link_that_is_written_after_a_deletion_and_a_new_store_stays() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(4, seed);
        let sources: Vec<String> = (0..6).map(|i| format!("from{i}")).collect();
        cluster.store(vec![memory("target", "the target")]);
        for name in &sources {
            let mut made = memory(name, "source");
            made.links = Some(vec![link("target")]);
            cluster.store(vec![made]);
        }
        cluster.call(1, delete("target")).expect("it is there");
        for name in &sources {
            assert_eq!(links_out(&mut cluster, 3, name), 0, "seed {seed}, {name}: gone at once");
        }
        cluster.store(vec![memory("target", "another target")]);
        for (home, name) in (0..).zip(&sources) {
            let links = vec![(id(name), link("target"))];
            let (space, wait) = (SpaceName::default(), Wait::Durable);
            let outcome = cluster.call(home % 4, Request::Link { space, links, wait });
            assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        }
        for _ in 0..2 {
            for name in &sources {
                assert_eq!(links_out(&mut cluster, 2, name), 1, "seed {seed}, {name}");
            }
            cluster.crash();
        }
    }
}

/// Links had the time of the client's shard, which could be behind a deletion on the owner: they
/// were left out, and the store was acknowledged.
#[test]
fn a_home_whose_clock_is_behind_writes_links_all_the_same() {
    for shards in [2, 3, 5] {
        let mut cluster = Cluster::new(shards, 7);
        let names: Vec<String> = (0..20).map(|i| format!("m{i}")).collect();
        cluster.store(names.iter().map(|name| memory(name, "before")).collect());
        for (home, name) in (0..).zip(&names[..10]) {
            cluster.call(home % shards, delete(name)).expect("it is there");
        }
        let now = cluster.now();
        cluster.set_clock(now - 900_000);
        for (home, (from, to)) in (0..).zip(names[10..].iter().zip(&names[..10])) {
            let mut made = memory(from, "after");
            made.links = Some(vec![link(to)]);
            let (space, mode, wait) = (SpaceName::default(), StoreMode::Upsert, Wait::Durable);
            let store = Request::Store { space, memories: vec![made], mode, wait };
            cluster.call(home % shards, store).expect("it is valid");
            assert_eq!(links_out(&mut cluster, 0, from), 1, "{shards} shards, {from}");
        }
        cluster.crash();
        for from in &names[10..] {
            assert_eq!(links_out(&mut cluster, 0, from), 1, "{shards} shards, {from}");
        }
    }
}

/// A shard from which nothing led to what was deleted, since that had just been deleted itself, said
/// so at once; a crash took its own deletion back, and the link was there again.
#[test]
fn a_link_whose_source_comes_back_does_not_lead_to_what_was_deleted() {
    for seed in 0..4 * SEEDS {
        let (mut cluster, mut random) = (Cluster::new(3, seed), Random::new(seed));
        cluster.store(vec![memory("target", "the target")]);
        let mut source = memory("source", "source");
        source.links = Some(vec![link("target")]);
        cluster.store(vec![source]);
        cluster.settle();
        cluster.begin(1, delete("source"));
        let target = cluster.begin(2, delete("target"));
        (0..random.below(60)).for_each(|_| {
            cluster.advance();
        });
        let acknowledged = cluster.outcomes.contains_key(&target);
        cluster.crash();
        cluster.settle();
        if acknowledged && exists(&mut cluster, 0, "source") {
            assert_eq!(links_out(&mut cluster, 0, "source"), 0, "seed {seed}");
        }
    }
}

/// A shard had not heard from all others yet, when one that had asked it for a link; then came the
/// news that what the link leads to had been deleted once, and took the new link away.
#[test]
fn a_link_that_is_written_amid_a_start_stays() {
    for seed in 0..4 * SEEDS {
        let mut cluster = Cluster::new(3, seed);
        let (space, wait) = (SpaceName::default(), Wait::Durable);
        let owner =
            |name: &str| cluster.partitioner.owner(cluster.partitioner.key(&space, &id(name)));
        let target = (0..).map(|i| format!("target{i}")).find(|name| owner(name) != owner("from"));
        let target = target.expect("names are spread over the shards");
        let deletes = owner(&target).index();
        let request = || {
            let links = vec![(id("from"), link(&target))];
            Request::Link { space: space.clone(), links, wait }
        };
        cluster.store(vec![memory("from", "something"), memory(&target, "something")]);
        assert!(cluster.call(0, request()).is_ok());
        // The deletion is durable, and so is the new store, but not that the link went with it.
        let mut logs = cluster.copy_logs();
        assert!(cluster.call(0, delete(&target)).is_ok());
        cluster.store(vec![memory(&target, "something")]);
        logs[deletes] = cluster.copy_logs().swap_remove(deletes);
        cluster.begin_from_logs(logs);
        while !cluster.shards.iter().any(|shard| shard.is_recovered()) {
            assert!(cluster.advance(), "seed {seed}: every shard hears of every other");
        }
        let first = cluster.shards.iter().position(|shard| shard.is_recovered());
        let home = u16::try_from(first.expect("one is")).expect("a few");
        let outcome = cluster.call(home, request());
        let Ok(Answer::Linked { verdicts, .. }) = outcome else {
            panic!("seed {seed}: {outcome:?}")
        };
        assert!(verdicts[0].is_ok(), "seed {seed}: {verdicts:?}");
        cluster.settle();
        assert_eq!(links_out(&mut cluster, home, "from"), 1, "seed {seed}");
    }
}
