//! The walk through one layer of the graph towards a query (Malkov and Yashunin, 2016).
//!
//! *Invariants*: a point is compared once in a walk; a walk can stop after any point and go on
//! later; what is kept is ordered by [`Near`].
//!
//! *Not here*: the layers' order (`graph`), what is made of the points found (`probe`, `build`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::codec::{BATCH, Codec, Pivot, Vectors};
use super::kernel::Batch;
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

/// At most as many links as a point has.
#[derive(Clone, Debug, Default)]
struct Links {
    links: [u32; BASE_LINKS],
    count: usize,
}

impl Links {
    fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds a link where `is_wanted`: that is a toss-up, and adding it up is faster than asking.
    #[inline]
    fn push_if(&mut self, link: u32, is_wanted: bool) {
        self.links[self.count % BASE_LINKS] = link;
        self.count += usize::from(is_wanted);
    }

    #[inline]
    fn all(&self) -> &[u32] {
        &self.links[..self.count]
    }
}

/// The point that the walk most likely goes on from, [`NONE`] where there is none, and where it
/// leads: to points that were not met then, and whose vectors were asked for.
#[derive(Clone, Debug, Default)]
struct Ahead {
    point: u32,
    links: Links,
}

/// A walk and what it found.
#[derive(Clone, Debug, Default)]
pub struct Beam {
    met: Met,
    /// The nearest points, nearest first: all of them, or those accepted.
    pub found: Vec<Near>,
    /// How many of these are kept.
    kept: usize,
    /// How many of these are walked on from.
    width: usize,
    cursor: usize,
    ahead: Ahead,
    /// Points to go on from, where only some are accepted.
    frontier: BinaryHeap<Reverse<Near>>,
    /// Comparisons made by this walk.
    pub compared: usize,
}

impl Beam {
    /// Starts a walk that goes on from the nearest `width` points, and keeps `kept`, which are not
    /// fewer.
    pub fn start(&mut self, points: u32, width: usize, kept: usize) {
        assert!(width <= kept, "what is walked on from is kept");
        self.met.reset(points);
        self.found.clear();
        self.frontier.clear();
        self.ahead.point = NONE;
        self.width = width;
        self.kept = kept;
        self.cursor = 0;
        self.compared = 0;
    }

    /// A point to start from.
    pub fn enter(&mut self, near: Near) {
        if self.met.is_new(near.point()) {
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
        // The links may have changed since.
        self.ahead.point = NONE;
        while self.compared < stop {
            let unwalked = |near: &Near| !near.is_walked();
            let nearest = &self.found[..self.found.len().min(self.width)];
            let Some(further) = nearest[self.cursor.min(nearest.len())..].iter().position(unwalked)
            else {
                return true;
            };
            self.cursor += further;
            let point = self.found[self.cursor].point();
            self.found[self.cursor] = self.found[self.cursor].walked();
            let (fresh, is_asked) = self.meet(ground, point);
            self.look_ahead(ground);
            self.compare(ground, pivot, &fresh, is_asked, |beam, near| {
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
            let (fresh, is_asked) = self.meet(ground, near.point());
            self.compare(ground, pivot, &fresh, is_asked, |beam, near| {
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

    /// Finds what the walk will most likely need next: asks the processor for the links of the next
    /// point but one, and leaves the points that the next one leads to in `ahead`, whose vectors are
    /// asked for one by one while others are compared: a processor takes no more than a few requests
    /// for memory at once, and waits with the next one. Should a nearer point come between, they are
    /// still there when it is their turn.
    #[inline]
    fn look_ahead(&mut self, ground: &Ground<'_>) {
        if let Some(later) = self.found.get(self.cursor + 2) {
            ground.layer.prefetch(later.point());
        }
        self.ahead.point = NONE;
        self.ahead.links.clear();
        let Some(&next) = self.found.get(self.cursor + 1) else { return };
        if next.is_walked() {
            return;
        }
        self.ahead.point = next.point();
        for &link in ground.layer.links(next.point()) {
            self.ahead.links.push_if(link, !self.met.is_met(link));
        }
    }

    /// Meets the points that `point` leads to: those that were not met before, and whether their
    /// vectors were asked for.
    #[inline]
    fn meet(&mut self, ground: &Ground<'_>, point: u32) -> (Links, bool) {
        let is_asked = self.ahead.point == point;
        let links = if is_asked { self.ahead.links.all() } else { ground.layer.links(point) };
        let mut fresh = Links::default();
        for &link in links {
            fresh.push_if(link, self.met.is_new(link));
        }
        (fresh, is_asked)
    }

    /// Compares points, and meanwhile asks for the vectors of those ahead.
    #[inline]
    fn compare(
        &mut self,
        ground: &Ground<'_>,
        pivot: &Pivot,
        fresh: &Links,
        is_asked: bool,
        mut take: impl FnMut(&mut Self, Near),
    ) {
        let fresh = fresh.all();
        let (mut slots, mut later) = ([0u32; BASE_LINKS], [0u32; BASE_LINKS]);
        let rows = ground.layer.slots(fresh, &mut slots);
        let later = ground.layer.slots(self.ahead.links.all(), &mut later);
        let unasked = if is_asked { &[] } else { rows };
        let mut near = [0f32; BATCH];
        let batch = Batch { rows, unasked, later };
        ground.vectors.compare(ground.codec, pivot, &batch, &mut near);
        for (&closeness, &link) in near.iter().zip(fresh) {
            take(self, Near::new(closeness, link));
        }
        self.compared += fresh.len().max(1);
    }

    /// Whether a point is near enough to be kept.
    #[inline]
    fn admits(&self, near: Near) -> bool {
        self.found.len() < self.kept || self.found.last().is_some_and(|&last| near < last)
    }

    fn keep(&mut self, near: Near) {
        let place = self.found.partition_point(|&other| other < near);
        if self.found.len() >= self.kept {
            self.found.pop();
        }
        self.found.insert(place, near);
        self.cursor = self.cursor.min(place);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let found = (self.found.capacity() + self.frontier.capacity()) * size_of::<Near>();
        self.met.bytes() + found
    }
}
