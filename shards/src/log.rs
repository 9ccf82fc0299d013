//! The log of one shard: records gather in memory while the batch before them is written and
//! synced.
//!
//! *Invariants*: batches are written in order, one at a time; a batch starts at a block boundary
//! and no block is ever written again, but over zeros; a batch is durable after its fdatasync; the first error is
//! final, and nothing is retried after it, but a write for which the disk had no room: of its batch
//! nothing was synced, and the same bytes go to the same place; a segment is never read at an address
//! of another edition.
//!
//! *Not here*: what a record says (`engram_engine::record`), reading at start-up (`recover`), how
//! bytes get to a disk (`disk`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use engram_engine::record::{Draft, Kind, Stamp};
use engram_engine::space::{EDITIONS_TOLD_APART, LogAddress};

use crate::disk::Disk;
use crate::error::ShardsError;
use crate::notify::Notify;
use crate::segment::{BLOCK_BYTES, SegmentHeader, segment_path};

/// Most bytes of one write.
const WRITE_BYTES_MAX: usize = 512 << 10;
/// Zeros that are written ahead of a small batch, in one go, and the largest batch that is small.
///
/// A file system notes in its journal which blocks of the room that was set aside are written for
/// the first time, and each fdatasync waits for that; over zeros it has nothing to note. A large
/// batch has more to write than zeros would save.
const ZEROS_AHEAD_BYTES: u64 = 512 << 10;
const SMALL_BATCH_BYTES: usize = 16 << 10;
/// A batch that is this large takes no further records.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Records that are written and synced together.
#[derive(Clone)]
struct Batch {
    segment: u32,
    number: u32,
    offset: u64,
    bytes: Rc<Vec<u8>>,
    last_sequence: u64,
}

/// What the log starts from.
#[derive(Clone, Debug)]
pub struct LogStart {
    /// Header of the segments, but for what changes from one to the next.
    pub header: SegmentHeader,
    /// Sequence number of the last record there is.
    pub last_sequence: u64,
    /// Bytes of all segments there are.
    pub log_bytes: u64,
    /// Where this record lies.
    pub last_place: LogPlace,
    /// All segments there are.
    pub segments: Vec<SegmentFile>,
}

/// A segment on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Its header.
    pub header: SegmentHeader,
    /// Bytes up to its last record, in blocks.
    pub bytes: u64,
}

impl SegmentFile {
    /// How often it was compacted.
    pub fn edition(&self) -> u32 {
        self.header.compacted.map_or(0, |compacted| compacted.edition)
    }
}

/// The end of what is durable, as an image names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPlace {
    /// The segment that holds the last record; 0: there is none.
    pub segment: u32,
    /// Of this segment.
    pub nonce: u64,
    /// Sum of [`SegmentHeader::layout`] over all segments.
    pub layout: u64,
}

/// What one flush did.
#[derive(Clone, Copy, Debug)]
pub struct Flushed {
    /// Every record up to this one is durable.
    pub sequence: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// The log of one shard.
pub struct Log<D: Disk> {
    disk: D,
    folder: PathBuf,
    segment_bytes: u64,
    header: SegmentHeader,
    batches: RefCell<VecDeque<Batch>>,
    next: RefCell<NextRecord>,
    open: RefCell<Option<(u32, D::File)>>,
    /// The segment behind the open one, whose room is set aside.
    spare: RefCell<Option<(u32, D::File)>>,
    segments: RefCell<BTreeMap<u32, SegmentFile>>,
    /// Segments that are open for reading, by number and edition modulo 8, as addresses have it.
    readers: RefCell<HashMap<(u32, u32), D::File>>,
    /// Newest records of memories that were appended to the open segment, and to which one.
    stored: Cell<(u32, u64)>,
    /// Up to where a segment has zeros that were written.
    zeroed: Cell<(u32, u64)>,
    appended: Notify,
    flushing: Cell<bool>,
    log_bytes: Cell<u64>,
    last_place: Cell<LogPlace>,
    durable: Cell<Durable>,
}

/// How far a log is on stable storage.
#[derive(Clone, Copy, Debug)]
pub struct Durable {
    /// Every record up to this one is.
    pub sequence: u64,
    /// The last segment with such records; earlier ones are whole.
    pub segment: u32,
    /// Where they end in it.
    pub end: u64,
}

struct NextRecord {
    segment: u32,
    batch: u32,
    offset: u64,
    sequence: u64,
    first_sequence: HashMap<u32, (u64, u32)>,
}

impl<D: Disk> Log<D> {
    /// A log that goes on behind what is in `folder`, in a segment of its own; segments have at
    /// most `segment_bytes` bytes.
    pub fn new(disk: D, folder: &Path, start: LogStart, segment_bytes: u64) -> Self {
        let next = NextRecord {
            segment: start.header.segment,
            batch: start.header.first_batch,
            offset: BLOCK_BYTES as u64,
            sequence: start.last_sequence + 1,
            first_sequence: HashMap::new(),
        };
        Self {
            disk,
            folder: folder.to_owned(),
            segment_bytes,
            header: start.header,
            batches: RefCell::default(),
            next: RefCell::new(next),
            open: RefCell::default(),
            spare: RefCell::default(),
            segments: RefCell::new(
                start.segments.iter().map(|file| (file.header.segment, *file)).collect(),
            ),
            readers: RefCell::default(),
            stored: Cell::default(),
            zeroed: Cell::new((0, 0)),
            appended: Notify::default(),
            flushing: Cell::new(false),
            log_bytes: Cell::new(start.log_bytes),
            last_place: Cell::new(start.last_place),
            durable: Cell::new(Durable {
                sequence: start.last_sequence,
                segment: start.header.segment - 1,
                end: u64::MAX,
            }),
        }
    }

    /// How far it is on stable storage.
    pub fn durable(&self) -> Durable {
        self.durable.get()
    }

    /// Where its segments are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.log_bytes.get()
    }

    /// Bytes of records that are not yet durable.
    pub fn waiting_bytes(&self) -> u64 {
        self.batches.borrow().iter().map(|batch| batch.bytes.len() as u64).sum()
    }

    /// Where the last durable record lies.
    pub fn place(&self) -> LogPlace {
        self.last_place.get()
    }

    /// Puts a record behind those that were appended before; where it will lie.
    pub fn append(&self, sequence: u64, draft: &Draft) -> LogAddress {
        let mut next = self.next.borrow_mut();
        assert!(sequence == next.sequence, "records are numbered without a gap");
        let mut batches = self.batches.borrow_mut();
        let in_flight = usize::from(self.flushing.get());
        let batch =
            gathering(&mut batches, &mut next, draft.bytes(), in_flight, self.segment_bytes);
        let segment = SegmentHeader { segment: batch.segment, ..self.header };
        let stamp = Stamp { sequence, batch: batch.number, epoch: segment.epoch() };
        let offset = batch.offset + batch.bytes.len() as u64;
        draft.write(stamp, Rc::make_mut(&mut batch.bytes));
        batch.last_sequence = sequence;
        next.sequence += 1;
        next.offset =
            (batch.offset + batch.bytes.len() as u64).next_multiple_of(BLOCK_BYTES as u64);
        self.appended.notify();
        if let Kind::Put | Kind::Demote = draft.kind {
            let (segment, count) = self.stored.get();
            let before = if segment == batch.segment { count } else { 0 };
            self.stored.set((batch.segment, before + 1));
        }
        let lengths = (draft.head.len(), draft.tail.len());
        LogAddress::new(batch.segment, 0, offset as usize, lengths)
    }

    /// The segment that is written, and how many memories were stored in it.
    pub fn stored(&self) -> (u32, u64) {
        self.stored.get()
    }

    /// The next record begins a segment, so that those before it can be compacted.
    pub fn seal(&self) {
        let mut next = self.next.borrow_mut();
        if next.offset > BLOCK_BYTES as u64 {
            next.segment += 1;
            next.offset = BLOCK_BYTES as u64;
        }
    }

    /// A record that was appended and is not yet on disk.
    pub fn unwritten(&self, address: LogAddress, bytes: usize) -> Option<Rc<[u8]>> {
        let batches = self.batches.borrow();
        let offset = address.at();
        let holds = |batch: &&Batch| {
            batch.segment == address.segment
                && (batch.offset..batch.offset + batch.bytes.len() as u64).contains(&offset)
        };
        let batch = batches.iter().find(holds)?;
        let start = (offset - batch.offset) as usize;
        batch.bytes.get(start..start + bytes).map(Rc::from)
    }

    /// Waits until there is something to flush.
    pub async fn wait_for_records(&self) {
        while self.batches.borrow().is_empty() {
            self.appended.wait().await;
        }
    }

    /// Nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.batches.borrow().is_empty()
    }

    /// Writes and syncs the oldest batch.
    ///
    /// # Errors
    /// [`ShardsError::Room`] where the disk has no room for it: it can be tried again.
    /// [`ShardsError::Io`]; the log must not be used after that.
    pub async fn flush(&self) -> Result<Flushed, ShardsError> {
        // Where there is no room it stays set: what is appended meanwhile is another batch.
        self.flushing.set(true);
        let batch = self.oldest();
        let file = self.segment_file(batch.segment).await?;
        let mut at = batch.offset;
        for part in batch.bytes.chunks(WRITE_BYTES_MAX) {
            let written = self.disk.write(&file, at, part).await;
            written.map_err(|error| self.or_room(batch.segment, error))?;
            at += part.len() as u64;
        }
        self.write_zeros_ahead(&file, &batch, at).await?;
        self.disk.sync(&file).await?;
        self.batches.borrow_mut().pop_front();
        self.flushing.set(false);
        let bytes = batch.bytes.len() as u64;
        self.log_bytes.set(self.log_bytes.get() + bytes);
        let place = LogPlace { segment: batch.segment, nonce: self.header.nonce, ..self.place() };
        self.last_place.set(place);
        if let Some(file) = self.segments.borrow_mut().get_mut(&batch.segment) {
            file.bytes = batch.offset + bytes;
        }
        let (sequence, segment) = (batch.last_sequence, batch.segment);
        self.durable.set(Durable { sequence, segment, end: batch.offset + bytes });
        Ok(Flushed { sequence: batch.last_sequence, bytes })
    }

    /// Writes zeros behind a small batch that ends at `end`, unless they are there.
    async fn write_zeros_ahead(
        &self,
        file: &D::File,
        batch: &Batch,
        end: u64,
    ) -> Result<(), ShardsError> {
        let (segment, zeroed) = self.zeroed.get();
        let is_within = segment == batch.segment && end <= zeroed;
        let upto = (end + ZEROS_AHEAD_BYTES).min(self.segment_bytes);
        if is_within || batch.bytes.len() > SMALL_BATCH_BYTES || upto <= end {
            return Ok(());
        }
        let zeros = vec![0; (upto - end) as usize];
        let written = self.disk.write(file, end, &zeros).await;
        written.map_err(|error| self.or_room(batch.segment, error))?;
        self.zeroed.set((batch.segment, upto));
        Ok(())
    }

    /// Closes every file, which lets go of the segments; room that was set aside is given back.
    pub async fn close(&self) {
        let spare = self.spare.borrow_mut().take();
        if let Some((number, file)) = spare {
            self.disk.close(file).await;
            // A start removes what is left of it.
            let _ = self.disk.remove(&segment_path(&self.folder, number)).await;
        }
        let open = self.open.borrow_mut().take().map(|(_, file)| file);
        let readers: Vec<_> = self.readers.borrow_mut().drain().map(|(_, file)| file).collect();
        for file in open.into_iter().chain(readers) {
            self.disk.close(file).await;
        }
    }

    /// The oldest batch, padded to whole blocks; it stays in the queue until it is durable, so that
    /// its records can be read.
    fn oldest(&self) -> Batch {
        let mut batches = self.batches.borrow_mut();
        let batch = batches.front_mut().expect("the caller waited for a batch");
        let padded = batch.bytes.len().next_multiple_of(BLOCK_BYTES);
        Rc::make_mut(&mut batch.bytes).resize(padded, 0);
        batch.clone()
    }

    /// The file of the segment that is written, made where it is new.
    async fn segment_file(&self, segment: u32) -> Result<D::File, ShardsError> {
        if let Some((number, file)) = &*self.open.borrow()
            && *number == segment
        {
            return Ok(file.clone());
        }
        let (first_sequence, first_batch) = self.next.borrow().first_sequence[&segment];
        let header = SegmentHeader { segment, first_sequence, first_batch, ..self.header };
        let file = self.create_segment(&header).await?;
        *self.open.borrow_mut() = Some((segment, file.clone()));
        self.next.borrow_mut().first_sequence.remove(&segment);
        Ok(file)
    }

    async fn create_segment(&self, header: &SegmentHeader) -> Result<D::File, ShardsError> {
        self.set_aside(header.segment).await?;
        let spare = self.spare.borrow().clone();
        let (number, file) = spare.expect("it was just set aside");
        assert!(number == header.segment, "segments are numbered without a gap");
        let written = self.disk.write(&file, 0, &header.block()).await;
        written.map_err(|error| self.or_room(header.segment, error))?;
        self.disk.sync(&file).await?;
        self.disk.sync_directory(&self.folder).await?;
        *self.spare.borrow_mut() = None;
        self.log_bytes.set(self.log_bytes.get() + BLOCK_BYTES as u64);
        let segment = SegmentFile { header: *header, bytes: BLOCK_BYTES as u64 };
        self.segments.borrow_mut().insert(header.segment, segment);
        Ok(file)
    }

    /// Sets room aside for the next segment, unless that was done: when the disk is full, there is
    /// still all of one segment for what frees something.
    ///
    /// # Errors
    /// [`ShardsError::Room`] where there is none, and [`ShardsError::Io`].
    pub async fn keep_spare(&self) -> Result<(), ShardsError> {
        let open = self.open.borrow().as_ref().map(|(number, _)| *number);
        self.set_aside(open.map_or(self.header.segment, |number| number + 1)).await
    }

    /// Makes the file of a segment, with room for all of it, unless it is there.
    async fn set_aside(&self, segment: u32) -> Result<(), ShardsError> {
        if self.spare.borrow().is_some() {
            return Ok(());
        }
        let path = segment_path(&self.folder, segment);
        match self.disk.create(&path, self.segment_bytes).await {
            Ok(file) => *self.spare.borrow_mut() = Some((segment, file)),
            Err(error) => {
                let error = self.or_room(segment, error);
                if let ShardsError::Room { .. } = error {
                    // What there was room for goes, unless it did not come to be.
                    let _ = self.disk.remove(&path).await;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tells a disk without room from one that fails.
    fn or_room(&self, segment: u32, error: ShardsError) -> ShardsError {
        if !error.is_for_want_of_room() {
            return error;
        }
        let path = segment_path(&self.folder, segment);
        let free_bytes = crate::images::free_bytes(&self.folder);
        ShardsError::Room { path, wanted_bytes: self.segment_bytes, free_bytes }
    }

    /// The segments behind which others were written durably, and the sequence number of the first
    /// record behind each.
    pub fn sealed(&self) -> Vec<(SegmentFile, u64)> {
        let open = self.durable().segment;
        let segments = self.segments.borrow();
        let files = segments.range(..=open).map(|(_, file)| *file);
        let behind = files.clone().skip(1).map(|file| file.header.first_sequence);
        files.zip(behind).collect()
    }

    /// The disk that it is on.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Keeps a segment open for reading as it is, whatever happens to its name.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub async fn pin(&self, file: &SegmentFile) -> Result<D::File, ShardsError> {
        let key = (file.header.segment, file.edition() % EDITIONS_TOLD_APART);
        self.reader(key).await
    }

    /// A segment was replaced by another edition of it, which holds what `gone` held, too.
    pub fn replaced(&self, by: SegmentFile, gone: &[u32]) {
        let mut segments = self.segments.borrow_mut();
        let before = segments.insert(by.header.segment, by);
        let gone = gone.iter().map(|number| segments.remove(number));
        let before: Vec<SegmentFile> = before.into_iter().chain(gone.flatten()).collect();
        let layouts = before.iter().map(|file| file.header.layout());
        let layout = layouts.fold(self.place().layout, u64::wrapping_sub);
        let layout = layout.wrapping_add(by.header.layout());
        self.last_place.set(LogPlace { layout, ..self.place() });
        let bytes: u64 = before.iter().map(|file| file.bytes).sum();
        self.log_bytes.set((self.log_bytes.get() + by.bytes).saturating_sub(bytes));
    }

    /// Nobody reads these editions of segments any more.
    pub async fn unpin(&self, files: &[SegmentFile]) {
        for file in files {
            let key = (file.header.segment, file.edition() % EDITIONS_TOLD_APART);
            let reader = self.readers.borrow_mut().remove(&key);
            if let Some(reader) = reader {
                self.disk.close(reader).await;
            }
        }
    }

    /// Reads bytes of a record that is on disk.
    ///
    /// # Errors
    /// [`ShardsError::Io`].
    pub async fn read(&self, address: LogAddress, bytes: usize) -> Result<Rc<[u8]>, ShardsError> {
        let file = self.reader((address.segment, address.edition())).await?;
        self.disk.read(&file, address.at(), bytes).await
    }

    async fn reader(&self, key: (u32, u32)) -> Result<D::File, ShardsError> {
        let known = self.readers.borrow().get(&key).cloned();
        if let Some(file) = known {
            return Ok(file);
        }
        let path = segment_path(&self.folder, key.0);
        if !self.is_on_disk(key) {
            let moved = std::io::Error::other("the record was moved while it was read");
            return Err(ShardsError::io("read", &path)(moved));
        }
        let file = self.disk.open(&path).await?;
        // Whoever replaces a segment has pinned it before.
        let pinned = self.readers.borrow().get(&key).cloned();
        if let Some(pinned) = pinned {
            self.disk.close(file).await;
            return Ok(pinned);
        }
        self.readers.borrow_mut().insert(key, file.clone());
        Ok(file)
    }

    fn is_on_disk(&self, (segment, edition): (u32, u32)) -> bool {
        let segments = self.segments.borrow();
        segments.get(&segment).is_some_and(|file| file.edition() % EDITIONS_TOLD_APART == edition)
    }
}

/// The batch that takes the next record of `bytes` bytes.
fn gathering<'a>(
    batches: &'a mut VecDeque<Batch>,
    next: &mut NextRecord,
    bytes: usize,
    in_flight: usize,
    segment_bytes: u64,
) -> &'a mut Batch {
    let fits = |batch: &Batch| {
        batch.bytes.len() + bytes <= BATCH_BYTES_MAX.max(bytes)
            && batch.offset + (batch.bytes.len() + bytes) as u64 <= segment_bytes
    };
    let open = next.segment;
    let joins = batches.len() > in_flight
        && batches.back().is_some_and(|batch| batch.segment == open && fits(batch));
    if !joins {
        if next.offset + bytes as u64 > segment_bytes {
            next.segment += 1;
            next.offset = BLOCK_BYTES as u64;
        }
        if next.offset == BLOCK_BYTES as u64 {
            next.first_sequence.insert(next.segment, (next.sequence, next.batch));
        }
        batches.push_back(Batch {
            segment: next.segment,
            number: next.batch,
            offset: next.offset,
            bytes: Rc::new(Vec::with_capacity(BLOCK_BYTES)),
            last_sequence: next.sequence,
        });
        next.batch = next.batch.wrapping_add(1);
    }
    batches.back_mut().expect("one was there or was just made")
}
