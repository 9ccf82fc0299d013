//! What the process may still do with the memory that it has: watermarks with hysteresis.
//!
//! *Invariants*: a pure function of what is held, what is owed and what was decided before; caches
//! shrink first, then writes are refused, and only then is background work stopped; what is refused
//! is allowed again at a lower mark than that at which it was refused.
//!
//! *Not here*: measuring ([`crate::MemoryGauge`]), obeying (`shards`).

use crate::memory_use::MemoryUse;

/// Caches shrink from here on; all marks are in units of 1/1000 of the limit.
const SHRINK_FROM: u64 = 800;
/// Caches are at their least from here on.
const SHRINK_TO: u64 = 920;
/// What is left of caches then.
const CACHE_LEAST: u16 = 125;
/// Writes are refused from here on, and until the lower mark is passed.
const REFUSE: u64 = 950;
const REFUSE_UNTIL: u64 = 930;
/// Background work, which takes memory as well, stops.
const STOP: u64 = 985;
const STOP_UNTIL: u64 = 970;
/// The control group's own limit kills: writes stop short of it, whoever holds the memory.
const GROUP_REFUSE: u64 = 920;
/// Private pages include gaps of the heap that are filled again: they count a little less.
const RESIDENT_WEIGHT: u64 = 950;
/// Waiting for memory in so much of the time, caches are at their least.
const STALLED_SHRINK_PERCENT: f32 = 10.0;
/// And writes are refused.
const STALLED_REFUSE_PERCENT: f32 = 40.0;
/// Gaps of so much are worth giving back, once caches shrink.
const GAPS: u64 = 50;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRoom {
    /// Share of their size that caches may have, in units of 1/1000.
    pub cache_permille: u16,
    /// Writes that make the process grow.
    pub writes: bool,
    /// Associations and indexes.
    pub background: bool,
    /// The heap should give empty pages back.
    pub give_back: bool,
}

impl Default for MemoryRoom {
    fn default() -> Self {
        Self { cache_permille: 1000, writes: true, background: true, give_back: false }
    }
}

/// The budget of a process.
#[derive(Clone, Copy, Debug)]
pub struct MemoryBudget {
    limit_bytes: u64,
    room: MemoryRoom,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes: limit_bytes.max(1), room: MemoryRoom::default() }
    }

    /// Decides; `owed_bytes` are those that background work will take for what is stored already.
    pub fn decide(&mut self, held: &MemoryUse, owed_bytes: u64) -> MemoryRoom {
        let now = self.held_permille(held);
        let promised = now + permille(owed_bytes, self.limit_bytes);
        let group = held.group.map_or(0, |g| permille(g.used_bytes, g.limit_bytes));
        let before = self.room;
        let refuse = if before.writes { REFUSE } else { REFUSE_UNTIL };
        let group_refuse = GROUP_REFUSE - (REFUSE - refuse);
        let stalled = held.stalled_percent;
        let writes = promised < refuse && group < group_refuse && stalled < STALLED_REFUSE_PERCENT;
        let stop = if before.background { STOP } else { STOP_UNTIL };
        let gaps = permille(held.resident_bytes.saturating_sub(held.heap_bytes), self.limit_bytes);
        self.room = MemoryRoom {
            cache_permille: cache_permille(now, stalled),
            writes,
            background: now < stop && group < GROUP_REFUSE + (STOP - REFUSE),
            give_back: now >= SHRINK_FROM && gaps > GAPS,
        };
        self.room
    }

    /// Bytes that are left before writes are refused.
    pub fn headroom_bytes(&self, held: &MemoryUse, owed_bytes: u64) -> u64 {
        let promised = self.held_permille(held) + permille(owed_bytes, self.limit_bytes);
        let own = REFUSE.saturating_sub(promised) * (self.limit_bytes / 1000);
        let group = held.group.map_or(u64::MAX, |g| {
            (g.limit_bytes / 1000 * GROUP_REFUSE).saturating_sub(g.used_bytes)
        });
        own.min(group)
    }

    /// Share of the limit that is held, in units of 1/1000.
    pub fn held_permille(&self, held: &MemoryUse) -> u64 {
        let in_use = held.heap_bytes + held.images_bytes;
        let resident = (held.resident_bytes + held.images_bytes) / 1000 * RESIDENT_WEIGHT;
        permille(in_use.max(resident), self.limit_bytes)
    }
}

fn permille(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 1000 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

fn cache_permille(held: u64, stalled_percent: f32) -> u16 {
    if held >= SHRINK_TO || stalled_percent >= STALLED_SHRINK_PERCENT {
        return CACHE_LEAST;
    }
    let over = u16::try_from(held.saturating_sub(SHRINK_FROM)).unwrap_or(u16::MAX);
    let range = (SHRINK_TO - SHRINK_FROM) as u16;
    // In steps, so that shards are not told of every byte.
    let share = 1000 - over / 10 * 10 * ((1000 - CACHE_LEAST) / range);
    share.max(CACHE_LEAST)
}
