//! The number of shards and the order of their messages change nothing.

use engram_engine::model::{Link, LinkKind, NewMemory, SpaceName, Weight};
use std::collections::BTreeSet;

use engram_engine::request::{Answer, Cue, CueKind, Direction, LinkName, Recall, Request, Wait};
use serde_json::json;

use super::{Cluster, Random, id, memory};

const WORDS: &[&str] = &[
    "river",
    "Harbour",
    "lantern",
    "Copper",
    "violin",
    "glacier",
    "market",
    "Orchard",
    "pilot",
    "cathedral",
    "winter",
    "engine",
    "Falcon",
    "letter",
    "mirror",
    "garden",
    "Signal",
    "thunder",
];

pub(super) fn corpus(seed: u64, count: usize) -> Vec<NewMemory> {
    let mut random = Random::new(seed);
    let memories = (0..count).map(|i| {
        let words: Vec<&str> = (0..8).map(|_| WORDS[random.below(WORDS.len())]).collect();
        let letter = |n: usize| char::from(b'a' + (n % 20) as u8);
        let friend = format!("Zo{}{}ra", letter(i / 2), letter(i / 40));
        let content = format!("{} of {}, told to {friend} there", words.join(" "), i % 7);
        let mut made = memory(&format!("m{i}"), &content);
        made.embedding = Some((0..12).map(|_| random.unit() - 0.5).collect());
        if i % 3 == 0 {
            let pair = [WORDS[random.below(WORDS.len())], WORDS[random.below(WORDS.len())]];
            made.metadata.insert("title".into(), json!(pair.join(" ")));
        }
        if i % 4 == 0 {
            made.metadata.insert("session".into(), json!(i % 3));
        }
        if i % 5 == 0 {
            made.metadata.insert("speaker".into(), json!(WORDS[i % 4]));
        }
        let targets = (0..random.below(4)).map(|_| Link {
            to: id(&format!("m{}", random.below(count + count / 4))),
            weight: Weight::new(0.1 + 0.9 * random.unit()).expect("in range"),
            kind: LinkKind::new(["cites", "near_by"][random.below(2)]).expect("valid"),
        });
        made.links = Some(targets.collect());
        made
    });
    memories.collect()
}

pub(super) fn cues(random: &mut Random, count: usize) -> Vec<Cue> {
    let text = (0..3).map(|_| WORDS[random.below(WORDS.len())]).collect::<Vec<_>>().join(" ");
    let vector = (0..12).map(|_| random.unit() - 0.5).collect();
    let named = id(&format!("m{}", random.below(count)));
    let kinds = [CueKind::Text(text), CueKind::Embedding(vector), CueKind::Id(named)];
    let chosen = 1 + random.below(7);
    let cue = |(_, kind)| Cue { kind, weight: 1.0 };
    (0..3).zip(kinds).filter(|(bit, _)| chosen & (1 << bit) != 0).map(cue).collect()
}

/// Everything that an answer says, but for how long it took and how many shards it needed.
pub(super) fn answers(cluster: &mut Cluster, count: usize) -> Vec<String> {
    let mut random = Random::new(99);
    let queries = (0..40).map(|i| {
        let recall = Recall {
            cues: cues(&mut random, count),
            max_hops: [None, Some(0), Some(1), Some(3)][i % 4],
            fan_out: [256, 2][i % 2],
            exact: true,
            explain: true,
            ..Recall::default()
        };
        let space = SpaceName::default();
        let home = (i % cluster.shards.len()) as u16;
        let outcome = cluster.call(home, Request::Recall { space, recall: Box::new(recall) });
        let Ok(Answer::Recalled(recalled)) = outcome else { panic!("no answer: {outcome:?}") };
        assert!(!recalled.truncated);
        let lines = recalled.memories.iter().map(|m| {
            let bits = m.score.to_bits();
            let path: Vec<String> = m
                .path
                .iter()
                .map(|s| format!("{}/{:?}/{:x}", s.id.as_str(), s.kind, s.activation.to_bits()))
                .collect();
            let id = m.memory.id.as_str();
            format!("{id} {bits:x} {} {:?} {}", m.hops, m.breakdown, path.join(" > "))
        });
        lines.collect::<Vec<_>>().join("\n")
    });
    queries.collect()
}

pub(super) fn workload(cluster: &mut Cluster, seed: u64, count: usize) {
    workload_beside(cluster, seed, count, |_| {});
}

/// A workload, and something else in front of each of its writes.
pub(super) fn workload_beside(
    cluster: &mut Cluster,
    seed: u64,
    count: usize,
    mut beside: impl FnMut(&mut Cluster),
) {
    for batch in corpus(seed, count).chunks(17) {
        beside(cluster);
        for verdict in cluster.store(batch.to_vec()) {
            verdict.expect("the corpus is valid");
        }
    }
    let space = SpaceName::default;
    for i in (0..count).step_by(11) {
        beside(cluster);
        let outcome = cluster.call(
            0,
            Request::Delete { space: space(), id: id(&format!("m{i}")), wait: Wait::Durable },
        );
        outcome.expect("it exists");
    }
    let replaced = corpus(seed + 1, count / 6).into_iter().map(|mut m| {
        m.links = None;
        m
    });
    for verdict in cluster.store(replaced.collect()) {
        verdict.expect("the corpus is valid");
    }
    let links = (1..count).step_by(13).filter(|i| i % 11 != 0).map(|i| LinkName {
        from: id(&format!("m{i}")),
        to: id(&format!("m{}", i + 1)),
        kind: None,
    });
    let links = links.collect();
    let unlink = Request::Unlink { space: space(), links, wait: Wait::Durable };
    cluster.call(0, unlink).expect("removing links never fails");
    cluster.settle();
}

/// Every link, as its source tells it or as its target does.
pub(super) fn all_links(
    cluster: &mut Cluster,
    count: usize,
    direction: Direction,
) -> BTreeSet<String> {
    let mut links = BTreeSet::new();
    for i in 0..count {
        let (space, id) = (SpaceName::default(), id(&format!("m{i}")));
        let request = Request::Links { space, id, direction, kind: None };
        if let Ok(Answer::Links(views)) = cluster.call(0, request) {
            let live = views.iter().filter(|v| v.live);
            links.extend(live.map(|v| {
                let (from, to) = (v.from.as_str(), v.to.as_str());
                format!("{from} {to} {} {}", v.kind.as_str(), v.weight)
            }));
        }
    }
    links
}

/// Every link of every memory, also those that lead to what does not exist.
pub(super) fn written_links(cluster: &mut Cluster, count: usize) -> BTreeSet<String> {
    let mut links = BTreeSet::new();
    for i in 0..count {
        let (space, id) = (SpaceName::default(), id(&format!("m{i}")));
        let request = Request::Links { space, id, direction: Direction::Out, kind: None };
        if let Ok(Answer::Links(views)) = cluster.call(0, request) {
            links.extend(views.iter().map(|v| format!("{v:?}")));
        }
    }
    links
}

#[test]
fn both_ends_of_a_link_agree_about_it() {
    for shards in [1, 2, 4] {
        let mut cluster = Cluster::new(shards, 17);
        workload(&mut cluster, 2, 150);
        let out = all_links(&mut cluster, 150, Direction::Out);
        let into = all_links(&mut cluster, 150, Direction::In);
        let differ: Vec<&String> = out.symmetric_difference(&into).collect();
        assert!(differ.is_empty(), "{shards} shards: {differ:?}");
        assert!(out.len() > 200);
    }
}

#[test]
fn answers_are_the_same_to_the_bit_on_any_number_of_shards() {
    for seed in 1..4 {
        let count = 150;
        let mut one = Cluster::new(1, seed);
        workload(&mut one, seed, count);
        let expected = answers(&mut one, count);
        assert!(expected.iter().any(|a| a.contains("mentions")), "mentions are followed");
        assert!(expected.iter().any(|a| a.contains("shared_term")), "terms are followed");
        for shards in [2, 4, 7] {
            let mut many = Cluster::new(shards, seed * 31);
            workload(&mut many, seed, count);
            for (i, (a, b)) in expected.iter().zip(answers(&mut many, count)).enumerate() {
                assert_eq!(*a, b, "seed {seed}, {shards} shards, query {i}");
            }
        }
    }
}

#[test]
fn a_restart_from_the_log_changes_no_answer() {
    for shards in [1, 3] {
        let mut cluster = Cluster::new(shards, 8);
        workload(&mut cluster, 8, 120);
        let before = answers(&mut cluster, 120);
        cluster.crash();
        for (i, (a, b)) in before.iter().zip(answers(&mut cluster, 120)).enumerate() {
            assert_eq!(*a, b, "{shards} shards, query {i}");
        }
    }
}
