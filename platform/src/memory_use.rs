//! How much memory this process and its control group hold at this moment.
//!
//! *Invariants*: what can't be read counts as nothing; reading allocates a few KiB and takes some
//! 50 µs, so that it can be done often.
//!
//! *Not here*: what follows from it ([`crate::MemoryBudget`]).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cgroup::{Cgroup, MemoryLimit};
use crate::heap::heap_bytes;

/// Memory that is held, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryUse {
    /// In use on the heap.
    pub heap_bytes: u64,
    /// Private pages of the process and the tables that map them: the heap with its gaps, stacks.
    pub resident_bytes: u64,
    /// Images on tmpfs.
    pub images_bytes: u64,
    /// What the tightest control group holds and can't give back at once, and its limit; without a
    /// group that has one, the same of the machine.
    pub group: Option<GroupUse>,
    /// Share of the last ten seconds in which every task of the group waited for memory, in percent
    /// (pressure stall information); 0 where the kernel does not say.
    pub stalled_percent: f32,
}

/// Memory of a control group, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupUse {
    /// Held; page cache left out.
    pub used_bytes: u64,
    /// Its limit.
    pub limit_bytes: u64,
}

/// Reads how much memory is held.
#[derive(Clone, Debug)]
pub struct MemoryGauge {
    root: PathBuf,
    group: Option<MemoryLimit>,
    images: Option<PathBuf>,
}

impl MemoryGauge {
    /// A gauge of this process; `images` is a folder on tmpfs that counts as its memory.
    pub fn new(images: Option<PathBuf>) -> Self {
        Self::below(Path::new("/"), images)
    }

    /// The same below another root, which stands in for a machine.
    pub fn below(root: &Path, images: Option<PathBuf>) -> Self {
        Self { root: root.to_owned(), group: Cgroup::read(root).memory, images }
    }

    /// Reads it.
    pub fn read(&self) -> MemoryUse {
        let status = fs::read_to_string(self.root.join("proc/self/status")).unwrap_or_default();
        let bytes = |name: &str| field_bytes(&status, name);
        MemoryUse {
            heap_bytes: heap_bytes(),
            resident_bytes: bytes("RssAnon:") + bytes("VmPTE:"),
            images_bytes: self.images.as_deref().map_or(0, folder_bytes),
            group: self.group.as_ref().map_or_else(|| self.machine_use(), group_use),
            stalled_percent: self.stalled_percent(),
        }
    }
}

impl MemoryGauge {
    fn machine_use(&self) -> Option<GroupUse> {
        let text = fs::read_to_string(self.root.join("proc/meminfo")).ok()?;
        let total = field_bytes(&text, "MemTotal:");
        let available = field_bytes(&text, "MemAvailable:");
        let used_bytes = total.saturating_sub(available);
        (total > 0).then_some(GroupUse { used_bytes, limit_bytes: total })
    }

    /// The `full` line's `avg10` of the group's `memory.pressure`, or of the machine's.
    fn stalled_percent(&self) -> f32 {
        let path = match &self.group {
            Some(group) => group.source.join("memory.pressure"),
            None => self.root.join("proc/pressure/memory"),
        };
        let text = fs::read_to_string(path).unwrap_or_default();
        let full = text.lines().find_map(|line| line.strip_prefix("full avg10="));
        full.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0)
    }
}

fn group_use(limit: &MemoryLimit) -> Option<GroupUse> {
    Some(GroupUse { used_bytes: limit.held_now_bytes(), limit_bytes: limit.limit_bytes })
}

fn field_bytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// Bytes that the files of a folder and of those below it take.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
