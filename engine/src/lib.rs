//! Engram's engine: what a memory is and does, as a deterministic state machine.
//!
//! *Invariants*: no clock, disk, network, thread or async in this crate; the same events give the
//! same effects, bit for bit.
//!
//! *Not here*: executors, mailboxes and files (`shards`), HTTP and JSON framing (`net`).

pub mod attributes;
pub mod cold;
pub mod filter;
pub mod fixed;
pub mod fuse;
pub mod graph;
pub mod image;
pub mod key;
pub mod life;
pub mod limits;
pub mod mesh;
pub mod metadata;
pub mod model;
pub mod names;
pub mod node;
pub mod phase;
pub mod recall;
pub mod record;
pub mod redistribute;
pub mod request;
pub mod sequence;
pub mod shard;
pub mod space;
pub mod terms;
pub mod text;
pub mod trace;
pub mod vector;
