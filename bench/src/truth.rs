//! The right answers of vector search, by comparing with everything.
//!
//! *Invariants*: f32 sums in a fixed order; ties go to the smaller number.
//!
//! *Not here*: what a server answers (`quality`).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::dataset::Synthetic;

/// Memories compared at once: their vectors stay in the cache for all queries.
const BLOCK: u64 = 256;

/// The numbers of the `k` memories nearest to each query by cosine, nearest first.
pub fn nearest(set: &Synthetic, queries: &[Vec<f32>], k: usize, threads: usize) -> Vec<Vec<u64>> {
    let next = AtomicU64::new(0);
    let parts: Vec<Vec<Best>> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads.max(1)).map(|_| scope.spawn(|| scan(set, queries, k, &next))).collect();
        workers.into_iter().map(|w| w.join().expect("scanning does not panic")).collect()
    });
    (0..queries.len())
        .map(|q| {
            let mut best = Best::new(k);
            for part in &parts {
                part[q].found.iter().for_each(|(score, i)| best.offer(*score, *i));
            }
            best.found.iter().map(|(_, i)| *i).collect()
        })
        .collect()
}

fn scan(set: &Synthetic, queries: &[Vec<f32>], k: usize, next: &AtomicU64) -> Vec<Best> {
    let mut best = vec![Best::new(k); queries.len()];
    loop {
        let from = next.fetch_add(BLOCK, Ordering::Relaxed);
        if from >= set.shape.memories {
            return best;
        }
        let numbers = from..(from + BLOCK).min(set.shape.memories);
        let vectors: Vec<Vec<f32>> = numbers.clone().map(|i| set.vector(i)).collect();
        for (query, best) in queries.iter().zip(&mut best) {
            for (i, vector) in numbers.clone().zip(&vectors) {
                best.offer(dot(query, vector), i);
            }
        }
    }
}

/// Inner product in sixteen lanes, so that the compiler uses vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a_whole, a_rest) = a.as_chunks::<16>();
    let (b_whole, b_rest) = b.as_chunks::<16>();
    for (x, y) in a_whole.iter().zip(b_whole) {
        for lane in 0..16 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The best k so far, best first.
#[derive(Clone, Debug)]
struct Best {
    k: usize,
    found: Vec<(f32, u64)>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(k + 1) }
    }

    fn offer(&mut self, score: f32, i: u64) {
        if self.found.len() == self.k && score < self.found[self.k - 1].0 {
            return;
        }
        let at = self.found.partition_point(|(s, n)| *s > score || (*s == score && *n < i));
        self.found.insert(at, (score, i));
        self.found.truncate(self.k);
    }
}

/// Share of the first k right answers that are among the first k given.
pub fn recall_at(right: &[u64], given: &[u64], k: usize) -> f64 {
    let right = &right[..k.min(right.len())];
    let given = &given[..k.min(given.len())];
    right.iter().filter(|i| given.contains(i)).count() as f64 / right.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Shape;

    #[test]
    fn threads_do_not_change_the_truth_and_a_memory_is_nearest_to_itself() {
        let set = Synthetic::new(Shape { memories: 700, dimensions: 50, out_degree: 2, seed: 3 });
        let queries: Vec<_> = [5, 600].iter().map(|i| set.vector(*i)).collect();
        let one = nearest(&set, &queries, 10, 1);
        assert_eq!(one, nearest(&set, &queries, 10, 3));
        assert_eq!((one[0][0], one[1][0]), (5, 600));
        assert!((recall_at(&one[0], &one[0], 10) - 1.0).abs() < 1e-9);
        assert!(recall_at(&[1, 2, 3, 4], &[9, 4, 8, 7], 4) == 0.25);
    }
}
