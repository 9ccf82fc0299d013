//! `engram query`: counts memories, or searches them without spreading.
//!
//! *Invariants*: a count is exact.
//!
//! *Not here*: spreading activation (`recall`).

use clap::Args;
use serde_json::{Value, json};

use super::output;
use super::recall::{Cues, json_argument, show_memories};
use crate::arguments::Origins;
use crate::failure::Failure;
use crate::target::Target;

/// Counts memories, or searches them.
#[derive(Debug, Args)]
pub struct Query {
    /// What to search for
    #[arg(value_name = "TEXT", required_unless_present = "count")]
    text: Vec<String>,
    /// Count instead of searching
    #[arg(long, conflicts_with = "text")]
    count: bool,
    /// Only what this filter lets through (JSON)
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// How many results
    #[arg(long, short = 'k', value_name = "COUNT", default_value_t = 10)]
    top_k: u32,
    /// The answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Query {
    /// Counts or searches.
    ///
    /// # Errors
    /// Where the server can't be reached or refuses.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let filter = json_argument("--filter", self.filter.as_deref())?;
        let (path, body) = self.request(filter);
        let mut opened = self.target.open(origins)?;
        let outcome = opened.client.post(path, &body).and_then(|reply| reply.json());
        opened.close()?;
        let answer: Value = outcome?;
        match (self.json, self.count) {
            (true, _) => output::json(&answer),
            (false, true) => output::text_line(&answer["count"].to_string()),
            (false, false) => show_memories(&answer),
        }
    }

    fn request(&self, filter: Option<Value>) -> (&'static str, Value) {
        let (path, mut body) = if self.count {
            ("/api/v1/count", json!({}))
        } else {
            let cues = Cues { text: &self.text.join(" "), ids: &[] }.to_json();
            let body = json!({"cues": cues, "top_k": self.top_k, "max_hops": 0, "names": false});
            ("/api/v1/recall", body)
        };
        if let Some(filter) = filter {
            body["filter"] = filter;
        }
        (path, body)
    }
}
