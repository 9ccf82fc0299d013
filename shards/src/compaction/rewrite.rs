//! Rewriting adjacent sealed segments as one that holds what is still needed of them.
//!
//! *Invariants*: the new edition is whole and durable before it takes the name of the first of the
//! old ones, and so is everything for whose sake a record was left out; the others are removed after
//! that. Whenever a process ends, a start finds the old edition, or the new one, or the new one and
//! others whose records it holds, which go then.
//!
//! *Not here*: which segments, and when (`super`), which records (`engram_engine::shard`).

use std::path::Path;

use engram_engine::record::{Damage, Stamp, View};
use engram_engine::shard::{Owner, Verdict};
use engram_engine::space::LogAddress;

use crate::disk::Disk;
use crate::error::ShardsError;
use crate::log::{Log, SegmentFile};
use crate::recover::{SegmentBytes, Step};
use crate::segment::{BLOCK_BYTES, Compacted, SegmentHeader, segment_path, unfinished_path};

/// Bytes of one read or write.
pub const PIECE_BYTES: usize = 512 << 10;
/// Addresses that are changed between two looks at the clock.
const MOVES_AT_ONCE: usize = 64;

/// The shard whose log it is.
#[allow(async_fn_in_trait)]
pub trait Keeper {
    /// What becomes of a record.
    fn verdict(&self, view: &View<'_>, address: LogAddress) -> Result<Verdict, Damage>;

    /// Sequence number of the last record that was appended.
    fn sequence(&self) -> u64;

    /// Lets others have the core, where this has had it for long enough.
    async fn rest(&self);

    /// So many bytes were read or written.
    async fn pay(&self, bytes: usize);

    /// Waits until everything up to this record is durable, and then until records may be moved;
    /// false where they may not be any more. Until [`Keeper::end_move`] no image is made.
    async fn begin_move(&self, horizon: u64) -> bool;

    /// The newest record of a memory lies elsewhere; or nobody needs this record any more.
    fn moved(&self, from: LogAddress, to: Option<(Owner, LogAddress)>);

    /// All were moved.
    fn end_move(&self);

    /// Waits until everybody has read who began to read before the records were moved.
    async fn wait_for_readers(&self);
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Records of memories: puts and demotions, newest or not.
    pub stored: u64,
    /// Those that are the newest of their memory.
    pub newest: u64,
    /// Bytes of other records that are needed.
    pub other_bytes: u64,
}

/// What a rewriting has done.
#[derive(Clone, Copy, Debug)]
pub struct Rewritten {
    /// The segment that there is now.
    pub file: SegmentFile,
    /// What it holds.
    pub holds: Holds,
}

/// Reads a sealed segment whole.
async fn load<D: Disk>(
    log: &Log<D>,
    (file, behind): (SegmentFile, u64),
    keeper: &impl Keeper,
) -> Result<SegmentBytes, ShardsError> {
    let pinned = log.pin(&file).await?;
    let mut bytes = Vec::with_capacity(file.bytes as usize);
    while (bytes.len() as u64) < file.bytes {
        let piece = PIECE_BYTES.min(file.bytes as usize - bytes.len());
        let read = log.disk().read(&pinned, bytes.len() as u64, piece).await?;
        if read.is_empty() {
            break;
        }
        bytes.extend_from_slice(&read);
        keeper.pay(read.len()).await;
    }
    let path = segment_path(log.folder(), file.header.segment);
    Ok(SegmentBytes::new(path, file.header, bytes, Some(behind)))
}

/// Reads a sealed segment, proves every checksum, and says what it holds.
///
/// # Errors
/// [`ShardsError::Damaged`] where a record is not what was written.
pub async fn examine<D: Disk>(
    log: &Log<D>,
    file: (SegmentFile, u64),
    keeper: &impl Keeper,
) -> Result<Holds, ShardsError> {
    let mut segment = load(log, file, keeper).await?;
    segment.check_header()?;
    let mut holds = Holds::default();
    loop {
        let step = segment.step_with(|view, address| {
            let verdict = keeper.verdict(view, address)?;
            holds.count(view, &verdict);
            Ok(())
        })?;
        if step == Step::End {
            return Ok(holds);
        }
        keeper.rest().await;
    }
}

impl Holds {
    fn count(&mut self, view: &View<'_>, verdict: &Verdict) {
        self.stored += u64::from(stores(view));
        match verdict {
            Verdict::Dead => {}
            Verdict::Newest(_) => self.newest += 1,
            Verdict::Kept => self.other_bytes += view.bytes() as u64,
            Verdict::Partly(draft) => self.other_bytes += draft.bytes() as u64,
        }
    }
}

fn stores(view: &View<'_>) -> bool {
    use engram_engine::record::Kind;
    matches!(view.kind, Kind::Put | Kind::Demote)
}

/// The new edition while it is written.
struct Writing<'a, D: Disk> {
    disk: &'a D,
    file: D::File,
    header: SegmentHeader,
    edition: u32,
    /// What is not written yet, and where it begins.
    gathered: Vec<u8>,
    offset: u64,
    records: u32,
    moves: Vec<(LogAddress, Option<(Owner, LogAddress)>)>,
    holds: Holds,
}

/// Makes one segment out of adjacent ones.
///
/// # Errors
/// [`ShardsError`]; the log is as it was, or has the new edition.
pub async fn rewrite<D: Disk>(
    log: &Log<D>,
    group: &[(SegmentFile, u64)],
    keeper: &impl Keeper,
) -> Result<Option<Rewritten>, ShardsError> {
    let unfinished = unfinished_path(log.folder(), group[0].0.header.segment);
    let outcome = match write(log, group, keeper, &unfinished).await {
        Ok(written) => put_in_place(log, group, keeper, written, &unfinished).await,
        Err(error) => Err(error),
    };
    if !matches!(outcome, Ok(Some(_))) {
        // It may not have come to be, or have its name already.
        let _ignored = log.disk().remove(&unfinished).await;
    }
    outcome
}

struct Written {
    file: SegmentFile,
    moves: Vec<(LogAddress, Option<(Owner, LogAddress)>)>,
    holds: Holds,
}

async fn write<D: Disk>(
    log: &Log<D>,
    group: &[(SegmentFile, u64)],
    keeper: &impl Keeper,
    unfinished: &Path,
) -> Result<Written, ShardsError> {
    let disk = log.disk();
    let (first, end) = (group[0].0, group[group.len() - 1].1 - 1);
    let mut writing = Writing {
        disk,
        file: disk.create(unfinished, BLOCK_BYTES as u64).await?,
        header: first.header,
        edition: first.edition() + 1,
        gathered: Vec::with_capacity(2 * PIECE_BYTES),
        offset: BLOCK_BYTES as u64,
        records: 0,
        moves: Vec::new(),
        holds: Holds::default(),
    };
    let outcome = writing.take_all(log, group, keeper).await;
    if let Err(error) = outcome {
        disk.close(writing.file).await;
        return Err(error);
    }
    let compacted = Compacted {
        edition: writing.edition,
        end_sequence: end,
        horizon: keeper.sequence(),
        records: writing.records,
    };
    let header = SegmentHeader { compacted: Some(compacted), ..first.header };
    let ended = writing.end(&header).await;
    disk.close(writing.file).await;
    ended?;
    let file = SegmentFile { header, bytes: writing.offset };
    Ok(Written { file, moves: writing.moves, holds: writing.holds })
}

impl<D: Disk> Writing<'_, D> {
    async fn take_all(
        &mut self,
        log: &Log<D>,
        group: &[(SegmentFile, u64)],
        keeper: &impl Keeper,
    ) -> Result<(), ShardsError> {
        for file in group {
            let mut segment = load(log, *file, keeper).await?;
            segment.check_header()?;
            loop {
                let step = segment.step_with(|view, address| self.take(view, address, keeper))?;
                if step == Step::End {
                    break;
                }
                if self.gathered.len() >= PIECE_BYTES {
                    self.write_blocks().await?;
                    keeper.pay(PIECE_BYTES).await;
                }
                keeper.rest().await;
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        view: &View<'_>,
        from: LogAddress,
        keeper: &impl Keeper,
    ) -> Result<(), Damage> {
        let verdict = keeper.verdict(view, from)?;
        let at = self.offset as usize + self.gathered.len();
        let epoch = self.header.epoch();
        match &verdict {
            Verdict::Dead => {
                if stores(view) {
                    self.moves.push((from, None));
                }
                return Ok(());
            }
            Verdict::Kept => view.write(epoch, &mut self.gathered),
            Verdict::Newest(owner) => {
                view.write(epoch, &mut self.gathered);
                let lengths = (view.head.len(), view.tail.len());
                let to = LogAddress::new(self.header.segment, self.edition, at, lengths);
                self.moves.push((from, Some((*owner, to))));
            }
            Verdict::Partly(draft) => {
                let (sequence, batch) = (view.header.sequence, view.header.batch);
                draft.write(Stamp { sequence, batch, epoch }, &mut self.gathered);
            }
        }
        self.records += 1;
        self.holds.count(view, &verdict);
        Ok(())
    }

    /// Writes all whole blocks that have gathered.
    async fn write_blocks(&mut self) -> Result<(), ShardsError> {
        let whole = self.gathered.len() / BLOCK_BYTES * BLOCK_BYTES;
        for part in self.gathered[..whole].chunks(PIECE_BYTES) {
            self.disk.write(&self.file, self.offset, part).await?;
            self.offset += part.len() as u64;
        }
        self.gathered.drain(..whole);
        Ok(())
    }

    async fn end(&mut self, header: &SegmentHeader) -> Result<(), ShardsError> {
        let padded = self.gathered.len().next_multiple_of(BLOCK_BYTES);
        self.gathered.resize(padded, 0);
        self.write_blocks().await?;
        self.disk.write(&self.file, 0, &header.block()).await?;
        self.disk.sync(&self.file).await
    }
}

/// Gives the new edition its name and removes what it replaces; `None` where the server stops.
async fn put_in_place<D: Disk>(
    log: &Log<D>,
    group: &[(SegmentFile, u64)],
    keeper: &impl Keeper,
    written: Written,
    unfinished: &Path,
) -> Result<Option<Rewritten>, ShardsError> {
    let Written { file, moves, holds } = written;
    let (disk, folder) = (log.disk(), log.folder());
    for (old, _) in group {
        log.pin(old).await?;
    }
    let horizon = file.header.compacted.map_or(0, |compacted| compacted.horizon);
    if !keeper.begin_move(horizon).await {
        return Ok(None);
    }
    if let Err(error) = disk.rename(unfinished, &segment_path(folder, file.header.segment)).await {
        keeper.end_move();
        return Err(error);
    }
    let named = disk.sync_directory(folder).await;
    let old: Vec<SegmentFile> = group.iter().map(|(old, _)| *old).collect();
    let gone: Vec<u32> = old[1..].iter().map(|old| old.header.segment).collect();
    log.replaced(file, &gone);
    for moves in moves.chunks(MOVES_AT_ONCE) {
        moves.iter().for_each(|(from, to)| keeper.moved(*from, *to));
        keeper.rest().await;
    }
    keeper.end_move();
    // Without its name on the disk, the records are where they were.
    named?;
    for segment in &gone {
        disk.remove(&segment_path(folder, *segment)).await?;
    }
    if !gone.is_empty() {
        disk.sync_directory(folder).await?;
    }
    keeper.wait_for_readers().await;
    log.unpin(&old).await;
    Ok(Some(Rewritten { file, holds }))
}
