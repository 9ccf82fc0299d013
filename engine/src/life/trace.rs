//! What use has left on a memory or a link.
//!
//! *Invariants*: bounded both ways, whatever is repeated how often; whole numbers only, so that a
//! replay on another machine gives the same bits; it fades towards nothing, never past it.
//!
//! *Not here*: where traces are kept (`space::traces`).

use super::clock::Lived;

/// How useful something was, from [`Outcome::WORST`] to [`Outcome::BEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome(i32);

/// Time after which a trace has halved, in seconds; `None`: it does not fade.
pub type HalfLife = Option<u64>;

/// One use with the best outcome.
const USE: i32 = 1 << 16;
/// No number of uses leaves more: three half-lives later this is as much as one use.
const STRENGTH_MAX: i32 = 8 * USE;
/// No number of bad outcomes leaves less.
const STRENGTH_MIN: i32 = -USE;

impl Outcome {
    /// It hindered.
    pub const WORST: Self = Self(-USE);
    /// It was what was wanted.
    pub const BEST: Self = Self(USE);

    /// From a number between -1 and 1; what is beyond is cut, what is no number is nothing.
    pub fn new(outcome: f64) -> Self {
        Self((outcome.clamp(-1.0, 1.0) * f64::from(USE)).round() as i32)
    }

    /// Says nothing.
    pub fn is_nothing(self) -> bool {
        self.0 == 0
    }
}

/// Uses, each weighing less with time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// As it was at `at`, in units of 1 / 65,536 of a use.
    pub strength: i32,
    /// When that was.
    pub at: Lived,
}

/// What a trace does to a score or weight: a share from -1/2 to 8/9, in units of 1 / 65,536.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lift(pub i32);

impl Lift {
    /// As a number.
    pub fn to_f64(self) -> f64 {
        f64::from(self.0) / f64::from(USE)
    }
}

impl Lift {
    /// A weight with it, three quarters to not quite one and a half times as much.
    pub fn of(self, weight: u32) -> u32 {
        let change = i64::from(weight) * i64::from(self.0) / (2 * i64::from(USE));
        u32::try_from(i64::from(weight) + change).expect("a lift takes a quarter at most")
    }
}

impl Trace {
    /// What is left of it.
    pub fn faded(self, now: Lived, half_life: HalfLife) -> i32 {
        match half_life {
            Some(seconds) => halved(self.strength, now.since(self.at), seconds),
            None => self.strength,
        }
    }

    /// The trace after one more outcome. What is gained is less the more there is already.
    #[must_use]
    pub fn after(self, outcome: Outcome, now: Lived, half_life: HalfLife) -> Self {
        let left = i64::from(self.faded(now, half_life));
        let most = i64::from(STRENGTH_MAX);
        let gain = match i64::from(outcome.0) {
            good if good > 0 => good * (most - left.max(0)) / most,
            bad => bad,
        };
        let strength = (left + gain).clamp(i64::from(STRENGTH_MIN), most);
        let strength = i32::try_from(strength).expect("between two numbers of this width");
        Self { strength, at: now.max(self.at) }
    }

    /// What it does now.
    pub fn lift(self, now: Lived, half_life: HalfLife) -> Lift {
        let left = i64::from(self.faded(now, half_life));
        let share = left * i64::from(USE) / (i64::from(USE) + left.abs());
        Lift(i32::try_from(share).expect("a share is no larger than the whole"))
    }

    /// A trace as a log or image holds it; what no outcomes could have left is cut.
    pub fn from_parts(strength: i32, at: Lived) -> Self {
        Self { strength: strength.clamp(STRENGTH_MIN, STRENGTH_MAX), at }
    }
}

/// 2^32 * 2^(-2^-k) for k from 1.
const ROOTS: [u64; 16] = [
    0xb504_f334,
    0xd744_fccb,
    0xeac0_c6e8,
    0xf525_7d15,
    0xfa83_b2db,
    0xfd3e_0c0d,
    0xfe9e_115c,
    0xff4e_cb59,
    0xffa7_5652,
    0xffd3_a752,
    0xffe9_d2b3,
    0xfff4_e91c,
    0xfffa_747f,
    0xfffd_3a3b,
    0xfffe_9d1d,
    0xffff_4e8e,
];

/// `strength` * 2^(-elapsed / half_life), rounded towards zero.
fn halved(strength: i32, elapsed_s: u32, half_life_s: u64) -> i32 {
    let ratio = (u64::from(elapsed_s) << ROOTS.len()) / half_life_s.max(1);
    let (whole, part) = (ratio >> ROOTS.len(), ratio & 0xffff);
    if whole >= 32 {
        return 0;
    }
    let mut factor = 1u64 << 32;
    for (k, root) in (1..).zip(ROOTS) {
        if part & (0x1_0000 >> k) != 0 {
            factor = (factor * root) >> 32;
        }
    }
    let size = (u64::from(strength.unsigned_abs()) * factor) >> 32 >> whole;
    i32::try_from(size).expect("a part is no larger than the whole") * strength.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_halves_in_a_half_life() {
        for half_life in [1, 60, 86_400, 2_592_000] {
            let trace = Trace { strength: 4 * USE, at: Lived(100) };
            let at = |lives: f64| Lived(100 + (lives * half_life as f64) as u32);
            for halvings in 0..8 {
                let left = trace.faded(at(f64::from(halvings)), Some(half_life));
                assert_eq!(left, (4 * USE) >> halvings);
            }
        }
    }

    #[test]
    fn fading_follows_the_exponential_and_never_rises() {
        let trace = Trace { strength: STRENGTH_MAX, at: Lived(0) };
        let mut before = i32::MAX;
        for second in (0..400_000u32).step_by(97) {
            let left = trace.faded(Lived(second), Some(10_000));
            let exact = f64::from(STRENGTH_MAX) * (-f64::from(second) / 10_000.0).exp2();
            assert!((f64::from(left) - exact).abs() <= 1.0 + exact * 4e-5, "{second}: {left}");
            assert!(left <= before);
            before = left;
        }
        assert_eq!(trace.faded(Lived(u32::MAX), Some(1)), 0);
        assert_eq!(trace.faded(Lived(u32::MAX), None), STRENGTH_MAX);
    }

    #[test]
    fn repetition_is_bounded_both_ways() {
        for (outcome, bound) in [(Outcome::BEST, STRENGTH_MAX), (Outcome::WORST, STRENGTH_MIN)] {
            let mut trace = Trace::default();
            for _ in 0..100_000 {
                trace = trace.after(outcome, Lived(7), Some(60));
            }
            assert!(trace.strength.abs() <= bound.abs());
            assert!(trace.strength.abs() > bound.abs() - 16, "the bound is reached");
            let lift = trace.lift(Lived(7), Some(60)).to_f64();
            assert!((-0.5..8.0 / 9.0 + 1e-9).contains(&lift));
        }
    }

    #[test]
    fn a_clock_that_shows_an_earlier_time_fades_nothing() {
        let trace = Trace { strength: USE, at: Lived(1000) };
        assert_eq!(trace.faded(Lived(10), Some(5)), USE);
        let later = trace.after(Outcome::BEST, Lived(10), Some(5));
        assert_eq!(later.at, Lived(1000));
    }
}
