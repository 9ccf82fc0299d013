//! Reads evaluation sets (memories, vectors, queries) and counts what of the relevant came back.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The folder of the sets: `ENGRAM_SHARED_DATA`, else `shared/data` beside the repository's parents.
pub fn folder() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ENGRAM_SHARED_DATA") {
        return Some(PathBuf::from(path));
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().map(|at| at.join("shared/data")).find(|path| path.is_dir())
}

/// One query.
pub struct Query {
    pub text: String,
    pub space: String,
    pub relevant: Vec<String>,
    pub biased: bool,
    pub vector: Vec<f32>,
}

/// One memory.
pub struct Record {
    pub id: String,
    pub space: String,
    pub content: String,
    pub metadata: engram_engine::model::Metadata,
    pub vector: Vec<f32>,
}

/// A set, without the links and extracted cues that its files hold.
pub struct Set {
    pub records: Vec<Record>,
    pub queries: Vec<Query>,
}

pub fn load(folder: &Path, name: &str) -> Set {
    let folder = folder.join(name);
    let vectors = half_vectors(&folder.join("memories.f16.npy"));
    let memories = unzipped(&folder.join("memories.ndjson.gz"));
    let records = lines(&memories);
    let records = records.zip(vectors).map(|(json, vector)| record(&json, vector)).collect();
    let text = std::fs::read_to_string(folder.join("queries.ndjson")).expect("queries are there");
    let vectors = half_vectors(&folder.join("queries.f16.npy"));
    let scored = |json: &Value| json["category"].as_u64() != Some(5);
    let queries = lines(&text).zip(vectors).filter(|(json, _)| scored(json));
    Set { records, queries: queries.map(|(json, vector)| query(&json, vector)).collect() }
}

fn record(json: &Value, vector: Vec<f32>) -> Record {
    let mut metadata = json["metadata"].as_object().cloned().unwrap_or_default();
    metadata.remove("cues");
    let space = metadata.remove("namespace");
    Record {
        id: string(&json["id"]),
        space: space.as_ref().map(string).unwrap_or_default(),
        content: string(&json["content"]),
        metadata,
        vector,
    }
}

fn query(json: &Value, vector: Vec<f32>) -> Query {
    let relevant = json["relevant"].as_array().expect("relevant is an array");
    Query {
        text: string(&json["text"]),
        space: string(&json["namespace"]),
        relevant: relevant.iter().map(string).collect(),
        biased: json["biased"].as_bool().unwrap_or(false),
        vector,
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn lines(text: &str) -> impl Iterator<Item = Value> + '_ {
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON"))
}

fn unzipped(path: &Path) -> String {
    let output = Command::new("gzip").arg("-dc").arg(path).output().expect("gzip runs");
    assert!(output.status.success(), "gzip reads {}", path.display());
    String::from_utf8(output.stdout).expect("memories are UTF-8")
}

/// The rows of a NumPy file of half-precision floats.
fn half_vectors(path: &Path) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(path).expect("vectors are there");
    let header_bytes = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..10 + header_bytes]).into_owned();
    assert!(header.contains("'<f2'"), "half precision: {header}");
    let shape = header.split(['(', ')']).nth(1).expect("a shape");
    let columns: usize = shape.split(',').nth(1).expect("two axes").trim().parse().expect("size");
    let row = |row: &[u8]| {
        row.chunks_exact(2).map(|half| from_half(u16::from_le_bytes([half[0], half[1]]))).collect()
    };
    bytes[10 + header_bytes..].chunks_exact(columns * 2).map(row).collect()
}

fn from_half(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// Mean recall at 1, 2, 5 and 10, in per cent.
#[derive(Default)]
pub struct Figures {
    sums: [f64; 4],
    queries: usize,
}

impl Figures {
    pub fn add(&mut self, ranked: &[&str], relevant: &[String]) {
        for (sum, k) in self.sums.iter_mut().zip([1, 2, 5, 10]) {
            let first = &ranked[..ranked.len().min(k)];
            let found = relevant.iter().filter(|id| first.contains(&id.as_str())).count();
            *sum += found as f64 / relevant.len() as f64;
        }
        self.queries += 1;
    }

    pub fn at(&self) -> [f64; 4] {
        self.sums.map(|sum| 100.0 * sum / self.queries.max(1) as f64)
    }
}
