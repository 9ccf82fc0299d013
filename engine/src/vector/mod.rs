//! The vectors of one space on one shard, and the search for the nearest.
//!
//! *Invariants*: what was inserted is found by the next search; what was removed or replaced never
//! is; the same calls give the same hits on every machine.
//!
//! *Not here*: which memories a filter lets through (`metadata`), how hits become seeds (`recall`).

mod codec;
mod kernel;
mod probe;
mod rows;
mod slots;
mod top;

pub use kernel::Kernel;
pub use probe::{Accept, Probe, Scope};
pub use top::Hit;

use crate::limits;
use crate::model::{Metric, VectorEncoding};
use crate::node::NodeIx;
use codec::{Codec, Vectors};
use slots::Slots;

/// An amount of work, in comparisons of two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work(pub u32);

/// Whether work that runs in slices is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Nothing is left.
    Done,
    /// Another slice is wanted.
    More,
}

/// A search that runs to its end at once.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    /// The query, of the index's dimensions, finite, and not zero under cosine.
    pub vector: &'a [f32],
    /// How many hits.
    pub k: usize,
    /// How wide the graph is searched; `None`: as `k` asks for.
    pub ef: Option<usize>,
    /// What may be found, and in which order among equals.
    pub scope: Scope<'a>,
}

/// Memory that searches of one shard share.
#[derive(Clone, Debug, Default)]
pub struct Scratch {}

/// Bytes that an index holds, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBytes {
    /// Elements of the vectors.
    pub codes: usize,
    /// What stands beside them: scales, slots, nodes, states.
    pub slots: usize,
    /// Links of the graph.
    pub graph: usize,
    /// Queue and scratch of the builder.
    pub build: usize,
}

/// The vectors of one space on one shard.
#[derive(Clone, Debug)]
pub struct VectorIndex {
    codec: Codec,
    vectors: Vectors,
    slots: Slots,
}

impl VectorIndex {
    /// An empty index; `seed` decides the levels of its graph.
    pub fn new(dimensions: u16, metric: Metric, encoding: VectorEncoding, seed: u64) -> Self {
        Self::with_kernel(dimensions, metric, encoding, seed, Kernel::best())
    }

    /// The same with a kernel of choice: for showing that the choice changes nothing.
    pub fn with_kernel(
        dimensions: u16,
        metric: Metric,
        encoding: VectorEncoding,
        _seed: u64,
        kernel: Kernel,
    ) -> Self {
        let fits = (1..=limits::DIMENSIONS_MAX).contains(&usize::from(dimensions));
        assert!(fits, "dimensions are checked before");
        assert!(Kernel::supported().contains(&kernel), "this machine can't run the kernel");
        let codec = Codec { dimensions, metric, encoding, kernel };
        Self { codec, vectors: Vectors::new(&codec), slots: Slots::default() }
    }

    /// Gives `node` a vector, in place of the one it had; found from now on.
    pub fn insert(&mut self, node: NodeIx, vector: &[f32]) {
        let encoded = self.codec.encode(vector);
        if let Some(slot) = self.slots.slot_of(node)
            && self.vectors.holds(&self.codec, slot, &encoded)
        {
            return;
        }
        self.remove(node);
        let slot = self.slots.take_free().unwrap_or_else(|| {
            self.vectors.push(&self.codec);
            self.slots.push()
        });
        self.vectors.set(&self.codec, slot, &encoded);
        self.slots.bind(slot, node);
    }

    /// Takes the vector of `node` away, if it has one; not found from now on.
    pub fn remove(&mut self, node: NodeIx) {
        if let Some((slot, _)) = self.slots.unbind(node) {
            self.slots.release(slot);
        }
    }

    /// Whether `node` has a vector.
    pub fn contains(&self, node: NodeIx) -> bool {
        self.slots.slot_of(node).is_some()
    }

    /// How many nodes have a vector.
    pub fn len(&self) -> usize {
        self.slots.live()
    }

    /// Whether no node has a vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of every vector.
    pub fn dimensions(&self) -> u16 {
        self.codec.dimensions
    }

    /// The vector of `node` as it is known from its codes (of length 1 under cosine): whether there
    /// is one, and its elements in `out`.
    pub fn vector(&self, node: NodeIx, out: &mut Vec<f32>) -> bool {
        out.clear();
        let Some(slot) = self.slots.slot_of(node) else { return false };
        self.vectors.decode(&self.codec, slot, out);
        true
    }

    /// The nearest `k`, found at once.
    pub fn search(&self, _scratch: &mut Scratch, search: &Search<'_>) -> Vec<Hit> {
        let mut probe = self.exact(search.vector, search.k);
        while probe.step(self, &search.scope, Work(u32::MAX)) == Progress::More {}
        probe.finish(self, search.scope.keys)
    }

    /// A search that compares every vector, in steps.
    pub fn exact(&self, vector: &[f32], k: usize) -> Probe {
        Probe::exact(self.codec.query(vector), k)
    }

    /// The work that takes about 45 µs, the slice that keeps sockets served.
    pub fn slice(&self) -> Work {
        let line_count = self.codec.lines() as u32;
        Work((9000 / (line_count + 3)).max(8))
    }

    /// Works on the graph, within about `work`.
    pub fn build(&mut self, _work: Work) -> Progress {
        Progress::Done
    }

    /// Vectors that are searched exactly until the graph holds them.
    pub fn backlog(&self) -> usize {
        0
    }

    /// Bytes held, by part.
    pub fn memory_bytes(&self) -> MemoryBytes {
        let (codes, beside) = self.vectors.bytes();
        MemoryBytes { codes, slots: beside + self.slots.bytes(), graph: 0, build: 0 }
    }
}
