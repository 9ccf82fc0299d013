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
use engram_engine::record::{Damage, Draft, View};
use engram_engine::redistribute::{Redistribution, Survey};
use futures_lite::future::block_on;

use crate::directory::{Manifest, generation_path, make_directory, shard_path, write_manifest};
use crate::error::ShardsError;
use crate::images::free_bytes;
use crate::log::{Log, LogPlace, LogStart};
use crate::plain::{self, PlainDisk};
use crate::recover::{Recovery, Step};
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
    let mut move_under_way = Move::begin(directory, old, &new, nonce, progress)?;
    move_under_way.survey()?;
    move_under_way.pass_on()?;
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

struct Move<'a> {
    keys: Partitioner,
    old_folders: Vec<PathBuf>,
    old_header: SegmentHeader,
    redistribution: Redistribution,
    surveys: Vec<Survey>,
    targets: Vec<Target>,
    progress: &'a mut dyn FnMut(Progress),
    done: usize,
    total: usize,
}

/// A log of the new generation.
struct Target {
    log: Log<PlainDisk>,
    sequence: u64,
    gathered: usize,
}

impl<'a> Move<'a> {
    fn begin(
        directory: &Path,
        old: &Manifest,
        new: &Manifest,
        nonce: u64,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, ShardsError> {
        let keys = Partitioner::new(new.secret, new.shards);
        let mut targets = Vec::new();
        for shard in 0..new.shards {
            let folder = shard_path(directory, new.generation, shard);
            make_directory(&folder)?;
            let start = LogStart {
                header: SegmentHeader::first(new, shard, nonce),
                last_sequence: 0,
                log_bytes: 0,
                last_place: LogPlace::default(),
                segments: Vec::new(),
            };
            let log = Log::new(PlainDisk, &folder, start, SEGMENT_BYTES);
            targets.push(Target { log, sequence: 0, gathered: 0 });
        }
        let folders = (0..old.shards).map(|s| shard_path(directory, old.generation, s));
        let redistribution = Redistribution::new(keys);
        Ok(Self {
            keys,
            old_folders: folders.collect(),
            old_header: SegmentHeader::first(old, 0, nonce),
            redistribution,
            surveys: Vec::new(),
            targets,
            progress,
            done: 0,
            total: 0,
        })
    }

    /// Reads every log once, to know what its records still mean.
    fn survey(&mut self) -> Result<(), ShardsError> {
        for shard in 0..self.old_folders.len() {
            let mut survey = Survey::default();
            let (keys, redistribution) = (self.keys, &mut self.redistribution);
            let mut segments = 0;
            read_log(&self.old_folders[shard], self.old_header, shard, &mut |read| match read {
                Read::Record(view) => {
                    redistribution.note_space(view)?;
                    survey.note(view, &keys)
                }
                Read::Segment => {
                    segments += 1;
                    Ok(())
                }
            })?;
            self.surveys.push(survey);
            self.done += segments;
            self.total += 2 * segments;
        }
        (self.progress)(Progress { done: self.done, total: self.total });
        Ok(())
    }

    /// Reads every log again, and writes what still holds to the new ones.
    fn pass_on(&mut self) -> Result<(), ShardsError> {
        let beginning = self.redistribution.beginning();
        for target in &mut self.targets {
            beginning.iter().for_each(|draft| target.append(draft));
        }
        for shard in 0..self.old_folders.len() {
            let Self { redistribution, surveys, targets, progress, done, total, .. } = self;
            let mut failed = None;
            read_log(&self.old_folders[shard], self.old_header, shard, &mut |read| {
                match read {
                    Read::Record(view) => {
                        for (to, draft) in redistribution.pass(view, &surveys[shard])? {
                            if failed.is_some() {
                                break;
                            }
                            let target = &mut targets[to.index()];
                            target.append(&draft);
                            failed = target.write_if(GATHERED_BYTES_MAX).err();
                        }
                    }
                    Read::Segment => {
                        *done += 1;
                        progress(Progress { done: *done, total: *total });
                    }
                }
                Ok(())
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        for target in &mut self.targets {
            target.write_if(0)?;
            block_on(target.log.close());
        }
        Ok(())
    }
}

impl Target {
    fn append(&mut self, draft: &Draft) {
        self.sequence += 1;
        self.gathered += draft.bytes();
        self.log.append(self.sequence, draft);
    }

    /// Writes what has gathered where it is more than so many bytes.
    fn write_if(&mut self, bytes: usize) -> Result<(), ShardsError> {
        if self.gathered > bytes {
            while !self.log.is_flushed() {
                block_on(self.log.flush())?;
            }
            self.gathered = 0;
        }
        Ok(())
    }
}

enum Read<'a> {
    Record(&'a View<'a>),
    /// A segment is over.
    Segment,
}

fn read_log(
    folder: &Path,
    header: SegmentHeader,
    shard: usize,
    each: &mut dyn FnMut(Read<'_>) -> Result<(), Damage>,
) -> Result<(), ShardsError> {
    let shard = u16::try_from(shard).expect("shards are numbered in 16 bits");
    let header = SegmentHeader { shard, ..header };
    block_on(async {
        let mut recovery = Recovery::open(PlainDisk, folder, header).await?;
        while let Some(mut segment) = recovery.next_segment().await? {
            while segment.step_with(|view, _| each(Read::Record(view)))? == Step::Record {}
            recovery.segment_done(&segment).await?;
            each(Read::Segment).map_err(|damage| segment.damaged(&damage))?;
        }
        Ok(())
    })
}
