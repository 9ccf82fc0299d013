//! Metrics of the cold tier and of snapshots.
//!
//! *Invariants*: a scrape reads what threads have counted, and asks the tier for nothing.
//!
//! *Not here*: the tier itself (`engram_cold`), all other metrics (`metrics`).

use std::sync::atomic::{AtomicU64, Ordering};

use engram_cold::Measures;
use engram_net::exposition::{Exposition, Kind};
use engram_shards::ColdTier;

/// A number that the cold tier measures.
type ColdRow = (Kind, &'static str, &'static str, fn(&Measures) -> &AtomicU64, f64);

const COLD: [ColdRow; 10] = [
    (
        Kind::Counter,
        "engram_cold_requests_total",
        "Requests to the cold tier, retries included.",
        |m| &m.requests,
        1.0,
    ),
    (
        Kind::Counter,
        "engram_cold_failures_total",
        "Requests to the cold tier that failed.",
        |m| &m.failures,
        1.0,
    ),
    (
        Kind::Counter,
        "engram_cold_retries_total",
        "Requests to the cold tier that were tried again.",
        |m| &m.retries,
        1.0,
    ),
    (
        Kind::Counter,
        "engram_cold_turned_away_total",
        "Requests that the open circuit turned away.",
        |m| &m.turned_away,
        1.0,
    ),
    (
        Kind::Counter,
        "engram_cold_written_bytes_total",
        "Bytes written to the cold tier.",
        |m| &m.written_bytes,
        1.0,
    ),
    (
        Kind::Counter,
        "engram_cold_read_bytes_total",
        "Bytes read from the cold tier.",
        |m| &m.read_bytes,
        1.0,
    ),
    (
        Kind::Counter,
        "engram_cold_request_seconds_total",
        "Time of requests to the cold tier.",
        |m| &m.spent_us,
        1e6,
    ),
    (
        Kind::Gauge,
        "engram_cold_requests_in_flight",
        "Requests to the cold tier that are under way.",
        |m| &m.in_flight,
        1.0,
    ),
    (
        Kind::Gauge,
        "engram_cold_segment_bytes",
        "Bytes of cold segments.",
        |m| &m.segment_bytes,
        1.0,
    ),
    (
        Kind::Gauge,
        "engram_cold_segments",
        "Cold segments, as they were last listed.",
        |m| &m.segments,
        1.0,
    ),
];

/// Writes them.
pub fn write(cold: &ColdTier, out: &mut Exposition) {
    for (kind, name, help, measure, unit) in COLD {
        let value = measure(cold.tier().measures()).load(Ordering::Relaxed) as f64 / unit;
        out.single(kind, name, help, value);
    }
    let waiting = "Requests that wait for a thread of the cold tier.";
    out.single(Kind::Gauge, "engram_cold_waiting", waiting, cold.waiting());
    let shunned = "1 where the cold tier failed again and again and is left alone, else 0.";
    out.single(
        Kind::Gauge,
        "engram_cold_circuit_open",
        shunned,
        u8::from(cold.tier().is_shunned()),
    );
    let snapshot = "When the last whole snapshot began, in seconds since 1970; 0: none was taken.";
    let at = cold.snapshots().last_success_s();
    out.single(Kind::Gauge, "engram_snapshot_last_success_timestamp_seconds", snapshot, at);
}
