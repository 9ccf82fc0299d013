//! A disk by blocking calls: for what happens outside executors, and under the slow calls of
//! those that run inside.
//!
//! *Invariants*: files are made with mode 0600 and symbolic links are not followed.
//!
//! *Not here*: the log of a shard that serves (`ring`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::error::ShardsError;

/// How long recovery waits for writes of a dead process to reach the disk.
const GHOST_WRITES_WAIT: Duration = Duration::from_secs(30);

/// A disk whose calls block.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainDisk;

/// A file that is open.
#[derive(Clone, Debug)]
pub struct PlainFile {
    path: Rc<Path>,
    file: Rc<File>,
}

impl PlainFile {
    fn new(path: &Path, file: File) -> Self {
        Self { path: Rc::from(path), file: Rc::new(file) }
    }
}

impl Disk for PlainDisk {
    type File = PlainFile;
    type Held = File;

    async fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, ShardsError> {
        list(folder)
    }

    async fn create(&self, path: &Path, _bytes: u64) -> Result<PlainFile, ShardsError> {
        let file = options().create(true).truncate(true).open(path);
        let file = file.map_err(ShardsError::io("create", path))?;
        lock(&file).map_err(ShardsError::io("lock", path))?;
        Ok(PlainFile::new(path, file))
    }

    async fn open(&self, path: &Path) -> Result<PlainFile, ShardsError> {
        let file = options().write(false).open(path).map_err(ShardsError::io("open", path))?;
        Ok(PlainFile::new(path, file))
    }

    async fn write(&self, file: &PlainFile, offset: u64, bytes: &[u8]) -> Result<(), ShardsError> {
        file.file.write_all_at(bytes, offset).map_err(ShardsError::io("write", &*file.path))
    }

    async fn sync(&self, file: &PlainFile) -> Result<(), ShardsError> {
        file.file.sync_data().map_err(ShardsError::io("sync", &*file.path))
    }

    async fn read(
        &self,
        file: &PlainFile,
        offset: u64,
        bytes: usize,
    ) -> Result<Rc<[u8]>, ShardsError> {
        let mut buffer = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            let read = file.file.read_at(&mut buffer[filled..], offset + filled as u64);
            match read.map_err(ShardsError::io("read", &*file.path))? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(Rc::from(&buffer[..filled]))
    }

    async fn close(&self, file: PlainFile) {
        drop(file);
    }

    async fn hold(&self, path: &Path) -> Result<File, ShardsError> {
        hold(path)
    }

    async fn load(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, ShardsError> {
        load(path, bytes_max)
    }

    async fn size(&self, path: &Path) -> Result<u64, ShardsError> {
        size(path)
    }

    async fn truncate(&self, path: &Path, bytes: u64) -> Result<(), ShardsError> {
        truncate(path, bytes)
    }

    async fn remove(&self, path: &Path) -> Result<(), ShardsError> {
        fs::remove_file(path).map_err(ShardsError::io("remove", path))
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), ShardsError> {
        fs::rename(from, to).map_err(ShardsError::io("rename", from))
    }

    async fn sync_directory(&self, folder: &Path) -> Result<(), ShardsError> {
        sync_directory(folder)
    }
}

/// Everything in a folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, ShardsError> {
    let entries = fs::read_dir(folder).map_err(ShardsError::io("list", folder))?;
    entries.map(|entry| Ok(entry.map_err(ShardsError::io("list", folder))?.path())).collect()
}

/// Opens a file and takes its lock as soon as no write of a dead process is under way.
pub(crate) fn hold(path: &Path) -> Result<File, ShardsError> {
    let file = options().open(path).map_err(ShardsError::io("open", path))?;
    let started = Instant::now();
    loop {
        let Err(error) = lock(&file) else { return Ok(file) };
        let busy = error.kind() == io::ErrorKind::WouldBlock;
        if !busy || started.elapsed() > GHOST_WRITES_WAIT {
            return Err(ShardsError::io("lock", path)(error));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first bytes of a file.
pub(crate) fn load(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ShardsError> {
    let file = options().write(false).open(path).map_err(ShardsError::io("open", path))?;
    let size = file.metadata().map_err(ShardsError::io("read", path))?.len();
    let mut bytes = Vec::with_capacity(size.min(bytes_max) as usize);
    file.take(bytes_max).read_to_end(&mut bytes).map_err(ShardsError::io("read", path))?;
    Ok(bytes)
}

/// Writes a file durably; its name is not durable yet.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ShardsError> {
    let file = options().create(true).truncate(true).open(path);
    let file = file.map_err(ShardsError::io("create", path))?;
    file.write_all_at(bytes, 0).map_err(ShardsError::io("write", path))?;
    file.sync_all().map_err(ShardsError::io("sync", path))
}

/// Bytes of a file.
pub(crate) fn size(path: &Path) -> Result<u64, ShardsError> {
    Ok(fs::symlink_metadata(path).map_err(ShardsError::io("read", path))?.len())
}

/// Cuts a file off, durably.
pub(crate) fn truncate(path: &Path, bytes: u64) -> Result<(), ShardsError> {
    let file = options().open(path).map_err(ShardsError::io("open", path))?;
    file.set_len(bytes).map_err(ShardsError::io("truncate", path))?;
    file.sync_all().map_err(ShardsError::io("sync", path))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), ShardsError> {
    let directory = File::open(path).map_err(ShardsError::io("open", path))?;
    directory.sync_all().map_err(ShardsError::io("sync", path))
}

/// Lets nobody but this user read an open file; glommio makes them for everybody to read.
pub(crate) fn make_private(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: fchmod takes a descriptor that is open for the length of the call.
    let made = unsafe { libc::fchmod(file.as_raw_fd(), 0o600) };
    if made == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the lock of an open file, which others hold until the last of their writes has ended.
pub(crate) fn lock(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: flock takes a descriptor that is open for the length of the call.
    let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if taken == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}
