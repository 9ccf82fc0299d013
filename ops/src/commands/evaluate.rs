//! `engram evaluate`: quality and speed of recall on a set of queries with known answers.
//!
//! *Invariants*: memories go into spaces of their own, which are dropped afterwards; a space that
//! exists already is never touched without being asked for; each way to recall differs from the
//! server's defaults in what it leaves out only.
//!
//! *Not here*: sets and measures (`crate::evaluation`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::output;
use crate::arguments::Origins;
use crate::client::Client;
use crate::evaluation::{Measures, Percentiles, Query, Set, Sources, StoredMemory};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::target::Target;

/// Longest name of a space.
const SPACE_NAME_BYTES_MAX: usize = 64;
/// How long the server may take to index and associate what was stored.
const SETTLE_TIME: Duration = Duration::from_secs(900);
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// Measures recall.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// Memories: {id, content, metadata} a line; .gz and .zst are unpacked
    #[arg(long, value_name = "FILE")]
    memories: PathBuf,
    /// Queries: {id, text, relevant: [ids]} a line
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Vectors of the memories, row by row (.npy) [default: MEMORIES.f16.npy beside them]
    #[arg(long, value_name = "FILE")]
    memory_vectors: Option<PathBuf>,
    /// Vectors of the queries, row by row (.npy) [default: QUERIES.f16.npy beside them]
    #[arg(long, value_name = "FILE")]
    query_vectors: Option<PathBuf>,
    /// Text only
    #[arg(long)]
    without_vectors: bool,
    /// Store the links of the set too
    #[arg(long)]
    with_links: bool,
    /// Ways to recall [default: all that the set allows]
    #[arg(long, value_name = "WAY", value_delimiter = ',')]
    ways: Vec<Way>,
    /// How many results a query asks for
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    depth: u32,
    /// No approximate index
    #[arg(long)]
    exact: bool,
    /// Write what was ranked for each query into this folder, a file a way
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// The spaces hold the set already: load nothing
    #[arg(long)]
    loaded: bool,
    /// Leave the spaces behind
    #[arg(long)]
    keep: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A way to recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    /// The nearest vectors.
    Semantic,
    /// The best matches of words.
    Lexical,
    /// Both, fused.
    Fused,
    /// Everything that the server does by default.
    Spreading,
}

const WAYS: [Way; 4] = [Way::Semantic, Way::Lexical, Way::Fused, Way::Spreading];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Semantic => "semantic",
            Self::Lexical => "lexical",
            Self::Fused => "fused",
            Self::Spreading => "spreading",
        }
    }

    fn needs_vectors(self) -> bool {
        matches!(self, Self::Semantic | Self::Fused)
    }

    fn request(self, query: &Query, depth: u32, exact: bool) -> Value {
        let text = json!({"text": query.text});
        let vector = query.embedding.as_ref().map(|vector| json!({"embedding": vector}));
        let cues: Vec<Value> = match self {
            Self::Semantic => vector.into_iter().collect(),
            Self::Lexical => vec![text],
            Self::Fused | Self::Spreading => [text].into_iter().chain(vector).collect(),
        };
        let mut request = json!({"cues": cues, "top_k": depth, "exact": exact});
        if self != Self::Spreading {
            request["max_hops"] = 0.into();
            request["names"] = false.into();
        }
        request
    }
}

/// What was measured of one way.
#[derive(Serialize)]
struct Row {
    way: Way,
    #[serde(flatten)]
    measures: Measures,
    client_latency: Percentiles,
    server_latency: Percentiles,
    truncated: u64,
}

impl Evaluate {
    /// Measures.
    ///
    /// # Errors
    /// Where the set can't be read, or the server not be reached.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let set = Set::read(&self.sources())?;
        let prefix = if origins.is_given("space") { &self.target.space } else { "evaluate" };
        let spaces = Spaces::of(&set, prefix);
        let ways = self.ways_of(&set)?;
        if let Some(dir) = &self.runs {
            let failed = Failure::because(format!("{} can't be created", dir.display()));
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        let mut opened = self.target.open(origins)?;
        let outcome = self.load_and_measure(&mut opened.client, &set, &spaces, &ways);
        opened.close()?;
        let rows = outcome?;
        if self.json {
            return output::json(&json!({"queries": set.queries.len(), "ways": rows}));
        }
        output::text_as_it_is(&table(&rows))
    }

    fn sources(&self) -> Sources {
        Sources {
            memories: self.memories.clone(),
            queries: self.queries.clone(),
            memory_vectors: self.memory_vectors.clone(),
            query_vectors: self.query_vectors.clone(),
            without_vectors: self.without_vectors,
            with_links: self.with_links,
        }
    }

    fn ways_of(&self, set: &Set) -> Result<Vec<Way>, Failure> {
        if self.ways.is_empty() {
            let possible = |way: &Way| set.has_vectors || !way.needs_vectors();
            return Ok(WAYS.into_iter().filter(possible).collect());
        }
        match self.ways.iter().find(|way| way.needs_vectors() && !set.has_vectors) {
            Some(way) => Err(Failure::usage(format!("{} needs vectors of queries", way.name()))),
            None => Ok(self.ways.clone()),
        }
    }

    fn load_and_measure(
        &self,
        client: &mut Client,
        set: &Set,
        spaces: &Spaces,
        ways: &[Way],
    ) -> Result<Vec<Row>, Failure> {
        if self.loaded {
            return self.measure(client, set, spaces, ways);
        }
        spaces.refuse_existing(client)?;
        let loaded = set.memories.iter().try_for_each(|(namespace, memories)| {
            self.load(client, &spaces.names[namespace], memories)
        });
        let outcome = loaded.and_then(|()| self.measure(client, set, spaces, ways));
        if !self.keep {
            spaces.drop_made(client)?;
        }
        outcome
    }

    fn measure(
        &self,
        client: &mut Client,
        set: &Set,
        spaces: &Spaces,
        ways: &[Way],
    ) -> Result<Vec<Row>, Failure> {
        settle(client, self.quiet)?;
        ways.iter().map(|way| self.ask_all(client, set, spaces, *way)).collect()
    }

    fn load(
        &self,
        client: &mut Client,
        space: &str,
        memories: &[StoredMemory],
    ) -> Result<(), Failure> {
        let mut rest = memories.iter();
        let mut progress = Progress::new("memories", self.quiet);
        let mut count = 0;
        client.enter_space(space);
        client.stream(
            "/api/v1/memories/batch?wait=applied",
            |chunk| match rest.next() {
                Some(StoredMemory(line)) => {
                    chunk.extend_from_slice(line.as_bytes());
                    Ok(true)
                }
                None => Ok(false),
            },
            |line| {
                count += 1;
                progress.show(count, Some(count as f64 / memories.len() as f64));
                let verdict: Value = serde_json::from_slice(line).unwrap_or_default();
                match verdict["status"].as_u64() {
                    Some(200 | 201) => Ok(()),
                    _ => Err(Failure::new(format!("a memory was refused: {verdict}"))),
                }
            },
        )?;
        progress.finish();
        Ok(())
    }

    fn ask_all(
        &self,
        client: &mut Client,
        set: &Set,
        spaces: &Spaces,
        way: Way,
    ) -> Result<Row, Failure> {
        let mut progress = Progress::new("queries", self.quiet);
        let (mut client_times, mut server_times) = (Vec::new(), Vec::new());
        let mut ranked: Vec<Vec<String>> = Vec::new();
        let mut truncated = 0;
        for (at, query) in set.queries.iter().enumerate() {
            let space = spaces.names.get(&query.namespace).ok_or_else(|| {
                Failure::new(format!("query {}: no memory is in its namespace", query.id))
            })?;
            let body = way.request(query, self.depth, self.exact);
            client.enter_space(space);
            let started = Instant::now();
            let reply = client.post("/api/v1/recall", &body)?;
            client_times.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
            let answer: Value = reply.json()?;
            server_times.push(answer["took_us"].as_u64().unwrap_or_default());
            truncated += u64::from(answer["truncated"] == Value::Bool(true));
            ranked.push(ids(&answer));
            progress.show(at as u64, Some(at as f64 / set.queries.len() as f64));
        }
        progress.finish();
        self.write_run(way, &set.queries, &ranked)?;
        let measured = set.queries.iter().zip(&ranked).filter(|(query, _)| query.is_measured());
        let measured = measured.map(|(query, ranked)| (&query.relevant[..], &ranked[..]));
        Ok(Row {
            way,
            measures: Measures::over(measured),
            client_latency: Percentiles::of(client_times),
            server_latency: Percentiles::of(server_times),
            truncated,
        })
    }

    fn write_run(
        &self,
        way: Way,
        queries: &[Query],
        ranked: &[Vec<String>],
    ) -> Result<(), Failure> {
        let Some(dir) = &self.runs else { return Ok(()) };
        let path = dir.join(format!("{}.ndjson", way.name()));
        let mut text = String::new();
        for (query, ranked) in queries.iter().zip(ranked) {
            let _infallible = writeln!(text, "{}", json!({"id": query.id, "ranked": ranked}));
        }
        let failed = Failure::because(format!("{} can't be written", path.display()));
        std::fs::write(&path, text).map_err(failed)
    }
}

/// The spaces of a set, by namespace.
struct Spaces {
    names: BTreeMap<String, String>,
}

impl Spaces {
    fn of(set: &Set, prefix: &str) -> Self {
        let name = |namespace: &String| {
            let plain =
                |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            let name: String = namespace.chars().map(plain).collect();
            let mut name =
                if name.is_empty() { prefix.to_owned() } else { format!("{prefix}-{name}") };
            name.truncate(SPACE_NAME_BYTES_MAX);
            (namespace.clone(), name)
        };
        Self { names: set.memories.keys().map(name).collect() }
    }

    fn refuse_existing(&self, client: &mut Client) -> Result<(), Failure> {
        let mut seen = std::collections::BTreeSet::new();
        for name in self.names.values() {
            if !seen.insert(name) {
                return Err(Failure::new(format!("two namespaces have one space: {name}")));
            }
            let (status, body) = client.exchange("GET", &format!("/api/v1/spaces/{name}"), b"")?;
            let space: Value = serde_json::from_slice(&body).unwrap_or_default();
            if status == 200 && space["memories"] != json!(0) {
                return Err(Failure::new(format!("the space {name} exists"))
                    .with_hint("measure it as it is by --loaded, or choose another by --space"));
            }
        }
        Ok(())
    }

    fn drop_made(&self, client: &mut Client) -> Result<(), Failure> {
        for name in self.names.values() {
            let (_status, _body) =
                client.exchange("DELETE", &format!("/api/v1/spaces/{name}"), b"")?;
        }
        Ok(())
    }
}

/// Waits until everything is indexed and associated.
fn settle(client: &mut Client, quiet: bool) -> Result<(), Failure> {
    let mut progress = Progress::new("memories left to associate and index", quiet);
    let started = Instant::now();
    loop {
        let stats: Value = client.get("/api/v1/stats")?.json()?;
        let backlog = |part: &str| stats[part].as_u64().unwrap_or_default();
        let left = backlog("association_backlog") + backlog("index_backlog");
        if left == 0 {
            progress.finish();
            return Ok(());
        }
        if started.elapsed() > SETTLE_TIME {
            return Err(Failure::new(format!("{left} memories are still not associated")));
        }
        progress.show(left, None);
        std::thread::sleep(SETTLE_PAUSE);
    }
}

fn ids(answer: &Value) -> Vec<String> {
    let memories = answer["memories"].as_array().map(Vec::as_slice).unwrap_or_default();
    memories.iter().filter_map(|memory| memory["id"].as_str().map(str::to_owned)).collect()
}

fn table(rows: &[Row]) -> String {
    let queries = rows.first().map_or(0, |row| row.measures.queries);
    let mut text = format!(
        "{queries} queries   R@1   R@2   R@5  R@10   MRR  nDCG@10   P50 µs  P90 µs  P99 µs   in the server\n"
    );
    for row in rows {
        let Measures {
            recall_at_1, recall_at_2, recall_at_5, recall_at_10, mrr, ndcg_at_10, ..
        } = row.measures;
        let percent = |share: f64| share * 100.0;
        let (client, server) = (row.client_latency, row.server_latency);
        let _infallible = writeln!(
            text,
            "{:11} {:5.1} {:5.1} {:5.1} {:5.1} {:5.1}    {:5.1}  {:7} {:7} {:7}   {} {} {}",
            row.way.name(),
            percent(recall_at_1),
            percent(recall_at_2),
            percent(recall_at_5),
            percent(recall_at_10),
            percent(mrr),
            percent(ndcg_at_10),
            client.p50_us,
            client.p90_us,
            client.p99_us,
            server.p50_us,
            server.p90_us,
            server.p99_us
        );
        if row.truncated > 0 {
            let _infallible =
                writeln!(text, "            {} answers were truncated", row.truncated);
        }
    }
    text
}
