//! `engram check`: reads a data directory whole, says what is not as it should be, and mends what it
//! can.
//!
//! *Invariants*: nothing is changed without `--repair`, and nothing is removed with it; the status is
//! 0 where everything is whole, or was mended.
//!
//! *Not here*: what is read, and how it is mended (`engram_shards`).

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use engram_cold::{ColdUrl, Limits, Tier};
use engram_shards::{CheckOptions, Checked, check};
use serde_json::{Value, json};

use super::output;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::server::cold_folder;

/// Checks a data directory.
#[derive(Debug, Args)]
pub struct Check {
    /// The data directory, which no server may hold
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Keep what is whole, and move aside what is not
    #[arg(long)]
    repair: bool,
    /// Where its images on tmpfs are, as `serve` has it
    #[arg(long, value_name = "DIR")]
    fast_dir: Option<PathBuf>,
    /// Its cold tier, as `serve` has it [default: its folder cold]
    #[arg(long, value_name = "URL")]
    cold_url: Option<ColdUrl>,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
}

impl Check {
    /// Reads, and mends where that is asked for.
    ///
    /// # Errors
    /// Where something acknowledged is damaged or missing, or the directory can't be read.
    pub fn run(self) -> Result<(), Failure> {
        let url = self.cold_url.clone().unwrap_or_else(|| cold_folder(&self.directory));
        let limits = Limits { patience: Duration::from_secs(60), ..Limits::default() };
        let cold = Tier::new(url.clone(), limits)
            .map_err(Failure::because(format!("{url} can't be used")))?;
        let options = CheckOptions {
            directory: &self.directory,
            fast: self.fast_dir.as_deref(),
            cold: Some(&cold),
            repair: self.repair,
        };
        let mut progress = Progress::new("bytes", self.quiet);
        let checked = check(&options, |done, total| {
            progress.show(done, Some(done as f64 / total.max(1) as f64));
        });
        progress.finish();
        let checked =
            checked.map_err(Failure::because("the directory can't be checked".to_owned()))?;
        if self.json {
            output::json(&view(&checked))?;
        } else {
            output::text_as_it_is(&text(&checked))?;
        }
        if checked.is_whole() || checked.mended {
            return Ok(());
        }
        let failure = Failure::new(format!("{} is damaged", self.directory.display()));
        Err(failure.with_hint(match self.repair {
            true => "restore what is named from a snapshot: `engram restore`",
            false => "restore a snapshot, or keep what is whole: `engram check --repair`",
        }))
    }
}

fn view(checked: &Checked) -> Value {
    let findings = checked.findings.iter().map(|finding| {
        json!({
            "file": finding.path, "offset": finding.offset, "what": finding.what,
            "harmless": finding.harmless,
        })
    });
    let missing = checked.missing.iter().map(
        |missing| json!({"shard": missing.shard, "first": missing.first, "last": missing.last}),
    );
    json!({
        "whole": checked.is_whole(),
        "mended": checked.mended,
        "segments": checked.segments,
        "log_bytes": checked.log_bytes,
        "records": checked.records,
        "memories": checked.memories,
        "forgotten_records": checked.forgotten_records,
        "forgotten_bytes": checked.forgotten_bytes,
        "images": checked.images,
        "cold_segments": checked.cold_segments,
        "findings": findings.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
        "moved_to": checked.moved_to,
    })
}

fn text(checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.findings {
        let file = finding.path.display();
        let (offset, what) = (finding.offset, &finding.what);
        let note = if finding.harmless { " (harmless)" } else { "" };
        text.push_str(&format!("{file}: byte {offset}: {what}{note}\n"));
    }
    for missing in &checked.missing {
        text.push_str(&format!(
            "shard {}: the records {} to {} are missing, as far as they were there\n",
            missing.shard, missing.first, missing.last
        ));
    }
    if let Some(aside) = &checked.moved_to {
        text.push_str(&format!("files that were not whole are in {}\n", aside.display()));
    }
    let verdict = match (checked.is_whole(), checked.mended) {
        (true, _) => "whole",
        (false, true) => "mended: what is left is whole",
        (false, false) => "damaged",
    };
    text.push_str(&format!(
        "{verdict}: {} memories, {} records in {} segments of {:.1} MiB, {} images, {} cold segments; \
         {} records of what was forgotten are on the disk ({} bytes)\n",
        checked.memories,
        checked.records,
        checked.segments,
        checked.log_bytes as f64 / f64::from(1 << 20),
        checked.images,
        checked.cold_segments,
        checked.forgotten_records,
        checked.forgotten_bytes,
    ));
    text
}
