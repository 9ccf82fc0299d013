//! What a log writes, and what it does on a disk that is full for a while.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use engram_engine::life::Lived;
use engram_engine::record::Contents;
use engram_shards::disk::Disk;
use engram_shards::log::{Log, LogPlace, LogStart};
use engram_shards::recover::{Recovery, Step};
use engram_shards::segment::{BLOCK_BYTES, SegmentHeader};
use engram_shards::{PlainDisk, ShardsError};
use futures_lite::future::block_on;

const SEGMENT_BYTES: u64 = 4 * BLOCK_BYTES as u64;

/// A disk that makes no files while it is full, and knows what was written where.
#[derive(Clone, Default)]
struct Filling {
    full: Rc<Cell<bool>>,
    writes: Rc<RefCell<Vec<(u64, usize)>>>,
}

impl Disk for Filling {
    type File = <PlainDisk as Disk>::File;
    type Held = <PlainDisk as Disk>::Held;

    async fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, ShardsError> {
        PlainDisk.list(folder).await
    }
    async fn create(&self, path: &Path, bytes: u64) -> Result<Self::File, ShardsError> {
        let file = PlainDisk.create(path, bytes).await?;
        if self.full.get() {
            // As it is with a real one: the file is there, and the room is not.
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(ShardsError::Io { what: "allocate", path: path.to_owned(), source });
        }
        Ok(file)
    }
    async fn open(&self, path: &Path) -> Result<Self::File, ShardsError> {
        PlainDisk.open(path).await
    }
    async fn write(&self, file: &Self::File, at: u64, bytes: &[u8]) -> Result<(), ShardsError> {
        self.writes.borrow_mut().push((at, bytes.len()));
        PlainDisk.write(file, at, bytes).await
    }
    async fn sync(&self, file: &Self::File) -> Result<(), ShardsError> {
        PlainDisk.sync(file).await
    }
    async fn read(&self, file: &Self::File, at: u64, n: usize) -> Result<Rc<[u8]>, ShardsError> {
        PlainDisk.read(file, at, n).await
    }
    async fn close(&self, file: Self::File) {
        PlainDisk.close(file).await;
    }
    async fn hold(&self, path: &Path) -> Result<Self::Held, ShardsError> {
        PlainDisk.hold(path).await
    }
    async fn load(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, ShardsError> {
        PlainDisk.load(path, bytes_max).await
    }
    async fn size(&self, path: &Path) -> Result<u64, ShardsError> {
        PlainDisk.size(path).await
    }
    async fn truncate(&self, path: &Path, bytes: u64) -> Result<(), ShardsError> {
        PlainDisk.truncate(path, bytes).await
    }
    async fn remove(&self, path: &Path) -> Result<(), ShardsError> {
        PlainDisk.remove(path).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), ShardsError> {
        PlainDisk.rename(from, to).await
    }
    async fn sync_directory(&self, folder: &Path) -> Result<(), ShardsError> {
        PlainDisk.sync_directory(folder).await
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        directory: 5,
        shard: 0,
        generation: 1,
        segment: 1,
        first_sequence: 1,
        first_batch: 0,
        nonce: 3,
        compacted: None,
    }
}

fn start() -> LogStart {
    LogStart {
        header: header(),
        last_sequence: 0,
        log_bytes: 0,
        last_place: LogPlace::default(),
        segments: Vec::new(),
    }
}

/// An fdatasync waits for the journal where blocks are written for the first time.
#[test]
fn small_batches_are_written_over_zeros() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let disk = Filling::default();
    block_on(async {
        let log = Log::new(disk.clone(), folder.path(), start(), 32 << 20);
        let draft = Contents::Lived(Lived(7)).draft();
        let mut sequence = 0;
        let mut writes_of = async |records: u64| {
            for _ in 0..records {
                sequence += 1;
                log.append(sequence, &draft);
            }
            disk.writes.borrow_mut().clear();
            log.flush().await.expect("there is room");
            disk.writes.borrow().clone()
        };
        let (block, zeros) = (BLOCK_BYTES, 512 << 10);
        let at = |blocks: usize| (blocks * block) as u64;
        // Behind the header of the segment.
        let first = writes_of(1).await;
        assert_eq!(first[first.len() - 2..], [(at(1), block), (at(2), zeros)]);
        let zeroed = zeros / block;
        for place in 2..2 + zeroed {
            assert_eq!(writes_of(1).await, [(at(place), block)]);
        }
        let next = 2 + zeroed;
        assert_eq!(writes_of(1).await, [(at(next), block), (at(next + 1), zeros)]);
        // A large batch that goes beyond what is there.
        let large = writes_of(20_000).await;
        assert!(large.len() == 2 && large[1].1 < zeros, "two parts and no zeros: {large:?}");
        assert_eq!(large[0], (at(next + 1), zeros));
    });
}

#[test]
fn a_log_goes_on_where_it_was_when_a_full_disk_has_room_again() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let disk = Filling::default();
    let written = block_on(async {
        let log = Log::new(disk.clone(), folder.path(), start(), SEGMENT_BYTES);
        let draft = Contents::Lived(Lived(7)).draft();
        let mut sequence = 0;
        let mut append = || {
            sequence += 1;
            log.append(sequence, &draft);
            sequence
        };
        log.keep_spare().await.expect("there is room");
        append();
        log.flush().await.expect("there is room");
        log.keep_spare().await.expect("there is room");
        disk.full.set(true);
        // All of the open segment and of the one that was set aside is left.
        let mut taken = 0;
        let refused = loop {
            let sequence = append();
            match log.flush().await {
                Ok(flushed) => assert_eq!(flushed.sequence, sequence),
                Err(error) => break error,
            }
            taken += 1;
            let kept = log.keep_spare().await;
            assert_eq!(kept.is_ok(), taken < 3, "until the one that was set aside is in use");
        };
        assert!(matches!(refused, ShardsError::Room { .. }), "{refused}");
        assert_eq!(taken, 5, "two segments of three batches each, but for the first");
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 2, "nothing is left of the segment that found no room");
        for _ in 0..3 {
            append();
            assert!(matches!(log.flush().await, Err(ShardsError::Room { .. })));
        }
        disk.full.set(false);
        while !log.is_flushed() {
            log.flush().await.expect("there is room again");
        }
        log.keep_spare().await.expect("there is room");
        log.close().await;
        sequence
    });
    let mut replayed = 0;
    block_on(async {
        let recovery = Recovery::open(PlainDisk, folder.path(), header()).await;
        let mut recovery = recovery.expect("it is whole");
        while let Some(mut segment) = recovery.next_segment().await.expect("it can be read") {
            loop {
                let step = segment.step_with(|view, _| {
                    replayed += 1;
                    assert_eq!(view.header.sequence, replayed);
                    Ok(())
                });
                if step.expect("it is whole") == Step::End {
                    break;
                }
            }
            recovery.segment_done(&segment).await.expect("it can be cut");
        }
    });
    assert_eq!(replayed, written);
}
