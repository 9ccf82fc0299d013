//! The vector index against a plain model: every vector compared with every query.

mod graph;
mod image;

use engram_engine::model::{Metric, VectorEncoding};
use engram_engine::node::NodeIx;
use engram_engine::vector::{
    Accept, Hit, Kernel, Progress, Scope, Scratch, Search, VectorIndex, Work,
};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];
const ENCODINGS: [VectorEncoding; 3] =
    [VectorEncoding::Int8, VectorEncoding::F16, VectorEncoding::F32];

/// A seeded source of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// About normal, mean 0 and deviation 1.
    fn normal(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }

    fn vector(&mut self, dimensions: usize) -> Vec<f32> {
        (0..dimensions).map(|_| self.normal()).collect()
    }
}

/// Vectors of eight hidden dimensions, seen through a random matrix with some noise.
struct Source {
    numbers: Numbers,
    matrix: Vec<Vec<f32>>,
}

impl Source {
    fn new(seed: u64, dimensions: usize) -> Self {
        let mut numbers = Numbers(seed);
        let matrix = (0..8).map(|_| numbers.vector(dimensions)).collect();
        Self { numbers, matrix }
    }

    fn vector(&mut self) -> Vec<f32> {
        let mut vector: Vec<f32> =
            self.matrix[0].iter().map(|_| 0.3 * self.numbers.normal()).collect();
        for row in &self.matrix {
            let hidden = self.numbers.normal();
            vector.iter_mut().zip(row).for_each(|(v, m)| *v += hidden * m);
        }
        vector
    }

    fn vectors(&mut self, count: usize) -> Vec<Vec<f32>> {
        (0..count).map(|_| self.vector()).collect()
    }
}

fn keys(count: usize) -> Vec<u64> {
    let mut numbers = Numbers(77);
    (0..count).map(|_| numbers.next()).collect()
}

fn all(keys: &[u64]) -> Scope<'_> {
    Scope { keys, accept: Accept::All }
}

fn nearest(index: &VectorIndex, vector: &[f32], k: usize, keys: &[u64]) -> Vec<Hit> {
    let search = Search { vector, k, ef: None, scope: all(keys) };
    index.search(&mut Scratch::default(), &search)
}

fn filled(metric: Metric, encoding: VectorEncoding, vectors: &[Vec<f32>]) -> VectorIndex {
    let mut index = VectorIndex::new(vectors[0].len() as u16, metric, encoding, 1);
    for (node, vector) in vectors.iter().enumerate() {
        index.insert(NodeIx(node as u32), vector);
    }
    index
}

/// What the score would be without any loss.
fn true_score(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(&x, &y)| (f64::from(x), f64::from(y)));
    let dot = |p: Vec<(f64, f64)>| p.iter().map(|(x, y)| x * y).sum::<f64>();
    match metric {
        Metric::Dot => dot(pairs().collect()),
        Metric::L2 => -pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt(),
        Metric::Cosine => {
            let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            dot(pairs().collect()) / (norm(a) * norm(b))
        }
    }
}

#[test]
fn scores_are_near_the_true_ones_in_every_metric_and_encoding() {
    for dimensions in [1, 2, 7, 31, 32, 33, 64, 65, 100, 384, 1536, 4096] {
        let mut numbers = Numbers(dimensions as u64);
        let vectors: Vec<_> = (0..20).map(|_| numbers.vector(dimensions)).collect();
        let query = numbers.vector(dimensions);
        for metric in METRICS {
            for encoding in ENCODINGS {
                let index = filled(metric, encoding, &vectors);
                let hits = nearest(&index, &query, 20, &keys(20));
                assert_eq!(hits.len(), 20);
                let length = if metric == Metric::Cosine { 1.0 } else { dimensions as f64 };
                let loss = if encoding == VectorEncoding::Int8 { 0.02 } else { 0.001 };
                for hit in hits {
                    let wanted = true_score(metric, &query, &vectors[hit.node.index()]);
                    let off = (wanted - f64::from(hit.score)).abs();
                    assert!(off <= loss * length, "{metric:?} {encoding:?} {dimensions}: {off}");
                }
            }
        }
    }
}

#[test]
fn every_kernel_gives_the_same_bits() {
    let kernels = Kernel::supported();
    assert_eq!(kernels[0], Kernel::Portable);
    for dimensions in [1u16, 5, 63, 64, 65, 127, 384, 1000, 4096] {
        let mut numbers = Numbers(u64::from(dimensions) + 9);
        let mut vectors: Vec<_> =
            (0..30).map(|_| numbers.vector(usize::from(dimensions))).collect();
        vectors.push(vec![1.0; usize::from(dimensions)]);
        vectors.push(vec![-1.0; usize::from(dimensions)]);
        let queries = vectors.clone();
        for (metric, encoding) in pairs() {
            let answers: Vec<Vec<(u32, u32)>> = kernels
                .iter()
                .map(|&kernel| {
                    let mut index =
                        VectorIndex::with_kernel(dimensions, metric, encoding, 1, kernel);
                    for (node, vector) in vectors.iter().enumerate() {
                        index.insert(NodeIx(node as u32), vector);
                    }
                    queries
                        .iter()
                        .flat_map(|query| nearest(&index, query, 32, &keys(32)))
                        .map(|hit| (hit.node.0, hit.score.to_bits()))
                        .collect()
                })
                .collect();
            for (kernel, answer) in kernels.iter().zip(&answers) {
                assert_eq!(answer, &answers[0], "{kernel:?} {metric:?} {encoding:?} {dimensions}");
            }
        }
    }
}

fn pairs() -> impl Iterator<Item = (Metric, VectorEncoding)> {
    METRICS.into_iter().flat_map(|metric| ENCODINGS.into_iter().map(move |e| (metric, e)))
}

#[test]
fn numbers_at_the_edge_of_floats_give_finite_scores() {
    let odd: Vec<Vec<f32>> = vec![
        vec![f32::MAX; 40],
        vec![-f32::MAX; 40],
        vec![f32::MIN_POSITIVE; 40],
        vec![1e-45; 40],
        (0..40).map(|i| if i % 2 == 0 { f32::MAX } else { -f32::MAX }).collect(),
        (0..40).map(|i| if i == 3 { f32::MAX } else { 1e-45 }).collect(),
    ];
    for (metric, encoding) in pairs() {
        let mut index = filled(metric, encoding, &odd);
        if metric != Metric::Cosine {
            index.insert(NodeIx(6), &[0.0; 40]);
        }
        for query in &odd {
            let hits = nearest(&index, query, 10, &keys(7));
            assert_eq!(hits.len(), index.len());
            assert!(hits.iter().all(|hit| hit.score.is_finite()), "{metric:?} {encoding:?}");
        }
    }
}

#[test]
fn equal_scores_are_ordered_by_key() {
    let vectors = vec![vec![0.5, 0.5, 0.1]; 50];
    let keys = keys(50);
    for (metric, encoding) in pairs() {
        let index = filled(metric, encoding, &vectors);
        let found: Vec<u64> = nearest(&index, &[1.0, 0.2, 0.3], 20, &keys)
            .iter()
            .map(|hit| keys[hit.node.index()])
            .collect();
        let mut wanted = keys.clone();
        wanted.sort_unstable();
        assert_eq!(found, wanted[..20]);
    }
}

#[test]
fn splitting_the_memories_over_indexes_changes_no_score() {
    let mut numbers = Numbers(5);
    let vectors: Vec<_> = (0..200).map(|_| numbers.vector(48)).collect();
    let query = numbers.vector(48);
    let keys = keys(200);
    for (metric, encoding) in pairs() {
        let whole = filled(metric, encoding, &vectors);
        let mut parts = vec![VectorIndex::new(48, metric, encoding, 3); 4];
        for (node, vector) in vectors.iter().enumerate() {
            parts[keys[node] as usize % 4].insert(NodeIx(node as u32), vector);
        }
        let mut joined: Vec<Hit> =
            parts.iter().flat_map(|part| nearest(part, &query, 10, &keys)).collect();
        joined.sort_by(|a, b| {
            b.score.total_cmp(&a.score).then(keys[a.node.index()].cmp(&keys[b.node.index()]))
        });
        joined.truncate(10);
        assert_eq!(joined, nearest(&whole, &query, 10, &keys));
    }
}

#[test]
fn a_search_in_steps_finds_what_a_search_at_once_finds() {
    let mut numbers = Numbers(6);
    let vectors: Vec<_> = (0..300).map(|_| numbers.vector(24)).collect();
    let index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    let (query, keys) = (numbers.vector(24), keys(300));
    let odd = |node: NodeIx| node.0 % 2 == 1;
    let list: Vec<NodeIx> = (0..300).filter(|n| n % 2 == 1).map(NodeIx).collect();
    let accepts = [Accept::All, Accept::Only(&list), Accept::Where { test: &odd, estimate: 150 }];
    for accept in accepts {
        let scope = Scope { keys: &keys, accept };
        let mut probe = index.exact(&query, 12);
        let mut steps = 1;
        while probe.step(&index, &scope, Work(7)) == Progress::More {
            steps += 1;
        }
        assert!(steps > 20);
        let found = probe.finish(&index, &keys, &mut Scratch::default());
        let search = Search { vector: &query, k: 12, ef: None, scope };
        assert_eq!(found, index.search(&mut Scratch::default(), &search));
        let filtered = !matches!(accept, Accept::All);
        assert!(!filtered || found.iter().all(|hit| odd(hit.node)));
    }
}

#[test]
fn what_changes_during_a_search_in_steps_is_seen_as_it_is_at_the_end() {
    let mut numbers = Numbers(8);
    let vectors: Vec<_> = (0..100).map(|_| numbers.vector(16)).collect();
    let mut index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    let (query, keys) = (numbers.vector(16), keys(100));
    let mut probe = index.exact(&query, 100);
    assert_eq!(probe.step(&index, &all(&keys), Work(50)), Progress::More);
    index.remove(NodeIx(3));
    index.remove(NodeIx(70));
    index.insert(NodeIx(90), &query);
    index.insert(NodeIx(4), &query);
    assert_eq!(probe.step(&index, &all(&keys), Work(50)), Progress::Done);
    let hits = probe.finish(&index, &keys, &mut Scratch::default());
    assert_eq!(hits, nearest(&index, &query, 100, &keys));
    assert_eq!(hits.len(), 98);
}

#[test]
fn a_vector_is_read_back_as_it_is_known() {
    let mut numbers = Numbers(10);
    let vector = numbers.vector(130);
    for (metric, encoding) in pairs() {
        let index = filled(metric, encoding, std::slice::from_ref(&vector));
        let mut out = vec![1.0];
        assert!(index.vector(NodeIx(0), &mut out));
        assert_eq!(out.len(), 130);
        assert!(true_score(Metric::Cosine, &vector, &out) > 0.9999);
        assert!(!index.vector(NodeIx(1), &mut out));
        assert!(out.is_empty());
    }
}
