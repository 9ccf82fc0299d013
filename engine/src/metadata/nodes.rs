//! Sets of nodes that cost eight bytes while they hold one.
//!
//! *Invariants*: a set is never empty: whoever removes the last node drops the set; a bitmap belongs
//! to one set.
//!
//! *Not here*: what the nodes have in common (`metadata`).

use roaring::RoaringBitmap;

use crate::node::NodeIx;

/// One node or more.
#[derive(Clone, Copy)]
pub enum NodeSet {
    /// Most values of names, addresses and the like occur once.
    One(NodeIx),
    /// Number of a compressed bitmap.
    Many(u32),
}

/// The bitmaps of sets with more than one node.
#[derive(Default)]
pub struct NodeSets {
    bitmaps: Vec<RoaringBitmap>,
    free: Vec<u32>,
}

impl NodeSets {
    /// Adds a node to a set.
    pub fn insert(&mut self, set: &mut NodeSet, node: NodeIx) {
        match *set {
            NodeSet::One(one) if one == node => {}
            NodeSet::One(one) => *set = NodeSet::Many(self.take([one.0, node.0])),
            NodeSet::Many(number) => {
                self.bitmaps[number as usize].insert(node.0);
            }
        }
    }

    /// Takes a node out of a set; true where that was the last one, and the set is to be dropped.
    pub fn remove(&mut self, set: NodeSet, node: NodeIx) -> bool {
        let number = match set {
            NodeSet::One(one) => return one == node,
            NodeSet::Many(number) => number,
        };
        let bitmap = &mut self.bitmaps[number as usize];
        bitmap.remove(node.0);
        let is_last = bitmap.is_empty();
        if is_last {
            *bitmap = RoaringBitmap::new();
            self.free.push(number);
        }
        is_last
    }

    /// How many nodes a set has.
    pub fn count(&self, set: NodeSet) -> usize {
        match set {
            NodeSet::One(_) => 1,
            NodeSet::Many(number) => {
                let count = self.bitmaps[number as usize].len();
                usize::try_from(count).expect("nodes are 32 bits wide")
            }
        }
    }

    /// Appends the nodes of a set, ascending.
    pub fn append(&self, set: NodeSet, nodes: &mut Vec<NodeIx>) {
        match set {
            NodeSet::One(one) => nodes.push(one),
            NodeSet::Many(number) => {
                nodes.extend(self.bitmaps[number as usize].iter().map(NodeIx));
            }
        }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.bitmaps.capacity() * size_of::<RoaringBitmap>()
            + self.bitmaps.iter().map(RoaringBitmap::serialized_size).sum::<usize>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn take(&mut self, nodes: [u32; 2]) -> u32 {
        let bitmap: RoaringBitmap = nodes.into_iter().collect();
        match self.free.pop() {
            Some(number) => {
                self.bitmaps[number as usize] = bitmap;
                number
            }
            None => {
                self.bitmaps.push(bitmap);
                u32::try_from(self.bitmaps.len() - 1).expect("fewer sets than fit in memory")
            }
        }
    }
}
