//! The 64-bit key of a memory, and which shard owns it.
//!
//! *Invariants*: a key depends on the id, the space and the secret of the data directory alone, so
//! it is the same on every shard and after every restart; equal keys with different ids are found
//! when a memory is stored and refused.
//!
//! *Not here*: the number of a memory on its shard (`node`).

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::model::{MemoryId, SpaceName};

/// Key of a memory within its space: a keyed hash of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryKey(pub u64);

/// Number of a shard, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIx(pub u16);

impl ShardIx {
    /// As an index into a table of shards.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Makes keys and finds owners.
#[derive(Clone, Copy, Debug)]
pub struct Partitioner {
    secret: [u64; 2],
    shards: u16,
}

impl Partitioner {
    /// `secret` is drawn once for a data directory, so that no client can aim at one shard.
    pub fn new(secret: [u64; 2], shards: u16) -> Self {
        assert!(shards > 0, "a server has at least one shard");
        Self { secret, shards }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The key of a memory.
    pub fn key(&self, space: &SpaceName, id: &MemoryId) -> MemoryKey {
        MemoryKey(self.hash(space.as_str(), id.as_str()))
    }

    /// The shard that owns a memory.
    pub fn owner(&self, key: MemoryKey) -> ShardIx {
        self.shard_of(key.0)
    }

    /// The shard that keeps what is not a memory but has a 64-bit name, such as a sequence.
    pub fn shard_of(&self, hash: u64) -> ShardIx {
        let shard = (u128::from(hash) * u128::from(self.shards)) >> 64;
        ShardIx(u16::try_from(shard).expect("a product shifted by 64 is below the shard count"))
    }

    fn hash(&self, space: &str, id: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.secret[0], self.secret[1]);
        hasher.write(space.as_bytes());
        hasher.write_u8(0);
        hasher.write(id.as_bytes());
        hasher.finish()
    }
}

/// Hash map from keys that are hashes already.
pub type KeyMap<V> = hashbrown::HashMap<u64, V, KeyHashBuilder>;

/// Builds [`KeyHasher`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHashBuilder;

impl std::hash::BuildHasher for KeyHashBuilder {
    type Hasher = KeyHasher;
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(0)
    }
}

/// Passes a 64-bit hash through; anything else is folded in by a multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
    fn write_u32(&mut self, value: u32) {
        self.0 = u64::from(value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
