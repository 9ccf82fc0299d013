//! The sweep that heals the graph round the vectors that went, and gives their slots back.
//!
//! *Invariants*: a sweep is about the graves that were there when it began; no point is linked to
//! one of those meanwhile; once every layer is mended no link leads to them, and only then they are
//! released, while no insertion is under way.
//!
//! *Not here*: when a sweep begins and what runs beside it (`build`). The idea of mending links by
//! what lies behind the dead is that of FreshDiskANN (Singh and others, 2021).

use super::beam::{Ground, Met, Near};
use super::codec::{Codec, Pivot};
use super::image::VectorImage;
use super::layer::BASE_LINKS;
use super::select::Selector;
use super::slots::{NONE, State};

/// Most candidates for the links that stand in for those to doomed points.
const CANDIDATES_MAX: usize = 4 * BASE_LINKS;
/// Most doomed points that are looked behind for one point.
const THROUGH_MAX: usize = 8 * BASE_LINKS;
/// Graves that are marked, or points that are looked over, in one step.
const STEP: u32 = 32;

/// A sweep, where one is under way, and memory that sweeps keep.
#[derive(Clone, Debug, Default)]
pub struct Sweeper {
    stage: Option<Stage>,
    /// Graves that the sweep is about: the first so many.
    doomed: usize,
    met: Met,
    pivot: Pivot,
    selector: Selector,
    candidates: Vec<Near>,
    through: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Marking the graves, from this one on.
    Doom(usize),
    /// Replacing links to doomed points: layer, and the next point in it.
    Mend(usize, u32),
    /// Releasing doomed points of an upper layer: layer, and the next point in it.
    FreePoints(usize, u32),
    /// Releasing doomed slots.
    FreeSlots,
}

impl Sweeper {
    /// Begins a sweep.
    pub fn start(&mut self, image: &VectorImage) {
        self.doomed = image.graves.len();
        self.stage = Some(Stage::Doom(0));
    }

    /// Forgets the sweep under way.
    pub fn reset(&mut self) {
        self.stage = None;
    }

    /// Whether a sweep is under way.
    pub fn is_under_way(&self) -> bool {
        self.stage.is_some()
    }

    /// Whether it releases points: no insertion may be under way.
    pub fn is_freeing(&self) -> bool {
        matches!(self.stage, Some(Stage::FreePoints(..) | Stage::FreeSlots))
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.met.bytes()
    }

    /// One step; its cost.
    pub fn advance(&mut self, codec: &Codec, image: &mut VectorImage) -> usize {
        let stage = self.stage.expect("a sweep is under way");
        let (next, cost) = match stage {
            Stage::Doom(grave) => (self.doom_on(image, grave), 4),
            Stage::Mend(layer, point) => self.mend_on(codec, image, layer, point),
            Stage::FreePoints(layer, point) => (free_points(image, layer, point), 4),
            Stage::FreeSlots => (self.free_slots(image), 4),
        };
        self.stage = next;
        cost
    }

    fn doom_on(&self, image: &mut VectorImage, grave: usize) -> Option<Stage> {
        let end = self.doomed.min(grave + STEP as usize);
        for &slot in &image.graves[grave..end] {
            image.slots.doom(slot);
        }
        let top = image.graph.layers.len() - 1;
        Some(if end < self.doomed { Stage::Doom(end) } else { Stage::Mend(top, 0) })
    }

    /// Mends the next points of a layer.
    fn mend_on(
        &mut self,
        codec: &Codec,
        image: &mut VectorImage,
        layer: usize,
        mut point: u32,
    ) -> (Option<Stage>, usize) {
        let mut cost = 1;
        let mut looked = 0;
        while looked < STEP && cost < STEP as usize && point < image.graph.layers[layer].len() {
            cost += self.mend(codec, image, layer, point);
            point += 1;
            looked += 1;
        }
        let stage = if point < image.graph.layers[layer].len() {
            Stage::Mend(layer, point)
        } else if layer > 0 {
            Stage::Mend(layer - 1, 0)
        } else {
            leave_entry(image);
            first_to_free(image.graph.layers.len())
        };
        (Some(stage), cost)
    }

    /// Replaces the links of one point that lead to doomed ones by links to what lies behind those;
    /// the cost.
    fn mend(&mut self, codec: &Codec, image: &mut VectorImage, number: usize, point: u32) -> usize {
        let layer = &image.graph.layers[number];
        let slot = layer.slot(point);
        let is_doomed = |link: u32| image.slots.state(layer.slot(link)) == State::Doomed;
        if slot == NONE || is_doomed(point) || !layer.links(point).iter().any(|&l| is_doomed(l)) {
            return 1;
        }
        let ground = Ground { codec, vectors: &image.vectors, layer };
        image.vectors.pivot(codec, slot, &mut self.pivot);
        self.selector.start();
        for &link in layer.links(point) {
            if !is_doomed(link) {
                self.selector.hold(&ground, link);
            }
        }
        let limit = layer.links(point).len();
        self.gather(image, &ground, point);
        let itself = ground.closeness(&self.pivot, point);
        self.selector.choose(&ground, &self.candidates, point, itself, limit);
        image.graph.layers[number].set_links(point, &self.selector.chosen);
        self.candidates.len() + self.selector.compared + BASE_LINKS
    }

    /// Linked points that are reached from `point` through doomed ones only, nearest first.
    fn gather(&mut self, image: &VectorImage, ground: &Ground<'_>, point: u32) {
        let layer = ground.layer;
        let state = |link: u32| image.slots.state(layer.slot(link));
        self.met.reset(layer.len());
        self.met.is_new(point);
        self.candidates.clear();
        self.through.clear();
        self.through.push(point);
        let mut next = 0;
        while next < self.through.len().min(THROUGH_MAX) && self.candidates.len() < CANDIDATES_MAX {
            let through = self.through[next];
            next += 1;
            for &link in layer.links(through) {
                if !self.met.is_new(link) {
                    continue;
                }
                match state(link) {
                    State::Doomed => self.through.push(link),
                    State::Linked if through != point => {
                        let closeness = ground.closeness(&self.pivot, link);
                        self.candidates.push(Near::new(closeness, link));
                    }
                    State::Linked
                    | State::Pending
                    | State::Dead
                    | State::Free
                    | State::Abandoned => {}
                }
            }
        }
        self.candidates.sort_unstable();
    }

    fn free_slots(&mut self, image: &mut VectorImage) -> Option<Stage> {
        for _ in 0..STEP {
            if self.doomed == 0 {
                return None;
            }
            self.doomed -= 1;
            let slot = image.graves.swap_remove(self.doomed);
            image.graph.layers[0].release(slot);
            image.slots.release(slot);
        }
        Some(Stage::FreeSlots)
    }
}

/// Moves the entry where it is doomed.
fn leave_entry(image: &mut VectorImage) {
    let slots = &image.slots;
    if !image.graph.is_empty() && slots.state(image.graph.entry_slot()) == State::Doomed {
        image.graph.choose_entry(|slot| slots.state(slot) == State::Linked);
    }
}

fn first_to_free(layers: usize) -> Stage {
    if layers > 1 { Stage::FreePoints(layers - 1, 0) } else { Stage::FreeSlots }
}

fn free_points(image: &mut VectorImage, number: usize, point: u32) -> Option<Stage> {
    let layer = &mut image.graph.layers[number];
    let end = layer.len().min(point + STEP);
    for point in point..end {
        let slot = layer.slot(point);
        if slot != NONE && image.slots.state(slot) == State::Doomed {
            layer.release(point);
        }
    }
    Some(if end < layer.len() { Stage::FreePoints(number, end) } else { first_to_free(number) })
}
