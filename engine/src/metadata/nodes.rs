//! A set of nodes that costs nothing beside its owner while it holds one.
//!
//! *Invariants*: a set is never empty: whoever removes the last node drops the set.
//!
//! *Not here*: what the nodes have in common (`metadata`).

use roaring::RoaringBitmap;

use crate::node::NodeIx;

/// One node or more.
pub enum NodeSet {
    /// Most values of names, addresses and the like occur once.
    One(NodeIx),
    /// A compressed bitmap.
    Many(Box<RoaringBitmap>),
}

impl NodeSet {
    /// Adds a node.
    pub fn insert(&mut self, node: NodeIx) {
        match self {
            Self::One(one) if *one == node => {}
            Self::One(one) => {
                *self = Self::Many(Box::new([one.0, node.0].into_iter().collect()));
            }
            Self::Many(nodes) => {
                nodes.insert(node.0);
            }
        }
    }

    /// Takes a node out; true where that was the last one.
    pub fn remove(&mut self, node: NodeIx) -> bool {
        match self {
            Self::One(one) => *one == node,
            Self::Many(nodes) => {
                nodes.remove(node.0);
                nodes.is_empty()
            }
        }
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(nodes) => usize::try_from(nodes.len()).expect("nodes are 32 bits wide"),
        }
    }

    /// Appends the nodes, ascending.
    pub fn append_to(&self, nodes: &mut Vec<NodeIx>) {
        match self {
            Self::One(one) => nodes.push(*one),
            Self::Many(many) => nodes.extend(many.iter().map(NodeIx)),
        }
    }

    /// Bytes held on the heap.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(nodes) => size_of::<RoaringBitmap>() + nodes.serialized_size(),
        }
    }
}
