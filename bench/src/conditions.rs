//! Recall under conditions: alone, beside other work, with memory nearly full, with more asked than
//! can be done. Each row of a table is one condition.
//!
//! *Invariants*: recalls arrive in an open loop of the same rate in every row but those of overload,
//! so that the rows can be compared.
//!
//! *Not here*: the server (`child`), one run (`run`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::child::{Folder, Served};
use crate::dataset::{Dataset, VectorForm};
use crate::http::{Connection, JSON};
use crate::loader::{self, Loading};
use crate::operations::Operation;
use crate::outcome::{OperationOutcome, Outcome};
use crate::result::Percentiles;
use crate::run::{self, Load, Run};
use crate::schedule::Gaps;
use crate::workload::{DatasetSpec, Workload};

/// Clients that find the peak.
const PEAK_CLIENTS: usize = 64;
/// Connections of the open loops.
const CONNECTIONS: usize = 64;
/// Those of an overload: more than the server works on at once.
const OVERLOAD_CONNECTIONS: usize = 1024;
/// The common rate, as a share of the peak.
const QUIET_SHARE: f64 = 0.1;
/// What the server may hold of the restarted one's limit.
const NEARLY_FULL: f64 = 0.94;
const SETTLE_MAX: Duration = Duration::from_secs(600);

/// How conditions are measured.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// The `engram` command.
    pub engram: PathBuf,
    /// Memories that are stored before.
    pub memories: u64,
    /// Seconds of each row.
    pub duration_s: f64,
    /// CPUs of the clients; empty: any.
    pub client_cpus: Vec<usize>,
    /// Flags of `engram serve`.
    pub flags: Vec<String>,
}

/// Recalls under one condition; times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The condition.
    pub condition: String,
    /// Recalls a second that were asked for; `None`: as many as a closed loop of clients asks.
    pub offered_per_s: Option<f64>,
    /// Answers with status 2xx a second.
    pub ok_per_s: f64,
    /// Refused with 429 or 503.
    pub refused: u64,
    /// Everything else that was no answer with 2xx.
    pub failed: u64,
    /// Of good answers: from the time that the schedule meant, or under overload from sending.
    pub latency_us: Percentiles,
    /// What else there is to say.
    pub remark: String,
}

impl Row {
    fn of(condition: &str, outcome: &Outcome, latency: &Histogram<u64>) -> Self {
        let operations = &outcome.operations;
        let refused_of = |status: &u16| [429, 503].contains(status);
        let statuses = operations.iter().flat_map(|o| &o.statuses);
        let refused = statuses.filter(|(status, _)| refused_of(status)).map(|(_, n)| n).sum();
        let not_ok: u64 = operations.iter().map(OperationOutcome::not_ok).sum();
        Self {
            condition: condition.to_owned(),
            offered_per_s: outcome.offered,
            ok_per_s: outcome.ok_per_s(),
            refused,
            failed: not_ok - refused,
            latency_us: Percentiles::of(latency),
            remark: String::new(),
        }
    }

    /// More was asked for than can be done: what could not be sent is no failure of the server's.
    pub fn is_overload(&self) -> bool {
        self.refused > 0
    }

    /// For a terminal.
    pub fn line(&self) -> String {
        let Percentiles { p50, p99, p999, .. } = self.latency_us;
        let offered = self.offered_per_s.map_or("closed".to_owned(), |rate| format!("{rate:.0}"));
        format!(
            "{:26}{offered:>10}{:>10.0}{p50:>10.0}{p99:>10.0}{p999:>10.0}{:>9}{:>8}  {}",
            self.condition, self.ok_per_s, self.refused, self.failed, self.remark
        )
    }
}

/// Names of the columns of [`Row::line`].
pub fn head() -> String {
    let names = ["asked/s", "ok/s", "P50 µs", "P99 µs", "P99.9 µs"];
    let columns = names.iter().fold(format!("{:26}", "recall"), |line, n| format!("{line}{n:>10}"));
    format!("{columns}{:>9}{:>8}", "refused", "failed")
}

/// A server with memories in it, and the recalls that it is asked for.
struct Stage {
    served: Served,
    set: Dataset,
    recalls: Arc<[Operation]>,
    duration_s: f64,
    client_cpus: Vec<usize>,
    runs: u64,
}

impl Stage {
    fn load(conditions: &Conditions, folder: &Path) -> io::Result<Self> {
        let served = Served::start(&conditions.engram, folder, &conditions.flags)?;
        let mut workload = Workload::benchmark();
        workload.dataset = workload.dataset.with_memories(conditions.memories);
        workload.operations.retain(|operation| operation.name == "recall");
        let set = workload.dataset.open(None)?;
        let (address, vectors) = (served.address, VectorForm::Base64);
        let loading = Loading { address, connections: 2, lines: 500, vectors, cpu: None };
        let loaded = loader::load(&set, loading, &|_| {})?;
        if loaded.refused > 0 {
            return Err(io::Error::other(format!("memories were refused: {:?}", loaded.refusals)));
        }
        loader::settle(address, SETTLE_MAX)?;
        let recalls = workload.operations(&set, &address.to_string(), 1);
        let (duration_s, client_cpus) = (conditions.duration_s, conditions.client_cpus.clone());
        Ok(Self { served, set, recalls, duration_s, client_cpus, runs: 0 })
    }

    fn drive(&mut self, load: Load) -> io::Result<Outcome> {
        self.runs += 1;
        let run = Run {
            address: self.served.address,
            load,
            threads: 1,
            cpus: self.client_cpus.clone(),
            warm_up_s: 1.0,
            duration_s: self.duration_s,
            timeout_s: 10.0,
            spin: false,
            seed: self.runs,
            requests_max: None,
        };
        run::drive(&run, &self.recalls)
    }

    fn at_rate(&mut self, condition: &str, rate: f64) -> io::Result<Row> {
        let connections = CONNECTIONS;
        let outcome = self.drive(Load::Open { rate, gaps: Gaps::Poisson, connections })?;
        let latency = outcome.latency();
        Ok(Row::of(condition, &outcome, &latency))
    }

    /// More than can be done: what could not even be sent has no latency.
    fn overloaded(&mut self, condition: &str, rate: f64) -> io::Result<Row> {
        let connections = OVERLOAD_CONNECTIONS;
        let outcome = self.drive(Load::Open { rate, gaps: Gaps::Poisson, connections })?;
        Ok(Row::of(condition, &outcome, &outcome.service))
    }

    fn peak(&mut self) -> io::Result<Row> {
        let outcome = self.drive(Load::Closed { clients: PEAK_CLIENTS })?;
        let latency = outcome.latency();
        Ok(Row::of("peak, 64 clients", &outcome, &latency))
    }

    /// Recalls while fresh memories are stored as fast as they are taken.
    fn while_loading(&mut self, rate: f64) -> io::Result<Row> {
        let over = Arc::new(AtomicBool::new(false));
        let address = self.served.address;
        let set = DatasetSpec::Synthetic(match &self.set {
            Dataset::Synthetic(set) => crate::dataset::Shape { seed: 2, ..set.shape },
            Dataset::Lines(_) => return Err(io::Error::other("the set is drawn")),
        });
        let set = set.open(None)?;
        let loader = {
            let over = over.clone();
            std::thread::spawn(move || store_until(address, &set, &over))
        };
        let row = self.at_rate("while loading", rate);
        over.store(true, Ordering::Relaxed);
        let stored = loader.join().map_err(|_| io::Error::other("the loader panicked"))??;
        let mut row = row?;
        row.remark = format!("{:.0} memories/s stored beside", stored);
        loader::settle(address, SETTLE_MAX)?;
        Ok(row)
    }

    /// Recalls while the default space is consolidated.
    fn while_consolidating(&mut self, rate: f64) -> io::Result<Row> {
        let over = Arc::new(AtomicBool::new(false));
        let (address, told) = (self.served.address, over.clone());
        let runs = std::thread::spawn(move || consolidate_until(address, &told));
        let row = self.at_rate("while consolidating", rate);
        over.store(true, Ordering::Relaxed);
        let runs = runs.join().map_err(|_| io::Error::other("the consolidator panicked"))??;
        let mut row = row?;
        row.remark = runs;
        Ok(row)
    }
}

/// Keeps a consolidation going until told to end; what became of the runs.
fn consolidate_until(address: std::net::SocketAddr, over: &AtomicBool) -> io::Result<String> {
    const RUNS: &str = "/api/v1/consolidations";
    let mut connection = Connection::open(address, Duration::from_secs(30))?;
    let mut ask = |method: &str, path: &str, headers: &str, body: &[u8]| {
        connection.call(method, path, headers, body)?.json().map_err(io::Error::other)
    };
    let mut whole = 0;
    loop {
        let started = ask("POST", RUNS, JSON, b"{}")?;
        let run = format!("{RUNS}/{}", started["id"].as_str().unwrap_or_default());
        loop {
            let view = ask("GET", &run, "", b"")?;
            if view["state"] != "running" {
                whole += 1;
                break;
            }
            if over.load(Ordering::Relaxed) {
                let share = view["progress"].as_f64().unwrap_or(0.0) * 100.0;
                return Ok(format!("{whole} runs whole, {share:.0} % of the last"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if over.load(Ordering::Relaxed) {
            return Ok(format!("{whole} runs whole"));
        }
    }
}

/// Stores memories of a set under fresh ids until told to end; memories a second.
fn store_until(address: std::net::SocketAddr, set: &Dataset, over: &AtomicBool) -> io::Result<f64> {
    let mut connection = Connection::open(address, Duration::from_secs(60))?;
    let began = std::time::Instant::now();
    let (mut stored, mut body) = (0_u64, String::new());
    while !over.load(Ordering::Relaxed) {
        body.clear();
        for i in stored..stored + 200 {
            let mut line = String::new();
            set.push_line(i % set.memories(), VectorForm::Base64, &mut line);
            let own = format!(r#""{}""#, set.id(i % set.memories()));
            body.push_str(&line.replacen(&own, &format!(r#""fresh-{i}""#), 1));
        }
        let headers = "content-type: application/x-ndjson\r\n";
        let reply = connection.call_duplex("/api/v1/memories/batch", headers, body.as_bytes())?;
        if !(200..300).contains(&reply.status) {
            return Err(io::Error::other(format!("a batch got status {}", reply.status)));
        }
        stored += 200;
    }
    Ok(stored as f64 / began.elapsed().as_secs_f64())
}

/// Measures every condition; `show` sees each row as it comes.
///
/// # Errors
/// What kept a run from starting.
pub fn measure(conditions: &Conditions, show: &mut dyn FnMut(&Row)) -> io::Result<Vec<Row>> {
    let folder = Folder::new()?;
    let mut rows = Vec::new();
    let mut note = |row: Row| {
        show(&row);
        rows.push(row);
    };
    let mut stage = Stage::load(conditions, folder.path())?;
    let peak = stage.peak()?;
    let rate = peak.ok_per_s * QUIET_SHARE;
    let twice = peak.ok_per_s * 2.0;
    note(peak);
    note(stage.at_rate("idle otherwise", rate)?);
    note(stage.overloaded("2 x overload", twice)?);
    note(stage.while_consolidating(rate)?);
    note(stage.while_loading(rate)?);
    let mut stage = nearly_full(conditions, folder.path(), stage)?;
    let full = stage.served.metric(r#"engram_memory_bytes{part="resident"}"#)?
        / stage.served.metric(r#"engram_memory_bytes{part="limit"}"#)?;
    let mut row = stage.at_rate("memory nearly full", rate)?;
    row.remark = format!("{:.0} % of the limit resident", full * 100.0);
    note(row);
    Ok(rows)
}

/// Restarts the server on what it has, with a limit that it nearly fills.
fn nearly_full(conditions: &Conditions, folder: &Path, stage: Stage) -> io::Result<Stage> {
    let Stage { served, set, recalls, duration_s, client_cpus, runs } = stage;
    served.stop()?;
    let mut flags = conditions.flags.clone();
    let probe = Served::start(&conditions.engram, folder, &flags)?;
    loader::settle(probe.address, SETTLE_MAX)?;
    let held = probe.metric(r#"engram_memory_bytes{part="resident"}"#)?;
    probe.stop()?;
    flags.push(format!("--memory-limit={:.0}", held / NEARLY_FULL));
    let served = Served::start(&conditions.engram, folder, &flags)?;
    loader::settle(served.address, SETTLE_MAX)?;
    Ok(Stage { served, set, recalls, duration_s, client_cpus, runs })
}

/// What is done of what can be done when one, two and three times as much is asked for.
///
/// # Errors
/// What kept a run from starting.
pub fn overload(conditions: &Conditions, show: &mut dyn FnMut(&Row)) -> io::Result<Vec<Row>> {
    let folder = Folder::new()?;
    let mut stage = Stage::load(conditions, folder.path())?;
    let peak = stage.peak()?;
    let most = peak.ok_per_s;
    show(&peak);
    let mut rows = vec![peak];
    for times in [1.0, 2.0, 3.0] {
        let name = format!("{times:.0} x");
        let mut row = stage.overloaded(&name, most * times)?;
        row.remark = format!("{:.0} % of the peak", row.ok_per_s / most * 100.0);
        show(&row);
        rows.push(row);
    }
    Ok(rows)
}
