//! Counters and histograms with one writer each.
//!
//! *Invariants*: writing is a plain load and store of the writer's own cache lines, without a lock
//! or a wait; reading from elsewhere sees each value whole, though not all of them of one moment.
//!
//! *Not here*: names and labels, how they are shown (`net::exposition`, `ops`).

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; plain load and store, since nobody else writes.
    pub fn add(&self, count: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(count);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// Sets, for what goes up and down.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of buckets of latency, in microseconds; tight below 5 ms.
pub const LATENCY_BOUNDS_US: [u64; 26] = [
    25, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 4000, 5000, 7500,
    10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// Upper bounds of buckets of sizes: powers of four from 1 to 16 Mi.
pub const SIZE_BOUNDS: [u64; 13] =
    [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216];

/// How often values fell between bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above the last.
    buckets: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    /// A histogram with these upper bounds, inclusive and rising.
    pub fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.is_sorted(), "bounds rise");
        let buckets = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, buckets, sum: Counter::default() }
    }

    /// One of latency, in microseconds.
    pub fn of_latency() -> Self {
        Self::new(&LATENCY_BOUNDS_US)
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].add(1);
        self.sum.add(value);
    }

    /// The sum of what it saw.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// What this one saw.
    pub fn read(&self) -> Seen {
        Seen {
            bounds: self.bounds,
            buckets: self.buckets.iter().map(Counter::get).collect(),
            sum: self.sum.get(),
        }
    }
}

/// What a histogram saw, or several with the same bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    bounds: &'static [u64],
    buckets: Vec<u64>,
    sum: u64,
}

impl Seen {
    /// What several saw together; `None` of none.
    pub fn together<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Option<Self> {
        histograms.into_iter().map(Histogram::read).reduce(|mut all, one| {
            assert!(all.bounds == one.bounds, "only what has the same bounds adds up");
            all.buckets.iter_mut().zip(&one.buckets).for_each(|(sum, count)| *sum += count);
            all.sum += one.sum;
            all
        })
    }

    /// Each bound with how many values were at most that.
    pub fn cumulated(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut below = 0;
        self.bounds.iter().zip(&self.buckets).map(move |(bound, count)| {
            below += count;
            (*bound, below)
        })
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_under_the_bounds_that_hold_them() {
        let (one, other) = (Histogram::new(&[10, 100]), Histogram::new(&[10, 100]));
        [0, 10, 11].into_iter().for_each(|value| one.observe(value));
        [100, 101].into_iter().for_each(|value| other.observe(value));
        let seen = Seen::together([&one, &other]).unwrap();
        assert_eq!(seen.cumulated().collect::<Vec<_>>(), [(10, 2), (100, 4)]);
        assert_eq!((seen.count(), seen.sum()), (5, 222));
    }
}
