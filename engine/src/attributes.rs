//! Attributes of memories (speaker, source, tags) that a cue's text may name.
//!
//! *Invariants*: an attribute is known by the hash of its kind and normal form; which attributes a
//! text names is the union of what the shards know, so that it does not depend on sharding.
//!
//! *Not here*: by how much a named attribute raises a memory (`crate::fuse`).

use hashbrown::HashMap;

use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::model::Metadata;
use crate::names::{NAME_TOKENS_MAX, normal_form};
use crate::node::NodeIx;
use crate::text::{hash_bytes, hash_next, is_stop_word};

/// Most attributes of one memory.
pub const ATTRIBUTES_PER_MEMORY_MAX: usize = 16;

/// Which field of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttributeKind {
    /// `speaker`.
    Speaker,
    /// `source`.
    Source,
    /// One of `tags`.
    Tag,
}

const FIELDS: [(&str, AttributeKind); 3] = [
    ("speaker", AttributeKind::Speaker),
    ("source", AttributeKind::Source),
    ("tags", AttributeKind::Tag),
];

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute {
    /// Which field.
    pub kind: AttributeKind,
    /// Hash of the value's normal form.
    pub value: u64,
}

/// The attributes of a memory, distinct and bounded.
pub fn attributes_of(metadata: &Metadata) -> Vec<Attribute> {
    let mut attributes = Vec::new();
    for (field, kind) in FIELDS {
        match metadata.get(field) {
            Some(serde_json::Value::String(value)) => push(&mut attributes, kind, value),
            Some(serde_json::Value::Array(values)) => values
                .iter()
                .filter_map(serde_json::Value::as_str)
                .for_each(|value| push(&mut attributes, kind, value)),
            _ => {}
        }
    }
    attributes
}

fn push(attributes: &mut Vec<Attribute>, kind: AttributeKind, value: &str) {
    let normal = normal_form(value);
    let tokens = normal.split(' ').count();
    if normal.is_empty() || tokens > NAME_TOKENS_MAX || normal.split(' ').all(is_stop_word) {
        return;
    }
    let attribute = Attribute { kind, value: crate::names::name_key(&normal) };
    if attributes.len() < ATTRIBUTES_PER_MEMORY_MAX && !attributes.contains(&attribute) {
        attributes.push(attribute);
    }
}

/// The attributes of one space on one shard.
#[derive(Default)]
pub struct AttributeIndex {
    counts: HashMap<Attribute, u64>,
    of_node: HashMap<NodeIx, Box<[Attribute]>>,
}

impl Part for AttributeIndex {
    const NAME: &'static str = "attributes";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { counts: _, of_node } = self;
        out.count(of_node.len());
        for (node, attributes) in of_node {
            out.u32(node.0);
            out.count(attributes.len());
            for Attribute { kind, value } in attributes {
                out.u8(*kind as u8);
                out.u64(*value);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let mut index = Self::new();
        for _ in 0..input.count()? {
            let node = NodeIx(input.u32()?);
            let mut attributes = Vec::new();
            for _ in 0..input.count()? {
                let kind = input.u8()?;
                let known = FIELDS.iter().find(|&&(_, known)| known as u8 == kind);
                let &(_, kind) = known.ok_or(Unsound::Content("an attribute"))?;
                attributes.push(Attribute { kind, value: input.u64()? });
            }
            ensure(index.of(node).is_empty(), "the attributes of a memory")?;
            index.insert(node, &attributes);
        }
        Ok(index)
    }
}

impl AttributeIndex {
    /// An index without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a node its attributes; it has none yet.
    pub fn insert(&mut self, node: NodeIx, attributes: &[Attribute]) {
        if attributes.is_empty() {
            return;
        }
        for &attribute in attributes {
            *self.counts.entry(attribute).or_default() += 1;
        }
        let previous = self.of_node.insert(node, attributes.into());
        assert!(previous.is_none(), "a node gets its attributes once");
    }

    /// Takes a node's attributes away, if it has any.
    pub fn remove(&mut self, node: NodeIx) {
        for attribute in self.of_node.remove(&node).unwrap_or_default() {
            let count = self.counts.get_mut(&attribute).expect("a held attribute is counted");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&attribute);
            }
        }
    }

    /// The attributes that `normal_text` names, ascending and distinct.
    pub fn named_in(&self, normal_text: &str) -> Vec<Attribute> {
        let mut named = Vec::new();
        if self.counts.is_empty() || normal_text.is_empty() {
            return named;
        }
        let hashes: Vec<u64> =
            normal_text.split(' ').map(|token| hash_bytes(token.as_bytes())).collect();
        for start in 0..hashes.len() {
            let mut value = 0;
            for &token in hashes[start..].iter().take(NAME_TOKENS_MAX) {
                value = hash_next(value, token);
                let kinds = FIELDS.iter().map(|&(_, kind)| Attribute { kind, value });
                named.extend(kinds.filter(|attribute| self.counts.contains_key(attribute)));
            }
        }
        named.sort_unstable();
        named.dedup();
        named
    }

    /// The attributes of a node.
    pub fn of(&self, node: NodeIx) -> &[Attribute] {
        self.of_node.get(&node).map_or(&[], |attributes| attributes)
    }

    /// Bytes by part.
    pub fn memory_bytes(&self) -> [(&'static str, u64); 1] {
        let held: usize = self.of_node.values().map(|held| held.len() * 16).sum();
        let tables = self.counts.allocation_size() + self.of_node.allocation_size();
        [("attributes", (held + tables) as u64)]
    }
}
