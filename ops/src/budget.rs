//! The watch over memory and disk: what is held is read often, and the shards are told what follows.
//!
//! *Invariants*: the nearer a limit, the more often it is looked at; a server far from its limits is
//! looked at once a second.
//!
//! *Not here*: watermarks (`engram_platform`), obeying (`engram_shards`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_engine::shard::{Budget, Writes};
use engram_platform::{
    DiskBudget, MemoryBudget, MemoryGauge, MemoryRoom, MemoryUse, disk_free_bytes,
};
use engram_shards::{Room, Rooms, Status};

/// Longest and shortest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// No server fills memory or disk faster than this.
const GROWTH_BYTES_PER_S: f64 = 1e9;
/// Shortest time between two calls for empty pages of the heaps.
const GIVE_BACK_PAUSE: Duration = Duration::from_secs(5);

/// What is limited.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that the process may use.
    pub memory_bytes: u64,
    /// The folder whose disk fills up.
    pub data_dir: PathBuf,
    /// Bytes of it that writes leave free.
    pub disk_reserve_bytes: u64,
    /// A folder on tmpfs that counts as memory.
    pub images: Option<PathBuf>,
}

/// What was read last, for metrics.
#[derive(Debug, Default)]
pub struct Readings {
    /// The limit of memory.
    pub memory_limit: AtomicU64,
    /// Share of the limit that is held, in units of 1/1000.
    pub held_permille: AtomicU64,
    /// On the heap.
    pub heap: AtomicU64,
    /// Private pages.
    pub resident: AtomicU64,
    /// The most private pages that there were.
    pub resident_max: AtomicU64,
    /// Images on tmpfs.
    pub images: AtomicU64,
    /// Free bytes of the disk.
    pub disk_free: AtomicU64,
    /// 1 where writes are refused for want of memory.
    pub memory_full: AtomicU64,
    /// 1 where writes are refused for want of disk.
    pub disk_full: AtomicU64,
}

/// The watch, in a thread of its own until it is told to end.
pub struct Watch {
    limits: Limits,
    gauge: MemoryGauge,
    memory: MemoryBudget,
    disk: DiskBudget,
    status: Arc<Status>,
    rooms: Arc<Rooms>,
    readings: Arc<Readings>,
    writes: Writes,
    gave_back: Option<Instant>,
}

impl Watch {
    /// A watch that has not looked yet.
    pub fn new(
        limits: Limits,
        status: Arc<Status>,
        rooms: Arc<Rooms>,
        readings: Arc<Readings>,
    ) -> Self {
        readings.memory_limit.store(limits.memory_bytes, Ordering::Relaxed);
        Self {
            gauge: MemoryGauge::new(limits.images.clone()),
            memory: MemoryBudget::new(limits.memory_bytes),
            disk: DiskBudget::new(limits.disk_reserve_bytes),
            limits,
            status,
            rooms,
            readings,
            writes: Writes::Open,
            gave_back: None,
        }
    }

    /// Looks until the server is told to stop.
    pub fn run(mut self) {
        loop {
            let pause = self.look();
            if self.status.life().is_told_to_stop_within(pause) {
                return;
            }
        }
    }

    /// Looks once, tells the shards, and says when to look again.
    fn look(&mut self) -> Duration {
        let held = self.gauge.read();
        let shards = self.status.shards().iter();
        let owed = shards.map(|shard| shard.owed_bytes.load(Ordering::Relaxed)).sum();
        let free = disk_free_bytes(&self.limits.data_dir);
        let room = self.memory.decide(&held, owed);
        let disk = free.is_none_or(|free| self.disk.decide(free));
        self.note(&held, free, room.writes, disk);
        self.tell(room, disk, &held);
        let memory_left = self.memory.headroom_bytes(&held, owed);
        self.status.note_memory_left(memory_left);
        let disk_left = free.map_or(u64::MAX, |free| self.disk.headroom_bytes(free));
        pause(memory_left.min(disk_left))
    }

    fn tell(&mut self, room: MemoryRoom, disk: bool, held: &MemoryUse) {
        let writes = match (room.writes, disk) {
            (false, _) => Writes::MemoryFull,
            (true, false) => Writes::DiskFull,
            (true, true) => Writes::Open,
        };
        if writes != self.writes {
            self.log_change(writes, held);
            self.writes = writes;
        }
        let rested = self.gave_back.is_none_or(|last| last.elapsed() >= GIVE_BACK_PAUSE);
        let give_back = room.give_back && rested;
        if give_back {
            self.gave_back = Some(Instant::now());
            // Pages that no thread holds; those that a shard holds are given back by the shard.
            engram_platform::give_back_heap();
        }
        let budget = Budget { writes, background: room.background };
        let cache_less_permille = 1000 - room.cache_permille;
        self.rooms.tell(Room { budget, cache_less_permille, give_back });
    }

    fn log_change(&self, writes: Writes, held: &MemoryUse) {
        let mebibytes = |bytes: u64| bytes >> 20;
        match writes {
            Writes::Open => log::info!("writes are taken again: there is room"),
            Writes::MemoryFull => log::warn!(
                "writes are refused with 507: {} MiB of {} are in use, {} resident",
                mebibytes(held.heap_bytes + held.images_bytes),
                mebibytes(self.limits.memory_bytes),
                mebibytes(held.resident_bytes)
            ),
            Writes::DiskFull => log::warn!(
                "writes are refused with 507: less than {} MiB of the disk of {} are free",
                mebibytes(self.limits.disk_reserve_bytes),
                self.limits.data_dir.display()
            ),
        }
    }

    fn note(&self, held: &MemoryUse, free: Option<u64>, memory: bool, disk: bool) {
        let readings = &self.readings;
        let permille = self.memory.held_permille(held);
        readings.held_permille.store(permille, Ordering::Relaxed);
        readings.heap.store(held.heap_bytes, Ordering::Relaxed);
        readings.resident_max.fetch_max(held.resident_bytes, Ordering::Relaxed);
        readings.resident.store(held.resident_bytes, Ordering::Relaxed);
        readings.images.store(held.images_bytes, Ordering::Relaxed);
        readings.disk_free.store(free.unwrap_or(0), Ordering::Relaxed);
        readings.memory_full.store(u64::from(!memory), Ordering::Relaxed);
        readings.disk_full.store(u64::from(!disk), Ordering::Relaxed);
    }
}

/// A quarter of the time in which the fastest growth would take what is left.
fn pause(left_bytes: u64) -> Duration {
    let seconds = left_bytes as f64 / GROWTH_BYTES_PER_S / 4.0;
    Duration::from_secs_f64(seconds.min(1.0)).clamp(PAUSE_MIN, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_a_limit_the_more_often_it_is_looked_at() {
        assert_eq!(pause(u64::MAX), PAUSE_MAX);
        assert_eq!(pause(400_000_000), Duration::from_millis(100));
        assert_eq!(pause(0), PAUSE_MIN);
    }
}
