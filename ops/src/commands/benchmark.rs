//! `engram benchmark`: a server of its own on a temporary directory, under a mixed load.
//!
//! *Invariants*: nothing is left behind; an operation that failed makes the exit status 1, one that
//! was refused at a ceiling (429, 507) is counted as refused.
//!
//! *Not here*: the load (`engram_bench`), the server (`crate::server`).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use engram_bench::dataset::{Dataset, Shape, Synthetic, VectorForm};
use engram_bench::loader::{self, Loading};
use engram_bench::pieces::{self, Counts, Pieces};
use engram_bench::result::Percentiles;
use engram_bench::run::{Load, Run};
use engram_bench::workload::Workload;
use engram_engine::request::Wait;
use engram_net::auth::Auth;
use engram_platform::sockets::SocketWay;
use engram_platform::{CpuList, PlacementOptions, Signals, is_tmpfs};
use serde::Serialize;

use super::output;
use crate::failure::Failure;
use crate::logger::{self, Format, Level};
use crate::progress::Progress;
use crate::server::{Cold, Plan, Reshard, Server, memory_bytes};
use crate::units;

/// Memories that are stored before, as a share of the operations, and their bounds.
const MEMORIES_SHARE: u64 = 10;
const MEMORIES_MIN: u64 = 1000;
const MEMORIES_MAX: u64 = 20_000;
/// How long the server may take to index what was stored before.
const SETTLE_TIME: Duration = Duration::from_secs(300);
/// An answer that takes longer has failed.
const TIMEOUT_S: f64 = 10.0;
/// Longest time of one piece of the run; it ends by its number of requests.
const PIECE_S: f64 = 3600.0;
/// Where the directory is made, unless it was named: the first of these that is on a disk.
const FOLDERS: [&str; 4] = ["/var/tmp", "/tmp", "/var/lib/engram", "."];

/// Measures a server of its own.
#[derive(Debug, Args)]
pub struct Benchmark {
    /// Operations: of ten, six stores, two recalls, a read and a link
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    operations: u64,
    /// Clients, each waits for its answer before it asks again
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    clients: usize,
    /// Memories that are stored before [default: a tenth of the operations, 1000 to 20000]
    #[arg(long, value_name = "COUNT")]
    memories: Option<u64>,
    /// Length of the vectors
    #[arg(long, value_name = "COUNT", default_value_t = 768)]
    dimensions: usize,
    /// Folder in which the temporary directory is made [default: one that is on a disk]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// CPUs of the server, such as 2-7 [default: those that the process may use]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Number of shards [default: one for each physical core, less with a CPU quota]
    #[arg(long, value_name = "COUNT")]
    shards: Option<u16>,
    /// Memory to stay within, such as 8GiB [default: 80 % of what there is]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    memory_limit: Option<u64>,
    /// The result as JSON
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(long)]
    quiet: bool,
}

/// What was measured; times in microseconds.
#[derive(Debug, Serialize)]
struct Measured {
    operations: Vec<MeasuredOperation>,
    seconds: f64,
    operations_per_s: f64,
    clients: usize,
    shards: usize,
    memory_limit_bytes: u64,
    memory_held_permille_max: u64,
    memory_resident_bytes_max: u64,
    recall_by_memory_held: Vec<Band>,
}

#[derive(Debug, Serialize)]
struct MeasuredOperation {
    name: String,
    ok: u64,
    refused: u64,
    failed: u64,
    latency_us: Percentiles,
}

/// Recalls while so much of the memory limit was held.
#[derive(Debug, Serialize)]
struct Band {
    held_permille: u64,
    ok: u64,
    latency_us: Percentiles,
}

impl Benchmark {
    /// Measures and shows it.
    ///
    /// # Errors
    /// Where the server can't start, or an operation failed.
    pub fn run(self) -> Result<(), Failure> {
        logger::start(Level::Warn, Format::Text);
        if self.operations == 0 || self.clients == 0 || self.dimensions == 0 {
            return Err(Failure::usage("operations, clients and dimensions are at least 1"));
        }
        let folder = Folder::make(self.directory.as_deref())?;
        folder.remove_at_signals()?;
        let server = Server::start(&self.plan(&folder.0)?)?;
        if !server.wait_until_ready() {
            server.stop()?;
            return Err(Failure::new("the server did not become ready"));
        }
        let measured = self.measure(&server);
        server.stop()?;
        let (measured, pieces) = measured?;
        if self.json {
            output::json(&measured)?;
        } else {
            output::text_as_it_is(&text(&measured))?;
        }
        verdict(&pieces)
    }

    fn plan(&self, data_dir: &Path) -> Result<Plan, Failure> {
        Ok(Plan {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data_dir: data_dir.to_owned(),
            placement: PlacementOptions { cpus: self.cpus.clone(), shards: self.shards },
            reshard: Reshard::Never,
            fast_dir: None,
            // Nothing of what is thrown away is kept for a next start.
            grace: Duration::ZERO,
            memory_bytes: memory_bytes(self.memory_limit)?,
            sockets: SocketWay::Ring,
            wait: Wait::Durable,
            drain: Duration::from_secs(20),
            auth: Auth::default(),
            metrics_guarded: false,
            rates: None,
            address_connections: None,
            slow_recall: Duration::MAX,
            warm_up: Duration::ZERO,
            tracing: None,
            cold: Cold::of(None, data_dir),
            tls: None,
        })
    }

    fn measure(&self, server: &Server) -> Result<(Measured, Pieces), Failure> {
        let failed = |what: &'static str| Failure::because(what);
        let workload = Workload::benchmark();
        let set = self.store_before(server)?;
        let operations = workload.operations(&set, &server.address().to_string(), 1);
        let run = Run {
            address: server.address(),
            load: Load::Closed { clients: self.clients },
            threads: 1,
            cpus: Vec::new(),
            warm_up_s: 0.0,
            duration_s: PIECE_S,
            timeout_s: TIMEOUT_S,
            spin: false,
            seed: 1,
            requests_max: None,
        };
        let mut progress = Progress::new("operations", self.quiet);
        let mut show = |done: u64| {
            progress.show(done, Some(done as f64 / self.operations as f64));
        };
        let readings = server.readings();
        let fill = || readings.held_permille.load(Ordering::Relaxed);
        let pieces = pieces::drive(&run, &operations, self.operations, &fill, &mut show)
            .map_err(failed("the load could not be driven"))?;
        progress.finish();
        Ok((self.measured(server, &pieces), pieces))
    }

    fn store_before(&self, server: &Server) -> Result<Dataset, Failure> {
        let share = (self.operations / MEMORIES_SHARE).clamp(MEMORIES_MIN, MEMORIES_MAX);
        let memories = self.memories.unwrap_or(share).max(2);
        let shape = Shape { memories, dimensions: self.dimensions, out_degree: 4, seed: 1 };
        let set = Dataset::Synthetic(Box::new(Synthetic::new(shape)));
        let (address, vectors) = (server.address(), VectorForm::Base64);
        let loading = Loading { address, connections: 2, lines: 200, vectors, cpu: None };
        let because = Failure::because("the memories to be recalled could not be stored");
        let loaded = loader::load(&set, loading, &|_| {}).map_err(because)?;
        if loaded.refused > 0 {
            let first = loaded.refusals.first().cloned().unwrap_or_default();
            return Err(Failure::new(format!("{} memories were refused: {first}", loaded.refused)));
        }
        let because = Failure::because("the memories to be recalled were not indexed in time");
        loader::settle(address, SETTLE_TIME).map_err(because)?;
        Ok(set)
    }

    fn measured(&self, server: &Server, pieces: &Pieces) -> Measured {
        let readings = server.readings();
        let named = pieces.names.iter().zip(&pieces.operations);
        let operations = named
            .map(|(name, operation)| {
                let Counts { ok, refused, failed } = Counts::of(operation);
                let latency_us = Percentiles::of(&operation.latency);
                MeasuredOperation { name: name.clone(), ok, refused, failed, latency_us }
            })
            .collect();
        let recall = pieces.names.iter().position(|name| name == "recall");
        let bands = recall.map(|at| pieces.by_fill[at].iter()).into_iter().flatten();
        Measured {
            operations,
            seconds: (pieces.seconds * 1e3).round() / 1e3,
            operations_per_s: (self.operations as f64 / pieces.seconds.max(1e-9)).round(),
            clients: self.clients,
            shards: server.shards(),
            memory_limit_bytes: readings.memory_limit.load(Ordering::Relaxed),
            memory_held_permille_max: pieces.fullest,
            memory_resident_bytes_max: readings.resident_max.load(Ordering::Relaxed),
            recall_by_memory_held: bands
                .map(|(permille, latency)| Band {
                    held_permille: *permille,
                    ok: latency.len(),
                    latency_us: Percentiles::of(latency),
                })
                .collect(),
        }
    }
}

fn text(measured: &Measured) -> String {
    let mebibytes = |bytes: u64| bytes >> 20;
    let head = ["µs", "ok", "refused", "failed", "P50", "P90", "P99", "P99.9", "max"];
    let mut lines = vec![
        format!(
            "{:.0} operations/s over {:.1} s, {} clients, {} shards",
            measured.operations_per_s, measured.seconds, measured.clients, measured.shards
        ),
        format!(
            "memory limit {} MiB, at most {:.1} % held, {} MiB resident",
            mebibytes(measured.memory_limit_bytes),
            measured.memory_held_permille_max as f64 / 10.0,
            mebibytes(measured.memory_resident_bytes_max)
        ),
        head[1..].iter().fold(format!("{:16}", head[0]), |line, name| format!("{line}{name:>10}")),
    ];
    for operation in &measured.operations {
        let (refused, failed) = (operation.refused, operation.failed);
        lines.push(row(&operation.name, [operation.ok, refused, failed], &operation.latency_us));
    }
    lines.push("recalls by the share of the memory limit that was held".to_owned());
    for band in &measured.recall_by_memory_held {
        let (from, to) = (band.held_permille / 10, (band.held_permille + pieces::BAND) / 10);
        lines.push(row(&format!("{from} to {to} %"), [band.ok, 0, 0], &band.latency_us));
    }
    lines.join("\n") + "\n"
}

fn row(name: &str, counts: [u64; 3], latency: &Percentiles) -> String {
    let [ok, refused, failed] = counts;
    let Percentiles { p50, p90, p99, p999, max, .. } = *latency;
    format!(
        "{name:16}{ok:>10}{refused:>10}{failed:>10}{p50:>10.0}{p90:>10.0}{p99:>10.0}{p999:>10.0}\
         {max:>10.0}"
    )
}

fn verdict(pieces: &Pieces) -> Result<(), Failure> {
    let failed = pieces.counts().failed + pieces.failed_connects;
    if failed == 0 {
        return Ok(());
    }
    let faults: Vec<String> =
        pieces.faults().iter().map(|(fault, count)| format!("{count} × {fault}")).collect();
    Err(Failure::new(format!("{failed} operations failed ({})", faults.join(", "))))
}

/// A directory that goes away.
struct Folder(PathBuf);

impl Folder {
    fn make(parent: Option<&Path>) -> Result<Self, Failure> {
        let name = format!("engram-benchmark-{}", std::process::id());
        let named =
            parent.map(Path::to_owned).or_else(|| std::env::var_os("TMPDIR").map(Into::into));
        if let Some(parent) = named {
            let folder = parent.join(name);
            let shown = format!("{} can't be made", folder.display());
            std::fs::create_dir_all(&folder).map_err(Failure::because(shown))?;
            return Ok(Self(folder));
        }
        let on_disk = FOLDERS.iter().filter(|parent| !is_tmpfs(Path::new(parent)));
        let made = on_disk.map(|parent| Path::new(parent).join(&name));
        made.into_iter().find(|folder| std::fs::create_dir(folder).is_ok()).map(Self).ok_or_else(
            || {
                Failure::new("there is no folder on a disk that can be written")
                    .with_hint("name one by --directory; on tmpfs the log would take memory")
            },
        )
    }

    /// Ends the process at a signal, without leaving the directory behind.
    fn remove_at_signals(&self) -> Result<(), Failure> {
        let signals = Signals::install().map_err(Failure::because("signals can't be taken"))?;
        let folder = self.0.clone();
        std::thread::spawn(move || {
            signals.wait();
            // The process ends; there is nobody to tell that a file stays.
            let _ignored = std::fs::remove_dir_all(folder);
            std::process::exit(130);
        });
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}
