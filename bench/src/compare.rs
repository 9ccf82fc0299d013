//! Is one server slower than another? Paired runs, ratios, a confidence interval.
//!
//! *Invariants*: runs are compared in pairs that were made one after the other, so that what the
//! machine does meanwhile meets both; a difference is claimed only where the whole interval says so.
//!
//! *Not here*: making the runs (`session`).

use std::fmt;

use crate::result::StepResult;

/// What is compared; less is better for all but the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Median latency.
    P50,
    /// 99th percentile of latency.
    P99,
    /// Time an answer, the inverse of answers a second.
    Rate,
}

impl Metric {
    /// The metric with this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "p50" => Some(Self::P50),
            "p99" => Some(Self::P99),
            "rate" => Some(Self::Rate),
            _ => None,
        }
    }

    /// A figure that is larger where the server is slower.
    pub fn of(self, step: &StepResult) -> f64 {
        match self {
            Self::P50 => step.latency_us.p50,
            Self::P99 => step.latency_us.p99,
            Self::Rate => 1.0 / step.ok_per_s.max(1e-9),
        }
    }
}

/// How much slower the second is than the first, as a ratio (1: equal), with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Geometric mean of the pairs' ratios.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Pairs.
    pub pairs: usize,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "× {:.3} (95 % confidence {:.3} to {:.3}, {} pairs)",
            self.mean, self.low, self.high, self.pairs
        )
    }
}

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
const T_QUANTILES: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// Compares pairs (first, second); `None` with less than two usable pairs.
pub fn ratio(pairs: &[(f64, f64)]) -> Option<Ratio> {
    let logs: Vec<f64> = pairs
        .iter()
        .filter(|(first, second)| *first > 0.0 && *second > 0.0)
        .map(|(first, second)| (second / first).ln())
        .collect();
    if logs.len() < 2 {
        return None;
    }
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let t = T_QUANTILES.get(logs.len() - 2).copied().unwrap_or(1.96);
    let half = t * (variance / n).sqrt();
    Some(Ratio {
        mean: mean.exp(),
        low: (mean - half).exp(),
        high: (mean + half).exp(),
        pairs: logs.len(),
    })
}

impl Ratio {
    /// The second is slower by more than this share, beyond doubt.
    pub fn is_slower_by(&self, percent: f64) -> bool {
        self.low > 1.0 + percent / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn noisy(slower: f64, pairs: u64) -> Vec<(f64, f64)> {
        let mut random = Random::new(pairs);
        (0..pairs)
            .map(|_| {
                // What the machine does meets both halves of a pair.
                let common = (0.3 * random.normal()).exp();
                let own = |random: &mut Random| common * (0.02 * random.normal()).exp();
                (own(&mut random), slower * own(&mut random))
            })
            .collect()
    }

    #[test]
    fn equal_servers_are_not_called_slower_and_slower_ones_are() {
        assert!(!ratio(&noisy(1.0, 12)).unwrap().is_slower_by(2.0));
        let slower = ratio(&noisy(1.10, 12)).unwrap();
        assert!(slower.is_slower_by(5.0), "{slower}");
        assert!((slower.mean - 1.10).abs() < 0.03 && !slower.is_slower_by(12.0));
    }

    #[test]
    fn one_pair_says_nothing() {
        assert_eq!(ratio(&[(1.0, 2.0)]), None);
        assert_eq!(ratio(&[(1.0, 2.0), (0.0, 1.0)]), None);
    }
}
