//! Sets of nodes that cost eight bytes while they hold one.
//!
//! *Invariants*: a set is never empty: whoever removes the last node drops the set; a bitmap belongs
//! to one set.
//!
//! *Not here*: what the nodes have in common (`metadata`).

use roaring::RoaringBitmap;

use crate::image::{Part, Reader, Unsound, Writer, ensure};
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

impl Part for NodeSets {
    const NAME: &'static str = "sets of nodes";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { bitmaps, free } = self;
        out.count(bitmaps.len());
        let mut bytes = Vec::new();
        for bitmap in bitmaps {
            bytes.clear();
            bitmap.serialize_into(&mut bytes).expect("memory takes what is written to it");
            out.pods(&bytes);
        }
        out.pods(free);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let count = input.count()?;
        let mut bitmaps: Vec<RoaringBitmap> = input.room(count);
        for _ in 0..count {
            let bytes: Vec<u8> = input.pods()?;
            let bitmap = RoaringBitmap::deserialize_from(&bytes[..]);
            bitmaps.push(bitmap.map_err(|_| Unsound::Content("a set of nodes"))?);
        }
        let free: Vec<u32> = input.pods()?;
        let within = |&number: &u32| (number as usize) < bitmaps.len();
        ensure(free.iter().all(within), "a free set of nodes")?;
        Ok(Self { bitmaps, free })
    }
}

impl NodeSets {
    /// Whether a set is one of these.
    pub fn has(&self, set: NodeSet) -> bool {
        match set {
            NodeSet::One(_) => true,
            NodeSet::Many(number) => (number as usize) < self.bitmaps.len(),
        }
    }

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
