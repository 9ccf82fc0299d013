//! One layer of the graph: points and the links between them.
//!
//! *Invariants*: a list of links holds each point once, never its own, live entries first and
//! [`NONE`] behind them; in the base layer a point is a slot; in the layers above it names its slot
//! and itself in the layer below.
//!
//! *Not here*: which links are made (`select`, `build`), the walk along them (`beam`).

use super::kernel::prefetch_lines;
use super::rows::{Line, Rows};
use super::slots::NONE;
use crate::image::{Part, Reader, Unsound, Writer};

/// Most links of a point in the base layer.
pub const BASE_LINKS: usize = 32;
/// Most links of a point in a layer above.
pub const UPPER_LINKS: usize = 16;
/// Links that one cache line holds.
const LINKS_PER_LINE: usize = 16;
/// A line of absent links.
const NO_LINKS: Line = Line([0xff; 64]);

/// Points and their links.
#[derive(Clone, Debug)]
pub struct Layer {
    links: Rows<Line>,
    /// By point, above the base: its slot, [`NONE`] where it is free.
    slots: Rows<u32>,
    /// By point, above the base: itself in the layer below.
    below: Rows<u32>,
    free: Vec<u32>,
    is_base: bool,
}

impl Part for Layer {
    const NAME: &'static str = "vector layer";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { links, slots, below, free, is_base } = self;
        out.part(links);
        out.part(slots);
        out.part(below);
        out.pods(free);
        out.u8(u8::from(*is_base));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        Ok(Self {
            links: input.part()?,
            slots: input.part()?,
            below: input.part()?,
            free: input.pods()?,
            is_base: input.u8()? == 1,
        })
    }
}

impl Layer {
    /// The base layer, without points.
    pub fn base() -> Self {
        Self::new(BASE_LINKS, true)
    }

    /// A layer above the base, without points.
    pub fn upper() -> Self {
        Self::new(UPPER_LINKS, false)
    }

    fn new(links: usize, is_base: bool) -> Self {
        Self {
            links: Rows::new(links / LINKS_PER_LINE),
            slots: Rows::new(1),
            below: Rows::new(1),
            free: Vec::new(),
            is_base,
        }
    }

    /// Points, free ones included.
    pub fn len(&self) -> u32 {
        self.links.len() as u32
    }

    /// Most links of a point.
    pub fn links_max(&self) -> usize {
        self.links.width() * LINKS_PER_LINE
    }

    /// Adds at most `step` points to the base layer, so that it comes to hold `slot`: whether it
    /// does.
    pub fn extend_base(&mut self, slot: u32, step: u32) -> bool {
        assert!(self.is_base);
        let end = (slot + 1).min(self.len() + step);
        while self.len() < end {
            self.links.push(NO_LINKS);
        }
        slot < self.len()
    }

    /// Adds a point above the base.
    pub fn add(&mut self, slot: u32, below: u32) -> u32 {
        assert!(!self.is_base);
        let point = self.free.pop().unwrap_or_else(|| {
            self.slots.push(NONE);
            self.below.push(NONE);
            self.links.push(NO_LINKS)
        });
        self.slots.set(point, slot);
        self.below.set(point, below);
        point
    }

    /// Takes all links of a point away, and above the base the point itself.
    pub fn release(&mut self, point: u32) {
        self.links.row_mut(point).fill(NO_LINKS);
        if !self.is_base {
            self.slots.set(point, NONE);
            self.below.set(point, NONE);
            self.free.push(point);
        }
    }

    /// The slot of a point.
    #[inline]
    pub fn slot(&self, point: u32) -> u32 {
        if self.is_base { point } else { self.slots.get(point) }
    }

    /// Whether a point of an upper layer is to be given.
    pub fn is_free(&self, point: u32) -> bool {
        !self.is_base && self.slots.get(point) == NONE
    }

    /// The point in the layer below.
    pub fn below(&self, point: u32) -> u32 {
        self.below.get(point)
    }

    /// The links of a point.
    #[inline]
    pub fn links(&self, point: u32) -> &[u32] {
        let row: &[u32] = bytemuck::cast_slice(self.links.row(point));
        let count = row.iter().position(|&link| link == NONE).unwrap_or(row.len());
        &row[..count]
    }

    /// The whole row of links of a point, absent ones included.
    fn row(&self, point: u32) -> &[u32] {
        bytemuck::cast_slice(self.links.row(point))
    }

    /// Asks for the links of a point before they are read.
    #[inline]
    pub fn prefetch(&self, point: u32) {
        prefetch_lines(self.links.start(point), self.links.width());
    }

    /// The slots of some points, in `room` where they are not the points themselves.
    #[inline]
    pub fn slots<'a>(&self, points: &'a [u32], room: &'a mut [u32; BASE_LINKS]) -> &'a [u32] {
        if self.is_base {
            return points;
        }
        room.iter_mut().zip(points).for_each(|(slot, &point)| *slot = self.slots.get(point));
        &room[..points.len()]
    }

    /// Adds a link where there is room, and says whether there was.
    pub fn push_link(&mut self, from: u32, to: u32) -> bool {
        assert_ne!(from, to, "a point does not lead to itself");
        let row: &mut [u32] = bytemuck::cast_slice_mut(self.links.row_mut(from));
        let Some(room) = row.iter().position(|&link| link == NONE) else { return false };
        row[room] = to;
        true
    }

    /// Replaces all links of a point.
    pub fn set_links(&mut self, from: u32, links: &[u32]) {
        assert!(links.len() <= self.links_max());
        let row: &mut [u32] = bytemuck::cast_slice_mut(self.links.row_mut(from));
        row.fill(NONE);
        row[..links.len()].copy_from_slice(links);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let free = self.free.capacity() * size_of::<u32>();
        self.links.bytes() + self.slots.bytes() + self.below.bytes() + free
    }

    /// Whether every link leads to a point of this layer and every point of an upper layer to a
    /// slot below `slots` and a point of `under`.
    pub fn is_sound(&self, slots: usize, under: Option<&Self>) -> bool {
        let points = self.links.len();
        let (links, named) = match under {
            None => (BASE_LINKS, 0),
            Some(_) => (UPPER_LINKS, points),
        };
        let shaped = self.links.is_shaped(links / LINKS_PER_LINE, points)
            && self.slots.is_shaped(1, named)
            && self.below.is_shaped(1, named)
            && self.is_base == under.is_none()
            && (under.is_some() || points <= slots);
        shaped
            && self.is_free_sound()
            && (0..points as u32).all(|p| self.is_point_sound(p, slots, under))
    }

    fn is_free_sound(&self) -> bool {
        let mut seen = vec![false; self.links.len()];
        self.free.iter().all(|&point| {
            let fresh = seen.get_mut(point as usize).is_some_and(|s| !std::mem::replace(s, true));
            fresh && !self.is_base && self.slots.get(point) == NONE
        })
    }

    fn is_point_sound(&self, point: u32, slots: usize, under: Option<&Self>) -> bool {
        let row = self.row(point);
        let links = self.links(point);
        let listed = links.iter().all(|&link| link < self.len() && link != point)
            && row[links.len()..].iter().all(|&link| link == NONE);
        let Some(under) = under else { return listed };
        let (slot, below) = (self.slots.get(point), self.below.get(point));
        if slot == NONE {
            return listed && links.is_empty() && below == NONE;
        }
        listed && (slot as usize) < slots && below < under.len() && under.slot(below) == slot
    }
}
