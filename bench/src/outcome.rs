//! What a run recorded: histograms, counts by status and by failure, a time line.
//!
//! *Invariants*: latencies of answers with status 2xx and of others are kept apart, and none is
//! left out; the number of intervals is bounded by the plan that chose their length.
//!
//! *Not here*: files and pictures of it (`hdr`, `plot`, `report`).

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// A client that waits for a CPU for more than this share of the time delays what it measures.
const WAITED_MAX: f64 = 0.2;
/// Longest latency that a histogram tells apart, in nanoseconds.
pub const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// It could not be written.
    Write,
    /// The answer could not be read.
    Read,
    /// The server closed the connection before the answer was complete.
    Closed,
    /// The bytes were no answer.
    Malformed,
    /// It took longer than the timeout.
    Timeout,
    /// The run ended first.
    NotAnswered,
}

impl Failure {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write failed",
            Self::Read => "read failed",
            Self::Closed => "connection closed",
            Self::Malformed => "malformed answer",
            Self::Timeout => "timeout",
            Self::NotAnswered => "not answered in time",
        }
    }
}

/// An empty histogram: nanoseconds, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants that fit")
}

/// What one operation of the mix did.
#[derive(Clone, Debug)]
pub struct OperationOutcome {
    /// Latency of answers with status 2xx, from the intended time.
    pub latency: Histogram<u64>,
    /// Latency of all other answers.
    pub refused: Histogram<u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without answer.
    pub failures: BTreeMap<Failure, u64>,
    /// Items that were refused within answers of status 2xx.
    pub refused_items: u64,
}

impl OperationOutcome {
    pub(crate) fn new() -> Self {
        Self {
            latency: histogram(),
            refused: histogram(),
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            refused_items: 0,
        }
    }

    /// Adds what another run of the operation did.
    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.refused.add(&other.refused).expect("all histograms have the same bounds");
        self.refused_items += other.refused_items;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
    }

    /// Answers with status 2xx.
    pub fn ok(&self) -> u64 {
        self.latency.len()
    }

    /// Everything else that was asked.
    pub fn not_ok(&self) -> u64 {
        self.refused.len() + self.failures.values().sum::<u64>()
    }
}

/// A piece of the time line.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Its number, from the end of the warm-up on.
    pub number: u64,
    /// Latency of all answers with status 2xx that came within it.
    pub latency: Histogram<u64>,
    /// Everything else that ended within it.
    pub not_ok: u64,
}

/// What one thread recorded; what arrived during the warm-up is only counted.
#[derive(Clone, Debug)]
pub struct ThreadOutcome {
    /// Requests sent, the warm-up included.
    pub sent: u64,
    /// Arrivals within the window that could not even be sent.
    pub not_sent: u64,
    /// Bytes of answers.
    pub bytes_received: u64,
    /// Connections opened anew.
    pub reconnects: u64,
    /// Connections that could not be opened.
    pub failed_connects: u64,
    /// For each operation of the mix.
    pub operations: Vec<OperationOutcome>,
    /// From sending to an answer with status 2xx, without the wait for a free connection.
    pub service: Histogram<u64>,
    /// How late requests left although a connection was free: the client's own fault.
    pub lateness: Histogram<u64>,
    /// The time line.
    pub intervals: Vec<Interval>,
    /// CPU time of the client thread in the window.
    pub cpu_ns: u64,
    /// Time in the window in which the client thread could have gone on, but others had its CPU.
    pub waited_ns: u64,
    /// Length of the window.
    pub measured_ns: u64,
    /// End of the last answer that counted.
    pub last_answer_ns: u64,
    warm_up_ns: u64,
    interval_ns: u64,
    current: Interval,
}

impl ThreadOutcome {
    /// Nothing yet.
    pub fn new(operations: usize, warm_up_ns: u64, interval_ns: u64) -> Self {
        Self {
            sent: 0,
            not_sent: 0,
            bytes_received: 0,
            reconnects: 0,
            failed_connects: 0,
            operations: vec![OperationOutcome::new(); operations],
            service: histogram(),
            lateness: histogram(),
            intervals: Vec::new(),
            cpu_ns: 0,
            waited_ns: 0,
            measured_ns: 0,
            last_answer_ns: 0,
            warm_up_ns,
            interval_ns,
            current: Interval { number: 0, latency: histogram(), not_ok: 0 },
        }
    }

    /// A request leaves that could have left at `ready_ns`.
    pub fn note_send(&mut self, due_ns: u64, ready_ns: u64, sent_ns: u64) {
        if due_ns >= self.warm_up_ns {
            self.lateness.saturating_record(sent_ns.saturating_sub(ready_ns));
        }
    }

    /// An answer came.
    pub fn answered(
        &mut self,
        operation: usize,
        status: u16,
        due_ns: u64,
        sent_ns: u64,
        now_ns: u64,
    ) {
        if due_ns < self.warm_up_ns {
            return;
        }
        self.turn_interval(now_ns);
        self.last_answer_ns = now_ns;
        let latency_ns = now_ns - due_ns;
        let outcome = &mut self.operations[operation];
        *outcome.statuses.entry(status).or_default() += 1;
        if (200..300).contains(&status) {
            self.service.saturating_record(now_ns - sent_ns);
            outcome.latency.saturating_record(latency_ns);
            self.current.latency.saturating_record(latency_ns);
        } else {
            outcome.refused.saturating_record(latency_ns);
            self.current.not_ok += 1;
        }
    }

    /// Verdicts within an answer refused items.
    pub fn refused_items(&mut self, operation: usize, due_ns: u64, count: u64) {
        if due_ns >= self.warm_up_ns {
            self.operations[operation].refused_items += count;
        }
    }

    /// A request ended without answer.
    pub fn failed(&mut self, operation: usize, failure: Failure, due_ns: u64) {
        if due_ns >= self.warm_up_ns {
            *self.operations[operation].failures.entry(failure).or_default() += 1;
            self.current.not_ok += 1;
        }
    }

    /// Ends the current interval where its time is over.
    fn turn_interval(&mut self, now_ns: u64) {
        let number = now_ns.saturating_sub(self.warm_up_ns) / self.interval_ns;
        if number > self.current.number {
            self.close_interval(number);
        }
    }

    /// Ends the current interval; `number` is the next one.
    pub fn close_interval(&mut self, number: u64) {
        let next = Interval { number, latency: histogram(), not_ok: 0 };
        let ended = std::mem::replace(&mut self.current, next);
        if ended.latency.len() + ended.not_ok > 0 {
            self.intervals.push(ended);
        }
    }
}

/// What a whole run recorded.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Names of the operations.
    pub names: Vec<String>,
    /// What one request of each counts for.
    pub items: Vec<u64>,
    /// For each operation.
    pub operations: Vec<OperationOutcome>,
    /// From sending to an answer with status 2xx.
    pub service: Histogram<u64>,
    /// How late requests left although a connection was free: the client's own fault.
    pub lateness: Histogram<u64>,
    /// The time line.
    pub intervals: Vec<Interval>,
    /// Arrivals that could not be sent.
    pub not_sent: u64,
    /// Requests that were sent, warm-up included.
    pub sent: u64,
    /// Bytes of answers, warm-up included.
    pub bytes_received: u64,
    /// Connections opened anew.
    pub reconnects: u64,
    /// Connections that could not be opened.
    pub failed_connects: u64,
    /// Length of the measured window in seconds, up to the last answer that counted.
    pub measured_s: f64,
    /// Share of its window that the busiest client thread computed, 0 to 1.
    pub client_busy: f64,
    /// Share of its window that a client thread waited for a CPU that others had, the longest.
    pub client_waited: f64,
    /// The clients polled, so that `client_busy` says nothing.
    pub spin: bool,
    /// Requests a second that were meant to be sent; `None` in a closed loop.
    pub offered: Option<f64>,
    /// Length of one interval in seconds.
    pub interval_s: f64,
}

/// What of an outcome comes from how it was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Names of the operations.
    pub names: Vec<String>,
    /// What one request of each counts for.
    pub items: Vec<u64>,
    /// Requests a second; `None` in a closed loop.
    pub offered: Option<f64>,
    /// The clients poll.
    pub spin: bool,
    /// Length of one interval in seconds.
    pub interval_s: f64,
}

impl Outcome {
    /// Adds up what the threads recorded.
    pub fn collect(threads: Vec<ThreadOutcome>, asked: Asked) -> Self {
        let mut total = Self {
            operations: vec![OperationOutcome::new(); asked.names.len()],
            names: asked.names,
            items: asked.items,
            service: histogram(),
            lateness: histogram(),
            intervals: Vec::new(),
            not_sent: 0,
            sent: 0,
            bytes_received: 0,
            reconnects: 0,
            failed_connects: 0,
            measured_s: 0.0,
            client_busy: 0.0,
            client_waited: 0.0,
            spin: asked.spin,
            offered: asked.offered,
            interval_s: asked.interval_s,
        };
        for thread in threads {
            total.add(thread);
        }
        total.intervals.sort_by_key(|interval| interval.number);
        total
    }

    fn add(&mut self, thread: ThreadOutcome) {
        for (sum, one) in self.operations.iter_mut().zip(&thread.operations) {
            sum.add(one);
        }
        self.service.add(&thread.service).expect("all histograms have the same bounds");
        self.lateness.add(&thread.lateness).expect("all histograms have the same bounds");
        self.not_sent += thread.not_sent;
        self.sent += thread.sent;
        self.bytes_received += thread.bytes_received;
        self.reconnects += thread.reconnects;
        self.failed_connects += thread.failed_connects;
        let end_ns = thread.last_answer_ns.max(thread.warm_up_ns + thread.measured_ns);
        let measured_s = end_ns.saturating_sub(thread.warm_up_ns) as f64 / 1e9;
        self.measured_s = self.measured_s.max(measured_s);
        if thread.measured_ns > 0 {
            let busy = thread.cpu_ns as f64 / thread.measured_ns as f64;
            self.client_busy = self.client_busy.max(busy);
            let waited = thread.waited_ns as f64 / thread.measured_ns as f64;
            self.client_waited = self.client_waited.max(waited);
        }
        self.merge_intervals(thread.intervals);
    }

    fn merge_intervals(&mut self, intervals: Vec<Interval>) {
        for interval in intervals {
            match self.intervals.iter_mut().find(|sum| sum.number == interval.number) {
                None => self.intervals.push(interval),
                Some(sum) => {
                    sum.latency.add(&interval.latency).expect("the same bounds");
                    sum.not_ok += interval.not_ok;
                }
            }
        }
    }

    /// Latency of all answers with status 2xx.
    pub fn latency(&self) -> Histogram<u64> {
        let mut sum = histogram();
        for operation in &self.operations {
            sum.add(&operation.latency).expect("all histograms have the same bounds");
        }
        sum
    }

    /// Answers with status 2xx.
    pub fn ok(&self) -> u64 {
        self.operations.iter().map(OperationOutcome::ok).sum()
    }

    /// Everything that arrived and did not end with status 2xx.
    pub fn not_ok(&self) -> u64 {
        self.not_sent + self.operations.iter().map(OperationOutcome::not_ok).sum::<u64>()
    }

    /// Items that were refused within answers of status 2xx.
    pub fn refused_items(&self) -> u64 {
        self.operations.iter().map(|operation| operation.refused_items).sum()
    }

    /// Answers with status 2xx a second.
    pub fn ok_per_s(&self) -> f64 {
        self.ok() as f64 / self.measured_s.max(1e-9)
    }

    /// Items (memories, recalls) a second, of answers with status 2xx.
    pub fn items_per_s(&self) -> f64 {
        let stored = |(o, n): (&OperationOutcome, &u64)| (o.ok() * n) - o.refused_items;
        let items: u64 = self.operations.iter().zip(&self.items).map(stored).sum();
        items as f64 / self.measured_s.max(1e-9)
    }

    /// Why the figures say more about the client than about the server, if they do.
    pub fn saturation(&self) -> Option<String> {
        if !self.spin && self.client_busy > 0.9 {
            return Some(format!(
                "a client thread computed {:.0} % of the time: the client is the bottleneck, give \
                 it more threads or CPUs",
                self.client_busy * 100.0
            ));
        }
        if self.client_waited > WAITED_MAX {
            return Some(format!(
                "a client thread computed {:.0} % of the time and waited for a CPU that others had \
                 for {:.0} %: the client is the bottleneck, give it a CPU of its own",
                self.client_busy * 100.0,
                self.client_waited * 100.0
            ));
        }
        let late_us = self.lateness.value_at_quantile(0.99) as f64 / 1e3;
        let p99_us = self.latency().value_at_quantile(0.99) as f64 / 1e3;
        if self.offered.is_some() && late_us > 200.0 && late_us > 0.2 * p99_us {
            return Some(format!(
                "1 % of the requests left {late_us:.0} µs late or more although a connection was \
                 free: the client does not keep to its schedule"
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(computed: u64, waited: u64, spin: bool) -> Outcome {
        let mut thread = ThreadOutcome::new(1, 0, 1);
        (thread.cpu_ns, thread.waited_ns, thread.measured_ns) = (computed, waited, 100);
        let (names, items) = (vec!["get".to_owned()], vec![1]);
        let asked = Asked { names, items, offered: None, spin, interval_s: 1.0 };
        Outcome::collect(vec![thread], asked)
    }

    #[test]
    fn a_client_that_computes_all_the_time_or_waits_for_a_cpu_is_called_the_bottleneck() {
        let says = |computed, waited, spin| outcome(computed, waited, spin).saturation();
        assert!(says(95, 0, false).is_some_and(|why| why.contains("computed 95 %")));
        assert!(says(46, 50, false).is_some_and(|why| why.contains("had for 50 %")));
        assert!(says(75, 25, true).is_some_and(|why| why.contains("had for 25 %")));
        assert_eq!(says(46, 15, false), None);
        assert_eq!(says(99, 1, true), None);
    }
}
