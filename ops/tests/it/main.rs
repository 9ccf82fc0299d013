//! Tests of the `engram` command as it is: real processes, real sockets, real directories.

mod arguments;
mod budget;
mod cold;
mod commands;
mod compaction;
mod consolidation;
mod durability;
mod evaluation;
mod formats;
mod full;
mod images;
mod kills;
mod life;
#[path = "../../../shards/cold/tests/it/moto.rs"]
mod moto;
mod observed;
mod reference;
mod refusals;
mod resharding;
mod server;
mod siege;
mod snapshots;
mod tls;
