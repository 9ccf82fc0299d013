//! Work on the processor in slices, so that sockets are served in between.
//!
//! *Invariants*: no longer than a slice and one step passes between two rests.
//!
//! *Not here*: the slices of shards, which have a clock of their own.

use std::time::{Duration, Instant};

/// How long work goes on: an executor that never idles leaves its sockets alone (docs/design.md).
const SLICE: Duration = Duration::from_micros(45);
/// How long it rests: anything above zero lets the executor poll its sockets.
const REST: Duration = Duration::from_micros(1);

/// Work that began at some time.
#[derive(Debug)]
pub struct Slice(Instant);

impl Slice {
    /// Begins now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Rests, where the slice is over.
    pub async fn rest_if_due(&mut self) {
        if self.0.elapsed() > SLICE {
            glommio::timer::sleep(REST).await;
            *self = Self::begin();
        }
    }
}
