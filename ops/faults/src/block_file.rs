//! The disk as a file: a FUSE file system of one file, `volume`.
//!
//! *Invariants*: the kernel caches nothing of it, so that the device sees every write when it is
//! made and every read sees the device; requests are served one at a time.
//!
//! *Not here*: what the disk does with requests (`device`), what lies on it (`volume`).

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::device::{Device, Failure, SECTOR_BYTES};

/// Name of the file.
pub const NAME: &str = "volume";
const FILE: INodeNo = INodeNo(2);
/// How long the kernel may believe attributes, which never change.
const BELIEVED: Duration = Duration::from_secs(3600);

/// The disk, from both sides: the kernel's and that of whoever makes it fail.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Device>>);

impl Disk {
    /// A disk that is not yet mounted.
    pub fn new(device: Device) -> Self {
        Self(Arc::new(Mutex::new(device)))
    }

    /// The device, between two requests.
    pub fn device(&self) -> MutexGuard<'_, Device> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power as soon as that could lose something; at the latest after a while.
    pub fn cut_when_volatile(&self, patience: Duration) {
        let started = Instant::now();
        loop {
            let mut device = self.device();
            if device.is_volatile() || started.elapsed() >= patience {
                device.cut();
                return;
            }
            drop(device);
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Serves it in a folder until the session is dropped.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn mount(&self, folder: &Path) -> io::Result<BackgroundSession> {
        fuser::spawn_mount(BlockFile(self.clone()), folder, &Config::default())
    }
}

struct BlockFile(Disk);

impl BlockFile {
    fn attributes(&self, node: INodeNo) -> FileAttr {
        let is_file = node == FILE;
        let size = if is_file { self.0.device().len() as u64 } else { 0 };
        FileAttr {
            ino: node,
            size,
            blocks: size / SECTOR_BYTES as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The device, after as long as it takes.
    fn when_due(&self) -> MutexGuard<'_, Device> {
        let late = self.0.device().lateness();
        std::thread::sleep(late);
        self.0.device()
    }
}

fn number(failure: Failure) -> Errno {
    match failure {
        Failure::Io => Errno::EIO,
        Failure::NoSpace => Errno::ENOSPC,
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("64 bits hold an offset")
}

impl Filesystem for BlockFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&BELIEVED, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&BELIEVED, &self.attributes(node));
    }

    /// Whoever makes a file system sets size and times, which stay as they are.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&BELIEVED, &self.attributes(node));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.device().read(place(offset), size as usize) {
            Ok(bytes) => reply.data(bytes),
            Err(failure) => reply.error(number(failure)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.when_due().write(place(offset), data);
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("requests are short")),
            Err(failure) => reply.error(number(failure)),
        }
    }

    /// A file is closed: nothing waits for that.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.when_due().sync();
        match synced {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(number(failure)),
        }
    }
}
