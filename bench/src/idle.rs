//! What connections cost that do nothing, and whether others feel them.
//!
//! *Invariants*: each idle connection has had one answer, so that it is set up on both sides.
//!
//! *Not here*: the load of the active ones (`run`).

use std::io::{self, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::child::{Folder, Served};
use crate::http::{encode, read_some};
use crate::result::Percentiles;
use crate::run::{self, Load, Run};
use crate::workload::{RequestSpec, Workload};

/// Active clients.
const CLIENTS: usize = 8;
/// After opening, until memory is read.
const REST: Duration = Duration::from_secs(2);

/// What was measured; times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Idle connections.
    pub connections: usize,
    /// Private memory of the server for each of them.
    pub server_bytes_each: f64,
    /// Memory of the kernel for each, both ends together.
    pub kernel_bytes_each: f64,
    /// Requests of the active clients without idle connections.
    pub alone_us: Percentiles,
    /// The same beside them.
    pub beside_us: Percentiles,
}

/// Measures so many idle connections beside eight active ones.
///
/// # Errors
/// Where the server does not start or a connection is refused.
pub fn measure(engram: &Path, connections: usize, duration_s: f64) -> io::Result<Idle> {
    let folder = Folder::new()?;
    let served = Served::start(engram, folder.path(), &[])?;
    let alone_us = active(&served, duration_s)?;
    let before = (resident_bytes(served.pid())?, kernel_bytes()?);
    let request = encode("GET", "/health/live", "127.0.0.1", "", b"");
    let idle: Vec<TcpStream> =
        (0..connections).map(|_| open_idle(&served, &request)).collect::<io::Result<_>>()?;
    std::thread::sleep(REST);
    let after = (resident_bytes(served.pid())?, kernel_bytes()?);
    let beside_us = active(&served, duration_s)?;
    let each = |after: u64, before: u64| {
        (after.saturating_sub(before) as f64 / idle.len().max(1) as f64).round()
    };
    Ok(Idle {
        connections: idle.len(),
        server_bytes_each: each(after.0, before.0),
        kernel_bytes_each: each(after.1, before.1),
        alone_us,
        beside_us,
    })
}

fn open_idle(served: &Served, request: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&served.address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request)?;
    if read_some(&mut stream, &mut [0; 4096])? == 0 {
        return Err(io::Error::other("the server closed an idle connection at once"));
    }
    Ok(stream)
}

/// Eight clients that ask for the smallest answer.
fn active(served: &Served, duration_s: f64) -> io::Result<Percentiles> {
    let mut workload = Workload::benchmark();
    workload.dataset = workload.dataset.with_memories(2);
    workload.operations.truncate(1);
    workload.operations[0].request = RequestSpec::Get { path: "/health/live".to_owned() };
    let set = workload.dataset.open(None)?;
    let operations = workload.operations(&set, &served.address.to_string(), 1);
    let run = Run {
        address: served.address,
        load: Load::Closed { clients: CLIENTS },
        threads: 1,
        cpus: Vec::new(),
        warm_up_s: 0.5,
        duration_s,
        timeout_s: 10.0,
        spin: false,
        seed: 1,
        requests_max: None,
    };
    let outcome = run::drive(&run, &operations)?;
    if outcome.not_ok() > 0 {
        return Err(io::Error::other(format!("{} requests failed", outcome.not_ok())));
    }
    Ok(Percentiles::of(&outcome.latency()))
}

fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, "RssAnon:").ok_or_else(|| io::Error::other("it has no RssAnon"))
}

/// Slabs and socket buffers of the whole machine.
fn kernel_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    kilobytes(&text, "Slab:").ok_or_else(|| io::Error::other("it has no Slab"))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
