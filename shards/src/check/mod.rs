//! Reading a whole data directory without changing it: every checksum, and what has to hold between
//! files.
//!
//! *Invariants*: nothing is written but by a repair, and nothing is removed by one; what is damaged
//! is reported with its place, and reading goes on behind it.
//!
//! *Not here*: how a log is mended (`repair`), snapshots in the cold tier (`snapshot`).

mod log;
mod repair;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use engram_cold::Tier;
use engram_engine::cold::{ColdSegmentId, segment};
use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::shard::{Shard, ShardConfig};

use crate::cold;
use crate::directory::{Manifest, read_manifest, shard_path, take_lock};
use crate::error::ShardsError;
use crate::images::ImageStore;
use crate::segment::SegmentHeader;
use log::LogCheck;
pub use log::Missing;

/// What is read.
#[derive(Debug)]
pub struct CheckOptions<'a> {
    /// The data directory.
    pub directory: &'a Path,
    /// Its images on tmpfs, where there are any.
    pub fast: Option<&'a Path>,
    /// Its cold tier; `None`: what lies there is not read.
    pub cold: Option<&'a Tier>,
    /// What is whole is kept, what is not is moved aside.
    pub repair: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What.
    pub what: String,
    /// Nothing that was acknowledged depends on it.
    pub harmless: bool,
}

/// What was read, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Segments of logs.
    pub segments: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Whole records in them.
    pub records: u64,
    /// Memories that a server would find.
    pub memories: u64,
    /// Records of memories that were deleted, replaced or have expired, and are on the disk.
    pub forgotten_records: u64,
    /// Their bytes.
    pub forgotten_bytes: u64,
    /// Images.
    pub images: u64,
    /// Cold segments that memories lie in.
    pub cold_segments: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// Records that are missing.
    pub missing: Vec<Missing>,
    /// Where files went that were not whole, once they were mended.
    pub moved_to: Option<PathBuf>,
    /// All that is left is whole.
    pub mended: bool,
}

impl Checked {
    /// Nothing that was acknowledged is missing or damaged.
    pub fn is_whole(&self) -> bool {
        self.findings.iter().all(|finding| finding.harmless)
    }

    fn find(&mut self, path: &Path, offset: u64, what: impl Into<String>) {
        let (path, what) = (path.to_owned(), what.into());
        self.findings.push(Finding { path, offset, what, harmless: false });
    }

    fn find_harmless(&mut self, path: &Path, what: impl Into<String>) {
        let (path, what) = (path.to_owned(), what.into());
        self.findings.push(Finding { path, offset: 0, what, harmless: true });
    }

    /// Several images may know of what is missing.
    fn miss(&mut self, missing: Missing) {
        let same =
            |known: &&mut Missing| (known.shard, known.first) == (missing.shard, missing.first);
        match self.missing.iter_mut().find(same) {
            Some(known) => known.last = known.last.max(missing.last),
            None => self.missing.push(missing),
        }
    }

    fn find_error(&mut self, error: ShardsError) {
        let what = match &error {
            ShardsError::Damaged { path, offset, reason } => {
                return self.find(&path.clone(), *offset, reason.clone());
            }
            other => other.to_string(),
        };
        self.find(Path::new(""), 0, what);
    }
}

/// Reads a directory that no server holds; `progress` hears of bytes of logs, done and in all.
///
/// # Errors
/// [`ShardsError::Held`] where a server runs on it; [`ShardsError`] where its manifest can't be used,
/// or a repair can't be written.
pub fn check(
    options: &CheckOptions<'_>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Checked, ShardsError> {
    let manifest = read_manifest(options.directory)?;
    let _lock = take_lock(options.directory)?;
    let checked = read_all(options, &manifest, options.repair, &mut progress)?;
    if checked.moved_to.is_none() {
        return Ok(checked);
    }
    // What is left has to be whole.
    let again = read_all(options, &manifest, false, &mut progress)?;
    Ok(Checked { mended: again.is_whole(), ..checked })
}

fn read_all(
    options: &CheckOptions<'_>,
    manifest: &Manifest,
    repair: bool,
    progress: &mut impl FnMut(u64, u64),
) -> Result<Checked, ShardsError> {
    let directory = options.directory;
    let mut checked = Checked::default();
    let total = log_bytes(directory, manifest);
    let aside = directory.join(format!("damaged-generation-{:06}", manifest.generation));
    let mut ends = Vec::with_capacity(usize::from(manifest.shards));
    let mut cold_use: BTreeMap<ColdSegmentId, u32> = BTreeMap::new();
    for me in 0..manifest.shards {
        let folder = shard_path(directory, manifest.generation, me);
        let partitioner = Partitioner::new(manifest.secret, manifest.shards);
        let mut shard = Shard::new(ShardConfig {
            me: ShardIx(me),
            partitioner,
            seed: manifest.secret[0],
            demotes: false,
        });
        // The log says itself what its nonce is.
        let expected = SegmentHeader::first(manifest, me, 0);
        let read = LogCheck::read(&folder, expected, &mut shard, &mut checked, |bytes| {
            progress(bytes, total);
        })?;
        read.count_forgotten(&shard, &mut checked)?;
        ends.push(read.last_sequence);
        checked.memories += shard.counts().memories;
        for (id, count) in shard.cold_use() {
            *cold_use.entry(id).or_default() += count;
        }
        if repair && read.needs_repair() {
            repair::mend(&folder, &aside.join(format!("shard-{me:04}")), &read)?;
            checked.moved_to = Some(aside.clone());
        }
    }
    for image in check_images(options, manifest, &ends, &mut checked) {
        if repair {
            repair::move_image(&image, &aside)?;
            checked.moved_to = Some(aside.clone());
        }
    }
    if let Some(tier) = options.cold {
        check_cold(directory, tier, &cold_use, &mut checked);
    }
    Ok(checked)
}

fn log_bytes(directory: &Path, manifest: &Manifest) -> u64 {
    let folders = (0..manifest.shards).map(|me| shard_path(directory, manifest.generation, me));
    let files = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    files.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// An image is a cache: one that is not whole is said, and a start does without it. What is in one is
/// in the log, too: where the log ends before it, it has lost what it had acknowledged. Images of
/// which that is so are returned.
fn check_images(
    options: &CheckOptions<'_>,
    manifest: &Manifest,
    ends: &[u64],
    checked: &mut Checked,
) -> Vec<PathBuf> {
    let store = ImageStore::new(options.directory, manifest, options.fast);
    let mut ahead = Vec::new();
    for candidate in store.candidates(manifest) {
        for (shard, end) in (0..manifest.shards).zip(ends) {
            checked.images += 1;
            let path = candidate.path(shard);
            match ImageStore::read(&candidate, shard, &AtomicU64::new(0)) {
                Ok((header, _)) if header.sequence > *end => {
                    let what = format!(
                        "the image has the records up to {}, but the log of shard {shard} ends with \
                         {end}: what was acknowledged is lost",
                        header.sequence
                    );
                    checked.find(&path, 0, what);
                    checked.miss(Missing { shard, first: end + 1, last: header.sequence });
                    ahead.push(path);
                }
                Ok(_) => {}
                Err(unsound) => {
                    let what = format!("{unsound}: a start does without this image");
                    checked.find_harmless(&path, what);
                }
            }
        }
    }
    ahead
}

/// What the logs name in the cold tier is there, and whole.
fn check_cold(
    directory: &Path,
    tier: &Tier,
    used: &BTreeMap<ColdSegmentId, u32>,
    checked: &mut Checked,
) {
    if used.is_empty() {
        return;
    }
    let listed = cold::store_of(directory).map(|store| cold::segments_folder(&store));
    let folder = match listed {
        Ok(folder) => folder,
        Err(error) => return checked.find_error(error),
    };
    let place = PathBuf::from(tier.url().to_string());
    let objects = match tier.list(&folder) {
        Ok(objects) => objects,
        Err(error) => return checked.find(&place, 0, format!("it can't be listed: {error}")),
    };
    let mut there: BTreeMap<ColdSegmentId, String> = BTreeMap::new();
    for object in objects {
        let name = object.name.strip_prefix(&folder).and_then(cold::segment_of);
        there.extend(name.map(|(id, _)| (id, object.name.clone())));
    }
    for (id, count) in used {
        checked.cold_segments += 1;
        let Some(name) = there.get(id) else {
            let what = format!("the cold segment {:016x} of {count} memories is not there", id.0);
            checked.find(&place, 0, what);
            continue;
        };
        let whole = tier.get(name).map_err(|error| error.to_string());
        let whole = whole.and_then(|bytes| segment::check(&bytes).map_err(|d| d.to_string()));
        if let Err(reason) = whole {
            checked.find(Path::new(name), 0, reason);
        }
    }
}
