//! Which memories have the same words, as far as a number of 64 bits for the words of each can tell.
//!
//! *Invariants*: 16 bytes for each memory; adding one and taking the next group are each work for a
//! slice, however many memories there are.
//!
//! *Not here*: what words are the same (`life::likeness`).

use crate::key::MemoryKey;

/// Memories are told apart by this many bits first, so that what is sorted at once is short.
const BUCKET_BITS: u32 = 10;

/// The memories that a run has seen, by their words.
pub(super) struct Sightings {
    buckets: Vec<Vec<(u64, MemoryKey)>>,
    /// What of the last bucket is left, sorted.
    sorted: Vec<(u64, MemoryKey)>,
}

impl Sightings {
    pub(super) fn new() -> Self {
        Self { buckets: vec![Vec::new(); 1 << BUCKET_BITS], sorted: Vec::new() }
    }

    pub(super) fn add(&mut self, fingerprint: u64, key: MemoryKey) {
        let bucket = usize::try_from(fingerprint >> (u64::BITS - BUCKET_BITS));
        self.buckets[bucket.expect("a few bits fit")].push((fingerprint, key));
    }

    /// Two or more with the same words; `None` where no bucket has any left, and no group where
    /// this one has not.
    pub(super) fn next(&mut self) -> Option<Vec<MemoryKey>> {
        while let Some((fingerprint, _)) = self.sorted.last().copied() {
            let begin = self.sorted.partition_point(|(other, _)| *other < fingerprint);
            let same = self.sorted.split_off(begin);
            if same.len() > 1 {
                return Some(same.into_iter().map(|(_, key)| key).collect());
            }
        }
        self.sorted = self.buckets.pop()?;
        self.sorted.sort_unstable();
        Some(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_with_the_same_words_comes_together() {
        let mut sightings = Sightings::new();
        for key in 0..10_000u64 {
            // Every tenth has the words of the one before it.
            let words = if key % 10 == 9 { key - 1 } else { key };
            sightings.add(words.wrapping_mul(0x9e37_79b9_7f4a_7c15), MemoryKey(key));
        }
        let mut pairs = Vec::new();
        while let Some(group) = sightings.next() {
            if !group.is_empty() {
                pairs.push((group[0].0, group[1].0, group.len()));
            }
        }
        pairs.sort_unstable();
        let wanted: Vec<(u64, u64, usize)> =
            (0..1000).map(|ten| (ten * 10 + 8, ten * 10 + 9, 2)).collect();
        assert_eq!(pairs, wanted);
    }
}
