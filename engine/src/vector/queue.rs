//! The slots that wait for the graph, first come first.
//!
//! *Invariants*: a slot in front is taken before one behind it; the turn of a slot never changes.
//!
//! *Not here*: what a slot is (`slots`).

use crate::image::{Part, Reader, Unsound, Writer};

/// Slots in front of the head that are kept before the memory is used again.
const SPENT_MAX: usize = 1024;

/// A queue that is read by turn.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    slots: Vec<u32>,
    head: u32,
    /// Turn of the first of `slots`.
    base: u64,
}

impl Part for Queue {
    const NAME: &'static str = "vector queue";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { slots, head, base } = self;
        out.pods(slots);
        out.u32(*head);
        out.u64(*base);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        Ok(Self { slots: input.pods()?, head: input.u32()?, base: input.u64()? })
    }
}

impl Queue {
    /// Slots that wait.
    pub fn len(&self) -> usize {
        self.slots.len() - self.head as usize
    }

    /// The turn of the first that waits.
    pub fn first_turn(&self) -> u64 {
        self.base + u64::from(self.head)
    }

    /// The turn that the next slot to come will have.
    pub fn end_turn(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// The slot of a turn that waits.
    #[inline]
    pub fn at(&self, turn: u64) -> u32 {
        self.slots[(turn - self.base) as usize]
    }

    /// The first that waits.
    pub fn first(&self) -> Option<u32> {
        self.slots.get(self.head as usize).copied()
    }

    /// Adds a slot.
    pub fn push(&mut self, slot: u32) {
        self.slots.push(slot);
    }

    /// Takes the first away.
    pub fn pop(&mut self) {
        assert!(self.len() > 0, "there is a first");
        self.head += 1;
        let spent = self.head as usize;
        if spent >= SPENT_MAX && spent * 2 >= self.slots.len() {
            self.slots.drain(..spent);
            self.base += spent as u64;
            self.head = 0;
        }
    }

    /// Keeps the slots that pass `keep`, in order, under new turns.
    pub fn retain(&mut self, keep: impl FnMut(&u32) -> bool) {
        let end = self.end_turn();
        self.slots.drain(..self.head as usize);
        self.head = 0;
        self.slots.retain(keep);
        self.base = end;
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }

    /// The slots that wait.
    pub fn waiting(&self) -> &[u32] {
        &self.slots[self.head as usize..]
    }

    /// Whether the head lies within.
    pub fn is_sound(&self) -> bool {
        self.head as usize <= self.slots.len() && self.base < u64::MAX / 2
    }
}
