//! What the log and recovery want of a disk, so that they run on a real one and on one that lies.
//!
//! *Invariants*: a write is whole or an error; what was written before a sync that succeeded
//! survives a crash, and nothing else is promised; names are durable after `sync_directory`.
//!
//! *Not here*: io_uring (`ring`), blocking calls (`plain`), a disk that fails on purpose (`sim`).

use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::ShardsError;

/// A disk. Futures stay on their executor: none needs to be sent.
#[allow(async_fn_in_trait)]
pub trait Disk {
    /// A file that is open for writing or reading.
    type File: Clone;
    /// Keeps a file from being written by anybody else.
    type Held;

    /// Everything in a folder.
    async fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, ShardsError>;

    /// Makes a file, or empties the one that is there, with room for `bytes` bytes; it is held
    /// until it is closed or until the last write to it has ended, whichever is later.
    async fn create(&self, path: &Path, bytes: u64) -> Result<Self::File, ShardsError>;

    /// Opens a file for reading.
    async fn open(&self, path: &Path) -> Result<Self::File, ShardsError>;

    /// Writes; a short write is an error. With O_DIRECT offset and length are whole blocks.
    async fn write(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> Result<(), ShardsError>;

    /// Makes what was written to the file durable.
    async fn sync(&self, file: &Self::File) -> Result<(), ShardsError>;

    /// Reads up to `bytes` bytes from `offset`; fewer at the end of the file.
    async fn read(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: usize,
    ) -> Result<Rc<[u8]>, ShardsError>;

    /// Lets go of a file. What matters was synced before: a failure changes nothing about it.
    async fn close(&self, file: Self::File);

    /// Waits until no write of a process that died is under way, and keeps others from writing.
    async fn hold(&self, path: &Path) -> Result<Self::Held, ShardsError>;

    /// The first `bytes_max` bytes of a file, or all of it where it has fewer.
    async fn load(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, ShardsError>;

    /// Bytes of a file.
    async fn size(&self, path: &Path) -> Result<u64, ShardsError>;

    /// Cuts a file off, durably.
    async fn truncate(&self, path: &Path, bytes: u64) -> Result<(), ShardsError>;

    /// Removes a file.
    async fn remove(&self, path: &Path) -> Result<(), ShardsError>;

    /// Gives a file another name; a file of that name is replaced.
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), ShardsError>;

    /// Makes the names in a folder durable.
    async fn sync_directory(&self, folder: &Path) -> Result<(), ShardsError>;
}
