//! Tests of the engine through what it offers to other crates.

mod vector;
