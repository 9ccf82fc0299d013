//! A bit that flips anywhere in a small log is found, or stands where nothing is said; nothing that
//! was not written is ever read, and a repair keeps what is whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::model::{Link, LinkKind, MemoryId, SpaceConfig, SpaceName, Timestamp, Weight};
use engram_engine::record::{Contents, Damage, Kind, Put, SpaceNumber, View};
use engram_engine::shard::{Owner, Shard, ShardConfig, Verdict};
use engram_engine::space::LogAddress;
use engram_shards::compaction::{Keeper, rewrite};
use engram_shards::log::{Log, LogPlace, LogStart};
use engram_shards::recover::{Recovery, Step};
use engram_shards::segment::{BLOCK_BYTES, SegmentHeader};
use engram_shards::{CheckOptions, Directory, PlainDisk, ShardsError, check};
use futures_lite::future::block_on;

/// Small segments, so that a small log has several.
const SEGMENT_BYTES: u64 = 3 * BLOCK_BYTES as u64;
/// Records of a batch.
const BATCH: usize = 8;
const MEMORIES: usize = 24;

/// What a record says, by its sequence number.
type Records = BTreeMap<u64, (Kind, Vec<u8>, Vec<u8>)>;

struct Fixture {
    folder: tempfile::TempDir,
    log: PathBuf,
    header: SegmentHeader,
    shard: ShardConfig,
}

fn fixture() -> Fixture {
    // In memory where that can be: files are written again and again, and nothing is to survive.
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(root).expect("a temporary folder can be made");
    let directory = Directory::open(folder.path(), 1).expect("it is new");
    let manifest = directory.manifest().clone();
    let header = SegmentHeader::first(&manifest, 0, 3);
    let partitioner = Partitioner::new(manifest.secret, 1);
    let shard =
        ShardConfig { me: ShardIx(0), partitioner, seed: manifest.secret[0], demotes: false };
    let log = directory.shard_path(0);
    Fixture { folder, log, header, shard }
}

fn id(i: usize) -> MemoryId {
    MemoryId::new(&format!("m{i}")).expect("valid")
}

fn put(i: usize, version: i64) -> Contents {
    let link = Link {
        to: id((i + 1) % MEMORIES),
        weight: Weight::ONE,
        kind: LinkKind::new("cites").expect("valid"),
    };
    Contents::Put(Box::new(Put {
        space: SpaceNumber(0),
        id: id(i),
        content: Some(format!("what {i} is about in version {version}")),
        metadata: String::new(),
        confidence: None,
        created_at: Timestamp(1),
        arrived_at: Timestamp(1),
        updated_at: Timestamp(version),
        expires_at: None,
        links: vec![link],
        embedding: Some(vec![1.0, i as f32]),
    }))
}

fn contents() -> Vec<Contents> {
    let (name, at) = (SpaceName::default(), Timestamp(1));
    let config = SpaceConfig { dimensions: Some(2), ..SpaceConfig::default() };
    let mut contents = vec![Contents::PutSpace { space: SpaceNumber(0), at, name, config }];
    contents.extend((0..MEMORIES).map(|i| put(i, 10)));
    let delete = |i| Contents::Delete { space: SpaceNumber(0), at: Timestamp(20), id: id(i) };
    contents.extend((0..MEMORIES).step_by(4).map(delete));
    contents.extend((1..MEMORIES).step_by(3).filter(|i| i % 4 != 0).map(|i| put(i, 30)));
    contents
}

/// Writes a log of several segments.
async fn write(fixture: &Fixture, contents: &[Contents]) {
    let start = LogStart {
        header: fixture.header,
        last_sequence: 0,
        log_bytes: 0,
        last_place: LogPlace::default(),
        segments: Vec::new(),
    };
    let log = Log::new(PlainDisk, &fixture.log, start, SEGMENT_BYTES);
    for (sequence, contents) in (1..).zip(contents) {
        log.append(sequence, &contents.draft());
        if sequence % BATCH as u64 == 0 {
            log.flush().await.expect("the disk takes it");
        }
    }
    while !log.is_flushed() {
        log.flush().await.expect("the disk takes it");
    }
    log.close().await;
}

/// Every record that a start would replay.
fn read(fixture: &Fixture) -> Result<Records, ShardsError> {
    block_on(async {
        let mut records = Records::new();
        let mut recovery = Recovery::open(PlainDisk, &fixture.log, fixture.header).await?;
        while let Some(mut segment) = recovery.next_segment().await? {
            let mut shard = Shard::new(fixture.shard);
            while segment.step_with(|view, address| {
                shard.replay(view, address)?;
                let (head, tail) = (view.head.to_vec(), view.tail.to_vec());
                records.insert(view.header.sequence, (view.kind, head, tail));
                Ok(())
            })? == Step::Record
            {}
            recovery.segment_done(&segment).await?;
        }
        recovery.finish().await?;
        Ok(records)
    })
}

fn segments(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).expect("it is there").map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

fn restore(folder: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for path in fs::read_dir(folder).expect("it is there").map(|entry| entry.unwrap().path()) {
        if !files.iter().any(|(known, _)| *known == path) {
            fs::remove_file(path).unwrap();
        }
    }
    files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
}

/// Flips a bit of every byte.
fn flip_all(fixture: &Fixture, whole: &Records) {
    let files = segments(&fixture.log);
    let mut found = 0;
    for (number, (path, bytes)) in files.iter().enumerate() {
        let last = number + 1 == files.len();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(path, &flipped).unwrap();
            match read(fixture) {
                Err(_) => found += 1,
                Ok(records) => {
                    for (sequence, record) in &records {
                        assert_eq!(whole.get(sequence), Some(record), "{path:?} byte {at}");
                    }
                    // The last batch may be torn: it is only known by what is behind it.
                    let least = if last { whole.len() - BATCH } else { whole.len() };
                    assert!(records.len() >= least, "{path:?} byte {at}: {} left", records.len());
                }
            }
            restore(&fixture.log, &files);
        }
    }
    assert!(found > 2000, "{found} flips were found");
}

/// The shard as the log has it, and the log, which goes on.
fn opened(fixture: &Fixture) -> (Shard, Log<PlainDisk>) {
    let mut shard = Shard::new(fixture.shard);
    let start = block_on(async {
        let mut recovery = Recovery::open(PlainDisk, &fixture.log, fixture.header).await?;
        while let Some(mut segment) = recovery.next_segment().await? {
            while segment.step(&mut shard)? == Step::Record {}
            recovery.segment_done(&segment).await?;
        }
        recovery.finish().await
    });
    let start = start.expect("it is whole");
    (shard, Log::new(PlainDisk, &fixture.log, start, SEGMENT_BYTES))
}

/// Moves nothing: what was moved is only counted.
struct Judge {
    shard: Shard,
    moved: RefCell<Vec<(LogAddress, Option<LogAddress>)>>,
}

impl Keeper for Judge {
    fn verdict(&self, view: &View<'_>, address: LogAddress) -> Result<Verdict, Damage> {
        self.shard.verdict(view, address)
    }

    fn sequence(&self) -> u64 {
        self.shard.sequence()
    }

    async fn rest(&self) {}

    async fn pay(&self, _: usize) {}

    async fn begin_move(&self, horizon: u64) -> bool {
        assert!(horizon <= self.shard.sequence());
        true
    }

    fn moved(&self, from: LogAddress, to: Option<(Owner, LogAddress)>) {
        self.moved.borrow_mut().push((from, to.map(|(_, to)| to)));
    }

    fn end_move(&self) {}

    async fn wait_for_readers(&self) {}
}

#[test]
fn a_flipped_bit_anywhere_in_a_log_is_found_or_says_nothing() {
    let fixture = fixture();
    block_on(write(&fixture, &contents()));
    let whole = read(&fixture).expect("it is whole");
    assert_eq!(whole.len(), contents().len());
    assert!(segments(&fixture.log).len() >= 3);
    flip_all(&fixture, &whole);
}

/// A batch before which its segment has none was taken for one more than it was, and for torn where
/// one alone lay behind it: the start went on without what both had acknowledged.
#[test]
fn a_flipped_bit_in_the_first_of_two_batches_is_damage() {
    let fixture = fixture();
    block_on(write(&fixture, &contents()[..2 * BATCH]));
    let whole = read(&fixture).expect("it is whole");
    let files = segments(&fixture.log);
    let [(path, bytes)] = &files[..] else { panic!("{} segments", files.len()) };
    assert_eq!((bytes.len(), whole.len()), (3 * BLOCK_BYTES, 2 * BATCH));
    for at in BLOCK_BYTES..2 * BLOCK_BYTES {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(path, &flipped).unwrap();
        match read(&fixture) {
            Err(_) => {}
            Ok(records) => assert_eq!(records, whole, "byte {at}"),
        }
        restore(&fixture.log, &files);
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_compacted_log_is_found_or_says_nothing() {
    let fixture = fixture();
    block_on(write(&fixture, &contents()));
    let (shard, log) = opened(&fixture);
    let before = memories(&shard);
    let judge = Judge { shard, moved: RefCell::default() };
    block_on(async {
        let sealed = log.sealed();
        assert!(sealed.len() >= 2, "several segments become one");
        let rewritten = rewrite(&log, &sealed, &judge).await.expect("the disk takes it");
        assert_eq!(rewritten.expect("nobody stops it").file.header.segment, 1);
        // Whoever knows where a record lies now reads it there.
        let moved: Vec<_> = judge.moved.borrow().iter().filter_map(|(_, to)| *to).collect();
        for to in moved {
            let bytes = log.read(to, to.head_bytes as usize + to.tail_bytes as usize).await;
            View::read(&bytes.expect("it can be read")).expect("it is whole");
        }
        log.close().await;
    });
    let whole = read(&fixture).expect("it is whole");
    assert!(whole.len() < contents().len(), "{} records are left", whole.len());
    assert_eq!(before, memories(&opened(&fixture).0));
    flip_all(&fixture, &whole);
}

/// What the shard holds: memories, links, and newest records.
fn memories(shard: &Shard) -> String {
    let (mut so_far, mut count) = (Default::default(), 0);
    while shard.live_records(&mut so_far, 7, |_| count += 1) {}
    let counts = shard.counts();
    format!("{count} {} {}", counts.memories, counts.links)
}

#[test]
fn what_is_whole_of_a_damaged_log_is_kept_by_a_repair() {
    let fixture = fixture();
    block_on(write(&fixture, &contents()));
    let whole = read(&fixture).expect("it is whole");
    let files = segments(&fixture.log);
    let options =
        |repair| CheckOptions { directory: fixture.folder.path(), fast: None, cold: None, repair };
    let sound = check(&options(false), |_, _| {}).expect("it can be read");
    assert!(sound.is_whole() && sound.findings.is_empty(), "{:?}", sound.findings);
    assert!(sound.forgotten_records > 0);
    let mut repaired = 0;
    let damage: Vec<(usize, Option<usize>)> = (0..files.len())
        .flat_map(|file| {
            let bytes = files[file].1.len();
            (0..bytes).step_by(61).map(Some).chain([None]).map(move |at| (file, at))
        })
        .collect();
    for (file, at) in damage {
        let (path, bytes) = &files[file];
        match at {
            Some(at) => {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x10;
                fs::write(path, flipped).unwrap();
            }
            None => fs::remove_file(path).unwrap(),
        }
        let what = format!("{path:?} {at:?}");
        let found = check(&options(false), |_, _| {}).expect("it can be read");
        let mended = check(&options(true), |_, _| {}).expect("it can be mended");
        assert_eq!(found.is_whole(), mended.is_whole(), "{what}");
        // The last segment is not known to have been there.
        let unknown = at.is_none() && file + 1 == files.len();
        if !found.is_whole() {
            assert!(mended.mended, "{what}: {:?}", mended.findings);
            repaired += 1;
        } else if !unknown {
            read(&fixture).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let left = read(&fixture).unwrap_or_else(|error| panic!("{what}: {error}"));
        for (sequence, record) in &left {
            assert_eq!(whole.get(sequence), Some(record), "{what}");
        }
        let lost: u64 = mended.missing.iter().map(|m| m.last - m.first + 1).sum();
        let least = whole.len() as u64 - lost;
        assert!(
            unknown || left.len() as u64 + BATCH as u64 >= least,
            "{what}: {} of {least}",
            left.len()
        );
        if at.is_some() {
            assert!(
                left.len() + BATCH >= whole.len(),
                "{what}: one flip loses one record or a batch"
            );
        }
        restore(&fixture.log, &files);
        for entry in fs::read_dir(fixture.folder.path()).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().starts_with("damaged-") {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }
    assert!(repaired > 60, "{repaired} were repaired");
}
