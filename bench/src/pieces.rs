//! A number of requests in pieces of about a second, with how full the server is noted between them.
//!
//! *Invariants*: every request ends up in exactly one count; what is refused at a stated ceiling
//! (429, 507) is told from what failed.
//!
//! *Not here*: one piece (`run`), what is asked (`workload`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::operations::Operation;
use crate::outcome::{Failure, OperationOutcome, histogram};
use crate::run::{self, Run};

/// Requests of the first piece, and bounds of those that follow.
const FIRST: u64 = 200;
const PIECE_MAX: u64 = 50_000;
/// Statuses by which a server says that it is at a ceiling.
const CEILINGS: [u16; 2] = [429, 507];
/// Width of a band of fill, in units of 1/1000.
pub const BAND: u64 = 50;

/// What all pieces did.
#[derive(Debug)]
pub struct Pieces {
    /// Names of the operations.
    pub names: Vec<String>,
    /// For each operation.
    pub operations: Vec<OperationOutcome>,
    /// For each operation, latency of good answers by how full the server was: lower bound of the
    /// band in units of 1/1000.
    pub by_fill: Vec<BTreeMap<u64, Histogram<u64>>>,
    /// The fullest that was noted, in units of 1/1000.
    pub fullest: u64,
    /// Connections that could not be opened.
    pub failed_connects: u64,
    /// Time of all pieces together.
    pub seconds: f64,
}

/// Good, refused and failed requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers with status 2xx.
    pub ok: u64,
    /// Refused at a ceiling.
    pub refused: u64,
    /// Everything else.
    pub failed: u64,
}

impl Counts {
    /// Of one operation.
    pub fn of(operation: &OperationOutcome) -> Self {
        let statuses = operation.statuses.iter();
        let not_ok = statuses.filter(|(status, _)| !(200..300).contains(*status));
        let (refused, failed): (Vec<_>, Vec<_>) =
            not_ok.partition(|(status, _)| CEILINGS.contains(status));
        let sum = |counts: Vec<(&u16, &u64)>| counts.into_iter().map(|(_, count)| count).sum();
        let failures: u64 = operation.failures.values().sum();
        Self {
            ok: operation.ok(),
            refused: sum(refused),
            failed: sum(failed) + operation.refused_items + failures,
        }
    }
}

/// Drives `count` requests; `fill` says how full the server is, in units of 1/1000, and `show` how
/// many requests are done.
///
/// # Errors
/// What kept a piece from starting.
pub fn drive(
    run: &Run,
    operations: &Arc<[Operation]>,
    count: u64,
    fill: &dyn Fn() -> u64,
    show: &mut dyn FnMut(u64),
) -> io::Result<Pieces> {
    let mut all = Pieces::new(operations);
    let (mut done, mut next) = (0, FIRST);
    let mut piece = run.clone();
    while done < count {
        let requests = next.min(count - done);
        let (began, before) = (Instant::now(), fill());
        piece.requests_max = Some(requests);
        piece.seed += 1;
        let outcome = run::drive(&piece, operations)?;
        let seconds = began.elapsed().as_secs_f64();
        let after = fill();
        all.add(&outcome.operations, before.midpoint(after));
        all.fullest = all.fullest.max(before).max(after);
        all.failed_connects += outcome.failed_connects;
        all.seconds += seconds;
        done += requests;
        next = ((requests as f64 / seconds.max(1e-3)) as u64).clamp(FIRST, PIECE_MAX);
        show(done);
    }
    Ok(all)
}

impl Pieces {
    fn new(operations: &Arc<[Operation]>) -> Self {
        Self {
            names: operations.iter().map(|operation| operation.name.clone()).collect(),
            operations: operations.iter().map(|_| OperationOutcome::new()).collect(),
            by_fill: vec![BTreeMap::new(); operations.len()],
            fullest: 0,
            failed_connects: 0,
            seconds: 0.0,
        }
    }

    fn add(&mut self, piece: &[OperationOutcome], fill: u64) {
        let band = fill / BAND * BAND;
        for ((sum, one), bands) in
            self.operations.iter_mut().zip(piece).zip(self.by_fill.iter_mut())
        {
            sum.add(one);
            let latency = bands.entry(band).or_insert_with(histogram);
            latency.add(&one.latency).expect("all histograms have the same bounds");
        }
    }

    /// Counts of all operations together.
    pub fn counts(&self) -> Counts {
        self.operations.iter().map(Counts::of).fold(Counts::default(), |sum, one| Counts {
            ok: sum.ok + one.ok,
            refused: sum.refused + one.refused,
            failed: sum.failed + one.failed,
        })
    }

    /// What went wrong, with how often: `store: status 503`, `read: timeout`.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        let mut faults = BTreeMap::new();
        for (name, operation) in self.names.iter().zip(&self.operations) {
            for (status, count) in &operation.statuses {
                if !(200..300).contains(status) && !CEILINGS.contains(status) {
                    faults.insert(format!("{name}: status {status}"), *count);
                }
            }
            let kinds: &BTreeMap<Failure, u64> = &operation.failures;
            for (failure, count) in kinds {
                faults.insert(format!("{name}: {}", failure.name()), *count);
            }
            if operation.refused_items > 0 {
                faults.insert(format!("{name}: item refused"), operation.refused_items);
            }
        }
        faults
    }
}
