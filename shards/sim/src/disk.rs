//! A disk that forgets what was not synced, tears what was under way, and fails on purpose.
//!
//! *Invariants*: what was written before a sync that succeeded survives a crash, unless the disk was
//! told to lie; of the rest each sector is lost or kept by lot. A name is durable after a sync of its
//! folder, a truncation at once.
//!
//! *Not here*: when calls end (`machine` advances the time), what is written (`engram_shards::log`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Poll;

use engram_shards::ShardsError;
use engram_shards::disk::Disk;

use crate::random::Random;

/// What a power cut keeps or loses as a whole.
const SECTOR_BYTES: usize = 512;

/// How long calls take, in microseconds, and how often they fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// A usual write.
    pub write_us: u64,
    /// A usual sync.
    pub sync_us: u64,
    /// Of a thousand writes and syncs, so many fail.
    pub fail_permille: u64,
    /// Of a thousand files that are made, so many find no room.
    pub full_permille: u64,
    /// Planted: of a thousand syncs, so many do nothing and say that they did.
    pub lying_sync_permille: u64,
    /// Planted: a sync of a folder does nothing.
    pub lying_folders: bool,
    /// Planted: cutting a file off does nothing, and syncs nothing.
    pub lying_truncate: bool,
}

/// A write that no sync has followed yet.
struct Unsynced {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct File {
    data: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

/// A call that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// Its number.
    pub call: u64,
    /// The core that waits for it.
    pub core: u16,
    /// How long it takes, in microseconds.
    pub takes_us: u64,
}

struct State {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    random: Random,
    faults: DiskFaults,
    at_once: bool,
    calls: u64,
    begun: Vec<Begun>,
    ended: BTreeSet<u64>,
    writes: u64,
    fuse: Option<u64>,
    blown: bool,
}

/// The disk as one core reaches it.
#[derive(Clone)]
pub struct SimDisk {
    state: Rc<RefCell<State>>,
    core: u16,
}

/// A file that is open.
#[derive(Clone, Debug)]
pub struct SimFile {
    file: usize,
    path: Rc<Path>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64, faults: DiskFaults) -> Self {
        let state = State {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            random: Random::new(seed),
            faults,
            at_once: false,
            calls: 0,
            begun: Vec::new(),
            ended: BTreeSet::new(),
            writes: 0,
            fuse: None,
            blown: false,
        };
        Self { state: Rc::new(RefCell::new(state)), core: 0 }
    }

    /// The same disk for another core.
    pub fn of_core(&self, core: u16) -> Self {
        Self { state: self.state.clone(), core }
    }

    /// From now on calls end at once, or when [`SimDisk::end`] says so.
    pub fn set_at_once(&self, at_once: bool) {
        self.state.borrow_mut().at_once = at_once;
    }

    /// The call that changes something after so many others fails, and all that follow.
    pub fn set_fuse(&self, fuse: Option<u64>) {
        self.state.borrow_mut().fuse = fuse;
    }

    /// The power went before the fuse was taken out again.
    pub fn is_blown(&self) -> bool {
        self.state.borrow().blown
    }

    /// Calls that were begun since it was asked last.
    pub fn take_begun(&self) -> Vec<Begun> {
        std::mem::take(&mut self.state.borrow_mut().begun)
    }

    /// A call ends.
    pub fn end(&self, call: u64) {
        self.state.borrow_mut().ended.insert(call);
    }

    /// The process dies, the kernel lives: what was written is there, and still not durable.
    pub fn kill(&self) {
        let mut state = self.state.borrow_mut();
        state.begun.clear();
        state.ended.clear();
        (state.fuse, state.blown) = (None, false);
    }

    /// The power is cut.
    pub fn cut(&self) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        state.begun.clear();
        state.ended.clear();
        (state.fuse, state.blown) = (None, false);
        let kept_permille = [0, 1000, 500, 500, 900, 100][state.random.index(6)];
        for file in &mut state.files {
            for write in std::mem::take(&mut file.unsynced) {
                let sectors = write.bytes.chunks(SECTOR_BYTES).enumerate();
                for (at, sector) in sectors {
                    if state.random.permille(kept_permille) {
                        put(&mut file.durable, write.offset + at * SECTOR_BYTES, sector);
                    }
                }
            }
            file.data.clone_from(&file.durable);
        }
        let changed: BTreeSet<PathBuf> =
            state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for name in changed {
            let (now, then) = (state.names.get(&name), state.durable_names.get(&name));
            if now == then || !state.random.permille(500) {
                continue;
            }
            match now.copied() {
                Some(file) => drop(state.durable_names.insert(name, file)),
                None => drop(state.durable_names.remove(&name)),
            }
        }
        state.names.clone_from(&state.durable_names);
        let named: BTreeSet<usize> = state.names.values().copied().collect();
        let files = state.files.iter_mut().enumerate();
        // Nobody has them open any more.
        files.filter(|(at, _)| !named.contains(at)).for_each(|(_, file)| *file = File::default());
    }

    /// Flips one bit of what lies in a file, now and after any crash.
    pub fn flip_bit(&self, path: &Path, byte: usize, bit: u8) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(file) = state.names.get(path) else { return };
        let file = &mut state.files[*file];
        for bytes in [&mut file.data, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// Files in a folder.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let state = self.state.borrow();
        state.names.keys().filter(|name| name.parent() == Some(folder)).cloned().collect()
    }

    /// Every file.
    pub fn names(&self) -> Vec<PathBuf> {
        self.state.borrow().names.keys().cloned().collect()
    }

    /// Waits for about so long.
    pub async fn pause(&self, usual_us: u64) {
        let passed = self.pass(Path::new(""), usual_us, false).await;
        passed.expect("waiting changes nothing");
    }

    /// True so many times of a thousand.
    pub fn chance(&self, of_thousand: u64) -> bool {
        self.state.borrow_mut().random.permille(of_thousand)
    }

    /// Waits for the time that a call takes.
    async fn pass(&self, path: &Path, usual_us: u64, changes: bool) -> Result<(), ShardsError> {
        let call = {
            let mut state = self.state.borrow_mut();
            if changes && state.fuse == Some(0) {
                state.blown = true;
                return Err(failed("reach", path));
            }
            if changes && let Some(left) = &mut state.fuse {
                *left -= 1;
            }
            state.calls += 1;
            let call = state.calls;
            if state.at_once {
                return Ok(());
            }
            let takes_us = state.random.delay(usual_us.max(1));
            state.begun.push(Begun { call, core: self.core, takes_us });
            call
        };
        poll_fn(|_| match self.state.borrow_mut().ended.remove(&call) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        Ok(())
    }

    fn file_of(&self, path: &Path) -> Result<usize, ShardsError> {
        let state = self.state.borrow();
        state.names.get(path).copied().ok_or_else(|| failed("find", path))
    }

    fn fails(&self) -> bool {
        self.draw(|faults| faults.fail_permille)
    }

    /// Whether something happens that does so many times of a thousand, but never during a start.
    fn draw(&self, permille: impl Fn(&DiskFaults) -> u64) -> bool {
        let mut state = self.state.borrow_mut();
        let permille = permille(&state.faults);
        permille > 0 && !state.at_once && state.random.permille(permille)
    }
}

fn failed(what: &'static str, path: &Path) -> ShardsError {
    let source = io::Error::other("the simulated disk fails");
    ShardsError::Io { what, path: path.to_owned(), source }
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Disk for SimDisk {
    type File = SimFile;
    type Held = ();

    async fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, ShardsError> {
        Ok(self.files(folder))
    }

    async fn create(&self, path: &Path, bytes: u64) -> Result<SimFile, ShardsError> {
        self.pass(path, 50, true).await?;
        let is_full = self.draw(|faults| faults.full_permille);
        let mut state = self.state.borrow_mut();
        let bytes = if is_full { 0 } else { bytes };
        let room = vec![0; usize::try_from(bytes).expect("segments are small here")];
        let file = File { data: room.clone(), durable: room, unsynced: Vec::new() };
        state.files.push(file);
        let file = state.files.len() - 1;
        state.names.insert(path.to_owned(), file);
        if is_full {
            // As it is with a real one: the file is there, and the room is not.
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(ShardsError::Io { what: "allocate", path: path.to_owned(), source });
        }
        Ok(SimFile { file, path: Rc::from(path) })
    }

    async fn open(&self, path: &Path) -> Result<SimFile, ShardsError> {
        let file = self.file_of(path)?;
        Ok(SimFile { file, path: Rc::from(path) })
    }

    async fn write(&self, file: &SimFile, offset: u64, bytes: &[u8]) -> Result<(), ShardsError> {
        {
            let mut state = self.state.borrow_mut();
            state.writes += 1;
            let number = state.writes;
            let offset = usize::try_from(offset).expect("segments are small here");
            let file = &mut state.files[file.file];
            put(&mut file.data, offset, bytes);
            file.unsynced.push(Unsynced { number, offset, bytes: bytes.to_vec() });
        }
        let usual = self.state.borrow().faults.write_us;
        self.pass(&file.path, usual, true).await?;
        if self.fails() { Err(failed("write", &file.path)) } else { Ok(()) }
    }

    async fn sync(&self, file: &SimFile) -> Result<(), ShardsError> {
        let (usual, before) = {
            let state = self.state.borrow();
            (state.faults.sync_us, state.writes)
        };
        self.pass(&file.path, usual, true).await?;
        if self.fails() {
            return Err(failed("sync", &file.path));
        }
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let lies = state.faults.lying_sync_permille;
        if lies > 0 && state.random.permille(lies) {
            return Ok(());
        }
        let file = &mut state.files[file.file];
        let (synced, rest) =
            std::mem::take(&mut file.unsynced).into_iter().partition(|w| w.number <= before);
        file.unsynced = rest;
        let synced: Vec<Unsynced> = synced;
        for write in synced {
            put(&mut file.durable, write.offset, &write.bytes);
        }
        Ok(())
    }

    async fn read(
        &self,
        file: &SimFile,
        offset: u64,
        bytes: usize,
    ) -> Result<Rc<[u8]>, ShardsError> {
        self.pass(&file.path, 40, false).await?;
        let state = self.state.borrow();
        let data = &state.files[file.file].data;
        let from = usize::try_from(offset).expect("segments are small here").min(data.len());
        Ok(Rc::from(&data[from..(from + bytes).min(data.len())]))
    }

    async fn close(&self, _file: SimFile) {}

    async fn hold(&self, _path: &Path) -> Result<(), ShardsError> {
        Ok(())
    }

    async fn load(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, ShardsError> {
        let file = self.file_of(path)?;
        let state = self.state.borrow();
        let data = &state.files[file].data;
        let bytes = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(data.len());
        Ok(data[..bytes].to_vec())
    }

    async fn size(&self, path: &Path) -> Result<u64, ShardsError> {
        let file = self.file_of(path)?;
        Ok(self.state.borrow().files[file].data.len() as u64)
    }

    async fn truncate(&self, path: &Path, bytes: u64) -> Result<(), ShardsError> {
        self.pass(path, 50, true).await?;
        let file = self.file_of(path)?;
        let bytes = usize::try_from(bytes).expect("segments are small here");
        let mut state = self.state.borrow_mut();
        if state.faults.lying_truncate {
            return Ok(());
        }
        let file = &mut state.files[file];
        for write in std::mem::take(&mut file.unsynced) {
            put(&mut file.durable, write.offset, &write.bytes);
        }
        file.data.truncate(bytes);
        file.durable.truncate(bytes);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), ShardsError> {
        self.pass(path, 50, true).await?;
        if self.fails() {
            return Err(failed("remove", path));
        }
        self.file_of(path)?;
        self.state.borrow_mut().names.remove(path);
        Ok(())
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), ShardsError> {
        self.pass(from, 50, true).await?;
        if self.fails() {
            return Err(failed("rename", from));
        }
        let file = self.file_of(from)?;
        let mut state = self.state.borrow_mut();
        state.names.remove(from);
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    async fn sync_directory(&self, folder: &Path) -> Result<(), ShardsError> {
        self.pass(folder, 100, true).await?;
        if self.fails() {
            return Err(failed("sync", folder));
        }
        let mut state = self.state.borrow_mut();
        if state.faults.lying_folders {
            return Ok(());
        }
        let within = |name: &PathBuf| name.parent() == Some(folder);
        let here: Vec<(PathBuf, usize)> = {
            let names = state.names.iter().filter(|(name, _)| within(name));
            names.map(|(name, file)| (name.clone(), *file)).collect()
        };
        state.durable_names.retain(|name, _| !within(name));
        state.durable_names.extend(here);
        Ok(())
    }
}
