//! The memory of a shard on the node of its core.
//!
//! *Invariants*: called on the shard's own thread after it was pinned, before it takes memory; what
//! the kernel refuses leaves the first touch to decide, which gives the same while the node has room.
//!
//! *Not here*: which node (`engram_platform::Placement`).

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use engram_platform::{bind_memory_to_node, node_of_byte};

/// More than an allocator keeps ready: fresh pages.
const PROBE_BYTES: usize = 1 << 20;

/// The node on which a shard's memory was found.
#[derive(Debug, Default)]
pub struct MemoryNode(AtomicU64);

impl MemoryNode {
    /// `None` where the kernel, or the container's seccomp profile, does not say.
    pub fn get(&self) -> Option<u32> {
        u32::try_from(self.0.load(Ordering::Relaxed).checked_sub(1)?).ok()
    }

    /// Prefers a node for what this thread takes from now on, and reads back where that is.
    pub(crate) fn settle(&self, wanted: Option<u32>) {
        if let Some(node) = wanted
            && let Err(error) = bind_memory_to_node(node)
        {
            log::debug!("memory is on the node that touches it first: {error}");
        }
        let probe = black_box(vec![1_u8; PROBE_BYTES]);
        let Ok(found) = node_of_byte(&probe[PROBE_BYTES / 2]) else { return };
        self.0.store(u64::from(found) + 1, Ordering::Relaxed);
        if wanted.is_some_and(|node| node != found) {
            log::warn!("memory of node {found} is used, wanted was {wanted:?}: that one is full");
        }
    }
}
