//! The layers of the graph and the way down through them (Malkov and Yashunin, 2016).
//!
//! *Invariants*: the entry is a point of a layer that exists; every layer above the base holds a
//! sixteenth of the points of the layer below, on average.
//!
//! *Not here*: how points get in and out (`build`), the walk within a layer (`beam`).

use super::beam::{Ground, Near};
use super::codec::{Codec, Pivot, Vectors};
use super::layer::Layer;
use super::slots::{NONE, Slots};
use crate::image::{Part, Reader, Unsound, Writer};

/// Layers above the base, at most: 16 to the power of this many points is out of reach.
pub const LEVELS_MAX: usize = 8;
/// Binary logarithm of the points of a layer for each point of the layer above.
const LEVEL_SHIFT: u32 = 4;

/// The layers, the base first.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The layers; points of a layer above the entry's are not led to yet.
    pub layers: Vec<Layer>,
    /// The point where a search starts; [`NONE`] while there is none.
    pub entry: u32,
    /// Its layer.
    pub entry_layer: u32,
}

impl Default for Graph {
    fn default() -> Self {
        Self { layers: vec![Layer::base()], entry: NONE, entry_layer: 0 }
    }
}

impl Part for Graph {
    const NAME: &'static str = "vector graph";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { layers, entry, entry_layer } = self;
        out.count(layers.len());
        layers.iter().for_each(|layer| out.part(layer));
        out.u32(*entry);
        out.u32(*entry_layer);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let count = input.count()?;
        let mut layers = input.room(count);
        for _ in 0..count {
            layers.push(input.part()?);
        }
        Ok(Self { layers, entry: input.u32()?, entry_layer: input.u32()? })
    }
}

impl Graph {
    /// Whether no search can start.
    pub fn is_empty(&self) -> bool {
        self.entry == NONE
    }

    /// Whether the base layer has points, be they dead.
    pub fn has_points(&self) -> bool {
        self.layers[0].len() > 0
    }

    /// The nearest point of `layer` that a greedy walk from the entry meets, and how many
    /// comparisons that took.
    pub fn descend(
        &self,
        codec: &Codec,
        vectors: &Vectors,
        pivot: &Pivot,
        layer: usize,
    ) -> (Near, usize) {
        assert!(!self.is_empty(), "a search starts at an entry");
        let mut at = self.entry_layer as usize;
        let ground = |layer: usize| Ground { codec, vectors, layer: &self.layers[layer] };
        let mut near = Near::new(ground(at).closeness(pivot, self.entry), self.entry);
        let mut compared = 1;
        while at > layer {
            near = greedy(&ground(at), pivot, near, &mut compared);
            near = Near::new(near.closeness(), self.layers[at].below(near.point()));
            at -= 1;
        }
        (near, compared)
    }

    /// Adds the points of a slot in the layers from 1 to `level`, with layers as they are missing;
    /// by layer, the base first.
    pub fn add_points(&mut self, slot: u32, level: usize) -> [u32; LEVELS_MAX + 1] {
        let mut points = [NONE; LEVELS_MAX + 1];
        points[0] = slot;
        for layer in 1..=level {
            if layer == self.layers.len() {
                self.layers.push(Layer::upper());
            }
            points[layer] = self.layers[layer].add(slot, points[layer - 1]);
        }
        points
    }

    /// Makes the highest point whose slot passes `is_live` the entry; none: the graph is empty.
    pub fn choose_entry(&mut self, is_live: impl Fn(u32) -> bool) {
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let live = |&point: &u32| {
                let slot = layer.slot(point);
                slot != NONE && is_live(slot)
            };
            if let Some(point) = (0..layer.len()).find(live) {
                self.entry = point;
                self.entry_layer = number as u32;
                return;
            }
        }
        self.entry = NONE;
        self.entry_layer = 0;
    }

    /// The slot of the entry.
    pub fn entry_slot(&self) -> u32 {
        self.layers[self.entry_layer as usize].slot(self.entry)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Layer::bytes).sum()
    }

    /// Whether the layers and the entry fit each other and the slots.
    pub fn is_sound(&self, slots: &Slots) -> bool {
        let count = slots.len() as usize;
        if self.layers.is_empty() || self.layers.len() > LEVELS_MAX + 1 {
            return false;
        }
        let layers_fit = self.layers.iter().enumerate().all(|(number, layer)| {
            let under = number.checked_sub(1).map(|under| &self.layers[under]);
            layer.is_sound(count, under)
        });
        if !layers_fit || self.entry == NONE {
            return layers_fit && self.entry_layer == 0;
        }
        let Some(layer) = self.layers.get(self.entry_layer as usize) else { return false };
        self.entry < layer.len() && layer.slot(self.entry) != NONE
    }
}

/// The highest layer of the `draw`-th point: a draw of 16 to 1 for each layer above the base.
pub fn level(seed: u64, draw: u64) -> usize {
    let level = mix(seed ^ mix(draw)).trailing_zeros() / LEVEL_SHIFT;
    (level as usize).min(LEVELS_MAX)
}

/// Spreads a number over 64 bits (the last step of splitmix64).
pub fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The nearest point that steps from `start` to ever nearer points end at.
pub fn greedy(ground: &Ground<'_>, pivot: &Pivot, start: Near, compared: &mut usize) -> Near {
    let mut best = start;
    loop {
        let from = best.point();
        let links = ground.layer.links(from);
        links.iter().for_each(|&link| ground.vectors.prefetch(ground.layer.slot(link)));
        for &link in links {
            *compared += 1;
            best = best.min(Near::new(ground.closeness(pivot, link), link));
        }
        if best.point() == from {
            return best;
        }
    }
}
