//! Records that were written or read lately, so that an answer needs no disk.
//!
//! *Invariants*: bytes held stay under the bound; what is asked for again outlives what is not.
//!
//! *Not here*: records that are not yet on disk (`log`), which are never dropped.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Where a record lies: segment and offset.
pub type CacheKey = (u32, u32);

struct Cached {
    bytes: Rc<[u8]>,
    used: bool,
}

/// A second-chance cache of the heads of records.
pub struct Cache {
    size: usize,
    bytes_max: usize,
    bytes: usize,
    records: HashMap<CacheKey, Cached>,
    order: VecDeque<CacheKey>,
}

/// Bytes that a cached record takes beside its own.
const OVERHEAD_BYTES: usize = 96;

impl Cache {
    /// An empty cache of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            size: bytes_max,
            bytes_max,
            bytes: 0,
            records: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leaves it so much of the size that it was made with, in units of 1/1000.
    pub fn resize(&mut self, permille: u16) {
        self.bytes_max = self.size / 1000 * usize::from(permille.min(1000));
        self.make_room(0);
    }

    /// A record's bytes.
    pub fn get(&mut self, key: CacheKey) -> Option<Rc<[u8]>> {
        let cached = self.records.get_mut(&key)?;
        cached.used = true;
        Some(cached.bytes.clone())
    }

    /// A record's bytes, which are not kept any more.
    pub fn take(&mut self, key: CacheKey) -> Option<Rc<[u8]>> {
        let cached = self.records.remove(&key)?;
        self.bytes -= cached.bytes.len() + OVERHEAD_BYTES;
        Some(cached.bytes)
    }

    /// Keeps a record's bytes, and lets go of others where there is no room.
    pub fn put(&mut self, key: CacheKey, bytes: Rc<[u8]>) {
        let size = bytes.len() + OVERHEAD_BYTES;
        if size > self.bytes_max / 8 {
            return;
        }
        self.make_room(size);
        let previous = self.records.insert(key, Cached { bytes, used: false });
        match previous {
            Some(old) => self.bytes -= old.bytes.len() + OVERHEAD_BYTES,
            None => self.order.push_back(key),
        }
        self.bytes += size;
    }

    /// Lets go of records until `size` more bytes fit.
    fn make_room(&mut self, size: usize) {
        while self.bytes + size > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            let used = self.records.get_mut(&oldest).map(|c| std::mem::take(&mut c.used));
            match used {
                Some(true) => self.order.push_back(oldest),
                Some(false) => {
                    if let Some(gone) = self.records.remove(&oldest) {
                        self.bytes -= gone.bytes.len() + OVERHEAD_BYTES;
                    }
                }
                None => {}
            }
        }
    }
}
