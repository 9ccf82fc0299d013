//! An evaluation set with a fifth of its memories there twice: consolidation removes the copies and
//! loses no answer, and undoing it brings the same answers back.

use std::collections::BTreeSet;

use engram_engine::life::run::RunState;
use engram_engine::model::{NewMemory, SpaceName};
use engram_engine::request::{Answer, Request};
use engram_engine::shard::ConsolidateAsk;

use super::year::{load, ranked};
use super::{Cluster, Random, id};
use crate::recipe::evaluation::{self, Figures, Query, Set};

/// A copy as they come about: other case, spacing, punctuation or fillers, a vector nearby.
fn copy(random: &mut Random, content: &str) -> String {
    match random.below(5) {
        0 => content.to_owned(),
        1 => content.to_lowercase(),
        2 => format!("  {}", content.replace(". ", " ; ").replace(',', "")),
        3 => format!("Actually, {content}"),
        _ => content.replacen(" is ", " is really ", 1).replacen(" was ", " was  ", 2),
    }
}

fn add_copies(cluster: &mut Cluster, set: &Set, space: &str) -> usize {
    let mut random = Random::new(20);
    let records = set.records.iter().filter(|record| record.space == space);
    let copies = records.step_by(5).map(|record| NewMemory {
        id: id(&format!("copy of {}", record.id)),
        content: Some(copy(&mut random, &record.content)),
        embedding: Some(record.vector.iter().map(|x| x + 0.004 * (random.unit() - 0.5)).collect()),
        metadata: record.metadata.clone(),
        confidence: None,
        links: None,
        created_at: None,
        expires_at: None,
    });
    let copies: Vec<NewMemory> = copies.collect();
    for batch in copies.chunks(500) {
        cluster.store(batch.to_vec()).into_iter().for_each(|verdict| assert!(verdict.is_ok()));
    }
    cluster.settle();
    copies.len()
}

fn run(cluster: &mut Cluster, ask: ConsolidateAsk) -> engram_engine::life::run::RunView {
    let request = Request::Consolidate { space: SpaceName::default(), ask };
    match cluster.call(0, request) {
        Ok(Answer::Run(run)) => *run,
        other => panic!("no run: {other:?}"),
    }
}

fn answers(cluster: &mut Cluster, queries: &[&Query]) -> Vec<Vec<String>> {
    queries.iter().map(|query| ranked(cluster, query, false)).collect()
}

fn recall_at_5(queries: &[&Query], answers: &[Vec<String>]) -> f64 {
    let mut figures = Figures::default();
    for (query, ranked) in queries.iter().zip(answers) {
        let ranked: Vec<&str> = ranked.iter().map(String::as_str).collect();
        figures.add(&ranked, &query.relevant);
    }
    figures.at()[2]
}

fn copies_cost_nothing(name: &str, shards: u16) {
    let Some(folder) = evaluation::folder() else {
        eprintln!("no evaluation data: set ENGRAM_SHARED_DATA to their folder to run this test");
        return;
    };
    let set = evaluation::load(&folder, name);
    let spaces: BTreeSet<&str> = set.queries.iter().map(|query| &*query.space).collect();
    let space = *spaces.first().expect("there are questions");
    let queries = set.queries.iter().filter(|q| q.space == space && !q.relevant.is_empty());
    let queries: Vec<&Query> = queries.filter(|query| !query.biased).collect();
    let mut cluster = load(&set, space, shards);
    let alone = recall_at_5(&queries, &answers(&mut cluster, &queries));
    let copied = add_copies(&mut cluster, &set, space);
    let before = answers(&mut cluster, &queries);
    let started = run(&mut cluster, ConsolidateAsk::Start { threshold: 0.3, dry_run: false });
    cluster.settle();
    let done = run(&mut cluster, ConsolidateAsk::One(started.run.id));
    assert_eq!(done.run.state, RunState::Done, "{:?}", done.reason);
    let after = recall_at_5(&queries, &answers(&mut cluster, &queries));
    let with_copies = recall_at_5(&queries, &before);
    let (merged, pruned) = (done.run.counts.merged, done.run.counts.pruned);
    println!(
        "{name}: recall@5 {alone:.1} without copies, {with_copies:.1} with {copied}, {after:.1} \
         after {merged} merges and {pruned} pruned links"
    );
    let strangers = done.merges.iter().flat_map(|merge| &merge.merged);
    let strangers = strangers.filter(|merged| !merged.as_str().starts_with("copy of ")).count();
    assert!(strangers * 200 < set.records.len(), "{strangers} that were no copies were merged");
    assert!(merged as f64 >= 0.95 * copied as f64, "{merged} of {copied} copies went");
    assert!(after >= alone - 0.5, "recall@5 fell from {alone} to {after}");
    run(&mut cluster, ConsolidateAsk::Undo(started.run.id));
    cluster.settle();
    let undone = answers(&mut cluster, &queries);
    // Exact searches are the same to the bit (`consolidation`); the graph over vectors was built anew.
    let changed = undone.iter().zip(&before).filter(|(a, b)| a != b).count();
    assert!(changed * 50 <= before.len(), "{changed} of {} answers", before.len());
}

#[test]
fn copies_in_2wiki_cost_nothing() {
    copies_cost_nothing("2wiki", 2);
}

#[test]
fn copies_in_locomo_cost_nothing() {
    copies_cost_nothing("locomo", 1);
}
