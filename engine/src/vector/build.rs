//! The work on the graph, in slices: what is next, and how a waiting vector is taken in.
//!
//! *Invariants*: between two slices every search finds what it would find at rest; one insertion is
//! under way at a time, and it belongs to the first that waits; a slice ends within a few hundred
//! comparisons of its budget.
//!
//! *Not here*: which links are chosen (`select`), how the graph heals round vectors that went
//! (`sweep`), what is searched exactly meanwhile (`probe`).

use super::beam::{Beam, Ground, Near};
use super::codec::{Codec, Pivot};
use super::graph::{self, LEVELS_MAX};
use super::image::VectorImage;
use super::select::Selector;
use super::slots::{NONE, State};
use super::sweep::Sweeper;

/// How wide the graph is searched for the links of a new point.
const BUILD_WIDTH: usize = 128;
/// Most links that a new point chooses in the base layer; others add theirs to it later.
const OWN_LINKS: usize = 24;
/// Points of the base layer that are made in one step.
const POINTS_PER_STEP: u32 = 256;

/// What is under way, and memory that the work keeps.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    insertion: Option<Insertion>,
    sweeper: Sweeper,
    /// What insertions cost more than sweeps since both were wanted.
    balance: i64,
    beam: Beam,
    pivot: Pivot,
    /// Side of comparisons with another point than the one to be taken in.
    other: Pivot,
    selector: Selector,
    candidates: Vec<Near>,
    chosen: Vec<u32>,
}

/// One vector on its way into the graph.
#[derive(Clone, Debug)]
struct Insertion {
    slot: u32,
    level: usize,
    points: [u32; LEVELS_MAX + 1],
    /// The layer that is worked on.
    layer: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Looking for the nearest points of the layer.
    Walk,
    /// Adding the new point to the links of the chosen ones, from this one on.
    Connect(usize),
    /// Over: an equal vector was there, and its slot is shared.
    Shared,
}

impl Builder {
    /// Works for about `work` comparisons; true while more remains.
    pub fn run(&mut self, codec: &Codec, image: &mut VectorImage, flat: usize, work: u32) -> bool {
        let mut left = i64::from(work);
        while left > 0 {
            let Some(cost) = self.advance(codec, image, flat, left as usize) else { return false };
            left -= cost.max(1) as i64;
        }
        self.wants(image, flat)
    }

    /// Brings the insertion under way to its end.
    pub fn settle(&mut self, codec: &Codec, image: &mut VectorImage) {
        while self.insertion.is_some() {
            self.insert_on(codec, image, usize::MAX >> 1);
        }
    }

    /// Forgets what was under way.
    pub fn reset(&mut self) {
        self.insertion = None;
        self.sweeper.reset();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.beam.bytes() + self.sweeper.bytes()
    }

    /// The slot of the insertion under way.
    pub fn slot_under_way(&self) -> Option<u32> {
        self.insertion.as_ref().map(|insertion| insertion.slot)
    }

    fn wants(&self, image: &VectorImage, flat: usize) -> bool {
        self.insertion.is_some()
            || self.sweeper.is_under_way()
            || image.wants_insertion(flat)
            || image.wants_sweep()
    }

    /// One step of what is most urgent; its cost, or nothing where nothing is wanted.
    fn advance(
        &mut self,
        codec: &Codec,
        image: &mut VectorImage,
        flat: usize,
        work: usize,
    ) -> Option<usize> {
        let inserting = self.insertion.is_some();
        if !self.sweeper.is_under_way() && !inserting && image.wants_sweep() {
            self.sweeper.start(image);
            self.balance = 0;
        }
        let freeing = self.sweeper.is_freeing();
        let can_sweep = self.sweeper.is_under_way() && !(freeing && inserting);
        let can_insert = inserting || (!freeing && image.wants_insertion(flat));
        if can_sweep && (!can_insert || self.balance >= 0) {
            let cost = self.sweeper.advance(codec, image);
            self.balance -= cost as i64;
            return Some(cost);
        }
        if !can_insert {
            return None;
        }
        let cost = if inserting {
            self.insert_on(codec, image, work)
        } else {
            self.insert_first(codec, image)
        };
        self.balance += cost as i64;
        Some(cost)
    }

    /// Takes the first that waits on its way: finds where its layers begin.
    fn insert_first(&mut self, codec: &Codec, image: &mut VectorImage) -> usize {
        let slot = image.queue.first().expect("insertion is wanted only where one waits");
        if image.slots.state(slot) == State::Abandoned {
            image.queue.pop();
            image.abandoned -= 1;
            image.slots.release(slot);
            return 1;
        }
        if !image.graph.layers[0].extend_base(slot, POINTS_PER_STEP) {
            return POINTS_PER_STEP as usize;
        }
        image.vectors.pivot(codec, slot, &mut self.pivot);
        let mut level = graph::level(image.seed, image.draws);
        image.draws = image.draws.wrapping_add(1);
        let was_empty = image.graph.is_empty();
        if level > 0 && !was_empty && self.has_twin(codec, image, slot) {
            level = 0;
        }
        let points = image.graph.add_points(slot, level);
        let mut insertion = Insertion { slot, level, points, layer: 0, phase: Phase::Walk };
        if was_empty {
            self.finish(image, &insertion);
            return 1;
        }
        insertion.layer = level.min(image.graph.entry_layer as usize);
        let (near, compared) =
            image.graph.descend(codec, &image.vectors, &self.pivot, insertion.layer);
        self.beam.start(image.graph.layers[insertion.layer].len(), BUILD_WIDTH, BUILD_WIDTH);
        self.beam.enter(near);
        self.insertion = Some(insertion);
        compared
    }

    /// One step of the insertion under way.
    fn insert_on(&mut self, codec: &Codec, image: &mut VectorImage, work: usize) -> usize {
        let mut insertion = self.insertion.take().expect("an insertion is under way");
        let cost = match insertion.phase {
            Phase::Walk => self.walk_on(codec, image, &mut insertion, work),
            Phase::Connect(next) => self.connect_on(codec, image, &mut insertion, next),
            Phase::Shared => unreachable!("an insertion that shares a slot is over"),
        };
        if insertion.phase == Phase::Shared {
            return cost;
        }
        let connected = insertion.phase == Phase::Connect(self.chosen.len());
        if !connected {
            self.insertion = Some(insertion);
        } else if insertion.layer == 0 {
            self.finish(image, &insertion);
        } else {
            self.step_down(image, &mut insertion);
            self.insertion = Some(insertion);
        }
        cost
    }

    fn walk_on(
        &mut self,
        codec: &Codec,
        image: &mut VectorImage,
        insertion: &mut Insertion,
        work: usize,
    ) -> usize {
        let layer = &image.graph.layers[insertion.layer];
        let ground = Ground { codec, vectors: &image.vectors, layer };
        let before = self.beam.compared;
        let over = self.beam.walk(&ground, &self.pivot, work);
        let walked = self.beam.compared - before;
        if !over {
            return walked;
        }
        if insertion.level == 0 && self.share(codec, image, insertion.slot) {
            insertion.phase = Phase::Shared;
            return walked;
        }
        let layer = &image.graph.layers[insertion.layer];
        let ground = Ground { codec, vectors: &image.vectors, layer };
        let point = insertion.points[insertion.layer];
        self.candidates.clear();
        let live = |near: &&Near| {
            let slot = layer.slot(near.point());
            near.point() != point && slot != NONE && image.slots.is_live(slot)
        };
        self.candidates.extend(self.beam.found.iter().filter(live));
        let itself = ground.closeness(&self.pivot, point);
        let limit = OWN_LINKS.min(layer.links_max());
        self.selector.start();
        self.selector.choose(&ground, &self.candidates, point, itself, limit);
        self.chosen.clear();
        self.chosen.extend_from_slice(&self.selector.chosen);
        image.graph.layers[insertion.layer].set_links(point, &self.chosen);
        insertion.phase = Phase::Connect(0);
        walked + self.selector.compared
    }

    /// Whether the greedy way down ends at a vector equal to that of `slot`: such a one needs no
    /// points in upper layers.
    fn has_twin(&self, codec: &Codec, image: &VectorImage, slot: u32) -> bool {
        let (near, _) = image.graph.descend(codec, &image.vectors, &self.pivot, 0);
        let layer = &image.graph.layers[0];
        let ground = Ground { codec, vectors: &image.vectors, layer };
        let nearest = graph::greedy(&ground, &self.pivot, near, &mut 0);
        image.vectors.are_equal(codec, nearest.point(), slot)
    }

    /// Lets the node of `slot` share a slot that the walk found and that holds an equal vector; also
    /// ends the way of a slot that was abandoned on it.
    fn share(&mut self, codec: &Codec, image: &mut VectorImage, slot: u32) -> bool {
        if image.slots.state(slot) == State::Pending {
            let equal = |near: &&Near| {
                let point = near.point();
                image.slots.can_share(point) && image.vectors.are_equal(codec, point, slot)
            };
            let Some(twin) = self.beam.found.iter().find(equal) else { return false };
            image.slots.share(slot, twin.point());
        } else {
            image.abandoned -= 1;
        }
        image.queue.pop();
        image.slots.release(slot);
        true
    }

    /// Adds the new point to the links of one chosen point.
    fn connect_on(
        &mut self,
        codec: &Codec,
        image: &mut VectorImage,
        insertion: &mut Insertion,
        next: usize,
    ) -> usize {
        insertion.phase = Phase::Connect(next + 1);
        let (point, to) = (self.chosen[next], insertion.points[insertion.layer]);
        let layer = &mut image.graph.layers[insertion.layer];
        if layer.links(point).contains(&to) || layer.push_link(point, to) {
            return 1;
        }
        let layer = &image.graph.layers[insertion.layer];
        let ground = Ground { codec, vectors: &image.vectors, layer };
        image.vectors.pivot(codec, layer.slot(point), &mut self.other);
        self.candidates.clear();
        for &link in layer.links(point).iter().chain(&[to]) {
            if link == to || image.slots.is_live(layer.slot(link)) {
                self.candidates.push(Near::new(ground.closeness(&self.other, link), link));
            }
        }
        self.candidates.sort_unstable();
        let itself = ground.closeness(&self.other, point);
        self.selector.start();
        self.selector.choose(&ground, &self.candidates, point, itself, layer.links_max());
        image.graph.layers[insertion.layer].set_links(point, &self.selector.chosen);
        self.candidates.len() + self.selector.compared
    }

    /// Goes on in the layer below, from all that was found in this one.
    fn step_down(&mut self, image: &VectorImage, insertion: &mut Insertion) {
        let layer = &image.graph.layers[insertion.layer];
        self.candidates.clear();
        let own = insertion.points[insertion.layer];
        let used = |near: &&Near| near.point() != own && layer.slot(near.point()) != NONE;
        let below = |near: &Near| Near::new(near.closeness(), layer.below(near.point()));
        self.candidates.extend(self.beam.found.iter().filter(used).map(below));
        insertion.layer -= 1;
        insertion.phase = Phase::Walk;
        self.beam.start(image.graph.layers[insertion.layer].len(), BUILD_WIDTH, BUILD_WIDTH);
        self.candidates.iter().for_each(|&near| self.beam.enter(near));
    }

    fn finish(&mut self, image: &mut VectorImage, insertion: &Insertion) {
        let slot = insertion.slot;
        assert_eq!(image.queue.first(), Some(slot), "the first that waits was taken in");
        image.queue.pop();
        if image.slots.state(slot) == State::Pending {
            image.slots.link(slot);
        } else {
            image.abandoned -= 1;
            image.slots.bury(slot);
            image.graves.push(slot);
        }
        if image.graph.is_empty() || insertion.level > image.graph.entry_layer as usize {
            image.graph.entry = insertion.points[insertion.level];
            image.graph.entry_layer = insertion.level as u32;
        }
    }
}
