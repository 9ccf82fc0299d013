//! Time that the server lived through.
//!
//! *Invariants*: it never goes back, and one step of the clock counts for an hour at most: a clock
//! that is set forwards or backwards, or a server that was off, ages no memory by more than that.
//!
//! *Not here*: points in time (`model::Timestamp`), which are the clock's, jumps and all.

use crate::model::Timestamp;

/// Seconds that a data directory has lived; 136 years fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lived(pub u32);

impl Lived {
    /// Seconds since `earlier`; none where that is later.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Most that one step of the clock counts for.
const STEP_US_MAX: i64 = 3_600_000_000;
const SECOND_US: i64 = 1_000_000;

/// Adds up steps of a clock, but not its jumps.
#[derive(Clone, Copy, Debug, Default)]
pub struct LivedClock {
    lived_us: i64,
    wall: Option<Timestamp>,
}

impl LivedClock {
    /// The clock shows `now`.
    pub fn advance(&mut self, now: Timestamp) {
        let step = self.wall.map_or(0, |wall| now.0.saturating_sub(wall.0));
        self.lived_us = self.lived_us.saturating_add(step.clamp(0, STEP_US_MAX));
        self.wall = Some(now);
    }

    /// Somebody else lived longer.
    pub fn heard(&mut self, lived: Lived) {
        self.lived_us = self.lived_us.max(i64::from(lived.0) * SECOND_US);
    }

    /// Whole seconds.
    pub fn lived(&self) -> Lived {
        Lived(u32::try_from(self.lived_us / SECOND_US).unwrap_or(u32::MAX))
    }
}
