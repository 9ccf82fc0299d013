//! `engram compact`: has a server take out of its log what nobody needs any more, now.
//!
//! *Invariants*: it ends when every shard has done so, or says why it does not.
//!
//! *Not here*: what is taken out (`engram_shards`).

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::output;
use crate::arguments::Origins;
use crate::client::Client;
use crate::failure::Failure;
use crate::target::Target;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Compacts the log.
#[derive(Debug, Args)]
pub struct Compact {
    /// Longest time to wait for it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    wait: u64,
    /// Show what the log holds, and compact nothing
    #[arg(long, conflicts_with = "wait")]
    status: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Compact {
    /// Has it done, and waits for it.
    ///
    /// # Errors
    /// Where the server can't be reached, refuses, or does not come to the end of it in time.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let mut opened = self.target.open(origins)?;
        let outcome = self.perform(&mut opened.client);
        opened.close()?;
        let (before, after) = outcome?;
        if self.json {
            return output::json(&after);
        }
        output::text_line(&line(&before, &after))
    }

    fn perform(&self, client: &mut Client) -> Result<(Value, Value), Failure> {
        let path = "/api/v1/compaction";
        let before: Value = client.get(path)?.json()?;
        if self.status {
            return Ok((before.clone(), before));
        }
        let begun = Instant::now();
        let _started: Value = client.post(path, &json!({}))?.json()?;
        loop {
            let after: Value = client.get(path)?.json()?;
            if after["state"] == "done" {
                return Ok((before, after));
            }
            if begun.elapsed() >= Duration::from_secs(self.wait) {
                let failure = Failure::new("the log is not compacted yet".to_owned());
                return Err(failure.with_hint(
                    "the server goes on with it; its log says so where something is in the way, \
                     such as a disk without room",
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn line(before: &Value, after: &Value) -> String {
    let count = |view: &Value, name: &str| view[name].as_u64().unwrap_or_default();
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let made = count(after, "compactions").saturating_sub(count(before, "compactions"));
    format!(
        "{made} segments were rewritten; the log has {} segments, {:.1} MiB (before: {:.1}), of which \
         {:.1} MiB are needed; {} segments are damaged",
        count(after, "segments"),
        mebibytes(count(after, "log_bytes")),
        mebibytes(count(before, "log_bytes")),
        mebibytes(count(after, "live_bytes")),
        count(after, "damaged_segments"),
    )
}
