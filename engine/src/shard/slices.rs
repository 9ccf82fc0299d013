//! The searches and hops of recalls, in slices: none of them holds the core for long.
//!
//! *Invariants*: what is small ends in its first slice, in the step that asked for it; what is not
//! waits in a queue of which [`Shard::work`] takes the next slice; a space that goes away under a
//! search ends it with what it found.
//!
//! *Not here*: what is searched (`vector`, `text`), which links a hop follows (`search`).

use std::sync::Arc;

use crate::filter::Filter;
use crate::key::{MemoryKey, ShardIx};
use crate::mesh::{HopAsk, Hopped, LexicalAsk, LexicalFound, OpId, Probe, Probed, Reply, Source};
use crate::model::{SpaceName, Timestamp};
use crate::node::NodeIx;
use crate::record::SpaceNumber;
use crate::space::Space;
use crate::text::{self, Bm25Query};
use crate::vector::{self, Accept, Progress, Scope, Work};

use super::Shard;
use super::search::{HopSlice, complete_lexical, keyed, neighbours, probe_text, run_hop};

/// Slices that the first step of a search may take at once: most end in it.
const SLICES_AT_ONCE: u32 = 3;
/// Postings that a lexical search looks at in one slice.
const SLICE_POSTINGS: usize = 8_000;
/// Links that a hop follows in one slice.
const SLICE_LINKS: u64 = 2_000;

/// A search or a hop under way.
pub(super) struct Scan {
    to: ShardIx,
    op: OpId,
    now: Timestamp,
    space: SpaceNumber,
    stage: Stage,
}

enum Stage {
    Nearest {
        probe: Arc<Probe>,
        probed: Box<Probed>,
        running: Option<Box<vector::Probe>>,
        allowed: Allowed,
    },
    Words {
        ask: Arc<LexicalAsk>,
        marked: Vec<MemoryKey>,
        found: Box<LexicalFound>,
        running: text::Running,
        allowed: Allowed,
    },
    Hop {
        ask: Arc<HopAsk>,
        sources: Vec<Source>,
        next: usize,
        followed: u64,
    },
}

/// Most memories that a filter lets through for which each is looked at.
const CANDIDATES_MAX: usize = 4_000;

/// What a recall may find in a space: by filter and by time.
enum Allowed {
    All,
    /// These, ascending.
    Only(Vec<NodeIx>),
    Where {
        compiled: crate::metadata::Compiled,
        estimate: usize,
    },
}

impl Allowed {
    fn of(space: &Space, filter: &Filter, now: Timestamp) -> Self {
        if filter.is_empty() && !space.has_expired(now) {
            return Self::All;
        }
        let compiled = space.metadata.compile(filter);
        let live = |n: &NodeIx| space.entry(*n, now).is_some();
        match space.metadata.candidates(&compiled, CANDIDATES_MAX) {
            Some(candidates) => {
                let passes = |n: &NodeIx| live(n) && space.metadata.matches(&compiled, *n);
                let mut nodes: Vec<NodeIx> = candidates.into_iter().filter(passes).collect();
                nodes.sort_unstable();
                nodes.dedup();
                Self::Only(nodes)
            }
            None => {
                let estimate = space.metadata.estimate(&compiled);
                Self::Where { compiled, estimate }
            }
        }
    }

    fn passes(&self, space: &Space, now: Timestamp, node: NodeIx) -> bool {
        match self {
            Self::All => true,
            Self::Only(nodes) => nodes.binary_search(&node).is_ok(),
            Self::Where { compiled, .. } => {
                space.entry(node, now).is_some() && space.metadata.matches(compiled, node)
            }
        }
    }
}

/// Runs `f` with what may be found, as the vector index wants it said.
fn with_scope<T>(
    space: &Space,
    allowed: &Allowed,
    now: Timestamp,
    f: impl FnOnce(&Scope<'_>) -> T,
) -> T {
    let test = |node: NodeIx| allowed.passes(space, now, node);
    let accept = match allowed {
        Allowed::All => Accept::All,
        Allowed::Only(nodes) => Accept::Only(nodes),
        Allowed::Where { estimate, .. } => Accept::Where { test: &test, estimate: *estimate },
    };
    f(&Scope { keys: space.graph.keys(), accept })
}

impl Shard {
    pub(super) fn probe(&mut self, from: ShardIx, op: OpId, probe: Arc<Probe>) {
        let Some((number, space)) = self.numbered_space(&probe.space) else {
            let mentions = vec![Vec::new(); probe.texts.len()];
            let document_frequency = vec![0; probe.terms.len()];
            let empty = Probed { mentions, document_frequency, ..Probed::default() };
            return self.reply_probed(from, op, &probe, Box::new(empty));
        };
        let probed = Box::new(probe_text(space, &probe, self.now));
        if space.vectors.is_none() || probe.embeddings.is_empty() {
            return self.reply_probed(from, op, &probe, probed);
        }
        let allowed = Allowed::of(space, &probe.filter, self.now);
        let stage = Stage::Nearest { probe, probed, running: None, allowed };
        self.begin(from, op, number, stage);
    }

    pub(super) fn lexical(
        &mut self,
        from: ShardIx,
        op: OpId,
        ask: Arc<LexicalAsk>,
        marked: Vec<MemoryKey>,
    ) {
        let Some((number, space)) = self.numbered_space(&ask.space) else {
            return self.reply_lexical(from, op, &ask, Box::default());
        };
        let allowed = Allowed::of(space, &ask.filter, self.now);
        let (found, running) = (Box::default(), text::Running::default());
        self.begin(from, op, number, Stage::Words { ask, marked, found, running, allowed });
    }

    pub(super) fn hop(&mut self, from: ShardIx, op: OpId, ask: Arc<HopAsk>, sources: Vec<Source>) {
        match self.numbered_space(&ask.space) {
            Some((number, _)) => {
                self.begin(from, op, number, Stage::Hop { ask, sources, next: 0, followed: 0 });
            }
            None => self.reply(from, op, Ok(Reply::Hopped(Box::default()))),
        }
    }

    fn numbered_space(&self, name: &SpaceName) -> Option<(SpaceNumber, &Space)> {
        let number = self.space_number(name)?;
        Some((number, &self.spaces[&number]))
    }

    fn begin(&mut self, to: ShardIx, op: OpId, space: SpaceNumber, stage: Stage) {
        let scan = Scan { to, op, now: self.now, space, stage };
        self.run(scan, SLICES_AT_ONCE);
    }

    /// Runs one slice of the search that waits longest; false where there is none.
    pub(super) fn run_scan(&mut self) -> bool {
        let Some(scan) = self.scans.pop_front() else { return false };
        self.run(scan, 1);
        true
    }

    /// Runs a search for so many slices; what is not over then is queued.
    fn run(&mut self, scan: Scan, slices: u32) {
        let Scan { to, op, now, space: number, stage } = scan;
        let Some(space) = self.spaces.get(&number) else {
            return self.give_up(to, op, stage);
        };
        let scratch = &mut self.scratch;
        let stage = match stage {
            Stage::Nearest { probe, mut probed, mut running, allowed } => {
                let work = Nearest { space, probe: &probe, allowed: &allowed, now };
                match work.step(&mut running, &mut probed, slices, &mut scratch.vector) {
                    Progress::Done => return self.reply_probed(to, op, &probe, probed),
                    Progress::More => Stage::Nearest { probe, probed, running, allowed },
                }
            }
            Stage::Words { ask, marked, mut found, mut running, allowed } => {
                let work = Words { space, ask: &ask, allowed: &allowed, now };
                match work.step(&mut running, &mut found, slices, &mut scratch.text) {
                    Progress::Done => {
                        complete_lexical(space, &ask, &marked, now, &mut found);
                        return self.reply_lexical(to, op, &ask, found);
                    }
                    Progress::More => Stage::Words { ask, marked, found, running, allowed },
                }
            }
            Stage::Hop { ask, sources, next, followed } => {
                let mut hopped = Box::<Hopped>::default();
                hopped.pulses = scratch.pulses.pop().unwrap_or_default();
                let links = SLICE_LINKS * u64::from(slices);
                let slice = HopSlice { next, links, followed };
                let next = run_hop(space, &ask, &sources, now, slice, scratch, &mut hopped);
                let followed = followed + hopped.links;
                hopped.more = next < sources.len();
                let more = hopped.more;
                self.reply(to, op, Ok(Reply::Hopped(hopped)));
                if !more {
                    return;
                }
                Stage::Hop { ask, sources, next, followed }
            }
        };
        self.scans.push_back(Scan { to, op, now, space: number, stage });
    }

    /// The space went away under a search.
    fn give_up(&mut self, to: ShardIx, op: OpId, stage: Stage) {
        match stage {
            Stage::Nearest { probe, probed, .. } => self.reply_probed(to, op, &probe, probed),
            Stage::Words { ask, found, .. } => self.reply_lexical(to, op, &ask, found),
            Stage::Hop { .. } => self.reply(to, op, Ok(Reply::Hopped(Box::default()))),
        }
    }

    /// Replies; searches that were not made found nothing.
    fn reply_probed(&mut self, to: ShardIx, op: OpId, probe: &Probe, mut probed: Box<Probed>) {
        probed.nearest.resize(probe.embeddings.len(), Vec::new());
        self.reply(to, op, Ok(Reply::Probed(probed)));
    }

    /// As [`Self::reply_probed`].
    fn reply_lexical(
        &mut self,
        to: ShardIx,
        op: OpId,
        ask: &LexicalAsk,
        mut found: Box<LexicalFound>,
    ) {
        found.hits.resize(ask.queries.len(), Vec::new());
        found.bearers.resize(ask.attributes.len(), Vec::new());
        self.reply(to, op, Ok(Reply::Lexical(found)));
    }
}

/// The vector searches of a probe, one after the other.
struct Nearest<'a> {
    space: &'a Space,
    probe: &'a Probe,
    allowed: &'a Allowed,
    now: Timestamp,
}

impl Nearest<'_> {
    fn step(
        &self,
        running: &mut Option<Box<vector::Probe>>,
        probed: &mut Probed,
        slices: u32,
        scratch: &mut vector::Scratch,
    ) -> Progress {
        let Some(vectors) = &self.space.vectors else { return Progress::Done };
        let work = Work(vectors.slice().0 * slices);
        while let Some(embedding) = self.probe.embeddings.get(probed.nearest.len()) {
            let k = self.probe.candidates;
            let search = running.get_or_insert_with(|| match self.probe.exact {
                true => Box::new(vectors.exact(embedding, k)),
                false => Box::new(vectors.near(scratch, embedding, k, None)),
            });
            let step = |scope: &Scope<'_>| search.step(vectors, scope, work);
            if with_scope(self.space, self.allowed, self.now, step) == Progress::More {
                return Progress::More;
            }
            let search = running.take().expect("it was made above");
            let hits = search.finish(vectors, self.space.graph.keys(), scratch);
            probed.nearest.push(keyed(self.space, &hits));
            let is_last = probed.nearest.len() == self.probe.embeddings.len();
            if !is_last {
                return Progress::More;
            }
        }
        let found = probed.nearest.iter().flatten().map(|(key, _)| *key);
        probed.neighbours = neighbours(self.space, found);
        Progress::Done
    }
}

/// The lexical searches of a recall, one after the other.
struct Words<'a> {
    space: &'a Space,
    ask: &'a LexicalAsk,
    allowed: &'a Allowed,
    now: Timestamp,
}

impl Words<'_> {
    fn step(
        &self,
        running: &mut text::Running,
        found: &mut LexicalFound,
        slices: u32,
        scratch: &mut text::Scratch,
    ) -> Progress {
        let (text, keys) = (&self.space.text, self.space.graph.keys());
        let accept = |node: NodeIx| self.allowed.passes(self.space, self.now, node);
        let is_all = matches!(self.allowed, Allowed::All);
        let work = SLICE_POSTINGS * slices as usize;
        while let Some(terms) = self.ask.queries.get(found.hits.len()) {
            let query = Bm25Query {
                terms,
                average_length: self.ask.average_length,
                k: self.ask.candidates,
                keys,
                accept: if is_all { None } else { Some(&accept) },
            };
            if text.step(&query, scratch, running, work) == Progress::More {
                return Progress::More;
            }
            let is_there =
                |node: NodeIx, key: u64| keys[node.index()] == key && text.contains(node);
            let hits = std::mem::take(running).finish(is_there);
            let keyed = hits.iter().map(|(node, score)| (self.space.graph.key(*node), *score));
            found.hits.push(keyed.collect());
            if found.hits.len() < self.ask.queries.len() {
                return Progress::More;
            }
        }
        Progress::Done
    }
}
