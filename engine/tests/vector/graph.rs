//! The graph: what it finds beside the exact search, while it is built, after much has changed, and
//! under filters.

use std::collections::HashSet;

use super::*;

/// Wide enough that the graph is wanted from a few hundred vectors on.
const DIMENSIONS: usize = 1024;

fn build_all(index: &mut VectorIndex) {
    while index.build(Work(5000)) == Progress::More {}
    assert_eq!(index.backlog(), 0);
}

fn exactly(index: &VectorIndex, vector: &[f32], k: usize, scope: &Scope<'_>) -> Vec<Hit> {
    let mut probe = index.exact(vector, k);
    while probe.step(index, scope, Work(u32::MAX)) == Progress::More {}
    probe.finish(index, scope.keys, &mut Scratch::default())
}

/// The part of the exact top ten that the search finds, over all queries; every hit is checked.
fn recall(index: &VectorIndex, queries: &[Vec<f32>], scope: &Scope<'_>) -> f64 {
    let mut scratch = Scratch::default();
    let (mut wanted, mut found) = (0, 0);
    for vector in queries {
        let search = Search { vector, k: 10, ef: None, scope: *scope };
        let hits = index.search(&mut scratch, &search);
        let every = exactly(index, vector, index.len(), scope);
        let truth = &every[..every.len().min(10)];
        assert_eq!(hits.len(), truth.len(), "as many as there are");
        assert!(hits.iter().all(|hit| every.contains(hit)), "the scores are those of exact search");
        assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
        let nodes: HashSet<NodeIx> = hits.iter().map(|hit| hit.node).collect();
        assert_eq!(nodes.len(), hits.len(), "each once");
        wanted += truth.len();
        found += truth.iter().filter(|hit| nodes.contains(&hit.node)).count();
    }
    if wanted == 0 { 1.0 } else { found as f64 / wanted as f64 }
}

#[test]
fn the_graph_finds_the_nearest_in_every_metric_and_encoding() {
    for (metric, encoding) in pairs() {
        let mut source = Source::new(20, DIMENSIONS);
        let (vectors, queries) = (source.vectors(1500), source.vectors(20));
        let mut index = filled(metric, encoding, &vectors);
        assert_eq!(index.backlog(), 1500);
        build_all(&mut index);
        let recall = recall(&index, &queries, &all(&keys(1500)));
        assert!(recall >= 0.97, "{metric:?} {encoding:?}: {recall}");
    }
}

#[test]
fn few_vectors_are_kept_without_a_graph() {
    let mut source = Source::new(21, 16);
    let vectors = source.vectors(1000);
    let mut index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    assert_eq!(index.build(Work(1)), Progress::Done);
    assert_eq!((index.backlog(), index.memory_bytes().graph), (0, 0));
    assert_eq!(recall(&index, &source.vectors(20), &all(&keys(1000))), 1.0);
}

/// Writes of all kinds between slices of any size, against a plain list of what each node has.
fn run_history(seed: u64, metric: Metric, encoding: VectorEncoding) {
    const NODES: usize = 1200;
    let mut source = Source::new(seed, DIMENSIONS);
    let mut numbers = Numbers(seed);
    let keys = keys(NODES);
    let mut index = VectorIndex::new(DIMENSIONS as u16, metric, encoding, seed);
    let mut model: Vec<Option<Vec<f32>>> = vec![None; NODES];
    let mut scratch = Scratch::default();
    let (mut wanted, mut found) = (0, 0);
    for round in 0..60 {
        let removing = numbers.below(4) == 0;
        for _ in 0..numbers.below(150) {
            let node = numbers.below(NODES);
            if removing && numbers.below(3) > 0 {
                index.remove(NodeIx(node as u32));
                model[node] = None;
            } else {
                let vector = source.vector();
                index.insert(NodeIx(node as u32), &vector);
                model[node] = Some(vector);
            }
            if numbers.below(8) == 0 {
                let _ = index.build(Work(numbers.below(3000) as u32));
            }
        }
        let live: Vec<usize> = (0..NODES).filter(|&node| model[node].is_some()).collect();
        assert_eq!(index.len(), live.len());
        let scope = all(&keys);
        for _ in 0..2 {
            let itself = live[numbers.below(live.len())];
            let vector = model[itself].clone().expect("it is live");
            let search = Search { vector: &vector, k: 10, ef: None, scope };
            let hits = index.search(&mut scratch, &search);
            let truth = exactly(&index, &vector, 10, &scope);
            assert_eq!(hits.len(), 10.min(live.len()), "seed {seed} round {round}");
            assert!(hits.iter().all(|hit| model[hit.node.index()].is_some()), "seed {seed}");
            wanted += truth.len();
            found += truth.iter().filter(|hit| hits.contains(hit)).count();
        }
    }
    let recall = f64::from(found as u32) / f64::from(wanted as u32);
    assert!(recall > 0.97, "seed {seed} {metric:?} {encoding:?}: {recall}");
}

#[test]
fn any_history_of_writes_and_slices_leaves_what_was_written_last() {
    for (seed, (metric, encoding)) in (100..).zip(pairs()) {
        run_history(seed, metric, encoding);
    }
}

#[test]
fn what_was_just_written_is_found_whatever_is_built() {
    let mut source = Source::new(23, DIMENSIONS);
    let vectors = source.vectors(1600);
    let keys = keys(1600);
    let mut index = VectorIndex::new(DIMENSIONS as u16, Metric::Cosine, VectorEncoding::Int8, 4);
    for (node, vector) in vectors.iter().enumerate() {
        index.insert(NodeIx(node as u32), vector);
        if node % 7 == 0 {
            assert_eq!(nearest(&index, vector, 1, &keys)[0].node, NodeIx(node as u32));
        }
        let _ = index.build(Work(700));
    }
    assert!(index.backlog() < 1600);
}

#[test]
fn recall_holds_after_half_of_all_was_replaced_again_and_again() {
    const NODES: usize = 2000;
    let mut source = Source::new(24, DIMENSIONS);
    let vectors = source.vectors(NODES);
    let queries = source.vectors(40);
    let keys = keys(NODES);
    let mut index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    build_all(&mut index);
    let before = recall(&index, &queries, &all(&keys));
    let bytes = index.memory_bytes().codes;
    for replaced in 0..3 * NODES {
        index.insert(NodeIx((replaced * 7 % NODES) as u32), &source.vector());
        let _ = index.build(Work(4000));
    }
    build_all(&mut index);
    let after = recall(&index, &queries, &all(&keys));
    assert!(after >= before - 0.01, "{before} before, {after} after");
    assert!(index.memory_bytes().codes <= bytes + bytes / 4, "slots are given again");
}

#[test]
fn recall_holds_when_most_is_removed_at_once() {
    const NODES: usize = 4000;
    let mut source = Source::new(25, DIMENSIONS);
    let vectors = source.vectors(NODES);
    let queries = source.vectors(40);
    let keys = keys(NODES);
    let mut index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    build_all(&mut index);
    let direction = &vectors[0];
    for (node, vector) in vectors.iter().enumerate() {
        let on_one_side = true_score(Metric::Dot, vector, direction) > -0.3;
        if on_one_side || node % 2 == 0 {
            index.remove(NodeIx(node as u32));
        }
    }
    assert!(index.len() > 500 && index.len() < NODES / 3);
    for _ in 0..2 {
        let recall = recall(&index, &queries, &all(&keys));
        assert!(recall >= 0.97, "{} left: {recall}", index.len());
        build_all(&mut index);
    }
}

#[test]
fn an_index_that_is_emptied_can_be_filled_again() {
    let mut source = Source::new(26, DIMENSIONS);
    let vectors = source.vectors(1500);
    let keys = keys(1500);
    let mut index = filled(Metric::L2, VectorEncoding::Int8, &vectors);
    for _ in 0..3 {
        build_all(&mut index);
        (0..1500).for_each(|node| index.remove(NodeIx(node)));
        assert!(index.is_empty());
        assert_eq!(nearest(&index, &vectors[0], 5, &keys), vec![]);
        build_all(&mut index);
        assert_eq!(index.memory_bytes().graph, 0, "nothing is left of the graph");
        for (node, vector) in vectors.iter().enumerate() {
            index.insert(NodeIx(node as u32), vector);
        }
        assert_eq!(recall(&index, &vectors[..10], &all(&keys)), 1.0);
    }
}

#[test]
fn a_crowd_of_equal_vectors_hides_neither_itself_nor_others() {
    let mut source = Source::new(27, DIMENSIONS);
    let mut vectors = source.vectors(1500);
    let equal = source.vector();
    for node in (0..1500).step_by(2) {
        vectors[node].clone_from(&equal);
    }
    let mut index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    build_all(&mut index);
    let keys = keys(1500);
    let hits = nearest(&index, &equal, 100, &keys);
    assert!(hits.iter().all(|hit| hit.node.0 % 2 == 0 && hit.score > 0.999));
    let others: Vec<Vec<f32>> = vectors.iter().skip(1).step_by(2).cloned().collect();
    let itself = others
        .iter()
        .enumerate()
        .filter(|(place, vector)| {
            nearest(&index, vector, 1, &keys)[0].node.index() == 2 * place + 1
        })
        .count();
    assert!(itself * 100 >= others.len() * 99, "{itself} of {} find themselves", others.len());
}

#[test]
fn a_filter_lets_only_its_own_through_and_finds_them_all_when_they_are_few() {
    let mut source = Source::new(28, DIMENSIONS);
    let (vectors, queries) = (source.vectors(3000), source.vectors(10));
    let keys = keys(3000);
    let mut index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    build_all(&mut index);
    (0..200).for_each(|node| index.remove(NodeIx(node * 3)));
    for every in [2u64, 5, 20, 100, 1000, 5000] {
        let test = |node: NodeIx| keys[node.index()].is_multiple_of(every);
        let count = (0..3000).filter(|&n| index.contains(NodeIx(n)) && test(NodeIx(n))).count();
        for estimate in [0, count, 3000] {
            let scope = Scope { keys: &keys, accept: Accept::Where { test: &test, estimate } };
            let recall = recall(&index, &queries, &scope);
            let wanted = if count <= 150 { 1.0 } else { 0.97 };
            assert!(recall >= wanted, "every {every}, estimate {estimate}: {recall}");
        }
    }
}

#[test]
fn a_search_in_steps_through_the_graph_bears_writes_between_them() {
    let mut source = Source::new(29, DIMENSIONS);
    let vectors = source.vectors(1500);
    let keys = keys(2000);
    let mut index = filled(Metric::Cosine, VectorEncoding::Int8, &vectors);
    build_all(&mut index);
    let mut scratch = Scratch::default();
    let mut numbers = Numbers(29);
    for round in 0..60 {
        let query = source.vector();
        let mut probe = index.near(&mut scratch, &query, 10, None);
        while probe.step(&index, &all(&keys), Work(1 + numbers.below(300) as u32)) == Progress::More
        {
            for _ in 0..numbers.below(20) {
                let node = NodeIx(numbers.below(2000) as u32);
                if numbers.below(2) == 0 {
                    index.insert(node, &source.vector());
                } else {
                    index.remove(node);
                }
            }
            let _ = index.build(Work(numbers.below(5000) as u32));
        }
        let hits = probe.finish(&index, &keys, &mut scratch);
        let truth = exactly(&index, &query, index.len(), &all(&keys));
        assert!(hits.iter().all(|hit| truth.contains(hit)), "round {round}");
        assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
    }
}

#[test]
fn the_same_calls_make_the_same_index() {
    let run = |kernel: Kernel| {
        let mut source = Source::new(30, DIMENSIONS);
        let (metric, encoding) = (Metric::Cosine, VectorEncoding::Int8);
        let mut index = VectorIndex::with_kernel(DIMENSIONS as u16, metric, encoding, 9, kernel);
        for node in 0..1300 {
            index.insert(NodeIx(node), &source.vector());
            index.remove(NodeIx(node / 3));
            let _ = index.build(Work(500));
        }
        build_all(&mut index);
        let keys = keys(1300);
        let queries = source.vectors(20);
        queries.iter().map(|query| nearest(&index, query, 20, &keys)).collect::<Vec<_>>()
    };
    let kernels = Kernel::supported();
    let first = run(kernels[0]);
    assert!(kernels[1..].iter().all(|&kernel| run(kernel) == first));
}

#[test]
fn inner_products_of_vectors_of_very_different_lengths_are_found() {
    let mut source = Source::new(31, DIMENSIONS);
    let mut vectors = source.vectors(3000);
    for vector in &mut vectors {
        let length = source.numbers.normal().exp();
        vector.iter_mut().for_each(|x| *x *= length);
    }
    let mut index = filled(Metric::Dot, VectorEncoding::Int8, &vectors);
    build_all(&mut index);
    let recall = recall(&index, &source.vectors(40), &all(&keys(3000)));
    assert!(recall >= 0.97, "{recall}");
}
