//! Consolidation: what is merged, what comes back, and what a crash leaves.

use std::collections::BTreeSet;

use engram_engine::life::Outcome;
use engram_engine::life::run::{RunId, RunState, RunView};
use engram_engine::model::{Link, LinkKind, Memory, MemoryId, NewMemory, SpaceName, Tier, Weight};
use engram_engine::request::{
    Answer, Code, Cue, CueKind, Patch, Recall, Rejection, Request, StoreMode, Wait, With,
};
use engram_engine::shard::ConsolidateAsk;
use serde_json::json;

use super::{Cluster, Random, id, memory};

const TOPICS: [&str; 6] = [
    "harbour lantern",
    "copper violin",
    "glacier market",
    "orchard pilot",
    "winter engine",
    "falcon mirror",
];

fn ask(cluster: &mut Cluster, home: u16, ask: ConsolidateAsk) -> Result<RunView, Rejection> {
    let request = Request::Consolidate { space: SpaceName::default(), ask };
    match cluster.call(home, request) {
        Ok(Answer::Run(run)) => Ok(*run),
        Ok(other) => panic!("no run: {other:?}"),
        Err(rejection) => Err(rejection),
    }
}

fn start(cluster: &mut Cluster, dry_run: bool) -> RunView {
    ask(cluster, 0, ConsolidateAsk::Start { threshold: 0.3, dry_run }).expect("nothing runs")
}

/// Runs one to its end.
fn consolidate(cluster: &mut Cluster, dry_run: bool) -> RunView {
    let run = start(cluster, dry_run);
    cluster.settle();
    let run = ask(cluster, 0, ConsolidateAsk::One(run.run.id)).expect("it is known");
    assert_eq!(run.run.state, RunState::Done, "{:?}", run.reason);
    run
}

fn undo(cluster: &mut Cluster, run: RunId) {
    ask(cluster, 0, ConsolidateAsk::Undo(run)).expect("it can be undone");
    cluster.settle();
    let run = ask(cluster, 0, ConsolidateAsk::One(run)).expect("it is known");
    assert_eq!(run.run.state, RunState::Undone);
}

fn read(cluster: &mut Cluster, name: &str) -> Option<Memory> {
    let with = With { links: true, merged: true, ..With::ALL };
    let request = Request::Read { space: SpaceName::default(), id: id(name), with };
    match cluster.call(0, request) {
        Ok(Answer::Memory(memory)) => Some(*memory),
        Err(rejection) if rejection.code == Code::NotFound => None,
        other => panic!("neither there nor not: {other:?}"),
    }
}

/// Ids of all memories that are there, or of all with what was merged.
fn listed(cluster: &mut Cluster, merged: bool) -> BTreeSet<String> {
    let (mut found, mut cursor) = (BTreeSet::new(), None);
    loop {
        let request = Request::List {
            space: SpaceName::default(),
            limit: 7,
            cursor,
            filter: Default::default(),
            with: With { merged, ..With::NONE },
        };
        let Ok(Answer::Page { memories, next_cursor }) = cluster.call(0, request) else {
            panic!("no page")
        };
        found.extend(memories.iter().map(|memory| memory.id.as_str().to_owned()));
        cursor = next_cursor;
        if cursor.is_none() {
            return found;
        }
    }
}

fn vector(random: &mut Random) -> Vec<f32> {
    (0..16).map(|_| random.unit() - 0.5).collect()
}

/// Memories, every fifth of them once more in other words or none, and links between.
fn corpus(seed: u64, count: usize) -> Vec<NewMemory> {
    let mut random = Random::new(seed);
    let mut memories: Vec<NewMemory> = Vec::new();
    for i in 0..count {
        let topic = TOPICS[random.below(TOPICS.len())];
        let content = format!("Note {i} tells of the {topic} and of what Zora{} said.", i % 5);
        let mut made = memory(&format!("m{i}"), &content);
        if i % 4 != 3 {
            made.embedding = Some(vector(&mut random));
        }
        if i % 3 == 0 {
            made.metadata.insert("title".into(), json!(format!("Zora{}", i % 5)));
        }
        if i % 5 == 1 {
            made.metadata.insert("session".into(), json!(i % 2));
        }
        let target = id(&format!("m{}", random.below(count)));
        let kind = LinkKind::default();
        made.links = Some(vec![Link { to: target, weight: Weight::ONE, kind }]);
        memories.push(made);
    }
    for i in (0..count).step_by(5) {
        let mut copy = memories[i].clone();
        copy.id = id(&format!("copy{i}"));
        let content = copy.content.as_deref().expect("it has one");
        copy.content = Some(match i % 3 {
            0 => content.to_owned(),
            1 => content.to_uppercase(),
            _ => format!("Actually, {}", content.replace(" tells of", "  really tells of")),
        });
        for x in copy.embedding.iter_mut().flatten() {
            *x += 0.002 * (random.unit() - 0.5);
        }
        copy.links = None;
        memories.push(copy);
    }
    memories
}

fn filled(shards: u16, seed: u64, count: usize) -> Cluster {
    let mut cluster = Cluster::new(shards, seed);
    for batch in corpus(seed, count).chunks(13) {
        cluster.store(batch.to_vec()).into_iter().for_each(|verdict| assert!(verdict.is_ok()));
    }
    cluster.settle();
    cluster
}

/// Everything that recalls say.
fn answers(cluster: &mut Cluster, exact: bool) -> Vec<String> {
    let mut random = Random::new(77);
    let asked = (0..30).map(|i| {
        let text = format!("what did Zora{} say of the {}", i % 5, TOPICS[i % TOPICS.len()]);
        let kinds = [
            CueKind::Text(text),
            CueKind::Embedding(vector(&mut random)),
            CueKind::Id(id(&format!("m{i}"))),
        ];
        let chosen = i % 3;
        let kinds = kinds.into_iter().enumerate().filter(|(at, _)| *at != chosen);
        let cues = kinds.map(|(_, kind)| Cue { kind, weight: 1.0 }).collect();
        let recall = Recall { cues, exact, explain: true, max_hops: Some(2), ..Recall::default() };
        let request = Request::Recall { space: SpaceName::default(), recall: Box::new(recall) };
        let Ok(Answer::Recalled(recalled)) = cluster.call(0, request) else { panic!("no answer") };
        let line = |m: &engram_engine::request::RecalledMemory| {
            let path: Vec<&str> = m.path.iter().map(|step| step.id.as_str()).collect();
            let name = m.memory.id.as_str();
            format!("{name} {:x} {:?} {}", m.score.to_bits(), m.breakdown, path.join(">"))
        };
        recalled.memories.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    asked.collect()
}

fn copies(count: usize) -> BTreeSet<String> {
    (0..count).step_by(5).map(|i| format!("copy{i}")).collect()
}

#[test]
fn copies_are_merged_into_what_they_are_copies_of() {
    for shards in [1, 2, 4, 7] {
        let count = 60;
        let mut cluster = filled(shards, 3, count);
        let all = listed(&mut cluster, false);
        let run = consolidate(&mut cluster, false);
        assert_eq!(run.run.counts.merged, copies(count).len() as u64, "{shards} shards");
        let left = listed(&mut cluster, false);
        assert_eq!(left, all.difference(&copies(count)).cloned().collect());
        assert_eq!(listed(&mut cluster, true), all);
        for merge in &run.merges {
            let into = merge.into.as_str();
            let of: Vec<MemoryId> = vec![id(&into.replace('m', "copy"))];
            assert_eq!(merge.merged, of);
            let target = read(&mut cluster, into).expect("it stays");
            assert_eq!((target.merged, target.merged_into), (of.clone(), None));
            let source = read(&mut cluster, of[0].as_str()).expect("it can be read");
            assert!(source.content.is_some() && source.merged_into == Some(id(into)));
        }
        let names = answers(&mut cluster, true).join("\n");
        assert!(!names.contains("copy"), "what was merged does not come to mind");
    }
}

#[test]
fn a_second_run_changes_nothing_and_a_dry_run_says_what_a_run_does() {
    for shards in [1, 3] {
        let mut cluster = filled(shards, 5, 60);
        let before = answers(&mut cluster, true);
        let said = consolidate(&mut cluster, true);
        assert_eq!(answers(&mut cluster, true), before, "a dry run changes nothing");
        let done = consolidate(&mut cluster, false);
        assert_eq!(said.merges, done.merges);
        assert_eq!(said.run.counts, done.run.counts);
        let after = answers(&mut cluster, true);
        for dry_run in [true, false] {
            let again = consolidate(&mut cluster, dry_run);
            assert_eq!((again.run.counts.merged, again.run.counts.pruned), (0, 0));
        }
        assert_eq!(answers(&mut cluster, true), after);
    }
}

#[test]
fn undo_restores_the_same_answers_to_the_bit() {
    for shards in [1, 2, 4, 7] {
        let mut cluster = filled(shards, 11, 80);
        let before = [true, false].map(|exact| answers(&mut cluster, exact));
        let all = listed(&mut cluster, false);
        let run = consolidate(&mut cluster, false);
        assert_ne!(answers(&mut cluster, true), before[0], "consolidation shows");
        cluster.crash();
        undo(&mut cluster, run.run.id);
        assert_eq!(listed(&mut cluster, false), all);
        assert_eq!([true, false].map(|exact| answers(&mut cluster, exact)), before);
        cluster.crash();
        assert_eq!([true, false].map(|exact| answers(&mut cluster, exact)), before);
    }
}

#[test]
fn a_restart_remembers_runs_and_what_they_merged() {
    for shards in [1, 3] {
        let mut cluster = filled(shards, 7, 60);
        let run = consolidate(&mut cluster, false);
        let before = answers(&mut cluster, true);
        cluster.crash();
        assert_eq!(answers(&mut cluster, true), before);
        let known = ask(&mut cluster, 0, ConsolidateAsk::One(run.run.id)).expect("it is known");
        assert_eq!(known.merges, run.merges);
        assert_eq!(known.run, run.run);
    }
}

#[test]
fn only_one_run_at_a_time_in_a_space() {
    let mut cluster = filled(2, 9, 40);
    let run = start(&mut cluster, false);
    let second = ask(&mut cluster, 1, ConsolidateAsk::Start { threshold: 0.3, dry_run: true });
    assert_eq!(second.expect_err("one runs").code, Code::ConsolidationRunning);
    let undone = ask(&mut cluster, 1, ConsolidateAsk::Undo(run.run.id));
    assert_eq!(undone.expect_err("one runs").code, Code::ConsolidationRunning);
    cluster.settle();
    consolidate(&mut cluster, false);
    let unknown = ask(&mut cluster, 0, ConsolidateAsk::One(RunId(7)));
    assert_eq!(unknown.expect_err("there is none").code, Code::NotFound);
}

fn store(cluster: &mut Cluster, memories: Vec<NewMemory>) {
    cluster.store(memories).into_iter().for_each(|verdict| assert!(verdict.is_ok()));
    cluster.settle();
}

#[test]
fn what_differs_in_a_fact_metadata_links_or_lifetime_stays() {
    let twin = |name: &str| memory(name, "Alice owns 3 red boats in Rome");
    let mut linked = twin("linked");
    let (to, kind) = (id("alone"), LinkKind::default());
    linked.links = Some(vec![Link { to, weight: Weight::ONE, kind }]);
    let mut tagged = twin("tagged");
    tagged.metadata.insert("owner".into(), json!("Bob"));
    for other in [
        memory("other", "Alice owns 4 red boats in Rome"),
        memory("other", "Alice does not own 3 red boats in Rome"),
        memory("other", "Carol owns 3 red boats in Rome"),
        memory("other", "Alice owns three red boats in Rome"),
        linked,
        tagged,
    ] {
        let name = other.id.as_str().to_owned();
        let mut cluster = Cluster::new(2, 1);
        store(&mut cluster, vec![twin("first")]);
        store(&mut cluster, vec![other, memory("alone", "Nothing else")]);
        assert_eq!(consolidate(&mut cluster, false).run.counts.merged, 0, "{name}");
    }
    let mut cluster = Cluster::new(2, 1);
    let mut first = twin("first");
    first.expires_at = Some(engram_engine::model::Timestamp(i64::MAX / 2));
    store(&mut cluster, vec![first]);
    store(&mut cluster, vec![twin("lasting")]);
    assert_eq!(consolidate(&mut cluster, false).run.counts.merged, 0, "it would go with the first");
}

#[test]
fn a_hundred_copies_become_one() {
    for (shards, embeds) in [(1, true), (4, true), (4, false)] {
        let mut cluster = Cluster::new(shards, 2);
        let copy = |i: usize| {
            let mut made = memory(&format!("c{i}"), "The kettle boils water");
            made.embedding = embeds.then(|| vec![0.3, 0.1, 0.9]);
            made
        };
        store(&mut cluster, vec![copy(0)]);
        store(&mut cluster, (1..100).map(copy).collect());
        for dry_run in [true, false] {
            let run = consolidate(&mut cluster, dry_run);
            assert_eq!(run.run.counts.merged, 99, "on {shards}, {embeds}");
            assert_eq!((run.merges.len(), run.merges[0].into.as_str()), (1, "c0"), "the earliest");
        }
        assert_eq!(listed(&mut cluster, false), BTreeSet::from(["c0".to_owned()]));
        store(&mut cluster, vec![copy(100)]);
        let run = consolidate(&mut cluster, false);
        assert_eq!((run.run.counts.merged, run.merges[0].into.as_str()), (1, "c0"));
    }
}

#[test]
fn the_same_words_with_other_vectors_are_other_memories() {
    let mut cluster = Cluster::new(2, 2);
    let caption = |name: &str, vector: Option<[f32; 3]>| {
        let mut made = memory(name, "A photograph");
        made.embedding = vector.map(|vector| vector.to_vec());
        made
    };
    let apart = vec![
        caption("a", Some([1.0, 0.0, 0.0])),
        caption("b", Some([0.0, 1.0, 0.0])),
        caption("c", None),
    ];
    store(&mut cluster, apart);
    store(&mut cluster, vec![caption("d", Some([0.99, 0.0, 0.01])), caption("e", None)]);
    let run = consolidate(&mut cluster, false);
    let pairs = run.merges.iter().map(|merge| (merge.into.as_str(), merge.merged[0].as_str()));
    assert_eq!(pairs.collect::<Vec<_>>(), [("a", "d"), ("c", "e")]);
}

#[test]
fn long_texts_with_a_word_more_are_merged_where_their_vectors_are_near() {
    let words = "The committee met in the old town hall on Monday and agreed that the bridge over \
                 the river needs repair before winter, because ice damaged its pillars last year";
    for shards in [1, 3] {
        let (mut cluster, mut random) = (Cluster::new(shards, 2), Random::new(6));
        let mut told = |name: String, text: String, near: Option<&NewMemory>| {
            let mut made = memory(&name, &text);
            let same = near.and_then(|near| near.embedding.clone());
            made.embedding = Some(same.unwrap_or_else(|| vector(&mut random)));
            made
        };
        let mut all = Vec::new();
        for i in 0..30 {
            let text = words.replace("Monday", &format!("day {i}"));
            let first = told(format!("a{i}"), text.clone(), None);
            for (copy, more) in ["sadly", "badly", "slowly"].into_iter().enumerate() {
                let text = text.replace("ice damaged", &format!("ice {more} damaged"));
                all.push(told(format!("b{i}-{copy}"), text, Some(&first)));
            }
            all.push(told(format!("far{i}"), text.replace("ice damaged", "ice had damaged"), None));
            store(&mut cluster, vec![first]);
        }
        store(&mut cluster, all);
        let said = consolidate(&mut cluster, true);
        let done = consolidate(&mut cluster, false);
        assert_eq!(said.merges, done.merges);
        assert_eq!(said.run.counts, done.run.counts);
        assert_eq!((done.run.counts.merged, done.run.counts.compared), (90, 150), "on {shards}");
        assert!(done.merges.iter().all(|merge| merge.into.as_str().starts_with('a')));
        assert_eq!(consolidate(&mut cluster, false).run.counts.merged, 0);
    }
}

#[test]
fn a_memory_goes_into_the_earliest_that_says_all_it_says_and_then_nothing_is_left_to_do() {
    for shards in [1, 3] {
        let mut cluster = Cluster::new(shards, 2);
        let told = |name: &str, metadata: serde_json::Value| {
            let mut made = memory(name, "The kettle boils water");
            let fields = metadata.as_object().expect("an object").clone();
            made.metadata.extend(fields);
            made
        };
        store(&mut cluster, vec![told("plain", json!({}))]);
        store(&mut cluster, vec![told("tagged", json!({"by": "Ann"}))]);
        store(&mut cluster, vec![told("same", json!({"by": "Ann"}))]);
        store(&mut cluster, vec![told("other", json!({"by": "Bob"}))]);
        store(&mut cluster, vec![told("bare", json!({}))]);
        let run = consolidate(&mut cluster, false);
        let pairs = run.merges.iter().map(|merge| (merge.into.as_str(), merge.merged[0].as_str()));
        assert_eq!(pairs.collect::<Vec<_>>(), [("plain", "bare"), ("tagged", "same")]);
        assert_eq!(run.run.counts.merged, 2);
        assert_eq!(consolidate(&mut cluster, false).run.counts.merged, 0);
    }
}

fn reinforce(cluster: &mut Cluster, names: &[&str]) {
    let request = Request::Reinforce {
        space: SpaceName::default(),
        ids: names.iter().map(|name| id(name)).collect(),
        outcome: Outcome::BEST,
        wait: Wait::Durable,
    };
    cluster.call(0, request).expect("they are there");
}

fn cold(cluster: &mut Cluster, count: usize) -> BTreeSet<String> {
    let names = (0..count).map(|i| format!("m{i}"));
    names.filter(|name| read(cluster, name).is_some_and(|m| m.tier == Tier::Cold)).collect()
}

const DAY_S: i64 = 86_400;

#[test]
fn what_is_little_present_is_demoted_as_a_dry_run_says_and_an_undo_brings_it_back() {
    for shards in [1, 3] {
        let count = 40;
        let mut cluster = filled(shards, 5, count);
        let young = consolidate(&mut cluster, false);
        assert_eq!((young.run.counts.demoted, young.demotions.len()), (0, 0), "nothing faded yet");
        cluster.live(40 * DAY_S);
        reinforce(&mut cluster, &["m3", "m7"]);
        store(&mut cluster, vec![memory("young", "It was stored just now")]);
        let before = answers(&mut cluster, true);
        let said = consolidate(&mut cluster, true);
        let done = consolidate(&mut cluster, false);
        assert_eq!((&said.demotions, &said.prunes), (&done.demotions, &done.prunes));
        assert_eq!(said.run.counts, done.run.counts);
        let faded = cold(&mut cluster, count);
        assert_eq!(faded.len(), count - 2, "{shards} shards");
        assert!(!faded.contains("m3") && !faded.contains("m7"));
        let listed = done.demotions.iter().map(|id| id.as_str().to_owned()).collect();
        assert_eq!(faded, listed);
        assert_eq!(consolidate(&mut cluster, false).run.counts.demoted, 0, "again, nothing");
        cluster.crash();
        let known = ask(&mut cluster, 0, ConsolidateAsk::One(done.run.id)).expect("it is known");
        assert_eq!(known.demotions, done.demotions);
        undo(&mut cluster, done.run.id);
        assert_eq!(cold(&mut cluster, count), BTreeSet::new());
        assert_eq!(answers(&mut cluster, true), before, "{shards} shards");
        cluster.crash();
        assert_eq!(answers(&mut cluster, true), before, "{shards} shards, restarted");
    }
}

#[test]
fn an_undo_ends_where_the_cold_tier_is_down_and_can_be_asked_for_again() {
    let count = 20;
    let mut cluster = filled(2, 5, count);
    cluster.live(60 * DAY_S);
    let done = consolidate(&mut cluster, false);
    assert_eq!(cold(&mut cluster, count).len(), count);
    let tier = cluster.cold.take();
    ask(&mut cluster, 0, ConsolidateAsk::Undo(done.run.id)).expect("it can be tried");
    cluster.settle();
    let failed = ask(&mut cluster, 0, ConsolidateAsk::One(done.run.id)).expect("it is known");
    assert_eq!(failed.run.state, RunState::Failed);
    assert!(failed.reason.is_some_and(|reason| reason.contains("cold tier")));
    cluster.cold = tier;
    undo(&mut cluster, done.run.id);
    assert_eq!(cold(&mut cluster, count), BTreeSet::new());
}

#[test]
fn a_clock_that_jumps_demotes_nothing_and_a_restart_keeps_ages() {
    for shards in [1, 3] {
        let count = 40;
        let mut cluster = filled(shards, 5, count);
        consolidate(&mut cluster, false);
        for years in [10, -20, 30] {
            let now = cluster.now();
            cluster.set_clock(now + years * 365 * DAY_S * 1_000_000);
            cluster.live(60);
            assert_eq!(consolidate(&mut cluster, false).run.counts.demoted, 0, "{years} years");
        }
        cluster.live(20 * DAY_S);
        store(&mut cluster, vec![memory("later", "It was stored three weeks after the others")]);
        cluster.live(20 * DAY_S);
        let warm = consolidate(&mut cluster, true);
        assert_eq!(warm.demotions.len(), count);
        assert!(!warm.demotions.contains(&id("later")));
        let images = cluster.images();
        for restart in [true, false] {
            if restart {
                cluster.crash();
            } else {
                cluster.crash_to(&images);
            }
            cluster.settle();
            assert_eq!(consolidate(&mut cluster, true).demotions, warm.demotions);
        }
    }
}

/// A memory, its copy, and the run that merged them.
fn merged(shards: u16) -> (Cluster, RunId) {
    let mut cluster = Cluster::new(shards, 4);
    let mut linker = memory("linker", "It points at the copy");
    let kind = LinkKind::default();
    linker.links = Some(vec![Link { to: id("copy"), weight: Weight::ONE, kind }]);
    store(&mut cluster, vec![memory("first", "The kettle boils water")]);
    store(&mut cluster, vec![memory("copy", "The kettle boils water."), linker]);
    let run = consolidate(&mut cluster, false);
    assert_eq!(run.run.counts.merged, 1);
    (cluster, run.run.id)
}

#[test]
fn activation_that_led_to_a_copy_leads_to_what_it_was_merged_into() {
    for shards in [1, 2, 4, 7] {
        let (mut cluster, run) = merged(shards);
        let cues = vec![Cue { kind: CueKind::Id(id("linker")), weight: 1.0 }];
        let recall = Box::new(Recall { cues, ..Recall::default() });
        let lit = |cluster: &mut Cluster| {
            let request = Request::Recall { space: SpaceName::default(), recall: recall.clone() };
            let Ok(Answer::Recalled(found)) = cluster.call(0, request) else { panic!("none") };
            found.memories.iter().map(|m| m.memory.id.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lit(&mut cluster), ["first"], "{shards} shards");
        cluster.crash();
        assert_eq!(lit(&mut cluster), ["first"], "{shards} shards, restarted");
        undo(&mut cluster, run);
        assert_eq!(lit(&mut cluster), ["copy"], "{shards} shards, undone");
    }
}

#[test]
fn a_copy_comes_back_when_its_original_goes_or_changes() {
    for shards in [1, 3] {
        for change in 0..4 {
            let (mut cluster, _) = merged(shards);
            let space = SpaceName::default();
            let (first, wait) = (id("first"), Wait::Durable);
            let request = match change {
                0 => Request::Delete { space, id: first, wait },
                1 => Request::Patch {
                    space,
                    id: first,
                    patch: Box::new(Patch {
                        content: Some(Some("It leaks".to_owned())),
                        ..Patch::default()
                    }),
                    wait,
                },
                2 => Request::Store {
                    space,
                    memories: vec![memory("copy", "The kettle is new")],
                    mode: StoreMode::Upsert,
                    wait,
                },
                _ => Request::Delete { space, id: id("copy"), wait },
            };
            cluster.call(0, request).expect("it can be done");
            if change % 2 == 0 {
                // Whatever was still to be done then is done after the start.
                cluster.crash();
            }
            cluster.settle();
            let there = listed(&mut cluster, false);
            assert_eq!(there.contains("first"), change != 0);
            assert_eq!(there.contains("copy"), change != 3, "{shards} shards, change {change}");
            assert_eq!(listed(&mut cluster, true), there);
            assert!(read(&mut cluster, "first").is_none_or(|first| first.merged.is_empty()));
            cluster.crash();
            assert_eq!(listed(&mut cluster, true), there);
        }
    }
}

#[test]
fn a_crash_at_any_moment_leaves_each_memory_as_it_was_or_merged() {
    let (mut in_run, mut in_undo) = (0, 0);
    for moment in 0..200u64 {
        let (shards, count) = ([1, 2, 3, 5][moment as usize % 4], 30);
        let mut cluster = filled(shards, 13, count);
        let all = listed(&mut cluster, false);
        let before = answers(&mut cluster, true);
        let run = start(&mut cluster, false).run.id;
        let steps = Random::new(moment + 1).below(1500);
        for _ in 0..steps {
            cluster.advance();
        }
        let undoes = moment % 3 == 0;
        if undoes {
            cluster.settle();
            ask(&mut cluster, 0, ConsolidateAsk::Undo(run)).expect("it is over");
            for _ in 0..steps / 4 {
                cluster.advance();
            }
        }
        cluster.crash();
        let left = listed(&mut cluster, false);
        assert_eq!(listed(&mut cluster, true), all, "moment {moment}: nothing is lost");
        for name in copies(count) {
            let original = name.replace("copy", "m");
            assert!(left.contains(&original), "moment {moment}: the original stays");
            let copy = read(&mut cluster, &name).expect("it is never neither");
            assert_eq!(copy.merged_into.is_some(), !left.contains(&name), "nor both");
        }
        let some = left.len() < all.len();
        *(if undoes { &mut in_undo } else { &mut in_run }) += u32::from(some);
        undo(&mut cluster, run);
        assert_eq!(answers(&mut cluster, true), before, "moment {moment}");
        consolidate(&mut cluster, false);
        assert_eq!(all.len() - listed(&mut cluster, false).len(), copies(count).len());
    }
    assert!(in_run > 20 && in_undo > 5, "crashes hit merges: {in_run} {in_undo}");
}

/// A kill right after an undo once left memories merged: the authority said `undone` before other
/// shards had synced what came back.
#[test]
fn what_a_run_or_an_undo_did_is_durable_when_it_says_that_it_is_over() {
    for seed in 0..20 {
        let count = 30;
        let mut cluster = filled(3, seed, count);
        let all = listed(&mut cluster, false);
        let run = start(&mut cluster, false).run.id;
        until(&mut cluster, run, RunState::Done);
        cluster.crash();
        let left: BTreeSet<String> = all.difference(&copies(count)).cloned().collect();
        assert_eq!(listed(&mut cluster, false), left, "seed {seed}");
        ask(&mut cluster, 0, ConsolidateAsk::Undo(run)).expect("it is over");
        until(&mut cluster, run, RunState::Undone);
        cluster.crash();
        assert_eq!(listed(&mut cluster, false), all, "seed {seed}");
    }
}

/// Asks again and again until a run is in this state.
fn until(cluster: &mut Cluster, run: RunId, state: RunState) {
    for _ in 0..100_000 {
        cluster.advance();
        if ask(cluster, 0, ConsolidateAsk::One(run)).expect("it is known").run.state == state {
            return;
        }
    }
    panic!("the run is never {state:?}");
}

#[test]
fn an_id_that_was_merged_is_taken() {
    let (mut cluster, _) = merged(2);
    let (space, mode, wait) = (SpaceName::default(), StoreMode::Create, Wait::Durable);
    let memories = vec![memory("copy", "Something else")];
    let request = Request::Store { space, memories, mode, wait };
    let Ok(Answer::Stored { verdicts, .. }) = cluster.call(0, request) else {
        panic!("no verdict")
    };
    assert_eq!(verdicts[0].as_ref().expect_err("it exists").code, Code::AlreadyExists);
    assert!(read(&mut cluster, "copy").expect("it is there").merged_into.is_some());
}
