//! The number by which one shard knows a memory.
//!
//! *Invariants*: numbers are dense from 0 and belong to one space on one shard; a number is given
//! again only after every index has let go of it.

/// Number of a node in one space on one shard.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bytemuck::Pod, bytemuck::Zeroable,
)]
#[repr(transparent)]
pub struct NodeIx(pub u32);

impl NodeIx {
    /// No node: a number that is never given.
    pub const NONE: Self = Self(u32::MAX);

    /// As an index into a table of nodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Makes a table of nodes reach this one. It grows by an eighth: one that doubles holds a third of
/// its memory in vain on average.
pub fn reach<T>(table: &mut Vec<T>, node: NodeIx, make: impl FnMut() -> T) {
    let length = node.index() + 1;
    if length > table.capacity() {
        table.reserve_exact((length - table.len()).max(table.len() / 8));
    }
    if length > table.len() {
        table.resize_with(length, make);
    }
}
