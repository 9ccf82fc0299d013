//! A 64-bit hash of short byte strings that never changes.
//!
//! *Invariants*: the value depends on the bytes alone: it is written to images and compared between
//! shards, so that a change of this function is a change of format. Two words of one value count as
//! one word; among a hundred million distinct ones the chance that any two meet is 3 in 10,000.
//!
//! *Not here*: the hash that places a memory on a shard.

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hash of `bytes`.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
        state = stir(state, word);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        state = stir(state, u64::from_le_bytes(last));
    }
    finish(state)
}

/// Hash of a sequence of hashes, one step: `state` starts at 0.
pub fn hash_next(state: u64, item: u64) -> u64 {
    finish(stir(state.wrapping_add(MULTIPLIER), item))
}

fn stir(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(MULTIPLIER);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn finish(state: u64) -> u64 {
    let mixed = (state ^ (state >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed ^ (mixed >> 32)
}
