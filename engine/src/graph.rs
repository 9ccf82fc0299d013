//! The nodes of one space on one shard, and the links between them.
//!
//! *Invariants*: a node is a memory that this shard owns, a memory of which it only knows that
//! something links to it (a ghost), or the stand-in of another shard's memory (a remote node). Every
//! link that touches an owned node stands with its source, and its source with its target; a link
//! is live exactly while its target exists.
//!
//! *Not here*: what a memory holds (`space`), activation (`spread`).

mod lists;

use std::sync::Arc;

use hashbrown::HashTable;
use thin_vec::ThinVec;

use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::key::MemoryKey;
use crate::limits;
use crate::model::LinkKind;
use crate::node::{self, NodeIx};
use crate::request::{Code, Rejection};
use crate::vector::{prefetch, prefetch_lines};

use lists::Lists;

/// Number of a link kind in one space on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindIx(pub u16);

const LIVE: u16 = 0x8000;
const AUTOMATIC: u16 = 0x4000;
const KIND: u16 = 0x3FFF;
const _: () = assert!(limits::LINK_KINDS_MAX <= KIND as usize + 1);

/// One end of a link, as the node at its other end holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Edge {
    /// The other end.
    pub node: NodeIx,
    /// Weight in units of 1 / [`crate::fixed::WEIGHT_ONE`].
    pub weight: u16,
    tag: u16,
}

impl Edge {
    fn new(node: NodeIx, weight: u16, name: EdgeName, live: bool) -> Self {
        Self { node, weight, tag: name.tag() | if live { LIVE } else { 0 } }
    }

    /// Its kind.
    pub fn kind(self) -> KindIx {
        KindIx(self.tag & KIND)
    }

    /// Made by the server.
    pub fn is_automatic(self) -> bool {
        self.tag & AUTOMATIC != 0
    }

    /// Its target exists; kept on edges in `out` only.
    pub fn is_live(self) -> bool {
        self.tag & LIVE != 0
    }

    fn name(self) -> EdgeName {
        EdgeName { kind: self.kind(), automatic: self.is_automatic() }
    }
}

/// What tells two links between the same two nodes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EdgeName {
    /// Kind.
    pub kind: KindIx,
    /// Made by the server.
    pub automatic: bool,
}

impl EdgeName {
    fn tag(self) -> u16 {
        self.kind.0 | if self.automatic { AUTOMATIC } else { 0 }
    }
}

/// What a write of a link did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// There was none of that name.
    New,
    /// There was one of another weight.
    Reweighted,
    /// It was there already.
    None,
}

const EXISTS: u8 = 1;
const REMOTE: u8 = 2;

/// Cache lines of a list of links that are asked for ahead: 16 links or so.
const LINK_LINES_AHEAD: usize = 2;
/// Targets of a node whose keys are asked for ahead.
const TARGETS_AHEAD: usize = 16;

/// Words of a list that room is made for before they were read.
const WORDS_AT_ONCE: usize = 2 * limits::LINKS_PER_MEMORY_MAX;

/// Nodes and links.
#[derive(Debug, Default)]
pub struct Graph {
    keys: Vec<u64>,
    flags: Vec<u8>,
    lists: Vec<Lists>,
    by_key: HashTable<u32>,
    kinds: Vec<Arc<LinkKind>>,
    free: Vec<NodeIx>,
    links: u64,
    automatic_links: u64,
}

impl Part for Graph {
    const NAME: &'static str = "graph";
    const VERSION: u32 = 2;

    fn write(&self, to: &mut Writer<'_>) {
        let Self { keys, flags, lists, by_key: _, kinds, free, links, automatic_links } = self;
        to.pods(keys);
        to.pods(flags);
        to.lists(lists.iter().map(Lists::words));
        to.count(kinds.len());
        kinds.iter().for_each(|kind| to.text(kind.as_str()));
        to.pods(free);
        to.u64(*links);
        to.u64(*automatic_links);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Unsound> {
        let (keys, flags) = (from.pods()?, from.pods()?);
        let lists = from.lists(read_words)?;
        let lists: Option<Vec<Lists>> = lists.into_iter().map(Lists::from_words).collect();
        let lists = lists.ok_or(Unsound::Content("the links of a node"))?;
        let mut kinds = Vec::new();
        for _ in 0..from.count()? {
            kinds.push(Arc::new(from.link_kind()?));
        }
        let free = from.pods()?;
        let (links, automatic_links) = (from.u64()?, from.u64()?);
        let by_key = HashTable::new();
        let mut graph = Self { keys, flags, lists, by_key, kinds, free, links, automatic_links };
        graph.check()?;
        graph.number_keys();
        Ok(graph)
    }
}

fn read_words(from: &mut Reader<'_>, count: usize) -> Result<ThinVec<u32>, Unsound> {
    let mut words = ThinVec::new();
    if count > 0 {
        words.reserve_exact(count.min(WORDS_AT_ONCE));
    }
    for _ in 0..count {
        words.push(from.pod()?);
    }
    Ok(words)
}

impl Graph {
    /// What was read from an image can be followed without a number that is out of bounds.
    fn check(&self) -> Result<(), Unsound> {
        let count = self.keys.len();
        let lengths = [self.flags.len(), self.lists.len()];
        ensure(lengths == [count; 2] && u32::try_from(count).is_ok(), "the nodes of the graph")?;
        let mut sources = self.lists.iter().flat_map(Lists::sources);
        ensure(sources.all(|source| source.index() < count), "who links to a node")?;
        let mut edges = self.lists.iter().flat_map(Lists::out);
        let within =
            |e: &Edge| e.node.index() < count && usize::from(e.kind().0) < self.kinds.len();
        ensure(edges.all(within), "a link of the graph")?;
        let mut nodes = (0..u32::try_from(count).unwrap_or(u32::MAX)).map(NodeIx);
        let known = |node: NodeIx| !self.exists(node) || !self.is_unheard_of(node);
        ensure(nodes.all(known), "whether a memory of another shard exists")?;
        ensure(self.free.iter().all(|node| node.index() < count), "a free node")
    }

    /// Finds the keys of all nodes that are in use.
    fn number_keys(&mut self) {
        let mut used = vec![true; self.keys.len()];
        self.free.iter().for_each(|node| used[node.index()] = false);
        let keys = &self.keys;
        self.by_key.reserve(keys.len(), |n| keys[*n as usize]);
        for (number, (key, used)) in (0u32..).zip(keys.iter().zip(used)) {
            if used {
                self.by_key.insert_unique(*key, number, |n| keys[*n as usize]);
            }
        }
    }

    /// The keys of all nodes, by number: the order of ties everywhere.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// The key of a node.
    pub fn key(&self, node: NodeIx) -> MemoryKey {
        MemoryKey(self.keys[node.index()])
    }

    /// How many numbers are in use or free.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// There are no nodes.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Links that leave nodes owned here.
    pub fn links(&self) -> u64 {
        self.links
    }

    /// Those of them that the server made.
    pub fn automatic_links(&self) -> u64 {
        self.automatic_links
    }

    /// The node of a key, if there is one.
    pub fn find(&self, key: MemoryKey) -> Option<NodeIx> {
        self.by_key.find(key.0, |n| self.keys[*n as usize] == key.0).map(|n| NodeIx(*n))
    }

    /// The node of a key, made where there is none.
    pub fn intern(&mut self, key: MemoryKey, remote: bool) -> NodeIx {
        if let Some(node) = self.find(key) {
            return node;
        }
        let node = self.free.pop().unwrap_or_else(|| self.grow());
        self.keys[node.index()] = key.0;
        self.flags[node.index()] = if remote { REMOTE } else { 0 };
        let keys = &self.keys;
        self.by_key.insert_unique(key.0, node.0, |n| keys[*n as usize]);
        node
    }

    fn grow(&mut self) -> NodeIx {
        let node = NodeIx(u32::try_from(self.keys.len()).expect("memory ends before 2^32 nodes"));
        node::reach(&mut self.keys, node, || 0);
        node::reach(&mut self.flags, node, || 0);
        node::reach(&mut self.lists, node, Lists::default);
        node
    }

    /// The memory exists: here, or, of a remote node, on its shard.
    pub fn exists(&self, node: NodeIx) -> bool {
        self.flags[node.index()] & EXISTS != 0
    }

    /// The node stands for a memory of another shard.
    pub fn is_remote(&self, node: NodeIx) -> bool {
        self.flags[node.index()] & REMOTE != 0
    }

    /// The memory is owned here and exists.
    pub fn is_memory(&self, node: NodeIx) -> bool {
        self.flags[node.index()] == EXISTS
    }

    /// The node is the number of an owned memory that exists and has this key.
    #[inline]
    pub fn is_numbered(&self, node: NodeIx, key: MemoryKey) -> bool {
        self.keys.get(node.index()) == Some(&key.0) && self.is_memory(node)
    }

    /// Asks the processor to fetch where the links of a node are kept.
    #[inline]
    pub fn prefetch_lists(&self, node: NodeIx) {
        if node.index() < self.lists.len() {
            let one = node.index()..node.index() + 1;
            prefetch(&self.keys[one.clone()]);
            prefetch(&self.flags[one.clone()]);
            prefetch(&self.lists[one]);
        }
    }

    /// Asks the processor to fetch the links that leave a node.
    #[inline]
    pub fn prefetch_links(&self, node: NodeIx) {
        if let Some(lists) = self.lists.get(node.index()) {
            // Its length lies with the links: asking for it would be the wait that is saved here.
            prefetch_lines(lists.start(), LINK_LINES_AHEAD);
        }
    }

    /// Asks the processor to fetch the keys of the first nodes that a node leads to.
    #[inline]
    pub fn prefetch_targets(&self, node: NodeIx) {
        let out = self.lists.get(node.index()).map_or(&[][..], Lists::out);
        for edge in out.iter().take(TARGETS_AHEAD) {
            prefetch(&self.keys[edge.node.index()..=edge.node.index()]);
        }
    }

    /// From now on the memory exists, or not; links to it live or die with it.
    pub fn set_exists(&mut self, node: NodeIx, exists: bool) {
        let flags = &mut self.flags[node.index()];
        *flags = (*flags & !EXISTS) | if exists { EXISTS } else { 0 };
        for at in 0..self.sources(node).len() {
            let source = self.sources(node)[at];
            for edge in self.lists[source.index()].out_mut() {
                if edge.node == node {
                    edge.tag = (edge.tag & !LIVE) | if exists { LIVE } else { 0 };
                }
            }
        }
    }

    /// Links that leave a node.
    pub fn outward(&self, node: NodeIx) -> &[Edge] {
        self.lists[node.index()].out()
    }

    /// The nodes that link to one, each once.
    pub fn sources(&self, node: NodeIx) -> &[NodeIx] {
        self.lists[node.index()].sources()
    }

    /// Links that lead to a node, by their sources.
    pub fn inward(&self, node: NodeIx) -> impl Iterator<Item = Edge> + use<'_> {
        let of = move |source: NodeIx| {
            let links = self.outward(source).iter().filter(move |edge| edge.node == node);
            links.map(move |edge| Edge { node: source, tag: edge.tag & !LIVE, ..*edge })
        };
        self.sources(node).iter().copied().flat_map(of)
    }

    /// Notes a link from a remote node.
    pub fn put_link_in(&mut self, from: NodeIx, to: NodeIx, name: EdgeName, weight: u16) {
        assert!(self.is_remote(from), "links of own nodes are written at their source");
        self.upsert(from, Edge::new(to, weight, name, self.exists(to)));
    }

    /// Writes a link that leaves a node owned here.
    pub fn put_link(
        &mut self,
        from: NodeIx,
        to: NodeIx,
        name: EdgeName,
        weight: u16,
    ) -> LinkChange {
        assert!(!self.is_remote(from), "links of remote nodes are noted, not written");
        let change = self.upsert(from, Edge::new(to, weight, name, self.exists(to)));
        if change == LinkChange::New {
            self.links += 1;
            self.automatic_links += u64::from(name.automatic);
        }
        change
    }

    /// Writes a link where it begins, and who that is where it ends.
    fn upsert(&mut self, from: NodeIx, edge: Edge) -> LinkChange {
        let mut is_first = true;
        for old in self.lists[from.index()].out_mut().iter_mut().filter(|e| e.node == edge.node) {
            is_first = false;
            if old.name() == edge.name() {
                let same = *old == edge;
                *old = edge;
                return if same { LinkChange::None } else { LinkChange::Reweighted };
            }
        }
        self.lists[from.index()].push_out(edge);
        if is_first {
            self.lists[edge.node.index()].push_source(from);
        }
        LinkChange::New
    }

    /// Removes a link; false where there was none.
    pub fn remove_link(&mut self, from: NodeIx, to: NodeIx, name: EdgeName) -> bool {
        let removed = self.lists[from.index()].take_out(to, name);
        if removed && !self.outward(from).iter().any(|edge| edge.node == to) {
            let taken = self.lists[to.index()].take_source(from);
            assert!(taken, "both ends know of a link");
        }
        if self.is_remote(from) {
            self.release(from);
        } else {
            self.links -= u64::from(removed);
            self.automatic_links -= u64::from(removed && name.automatic);
        }
        if self.is_unheard_of(to) {
            self.flags[to.index()] &= !EXISTS;
        }
        self.release(to);
        removed
    }

    /// A memory of another shard to which nothing links from here: nobody tells this shard any more
    /// whether it exists.
    pub fn is_unheard_of(&self, node: NodeIx) -> bool {
        self.is_remote(node) && self.sources(node).is_empty()
    }

    /// The names of all links between two nodes.
    pub fn names_between(&self, from: NodeIx, to: NodeIx) -> Vec<EdgeName> {
        self.outward(from).iter().filter(|e| e.node == to).map(|e| e.name()).collect()
    }

    /// Gives a node's number back where nothing refers to it any more.
    pub fn release(&mut self, node: NodeIx) {
        let unused =
            self.lists[node.index()].is_empty() && (!self.exists(node) || self.is_remote(node));
        if !unused {
            return;
        }
        let key = self.keys[node.index()];
        if let Ok(entry) = self.by_key.find_entry(key, |n| *n == node.0) {
            entry.remove();
            self.lists[node.index()] = Lists::default();
            self.flags[node.index()] = 0;
            self.free.push(node);
        }
    }

    /// The number of a kind, given where it has none.
    ///
    /// # Errors
    /// [`Code::LimitExceeded`] where the space has too many kinds.
    pub fn intern_kind(&mut self, kind: &LinkKind) -> Result<KindIx, Rejection> {
        if let Some(ix) = self.find_kind(kind) {
            return Ok(ix);
        }
        if self.kinds.len() >= limits::LINK_KINDS_MAX {
            let detail = format!(
                "a space has at most {} kinds of links; use one that exists instead of `{}`",
                limits::LINK_KINDS_MAX,
                kind.as_str()
            );
            return Err(Rejection::new(Code::LimitExceeded, detail));
        }
        self.kinds.push(Arc::new(kind.clone()));
        Ok(KindIx(u16::try_from(self.kinds.len() - 1).expect("bounded by the limit above")))
    }

    /// The number of a kind, if it has one.
    pub fn find_kind(&self, kind: &LinkKind) -> Option<KindIx> {
        let ix = self.kinds.iter().position(|k| **k == *kind)?;
        Some(KindIx(u16::try_from(ix).expect("bounded by the limit on kinds")))
    }

    /// A kind by its number.
    pub fn kind(&self, ix: KindIx) -> &Arc<LinkKind> {
        &self.kinds[usize::from(ix.0)]
    }

    /// Bytes of nodes and links in memory.
    pub fn memory_bytes(&self) -> (u64, u64) {
        let nodes = self.keys.capacity() * (8 + 1 + 8) + self.by_key.capacity() * 5;
        let edges: usize = self.lists.iter().map(Lists::bytes).sum();
        (nodes as u64, edges as u64)
    }
}
