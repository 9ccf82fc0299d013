//! Micro-benchmarks of the hot paths: time, and instructions where valgrind is there.
//!
//! *Invariants*: each one does the same work every time; what it computes is used, so that it can't
//! be compiled away; instructions are the difference of two runs, so that preparing does not count.
//!
//! *Not here*: anything behind a socket (`run`), messages under other loads (`mailbox`).

use std::hint::black_box;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use engram_engine::fuse::{Candidates, Recipe};
use engram_engine::graph::{EdgeName, Graph, KindIx};
use engram_engine::key::MemoryKey;
use engram_engine::model::{
    Link, LinkKind, Memory, MemoryId, Metric, Tier, Timestamp, VectorEncoding, Weight,
};
use engram_engine::node::NodeIx;
use engram_engine::record::{Contents, Put, SpaceNumber, Stamp, View};
use engram_engine::request::{Recalled, RecalledMemory, ScoreBreakdown, Visited, With};
use engram_engine::text::{Analyzer, Bm25Query, TermKey, TextIndex, idf};
use engram_engine::vector::{Accept, Progress, Scope, Scratch, Search, VectorIndex};
use engram_net::json::{self, reader};

use crate::dataset::{Dataset, Shape, Synthetic, VectorForm};
use crate::mailbox;
use crate::workload::{CueSpec, recall_body};

/// One micro-benchmark: prepares, then does its work once a call.
pub struct Micro {
    /// Its name.
    pub name: &'static str,
    /// What one call does.
    pub about: &'static str,
    prepare: fn(&Synthetic) -> Box<dyn FnMut()>,
}

/// How long one call takes.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Median over the samples, in nanoseconds.
    pub median_ns: f64,
    /// The shortest sample: least disturbed by others.
    pub least_ns: f64,
}

/// All of them.
pub const ALL: &[Micro] = &[
    Micro {
        name: "vector-search",
        about: "the 10 nearest by the graph, int8",
        prepare: vector_search,
    },
    Micro {
        name: "vector-scan",
        about: "the 10 nearest of 1,000 vectors one by one: the distance kernel",
        prepare: vector_scan,
    },
    Micro {
        name: "text-analysis",
        about: "a content of 20 words to terms",
        prepare: text_analysis,
    },
    Micro { name: "text-search", about: "BM25 of 5 words, the 100 best", prepare: text_search },
    Micro {
        name: "text-intersection",
        about: "the memories that hold two words",
        prepare: text_intersection,
    },
    Micro {
        name: "hops",
        about: "3 hops from 5 seeds along 8 links a memory, added up by target",
        prepare: hops,
    },
    Micro { name: "fusion", about: "100 lexical and 100 vector hits to seeds", prepare: fusion },
    Micro {
        name: "record-encode",
        about: "a memory with 384 numbers and 8 links to the log's bytes",
        prepare: record_encode,
    },
    Micro {
        name: "record-decode",
        about: "the same back, checksums included",
        prepare: record_decode,
    },
    Micro {
        name: "json-in",
        about: "a recall by a vector of 384 numbers in base64, from its JSON",
        prepare: json_in,
    },
    Micro {
        name: "json-in-array",
        about: "a memory with 384 numbers as JSON and 8 links, from its JSON",
        prepare: json_in_array,
    },
    Micro {
        name: "json-out",
        about: "the answer of a recall, 10 memories with content, to JSON",
        prepare: json_out,
    },
    Micro {
        name: "mailbox",
        about: "100 questions to another shard and their answers, one after the other",
        prepare: mailbox_round_trips,
    },
];

/// The data set that they all use.
pub fn data(memories: u64) -> Synthetic {
    Synthetic::new(Shape { memories, dimensions: 384, out_degree: 8, seed: 1 })
}

impl Micro {
    /// Measures for about this long.
    pub fn time(&self, set: &Synthetic, sample_ms: f64, samples: usize) -> Took {
        let mut call = (self.prepare)(set);
        call();
        let mut calls = 1_u64;
        while run(&mut call, calls) < sample_ms * 1e6 && calls < 1 << 30 {
            calls *= 2;
        }
        let mut ns: Vec<f64> =
            (0..samples.max(1)).map(|_| run(&mut call, calls) / calls as f64).collect();
        ns.sort_unstable_by(f64::total_cmp);
        Took { median_ns: ns[ns.len() / 2], least_ns: ns[0] }
    }

    /// Prepares and calls so many times: what valgrind counts.
    pub fn repeat(&self, set: &Synthetic, calls: u64) {
        let mut call = (self.prepare)(set);
        (0..calls).for_each(|_| call());
    }

    /// Instructions of one call, counted by valgrind's callgrind on this very binary.
    ///
    /// # Errors
    /// Where valgrind is missing or says no count.
    pub fn instructions(&self, memories: u64) -> io::Result<f64> {
        let (few, many) = (10, 30);
        let difference = self.count(memories, many)?.saturating_sub(self.count(memories, few)?);
        Ok(difference as f64 / (many - few) as f64)
    }

    fn count(&self, memories: u64, calls: u64) -> io::Result<u64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["micro", "--only", self.name, "--repeat", &calls.to_string()])
            .args(["--memories", &memories.to_string()])
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let count = text.lines().find_map(|line| line.split_once("Collected : "));
        count
            .and_then(|(_, count)| count.trim().parse().ok())
            .ok_or_else(|| io::Error::other(format!("valgrind counted nothing: {text:.400}")))
    }
}

fn run(call: &mut dyn FnMut(), calls: u64) -> f64 {
    let start = Instant::now();
    (0..calls).for_each(|_| call());
    start.elapsed().as_nanos() as f64
}

/// A counter that goes round the queries.
fn round(count: usize) -> impl FnMut() -> usize {
    let mut n = 0;
    move || {
        n = (n + 1) % count;
        n
    }
}

fn index(set: &Synthetic, memories: u64) -> (VectorIndex, Vec<u64>) {
    let mut index = VectorIndex::new(384, Metric::Cosine, VectorEncoding::Int8, 1);
    for i in 0..memories {
        index.insert(NodeIx(i as u32), &set.vector(i));
    }
    (index, (0..memories).collect())
}

fn vector_search(set: &Synthetic) -> Box<dyn FnMut()> {
    let (mut index, keys) = index(set, set.shape.memories);
    while index.build(index.slice()) == Progress::More {}
    let queries: Vec<_> = (0..64).map(|q| set.query_vector(q)).collect();
    let (mut scratch, mut next) = (Scratch::default(), round(64));
    Box::new(move || {
        let scope = Scope { keys: &keys, accept: Accept::All };
        let search = Search { vector: &queries[next()], k: 10, ef: None, scope };
        black_box(index.search(&mut scratch, &search));
    })
}

fn vector_scan(set: &Synthetic) -> Box<dyn FnMut()> {
    let memories = set.shape.memories.min(1000);
    let (index, keys) = index(set, memories);
    let queries: Vec<_> = (0..64).map(|q| set.query_vector(q)).collect();
    let (mut scratch, mut next) = (Scratch::default(), round(64));
    Box::new(move || {
        let scope = Scope { keys: &keys, accept: Accept::All };
        let mut probe = index.exact(&queries[next()], 10);
        while probe.step(&index, &scope, index.slice()) == Progress::More {}
        black_box(probe.finish(&index, &keys, &mut scratch));
    })
}

fn text_analysis(set: &Synthetic) -> Box<dyn FnMut()> {
    let texts: Vec<String> = (0..64).map(|i| set.content(i)).collect();
    let (mut analyzer, mut next) = (Analyzer::new(), round(64));
    Box::new(move || {
        black_box(analyzer.analyze(&texts[next()]));
    })
}

/// A text index over the whole set, and the terms of 64 queries.
fn texts(set: &Synthetic) -> (TextIndex, Vec<Vec<TermKey>>) {
    let (mut index, mut analyzer) = (TextIndex::new(), Analyzer::new());
    for i in 0..set.shape.memories {
        index.insert(NodeIx(i as u32), &analyzer.analyze(&set.content(i)));
    }
    let queries = (0..64).map(|q| analyzer.query(&set.query_text(q))).collect();
    (index, queries)
}

fn text_search(set: &Synthetic) -> Box<dyn FnMut()> {
    let (index, queries) = texts(set);
    let keys: Vec<u64> = (0..set.shape.memories).collect();
    let documents = index.documents();
    let weighted: Vec<Vec<(TermKey, f32)>> = queries
        .iter()
        .map(|terms| terms.iter().map(|t| (*t, idf(documents, index.df(*t)))).collect())
        .collect();
    let average_length = index.total_length() as f64 / documents as f64;
    let (mut scratch, mut next) = (engram_engine::text::Scratch::default(), round(64));
    Box::new(move || {
        let terms = &weighted[next()];
        let query = Bm25Query { terms, average_length, k: 100, keys: &keys, accept: None };
        black_box(index.search(&query, &mut scratch));
    })
}

fn text_intersection(set: &Synthetic) -> Box<dyn FnMut()> {
    let (index, queries) = texts(set);
    let mut next = round(64);
    Box::new(move || {
        let terms = &queries[next()];
        black_box(index.candidates_with_all(&terms[..terms.len().min(2)]));
    })
}

fn graph(set: &Synthetic) -> Graph {
    let mut graph = Graph::default();
    let nodes: Vec<NodeIx> =
        (0..set.shape.memories).map(|i| graph.intern(MemoryKey(i), false)).collect();
    nodes.iter().for_each(|node| graph.set_exists(*node, true));
    let name = EdgeName { kind: KindIx(0), automatic: false };
    for i in 0..set.shape.memories {
        for (to, weight) in set.links(i) {
            let units = engram_engine::fixed::weight_units(weight);
            graph.put_link(nodes[i as usize], nodes[to as usize], name, units);
        }
    }
    graph
}

/// The plain form of spreading over one shard; the engine's own adds thresholds and paths.
fn hops(set: &Synthetic) -> Box<dyn FnMut()> {
    let graph = graph(set);
    let memories = set.shape.memories as u32;
    let mut sums = vec![0_u64; memories as usize];
    let mut next = round(1000);
    Box::new(move || {
        let first = next() as u32;
        let mut touched = Vec::new();
        let mut frontier: Vec<(NodeIx, u64)> =
            (0..5).map(|s| (NodeIx((first * 7 + s * 131) % memories), 1 << 32)).collect();
        for _ in 0..3 {
            let start = touched.len();
            for (node, activation) in &frontier {
                for edge in graph.outward(*node) {
                    let sum = &mut sums[edge.node.index()];
                    if *sum == 0 {
                        touched.push(edge.node);
                    }
                    *sum += (activation * u64::from(edge.weight)) >> 17;
                }
            }
            let sum = |node: &NodeIx| (*node, sums[node.index()]);
            frontier = touched[start..].iter().map(sum).collect();
        }
        touched.iter().for_each(|node| sums[node.index()] = 0);
        black_box(touched.len());
    })
}

fn fusion(_: &Synthetic) -> Box<dyn FnMut()> {
    let hits = |stride: u64, first: f32| -> Vec<(u64, f32)> {
        (0..100).map(|n| (n * stride, first / (n as f32 + 1.0))).collect()
    };
    let (lexical, semantic) = (hits(3, 20.0), hits(5, 0.9));
    let recipe = Recipe::STATEMENT;
    Box::new(move || {
        let mut candidates = Candidates::fused(&lexical, &semantic, &recipe);
        candidates.scale();
        black_box(candidates.seeds(10, &recipe));
    })
}

fn put(set: &Synthetic) -> Contents {
    let id = |i| MemoryId::new(&Synthetic::id(i)).expect("an id of the set is an id");
    let link = |(to, weight)| Link {
        to: id(to),
        weight: Weight::new(weight).expect("the set's weights lie between 0 and 1"),
        kind: LinkKind::default(),
    };
    let at = Timestamp(1_700_000_000_000_000);
    Contents::Put(Box::new(Put {
        space: SpaceNumber(0),
        id: id(1),
        content: Some(set.content(1)),
        metadata: r#"{"group":17}"#.to_owned(),
        confidence: None,
        created_at: at,
        arrived_at: at,
        updated_at: at,
        expires_at: None,
        links: set.links(1).into_iter().map(link).collect(),
        embedding: Some(set.vector(1)),
    }))
}

const STAMP: Stamp = Stamp { sequence: 1, batch: 1, epoch: 1 };

fn record_encode(set: &Synthetic) -> Box<dyn FnMut()> {
    let contents = put(set);
    let mut bytes = Vec::new();
    Box::new(move || {
        bytes.clear();
        contents.draft().write(STAMP, &mut bytes);
        black_box(&bytes);
    })
}

fn record_decode(set: &Synthetic) -> Box<dyn FnMut()> {
    let mut bytes = Vec::new();
    put(set).draft().write(STAMP, &mut bytes);
    Box::new(move || {
        let view = View::read(&bytes).expect("a record that was written can be read");
        let contents = Contents::read(view.kind, view.head, view.tail);
        black_box(contents.expect("what was written can be read"));
    })
}

fn json_in(set: &Synthetic) -> Box<dyn FnMut()> {
    let whole = Dataset::Synthetic(Box::new(set.clone()));
    let fields = serde_json::Map::from_iter([("max_hops".to_owned(), 3.into())]);
    let body = |q| recall_body(&whole, CueSpec::Embedding, &fields, VectorForm::Base64, q);
    let bodies: Vec<String> = (0..64).map(body).collect();
    let mut next = round(64);
    Box::new(move || {
        let recall = reader::document(bodies[next()].as_bytes(), json::recall::read);
        assert!(black_box(recall).is_ok(), "the workloads ask what the contract allows");
    })
}

fn json_in_array(set: &Synthetic) -> Box<dyn FnMut()> {
    let line = |i| {
        let mut line = String::new();
        set.push_line(i, VectorForm::Json, &mut line);
        line
    };
    let lines: Vec<String> = (0..64).map(line).collect();
    let mut next = round(64);
    Box::new(move || {
        let memory = reader::document(lines[next()].as_bytes(), |reader| {
            json::memory::read(reader, || unreachable!("it has an id"))
        });
        assert!(black_box(memory).is_ok(), "the set holds what the contract allows");
    })
}

fn json_out(set: &Synthetic) -> Box<dyn FnMut()> {
    let at = Timestamp(1_700_000_000_000_000);
    let memory = |i| Memory {
        id: MemoryId::new(&Synthetic::id(i)).expect("an id of the set is an id"),
        content: Some(set.content(i)),
        embedding: None,
        metadata: serde_json::Map::new(),
        confidence: None,
        created_at: at,
        updated_at: at,
        expires_at: None,
        links: None,
        tier: Tier::Fast,
        merged: Vec::new(),
        merged_into: None,
    };
    let recalled = |i| RecalledMemory {
        memory: memory(i),
        score: 1.0 / (i + 1) as f64,
        breakdown: ScoreBreakdown::default(),
        hops: 1,
        path: Vec::new(),
    };
    let recalled = Recalled {
        memories: (0..10).map(recalled).collect(),
        truncated: false,
        visited: Visited::default(),
        phases: Vec::new(),
    };
    let with = With { content: true, ..With::NONE };
    Box::new(move || {
        black_box(json::writer::to_json(&json::view::recalled(&recalled, with, false, 300)));
    })
}

fn mailbox_round_trips(_: &Synthetic) -> Box<dyn FnMut()> {
    let shards = mailbox::Shards::start(2, Duration::ZERO).expect("two shards can be started");
    Box::new(move || {
        black_box(shards.ask(mailbox::Load::OneByOne, 100));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_micro_benchmark_runs() {
        let set = data(600);
        for micro in ALL {
            let took = micro.time(&set, 0.01, 1);
            assert!(took.least_ns > 0.0 && took.least_ns <= took.median_ns, "{}", micro.name);
        }
    }
}
