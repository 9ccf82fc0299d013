//! Facts about the machine and how to use it: what this process may have, where its shards go,
//! and what is missing.
//!
//! *Invariants*: knows no memory and no HTTP; facts are read once and are plain data; decisions
//! ([`Placement::compute`]) are pure functions of them.
//!
//! *Not here*: executors (`shards`), what an operator sees of this (`ops`).

mod cgroup;
mod cpu_list;
mod diagnosis;
mod disk_budget;
mod error;
mod finding;
mod heap;
mod kernel;
mod machine;
mod memory_budget;
mod memory_policy;
mod memory_use;
pub mod meter;
mod pin;
mod placement;
mod preflight;
mod report;
mod signals;
pub mod sockets;
mod topology;
#[cfg(static_hwloc)]
mod udev;

pub use cgroup::{Cgroup, CpuQuota, MemoryLimit};
pub use cpu_list::CpuList;
pub use diagnosis::diagnose;
pub use disk_budget::{DiskBudget, disk_free_bytes, is_tmpfs};
pub use error::PlatformError;
pub use finding::Finding;
pub use heap::{Heap, allow_huge_pages, give_back_heap, heap_bytes};
pub use kernel::KernelVersion;
pub use machine::{Machine, MachineMemory};
pub use memory_budget::{MemoryBudget, MemoryRoom};
pub use memory_policy::{bind_memory_to_node, node_of_byte, resident_bytes_by_node};
pub use memory_use::{GroupUse, MemoryGauge, MemoryUse};
pub use pin::{current_cpu, pin_current_thread};
pub use placement::{Placement, PlacementOptions, ShardPlace};
pub use preflight::{EXIT_STATUS_FATAL, Preflight, ring_bytes};
pub use report::TopologyReport;
pub use signals::{Signal, Signals};
pub use topology::{Cache, Cpu, Layout, NumaNode};
