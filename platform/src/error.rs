//! What can go wrong while reading the machine or placing shards on it.
//!
//! *Invariants*: each message is one sentence that says what to change; causes stay in `source()`.
//!
//! *Not here*: what is missing for good service ([`crate::Finding`]).

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::CpuList;

/// An environment that can't be read or can't be used as asked.
#[derive(Debug)]
pub enum PlatformError {
    /// A file under /proc or /sys could not be read.
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A CPU list does not parse.
    CpuList {
        /// As it was given.
        text: String,
    },
    /// hwloc gave no topology.
    Topology {
        /// What it said.
        detail: String,
    },
    /// CPUs were asked for that this process may not use.
    CpusNotAllowed {
        /// Those it may not use.
        refused: CpuList,
        /// Those it may use.
        allowed: CpuList,
    },
    /// No CPU is left to place a shard on.
    NoCpus,
    /// Zero shards were asked for.
    NoShards,
    /// The kernel refused a call.
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "can't read {}", path.display()),
            Self::CpuList { text } => {
                write!(f, "{text:?} is not a CPU list such as 2-7,9")
            }
            Self::Topology { detail } => write!(f, "hwloc gave no topology: {detail}"),
            Self::CpusNotAllowed { refused, allowed } => write!(
                f,
                "this process may not use the CPUs {refused}: choose among {allowed}, or widen \
                 its affinity or cpuset"
            ),
            Self::NoCpus => write!(f, "no CPU is left to place a shard on"),
            Self::NoShards => write!(f, "the number of shards is at least 1"),
            Self::System { call, .. } => write!(f, "the kernel refused {call}"),
        }
    }
}

impl std::error::Error for PlatformError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::System { source, .. } => Some(source),
            Self::CpuList { .. }
            | Self::Topology { .. }
            | Self::CpusNotAllowed { .. }
            | Self::NoCpus
            | Self::NoShards => None,
        }
    }
}
