//! Metrics of everything behind HTTP: the life of the server, its shards, the process, the build.
//!
//! *Invariants*: a scrape reads what others have written and waits for nobody; labels are of closed
//! sets or numbers of shards.
//!
//! *Not here*: metrics of HTTP (`net::metrics`), what they mean to an operator (`docs/metrics.md`).

use std::sync::atomic::{AtomicU64, Ordering};

use engram_engine::life::run::RunState;
use engram_engine::phase::Phase;
use engram_net::exposition::{Exposition, Kind};
use engram_net::trace::TraceCounts;
use engram_platform::meter::{Counter, Histogram, Seen};
use engram_shards::{Counters, Meters, RECALL_PHASES, Stalls, Status, Transitions, Work};

use crate::backend::Shared;
use crate::budget::Readings;
use crate::process;

/// A number of one shard: its name, what it is, where it stands, and units of it in one of the
/// metric's.
type Row = (&'static str, &'static str, fn(&Counters) -> &AtomicU64, f64);

const COUNTERS: [Row; 17] = [
    (
        "engram_shard_woken_total",
        "Times that a shard slept on work and was woken.",
        |c| &c.woken,
        1.0,
    ),
    ("engram_log_syncs_total", "Batches made durable.", |c| &c.syncs, 1.0),
    (
        "engram_shard_refused_total",
        "Requests refused with 429 because too much was under way.",
        |c| &c.refused,
        1.0,
    ),
    ("engram_shard_requests_total", "Requests whose home a shard was.", |c| &c.requests, 1.0),
    ("engram_log_records_total", "Records appended to the log.", |c| &c.appends, 1.0),
    ("engram_log_written_bytes_total", "Bytes written to the log.", |c| &c.log_written_bytes, 1.0),
    ("engram_envelopes_total", "Envelopes sent to other shards.", |c| &c.envelopes, 1.0),
    (
        "engram_envelopes_waited_total",
        "Envelopes that found a full mailbox and waited.",
        |c| &c.envelopes_waited,
        1.0,
    ),
    ("engram_record_cache_hits_total", "Records read from memory.", |c| &c.cache_hits, 1.0),
    ("engram_record_cache_misses_total", "Records read from disk.", |c| &c.cache_misses, 1.0),
    ("engram_images_written_total", "Images of a shard written.", |c| &c.images_written, 1.0),
    ("engram_images_refused_total", "Images that a start refused.", |c| &c.images_refused, 1.0),
    ("engram_compactions_total", "Segments made from others.", |c| &c.compactions, 1.0),
    (
        "engram_compaction_written_bytes_total",
        "Bytes of the segments that were made from others.",
        |c| &c.compacted_bytes,
        1.0,
    ),
    (
        "engram_compaction_freed_bytes_total",
        "Bytes that these others had more.",
        |c| &c.compaction_freed_bytes,
        1.0,
    ),
    (
        "engram_log_scrubbed_bytes_total",
        "Bytes of sealed segments whose checksums were proven.",
        |c| &c.scrubbed_bytes,
        1.0,
    ),
    (
        "engram_work_slices_total",
        "Slices of background work and of long searches.",
        |c| &c.slices,
        1.0,
    ),
];

const GAUGES: [Row; 11] = [
    (
        "engram_log_room_wanted",
        "What the log found on the disk for its next segment: 0 room, 1 none, 2 none for the next record.",
        |c| &c.log_room,
        1.0,
    ),
    (
        "engram_log_waiting_bytes",
        "Bytes of records that wait for the disk.",
        |c| &c.log_waiting_bytes,
        1.0,
    ),
    ("engram_log_bytes", "Bytes of the log on disk.", |c| &c.log_bytes, 1.0),
    ("engram_log_segments", "Segments of the log.", |c| &c.log_segments, 1.0),
    (
        "engram_log_live_bytes",
        "Bytes of records in the log that are needed.",
        |c| &c.log_live_bytes,
        1.0,
    ),
    (
        "engram_log_forgetting_segments",
        "Segments that hold what was deleted, replaced or expired.",
        |c| &c.forgetting_segments,
        1.0,
    ),
    (
        "engram_log_damaged_segments",
        "Sealed segments of which a checksum did not fit when they were read.",
        |c| &c.damaged_segments,
        1.0,
    ),
    ("engram_image_bytes", "Bytes of a shard's newest image.", |c| &c.image_bytes, 1.0),
    (
        "engram_image_pause_seconds_max",
        "Longest time that writes waited for an image.",
        |c| &c.image_pause_us_max,
        1e6,
    ),
    (
        "engram_image_start_tier",
        "What the shard started from: 0 its log, 1 an image on the SSD, 2 one on tmpfs.",
        |c| &c.image_tier,
        1.0,
    ),
    ("engram_record_cache_bytes", "Bytes of records kept in memory.", |c| &c.cache_bytes, 1.0),
];

/// A gauge that a shard sets once a second.
type GaugeRow = (&'static str, &'static str, fn(&Meters) -> &Counter);

const HELD: [GaugeRow; 7] = [
    ("engram_memories", "Memories of a shard.", |m| &m.memories),
    ("engram_links", "Links that leave a shard's memories, automatic ones included.", |m| &m.links),
    ("engram_automatic_links", "Links that the server made.", |m| &m.automatic_links),
    ("engram_index_backlog", "Memories not yet in the vector index.", |m| &m.index_backlog),
    ("engram_association_backlog", "Memories not yet associated.", |m| &m.association_backlog),
    (
        "engram_operations_in_flight",
        "Operations that a shard is home of and that are under way.",
        |m| &m.operations_in_flight,
    ),
    ("engram_mailbox_envelopes", "Envelopes in a shard's mailbox.", |m| &m.inbox_envelopes),
];

/// A histogram, summed over the shards.
type HistogramRow = (&'static str, &'static str, fn(&Meters) -> &Histogram, f64);

const HISTOGRAMS: [HistogramRow; 6] = [
    (
        "engram_recall_duration_seconds",
        "Time of a recall in the shards, in seconds.",
        |m| &m.recall_us,
        1e6,
    ),
    (
        "engram_envelope_delay_seconds",
        "From sending an envelope to taking it out of the mailbox, in seconds.",
        |m| &m.envelope_us,
        1e6,
    ),
    (
        "engram_record_read_duration_seconds",
        "Reading a record from the disk, in seconds.",
        |m| &m.read_us,
        1e6,
    ),
    (
        "engram_log_sync_duration_seconds",
        "Writing and syncing a batch of the log, in seconds.",
        |m| &m.sync_us,
        1e6,
    ),
    ("engram_log_batch_bytes", "Bytes of a batch of the log.", |m| &m.batch_bytes, 1.0),
    ("engram_log_batch_records", "Records of a batch of the log.", |m| &m.batch_records, 1.0),
];

/// Writes all of them.
pub fn write(status: &Status, shared: &Shared, out: &mut Exposition) {
    write_build(out);
    write_life(status, out);
    write_shards(status, out);
    write_consolidation(status, out);
    write_stalls(status, out);
    write_memory_nodes(status, out);
    write_histograms(status, out);
    write_budget(status, &shared.readings, out);
    write_traces(shared.traces.as_deref(), out);
    process::write(out);
}

fn write_build(out: &mut Exposition) {
    let name = "engram_build_info";
    out.family(Kind::Gauge, name, "1, with what was built.");
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("target", std::env::consts::ARCH)];
    out.sample(name, &labels, 1);
}

fn write_life(status: &Status, out: &mut Exposition) {
    let phase = status.life().phase();
    let ready = u8::from(phase.is_ready());
    out.single(Kind::Gauge, "engram_ready", "1 where traffic should come, else 0.", ready);
    let name = "engram_phase";
    out.family(Kind::Gauge, name, "1 for the phase of life that the server is in, else 0.");
    for one in Phase::ALL {
        out.sample(name, &[("phase", one.as_str())], u8::from(one == phase));
    }
    let (of_server, of_shards) = status.life().transitions();
    let name = "engram_phase_transitions_total";
    out.family(Kind::Counter, name, "Transitions from one phase of life to another.");
    for (of, transitions) in [("server", of_server), ("shard", of_shards)] {
        write_transitions(out, name, of, &transitions);
    }
}

fn write_transitions(out: &mut Exposition, name: &str, of: &str, transitions: &Transitions) {
    for (before, row) in Phase::ALL.iter().zip(transitions) {
        for (after, count) in Phase::ALL.iter().zip(row).filter(|(_, count)| **count > 0) {
            let labels = [("of", of), ("from", before.as_str()), ("to", after.as_str())];
            out.sample(name, &labels, count);
        }
    }
}

fn write_shards(status: &Status, out: &mut Exposition) {
    write_rows(status, out, Kind::Counter, &COUNTERS);
    write_rows(status, out, Kind::Gauge, &GAUGES);
    for (name, help, gauge) in HELD {
        of_shards(status, out, Kind::Gauge, (name, help), |shard| {
            gauge(&shard.meters).get() as f64
        });
    }
    let syncs = ("engram_log_sync_seconds_total", "Time of writing and syncing.");
    of_shards(status, out, Kind::Counter, syncs, |shard| shard.meters.sync_us.sum() as f64 / 1e6);
    let cpu = ("engram_shard_cpu_seconds_total", "CPU time of a shard's thread.");
    of_shards(status, out, Kind::Counter, cpu, |shard| shard.meters.cpu_us.get() as f64 / 1e6);
}

/// A number of memories or links that a shard has dealt with.
type LifeRow = (&'static str, &'static str, fn(&Meters) -> &Counter);

const LIVES: [LifeRow; 4] = [
    ("engram_memories_merged_total", "Memories merged into others.", |m| &m.merged),
    ("engram_links_pruned_total", "Weak automatic links removed.", |m| &m.pruned),
    ("engram_memories_demoted_total", "Memories moved to the cold tier.", |m| &m.demoted),
    ("engram_memories_promoted_total", "Memories back from the cold tier.", |m| &m.promoted),
];

/// What became of memories, and of consolidations.
fn write_consolidation(status: &Status, out: &mut Exposition) {
    let sum = |of: &dyn Fn(&Meters) -> u64| -> u64 {
        status.shards().iter().map(|shard| of(&shard.meters)).sum()
    };
    for (name, help, count) in LIVES {
        out.single(Kind::Counter, name, help, sum(&|meters| count(meters).get()));
    }
    let name = "engram_consolidations_total";
    out.family(Kind::Counter, name, "Consolidations that ended or were undone, by how.");
    for state in RunState::ALL.into_iter().filter(|state| !state.is_under_way()) {
        let count = sum(&|meters| meters.runs[state as usize].get());
        out.sample(name, &[("outcome", state.as_str())], count);
    }
    let name = "engram_consolidation_progress";
    let help = "Share of the consolidation under way that is done, 0 to 1; 0 where there is none.";
    let share = sum(&|meters| meters.run_permille.get()) as f64 / 1000.0;
    out.single(Kind::Gauge, name, help, share);
}

/// What held cores too long.
fn write_stalls(status: &Status, out: &mut Exposition) {
    let held = |count: fn(&Stalls, Work) -> u64, out: &mut Exposition, name, unit: f64| {
        for (shard, counters) in status.shards().iter().enumerate() {
            for work in Work::ALL {
                let labels = [("shard", &*shard.to_string()), ("work", work.name())];
                out.sample(name, &labels, count(&counters.stalls, work) as f64 / unit);
            }
        }
    };
    let name = "engram_core_held_total";
    let help = "Pieces of work that held their core for more than 500 microseconds.";
    out.family(Kind::Counter, name, help);
    held(Stalls::count, out, name, 1.0);
    let name = "engram_core_held_longest_seconds";
    let help = "The longest that such a piece of work has taken.";
    out.family(Kind::Gauge, name, help);
    held(Stalls::longest, out, name, 1e6);
}

fn write_memory_nodes(status: &Status, out: &mut Exposition) {
    let name = "engram_shard_memory_node";
    let help = "NUMA node on which memory of a shard was found; absent where the kernel is silent.";
    out.family(Kind::Gauge, name, help);
    for (number, shard) in status.shards().iter().enumerate() {
        if let Some(found) = shard.memory_node.get() {
            out.sample(name, &[("shard", &number.to_string())], found);
        }
    }
}

fn write_rows(status: &Status, out: &mut Exposition, kind: Kind, rows: &[Row]) {
    for &(name, help, counter, unit) in rows {
        let value = |shard: &Counters| counter(shard).load(Ordering::Relaxed) as f64 / unit;
        of_shards(status, out, kind, (name, help), value);
    }
}

fn of_shards(
    status: &Status,
    out: &mut Exposition,
    kind: Kind,
    (name, help): (&str, &str),
    value: impl Fn(&Counters) -> f64,
) {
    out.family(kind, name, help);
    for (number, shard) in status.shards().iter().enumerate() {
        out.sample(name, &[("shard", &number.to_string())], value(shard));
    }
}

fn write_histograms(status: &Status, out: &mut Exposition) {
    let meters = || status.shards().iter().map(|shard| &shard.meters);
    for (name, help, histogram, unit) in HISTOGRAMS {
        out.family(Kind::Histogram, name, help);
        if let Some(seen) = Seen::together(meters().map(histogram)) {
            out.histogram(name, &[], &seen, unit);
        }
    }
    let name = "engram_recall_phase_duration_seconds";
    out.family(Kind::Histogram, name, "Time of the phases of recalls, in seconds.");
    for (index, phase) in RECALL_PHASES.iter().enumerate() {
        if let Some(seen) = Seen::together(meters().map(|m| &m.recall_phases_us[index])) {
            out.histogram(name, &[("phase", phase)], &seen, 1e6);
        }
    }
}

fn write_traces(traces: Option<&TraceCounts>, out: &mut Exposition) {
    let name = "engram_traces_total";
    out.family(Kind::Counter, name, "Requests that were traced, and what became of their traces.");
    let count = |pick: fn(&TraceCounts) -> &AtomicU64| {
        traces.map_or(0, |counts| pick(counts).load(Ordering::Relaxed))
    };
    out.sample(name, &[("outcome", "begun")], count(|counts| &counts.begun));
    out.sample(name, &[("outcome", "sent")], count(|counts| &counts.sent));
    out.sample(name, &[("outcome", "dropped")], count(|counts| &counts.dropped));
}

fn write_budget(status: &Status, readings: &Readings, out: &mut Exposition) {
    let value = |reading: &AtomicU64| reading.load(Ordering::Relaxed);
    let sum = |counter: fn(&Counters) -> &AtomicU64| -> u64 {
        status.shards().iter().map(|shard| value(counter(shard))).sum()
    };
    let memory = "engram_memory_bytes";
    out.family(Kind::Gauge, memory, "Memory of the process by part; owed is what will be taken.");
    for (part, bytes) in [
        ("heap", value(&readings.heap)),
        ("resident", value(&readings.resident)),
        ("images", value(&readings.images)),
        ("record_cache", sum(|shard| &shard.cache_bytes)),
        ("owed", sum(|shard| &shard.owed_bytes)),
        ("limit", value(&readings.memory_limit)),
    ] {
        out.sample(memory, &[("part", part)], bytes);
    }
    let free = value(&readings.disk_free);
    out.single(Kind::Gauge, "engram_disk_free_bytes", "Free bytes of the data directory.", free);
    let full = "engram_budget_reached";
    out.family(Kind::Gauge, full, "1 where writes are refused with 507 for want of this.");
    out.sample(full, &[("budget", "memory")], value(&readings.memory_full));
    out.sample(full, &[("budget", "disk")], value(&readings.disk_full));
}
