//! Taking a snapshot: every shard's log up to a place behind what was acknowledged when it began.
//!
//! *Invariants*: each shard is cut behind everything that it had acknowledged when it was asked;
//! what was cut is read through descriptors that stay open, whatever happens to the files' names.
//!
//! *Not here*: what the parts look like when they are read back (`read`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use engram_cold::{Put, Tier};
use engram_engine::cold::segment;
use engram_engine::phase::Phase;
use glommio::timer::sleep;

use crate::cold::{ColdTier, ToCore};
use crate::core::Core;
use crate::directory::Manifest;
use crate::plain;
use crate::segment::{BLOCK_BYTES, SegmentHeader, segment_number};

use super::manifest::{
    ColdFile, LogFile, ShardCut, SnapshotManifest, VERSION, cold_name, part_name,
};
use super::{Copied, SnapshotError};

/// Bytes of a part before compression.
pub const PART_BYTES: usize = 4 << 20;
/// How often a file that goes away while logs are cut makes them be cut again.
const CUTS_MAX: usize = 5;
const POLL: Duration = Duration::from_millis(1);
/// How long a core may take to make durable what was acknowledged.
const CUT_PATIENCE: Duration = Duration::from_secs(60);

/// Where a core's log was durable.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Its shard.
    pub shard: u16,
    /// Everything up to this record is durable.
    pub sequence: u64,
    /// The folder of its log.
    pub folder: PathBuf,
    /// The last segment, and how far it is durable; earlier ones are whole.
    pub end: (u32, u64),
}

/// On a core: waits until everything that it acknowledged by now is durable.
pub async fn cut(core: &Rc<Core>) -> Result<Cut, String> {
    let wanted = core.shard.borrow().sequence();
    loop {
        let durable = core.log.durable();
        if durable.sequence >= wanted {
            let end = (durable.segment, durable.end);
            let folder = core.log.folder().to_owned();
            return Ok(Cut { shard: core.me.0, sequence: durable.sequence, folder, end });
        }
        if core.counters().phase() == Phase::Poisoned {
            return Err("the log could not be written".to_owned());
        }
        sleep(POLL).await;
    }
}

/// A segment that was cut, open for reading.
struct Open {
    shard: u16,
    segment: u32,
    file: File,
    bytes: u64,
}

/// Takes a snapshot; runs on a thread of its own.
///
/// # Errors
/// [`SnapshotError`]; what was written until then is removed by the next retention.
pub fn take(
    cold: &ColdTier,
    directory: &Manifest,
    name: &str,
    created_at: String,
    progress: &Copied,
) -> Result<SnapshotManifest, SnapshotError> {
    let tier = cold.tier();
    let (cuts, files) = open_all(cold)?;
    // Segments that the cut logs name were written before, and stay while this goes on.
    let listed = tier.list(cold.segments())?;
    let total: u64 = files.iter().map(|f| f.bytes).chain(listed.iter().map(|o| o.bytes)).sum();
    progress.begin(total);
    let shards = cuts.iter().map(|c| ShardCut { shard: c.shard, sequence: c.sequence }).collect();
    let mut manifest = SnapshotManifest {
        version: VERSION,
        name: name.to_owned(),
        created_at,
        directory: directory.clone(),
        shards,
        logs: Vec::new(),
        cold: Vec::new(),
        stored_bytes: 0,
    };
    for open in &files {
        let (file, stored) = copy_log(tier, name, open, progress)?;
        manifest.logs.push(file);
        manifest.stored_bytes += stored;
    }
    for object in &listed {
        let segment = &object.name[cold.segments().len()..];
        let bytes = tier.get(&object.name)?;
        segment::check(&bytes).map_err(|damage| SnapshotError::Damaged {
            snapshot: name.to_owned(),
            file: object.name.clone(),
            reason: damage.to_string(),
        })?;
        put(tier, &cold_name(name, segment), &bytes)?;
        let (length, checksum) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        let name = segment.to_owned();
        manifest.cold.push(ColdFile { name, bytes: length, checksum });
        manifest.stored_bytes += length;
        progress.add(length);
    }
    manifest.write(tier)?;
    Ok(manifest)
}

fn put(tier: &Tier, name: &str, bytes: &[u8]) -> Result<(), SnapshotError> {
    match tier.put(name, bytes)? {
        Put::Created => Ok(()),
        Put::Exists => Err(SnapshotError::Exists(name.to_owned())),
    }
}

/// Cuts every log, and opens what was cut; again where a file went away in between.
fn open_all(cold: &ColdTier) -> Result<(Vec<Cut>, Vec<Open>), SnapshotError> {
    let mut last = String::new();
    for _ in 0..CUTS_MAX {
        let cuts = cut_all(cold)?;
        let opened: Result<Vec<Vec<Open>>, String> = cuts.iter().map(open_cut).collect();
        match opened {
            Ok(files) => return Ok((cuts, files.into_iter().flatten().collect())),
            Err(reason) => last = reason,
        }
    }
    Err(SnapshotError::Log(last))
}

fn cut_all(cold: &ColdTier) -> Result<Vec<Cut>, SnapshotError> {
    let (to, from) = flume::unbounded();
    for core in cold.cores() {
        core.send(ToCore::Cut(to.clone()))
            .map_err(|_| SnapshotError::Log("the server stops".to_owned()))?;
    }
    drop(to);
    let mut cuts = Vec::new();
    for _ in cold.cores() {
        let cut = from.recv_timeout(CUT_PATIENCE);
        let cut = cut.map_err(|_| SnapshotError::Log("a shard did not answer".to_owned()))?;
        cuts.push(cut.map_err(SnapshotError::Log)?);
    }
    cuts.sort_by_key(|cut| cut.shard);
    Ok(cuts)
}

fn open_cut(cut: &Cut) -> Result<Vec<Open>, String> {
    let listed = plain::list(&cut.folder).map_err(|error| error.to_string())?;
    let (last, end) = cut.end;
    let mut files = Vec::new();
    for path in listed {
        let Some(segment) = segment_number(&path).filter(|number| *number <= last) else {
            continue;
        };
        let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let length = file.metadata().map_err(|error| format!("{}: {error}", path.display()))?.len();
        let bytes = if segment == last { length.min(end) } else { length };
        check_horizon(&file, cut).map_err(|reason| format!("{}: {reason}", path.display()))?;
        files.push(Open { shard: cut.shard, segment, file, bytes });
    }
    files.sort_by_key(|open| open.segment);
    Ok(files)
}

/// What was taken out of a segment has to be made good by records before the cut.
fn check_horizon(file: &File, cut: &Cut) -> Result<(), String> {
    let mut block = [0; BLOCK_BYTES];
    file.read_exact_at(&mut block, 0).map_err(|error| error.to_string())?;
    let header = SegmentHeader::read(&block).map_err(|_| "its header is damaged".to_owned())?;
    let horizon = header.compacted.map_or(0, |compacted| compacted.horizon);
    if horizon <= cut.sequence { Ok(()) } else { Err("it was just compacted".to_owned()) }
}

fn copy_log(
    tier: &Tier,
    name: &str,
    open: &Open,
    progress: &Copied,
) -> Result<(LogFile, u64), SnapshotError> {
    let (mut parts, mut stored, mut at) = (Vec::new(), 0, 0);
    let mut raw = vec![0; PART_BYTES];
    while at < open.bytes {
        let length = (open.bytes - at).min(PART_BYTES as u64) as usize;
        let read = open.file.read_exact_at(&mut raw[..length], at);
        read.map_err(|error| SnapshotError::Log(error.to_string()))?;
        at += length as u64;
        // Room that was set aside and never used is left out.
        let used =
            if at == open.bytes { without_empty_blocks(&raw[..length]) } else { &raw[..length] };
        let packed = segment::pack_block(used);
        put(tier, &part_name(name, open.shard, open.segment, parts.len()), &packed)?;
        parts.push((used.len() as u64, crc32c::crc32c(used)));
        stored += packed.len() as u64;
        progress.add(length as u64);
    }
    Ok((LogFile { shard: open.shard, segment: open.segment, parts }, stored))
}

fn without_empty_blocks(bytes: &[u8]) -> &[u8] {
    let empty = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let blocks = bytes.chunks(BLOCK_BYTES).rev().take_while(|block| empty(block));
    &bytes[..bytes.len() - blocks.map(<[u8]>::len).sum::<usize>()]
}
