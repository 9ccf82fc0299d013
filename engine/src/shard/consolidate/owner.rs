//! What a shard does for a consolidation with the memories that it owns.
//!
//! *Invariants*: a merge is checked, applied and appended in one step, and refused where either memory
//! is not what was compared; searching for what is alike runs in slices behind everything else.
//!
//! *Not here*: what is asked for and why (`run`).

use std::sync::Arc;

use crate::filter::Filter;
use crate::key::{MemoryKey, ShardIx};
use crate::life::run::RunId;
use crate::life::{Lived, likeness};
use crate::limits;
use crate::mesh::{AutomaticKind, OpId, Reach, Reply};
use crate::model::{MemoryId, SpaceName, Timestamp};
use crate::node::NodeIx;
use crate::record::{Contents, MergeRecord, Put};
use crate::request::{Code, Rejection, With};
use crate::space::{Into, PrunedLink, Space};
use crate::vector::{self, Accept, Progress, Scope};

use super::super::Shard;
use super::super::collect::{Purpose, Read};
use super::super::search::Wanted;
use super::group::SIMILARITY_MIN;
use super::{ConsolidateAsk, ConsolidateReply, Deeds, MergeItem, Pattern, ScanOf, Scanned, Seen};

/// Memories of one scan.
const SCANNED: usize = 8;
/// Nodes that a scan passes over at most.
const SCANNED_NODES_MAX: usize = 512;
/// Nodes whose links are looked at for pruning at once.
const PRUNED_NODES: usize = 64;
/// Memories brought back at once.
const RETURNED: usize = 8;
/// Nodes that are looked at for what is little present at once.
const FADED_NODES: usize = 256;
/// An automatic mention of at most this weight is weak: the name has a dozen bearers or more.
const WEAK_WEIGHT: u16 = crate::fixed::WEIGHT_ONE / 12;
/// A way that was this much in the way is weak, whatever it weighs: a share of one use.
const WEAK_LIFT: f64 = -0.4;

/// What reads of memories to bring back are for.
pub(in super::super) enum ReturnFor {
    /// A run that is undone and waits for the reply.
    Undo { more: bool },
    /// What they were merged into is gone or changed.
    Itself,
}

/// A search for what is near to some memories, in slices.
pub(in super::super) struct NearSearch {
    to: ShardIx,
    op: OpId,
    space: SpaceName,
    patterns: Arc<Vec<Pattern>>,
    running: Option<vector::Probe>,
    found: Vec<Vec<MemoryKey>>,
}

impl Shard {
    pub(in super::super) fn consolidate(
        &mut self,
        from: ShardIx,
        op: OpId,
        space: &SpaceName,
        ask: ConsolidateAsk,
    ) {
        // Pruning is what is done last.
        let is_last = matches!(ask, ConsolidateAsk::Prune { .. });
        if ask.changes() && self.draining && !is_last {
            let rejection = Rejection::new(Code::Unavailable, "the server stops");
            return self.reply(from, op, Err(rejection));
        }
        match ask {
            ConsolidateAsk::Scan(of) => self.scan(from, op, space, of),
            ConsolidateAsk::Near(patterns) => {
                let (space, found) = (space.clone(), Vec::new());
                let search = NearSearch { to: from, op, space, patterns, running: None, found };
                self.near.push_back(search);
            }
            ConsolidateAsk::Read { keys, whole } => {
                let with = match whole {
                    true => With { links: true, merged: true, ..With::ALL },
                    false => With::NONE,
                };
                let (filter, reach) = (&Filter::default(), Reach { log: true, cold: false });
                self.fetch(from, op, space, keys, &Wanted { filter, with, reach });
            }
            ConsolidateAsk::Merge(run, items) => {
                let merged = self.check_writable().map(|()| {
                    let items = items.into_iter();
                    items.filter_map(|item| self.merge(space, run, item)).collect()
                });
                self.reply_changed(from, op, merged.map(ConsolidateReply::Merged));
            }
            ConsolidateAsk::Prune { run, dry_run, from: node } => {
                let pruned = self.prune(space, run, dry_run, node);
                self.reply_changed(from, op, pruned);
            }
            ConsolidateAsk::Return(run) => self.return_some(from, op, space, run),
            ConsolidateAsk::Faded { threshold, from: node } => {
                let (now, lived) = (self.now, self.lived.lived());
                let faded =
                    self.space(space).map(|space| faded(space, threshold, node, now, lived));
                self.reply_consolidated(from, op, faded);
            }
            ConsolidateAsk::Deeds(run) => {
                // A shard that has not heard of the space yet has done nothing in it.
                let space = self.space(space).ok();
                let deeds = space.map_or_else(Deeds::default, |space| deeds_of(space, run));
                self.reply_consolidated(from, op, Ok(ConsolidateReply::Deeds(deeds)));
            }
            lead @ (ConsolidateAsk::Start { .. }
            | ConsolidateAsk::Runs
            | ConsolidateAsk::One(_)
            | ConsolidateAsk::Undo(_)) => self.authorise(from, op, space, lead),
        }
    }

    fn reply_consolidated(
        &mut self,
        to: ShardIx,
        op: OpId,
        reply: Result<ConsolidateReply, Rejection>,
    ) {
        self.reply(to, op, reply.map(Reply::Consolidated));
    }

    /// What was changed is said once it is durable: a run that is over is over after a kill too.
    fn reply_changed(&mut self, to: ShardIx, op: OpId, reply: Result<ConsolidateReply, Rejection>) {
        match reply {
            Ok(reply) => self.reply_when_durable(to, op, Reply::Consolidated(reply)),
            Err(rejection) => self.reply(to, op, Err(rejection)),
        }
    }

    fn scan(&mut self, to: ShardIx, op: OpId, name: &SpaceName, of: ScanOf) {
        let now = self.now;
        let scanned = self.space(name).map(|space| scan(space, of, now));
        match scanned {
            Ok((scanned, unread)) if unread.is_empty() => {
                self.reply_consolidated(to, op, Ok(ConsolidateReply::Scanned(scanned)));
            }
            Ok((scanned, unread)) => {
                let with = With { content: true, ..With::NONE };
                let purpose = Purpose::Sketches(Box::new(scanned));
                self.collect(to, op, name, unread, with, purpose);
            }
            Err(rejection) => self.reply(to, op, Err(rejection)),
        }
    }

    /// Texts of memories are here.
    pub(in super::super) fn sketched(
        &mut self,
        (to, op): (ShardIx, OpId),
        name: &SpaceName,
        mut scanned: Scanned,
        texts: Vec<(MemoryKey, String)>,
    ) {
        let space = self.space(name).ok();
        let has_vector = |key: MemoryKey| {
            let vectors = space.and_then(|space| space.vectors.as_ref().map(|v| (space, v)));
            let held = vectors.and_then(|(space, v)| Some(v.contains(space.graph.find(key)?)));
            held.unwrap_or(false)
        };
        let seen = texts.into_iter().filter_map(|(key, text)| {
            let sketch = likeness::sketch(&text)?;
            let is_long = sketch.is_long && has_vector(key);
            Some(Seen { key, fingerprint: sketch.fingerprint, is_long })
        });
        scanned.texts = seen.collect();
        self.reply_consolidated(to, op, Ok(ConsolidateReply::Scanned(scanned)));
    }

    /// Runs one slice of a search for what is near; false where there is none.
    pub(in super::super) fn run_near(&mut self) -> bool {
        let Some(mut search) = self.near.pop_front() else { return false };
        let number = self.space_number(&search.space);
        let vectors = number.and_then(|n| self.spaces[&n].vectors.as_ref().map(|v| (n, v)));
        let Some((number, vectors)) = vectors else {
            let found = vec![Vec::new(); search.patterns.len()];
            self.reply_consolidated(search.to, search.op, Ok(ConsolidateReply::Near(found)));
            return true;
        };
        let space = &self.spaces[&number];
        let scope = Scope { keys: space.graph.keys(), accept: Accept::All };
        let pattern = &search.patterns[search.found.len()];
        // The memory itself is found too.
        let count = pattern.count + 1;
        let scratch = &mut self.scratch.vector;
        let mut running = search
            .running
            .take()
            .unwrap_or_else(|| vectors.near(scratch, &pattern.vector, count, None));
        if running.step(vectors, &scope, vectors.slice()) == Progress::More {
            search.running = Some(running);
            self.near.push_front(search);
            return true;
        }
        let hits = running.finish(vectors, space.graph.keys(), scratch);
        let mut vector = Vec::new();
        let near = hits.iter().filter(|hit| {
            let key = space.graph.key(hit.node);
            key != pattern.key
                && space.live_node(key, self.now).is_some()
                && vectors.vector(hit.node, &mut vector)
                && cosine(&vector, &pattern.vector) >= SIMILARITY_MIN
        });
        let found = near.map(|hit| space.graph.key(hit.node)).collect();
        search.found.push(found);
        if search.found.len() < search.patterns.len() {
            self.near.push_front(search);
        } else {
            let NearSearch { to, op, found, .. } = search;
            self.reply_consolidated(to, op, Ok(ConsolidateReply::Near(found)));
        }
        true
    }

    /// Merges one memory of this shard; its key, if both are what they were.
    fn merge(&mut self, name: &SpaceName, run: RunId, item: MergeItem) -> Option<MemoryKey> {
        let MergeItem { key, version, into, into_id, into_version } = item;
        let now = self.now;
        let into = Into { key: into, id: into_id, version: into_version };
        let record = self.with_space(name, |space, s| {
            let node = space.live_node(key, now)?;
            let entry = space.entry(node, now)?;
            let is_cold = space.cold().address(key).is_some();
            let unchanged = entry.updated_at == version && space.merged.sources(key).is_empty();
            let unchanged = unchanged && !is_cold;
            if !unchanged || space.merged.absorbed_one(into.key).is_some() {
                return None;
            }
            let (id, space_number) = (entry.id.clone(), space.number);
            let target = into.id.clone();
            space.absorb(node, into, run, s);
            let version = into_version;
            Some(MergeRecord { space: space_number, id, into: target, version, run })
        });
        let record = record.ok().flatten()?;
        self.append(&Contents::Merge(record), None);
        self.lives.merged += 1;
        Some(key)
    }

    pub(in super::super) fn replay_merge(&mut self, record: MergeRecord) {
        let Some(name) = self.name_of(record.space) else { return };
        let key = self.partitioner.key(&name, &record.id);
        let into = self.partitioner.key(&name, &record.into);
        let into = Into { key: into, id: record.into, version: record.version };
        self.replay_on(&name, |space, s| {
            if let Some(node) = space.graph.find(key).filter(|n| space.graph.is_memory(*n)) {
                space.absorb(node, into, record.run, s);
            }
        });
    }

    fn prune(
        &mut self,
        name: &SpaceName,
        run: RunId,
        dry_run: bool,
        from: u32,
    ) -> Result<ConsolidateReply, Rejection> {
        if !dry_run {
            self.check_writable()?;
        }
        let lived = self.lived.lived();
        let space = self.space(name)?;
        let number = space.number;
        let bound = u32::try_from(space.graph.len()).expect("nodes have 32-bit numbers");
        let until = from.saturating_add(PRUNED_NODES as u32).min(bound);
        let weak = (from..until).map(NodeIx).flat_map(|node| weak_links(space, node, lived));
        let weak: Vec<(MemoryKey, Vec<(MemoryKey, AutomaticKind)>)> = weak.collect();
        let links = weak.iter().map(|(_, links)| links.len() as u64).sum();
        let listed = weak.iter().filter(|_| dry_run);
        let of = listed.filter_map(|(from, links)| Some((id_of(space, *from)?, count(links))));
        let of: Vec<(MemoryId, u32)> = of.collect();
        for (from, links) in weak.into_iter().filter(|_| !dry_run) {
            let pruned = self.with_space(name, |space, s| {
                for (to, kind) in &links {
                    space.prune(from, PrunedLink { to: *to, kind: *kind, run }, s);
                }
            });
            assert!(pruned.is_ok(), "the space was just there");
            self.lives.pruned += links.len() as u64;
            self.append(&Contents::Prune { space: number, run, from, links }, None);
        }
        let next = (until < bound).then_some(until);
        Ok(ConsolidateReply::Pruned { links, of, next })
    }

    pub(in super::super) fn replay_prune(
        &mut self,
        space: crate::record::SpaceNumber,
        run: RunId,
        from: MemoryKey,
        links: Vec<(MemoryKey, AutomaticKind)>,
    ) {
        let Some(name) = self.name_of(space) else { return };
        self.replay_on(&name, |space, s| {
            for (to, kind) in links {
                space.prune(from, PrunedLink { to, kind, run }, s);
            }
        });
    }

    pub(in super::super) fn replay_unprune(
        &mut self,
        space: crate::record::SpaceNumber,
        run: RunId,
    ) {
        if let Some(space) = self.spaces.get_mut(&space) {
            let sources = space.merged.unprune(run);
            space.reassociate(&sources);
        }
    }

    /// Brings some of what a run merged back, after all that it pruned, then what it demoted.
    fn return_some(&mut self, to: ShardIx, op: OpId, name: &SpaceName, run: RunId) {
        if let Err(rejection) = self.check_growable() {
            return self.reply(to, op, Err(rejection));
        }
        let Some(number) = self.space_number(name) else {
            return self.reply(to, op, Err(super::super::no_space(name)));
        };
        let space = self.spaces.get_mut(&number).expect("a numbered space is there");
        let unpruned = space.merged.unprune(run);
        space.reassociate(&unpruned);
        let mut keys = space.merged.of_run(run, RETURNED + 1);
        let more = keys.len() > RETURNED || !space.cold().of_run(run, 1).is_empty();
        keys.truncate(RETURNED);
        keys.retain(|key| space.merged.start_return(*key));
        let mut cold = space.cold().of_run(run, RETURNED + 1);
        if !unpruned.is_empty() {
            self.append(&Contents::Unprune { space: number, run }, None);
        }
        if !keys.is_empty() {
            let purpose = Purpose::Return(ReturnFor::Undo { more });
            self.collect(to, op, name, keys, With::ALL, purpose);
        } else if !cold.is_empty() {
            let more = cold.len() > RETURNED;
            cold.truncate(RETURNED);
            self.collect(to, op, name, cold, With::ALL, Purpose::Undemote { more });
        } else {
            let reply = ConsolidateReply::Returned { more: false };
            self.reply_changed(to, op, Ok(reply));
        }
    }

    /// Cold memories that a run demoted were read.
    pub(in super::super) fn undemoted(
        &mut self,
        (to, op): (ShardIx, OpId),
        name: &SpaceName,
        reads: Vec<Read>,
        failed: Option<Rejection>,
        more: bool,
    ) {
        let (mut promoted, count) = (0, reads.len());
        for Read { key, address, put, .. } in reads {
            let Some(put) = put else { continue };
            promoted += usize::from(self.promote(name, key, address, put));
        }
        let reply = came_back(promoted, count, failed, more);
        self.reply_changed(to, op, reply);
    }

    /// What a memory was merged into is gone or changed.
    pub(in super::super) fn on_return(&mut self, name: &SpaceName, key: MemoryKey) {
        let Some(number) = self.space_number(name) else { return };
        let space = self.spaces.get_mut(&number).expect("a numbered space is there");
        if space.merged.start_return(key) {
            let purpose = Purpose::Return(ReturnFor::Itself);
            self.collect(self.me, OpId(u64::MAX), name, vec![key], With::ALL, purpose);
        }
    }

    /// Records of memories that are to come back were read.
    pub(in super::super) fn returned(
        &mut self,
        (to, op): (ShardIx, OpId),
        name: &SpaceName,
        reads: Vec<Read>,
        failed: Option<Rejection>,
        of: ReturnFor,
    ) {
        let (mut returned, count) = (0, reads.len());
        for Read { key, put, .. } in reads {
            match put {
                Some(put) => returned += usize::from(self.bring_back(name, key, put)),
                None => self.leave_merged(name, key),
            }
        }
        if let ReturnFor::Undo { more } = of {
            let reply = came_back(returned, count, failed, more);
            self.reply_changed(to, op, reply);
        }
    }

    fn bring_back(&mut self, name: &SpaceName, key: MemoryKey, mut put: Put) -> bool {
        let Ok(space) = self.space(name) else { return false };
        let known = space.merged.absorbed_one(key);
        // It may have been written anew, or forgotten, while its record was read.
        let same = known.is_some_and(|absorbed| absorbed.entry.updated_at == put.updated_at);
        let metadata = crate::record::metadata_of(&put.metadata);
        let (true, Ok(metadata), Ok(())) = (same, metadata, self.check_writable()) else {
            self.leave_merged(name, key);
            return false;
        };
        let space = self.space(name).expect("it was just there");
        put.links = space.links_of(key);
        let (number, id, links) = (put.space, put.id.clone(), put.links.clone());
        let applied = self.apply_put(name, key, put, &metadata).is_ok();
        if applied {
            self.append_links(number, id, links);
        }
        applied
    }

    /// A memory that should have come back could not be read: it stays, to be asked for again.
    fn leave_merged(&mut self, name: &SpaceName, key: MemoryKey) {
        if let Some(number) = self.space_number(name) {
            let space = self.spaces.get_mut(&number).expect("a numbered space is there");
            space.merged.stop_return(key);
        }
    }
}

/// Some of those that should have come back did; an error where none did, so that an undo ends.
fn came_back(
    returned: usize,
    of: usize,
    failed: Option<Rejection>,
    more: bool,
) -> Result<ConsolidateReply, Rejection> {
    if returned == 0 && of > 0 {
        let changed = "what was to come back changed meanwhile; undo the run once more";
        return Err(failed.unwrap_or_else(|| Rejection::new(Code::Unreadable, changed)));
    }
    Ok(ConsolidateReply::Returned { more: more || returned < of })
}

/// Memories to look at, and those of them whose texts have to be read.
fn scan(space: &Space, of: ScanOf, now: Timestamp) -> (Scanned, Vec<MemoryKey>) {
    let mut scanned = Scanned::default();
    let mut unread = Vec::new();
    match of {
        ScanOf::Vectors(keys) => {
            let vectors = space.vectors.iter();
            let vectors = vectors.flat_map(|vectors| keys.iter().map(move |key| (vectors, *key)));
            scanned.vectors.extend(vectors.filter_map(|(vectors, key)| {
                let (node, mut vector) = (space.live_node(key, now)?, Vec::new());
                vectors.vector(node, &mut vector).then_some((key, vector))
            }));
        }
        ScanOf::From(from) => {
            let bound = u32::try_from(space.graph.len()).expect("nodes have 32-bit numbers");
            let last = from.saturating_add(SCANNED_NODES_MAX as u32).min(bound);
            let mut next = from;
            while next < last && unread.len() < SCANNED {
                let (node, key) = (NodeIx(next), space.graph.key(NodeIx(next)));
                next += 1;
                // What lies in the cold tier can't be compared without asking that for it.
                if space.entry(node, now).is_some() && space.cold().address(key).is_none() {
                    unread.push(key);
                }
            }
            scanned.count = unread.len() as u64;
            scanned.next = (next < bound).then_some(next);
        }
    }
    (scanned, unread)
}

/// The next memories whose base level is below a threshold, and that are not cold yet.
fn faded(
    space: &Space,
    threshold: f32,
    from: u32,
    now: Timestamp,
    lived: Lived,
) -> ConsolidateReply {
    let bound = u32::try_from(space.graph.len()).expect("nodes have 32-bit numbers");
    let until = from.saturating_add(FADED_NODES as u32).min(bound);
    let memories = (from..until).filter_map(|node| {
        let (node, key) = (NodeIx(node), space.graph.key(NodeIx(node)));
        let entry = space.entry(node, now)?;
        let fades = space.cold().address(key).is_none()
            && space.base_level(key, entry, lived) < f64::from(threshold);
        fades.then(|| (key, entry.id.clone()))
    });
    let memories = memories.collect();
    ConsolidateReply::Faded { memories, next: (until < bound).then_some(until) }
}

/// The automatic links of a memory that bring next to nothing.
fn weak_links(
    space: &Space,
    node: NodeIx,
    lived: Lived,
) -> Option<(MemoryKey, Vec<(MemoryKey, AutomaticKind)>)> {
    if !space.graph.is_memory(node) {
        return None;
    }
    let from = space.graph.key(node);
    let traces = space.traces.ways_of(from);
    let automatic = space.graph.outward(node).iter().filter(|edge| edge.is_automatic());
    let weak = automatic.filter_map(|edge| {
        let to = space.graph.key(edge.node);
        let name = space.graph.kind(edge.kind()).as_str();
        let kind = AutomaticKind::ALL.into_iter().find(|kind| kind.as_str() == name)?;
        let trace = crate::space::way_trace(traces, to, edge.kind());
        let lift = trace.map(|trace| trace.lift(lived, space.config.half_life_s).to_f64());
        let useless = kind == AutomaticKind::Mentions && edge.weight <= WEAK_WEIGHT;
        let weak = lift.map_or(useless, |lift| lift <= WEAK_LIFT || (useless && lift <= 0.0));
        weak.then_some((to, kind))
    });
    let weak: Vec<_> = weak.take(limits::FAN_OUT_MAX as usize).collect();
    (!weak.is_empty()).then_some((from, weak))
}

fn deeds_of(space: &Space, run: RunId) -> Deeds {
    let mut deeds = Deeds::default();
    for absorbed in space.merged.absorbed().values().filter(|absorbed| absorbed.run == run) {
        deeds.merge(absorbed.entry.id.clone(), absorbed.into.id.clone());
    }
    for (from, links) in space.merged.pruned_by(run) {
        id_of(space, from).into_iter().for_each(|id| deeds.prune(id, links));
    }
    for key in space.cold().of_run(run, super::LISTED_MAX + 1) {
        id_of(space, key).into_iter().for_each(|id| deeds.demote(id));
    }
    deeds
}

fn id_of(space: &Space, key: MemoryKey) -> Option<MemoryId> {
    space.id_of(space.graph.find(key)?).cloned()
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

pub(super) fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    product(one, other) / (product(one, one) * product(other, other)).sqrt().max(1e-30)
}
