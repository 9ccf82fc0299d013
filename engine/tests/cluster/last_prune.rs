//! The end of a server's life: what is pruned then, and what is left alone.

use engram_engine::life::run::{RunId, RunState, RunView};
use engram_engine::model::SpaceName;
use engram_engine::request::{Answer, Request};
use engram_engine::shard::{ConsolidateAsk, Event};
use serde_json::json;

use super::{Cluster, memory};

/// Enough memories of one name that a mention of it is weak.
const BEARERS: usize = 14;

fn call(cluster: &mut Cluster, ask: ConsolidateAsk) -> Answer {
    let request = Request::Consolidate { space: SpaceName::default(), ask };
    cluster.call(0, request).expect("the space is there")
}

/// Runs of the space, newest first.
fn runs(cluster: &mut Cluster) -> Vec<RunView> {
    match call(cluster, ConsolidateAsk::Runs) {
        Answer::Runs(runs) => runs,
        other => panic!("no runs: {other:?}"),
    }
}

fn begin(cluster: &mut Cluster, ask: ConsolidateAsk) -> RunId {
    match call(cluster, ask) {
        Answer::Run(view) => view.run.id,
        other => panic!("no run: {other:?}"),
    }
}

fn consolidate(cluster: &mut Cluster) -> RunId {
    let id = begin(cluster, ConsolidateAsk::Start { threshold: 0.0, dry_run: false });
    cluster.settle();
    assert_eq!(runs(cluster)[0].run.state, RunState::Done);
    id
}

/// Memories with the same name, and one that mentions it.
fn store_mentions(cluster: &mut Cluster, name: &str) {
    let bearer = |i: usize| {
        let mut bearer = memory(&format!("{name}{i}"), &format!("Lamp number {i} of {name}."));
        bearer.metadata.insert("title".into(), json!(name));
        bearer
    };
    let bearers: Vec<_> = (0..BEARERS).map(bearer).collect();
    let mention = memory(&format!("who{name}"), &format!("Somebody spoke of {name} at noon."));
    for batch in [bearers, vec![mention]] {
        cluster.store(batch).into_iter().for_each(|verdict| assert!(verdict.is_ok()));
    }
    cluster.settle();
}

/// The server stops and starts again; what was synced is there.
fn restart(cluster: &mut Cluster) {
    cluster.tell(|| Event::Drain);
    cluster.tell(|| Event::Prune);
    cluster.settle();
    assert!(!cluster.shards.iter().any(|shard| shard.is_consolidating()), "it ends");
    cluster.crash();
    cluster.settle();
}

fn links(cluster: &Cluster) -> u64 {
    cluster.shards.iter().map(|shard| shard.counts().automatic_links).sum()
}

#[test]
fn a_server_that_stops_prunes_where_somebody_consolidates_and_nowhere_else() {
    for shards in [1, 3] {
        let mut cluster = Cluster::new(shards, 5);
        store_mentions(&mut cluster, "Zora");
        let all = links(&cluster);
        restart(&mut cluster);
        assert_eq!((links(&cluster), runs(&mut cluster).len()), (all, 0), "nobody asked");

        consolidate(&mut cluster);
        let left = links(&cluster);
        assert!(left < all, "mentions of a name that many bear are weak");
        restart(&mut cluster);
        assert_eq!(runs(&mut cluster).len(), 1, "nothing was left to do, and nothing is said");

        store_mentions(&mut cluster, "Vilmar");
        let more = links(&cluster);
        restart(&mut cluster);
        let known = runs(&mut cluster);
        let (newest, pruned) = (&known[0].run, known[0].run.counts.pruned);
        assert_eq!((known.len(), newest.state, newest.threshold), (2, RunState::Done, 0.0));
        assert_eq!(links(&cluster), more - pruned);
        assert!(pruned > 0, "{newest:?}");
        restart(&mut cluster);
        assert_eq!((links(&cluster), runs(&mut cluster).len()), (more - pruned, 2));
    }
}

#[test]
fn what_a_server_pruned_when_it_stopped_can_be_taken_back_and_then_stays() {
    let mut cluster = Cluster::new(2, 7);
    store_mentions(&mut cluster, "Zora");
    consolidate(&mut cluster);
    store_mentions(&mut cluster, "Vilmar");
    let more = links(&cluster);
    restart(&mut cluster);
    let id = runs(&mut cluster)[0].run.id;
    begin(&mut cluster, ConsolidateAsk::Undo(id));
    cluster.settle();
    assert_eq!((links(&cluster), runs(&mut cluster)[0].run.state), (more, RunState::Undone));
    restart(&mut cluster);
    assert_eq!((links(&cluster), runs(&mut cluster).len()), (more, 2));
}

/// Wherever it is cut off, links are there or pruned by a run that is known.
#[test]
fn a_prune_that_is_cut_off_leaves_what_a_run_did() {
    let mut moments = 0;
    for steps in 0.. {
        let mut cluster = Cluster::new(2, 11);
        store_mentions(&mut cluster, "Zora");
        consolidate(&mut cluster);
        store_mentions(&mut cluster, "Vilmar");
        let more = links(&cluster);
        cluster.tell(|| Event::Drain);
        cluster.tell(|| Event::Prune);
        if (0..steps).any(|_| !cluster.advance()) {
            break;
        }
        // As at the end of the time for it: what was asked for is awaited, the rest is left.
        cluster.tell(|| Event::Drain);
        assert!(!cluster.shards.iter().any(|shard| shard.is_consolidating()));
        cluster.settle();
        cluster.crash();
        cluster.settle();
        let known = runs(&mut cluster);
        let undone = known.len() == 1;
        assert!(!undone || links(&cluster) == more, "after {steps} steps: {known:?}");
        if !undone {
            let state = known[0].run.state;
            assert!(matches!(state, RunState::Stopped | RunState::Done), "{state:?}");
            begin(&mut cluster, ConsolidateAsk::Undo(known[0].run.id));
            cluster.settle();
        }
        assert_eq!(links(&cluster), more, "after {steps} steps");
        moments = steps;
    }
    assert!(moments > 10, "{moments}");
}
