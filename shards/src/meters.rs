//! What a shard measures: latencies and sizes as histograms, and what it holds as gauges.
//!
//! *Invariants*: written by the shard alone; nothing of it is on the way of a request but plain
//! stores.
//!
//! *Not here*: counters and phases (`status`), names and labels (`ops`).

use engram_engine::life::run::RunState;
use engram_engine::request::{PhaseTime, RecallPhase};
use engram_platform::meter::{Counter, Histogram, SIZE_BOUNDS};

/// Groups of phases of a recall, as they are measured.
pub const RECALL_PHASES: [&str; 7] =
    ["seed", "hop_1", "hop_2", "hop_more", "rank", "fetch", "cold"];

/// What a shard measures.
#[derive(Debug)]
pub struct Meters {
    /// Writing and syncing a batch of the log, in microseconds.
    pub sync_us: Histogram,
    /// Bytes of a batch, padding included.
    pub batch_bytes: Histogram,
    /// Records of a batch.
    pub batch_records: Histogram,
    /// From sending an envelope to taking it out of this shard's inbox, in microseconds.
    pub envelope_us: Histogram,
    /// Reading a record from the disk, in microseconds.
    pub read_us: Histogram,
    /// Recalls whose home this shard was, in microseconds.
    pub recall_us: Histogram,
    /// Their phases, in the order of [`RECALL_PHASES`], in microseconds.
    pub recall_phases_us: [Histogram; RECALL_PHASES.len()],
    /// CPU time of the shard's thread, in microseconds.
    pub cpu_us: Counter,
    /// Memories that it owns.
    pub memories: Counter,
    /// Links that leave them, automatic ones included.
    pub links: Counter,
    /// Automatic ones.
    pub automatic_links: Counter,
    /// Memories that are not yet in the vector index.
    pub index_backlog: Counter,
    /// Memories that are not yet associated.
    pub association_backlog: Counter,
    /// Operations that it is home of and that are under way.
    pub operations_in_flight: Counter,
    /// Envelopes in its inbox.
    pub inbox_envelopes: Counter,
    /// Memories merged into others.
    pub merged: Counter,
    /// Links pruned.
    pub pruned: Counter,
    /// Memories demoted.
    pub demoted: Counter,
    /// Memories that came back from the cold tier.
    pub promoted: Counter,
    /// Consolidations that ended or were undone, in the order of [`RunState::ALL`].
    pub runs: [Counter; RunState::ALL.len()],
    /// Share of the consolidation under way that is done, in units of 1/1000.
    pub run_permille: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            sync_us: Histogram::of_latency(),
            batch_bytes: Histogram::new(&SIZE_BOUNDS),
            batch_records: Histogram::new(&SIZE_BOUNDS),
            envelope_us: Histogram::of_latency(),
            read_us: Histogram::of_latency(),
            recall_us: Histogram::of_latency(),
            recall_phases_us: std::array::from_fn(|_| Histogram::of_latency()),
            cpu_us: Counter::default(),
            memories: Counter::default(),
            links: Counter::default(),
            automatic_links: Counter::default(),
            index_backlog: Counter::default(),
            association_backlog: Counter::default(),
            operations_in_flight: Counter::default(),
            inbox_envelopes: Counter::default(),
            merged: Counter::default(),
            pruned: Counter::default(),
            demoted: Counter::default(),
            promoted: Counter::default(),
            runs: Default::default(),
            run_permille: Counter::default(),
        }
    }
}

impl Meters {
    /// A recall was answered; its phases are those that it went through, in order.
    pub(crate) fn recalled(&self, phases: &[PhaseTime]) {
        self.recall_us.observe(phases.iter().map(|time| time.took_us).sum());
        let (mut hop, mut took_us) = (0, 0);
        let mut current: Option<usize> = None;
        for time in phases {
            hop += usize::from(time.phase == RecallPhase::Hop);
            let next = group(time.phase, hop);
            if let Some(group) = current.filter(|group| *group != next) {
                self.recall_phases_us[group].observe(std::mem::take(&mut took_us));
            }
            took_us += time.took_us;
            current = Some(next);
        }
        if let Some(group) = current {
            self.recall_phases_us[group].observe(took_us);
        }
    }
}

/// Index in [`RECALL_PHASES`] of a phase after so many hops.
fn group(phase: RecallPhase, hop: usize) -> usize {
    match (phase, hop) {
        (RecallPhase::Probe | RecallPhase::Lexical, _) => 0,
        (RecallPhase::Hop | RecallPhase::Terms, 0 | 1) => 1,
        (RecallPhase::Hop | RecallPhase::Terms, 2) => 2,
        (RecallPhase::Hop | RecallPhase::Terms, _) => 3,
        (RecallPhase::Score, _) => 4,
        (RecallPhase::Fetch | RecallPhase::Names, _) => 5,
        (RecallPhase::Cold, _) => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hop_is_measured_by_itself() {
        let meters = Meters::default();
        let time = |phase, took_us| PhaseTime { phase, took_us };
        meters.recalled(&[
            time(RecallPhase::Probe, 1),
            time(RecallPhase::Lexical, 2),
            time(RecallPhase::Hop, 4),
            time(RecallPhase::Terms, 8),
            time(RecallPhase::Hop, 16),
            time(RecallPhase::Fetch, 32),
        ]);
        let sums: Vec<u64> =
            meters.recall_phases_us.iter().map(|phase| phase.read().sum()).collect();
        assert_eq!(sums, [3, 12, 16, 0, 0, 32, 0]);
        assert_eq!(meters.recall_us.read().sum(), 63);
    }
}
