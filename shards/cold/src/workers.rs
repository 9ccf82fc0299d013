//! Threads that work on the cold tier, so that no shard ever waits for it.
//!
//! *Invariants*: the queue is bounded: at its bound work is refused, never left to pile up.
//!
//! *Not here*: what is done (`tier`).

use std::sync::Arc;

use crate::tier::Tier;

/// What waits for a thread, at most.
const WAITING_MAX: usize = 1024;

type Job = Box<dyn FnOnce(&Tier) + Send>;

/// Too much waits for the cold tier already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Threads that work on one tier.
#[derive(Clone, Debug)]
pub struct Workers {
    tier: Arc<Tier>,
    jobs: flume::Sender<Job>,
}

impl Workers {
    /// Starts as many threads as requests may be in flight.
    ///
    /// # Errors
    /// Where the system starts no thread.
    pub fn start(tier: Arc<Tier>) -> std::io::Result<Self> {
        let (jobs, queue) = flume::bounded::<Job>(WAITING_MAX);
        for number in 0..tier.limits().requests_max {
            let (tier, queue) = (tier.clone(), queue.clone());
            let work = move || queue.iter().for_each(|job| job(&tier));
            std::thread::Builder::new().name(format!("cold-{number}")).spawn(work)?;
        }
        Ok(Self { tier, jobs })
    }

    /// The tier.
    pub fn tier(&self) -> &Arc<Tier> {
        &self.tier
    }

    /// Hands work to a thread.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn submit(&self, job: impl FnOnce(&Tier) + Send + 'static) -> Result<(), Busy> {
        self.jobs.try_send(Box::new(job)).map_err(|_| Busy)
    }

    /// Work that waits for a thread.
    pub fn waiting(&self) -> usize {
        self.jobs.len()
    }
}
