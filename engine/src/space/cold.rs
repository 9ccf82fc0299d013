//! Memories of a space whose records lie in the cold tier.
//!
//! *Invariants*: a memory that is demoted or promoted keeps its node, its links and every index
//! entry; while it is cold it is not associated anew, since its text is not at hand.
//!
//! *Not here*: when memories move (`shard::demotion`).

use crate::attributes;
use crate::cold::{ColdAddress, ColdMemories, Demoted};
use crate::key::MemoryKey;
use crate::life::run::RunId;
use crate::mesh::AutomaticKind;
use crate::model::{Metadata, Timestamp};
use crate::names;
use crate::node::NodeIx;
use crate::record::{Damage, Put};
use crate::terms;
use crate::vector::VectorIndex;

use super::links::link_hash;
use super::{Entry, Space, Surroundings};

impl Space {
    /// The memories whose records lie in the cold tier.
    pub fn cold(&self) -> &ColdMemories {
        &self.cold
    }

    /// The memory waits to be associated.
    pub fn is_queued(&self, node: NodeIx) -> bool {
        self.queued.contains(&node)
    }

    /// What the log has to hold of a memory whose record lies at `address` from now on.
    pub fn demoted(
        &self,
        node: NodeIx,
        mut put: Put,
        address: ColdAddress,
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) -> Result<Demoted, Damage> {
        let metadata = crate::record::metadata_of(&put.metadata)?;
        let content = put.content.take();
        put.embedding = None;
        put.space = self.number;
        put.links = self.client_links(node);
        let associates = self.config.associate;
        let title = self.config.title_from_content;
        let names = match associates {
            true => names::names_of(&metadata, content.as_deref(), title),
            false => Vec::new(),
        };
        let terms = match associates {
            true => terms::terms_of(&metadata, content.as_deref()),
            false => Vec::new(),
        };
        Ok(Demoted {
            at,
            address,
            text: content.as_deref().map(|content| s.analyzer.analyze(content)),
            names,
            terms,
            run: None,
            mentions: self.mentions_of(node),
            vector: self.vectors.as_ref().and_then(|vectors| vectors.frozen(node)),
            put,
        })
    }

    fn mentions_of(&self, node: NodeIx) -> Vec<(MemoryKey, u16)> {
        let Some(kind) = self.automatic_kind(AutomaticKind::Mentions) else { return Vec::new() };
        let edges = self.graph.outward(node).iter();
        let mentions = edges.filter(|edge| edge.is_automatic() && edge.kind() == kind);
        mentions.map(|edge| (self.graph.key(edge.node), edge.weight)).collect()
    }

    /// The record of a memory lies in the cold tier from now on.
    pub fn demote(&mut self, key: MemoryKey, address: ColdAddress, run: Option<RunId>) {
        self.cold.insert(key, address, run);
    }

    /// The record of a memory is in the log again; what it mentions is looked at anew.
    pub fn promote(
        &mut self,
        key: MemoryKey,
        node: NodeIx,
        content: Option<&str>,
        s: &Surroundings<'_>,
    ) {
        self.cold.remove(key);
        let entry = self.entries[node.index()].as_deref_mut();
        entry.expect("what is cold exists").fresh_at = s.lived;
        if self.config.associate {
            self.enqueue(node, Some(names::normal_form(content.unwrap_or(""))));
        }
    }

    /// Brings a cold memory back as its record in the log says.
    ///
    /// # Errors
    /// [`Damage`] where its vector is none of this space's.
    pub fn put_cold(
        &mut self,
        key: MemoryKey,
        demoted: &Demoted,
        metadata: &Metadata,
        s: &mut Surroundings<'_>,
    ) -> Result<NodeIx, Damage> {
        let put = &demoted.put;
        let node = self.graph.intern(key, false);
        self.grow_entries(node);
        let existed = self.entries[node.index()].is_some();
        if existed {
            self.unindex(node, s);
        }
        self.insert_entry(node, put, metadata, s.lived);
        self.cold.insert(key, demoted.address, demoted.run);
        self.metadata.insert(node, &put.id, metadata, put.created_at, put.expires_at);
        if let Some(text) = &demoted.text {
            self.text.insert(node, text);
        }
        if let Some(vector) = &demoted.vector {
            self.thaw(node, vector)?;
        }
        if self.config.associate {
            self.names.insert(node, &demoted.names);
            self.terms.insert(node, &demoted.terms);
            self.attributes.insert(node, &attributes::attributes_of(metadata));
            self.tell_membership(node, s);
        }
        self.replace_client_links(node, &put.links, demoted.at, s);
        self.replace_mentions(node, &demoted.mentions, demoted.at, s);
        if !existed {
            self.memories += 1;
            self.announce_existence(node, s);
        }
        Ok(node)
    }

    fn thaw(&mut self, node: NodeIx, vector: &[u8]) -> Result<(), Damage> {
        let dimensions =
            self.config.dimensions.ok_or(Damage::Content("a vector in a space of none"))?;
        let (metric, encoding, seed) = (self.config.metric, self.config.encoding, self.seed);
        self.vectors
            .get_or_insert_with(|| VectorIndex::new(dimensions, metric, encoding, seed))
            .thaw(node, vector)
            .map_err(|_| Damage::Content("a vector of another space"))
    }

    fn replace_mentions(
        &mut self,
        node: NodeIx,
        mentions: &[(MemoryKey, u16)],
        at: Timestamp,
        s: &mut Surroundings<'_>,
    ) {
        let from = self.graph.key(node);
        let links: Vec<_> =
            mentions.iter().map(|(key, units)| (*key, AutomaticKind::Mentions, *units)).collect();
        for (to, _) in mentions {
            self.link_times.insert(link_hash(from, *to), at);
        }
        self.set_automatic_links(node, &[AutomaticKind::Mentions], &links, at, s);
    }

    /// Some of the memories whose time is over.
    pub fn expired(&self, now: Timestamp, most: usize) -> Vec<NodeIx> {
        if !self.has_expired(now) {
            return Vec::new();
        }
        let gone = |e: &Entry| e.expires_at <= now;
        let entries = (0u32..).map(NodeIx).zip(&self.entries);
        let expired = entries.filter_map(|(n, e)| e.as_deref().filter(|e| gone(e)).map(|_| n));
        expired.take(most).collect()
    }
}
