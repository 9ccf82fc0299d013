//! `engram restore`: makes a data directory from a snapshot.
//!
//! *Invariants*: it writes into an empty or new directory only; what does not fit its checksum is
//! refused by its name, and leaves no directory that a server would open.
//!
//! *Not here*: taking snapshots (`snapshot`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use engram_cold::{ColdUrl, Limits, Tier};
use engram_shards::{Copied, SnapshotError, SnapshotManifest, restore, snapshot_names, verify};
use serde_json::json;

use super::output;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::server::cold_folder;

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Restores a snapshot.
#[derive(Debug, Args)]
pub struct Restore {
    /// Name of the snapshot [default: the newest]
    #[arg(value_name = "SNAPSHOT")]
    name: Option<String>,
    /// Where snapshots are: file:///folder or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    from: ColdUrl,
    /// Empty or new directory that becomes the data directory
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    data_dir: Option<PathBuf>,
    /// Cold tier of the new directory [default: where the snapshot is for S3, else its folder cold]
    #[arg(long, value_name = "URL")]
    cold_url: Option<ColdUrl>,
    /// Only read the snapshot and check it
    #[arg(long, conflicts_with = "data_dir")]
    check: bool,
    /// Machine-readable output
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
}

impl Restore {
    /// Restores, or checks.
    ///
    /// # Errors
    /// Where the snapshot is not whole, or the directory is not empty.
    pub fn run(self) -> Result<(), Failure> {
        let from = tier(&self.from)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => newest(&from)?,
        };
        let manifest = SnapshotManifest::read(&from, &name).map_err(failed)?;
        let copied = Arc::new(Copied::default());
        let done = Arc::new(AtomicBool::new(false));
        let shown = show(copied.clone(), done.clone(), self.quiet);
        let outcome = self.work(&from, &manifest, &copied);
        done.store(true, Ordering::Relaxed);
        let took = shown.join().unwrap_or_default();
        outcome?;
        let bytes = manifest.raw_bytes();
        if self.json {
            return output::json(&json!({
                "name": name, "created_at": manifest.created_at, "bytes": bytes,
                "took_ms": took.as_millis() as u64, "checked": self.check,
            }));
        }
        let what = if self.check { "is whole" } else { "was restored" };
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        let seconds = took.as_secs_f64();
        output::text_line(&format!(
            "{name} of {} {what}: {mebibytes:.1} MiB in {seconds:.1} s",
            manifest.created_at
        ))
    }

    fn work(
        &self,
        from: &Tier,
        manifest: &SnapshotManifest,
        copied: &Copied,
    ) -> Result<(), Failure> {
        let Some(directory) = &self.data_dir else {
            return verify(from, manifest, copied).map_err(failed);
        };
        let url = match (&self.cold_url, &self.from) {
            (Some(url), _) => url.clone(),
            (None, ColdUrl::S3 { .. }) => self.from.clone(),
            (None, ColdUrl::File(_)) => cold_folder(directory),
        };
        restore(from, manifest, directory, &tier(&url)?, copied).map_err(failed)
    }
}

fn tier(url: &ColdUrl) -> Result<Tier, Failure> {
    let limits = Limits { patience: Duration::from_secs(60), ..Limits::default() };
    Tier::new(url.clone(), limits).map_err(Failure::because(format!("{url} can't be used")))
}

fn newest(tier: &Tier) -> Result<String, Failure> {
    let names = snapshot_names(tier).map_err(|error| failed(error.into()))?;
    let whole = names.into_iter().filter(|(_, whole)| *whole);
    let dated = whole.filter_map(|(name, _)| {
        let manifest = SnapshotManifest::read(tier, &name).ok()?;
        Some((manifest.created_at, name))
    });
    let newest = dated.max().map(|(_, name)| name);
    newest.ok_or_else(|| Failure::new(format!("there is no snapshot at {}", tier.url())))
}

fn failed(error: SnapshotError) -> Failure {
    let hint = match &error {
        SnapshotError::Damaged { .. } => Some("restore another snapshot: `engram snapshot --list`"),
        SnapshotError::NotEmpty(_) => Some("nothing was changed"),
        SnapshotError::Cold(_)
        | SnapshotError::Log(_)
        | SnapshotError::Exists(_)
        | SnapshotError::NotFound(_)
        | SnapshotError::Files(_) => None,
    };
    let failure = Failure::because("the snapshot can't be restored")(error);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn show(
    copied: Arc<Copied>,
    done: Arc<AtomicBool>,
    quiet: bool,
) -> std::thread::JoinHandle<Duration> {
    std::thread::spawn(move || {
        let mut progress = Progress::new("bytes", quiet);
        while !done.load(Ordering::Relaxed) {
            progress.show(copied.bytes(), Some(copied.share()));
            std::thread::sleep(POLL);
        }
        progress.finish()
    })
}
