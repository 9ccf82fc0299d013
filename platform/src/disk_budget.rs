//! Whether the disk of a folder has room for more.
//!
//! *Invariants*: pure but for [`disk_free_bytes`]; with hysteresis, as the memory budget.
//!
//! *Not here*: obeying (`shards`).

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The budget of a disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskBudget {
    reserve_bytes: u64,
    writes: bool,
}

impl DiskBudget {
    /// Keeps so many bytes free of writes.
    pub fn new(reserve_bytes: u64) -> Self {
        Self { reserve_bytes, writes: true }
    }

    /// Whether writes may go on with so many bytes free.
    pub fn decide(&mut self, free_bytes: u64) -> bool {
        let mark = if self.writes { self.reserve_bytes } else { self.reserve_bytes / 4 * 5 };
        self.writes = free_bytes >= mark;
        self.writes
    }

    /// Bytes that are left before writes are refused.
    pub fn headroom_bytes(&self, free_bytes: u64) -> u64 {
        free_bytes.saturating_sub(self.reserve_bytes)
    }
}

/// Bytes of the file system below a folder that this user may still fill; `None` where it does not
/// say.
pub fn disk_free_bytes(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte and `stat` is valid for a write.
    let code = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so that it filled `stat`.
    let stat = unsafe { stat.assume_init() };
    Some(stat.f_bavail * stat.f_frsize)
}

/// A folder whose files are in memory.
pub fn is_tmpfs(folder: &Path) -> bool {
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends with a zero byte and `stat` is valid for a write.
    let code = unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) };
    // SAFETY: the call succeeded, so that it filled `stat`.
    code == 0 && unsafe { stat.assume_init() }.f_type == libc::TMPFS_MAGIC
}
