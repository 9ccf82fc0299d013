//! A search that runs in steps, so that it never holds the core for long.
//!
//! *Invariants*: an exact search looks at every memory that had a vector from the first step to the
//! last, whatever is written between the steps; any other search compares what waits for the graph,
//! all of it, and falls back to an exact one where the graph yields too little; the hits carry the
//! scores of the vectors that are there at the end.
//!
//! *Not here*: the order of hits (`top`), the walk (`beam`).

use super::beam::{Beam, Ground};
use super::codec::Pivot;
use super::image::VectorImage;
use super::kernel::prefetch;
use super::slots::State;
use super::top::{Hit, Top};
use super::{Progress, Scratch, VectorIndex, Work};
use crate::limits;
use crate::node::NodeIx;

/// How many rows ahead of the comparison are asked for.
const ROWS_AHEAD: usize = 8;
/// How wide the graph is searched at least.
const EF_MIN: usize = 64;
/// Points up to which that is enough; with each doubling it gets wider by [`EF_STEP`].
const EF_POINTS: usize = 1 << 17;
/// See [`EF_POINTS`].
const EF_STEP: usize = 32;
/// Comparisons along the graph for each point that is kept, about.
const COMPARED_PER_POINT: usize = 16;
/// Memories that are asked whether they may be found, in the time of one comparison.
const TESTS_PER_COMPARISON: usize = 12;

/// What a search may find.
#[derive(Clone, Copy)]
pub enum Accept<'a> {
    /// Every memory.
    All,
    /// These, each named once: all of them are compared.
    Only(&'a [NodeIx]),
    /// Those that pass a test.
    Where {
        /// The test; the same answer for the same node during one search.
        test: &'a dyn Fn(NodeIx) -> bool,
        /// About how many memories pass it: it decides what is faster, never what is found.
        estimate: usize,
    },
}

impl Accept<'_> {
    fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    #[inline]
    fn passes(&self, node: NodeIx) -> bool {
        match self {
            Self::All | Self::Only(_) => true,
            Self::Where { test, .. } => test(node),
        }
    }
}

/// What every step of a search is told anew.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// By node: what orders memories of equal score on every shard alike (a hash of the id).
    pub keys: &'a [u64],
    /// What may be found; the same in every step of one search.
    pub accept: Accept<'a>,
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Probe {
    query: Pivot,
    k: usize,
    ef: usize,
    phase: Phase,
    /// What the comparison of vectors one by one brought.
    top: Top,
    /// What the graph brought.
    found: Top,
    /// Exact: nodes, or places in the list of accepted ones, below this were looked at. Waiting:
    /// the turns below this.
    cursor: u64,
    /// That of the index when the search began.
    generation: u64,
    /// Changes of the index until the search began: without further ones the hits stand as they are.
    changes: u64,
    /// Comparisons along the graph after which an exact search is the cheaper one.
    walk_max: usize,
    beam: Option<Beam>,
    /// Vectors compared one by one, or in walks that were given up.
    compared: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was looked at; what is best is not decided.
    Start,
    /// Comparing one by one.
    Exact,
    /// Comparing what waits for the graph.
    Waiting,
    /// Walking through the graph, of which everything may be found.
    Walk,
    /// Walking through the graph, of which only some may be found.
    WalkWhere,
    /// Over.
    Done,
}

impl Probe {
    pub(super) fn exact(query: Pivot, k: usize, changes: u64) -> Self {
        Self::new(query, k, 0, None, Phase::Exact, changes)
    }

    pub(super) fn near(
        query: Pivot,
        k: usize,
        ef: Option<usize>,
        index: &VectorIndex,
        scratch: &mut Scratch,
    ) -> Self {
        let points = index.len();
        let doublings = (points / EF_POINTS).checked_ilog2().unwrap_or(0) as usize;
        let wide = EF_MIN + EF_STEP * doublings;
        let ef = ef.unwrap_or(wide).max(narrowest(k)).min(limits::VECTOR_EF_MAX.max(k));
        let mut beam = scratch.beams.pop().unwrap_or_default();
        beam.start(0, 0, 0);
        Self::new(query, k, ef, Some(beam), Phase::Start, index.changes)
    }

    fn new(
        query: Pivot,
        k: usize,
        ef: usize,
        beam: Option<Beam>,
        phase: Phase,
        changes: u64,
    ) -> Self {
        let mut top = Top::default();
        top.reset(k);
        let phase = if k == 0 { Phase::Done } else { phase };
        Self {
            query,
            k,
            ef,
            phase,
            top,
            found: Top::default(),
            cursor: 0,
            generation: 0,
            changes,
            walk_max: 0,
            beam,
            compared: 0,
        }
    }

    /// Looks on, within about `work`.
    pub fn step(&mut self, index: &VectorIndex, scope: &Scope<'_>, work: Work) -> Progress {
        let mut left = work.0 as usize;
        let in_graph = matches!(self.phase, Phase::Waiting | Phase::Walk | Phase::WalkWhere);
        if in_graph && self.generation != index.generation {
            self.phase = Phase::Start;
        }
        loop {
            let before = self.phase;
            match self.phase {
                Phase::Start => self.decide(index, scope),
                Phase::Exact => self.compare_all(index, scope, &mut left),
                Phase::Waiting => self.compare_waiting(index, scope, &mut left),
                Phase::Walk => self.walk(index, scope, &mut left),
                Phase::WalkWhere => self.walk_where(index, scope, &mut left),
                Phase::Done => return Progress::Done,
            }
            if left == 0 && self.phase == before {
                return Progress::More;
            }
        }
    }

    /// How many vectors were compared so far.
    pub fn compared(&self) -> usize {
        self.compared + self.beam.as_ref().map_or(0, |beam| beam.compared)
    }

    /// The hits, best first.
    pub fn finish(mut self, index: &VectorIndex, keys: &[u64], scratch: &mut Scratch) -> Vec<Hit> {
        scratch.beams.extend(self.beam.take());
        if self.changes == index.changes {
            self.top.absorb(&mut self.found);
            return self.top.drain();
        }
        let mut nodes: Vec<NodeIx> = self.top.drain().iter().map(|hit| hit.node).collect();
        nodes.extend(self.found.drain().iter().map(|hit| hit.node));
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            if let Some(slot) = index.image.slots.slot_of(node) {
                let closeness = index.image.vectors.closeness(&index.codec, &self.query, slot);
                self.top.push(index.codec.score(closeness), keys[node.index()], node);
            }
        }
        self.top.drain()
    }

    /// Chooses between the graph and the comparison of all that is accepted.
    fn decide(&mut self, index: &VectorIndex, scope: &Scope<'_>) {
        let live = index.image.slots.live();
        let nodes = index.image.slots.node_bound() as usize;
        let (exact, walk) = match scope.accept {
            Accept::Only(_) => (0, 1),
            Accept::All => (live, 0),
            Accept::Where { estimate, .. } => {
                let accepted = estimate.clamp(1, live.max(1));
                let points = self.ef_where(scope);
                let walk = points.saturating_mul(COMPARED_PER_POINT).saturating_mul(live);
                (accepted + nodes / TESTS_PER_COMPARISON, walk / accepted)
            }
        };
        self.walk_max = exact.max(4 * self.ef * COMPARED_PER_POINT);
        self.top.reset(self.k);
        self.found.reset(0);
        self.cursor = 0;
        if walk > exact || index.image.graph.is_empty() {
            self.phase = Phase::Exact;
            return;
        }
        self.generation = index.generation;
        self.cursor = index.image.queue.first_turn();
        self.phase = Phase::Waiting;
    }

    fn compare_all(&mut self, index: &VectorIndex, scope: &Scope<'_>, left: &mut usize) {
        let total = match scope.accept {
            Accept::Only(nodes) => nodes.len(),
            Accept::All | Accept::Where { .. } => index.image.slots.node_bound() as usize,
        };
        let start = self.cursor as usize;
        let end = total.min(start.saturating_add(*left));
        for place in start..end {
            let node = match scope.accept {
                Accept::Only(nodes) => nodes[place],
                Accept::All | Accept::Where { .. } => NodeIx(place as u32),
            };
            if scope.accept.is_all()
                && let Some(ahead) = index.image.slots.slot_of(NodeIx((place + ROWS_AHEAD) as u32))
            {
                index.image.vectors.prefetch(ahead);
            }
            if let Some(slot) = index.image.slots.slot_of(node)
                && scope.accept.passes(node)
            {
                self.compare(index, scope, node, slot);
            }
        }
        *left -= end.saturating_sub(start);
        self.cursor = end.max(start) as u64;
        if end >= total {
            self.phase = Phase::Done;
        }
    }

    fn compare_waiting(&mut self, index: &VectorIndex, scope: &Scope<'_>, left: &mut usize) {
        self.compare_queue(index, scope, left);
        if self.cursor < index.image.queue.end_turn() {
            return;
        }
        self.enter(index, scope, !scope.accept.is_all());
    }

    fn compare_queue(&mut self, index: &VectorIndex, scope: &Scope<'_>, left: &mut usize) {
        let queue = &index.image.queue;
        self.cursor = self.cursor.max(queue.first_turn());
        while self.cursor < queue.end_turn() && *left > 0 {
            let slot = queue.at(self.cursor);
            self.cursor += 1;
            *left -= 1;
            if index.image.slots.state(slot) != State::Pending {
                continue;
            }
            let node = index.image.slots.node_of(slot);
            if scope.accept.passes(node) {
                self.compare(index, scope, node, slot);
            }
        }
    }

    fn compare(&mut self, index: &VectorIndex, scope: &Scope<'_>, node: NodeIx, slot: u32) {
        self.compared += 1;
        let closeness = index.image.vectors.closeness(&index.codec, &self.query, slot);
        let score = index.codec.score(closeness);
        if self.top.admits(score) {
            self.top.push(score, scope.keys[node.index()], node);
        }
    }

    /// Goes down to the base layer, where the walk starts.
    fn enter(&mut self, index: &VectorIndex, scope: &Scope<'_>, only_some: bool) {
        let image = &index.image;
        if image.graph.is_empty() {
            self.phase = Phase::Done;
            return;
        }
        let (near, _) = image.graph.descend(&index.codec, &image.vectors, &self.query, 0);
        let with_spare = |count: usize| count + spare(count, image);
        let (width, kept) = if only_some {
            (self.ef_where(scope), self.ef_where(scope))
        } else {
            (with_spare(self.ef), with_spare(self.ef.max(self.k)))
        };
        let beam = self.beam.get_or_insert_default();
        self.compared += beam.compared;
        let points = image.graph.layers[0].len();
        beam.start(points, width, kept);
        if only_some {
            beam.enter_where(near);
            self.phase = Phase::WalkWhere;
        } else {
            beam.enter(near);
            self.phase = Phase::Walk;
        }
    }

    /// How many accepted points a walk keeps: fewer, where it also goes through others, which widen
    /// it.
    fn ef_where(&self, scope: &Scope<'_>) -> usize {
        if scope.accept.is_all() { self.ef.max(self.k) } else { (self.ef / 2).max(self.k) }
    }

    fn walk(&mut self, index: &VectorIndex, scope: &Scope<'_>, left: &mut usize) {
        let beam = self.beam.get_or_insert_default();
        let before = beam.compared;
        let over = beam.walk(&index.base_ground(), &self.query, *left);
        *left = left.saturating_sub(beam.compared - before);
        if !over {
            return;
        }
        self.collect(index, scope);
        let wanted = self.k.min(index.image.linked());
        if self.found.len() < wanted {
            self.enter(index, scope, true);
            return;
        }
        self.end_walk(index, scope);
    }

    fn walk_where(&mut self, index: &VectorIndex, scope: &Scope<'_>, left: &mut usize) {
        let beam = self.beam.get_or_insert_default();
        let before = beam.compared;
        let slots = &index.image.slots;
        let accept = |slot: u32| {
            slots.state(slot) == State::Linked
                && slots.nodes_of(slot).any(|node| scope.accept.passes(node))
        };
        let over = beam.walk_where(&index.base_ground(), &self.query, &accept, *left);
        *left = left.saturating_sub(beam.compared - before);
        if !over && beam.compared < self.walk_max {
            return;
        }
        self.collect(index, scope);
        if !over || self.found.len() < self.k {
            self.top.reset(self.k);
            self.found.reset(0);
            self.cursor = 0;
            self.phase = Phase::Exact;
            return;
        }
        self.end_walk(index, scope);
    }

    /// Takes over the memories that the walk found.
    fn collect(&mut self, index: &VectorIndex, scope: &Scope<'_>) {
        let slots = &index.image.slots;
        self.found.reset(self.k);
        let best = &self.beam.get_or_insert_default().found;
        // Each is a step from slot to node to key, and none of them is near another.
        best.iter().for_each(|near| slots.prefetch(near.point()));
        for near in best {
            let node = slots.node_of(near.point()).index();
            scope.keys.get(node).into_iter().for_each(|key| prefetch(std::slice::from_ref(key)));
        }
        for near in best {
            let score = index.codec.score(near.closeness());
            if slots.state(near.point()) != State::Linked || !self.found.admits(score) {
                continue;
            }
            for node in slots.nodes_of(near.point()).filter(|&node| scope.accept.passes(node)) {
                self.found.push(score, scope.keys[node.index()], node);
            }
        }
    }

    /// Compares what came to wait during the walk.
    fn end_walk(&mut self, index: &VectorIndex, scope: &Scope<'_>) {
        let mut all = usize::MAX;
        self.compare_queue(index, scope, &mut all);
        self.phase = Phase::Done;
    }
}

/// How many more points a walk needs for `count` that are alive: twice as many as are dead among as
/// many.
fn spare(count: usize, image: &VectorImage) -> usize {
    let dead = image.graves.len();
    (2 * count * dead).div_ceil(image.linked() + dead)
}

/// How narrow a walk for `k` may be: what it only met on its way makes up for the rest.
fn narrowest(k: usize) -> usize {
    5 * k / 8
}

impl VectorIndex {
    fn base_ground(&self) -> Ground<'_> {
        Ground {
            codec: &self.codec,
            vectors: &self.image.vectors,
            layer: &self.image.graph.layers[0],
        }
    }
}
