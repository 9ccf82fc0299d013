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
