//! Activation along links, hop by hop, and over shared terms.
//!
//! *Invariants*: a hop begins when all shards have answered for the one before; what activation a
//! memory gets is added up as integers, so that the order of answers changes nothing; a budget that
//! ends the spreading early is said.
//!
//! *Not here*: which links a shard follows (`shard::search`), scores (`answer`).

use std::sync::Arc;

use crate::fixed::Activation;
use crate::fuse;
use crate::key::{MemoryKey, ShardIx};
use crate::limits;
use crate::mesh::{Ask, HopAsk, Hopped, Pulse, Reply, ScoreAsk, Source, TermMembers, Via};
use crate::model::{LinkKind, Timestamp};
use crate::request::RecallPhase;
use crate::terms::SharedTermKey;

use super::lit::Cell;
use super::{Next, RecallRun, SHARED_TERM, recipe};

/// Terms of a cue of which it is known whether a seed holds them.
const HELD_TERMS_MAX: usize = 64;
/// Pulses between the one that arrives and the one whose memory is asked for ahead.
const PULSES_AHEAD: usize = 12;

impl RecallRun {
    pub(super) fn next_hop(mut self: Box<Self>, now: Timestamp) -> Next {
        let hops = self.recall.max_hops.unwrap_or(self.recipe.hops);
        if self.hop >= hops || self.sources.is_empty() {
            return self.score_residual();
        }
        let links_left = limits::LINKS_PER_RECALL_MAX.saturating_sub(self.done.visited.links);
        if now >= self.deadline() || links_left == 0 {
            self.done.truncated = true;
            return self.rank();
        }
        self.hop += 1;
        self.reached.clear();
        self.source_terms.clear();
        let held = self.weighed.iter().map(|(term, _)| *term);
        let held = if self.hop == 1 { held.take(HELD_TERMS_MAX).collect() } else { Vec::new() };
        let kinds = self.recall.link_kinds.clone();
        let terms = self.hop == 1 && follows_terms(kinds.as_deref());
        let ask = Arc::new(HopAsk {
            space: self.space.clone(),
            kinds,
            fan_out: self.recall.fan_out,
            budget: links_left,
            explain: self.recall.explain || self.recall.reinforce,
            terms,
            held,
            lived: self.started.lived,
        });
        let sources = self.by_owner(self.sources.iter().map(|s| (s.key, *s)));
        let asks = (0u16..).map(ShardIx).zip(sources).filter(|(_, s)| !s.is_empty());
        let asks = asks.map(|(shard, sources)| (shard, Ask::Hop(ask.clone(), sources))).collect();
        self.ask(RecallPhase::Hop, asks)
    }

    pub(super) fn hopped(
        mut self: Box<Self>,
        replies: Vec<(ShardIx, Reply)>,
        now: Timestamp,
    ) -> Next {
        for (shard, reply) in replies {
            let Reply::Hopped(hopped) = reply else { unreachable!("a hop was asked for") };
            self.take_part(shard, *hopped);
        }
        let mut terms: Vec<SharedTermKey> =
            self.source_terms.iter().flat_map(|(_, terms)| terms).copied().collect();
        if terms.is_empty() {
            return self.end_hop(now);
        }
        terms.sort_unstable();
        terms.dedup();
        self.terms = Arc::new(terms);
        let (space, terms, explain) = (&self.space, &self.terms, self.recall.explain);
        let ask = || Ask::Terms { space: space.clone(), terms: terms.clone(), explain };
        let asks = self.everyone(ask);
        self.ask(RecallPhase::Terms, asks)
    }

    /// Takes what a shard says of the hop under way, or a part of it.
    pub fn take_part(&mut self, from: ShardIx, hopped: Hopped) {
        self.done.visited.links += hopped.links;
        self.done.truncated |= hopped.truncated;
        self.held |= hopped.held;
        self.arrive(from, &hopped.pulses);
        let keys = hopped.pulses.iter().map(|pulse| pulse.key);
        self.paths.note(self.hop, keys.zip(hopped.via));
        self.source_terms.extend(hopped.terms);
        self.pulses.push(hopped.pulses);
    }

    /// Adds the pulses of a shard up by target.
    fn arrive(&mut self, from: ShardIx, pulses: &[Pulse]) {
        self.lit.reserve(pulses.len());
        let is_alone = self.partitioner.shards() == 1;
        for (at, pulse) in pulses.iter().enumerate() {
            if let Some(later) = pulses.get(at + PULSES_AHEAD) {
                self.lit.prefetch(later.key);
            }
            let place = self.lit.meet(pulse.key);
            let cell = self.lit.at(place);
            if cell.arriving == Activation::ZERO {
                self.reached.push(place as u32);
            }
            cell.arriving = cell.arriving.plus(pulse.amount);
            if is_alone || self.partitioner.owner(pulse.key) == from {
                cell.node = pulse.node;
            }
        }
    }

    /// Activation over shared terms: from each source to the other memories that hold the term.
    pub(super) fn terms_known(&mut self, replies: Vec<(ShardIx, Reply)>) {
        let mut rows: Vec<TermMembers> = vec![TermMembers::default(); self.terms.len()];
        for (_, reply) in replies {
            let Reply::Terms(members) = reply else { unreachable!("terms were asked for") };
            for (sum, row) in rows.iter_mut().zip(members) {
                sum.count += row.count;
                sum.keys.extend(row.keys);
                sum.display = sum.display.take().or(row.display);
            }
        }
        let weights: Vec<Option<f64>> =
            rows.iter().map(|row| recipe::term_weight(row.count, self.memories)).collect();
        let kind = Arc::new(LinkKind::new(SHARED_TERM).expect("a valid kind"));
        for (source, terms) in std::mem::take(&mut self.source_terms) {
            let at = |term: &SharedTermKey| self.terms.binary_search(term).expect("of the same");
            let counting = terms.iter().map(at).filter_map(|at| weights[at].map(|w| (at, w)));
            let mut counting: Vec<(usize, f64)> = counting.collect();
            counting.sort_unstable_by_key(|(at, _)| *at);
            let total: f64 = counting.iter().map(|(_, weight)| weight).sum();
            let sent = self.sources.iter().find(|s| s.key == source);
            let amount = sent.map_or(0.0, |s| s.activation.to_f64());
            for (at, weight) in counting {
                let row = &rows[at];
                let share = weight / total.powf(recipe::TERM_EXPONENT) / row.count as f64;
                let pulse = Activation::from_f64(self.recipe.shared * amount * share);
                self.done.visited.links += row.keys.len() as u64;
                for key in row.keys.iter().filter(|k| **k != source) {
                    let place = self.lit.meet(*key);
                    let cell = self.lit.at(place);
                    if cell.seed {
                        continue;
                    }
                    if cell.arriving == Activation::ZERO {
                        self.reached.push(place as u32);
                    }
                    cell.arriving = cell.arriving.plus(pulse);
                    if self.recall.explain || self.recall.reinforce {
                        let term = row.display.clone();
                        let kind = kind.clone();
                        let via = Via { from: source, kind, weight: share, amount: pulse, term };
                        self.paths.note(self.hop, [(*key, via)]);
                    }
                }
            }
        }
    }

    pub(super) fn end_hop(mut self: Box<Self>, now: Timestamp) -> Next {
        let decay = Activation::from_f64(f64::from(self.recall.decay));
        let threshold = Activation::from_f64(f64::from(self.recall.min_activation));
        let last = self.hop >= self.recall.max_hops.unwrap_or(self.recipe.hops);
        self.sources.clear();
        for place in &self.reached {
            let cell = self.lit.at(*place as usize);
            let arrived = std::mem::take(&mut cell.arriving);
            let amount = if self.hop == 1 { arrived } else { arrived.times(decay) };
            if amount < threshold || amount == Activation::ZERO {
                continue;
            }
            cell.lit = true;
            cell.activation = cell.activation.plus(amount);
            if amount > cell.strongest {
                (cell.strongest, cell.hop) = (amount, self.hop);
            }
            if !last {
                self.sources.push(Source { key: cell.key, activation: amount, node: cell.node });
            }
        }
        if last {
            return self.score_residual();
        }
        let links_left = limits::LINKS_PER_RECALL_MAX.saturating_sub(self.done.visited.links);
        if self.sources.len() as u64 * u64::from(self.recall.fan_out) > links_left {
            // The budget of links cuts at the weakest, in an order that no shard count changes.
            self.sources.sort_unstable_by_key(|s| (std::cmp::Reverse(s.activation), s.key));
        }
        self.next_hop(now)
    }

    /// Asks how much of what the seeds lack of the cue is in what was lit up, and, where anything
    /// was ever reinforced, what use did to all that may come back.
    pub(super) fn score_residual(self: Box<Self>) -> Next {
        let residual = fuse::residual_terms(&self.weighed, &[self.held]);
        if residual.is_empty() && !self.traced {
            return self.rank();
        }
        let wanted = |cell: &&Cell| self.traced || cell.activation > Activation::ZERO;
        let lit = self.lit.cells().iter().filter(|cell| cell.lit).filter(wanted);
        let lit: Vec<MemoryKey> = lit.map(|cell| cell.key).collect();
        if lit.is_empty() {
            return self.rank();
        }
        let ask = Arc::new(ScoreAsk {
            space: self.space.clone(),
            terms: residual,
            average_length: self.average_length,
            lived: self.started.lived,
        });
        let keys = self.by_owner(lit.into_iter().map(|key| (key, key)));
        let mut run = self;
        run.scoring = keys;
        let asks = (0u16..).map(ShardIx).zip(&run.scoring).filter(|(_, keys)| !keys.is_empty());
        let asks = asks.map(|(shard, keys)| (shard, Ask::Score(ask.clone(), keys.clone())));
        let asks = asks.collect();
        run.ask(RecallPhase::Score, asks)
    }

    pub(super) fn scored(&mut self, replies: Vec<(ShardIx, Reply)>) {
        for (shard, reply) in replies {
            let Reply::Scored { scores, lifts } = reply else {
                unreachable!("scores were asked for")
            };
            for (key, lift) in lifts {
                let place = self.lit.meet(key);
                self.lit.at(place).lift = lift;
            }
            for (key, score) in self.scoring[shard.index()].iter().zip(scores) {
                let place = self.lit.meet(*key);
                let cell = self.lit.at(place);
                cell.residual = score;
                if !cell.seed && cell.activation > Activation::ZERO {
                    self.residual_max = self.residual_max.max(score);
                }
            }
        }
    }
}

fn follows_terms(kinds: Option<&[LinkKind]>) -> bool {
    kinds.is_none_or(|kinds| kinds.iter().any(|k| k.as_str() == SHARED_TERM))
}
