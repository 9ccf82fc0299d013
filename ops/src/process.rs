//! What the kernel knows of this process, under the names that every Prometheus client gives it.
//!
//! *Invariants*: where the kernel does not say, the metric is missing, not wrong.
//!
//! *Not here*: what the server knows of itself (`metrics`).

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use engram_net::exposition::{Exposition, Kind};

/// Notes when the process began, for whoever asks later.
pub fn note_start() -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    })
}

/// Writes them.
pub fn write(out: &mut Exposition) {
    let started = note_start();
    out.single(Kind::Gauge, "process_start_time_seconds", "When the process began.", started);
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    out.single(Kind::Counter, "process_cpu_seconds_total", "CPU time of all threads.", used);
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Vec<u64> = pages.split(' ').map_while(|count| count.parse().ok()).collect();
    if let [of_addresses, resident, ..] = pages[..] {
        let bytes = |pages: u64| pages * rustix::param::page_size() as u64;
        let (name, help) = ("process_virtual_memory_bytes", "Addresses that are in use.");
        out.single(Kind::Gauge, name, help, bytes(of_addresses));
        let (name, help) = ("process_resident_memory_bytes", "Memory that is in use.");
        out.single(Kind::Gauge, name, help, bytes(resident));
    }
    // Since Linux 6.2 the size of the folder is the number of descriptors: no need to list them.
    let open = std::fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len());
    if open > 0 {
        out.single(Kind::Gauge, "process_open_fds", "Descriptors that are open.", open);
    }
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(most) = most {
        out.single(Kind::Gauge, "process_max_fds", "Descriptors that may be open.", most);
    }
}
