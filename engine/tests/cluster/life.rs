//! Reinforcement and fading.

use engram_engine::life::Outcome;
use engram_engine::model::{Link, LinkKind, SpaceConfig, SpaceName, Weight};
use engram_engine::request::{Answer, Cue, CueKind, Recall, RecalledMemory, Request, Wait};

use super::{Cluster, Random, id, memory};

const DAY: i64 = 86_400;

fn reinforce(cluster: &mut Cluster, ids: &[&str], outcome: f64) -> (u64, Vec<String>) {
    let request = Request::Reinforce {
        space: SpaceName::default(),
        ids: ids.iter().map(|name| id(name)).collect(),
        outcome: Outcome::new(outcome),
        wait: Wait::Durable,
    };
    match cluster.call(0, request) {
        Ok(Answer::Reinforced { reinforced, missing, durable: true }) => {
            (reinforced, missing.iter().map(|id| id.as_str().to_owned()).collect())
        }
        other => panic!("not reinforced: {other:?}"),
    }
}

fn recall(cluster: &mut Cluster, home: u16, recall: Recall) -> Vec<RecalledMemory> {
    let request = Request::Recall { space: SpaceName::default(), recall: Box::new(recall) };
    match cluster.call(home, request) {
        Ok(Answer::Recalled(recalled)) => recalled.memories,
        other => panic!("no answer: {other:?}"),
    }
}

fn about(text: &str) -> Recall {
    let cue = Cue { kind: CueKind::Text(text.to_owned()), weight: 1.0 };
    Recall { cues: vec![cue], exact: true, ..Recall::default() }
}

fn from(name: &str) -> Recall {
    let cue = Cue { kind: CueKind::Id(id(name)), weight: 1.0 };
    Recall { cues: vec![cue], max_hops: Some(1), exact: true, ..Recall::default() }
}

fn order(memories: &[RecalledMemory]) -> Vec<&str> {
    memories.iter().map(|m| m.memory.id.as_str()).collect()
}

fn bits(memories: &[RecalledMemory]) -> Vec<(String, u64, u64)> {
    let row = |m: &RecalledMemory| {
        (m.memory.id.as_str().to_owned(), m.score.to_bits(), m.breakdown.recency.to_bits())
    };
    memories.iter().map(row).collect()
}

fn recency(memories: &[RecalledMemory], name: &str) -> f64 {
    let found = memories.iter().find(|m| m.memory.id.as_str() == name);
    found.expect("it came back").breakdown.recency
}

fn linked(name: &str, content: &str, targets: &[&str]) -> engram_engine::model::NewMemory {
    let link = |to: &&str| Link { to: id(to), weight: Weight::ONE, kind: LinkKind::default() };
    let mut made = memory(name, content);
    made.links = Some(targets.iter().map(link).collect());
    made
}

/// Tea thrice, all alike but for one word, and what tea is linked to.
fn tea(shards: u16) -> Cluster {
    let mut cluster = Cluster::new(shards, 3);
    let stored = cluster.store(vec![
        linked("green", "green tea from the mountains", &["kettle", "cup", "pot"]),
        memory("black", "black tea from the mountains"),
        memory("white", "white tea from the mountains"),
        memory("kettle", "boils water"),
        memory("cup", "holds what is drunk"),
        memory("pot", "holds what is brewed"),
    ]);
    stored.into_iter().for_each(|verdict| assert!(verdict.is_ok()));
    cluster.settle();
    cluster
}

#[test]
fn what_was_useful_comes_first_among_equals_until_that_has_faded() {
    for shards in [1, 2, 4, 7] {
        let mut cluster = tea(shards);
        let before = recall(&mut cluster, 0, about("tea mountains"));
        assert!(before.iter().all(|m| m.breakdown.recency == 0.0));
        let last = order(&before)[2].to_owned();
        assert_eq!(reinforce(&mut cluster, &[&last, "nobody"], 1.0), (1, vec!["nobody".into()]));
        let after = recall(&mut cluster, 0, about("tea mountains"));
        assert_eq!(order(&after)[0], last, "{shards} shards");
        assert_eq!(recency(&after, &last), 0.5);
        cluster.live(30 * DAY);
        let month = recency(&recall(&mut cluster, 0, about("tea mountains")), &last);
        assert!((month - 1.0 / 3.0).abs() < 1e-4, "half a use is a third: {month}");
        cluster.live(3000 * DAY);
        let forgotten = recall(&mut cluster, 0, about("tea mountains"));
        assert_eq!(bits(&forgotten), bits(&before), "nothing falls below what it is unused");
    }
}

#[test]
fn bad_outcomes_weaken_to_a_floor() {
    let mut cluster = tea(2);
    let best = order(&recall(&mut cluster, 0, about("tea mountains")))[0].to_owned();
    for _ in 0..50 {
        reinforce(&mut cluster, &[&best], -1.0);
    }
    let after = recall(&mut cluster, 0, about("tea mountains"));
    assert_eq!(order(&after)[2], best);
    assert!(recency(&after, &best) >= -0.5);
    assert!(after[2].score > 0.9 * after[0].score, "weakened, not buried");
}

#[test]
fn a_space_may_keep_what_it_learned_for_ever_or_a_minute() {
    for (half_life_s, expected) in [(None, 0.5), (Some(60), 0.0)] {
        let mut cluster = tea(2);
        let config = SpaceConfig { half_life_s, ..SpaceConfig::default() };
        let space = SpaceName::default();
        cluster.call(1, Request::PutSpace { space, config }).expect("it may change");
        reinforce(&mut cluster, &["black"], 1.0);
        cluster.live(DAY);
        let after = recall(&mut cluster, 0, about("tea mountains"));
        assert!((recency(&after, "black") - expected).abs() < 1e-9);
    }
}

#[test]
fn recalling_changes_nothing_unless_the_client_asks_for_it() {
    let mut cluster = tea(3);
    let before = bits(&recall(&mut cluster, 0, about("tea mountains")));
    for _ in 0..20 {
        assert_eq!(bits(&recall(&mut cluster, 1, about("tea mountains"))), before);
    }
    recall(&mut cluster, 1, Recall { reinforce: true, ..about("green tea from mountains") });
    cluster.settle();
    let after = recall(&mut cluster, 0, about("tea mountains"));
    assert!(recency(&after, "green") > 0.1, "the first counts most");
    assert!(recency(&after, "green") > recency(&after, "black"));
}

#[test]
fn the_ways_that_led_to_what_was_useful_grow_at_the_expense_of_others() {
    for shards in [1, 2, 4, 7] {
        let mut cluster = tea(shards);
        let activation = |cluster: &mut Cluster| {
            let recall = Recall { explain: true, ..from("green") };
            let found = self::recall(cluster, 0, recall);
            let amount = |name: &str| {
                let one = found.iter().find(|m| m.memory.id.as_str() == name).expect("linked");
                one.path.last().expect("it has a path").activation
            };
            ["kettle", "cup", "pot"].map(amount)
        };
        let before = activation(&mut cluster);
        assert_eq!(before[0], before[1]);
        reinforce(&mut cluster, &["green", "kettle"], 1.0);
        let after = activation(&mut cluster);
        assert!(after[0] > 1.1 * before[0] && after[1] < before[1], "{before:?} {after:?}");
        let sum = |all: [f64; 3]| all.iter().sum::<f64>();
        assert!((sum(after) - sum(before)).abs() < 1e-8, "no more is sent than before");
        let narrow =
            Recall { filter: Default::default(), top_k: 1, reinforce: true, ..from("green") };
        for _ in 0..30 {
            recall(&mut cluster, 0, narrow.clone());
            cluster.settle();
        }
        let later = activation(&mut cluster);
        assert!(later[0] > after[0] && (sum(later) - sum(before)).abs() < 1e-8);
    }
}

#[test]
fn no_repetition_makes_a_hub_of_a_memory() {
    for seed in 1..6 {
        let mut random = Random::new(seed);
        let mut cluster = Cluster::new([1, 3][seed as usize % 2], seed);
        let count = 40;
        let name = |i: usize| format!("n{i}");
        let memories = (0..count).map(|i| {
            let to: Vec<String> = (0..6).map(|_| name(random.below(count))).collect();
            let mut targets: Vec<&str> = to.iter().map(String::as_str).collect();
            targets.extend(["hub"].iter().filter(|_| i % 3 == 0));
            linked(&name(i), &format!("note {i}"), &targets)
        });
        let mut memories: Vec<_> = memories.collect();
        memories.push(memory("hub", "hub"));
        cluster.store(memories).into_iter().for_each(|verdict| assert!(verdict.is_ok()));
        cluster.settle();
        let lit = |cluster: &mut Cluster, i: usize| -> Vec<(String, f64)> {
            let recall = Recall { explain: true, top_k: 100, ..from(&name(i)) };
            let found = self::recall(cluster, 0, recall);
            let amount = |m: &RecalledMemory| m.path.last().map_or(0.0, |step| step.activation);
            found.iter().map(|m| (m.memory.id.as_str().to_owned(), amount(m))).collect()
        };
        let before: Vec<_> = (0..count).map(|i| lit(&mut cluster, i)).collect();
        for round in 0..400 {
            let source = name(3 * random.below(count / 3));
            reinforce(&mut cluster, &[&source, "hub"], 1.0);
            if round % 7 == 0 {
                let recall = Recall { reinforce: true, ..from(&source) };
                self::recall(&mut cluster, 0, recall);
            }
            if round % 50 == 0 {
                cluster.live(DAY);
            }
        }
        for (i, before) in before.iter().enumerate() {
            let after = lit(&mut cluster, i);
            let sum = |all: &[(String, f64)]| all.iter().map(|(_, amount)| amount).sum::<f64>();
            assert!(sum(&after) <= sum(before) + 1e-6, "a memory sends no more than before");
            for (other, amount) in &after {
                let was = before.iter().find(|(o, _)| o == other).map_or(0.0, |(_, was)| *was);
                assert!(*amount <= 1.45 * was + 1e-9, "{other} got {amount}, before {was}");
                assert!(*amount >= 0.6 * was - 1e-9, "{other} got {amount}, before {was}");
            }
        }
    }
}

#[test]
fn a_clock_that_jumps_ages_nothing() {
    let decades = 30 * 365 * DAY * 1_000_000;
    for jumps in [vec![decades], vec![-decades], vec![decades, -2 * decades, decades]] {
        let mut cluster = tea(3);
        let last = order(&recall(&mut cluster, 0, about("tea mountains")))[2].to_owned();
        reinforce(&mut cluster, &[&last], 1.0);
        for jump in jumps {
            let now = cluster.now() + jump;
            cluster.set_clock(now);
            let after = recall(&mut cluster, 1, about("tea mountains"));
            assert_eq!(order(&after)[0], last);
            assert!(recency(&after, &last) > 0.499, "an hour at most has passed");
            reinforce(&mut cluster, &["kettle"], 1.0);
        }
        // As a machine that was off for years, or came up with a wrong clock.
        cluster.crash();
        let now = cluster.now() + decades;
        cluster.set_clock(now);
        assert!(recency(&recall(&mut cluster, 2, about("tea mountains")), &last) > 0.499);
        cluster.live(30 * DAY);
        let month = recency(&recall(&mut cluster, 0, about("tea mountains")), &last);
        assert!((month - 1.0 / 3.0).abs() < 1e-3, "from then on time goes on: {month}");
    }
}

/// A life: recalls that reinforce, outcomes of all sorts, days in between.
fn lead_a_life(cluster: &mut Cluster, seed: u64) -> Vec<Vec<(String, u64, u64)>> {
    let mut random = Random::new(seed);
    let words = ["tea", "mountains", "water", "drunk", "green", "brewed", "black", "holds"];
    let names = ["green", "black", "white", "kettle", "cup", "pot"];
    let mut answers = Vec::new();
    let homes = cluster.shards.len();
    for round in 0..120 {
        let home = (round % homes) as u16;
        let text = format!("{} {}", words[random.below(8)], words[random.below(8)]);
        let reinforces = random.below(2) == 0;
        let recalled = recall(cluster, home, Recall { reinforce: reinforces, ..about(&text) });
        answers.push(bits(&recalled));
        cluster.settle();
        let outcome = f64::from(random.unit()) * 2.0 - 1.0;
        reinforce(cluster, &[names[random.below(6)], names[random.below(6)]], outcome);
        cluster.settle();
        // Well within a second, whatever number of steps the messages took.
        let at = cluster.now() - cluster.now().rem_euclid(1_000_000) + 500_000;
        cluster.set_clock(at);
        cluster.live(random.below(40_000) as i64);
    }
    answers
}

#[test]
fn what_use_leaves_is_the_same_to_the_bit_on_any_number_of_shards() {
    for seed in 1..4 {
        let start = |shards: u16| {
            let mut cluster = tea(shards);
            cluster.set_clock(500_000_000_500_000);
            lead_a_life(&mut cluster, seed)
        };
        let expected = start(1);
        for shards in [2, 4, 7] {
            for (round, (a, b)) in expected.iter().zip(start(shards)).enumerate() {
                assert_eq!(*a, b, "seed {seed}, {shards} shards, round {round}");
            }
        }
    }
}

#[test]
fn what_use_left_survives_a_crash_and_goes_with_its_memory() {
    for shards in [1, 3] {
        let mut cluster = tea(shards);
        lead_a_life(&mut cluster, 5);
        // With it the log hears how long the server has lived; else that is known to the hour.
        reinforce(&mut cluster, &["cup"], 0.1);
        let homes = u64::from(shards);
        for (i, cue) in ["tea mountains", "water", "holds"].iter().enumerate() {
            let home = (i as u64 % homes) as u16;
            let before = bits(&recall(&mut cluster, home, about(cue)));
            cluster.crash();
            assert_eq!(bits(&recall(&mut cluster, home, about(cue))), before);
        }
        let (space, id) = (SpaceName::default(), id("black"));
        let delete = Request::Delete { space, id, wait: Wait::Durable };
        cluster.call(0, delete).expect("it exists");
        cluster.store(vec![memory("black", "black tea from the mountains")]);
        cluster.settle();
        let again = recall(&mut cluster, 0, about("tea mountains"));
        assert_eq!(recency(&again, "black"), 0.0);
        cluster.crash();
        let again = recall(&mut cluster, 0, about("tea mountains"));
        assert_eq!(recency(&again, "black"), 0.0);
    }
}
