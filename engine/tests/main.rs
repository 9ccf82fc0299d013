//! Tests of the engine through what it offers to other crates.

mod association;
mod text;
mod vector;
