//! The result of a session as small text that is kept, compared and turned into pages.
//!
//! *Invariants*: times are microseconds; a result holds its machine and its command.
//!
//! *Not here*: whole histograms (`hdr`), pages (`report`, `pages`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::hdr::micros;
use crate::loader::Loaded;
use crate::machine::Machine;
use crate::outcome::{OperationOutcome, Outcome};
use crate::run::Load;

/// All that a session measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionResult {
    /// Name of the workload.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// What was measured, where several servers are compared.
    pub server: String,
    /// The machine.
    pub machine: Machine,
    /// Memories in the data set.
    pub memories: u64,
    /// Loading, where the session stored the data set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loaded: Option<Loaded>,
    /// Share of the right answers among the first ten of vector search.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recall_at_10: Option<f64>,
    /// What has to happen before a write is answered, where servers are compared that differ in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub durability: Option<String>,
    /// The runs.
    pub steps: Vec<StepResult>,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// Its name.
    pub name: String,
    /// How requests arrived.
    pub load: String,
    /// Requests a second that were meant to be sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offered_per_s: Option<f64>,
    /// Answers with status 2xx.
    pub ok: u64,
    /// All other requests.
    pub not_ok: u64,
    /// Items refused within answers of status 2xx.
    #[serde(default)]
    pub refused_items: u64,
    /// Answers with status 2xx a second.
    pub ok_per_s: f64,
    /// Items a second.
    pub items_per_s: f64,
    /// Latency of answers with status 2xx.
    pub latency_us: Percentiles,
    /// Rounds in which several servers took turns; ratios are taken within each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rounds: Vec<Round>,
    /// By operation of the mix, where it has several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub operations: BTreeMap<String, OperationResult>,
    /// Statuses and failures that are not 2xx.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub problems: BTreeMap<String, u64>,
    /// CPU time of the server for each request that was sent, warm-up included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server_cpu_us: Option<f64>,
    /// Share of the time that the busiest client thread computed.
    pub client_busy: f64,
    /// How late requests left by the client's own fault, 99th percentile.
    pub client_late_us_p99: f64,
    /// The clients polled.
    #[serde(default)]
    pub spin: bool,
    /// Why a ramp ended with this run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_sustained: Option<String>,
    /// Why the figures say more about the client than about the server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_saturated: Option<String>,
}

/// One of the rounds of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Median latency in microseconds.
    pub p50: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// Answers with status 2xx a second.
    pub ok_per_s: f64,
}

/// One operation of a mix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationResult {
    /// Answers with status 2xx.
    pub ok: u64,
    /// All other requests that were sent.
    pub not_ok: u64,
    /// Latency of answers with status 2xx.
    pub latency_us: Percentiles,
}

/// A distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are shorter.
    pub p50: f64,
    /// 9 of 10 are shorter.
    pub p90: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// 999 of 1,000 are shorter.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Percentiles {
    /// Of a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| tenth(micros(histogram.value_at_quantile(quantile)));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: tenth(micros(histogram.max())),
            mean: tenth(histogram.mean() / 1e3),
        }
    }
}

fn tenth(us: f64) -> f64 {
    (us * 10.0).round() / 10.0
}

fn thousandth(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

impl StepResult {
    /// Sums up an outcome.
    pub fn of(name: &str, load: Load, outcome: &Outcome) -> Self {
        let several = outcome.names.len() > 1;
        let named = outcome.names.iter().cloned().zip(outcome.operations.iter());
        Self {
            name: name.to_owned(),
            load: describe(load),
            offered_per_s: outcome.offered.map(tenth),
            ok: outcome.ok(),
            not_ok: outcome.not_ok(),
            refused_items: outcome.refused_items(),
            ok_per_s: tenth(outcome.ok_per_s()),
            items_per_s: tenth(outcome.items_per_s()),
            latency_us: Percentiles::of(&outcome.latency()),
            rounds: Vec::new(),
            operations: named
                .filter(|_| several)
                .map(|(name, operation)| (name, OperationResult::of(operation)))
                .collect(),
            problems: problems(outcome),
            server_cpu_us: None,
            client_busy: thousandth(outcome.client_busy),
            client_late_us_p99: tenth(micros(outcome.lateness.value_at_quantile(0.99))),
            spin: outcome.spin,
            not_sustained: None,
            client_saturated: outcome.saturation(),
        }
    }

    /// What a reader must know beside the figures.
    pub fn notes(&self) -> impl Iterator<Item = &String> {
        self.not_sustained.iter().chain(&self.client_saturated)
    }

    /// One line for a terminal.
    pub fn line(&self) -> String {
        let l = &self.latency_us;
        let mut line = format!(
            "{:28} {:>9.0}/s  P50 {:.0}  P90 {:.0}  P99 {:.0}  P99.9 {:.0}  max {:.0} µs",
            self.name, self.ok_per_s, l.p50, l.p90, l.p99, l.p999, l.max
        );
        if let Some(cpu_us) = self.server_cpu_us {
            line.push_str(&format!("  server {cpu_us:.0} µs CPU a request"));
        }
        if (self.items_per_s - self.ok_per_s).abs() > 1.0 {
            line.push_str(&format!("  ({:.0} items/s)", self.items_per_s));
        }
        for (name, operation) in &self.operations {
            let l = &operation.latency_us;
            line.push_str(&format!(
                "\n    {name:24} {:>9} ok  P50 {:.0}  P90 {:.0}  P99 {:.0}  P99.9 {:.0} µs",
                operation.ok, l.p50, l.p90, l.p99, l.p999
            ));
        }
        for (problem, count) in &self.problems {
            line.push_str(&format!("\n    {count} × {problem}"));
        }
        for reason in self.notes() {
            line.push_str(&format!("\n    note: {reason}"));
        }
        line
    }

    /// Everything that was asked was done.
    pub fn is_clean(&self) -> bool {
        self.not_ok == 0 && self.refused_items == 0 && self.ok > 0
    }
}

impl OperationResult {
    fn of(operation: &OperationOutcome) -> Self {
        Self {
            ok: operation.ok(),
            not_ok: operation.not_ok(),
            latency_us: Percentiles::of(&operation.latency),
        }
    }
}

fn describe(load: Load) -> String {
    match load {
        Load::Closed { clients } => format!("closed loop, {clients} clients"),
        Load::Open { rate, gaps, connections } => {
            format!("open loop, {rate:.0}/s, {gaps:?}, {connections} connections").to_lowercase()
        }
    }
}

fn problems(outcome: &Outcome) -> BTreeMap<String, u64> {
    let mut problems = BTreeMap::new();
    for operation in &outcome.operations {
        for (status, count) in &operation.statuses {
            if !(200..300).contains(status) {
                *problems.entry(format!("status {status}")).or_default() += count;
            }
        }
        for (failure, count) in &operation.failures {
            *problems.entry(failure.name().to_owned()).or_default() += count;
        }
    }
    let others = [
        ("not sent", outcome.not_sent),
        ("connection refused", outcome.failed_connects),
        ("item refused", outcome.refused_items()),
    ];
    for (name, count) in others.into_iter().filter(|(_, count)| *count > 0) {
        problems.insert(name.to_owned(), count);
    }
    problems
}

impl SessionResult {
    /// Reads a kept result.
    ///
    /// # Errors
    /// Those of the system; `InvalidData` where it is no result.
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(|e| {
            let text = format!("{}: {e}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    /// As it is kept.
    pub fn to_text(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("a result is plain data");
        json + "\n"
    }
}
