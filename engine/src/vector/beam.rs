//! The walk through one layer of the graph towards a query (Malkov and Yashunin, 2016).
//!
//! *Invariants*: a point is compared once in a walk; a walk can stop after any point and go on
//! later; what is kept is ordered by [`Near`].
//!
//! *Not here*: the layers' order (`graph`), what is made of the points found (`probe`, `build`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::codec::{BATCH, Codec, Pivot, Vectors};
use super::kernel::prefetch;
use super::layer::{BASE_LINKS, Layer};
use super::slots::NONE;

const _: () = assert!(BASE_LINKS <= BATCH);

/// Largest point.
const POINT_MAX: u32 = (1 << 31) - 1;

/// A point and its closeness in one number: smaller is nearer, and among equals the later point, so
/// that of a crowd of equals the last ones are found and linked. The lowest bit says whether the
/// walk went on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Near(u64);

impl Near {
    /// Packs; points have 31 bits.
    #[inline]
    pub fn new(closeness: f32, point: u32) -> Self {
        let bits = closeness.to_bits();
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Self(u64::from(!ascending) << 32 | u64::from(POINT_MAX - point) << 1)
    }

    /// The point.
    #[inline]
    pub fn point(self) -> u32 {
        POINT_MAX - (self.0 as u32 >> 1)
    }

    /// Its closeness.
    #[inline]
    pub fn closeness(self) -> f32 {
        let ascending = !((self.0 >> 32) as u32);
        f32::from_bits(if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending })
    }

    fn is_walked(self) -> bool {
        self.0 & 1 == 1
    }

    fn walked(self) -> Self {
        Self(self.0 | 1)
    }
}

/// What is walked through.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// How vectors are compared.
    pub codec: &'a Codec,
    /// The vectors, by slot.
    pub vectors: &'a Vectors,
    /// The layer.
    pub layer: &'a Layer,
}

impl Ground<'_> {
    /// How near a point is.
    #[inline]
    pub fn closeness(&self, pivot: &Pivot, point: u32) -> f32 {
        self.vectors.closeness(self.codec, pivot, self.layer.slot(point))
    }
}

/// Which points were met: a mark for each, valid for one walk.
#[derive(Clone, Debug, Default)]
pub struct Met {
    marks: Vec<u8>,
    mark: u8,
}

impl Met {
    /// Unmarks every point.
    pub fn reset(&mut self, points: u32) {
        if self.marks.len() < points as usize {
            self.marks.resize(points as usize, 0);
        }
        self.mark = self.mark.wrapping_add(1);
        if self.mark == 0 {
            self.marks.fill(0);
            self.mark = 1;
        }
    }

    /// Marks a point; points that came after the walk began are left out.
    #[inline]
    pub fn is_new(&mut self, point: u32) -> bool {
        let Some(mark) = self.marks.get_mut(point as usize) else { return false };
        std::mem::replace(mark, self.mark) != self.mark
    }

    /// Whether a point was met; so is what came after the walk began.
    #[inline]
    pub fn is_met(&self, point: u32) -> bool {
        self.marks.get(point as usize).is_none_or(|&mark| mark == self.mark)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.marks.capacity()
    }
}

/// A walk and what it found.
#[derive(Clone, Debug, Default)]
pub struct Beam {
    met: Met,
    /// The nearest points, nearest first: all of them, or those accepted.
    pub found: Vec<Near>,
    /// Every point that was compared, where that is wanted.
    met_all: Vec<Near>,
    keeps_all: bool,
    width: usize,
    cursor: usize,
    /// Points to go on from, where only some are accepted.
    frontier: BinaryHeap<Reverse<Near>>,
    /// Comparisons made by this walk.
    pub compared: usize,
}

impl Beam {
    /// Starts a walk that keeps `width` points.
    pub fn start(&mut self, points: u32, width: usize) {
        self.met.reset(points);
        self.found.clear();
        self.frontier.clear();
        self.met_all.clear();
        self.keeps_all = false;
        self.width = width;
        self.cursor = 0;
        self.compared = 0;
    }

    /// Whether the points that are compared and not among the nearest `width` are kept as well.
    pub fn keep_all(&mut self, keeps_all: bool) {
        self.keeps_all = keeps_all;
    }

    /// What was found: the nearest `count` of all that was compared, where that was kept, in any
    /// order; else the nearest, nearest first.
    pub fn best(&mut self, count: usize) -> &[Near] {
        if !self.keeps_all {
            return &self.found;
        }
        if count < self.met_all.len() {
            self.met_all.select_nth_unstable(count);
            self.met_all.truncate(count);
        }
        &self.met_all
    }

    /// A point to start from.
    pub fn enter(&mut self, near: Near) {
        if self.met.is_new(near.point()) {
            self.met_all.push(near);
            self.keep(near);
        }
    }

    /// The same, where only some points are accepted; it is compared again when it is met.
    pub fn enter_where(&mut self, near: Near) {
        self.frontier.push(Reverse(near));
    }

    /// Walks on until nothing nearer is in reach or about `work` comparisons were made; true when
    /// the walk is over.
    pub fn walk(&mut self, ground: &Ground<'_>, pivot: &Pivot, work: usize) -> bool {
        let stop = self.compared + work;
        while self.compared < stop {
            while self.found.get(self.cursor).is_some_and(|near| near.is_walked()) {
                self.cursor += 1;
            }
            let Some(near) = self.found.get_mut(self.cursor) else { return true };
            let point = near.point();
            *near = near.walked();
            self.look_ahead(ground);
            self.visit(ground, pivot, point, |beam, near| {
                if beam.keeps_all {
                    beam.met_all.push(near);
                }
                if beam.admits(near) {
                    beam.keep(near);
                }
            });
        }
        false
    }

    /// The same, where only points that pass `accept` are kept; the walk leads through the others.
    pub fn walk_where(
        &mut self,
        ground: &Ground<'_>,
        pivot: &Pivot,
        accept: &dyn Fn(u32) -> bool,
        work: usize,
    ) -> bool {
        let stop = self.compared + work;
        while self.compared < stop {
            let Some(Reverse(near)) = self.frontier.pop() else { return true };
            if !self.admits(near) {
                return true;
            }
            if self.met.is_new(near.point()) && accept(near.point()) {
                self.keep(near);
            }
            self.visit(ground, pivot, near.point(), |beam, near| {
                if beam.admits(near) {
                    beam.frontier.push(Reverse(near));
                    if accept(near.point()) {
                        beam.keep(near);
                    }
                }
            });
        }
        false
    }

    /// Asks the processor for what the walk will most likely need next: the links of the next point
    /// but one, and the vectors that the next point leads to. Should a nearer point come between,
    /// they are still there when it is their turn.
    #[inline]
    fn look_ahead(&self, ground: &Ground<'_>) {
        if let Some(later) = self.found.get(self.cursor + 2) {
            prefetch(ground.layer.row(later.point()));
        }
        let Some(next) = self.found.get(self.cursor + 1) else { return };
        if next.is_walked() {
            return;
        }
        let links = ground.layer.row(next.point()).iter().take_while(|&&link| link != NONE);
        for &link in links.filter(|&&link| !self.met.is_met(link)) {
            ground.vectors.prefetch(ground.layer.slot(link));
        }
    }

    /// Compares the points that `point` leads to and were not met before.
    #[inline]
    fn visit(
        &mut self,
        ground: &Ground<'_>,
        pivot: &Pivot,
        point: u32,
        mut take: impl FnMut(&mut Self, Near),
    ) {
        let (mut fresh, mut slots) = ([0u32; BASE_LINKS], [0u32; BASE_LINKS]);
        let mut count = 0;
        for &link in ground.layer.row(point) {
            if link == NONE {
                break;
            }
            // Whether a point is new is a toss-up: adding it up is faster than asking.
            fresh[count] = link;
            slots[count] = ground.layer.slot(link);
            count += usize::from(self.met.is_new(link));
        }
        let mut near = [0f32; BATCH];
        ground.vectors.compare(ground.codec, pivot, &slots[..count], &mut near);
        for (&closeness, &link) in near.iter().zip(&fresh[..count]) {
            take(self, Near::new(closeness, link));
        }
        self.compared += count.max(1);
    }

    /// Whether a point is near enough to be kept.
    #[inline]
    fn admits(&self, near: Near) -> bool {
        self.found.len() < self.width || self.found.last().is_some_and(|&last| near < last)
    }

    fn keep(&mut self, near: Near) {
        let place = self.found.partition_point(|&other| other < near);
        if self.found.len() >= self.width {
            self.found.pop();
        }
        self.found.insert(place, near);
        self.cursor = self.cursor.min(place);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let found = self.found.capacity() + self.frontier.capacity() + self.met_all.capacity();
        let found = found * size_of::<Near>();
        self.met.bytes() + found
    }
}
