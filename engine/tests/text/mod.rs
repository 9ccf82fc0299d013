//! Words, terms and the BM25 index.

use engram_engine::node::NodeIx;
use engram_engine::text::{
    Analyzer, Bm25Query, Running, Scratch, TermKey, TextIndex, fold, for_each_word, idf,
};
use engram_engine::vector::Progress;

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for_each_word(&fold(text), |word| words.push(word.to_owned()));
    words
}

#[test]
fn words_are_folded_and_split_in_every_script() {
    let check = |text: &str, expected: &[&str]| assert_eq!(words(text), expected, "{text}");
    check("The cat's paw, don't!", &["the", "cat", "paw", "don't"]);
    check("Sancho Ramírez’s son", &["sancho", "ramirez", "son"]);
    check("state-of-the-art 3.5", &["state", "of", "the", "art", "3", "5"]);
    check("Straße ÉCOLE ﬁn", &["straße", "ecole", "fin"]);
    check("東京都", &["東", "東京", "京", "京都", "都"]);
    check("Ελλάδα Москва", &["ελλαδα", "москва"]);
    check("in東京there", &["in", "東", "東京", "京", "there"]);
    check("rock 'n' roll's", &["rock", "n", "roll"]);
    check("", &[]);
    check(" ’ ' ", &[]);
}

#[test]
fn terms_are_stemmed_counted_and_free_of_stop_words() {
    let mut analyzer = Analyzer::new();
    let analyzed = analyzer.analyze("The dogs were running; a dog runs");
    assert_eq!(analyzed.length, 4);
    assert_eq!(analyzed.terms.iter().map(|&(_, tf)| tf).collect::<Vec<_>>(), [2, 2]);
    let query = analyzer.query("dog dog run");
    assert_eq!(query.len(), 3, "a repeated term stays repeated");
    assert_eq!(query[0], query[1]);
    assert!(query.iter().all(|term| analyzed.terms.iter().any(|(held, _)| held == term)));
}

/// A small generator, so that the tests need no dependency.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

/// The plain formula over documents given as lists of words.
struct Plain {
    documents: Vec<Option<Vec<u64>>>,
}

impl Plain {
    fn statistics(&self, terms: &[u64]) -> (Vec<(TermKey, f32)>, f64) {
        let live: Vec<&Vec<u64>> = self.documents.iter().flatten().collect();
        let df = |term: &u64| live.iter().filter(|document| document.contains(term)).count() as u64;
        let weighed = terms.iter().map(|t| (TermKey(*t), idf(live.len() as u64, df(t)))).collect();
        let total: usize = live.iter().map(|document| document.len()).sum();
        (weighed, total as f64 / live.len().max(1) as f64)
    }

    fn score(&self, node: usize, terms: &[(TermKey, f32)], average_length: f64) -> f64 {
        let Some(document) = &self.documents[node] else { return 0.0 };
        let norm = 1.2 * (0.25 + 0.75 * document.len() as f64 / average_length);
        let part = |(term, weight): &(TermKey, f32)| {
            let tf = document.iter().filter(|word| **word == term.0).count() as f64;
            f64::from(*weight) * 2.2 * tf / (tf + norm)
        };
        terms.iter().map(part).sum()
    }
}

fn analyzed(words: &[u64]) -> engram_engine::text::Analyzed {
    let mut terms: Vec<(TermKey, u32)> = Vec::new();
    let mut sorted = words.to_vec();
    sorted.sort_unstable();
    for word in sorted {
        match terms.last_mut() {
            Some((term, tf)) if term.0 == word => *tf += 1,
            _ => terms.push((TermKey(word), 1)),
        }
    }
    engram_engine::text::Analyzed { terms, length: words.len() as u32 }
}

/// A word with a skewed distribution: low numbers are common.
fn word(dice: &mut Dice, words: u64) -> u64 {
    let bound = dice.below(words) + 1;
    dice.below(bound) + 1
}

fn document(dice: &mut Dice, words: u64) -> Vec<u64> {
    let length = dice.below(30);
    (0..length).map(|_| word(dice, words)).collect()
}

/// Compares search, scores and conjunction with the plain formula.
fn check_query(plain: &Plain, index: &TextIndex, keys: &[u64], dice: &mut Dice, words: u64) {
    let count = 1 + dice.below(8);
    let terms: Vec<u64> = (0..count).map(|_| word(dice, words)).collect();
    let (weighed, average_length) = plain.statistics(&terms);
    let k = 1 + dice.below(20) as usize;
    let odd = |node: NodeIx| node.0 % 2 == 1;
    let accept: Option<&dyn Fn(NodeIx) -> bool> =
        if dice.below(3) == 0 { Some(&odd) } else { None };
    let query = Bm25Query { terms: &weighed, average_length, k, keys, accept };
    let found = index.search(&query, &mut Scratch::default());
    let (mut scratch, mut running) = (Scratch::default(), Running::default());
    while index.step(&query, &mut scratch, &mut running, 1) == Progress::More {}
    let in_steps = running.finish(|node, key| keys[node.index()] == key && index.contains(node));
    assert_eq!(in_steps, found, "steps change nothing");
    let all: Vec<NodeIx> = (0..plain.documents.len() as u32).map(NodeIx).collect();
    let scores = index.score_nodes(&query, &all);
    let mut expected: Vec<(NodeIx, f32)> =
        all.iter().copied().zip(scores.iter().copied()).collect();
    expected.retain(|&(node, score)| score > 0.0 && accept.is_none_or(|accept| accept(node)));
    expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(keys[a.0.index()].cmp(&keys[b.0.index()])));
    expected.truncate(k);
    assert_eq!(found, expected, "terms {terms:?} k {k}");
    for (node, &score) in all.iter().zip(&scores) {
        let plain_score = plain.score(node.index(), &weighed, average_length);
        assert!((f64::from(score) - plain_score).abs() < 1e-4, "{node:?} {score} {plain_score}");
    }
    let keyed: Vec<TermKey> = terms.iter().map(|&term| TermKey(term)).collect();
    let with_all: Vec<NodeIx> = all
        .iter()
        .copied()
        .filter(|node| {
            plain.documents[node.index()]
                .as_ref()
                .is_some_and(|document| terms.iter().all(|term| document.contains(term)))
        })
        .collect();
    assert_eq!(index.candidates_with_all(&keyed), with_all);
}

#[test]
fn search_is_the_plain_formula_under_any_inserts_and_removals() {
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let (nodes, words) = ([40, 700, 3000][seed as usize % 3], [20, 400][seed as usize / 3]);
        let mut plain = Plain { documents: vec![None; nodes] };
        let mut index = TextIndex::new();
        let keys: Vec<u64> = (0..nodes).map(|_| dice.below(1 << 20)).collect();
        for step in 0..nodes * 3 {
            let node = if step < nodes { step } else { dice.below(nodes as u64) as usize };
            index.remove(NodeIx(node as u32));
            plain.documents[node] = None;
            if dice.below(3) > 0 {
                let words = document(&mut dice, words);
                index.insert(NodeIx(node as u32), &analyzed(&words));
                plain.documents[node] = Some(words);
            }
        }
        let live: Vec<&Vec<u64>> = plain.documents.iter().flatten().collect();
        assert_eq!(index.documents(), live.len() as u64);
        assert_eq!(index.total_length(), live.iter().map(|d| d.len() as u64).sum::<u64>());
        for term in 1..=words {
            let df = live.iter().filter(|document| document.contains(&term)).count() as u64;
            assert_eq!(index.df(TermKey(term)), df, "seed {seed}");
        }
        for _ in 0..30 {
            check_query(&plain, &index, &keys, &mut dice, words);
        }
    }
}

#[test]
fn scores_do_not_depend_on_the_number_of_shards() {
    let mut dice = Dice(7);
    let documents: Vec<Vec<u64>> = (0..900).map(|_| document(&mut dice, 60)).collect();
    let plain = Plain { documents: documents.iter().cloned().map(Some).collect() };
    let (terms, average_length) = plain.statistics(&[3, 1, 9, 3, 40]);
    let run = |shards: usize| {
        let mut found: Vec<(u32, usize)> = Vec::new();
        for shard in 0..shards {
            let mut index = TextIndex::new();
            let mine = (0..documents.len()).filter(|at| at % shards == shard);
            let keys: Vec<u64> = mine.clone().map(|at| at as u64).collect();
            for (node, at) in mine.enumerate() {
                index.insert(NodeIx(node as u32), &analyzed(&documents[at]));
            }
            let query =
                Bm25Query { terms: &terms, average_length, k: 25, keys: &keys, accept: None };
            let best = index.search(&query, &mut Scratch::default());
            found.extend(best.iter().map(|(n, s)| (s.to_bits(), keys[n.index()] as usize)));
        }
        found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(25);
        found
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(7));
}
