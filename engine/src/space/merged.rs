//! Memories that were merged into others, and automatic links that were pruned.
//!
//! *Invariants*: a memory that was merged keeps its record, its links and what use has left on it,
//! and stands in no index; it comes back as it was when what it was merged into is changed or
//! forgotten. Nothing is merged into what is merged itself.
//!
//! *Not here*: which memories are merged (`shard::consolidate`).

use crate::graph::EdgeName;
use crate::key::{KeyMap, MemoryKey};
use crate::life::run::RunId;
use crate::mesh::{AutomaticKind, Tell};
use crate::model::{MemoryId, Timestamp};
use crate::node::NodeIx;

use super::{Entry, Space, Surroundings};

/// Which memory another one is merged into, and what it was when that was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Into {
    /// Which.
    pub key: MemoryKey,
    /// Its id.
    pub id: MemoryId,
    /// When it was last written.
    pub version: Timestamp,
}

/// A memory of this shard that was merged into another.
#[derive(Clone, Debug)]
pub struct Absorbed {
    /// It.
    pub entry: Box<Entry>,
    /// The other.
    pub into: Into,
    /// By which run.
    pub run: RunId,
    /// Its record is being read, to bring it back.
    pub returning: bool,
}

/// A link that is not made, since it was pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunedLink {
    /// Where it led.
    pub to: MemoryKey,
    /// Its kind.
    pub kind: AutomaticKind,
    /// By which run.
    pub run: RunId,
}

/// What consolidation has done in one space on one shard.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// Memories of this shard that were merged into others.
    pub(super) absorbed: KeyMap<Absorbed>,
    /// What was merged into memories of this shard.
    pub(super) sources: KeyMap<Vec<(MemoryKey, MemoryId)>>,
    /// What memories of other shards, to which this one links, were merged into.
    pub(super) elsewhere: KeyMap<MemoryKey>,
    /// Links that are not made, by their source.
    pub(super) pruned: KeyMap<Vec<PrunedLink>>,
}

impl Merged {
    /// Memories of this shard that were merged into others.
    pub fn absorbed(&self) -> &KeyMap<Absorbed> {
        &self.absorbed
    }

    /// A memory of this shard that was merged into another.
    pub fn absorbed_one(&self, key: MemoryKey) -> Option<&Absorbed> {
        if self.absorbed.is_empty() { None } else { self.absorbed.get(&key.0) }
    }

    /// What was merged into a memory of this shard.
    pub fn sources(&self, key: MemoryKey) -> &[(MemoryKey, MemoryId)] {
        if self.sources.is_empty() {
            return &[];
        }
        self.sources.get(&key.0).map_or(&[], Vec::as_slice)
    }

    /// Where activation goes that led to a memory which was merged.
    pub fn alias(&self, key: MemoryKey) -> Option<MemoryKey> {
        if let Some(absorbed) = self.absorbed_one(key) {
            return Some(absorbed.into.key);
        }
        if self.elsewhere.is_empty() { None } else { self.elsewhere.get(&key.0).copied() }
    }

    /// Nothing leads anywhere else than it says.
    pub fn has_no_aliases(&self) -> bool {
        self.absorbed.is_empty() && self.elsewhere.is_empty()
    }

    /// Whether a link was pruned.
    pub fn is_pruned(&self, from: MemoryKey, to: MemoryKey, kind: AutomaticKind) -> bool {
        !self.pruned.is_empty()
            && self
                .pruned
                .get(&from.0)
                .is_some_and(|links| links.iter().any(|l| l.to == to && l.kind == kind))
    }

    /// Whether a link was pruned by this run.
    pub fn is_pruned_by(
        &self,
        run: RunId,
        from: MemoryKey,
        to: MemoryKey,
        kind: AutomaticKind,
    ) -> bool {
        let links = self.pruned.get(&from.0).map_or(&[][..], Vec::as_slice);
        links.contains(&PrunedLink { to, kind, run })
    }

    /// Notes that a memory of another shard was merged, or that it was not.
    pub fn set_elsewhere(&mut self, key: MemoryKey, into: Option<MemoryKey>) {
        match into {
            Some(into) => drop(self.elsewhere.insert(key.0, into)),
            None => drop(self.elsewhere.remove(&key.0)),
        }
    }

    /// The record of a merged memory is being read; false where it is already, or was not merged.
    pub fn start_return(&mut self, key: MemoryKey) -> bool {
        let absorbed = self.absorbed.get_mut(&key.0);
        absorbed.is_some_and(|absorbed| !std::mem::replace(&mut absorbed.returning, true))
    }

    /// It could not be read.
    pub fn stop_return(&mut self, key: MemoryKey) {
        if let Some(absorbed) = self.absorbed.get_mut(&key.0) {
            absorbed.returning = false;
        }
    }

    /// Keys of what a run merged, in order, at most so many.
    pub fn of_run(&self, run: RunId, limit: usize) -> Vec<MemoryKey> {
        let of_run = self.absorbed.iter().filter(|(_, a)| a.run == run && !a.returning);
        let mut keys: Vec<MemoryKey> = of_run.map(|(key, _)| MemoryKey(*key)).collect();
        keys.sort_unstable();
        keys.truncate(limit);
        keys
    }

    /// Takes back what a run pruned; the sources of the links.
    pub fn unprune(&mut self, run: RunId) -> Vec<MemoryKey> {
        let mut sources = Vec::new();
        self.pruned.retain(|from, links| {
            let before = links.len();
            links.retain(|link| link.run != run);
            if links.len() < before {
                sources.push(MemoryKey(*from));
            }
            !links.is_empty()
        });
        sources.sort_unstable();
        sources
    }

    /// How many links of which memories a run pruned.
    pub fn pruned_by(&self, run: RunId) -> impl Iterator<Item = (MemoryKey, u32)> + '_ {
        self.pruned.iter().filter_map(move |(from, links)| {
            let count = links.iter().filter(|link| link.run == run).count();
            let count = u32::try_from(count).expect("a memory has a bounded number of links");
            (count > 0).then_some((MemoryKey(*from), count))
        })
    }

    /// The links of a memory may all be made again: it has another content, or is gone.
    pub(super) fn forget_pruned(&mut self, from: MemoryKey) {
        if !self.pruned.is_empty() {
            self.pruned.remove(&from.0);
        }
    }

    /// How many links are not made.
    pub fn pruned_count(&self) -> u64 {
        self.pruned.values().map(|links| links.len() as u64).sum()
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> u64 {
        let absorbed = self.absorbed.capacity() * (size_of::<(u64, Absorbed)>() + 1)
            + self.absorbed.len() * size_of::<Entry>();
        let lists = self.sources.capacity() * (size_of::<(u64, Vec<(MemoryKey, MemoryId)>)>() + 1)
            + self.sources.values().map(|s| s.capacity() * 24).sum::<usize>();
        let pruned = self.pruned.capacity() * 33
            + self.pruned.values().map(|p| p.capacity() * size_of::<PrunedLink>()).sum::<usize>();
        (absorbed + lists + pruned + self.elsewhere.capacity() * 17) as u64
    }
}

impl Space {
    /// Merges a memory of this shard into another: it leaves every index and keeps its record.
    pub fn absorb(&mut self, node: NodeIx, into: Into, run: RunId, s: &mut Surroundings<'_>) {
        let key = self.graph.key(node);
        let entry = self.entries[node.index()].clone().expect("only what exists is merged");
        assert!(self.merged.sources(key).is_empty(), "nothing is merged into what is merged");
        self.tell_linkers(node, s, |key| Tell::Merged { key, into: into.key });
        self.unindex(node, s);
        let automatic = self.graph.outward(node).iter().filter(|edge| edge.is_automatic());
        for edge in automatic.copied().collect::<Vec<_>>() {
            let name = EdgeName { kind: edge.kind(), automatic: true };
            self.remove_edge(node, edge.node, name, s);
        }
        self.memories -= 1;
        self.graph.set_exists(node, false);
        let of = (key, entry.id.clone());
        self.foreign_ids.insert(key.0, entry.id.clone());
        self.graph.release(node);
        if self.graph.find(key).is_none() {
            self.foreign_ids.remove(&key.0);
        }
        let tell = Tell::Absorbed { of: of.0, id: of.1, into: into.key, version: into.version };
        s.tell_owner(into.key, tell);
        let absorbed = Absorbed { entry, into, run, returning: false };
        self.merged.absorbed.insert(key.0, absorbed);
    }

    /// Takes the mark off a memory that was merged: it is written anew, or gone.
    pub(super) fn release_absorbed(
        &mut self,
        key: MemoryKey,
        s: &mut Surroundings<'_>,
    ) -> Option<Absorbed> {
        if self.merged.absorbed.is_empty() {
            return None;
        }
        let absorbed = self.merged.absorbed.remove(&key.0)?;
        s.tell_owner(absorbed.into.key, Tell::Released { of: key, into: absorbed.into.key });
        Some(absorbed)
    }

    /// Forgets a memory that was merged; false where there is none.
    pub fn delete_absorbed(
        &mut self,
        key: MemoryKey,
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) -> bool {
        if self.release_absorbed(key, s).is_none() {
            return false;
        }
        let Some(node) = self.graph.find(key) else { return true };
        // As any other memory goes: its links go with it.
        self.tell_gone(node, at, s);
        self.remove_all_out(node, s);
        self.traces.forget(key);
        self.deleted_at.insert(key.0, at);
        self.drop_links_to(node, |_, _| true);
        self.foreign_ids.remove(&key.0);
        self.graph.release(node);
        true
    }

    /// Another memory was merged into one of this shard: it comes back if that one is gone or
    /// another one by now.
    pub fn note_source(
        &mut self,
        (of, id): (MemoryKey, MemoryId),
        into: MemoryKey,
        version: Timestamp,
        s: &mut Surroundings<'_>,
    ) {
        let node = self.graph.find(into).filter(|n| self.graph.is_memory(*n));
        let entry = node.and_then(|n| self.entries[n.index()].as_deref());
        if entry.is_none_or(|entry| entry.updated_at != version) {
            return s.tell_owner(of, Tell::Return { key: of });
        }
        let sources = self.merged.sources.entry(into.0).or_default();
        if !sources.iter().any(|(key, _)| *key == of) {
            sources.push((of, id));
            sources.sort_unstable();
        }
    }

    /// A memory is no longer merged into one of this shard.
    pub fn drop_source(&mut self, of: MemoryKey, into: MemoryKey) {
        let Some(sources) = self.merged.sources.get_mut(&into.0) else { return };
        sources.retain(|(key, _)| *key != of);
        if sources.is_empty() {
            self.merged.sources.remove(&into.0);
        }
    }

    /// A memory changes or goes: what was merged into it comes back.
    pub(super) fn return_sources(&mut self, of: MemoryKey, s: &mut Surroundings<'_>) {
        if self.merged.sources.is_empty() {
            return;
        }
        for (key, _) in self.merged.sources.remove(&of.0).unwrap_or_default() {
            s.tell_owner(key, Tell::Return { key });
        }
    }

    /// A memory of another shard, to which this one linked, was merged into a third.
    pub fn merged_elsewhere(&mut self, key: MemoryKey, into: MemoryKey) {
        if let Some(node) = self.graph.find(key).filter(|node| !self.graph.is_unheard_of(*node)) {
            self.graph.set_exists(node, false);
            self.merged.set_elsewhere(key, Some(into));
        }
    }

    /// What has to be known elsewhere of what was merged here, after a recovery.
    pub(super) fn exchange_merged(&self, s: &mut Surroundings<'_>) {
        for (key, absorbed) in &self.merged.absorbed {
            let Into { key: into, version, .. } = absorbed.into;
            let (of, id) = (MemoryKey(*key), absorbed.entry.id.clone());
            s.tell_owner(into, Tell::Absorbed { of, id, into, version });
        }
    }

    /// Removes an automatic link and does not make it again.
    pub fn prune(&mut self, from: MemoryKey, link: PrunedLink, s: &mut Surroundings<'_>) {
        let links = self.merged.pruned.entry(from.0).or_default();
        if !links.iter().any(|l| l.to == link.to && l.kind == link.kind) {
            links.push(link);
        }
        let (from, to) = (self.graph.find(from), self.graph.find(link.to));
        let kind = self.automatic_kind(link.kind);
        if let (Some(from), Some(to), Some(kind)) = (from, to, kind) {
            let name = EdgeName { kind, automatic: true };
            let exists = self
                .graph
                .outward(from)
                .iter()
                .any(|edge| edge.node == to && edge.kind() == kind && edge.is_automatic());
            if exists {
                self.remove_edge(from, to, name, s);
            }
        }
    }
}
