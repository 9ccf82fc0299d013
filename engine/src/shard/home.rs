//! The home side of a request: which owners are asked, and what their replies amount to.
//!
//! *Invariants*: an operation ends when every owner it asked has replied, or at its deadline; its
//! client gets one reply.
//!
//! *Not here*: what an owner does (`owner`, `search`), the phases of a recall (`recall`).

use std::sync::Arc;

use crate::cold::ColdSegmentId;
use crate::filter::Filter;
use crate::key::{MemoryKey, ShardIx};
use crate::life::run::{RunId, RunView};
use crate::limits;
use crate::mesh::{Ask, LinkItem, LinkRow, Message, OpId, Reply, StoreItem};
use crate::model::{Link, LinkView, MemoryId, NewMemory, SpaceConfig, SpaceName, Timestamp};
use crate::recall::{Moment, Next, RecallRun, Touched};
use crate::record::SpaceNumber;
use crate::request::{
    Answer, Code, LinkName, Recall, Recalled, Rejection, Request, SpaceView, Stats, StoreMode,
    Stored, Wait, With,
};
use crate::trace::Replied;

use super::consolidate::Awaited;
use super::demotion::count_demoted;
use super::forget::Deleted;
use super::reinforce::LIVED_RECORD_S;
use super::{AUTHORITY, Effect, Shard, Ticket};

/// An operation under way.
pub(super) struct Op {
    ticket: Option<Ticket>,
    waiting: usize,
    replies: Vec<(ShardIx, Reply)>,
    refused: Option<Rejection>,
    deadline: Timestamp,
    then: Then,
}

/// What the replies are for.
pub(super) enum Then {
    /// The one reply is the answer.
    One(Wait),
    /// Verdicts by position.
    Store { count: usize, wait: Wait },
    /// Verdicts by position.
    Link { count: usize, wait: Wait },
    /// Removed links add up.
    Unlink(Wait),
    /// Pages are merged by key.
    List { limit: usize },
    /// Counts add up.
    Count,
    /// Space views add up.
    Spaces { of: Option<SpaceName> },
    /// Reports are put together.
    Stats,
    /// Links whose ends may be bare keys.
    Links(SpaceName),
    /// Names for the bare keys of these links.
    LinkNames(Vec<LinkRow>),
    /// The request starts again once the authority has made its space.
    Again(Box<Request>),
    /// The authority has nothing more to tell of the request's space.
    Heard(Box<Request>),
    /// A space was put: it is read back.
    SpacePut(SpaceName),
    /// Every shard has heard of a space: whoever asked for that is told.
    Published(ShardIx, OpId),
    /// This shard has heard of a space: what was asked about it goes on.
    SpaceKnown { from: ShardIx, op: OpId, ask: Box<Ask> },
    /// Every shard has heard of deletions: whoever asked for them is told.
    Forgotten(Vec<Deleted>),
    /// A recall goes on.
    Recall(Box<RecallRun>),
    /// The authority answers about consolidations.
    Consolidation(SpaceName),
    /// Every shard says what a run merged.
    ConsolidationDeeds(Box<RunView>),
    /// A consolidation goes on.
    Run(SpaceNumber, RunId, Awaited),
    /// Ids that name nothing are gathered.
    Reinforce { count: usize, wait: Wait },
    /// Demoted memories add up.
    Demoted,
    /// Expired memories add up; shards that have more are asked again.
    Expired { so_far: u64 },
    /// What is in use of the cold segments that there are.
    ColdUse { listed: Vec<(ColdSegmentId, u32)> },
    /// Cold segments were rewritten; these others are not needed.
    Rewritten { unused: Vec<(ColdSegmentId, u32)> },
    /// Memories are being associated.
    Associate(Box<super::associate::Association>),
}

const NO_DEADLINE: Timestamp = Timestamp(i64::MAX);

impl Shard {
    /// What asks of a space that is not known here asks the authority first: it may have come to be,
    /// and others may have been told so before this shard.
    pub(super) fn on_request(&mut self, ticket: Ticket, request: Request) {
        let is_strange = |space: &SpaceName| self.space(space).is_err();
        if request.existing_space().is_some_and(is_strange) {
            let then = Then::Heard(Box::new(request));
            self.start(Some(ticket), then, vec![(AUTHORITY, Ask::Echo)]);
        } else {
            self.perform(ticket, request);
        }
    }

    fn perform(&mut self, ticket: Ticket, request: Request) {
        let started = self.dispatch(ticket, request);
        if let Err(rejection) = started {
            self.answer(Some(ticket), Err(rejection));
        }
    }

    pub(super) fn answer(&mut self, ticket: Option<Ticket>, outcome: Result<Answer, Rejection>) {
        if let Some(ticket) = ticket {
            self.effects.push(Effect::Reply { ticket, outcome });
        }
    }

    fn dispatch(&mut self, ticket: Ticket, request: Request) -> Result<(), Rejection> {
        match request {
            Request::Store { space, memories, mode, wait } => {
                self.start_store(ticket, space, memories, mode, wait)?;
            }
            Request::Read { space, id, with } => {
                let key = self.existing_space_key(&space, &id)?;
                self.ask_owner(ticket, key, Ask::Read { space, id, with }, Wait::Durable);
            }
            Request::Patch { space, id, patch, wait } => {
                let key = self.existing_space_key(&space, &id)?;
                let dimensions = self.space(&space)?.config.dimensions;
                if let (None, Some(Some(embedding))) = (dimensions, &patch.embedding) {
                    let length = embedding.len();
                    let again = Request::Patch { space: space.clone(), id, patch, wait };
                    return self.ensure_space(ticket, space, Some(length), again);
                }
                self.ask_owner(ticket, key, Ask::Patch { space, id, patch, wait }, wait);
            }
            Request::Delete { space, id, wait } => {
                let key = self.existing_space_key(&space, &id)?;
                // Where other shards have to hear of it, it is answered once it is durable.
                let is_told = self.partitioner.shards() > 1;
                let answered = if is_told { Wait::Durable } else { wait };
                self.ask_owner(ticket, key, Ask::Delete { space, id, wait }, answered);
            }
            Request::List { space, limit, cursor, filter, with } => {
                self.start_list(ticket, space, limit, cursor.as_deref(), filter, with)?;
            }
            Request::Count { space, filter } => {
                self.space(&space)?;
                let filter = Arc::new(filter);
                let ask = || Ask::Count { space: space.clone(), filter: filter.clone() };
                self.ask_everyone(Some(ticket), Then::Count, ask);
            }
            Request::Link { space, links, wait } => {
                self.start_link(ticket, space, links, wait)?;
            }
            Request::Unlink { space, links, wait } => {
                self.start_unlink(ticket, space, links, wait)?;
            }
            Request::Links { space, id, direction, kind } => {
                let key = self.existing_space_key(&space, &id)?;
                let then = Then::Links(space.clone());
                let ask = Ask::Links { space, id, direction, kind };
                self.start(Some(ticket), then, vec![(self.partitioner.owner(key), ask)]);
            }
            Request::Recall { space, recall } => self.start_recall(ticket, space, *recall)?,
            Request::Reinforce { space, ids, outcome, wait } => {
                self.start_reinforce(ticket, space, ids, outcome, wait)?;
            }
            Request::Consolidate { space, ask } => self.start_consolidate(ticket, space, ask)?,
            Request::ListSpaces => self.ask_spaces(Some(ticket), None),
            Request::ReadSpace { space } => {
                self.space(&space)?;
                self.ask_spaces(Some(ticket), Some(space));
            }
            Request::PutSpace { space, config } => self.start_put_space(ticket, space, config),
            Request::DropSpace { space } => {
                let ask = Ask::DropSpace { space };
                self.start(Some(ticket), Then::One(Wait::Durable), vec![(AUTHORITY, ask)]);
            }
            Request::Stats => self.ask_everyone(Some(ticket), Then::Stats, || Ask::Stats),
            Request::Demote { space, ids } => self.start_demote(ticket, space, ids)?,
            Request::Expire => {
                self.ask_everyone(Some(ticket), Then::Expired { so_far: 0 }, || Ask::Expire);
            }
            Request::Sweep { listed } => {
                self.ask_everyone(Some(ticket), Then::ColdUse { listed }, || Ask::ColdUse);
            }
        }
        Ok(())
    }

    fn existing_space_key(&self, space: &SpaceName, id: &MemoryId) -> Result<MemoryKey, Rejection> {
        self.space(space)?;
        Ok(self.partitioner.key(space, id))
    }

    fn ask_owner(&mut self, ticket: Ticket, key: MemoryKey, ask: Ask, wait: Wait) {
        let owner = self.partitioner.owner(key);
        self.start(Some(ticket), Then::One(wait), vec![(owner, ask)]);
    }

    fn ask_spaces(&mut self, ticket: Option<Ticket>, of: Option<SpaceName>) {
        let ask = || Ask::Spaces { space: of.clone() };
        self.ask_everyone(ticket, Then::Spaces { of: of.clone() }, ask);
    }

    pub(super) fn ask_everyone(
        &mut self,
        ticket: Option<Ticket>,
        then: Then,
        ask: impl Fn() -> Ask,
    ) {
        let asks = (0..self.partitioner.shards()).map(|s| (ShardIx(s), ask())).collect();
        self.start(ticket, then, asks);
    }

    /// Starts an operation that waits for a reply to each of `asks`.
    pub(super) fn start(
        &mut self,
        ticket: Option<Ticket>,
        then: Then,
        asks: Vec<(ShardIx, Ask)>,
    ) -> OpId {
        assert!(!asks.is_empty(), "an operation asks somebody");
        let op = OpId(self.next_op);
        self.next_op += 1;
        let deadline = match &then {
            Then::Recall(run) => run.deadline(),
            _ => NO_DEADLINE,
        };
        self.traces.asked(ticket, asks[0].1.name(), self.now);
        let waiting = asks.len();
        let replies = Vec::with_capacity(waiting);
        self.ops.insert(op.0, Op { ticket, waiting, replies, refused: None, deadline, then });
        for (to, ask) in asks {
            self.ask(to, op, ask);
        }
        op
    }

    pub(super) fn on_reply(
        &mut self,
        from: ShardIx,
        op: OpId,
        reply: Result<Reply, Rejection>,
        synced_us: u32,
    ) {
        // An operation that ended at its deadline still gets replies.
        let Some(running) = self.ops.get_mut(&op.0) else { return };
        let reply = match (reply, &mut running.then) {
            (Ok(Reply::Hopped(part)), Then::Recall(run)) if part.more => {
                return run.take_part(from, *part);
            }
            (reply, _) => reply,
        };
        assert!(running.waiting > 0, "every ask gets one reply");
        running.waiting -= 1;
        self.traces.replied(running.ticket, Replied { shard: from, at: self.now, synced_us });
        match reply {
            Ok(reply) => running.replies.push((from, reply)),
            Err(rejection) => running.refused = Some(rejection),
        }
        if running.waiting == 0
            && let Some(done) = self.ops.remove(&op.0)
        {
            self.finish(done);
        }
    }

    pub(super) fn on_tick(&mut self) {
        self.record_lived(LIVED_RECORD_S);
        let now = self.now;
        let late: Vec<u64> =
            self.ops.iter().filter(|(_, op)| op.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(mut op) = self.ops.remove(&id) {
                op.replies.sort_by_key(|(from, _)| *from);
                if let Then::Recall(run) = op.then {
                    self.expire_recall(op.ticket, run, op.replies);
                }
            }
        }
    }

    fn expire_recall(
        &mut self,
        ticket: Option<Ticket>,
        run: Box<RecallRun>,
        replies: Vec<(ShardIx, Reply)>,
    ) {
        match run.expire(replies, self.now) {
            Next::Ask(run, asks) => {
                self.start(ticket, Then::Recall(run), asks);
            }
            Next::Done(recalled, touched, spare) => {
                self.scratch.keep(spare);
                self.recalled(ticket, recalled, touched);
            }
            Next::Refuse(rejection) => self.answer(ticket, Err(rejection)),
        }
    }

    fn finish(&mut self, mut op: Op) {
        // Replies come in any order; from here on only what they say counts.
        op.replies.sort_by_key(|(from, _)| *from);
        if let Then::Associate(association) = op.then {
            return self.finish_association(*association, op.replies);
        }
        if let Then::Run(space, run, awaited) = op.then {
            let replies = op.refused.map_or(Ok(op.replies), Err);
            return self.run_replied(space, run, awaited, replies);
        }
        let (ticket, replies) = (op.ticket, op.replies);
        match (op.then, op.refused) {
            (Then::Forgotten(deleted), refused) => self.forgotten(deleted, refused),
            (Then::Published(to, of), refused) => {
                self.reply(to, of, refused.map_or(Ok(Reply::Done), Err));
            }
            (Then::SpaceKnown { from, op, .. }, Some(rejection)) => {
                self.reply(from, op, Err(rejection));
            }
            (_, Some(rejection)) => self.answer(ticket, Err(rejection)),
            (then, None) => self.go_on(ticket, then, replies),
        }
    }

    /// Nobody has refused: goes on with what everybody replied.
    fn go_on(&mut self, ticket: Option<Ticket>, then: Then, replies: Vec<(ShardIx, Reply)>) {
        match then {
            Then::One(wait) => self.answer(ticket, one_answer(replies, wait)),
            Then::Store { count, wait } => {
                let verdicts = gather_stored(count, replies);
                let durable = wait == Wait::Durable;
                self.answer(ticket, Ok(Answer::Stored { verdicts, durable }));
            }
            Then::Link { count, wait } => {
                let verdicts = gather_linked(count, replies);
                let durable = wait == Wait::Durable;
                self.answer(ticket, Ok(Answer::Linked { verdicts, durable }));
            }
            Then::Reinforce { count, wait } => {
                let missing = replies.into_iter().flat_map(|(_, r)| not_reinforced(r));
                let mut missing: Vec<MemoryId> = missing.collect();
                missing.sort_unstable();
                let reinforced = (count - missing.len()) as u64;
                let durable = wait == Wait::Durable;
                self.answer(ticket, Ok(Answer::Reinforced { reinforced, missing, durable }));
            }
            Then::Unlink(wait) => {
                let removed = replies.iter().map(|(_, r)| unlinked(r)).sum();
                let durable = wait == Wait::Durable;
                self.answer(ticket, Ok(Answer::Unlinked { removed, durable }));
            }
            Then::List { limit } => self.answer(ticket, Ok(merge_pages(limit, replies))),
            Then::Count => {
                let count = replies.iter().map(|(_, r)| counted(r)).sum();
                self.answer(ticket, Ok(Answer::Count(count)));
            }
            Then::Spaces { of } => self.answer(ticket, merge_spaces(of.as_ref(), replies)),
            Then::Stats => self.answer(ticket, Ok(merge_stats(replies))),
            Then::Links(space) => self.finish_links(ticket, space, replies),
            Then::LinkNames(rows) => self.answer(ticket, Ok(name_links(rows, replies))),
            Then::Again(request) => {
                if let Some(ticket) = ticket {
                    self.on_request(ticket, *request);
                }
            }
            Then::Heard(request) => {
                if let Some(ticket) = ticket {
                    self.perform(ticket, *request);
                }
            }
            Then::SpacePut(space) => self.ask_spaces(ticket, Some(space)),
            Then::SpaceKnown { from, op, ask } => self.on_message(from, Message::Ask(op, *ask)),
            Then::Recall(run) => match run.advance(replies, self.now) {
                Next::Ask(run, asks) => {
                    self.start(ticket, Then::Recall(run), asks);
                }
                Next::Done(recalled, touched, spare) => {
                    self.scratch.keep(spare);
                    self.recalled(ticket, recalled, touched);
                }
                Next::Refuse(rejection) => self.answer(ticket, Err(rejection)),
            },
            Then::Demoted => self.answer(ticket, Ok(Answer::Demoted(count_demoted(&replies)))),
            Then::Expired { so_far } => self.expired(ticket, so_far, replies),
            Then::ColdUse { listed } => self.cold_used(ticket, &listed, replies),
            Then::Rewritten { unused } => {
                let rewritten = count_demoted(&replies);
                self.answer(ticket, Ok(Answer::Swept { unused, rewritten }));
            }
            Then::Consolidation(space) => self.consolidation_answered(ticket, space, replies),
            Then::ConsolidationDeeds(view) => self.deeds_answered(ticket, view, replies),
            Then::Associate(_) | Then::Run(..) | Then::Forgotten(_) | Then::Published(..) => {
                unreachable!("handled above")
            }
        }
    }

    fn recalled(
        &mut self,
        ticket: Option<Ticket>,
        recalled: Box<Recalled>,
        touched: Option<Box<Touched>>,
    ) {
        // Told before the answer: who recalls next finds what this one has left.
        if let Some(touched) = touched {
            self.tell_used(*touched);
        }
        self.answer(ticket, Ok(Answer::Recalled(recalled)));
    }

    /// Makes sure that a space exists, with dimensions if they are known now, then starts again.
    fn ensure_space(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        dimensions: Option<usize>,
        again: Request,
    ) -> Result<(), Rejection> {
        let dimensions = dimensions.map(|d| u16::try_from(d).map_err(|_| too_many_dimensions(d)));
        let dimensions = dimensions.transpose()?;
        let ask = Ask::EnsureSpace { space, dimensions };
        self.start(Some(ticket), Then::Again(Box::new(again)), vec![(AUTHORITY, ask)]);
        Ok(())
    }

    fn start_store(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        memories: Vec<NewMemory>,
        mode: StoreMode,
        wait: Wait,
    ) -> Result<(), Rejection> {
        self.check_budget()?;
        let first = memories.iter().find_map(|m| m.embedding.as_ref()).map(Vec::len);
        let known = self.space(&space).ok().map(|s| s.config.dimensions);
        let settled = known.is_some_and(|dimensions| dimensions.is_some() || first.is_none());
        if !settled {
            let again = Request::Store { space: space.clone(), memories, mode, wait };
            return self.ensure_space(ticket, space, first, again);
        }
        let count = memories.len();
        let mut by_shard: Vec<Vec<_>> = self.per_shard();
        for (position, memory) in memories.into_iter().enumerate() {
            let owner = self.partitioner.owner(self.partitioner.key(&space, &memory.id));
            let arrived_at = self.stamp();
            by_shard[owner.index()].push(StoreItem { position, memory, arrived_at });
        }
        let asks =
            asks_of(by_shard, |items| Ask::Store { space: space.clone(), items, mode, wait });
        if asks.is_empty() {
            let verdicts = Vec::new();
            self.answer(Some(ticket), Ok(Answer::Stored { verdicts, durable: true }));
        } else {
            self.start(Some(ticket), Then::Store { count, wait }, asks);
        }
        Ok(())
    }

    pub(super) fn per_shard<T: Default>(&self) -> Vec<T> {
        (0..self.partitioner.shards()).map(|_| T::default()).collect()
    }

    fn start_link(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        links: Vec<(MemoryId, Link)>,
        wait: Wait,
    ) -> Result<(), Rejection> {
        self.check_budget()?;
        self.space(&space)?;
        let count = links.len();
        let mut by_shard: Vec<Vec<_>> = self.per_shard();
        for (position, (from, link)) in links.into_iter().enumerate() {
            let owner = self.partitioner.owner(self.partitioner.key(&space, &from));
            by_shard[owner.index()].push(LinkItem { position, from, link });
        }
        let asks = asks_of(by_shard, |items| Ask::Link { space: space.clone(), items, wait });
        if asks.is_empty() {
            let verdicts = Vec::new();
            self.answer(Some(ticket), Ok(Answer::Linked { verdicts, durable: true }));
        } else {
            self.start(Some(ticket), Then::Link { count, wait }, asks);
        }
        Ok(())
    }

    fn start_unlink(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        links: Vec<LinkName>,
        wait: Wait,
    ) -> Result<(), Rejection> {
        self.space(&space)?;
        let mut by_shard: Vec<Vec<_>> = self.per_shard();
        for link in links {
            let owner = self.partitioner.owner(self.partitioner.key(&space, &link.from));
            by_shard[owner.index()].push(link);
        }
        let asks = asks_of(by_shard, |items| Ask::Unlink { space: space.clone(), items, wait });
        if asks.is_empty() {
            self.answer(Some(ticket), Ok(Answer::Unlinked { removed: 0, durable: true }));
        } else {
            self.start(Some(ticket), Then::Unlink(wait), asks);
        }
        Ok(())
    }

    fn start_list(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        limit: usize,
        cursor: Option<&str>,
        filter: Filter,
        with: With,
    ) -> Result<(), Rejection> {
        self.space(&space)?;
        assert!((1..=limits::PAGE_MEMORIES_MAX).contains(&limit), "net checks the limit");
        let after = cursor.map(read_cursor).transpose()?;
        let filter = Arc::new(filter);
        let ask = || Ask::List { space: space.clone(), after, limit, filter: filter.clone(), with };
        self.ask_everyone(Some(ticket), Then::List { limit }, ask);
        Ok(())
    }

    fn start_recall(
        &mut self,
        ticket: Ticket,
        name: SpaceName,
        recall: Recall,
    ) -> Result<(), Rejection> {
        let config = self.space(&name)?.config.clone();
        let (partitioner, now) =
            (self.partitioner, Moment { now: self.now, lived: self.lived.lived() });
        let begun = RecallRun::begin(recall, name, &config, partitioner, &mut self.analyzer, now)?;
        let (mut run, asks) = begun;
        run.reuse(self.scratch.recalls.pop().unwrap_or_default());
        self.start(Some(ticket), Then::Recall(run), asks);
        Ok(())
    }

    fn start_put_space(&mut self, ticket: Ticket, space: SpaceName, config: SpaceConfig) {
        let ask = Ask::PutSpace { space: space.clone(), config };
        self.start(Some(ticket), Then::SpacePut(space), vec![(AUTHORITY, ask)]);
    }

    fn finish_links(
        &mut self,
        ticket: Option<Ticket>,
        space: SpaceName,
        replies: Vec<(ShardIx, Reply)>,
    ) {
        let rows: Vec<LinkRow> = replies.into_iter().flat_map(|(_, r)| link_rows(r)).collect();
        let mut by_shard: Vec<Vec<MemoryKey>> = self.per_shard();
        for key in rows.iter().flat_map(|r| [&r.from, &r.to]).filter_map(|end| end.as_ref().err()) {
            by_shard[self.partitioner.owner(*key).index()].push(*key);
        }
        let asks = asks_of(by_shard, |keys| Ask::Names { space: space.clone(), keys });
        if asks.is_empty() {
            self.answer(ticket, Ok(name_links(rows, Vec::new())));
        } else {
            self.start(ticket, Then::LinkNames(rows), asks);
        }
    }
}

/// One ask for each shard that has items.
pub(super) fn asks_of<T>(
    by_shard: Vec<Vec<T>>,
    ask: impl Fn(Vec<T>) -> Ask,
) -> Vec<(ShardIx, Ask)> {
    let numbered = (0u16..).map(ShardIx).zip(by_shard);
    numbered.filter(|(_, items)| !items.is_empty()).map(|(s, items)| (s, ask(items))).collect()
}

fn too_many_dimensions(dimensions: usize) -> Rejection {
    let detail = format!(
        "an embedding has at most {} dimensions, this one has {dimensions}",
        limits::DIMENSIONS_MAX
    );
    Rejection::new(Code::LimitExceeded, detail)
}

fn read_cursor(cursor: &str) -> Result<MemoryKey, Rejection> {
    let key = u64::from_str_radix(cursor, 16).map_err(|_| {
        let detail = "a cursor is what `next_cursor` of the page before said, unchanged";
        Rejection::at(Code::InvalidValue, "/cursor", detail)
    })?;
    Ok(MemoryKey(key))
}

fn one_answer(replies: Vec<(ShardIx, Reply)>, wait: Wait) -> Result<Answer, Rejection> {
    let durable = wait == Wait::Durable;
    match replies.into_iter().next() {
        Some((_, Reply::Memory(memory))) => Ok(Answer::Memory(memory)),
        Some((_, Reply::Done)) => Ok(Answer::Deleted { durable }),
        other => unreachable!("one memory or done was asked for, not {other:?}"),
    }
}

fn gather_stored(count: usize, replies: Vec<(ShardIx, Reply)>) -> Vec<Result<Stored, Rejection>> {
    let mut verdicts: Vec<Option<Result<Stored, Rejection>>> = (0..count).map(|_| None).collect();
    for (_, reply) in replies {
        let Reply::Stored(stored) = reply else { unreachable!("a store was asked for") };
        for (position, verdict) in stored {
            verdicts[position] = Some(verdict);
        }
    }
    verdicts.into_iter().map(|v| v.expect("owners answer for each item")).collect()
}

fn gather_linked(count: usize, replies: Vec<(ShardIx, Reply)>) -> Vec<Result<(), Rejection>> {
    let mut verdicts: Vec<Result<(), Rejection>> = (0..count).map(|_| Ok(())).collect();
    for (_, reply) in replies {
        let Reply::Linked(linked) = reply else { unreachable!("links were asked for") };
        for (position, verdict) in linked {
            verdicts[position] = verdict;
        }
    }
    verdicts
}

fn unlinked(reply: &Reply) -> u64 {
    let Reply::Unlinked(count) = reply else { unreachable!("removals were asked for") };
    *count
}

fn not_reinforced(reply: Reply) -> Vec<MemoryId> {
    let Reply::Reinforced(missing) = reply else { unreachable!("reinforcement was asked for") };
    missing
}

fn counted(reply: &Reply) -> u64 {
    let Reply::Count(count) = reply else { unreachable!("counts were asked for") };
    *count
}

fn link_rows(reply: Reply) -> Vec<LinkRow> {
    let Reply::Links(rows) = reply else { unreachable!("links were asked for") };
    rows
}

fn merge_pages(limit: usize, replies: Vec<(ShardIx, Reply)>) -> Answer {
    let (mut rows, mut more) = (Vec::new(), false);
    for (_, reply) in replies {
        let Reply::Page { rows: page, more: rest } = reply else {
            unreachable!("pages were asked for")
        };
        rows.extend(page);
        more |= rest;
    }
    rows.sort_by_key(|(key, _)| *key);
    more |= rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|(key, _)| format!("{:016x}", key.0));
    Answer::Page { memories: rows.into_iter().map(|(_, m)| m).collect(), next_cursor }
}

fn merge_spaces(
    of: Option<&SpaceName>,
    replies: Vec<(ShardIx, Reply)>,
) -> Result<Answer, Rejection> {
    let mut merged: std::collections::BTreeMap<SpaceName, SpaceView> = Default::default();
    for (_, reply) in replies {
        let Reply::Spaces(rows) = reply else { unreachable!("spaces were asked for") };
        for (name, config, memories, links) in rows {
            let empty = SpaceView { name: name.clone(), config, memories: 0, links: 0 };
            let view = merged.entry(name).or_insert(empty);
            view.memories += memories;
            view.links += links;
        }
    }
    match of {
        Some(name) if merged.is_empty() => Err(super::no_space(name)),
        _ => Ok(Answer::Spaces(merged.into_values().collect())),
    }
}

fn merge_stats(replies: Vec<(ShardIx, Reply)>) -> Answer {
    let mut stats = Stats::default();
    for (_, reply) in replies {
        let Reply::Stats(report) = reply else { unreachable!("reports were asked for") };
        stats.memories += report.stats.memories;
        stats.links += report.stats.links;
        stats.automatic_links += report.automatic_links;
        stats.cold_memories += report.cold_memories;
        stats.index_backlog += report.index_backlog;
        stats.association_backlog += report.association_backlog;
        stats.merged += report.merged;
        stats.pruned_links += report.pruned_links;
        stats.traces += report.traces;
        stats.spaces = stats.spaces.max(report.spaces);
        for (part, bytes) in report.memory_bytes {
            match stats.memory_bytes.iter_mut().find(|(p, _)| *p == part) {
                Some((_, sum)) => *sum += bytes,
                None => stats.memory_bytes.push((part, bytes)),
            }
        }
        stats.shards.push(report.stats);
    }
    Answer::Stats(Box::new(stats))
}

fn name_links(rows: Vec<LinkRow>, replies: Vec<(ShardIx, Reply)>) -> Answer {
    let mut names: crate::key::KeyMap<MemoryId> = Default::default();
    for (_, reply) in replies {
        let Reply::Names(known) = reply else { unreachable!("names were asked for") };
        names.extend(known.into_iter().map(|(key, id)| (key.0, id)));
    }
    let name = |end: Result<MemoryId, MemoryKey>| match end {
        Ok(id) => Some(id),
        Err(key) => names.get(&key.0).cloned(),
    };
    let views = rows.into_iter().filter_map(|row| {
        Some(LinkView {
            from: name(row.from)?,
            to: name(row.to)?,
            weight: crate::fixed::weight_of(row.weight),
            kind: row.kind,
            automatic: row.automatic,
            live: row.live,
        })
    });
    let mut views: Vec<LinkView> = views.collect();
    views.sort_by(|a, b| (&a.from, &a.to, &a.kind).cmp(&(&b.from, &b.to, &b.kind)));
    Answer::Links(views)
}
