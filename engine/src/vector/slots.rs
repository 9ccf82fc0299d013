//! Which slot of the index holds the vector of which nodes.
//!
//! *Invariants*: a live slot and its nodes name each other: one node, and where the graph met equal
//! vectors also those that share the slot with it; a slot is given again only when nothing in the
//! index refers to it any more.
//!
//! *Not here*: the vectors (`codec`), the graph over slots (`graph`).

use std::collections::BTreeMap;

use super::kernel::prefetch;
use super::rows::Rows;
use crate::image::{Part, Reader, Unsound, Writer};
use crate::node::NodeIx;

/// No node, or no slot.
pub const NONE: u32 = u32::MAX;

/// Most nodes that share a slot with its first: each of them is ranked when the slot is found.
const SHARERS_MAX: usize = 1023;

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// To be given.
    Free = 0,
    /// Holds a vector that is searched exactly until the graph holds it.
    Pending = 1,
    /// Holds a vector that the graph leads to.
    Linked = 2,
    /// Its vector is gone; the graph still leads through it.
    Dead = 3,
    /// Its vector was gone before the graph held it; the queue still names it.
    Abandoned = 4,
    /// Dead, and to be free when the sweep under way is over.
    Doomed = 5,
}

impl State {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [State; 6] = [
            State::Free,
            State::Pending,
            State::Linked,
            State::Dead,
            State::Abandoned,
            State::Doomed,
        ];
        ALL.get(usize::from(byte)).copied()
    }
}

/// Slots, nodes, and what is free.
#[derive(Clone, Debug)]
pub struct Slots {
    slot_of: Rows<u32>,
    node_of: Rows<u32>,
    states: Rows<u8>,
    free: Vec<u32>,
    /// By slot: the nodes that share it with its first one, where there are any.
    sharers: BTreeMap<u32, Vec<u32>>,
    /// Nodes that have a vector.
    live: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            slot_of: Rows::new(1),
            node_of: Rows::new(1),
            states: Rows::new(1),
            free: Vec::new(),
            sharers: BTreeMap::new(),
            live: 0,
        }
    }
}

impl Part for Slots {
    const NAME: &'static str = "vector slots";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { slot_of, node_of, states, free, sharers, live } = self;
        out.part(slot_of);
        out.part(node_of);
        out.part(states);
        out.pods(free);
        out.count(sharers.len());
        for (slot, nodes) in sharers {
            out.u32(*slot);
            out.pods(nodes);
        }
        out.u32(*live);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let (slot_of, node_of, states) = (input.part()?, input.part()?, input.part()?);
        let free = input.pods()?;
        let mut sharers = BTreeMap::new();
        for _ in 0..input.count()? {
            sharers.insert(input.u32()?, input.pods()?);
        }
        Ok(Self { slot_of, node_of, states, free, sharers, live: input.u32()? })
    }
}

impl Slots {
    /// Nodes that have a vector.
    pub fn live(&self) -> usize {
        self.live as usize
    }

    /// One more than the largest node that ever had a vector.
    pub fn node_bound(&self) -> u32 {
        self.slot_of.len() as u32
    }

    /// Slots that exist.
    pub fn len(&self) -> u32 {
        self.states.len() as u32
    }

    /// The live slot of a node.
    #[inline]
    pub fn slot_of(&self, node: NodeIx) -> Option<u32> {
        if node.index() >= self.slot_of.len() {
            return None;
        }
        Some(self.slot_of.get(node.0)).filter(|&slot| slot != NONE)
    }

    /// The first node of a live slot.
    #[inline]
    pub fn node_of(&self, slot: u32) -> NodeIx {
        NodeIx(self.node_of.get(slot))
    }

    /// All nodes of a live slot.
    pub fn nodes_of(&self, slot: u32) -> impl Iterator<Item = NodeIx> {
        let shared = if self.sharers.is_empty() { None } else { self.sharers.get(&slot) };
        let sharers = shared.map_or(&[][..], Vec::as_slice);
        std::iter::once(self.node_of(slot)).chain(sharers.iter().map(|&node| NodeIx(node)))
    }

    /// Asks for what [`Self::state`] and [`Self::node_of`] read.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        prefetch(self.states.row(slot));
        prefetch(self.node_of.row(slot));
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// What a slot is.
    #[inline]
    pub fn state(&self, slot: u32) -> State {
        State::from_byte(self.states.get(slot)).expect("only states are written")
    }

    /// Whether a slot holds a vector that may be found.
    #[inline]
    pub fn is_live(&self, slot: u32) -> bool {
        matches!(self.state(slot), State::Pending | State::Linked)
    }

    /// A slot that was freed, to be bound next.
    pub fn take_free(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Adds a slot.
    pub fn push(&mut self) -> u32 {
        self.node_of.push(NONE);
        self.states.push(State::Free as u8)
    }

    /// Gives a free slot to a node; pending from now on.
    pub fn bind(&mut self, slot: u32, node: NodeIx) {
        assert_eq!(self.state(slot), State::Free, "a slot is bound once");
        while self.slot_of.len() <= node.index() {
            self.slot_of.push(NONE);
        }
        assert_eq!(self.slot_of.get(node.0), NONE, "a node has one slot");
        self.slot_of.set(node.0, slot);
        self.node_of.set(slot, node.0);
        self.states.set(slot, State::Pending as u8);
        self.live += 1;
    }

    /// Takes the vector of a node away; where that leaves a slot without nodes, says which, and what
    /// it was.
    pub fn unbind(&mut self, node: NodeIx) -> Option<(u32, State)> {
        let slot = self.slot_of(node)?;
        self.slot_of.set(node.0, NONE);
        self.live -= 1;
        if self.leave(slot, node) {
            return None;
        }
        let was = self.state(slot);
        let now = if was == State::Linked { State::Dead } else { State::Abandoned };
        self.node_of.set(slot, NONE);
        self.states.set(slot, now as u8);
        Some((slot, was))
    }

    /// Takes a node from those that share a slot; false where it was the only one.
    fn leave(&mut self, slot: u32, node: NodeIx) -> bool {
        let Some(sharers) = self.sharers.get_mut(&slot) else { return false };
        let first = self.node_of.get(slot);
        let place = sharers.iter().position(|&sharer| sharer == node.0);
        let left = match place {
            Some(place) => sharers.swap_remove(place),
            None => sharers.pop().expect("a list of sharers is not empty"),
        };
        if sharers.is_empty() {
            self.sharers.remove(&slot);
        }
        if first == node.0 {
            self.node_of.set(slot, left);
        }
        true
    }

    /// Whether another node can share a slot.
    pub fn can_share(&self, slot: u32) -> bool {
        self.state(slot) == State::Linked
            && self.sharers.get(&slot).is_none_or(|sharers| sharers.len() < SHARERS_MAX)
    }

    /// Moves the node of a pending slot to a linked one that holds an equal vector; the pending one
    /// is abandoned.
    pub fn share(&mut self, pending: u32, linked: u32) {
        assert_eq!(self.state(pending), State::Pending, "only a pending slot is given up");
        assert!(self.can_share(linked), "the other has room");
        let node = self.node_of(pending);
        self.sharers.entry(linked).or_default().push(node.0);
        self.slot_of.set(node.0, linked);
        self.node_of.set(pending, NONE);
        self.states.set(pending, State::Abandoned as u8);
    }

    /// The graph leads to a pending slot now.
    pub fn link(&mut self, slot: u32) {
        assert_eq!(self.state(slot), State::Pending, "only a pending slot is linked");
        self.states.set(slot, State::Linked as u8);
    }

    /// The graph leads through a slot whose vector went while it was linked.
    pub fn bury(&mut self, slot: u32) {
        assert_eq!(self.state(slot), State::Abandoned, "only an abandoned slot is buried");
        self.states.set(slot, State::Dead as u8);
    }

    /// The sweep that begins will make a dead slot free.
    pub fn doom(&mut self, slot: u32) {
        let was = self.state(slot);
        assert!(matches!(was, State::Dead | State::Doomed), "only the dead are doomed");
        self.states.set(slot, State::Doomed as u8);
    }

    /// Nothing refers to a slot any more.
    pub fn release(&mut self, slot: u32) {
        assert!(!self.is_live(slot), "a live slot is kept");
        assert_ne!(self.state(slot), State::Free, "a slot is released once");
        self.states.set(slot, State::Free as u8);
        self.free.push(slot);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let lists = self.sharers.values().map(|list| list.capacity() + 8).sum::<usize>();
        let free = (self.free.capacity() + lists) * size_of::<u32>();
        self.slot_of.bytes() + self.node_of.bytes() + self.states.bytes() + free
    }

    /// Whether the tables fit each other and `rows` rows of vectors.
    pub fn is_sound(&self, rows: usize) -> bool {
        let shaped = self.slot_of.is_shaped(1, self.slot_of.len())
            && self.node_of.is_shaped(1, rows)
            && self.states.is_shaped(1, rows);
        if !shaped {
            return false;
        }
        let mut listed = vec![false; rows];
        for &slot in &self.free {
            let Some(listed) = listed.get_mut(slot as usize) else { return false };
            if std::mem::replace(listed, true) {
                return false;
            }
        }
        let mut live = 0;
        let slots_fit = (0..rows as u32).all(|slot| {
            live += self.shared_by(slot);
            listed[slot as usize] == (State::from_byte(self.states.get(slot)) == Some(State::Free))
                && self.is_slot_sound(slot)
        });
        let bound = self.node_bound();
        let named = (0..bound).filter(|&node| self.slot_of.get(node) != NONE).count();
        let lists_fit = self.sharers.keys().all(|&slot| (slot as usize) < rows);
        slots_fit && lists_fit && live == named && live == self.live()
    }

    /// How many nodes a slot claims.
    fn shared_by(&self, slot: u32) -> usize {
        let first = usize::from(self.node_of.get(slot) != NONE);
        first + self.sharers.get(&slot).map_or(0, Vec::len)
    }

    /// Whether a slot's state is one, and its nodes, each of them once, name it.
    fn is_slot_sound(&self, slot: u32) -> bool {
        let sharers = self.sharers.get(&slot);
        let sorted = sharers.map(|sharers| {
            let mut sorted = sharers.clone();
            sorted.push(self.node_of.get(slot));
            sorted.sort_unstable();
            sorted
        });
        let distinct = sorted.is_none_or(|s| s.len() > 1 && s.is_sorted_by(|a, b| a < b));
        let shares = sharers.is_some();
        match State::from_byte(self.states.get(slot)) {
            None => false,
            Some(State::Pending) => !shares && self.names(self.node_of.get(slot), slot),
            Some(State::Linked) => {
                distinct && self.nodes_of(slot).all(|node| self.names(node.0, slot))
            }
            Some(State::Free | State::Dead | State::Abandoned | State::Doomed) => {
                !shares && self.node_of.get(slot) == NONE
            }
        }
    }

    fn names(&self, node: u32, slot: u32) -> bool {
        self.slot_of(NodeIx(node)) == Some(slot)
    }
}
