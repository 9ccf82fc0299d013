//! Another number of shards changes no answer, and brings nothing back that is gone.

use engram_engine::filter::Filter;
use engram_engine::model::{SpaceConfig, SpaceName};
use engram_engine::request::{Answer, Direction, Request, StoreMode, Wait, With};

use super::agreement::{all_links, answers, workload, written_links};
use super::{Cluster, id, memory};

const COUNT: usize = 120;

#[test]
fn another_number_of_shards_changes_no_answer() {
    for seed in 51..53 {
        let mut cluster = Cluster::new(3, seed);
        workload(&mut cluster, seed, COUNT);
        let expected = answers(&mut cluster, COUNT);
        let links = all_links(&mut cluster, COUNT, Direction::Out);
        let written = written_links(&mut cluster, COUNT);
        for (step, shards) in [1, 7, 2, 5, 4, 3].into_iter().enumerate() {
            let records = cluster.record_count();
            cluster = cluster.redistributed(shards, seed + step as u64);
            cluster.settle();
            assert!(
                cluster.record_count() <= records + 4 * usize::from(shards),
                "what is dead stays behind"
            );
            for (i, (a, b)) in expected.iter().zip(answers(&mut cluster, COUNT)).enumerate() {
                assert_eq!(*a, b, "seed {seed}, {shards} shards, query {i}");
            }
            assert_eq!(links, all_links(&mut cluster, COUNT, Direction::Out), "{shards} shards");
            assert_eq!(links, all_links(&mut cluster, COUNT, Direction::In), "{shards} shards");
            assert_eq!(written, written_links(&mut cluster, COUNT), "{shards} shards");
        }
    }
}

/// The ids that a space holds.
fn ids(cluster: &mut Cluster, space: &SpaceName) -> Vec<String> {
    let with =
        With { content: false, metadata: false, embedding: false, links: false, merged: false };
    let (space, filter) = (space.clone(), Filter::default());
    match cluster.call(0, Request::List { space, limit: 1000, cursor: None, filter, with }) {
        Ok(Answer::Page { memories, .. }) => {
            let mut ids: Vec<String> = memories.iter().map(|m| m.id.as_str().to_owned()).collect();
            ids.sort();
            ids
        }
        other => panic!("no page: {other:?}"),
    }
}

fn store(cluster: &mut Cluster, space: &SpaceName, names: std::ops::Range<usize>) {
    let memories = names.map(|i| memory(&format!("s{i}"), &format!("content {i}"))).collect();
    let (mode, wait) = (StoreMode::Upsert, Wait::Durable);
    let request = Request::Store { space: space.clone(), memories, mode, wait };
    cluster.call(0, request).expect("the memories are valid");
    cluster.settle();
}

fn drop_space(cluster: &mut Cluster, space: &SpaceName) {
    cluster.call(0, Request::DropSpace { space: space.clone() }).expect("it is there");
    cluster.settle();
}

#[test]
fn nothing_of_a_dropped_space_comes_back() {
    let names = ["default", "work", "gone"].map(|n| SpaceName::new(n).expect("a valid name"));
    let [default, work, gone] = &names;
    let mut cluster = Cluster::new(3, 61);
    for space in &names {
        store(&mut cluster, space, 0..40);
        drop_space(&mut cluster, space);
    }
    store(&mut cluster, default, 30..50);
    store(&mut cluster, work, 35..60);
    let config = SpaceConfig { associate: false, ..SpaceConfig::default() };
    let put = Request::PutSpace { space: work.clone(), config };
    cluster.call(0, put).expect("what may change changes");
    let forget = |i: usize| Request::Delete {
        space: work.clone(),
        id: id(&format!("s{i}")),
        wait: Wait::Durable,
    };
    cluster.call(0, forget(40)).expect("it is there");
    cluster.settle();
    let expected = [ids(&mut cluster, default), ids(&mut cluster, work)];
    assert_eq!(expected.each_ref().map(Vec::len), [20, 24]);
    for shards in [5, 1, 2, 7] {
        cluster = cluster.redistributed(shards, 62);
        assert_eq!(expected, [ids(&mut cluster, default), ids(&mut cluster, work)]);
        let spaces = cluster.call(0, Request::ListSpaces);
        assert!(!format!("{spaces:?}").contains(gone.as_str()), "{spaces:?}");
        drop_space(&mut cluster, default);
        assert!(ids(&mut cluster, default).is_empty());
        store(&mut cluster, default, 30..50);
    }
}
