//! The data directory: who holds it, and its manifest.
//!
//! *Invariants*: one process holds a directory; the manifest is replaced as a whole, so that it is
//! the old one or the new one at any instant; directories are 0700, files 0600.
//!
//! *Not here*: segments (`segment`).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::ShardsError;

/// Version of the directory's layout.
pub const VERSION: u32 = 1;

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
    _lock: File,
}

impl Directory {
    /// Takes hold of a directory, made with `shards` shards where there is none.
    ///
    /// # Errors
    /// [`ShardsError::Held`] where another process holds it; [`ShardsError::Io`],
    /// [`ShardsError::Damaged`] and [`ShardsError::Version`] as the files are.
    pub fn open(path: &Path, shards: u16) -> Result<Self, ShardsError> {
        make_directory(path)?;
        let lock = take_lock(path)?;
        let manifest_path = path.join("manifest.json");
        let manifest = match fs::read(&manifest_path) {
            Ok(bytes) => read_manifest(&manifest_path, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let manifest = new_manifest(shards)?;
                write_manifest(path, &manifest)?;
                manifest
            }
            Err(error) => return Err(ShardsError::io("read", manifest_path)(error)),
        };
        let directory = Self { path: path.to_owned(), manifest, _lock: lock };
        for shard in 0..directory.manifest.shards {
            make_directory(&directory.shard_path(shard))?;
        }
        Ok(directory)
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
        self.path
            .join(format!("generation-{:06}", self.manifest.generation))
            .join(format!("shard-{shard:04}"))
    }
}

fn make_directory(path: &Path) -> Result<(), ShardsError> {
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

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), ShardsError> {
    let directory = File::open(path).map_err(ShardsError::io("open", path))?;
    directory.sync_all().map_err(ShardsError::io("sync", path))
}

fn take_lock(path: &Path) -> Result<File, ShardsError> {
    let lock_path = path.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(ShardsError::io("open", &lock_path))?;
    // SAFETY: flock takes a descriptor that is open for the length of the call.
    let taken = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if taken != 0 {
        let mut by = String::new();
        let read = lock.read_to_string(&mut by);
        let known = read.is_ok() && !by.trim().is_empty();
        let by = if known { by.trim().to_owned() } else { "another process".to_owned() };
        return Err(ShardsError::Held { path: path.to_owned(), by });
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let holder = format!("process {} on host {}\n", std::process::id(), host.trim());
    lock.set_len(0).map_err(ShardsError::io("truncate", &lock_path))?;
    lock.write_all(holder.as_bytes()).map_err(ShardsError::io("write", &lock_path))?;
    Ok(lock)
}

fn read_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest, ShardsError> {
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

fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<(), ShardsError> {
    let (path, new) = (directory.join("manifest.json"), directory.join("manifest.json.new"));
    let mut text = serde_json::to_vec_pretty(manifest).expect("a manifest always has a text");
    text.push(b'\n');
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(ShardsError::io("create", &new))?;
    file.write_all(&text).map_err(ShardsError::io("write", &new))?;
    file.sync_all().map_err(ShardsError::io("sync", &new))?;
    fs::rename(&new, &path).map_err(ShardsError::io("rename", &new))?;
    sync_directory(directory)
}
