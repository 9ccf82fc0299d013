//! From what was lit up to the answer: ranks, contents, paths.
//!
//! *Invariants*: the order is score descending, then key ascending; an answer holds no more than
//! was asked for, and says where something was left out.
//!
//! *Not here*: how activation ran (`spread`), the arithmetic of scores (`crate::fuse`).

use std::cmp::Ordering;
use std::sync::Arc;

use crate::fuse;
use crate::key::{MemoryKey, ShardIx};
use crate::life::Outcome;
use crate::mesh::{Ask, Found, Reach, Reply};
use crate::model::{Memory, Tier};
use crate::request::{RecallPhase, RecalledMemory, ScoreBreakdown};

use super::lit::Cell;
use super::{Next, RecallRun, Spare, Touched};

impl RecallRun {
    pub(super) fn rank(mut self: Box<Self>) -> Next {
        let lit = || self.lit.cells().iter().filter(|cell| cell.lit);
        let spread = lit().filter(|cell| !cell.seed);
        self.activation_max = spread.map(|cell| self.preferred(cell)).fold(0.0, f64::max);
        let mut ranked = std::mem::take(&mut self.ranked);
        ranked.reserve(self.lit.cells().len());
        let lit = self.lit.cells().iter().filter(|cell| cell.lit);
        let mut lit_count = 0;
        for cell in lit {
            lit_count += 1;
            if !cell.cue {
                ranked.push((self.score(cell).0, cell.key));
            }
        }
        self.done.visited.memories = lit_count;
        self.ranked = ranked;
        if self.traced {
            let best = self.ranked.iter().map(|(score, _)| *score).fold(1.0, f64::max);
            self.ranked.iter_mut().for_each(|(score, _)| *score /= best);
        }
        self.fetch_more()
    }

    /// Activation of a memory, more where it holds what the seeds lack of the cue.
    fn preferred(&self, cell: &Cell) -> f64 {
        let factor = fuse::residual_factor(cell.residual, self.residual_max, &self.recipe);
        cell.activation.to_f64() * factor
    }

    /// Score of a memory and what of it came along links.
    fn score(&self, cell: &Cell) -> (f64, f64) {
        let activation =
            fuse::scaled_activation(self.preferred(cell), self.activation_max, &self.recipe);
        (fuse::lifted(fuse::score(cell.direct, activation), cell.lift), activation)
    }

    pub(super) fn fetch_more(mut self: Box<Self>) -> Next {
        let wanted = self.recall.top_k - self.done.memories.len();
        let rest = &mut self.ranked[self.ranked_next..];
        if wanted == 0 || rest.is_empty() {
            return self.name_paths();
        }
        // A filter removes some of what is fetched: ask for more, so that one round is enough.
        let spare = if self.recall.filter.is_empty() { 0 } else { wanted };
        let count = (wanted + spare).min(rest.len());
        bring_best_first(rest, count);
        self.fetching = rest[..count].to_vec();
        self.ranked_next += count;
        let keys = self.by_owner(self.fetching.iter().map(|(_, key)| (*key, *key)));
        let filter = Arc::new(self.recall.filter.clone());
        let (space, with) = (&self.space, self.recall.with);
        let asks = (0u16..).map(ShardIx).zip(keys).filter(|(_, keys)| !keys.is_empty());
        let reach = reach_of(&self.recall.tiers);
        let filter = || filter.clone();
        let ask = |keys| Ask::Fetch { space: space.clone(), keys, filter: filter(), with, reach };
        let asks = asks.map(|(shard, keys)| (shard, ask(keys))).collect();
        self.ask(RecallPhase::Fetch, asks)
    }

    pub(super) fn fetched(mut self: Box<Self>, replies: Vec<(ShardIx, Reply)>) -> Next {
        let cold = self.take_fetched(replies);
        if cold.is_empty() || self.expired {
            self.keep_fetched();
            return self.fetch_more();
        }
        let (space, with) = (&self.space, self.recall.with);
        let ask = |key| Ask::FetchCold { space: space.clone(), key, with };
        let asks = cold.into_iter().map(|key| (self.partitioner.owner(key), ask(key))).collect();
        self.ask(RecallPhase::Cold, asks)
    }

    /// Takes what the log had; the keys of what lies in the cold tier.
    pub(super) fn take_fetched(&mut self, replies: Vec<(ShardIx, Reply)>) -> Vec<MemoryKey> {
        let mut cold = Vec::new();
        for (shard, reply) in replies {
            let Reply::Fetched(found) = reply else { unreachable!("contents were asked for") };
            let asked = self.fetching.iter().filter(|(_, k)| self.partitioner.owner(*k) == shard);
            for ((_, key), found) in asked.zip(found) {
                match found {
                    Found::Memory(memory) => drop(self.fetched.insert(key.0, *memory)),
                    Found::Cold => cold.push(*key),
                    Found::Nothing => {}
                    Found::OutOfReach => self.done.truncated = true,
                }
            }
        }
        cold
    }

    pub(super) fn take_cold(&mut self, replies: Vec<(ShardIx, Reply)>) {
        for (_, reply) in replies {
            let Reply::FetchedCold(key, found) = reply else {
                unreachable!("cold contents were asked for")
            };
            match found {
                Found::Memory(memory) => drop(self.fetched.insert(key.0, *memory)),
                Found::Nothing => {}
                Found::Cold | Found::OutOfReach => self.done.truncated = true,
            }
        }
    }

    /// Keeps what was fetched, best first.
    pub(super) fn keep_fetched(&mut self) {
        let mut fetched = std::mem::take(&mut self.fetched);
        for (score, key) in std::mem::take(&mut self.fetching) {
            if self.done.memories.len() == self.recall.top_k {
                break;
            }
            if let Some(memory) = fetched.remove(&key.0) {
                self.keep(score, key, memory);
            }
        }
    }

    fn keep(&mut self, score: f64, key: MemoryKey, memory: Memory) {
        let place = self.lit.meet(key);
        let cell = *self.lit.at(place);
        let (_, activation) = self.score(&cell);
        let hops = if cell.direct >= activation { 0 } else { cell.hop };
        if self.recall.explain || self.recall.reinforce {
            self.paths.wanted(key, hops, &memory.id);
        }
        if self.recall.reinforce {
            self.used.push((key, score));
        }
        let (lexical, semantic) = self.parts.get(place).copied().unwrap_or_default();
        let recency = cell.lift.to_f64();
        let breakdown = ScoreBreakdown { semantic, lexical, activation, recency };
        let path = Vec::new();
        self.done.memories.push(RecalledMemory { memory, score, breakdown, hops, path });
    }

    fn name_paths(mut self: Box<Self>) -> Next {
        let unnamed = if self.recall.explain { self.paths.unnamed() } else { Vec::new() };
        if unnamed.is_empty() {
            return self.finish();
        }
        let keys = self.by_owner(unnamed.into_iter().map(|key| (key, key)));
        let space = &self.space;
        let asks = (0u16..).map(ShardIx).zip(keys).filter(|(_, keys)| !keys.is_empty());
        let ask = |keys| Ask::Names { space: space.clone(), keys };
        let asks = asks.map(|(shard, keys)| (shard, ask(keys))).collect();
        self.stage = RecallPhase::Names;
        self.ask(RecallPhase::Names, asks)
    }

    pub(super) fn finish(mut self: Box<Self>) -> Next {
        if self.recall.explain {
            let paths = self.paths.build(&self.lit);
            for (memory, path) in self.done.memories.iter_mut().zip(paths) {
                memory.path = path;
            }
        }
        let touched = self.recall.reinforce.then(|| Box::new(self.touched()));
        let Self { mut lit, mut ranked, pulses, done, .. } = *self;
        lit.clear();
        ranked.clear();
        Next::Done(Box::new(done), touched, Spare { lit, ranked, pulses })
    }

    /// What came back and how, to be reinforced.
    fn touched(&mut self) -> Touched {
        let used = std::mem::take(&mut self.used);
        let best = used.iter().map(|(_, score)| *score).fold(1e-9, f64::max);
        let outcome = |(key, score): &(MemoryKey, f64)| (*key, fuse::usefulness(*score / best));
        let memories: Vec<(MemoryKey, Outcome)> = used.iter().map(outcome).collect();
        let ways = self.paths.used(&memories);
        Touched { space: self.space.clone(), lived: self.started.lived, memories, ways }
    }
}

/// Up to so many are kept in order while the others pass by: cheaper than to divide all of them.
const KEPT_IN_ORDER_MAX: usize = 32;

/// Brings the best `count` to the front, best first.
fn bring_best_first(ranked: &mut [(f64, MemoryKey)], count: usize) {
    let order = |a: &(f64, MemoryKey), b: &(f64, MemoryKey)| by_rank(*a, *b);
    if count > KEPT_IN_ORDER_MAX && count < ranked.len() {
        ranked.select_nth_unstable_by(count, order);
    }
    ranked[..count].sort_unstable_by(order);
    if count == 0 || count > KEPT_IN_ORDER_MAX {
        return;
    }
    for next in count..ranked.len() {
        let last = count - 1;
        if ranked[next].0 < ranked[last].0 || by_rank(ranked[next], ranked[last]).is_ge() {
            continue;
        }
        ranked.swap(next, last);
        let mut place = last;
        while place > 0 && by_rank(ranked[place], ranked[place - 1]).is_lt() {
            ranked.swap(place, place - 1);
            place -= 1;
        }
    }
}

/// Score descending, then key ascending.
fn by_rank(a: (f64, MemoryKey), b: (f64, MemoryKey)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn reach_of(tiers: &[Tier]) -> Reach {
    let log = tiers.iter().any(|tier| matches!(tier, Tier::Fast | Tier::Warm));
    Reach { log, cold: tiers.contains(&Tier::Cold) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_in_order_and_nothing_is_lost() {
        let mut random = 1_u64;
        let mut draw = |count: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % count
        };
        for length in [1, 2, 9, 40, 300] {
            for count in [1, 2, 10, KEPT_IN_ORDER_MAX, KEPT_IN_ORDER_MAX + 1, 200] {
                // Many are of equal score: then the key decides.
                let one = |key: u64| (draw(20) as f64 / 20.0, MemoryKey(key * 7919 % 1009));
                let mut ranked: Vec<(f64, MemoryKey)> = (0..length).map(one).collect();
                let mut sorted = ranked.clone();
                sorted.sort_by(|a, b| by_rank(*a, *b));
                let count = count.min(ranked.len());
                bring_best_first(&mut ranked, count);
                assert_eq!(ranked[..count], sorted[..count], "{count} of {length}");
                ranked.sort_by(|a, b| by_rank(*a, *b));
                assert_eq!(ranked, sorted, "{count} of {length}");
            }
        }
    }
}
