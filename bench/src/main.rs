//! `engram-bench`: the command.

fn main() {}
