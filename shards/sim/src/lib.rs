//! Deterministic simulation: the real engine, the real messages between shards, the real log and
//! recovery, on a simulated mesh, clock and disk, from one seed.
//!
//! *Invariants*: nothing here depends on time, threads or addresses: a seed that fails, fails again.
//!
//! *Not here*: executors, io_uring and HTTP, which the tests of `shards`, `net` and `ops` run for real.

mod disk;
mod machine;
mod model;
mod plan;
mod random;
mod run;
mod spaces;
mod upkeep;
mod workload;

pub use plan::{Options, Planted};
pub use run::{Report, Violation, run};

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a seed twice and compares; a panic is a violation, too.
///
/// # Errors
/// The first violation.
pub fn check(seed: u64, options: Options) -> Result<Report, Violation> {
    let first = run_caught(seed, options)?;
    let second = run_caught(seed, options)?;
    if first == second {
        return Ok(first);
    }
    let what = format!("the second run differs: {first:?}, then {second:?}");
    Err(Violation { seed, operations: first.operations, what })
}

/// Runs a seed once.
///
/// # Errors
/// The first violation.
pub fn run_caught(seed: u64, options: Options) -> Result<Report, Violation> {
    let caught = catch_unwind(AssertUnwindSafe(|| run(seed, options)));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let what = format!("panic: {}", text.unwrap_or("without a word"));
        Err(Violation { seed, operations: 0, what })
    })
}
