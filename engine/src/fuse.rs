//! The arithmetic of a recall: from lists of hits to seeds, and from activation to scores.
//!
//! *Invariants*: every function is pure and sums in the order of the candidates' keys, so that
//! neither the number of shards nor the order of their answers changes a bit; ties go to the lower
//! key.
//!
//! *Not here*: who asks whom (the coordinator), activation along links in fixed point (the graph).
//! The measurements behind the numbers: `docs/decisions/2026-11-24-recall-recipe.md`.

use crate::attributes::{Attribute, AttributeKind};
use crate::life::{Lift, Outcome};
use crate::names::NameSpan;
use crate::text::TermKey;

/// The numbers of the recipe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Best hits taken of the lexical and of the vector search each.
    pub candidates: usize,
    /// Share of the lexical score in a direct hit; the rest is the vector's.
    pub lexical: f64,
    /// What a name found in the cue adds to its memory.
    pub name: f64,
    /// A name's weight is divided among the memories that have it.
    pub name_divided: bool,
    /// What an attribute named in the cue adds to a candidate.
    pub attribute: f64,
    /// What the neighbours of a candidate in its sequence add to it.
    pub context: f64,
    /// Direct hits from this on are seeds.
    pub threshold: f64,
    /// Most seeds.
    pub seeds: usize,
    /// Exponent of the fan-out: activation over a link is weight / (sum of weights)^exponent.
    pub fan_out_exponent: f64,
    /// Weight of activation over shared terms beside that over links.
    pub shared: f64,
    /// How much a memory that also holds what the seeds lack of the cue is preferred.
    pub residual: f64,
    /// Largest score that activation alone gives.
    pub spread: f64,
    /// Hops.
    pub hops: u8,
}

impl Recipe {
    /// For cues that say something: the measured best on passages and dialogues.
    pub const STATEMENT: Self = Self {
        candidates: 100,
        lexical: 0.6,
        name: 0.8,
        name_divided: true,
        attribute: 0.2,
        context: 0.1,
        threshold: 0.7,
        seeds: 5,
        fan_out_exponent: 0.6,
        shared: 0.5,
        residual: 3.0,
        spread: 0.6,
        hops: 1,
    };

    /// For a cue that is nothing but a name: what it brings to mind, not where it is written.
    pub const ASSOCIATION: Self = Self {
        candidates: 300,
        lexical: 0.0,
        name_divided: false,
        threshold: 0.6,
        seeds: 10,
        residual: 0.0,
        hops: 2,
        ..Self::STATEMENT
    };

    /// The recipe for a text of `token_count` tokens in normal form that mentions `names`.
    pub fn of_cue(token_count: usize, names: &[NameSpan]) -> Self {
        match names {
            [only] if usize::from(only.token_count) == token_count => Self::ASSOCIATION,
            _ => Self::STATEMENT,
        }
    }
}

/// A memory that the cue hit directly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<K> {
    /// Identity of the memory over all shards; also the order among equals.
    pub key: K,
    /// Similarity scaled over the candidates, 0 to 1.
    pub semantic: f64,
    /// BM25 scaled over the candidates, 0 to 1.
    pub lexical: f64,
    /// H: how directly the cue means it; the best one has 1 after [`Candidates::scale`].
    pub direct: f64,
}

/// The candidates of one recall, in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct Candidates<K> {
    list: Vec<Candidate<K>>,
}

impl<K: Copy + Ord> Candidates<K> {
    /// Fuses the best lexical hits (BM25) and the best vector hits (similarity), each best first
    /// and already cut to [`Recipe::candidates`].
    pub fn fused(lexical: &[(K, f32)], semantic: &[(K, f32)], recipe: &Recipe) -> Self {
        let mut candidates = Self { list: Vec::with_capacity(lexical.len() + semantic.len()) };
        let share = if semantic.is_empty() { 1.0 } else { recipe.lexical };
        if share > 0.0
            && let Some(&(_, best)) = lexical.first()
        {
            for &(key, score) in lexical.iter().filter(|&&(_, score)| score > 0.0) {
                let part = f64::from(score) / f64::from(best);
                candidates.list.push(Candidate {
                    key,
                    semantic: 0.0,
                    lexical: part,
                    direct: share * part,
                });
            }
        }
        candidates.list.sort_unstable_by_key(|candidate| candidate.key);
        if let (Some(&(_, best)), Some(&(_, last))) = (semantic.first(), semantic.last()) {
            let range = (f64::from(best) - f64::from(last)).max(1e-6);
            let (lone, lexical_count) = (semantic.len() == 1, candidates.list.len());
            for &(key, score) in semantic {
                let part = if lone { 1.0 } else { (f64::from(score) - f64::from(last)) / range };
                let direct = (1.0 - share.min(1.0)) * part;
                let known = &mut candidates.list[..lexical_count];
                match known.binary_search_by_key(&key, |candidate| candidate.key) {
                    Ok(at) => {
                        known[at].semantic = part;
                        known[at].direct += direct;
                    }
                    Err(_) => {
                        candidates.list.push(Candidate {
                            key,
                            semantic: part,
                            lexical: 0.0,
                            direct,
                        });
                    }
                }
            }
            candidates.list.sort_unstable_by_key(|candidate| candidate.key);
        }
        candidates.scale();
        candidates
    }

    /// The candidate of `key`, made where there is none.
    fn entry(&mut self, key: K) -> &mut Candidate<K> {
        let at = match self.list.binary_search_by_key(&key, |candidate| candidate.key) {
            Ok(at) => at,
            Err(at) => {
                let fresh = Candidate { key, semantic: 0.0, lexical: 0.0, direct: 0.0 };
                self.list.insert(at, fresh);
                at
            }
        };
        &mut self.list[at]
    }

    /// Divides by the largest direct hit, so that the best one has 1.
    pub fn scale(&mut self) {
        let best = self.list.iter().map(|candidate| candidate.direct).fold(0.0, f64::max);
        if best > 0.0 {
            self.list.iter_mut().for_each(|candidate| candidate.direct /= best);
        }
    }

    /// Adds the memories that a name in the cue means: each name with the number of memories that
    /// have it over all shards. Call [`Self::scale`] after names and attributes.
    pub fn add_named(&mut self, key: K, weight: f32, namesakes: u64, recipe: &Recipe) {
        let divisor = if recipe.name_divided { namesakes.max(1) as f64 } else { 1.0 };
        self.entry(key).direct += recipe.name * f64::from(weight) / divisor;
    }

    /// Raises candidates that have an attribute which the cue names; among several named ones of
    /// one kind the gain is divided. `of` gives a candidate's attributes.
    pub fn add_attributes<'a>(
        &mut self,
        named: &[Attribute],
        of: impl Fn(K) -> &'a [Attribute],
        recipe: &Recipe,
    ) {
        let count = |kind: AttributeKind| named.iter().filter(|other| other.kind == kind).count();
        for candidate in self.list.iter_mut().filter(|candidate| candidate.direct > 0.0) {
            let held = of(candidate.key);
            for attribute in named.iter().filter(|attribute| held.contains(attribute)) {
                candidate.direct += recipe.attribute / count(attribute.kind) as f64;
            }
        }
    }

    /// Raises candidates whose neighbours in their sequence are candidates too, and scales. `of`
    /// gives a candidate's sequence links: (neighbour, weight).
    pub fn add_context<'a>(&mut self, of: impl Fn(K) -> &'a [(K, f32)], recipe: &Recipe)
    where
        K: 'a,
    {
        let direct = |key: K| {
            let at = self.list.binary_search_by_key(&key, |candidate| candidate.key).ok()?;
            Some(self.list[at].direct.min(1.0))
        };
        let gain = |candidate: &Candidate<K>| -> f64 {
            let of = of(candidate.key).iter();
            of.filter_map(|&(key, weight)| Some(f64::from(weight) * direct(key)?)).sum()
        };
        let gains: Vec<f64> = self.list.iter().map(gain).collect();
        for (candidate, gain) in self.list.iter_mut().zip(gains) {
            if candidate.direct > 0.0 {
                candidate.direct += recipe.context * gain;
            }
        }
        self.scale();
    }

    /// The candidates in the order of their keys.
    pub fn list(&self) -> &[Candidate<K>] {
        &self.list
    }

    /// The seeds and their activation, best first: at most `seeds_max` and [`Recipe::seeds`].
    pub fn seeds(&self, seeds_max: usize, recipe: &Recipe) -> Vec<(K, f64)> {
        let mut seeds: Vec<(K, f64)> = self
            .list
            .iter()
            .filter(|candidate| candidate.direct >= recipe.threshold)
            .map(|candidate| (candidate.key, candidate.direct.min(1.0)))
            .collect();
        seeds.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        seeds.truncate(recipe.seeds.min(seeds_max));
        seeds
    }
}

/// What of the cue no seed holds: `held` gives for each seed a bit for each of the first 64 terms
/// of the cue (`TextIndex::held_terms`). Later terms count as held.
pub fn residual_terms(terms: &[(TermKey, f32)], held: &[u64]) -> Vec<(TermKey, f32)> {
    let all_held = held.iter().fold(0, |all, held| all | held);
    let lacking = |at: usize| at < 64 && all_held & (1 << at) == 0;
    terms.iter().enumerate().filter(|&(at, _)| lacking(at)).map(|(_, &term)| term).collect()
}

/// The factor on the activation of a memory that the seeds light up: `score` is its BM25 for the
/// residual terms, `best` the largest such score among those that are lit and no seeds.
pub fn residual_factor(score: f32, best: f32, recipe: &Recipe) -> f64 {
    if best > 0.0 { 1.0 + recipe.residual * f64::from(score) / f64::from(best) } else { 1.0 }
}

/// Activation scaled to a score: `largest` is the largest activation among those that are no seeds.
pub fn scaled_activation(activation: f64, largest: f64, recipe: &Recipe) -> f64 {
    if largest > 0.0 { (recipe.spread * activation / largest).clamp(0.0, 1.0) } else { 0.0 }
}

/// The score of a memory: a direct hit and activation as independent reasons (noisy-or).
pub fn score(direct: f64, activation: f64) -> f64 {
    1.0 - (1.0 - direct.clamp(0.0, 1.0)) * (1.0 - activation.clamp(0.0, 1.0))
}

/// The most that use adds to a score; bad outcomes take half of it at most.
const LIFT_SHARE: f64 = 0.1;

/// A score with what use does to it. What was never used keeps its score.
pub fn lifted(score: f64, lift: Lift) -> f64 {
    score * (1.0 + LIFT_SHARE * lift.to_f64())
}

/// What an answer counts whose use nobody has confirmed.
const BLIND_SHARE: f64 = 0.25;

/// How useful an answer was to a client that only says that it wants its answers reinforced: by its
/// score as a share of the best. The first counts a quarter of a confirmed use, and the others steeply less, since what
/// comes along with many answers is not what they were about.
pub fn usefulness(share: f64) -> Outcome {
    Outcome::new(BLIND_SHARE * share.powi(8))
}
