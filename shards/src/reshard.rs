//! Another number of shards: every log is read, and its records go to the logs of a new generation.
//!
//! *Invariants*: the manifest names the old generation until the new one is whole and durable, then
//! the new one: a process that dies at any moment leaves one of the two; what belongs to neither is
//! removed by whoever opens the directory next.
//!
//! *Not here*: which record goes where (`engram_engine::redistribute`).

use std::fs;
use std::path::{Path, PathBuf};

use engram_engine::key::Partitioner;
use engram_engine::record::{Draft, View};
use engram_engine::redistribute::{Redistribution, Survey};
use futures_lite::future::block_on;

use crate::directory::{Manifest, generation_path, make_directory, shard_path, write_manifest};
use crate::disk::Disk;
use crate::error::ShardsError;
use crate::images::free_bytes;
use crate::log::{Log, LogPlace, LogStart};
use crate::plain::{self, PlainDisk};
use crate::recover::{Recovery, SegmentBytes, Step};
use crate::segment::{SEGMENT_BYTES, SegmentHeader};

/// Bytes that gather for the new logs before they are written.
const GATHERED_BYTES_MAX: usize = 4 << 20;

/// How far it has come, in segments; each is read twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Segments read.
    pub done: usize,
    /// Segments to be read.
    pub total: usize,
}

/// Moves everything to `shards` shards; the manifest that is in force then.
pub(crate) fn reshard(
    directory: &Path,
    old: &Manifest,
    shards: u16,
    nonce: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest, ShardsError> {
    assert!(shards > 0 && shards != old.shards, "there is another number to change to");
    let new = Manifest { shards, generation: old.generation + 1, ..old.clone() };
    remove_strangers(directory, old)?;
    check_room(directory, old, &new)?;
    for shard in 0..new.shards {
        make_directory(&shard_path(directory, new.generation, shard))?;
    }
    block_on(move_logs(&PlainDisk, directory, (old, &new), (nonce, SEGMENT_BYTES), progress))?;
    block_on(write_manifest(&PlainDisk, directory, &new))?;
    remove_strangers(directory, &new)?;
    Ok(new)
}

/// Removes the generations that a manifest does not name: given up, or moved away from.
pub(crate) fn remove_strangers(directory: &Path, manifest: &Manifest) -> Result<(), ShardsError> {
    let ours = generation_path(directory, manifest.generation);
    for entry in fs::read_dir(directory).map_err(ShardsError::io("list", directory))? {
        let path = entry.map_err(ShardsError::io("list", directory))?.path();
        let is_generation = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            let number = name.strip_prefix("generation-");
            number.is_some_and(|n| n.len() == 6 && n.bytes().all(|b| b.is_ascii_digit()))
        });
        if is_generation && path != ours {
            fs::remove_dir_all(&path).map_err(ShardsError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// The new generation is never larger than the old one, but for a segment begun in each shard.
fn check_room(directory: &Path, old: &Manifest, new: &Manifest) -> Result<(), ShardsError> {
    let mut wanted_bytes = u64::from(new.shards) * SEGMENT_BYTES;
    for shard in 0..old.shards {
        for path in plain::list(&shard_path(directory, old.generation, shard))? {
            wanted_bytes += plain::size(&path)?;
        }
    }
    let free_bytes = free_bytes(directory);
    if free_bytes < wanted_bytes {
        let path = generation_path(directory, new.generation);
        return Err(ShardsError::Room { path, wanted_bytes, free_bytes });
    }
    Ok(())
}

/// Moves what the logs of one generation hold to those of another, which nothing names yet, in
/// segments of at most `segment_bytes`. The folders of both are there, those of the new one empty.
///
/// # Errors
/// [`ShardsError`]; then the old generation is as it was.
pub async fn move_logs<D: Disk + Clone>(
    disk: &D,
    directory: &Path,
    (old, new): (&Manifest, &Manifest),
    (nonce, segment_bytes): (u64, u64),
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ShardsError> {
    let mut under_way = Move::begin(disk, directory, (old, new), (nonce, segment_bytes), progress);
    under_way.survey().await?;
    under_way.pass_on().await
}

struct Move<'a, D: Disk> {
    disk: &'a D,
    keys: Partitioner,
    old_folders: Vec<PathBuf>,
    old_header: SegmentHeader,
    redistribution: Redistribution,
    surveys: Vec<Survey>,
    targets: Vec<Target<D>>,
    progress: &'a mut dyn FnMut(Progress),
    done: usize,
    total: usize,
}

/// A log of the new generation.
struct Target<D: Disk> {
    log: Log<D>,
    sequence: u64,
    gathered: usize,
}

impl<'a, D: Disk + Clone> Move<'a, D> {
    fn begin(
        disk: &'a D,
        directory: &Path,
        (old, new): (&Manifest, &Manifest),
        (nonce, segment_bytes): (u64, u64),
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let keys = Partitioner::new(new.secret, new.shards);
        let target = |shard| {
            let folder = shard_path(directory, new.generation, shard);
            let start = LogStart {
                header: SegmentHeader::first(new, shard, nonce),
                last_sequence: 0,
                log_bytes: 0,
                last_place: LogPlace::default(),
                segments: Vec::new(),
            };
            let log = Log::new(disk.clone(), &folder, start, segment_bytes);
            Target { log, sequence: 0, gathered: 0 }
        };
        let folders = (0..old.shards).map(|s| shard_path(directory, old.generation, s));
        Self {
            disk,
            keys,
            old_folders: folders.collect(),
            old_header: SegmentHeader::first(old, 0, nonce),
            redistribution: Redistribution::new(keys),
            surveys: Vec::new(),
            targets: (0..new.shards).map(target).collect(),
            progress,
            done: 0,
            total: 0,
        }
    }

    /// Reads every log once, to know what its records still mean.
    async fn survey(&mut self) -> Result<(), ShardsError> {
        for shard in 0..self.old_folders.len() {
            let mut survey = Survey::default();
            let mut recovery = self.read_log(shard).await?;
            let mut segments = 0;
            while let Some(mut segment) = recovery.next_segment().await? {
                let (keys, redistribution) = (self.keys, &mut self.redistribution);
                let mut note = |view: &View<'_>| {
                    redistribution.note_space(view)?;
                    survey.note(view, &keys)
                };
                while segment.step_with(|view, _| note(view))? == Step::Record {}
                recovery.segment_done(&segment).await?;
                segments += 1;
            }
            self.surveys.push(survey);
            self.done += segments;
            self.total += 2 * segments;
        }
        (self.progress)(Progress { done: self.done, total: self.total });
        Ok(())
    }

    /// Reads every log again, and writes what still holds to the new ones.
    async fn pass_on(&mut self) -> Result<(), ShardsError> {
        let beginning = self.redistribution.beginning();
        for target in &mut self.targets {
            beginning.iter().for_each(|draft| target.append(draft));
        }
        for shard in 0..self.old_folders.len() {
            let mut recovery = self.read_log(shard).await?;
            while let Some(mut segment) = recovery.next_segment().await? {
                while self.pass_on_record(shard, &mut segment).await? == Step::Record {}
                recovery.segment_done(&segment).await?;
                self.done += 1;
                (self.progress)(Progress { done: self.done, total: self.total });
            }
        }
        for target in &mut self.targets {
            target.write_if(0).await?;
            target.log.close().await;
        }
        Ok(())
    }

    async fn pass_on_record(
        &mut self,
        shard: usize,
        segment: &mut SegmentBytes,
    ) -> Result<Step, ShardsError> {
        let mut passed = Vec::new();
        let step = segment.step_with(|view, _| {
            passed = self.redistribution.pass(view, &self.surveys[shard])?;
            Ok(())
        })?;
        for (to, draft) in passed {
            let target = &mut self.targets[to.index()];
            target.append(&draft);
            target.write_if(GATHERED_BYTES_MAX).await?;
        }
        Ok(step)
    }

    async fn read_log(&self, shard: usize) -> Result<Recovery<D>, ShardsError> {
        let number = u16::try_from(shard).expect("shards are numbered in 16 bits");
        let header = SegmentHeader { shard: number, ..self.old_header };
        Recovery::open(self.disk.clone(), &self.old_folders[shard], header).await
    }
}

impl<D: Disk> Target<D> {
    fn append(&mut self, draft: &Draft) {
        self.sequence += 1;
        self.gathered += draft.bytes();
        self.log.append(self.sequence, draft);
    }

    /// Writes what has gathered where it is more than so many bytes.
    async fn write_if(&mut self, bytes: usize) -> Result<(), ShardsError> {
        if self.gathered > bytes {
            while !self.log.is_flushed() {
                self.log.flush().await?;
            }
            self.gathered = 0;
        }
        Ok(())
    }
}
