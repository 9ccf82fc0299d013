//! How the machine dies, and how it starts again: from images or logs, and on another number of
//! shards now and then.
//!
//! *Invariants*: a start reads and writes at once, but the power may go in its midst, as often as
//! there are starts.
//!
//! *Not here*: what was durable when the power went (`disk`).

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::shard::{LogRoom, Shard, ShardConfig, ShardImage};
use engram_shards::disk::Disk;
use engram_shards::log::Log;
use engram_shards::recover::{Recovery, Step};
use engram_shards::segment::{SegmentHeader, segment_number};
use engram_shards::{
    Manifest, ShardsError, move_logs, read_or_make_manifest, shard_path, write_manifest,
};

use super::{Core, Happening, Machine};
use crate::plan::Planted;

/// The data directory.
const DATA: &str = "/data";
/// Numbers of shards that a machine is given.
const SHARDS: [u16; 6] = [1, 2, 3, 4, 5, 7];

/// A bit that changed by itself.
#[derive(Clone, Debug)]
pub(super) struct Rot {
    path: PathBuf,
    byte: usize,
    bit: u8,
}

/// How a start went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// From the logs alone.
    Logs,
    /// From images and what the logs say since.
    Images,
}

impl Machine {
    /// The process dies, by a power cut or alone: what is in memory and on its way is lost.
    pub fn crash(&mut self) {
        self.note(&[5, self.time_us]);
        self.rot = if self.plan.bit_rot { self.draw_rot() } else { None };
        self.cores.clear();
        self.replies.clear();
        self.last_arrival.clear();
        self.looks = 0;
        self.queue.clear();
        self.crash_cold();
        if self.random.permille(300) { self.disk.kill() } else { self.disk.cut() }
    }

    /// A directory that nobody has used yet.
    pub(super) fn make_directory(&mut self) -> Result<(), ShardsError> {
        self.disk.set_at_once(true);
        let made = at_once(write_manifest(&self.disk, Path::new(DATA), &self.manifest));
        self.disk.set_at_once(false);
        made
    }

    /// Starts from what is on the disk; the power may go again meanwhile.
    ///
    /// # Errors
    /// What recovery says.
    pub fn start(&mut self) -> Result<Started, ShardsError> {
        let started = loop {
            let reshards = self.starts > 0 && self.plan.reshards && self.random.permille(300);
            let shards = reshards.then(|| SHARDS[self.random.index(SHARDS.len())]);
            let fuse = self.starts > 0 && self.random.permille(if reshards { 500 } else { 200 });
            let calls = if reshards { 60 } else { 12 };
            self.disk.set_fuse(fuse.then(|| self.random.below(calls)));
            let started = self.start_once(shards);
            let is_blown = self.disk.is_blown();
            self.disk.set_fuse(None);
            match started {
                Err(_) if is_blown => self.disk.cut(),
                Err(error) => return Err(error),
                Ok(Some(started)) => break started,
                // An image was refused: none is used.
                Ok(None) => self.images = None,
            }
        };
        self.starts += 1;
        for me in 0..self.manifest.shards {
            let after = self.random.delay(200);
            self.schedule(after, Happening::Rise(me));
        }
        Ok(started)
    }

    /// Opens the directory and recovers every core; `None` where an image can't be used.
    fn start_once(&mut self, shards: Option<u16>) -> Result<Option<Started>, ShardsError> {
        self.cores.clear();
        self.disk.set_at_once(true);
        let recovered = self.open_directory(shards).and_then(|()| {
            let generation = self.manifest.generation;
            let usable = self.images.as_ref().is_some_and(|(of, _)| *of == generation);
            let from_images = usable && self.random.permille(800);
            let started = if from_images { Started::Images } else { Started::Logs };
            Ok(self.recover(from_images)?.then_some(started))
        });
        self.disk.set_at_once(false);
        recovered
    }

    /// Reads the manifest; moves everything to another number of shards where that is wanted.
    fn open_directory(&mut self, shards: Option<u16>) -> Result<(), ShardsError> {
        let (disk, data) = (self.disk.clone(), Path::new(DATA));
        let mut manifest = at_once(read_or_make_manifest(&disk, data, self.plan.shards))?;
        self.remove_strangers(&manifest)?;
        if let Some(shards) = shards.filter(|shards| *shards != manifest.shards) {
            let generation = manifest.generation + 1;
            let new = Manifest { shards, generation, ..manifest.clone() };
            let is_early = self.plan.planted == Some(Planted::ManifestTooEarly);
            if is_early {
                at_once(write_manifest(&disk, data, &new))?;
            }
            let sizes = (self.starts + 1, self.plan.segment_bytes);
            at_once(move_logs(&disk, data, (&manifest, &new), sizes, &mut |_| {}))?;
            if !is_early {
                at_once(write_manifest(&disk, data, &new))?;
            }
            self.remove_strangers(&new)?;
            self.reshardings += 1;
            manifest = new;
        }
        self.manifest = manifest;
        Ok(())
    }

    /// Removes what belongs to other generations.
    fn remove_strangers(&self, manifest: &Manifest) -> Result<(), ShardsError> {
        let ours = shard_path(Path::new(DATA), manifest.generation, 0);
        let ours = ours.parent().expect("a shard's folder is within its generation's");
        let is_strange = |path: &PathBuf| !path.starts_with(ours) && path.parent() != ours.parent();
        let strange = self.disk.names().into_iter().filter(is_strange);
        strange.into_iter().try_for_each(|path| at_once(self.disk.remove(&path)))
    }

    fn folder(&self, shard: u16) -> PathBuf {
        shard_path(Path::new(DATA), self.manifest.generation, shard)
    }

    /// Mends the bit that changed by itself; false where none did.
    pub fn mend_rot(&mut self) -> bool {
        let Some(Rot { path, byte, bit }) = self.rot.take() else { return false };
        self.disk.flip_bit(&path, byte, bit);
        true
    }

    /// Flips a bit of what was acknowledged and can be missed: not of the last batch of a log, which
    /// nothing tells from one that was torn.
    fn draw_rot(&mut self) -> Option<Rot> {
        let me = u16::try_from(self.random.index(self.cores.len())).expect("few cores");
        let (segment, before) = self.cores[usize::from(me)].missable?;
        let files = self.disk.files(&self.folder(me));
        let within = |path: &PathBuf| segment_number(path).is_some_and(|n| n <= segment);
        let files: Vec<PathBuf> = files.into_iter().filter(within).collect();
        let path = files.get(self.random.index(files.len().max(1)))?.clone();
        let bytes = if segment_number(&path) == Some(segment) { before } else { before.max(8192) };
        let byte = usize::try_from(self.random.below(bytes)).expect("segments are small here");
        let bit = u8::try_from(self.random.below(8)).expect("below 8");
        self.disk.flip_bit(&path, byte, bit);
        Some(Rot { path, byte, bit })
    }

    /// Recovers every core; false where an image can't be used.
    fn recover(&mut self, from_images: bool) -> Result<bool, ShardsError> {
        let images = if from_images { self.images.take() } else { None };
        let recovered = (0..self.manifest.shards).try_for_each(|me| {
            let image = images.as_ref().map(|(_, images)| &images[usize::from(me)][..]);
            self.cores.extend(at_once(self.recover_core(me, image))?);
            Ok(())
        });
        if from_images {
            self.images = images;
        }
        recovered.map(|()| self.cores.len() == usize::from(self.manifest.shards))
    }

    async fn recover_core(
        &self,
        me: u16,
        image: Option<&[u8]>,
    ) -> Result<Option<Core>, ShardsError> {
        let partitioner = Partitioner::new(self.manifest.secret, self.manifest.shards);
        let config =
            ShardConfig { me: ShardIx(me), partitioner, seed: 5, demotes: self.plan.has_cold };
        let header = SegmentHeader::first(&self.manifest, me, self.starts + 1);
        let (disk, folder) = (self.disk.of_core(me), self.folder(me));
        let mut recovery = Recovery::open(disk.clone(), &folder, header).await?;
        let (mut shard, mut is_first, mut next) = (Shard::new(config), true, None);
        if let Some(mut image) = image {
            let read = ShardImage::read(&mut image);
            let (mut header, image) = read.expect("an image that is not damaged reads back");
            if self.plan.planted == Some(Planted::ImageTooNew) {
                header.sequence += 1;
            }
            match recovery.seek(&header).await? {
                Ok(segment) => next = segment,
                Err(_) => return Ok(None),
            }
            shard = Shard::from_image(config, image);
        }
        if next.is_none() {
            next = recovery.next_segment().await?;
        }
        while let Some(mut segment) = next {
            if self.plan.planted == Some(Planted::RecordSkipped) && !is_first {
                segment.step_with(|_, _| Ok(()))?;
            }
            while segment.step(&mut shard)? == Step::Record {}
            is_first = false;
            recovery.segment_done(&segment).await?;
            next = recovery.next_segment().await?;
        }
        let start = recovery.finish().await?;
        let log = Rc::new(Log::new(disk, &folder, start, self.plan.segment_bytes));
        Ok(Some(Core {
            shard: Rc::new(RefCell::new(shard)),
            log,
            flush: None,
            reads: Vec::new(),
            readers: Rc::default(),
            compaction: None,
            is_moving: Rc::default(),
            pending: Default::default(),
            inbox: Default::default(),
            is_up: false,
            is_poisoned: false,
            room: LogRoom::Enough,
            is_frozen: false,
            works: false,
            ticks: false,
            missable: None,
        }))
    }
}

/// Runs what ends without waiting.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the disk answers at once"),
    }
}
