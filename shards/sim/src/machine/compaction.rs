//! Logs are compacted while everything else goes on: sealed segments are read through, proven, and
//! rewritten without what nobody needs.
//!
//! *Invariants*: one compaction at a time on a core; what it waits for has a bound, or a crash ends
//! it.
//!
//! *Not here*: which segments deserve it, which a real server decides by their sizes; how one is
//! rewritten (`engram_shards::compaction`).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use engram_engine::record::{Damage, View};
use engram_engine::shard::{Event, Owner, Shard, Verdict};
use engram_engine::space::LogAddress;
use engram_shards::ShardsError;
use engram_shards::compaction::{Keeper, examine, rewrite};
use engram_shards::log::{Log, SegmentFile};

use super::{Machine, poll_once};
use crate::disk::SimDisk;
use crate::plan::Planted;

/// A compaction under way; whether it has replaced something.
pub(super) type Compaction = Pin<Box<dyn Future<Output = Result<bool, ShardsError>>>>;

/// Between two looks for what it waits for.
const WAIT_US: u64 = 50;
/// Most segments that become one.
const GROUP_MAX: usize = 3;

/// A core as its compaction sees it.
struct SimKeeper {
    shard: Rc<RefCell<Shard>>,
    log: Rc<Log<SimDisk>>,
    readers: Rc<RefCell<Rc<()>>>,
    is_moving: Rc<Cell<bool>>,
    planted: Option<Planted>,
}

impl SimKeeper {
    async fn wait(&self) {
        self.log.disk().pause(WAIT_US).await;
    }
}

impl Keeper for SimKeeper {
    fn verdict(&self, view: &View<'_>, address: LogAddress) -> Result<Verdict, Damage> {
        let verdict = self.shard.borrow().verdict(view, address)?;
        let is_mistaken = self.planted == Some(Planted::LiveTakenForDead)
            && verdict == Verdict::Kept
            && self.log.disk().chance(100);
        Ok(if is_mistaken { Verdict::Dead } else { verdict })
    }

    fn sequence(&self) -> u64 {
        self.shard.borrow().sequence()
    }

    async fn rest(&self) {
        if self.log.disk().chance(100) {
            self.wait().await;
        }
    }

    async fn pay(&self, _bytes: usize) {}

    async fn begin_move(&self, horizon: u64) -> bool {
        let too_early = self.planted == Some(Planted::MovedTooEarly);
        loop {
            if self.shard.borrow().is_poisoned() {
                return false;
            }
            let durable = too_early || self.log.durable().sequence >= horizon;
            if durable && self.shard.borrow().can_move_records() {
                self.is_moving.set(true);
                return true;
            }
            self.wait().await;
        }
    }

    fn moved(&self, from: LogAddress, to: Option<(Owner, LogAddress)>) {
        if let Some((owner, to)) = to {
            self.shard.borrow_mut().move_record(owner, from, to);
        }
    }

    fn end_move(&self) {
        self.is_moving.set(false);
    }

    async fn wait_for_readers(&self) {
        let readers = std::mem::take(&mut *self.readers.borrow_mut());
        while Rc::strong_count(&readers) > 1 {
            self.wait().await;
        }
    }
}

impl Machine {
    /// Seals the open segment of a log, or compacts some that are sealed, unless that is under way.
    pub fn begin_compaction(&mut self) {
        let at = self.random.index(self.cores.len());
        let core = &self.cores[at];
        let is_open = core.is_up && core.shard.borrow().is_recovered() && !core.is_poisoned;
        if !is_open || core.compaction.is_some() {
            return;
        }
        let me = u16::try_from(at).expect("few cores");
        let sealed = core.log.sealed();
        if sealed.is_empty() || self.random.permille(400) {
            core.log.seal();
            return self.drive(me, Event::Mark);
        }
        let first = self.random.index(sealed.len());
        let group: Vec<(SegmentFile, u64)> =
            sealed[first..].iter().take(1 + self.random.index(GROUP_MAX)).copied().collect();
        let only_proves = self.random.permille(200);
        let keeper = SimKeeper {
            shard: core.shard.clone(),
            log: core.log.clone(),
            readers: core.readers.clone(),
            is_moving: core.is_moving.clone(),
            planted: self.plan.planted,
        };
        self.note(&[10, at as u64, first as u64, group.len() as u64]);
        self.cores[at].compaction = Some(Box::pin(async move {
            if only_proves {
                return examine(&keeper.log, group[0], &keeper).await.map(|_| false);
            }
            let rewritten = rewrite(&keeper.log, &group, &keeper).await;
            rewritten.map(|rewritten| rewritten.is_some())
        }));
        self.poll_disk(me);
    }

    pub(super) fn poll_compaction(&mut self, me: u16) {
        let core = &mut self.cores[usize::from(me)];
        let Some(Poll::Ready(outcome)) = core.compaction.as_mut().map(poll_once) else { return };
        core.compaction = None;
        match outcome {
            Ok(compacted) => self.compactions += u64::from(compacted),
            // It is tried again later.
            Err(ShardsError::Io { .. } | ShardsError::Room { .. }) => {}
            Err(error) => self.damage = Some(format!("a sound segment is refused: {error}")),
        }
    }
}
