//! Measuring tools for Engram.

fn main() {}
