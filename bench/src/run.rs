//! A run: threads, connections and arrivals divided, driven at once and added up.
//!
//! *Invariants*: all threads share one start; time and count are bounded.
//!
//! *Not here*: the loop of one thread (`client`), which runs there are (`workload`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{self, Pace, Plan, Window};
use crate::operations::{Operation, Source};
use crate::outcome::{Asked, Outcome};
use crate::schedule::{Gaps, Schedule};

/// Most intervals of a time line.
const INTERVALS_MAX: f64 = 120.0;

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// This many clients, each waits for its answer and asks again.
    Closed {
        /// Clients, each with a connection.
        clients: usize,
    },
    /// This many requests a second, whatever the answers do.
    Open {
        /// Requests a second over all connections.
        rate: f64,
        /// How the gaps are drawn.
        gaps: Gaps,
        /// Connections.
        connections: usize,
    },
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The server.
    pub address: SocketAddr,
    /// How requests arrive.
    pub load: Load,
    /// Client threads, at most one for each connection.
    pub threads: usize,
    /// CPUs that the threads are pinned to, round and round; empty: not pinned.
    pub cpus: Vec<usize>,
    /// Seconds that are not recorded.
    pub warm_up_s: f64,
    /// Seconds that are.
    pub duration_s: f64,
    /// Seconds after which an answer is given up.
    pub timeout_s: f64,
    /// The threads poll.
    pub spin: bool,
    /// Of arrivals, picks and fresh ids.
    pub seed: u64,
    /// Requests after which a closed loop stops; warm-up included.
    pub requests_max: Option<u64>,
}

impl Run {
    fn connections(&self) -> usize {
        match self.load {
            Load::Closed { clients } => clients,
            Load::Open { connections, .. } => connections,
        }
    }

    fn window(&self, interval_s: f64) -> Window {
        let ns = |s: f64| (s * 1e9) as u64;
        let end_s = self.warm_up_s + self.duration_s;
        Window {
            warm_up_ns: ns(self.warm_up_s),
            end_ns: ns(end_s),
            give_up_ns: ns(end_s + self.timeout_s.min(30.0)),
            interval_ns: ns(interval_s).max(1),
            timeout_ns: ns(self.timeout_s),
        }
    }

    fn plan(&self, thread: usize, threads: usize, operations: &Arc<[Operation]>) -> Plan {
        let share = |n: usize| n / threads + usize::from(thread < n % threads);
        let pace = match self.load {
            Load::Closed { .. } => Pace::Closed,
            Load::Open { rate, gaps, .. } => {
                let seed = self.seed.wrapping_mul(1009).wrapping_add(thread as u64);
                let offset = thread as f64 / threads as f64;
                Pace::Open(Schedule::new(rate / threads as f64, gaps, seed, offset))
            }
        };
        let requests_max = self.requests_max.map_or(u64::MAX, |max| share(max as usize) as u64);
        Plan {
            address: self.address,
            connections: share(self.connections()),
            pace,
            source: Source::new(operations.clone(), self.seed, thread as u64),
            window: self.window(interval_s(self.duration_s)),
            cpu: (!self.cpus.is_empty()).then(|| self.cpus[thread % self.cpus.len()]),
            spin: self.spin,
            requests_max,
        }
    }
}

fn interval_s(duration_s: f64) -> f64 {
    (duration_s / INTERVALS_MAX).max(0.25)
}

/// Drives the operations and returns what was recorded.
///
/// # Errors
/// What kept a thread from starting: pinning, or its first connections.
pub fn drive(run: &Run, operations: &Arc<[Operation]>) -> io::Result<Outcome> {
    assert!(run.connections() > 0, "a run has a connection");
    let threads = run.threads.clamp(1, run.connections());
    let start = Instant::now() + Duration::from_millis(5);
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let plan = run.plan(thread, threads, operations);
            std::thread::spawn(move || client::drive(plan, start))
        })
        .collect();
    let mut outcomes = Vec::with_capacity(threads);
    for worker in workers {
        outcomes.push(worker.join().map_err(|_| io::Error::other("a client thread panicked"))??);
    }
    let offered = match run.load {
        Load::Closed { .. } => None,
        Load::Open { rate, .. } => Some(rate),
    };
    let asked = Asked {
        names: operations.iter().map(|operation| operation.name.clone()).collect(),
        items: operations.iter().map(|operation| operation.items).collect(),
        offered,
        spin: run.spin,
        interval_s: interval_s(run.duration_s),
    };
    Ok(Outcome::collect(outcomes, asked))
}
