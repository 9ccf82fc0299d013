//! What the shell's budgets of memory and disk leave a shard to do.
//!
//! *Invariants*: at a budget nothing grows: what would is refused, what frees (forgetting, removing
//! links, dropping a space) and what reads goes on.
//!
//! *Not here*: how full memory and disk are (the shell measures them).

use crate::request::{Code, Rejection};

use super::{Shard, poisoned};

/// Bytes that the links and postings of a memory take once it is associated, about.
const ASSOCIATION_BYTES: u64 = 256;
/// Bytes that a vector's place in the index takes once it is built, about.
const INDEX_BYTES: u64 = 320;

/// Whether a shard may take what makes it grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// It may.
    #[default]
    Open,
    /// Memory is full.
    MemoryFull,
    /// The disk is full.
    DiskFull,
}

/// What the log finds on the disk for its next segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum LogRoom {
    /// Room is set aside.
    #[default]
    Enough = 0,
    /// None: what is left of the open segment is for what frees something.
    Last = 1,
    /// None, and the open segment is full.
    None = 2,
}

/// What a shard may do within the budgets of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Writes that grow it.
    pub writes: Writes,
    /// Associations and indexes are made.
    pub background: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { writes: Writes::Open, background: true }
    }
}

impl Shard {
    /// The log can be written.
    pub(super) fn check_writable(&self) -> Result<(), Rejection> {
        if self.poisoned {
            return Err(poisoned());
        }
        if self.log_room == LogRoom::None { Err(no_room()) } else { Ok(()) }
    }

    /// The log has found room, or none: whoever waits for it to be written is told.
    pub(super) fn on_log_room(&mut self, room: LogRoom) {
        self.log_room = room;
        if room == LogRoom::None {
            self.refuse_parked(&no_room());
        }
    }

    /// Checks that the log can be written, and that there is room for more.
    ///
    /// # Errors
    /// [`Code::Poisoned`], [`Code::MemoryBudget`], [`Code::DiskBudget`].
    pub(super) fn check_growable(&self) -> Result<(), Rejection> {
        self.check_writable()?;
        self.check_budget()?;
        if self.log_room == LogRoom::Enough {
            Ok(())
        } else {
            Err(Rejection::new(Code::DiskBudget, DISK_FULL))
        }
    }

    /// Checks what a home shard knows of every owner: the budgets, which are those of the process.
    /// Whether an owner's log can be written, the owner says; this shard's is not asked.
    ///
    /// # Errors
    /// [`Code::MemoryBudget`], [`Code::DiskBudget`].
    pub fn check_budget(&self) -> Result<(), Rejection> {
        match self.budget.writes {
            Writes::Open => Ok(()),
            Writes::MemoryFull => Err(Rejection::new(Code::MemoryBudget, MEMORY_FULL)),
            Writes::DiskFull => Err(Rejection::new(Code::DiskBudget, DISK_FULL)),
        }
    }

    /// Associations and indexes are made.
    pub fn makes_indexes(&self) -> bool {
        self.budget.background
    }

    /// Bytes that memories take beyond what they take now once everything that waits is done.
    pub fn owed_bytes(&self) -> u64 {
        let owed = self.spaces.values().map(|space| {
            let vectors = space.vectors.as_ref().map_or(0, |v| v.backlog() as u64);
            vectors * INDEX_BYTES + space.association_backlog() * ASSOCIATION_BYTES
        });
        owed.sum()
    }

    /// Vectors that wait for the index: every search compares them one by one.
    pub fn vectors_waiting(&self) -> usize {
        let waiting = |vectors: &crate::vector::VectorIndex| vectors.backlog();
        self.spaces.values().filter_map(|space| space.vectors.as_ref().map(waiting)).sum()
    }
}

const MEMORY_FULL: &str = "the memory budget of the server is reached, so writes are refused; \
                           reads go on; forget memories or raise the limit (ENGRAM_MEMORY_LIMIT)";
const DISK_FULL: &str = "the disk of the data directory is nearly full, so writes are refused; \
                         reads go on; forget memories or make the volume larger";

pub(super) fn no_room() -> Rejection {
    let detail = "the disk has no room for the log, so nothing is stored or forgotten; reads go on; \
                  make room, or the volume larger: what was asked for last may be done then";
    Rejection::new(Code::DiskBudget, detail)
}
