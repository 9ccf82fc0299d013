//! The vectors of one space on one shard, and the search for the nearest.
//!
//! *Invariants*: what was inserted is found by the next search; what was removed or replaced never
//! is; the same calls give the same hits on every machine.
//!
//! *Not here*: which memories a filter lets through (`metadata`), how hits become seeds (`recall`).

mod beam;
mod build;
mod codec;
mod frozen;
mod graph;
mod image;
mod kernel;
mod layer;
mod probe;
mod queue;
mod rows;
mod select;
mod slots;
mod sweep;
mod top;

pub use kernel::{Kernel, prefetch, prefetch_lines};
pub use probe::{Accept, Probe, Scope};
pub use top::Hit;

use crate::image::{self as shard_image, Part, Reader, Unsound, Writer};
use crate::limits;
use crate::model::{Metric, VectorEncoding};
use crate::node::NodeIx;
use beam::Beam;
use build::Builder;
use codec::{Codec, Encoded};
use image::VectorImage;
use slots::State;

/// Fewer vectors than this are kept without a graph, however long they are.
const FLAT_MIN: usize = 256;
/// Abandoned slots that are not worth tidying the queue.
const ABANDONED_MIN: usize = 64;

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
    /// How wide the graph is searched; `None`: as `k` and the number of vectors ask for.
    pub ef: Option<usize>,
    /// What may be found, and in which order among equals.
    pub scope: Scope<'a>,
}

/// Memory that searches of one shard share.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    beams: Vec<Beam>,
}

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

impl Part for VectorIndex {
    const NAME: &'static str = "vector index and its builder";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        // The codec stands in the tables, a builder at rest knows nothing, and generations tell
        // searches under way apart, which do not outlive the process.
        let Self { codec: _, image, builder, generation: _, changes: _ } = self;
        assert!(builder.slot_under_way().is_none(), "an index is settled before it is written");
        out.part(image);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let image: VectorImage = input.part()?;
        let unsound = || Unsound::Content("the vector index");
        let codec = image.codec(Kernel::best()).ok_or_else(unsound)?;
        shard_image::ensure(image.is_sound(&codec), "the vector index")?;
        Ok(Self { codec, image, builder: Builder::default(), generation: 0, changes: 0 })
    }
}

/// The vectors of one space on one shard.
#[derive(Clone, Debug)]
pub struct VectorIndex {
    codec: Codec,
    image: VectorImage,
    builder: Builder,
    /// Changes when slots or turns get other numbers, so that searches under way begin again.
    generation: u64,
    /// Rises with every write and every slice of building.
    changes: u64,
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
        seed: u64,
        kernel: Kernel,
    ) -> Self {
        let fits = (1..=limits::DIMENSIONS_MAX).contains(&usize::from(dimensions));
        assert!(fits, "dimensions are checked before");
        assert!(Kernel::supported().contains(&kernel), "this machine can't run the kernel");
        let codec = Codec { dimensions, metric, encoding, kernel };
        let image = VectorImage::new(&codec, seed);
        Self { codec, image, builder: Builder::default(), generation: 0, changes: 0 }
    }

    /// Ends the insertion under way: only a settled index is written into an image.
    pub fn settle(&mut self) {
        self.builder.settle(&self.codec, &mut self.image);
    }

    /// Gives `node` a vector, in place of the one it had; found from now on.
    pub fn insert(&mut self, node: NodeIx, vector: &[f32]) {
        self.changes += 1;
        let encoded = self.codec.encode(vector);
        let image = &mut self.image;
        if let Some(slot) = image.slots.slot_of(node)
            && image.vectors.holds(&self.codec, slot, &encoded)
        {
            return;
        }
        self.remove(node);
        self.store(node, &encoded);
    }

    /// Takes the vector of `node` away, if it has one; not found from now on.
    pub fn remove(&mut self, node: NodeIx) {
        self.changes += 1;
        let image = &mut self.image;
        match image.slots.unbind(node) {
            None => {}
            Some((slot, State::Linked)) => image.graves.push(slot),
            Some((_, _)) => {
                image.abandoned += 1;
                self.tidy_queue();
            }
        }
    }

    /// Whether `node` has a vector.
    pub fn contains(&self, node: NodeIx) -> bool {
        self.image.slots.slot_of(node).is_some()
    }

    /// How many nodes have a vector.
    pub fn len(&self) -> usize {
        self.image.slots.live()
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
        let Some(slot) = self.image.slots.slot_of(node) else { return false };
        self.image.vectors.decode(&self.codec, slot, out);
        true
    }

    /// The nearest `k`, found at once.
    pub fn search(&self, scratch: &mut Scratch, search: &Search<'_>) -> Vec<Hit> {
        let mut probe = self.near(scratch, search.vector, search.k, search.ef);
        while probe.step(self, &search.scope, Work(u32::MAX)) == Progress::More {}
        probe.finish(self, search.scope.keys, scratch)
    }

    /// A search for the nearest `k` in steps: through the graph, or exactly where that is faster.
    /// `ef` is how wide the graph is searched; `None`: as `k` and the number of vectors ask for.
    pub fn near(
        &self,
        scratch: &mut Scratch,
        vector: &[f32],
        k: usize,
        ef: Option<usize>,
    ) -> Probe {
        Probe::near(self.codec.query(vector), k, ef, self, scratch)
    }

    /// A search for the nearest `k` that compares every vector, in steps.
    pub fn exact(&self, vector: &[f32], k: usize) -> Probe {
        Probe::exact(self.codec.query(vector), k, self.changes)
    }

    /// The work that takes about 45 µs, the slice that keeps sockets served.
    pub fn slice(&self) -> Work {
        let line_count = self.codec.lines() as u32;
        Work((9000 / (line_count + 3)).max(8))
    }

    /// Works on the graph, within about `work`.
    pub fn build(&mut self, work: Work) -> Progress {
        self.changes += 1;
        let flat = self.flat_max();
        let more = self.builder.run(&self.codec, &mut self.image, flat, work.0);
        if !more && self.image.graph.has_points() && self.len() <= flat / 2 {
            self.flatten();
        }
        if more { Progress::More } else { Progress::Done }
    }

    /// Vectors that are searched exactly until the graph holds them.
    pub fn backlog(&self) -> usize {
        if self.image.is_flat(self.flat_max()) { 0 } else { self.image.waiting() }
    }

    /// Bytes held, by part.
    pub fn memory_bytes(&self) -> MemoryBytes {
        let image = &self.image;
        let (codes, beside) = image.vectors.bytes();
        let lists = image.queue.bytes() + image.graves.capacity() * size_of::<u32>();
        MemoryBytes {
            codes,
            slots: beside + image.slots.bytes(),
            graph: image.graph.bytes(),
            build: self.builder.bytes() + lists,
        }
    }

    /// So many vectors are kept without a graph, and compared one by one.
    pub fn flat_max(&self) -> usize {
        (2 * self.slice().0 as usize).max(FLAT_MIN)
    }

    fn store(&mut self, node: NodeIx, encoded: &Encoded) {
        let image = &mut self.image;
        let slot = image.slots.take_free().unwrap_or_else(|| {
            image.vectors.push(&self.codec);
            image.slots.push()
        });
        image.vectors.set(&self.codec, slot, encoded);
        image.slots.bind(slot, node);
        image.queue.push(slot);
    }

    /// Frees the abandoned slots of the queue where they are the larger part of it.
    fn tidy_queue(&mut self) {
        let image = &mut self.image;
        let abandoned = image.abandoned as usize;
        if abandoned < ABANDONED_MIN || abandoned * 2 < image.queue.len() {
            return;
        }
        let under_way = self.builder.slot_under_way();
        let (slots, left) = (&mut image.slots, &mut image.abandoned);
        image.queue.retain(|&slot| {
            let kept = slots.state(slot) == State::Pending || under_way == Some(slot);
            if !kept {
                slots.release(slot);
                *left -= 1;
            }
            kept
        });
        self.generation += 1;
    }

    /// Gives graph and dead slots up, where few vectors are left.
    fn flatten(&mut self) {
        let fresh = VectorImage::new(&self.codec, self.image.seed);
        let old = std::mem::replace(&mut self.image, fresh);
        self.image.draws = old.draws;
        for node in (0..old.slots.node_bound()).map(NodeIx) {
            if let Some(slot) = old.slots.slot_of(node) {
                let encoded = old.vectors.encoded(&self.codec, slot);
                self.store(node, &encoded);
            }
        }
        self.builder.reset();
        self.generation += 1;
    }
}
