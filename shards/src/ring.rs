//! The disk of a shard that serves: O_DIRECT through this core's io_uring.
//!
//! *Invariants*: nothing here blocks the executor; a segment's descriptor is locked while it is
//! written, so that whoever opens it later waits until writes that are still in flight after this
//! process died have reached the disk.
//!
//! *Not here*: what is written (`log`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::DmaFile;

use crate::disk::Disk;
use crate::error::ShardsError;
use crate::plain;

/// The disk as this executor's io_uring reaches it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingDisk;

/// A file that is open with O_DIRECT.
#[derive(Clone, Debug)]
pub struct RingFile {
    path: Rc<Path>,
    file: Rc<DmaFile>,
}

impl RingFile {
    fn new(path: &Path, file: DmaFile) -> Self {
        Self { path: Rc::from(path), file: Rc::new(file) }
    }
}

impl Disk for RingDisk {
    type File = RingFile;
    type Held = File;

    async fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, ShardsError> {
        let folder = folder.to_owned();
        blocking(move || plain::list(&folder)).await
    }

    async fn create(&self, path: &Path, bytes: u64) -> Result<RingFile, ShardsError> {
        let file = DmaFile::create(path).await.map_err(ShardsError::ring("create", path))?;
        plain::make_private(&file).map_err(ShardsError::io("create", path))?;
        plain::lock(&file).map_err(ShardsError::io("lock", path))?;
        let space = file.pre_allocate(bytes, false).await;
        space.map_err(ShardsError::ring("allocate", path))?;
        Ok(RingFile::new(path, file))
    }

    async fn open(&self, path: &Path) -> Result<RingFile, ShardsError> {
        let file = DmaFile::open(path).await.map_err(ShardsError::ring("open", path))?;
        Ok(RingFile::new(path, file))
    }

    async fn write(&self, file: &RingFile, offset: u64, bytes: &[u8]) -> Result<(), ShardsError> {
        let mut buffer = file.file.alloc_dma_buffer(bytes.len());
        buffer.as_bytes_mut().copy_from_slice(bytes);
        let written = file.file.write_at(buffer, offset).await;
        if written.map_err(ShardsError::ring("write", &*file.path))? == bytes.len() {
            return Ok(());
        }
        let short = io::Error::new(io::ErrorKind::WriteZero, "a short write");
        Err(ShardsError::io("write", &*file.path)(short))
    }

    async fn sync(&self, file: &RingFile) -> Result<(), ShardsError> {
        file.file.fdatasync().await.map_err(ShardsError::ring("sync", &*file.path))
    }

    async fn read(
        &self,
        file: &RingFile,
        offset: u64,
        bytes: usize,
    ) -> Result<Rc<[u8]>, ShardsError> {
        let read = file.file.read_at(offset, bytes).await;
        let read = read.map_err(ShardsError::ring("read", &*file.path))?;
        Ok(Rc::from(&read[..]))
    }

    async fn close(&self, file: RingFile) {
        let _ = file.file.close_rc().await;
    }

    async fn hold(&self, path: &Path) -> Result<File, ShardsError> {
        let path = path.to_owned();
        blocking(move || plain::hold(&path)).await
    }

    async fn load(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, ShardsError> {
        let path = path.to_owned();
        blocking(move || plain::load(&path, bytes_max)).await
    }

    async fn size(&self, path: &Path) -> Result<u64, ShardsError> {
        let path = path.to_owned();
        blocking(move || plain::size(&path)).await
    }

    async fn truncate(&self, path: &Path, bytes: u64) -> Result<(), ShardsError> {
        let path = path.to_owned();
        blocking(move || plain::truncate(&path, bytes)).await
    }

    async fn remove(&self, path: &Path) -> Result<(), ShardsError> {
        let path = path.to_owned();
        blocking(move || fs::remove_file(&path).map_err(ShardsError::io("remove", &path))).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), ShardsError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || fs::rename(&from, &to).map_err(ShardsError::io("rename", &from))).await
    }

    async fn sync_directory(&self, folder: &Path) -> Result<(), ShardsError> {
        let folder = folder.to_owned();
        blocking(move || plain::sync_directory(&folder)).await
    }
}

/// Runs what blocks on the executor's helper thread.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ShardsError> + Send + 'static,
) -> Result<T, ShardsError> {
    glommio::executor().spawn_blocking(call).await
}
