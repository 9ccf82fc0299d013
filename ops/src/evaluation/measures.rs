//! Measures of ranked answers and of times.
//!
//! *Invariants*: an id that comes twice counts where it comes first; relevance is yes or no.
//!
//! *Not here*: who ranked (`commands::evaluate`).

use std::collections::HashSet;

use serde::Serialize;

/// Depths at which recall is measured.
const DEPTHS: [usize; 4] = [1, 2, 5, 10];

/// Averages over queries, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measures {
    /// Queries that were counted.
    pub queries: usize,
    /// Share of the relevant among the first.
    pub recall_at_1: f64,
    /// Among the first two.
    pub recall_at_2: f64,
    /// Among the first five.
    pub recall_at_5: f64,
    /// Among the first ten.
    pub recall_at_10: f64,
    /// Mean of 1 / rank of the first relevant.
    pub mrr: f64,
    /// Normalised discounted cumulative gain of the first ten.
    pub ndcg_at_10: f64,
}

impl Measures {
    /// Averages over pairs of what is relevant and what was ranked, best first.
    pub fn over<'a>(answers: impl Iterator<Item = (&'a [String], &'a [String])>) -> Self {
        let mut sum = [0.0; 6];
        let mut queries = 0;
        for (relevant, ranked) in answers {
            queries += 1;
            let one = measure(relevant, ranked);
            sum.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
        }
        let [recall_at_1, recall_at_2, recall_at_5, recall_at_10, mrr, ndcg_at_10] =
            sum.map(|sum| if queries == 0 { 0.0 } else { sum / queries as f64 });
        Self { queries, recall_at_1, recall_at_2, recall_at_5, recall_at_10, mrr, ndcg_at_10 }
    }
}

fn measure(relevant: &[String], ranked: &[String]) -> [f64; 6] {
    let relevant: HashSet<&str> = relevant.iter().map(String::as_str).collect();
    let mut seen = HashSet::new();
    let distinct = ranked.iter().map(String::as_str).filter(|id| seen.insert(*id));
    let hits: Vec<bool> = distinct.map(|id| relevant.contains(id)).collect();
    let first = |depth: usize| hits.iter().take(depth);
    let share = |depth: usize| {
        first(depth).filter(|hit| **hit).count() as f64 / relevant.len().max(1) as f64
    };
    let [at_1, at_2, at_5, at_10] = DEPTHS.map(share);
    let reciprocal = hits.iter().position(|hit| *hit).map_or(0.0, |at| 1.0 / (at + 1) as f64);
    let discount = |at: usize| 1.0 / ((at + 2) as f64).log2();
    let gain: f64 =
        first(10).enumerate().filter(|(_, hit)| **hit).map(|(at, _)| discount(at)).sum();
    let best: f64 = (0..relevant.len().min(10)).map(discount).sum();
    [at_1, at_2, at_5, at_10, reciprocal, if best > 0.0 { gain / best } else { 0.0 }]
}

/// Percentiles of times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half of the times are at most this.
    pub p50_us: u64,
    /// Nine tenths.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// All.
    pub max_us: u64,
}

impl Percentiles {
    /// Of some times.
    pub fn of(mut times_us: Vec<u64>) -> Self {
        times_us.sort_unstable();
        let at = |share: f64| {
            let rank = (times_us.len() as f64 * share).ceil() as usize;
            times_us.get(rank.max(1) - 1).copied().unwrap_or_default()
        };
        Self { p50_us: at(0.5), p90_us: at(0.9), p99_us: at(0.99), max_us: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn measures_are_those_of_the_textbook() {
        let cases = [(ids("a b"), ids("a x b")), (ids("a"), ids("x a a")), (ids("a"), ids(""))];
        let pairs = cases.iter().map(|(relevant, ranked)| (&relevant[..], &ranked[..]));
        let measures = Measures::over(pairs);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        assert_eq!(measures.queries, 3);
        close(measures.recall_at_1, 0.5 / 3.0);
        close(measures.recall_at_2, 1.5 / 3.0);
        close(measures.recall_at_5, 2.0 / 3.0);
        close(measures.mrr, 1.5 / 3.0);
        let first = 1.5 / (1.0 + 1.0 / 3_f64.log2());
        close(measures.ndcg_at_10, (first + 1.0 / 3_f64.log2()) / 3.0);
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        let times = Percentiles::of((1..=100).rev().collect());
        assert_eq!((times.p50_us, times.p90_us, times.p99_us, times.max_us), (50, 90, 99, 100));
        assert_eq!(Percentiles::of(vec![7]).p50_us, 7);
        assert_eq!(Percentiles::of(Vec::new()).max_us, 0);
    }
}
