//! Workloads as data: what is stored, what is asked, how it arrives.
//!
//! *Invariants*: a file with an unknown field is refused; a workload with the same data set and
//! seed sends the same bytes.
//!
//! *Not here*: driving it (`session`), the requests in memory (`operations`).

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::dataset::{Dataset, Shape, Synthetic, VectorForm, push_vector};
use crate::http::{JSON, encode};
use crate::operations::{Encoded, ID_PLACE, Operation, Pick};
use crate::random::{Random, Zipf};
use crate::run::Load;
use crate::schedule::Gaps;

/// Number of different requests kept for one operation.
const REQUESTS: u64 = 2048;
/// Number of different bodies for what stores; their ids are fresh each time.
const STORES: u64 = 256;

/// A workload file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Short name, also of its result.
    pub name: String,
    /// What it shows, in one or two sentences.
    pub about: String,
    /// What is stored before.
    pub dataset: DatasetSpec,
    /// The mix of requests.
    pub operations: Vec<OperationSpec>,
    /// The runs, one after the other.
    pub steps: Vec<Step>,
    /// Seconds at the start of each step that are not recorded.
    pub warm_up_s: f64,
    /// Vector queries whose answers are compared with the truth; 0: none.
    #[serde(default)]
    pub quality_queries: u64,
}

/// Where memories come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DatasetSpec {
    /// Drawn.
    Synthetic(Shape),
    /// NDJSON, named on the command line.
    File {},
}

impl DatasetSpec {
    /// The same with another number of memories, where they are drawn.
    pub fn with_memories(&self, memories: u64) -> Self {
        match self {
            Self::Synthetic(shape) => Self::Synthetic(Shape { memories, ..*shape }),
            Self::File {} => Self::File {},
        }
    }

    /// Draws or reads the data set.
    ///
    /// # Errors
    /// Where a file is wanted and none was named, or it can't be read.
    pub fn open(&self, file: Option<&Path>) -> io::Result<Dataset> {
        match (self, file) {
            (Self::Synthetic(shape), _) => Ok(Dataset::Synthetic(Box::new(Synthetic::new(*shape)))),
            (Self::File {}, Some(path)) => Ok(Dataset::Lines(crate::dataset::Lines::read(path)?)),
            (Self::File {}, None) => {
                Err(io::Error::other("this workload reads memories from a file: name it (--file)"))
            }
        }
    }
}

/// One kind of request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationSpec {
    /// Its name in reports.
    pub name: String,
    /// Its share of the mix, relative to the others.
    #[serde(default = "one")]
    pub share: f64,
    /// What it asks.
    pub request: RequestSpec,
    /// How often which key is asked: a Zipf exponent, or all alike.
    #[serde(default)]
    pub zipf: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// What a recall starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CueSpec {
    /// A vector.
    Embedding,
    /// A text.
    Text,
    /// A memory.
    Id,
    /// A vector, a text and a memory in one recall.
    Mixed,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RequestSpec {
    /// `POST /recall`.
    Recall {
        /// Its cue.
        cue: CueSpec,
        /// All other fields.
        #[serde(default)]
        fields: Map<String, Value>,
        /// How a vector travels.
        #[serde(default)]
        vectors: VectorForm,
    },
    /// `PUT /memories/{id}` of a new memory with text, vector and links.
    Store {
        /// `durable` or `applied`.
        #[serde(default)]
        wait: Option<String>,
    },
    /// `POST /memories/batch` of new memories.
    Batch {
        /// Memories in each.
        memories: u64,
    },
    /// `GET /memories/{id}`.
    Read {},
    /// `POST /links` between two memories that exist.
    Link {},
    /// `GET` of any path.
    Get {
        /// The path.
        path: String,
    },
}

/// One run of the mix.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name in reports.
    pub name: String,
    /// How requests arrive.
    pub load: LoadSpec,
    /// Seconds that are recorded.
    pub duration_s: f64,
    /// Operations of the mix that take part; all where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

/// How requests arrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LoadSpec {
    /// Clients that wait for their answer.
    Closed {
        /// How many.
        clients: usize,
    },
    /// Arrivals that wait for nothing.
    Open {
        /// Requests a second.
        rate: f64,
        /// Exponential gaps.
        #[serde(default)]
        poisson: bool,
        /// Connections.
        connections: usize,
    },
    /// Open loops of growing rate until one is not sustained.
    Ramp {
        /// First rate.
        from: f64,
        /// Last rate.
        to: f64,
        /// From one rate to the next.
        factor: f64,
        /// Connections.
        connections: usize,
        /// A rate whose 99th percentile is longer is not sustained.
        p99_ms_max: f64,
    },
}

impl LoadSpec {
    /// The single runs that it stands for.
    pub fn loads(&self) -> Vec<Load> {
        match *self {
            Self::Closed { clients } => vec![Load::Closed { clients }],
            Self::Open { rate, poisson, connections } => {
                let gaps = if poisson { Gaps::Poisson } else { Gaps::Constant };
                vec![Load::Open { rate, gaps, connections }]
            }
            Self::Ramp { from, to, factor, connections, .. } => {
                let rates = std::iter::successors(Some(from), |rate| Some(rate * factor));
                rates
                    .take_while(|rate| *rate <= to && factor > 1.0)
                    .map(|rate| Load::Open { rate, gaps: Gaps::Poisson, connections })
                    .collect()
            }
        }
    }
}

impl Workload {
    /// The mix of `engram benchmark`, which needs no file.
    pub fn benchmark() -> Self {
        let text = include_str!("../workloads/benchmark.json");
        serde_json::from_str(text).expect("the file is part of this library and tested")
    }

    /// Reads a workload file.
    ///
    /// # Errors
    /// Those of the system; `InvalidData` where it is no workload.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read(path)?;
        serde_json::from_slice(&text).map_err(|e| {
            let text = format!("{}: {e}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    /// Encodes the requests of the mix.
    pub fn operations(&self, set: &Dataset, host: &str, seed: u64) -> Arc<[Operation]> {
        let encoder = Encoder { set, host, seed };
        self.operations.iter().map(|spec| encoder.operation(spec)).collect()
    }
}

/// The body of a recall.
pub fn recall_body(
    set: &Dataset,
    cue: CueSpec,
    fields: &Map<String, Value>,
    vectors: VectorForm,
    q: u64,
) -> String {
    let embedding = || {
        let mut text = r#"{"embedding":"#.to_owned();
        let vector = set.query_vector(q).expect("a data set from a file has no query vectors");
        push_vector(&vector, vectors, &mut text);
        text + "}"
    };
    let text = || json!({"text": set.query_text(q)}).to_string();
    let id = || json!({"id": set.id(Random::new(q).below(set.memories()))}).to_string();
    let cues = match cue {
        CueSpec::Embedding => embedding(),
        CueSpec::Text => text(),
        CueSpec::Id => id(),
        CueSpec::Mixed => format!("{},{},{}", embedding(), text(), id()),
    };
    let mut body = format!(r#"{{"cues":[{cues}]"#);
    for (name, value) in fields {
        body.push_str(&format!(",{}:{value}", Value::from(name.as_str())));
    }
    body + "}"
}

struct Encoder<'a> {
    set: &'a Dataset,
    host: &'a str,
    seed: u64,
}

impl Encoder<'_> {
    fn operation(&self, spec: &OperationSpec) -> Operation {
        let (requests, items) = match &spec.request {
            RequestSpec::Recall { cue, fields, vectors } => {
                (self.many(REQUESTS, |q| self.recall(*cue, fields, *vectors, q)), 1)
            }
            RequestSpec::Store { wait } => (self.many(STORES, |n| self.store(wait, n)), 1),
            RequestSpec::Batch { memories } => {
                let requests = (STORES / memories).max(4);
                (self.many(requests, |n| self.batch(*memories, n)), *memories)
            }
            RequestSpec::Read {} => {
                let keys = self.set.memories().min(100_000);
                (self.many(keys, |n| self.read(n)), 1)
            }
            RequestSpec::Link {} => (self.many(REQUESTS, |n| self.link(n)), 1),
            RequestSpec::Get { path } => (vec![self.get(path)], 1),
        };
        let pick = match spec.zipf {
            Some(exponent) => Pick::Zipf(Zipf::new(requests.len() as u64, exponent)),
            None => Pick::Uniform,
        };
        let verdicts = matches!(spec.request, RequestSpec::Batch { .. });
        let requests = requests.into();
        Operation { name: spec.name.clone(), weight: spec.share, requests, pick, items, verdicts }
    }

    fn many(&self, count: u64, encoded: impl Fn(u64) -> Encoded) -> Vec<Encoded> {
        (0..count).map(encoded).collect()
    }

    fn recall(
        &self,
        cue: CueSpec,
        fields: &Map<String, Value>,
        vectors: VectorForm,
        q: u64,
    ) -> Encoded {
        let body = recall_body(self.set, cue, fields, vectors, q);
        Encoded::fixed(encode("POST", "/api/v1/recall", self.host, JSON, body.as_bytes()))
    }

    /// A memory of the data set under a fresh id.
    fn fresh_memory(&self, n: u64) -> String {
        let i = Random::for_item(self.seed, 0x5354_4f52, n).below(self.set.memories());
        let mut line = String::new();
        self.set.push_line(i, VectorForm::Base64, &mut line);
        let own = format!(r#""{}""#, self.set.id(i));
        line.truncate(line.trim_end().len());
        line.replacen(&own, &format!(r#""x{ID_PLACE}""#), 1)
    }

    fn store(&self, wait: &Option<String>, n: u64) -> Encoded {
        let query = wait.as_ref().map(|wait| format!("?wait={wait}")).unwrap_or_default();
        let path = format!("/api/v1/memories{query}");
        let body = self.fresh_memory(n);
        Encoded::find_ids(encode("POST", &path, self.host, JSON, body.as_bytes()))
    }

    fn batch(&self, memories: u64, n: u64) -> Encoded {
        let lines: Vec<String> =
            (0..memories).map(|line| self.fresh_memory(n * memories + line)).collect();
        let body = lines.join("\n") + "\n";
        let headers = "content-type: application/x-ndjson\r\n";
        let path = "/api/v1/memories/batch";
        Encoded::find_ids(encode("POST", path, self.host, headers, body.as_bytes()))
    }

    fn read(&self, n: u64) -> Encoded {
        // Ranks of a Zipf distribution are spread over the data set.
        let i = Random::for_item(self.seed, 0x5245_4144, n).below(self.set.memories());
        self.get(&format!("/api/v1/memories/{}", self.set.id(i)))
    }

    fn link(&self, n: u64) -> Encoded {
        let mut random = Random::for_item(self.seed, 0x4c49_4e4b, n);
        let from = self.set.id(random.below(self.set.memories()));
        let to = self.set.id(random.below(self.set.memories()));
        let link = json!({"from": from, "to": to, "weight": 0.5, "kind": "bench"});
        let body = link.to_string();
        Encoded::fixed(encode("POST", "/api/v1/links", self.host, JSON, body.as_bytes()))
    }

    fn get(&self, path: &str) -> Encoded {
        Encoded::fixed(encode("GET", path, self.host, "", b""))
    }
}
