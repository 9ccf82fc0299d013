//! `engram snapshot`: takes a snapshot into the cold tier, verifies it, and keeps so many.
//!
//! *Invariants*: older snapshots are removed only after the new one is whole, and verified where
//! that was asked for.
//!
//! *Not here*: how it is taken (`engram_shards`), restoring (`restore`).

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::output;
use crate::arguments::Origins;
use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::target::Target;

/// How often the server is asked how far it has come.
const POLL: Duration = Duration::from_millis(200);

/// Takes a snapshot.
#[derive(Debug, Args)]
pub struct Snapshot {
    /// Name of the snapshot [default: made from the time]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Remove the oldest until so many are left
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keep: Option<u32>,
    /// Read all of it back before older ones are removed
    #[arg(long)]
    verify: bool,
    /// Show the snapshots that there are, and take none
    #[arg(long, conflicts_with_all = ["name", "keep", "verify"])]
    list: bool,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    target: Target,
}

impl Snapshot {
    /// Takes one, or lists them.
    ///
    /// # Errors
    /// Where the server can't be reached, or the snapshot fails.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let mut opened = self.target.open(origins)?;
        let outcome = match self.list {
            true => self.show_all(&mut opened.client),
            false => self.take(&mut opened.client),
        };
        let closed = opened.close();
        outcome.and(closed)
    }

    fn show_all(&self, client: &mut Client) -> Result<(), Failure> {
        let answer: Value = client.get("/api/v1/snapshots")?.json()?;
        if self.json {
            return output::json(&answer);
        }
        let snapshots = answer["snapshots"].as_array().map(Vec::as_slice).unwrap_or_default();
        snapshots.iter().try_for_each(|snapshot| output::text_line(&line(snapshot)))
    }

    fn take(&self, client: &mut Client) -> Result<(), Failure> {
        let wanted = json!({"name": self.name, "keep": self.keep, "verify": self.verify});
        let started: Value = client.post("/api/v1/snapshots", &wanted)?.json()?;
        let name = started["name"].as_str().unwrap_or_default().to_owned();
        let path = format!("/api/v1/snapshots/{}", escaped(&name));
        let mut progress = Progress::new("bytes", self.quiet);
        let done = loop {
            let view: Value = client.get(&path)?.json()?;
            match view["state"].as_str() {
                Some("done") => break view,
                Some("copying" | "verifying") => {
                    let bytes = view["bytes"].as_u64().unwrap_or(0);
                    progress.show(bytes, view["progress"].as_f64());
                }
                _ => {
                    let why = view["error"].as_str().unwrap_or("the server does not say why");
                    return Err(Failure::new(format!("the snapshot {name} failed: {why}")));
                }
            }
            std::thread::sleep(POLL);
        };
        progress.finish();
        if self.json { output::json(&done) } else { output::text_line(&line(&done)) }
    }
}

fn line(view: &Value) -> String {
    let text = |field: &str| view[field].as_str().unwrap_or_default().to_owned();
    let mebibytes = |field: &str| view[field].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
    let verified = if view["verified"] == true { ", verified" } else { "" };
    let removed = view["removed"].as_array().map_or(0, Vec::len);
    let removed = if removed > 0 { format!(", {removed} older removed") } else { String::new() };
    let (name, state) = (text("name"), text("state"));
    let error = text("error");
    if !error.is_empty() {
        return format!("{name}  {state}: {error}");
    }
    let (raw, stored) = (mebibytes("bytes"), mebibytes("stored_bytes"));
    let created_at = text("created_at");
    format!("{name}  {state}  {created_at}  {raw:.1} MiB, {stored:.1} stored{verified}{removed}")
}
