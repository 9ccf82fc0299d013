//! The data directory: who holds it, and its manifest.
//!
//! *Invariants*: one process holds a directory; the manifest is replaced as a whole, so that it is
//! the old one or the new one at any instant; directories are 0700, files 0600.
//!
//! *Not here*: segments (`segment`).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use futures_lite::future::block_on;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::ShardsError;
use crate::plain::{self, PlainDisk, lock, sync_directory};
use crate::reshard::{Progress, remove_strangers, reshard};

/// Version of the directory's layout.
pub const VERSION: u32 = 1;
/// A manifest is far smaller.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// What a directory is, fixed when it was made but for the generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout.
    pub version: u32,
    /// Tells this directory's files from those of any other.
    pub directory: u64,
    /// Key of the hash that spreads memories over shards.
    pub secret: [u64; 2],
    /// How many shards wrote it.
    pub shards: u16,
    /// Raised when the number of shards changes; names the folder of the logs.
    pub generation: u32,
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    manifest: Manifest,
    lock: File,
}

impl Directory {
    /// Lets go of the directory, whoever still knows of it.
    pub(crate) fn release(&self) {
        // Nobody writes any more: what is left of the lock ends with the process.
        let _ = self.lock.unlock();
    }

    /// Takes hold of a directory, made with `shards` shards where there is none.
    ///
    /// # Errors
    /// [`ShardsError::Held`] where another process holds it; [`ShardsError::Io`],
    /// [`ShardsError::Damaged`] and [`ShardsError::Version`] as the files are.
    pub fn open(path: &Path, shards: u16) -> Result<Self, ShardsError> {
        make_directory(path)?;
        let lock = take_lock(path)?;
        let manifest = block_on(read_or_make_manifest(&PlainDisk, path, shards))?;
        let directory = Self { path: path.to_owned(), manifest, lock };
        directory.tidy()?;
        Ok(directory)
    }

    /// Folders of its own are there, and no others.
    fn tidy(&self) -> Result<(), ShardsError> {
        remove_strangers(&self.path, &self.manifest)?;
        (0..self.manifest.shards).try_for_each(|shard| make_directory(&self.shard_path(shard)))
    }

    /// Moves everything to another number of shards; says how far it has come. At any error, and
    /// where the process dies, the directory has the old number of shards and all that was in it.
    ///
    /// # Errors
    /// [`ShardsError::Room`] where the disk has no room for a second copy; [`ShardsError::Io`],
    /// [`ShardsError::Damaged`] and [`ShardsError::Version`] as the files are.
    pub fn reshard(
        &mut self,
        shards: u16,
        mut progress: impl FnMut(Progress),
    ) -> Result<(), ShardsError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nonce = u64::try_from(now.as_micros()).unwrap_or(1);
        self.manifest = reshard(&self.path, &self.manifest, shards, nonce, &mut progress)?;
        self.tidy()
    }

    /// What the directory is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a shard's log.
    pub fn shard_path(&self, shard: u16) -> PathBuf {
        shard_path(&self.path, self.manifest.generation, shard)
    }
}

/// The folder of a generation.
pub(crate) fn generation_path(directory: &Path, generation: u32) -> PathBuf {
    directory.join(format!("generation-{generation:06}"))
}

/// The folder of a shard's log in a generation.
pub fn shard_path(directory: &Path, generation: u32, shard: u16) -> PathBuf {
    generation_path(directory, generation).join(format!("shard-{shard:04}"))
}

/// Makes a folder that only this user enters, unless it is there.
pub(crate) fn make_directory(path: &Path) -> Result<(), ShardsError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ShardsError::io("create", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => Ok(()),
    }
}

pub(crate) fn take_lock(path: &Path) -> Result<File, ShardsError> {
    let lock_path = path.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(ShardsError::io("open", &lock_path))?;
    if lock(&file).is_err() {
        let mut by = String::new();
        let read = file.read_to_string(&mut by);
        let known = read.is_ok() && !by.trim().is_empty();
        let by = if known { by.trim().to_owned() } else { "another process".to_owned() };
        return Err(ShardsError::Held { path: path.to_owned(), by });
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let holder = format!("process {} on host {}\n", std::process::id(), host.trim());
    file.set_len(0).map_err(ShardsError::io("truncate", &lock_path))?;
    file.write_all(holder.as_bytes()).map_err(ShardsError::io("write", &lock_path))?;
    Ok(file)
}

/// The manifest of a directory; where there is none, one is made for so many shards.
///
/// # Errors
/// [`ShardsError::Io`], [`ShardsError::Damaged`] and [`ShardsError::Version`] as the file is.
pub async fn read_or_make_manifest<D: Disk>(
    disk: &D,
    directory: &Path,
    shards: u16,
) -> Result<Manifest, ShardsError> {
    let path = manifest_path(directory);
    if disk.list(directory).await?.contains(&path) {
        return parse_manifest(&path, &disk.load(&path, MANIFEST_BYTES_MAX).await?);
    }
    let manifest = new_manifest(shards)?;
    write_manifest(disk, directory, &manifest).await?;
    Ok(manifest)
}

/// The manifest of a directory that is there.
///
/// # Errors
/// As [`read_or_make_manifest`], and where there is none.
pub(crate) fn read_manifest(directory: &Path) -> Result<Manifest, ShardsError> {
    let path = manifest_path(directory);
    parse_manifest(&path, &plain::load(&path, MANIFEST_BYTES_MAX)?)
}

/// Name of the manifest.
const MANIFEST: &str = "manifest.json";

fn manifest_path(directory: &Path) -> PathBuf {
    directory.join(MANIFEST)
}

fn parse_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest, ShardsError> {
    let damaged =
        |reason: String| ShardsError::Damaged { path: path.to_owned(), offset: 0, reason };
    let any: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let version = any.get("version").and_then(serde_json::Value::as_u64);
    if let Some(version) = version.filter(|v| *v != u64::from(VERSION)) {
        let version = u32::try_from(version).unwrap_or(u32::MAX);
        return Err(ShardsError::Version { path: path.to_owned(), version });
    }
    let manifest: Manifest =
        serde_json::from_value(any).map_err(|error| damaged(error.to_string()))?;
    if manifest.shards == 0 {
        return Err(damaged("it says that there are no shards".to_owned()));
    }
    Ok(manifest)
}

fn new_manifest(shards: u16) -> Result<Manifest, ShardsError> {
    let mut random = [0u8; 24];
    let path = "/dev/urandom";
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(ShardsError::io("read", path))?;
    let word = |i: usize| {
        u64::from_le_bytes(random[i * 8..i * 8 + 8].try_into().expect("eight bytes of 24"))
    };
    let secret = [word(1), word(2)];
    Ok(Manifest { version: VERSION, directory: word(0), secret, shards, generation: 1 })
}

/// Puts a manifest in the place of the one that is there, as a whole.
///
/// # Errors
/// [`ShardsError::Io`]; then it is the old one or the new one.
pub async fn write_manifest<D: Disk>(
    disk: &D,
    directory: &Path,
    manifest: &Manifest,
) -> Result<(), ShardsError> {
    let mut text = serde_json::to_vec_pretty(manifest).expect("a manifest always has a text");
    text.push(b'\n');
    write_durably(disk, directory, MANIFEST, &text).await
}

/// Writes a file of the directory beside its name, syncs it and gives it its name.
///
/// # Errors
/// [`ShardsError::Io`]; then it is the old one or the new one.
pub async fn write_durably<D: Disk>(
    disk: &D,
    directory: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<(), ShardsError> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let file = disk.create(&new, bytes.len() as u64).await?;
    disk.write(&file, 0, bytes).await?;
    disk.sync(&file).await?;
    disk.close(file).await;
    disk.rename(&new, &path).await?;
    disk.sync_directory(directory).await
}
