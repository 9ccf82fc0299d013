//! The memories that a recall has met, and what it knows of each.
//!
//! *Invariants*: a memory is met once and keeps its place; places are given in the order of meeting.
//!
//! *Not here*: what is made of them (`super`).

use crate::fixed::Activation;
use crate::key::MemoryKey;
use crate::life::Lift;
use crate::node::NodeIx;
use crate::vector::prefetch_lines;

/// What is known of a memory during a recall.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Which memory.
    pub key: MemoryKey,
    /// Direct score, 1 for the best.
    pub direct: f64,
    /// Activation that comes in the hop under way.
    pub arriving: Activation,
    /// Activation that came along links.
    pub activation: Activation,
    /// The largest part of it that came in one hop.
    pub strongest: Activation,
    /// BM25 for what the seeds lack of the cue.
    pub residual: f32,
    /// Its number on its owner, where that was told.
    pub node: NodeIx,
    /// What use does to it.
    pub lift: Lift,
    /// In which hop the largest part came.
    pub hop: u8,
    /// Is a candidate, a seed, a cue, or got enough activation: may come back.
    pub lit: bool,
    /// Sends activation.
    pub seed: bool,
    /// Is a cue itself and does not come back.
    pub cue: bool,
}

/// Slots of the smallest table.
const SLOTS_MIN: usize = 256;
/// Slots of the largest table that is kept for the next recall.
const SLOTS_KEPT_MAX: usize = 1 << 15;
/// A slot that names no cell.
const EMPTY: u64 = u64::MAX;

/// The cells, and a table that finds them by key: a slot is half a key and the place of a cell.
#[derive(Debug, Default)]
pub(crate) struct Lit {
    cells: Vec<Cell>,
    slots: Vec<u64>,
}

impl Lit {
    /// Forgets what was met; keeps the memory, unless it is much.
    pub(crate) fn clear(&mut self) {
        if self.slots.len() > SLOTS_KEPT_MAX {
            *self = Self::default();
        }
        self.cells.clear();
        self.slots.fill(EMPTY);
    }

    /// The cells in the order in which they were met.
    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// A cell by its place.
    pub(crate) fn at(&mut self, place: usize) -> &mut Cell {
        &mut self.cells[place]
    }

    /// The cell of a memory, if it was met.
    pub(crate) fn get(&self, key: MemoryKey) -> Option<&Cell> {
        if self.slots.is_empty() {
            return None;
        }
        match self.slots[self.slot(key)] {
            EMPTY => None,
            taken => Some(&self.cells[taken as u32 as usize]),
        }
    }

    /// The place of a memory's cell, made where there is none.
    #[inline]
    pub(crate) fn meet(&mut self, key: MemoryKey) -> usize {
        self.reserve(1);
        let slot = self.slot(key);
        if self.slots[slot] != EMPTY {
            return self.slots[slot] as u32 as usize;
        }
        let place = self.cells.len();
        self.slots[slot] = entry(key, place);
        self.cells.push(Cell {
            key,
            direct: 0.0,
            arriving: Activation::ZERO,
            activation: Activation::ZERO,
            strongest: Activation::ZERO,
            residual: 0.0,
            lift: Lift::default(),
            node: NodeIx::NONE,
            hop: 0,
            lit: false,
            seed: false,
            cue: false,
        });
        place
    }

    /// Asks for the slot of a memory that will be met soon; room was made for it.
    #[inline]
    pub(crate) fn prefetch(&self, key: MemoryKey) {
        let mask = self.slots.len().wrapping_sub(1);
        prefetch_lines(self.slots.as_ptr().wrapping_add(key.0 as usize & mask), 1);
    }

    /// Makes room for so many more: at least half of the slots stay empty.
    #[inline]
    pub(crate) fn reserve(&mut self, more: usize) {
        let wanted = 2 * (self.cells.len() + more);
        if wanted > self.slots.len() {
            self.grow(wanted);
        }
    }

    #[cold]
    fn grow(&mut self, wanted: usize) {
        self.slots = vec![EMPTY; wanted.next_power_of_two().max(SLOTS_MIN)];
        for place in 0..self.cells.len() {
            let key = self.cells[place].key;
            let slot = self.slot(key);
            self.slots[slot] = entry(key, place);
        }
    }

    /// The slot that names the memory's cell, else the one that would.
    #[inline]
    fn slot(&self, key: MemoryKey) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = key.0 as usize & mask;
        loop {
            let taken = self.slots[slot];
            let same = taken >> 32 == key.0 >> 32 && taken != EMPTY;
            if taken == EMPTY || same && self.cells[taken as u32 as usize].key == key {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Keys are hashes already: the lower half chooses the slot, the upper half is compared.
fn entry(key: MemoryKey, place: usize) -> u64 {
    let place = u32::try_from(place).expect("a recall meets fewer than 2^32 memories");
    key.0 >> 32 << 32 | u64::from(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recall_finds_nothing_of_the_one_that_worked_there_before() {
        let mut lit = Lit::default();
        for round in 0..3_u64 {
            let key = |at: u64| MemoryKey((at + round).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for at in 0..2_000 {
                assert!(lit.get(key(at)).is_none(), "round {round}, {at}");
                let place = lit.meet(key(at));
                lit.at(place).lit = true;
                assert_eq!((place as u64, lit.meet(key(at)) as u64), (at, at));
            }
            let slots = lit.slots.len();
            lit.clear();
            assert!(lit.cells().is_empty() && lit.slots.len() == slots);
        }
        lit.reserve(SLOTS_KEPT_MAX);
        lit.clear();
        assert!(lit.slots.is_empty(), "much is not kept");
    }
}
