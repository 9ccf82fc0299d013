//! A file system on the disk, mounted through a loop device.
//!
//! *Invariants*: everything that is mounted goes away with the process, which has a mount namespace
//! of its own (`ops/dev/faults`), and loop devices with what is mounted on them.
//!
//! *Not here*: the disk (`device`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fuser::BackgroundSession;

use crate::block_file::{Disk, NAME};
use crate::device::{Device, Fate};

/// Before a volume that could not be mounted is mounted once more.
const LOOP_PAUSE: Duration = Duration::from_millis(300);
/// XFS wants 300 MiB; the server keeps 32 MiB a shard free.
const DISK_BYTES: usize = 512 << 20;
/// How long a file system may be held by what a killed process had under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the disk is formatted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ext4, as mkfs makes it.
    Ext4,
    /// XFS, as mkfs makes it.
    Xfs,
}

impl Format {
    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// A disk with a file system.
pub struct Volume {
    pub disk: Disk,
    format: Format,
    file: PathBuf,
    mounted: PathBuf,
    fuse: Option<BackgroundSession>,
}

impl Volume {
    /// A new disk, formatted and mounted below `folder`, which has nothing in it.
    ///
    /// # Errors
    /// What could not be done.
    pub fn new(
        folder: &Path,
        format: Format,
        seed: u64,
        honoured_one_in: u64,
    ) -> Result<Self, String> {
        let (fuse, mounted) = (folder.join("disk"), folder.join("mounted"));
        for folder in [&fuse, &mounted] {
            fs::create_dir_all(folder).map_err(|e| format!("make {}: {e}", folder.display()))?;
        }
        let disk = Disk::new(Device::new(DISK_BYTES, seed, honoured_one_in));
        let session = disk.mount(&fuse).map_err(|e| format!("mount the disk by FUSE: {e}"))?;
        let file = fuse.join(NAME);
        let volume = Self { disk, format, file, mounted, fuse: Some(session) };
        volume.make()?;
        volume.mount()?;
        Ok(volume)
    }

    /// What it is formatted with.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where files lie.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    fn make(&self) -> Result<(), String> {
        let file = show(&self.file);
        match self.format {
            Format::Ext4 => run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", &file]),
            Format::Xfs => run("mkfs.xfs", &["-q", "-f", "-K", &file]),
        }
    }

    /// Mounts it, which replays its journal.
    ///
    /// # Errors
    /// What could not be done.
    pub fn mount(&self) -> Result<(), String> {
        let (file, mounted) = (show(&self.file), show(&self.mounted));
        let mount = || run("mount", &["-t", self.format.name(), "-o", "loop", &file, &mounted]);
        // Another process may let go of the loop device that is found, or take it, just then.
        mount().or_else(|_| {
            std::thread::sleep(LOOP_PAUSE);
            mount()
        })
    }

    /// Unmounts it, as soon as nothing is under way any more.
    ///
    /// # Errors
    /// What could not be done.
    pub fn unmount(&self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            match run("umount", &[&show(&self.mounted)]) {
                Err(_) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                ended => return ended,
            }
        }
    }

    /// The power is gone and nobody uses the volume any more: it comes back.
    ///
    /// # Errors
    /// What could not be done: a file system that can't be mounted, too.
    pub fn come_back(&self) -> Result<Fate, String> {
        self.unmount()?;
        let fate = self.disk.device().restore();
        self.mount()?;
        Ok(fate)
    }

    /// Whether the file system is whole; its journal is replayed first.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.unmount()?;
        let file = show(&self.file);
        match self.format {
            Format::Ext4 => run("e2fsck", &["-f", "-n", &file]),
            Format::Xfs => run("xfs_repair", &["-n", "-f", &file]),
        }?;
        self.mount()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("left mounted: {error}");
        }
        if let Some(fuse) = self.fuse.take() {
            // It ends with the process in any case.
            let _ignored = fuse.umount_and_join();
        }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a program that has to succeed.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let ended = Command::new(program).args(arguments).output();
    let output = ended.map_err(|e| format!("{program} can't be run: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(format!("{program} {}: {}: {said}", arguments.join(" "), output.status))
}
