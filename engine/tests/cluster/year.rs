//! A year of use on the evaluation sets: what recall finds then, beside what it finds unused.
//!
//! Every day some questions are asked, the favourites more often than others (Zipf), and half of
//! the questions never. Each recall reinforces what it brought to mind; sometimes the asker says
//! what had been wanted, and now and then that the first answer was not. At the end all are asked.

use std::collections::BTreeSet;

use engram_engine::life::Outcome;
use engram_engine::model::{NewMemory, SpaceName};
use engram_engine::request::{Answer, Cue, CueKind, Recall, Request, Wait, With};

use super::{Cluster, Random, id};
use crate::recipe::evaluation::{self, Figures, Query, Set};

const DAYS: usize = 365;
const RECALLS_A_DAY: usize = 12;

pub fn ranked(cluster: &mut Cluster, query: &Query, reinforce: bool) -> Vec<String> {
    let cue = |kind| Cue { kind, weight: 1.0 };
    let recall = Recall {
        cues: vec![
            cue(CueKind::Text(query.text.clone())),
            cue(CueKind::Embedding(query.vector.clone())),
        ],
        reinforce,
        with: With::NONE,
        ..Recall::default()
    };
    let space = SpaceName::default();
    match cluster.call(0, Request::Recall { space, recall: Box::new(recall) }) {
        Ok(Answer::Recalled(recalled)) => {
            recalled.memories.iter().map(|m| m.memory.id.as_str().to_owned()).collect()
        }
        other => panic!("no answer: {other:?}"),
    }
}

fn reinforce(cluster: &mut Cluster, ids: &[String], outcome: f64) {
    let (space, ids) = (SpaceName::default(), ids.iter().map(|name| id(name)).collect());
    let outcome = Outcome::new(outcome);
    let request = Request::Reinforce { space, ids, outcome, wait: Wait::Applied };
    cluster.call(0, request).expect("they exist");
}

/// Of the questions with an even and with an odd number: recall@1, 2, 5 and 10.
fn measure(cluster: &mut Cluster, queries: &[&Query], figures: &mut [Figures; 2]) {
    for (at, query) in queries.iter().enumerate() {
        let found = ranked(cluster, query, false);
        let ranked: Vec<&str> = found.iter().map(String::as_str).collect();
        figures[at % 2].add(&ranked, &query.relevant);
    }
}

pub fn load(set: &Set, space: &str, shards: u16) -> Cluster {
    let mut cluster = Cluster::new(shards, 1);
    let records = set.records.iter().filter(|record| record.space == space);
    let memories = records.map(|record| NewMemory {
        id: id(&record.id),
        content: Some(record.content.clone()),
        embedding: Some(record.vector.clone()),
        metadata: record.metadata.clone(),
        confidence: None,
        links: None,
        created_at: None,
        expires_at: None,
    });
    let memories: Vec<NewMemory> = memories.collect();
    for batch in memories.chunks(500) {
        cluster.store(batch.to_vec()).into_iter().for_each(|verdict| assert!(verdict.is_ok()));
    }
    cluster.settle();
    cluster
}

fn live_a_year(cluster: &mut Cluster, queries: &[&Query]) {
    let mut random = Random::new(365);
    let asked: Vec<&&Query> = queries.iter().step_by(2).collect();
    for _ in 0..DAYS {
        for _ in 0..RECALLS_A_DAY {
            // Rank r with a chance of about 1/r.
            let rank = ((asked.len() as f32).powf(random.unit()) - 1.0) as usize;
            let query = asked[rank.min(asked.len() - 1)];
            let found = ranked(cluster, query, true);
            let wanted: Vec<String> =
                found.iter().filter(|id| query.relevant.contains(id)).cloned().collect();
            match random.below(10) {
                0..3 if !wanted.is_empty() => reinforce(cluster, &wanted, 1.0),
                3 if !query.relevant.contains(&found[0]) => reinforce(cluster, &found[..1], -0.5),
                _ => {}
            }
        }
        cluster.live(86_400);
    }
}

/// Recall@k before and after a year of use, over the questions that were asked and the others.
fn year(name: &str) -> Option<[[[f64; 4]; 2]; 2]> {
    let Some(folder) = evaluation::folder() else {
        eprintln!("no evaluation data: set ENGRAM_SHARED_DATA to their folder to run this test");
        return None;
    };
    let set = evaluation::load(&folder, name);
    let spaces: BTreeSet<&str> = set.queries.iter().map(|query| &*query.space).collect();
    let (mut before, mut after) = <([Figures; 2], [Figures; 2])>::default();
    for space in spaces {
        let queries = set.queries.iter().filter(|q| q.space == space && !q.biased);
        let queries: Vec<&Query> = queries.filter(|q| !q.relevant.is_empty()).collect();
        let mut cluster = load(&set, space, 1);
        measure(&mut cluster, &queries, &mut before);
        live_a_year(&mut cluster, &queries);
        measure(&mut cluster, &queries, &mut after);
    }
    let figures = [before.map(|figures| figures.at()), after.map(|figures| figures.at())];
    for (which, at) in [("asked", 0), ("never asked", 1)] {
        let [before, after] = figures.map(|figures| figures[at]);
        println!("{name}, {which}: recall@1,2,5,10 {before:.1?} -> {after:.1?}");
    }
    Some(figures)
}

/// What was asked and what was not are as many: together they are found no worse.
fn no_worse(name: &str) {
    let Some(figures) = year(name) else { return };
    let [before, after] = figures.map(|figures| figures[0][2] + figures[1][2]);
    assert!(after >= before, "{name}: recall@5 fell from {} to {}", before / 2.0, after / 2.0);
}

#[test]
fn a_year_of_use_costs_nothing_on_2wiki() {
    no_worse("2wiki");
}

#[test]
fn a_year_of_use_costs_nothing_on_hotpot() {
    no_worse("hotpot");
}

#[test]
fn a_year_of_use_costs_nothing_on_musique() {
    no_worse("musique");
}

#[test]
fn a_year_of_use_costs_nothing_on_locomo() {
    no_worse("locomo");
}
