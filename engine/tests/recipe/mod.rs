//! The whole recipe of a recall on one shard, in plain code over the engine's structures.
//!
//! Links, names and terms are made from content and metadata alone; vectors are searched exactly.

pub mod evaluation;

use std::collections::BTreeMap;

use engram_engine::attributes::{AttributeIndex, attributes_of};
use engram_engine::fuse::{
    Candidates, Recipe, residual_factor, residual_terms, scaled_activation, score,
};
use engram_engine::names::{NameIndex, NameMatch, longest, names_of, normal_form};
use engram_engine::node::NodeIx;
use engram_engine::sequence::sequence_of;
use engram_engine::terms::{TermIndex, terms_of};
use engram_engine::text::{Analyzer, Bm25Query, Scratch, TermKey, TextIndex, idf};

use evaluation::{Figures, Query, Record};

/// Weight of the way back from a mentioned memory.
const BACK: f32 = 0.2;

struct Space<'a> {
    records: Vec<&'a Record>,
    analyzer: Analyzer,
    text: TextIndex,
    names: NameIndex,
    terms: TermIndex,
    attributes: AttributeIndex,
    links: Vec<BTreeMap<u32, f32>>,
    sequence: Vec<Vec<(u32, f32)>>,
    keys: Vec<u64>,
}

impl<'a> Space<'a> {
    fn new(records: Vec<&'a Record>) -> Self {
        let count = records.len();
        let mut space = Self {
            records,
            analyzer: Analyzer::new(),
            text: TextIndex::new(),
            names: NameIndex::new(),
            terms: TermIndex::new(),
            attributes: AttributeIndex::new(),
            links: vec![BTreeMap::new(); count],
            sequence: vec![Vec::new(); count],
            keys: (0..count as u64).collect(),
        };
        for at in 0..count {
            space.index(at);
        }
        space.link_mentions();
        space.link_sequences();
        space
    }

    fn index(&mut self, at: usize) {
        let (record, node) = (self.records[at], NodeIx(at as u32));
        self.text.insert(node, &self.analyzer.analyze(&record.content));
        self.names.insert(node, &names_of(&record.metadata, Some(&record.content), false));
        self.terms.insert(node, &terms_of(&record.metadata, Some(&record.content)));
        self.attributes.insert(node, &attributes_of(&record.metadata));
    }

    fn mentioned(&self, text: &str) -> Vec<NameMatch> {
        let mut matches = self.names.matches(&normal_form(text));
        let spans: Vec<_> = matches.iter().map(|found| found.span).collect();
        let kept = longest(&spans);
        matches.retain(|found| kept.contains(&found.span));
        matches
    }

    fn link_mentions(&mut self) {
        for at in 0..self.records.len() {
            let mut best: BTreeMap<u32, f32> = BTreeMap::new();
            for found in self.mentioned(&self.records[at].content) {
                if found.holders.iter().any(|(holder, _)| holder.index() == at) {
                    continue;
                }
                for &(holder, weight) in &found.holders {
                    let weight = weight / found.holder_count as f32;
                    let kept = best.entry(holder.0).or_default();
                    *kept = kept.max(weight);
                }
            }
            for (to, weight) in best {
                *self.links[at].entry(to).or_default() += weight;
                *self.links[to as usize].entry(at as u32).or_default() += BACK * weight;
            }
        }
    }

    fn link_sequences(&mut self) {
        let mut sequences: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (at, record) in self.records.iter().enumerate() {
            if let Some(key) = sequence_of(&record.metadata) {
                sequences.entry(key).or_default().push(at);
            }
        }
        for members in sequences.values() {
            for (distance, weight) in [(1, 1.0), (2, 0.5)] {
                for pair in members.windows(distance + 1) {
                    let (from, to) = (pair[0], pair[distance]);
                    self.sequence[from].push((to as u32, weight));
                    self.sequence[to].push((from as u32, weight));
                    *self.links[from].entry(to as u32).or_default() += weight;
                    *self.links[to].entry(from as u32).or_default() += weight;
                }
            }
        }
    }

    fn weighed(&self, terms: &[TermKey]) -> Vec<(TermKey, f32)> {
        let weight = |&term: &TermKey| (term, idf(self.text.documents(), self.text.df(term)));
        terms.iter().map(weight).collect()
    }

    fn bm25<'q>(&'q self, terms: &'q [(TermKey, f32)], k: usize) -> Bm25Query<'q> {
        let average_length = self.text.total_length() as f64 / self.text.documents() as f64;
        Bm25Query { terms, average_length, k, keys: &self.keys, accept: None }
    }

    fn nearest(&self, vector: &[f32], k: usize) -> Vec<(u32, f32)> {
        let dot = |record: &Record| record.vector.iter().zip(vector).map(|(a, b)| a * b).sum();
        let mut found: Vec<(u32, f32)> =
            (0..).zip(&self.records).map(|(at, record)| (at, dot(record))).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(k);
        found
    }

    /// Fuse, names, attributes, context.
    fn direct(&self, query: &Query, terms: &[(TermKey, f32)]) -> (Candidates<u32>, Recipe) {
        let normal = normal_form(&query.text);
        let names = self.mentioned(&query.text);
        let spans: Vec<_> = names.iter().map(|found| found.span).collect();
        let recipe = Recipe::of_cue(normal.split(' ').count(), &spans);
        let search = self.bm25(terms, recipe.candidates);
        let lexical = self.text.search(&search, &mut Scratch::default());
        let lexical: Vec<(u32, f32)> = lexical.iter().map(|&(node, s)| (node.0, s)).collect();
        let semantic = self.nearest(&query.vector, recipe.candidates);
        let mut candidates = Candidates::fused(&lexical, &semantic, &recipe);
        for found in &names {
            for &(holder, weight) in &found.holders {
                let namesakes = u64::from(found.holder_count);
                candidates.add_named(holder.0, weight, namesakes, &recipe);
            }
        }
        let named = self.attributes.named_in(&normal);
        candidates.add_attributes(&named, |key| self.attributes.of(NodeIx(key)), &recipe);
        candidates.scale();
        candidates.add_context(|key| self.sequence[key as usize].as_slice(), &recipe);
        (candidates, recipe)
    }

    /// One hop over links and shared terms; seeds get nothing over terms.
    fn spread(&self, seeds: &[(u32, f64)], recipe: &Recipe) -> BTreeMap<u32, f64> {
        let mut lit: BTreeMap<u32, f64> = BTreeMap::new();
        for &(seed, activation) in seeds {
            let links = &self.links[seed as usize];
            let total: f64 = links.values().map(|&weight| f64::from(weight)).sum();
            for (&to, &weight) in links {
                *lit.entry(to).or_default() +=
                    activation * f64::from(weight) / total.powf(recipe.fan_out_exponent);
            }
            self.spread_terms(seed, activation, seeds, recipe, &mut lit);
        }
        lit
    }

    fn spread_terms(
        &self,
        seed: u32,
        activation: f64,
        seeds: &[(u32, f64)],
        recipe: &Recipe,
        lit: &mut BTreeMap<u32, f64>,
    ) {
        let documents = self.records.len() as f64;
        let shared: Vec<(&[NodeIx], f64)> = self
            .terms
            .terms_of(NodeIx(seed))
            .iter()
            .map(|&term| self.terms.members(term))
            .filter(|members| {
                members.len() >= 2 && members.len() as f64 <= (0.02 * documents).max(2.0)
            })
            .map(|members| (members, (documents / members.len() as f64).ln() / documents.ln()))
            .collect();
        let total: f64 = shared.iter().map(|(_, weight)| weight).sum();
        for (members, weight) in shared {
            let each = weight / total.sqrt() / members.len() as f64;
            for member in members.iter().filter(|m| !seeds.iter().any(|(s, _)| *s == m.0)) {
                *lit.entry(member.0).or_default() += recipe.shared * activation * each;
            }
        }
    }

    fn rank(&mut self, query: &Query) -> Vec<&str> {
        let terms = self.analyzer.query(&query.text);
        let weighed = self.weighed(&terms);
        let (candidates, recipe) = self.direct(query, &weighed);
        let seeds = candidates.seeds(usize::MAX, &recipe);
        let mut lit = self.spread(&seeds, &recipe);
        let seed_nodes: Vec<NodeIx> = seeds.iter().map(|&(key, _)| NodeIx(key)).collect();
        let residual = residual_terms(&weighed, &self.text.held_terms(&terms, &seed_nodes));
        let nodes: Vec<NodeIx> = lit.keys().map(|&key| NodeIx(key)).collect();
        let scores = self.text.score_nodes(&self.bm25(&residual, 0), &nodes);
        let is_seed = |key: u32| seeds.iter().any(|&(seed, _)| seed == key);
        let others = || nodes.iter().zip(&scores).filter(|(node, _)| !is_seed(node.0));
        let best = others().map(|(_, &score)| score).fold(0.0, f32::max);
        for (activation, &score) in lit.values_mut().zip(&scores) {
            *activation *= residual_factor(score, best, &recipe);
        }
        let largest =
            lit.iter().filter(|(key, _)| !is_seed(**key)).map(|(_, &x)| x).fold(0.0, f64::max);
        let mut scored: BTreeMap<u32, f64> = candidates
            .list()
            .iter()
            .map(|candidate| (candidate.key, score(candidate.direct, 0.0)))
            .collect();
        for (&key, &activation) in &lit {
            let direct = scored.get(&key).copied().unwrap_or(0.0);
            scored.insert(key, score(direct, scaled_activation(activation, largest, &recipe)));
        }
        let mut ranked: Vec<(u32, f64)> = scored.into_iter().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.iter().take(10).map(|(key, _)| self.records[*key as usize].id.as_str()).collect()
    }
}

/// Recall at 1, 2, 5 and 10 of the unbiased queries, and of the biased ones.
fn figures(name: &str) -> Option<[[f64; 4]; 2]> {
    let Some(folder) = evaluation::folder() else {
        eprintln!("no evaluation data: set ENGRAM_SHARED_DATA to their folder to run this test");
        return None;
    };
    let set = evaluation::load(&folder, name);
    let mut spaces: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in &set.records {
        spaces.entry(&record.space).or_default().push(record);
    }
    let mut spaces: BTreeMap<&str, Space<'_>> =
        spaces.into_iter().map(|(name, records)| (name, Space::new(records))).collect();
    let mut figures = [Figures::default(), Figures::default()];
    for query in &set.queries {
        let space = spaces.get_mut(query.space.as_str()).expect("the query's space has memories");
        figures[usize::from(query.biased)].add(&space.rank(query), &query.relevant);
    }
    let figures = figures.map(|figures| figures.at());
    println!("{name}: recall@1,2,5,10 {:.1?} biased {:.1?}", figures[0], figures[1]);
    Some(figures)
}

#[test]
fn two_hop_questions_are_answered_on_2wiki() {
    let Some(figures) = figures("2wiki") else { return };
    assert!(figures[0][2] >= 97.0, "recall@5");
}

#[test]
fn two_hop_questions_are_answered_on_hotpot() {
    let Some(figures) = figures("hotpot") else { return };
    assert!(figures[0][2] >= 93.0 && figures[1][2] >= 95.0, "recall@5");
}

#[test]
fn questions_of_two_to_four_hops_are_answered_on_musique() {
    let Some(figures) = figures("musique") else { return };
    assert!(figures[0][2] >= 70.0 && figures[1][2] >= 67.0, "recall@5");
}

#[test]
fn questions_about_long_dialogues_are_answered_on_locomo() {
    let Some(figures) = figures("locomo") else { return };
    assert!(figures[0][3] >= 76.5, "recall@10");
}
