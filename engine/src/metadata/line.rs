//! The numbers and times under one key, in order.
//!
//! *Invariants*: spots ascend by number and node, in chunks none of which is empty; what is appended
//! in order fills every chunk but the last.
//!
//! *Not here*: which values have a place on the line (`value`).

use crate::node::NodeIx;

/// Most spots of a chunk: inserting moves no more than these.
const CHUNK_SPOTS: usize = 256;

/// A number and who has it, in twelve bytes that compare as these do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    high: u32,
    low: u32,
    node: u32,
}

const SIGN: u64 = 1 << 63;

impl Spot {
    /// A node at a number; of the two zeros the negative one comes first.
    pub fn new(at: f64, node: NodeIx) -> Self {
        let bits = at.to_bits();
        let ascending = if bits & SIGN == 0 { bits | SIGN } else { !bits };
        Self { high: (ascending >> 32) as u32, low: ascending as u32, node: node.0 }
    }

    /// Who has it.
    pub fn node(self) -> NodeIx {
        NodeIx(self.node)
    }

    /// The number.
    pub fn at(self) -> f64 {
        let ascending = u64::from(self.high) << 32 | u64::from(self.low);
        f64::from_bits(if ascending & SIGN == 0 { !ascending } else { ascending & !SIGN })
    }
}

/// Spots in order.
#[derive(Debug, Default)]
pub struct Line {
    chunks: Vec<Vec<Spot>>,
}

impl Line {
    /// Nobody is on it.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Adds a spot, unless it is there.
    pub fn insert(&mut self, spot: Spot) {
        let place = self.chunk_of(spot);
        let appends = place == self.chunks.len();
        let has_room = |chunk: &Vec<Spot>| chunk.len() < CHUNK_SPOTS;
        if appends && !self.chunks.last().is_some_and(has_room) {
            return self.chunks.push(vec![spot]);
        }
        let place = place.min(self.chunks.len() - 1);
        let chunk = &mut self.chunks[place];
        let Err(within) = chunk.binary_search(&spot) else { return };
        if has_room(chunk) {
            return insert(chunk, within, spot);
        }
        let mut behind = chunk.split_off(CHUNK_SPOTS / 2);
        match within.checked_sub(chunk.len()) {
            Some(within) => insert(&mut behind, within, spot),
            None => insert(chunk, within, spot),
        }
        self.chunks.insert(place + 1, behind);
    }

    /// Takes a spot away, if it is there.
    pub fn remove(&mut self, spot: Spot) {
        let place = self.chunk_of(spot);
        let Some(chunk) = self.chunks.get_mut(place) else { return };
        let Ok(within) = chunk.binary_search(&spot) else { return };
        chunk.remove(within);
        if chunk.is_empty() {
            self.chunks.remove(place);
        }
    }

    /// The spots from one to another, both included.
    pub fn range(&self, from: Spot, to: Spot) -> impl Iterator<Item = Spot> {
        let chunks = &self.chunks[self.chunk_of(from)..];
        let spots = chunks.iter().flatten().copied();
        spots.skip_while(move |spot| *spot < from).take_while(move |spot| *spot <= to)
    }

    /// All of them.
    pub fn spots(&self) -> impl Iterator<Item = Spot> {
        self.chunks.iter().flatten().copied()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let spots: usize = self.chunks.iter().map(Vec::capacity).sum();
        spots * size_of::<Spot>() + self.chunks.capacity() * size_of::<Vec<Spot>>()
    }

    /// The first chunk that ends at the spot or behind it.
    fn chunk_of(&self, spot: Spot) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| *last < spot))
    }
}

/// Inserts; grows by a quarter, since most chunks that are not full stay so.
fn insert(chunk: &mut Vec<Spot>, at: usize, spot: Spot) {
    if chunk.len() == chunk.capacity() {
        chunk.reserve_exact((chunk.len() / 4).max(4).min(CHUNK_SPOTS - chunk.len()));
    }
    chunk.insert(at, spot);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_line_holds_what_an_ordered_set_would() {
        let (mut line, mut set) = (Line::default(), BTreeSet::new());
        let mut draw = 1_u64;
        for step in 0..20_000_u32 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at =
                [(draw >> 40) as f64 - 8e6, f64::from(step), 0.0, -0.0][(draw >> 30) as usize % 4];
            let spot = Spot::new(at, NodeIx((draw >> 50) as u32 % 500));
            assert_eq!(
                (spot.at().to_bits(), spot.node().0),
                (at.to_bits(), (draw >> 50) as u32 % 500)
            );
            if (draw >> 20).is_multiple_of(3) {
                line.remove(spot);
                set.remove(&spot);
            } else {
                line.insert(spot);
                set.insert(spot);
            }
        }
        assert!(line.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_SPOTS));
        assert!(line.spots().eq(set.iter().copied()));
        for bounds in [(-9e6, -1.0), (-0.0, 0.0), (0.0, 100.5), (5.0, 4.0), (1e9, 2e9)] {
            let ends = [Spot::new(bounds.0, NodeIx(3)), Spot::new(bounds.1, NodeIx(400))];
            let wanted = set.iter().copied().filter(|spot| ends[0] <= *spot && *spot <= ends[1]);
            assert!(line.range(ends[0], ends[1]).eq(wanted), "{bounds:?}");
        }
    }

    #[test]
    fn appending_in_order_leaves_no_gaps() {
        let mut line = Line::default();
        (0..10_000_u32).for_each(|at| line.insert(Spot::new(f64::from(at), NodeIx(at))));
        assert!(line.bytes() < 10_000 * 13, "{}", line.bytes());
    }
}
