//! The way from the shards to the cold tier and back: threads read and write, cores only hear what
//! came of it; and the sweeps that keep the tier free of what is forgotten.
//!
//! *Invariants*: no core waits for the tier; segments are removed only by a sweep, and never while
//! a snapshot copies them.
//!
//! *Not here*: which memories are cold (`engram_engine`), the tier itself (`engram-cold`).

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engram_cold::{ColdError, Put, Tier, Workers};
use engram_engine::cold::segment::{self, Extent};
use engram_engine::cold::{ColdAddress, ColdSegmentId};
use engram_engine::phase::Phase;
use engram_engine::request::{Answer, Request};
use engram_engine::shard::{ColdFailure, Event, FetchId};
use flume::{Receiver, Sender};
use futures_lite::future::block_on;
use glommio::timer::sleep;

use crate::core::{Core, Handle};
use crate::directory::{Directory, write_durably};
use crate::error::ShardsError;
use crate::plain::PlainDisk;
use crate::snapshot::{Cut, Snapshots};

/// Bytes of unpacked blocks that are kept for the next reads from them.
const BLOCK_CACHE_BYTES: usize = 8 << 20;
/// How often a core looks whether a thread is done with what it waits for.
const POLL: Duration = Duration::from_millis(5);
/// Sweeps that follow at once where the one before rewrote segments.
const SWEEPS_AT_ONCE: usize = 64;
/// File of the data directory that says where in the cold tier its segments are.
const STORE_FILE: &str = "cold-store";

/// What threads tell a core.
pub(crate) enum ToCore {
    Fetched {
        fetch: FetchId,
        bytes: Result<Vec<u8>, ColdFailure>,
    },
    Stored {
        segment: ColdSegmentId,
        outcome: Result<Vec<Extent>, String>,
    },
    /// A snapshot begins: where is the log durable?
    Cut(Sender<Result<Cut, String>>),
    /// Somebody wants the log to be compacted.
    Compact,
}

/// The cold tier of a data directory, shared by its cores.
pub struct ColdTier {
    workers: Workers,
    /// Folder of this data directory's segments in the tier.
    segments: String,
    cores: Vec<Sender<ToCore>>,
    blocks: Mutex<VecDeque<Block>>,
    occupied: AtomicBool,
    snapshots: Snapshots,
}

struct Block {
    segment: ColdSegmentId,
    offset: u32,
    raw: Arc<Vec<u8>>,
}

impl ColdTier {
    /// The tier for a directory, and what each core listens to.
    pub(crate) fn open(
        directory: &Directory,
        tier: Arc<Tier>,
    ) -> Result<(Arc<Self>, Vec<Receiver<ToCore>>), ShardsError> {
        let store = store_of(directory.path())?;
        let shards = directory.manifest().shards;
        let (cores, receivers) = (0..shards).map(|_| flume::unbounded()).unzip();
        let workers = Workers::start(tier)
            .map_err(|error| ShardsError::Executor { reason: error.to_string() })?;
        let cold = Self {
            workers,
            segments: segments_folder(&store),
            cores,
            blocks: Mutex::default(),
            occupied: AtomicBool::new(false),
            snapshots: Snapshots::new(directory.manifest().clone()),
        };
        Ok((Arc::new(cold), receivers))
    }

    /// The tier itself, for what it measures.
    pub fn tier(&self) -> &Arc<Tier> {
        self.workers.tier()
    }

    /// Work that waits for a thread.
    pub fn waiting(&self) -> usize {
        self.workers.waiting()
    }

    /// Snapshots of this server.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Where the segments of this directory are in the tier.
    pub(crate) fn segments(&self) -> &str {
        &self.segments
    }

    pub(crate) fn cores(&self) -> &[Sender<ToCore>] {
        &self.cores
    }

    /// Keeps sweeps away, or snapshots; false where the other one is at work.
    pub(crate) fn occupy(&self) -> bool {
        !self.occupied.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release(&self) {
        self.occupied.store(false, Ordering::Release);
    }

    /// Has a record read, and the core told.
    pub(crate) fn fetch(self: &Arc<Self>, core: usize, fetch: FetchId, address: ColdAddress) {
        let (cold, to) = (self.clone(), self.cores[core].clone());
        let tell = move |bytes| drop(to.send(ToCore::Fetched { fetch, bytes }));
        let answer = tell.clone();
        if self.workers.submit(move |tier| answer(cold.read(tier, address))).is_err() {
            let reason = "too many requests wait for it already".to_owned();
            tell(Err(ColdFailure::Unreachable(reason)));
        }
    }

    fn read(&self, tier: &Tier, address: ColdAddress) -> Result<Vec<u8>, ColdFailure> {
        let block = match self.cached(address) {
            Some(block) => block,
            None => self.unpack(tier, address)?,
        };
        let start = address.record_offset as usize;
        let record = block.get(start..start + address.record_bytes as usize);
        let outside = || ColdFailure::Damaged("the record lies outside of its block".to_owned());
        record.map(<[u8]>::to_vec).ok_or_else(outside)
    }

    fn cached(&self, address: ColdAddress) -> Option<Arc<Vec<u8>>> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |b: &&Block| b.segment == address.segment && b.offset == address.block_offset;
        blocks.iter().find(same).map(|block| block.raw.clone())
    }

    fn unpack(&self, tier: &Tier, address: ColdAddress) -> Result<Arc<Vec<u8>>, ColdFailure> {
        let name = self.segment_name(address.segment, address.records);
        let (offset, bytes) = (u64::from(address.block_offset), address.block_bytes as usize);
        let packed = tier.get_range(&name, offset, bytes).map_err(|error| match error {
            ColdError::NotFound(text) => ColdFailure::Damaged(text),
            other => ColdFailure::Unreachable(other.to_string()),
        })?;
        let raw = segment::unpack(&packed)
            .map_err(|damage| ColdFailure::Damaged(format!("{name}: {damage}")))?;
        let raw = Arc::new(raw);
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let (segment, offset) = (address.segment, address.block_offset);
        blocks.push_back(Block { segment, offset, raw: raw.clone() });
        let mut held: usize = blocks.iter().map(|block| block.raw.len()).sum();
        while held > BLOCK_CACHE_BYTES
            && let Some(oldest) = blocks.pop_front()
        {
            held -= oldest.raw.len();
        }
        Ok(raw)
    }

    /// Has a segment written, and the core told.
    pub(crate) fn store(
        self: &Arc<Self>,
        core: usize,
        segment: ColdSegmentId,
        records: u32,
        blocks: Vec<Vec<u8>>,
    ) {
        let (cold, to) = (self.clone(), self.cores[core].clone());
        let tell = move |outcome| drop(to.send(ToCore::Stored { segment, outcome }));
        let answer = tell.clone();
        let job = move |tier: &Tier| answer(cold.write(tier, segment, records, &blocks));
        if self.workers.submit(job).is_err() {
            tell(Err("too many requests wait for it already".to_owned()));
        }
    }

    fn write(
        &self,
        tier: &Tier,
        id: ColdSegmentId,
        records: u32,
        blocks: &[Vec<u8>],
    ) -> Result<Vec<Extent>, String> {
        let (bytes, extents) = segment::pack(id, records, blocks);
        let held = &tier.measures().segment_bytes;
        let sum = held.load(Ordering::Relaxed) + bytes.len() as u64;
        if tier.limits().bytes_max.is_some_and(|most| sum > most) {
            return Err("it holds as many bytes as --cold-limit allows".to_owned());
        }
        match tier.put(&self.segment_name(id, records), &bytes) {
            Ok(Put::Created) => {
                held.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(extents)
            }
            Ok(Put::Exists) => Err("a segment of this number is there already".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn segment_name(&self, id: ColdSegmentId, records: u32) -> String {
        format!("{}{:016x}-{records}", self.segments, id.0)
    }

    fn forget_blocks(&self) {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Every segment of this directory, and how many bytes they have.
    fn list(&self, tier: &Tier) -> Result<Vec<(ColdSegmentId, u32)>, ColdError> {
        let objects = tier.list(&self.segments)?;
        let bytes = objects.iter().map(|object| object.bytes).sum();
        tier.measures().segment_bytes.store(bytes, Ordering::Relaxed);
        let named = objects.iter().filter_map(|o| segment_of(o.name.strip_prefix(&self.segments)?));
        let named: Vec<_> = named.collect();
        tier.measures().segments.store(named.len() as u64, Ordering::Relaxed);
        Ok(named)
    }

    /// Has something done by a thread, and waits for it without holding the core up.
    pub(crate) async fn done<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Tier) -> T + Send + 'static,
    ) -> Option<T> {
        let (to, from) = flume::bounded(1);
        self.workers.submit(move |tier| drop(to.send(job(tier)))).ok()?;
        loop {
            match from.try_recv() {
                Ok(value) => return Some(value),
                Err(flume::TryRecvError::Empty) => sleep(POLL).await,
                Err(flume::TryRecvError::Disconnected) => return None,
            }
        }
    }
}

/// The folder of a store's segments in the tier.
pub(crate) fn segments_folder(store: &str) -> String {
    format!("{store}/segments/")
}

/// Number and records of a segment by the last part of its name.
pub(crate) fn segment_of(name: &str) -> Option<(ColdSegmentId, u32)> {
    let (number, records) = name.split_once('-')?;
    let number = u64::from_str_radix(number, 16).ok().filter(|_| number.len() == 16)?;
    Some((ColdSegmentId(number), records.parse().ok()?))
}

/// The name under which a data directory keeps its segments, drawn when it is first asked for: no
/// two directories share one, not even one that was restored from the other.
pub(crate) fn store_of(directory: &Path) -> Result<String, ShardsError> {
    let path: PathBuf = directory.join(STORE_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let store = text.trim().to_owned();
            let fits = store.len() == 16 && store.bytes().all(|b| b.is_ascii_hexdigit());
            let reason = "it is not 16 hexadecimal digits".to_owned();
            if fits { Ok(store) } else { Err(ShardsError::Damaged { path, offset: 0, reason }) }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut drawn = [0; 8];
            let random = "/dev/urandom";
            fs::File::open(random)
                .and_then(|mut file| file.read_exact(&mut drawn))
                .map_err(ShardsError::io("read", random))?;
            let store = format!("{:016x}", u64::from_le_bytes(drawn));
            let line = format!("{store}\n");
            block_on(write_durably(&PlainDisk, directory, STORE_FILE, line.as_bytes()))?;
            Ok(store)
        }
        Err(error) => Err(ShardsError::io("read", path)(error)),
    }
}

impl Core {
    /// Hears what threads have to say.
    pub(crate) async fn run_cold(self: Rc<Self>, from: Receiver<ToCore>) {
        while let Ok(told) = from.recv_async().await {
            match told {
                ToCore::Fetched { fetch, bytes } => {
                    let bytes = bytes.map(Rc::from);
                    self.drive(Event::FetchedCold { fetch, bytes });
                }
                ToCore::Stored { segment, outcome } => {
                    self.drive(Event::StoredCold { segment, outcome });
                }
                ToCore::Compact => self.compaction.notify(),
                ToCore::Cut(to) => {
                    let core = self.clone();
                    let cut = async move { drop(to.send(crate::snapshot::cut(&core).await)) };
                    glommio::spawn_local(cut).detach();
                }
            }
        }
    }
}

/// Forgets what has expired, and frees the cold tier of what nobody needs, again and again.
pub(crate) async fn run_sweeps(handle: Handle, pause: Duration) {
    loop {
        sleep(pause).await;
        if !matches!(handle.status().life().phase(), Phase::Running | Phase::Consolidating) {
            continue;
        }
        let _counted = handle.call(Request::Expire).await;
        if handle.cold().occupy() {
            sweep(&handle).await;
            handle.cold().release();
        }
    }
}

/// Segments that were rewritten are removed by the sweep that follows.
async fn sweep(handle: &Handle) {
    let cold = handle.cold();
    for _ in 0..SWEEPS_AT_ONCE {
        let lister = cold.clone();
        let Some(Ok(listed)) = cold.done(move |tier| lister.list(tier)).await else { return };
        if listed.is_empty() {
            return;
        }
        let Ok(Answer::Swept { unused, rewritten }) = handle.call(Request::Sweep { listed }).await
        else {
            return;
        };
        if unused.is_empty() && rewritten == 0 {
            return;
        }
        let remover = cold.clone();
        if cold.done(move |tier| remover.remove(tier, &unused)).await != Some(true) {
            return;
        }
    }
}

impl ColdTier {
    fn remove(&self, tier: &Tier, unused: &[(ColdSegmentId, u32)]) -> bool {
        self.forget_blocks();
        let gone = |(id, records): &(ColdSegmentId, u32)| {
            tier.delete(&self.segment_name(*id, *records)).is_ok()
        };
        unused.iter().all(gone)
    }
}
