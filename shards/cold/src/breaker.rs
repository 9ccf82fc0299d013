//! A circuit breaker: a tier that fails again and again is left alone for a while.
//!
//! *Invariants*: while the circuit is open nothing goes through; when the pause is over one request
//! tries, and what becomes of it decides.
//!
//! *Not here*: retries (`tier`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open the circuit.
const FAILURES_MAX: u32 = 5;
/// The first pause; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Lets requests through, or not.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    opened: u32,
    until: Option<Instant>,
    trying: bool,
}

impl Breaker {
    /// Whether a request may go through now; else how long nothing does.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state();
        let Some(until) = state.until else { return Ok(()) };
        if now < until {
            return Err(until - now);
        }
        if state.trying {
            return Err(PAUSE);
        }
        state.trying = true;
        Ok(())
    }

    /// The tier answered.
    pub fn succeeded(&self) {
        *self.state() = State::default();
    }

    /// It did not.
    pub fn failed(&self, now: Instant) {
        let mut state = self.state();
        state.failures += 1;
        if state.failures >= FAILURES_MAX || state.trying {
            let pause = PAUSE.saturating_mul(1 << state.opened.min(4)).min(PAUSE_MAX);
            state.until = Some(now + pause);
            state.opened += 1;
            state.trying = false;
        }
    }

    /// Nothing goes through.
    pub fn is_open(&self) -> bool {
        self.state().until.is_some()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_request_tries_again() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES_MAX {
            breaker.failed(start);
        }
        assert_eq!(breaker.admit(start), Ok(()));
        breaker.succeeded();
        (0..FAILURES_MAX).for_each(|_| breaker.failed(start));
        assert!(breaker.admit(start).is_err());
        let later = start + PAUSE;
        assert_eq!(breaker.admit(later), Ok(()), "one tries");
        assert!(breaker.admit(later).is_err(), "the others wait for it");
        breaker.failed(later);
        assert!(breaker.admit(later + PAUSE).is_err(), "the next pause is longer");
        assert_eq!(breaker.admit(later + 2 * PAUSE), Ok(()));
        breaker.succeeded();
        assert!(!breaker.is_open());
        assert_eq!(breaker.admit(later), Ok(()));
    }
}
