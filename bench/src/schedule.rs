//! When requests are meant to be sent: the arrivals of an open loop.
//!
//! *Invariants*: arrivals are drawn ahead of everything that happens to them, so that a slow server
//! can't slow them down: latency counted from them is free of coordinated omission (Tene, 2013).
//!
//! *Not here*: sending (`client`).

use crate::random::Random;

/// How the gaps between arrivals are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gaps {
    /// All equal.
    Constant,
    /// Exponential: the arrivals of many independent clients.
    Poisson,
}

/// An endless, seeded series of arrivals, in nanoseconds from the start of the run.
#[derive(Clone, Debug)]
pub struct Schedule {
    gap_ns: f64,
    gaps: Gaps,
    random: Random,
    first_ns: f64,
    taken: u64,
    next_ns: f64,
}

impl Schedule {
    /// `rate` arrivals a second; the first one falls into the first gap, by `offset` (0 to 1).
    pub fn new(rate: f64, gaps: Gaps, seed: u64, offset: f64) -> Self {
        assert!(rate > 0.0 && rate.is_finite(), "a rate is positive");
        let mut random = Random::new(seed);
        let gap_ns = 1e9 / rate;
        let first = match gaps {
            Gaps::Constant => offset,
            Gaps::Poisson => random.exponential(),
        };
        Self { gap_ns, gaps, random, first_ns: gap_ns * first, taken: 0, next_ns: gap_ns * first }
    }

    /// The next arrival; the same until [`Schedule::advance`].
    pub fn due_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Goes on to the arrival after this one.
    pub fn advance(&mut self) {
        self.taken += 1;
        self.next_ns = match self.gaps {
            Gaps::Constant => self.first_ns + self.gap_ns * self.taken as f64,
            Gaps::Poisson => self.next_ns + self.gap_ns * self.random.exponential(),
        };
    }

    /// Arrivals before `end_ns` that were not taken; consumes them.
    pub fn skip_until(&mut self, end_ns: u64) -> u64 {
        let mut skipped = 0;
        while self.due_ns() < end_ns {
            self.advance();
            skipped += 1;
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_one_asked_for() {
        for gaps in [Gaps::Constant, Gaps::Poisson] {
            let mut schedule = Schedule::new(5000.0, gaps, 9, 0.5);
            let count = schedule.skip_until(20_000_000_000);
            assert!((99_000..=101_000).contains(&count), "{gaps:?}: {count}");
        }
    }

    #[test]
    fn poisson_gaps_vary_as_much_as_their_mean() {
        let mut schedule = Schedule::new(1000.0, Gaps::Poisson, 4, 0.0);
        let mut gaps = Vec::new();
        for _ in 0..50_000 {
            let before = schedule.due_ns();
            schedule.advance();
            gaps.push((schedule.due_ns() - before) as f64);
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation =
            (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation} / {mean}");
    }
}
