//! A run under way: what it knows, and what it does next.
//!
//! *Invariants*: one operation at a time; a dry run goes the same way and changes nothing.
//!
//! *Not here*: what owners do (`owner`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::key::{KeyMap, MemoryKey, ShardIx};
use crate::life::run::{Run, RunPhase, RunState, RunView};
use crate::mesh::{Ask, Found, Reply};
use crate::model::{Memory, MemoryId, SpaceName, Timestamp};
use crate::record::SpaceNumber;
use crate::request::Rejection;

use super::super::Shard;
use super::super::home::Then;
use super::plan::{Member, may_merge, plan, staying};
use super::{
    ConsolidateAsk, ConsolidateReply, MergeItem, Pattern, ScanOf, Scanned, consolidated,
    list_merges,
};

/// How many like a memory are looked for at first.
const ALIKE: usize = 8;
/// The most that are looked for, however many there are.
const ALIKE_MAX: usize = 4096;
/// Pairs whose memories are read at once.
const PAIRS_READ: usize = 8;
/// Pairs found before they are merged.
const PAIRS_PLANNED: usize = 64;
/// Memories merged by one ask of an owner.
const MERGES_AT_ONCE: usize = 8;

/// A run under way, or the last one of its space.
pub(in super::super) struct UnderWay {
    pub(super) run: Run,
    pub(super) dry_run: bool,
    space: SpaceName,
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
    /// Memories that others were merged into and that more may be like: first of all, so that all of
    /// these go the same way.
    filling: BTreeMap<MemoryKey, usize>,
    /// Memories to look at once more, with how many like each are wanted.
    again: BTreeMap<MemoryKey, usize>,
    /// How many like each of those that are being looked at are wanted.
    wanted: KeyMap<usize>,
    patterns: Vec<Pattern>,
    texts: KeyMap<Vec<MemoryKey>>,
    /// Pairs whose memories are not read yet.
    unread: VecDeque<(MemoryKey, MemoryKey)>,
    /// Pairs whose memories are.
    read: VecDeque<(MemoryKey, MemoryKey)>,
    memories: KeyMap<Memory>,
    /// Pairs that may be merged: stays, goes.
    pairs: Vec<(MemoryKey, MemoryKey)>,
    members: KeyMap<Member>,
    merging: VecDeque<MergeItem>,
    /// What was merged, or, by a dry run, would have been.
    gone: KeyMap<()>,
    /// Memories like which there may be more than were found, with how many were wanted.
    full: KeyMap<usize>,
    /// What the run would merge things into.
    targets: KeyMap<()>,
    listed: Vec<(MemoryId, MemoryId)>,
}

impl UnderWay {
    pub(super) fn new(
        space: SpaceName,
        run: Run,
        dry_run: bool,
        shards: u16,
        durable_at: u64,
    ) -> Self {
        Self {
            run,
            dry_run,
            space,
            phase: RunPhase::Compare,
            durable_at,
            total: 0,
            reason: None,
            waiting: false,
            cursors: vec![Some(0); usize::from(shards)],
            next_shard: 0,
            filling: BTreeMap::new(),
            again: BTreeMap::new(),
            wanted: KeyMap::default(),
            patterns: Vec::new(),
            texts: KeyMap::default(),
            unread: VecDeque::new(),
            read: VecDeque::new(),
            memories: KeyMap::default(),
            pairs: Vec::new(),
            members: KeyMap::default(),
            merging: VecDeque::new(),
            gone: KeyMap::default(),
            full: KeyMap::default(),
            targets: KeyMap::default(),
            listed: Vec::new(),
        }
    }

    /// Its start is in the log, and its end is not.
    pub(super) fn is_written_down(&self) -> bool {
        self.run.state.is_under_way() && !self.dry_run
    }

    pub(super) fn view(&self) -> RunView {
        let mut view = RunView {
            run: self.run.clone(),
            space: self.space.clone(),
            dry_run: self.dry_run,
            phase: self.phase,
            total: self.total.max(self.run.counts.compared),
            reason: self.reason.clone(),
            merges: Vec::new(),
            more: false,
        };
        list_merges(&mut view, self.listed.clone());
        view
    }

    /// It is over: what it knew of memories is forgotten, but for what a dry run found.
    pub(super) fn end(&mut self, state: RunState, reason: Option<String>, now: Timestamp) {
        self.run.state = state;
        self.run.finished_at = Some(now);
        let fresh = Self::new(self.space.clone(), self.run.clone(), self.dry_run, 0, 0);
        let listed = std::mem::take(&mut self.listed);
        *self = Self { phase: RunPhase::Over, reason, total: self.total, listed, ..fresh };
    }

    /// What is to be asked next; `None` where this slice had enough to do.
    fn next(&mut self) -> Step {
        match (self.run.state, self.phase) {
            (RunState::Undoing, _) => self.next_shards(|_| ConsolidateAsk::Return(self.run.id)),
            (_, RunPhase::Compare) => self.next_compare(),
            (_, RunPhase::Merge) => self.next_merge(),
            (_, RunPhase::Prune) => {
                let (run, dry_run) = (self.run.id, self.dry_run);
                self.next_shards(|from| ConsolidateAsk::Prune { run, dry_run, from })
            }
            (_, RunPhase::Over) => Step::End,
        }
    }

    fn next_compare(&mut self) -> Step {
        if let Some(pair) = self.read.pop_front() {
            self.compare(pair);
            return Step::Slice;
        }
        if self.pairs.len() >= PAIRS_PLANNED {
            return self.plan();
        }
        if !self.unread.is_empty() {
            let count = self.unread.len().min(PAIRS_READ);
            self.read.extend(self.unread.drain(..count));
            self.memories.clear();
            let mut keys: Vec<MemoryKey> = self.read.iter().flat_map(|(a, b)| [*a, *b]).collect();
            keys.sort_unstable();
            keys.dedup();
            return Step::Owners(keys);
        }
        if !self.patterns.is_empty() {
            let patterns = Arc::new(std::mem::take(&mut self.patterns));
            self.wanted = patterns.iter().map(|p| (p.key.0, p.count)).collect();
            return Step::Everyone(ConsolidateAsk::Alike(patterns));
        }
        if let Some(scan) = self.next_scan() {
            return scan;
        }
        self.plan()
    }

    /// The next memories to look at: those of all shards in turn, then those to look at once more.
    fn next_scan(&mut self) -> Option<Step> {
        if let Some((key, count)) = self.filling.pop_first() {
            return Some(self.scan_again(key, count));
        }
        for offset in 0..self.cursors.len() {
            let shard = (self.next_shard + offset) % self.cursors.len();
            if let Some(from) = self.cursors[shard] {
                self.next_shard = shard + 1;
                let ask = ConsolidateAsk::Scan(ScanOf::From(from));
                let shard = u16::try_from(shard).expect("shards have 16-bit numbers");
                return Some(Step::One(ShardIx(shard), ask));
            }
        }
        let (key, count) = self.again.pop_first()?;
        Some(self.scan_again(key, count))
    }

    fn scan_again(&mut self, key: MemoryKey, count: usize) -> Step {
        self.wanted = KeyMap::from_iter([(key.0, count)]);
        Step::Owner(key, ConsolidateAsk::Scan(ScanOf::Keys(vec![key])))
    }

    fn scanned(&mut self, shard: ShardIx, of_cursor: bool, scanned: Scanned) {
        if of_cursor {
            self.cursors[shard.index()] = scanned.next;
            self.run.counts.compared += scanned.count;
        }
        let gone = |key: &MemoryKey| self.gone.contains_key(&key.0);
        for (key, vector) in scanned.vectors.into_iter().filter(|(key, _)| !gone(key)) {
            let again = self.wanted.get(&key.0).copied();
            let count = if of_cursor { ALIKE } else { again.unwrap_or(ALIKE) };
            self.patterns.push(Pattern { key, vector, count });
        }
        for (key, fingerprint) in scanned.texts.into_iter().filter(|(key, _)| !gone(key)) {
            let same = self.texts.entry(fingerprint).or_default();
            same.retain(|other| !gone(other));
            let others = same.iter().filter(|other| **other != key).take(ALIKE);
            self.unread.extend(others.map(|other| (*other, key)));
            if !same.contains(&key) {
                same.push(key);
            }
        }
    }

    /// What is like the memories that were looked at, from all shards.
    fn alike(&mut self, keys: &[MemoryKey], found: Vec<Vec<Vec<MemoryKey>>>) {
        for (at, key) in keys.iter().enumerate() {
            let count = self.wanted.get(&key.0).copied().unwrap_or(ALIKE);
            let mut alike: Vec<MemoryKey> =
                found.iter().flat_map(|of_shard| &of_shard[at]).copied().collect();
            let full = found.iter().any(|of_shard| of_shard[at].len() >= count);
            alike.retain(|other| other != key && !self.gone.contains_key(&other.0));
            if full && count < ALIKE_MAX {
                self.full.insert(key.0, count);
            }
            self.unread.extend(alike.into_iter().map(|other| (*key, other)));
        }
    }

    fn memories_read(&mut self, read: Vec<(MemoryKey, Memory)>) {
        self.memories = read.into_iter().map(|(key, memory)| (key.0, memory)).collect();
        for (key, memory) in &self.memories {
            let is_target = !memory.merged.is_empty() || self.targets.contains_key(key);
            let member = Member {
                key: MemoryKey(*key),
                id: memory.id.clone(),
                created_at: memory.created_at,
                version: memory.updated_at,
                is_target,
            };
            self.members.insert(*key, member);
        }
    }

    fn compare(&mut self, (one, other): (MemoryKey, MemoryKey)) {
        let there =
            |key: MemoryKey| self.memories.contains_key(&key.0) && !self.gone.contains_key(&key.0);
        match (there(one), there(other)) {
            (true, true) => {}
            (false, false) => return,
            // The other was merged or went since it was found: something else may be like it.
            (true, false) => return self.look_again(one),
            (false, true) => return self.look_again(other),
        }
        let (stays, goes) = staying(&self.members[&one.0], &self.members[&other.0]);
        let pair = (stays.key, goes.key);
        let fits = !goes.is_target && !self.pairs.contains(&pair);
        if fits && may_merge(&self.memories[&pair.0.0], &self.memories[&pair.1.0]) {
            self.pairs.push(pair);
        }
    }

    fn look_again(&mut self, key: MemoryKey) {
        let count = if self.dry_run { ALIKE * 2 } else { ALIKE };
        self.again.entry(key).or_insert(count);
    }

    /// Decides what of the pairs is merged.
    fn plan(&mut self) -> Step {
        let plan = plan(&self.pairs, &self.members);
        plan.left.into_iter().for_each(|key| self.look_again(key));
        for (goes, stays) in plan.merges {
            let (gone, stays) = (&self.members[&goes.0], &self.members[&stays.0]);
            self.targets.insert(stays.key.0, ());
            self.gone.insert(goes.0, ());
            if let Some(count) = self.full.remove(&stays.key.0) {
                // Now that these are merged, or passed over by a dry run, others come to light.
                self.filling.insert(stays.key, if self.dry_run { count * 2 } else { count });
            }
            if self.dry_run {
                self.listed.push((gone.id.clone(), stays.id.clone()));
                self.run.counts.merged += 1;
                continue;
            }
            self.merging.push_back(MergeItem {
                key: goes,
                version: gone.version,
                into: stays.key,
                into_id: stays.id.clone(),
                into_version: stays.version,
            });
        }
        self.pairs.clear();
        self.members.clear();
        self.memories.clear();
        self.phase = RunPhase::Merge;
        Step::Slice
    }

    fn next_merge(&mut self) -> Step {
        if !self.merging.is_empty() {
            let count = self.merging.len().min(MERGES_AT_ONCE);
            return Step::Merge(self.merging.drain(..count).collect());
        }
        let more = !self.again.is_empty()
            || !self.filling.is_empty()
            || !self.unread.is_empty()
            || !self.patterns.is_empty()
            || self.cursors.iter().any(Option::is_some);
        if more {
            self.phase = RunPhase::Compare;
        } else {
            self.phase = RunPhase::Prune;
            self.cursors.iter_mut().for_each(|cursor| *cursor = Some(0));
        }
        Step::Slice
    }

    /// The same of each shard in turn, until it has no more.
    fn next_shards(&self, ask: impl Fn(u32) -> ConsolidateAsk) -> Step {
        let next = self.cursors.iter().position(Option::is_some);
        match next.and_then(|shard| Some((shard, self.cursors[shard]?))) {
            Some((shard, from)) => {
                let shard = u16::try_from(shard).expect("shards have 16-bit numbers");
                Step::One(ShardIx(shard), ask(from))
            }
            None => Step::End,
        }
    }
}

/// What a run does in one slice.
enum Step {
    /// It did it.
    Slice,
    /// It asks one shard.
    One(ShardIx, ConsolidateAsk),
    /// It asks the owner of a memory.
    Owner(MemoryKey, ConsolidateAsk),
    /// It asks every shard.
    Everyone(ConsolidateAsk),
    /// It reads memories.
    Owners(Vec<MemoryKey>),
    /// It merges.
    Merge(Vec<MergeItem>),
    /// It is over.
    End,
}

/// What replies to a run are for.
pub(in super::super) enum Awaited {
    /// Vectors and texts, of the next memories of a shard or of one of them.
    Scan { of_cursor: bool },
    /// What is like these.
    Alike(Vec<MemoryKey>),
    /// Memories, by shard in the order asked.
    Memories(Vec<Vec<MemoryKey>>),
    /// Merged memories.
    Merges,
    /// Pruned or returned.
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
        let number = *number;
        let step = run.next();
        let space = run.space.clone();
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
                    ConsolidateAsk::Scan(_) => Awaited::Scan { of_cursor: true },
                    _ => Awaited::Shards,
                };
                self.ask_for_run(number, awaited, vec![(shard, ask(one))]);
            }
            Step::Owner(key, one) => {
                let shard = self.partitioner.owner(key);
                let awaited = Awaited::Scan { of_cursor: false };
                self.ask_for_run(number, awaited, vec![(shard, ask(one))]);
            }
            Step::Everyone(all) => {
                let keys = match &all {
                    ConsolidateAsk::Alike(patterns) => patterns.iter().map(|p| p.key).collect(),
                    _ => Vec::new(),
                };
                let shards = (0..self.partitioner.shards()).map(ShardIx);
                let asks = shards.map(|shard| (shard, ask(all.clone()))).collect();
                self.ask_for_run(number, Awaited::Alike(keys), asks);
            }
            Step::Owners(keys) => {
                let keys = self.split(keys, |key| *key);
                let asks = (0u16..).map(ShardIx).zip(&keys).filter(|(_, keys)| !keys.is_empty());
                let asks =
                    asks.map(|(shard, keys)| (shard, ask(ConsolidateAsk::Read(keys.clone()))));
                let asks = asks.collect();
                self.ask_for_run(number, Awaited::Memories(keys), asks);
            }
            Step::Merge(items) => {
                let id = run.run.id;
                let items = self.split(items, |item| item.key);
                let asks = (0u16..).map(ShardIx).zip(items).filter(|(_, items)| !items.is_empty());
                let asks =
                    asks.map(|(shard, items)| (shard, ask(ConsolidateAsk::Merge(id, items))));
                let asks = asks.collect();
                self.ask_for_run(number, Awaited::Merges, asks);
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
            Ok(replies) => run.take(awaited, replies),
            Err(rejection) => self.end_run(number, RunState::Failed, Some(rejection.detail)),
        }
    }
}

impl UnderWay {
    fn take(&mut self, awaited: Awaited, replies: Vec<(ShardIx, Reply)>) {
        match awaited {
            Awaited::Memories(keys) => {
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
                let read = read.collect();
                self.memories_read(read);
            }
            Awaited::Alike(keys) => {
                let found = consolidated(replies).map(|(_, reply)| match reply {
                    ConsolidateReply::Alike(found) => found,
                    other => unreachable!("what is alike was asked for, not {other:?}"),
                });
                let found = found.collect();
                self.alike(&keys, found);
            }
            Awaited::Scan { .. } | Awaited::Merges | Awaited::Shards => {
                for (shard, reply) in consolidated(replies) {
                    self.take_one(shard, &awaited, reply);
                }
            }
        }
    }

    fn take_one(&mut self, shard: ShardIx, awaited: &Awaited, reply: ConsolidateReply) {
        match (awaited, reply) {
            (Awaited::Scan { of_cursor }, ConsolidateReply::Scanned(scanned)) => {
                self.scanned(shard, *of_cursor, scanned);
            }
            (Awaited::Merges, ConsolidateReply::Merged(keys)) => {
                self.run.counts.merged += keys.len() as u64;
            }
            (Awaited::Shards, ConsolidateReply::Pruned { links, next }) => {
                self.run.counts.pruned += links;
                self.cursors[shard.index()] = next;
            }
            (Awaited::Shards, ConsolidateReply::Returned { count: _, more }) => {
                self.cursors[shard.index()] = more.then_some(0);
            }
            (_, other) => unreachable!("a run was not waiting for {other:?}"),
        }
    }
}
