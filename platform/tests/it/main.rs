//! Tests of the platform crate: fixtures of machines and control groups, and this machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod budgets;
mod cgroups;
mod findings;
mod fixture;
mod lists;
mod placements;
mod sockets;
mod this_machine;
mod workspace;
