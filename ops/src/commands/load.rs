//! `engram load`: stores the memories of a file.
//!
//! *Invariants*: what is reported as stored was acknowledged; lines are sent in the order of the
//! file over one connection, so that a later line of the same id wins.
//!
//! *Not here*: what a memory looks like (the server refuses what is none).

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::json;

use super::output;
use crate::arguments::Origins;
use crate::failure::{Failure, Status};
use crate::lines::Lines;
use crate::progress::Progress;
use crate::target::Target;

/// Refusals that are shown one by one.
const REFUSALS_SHOWN: u64 = 10;

/// Stores the memories of a file.
#[derive(Debug, Args)]
pub struct Load {
    /// File of memories: .ndjson, .ndjson.gz, .ndjson.zst, .bin as `export` writes it, or - for standard
    /// input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Pass over this many memories at the start of the file
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    skip: u64,
    /// When the server acknowledges
    #[arg(long, value_name = "WHEN", default_value = "durable")]
    wait: Wait,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// After it is on stable storage.
    Durable,
    /// After it is visible.
    Applied,
}

impl Wait {
    /// As the server calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Applied => "applied",
        }
    }
}

/// What the server says about one memory.
#[derive(Deserialize)]
struct Verdict {
    index: u64,
    status: u16,
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    pointer: String,
}

#[derive(Default)]
struct Tally {
    created: u64,
    replaced: u64,
    refused: u64,
}

impl Tally {
    fn count(&self) -> u64 {
        self.created + self.replaced + self.refused
    }

    fn take(&mut self, verdict: &Verdict, skipped: u64) {
        match verdict.status {
            201 => self.created += 1,
            200 => self.replaced += 1,
            _ => {
                self.refused += 1;
                if self.refused <= REFUSALS_SHOWN {
                    let Verdict { index, status, code, detail, pointer } = verdict;
                    let at = if pointer.is_empty() { "" } else { " at " };
                    let number = skipped + index + 1;
                    eprintln!("memory {number}{at}{pointer}: {status} {code}: {detail}");
                }
            }
        }
    }
}

impl Load {
    /// Loads.
    ///
    /// # Errors
    /// Where the file can't be read, the server can't be reached, or a memory was refused.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let mut lines = Lines::open(&self.file)?;
        let mut opened = self.target.open(origins)?;
        skip(&mut lines, self.skip)?;
        let position = lines.position();
        let path = format!("/api/v1/memories/batch?wait={}", self.wait.as_str());
        let mut progress = Progress::new("memories", self.quiet);
        let mut tally = Tally::default();
        let outcome = opened.client.stream(
            &path,
            |chunk| lines.append_next(chunk),
            |line| {
                let verdict: Verdict = serde_json::from_slice(line)
                    .map_err(Failure::because("a verdict is not what was expected"))?;
                tally.take(&verdict, self.skip);
                progress.show(tally.count(), position.share());
                Ok(())
            },
        );
        let took = progress.finish().as_secs_f64();
        let closed = opened.close();
        self.report(&tally, took, outcome.is_ok())?;
        outcome.map_err(|failure| self.with_restart(failure, &tally))?;
        closed?;
        match tally.refused {
            0 => Ok(()),
            refused => Err(Failure::new(format!("{refused} memories were refused"))),
        }
    }

    fn report(&self, tally: &Tally, took: f64, whole: bool) -> Result<(), Failure> {
        let stored = tally.created + tally.replaced;
        let rate = stored as f64 / took.max(1e-9);
        if self.json {
            let Tally { created, replaced, refused } = tally;
            return output::json(&json!({
                "created": created, "replaced": replaced, "refused": refused,
                "complete": whole, "seconds": took, "memories_per_second": rate,
            }));
        }
        if whole || stored > 0 {
            output::text_line(&format!(
                "stored {stored} memories ({} new, {} replaced) in {took:.2} s, {rate:.0}/s",
                tally.created, tally.replaced
            ))?;
        }
        Ok(())
    }

    fn with_restart(&self, failure: Failure, tally: &Tally) -> Failure {
        let done = self.skip + tally.count();
        if tally.count() == 0 || failure.status == Status::Usage {
            return failure;
        }
        failure.with_hint(format!("{done} memories are done: go on by --skip {done}"))
    }
}

fn skip(lines: &mut Lines, count: u64) -> Result<(), Failure> {
    let mut passed = Vec::new();
    for _ in 0..count {
        passed.clear();
        if !lines.append_next(&mut passed)? {
            break;
        }
    }
    Ok(())
}
