//! `Idempotency-Key`: a request that is repeated, because its answer was lost, is done once.
//!
//! Nothing is remembered for it. The key decides the ids of the memories that came without one, so
//! that a repeat finds what the first request stored: on every core, after a restart, and longer
//! than the 24 hours that are promised.
//!
//! *Invariants*: the same key in the same space gives the same ids, in every version.
//!
//! *Not here*: requests without a key, whose ids are new (`uuid`).

use engram_engine::model::{Memory, MemoryId, NewMemory, SpaceName};
use engram_engine::request::{Answer, Request, Stored, With};
use http::HeaderMap;

use super::call::Call;
use super::operations::unexpected;
use super::uri::invalid;
use crate::backend::Backend;
use crate::error::{Checked, Fault, Problem};

const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 256;

/// A key in its space, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u128);

/// The key of a request, where it has one.
///
/// # Errors
/// Where it is empty, too long, or there twice.
pub fn key(headers: &HeaderMap, space: &SpaceName) -> Checked<Option<Key>> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || !(1..=KEY_BYTES_MAX).contains(&value.len()) {
        return Err(invalid(HEADER, "expected one key of 1 to 256 bytes"));
    }
    let hash = fnv_1a(FNV_OFFSET, space.as_str().as_bytes());
    Ok(Some(Key(fnv_1a(fnv_1a(hash, b"\0"), value.as_bytes()))))
}

impl Key {
    /// The id of the memory of that index: a UUID of version 8 (RFC 9562).
    pub fn memory_id(self, index: u64) -> MemoryId {
        let hash = fnv_1a(self.0, &index.to_le_bytes());
        let bits = u128::from(mixed((hash >> 64) as u64)) << 64 | u128::from(mixed(hash as u64));
        let id = format!(
            "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
            bits >> 96,
            bits >> 80 & 0xffff,
            bits >> 64 & 0xfff,
            0x8000 | bits >> 48 & 0x3fff,
            bits & 0xffff_ffff_ffff,
        );
        MemoryId::new(&id).expect("a UUID is a valid id")
    }
}

/// What the first request with this key was answered, where it stored the same memory.
///
/// # Errors
/// `refusal`, where another request stored it; and where the key came with another memory before.
pub async fn first<B: Backend>(
    call: &Call<'_, B>,
    space: SpaceName,
    again: &NewMemory,
    refusal: Box<Problem>,
) -> Checked<Stored> {
    let made_by_key = call.make_id(0) == again.id;
    let with = With { embedding: true, ..With::DEFAULT };
    let request = Request::Read { space, id: again.id.clone(), with };
    let there = match call.ask(request).await? {
        Answer::Memory(memory) => memory,
        other => unexpected(&other),
    };
    if is_same(&there, again) || made_by_key && there.updated_at > there.created_at {
        return Ok(Stored { id: there.id, created: true, created_at: there.created_at });
    }
    if made_by_key {
        let detail = "this key came with another memory before; a key is for one request";
        return Err(Problem::new(Fault::IdempotencyConflict, detail));
    }
    Err(refusal)
}

fn is_same(there: &Memory, again: &NewMemory) -> bool {
    there.content == again.content
        && there.embedding == again.embedding
        && there.metadata == again.metadata
        && there.confidence == again.confidence
}

const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

fn fnv_1a(hash: u128, bytes: &[u8]) -> u128 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The last step of `splitmix64`, which spreads each bit over all.
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_the_same_ids_in_every_version() {
        let key = Key(fnv_1a(FNV_OFFSET, b"default\0key"));
        let ids: Vec<MemoryId> = (0..1000).map(|index| key.memory_id(index)).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), 1000);
        assert_eq!(ids[0].as_str(), "71cc28b7-08c4-869b-8b4f-0748a82e2bee");
    }
}
