//! What the cues found, shard by shard, put together into direct scores and seeds.
//!
//! *Invariants*: lists of several shards are merged by score and key, so that the result is the
//! same however memories are spread over shards.
//!
//! *Not here*: the arithmetic (`crate::fuse`), spreading (`super`), searching (`shard::search`).

use crate::attributes::Attribute;
use crate::fuse::{Candidates, Recipe};
use crate::key::{KeyMap, MemoryKey};
use crate::mesh::{LexicalFound, Mention, Neighbours, Probed};
use crate::names::{self, NAME_HOLDERS_MAX, NameSpan};
use crate::request::{CueKind, Recall};

/// A list of candidates, best first.
type Ranked = Vec<(MemoryKey, f32)>;

/// Hops from cues that are ids alone: there is nothing else to find by them.
const ID_HOPS: u8 = 3;
/// A text of at most so many tokens may be a name and nothing else.
const NAME_ALONE_TOKENS_MAX: usize = names::NAME_TOKENS_MAX;

/// What the cues found so far.
#[derive(Default)]
pub(super) struct Cues {
    text_weights: Vec<f64>,
    text_tokens: Vec<usize>,
    embedding_weights: Vec<f64>,
    ids: Vec<(MemoryKey, f64)>,
    ids_found: Vec<MemoryKey>,
    nearest: Vec<Ranked>,
    lexical: Vec<Ranked>,
    mentions: Vec<Vec<Mention>>,
    attributes: Vec<Attribute>,
    bearers: KeyMap<Vec<Attribute>>,
    neighbours: KeyMap<Vec<(u64, f32)>>,
    /// The numbers that this recall goes by.
    pub recipe: Option<Recipe>,
}

impl Cues {
    /// `ids` are the keys of the id cues, `texts` the text cues in normal form, both in order.
    pub(super) fn new(recall: &Recall, ids: &[MemoryKey], texts: &[String]) -> Self {
        let mut cues = Self::default();
        let mut ids = ids.iter();
        for cue in &recall.cues {
            let weight = f64::from(cue.weight);
            match cue.kind {
                CueKind::Text(_) => cues.text_weights.push(weight),
                CueKind::Embedding(_) => cues.embedding_weights.push(weight),
                CueKind::Id(_) => cues.ids.extend(ids.next().map(|key| (*key, weight))),
            }
        }
        cues.text_tokens = texts.iter().map(|text| text.split(' ').count()).collect();
        cues
    }

    /// How many the searches are to return.
    pub(super) fn candidates(&self, recall: &Recall) -> usize {
        let may_be_name = matches!(self.text_tokens[..], [count] if count <= NAME_ALONE_TOKENS_MAX);
        let recipe = if may_be_name { Recipe::ASSOCIATION } else { Recipe::STATEMENT };
        recall.top_k.max(recipe.candidates)
    }

    /// Takes what each shard found first.
    pub(super) fn probed(&mut self, probes: Vec<Probed>) {
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
            self.ids_found.extend(probe.ids);
            self.add_neighbours(probe.neighbours);
        }
        self.nearest.iter_mut().for_each(sort);
        self.attributes.sort_unstable();
        self.attributes.dedup();
        self.recipe = Some(self.choose_recipe());
    }

    fn choose_recipe(&self) -> Recipe {
        if self.text_weights.is_empty() && self.embedding_weights.is_empty() {
            return Recipe { hops: ID_HOPS, ..Recipe::STATEMENT };
        }
        match (&self.text_tokens[..], &self.mentions[..]) {
            ([tokens], [mentions]) => {
                let spans: Vec<NameSpan> = mentions.iter().map(|mention| mention.span).collect();
                Recipe::of_cue(*tokens, &names::longest(&spans))
            }
            _ => Recipe::STATEMENT,
        }
    }

    fn add_neighbours(&mut self, neighbours: Neighbours) {
        for (of, links) in neighbours {
            let mut links: Vec<(u64, f32)> =
                links.into_iter().map(|(key, weight)| (key.0, weight)).collect();
            // Their scores are added up as floats: in an order that is the same everywhere.
            links.sort_unstable_by_key(|(key, _)| *key);
            self.neighbours.insert(of.0, links);
        }
    }

    /// Attributes that the text cues name.
    pub(super) fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Keys of everything that is a candidate by its vector.
    pub(super) fn nearest_keys(&self) -> Vec<MemoryKey> {
        let mut keys: Vec<MemoryKey> = self.nearest.iter().flatten().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Takes what lexical search found on each shard.
    pub(super) fn lexical(&mut self, found: Vec<LexicalFound>) {
        self.lexical = vec![Vec::new(); self.text_weights.len()];
        for shard in found {
            for (all, hits) in self.lexical.iter_mut().zip(shard.hits) {
                all.extend(hits);
            }
            for (attribute, bearers) in self.attributes.iter().zip(shard.bearers) {
                for bearer in bearers {
                    self.bearers.entry(bearer.0).or_default().push(*attribute);
                }
            }
            self.add_neighbours(shard.neighbours);
        }
        self.lexical.iter_mut().for_each(sort);
    }

    /// Direct scores.
    pub(super) fn fuse(&self, recipe: &Recipe, candidates: usize) -> Candidates<u64> {
        let lexical = together(&self.lexical, &self.text_weights, candidates);
        let semantic = together(&self.nearest, &self.embedding_weights, candidates);
        let mut fused = Candidates::fused(&lexical, &semantic, recipe);
        for mentions in &self.mentions {
            for named in named(mentions) {
                fused.add_named(named.key.0, named.weight, named.namesakes, recipe);
            }
        }
        let none: &[Attribute] = &[];
        let bearers = |key: u64| self.bearers.get(&key).map_or(none, Vec::as_slice);
        fused.add_attributes(&self.attributes, bearers, recipe);
        fused.scale();
        let alone: &[(u64, f32)] = &[];
        fused.add_context(|key| self.neighbours.get(&key).map_or(alone, Vec::as_slice), recipe);
        fused
    }

    /// The id cues that exist, with their weights.
    pub(super) fn ids(&self) -> impl Iterator<Item = (MemoryKey, f64)> + '_ {
        self.ids.iter().filter(|(key, _)| self.ids_found.contains(key)).copied()
    }
}

fn sort(list: &mut Ranked) {
    list.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

/// The lists of several cues of one kind as one: that of a single cue as it is, of several the
/// weighted sum of what each found, scaled by its best.
fn together(lists: &[Ranked], weights: &[f64], count: usize) -> Vec<(u64, f32)> {
    if let [list] = lists {
        return list.iter().take(count).map(|(key, score)| (key.0, *score)).collect();
    }
    let mut sums: KeyMap<f64> = KeyMap::default();
    for (list, weight) in lists.iter().zip(weights) {
        let list = &list[..list.len().min(count)];
        let (best, last) = match (list.first(), list.last()) {
            (Some(best), Some(last)) => (f64::from(best.1), f64::from(last.1)),
            _ => continue,
        };
        // Similarities may be negative: the worst of a list counts as nothing then.
        let floor = last.min(0.0);
        for (key, score) in list {
            let scaled = (f64::from(*score) - floor) / (best - floor).max(1e-6);
            *sums.entry(key.0).or_insert(0.0) += weight * scaled;
        }
    }
    let mut summed: Vec<(u64, f32)> =
        sums.into_iter().map(|(key, sum)| (key, sum as f32)).collect();
    summed.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    summed.truncate(count);
    summed
}

/// A memory that a text names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Named {
    /// Which.
    pub key: MemoryKey,
    /// Weight of the name for it.
    pub weight: f32,
    /// How many memories bear the name, over all shards.
    pub namesakes: u64,
}

/// The memories that a text names, over all shards, in the order of the names' places and keys.
pub(crate) fn named(mentions: &[Mention]) -> Vec<Named> {
    let spans: Vec<NameSpan> = mentions.iter().map(|mention| mention.span).collect();
    let mut found = Vec::new();
    for span in names::longest(&spans) {
        let same = || mentions.iter().filter(|mention| mention.span == span);
        let namesakes: u64 = same().map(|mention| u64::from(mention.holder_count)).sum();
        if namesakes > NAME_HOLDERS_MAX as u64 {
            continue;
        }
        let from = found.len();
        let holders = same().flat_map(|mention| &mention.holders);
        found.extend(holders.map(|(key, weight)| Named { key: *key, weight: *weight, namesakes }));
        found[from..].sort_unstable_by_key(|named| named.key);
    }
    found
}
