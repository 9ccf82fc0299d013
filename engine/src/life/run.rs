//! Consolidations: what was asked for, how far it is, and what came of it.
//!
//! *Invariants*: a run has one state; a dry run is never written down.
//!
//! *Not here*: what a run does (`shard::consolidate`).

use crate::model::{MemoryId, SpaceName, Timestamp};

/// Number of a run: when it was asked for, unique on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for RunId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// How a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunState {
    /// It is under way.
    Running = 0,
    /// It did all that was to do.
    Done = 1,
    /// The server stopped under it; what it did until then is whole.
    Stopped = 2,
    /// It could not go on; what it did until then is whole.
    Failed = 3,
    /// What it did is being taken back.
    Undoing = 4,
    /// What it did was taken back.
    Undone = 5,
}

impl RunState {
    /// All states, by number.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Done, Self::Stopped, Self::Failed, Self::Undoing, Self::Undone];

    /// The name that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }

    /// Something is under way.
    pub fn is_under_way(self) -> bool {
        match self {
            Self::Running | Self::Undoing => true,
            Self::Done | Self::Stopped | Self::Failed | Self::Undone => false,
        }
    }
}

/// What a run is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunPhase {
    /// Memories are compared with those like them.
    #[default]
    Compare,
    /// Those that say the same are merged.
    Merge,
    /// Weak automatic links are removed.
    Prune,
    /// What is little present goes to the cold tier.
    Demote,
    /// Nothing is left to do.
    Over,
}

impl RunPhase {
    /// The name that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compare => "compare",
            Self::Merge => "merge",
            Self::Prune => "prune",
            Self::Demote => "demote",
            Self::Over => "over",
        }
    }
}

/// What a run did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// Memories that were compared.
    pub compared: u64,
    /// Memories that were merged into others.
    pub merged: u64,
    /// Links that were removed.
    pub pruned: u64,
    /// Memories that went to the cold tier.
    pub demoted: u64,
}

/// A run as its log record holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which.
    pub id: RunId,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
    /// How it is doing.
    pub state: RunState,
    /// Base level below which memories are demoted.
    pub threshold: f32,
    /// What it did.
    pub counts: RunCounts,
}

impl Run {
    /// Share that is done, 0 to 1: of the memories that are compared, which is nearly all the work.
    pub fn progress(&self, total: u64) -> f64 {
        let share = self.counts.compared as f64 / total.max(1) as f64;
        if self.state.is_under_way() { share.min(0.99) } else { 1.0 }
    }
}

/// One memory with those that were merged into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// It.
    pub into: MemoryId,
    /// They.
    pub merged: Vec<MemoryId>,
}

/// One memory with how many of its links were removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Prune {
    /// It.
    pub from: MemoryId,
    /// How many.
    pub links: u32,
}

/// A run as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    /// What is written down of it.
    pub run: Run,
    /// Space.
    pub space: SpaceName,
    /// It only says what it would do.
    pub dry_run: bool,
    /// What it is at.
    pub phase: RunPhase,
    /// Memories that are to be compared.
    pub total: u64,
    /// Why it failed.
    pub reason: Option<String>,
    /// What was merged, by id; only where one run was asked for.
    pub merges: Vec<Merge>,
    /// Links of which memories were removed, in the order of ids; only where one run was asked for.
    pub prunes: Vec<Prune>,
    /// What was demoted, in the order of ids; only where one run was asked for.
    pub demotions: Vec<MemoryId>,
    /// There is more than is listed.
    pub more: bool,
}

impl RunView {
    /// What is known of a run that is over.
    pub fn over(space: SpaceName, run: Run) -> Self {
        Self {
            total: run.counts.compared,
            run,
            space,
            dry_run: false,
            phase: RunPhase::Over,
            reason: None,
            merges: Vec::new(),
            prunes: Vec::new(),
            demotions: Vec::new(),
            more: false,
        }
    }
}
