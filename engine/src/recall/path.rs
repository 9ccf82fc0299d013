//! The strongest path from a seed to each memory that comes back.
//!
//! *Invariants*: of equally strong ways that from the smaller key is taken, so that an explanation
//! is the same however memories are spread over shards.
//!
//! *Not here*: how activation runs (`super`).

use crate::key::{KeyMap, MemoryKey, ShardIx};
use crate::life::Outcome;
use crate::mesh::{Reply, UsedWay, Via};
use crate::model::MemoryId;
use crate::request::PathStep;
use crate::shard::keep_stronger;

use super::SHARED_TERM;
use super::lit::Lit;

/// How activation came to memories, by hop.
#[derive(Default)]
pub(super) struct Paths {
    hops: Vec<KeyMap<Via>>,
    wanted: Vec<(MemoryKey, u8)>,
    names: KeyMap<MemoryId>,
}

impl Paths {
    /// Notes how activation came in a hop, counted from 1.
    pub(super) fn note(&mut self, hop: u8, ways: impl IntoIterator<Item = (MemoryKey, Via)>) {
        let index = usize::from(hop) - 1;
        if self.hops.len() <= index {
            self.hops.resize_with(index + 1, KeyMap::default);
        }
        for (to, via) in ways {
            keep_stronger(&mut self.hops[index], to, via);
        }
    }

    /// A memory that comes back, and in which hop most of its activation came.
    pub(super) fn wanted(&mut self, key: MemoryKey, hops: u8, id: &MemoryId) {
        self.wanted.push((key, hops));
        self.names.insert(key.0, id.clone());
    }

    /// Keys on the paths whose ids are not known yet.
    pub(super) fn unnamed(&self) -> Vec<MemoryKey> {
        let on_paths = self.wanted.iter().flat_map(|(key, hops)| self.way(*key, *hops));
        let mut keys: Vec<MemoryKey> = on_paths.map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| !self.names.contains_key(&key.0));
        keys
    }

    /// Takes the ids of keys.
    pub(super) fn name(&mut self, replies: Vec<(ShardIx, Reply)>) {
        for (_, reply) in replies {
            let Reply::Names(names) = reply else { unreachable!("names were asked for") };
            self.names.extend(names.into_iter().map(|(key, id)| (key.0, id)));
        }
    }

    /// From a seed to `key`: each memory with the way that activation came to it.
    fn way(&self, key: MemoryKey, hops: u8) -> Vec<(MemoryKey, Option<&Via>)> {
        let mut way = Vec::with_capacity(usize::from(hops) + 1);
        let mut at = key;
        for hop in (1..=usize::from(hops)).rev() {
            let Some(via) = self.hops.get(hop - 1).and_then(|vias| vias.get(&at.0)) else { break };
            way.push((at, Some(via)));
            at = via.from;
        }
        way.push((at, None));
        way.reverse();
        way
    }

    /// The links on the paths to all memories that come back: each as useful as the best of these.
    pub(super) fn used(&self, outcomes: &[(MemoryKey, Outcome)]) -> Vec<UsedWay> {
        let mut used: Vec<UsedWay> = Vec::new();
        for ((key, hops), (_, outcome)) in self.wanted.iter().zip(outcomes) {
            let way = self.way(*key, *hops);
            let links = way.iter().filter_map(|(to, via)| via.map(|via| (*to, via)));
            for (to, via) in links.filter(|(_, via)| via.kind.as_str() != SHARED_TERM) {
                let same =
                    |u: &&mut UsedWay| u.from == via.from && u.to == to && u.kind == via.kind;
                match used.iter_mut().find(same) {
                    Some(known) => known.outcome = known.outcome.max(*outcome),
                    None => {
                        let (from, kind, outcome) = (via.from, via.kind.clone(), *outcome);
                        used.push(UsedWay { from, to, kind, outcome });
                    }
                }
            }
        }
        used
    }

    /// The paths of all memories that come back, in their order.
    pub(super) fn build(&self, lit: &Lit) -> Vec<Vec<PathStep>> {
        let build = |(key, hops): &(MemoryKey, u8)| {
            let way = self.way(*key, *hops);
            let steps = way.iter().enumerate().filter_map(|(i, (key, arrived))| {
                let leaving = way.get(i + 1).and_then(|(_, via)| *via);
                let direct = lit.get(*key).map_or(0.0, |cell| cell.direct);
                Some(PathStep {
                    id: self.names.get(&key.0)?.clone(),
                    kind: leaving.map(|via| (*via.kind).clone()),
                    weight: leaving.map_or(0.0, |via| via.weight),
                    activation: arrived.map_or(direct, |via| via.amount.to_f64()),
                    term: leaving.and_then(|via| via.term.as_deref().map(str::to_owned)),
                })
            });
            steps.collect()
        };
        self.wanted.iter().map(build).collect()
    }
}
