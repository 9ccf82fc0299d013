//! Reading a snapshot back: to verify it, or to restore it into an empty directory.
//!
//! *Invariants*: nothing is written before it fits its checksum; a directory is a data directory
//! only once all of it is on stable storage.
//!
//! *Not here*: another number of shards, which whoever opens the directory sees to.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use engram_cold::Tier;
use engram_engine::cold::segment;
use futures_lite::future::block_on;

use crate::cold::{segments_folder, store_of};
use crate::directory::{generation_path, make_directory, shard_path, take_lock, write_manifest};
use crate::error::ShardsError;
use crate::plain::{PlainDisk, sync_directory};
use crate::segment::segment_path;

use super::manifest::{ColdFile, LogFile, SnapshotManifest, cold_name, part_name};
use super::{Copied, SnapshotError};

/// Reads all of a snapshot and checks it.
///
/// # Errors
/// [`SnapshotError::Damaged`] names the first part that is not what it should be.
pub fn verify(
    tier: &Tier,
    manifest: &SnapshotManifest,
    progress: &Copied,
) -> Result<(), SnapshotError> {
    progress.begin(manifest.raw_bytes());
    for file in &manifest.logs {
        read_log(tier, &manifest.name, file, progress, &mut |_| Ok(()))?;
    }
    for file in &manifest.cold {
        read_cold(tier, &manifest.name, file)?;
        progress.add(file.bytes);
    }
    Ok(())
}

/// Restores a snapshot from `from` into an empty directory, whose cold segments go to `to`.
///
/// # Errors
/// [`SnapshotError`]; then the directory is none that a server would open as one of data.
pub fn restore(
    from: &Tier,
    manifest: &SnapshotManifest,
    directory: &Path,
    to: &Tier,
    progress: &Copied,
) -> Result<(), SnapshotError> {
    make_directory(directory)?;
    refuse_full(directory)?;
    let _held = take_lock(directory)?;
    progress.begin(manifest.raw_bytes());
    let generation = manifest.directory.generation;
    let folder_of = |shard| shard_path(directory, generation, shard);
    for shard in 0..manifest.directory.shards {
        make_directory(&folder_of(shard))?;
    }
    for file in &manifest.logs {
        write_log(from, manifest, file, &folder_of(file.shard), progress)?;
    }
    for shard in 0..manifest.directory.shards {
        sync_directory(&folder_of(shard))?;
    }
    sync_directory(&generation_path(directory, generation))?;
    let segments = segments_folder(&store_of(directory)?);
    for file in &manifest.cold {
        let bytes = read_cold(from, &manifest.name, file)?;
        to.put(&format!("{segments}{}", file.name), &bytes)?;
        progress.add(file.bytes);
    }
    // Last, since it makes the directory one of data.
    block_on(write_manifest(&PlainDisk, directory, &manifest.directory))?;
    Ok(())
}

fn refuse_full(directory: &Path) -> Result<(), SnapshotError> {
    let mut entries = fs::read_dir(directory).map_err(ShardsError::io("list", directory))?;
    // A new ext4 volume has this folder.
    let full = entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found"));
    if full { Err(SnapshotError::NotEmpty(directory.to_owned())) } else { Ok(()) }
}

fn write_log(
    from: &Tier,
    manifest: &SnapshotManifest,
    file: &LogFile,
    folder: &Path,
    progress: &Copied,
) -> Result<(), SnapshotError> {
    let path = segment_path(folder, file.segment);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut out: File = made.map_err(ShardsError::io("create", &path))?;
    read_log(from, &manifest.name, file, progress, &mut |raw| {
        out.write_all(raw).map_err(ShardsError::io("write", &path))
    })?;
    out.sync_all().map_err(ShardsError::io("sync", &path))?;
    Ok(())
}

fn read_log(
    tier: &Tier,
    snapshot: &str,
    file: &LogFile,
    progress: &Copied,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), ShardsError>,
) -> Result<(), SnapshotError> {
    for (number, (bytes, checksum)) in file.parts.iter().enumerate() {
        let name = part_name(snapshot, file.shard, file.segment, number);
        let packed = get(tier, snapshot, &name)?;
        let damaged = |reason: String| SnapshotError::Damaged {
            snapshot: snapshot.to_owned(),
            file: name.clone(),
            reason,
        };
        let raw = segment::unpack(&packed).map_err(|damage| damaged(damage.to_string()))?;
        if raw.len() as u64 != *bytes || crc32c::crc32c(&raw) != *checksum {
            return Err(damaged("it is not the part that the manifest names".to_owned()));
        }
        sink(&raw)?;
        progress.add(*bytes);
    }
    Ok(())
}

fn read_cold(tier: &Tier, snapshot: &str, file: &ColdFile) -> Result<Vec<u8>, SnapshotError> {
    let name = cold_name(snapshot, &file.name);
    let bytes = get(tier, snapshot, &name)?;
    if bytes.len() as u64 == file.bytes && crc32c::crc32c(&bytes) == file.checksum {
        return Ok(bytes);
    }
    let reason = "the checksum does not fit".to_owned();
    Err(SnapshotError::Damaged { snapshot: snapshot.to_owned(), file: name, reason })
}

/// A part that is not there is damage, not a snapshot that does not exist.
fn get(tier: &Tier, snapshot: &str, name: &str) -> Result<Vec<u8>, SnapshotError> {
    tier.get(name).map_err(|error| match error {
        engram_cold::ColdError::NotFound(_) => SnapshotError::Damaged {
            snapshot: snapshot.to_owned(),
            file: name.to_owned(),
            reason: "it is missing".to_owned(),
        },
        other => SnapshotError::Cold(other),
    })
}
