//! Measures the vector index: recall against the true neighbours, latency, build rate, bytes.
//!
//! Without options it runs on a few vectors, as a test. `--count 100000` makes so many vectors of
//! `--dimensions` from `--latent` hidden ones; `--npy FILE` reads them instead (f2, f4, or i1 with
//! `--scales FILE`), some of which are held out as queries. `--churn 0.5` replaces that part
//! afterwards and measures again; `--filters` measures filtered searches.
//!
//! *Not here*: recall over HTTP and its quality (`bench`).

use std::time::{Duration, Instant};

use engram_engine::model::{Metric, VectorEncoding};
use engram_engine::node::NodeIx;
use engram_engine::vector::{Accept, Hit, Progress, Scope, Scratch, Search, VectorIndex, Work};

struct Options {
    count: usize,
    dimensions: usize,
    latent: usize,
    queries: usize,
    widths: Vec<usize>,
    npy: Option<String>,
    scales: Option<String>,
    metric: Metric,
    encoding: VectorEncoding,
    churn: f64,
    filters: bool,
    seed: u64,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            count: 5000,
            dimensions: 64,
            latent: 24,
            queries: 100,
            widths: vec![64, 96, 128],
            npy: None,
            scales: None,
            metric: Metric::Cosine,
            encoding: VectorEncoding::Int8,
            churn: 0.0,
            filters: false,
            seed: 1,
        };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            if name == "--filters" {
                options.filters = true;
                continue;
            }
            let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
            options.set(&name, value);
        }
        options
    }

    fn set(&mut self, name: &str, value: String) {
        let number = || value.parse().unwrap_or_else(|_| panic!("{name}: {value} is no number"));
        match name {
            "--count" => self.count = number(),
            "--dimensions" => self.dimensions = number(),
            "--latent" => self.latent = number(),
            "--queries" => self.queries = number(),
            "--seed" => self.seed = number() as u64,
            "--churn" => self.churn = value.parse().expect("--churn is a part of 1"),
            "--ef" => self.widths = value.split(',').map(|v| v.parse().expect("--ef")).collect(),
            "--npy" => self.npy = Some(value),
            "--scales" => self.scales = Some(value),
            "--metric" => {
                self.metric = match value.as_str() {
                    "cosine" => Metric::Cosine,
                    "dot" => Metric::Dot,
                    "l2" => Metric::L2,
                    other => panic!("--metric is cosine, dot or l2, not {other}"),
                }
            }
            "--encoding" => {
                self.encoding = match value.as_str() {
                    "int8" => VectorEncoding::Int8,
                    "f16" => VectorEncoding::F16,
                    "f32" => VectorEncoding::F32,
                    other => panic!("--encoding is int8, f16 or f32, not {other}"),
                }
            }
            other => panic!("there is no option {other}"),
        }
    }
}

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

    /// About normal: four uniform numbers of 16 bits, brought to deviation 1.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u32 = (0..4).map(|part| (bits >> (16 * part)) as u32 & 0xffff).sum();
        (sum as f32 - 131_070.0) / 37_837.2
    }
}

/// Vectors of few hidden dimensions, seen through a random matrix with noise.
fn synthetic(options: &Options, count: usize) -> Vec<Vec<f32>> {
    let mut numbers = Numbers(options.seed);
    let (rows, columns) = (options.latent, options.dimensions);
    let matrix: Vec<f32> = (0..rows * columns).map(|_| numbers.normal()).collect();
    let one = |_| {
        let mut vector: Vec<f32> = (0..columns).map(|_| 0.3 * numbers.normal()).collect();
        for row in matrix.chunks_exact(columns) {
            let hidden = numbers.normal();
            vector.iter_mut().zip(row).for_each(|(v, m)| *v += hidden * m);
        }
        vector
    };
    (0..count).map(one).collect()
}

/// The shape and the bytes of the elements of a .npy file, and their type.
fn read_npy(path: &str) -> (Vec<usize>, String, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(bytes.starts_with(b"\x93NUMPY\x01"), "{path} is no .npy file of version 1");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..10 + length]).into_owned();
    let after = |name: &str, open: char, close: char| {
        let rest = &header[header.find(name).expect("a header names it") + name.len()..];
        let start = rest.find(open).expect("it opens") + 1;
        rest[start..start + rest[start..].find(close).expect("it closes")].to_owned()
    };
    let shape = after("'shape':", '(', ')')
        .split(',')
        .filter_map(|part| part.trim().parse().ok())
        .collect();
    (shape, after("'descr':", '\'', '\''), bytes[10 + length..].to_vec())
}

fn vectors_of(path: &str, scales: Option<&str>) -> Vec<Vec<f32>> {
    let (shape, element, bytes) = read_npy(path);
    let columns = shape[1];
    match element.as_str() {
        "|i1" => {
            let (_, _, scales) = read_npy(scales.expect("i1 needs --scales"));
            let scales =
                scales.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let row =
                |row: &[u8], scale: f32| row.iter().map(|&b| f32::from(b as i8) * scale).collect();
            bytes.chunks_exact(columns).zip(scales).map(|(r, s)| row(r, s)).collect()
        }
        "<f4" => {
            let floats: Vec<f32> = bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            floats.chunks_exact(columns).map(<[f32]>::to_vec).collect()
        }
        "<f2" => {
            let floats: Vec<f32> =
                bytes.chunks_exact(2).map(|b| half(u16::from_le_bytes([b[0], b[1]]))).collect();
            floats.chunks_exact(columns).map(<[f32]>::to_vec).collect()
        }
        other => panic!("{path} holds {other}, not f2, f4 or i1"),
    }
}

fn half(bits: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * 2f32.powi(112);
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// What was searched for, and what the nearest are.
struct Questions {
    queries: Vec<Vec<f32>>,
    keys: Vec<u64>,
    nearest: Vec<Vec<Hit>>,
}

impl Questions {
    fn new(options: &Options, base: &[Vec<f32>], queries: Vec<Vec<f32>>) -> Self {
        let dimensions = base[0].len() as u16;
        let mut truth =
            VectorIndex::new(dimensions, options.metric, VectorEncoding::F32, options.seed);
        for (node, vector) in base.iter().enumerate() {
            truth.insert(NodeIx(node as u32), vector);
        }
        let keys: Vec<u64> = (0..base.len() as u64).collect();
        let nearest = queries.iter().map(|query| exact(&truth, query, 100, &keys).0).collect();
        Self { queries, keys, nearest }
    }
}

fn exact(index: &VectorIndex, query: &[f32], k: usize, keys: &[u64]) -> (Vec<Hit>, Duration) {
    let start = Instant::now();
    let scope = Scope { keys, accept: Accept::All };
    let mut probe = index.exact(query, k);
    while probe.step(index, &scope, Work(u32::MAX)) == Progress::More {}
    (probe.finish(index, keys, &mut Scratch::default()), start.elapsed())
}

fn overlap(found: &[Hit], nearest: &[Hit], k: usize) -> f64 {
    let wanted = &nearest[..k.min(nearest.len())];
    let hit = wanted.iter().filter(|near| found.iter().take(k).any(|f| f.node == near.node));
    hit.count() as f64 / wanted.len() as f64
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    format!("P50 {:.1} P99 {:.1} max {:.1} us", at(0.5), at(0.99), at(1.0))
}

fn build(index: &mut VectorIndex, label: &str) {
    let waiting = index.backlog();
    let mut slices = Vec::new();
    let start = Instant::now();
    loop {
        let slice = Instant::now();
        let progress = index.build(index.slice());
        slices.push(slice.elapsed());
        if progress == Progress::Done {
            break;
        }
    }
    let took = start.elapsed().as_secs_f64();
    let rate = waiting as f64 / took;
    println!("{label}: {waiting} in {took:.2} s, {rate:.0}/s; slices {}", percentiles(&mut slices));
}

fn measure(index: &VectorIndex, questions: &Questions, options: &Options) {
    let mut scratch = Scratch::default();
    for k in [10, 100] {
        for ef in options.widths.iter().map(|&ef| Some(ef)).chain([None]) {
            let (mut recall, mut compared, mut times) = (0.0, 0, Vec::new());
            for (query, nearest) in questions.queries.iter().zip(&questions.nearest) {
                let scope = Scope { keys: &questions.keys, accept: Accept::All };
                let start = Instant::now();
                let mut probe = index.near(&mut scratch, query, k, ef);
                while probe.step(index, &scope, Work(u32::MAX)) == Progress::More {}
                compared += probe.compared();
                let found = probe.finish(index, &questions.keys, &mut scratch);
                times.push(start.elapsed());
                recall += overlap(&found, nearest, k);
            }
            let recall = recall / questions.queries.len() as f64;
            let compared = compared / questions.queries.len();
            let width = ef.map_or("default".to_owned(), |ef| ef.to_string());
            let times = percentiles(&mut times);
            println!("top {k} ef {width}: recall {recall:.4}, {times}, {compared} compared");
        }
    }
    let (mut recall, mut times) = ([0.0, 0.0], Vec::new());
    let some = questions.queries.len().min(200);
    for (query, nearest) in questions.queries.iter().zip(&questions.nearest).take(some) {
        let (found, took) = exact(index, query, 100, &questions.keys);
        times.push(took);
        recall[0] += overlap(&found, nearest, 10) / some as f64;
        recall[1] += overlap(&found, nearest, 100) / some as f64;
    }
    let times = percentiles(&mut times);
    println!("exact: recall@10 {:.4}, recall@100 {:.4}, {times}", recall[0], recall[1]);
}

fn measure_filters(index: &VectorIndex, questions: &Questions) {
    let mut scratch = Scratch::default();
    for part in [0.5, 0.2, 0.1, 0.05, 0.01, 0.001] {
        let bound = (part * u64::MAX as f64) as u64;
        let test = |node: NodeIx| Numbers(u64::from(node.0)).next() < bound;
        let estimate = (part * index.len() as f64) as usize;
        let scope =
            Scope { keys: &questions.keys, accept: Accept::Where { test: &test, estimate } };
        let (mut recall, mut times) = (0.0, Vec::new());
        let some = questions.queries.len().min(200);
        for query in questions.queries.iter().take(some) {
            let mut probe = index.exact(query, 10);
            while probe.step(index, &scope, Work(u32::MAX)) == Progress::More {}
            let wanted = probe.finish(index, &questions.keys, &mut scratch);
            let start = Instant::now();
            let search = Search { vector: query, k: 10, ef: None, scope };
            let found = index.search(&mut scratch, &search);
            times.push(start.elapsed());
            recall += overlap(&found, &wanted, 10) / some as f64;
        }
        println!("filter {part}: recall@10 of exact {recall:.4}, {}", percentiles(&mut times));
    }
}

fn print_bytes(index: &VectorIndex) {
    let bytes = index.memory_bytes();
    let each = |bytes: usize| bytes as f64 / index.len() as f64;
    println!(
        "bytes a vector: codes {:.1}, slots {:.1}, graph {:.1}, build {:.1}, all {:.1}",
        each(bytes.codes),
        each(bytes.slots),
        each(bytes.graph),
        each(bytes.build),
        each(bytes.codes + bytes.slots + bytes.graph + bytes.build)
    );
}

/// The vectors, without those held out as queries, and these.
fn load(options: &Options) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut base = match &options.npy {
        Some(path) => vectors_of(path, options.scales.as_deref()),
        None => synthetic(options, options.count + options.queries),
    };
    let every = (base.len() / options.queries).max(2);
    let mut queries = Vec::new();
    let mut place = 0;
    base.retain_mut(|vector| {
        place += 1;
        let held_out = place % every == 0 && queries.len() < options.queries;
        if held_out {
            queries.push(std::mem::take(vector));
        }
        !held_out
    });
    (base, queries)
}

fn main() {
    let options = Options::read();
    let (base, queries) = load(&options);
    println!("{} x {}, {} queries", base.len(), base[0].len(), queries.len());
    let questions = Questions::new(&options, &base, queries);
    let dimensions = base[0].len() as u16;
    let mut index = VectorIndex::new(dimensions, options.metric, options.encoding, options.seed);
    let start = Instant::now();
    for (node, vector) in base.iter().enumerate() {
        index.insert(NodeIx(node as u32), vector);
    }
    println!("insert: {:.2} us each", start.elapsed().as_secs_f64() * 1e6 / base.len() as f64);
    build(&mut index, "build");
    print_bytes(&index);
    measure(&index, &questions, &options);
    if options.filters {
        measure_filters(&index, &questions);
    }
    if options.churn > 0.0 {
        churn(&mut index, &base, &options);
        print_bytes(&index);
        measure(&index, &questions, &options);
    }
}

/// Gives a part of the nodes another vector and then their own again, so that every one of them was
/// replaced twice and the nearest are as before.
fn churn(index: &mut VectorIndex, base: &[Vec<f32>], options: &Options) {
    let bound = (options.churn * u64::MAX as f64) as u64;
    let chosen: Vec<usize> = (0..base.len())
        .filter(|&node| Numbers(node as u64 ^ options.seed << 40).next() < bound)
        .collect();
    for shift in [base.len() / 2, 0] {
        for some in chosen.chunks(1000) {
            for &node in some {
                index.insert(NodeIx(node as u32), &base[(node + shift) % base.len()]);
            }
            while index.build(Work(1 << 20)) == Progress::More {}
        }
    }
    println!("churn: {} replaced twice", chosen.len());
}
