//! Forgetting in one space: a memory goes with its links.
//!
//! *Invariants*: a link goes with either end, on the shard of the other one too.
//!
//! *Not here*: when other shards hear of it (`shard::forget`), memories that were merged (`merged`).

use crate::graph::{Edge, EdgeName};
use crate::key::MemoryKey;
use crate::mesh::Tell;
use crate::model::{MemoryId, Timestamp};
use crate::node::NodeIx;
use crate::request::LinkName;

use super::links::link_hash;
use super::{Space, Surroundings};

impl Space {
    /// A deletion that is replayed is news to who starts from an image. One that is made now is told
    /// when it is durable.
    pub(super) fn tell_gone(&self, node: NodeIx, at: Timestamp, s: &mut Surroundings<'_>) {
        if s.replaying {
            self.tell_linkers(node, s, |key| Tell::Gone { key, at });
        }
    }

    /// Forgets a memory with its links; the client links of others that led to it come back.
    pub fn delete(
        &mut self,
        node: NodeIx,
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) -> Vec<LinkName> {
        let key = self.graph.key(node);
        let id = self.entries[node.index()].as_deref().map(|e| e.id.clone());
        self.tell_gone(node, at, s);
        self.unindex(node, s);
        self.remove_all_out(node, s);
        self.return_sources(key, s);
        self.merged.forget_pruned(key);
        self.memories -= 1;
        self.traces.forget(key);
        self.deleted_at.insert(key.0, at);
        self.graph.set_exists(node, false);
        let lost = self.drop_links_to(node, |_, _| true);
        self.graph.release(node);
        let id = id.expect("only memories that exist are deleted");
        lost.into_iter().map(|from| LinkName { from, to: id.clone(), kind: None }).collect()
    }

    /// Replays the deletion of a memory whose record is gone from the log: links that were written
    /// before it go all the same.
    pub fn delete_absent(&mut self, key: MemoryKey, at: Timestamp) {
        self.deleted_at.insert(key.0, at);
        self.traces.forget(key);
        self.merged.forget_pruned(key);
        let Some(node) = self.graph.find(key) else { return };
        for edge in self.graph.inward(node).collect::<Vec<_>>() {
            let hash = link_hash(self.graph.key(edge.node), key);
            if self.link_times.get(&hash).is_some_and(|written| *written < at) {
                let name = EdgeName { kind: edge.kind(), automatic: edge.is_automatic() };
                self.graph.remove_link(edge.node, node, name);
            }
        }
        if self.graph.find(key).is_none() {
            self.foreign_ids.remove(&key.0);
        }
    }

    pub(super) fn remove_all_out(&mut self, node: NodeIx, s: &mut Surroundings<'_>) {
        for edge in self.graph.outward(node).to_vec() {
            let name = EdgeName { kind: edge.kind(), automatic: edge.is_automatic() };
            self.remove_edge(node, edge.node, name, s);
        }
    }

    /// Removes links to a node; the sources of client links among them are returned.
    pub(super) fn drop_links_to(
        &mut self,
        node: NodeIx,
        wanted: impl Fn(&Self, &Edge) -> bool,
    ) -> Vec<MemoryId> {
        let mut sources = Vec::new();
        for edge in self.graph.inward(node).collect::<Vec<_>>() {
            if !wanted(self, &edge) {
                continue;
            }
            let name = EdgeName { kind: edge.kind(), automatic: edge.is_automatic() };
            let source = self.entries.get(edge.node.index()).and_then(|e| e.as_deref());
            if let Some(source) = source.filter(|_| !name.automatic) {
                sources.push(source.id.clone());
            }
            self.graph.remove_link(edge.node, node, name);
        }
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    /// Another shard's memory is gone since `at`; as [`Space::delete`] for the links that led to it
    /// from here, but for those of which the log says that they were written later.
    pub fn gone(
        &mut self,
        key: MemoryKey,
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) -> Vec<LinkName> {
        let Some(node) = self.graph.find(key) else { return Vec::new() };
        self.graph.set_exists(node, false);
        let id = self.id_of(node).cloned();
        let is_older = |space: &Self, edge: &Edge| {
            let hash = link_hash(space.graph.key(edge.node), key);
            edge.is_automatic() || space.link_times.get(&hash).is_none_or(|written| *written < at)
        };
        for edge in self.graph.inward(node) {
            let (from, automatic) = (self.graph.key(edge.node), edge.is_automatic());
            if is_older(self, &edge) {
                // What crossed with this on its way to the owner is taken back there too.
                let kind = (**self.graph.kind(edge.kind())).clone();
                s.tell_owner(key, Tell::LinkGone { from, to: key, kind, automatic });
            } else {
                // The owner has let go of all of them.
                let name = EdgeName { kind: edge.kind(), automatic };
                let written = self.link_times[&link_hash(from, key)];
                let link = self.link_message(edge.node, key, name, edge.weight, written);
                s.tell_owner(key, Tell::LinkIn(link));
            }
        }
        let lost = self.drop_links_to(node, is_older);
        self.merged.set_elsewhere(key, None);
        if let Some(node) = self.graph.find(key) {
            self.graph.release(node);
        }
        if self.graph.find(key).is_none() {
            self.foreign_ids.remove(&key.0);
        }
        let Some(id) = id else { return Vec::new() };
        lost.into_iter().map(|from| LinkName { from, to: id.clone(), kind: None }).collect()
    }
}
