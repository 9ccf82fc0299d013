//! Segments of a log as a start finds them: no bytes panic, and what was whole is replayed whole.
//!
//! The input makes a log of up to three segments out of records with contents of its own, whose
//! headers and checksums fit; then it may damage the files. Where it does not, each record comes
//! back; where it does, recovery says so or finds a beginning of what was there.
//!
//! *Not here*: what a record says (`record`), a disk that lies (the simulator of `shards`).
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::record::{Contents, Draft, Kind, Stamp};
use engram_engine::shard::{Shard, ShardConfig};
use engram_shards::ShardsError;
use engram_shards::disk::Disk;
use engram_shards::recover::{Recovery, Step};
use engram_shards::segment::{BLOCK_BYTES, Compacted, SegmentHeader, segment_path};
use futures_lite::future::block_on;
use libfuzzer_sys::fuzz_target;

const FOLDER: &str = "log";

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    header_reads_back(bytes);
    let mut input = Input(bytes);
    let (files, records) = match choice % 4 {
        0 => (one_file(bytes), None),
        damage => {
            let (mut files, records) = log(&mut input);
            if damage > 1 {
                spoil(&mut files, &mut input);
            }
            (files, (damage == 1).then_some(records))
        }
    };
    let replayed = recover(files);
    if let Some(records) = records {
        assert_eq!(replayed.expect("a log that nobody touched is whole"), records);
    }
});

fn header_reads_back(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::read(bytes) {
        let again = SegmentHeader::read(&header.block());
        assert_eq!(again.map(|again| again.epoch()), Ok(header.epoch()));
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }
}

fn header(segment: u32, first_sequence: u64, first_batch: u32) -> SegmentHeader {
    SegmentHeader {
        directory: 1,
        shard: 0,
        generation: 1,
        segment,
        first_sequence,
        first_batch,
        nonce: 7,
        compacted: None,
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The input as the only segment, behind a header that fits.
fn one_file(bytes: &[u8]) -> Files {
    let file = [&header(1, 1, 1).block()[..], bytes].concat();
    BTreeMap::from([(segment_path(Path::new(FOLDER), 1), file)])
}

/// Segments of batches of records, and how many records there are.
fn log(input: &mut Input<'_>) -> (Files, u64) {
    let mut files = BTreeMap::new();
    let (mut sequence, mut batch) = (0, 0);
    let (mut records, segments) = (0, 1 + u32::from(input.byte() % 3));
    for segment in 1..=segments {
        let mut header = header(segment, sequence + 1, batch + 1);
        let compacted = input.byte() % 4 == 0;
        let mut body = Vec::new();
        let mut count = 0;
        for _ in 0..1 + input.byte() % 3 {
            batch += 1;
            for _ in 0..1 + input.byte() % 3 {
                let Some(draft) = draft(input) else { continue };
                // What compaction took out leaves gaps.
                sequence += 1 + if compacted { u64::from(input.byte() % 4) } else { 0 };
                draft.write(Stamp { sequence, batch, epoch: header.epoch() }, &mut body);
                count += 1;
            }
            body.resize(body.len().next_multiple_of(BLOCK_BYTES), 0);
        }
        if compacted {
            sequence += u64::from(input.byte() % 4);
            let whole =
                Compacted { edition: 1, end_sequence: sequence, horizon: sequence, records: count };
            header.compacted = Some(whole);
        }
        records += u64::from(count);
        let path = segment_path(Path::new(FOLDER), segment);
        files.insert(path, [&header.block()[..], &body].concat());
    }
    (files, records)
}

/// A record whose contents are the input's, as far as they can be read.
fn draft(input: &mut Input<'_>) -> Option<Draft> {
    let kind = Kind::ALL[usize::from(input.byte()) % Kind::ALL.len()];
    let (head_bytes, tail_bytes) = (usize::from(input.byte()), usize::from(input.byte() % 64));
    let (head, tail) = (input.take(head_bytes), input.take(tail_bytes));
    Contents::read(kind, head, tail).ok().map(|contents| contents.draft())
}

fn spoil(files: &mut Files, input: &mut Input<'_>) {
    while !input.0.is_empty() {
        let count = files.len().max(1);
        let chosen = usize::from(input.byte()) % count;
        let Some((path, bytes)) = files.iter_mut().nth(chosen) else { return };
        let path = path.clone();
        let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
        let at = at % bytes.len().max(1);
        match input.byte() % 6 {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << (input.byte() % 8),
            2 => bytes.truncate(at),
            3 => bytes.extend_from_slice(&[input.byte(); 5000]),
            4 => drop(files.remove(&path)),
            _ => bytes.truncate(at.next_multiple_of(BLOCK_BYTES)),
        }
    }
}

/// Replays a log into a shard; how many records there were.
fn recover(files: Files) -> Result<u64, ShardsError> {
    let disk = Memory(Rc::new(RefCell::new(files)));
    let config = ShardConfig {
        me: ShardIx(0),
        partitioner: Partitioner::new([7, 11], 1),
        seed: 5,
        demotes: true,
    };
    let mut shard = Shard::new(config);
    let mut records = 0;
    block_on(async {
        let mut recovery = Recovery::open(disk, Path::new(FOLDER), header(1, 1, 1)).await?;
        while let Some(mut segment) = recovery.next_segment().await? {
            let count = |records: &mut u64| *records += 1;
            while segment.step_with(|view, address| {
                count(&mut records);
                shard.replay(view, address)
            })? == Step::Record
            {}
            recovery.segment_done(&segment).await?;
        }
        recovery.finish().await.map(drop)
    })?;
    Ok(records)
}

/// Files in memory, as far as recovery asks for them.
#[derive(Clone)]
struct Memory(Rc<RefCell<Files>>);

impl Disk for Memory {
    type File = ();
    type Held = ();

    async fn list(&self, _: &Path) -> Result<Vec<PathBuf>, ShardsError> {
        Ok(self.0.borrow().keys().cloned().collect())
    }

    async fn create(&self, _: &Path, _: u64) -> Result<(), ShardsError> {
        unreachable!("recovery makes no files")
    }

    async fn open(&self, _: &Path) -> Result<(), ShardsError> {
        unreachable!("recovery loads whole files")
    }

    async fn write(&self, (): &(), _: u64, _: &[u8]) -> Result<(), ShardsError> {
        unreachable!("recovery writes nothing")
    }

    async fn sync(&self, (): &()) -> Result<(), ShardsError> {
        unreachable!("recovery writes nothing")
    }

    async fn read(&self, (): &(), _: u64, _: usize) -> Result<Rc<[u8]>, ShardsError> {
        unreachable!("recovery loads whole files")
    }

    async fn close(&self, (): ()) {}

    async fn hold(&self, _: &Path) -> Result<(), ShardsError> {
        Ok(())
    }

    async fn load(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, ShardsError> {
        let mut bytes = self.0.borrow()[path].clone();
        bytes.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    async fn size(&self, path: &Path) -> Result<u64, ShardsError> {
        Ok(self.0.borrow()[path].len() as u64)
    }

    async fn truncate(&self, path: &Path, bytes: u64) -> Result<(), ShardsError> {
        self.0.borrow_mut().entry(path.to_owned()).or_default().truncate(bytes as usize);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), ShardsError> {
        self.0.borrow_mut().remove(path);
        Ok(())
    }

    async fn rename(&self, _: &Path, _: &Path) -> Result<(), ShardsError> {
        unreachable!("recovery renames nothing")
    }

    async fn sync_directory(&self, _: &Path) -> Result<(), ShardsError> {
        Ok(())
    }
}
