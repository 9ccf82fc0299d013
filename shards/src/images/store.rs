//! Where images lie: sets of files, one of each shard, on tmpfs and on the SSD.
//!
//! *Invariants*: a file has its name only once it is whole; the last set is kept until a newer one is
//! whole; nothing is read through a symbolic link or from a folder that others may write.
//!
//! *Not here*: when a set is made (`super`), what is in it (`engram_engine::image`).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engram_engine::image::{HEADER_BYTES, Header, Unsound};
use engram_engine::shard::ShardImage;

use crate::directory::Manifest;
use crate::plain::sync_directory;

/// Where a set lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageTier {
    /// In the data directory.
    Warm,
    /// On tmpfs.
    Fast,
}

impl ImageTier {
    /// The name that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Fast => "fast",
        }
    }
}

/// A set of which every shard has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub set: u64,
    pub tier: ImageTier,
    folder: PathBuf,
}

impl Candidate {
    /// The file of a shard.
    pub fn path(&self, shard: u16) -> PathBuf {
        image_path(&self.folder, shard)
    }
}

/// Folders of sets.
#[derive(Debug)]
pub(crate) struct ImageStore {
    warm: PathBuf,
    fast: Option<PathBuf>,
}

impl ImageStore {
    /// The folders of a data directory's images; `fast` holds those of several directories. One that
    /// can't be used is done without.
    pub fn new(directory: &Path, manifest: &Manifest, fast: Option<&Path>) -> Self {
        let fast = fast.and_then(|fast| {
            let folder = fast.join(format!("engram-{:016x}", manifest.directory));
            match make_private(&folder) {
                Ok(()) => Some(folder),
                Err(error) => {
                    log::warn!("no images in {}: {error}", folder.display());
                    None
                }
            }
        });
        Self { warm: directory.join("images"), fast }
    }

    /// The folder on tmpfs.
    pub fn fast_folder(&self) -> Option<&Path> {
        self.fast.as_deref()
    }

    /// There is a folder on tmpfs.
    pub fn has_fast(&self) -> bool {
        self.fast.is_some()
    }

    fn folder(&self, tier: ImageTier) -> Option<&Path> {
        match tier {
            ImageTier::Warm => Some(&self.warm),
            ImageTier::Fast => self.fast.as_deref(),
        }
    }

    fn set_folder(&self, tier: ImageTier, set: u64) -> io::Result<PathBuf> {
        let folder = self.folder(tier).ok_or_else(|| io::Error::other("there is no fast tier"))?;
        Ok(folder.join(format!("set-{set:016x}")))
    }

    /// Every set that may be one to start from, the newest first; of equal ones the faster first.
    pub fn candidates(&self, manifest: &Manifest) -> Vec<Candidate> {
        let mut found = Vec::new();
        for tier in [ImageTier::Fast, ImageTier::Warm] {
            for (set, folder) in self.sets(tier) {
                match whole_set(&folder, set, manifest) {
                    Ok(()) => found.push(Candidate { set, tier, folder }),
                    Err(reason) => log::warn!("{} is not used: {reason}", folder.display()),
                }
            }
        }
        found.sort_by_key(|candidate| std::cmp::Reverse((candidate.set, candidate.tier)));
        found
    }

    fn sets(&self, tier: ImageTier) -> Vec<(u64, PathBuf)> {
        let folder = self.folder(tier).filter(|folder| is_private(folder).is_ok());
        let entries = folder.and_then(|folder| fs::read_dir(folder).ok());
        let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        let numbered = |path: PathBuf| {
            let number = path.file_name()?.to_str()?.strip_prefix("set-")?;
            Some((u64::from_str_radix(number, 16).ok()?, path))
        };
        paths.filter_map(numbered).collect()
    }

    /// Reads a shard's image; `progress` is kept at the share that was read, in units of 1/1000.
    ///
    /// # Errors
    /// [`Unsound`].
    pub fn read(
        candidate: &Candidate,
        shard: u16,
        progress: &AtomicU64,
    ) -> Result<(Header, ShardImage), Unsound> {
        let file = open(&image_path(&candidate.folder, shard))?;
        let bytes = file.metadata()?.len();
        ShardImage::read(&mut Watched { file, bytes, done: 0, progress })
    }

    /// Writes a shard's image, whole or not at all; its bytes.
    ///
    /// # Errors
    /// What the disk says; [`io::ErrorKind::TimedOut`] where `stop` was set meanwhile.
    pub fn write(
        &self,
        tier: ImageTier,
        header: &Header,
        image: &ShardImage,
        stop: &AtomicBool,
    ) -> io::Result<u64> {
        let (path, file) = self.begin(tier, header.set, header.shard)?;
        let mut out = Stoppable { file, bytes: 0, stop };
        let written = image.write(header, &mut out);
        let (file, bytes) = (out.file, out.bytes);
        finish(tier, &path, &file, written)?;
        Ok(bytes)
    }

    /// Copies a shard's image of a set from tmpfs to the SSD.
    ///
    /// # Errors
    /// As [`ImageStore::write`].
    pub fn copy_to_warm(&self, set: u64, shard: u16, stop: &AtomicBool) -> io::Result<()> {
        let mut from = open(&image_path(&self.set_folder(ImageTier::Fast, set)?, shard))?;
        let (path, file) = self.begin(ImageTier::Warm, set, shard)?;
        let mut out = Stoppable { file, bytes: 0, stop };
        let mut buffer = vec![0; 1 << 20];
        let copied = loop {
            match from.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    if let Err(error) = out.write_all(&buffer[..count]) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        finish(ImageTier::Warm, &path, &out.file, copied)
    }

    fn begin(&self, tier: ImageTier, set: u64, shard: u16) -> io::Result<(PathBuf, File)> {
        let folder = self.set_folder(tier, set)?;
        make_private(&folder)?;
        let path = image_path(&folder, shard);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(new_path(&path))?;
        Ok((path, file))
    }

    /// Removes all sets of a tier but one.
    pub fn keep_only(&self, tier: ImageTier, set: u64) {
        for (_, folder) in self.sets(tier).iter().filter(|(number, _)| *number != set) {
            remove_set(folder);
        }
    }

    /// Removes a set that did not become whole.
    pub fn drop_set(&self, tier: ImageTier, set: u64) {
        if let Ok(folder) = self.set_folder(tier, set)
            && folder.exists()
        {
            remove_set(&folder);
        }
    }

    /// Bytes that can be written to a tier.
    pub fn room_bytes(&self, tier: ImageTier) -> u64 {
        self.folder(tier).map_or(0, free_bytes)
    }
}

fn finish(tier: ImageTier, path: &Path, file: &File, written: io::Result<()>) -> io::Result<()> {
    let new = new_path(path);
    let durable = || match tier {
        ImageTier::Fast => Ok(()),
        ImageTier::Warm => file.sync_all(),
    };
    if let Err(error) = written.and_then(|()| durable()).and_then(|()| fs::rename(&new, path)) {
        // What is left of it has no name that anybody looks for.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    if tier == ImageTier::Warm
        && let Some(folder) = path.parent()
    {
        let synced =
            sync_directory(folder).and_then(|()| folder.parent().map_or(Ok(()), sync_directory));
        synced.map_err(io::Error::other)?;
    }
    Ok(())
}

fn remove_set(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        log::warn!("{} can't be removed: {error}", folder.display());
    }
}

fn image_path(folder: &Path, shard: u16) -> PathBuf {
    folder.join(format!("shard-{shard:04}.image"))
}

fn new_path(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Every shard has a file of the set; only the headers are read.
fn whole_set(folder: &Path, set: u64, manifest: &Manifest) -> Result<(), String> {
    is_private(folder).map_err(|error| error.to_string())?;
    for shard in 0..manifest.shards {
        let header = read_header(&image_path(folder, shard))
            .map_err(|unsound| format!("shard {shard}: {unsound}"))?;
        let ours = header.directory == manifest.directory
            && header.generation == manifest.generation
            && header.shards == manifest.shards
            && header.shard == shard
            && header.set == set;
        if !ours {
            return Err(format!("shard {shard}: it is of another directory, shard or set"));
        }
    }
    Ok(())
}

fn read_header(path: &Path) -> Result<Header, Unsound> {
    let mut bytes = [0; HEADER_BYTES];
    open(path)?.read_exact(&mut bytes)?;
    Header::read(&bytes)
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(file)
}

/// Makes a folder that only this user enters; one that is there must be such a folder.
fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Ok(()) => is_private(folder),
        Err(error) => Err(error),
    }
}

fn is_private(folder: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    if !metadata.is_dir() || metadata.uid() != user || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("it is no folder that this user alone may write"));
    }
    Ok(())
}

/// Bytes that may still be written where a path lies; 0 where that can't be told.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let existing = path.ancestors().find(|path| path.exists());
    existing.and_then(engram_platform::disk_free_bytes).unwrap_or(0)
}

/// Says how far a file was read.
struct Watched<'a> {
    file: File,
    bytes: u64,
    done: u64,
    progress: &'a AtomicU64,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        self.progress.store(self.done * 1000 / self.bytes.max(1), Ordering::Relaxed);
        Ok(count)
    }
}

/// Writes until it is told to stop.
struct Stoppable<'a> {
    file: File,
    bytes: u64,
    stop: &'a AtomicBool,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            // Not `Interrupted`, which writers take for a reason to try again.
            return Err(io::Error::new(io::ErrorKind::TimedOut, "others wait"));
        }
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
