//! The links of a space that leave and reach the memories of one shard.
//!
//! *Invariants*: a link to another shard's memory is told to its owner when it is made, changed or
//! removed; what was deleted after a link was written is not reached by it.
//!
//! *Not here*: nodes and edges (`graph`), which automatic links there should be (`association`).

use crate::fixed;
use crate::graph::{EdgeName, KindIx, LinkChange};
use crate::key::MemoryKey;
use crate::limits;
use crate::mesh::{AutomaticKind, LinkIn, Tell};
use crate::model::{Link, LinkKind, MemoryId, Timestamp, Weight};
use crate::node::NodeIx;
use crate::request::{Code, LinkName, Rejection};

use super::{NEVER, Space, Surroundings};

impl Space {
    /// The client links that leave a node, as a record holds them.
    pub fn client_links(&self, node: NodeIx) -> Vec<Link> {
        let edges = self.graph.outward(node).iter().filter(|e| !e.is_automatic());
        edges
            .filter_map(|edge| {
                Some(Link {
                    to: self.id_of(edge.node)?.clone(),
                    weight: Weight::new(f32::from(edge.weight) / f32::from(fixed::WEIGHT_ONE))
                        .unwrap_or(Weight::ONE),
                    kind: (**self.graph.kind(edge.kind())).clone(),
                })
            })
            .collect()
    }

    /// The client links that leave a memory, whether it is merged or not.
    pub fn links_of(&self, key: MemoryKey) -> Vec<Link> {
        self.graph.find(key).map_or(Vec::new(), |node| self.client_links(node))
    }

    /// The number of an automatic kind, if any link of that kind was ever made here.
    pub fn automatic_kind(&self, kind: AutomaticKind) -> Option<KindIx> {
        let kind = LinkKind::new(kind.as_str()).expect("names of automatic kinds are valid");
        self.graph.find_kind(&kind)
    }

    /// The kinds of the links between neighbours in a sequence, as far as there are any.
    pub fn sequence_kinds(&self) -> Vec<KindIx> {
        let kinds = [AutomaticKind::Next, AutomaticKind::Previous, AutomaticKind::Near];
        kinds.into_iter().filter_map(|kind| self.automatic_kind(kind)).collect()
    }

    /// Checks that a client link may be written.
    ///
    /// # Errors
    /// [`Code::LimitExceeded`] where the space has too many kinds or the memory too many links.
    pub fn check_link(&mut self, node: Option<NodeIx>, link: &Link) -> Result<(), Rejection> {
        self.graph.intern_kind(&link.kind)?;
        let count = node.map_or(0, |n| self.graph.outward(n).len());
        if count < limits::LINKS_PER_MEMORY_MAX {
            return Ok(());
        }
        let detail = format!(
            "a memory has at most {} links; remove some before adding others",
            limits::LINKS_PER_MEMORY_MAX
        );
        Err(Rejection::new(Code::LimitExceeded, detail))
    }

    /// Writes a client link that leaves a memory of this shard.
    ///
    /// # Errors
    /// As [`Space::check_link`].
    pub fn put_client_link(
        &mut self,
        from: NodeIx,
        link: &Link,
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) -> Result<(), Rejection> {
        let to = s.partitioner.key(&self.name, &link.to);
        // As for links from other shards: it went with its target, wherever that lies.
        if self.deleted_at.get(&to.0).is_some_and(|deleted| *deleted > at) {
            return Ok(());
        }
        let kind = self.graph.intern_kind(&link.kind)?;
        let weight = fixed::weight_units(link.weight.get());
        let name = EdgeName { kind, automatic: false };
        if s.recovering {
            self.link_times.insert(link_hash(self.graph.key(from), to), at);
        }
        self.put_edge(from, to, Some(&link.to), name, weight, at, s);
        Ok(())
    }

    pub(super) fn replace_client_links(
        &mut self,
        node: NodeIx,
        links: &[Link],
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) {
        let kept: Vec<(MemoryKey, &LinkKind)> =
            links.iter().map(|l| (s.partitioner.key(&self.name, &l.to), &l.kind)).collect();
        for edge in self.graph.outward(node).to_vec() {
            let key = self.graph.key(edge.node);
            let kind = self.graph.kind(edge.kind()).clone();
            if !edge.is_automatic() && !kept.contains(&(key, &*kind)) {
                let name = EdgeName { kind: edge.kind(), automatic: false };
                self.remove_edge(node, edge.node, name, s);
            }
        }
        for link in links {
            let written = self.put_client_link(node, link, at, s);
            debug_assert!(written.is_ok(), "links of a record were checked before it was written");
        }
    }

    /// Makes the automatic links of `kinds` that leave a node exactly these.
    pub fn set_automatic_links(
        &mut self,
        node: NodeIx,
        kinds: &[AutomaticKind],
        links: &[(MemoryKey, AutomaticKind, u16)],
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) {
        let numbers: Vec<KindIx> = kinds.iter().filter_map(|k| self.automatic_kind(*k)).collect();
        let wanted: Vec<(u64, &str)> =
            links.iter().map(|(k, kind, _)| (k.0, kind.as_str())).collect();
        for edge in self.graph.outward(node).to_vec() {
            let key = self.graph.key(edge.node).0;
            let kind = self.graph.kind(edge.kind()).clone();
            let ours = edge.is_automatic() && numbers.contains(&edge.kind());
            if ours && !wanted.contains(&(key, kind.as_str())) {
                let name = EdgeName { kind: edge.kind(), automatic: true };
                self.remove_edge(node, edge.node, name, s);
            }
        }
        for (key, kind, weight) in links {
            self.put_automatic(node, *key, *kind, *weight, at, s);
        }
    }

    /// Writes one automatic link that leaves a node.
    pub fn put_automatic(
        &mut self,
        node: NodeIx,
        to: MemoryKey,
        kind: AutomaticKind,
        weight: u16,
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) {
        let kind_name = LinkKind::new(kind.as_str()).expect("names of automatic kinds are valid");
        let Ok(number) = self.graph.intern_kind(&kind_name) else { return };
        if self.merged.is_pruned(self.graph.key(node), to, kind) {
            return;
        }
        if self.graph.outward(node).len() >= limits::LINKS_PER_MEMORY_MAX {
            return;
        }
        let name = EdgeName { kind: number, automatic: true };
        self.put_edge(node, to, None, name, weight, at, s);
    }

    /// Makes the links that a memory has in its sequence exactly these.
    pub fn set_sequence_links(
        &mut self,
        of: MemoryKey,
        links: &[(MemoryKey, AutomaticKind, u16)],
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) {
        let Some(node) = self.graph.find(of).filter(|n| self.graph.is_memory(*n)) else { return };
        let kinds = [AutomaticKind::Next, AutomaticKind::Previous, AutomaticKind::Near];
        self.set_automatic_links(node, &kinds, links, at, s);
    }

    #[expect(clippy::too_many_arguments, reason = "one link is that many things")]
    fn put_edge(
        &mut self,
        from: NodeIx,
        to: MemoryKey,
        to_id: Option<&MemoryId>,
        name: EdgeName,
        weight: u16,
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) {
        let owner = s.partitioner.owner(to);
        let node = self.graph.intern(to, owner != s.me);
        if let Some(id) = to_id.filter(|_| !self.graph.is_memory(node)) {
            self.foreign_ids.entry(to.0).or_insert_with(|| id.clone());
        }
        let change = self.graph.put_link(from, node, name, weight);
        if owner != s.me && change != LinkChange::None {
            let link = self.link_message(from, to, name, weight, at);
            s.tells.push((owner, Tell::LinkIn(link)));
        }
    }

    pub(super) fn link_message(
        &self,
        from: NodeIx,
        to: MemoryKey,
        name: EdgeName,
        weight: u16,
        at: Timestamp,
    ) -> LinkIn {
        LinkIn {
            from: self.graph.key(from),
            to,
            to_id: self.foreign_ids.get(&to.0).cloned(),
            kind: (**self.graph.kind(name.kind)).clone(),
            automatic: name.automatic,
            weight,
            at,
        }
    }

    /// Removes the client links that a name means; how many there were.
    pub fn unlink(&mut self, link: &LinkName, s: &mut Surroundings<'_>) -> u64 {
        let from = self.graph.find(s.partitioner.key(&self.name, &link.from));
        let to = self.graph.find(s.partitioner.key(&self.name, &link.to));
        let (Some(from), Some(to)) = (from, to) else { return 0 };
        let wanted = link.kind.as_ref().map(|k| self.graph.find_kind(k));
        let names = self.graph.names_between(from, to);
        let meant = |n: &EdgeName| !n.automatic && wanted.is_none_or(|k| k == Some(n.kind));
        let mut removed = 0;
        for name in names.into_iter().filter(meant) {
            removed += u64::from(self.remove_edge(from, to, name, s));
        }
        removed
    }

    pub(super) fn remove_edge(
        &mut self,
        from: NodeIx,
        to: NodeIx,
        name: EdgeName,
        s: &mut Surroundings<'_>,
    ) -> bool {
        let remote = self.graph.is_remote(to);
        let (from_key, to_key) = (self.graph.key(from), self.graph.key(to));
        let kind = (**self.graph.kind(name.kind)).clone();
        let removed = self.graph.remove_link(from, to, name);
        if removed && remote {
            let gone =
                Tell::LinkGone { from: from_key, to: to_key, kind, automatic: name.automatic };
            s.tell_owner(to_key, gone);
            let known = self.graph.find(to_key);
            if known.is_none_or(|to| self.graph.is_unheard_of(to)) {
                self.merged.set_elsewhere(to_key, None);
            }
        }
        if removed && self.graph.find(to_key).is_none() {
            self.foreign_ids.remove(&to_key.0);
        }
        removed
    }

    /// A link from another shard's memory; `Live` goes back where its target exists. `exchanging`:
    /// it comes from that shard's log.
    pub fn link_in(&mut self, link: &LinkIn, exchanging: bool, s: &mut Surroundings<'_>) {
        let died = self.deleted_at.get(&link.to.0).copied().filter(|at| *at > link.at);
        let from_shard = s.partitioner.owner(link.from);
        if let Some(at) = died {
            // One that crossed with the deletion goes when its shard hears of that.
            if exchanging {
                s.tells.push((from_shard, Tell::Gone { key: link.to, at }));
                let node = self.graph.find(link.to).filter(|node| self.graph.exists(*node));
                s.tells.extend(node.map(|_| (from_shard, Tell::Live { key: link.to })));
            }
            return;
        }
        let Ok(kind) = self.graph.intern_kind(&link.kind) else { return };
        let to = self.graph.intern(link.to, false);
        if let Some(id) = link.to_id.as_ref().filter(|_| !self.graph.is_memory(to)) {
            self.foreign_ids.entry(link.to.0).or_insert_with(|| id.clone());
        }
        let from = self.graph.intern(link.from, true);
        let name = EdgeName { kind, automatic: link.automatic };
        self.graph.put_link_in(from, to, name, link.weight);
        if self.graph.exists(to) {
            s.tells.push((from_shard, Tell::Live { key: link.to }));
        } else if let Some(absorbed) = self.merged.absorbed_one(link.to) {
            let tell = Tell::Merged { key: link.to, into: absorbed.into.key };
            s.tells.push((from_shard, tell));
        }
    }

    /// A link from another shard's memory is gone.
    pub fn link_gone(&mut self, from: MemoryKey, to: MemoryKey, kind: &LinkKind, automatic: bool) {
        let (from, to) = (self.graph.find(from), self.graph.find(to));
        let (Some(from), Some(to), Some(kind)) = (from, to, self.graph.find_kind(kind)) else {
            return;
        };
        self.graph.remove_link(from, to, EdgeName { kind, automatic });
        self.graph.release(to);
    }

    pub(super) fn exchange_links(&self, node: NodeIx, s: &mut Surroundings<'_>) {
        for edge in self.graph.outward(node).iter().filter(|e| self.graph.is_remote(e.node)) {
            let name = EdgeName { kind: edge.kind(), automatic: edge.is_automatic() };
            let to = self.graph.key(edge.node);
            let hash = link_hash(self.graph.key(node), to);
            let at = self.link_times.get(&hash).copied().unwrap_or(NEVER);
            let link = self.link_message(node, to, name, edge.weight, at);
            s.tell_owner(to, Tell::LinkIn(link));
        }
    }
}

/// One number for both ends of a link.
pub(super) fn link_hash(from: MemoryKey, to: MemoryKey) -> u64 {
    from.0.rotate_left(32) ^ to.0
}
