//! The subcommands, one file each.
//!
//! *Invariants*: results go to standard output, everything else to standard error.
//!
//! *Not here*: how arguments are layered (`crate::arguments`).

mod benchmark;
mod check;
mod compact;
mod completions;
mod config;
mod consolidate;
mod doctor;
mod evaluate;
mod export;
mod health;
mod load;
mod man;
mod output;
mod query;
mod recall;
mod restore;
mod serve;
mod snapshot;
mod top;
mod topology;

use crate::arguments::Origins;
use crate::failure::Failure;

pub use topology::report as machine_report;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Run a server until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// Store the memories of a file, one JSON object a line
    Load(load::Load),
    /// Write every memory of a space, in the form that `load` reads
    Export(export::Export),
    /// Count memories, or search them without spreading activation
    Query(query::Query),
    /// Recall what a cue brings to mind
    Recall(recall::Recall),
    /// Merge memories that say the same, prune weak links, or take that back
    Consolidate(consolidate::Consolidate),
    /// Take out of the log what nobody needs any more, now
    Compact(compact::Compact),
    /// Measure the quality and speed of recall on a set of queries with known answers
    Evaluate(Box<evaluate::Evaluate>),
    /// Measure a server of its own under a mixed load, on a temporary directory
    Benchmark(benchmark::Benchmark),
    /// Take a snapshot into the cold tier
    Snapshot(snapshot::Snapshot),
    /// Make a data directory from a snapshot
    Restore(restore::Restore),
    /// Read a data directory whole, and say what is damaged
    Check(check::Check),
    /// Show what a server does, as a page that is drawn again and again
    Top(top::Top),
    /// Show the machine and where shards go on it
    Topology(topology::Topology),
    /// Look for what this machine lacks, and what keeps it from its best
    Doctor(doctor::Doctor),
    /// Ask whether a server is ready, by exit status
    Health(health::Health),
    /// Show the settings of `serve` that are in force and where each came from
    Config(config::Config),
    /// Write completions for a shell
    Completions(completions::Completions),
    /// Write manual pages
    Man(man::Man),
}

impl Subcommand {
    /// A setting that nobody knows is an error, not a remark: it would not have its effect.
    pub fn is_strict(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Config(_))
    }

    /// Does it.
    ///
    /// # Errors
    /// Why it could not be done.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Load(load) => load.run(origins),
            Self::Export(export) => export.run(origins),
            Self::Query(query) => query.run(origins),
            Self::Recall(recall) => recall.run(origins),
            Self::Consolidate(consolidate) => consolidate.run(origins),
            Self::Compact(compact) => compact.run(origins),
            Self::Evaluate(evaluate) => evaluate.run(origins),
            Self::Benchmark(benchmark) => benchmark.run(),
            Self::Snapshot(snapshot) => snapshot.run(origins),
            Self::Restore(restore) => restore.run(),
            Self::Check(check) => check.run(),
            Self::Top(top) => top.run(),
            Self::Topology(topology) => topology.run(origins),
            Self::Doctor(doctor) => doctor.run(),
            Self::Health(health) => health.run(),
            Self::Config(config) => config.run(origins),
            Self::Completions(completions) => completions.run(),
            Self::Man(man) => man.run(),
        }
    }
}
