//! `engram consolidate`: merges what says the same, prunes weak links and demotes what is little
//! present, or takes that back.
//!
//! *Invariants*: it ends when the run is over; a run that failed or was stopped is a failure.
//!
//! *Not here*: what a run does (`engram-engine`).

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::output;
use crate::arguments::Origins;
use crate::client::Client;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::target::Target;

/// Pause between two looks at a run.
const PAUSE: Duration = Duration::from_millis(200);
/// Merges, and as many memories that were demoted, that are shown to people; `--json` has all.
const SHOWN: usize = 20;

/// Consolidates a space.
#[derive(Debug, Args)]
pub struct Consolidate {
    /// Base level, 0 to 1, below which memories go to the cold tier, where --cold-url named one
    #[arg(long, value_name = "LEVEL", default_value = "0.3", value_parser = level)]
    threshold: f32,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Take back what this run did
    #[arg(long, value_name = "RUN", conflicts_with_all = ["dry_run", "list"])]
    undo: Option<String>,
    /// Show the runs that there were
    #[arg(long, conflicts_with = "dry_run")]
    list: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Consolidate {
    /// Consolidates, and waits until that is done.
    ///
    /// # Errors
    /// Where the server can't be reached, refuses, or the run does not come to its end.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let mut opened = self.target.open(origins)?;
        let outcome = self.perform(&mut opened.client);
        opened.close()?;
        let answer = outcome?;
        if self.json {
            output::json(&answer)?;
        } else if self.list {
            output::text_as_it_is(&list_text(&answer))?;
        } else {
            output::text_as_it_is(&text(&answer))?;
        }
        match answer["state"].as_str() {
            Some(state @ ("failed" | "stopped")) => Err(not_done(&answer, state)),
            _ => Ok(()),
        }
    }

    fn perform(&self, client: &mut Client) -> Result<Value, Failure> {
        if self.list {
            return client.get("/api/v1/consolidations")?.json();
        }
        let started: Value = match &self.undo {
            Some(run) => client.post(&format!("/api/v1/consolidations/{run}/undo"), &json!({})),
            None => {
                let body = json!({"threshold": self.threshold, "dry_run": self.dry_run});
                client.post("/api/v1/consolidations", &body)
            }
        }?
        .json()?;
        let id = started["id"].as_str().unwrap_or_default().to_owned();
        self.wait(client, &format!("/api/v1/consolidations/{id}"))
    }

    fn wait(&self, client: &mut Client, path: &str) -> Result<Value, Failure> {
        let mut progress = Progress::new("memories compared", self.quiet);
        loop {
            let run: Value = client.get(path)?.json()?;
            if !matches!(run["state"].as_str(), Some("running" | "undoing")) {
                progress.finish();
                return Ok(run);
            }
            progress.show(run["compared"].as_u64().unwrap_or_default(), run["progress"].as_f64());
            std::thread::sleep(PAUSE);
        }
    }
}

fn level(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(level) if (0.0..=1.0).contains(&level) => Ok(level),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

fn not_done(run: &Value, state: &str) -> Failure {
    let reason = run["reason"].as_str().map(|reason| format!(": {reason}"));
    let failure = Failure::new(format!("the run {state}{}", reason.unwrap_or_default()));
    failure.with_hint("what it did until then is whole: run it again, or take it back by --undo")
}

fn text(run: &Value) -> String {
    let count = |name: &str| run[name].as_u64().unwrap_or_default();
    let would = if run["dry_run"] == Value::Bool(true) { "would be " } else { "" };
    let mut text = format!(
        "run {}: {}\n{} memories compared, {} {would}merged, {} links {would}pruned, {} memories \
         {would}demoted\n",
        run["id"].as_str().unwrap_or_default(),
        run["state"].as_str().unwrap_or_default(),
        count("compared"),
        count("merged"),
        count("pruned"),
        count("demoted"),
    );
    let list = |name: &str| run[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let merges = list("merges");
    for merge in merges.iter().take(SHOWN) {
        let merged = merge["merged"].as_array().map(Vec::as_slice).unwrap_or_default();
        let merged: Vec<&str> = merged.iter().filter_map(Value::as_str).collect();
        let into = merge["into"].as_str().unwrap_or_default();
        text.push_str(&format!("  {into} <- {}\n", merged.join(", ")));
    }
    and_more(&mut text, merges.len());
    let demotions = list("demotions");
    for id in demotions.iter().take(SHOWN) {
        text.push_str(&format!("  {} -> cold\n", id.as_str().unwrap_or_default()));
    }
    and_more(&mut text, demotions.len());
    text
}

fn and_more(text: &mut String, count: usize) {
    if count > SHOWN {
        text.push_str(&format!("  and {} more (--json)\n", count - SHOWN));
    }
}

fn list_text(answer: &Value) -> String {
    let runs = answer["consolidations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    for run in runs {
        let word = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
        text.push_str(&format!(
            "{}  {}  {:8} {} merged, {} pruned, {} demoted\n",
            word("id"),
            word("started_at"),
            word("state"),
            run["merged"],
            run["pruned"],
            run["demoted"],
        ));
    }
    text
}
