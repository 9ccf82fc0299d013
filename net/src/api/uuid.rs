//! Ids that the server makes: UUID version 7 (RFC 9562).
//!
//! *Invariants*: the ids of one core grow; two cores never make the same one but by a collision of
//! 62 random bits within one millisecond.
//!
//! *Not here*: ids that clients choose.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use engram_engine::model::{MemoryId, Timestamp};

/// The generator of one core.
#[derive(Debug)]
pub struct Uuids {
    random: Cell<u64>,
    millisecond: Cell<u64>,
    count: Cell<u16>,
}

impl Uuids {
    /// Seeded by the system's randomness.
    pub fn new() -> Self {
        let seed = RandomState::new().hash_one("engram");
        Self { random: Cell::new(seed), millisecond: Cell::new(0), count: Cell::new(0) }
    }

    /// The next id.
    pub fn memory_id(&self, now: Timestamp) -> MemoryId {
        MemoryId::new(&self.next(now)).expect("a UUID is a valid id")
    }

    /// The next UUID as text.
    pub fn next(&self, now: Timestamp) -> String {
        let (millisecond, count) = self.tick(now);
        let random = self.random();
        format!(
            "{:08x}-{:04x}-7{count:03x}-{:04x}-{:012x}",
            (millisecond >> 16) & 0xffff_ffff,
            millisecond & 0xffff,
            0x8000 | (random >> 48) & 0x3fff,
            random & 0xffff_ffff_ffff,
        )
    }

    /// Sixteen random hexadecimal digits, for requests.
    pub fn short_id(&self) -> Vec<u8> {
        let random = self.random();
        (0..16).map(|at| b"0123456789abcdef"[(random >> (60 - at * 4)) as usize & 15]).collect()
    }

    /// Millisecond and a count within it; past 4,096 the next millisecond is borrowed.
    fn tick(&self, now: Timestamp) -> (u64, u16) {
        let now = u64::try_from(now.0).unwrap_or(0) / 1000;
        let last = self.millisecond.get();
        let (millisecond, count) = match self.count.get() {
            _ if now > last => (now, 0),
            0xfff => (last + 1, 0),
            count => (last, count + 1),
        };
        self.millisecond.set(millisecond);
        self.count.set(count);
        (millisecond, count)
    }

    /// `splitmix64`.
    /// Random bits.
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_core_grow_even_within_a_millisecond() {
        let uuids = Uuids::new();
        let now = Timestamp(1_767_225_600_000_000);
        let made: Vec<String> = (0..10_000).map(|_| uuids.next(now)).collect();
        assert!(made.is_sorted_by(|a, b| a < b));
        assert_eq!(made[0].len(), 36);
        assert_eq!(&made[0][14..15], "7");
    }
}
