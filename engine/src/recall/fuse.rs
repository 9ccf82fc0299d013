//! Fusing what the cues found into direct scores and seeds (steps 1 to 3 of the recipe).
//!
//! *Invariants*: lists of several shards are merged by score and key, so that the result is the
//! same however memories are spread over shards.
//!
//! *Not here*: spreading (`super`), searching (`shard::search`).

use crate::attributes::{Attribute, AttributeKind};
use crate::fixed::Activation;
use crate::key::{KeyMap, MemoryKey};
use crate::mesh::{LexicalFound, Mention, Probed};
use crate::names::{self, NAME_HOLDERS_MAX, NameSpan};
use crate::request::{CueKind, Recall};

use super::{Cell, recipe};

/// A list of candidates, best first.
type Ranked = Vec<(MemoryKey, f32)>;

/// What the cues found so far.
#[derive(Default)]
pub(super) struct Fusion {
    text_weights: Vec<f64>,
    embedding_weights: Vec<f64>,
    id_weights: Vec<(MemoryKey, f64)>,
    cue_ids: Vec<f64>,
    nearest: Vec<Ranked>,
    lexical: Vec<Ranked>,
    mentions: Vec<Vec<Mention>>,
    attributes: Vec<Attribute>,
    bearers: Vec<Vec<MemoryKey>>,
}

impl Fusion {
    pub(super) fn new(recall: &Recall) -> Self {
        let mut fusion = Self::default();
        for cue in &recall.cues {
            let weight = f64::from(cue.weight);
            match cue.kind {
                CueKind::Text(_) => fusion.text_weights.push(weight),
                CueKind::Embedding(_) => fusion.embedding_weights.push(weight),
                CueKind::Id(_) => fusion.cue_ids.push(weight),
            }
        }
        fusion
    }

    /// Takes what each shard found first.
    pub(super) fn probed(&mut self, probes: Vec<Probed>, candidates: usize) {
        self.mentions = vec![Vec::new(); self.text_weights.len()];
        self.nearest = vec![Vec::new(); self.embedding_weights.len()];
        for probe in probes {
            for (all, found) in self.nearest.iter_mut().zip(probe.nearest) {
                all.extend(found);
            }
            for (all, found) in self.mentions.iter_mut().zip(probe.mentions) {
                all.extend(found);
            }
            self.attributes.extend(probe.attributes);
            self.id_weights.extend(probe.ids.into_iter().map(|key| (key, 1.0)));
        }
        self.nearest.iter_mut().for_each(|list| best(list, candidates));
        self.attributes.sort_unstable();
        self.attributes.dedup();
    }

    /// Gives each id cue that exists its weight; `keys` are those of all id cues in order.
    pub(super) fn weigh_ids(&mut self, keys: &[MemoryKey]) {
        let weights = &self.cue_ids;
        for (key, weight) in &mut self.id_weights {
            let cue = keys.iter().position(|k| k == key);
            *weight = cue.and_then(|i| weights.get(i)).copied().unwrap_or(1.0);
        }
    }

    /// Attributes that raise their bearers: of each kind the only one that the cue names.
    pub(super) fn attributes(&self) -> Vec<Attribute> {
        let kinds = [AttributeKind::Speaker, AttributeKind::Source, AttributeKind::Tag];
        let only = kinds.into_iter().filter_map(|kind| {
            let mut of_kind = self.attributes.iter().filter(|a| a.kind == kind);
            of_kind.next().filter(|_| of_kind.next().is_none()).copied()
        });
        only.collect()
    }

    /// Keys of everything that is a candidate so far.
    pub(super) fn candidate_keys(&self) -> Vec<MemoryKey> {
        let mut keys: Vec<MemoryKey> = self.nearest.iter().flatten().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Takes what lexical search found on each shard.
    pub(super) fn lexical(&mut self, found: Vec<LexicalFound>, candidates: usize) {
        self.lexical = vec![Vec::new(); self.text_weights.len()];
        for shard in found {
            for (all, hits) in self.lexical.iter_mut().zip(shard.hits) {
                all.extend(hits);
            }
            self.bearers.extend(shard.bearers);
        }
        self.lexical.iter_mut().for_each(|list| best(list, candidates));
    }

    /// Direct scores into `cells`; the seeds with their activation come back.
    pub(super) fn fuse(
        &self,
        recall: &Recall,
        cells: &mut KeyMap<Cell>,
    ) -> Vec<(MemoryKey, Activation)> {
        self.add_searches(cells);
        normalise(cells);
        for mentions in &self.mentions {
            for (key, weight) in name_weights(mentions) {
                cells.entry(key.0).or_default().direct += recipe::NAME_BOOST * weight;
            }
        }
        for key in self.bearers.iter().flatten() {
            if let Some(cell) = cells.get_mut(&key.0).filter(|cell| cell.direct > 0.0) {
                cell.direct += recipe::ATTRIBUTE_BOOST;
            }
        }
        normalise(cells);
        let mut seeds = self.seeds(recall, cells);
        for (key, weight) in &self.id_weights {
            let cell = cells.entry(key.0).or_default();
            (cell.cue, cell.seed) = (true, true);
            let activation = Activation::from_f64(*weight);
            match seeds.iter_mut().find(|(seed, _)| seed == key) {
                Some((_, strongest)) => *strongest = activation.max(*strongest),
                None => seeds.push((*key, activation)),
            }
        }
        seeds
    }

    fn add_searches(&self, cells: &mut KeyMap<Cell>) {
        let both = self.lexical.iter().any(|l| !l.is_empty())
            && self.nearest.iter().any(|l| !l.is_empty());
        let (lexical_share, semantic_share) = match both {
            true => (recipe::LEXICAL_SHARE, 1.0 - recipe::LEXICAL_SHARE),
            false => (1.0, 1.0),
        };
        for (list, weight) in self.lexical.iter().zip(&self.text_weights) {
            let most = list.first().map_or(1.0, |(_, score)| f64::from(*score));
            for (key, score) in list.iter().filter(|(_, score)| *score > 0.0) {
                let scaled = f64::from(*score) / most;
                let cell = cells.entry(key.0).or_default();
                cell.lexical = cell.lexical.max(scaled);
                cell.direct += lexical_share * weight * scaled;
            }
        }
        for (list, weight) in self.nearest.iter().zip(&self.embedding_weights) {
            let first = list.first().map_or(0.0, |(_, score)| f64::from(*score));
            let last = list.last().map_or(0.0, |(_, score)| f64::from(*score));
            let range = first - last;
            for (key, score) in list {
                // A list of equals has no order to tell: all of it is as near as can be.
                let scaled = if range > 1e-6 { (f64::from(*score) - last) / range } else { 1.0 };
                let cell = cells.entry(key.0).or_default();
                cell.semantic = cell.semantic.max(scaled);
                cell.direct += semantic_share * weight * scaled;
            }
        }
    }

    fn seeds(&self, recall: &Recall, cells: &mut KeyMap<Cell>) -> Vec<(MemoryKey, Activation)> {
        let strong = cells.iter().filter(|(_, cell)| cell.direct >= recipe::SEED_THRESHOLD);
        let mut seeds: Vec<(f64, u64)> = strong.map(|(key, cell)| (cell.direct, *key)).collect();
        seeds.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        seeds.truncate(recall.max_seeds as usize);
        for (_, key) in &seeds {
            if let Some(cell) = cells.get_mut(key) {
                cell.seed = true;
            }
        }
        let activation = |direct: f64| Activation::from_f64(direct.min(1.0));
        seeds.into_iter().map(|(direct, key)| (MemoryKey(key), activation(direct))).collect()
    }
}

fn best(list: &mut Ranked, count: usize) {
    list.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    list.truncate(count);
}

fn normalise(cells: &mut KeyMap<Cell>) {
    let most = cells.values().map(|cell| cell.direct).fold(0.0, f64::max);
    if most > 0.0 {
        cells.values_mut().for_each(|cell| cell.direct /= most);
    }
}

/// The bearers of the names that a text mentions, over all shards: the weight of the name divided
/// by the number of namesakes, added up by memory.
pub(crate) fn name_weights(mentions: &[Mention]) -> Vec<(MemoryKey, f64)> {
    let spans: Vec<NameSpan> = mentions.iter().map(|mention| mention.span).collect();
    let mut weights: Vec<(MemoryKey, f64)> = Vec::new();
    for span in names::longest(&spans) {
        let same = || mentions.iter().filter(|mention| mention.span == span);
        let namesakes: u64 = same().map(|mention| u64::from(mention.holder_count)).sum();
        if namesakes > NAME_HOLDERS_MAX as u64 {
            continue;
        }
        for (key, weight) in same().flat_map(|mention| &mention.holders) {
            weights.push((*key, f64::from(*weight) / namesakes as f64));
        }
    }
    weights.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    weights
}
