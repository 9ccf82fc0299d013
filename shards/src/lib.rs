//! Shards of Engram.
