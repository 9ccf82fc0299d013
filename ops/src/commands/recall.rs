//! `engram recall`: what a cue brings to mind, and why.
//!
//! *Invariants*: what is not asked for is left to the server's defaults.
//!
//! *Not here*: how recall works (`engine`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::output;
use crate::arguments::Origins;
use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::target::Target;

/// Characters of a memory's content in a line of results, and in a step of a path.
const CONTENT_SHOWN: usize = 72;
const STEP_SHOWN: usize = 24;

/// Recalls.
#[derive(Debug, Args)]
pub struct Recall {
    /// The cue, in words
    #[arg(value_name = "TEXT", required_unless_present = "id")]
    text: Vec<String>,
    /// A memory as cue (more than one: repeat)
    #[arg(long, value_name = "ID")]
    id: Vec<String>,
    /// How many results
    #[arg(long, short = 'k', value_name = "COUNT")]
    top_k: Option<u32>,
    /// How far activation runs; 0: not at all
    #[arg(long, value_name = "COUNT")]
    max_hops: Option<u8>,
    /// Only links of this kind (more than one: repeat)
    #[arg(long, value_name = "KIND")]
    link_kind: Vec<String>,
    /// Only what this filter lets through (JSON)
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// No approximate index
    #[arg(long)]
    exact: bool,
    /// Show by which path each memory was reached, and where the time went
    #[arg(long)]
    explain: bool,
    /// The answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// The cues of a recall.
pub struct Cues<'a> {
    /// Words; empty: none.
    pub text: &'a str,
    /// Memories.
    pub ids: &'a [String],
}

impl Cues<'_> {
    /// As the server takes them.
    pub fn to_json(&self) -> Vec<Value> {
        let text = (!self.text.is_empty()).then(|| json!({"text": self.text}));
        text.into_iter().chain(self.ids.iter().map(|id| json!({"id": id}))).collect()
    }
}

impl Recall {
    /// Recalls.
    ///
    /// # Errors
    /// Where the server can't be reached or refuses.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let body = self.body()?;
        let mut opened = self.target.open(origins)?;
        let outcome = self.ask(&mut opened.client, &body);
        opened.close()?;
        let (answer, contents) = outcome?;
        if self.json {
            return output::json(&answer);
        }
        show_memories(&answer)?;
        if self.explain { output::text_as_it_is(&explained(&answer, &contents)) } else { Ok(()) }
    }

    fn body(&self) -> Result<Value, Failure> {
        let cues = Cues { text: &self.text.join(" "), ids: &self.id };
        let mut body = json!({"cues": cues.to_json()});
        let mut give = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        give("top_k", self.top_k.map(Value::from));
        give("max_hops", self.max_hops.map(Value::from));
        give("link_kinds", (!self.link_kind.is_empty()).then(|| json!(self.link_kind)));
        give("filter", json_argument("--filter", self.filter.as_deref())?);
        give("exact", self.exact.then_some(Value::Bool(true)));
        give("explain", self.explain.then_some(Value::Bool(true)));
        Ok(body)
    }

    /// The answer, and the contents of the memories on its paths.
    fn ask(
        &self,
        client: &mut Client,
        body: &Value,
    ) -> Result<(Value, BTreeMap<String, String>), Failure> {
        let answer: Value = client.post("/api/v1/recall", body)?.json()?;
        let mut contents = BTreeMap::new();
        if self.json || !self.explain {
            return Ok((answer, contents));
        }
        for memory in array(&answer, "memories") {
            contents.insert(text(memory, "id"), text(memory, "content"));
        }
        for step in array(&answer, "memories").iter().flat_map(|memory| array(memory, "path")) {
            let id = text(step, "id");
            if let Entry::Vacant(vacant) = contents.entry(id) {
                let path = format!("/api/v1/memories/{}", escaped(vacant.key()));
                vacant.insert(text(&client.get(&path)?.json()?, "content"));
            }
        }
        Ok((answer, contents))
    }
}

/// JSON that was given as an argument.
///
/// # Errors
/// Where it is none.
pub fn json_argument(flag: &str, given: Option<&str>) -> Result<Option<Value>, Failure> {
    let Some(given) = given else { return Ok(None) };
    serde_json::from_str(given)
        .map(Some)
        .map_err(|error| Failure::usage(format!("{flag} is no JSON")).with_source(error))
}

/// Shows what came back, best first.
///
/// # Errors
/// Where standard output can't be written.
pub fn show_memories(answer: &Value) -> Result<(), Failure> {
    let memories = array(answer, "memories");
    let width = memories.iter().map(|memory| text(memory, "id").chars().count()).max();
    let width = width.unwrap_or_default().min(24);
    let mut shown = String::new();
    for memory in memories {
        let score = memory["score"].as_f64().unwrap_or_default();
        let content = output::snippet(&text(memory, "content"), CONTENT_SHOWN);
        let _infallible = writeln!(shown, "{score:.3}  {:width$}  {content}", text(memory, "id"));
    }
    if memories.is_empty() {
        eprintln!("nothing comes to mind");
    }
    if answer["truncated"] == Value::Bool(true) {
        eprintln!("the answer is truncated: a budget of time or work was used up");
    }
    output::text_as_it_is(&shown)
}

fn explained(answer: &Value, contents: &BTreeMap<String, String>) -> String {
    let mut shown = String::from("\n");
    for memory in array(answer, "memories") {
        let part = |name: &str| memory["score_breakdown"][name].as_f64().unwrap_or_default();
        let _infallible = writeln!(
            shown,
            "{}: semantic {:.3}, lexical {:.3}, activation {:.3}, recency {:.3}, hops {}",
            text(memory, "id"),
            part("semantic"),
            part("lexical"),
            part("activation"),
            part("recency"),
            memory["hops"]
        );
        let path = array(memory, "path");
        if path.len() > 1 {
            let _infallible = writeln!(shown, "    {}", path_text(path, contents));
        }
    }
    shown.push_str(&work_text(answer));
    shown
}

fn work_text(answer: &Value) -> String {
    let time = |phase: &Value| format!("{} {} µs", text(phase, "name"), phase["took_us"]);
    let times: Vec<String> = array(answer, "phases").iter().map(time).collect();
    let visited = |part: &str| &answer["visited"][part];
    format!(
        "\n{} µs ({}); {} memories, {} links, {} shards, {} messages\n",
        answer["took_us"],
        times.join(", "),
        visited("memories"),
        visited("links"),
        visited("shards"),
        visited("messages")
    )
}

/// Memories by the first words of their content, with the links between them.
fn path_text(path: &[Value], contents: &BTreeMap<String, String>) -> String {
    let mut shown = String::new();
    for step in path {
        let id = text(step, "id");
        let content = contents.get(&id).map(String::as_str).unwrap_or_default();
        let name = content.split(['\n', ':']).next().unwrap_or_default();
        let name = if name.is_empty() { id } else { output::snippet(name, STEP_SHOWN) };
        shown.push_str(&name);
        if step["kind"].is_string() {
            let term = step["term"].as_str().map(|term| format!(" “{term}”")).unwrap_or_default();
            let weight = step["weight"].as_f64().unwrap_or_default();
            let _infallible = write!(shown, " ─{}{term} {weight:.2}→ ", text(step, "kind"));
        }
    }
    shown
}

fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
