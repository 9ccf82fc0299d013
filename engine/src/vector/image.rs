//! The state of an index as plain tables, which are written into an image and read from one.
//!
//! *Invariants*: what [`VectorImage::is_sound`] lets pass can be searched and changed without
//! panic and without a read out of bounds; the tables hold no address and no choice of machine
//! (integers and floats are little-endian, as the machine has them).
//!
//! *Not here*: checksums (`crate::image`), files (`shards`).

use super::codec::{Codec, Vectors};
use super::graph::Graph;
use super::kernel::Kernel;
use super::queue::Queue;
use super::slots::{Slots, State};
use crate::image::{Part, Reader, Unsound, Writer};
use crate::limits;
use crate::model::{Metric, VectorEncoding};

/// Dead slots that are not worth a sweep.
const DEAD_MIN: usize = 64;
/// A sweep begins when this part of the graph's points is dead, as a divisor.
const DEAD_SHARE: usize = 20;

/// All that an index knows.
#[derive(Clone, Debug)]
pub struct VectorImage {
    dimensions: u16,
    metric: u8,
    encoding: u8,
    /// Decides the levels of points.
    pub(super) seed: u64,
    /// Levels drawn.
    pub(super) draws: u64,
    pub(super) vectors: Vectors,
    pub(super) slots: Slots,
    pub(super) graph: Graph,
    /// Slots that are searched exactly, and abandoned ones.
    pub(super) queue: Queue,
    /// How many in the queue are abandoned.
    pub(super) abandoned: u32,
    /// Slots that are dead or doomed.
    pub(super) graves: Vec<u32>,
}

impl Part for VectorImage {
    const NAME: &'static str = "vector index";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self {
            dimensions,
            metric,
            encoding,
            seed,
            draws,
            vectors,
            slots,
            graph,
            queue,
            abandoned,
            graves,
        } = self;
        out.u16(*dimensions);
        out.u8(*metric);
        out.u8(*encoding);
        out.u64(*seed);
        out.u64(*draws);
        out.part(vectors);
        out.part(slots);
        out.part(graph);
        out.part(queue);
        out.u32(*abandoned);
        out.pods(graves);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        Ok(Self {
            dimensions: input.u16()?,
            metric: input.u8()?,
            encoding: input.u8()?,
            seed: input.u64()?,
            draws: input.u64()?,
            vectors: input.part()?,
            slots: input.part()?,
            graph: input.part()?,
            queue: input.part()?,
            abandoned: input.u32()?,
            graves: input.pods()?,
        })
    }
}

impl VectorImage {
    pub(super) fn new(codec: &Codec, seed: u64) -> Self {
        Self {
            dimensions: codec.dimensions,
            metric: codec.metric as u8,
            encoding: codec.encoding as u8,
            seed,
            draws: 0,
            vectors: Vectors::new(codec),
            slots: Slots::default(),
            graph: Graph::default(),
            queue: Queue::default(),
            abandoned: 0,
            graves: Vec::new(),
        }
    }

    /// How the vectors are kept; nothing where the image names no way that exists.
    pub(super) fn codec(&self, kernel: Kernel) -> Option<Codec> {
        let metrics = [Metric::Cosine, Metric::Dot, Metric::L2];
        let encodings = [VectorEncoding::Int8, VectorEncoding::F16, VectorEncoding::F32];
        let metric = metrics.into_iter().find(|&m| m as u8 == self.metric)?;
        let encoding = encodings.into_iter().find(|&e| e as u8 == self.encoding)?;
        let fits = (1..=limits::DIMENSIONS_MAX).contains(&usize::from(self.dimensions));
        fits.then_some(Codec { dimensions: self.dimensions, metric, encoding, kernel })
    }

    /// Vectors that wait for the graph.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() - self.abandoned as usize
    }

    /// Points that the graph leads to, of which some stand for several equal vectors.
    pub(super) fn linked(&self) -> usize {
        self.slots.len() as usize - self.slots.free() - self.queue.len() - self.graves.len()
    }

    /// Whether so few vectors are there that comparing them all is as fast as a graph.
    pub(super) fn is_flat(&self, flat: usize) -> bool {
        self.graph.is_empty() && self.waiting() <= flat
    }

    pub(super) fn wants_insertion(&self, flat: usize) -> bool {
        self.queue.len() > 0 && !self.is_flat(flat)
    }

    pub(super) fn wants_sweep(&self) -> bool {
        self.graves.len() >= DEAD_MIN.max((self.linked() + self.graves.len()) / DEAD_SHARE)
    }

    /// Whether all of it can be believed.
    pub(super) fn is_sound(&self, codec: &Codec) -> bool {
        let rows = self.vectors.len();
        rows < 1 << 31
            && self.vectors.is_sound(codec)
            && self.slots.is_sound(rows)
            && self.graph.is_sound(&self.slots)
            && self.queue.is_sound()
            && self.are_lists_sound(rows)
            && self.is_graph_apart()
    }

    /// Whether queue and graves name each slot of their states once, and no other.
    fn are_lists_sound(&self, rows: usize) -> bool {
        let mut listed = vec![false; rows];
        let mut abandoned = 0;
        let waiting = self.queue.waiting().iter().map(|&slot| (slot, true));
        let dead = self.graves.iter().map(|&slot| (slot, false));
        for (slot, waits) in waiting.chain(dead) {
            let Some(seen) = listed.get_mut(slot as usize) else { return false };
            let fits = match self.slots.state(slot) {
                State::Pending => waits,
                State::Abandoned => {
                    abandoned += 1;
                    waits
                }
                State::Dead | State::Doomed => !waits,
                State::Free | State::Linked => false,
            };
            if !fits || std::mem::replace(seen, true) {
                return false;
            }
        }
        let all_listed = (0..rows as u32).all(|slot| {
            listed[slot as usize] || matches!(self.slots.state(slot), State::Free | State::Linked)
        });
        all_listed && abandoned == self.abandoned
    }

    /// Whether the graph leads only to slots that it may lead to, and to every linked one's place.
    fn is_graph_apart(&self) -> bool {
        let in_graph = |slot: u32| {
            matches!(self.slots.state(slot), State::Linked | State::Dead | State::Doomed)
        };
        let base = &self.graph.layers[0];
        let base_fits = (0..base.len()).all(|point| {
            base.links(point).iter().all(|&link| in_graph(link))
                && (in_graph(point) || base.links(point).is_empty())
        });
        let upper_fits = self.graph.layers[1..].iter().all(|layer| {
            (0..layer.len()).all(|point| {
                layer.is_free(point)
                    || (in_graph(layer.slot(point))
                        && layer.links(point).iter().all(|&link| !layer.is_free(link)))
            })
        });
        let placed = (0..self.slots.len()).all(|slot| !in_graph(slot) || slot < base.len());
        let entered = if self.graph.is_empty() {
            self.linked() == 0
        } else {
            in_graph(self.graph.entry_slot())
        };
        base_fits && upper_fits && placed && entered
    }
}
