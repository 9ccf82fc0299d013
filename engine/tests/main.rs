//! Tests of the engine through what it offers to other crates.

mod association;
mod cluster;
mod metadata;
mod recipe;
mod text;
mod vector;
