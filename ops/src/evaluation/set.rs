//! Evaluation sets: memories, queries, and which memories answer which query.
//!
//! *Invariants*: rows of vectors belong to lines in their order; what could give the answers away
//! (links and ready-made cues) is left out unless it was asked for.
//!
//! *Not here*: sending memories to a server (`commands::evaluate`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::npy::Matrix;
use crate::failure::Failure;
use crate::lines::Lines;

/// Where a set comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Memories, a JSON object a line.
    pub memories: PathBuf,
    /// Queries, a JSON object a line.
    pub queries: PathBuf,
    /// Vectors of the memories; `None`: the file beside them, if there is one.
    pub memory_vectors: Option<PathBuf>,
    /// Vectors of the queries; `None`: the file beside them, if there is one.
    pub query_vectors: Option<PathBuf>,
    /// No vectors at all.
    pub without_vectors: bool,
    /// Links of the memories are kept.
    pub with_links: bool,
}

/// A set, its memories by namespace.
pub struct Set {
    /// Memories as they are stored; the empty namespace where a memory names none.
    pub memories: BTreeMap<String, Vec<StoredMemory>>,
    /// Queries in their order.
    pub queries: Vec<Query>,
    /// Every query has a vector.
    pub has_vectors: bool,
}

/// A memory as a line of a batch.
pub struct StoredMemory(pub String);

/// A query with its answers.
#[derive(Clone, Debug, Deserialize)]
pub struct Query {
    /// Its id.
    pub id: String,
    /// Where its answers are.
    #[serde(default)]
    pub namespace: String,
    /// What is asked.
    pub text: String,
    /// Ids of the memories that answer it; empty: it is run and not measured.
    #[serde(default)]
    pub relevant: Vec<String>,
    /// A kind of question; 5 is one that has no answer.
    #[serde(default)]
    category: u32,
    /// It was chosen by what some method finds.
    #[serde(default)]
    biased: bool,
    /// Its vector.
    #[serde(default)]
    pub embedding: Option<Vec<f32>>,
}

impl Query {
    /// It counts in the averages.
    pub fn is_measured(&self) -> bool {
        !self.relevant.is_empty() && self.category != 5 && !self.biased
    }
}

impl Set {
    /// Reads a set.
    ///
    /// # Errors
    /// Where a file can't be read or does not fit the others.
    pub fn read(sources: &Sources) -> Result<Self, Failure> {
        let vectors = |given: &Option<PathBuf>, beside: &Path| {
            if sources.without_vectors {
                return Ok(None);
            }
            let path = given.clone().or_else(|| vectors_beside(beside));
            path.map(|path| Matrix::read(&path)).transpose()
        };
        let memory_vectors = vectors(&sources.memory_vectors, &sources.memories)?;
        let query_vectors = vectors(&sources.query_vectors, &sources.queries)?;
        let memories = read_memories(sources, memory_vectors.as_ref())?;
        let mut queries: Vec<Query> = read_lines(&sources.queries)?;
        if let Some(vectors) = &query_vectors {
            fits(&sources.queries, queries.len(), vectors)?;
            for (at, query) in queries.iter_mut().enumerate() {
                query.embedding = Some(vectors.row(at).to_vec());
            }
        }
        let has_vectors = !queries.is_empty() && queries.iter().all(|q| q.embedding.is_some());
        Ok(Self { memories, queries, has_vectors })
    }
}

/// `memories.ndjson.gz` has its vectors in `memories.f16.npy` or `memories.f32.npy`.
fn vectors_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.split('.').next()?;
    let candidates = ["f16", "f32"].map(|kind| path.with_file_name(format!("{stem}.{kind}.npy")));
    candidates.into_iter().find(|candidate| candidate.exists())
}

fn read_memories(
    sources: &Sources,
    vectors: Option<&Matrix>,
) -> Result<BTreeMap<String, Vec<StoredMemory>>, Failure> {
    let lines: Vec<Map<String, Value>> = read_lines(&sources.memories)?;
    if let Some(vectors) = vectors {
        fits(&sources.memories, lines.len(), vectors)?;
    }
    let mut by_namespace: BTreeMap<String, Vec<StoredMemory>> = BTreeMap::new();
    for (at, mut memory) in lines.into_iter().enumerate() {
        let namespace = memory.get("metadata").and_then(|m| m.get("namespace"));
        let namespace = namespace.and_then(Value::as_str).unwrap_or_default().to_owned();
        prepare(&mut memory, sources.with_links);
        if let Some(vectors) = vectors {
            memory.insert("embedding".to_owned(), base64_of(vectors.row(at)).into());
        } else if sources.without_vectors {
            memory.remove("embedding");
        }
        let line = format!("{}\n", Value::Object(memory));
        by_namespace.entry(namespace).or_default().push(StoredMemory(line));
    }
    Ok(by_namespace)
}

fn prepare(memory: &mut Map<String, Value>, with_links: bool) {
    if let Some(Value::Object(metadata)) = memory.get_mut("metadata") {
        metadata.remove("cues");
    }
    let links = memory.remove("links");
    if let Some(Value::Array(links)) = links.filter(|_| with_links) {
        memory.insert("links".to_owned(), links.iter().map(stored_link).collect());
    }
}

/// Sets write `type` and `w` where a memory has `kind` and `weight`.
fn stored_link(link: &Value) -> Value {
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| link.get(name)).cloned();
    json!({
        "to": link["to"],
        "kind": first(["kind", "type"]).unwrap_or_else(|| "related".into()),
        "weight": first(["weight", "w"]).unwrap_or_else(|| 1.0.into()),
    })
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

fn fits(path: &Path, lines: usize, vectors: &Matrix) -> Result<(), Failure> {
    if lines == vectors.rows() {
        return Ok(());
    }
    let (name, rows) = (path.display(), vectors.rows());
    Err(Failure::new(format!("{name} has {lines} lines and its vectors have {rows} rows")))
}

fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>, Failure> {
    let mut lines = Lines::open(path)?;
    let mut all = Vec::new();
    let mut line = Vec::new();
    while lines.append_next(&mut line)? {
        let number = lines.line();
        let failed = Failure::because(format!("{}: line {number}", path.display()));
        all.push(serde_json::from_slice(&line).map_err(failed)?);
        line.clear();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_answers_away_is_left_out() {
        let memory = json!({"id": "a", "metadata": {"cues": ["x"], "title": "t"},
            "links": [{"to": "b", "type": "mentions", "w": 0.7}, {"to": "c"}]});
        let Value::Object(memory) = memory else { unreachable!() };
        let (mut without, mut with) = (memory.clone(), memory);
        prepare(&mut without, false);
        prepare(&mut with, true);
        assert_eq!(Value::Object(without), json!({"id": "a", "metadata": {"title": "t"}}));
        let links = json!([{"to": "b", "kind": "mentions", "weight": 0.7},
            {"to": "c", "kind": "related", "weight": 1.0}]);
        assert_eq!(with["links"], links);
    }

    #[test]
    fn queries_without_an_answer_are_not_measured() {
        let query = |text: &str| -> Query { serde_json::from_str(text).unwrap() };
        assert!(query(r#"{"id": "q", "text": "t", "relevant": ["a"]}"#).is_measured());
        assert!(!query(r#"{"id": "q", "text": "t", "relevant": []}"#).is_measured());
        let adversarial = r#"{"id": "q", "text": "t", "relevant": ["a"], "category": 5}"#;
        assert!(!query(adversarial).is_measured());
        let biased = r#"{"id": "q", "text": "t", "relevant": ["a"], "biased": true}"#;
        assert!(!query(biased).is_measured());
    }
}
