//! Shards on real executors, real io_uring and real files.

#![allow(clippy::unwrap_used)]

mod cluster;
mod durable;
mod flips;
mod full;
