//! A run under way: what it knows, and what it does next.
//!
//! It sees every memory once and notes what its words come to; those with the same words are compared
//! as one group. Long texts may say the same in a few words more: they are compared with those that
//! their vectors are near to. Then weak links are pruned, and what is little present is demoted.
//!
//! *Invariants*: one operation at a time; a dry run goes the same way and changes nothing.
//!
//! *Not here*: what owners do (`owner`), what of a group is merged (`group`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::key::{KeyMap, MemoryKey, Partitioner, ShardIx};
use crate::life::run::{Run, RunPhase, RunState, RunView};
use crate::mesh::{Ask, Found, Reply};
use crate::model::{Memory, MemoryId, SpaceName, Timestamp};
use crate::record::{Contents, SpaceNumber};
use crate::request::{Code, Rejection};

use super::super::Shard;
use super::super::home::Then;
use super::group::{Candidate, Decision, Group, Wanted};
use super::sightings::Sightings;
use super::{
    ConsolidateAsk, ConsolidateReply, Deeds, MergeItem, Pattern, ScanOf, Scanned, Seen,
    consolidated,
};

/// How many near to a memory are looked for at first.
const NEAR: usize = 8;
/// The most that are looked for, however many there are.
const NEAR_MAX: usize = 4096;
/// Long texts whose neighbours are asked for at once.
const PATTERNS_AT_ONCE: usize = 8;
/// Memories merged by one ask of an owner.
const MERGES_AT_ONCE: usize = 8;
/// Memories demoted by one ask of an owner, into one cold segment.
const DEMOTED_AT_ONCE: usize = 1024;

/// A run under way, or the last one of its space.
pub(in super::super) struct UnderWay {
    pub(super) run: Run,
    pub(super) dry_run: bool,
    /// It is written down, and changes something, once it has found something to prune.
    is_quiet: bool,
    space: SpaceName,
    partitioner: Partitioner,
    /// There is a tier to demote to.
    demotes: bool,
    phase: RunPhase,
    /// Not before the log holds this record: a run that is not known can't be undone.
    durable_at: u64,
    total: u64,
    reason: Option<String>,
    /// Replies are awaited.
    waiting: bool,
    /// Where each shard's next memories begin.
    cursors: Vec<Option<u32>>,
    next_shard: usize,
    sightings: Sightings,
    /// Long texts whose neighbours are still to be looked at.
    long: VecDeque<MemoryKey>,
    patterns: Vec<Pattern>,
    /// How many near to each are wanted, where it is more than [`NEAR`].
    wanted: KeyMap<usize>,
    /// What is near to each of some, and whether there may be more than was found.
    near: VecDeque<Near>,
    group: Option<Group>,
    /// The neighbourhood that the group is; `None`: it has the same words.
    of_near: Option<Near>,
    merging: VecDeque<MergeItem>,
    /// What was merged, or, by a dry run, would have been.
    gone: KeyMap<()>,
    /// What the run would merge things into.
    targets: KeyMap<()>,
    demoting: Vec<MemoryKey>,
    /// What a dry run would do.
    deeds: Deeds,
}

/// What is near to a memory.
struct Near {
    key: MemoryKey,
    others: Vec<MemoryKey>,
    is_full: bool,
}

/// What a run is begun with.
pub(super) struct Beginning {
    pub space: SpaceName,
    pub run: Run,
    pub dry_run: bool,
    pub demotes: bool,
    pub durable_at: u64,
}

impl Beginning {
    /// A run of the end of a server's life: it prunes, and where nothing is to be pruned nobody hears
    /// of it.
    pub(super) fn last(space: SpaceName, run: Run) -> Self {
        Self { space, run, dry_run: true, demotes: false, durable_at: 0 }
    }
}

impl UnderWay {
    pub(super) fn new(partitioner: Partitioner, beginning: Beginning) -> Self {
        let Beginning { space, run, dry_run, demotes, durable_at } = beginning;
        Self {
            run,
            dry_run,
            is_quiet: false,
            space,
            partitioner,
            demotes,
            phase: RunPhase::Compare,
            durable_at,
            total: 0,
            reason: None,
            waiting: false,
            cursors: vec![Some(0); usize::from(partitioner.shards())],
            next_shard: 0,
            sightings: Sightings::new(),
            long: VecDeque::new(),
            patterns: Vec::new(),
            wanted: KeyMap::default(),
            near: VecDeque::new(),
            group: None,
            of_near: None,
            merging: VecDeque::new(),
            gone: KeyMap::default(),
            targets: KeyMap::default(),
            demoting: Vec::new(),
            deeds: Deeds::default(),
        }
    }

    /// Only prunes, in the last moments of a server.
    pub(super) fn last(partitioner: Partitioner, beginning: Beginning) -> Self {
        Self { phase: RunPhase::Prune, is_quiet: true, ..Self::new(partitioner, beginning) }
    }

    /// Its start is in the log, and its end is not.
    pub(super) fn is_written_down(&self) -> bool {
        self.run.state.is_under_way() && !self.dry_run
    }

    /// Share that is done, 0 to 1.
    pub(super) fn progress(&self) -> f64 {
        self.run.progress(self.total)
    }

    pub(super) fn view(&self) -> RunView {
        let mut view = RunView {
            total: self.total.max(self.run.counts.compared),
            phase: self.phase,
            dry_run: self.dry_run,
            reason: self.reason.clone(),
            ..RunView::over(self.space.clone(), self.run.clone())
        };
        self.deeds.clone().list(&mut view);
        view
    }

    /// It is over: what it knew of memories is forgotten, but for what a dry run found.
    pub(super) fn end(&mut self, state: RunState, reason: Option<String>, now: Timestamp) {
        self.run.state = state;
        self.run.finished_at = Some(now);
        let beginning = Beginning {
            space: self.space.clone(),
            run: self.run.clone(),
            dry_run: self.dry_run,
            demotes: self.demotes,
            durable_at: 0,
        };
        let deeds = std::mem::take(&mut self.deeds);
        let fresh = Self::new(self.partitioner, beginning);
        *self = Self { phase: RunPhase::Over, reason, total: self.total, deeds, ..fresh };
    }

    /// What is to be asked next; `None` where this slice had enough to do.
    fn next(&mut self) -> Step {
        match (self.run.state, self.phase) {
            (RunState::Undoing, _) => {
                let run = self.run.id;
                self.next_shard(|_| ConsolidateAsk::Return(run)).unwrap_or(Step::End)
            }
            (_, RunPhase::Compare) => self.next_compare(),
            (_, RunPhase::Merge) => self.next_merge(),
            (_, RunPhase::Prune) => {
                let (run, dry_run) = (self.run.id, self.dry_run);
                let ask = |from| ConsolidateAsk::Prune { run, dry_run, from };
                self.next_shard(ask).unwrap_or_else(|| self.enter(RunPhase::Demote))
            }
            (_, RunPhase::Demote) if self.demotes => self.next_demote(),
            (_, RunPhase::Demote | RunPhase::Over) => Step::End,
        }
    }

    /// Goes on to a phase that looks at every memory.
    fn enter(&mut self, phase: RunPhase) -> Step {
        self.phase = phase;
        self.cursors.iter_mut().for_each(|cursor| *cursor = Some(0));
        Step::Slice
    }

    fn next_compare(&mut self) -> Step {
        if self.group.is_some() {
            return self.next_of_group();
        }
        if let Some(shard) = self.next_of_all() {
            return shard;
        }
        if let Some(group) = self.sightings.next() {
            self.begin_group(group, None);
            return Step::Slice;
        }
        if let Some(near) = self.near.pop_front() {
            let keys = near.others.iter().copied().chain([near.key]).collect();
            self.begin_group(keys, Some(near));
            return Step::Slice;
        }
        if !self.patterns.is_empty() {
            return Step::Everyone(Arc::new(std::mem::take(&mut self.patterns)));
        }
        self.next_long().unwrap_or_else(|| self.enter(RunPhase::Prune))
    }

    /// The next memories to see: those of all shards in turn.
    fn next_of_all(&mut self) -> Option<Step> {
        for offset in 0..self.cursors.len() {
            let shard = (self.next_shard + offset) % self.cursors.len();
            if let Some(from) = self.cursors[shard] {
                self.next_shard = shard + 1;
                let ask = ConsolidateAsk::Scan(ScanOf::From(from));
                let shard = u16::try_from(shard).expect("shards have 16-bit numbers");
                return Some(Step::One(ShardIx(shard), ask));
            }
        }
        None
    }

    /// The vectors of the next long texts, as far as one shard has them.
    fn next_long(&mut self) -> Option<Step> {
        let owner = |key: MemoryKey| self.partitioner.owner(key);
        let first = owner(*self.long.front()?);
        let same = self.long.iter().take(PATTERNS_AT_ONCE).take_while(|key| owner(**key) == first);
        let count = same.count();
        let (gone, keys): (Vec<MemoryKey>, Vec<MemoryKey>) =
            self.long.drain(..count).partition(|key| self.gone.contains_key(&key.0));
        self.run.counts.compared += gone.len() as u64;
        Some(Step::One(first, ConsolidateAsk::Scan(ScanOf::Vectors(keys))))
    }

    fn scanned(&mut self, scanned: Scanned) {
        self.run.counts.compared += scanned.count;
        for Seen { key, fingerprint, is_long } in scanned.texts {
            self.sightings.add(fingerprint, key);
            if is_long {
                // It is compared once it was compared with what it is near to.
                self.run.counts.compared -= 1;
                self.long.push_back(key);
            }
        }
        for (key, vector) in scanned.vectors {
            let count = self.wanted.get(&key.0).copied().unwrap_or(NEAR);
            self.patterns.push(Pattern { key, vector, count });
        }
    }

    /// What is near to some memories, from all shards.
    fn found_near(&mut self, keys: &[MemoryKey], found: &[Vec<Vec<MemoryKey>>]) {
        for (at, key) in keys.iter().enumerate() {
            let count = self.wanted.remove(&key.0).unwrap_or(NEAR);
            let (mut others, mut is_full, mut hidden) = (Vec::new(), false, false);
            for of_shard in found {
                let there = of_shard[at].iter().filter(|other| !self.gone.contains_key(&other.0));
                let there: Vec<MemoryKey> = there.copied().take(NEAR).collect();
                let may_be_more = of_shard[at].len() >= count;
                is_full |= may_be_more;
                // By a dry run what would have gone stands before others.
                hidden |= may_be_more && there.len() < NEAR && count < NEAR_MAX;
                others.extend(there);
            }
            if hidden {
                self.look_again(*key, count * 2);
            } else {
                self.run.counts.compared += 1;
                self.near.push_back(Near { key: *key, others, is_full });
            }
        }
    }

    fn look_again(&mut self, key: MemoryKey, count: usize) {
        if count > NEAR {
            self.wanted.insert(key.0, count);
        }
        self.long.push_front(key);
    }

    fn begin_group(&mut self, mut keys: Vec<MemoryKey>, near: Option<Near>) {
        keys.retain(|key| !self.gone.contains_key(&key.0));
        if keys.len() > 1 {
            self.group = Some(Group::new(keys));
            self.of_near = near;
        }
    }

    fn next_of_group(&mut self) -> Step {
        if self.merging.len() >= MERGES_AT_ONCE {
            self.phase = RunPhase::Merge;
            return Step::Slice;
        }
        let group = self.group.as_mut().expect("one is under way");
        match group.decide() {
            Some(Decision::Stays) => return Step::Slice,
            Some(Decision::Goes { goes, into }) => {
                self.goes(*goes, into);
                return Step::Slice;
            }
            None => {}
        }
        match group.wanted() {
            Some(Wanted::Ages(keys)) => Step::Owners { keys, whole: false },
            Some(Wanted::Whole(keys)) => Step::Owners { keys, whole: true },
            None => self.end_group(),
        }
    }

    fn end_group(&mut self) -> Step {
        let group = self.group.take().expect("one is under way");
        if let Some(near) = self.of_near.take().filter(|near| near.is_full) {
            // Now that some are merged others come to light.
            let targets = group.targets().filter(|key| self.targets.contains_key(&key.0));
            let targets: Vec<MemoryKey> = targets.collect();
            let merged = near.others.iter().chain([&near.key]);
            if merged.into_iter().any(|key| self.gone.contains_key(&key.0)) {
                for key in targets {
                    let compared = &mut self.run.counts.compared;
                    *compared = compared.saturating_sub(1);
                    self.look_again(key, NEAR);
                }
            }
        }
        if !self.merging.is_empty() {
            self.phase = RunPhase::Merge;
        }
        Step::Slice
    }

    /// One of a group goes.
    fn goes(&mut self, goes: Candidate, into: MemoryKey) {
        let group = self.group.as_ref().expect("one is under way");
        let stays = group.keeper(into).expect("what stays is kept");
        self.gone.insert(goes.key.0, ());
        self.targets.insert(stays.key.0, ());
        if self.dry_run {
            self.run.counts.merged += 1;
            self.deeds.merge(goes.memory.id, stays.memory.id.clone());
            return;
        }
        self.merging.push_back(MergeItem {
            key: goes.key,
            version: goes.memory.updated_at,
            into: stays.key,
            into_id: stays.memory.id.clone(),
            into_version: stays.memory.updated_at,
        });
    }

    fn next_merge(&mut self) -> Step {
        if self.merging.is_empty() {
            self.phase = RunPhase::Compare;
            return Step::Slice;
        }
        let count = self.merging.len().min(MERGES_AT_ONCE);
        Step::Merge(self.merging.drain(..count).collect())
    }

    /// The next of what is little present, of each shard in turn.
    fn next_demote(&mut self) -> Step {
        let at = self.cursors.iter().position(Option::is_some);
        let is_over = self.cursors.get(self.next_shard).is_none_or(Option::is_none);
        if !self.demoting.is_empty() && (is_over || self.demoting.len() >= DEMOTED_AT_ONCE) {
            let count = self.demoting.len().min(DEMOTED_AT_ONCE);
            return Step::Demote(self.demoting.drain(..count).collect());
        }
        let Some(at) = at else { return Step::End };
        self.next_shard = at;
        let threshold = self.run.threshold;
        self.next_shard(|from| ConsolidateAsk::Faded { threshold, from }).unwrap_or(Step::End)
    }

    /// The same of each shard in turn, until it has no more.
    fn next_shard(&self, ask: impl Fn(u32) -> ConsolidateAsk) -> Option<Step> {
        let next = self.cursors.iter().position(Option::is_some)?;
        let shard = u16::try_from(next).expect("shards have 16-bit numbers");
        Some(Step::One(ShardIx(shard), ask(self.cursors[next]?)))
    }
}

/// What a run does in one slice.
enum Step {
    /// It did it.
    Slice,
    /// It asks one shard.
    One(ShardIx, ConsolidateAsk),
    /// It asks every shard what is near to these.
    Everyone(Arc<Vec<Pattern>>),
    /// It reads memories, or only what is known of them without reading.
    Owners { keys: Vec<MemoryKey>, whole: bool },
    /// It merges.
    Merge(Vec<MergeItem>),
    /// It demotes memories of one shard.
    Demote(Vec<MemoryKey>),
    /// It is over.
    End,
}

/// What replies to a run are for.
pub(in super::super) enum Awaited {
    /// The next memories of a shard.
    Seen,
    /// Vectors of some of them.
    Vectors,
    /// What is near to these.
    Near(Vec<MemoryKey>),
    /// Memories, by shard in the order asked; whole or not.
    Memories { keys: Vec<Vec<MemoryKey>>, whole: bool },
    /// Merged memories.
    Merges,
    /// Demoted memories.
    Demoted,
    /// Pruned, faded or returned.
    Shards,
}

impl Shard {
    /// Lets a run do its next slice; false where there is none, or it waits.
    pub(in super::super) fn run_consolidation(&mut self) -> bool {
        let ready = |run: &UnderWay| {
            run.run.state.is_under_way() && !run.waiting && run.durable_at <= self.durable
        };
        let next = self.runs.under_way.iter_mut().find(|(_, run)| ready(run));
        let Some((number, run)) = next else { return false };
        let (number, space, id) = (*number, run.space.clone(), run.run.id);
        let step = run.next();
        let ask = |ask: ConsolidateAsk| Ask::Consolidate(space.clone(), ask);
        match step {
            Step::Slice => {}
            Step::End => {
                let undoing = run.run.state == RunState::Undoing;
                let state = if undoing { RunState::Undone } else { RunState::Done };
                self.end_run(number, state, None);
            }
            Step::One(shard, one) => {
                let awaited = match &one {
                    ConsolidateAsk::Scan(ScanOf::From(_)) => Awaited::Seen,
                    ConsolidateAsk::Scan(ScanOf::Vectors(_)) => Awaited::Vectors,
                    _ => Awaited::Shards,
                };
                self.ask_for_run(number, awaited, vec![(shard, ask(one))]);
            }
            Step::Everyone(patterns) => {
                let keys = patterns.iter().map(|pattern| pattern.key).collect();
                let shards = (0..self.partitioner.shards()).map(ShardIx);
                let near = || ask(ConsolidateAsk::Near(patterns.clone()));
                let asks = shards.map(|shard| (shard, near())).collect();
                self.ask_for_run(number, Awaited::Near(keys), asks);
            }
            Step::Owners { keys, whole } => {
                let keys = self.split(keys, |key| *key);
                let read =
                    |keys: &[MemoryKey]| ask(ConsolidateAsk::Read { keys: keys.to_vec(), whole });
                let asks = asks_of_each(&keys, read);
                self.ask_for_run(number, Awaited::Memories { keys, whole }, asks);
            }
            Step::Merge(items) => {
                let items = self.split(items, |item| item.key);
                let merge = |items: &[MergeItem]| ask(ConsolidateAsk::Merge(id, items.to_vec()));
                self.ask_for_run(number, Awaited::Merges, asks_of_each(&items, merge));
            }
            Step::Demote(keys) => {
                let shard = self.partitioner.owner(keys[0]);
                let asks = vec![(shard, Ask::Demote { space: space.clone(), keys, run: Some(id) })];
                self.ask_for_run(number, Awaited::Demoted, asks);
            }
        }
        true
    }

    fn split<T>(&self, items: Vec<T>, key: impl Fn(&T) -> MemoryKey) -> Vec<Vec<T>> {
        let mut by_shard: Vec<Vec<T>> = self.per_shard();
        for item in items {
            by_shard[self.partitioner.owner(key(&item)).index()].push(item);
        }
        by_shard
    }

    fn ask_for_run(&mut self, number: SpaceNumber, awaited: Awaited, asks: Vec<(ShardIx, Ask)>) {
        let run = self.runs.under_way.get_mut(&number).expect("it is under way");
        run.waiting = true;
        let id = run.run.id;
        self.start(None, Then::Run(number, id, awaited), asks);
    }

    /// Replies to a run are here, or why there are none.
    pub(in super::super) fn run_replied(
        &mut self,
        number: SpaceNumber,
        id: crate::life::run::RunId,
        awaited: Awaited,
        replies: Result<Vec<(ShardIx, Reply)>, Rejection>,
    ) {
        let total = self.spaces.get(&number).map_or(0, |space| space.memories());
        let shards = u64::from(self.partitioner.shards());
        let Some(run) = self.runs.under_way.get_mut(&number) else { return };
        if run.run.id != id || !run.run.state.is_under_way() {
            return;
        }
        run.waiting = false;
        // Memories are spread evenly: those of one shard tell about how many there are.
        run.total = run.total.max(total * shards);
        match replies {
            Ok(replies) => {
                let was_quiet = run.is_quiet;
                run.take(awaited, replies);
                if was_quiet && !run.is_quiet {
                    self.write_down(number);
                }
            }
            // Another shard was told to stop before this one.
            Err(rejection) if rejection.code == Code::Unavailable => {
                self.end_run(number, RunState::Stopped, None);
            }
            Err(rejection) => self.end_run(number, RunState::Failed, Some(rejection.detail)),
        }
    }
}

impl Shard {
    /// A run that was looking for something to do has found it.
    fn write_down(&mut self, number: SpaceNumber) {
        let run = self.runs.under_way.get_mut(&number).expect("it is under way");
        run.dry_run = false;
        let record = Contents::Run { space: number, run: run.run.clone() };
        self.append(&record, None);
        let run = self.runs.under_way.get_mut(&number).expect("it still is");
        run.durable_at = self.sequence;
    }
}

/// An ask for each shard that has items.
fn asks_of_each<T>(by_shard: &[Vec<T>], ask: impl Fn(&[T]) -> Ask) -> Vec<(ShardIx, Ask)> {
    let each = (0u16..).map(ShardIx).zip(by_shard).filter(|(_, items)| !items.is_empty());
    each.map(|(shard, items)| (shard, ask(items))).collect()
}

impl UnderWay {
    fn take(&mut self, awaited: Awaited, replies: Vec<(ShardIx, Reply)>) {
        match awaited {
            Awaited::Memories { keys, whole } => {
                let read = replies.into_iter().flat_map(|(shard, reply)| {
                    let Reply::Fetched(memories) = reply else {
                        unreachable!("memories were asked for")
                    };
                    let asked = keys[shard.index()].clone();
                    asked.into_iter().zip(memories).filter_map(|(key, found)| match found {
                        Found::Memory(memory) => Some((key, *memory)),
                        Found::Nothing | Found::Cold | Found::OutOfReach => None,
                    })
                });
                let read: Vec<(MemoryKey, Memory)> = read.collect();
                self.memories_read(read, whole);
            }
            Awaited::Near(keys) => {
                let found = consolidated(replies).map(|(_, reply)| match reply {
                    ConsolidateReply::Near(found) => found,
                    other => unreachable!("what is near was asked for, not {other:?}"),
                });
                let found: Vec<Vec<Vec<MemoryKey>>> = found.collect();
                self.found_near(&keys, &found);
            }
            Awaited::Demoted => {
                for (_, reply) in replies {
                    let Reply::Demoted(keys) = reply else { unreachable!("it was asked for") };
                    self.run.counts.demoted += keys.len() as u64;
                }
            }
            Awaited::Seen | Awaited::Vectors | Awaited::Merges | Awaited::Shards => {
                for (shard, reply) in consolidated(replies) {
                    self.take_one(shard, &awaited, reply);
                }
            }
        }
    }

    fn memories_read(&mut self, read: Vec<(MemoryKey, Memory)>, whole: bool) {
        let group = self.group.as_mut().expect("memories are read for a group");
        if !whole {
            return group.rank(read.into_iter().map(|(key, memory)| (memory.created_at, key)));
        }
        let targets = &self.targets;
        let candidates = read.into_iter().map(|(key, memory)| {
            let is_target = !memory.merged.is_empty() || targets.contains_key(&key.0);
            Candidate { key, memory, is_target }
        });
        group.take(candidates.collect());
    }

    fn take_one(&mut self, shard: ShardIx, awaited: &Awaited, reply: ConsolidateReply) {
        match (awaited, reply) {
            (Awaited::Seen, ConsolidateReply::Scanned(scanned)) => {
                self.cursors[shard.index()] = scanned.next;
                self.scanned(scanned);
            }
            (Awaited::Vectors, ConsolidateReply::Scanned(scanned)) => self.scanned(scanned),
            (Awaited::Merges, ConsolidateReply::Merged(keys)) => {
                self.run.counts.merged += keys.len() as u64;
            }
            (Awaited::Shards, ConsolidateReply::Pruned { links: 1.., .. }) if self.is_quiet => {
                // The same shard is asked again, and does it.
                self.is_quiet = false;
            }
            (Awaited::Shards, ConsolidateReply::Pruned { links, of, next }) => {
                self.run.counts.pruned += links;
                self.cursors[shard.index()] = next;
                of.into_iter().for_each(|(from, links)| self.deeds.prune(from, links));
            }
            (Awaited::Shards, ConsolidateReply::Faded { memories, next }) => {
                self.cursors[shard.index()] = next;
                self.faded(memories);
            }
            (Awaited::Shards, ConsolidateReply::Returned { more }) => {
                self.cursors[shard.index()] = more.then_some(0);
            }
            (_, other) => unreachable!("a run was not waiting for {other:?}"),
        }
    }

    /// Memories that are little present are demoted, or said to be.
    fn faded(&mut self, memories: Vec<(MemoryKey, MemoryId)>) {
        for (key, id) in memories.into_iter().filter(|(key, _)| !self.gone.contains_key(&key.0)) {
            if self.dry_run {
                self.run.counts.demoted += 1;
                self.deeds.demote(id);
            } else {
                self.demoting.push(key);
            }
        }
    }
}
