//! How long a core polls before it sleeps: as long as that has paid lately.
//!
//! What comes soon after the last thing comes soon again: then waking a core that sleeps, which
//! takes longer than the wait, is saved. What comes late is not polled for. The rule is that by
//! which KVM polls before it halts a virtual CPU (`halt_poll_ns`): the time grows where something came
//! after it was over, but within the bound, and shrinks where nothing did.
//!
//! *Invariants*: a core polls for nothing at most twice the bound after something that came, then
//! not at all until things come closer together; where the bound is zero, never.
//!
//! *Not here*: where polling is allowed (`platform::placement`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::timer::sleep;

use crate::notify::Notify;

/// The shortest time that is worth polling.
const FIRST: Duration = Duration::from_micros(10);
/// Between two looks: long enough for the executor to look at sockets, files and messages.
const LOOK: Duration = Duration::from_micros(1);

/// What came to a core from outside: requests of its clients, messages of other cores.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    count: Cell<u64>,
    came: Notify,
}

impl Arrivals {
    /// Something came.
    pub(crate) fn note(&self) {
        self.count.set(self.count.get() + 1);
        self.came.notify();
    }

    /// Waits until more has come than so much.
    async fn more_than(&self, count: u64) {
        while self.count.get() == count {
            self.came.wait().await;
        }
    }
}

/// How long to poll.
#[derive(Clone, Copy, Debug)]
struct Patience {
    now: Duration,
    max: Duration,
}

impl Patience {
    fn new(max: Duration) -> Self {
        Self { now: Duration::ZERO, max }
    }

    /// Learns how long it took until something came.
    fn learn(&mut self, took: Duration) {
        if took > self.max {
            self.now /= 2;
            if self.now < FIRST {
                self.now = Duration::ZERO;
            }
        } else if took > self.now {
            self.now = (self.now * 2).max(FIRST).min(self.max);
        }
    }
}

/// Keeps a core awake after what came, for `max` at most.
pub(crate) async fn run(arrivals: Rc<Arrivals>, max: Duration) {
    let mut patience = Patience::new(max);
    loop {
        let (seen, since) = (arrivals.count.get(), Instant::now());
        while arrivals.count.get() == seen && since.elapsed() < patience.now {
            sleep(LOOK).await;
        }
        arrivals.more_than(seen).await;
        patience.learn(since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(100);

    /// What it polls for after each of these times, in microseconds.
    fn learnt(took_us: &[u64]) -> Vec<u128> {
        let mut patience = Patience::new(MAX);
        let mut times = Vec::new();
        for took in took_us {
            patience.learn(Duration::from_micros(*took));
            times.push(patience.now.as_micros());
        }
        times
    }

    #[test]
    fn it_polls_as_long_as_things_take_that_come_soon() {
        assert_eq!(learnt(&[30, 30, 30, 30, 30]), [10, 20, 40, 40, 40]);
        assert_eq!(learnt(&[90, 90, 90, 90, 90, 90]), [10, 20, 40, 80, 100, 100]);
    }

    #[test]
    fn it_does_not_poll_for_what_comes_late() {
        assert_eq!(learnt(&[5000, 200, 101]), [0, 0, 0]);
        assert_eq!(
            learnt(&[90, 90, 90, 90, 5000, 5000, 5000, 5000]),
            [10, 20, 40, 80, 40, 20, 10, 0]
        );
    }

    #[test]
    fn what_is_polled_for_nothing_is_bounded_by_what_came_before() {
        let times = learnt(&[90, 90, 90, 90, 90, 5000, 5000, 5000, 5000, 5000]);
        let wasted: u128 = times[4..].iter().sum();
        assert!(wasted < 2 * MAX.as_micros(), "{times:?}");
    }
}
