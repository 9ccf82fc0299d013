//! Compaction: sealed segments are read through in the background, their checksums proven, and those
//! rewritten that hold too much of what nobody needs any more, or held it for too long.
//!
//! *Invariants*: it runs in slices that leave the core to whoever asks something of it; what fails
//! here leaves the log as it was, and is tried again later.
//!
//! *Not here*: how a segment is rewritten (`rewrite`), which records are dead
//! (`engram_engine::shard`).

mod plan;
mod rewrite;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engram_engine::phase::Phase;
use engram_engine::record::{Damage, View};
use engram_engine::shard::{Event, LiveRecords, Owner, Verdict};
use engram_engine::space::LogAddress;
use futures_lite::future::or;
use glommio::timer::sleep;

use crate::core::Core;
use crate::error::ShardsError;
use crate::log::SegmentFile;
use crate::segment::DISK_RESERVE_BYTES;
use crate::stall::Work;
use crate::status::Counters;
pub use plan::{FORGET_SWEEPS, Known, Live, Plan};
pub use rewrite::{Holds, Keeper, Rewritten, examine, rewrite};

/// How often a core looks in which phase of life it is, and for a request that was not obeyed.
const LOOK: Duration = Duration::from_secs(1);
/// How long this has the core at a time.
const SLICE: Duration = Duration::from_micros(45);
/// Entries of memories that are looked at between two looks at the clock.
const ENTRIES_AT_ONCE: usize = 256;
/// Most bytes a second of reading segments only to prove them.
const SCRUB_BYTES_PER_S: u64 = 32 << 20;
/// A segment whose checksums were proven is read again after so long.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The same where much of it is no memory's record: nobody is told when such a record is superseded.
const REEXAMINE_EVERY: Duration = Duration::from_secs(3600);
/// How long a round reads segments before it rewrites some.
const EXAMINE_MAX: Duration = Duration::from_secs(30);
/// Bytes of memory that a rewriting takes besides the segment that it reads, about.
const WRITING_BYTES: u64 = 3 << 20;
/// How often somebody looks for what it waits for.
const WAIT: Duration = Duration::from_millis(2);

/// Compacts a shard's log, again and again.
pub(crate) async fn run(core: Rc<Core>, pause: Duration) {
    let mut compactor = Compactor::new(core, pause);
    loop {
        let wanted = compactor.wait(pause).await;
        if compactor.core.counters().phase() >= Phase::Draining {
            return;
        }
        let settled = compactor.round(wanted.is_some()).await;
        match wanted {
            Some(wanted) if settled => {
                compactor.core.counters().compacted_request.store(wanted, Ordering::Release);
            }
            Some(_) => sleep(LOOK).await,
            None => {}
        }
    }
}

/// What one shard knows of its segments.
struct Compactor {
    core: Rc<Core>,
    known: BTreeMap<u32, Known>,
    /// Since when segments have held what was forgotten.
    dead_since: BTreeMap<u32, Instant>,
    forget_after: Duration,
    paced: Paced,
}

impl Compactor {
    fn new(core: Rc<Core>, pause: Duration) -> Self {
        Self {
            paced: Paced {
                core: core.clone(),
                begun: Cell::new(Instant::now()),
                scrubs: Cell::new(false),
            },
            core,
            known: BTreeMap::new(),
            dead_since: BTreeMap::new(),
            forget_after: pause.saturating_mul(FORGET_SWEEPS),
        }
    }

    /// Waits until it is time for a round, or somebody wants one: then, which request that is.
    async fn wait(&self, pause: Duration) -> Option<u64> {
        let begun = Instant::now();
        loop {
            let counters = self.core.counters();
            let (phase, wanted) = (counters.phase(), self.core.status.compaction_wanted());
            if phase >= Phase::Draining {
                return None;
            }
            let left = pause.saturating_sub(begun.elapsed());
            if matches!(phase, Phase::Running | Phase::Consolidating) {
                if counters.compacted_request.load(Ordering::Relaxed) < wanted {
                    return Some(wanted);
                }
                if left.is_zero() {
                    return None;
                }
            }
            or(self.core.compaction.wait(), sleep(left.min(LOOK).max(WAIT))).await;
        }
    }

    /// Reads segments that are not known, and rewrites those that should be; false where some of
    /// this has to wait or failed.
    async fn round(&mut self, wanted: bool) -> bool {
        self.paced.begun.set(Instant::now());
        if wanted {
            self.seal().await;
        }
        let mut live = self.live().await;
        let (examined, mut whole) = self.examine_segments(&live, wanted).await;
        if examined {
            live = self.live().await;
        }
        self.note_dead(&live);
        self.seal_overdue(&live).await;
        self.note_gauges(&live);
        for group in self.plan(&live, wanted).groups() {
            whole &= self.rewrite(&group).await;
            if self.core.counters().phase() >= Phase::Draining {
                return false;
            }
        }
        self.note_gauges(&self.live().await);
        whole
    }

    /// Where the newest records of memories lie.
    async fn live(&self) -> BTreeMap<u32, Live> {
        let mut live: BTreeMap<u32, Live> = BTreeMap::new();
        let mut so_far = LiveRecords::default();
        loop {
            let count = |address: LogAddress| {
                let live = live.entry(address.segment).or_default();
                live.records += 1;
                live.bytes += address.record_bytes();
            };
            let more = self.core.shard.borrow().live_records(&mut so_far, ENTRIES_AT_ONCE, count);
            if !more {
                return live;
            }
            self.paced.rest().await;
        }
    }

    /// Reads segments of which nothing is known, the emptiest first, and those that were read long
    /// ago; whether there were any, and whether memory was there for all.
    async fn examine_segments(&mut self, live: &BTreeMap<u32, Live>, wanted: bool) -> (bool, bool) {
        let sealed = self.core.log.sealed();
        let numbers = |number: &u32| sealed.iter().any(|(file, _)| file.header.segment == *number);
        self.known.retain(|number, _| numbers(number));
        let (begun, mut examined) = (Instant::now(), false);
        let mut due: Vec<_> =
            sealed.iter().filter(|(file, _)| self.is_due(file)).copied().collect();
        let share = |file: &SegmentFile| {
            let bytes = live.get(&file.header.segment).map_or(0, |live| live.bytes);
            bytes * 1000 / file.bytes.max(1)
        };
        due.sort_by_key(|(file, _)| (self.known.contains_key(&file.header.segment), share(file)));
        self.paced.scrubs.set(!wanted);
        let (status, mut had_memory) = (self.core.status.clone(), true);
        for (file, behind) in due {
            let stops = self.core.counters().phase() >= Phase::Draining;
            if stops || (!wanted && begun.elapsed() > EXAMINE_MAX) {
                break;
            }
            let Some(_loan) = status.lend_memory(file.bytes) else {
                self.say_memory_lacks(file.bytes);
                had_memory = false;
                break;
            };
            examined |= self.examine_one(file, behind).await;
        }
        self.paced.scrubs.set(false);
        (examined, had_memory)
    }

    fn is_due(&self, file: &SegmentFile) -> bool {
        let Some(known) = self.known.get(&file.header.segment) else { return true };
        let age = known.examined.elapsed();
        age >= SCRUB_EVERY
            || (age >= REEXAMINE_EVERY && known.holds.other_bytes * 4 >= file.bytes)
            || known.edition != file.edition()
    }

    async fn examine_one(&mut self, file: SegmentFile, behind: u64) -> bool {
        let counters = self.core.counters();
        let number = file.header.segment;
        match examine(&self.core.log, (file, behind), &self.paced).await {
            Ok(holds) => {
                Counters::add(&counters.scrubbed_bytes, file.bytes);
                self.known.insert(number, Known::new(file.edition(), holds));
                true
            }
            Err(error) => {
                self.note_damage(&error);
                let known = Known { damaged: true, ..Known::new(file.edition(), Holds::default()) };
                self.known.insert(number, known);
                false
            }
        }
    }

    /// A segment is read whole: where memory is short, it waits for a later round.
    fn say_memory_lacks(&self, bytes: u64) {
        log::info!(
            "shard {}: a segment of its log is not read through: {bytes} bytes of memory are not \
             there; forget memories or raise the limit (ENGRAM_MEMORY_LIMIT)",
            self.core.me.0
        );
    }

    /// What was read is not what was written: it is said once a day, and left alone.
    fn note_damage(&self, error: &ShardsError) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        log::error!(
            "shard {}: {error}: {}; run `engram check`, and restore what it names from a snapshot",
            self.core.me.0,
            cause.unwrap_or_default()
        );
    }

    /// Notes which segments hold what was forgotten.
    fn note_dead(&mut self, live: &BTreeMap<u32, Live>) {
        let records = |number: u32| live.get(&number).map_or(0, |live| live.records);
        let (open, stored) = self.core.log.stored();
        let known = self.known.iter().filter(|(_, known)| !known.damaged);
        let known = known.map(|(number, known)| (*number, known.holds.stored));
        // Those that were not read yet keep what is known of them.
        let unread = |number: &u32| *number != open && !self.known.contains_key(number);
        let mut since: BTreeMap<u32, Instant> = BTreeMap::new();
        since.extend(self.dead_since.iter().filter(|(n, _)| unread(n)).map(|(n, at)| (*n, *at)));
        for (number, stored) in known.chain([(open, stored)]) {
            if stored > records(number) {
                let before = self.dead_since.get(&number);
                since.insert(number, before.copied().unwrap_or_else(Instant::now));
            }
        }
        self.dead_since = since;
    }

    /// The open segment is sealed where it has held for too long what was forgotten.
    async fn seal_overdue(&self, live: &BTreeMap<u32, Live>) {
        let (open, stored) = self.core.log.stored();
        let overdue = self.dead_since.get(&open).is_some_and(|s| s.elapsed() >= self.forget_after);
        if overdue && stored > live.get(&open).map_or(0, |live| live.records) {
            self.seal().await;
        }
    }

    /// Ends the open segment, and begins the next one.
    async fn seal(&self) {
        self.core.log.seal();
        self.core.drive(Event::Mark);
        let marked = self.core.shard.borrow().sequence();
        while self.core.log.durable().sequence < marked
            && self.core.counters().phase() < Phase::Draining
        {
            sleep(WAIT).await;
        }
    }

    fn plan(&self, live: &BTreeMap<u32, Live>, wanted: bool) -> Plan {
        let mut plan = Plan::default();
        for (file, behind) in self.core.log.sealed() {
            let number = file.header.segment;
            let known = self.known.get(&number).filter(|known| known.edition == file.edition());
            let live = live.get(&number).copied().unwrap_or_default();
            let dead_for = self.dead_since.get(&number).map(Instant::elapsed);
            let overdue = dead_for.is_some_and(|dead| wanted || dead >= self.forget_after);
            plan.add((file, behind), known, live, overdue, wanted);
        }
        plan
    }

    async fn rewrite(&mut self, group: &[(SegmentFile, u64)]) -> bool {
        let before: u64 = group.iter().map(|(file, _)| file.bytes).sum();
        let free = crate::images::free_bytes(self.core.log.folder());
        if free < before + DISK_RESERVE_BYTES {
            log::warn!(
                "shard {}: no room to compact {before} bytes of its log: {free} bytes are free",
                self.core.me.0
            );
            return false;
        }
        let status = self.core.status.clone();
        let largest = group.iter().map(|(file, _)| file.bytes).max().unwrap_or(0);
        let Some(_loan) = status.lend_memory(largest + WRITING_BYTES) else {
            self.say_memory_lacks(largest + WRITING_BYTES);
            return false;
        };
        let counters = self.core.counters();
        match rewrite(&self.core.log, group, &self.paced).await {
            Ok(Some(Rewritten { file, holds })) => {
                for (old, _) in group {
                    self.known.remove(&old.header.segment);
                    self.dead_since.remove(&old.header.segment);
                }
                self.known.insert(file.header.segment, Known::new(file.edition(), holds));
                Counters::add(&counters.compactions, 1);
                Counters::add(&counters.compacted_bytes, file.bytes);
                let freed = before.saturating_sub(file.bytes);
                Counters::add(&counters.compaction_freed_bytes, freed);
                counters.log_bytes.store(self.core.log.bytes(), Ordering::Relaxed);
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.note_damage(&error);
                false
            }
        }
    }

    fn note_gauges(&self, live: &BTreeMap<u32, Live>) {
        let counters = self.core.counters();
        let sealed = self.core.log.sealed();
        let of = |pick: fn(&Known) -> u64| self.known.values().map(pick).sum::<u64>();
        let newest: u64 = live.values().map(|live| live.bytes).sum();
        let needed = newest + of(|known| known.holds.other_bytes);
        counters.log_segments.store(sealed.len() as u64 + 1, Ordering::Relaxed);
        counters.log_live_bytes.store(needed, Ordering::Relaxed);
        let damaged = of(|known| u64::from(known.damaged));
        counters.damaged_segments.store(damaged, Ordering::Relaxed);
        let forgotten = self.dead_since.len() as u64;
        counters.forgetting_segments.store(forgotten, Ordering::Relaxed);
    }
}

/// A core that compacts when nobody else wants it.
struct Paced {
    core: Rc<Core>,
    begun: Cell<Instant>,
    /// Segments are read only to be proven: that has time.
    scrubs: Cell<bool>,
}

impl Keeper for Paced {
    fn verdict(&self, view: &View<'_>, address: LogAddress) -> Result<Verdict, Damage> {
        self.core.shard.borrow().verdict(view, address)
    }

    fn sequence(&self) -> u64 {
        self.core.shard.borrow().sequence()
    }

    async fn rest(&self) {
        if self.begun.get().elapsed() >= SLICE {
            self.core.did(Work::Compaction, self.begun.get());
            self.core.let_others().await;
            self.begun.set(Instant::now());
        }
    }

    async fn pay(&self, bytes: usize) {
        if self.scrubs.get() {
            let due = bytes as u64 * 1_000_000 / SCRUB_BYTES_PER_S;
            sleep(Duration::from_micros(due)).await;
        }
        self.begun.set(Instant::now());
    }

    async fn begin_move(&self, horizon: u64) -> bool {
        let core = &self.core;
        loop {
            let phase = core.counters().phase();
            if phase >= Phase::Draining {
                return false;
            }
            let durable = core.log.durable().sequence >= horizon;
            let free = !core.is_imaging.get() && core.shard.borrow().can_move_records();
            if durable && free {
                core.is_moving.set(true);
                self.begun.set(Instant::now());
                return true;
            }
            sleep(WAIT).await;
        }
    }

    fn moved(&self, from: LogAddress, to: Option<(Owner, LogAddress)>) {
        let to =
            to.filter(|(owner, to)| self.core.shard.borrow_mut().move_record(*owner, from, *to));
        self.core.recache(from, to.map(|(_, to)| to));
    }

    fn end_move(&self) {
        self.core.is_moving.set(false);
    }

    async fn wait_for_readers(&self) {
        let readers = self.core.replace_readers();
        while Rc::strong_count(&readers) > 1 {
            sleep(WAIT).await;
        }
    }
}
