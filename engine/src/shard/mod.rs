//! One shard as a state machine: events in, effects out.
//!
//! *Invariants*: a write is visible when its step ends and acknowledged when its record is durable;
//! every request gets exactly one reply; what a shard knows follows from the records it replayed
//! and the messages it got.
//!
//! *Not here*: mailboxes, files and clocks (`shards`), what a space holds (`space`).

mod associate;
mod budget;
mod collect;
mod compaction;
mod consolidate;
mod demotion;
mod forget;
mod freeze;
mod home;
mod image;
mod owner;
mod recovery;
mod reinforce;
mod search;
mod slices;
mod spaces;
mod table;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::cold::segment::Extent;
use crate::cold::{ColdAddress, ColdSegmentId};
use crate::key::{KeyMap, Partitioner, ShardIx};
use crate::life::{Lived, LivedClock};
use crate::mesh::{Ask, Envelope, Message, OpId, Reply, Tell};
use crate::model::{SpaceName, Timestamp};
use crate::node::NodeIx;
use crate::record::{Contents, Draft, SpaceNumber};
use crate::request::{Answer, Code, Rejection, Request};
use crate::space::{LogAddress, Space, Surroundings, Tells};
use crate::text::Analyzer;
use crate::trace::{Trace, Traces};

pub use budget::{Budget, LogRoom, Writes};
pub use collect::ColdFailure;
use collect::Collect;
pub use compaction::{LiveRecords, Owner, Verdict};
pub use consolidate::{
    ConsolidateAsk, ConsolidateReply, Deeds, Lives, MergeItem, Pattern, ScanOf, Scanned, Seen,
};
use freeze::Freeze;
pub use freeze::Settled;
use home::Op;
pub use image::ShardImage;
use image::Untold;
pub use owner::ShardCounts;
pub(crate) use owner::check_direction;
pub use reinforce::ReinforceAsk;
pub(crate) use search::keep_stronger;
use table::SpaceTable;

/// The shard that decides about spaces.
const AUTHORITY: ShardIx = ShardIx(0);

/// Number by which the shell knows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Number of a read from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchId(pub u64);

/// What happens to a shard.
#[derive(Debug)]
pub enum Event {
    /// A client of this core asks.
    Request { ticket: Ticket, request: Request },
    /// Another shard says something.
    Envelope { from: ShardIx, envelope: Envelope },
    /// Every record up to this sequence number is on stable storage; the log has so many bytes.
    Durable { sequence: u64, log_bytes: u64 },
    /// A read from the log came back; the bytes start with the record's header.
    Fetched { fetch: FetchId, bytes: Result<Rc<[u8]>, String> },
    /// A read from the cold tier came back; the bytes start with the record's header.
    FetchedCold { fetch: FetchId, bytes: Result<Rc<[u8]>, ColdFailure> },
    /// A cold segment was written, and where each of its blocks lies; or it was not.
    StoredCold { segment: ColdSegmentId, outcome: Result<Vec<Extent>, String> },
    /// The log can't be written any more.
    Poisoned,
    /// The budgets of memory and disk allow this from now on.
    Budget(Budget),
    /// The log has found room on the disk for its next segment, or none.
    LogRoom(LogRoom),
    /// The next message that the shard sent to itself.
    Local,
    /// Time passed: operations past their deadline end.
    Tick,
    /// A record is wanted that ends a segment of the log, so that it can be compacted.
    Mark,
    /// The server stops: what runs in the background for clients, and pruning, end where they are.
    Drain,
    /// Every shard is drained: the authority prunes where that is wanted.
    Prune,
}

/// What the shell has to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Put an envelope in another shard's mailbox.
    Send { to: ShardIx, envelope: Envelope },
    /// Append a record to the log, and say by [`Shard::placed`] where it went.
    Append { sequence: u64, draft: Draft, place: Option<Place> },
    /// Read a record from the log, without its tail unless that is wanted.
    Fetch { fetch: FetchId, address: LogAddress, tail: bool },
    /// Read a record from the cold tier.
    FetchCold { fetch: FetchId, address: ColdAddress },
    /// Write a cold segment from blocks of records.
    StoreCold { segment: ColdSegmentId, records: u32, blocks: Vec<Vec<u8>> },
    /// Answer a client.
    Reply { ticket: Ticket, outcome: Result<Answer, Rejection> },
}

/// Which memory a record is the newest of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its space.
    pub space: SpaceNumber,
    /// Its node.
    pub node: NodeIx,
}

/// What a slice of work left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// A recall waits for it.
    Foreground,
    /// It can wait.
    Background,
    /// Nothing.
    Nothing,
}

/// How a shard starts.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Its number.
    pub me: ShardIx,
    /// Owners of keys.
    pub partitioner: Partitioner,
    /// Fixes everything that is drawn by lot.
    pub seed: u64,
    /// Consolidation moves what is little present to the cold tier.
    pub demotes: bool,
}

/// One shard.
pub struct Shard {
    me: ShardIx,
    partitioner: Partitioner,
    seed: u64,
    now: Timestamp,
    clock: Timestamp,
    lived: LivedClock,
    lived_recorded: Lived,
    analyzer: Analyzer,
    spaces: SpaceTable,
    space_numbers: hashbrown::HashMap<SpaceName, SpaceNumber>,
    dropped_spaces: HashMap<SpaceName, Timestamp>,
    next_space: u32,
    ops: KeyMap<Op>,
    next_op: u64,
    collects: KeyMap<Collect>,
    next_collect: u64,
    parked: VecDeque<Parked>,
    sequence: u64,
    durable: u64,
    log_bytes: u64,
    local: VecDeque<(ShardIx, Message)>,
    effects: Vec<Effect>,
    poisoned: bool,
    budget: Budget,
    log_room: LogRoom,
    replaying: bool,
    untold: Untold,
    freeze: Freeze,
    forgets: forget::Forgets,
    exchanged: Vec<ShardIx>,
    answered: u16,
    scans: VecDeque<slices::Scan>,
    scratch: search::Scratches,
    associations: u32,
    runs: consolidate::Runs,
    near: VecDeque<consolidate::NearSearch>,
    demotes: bool,
    lives: Lives,
    draining: bool,
    demotions: demotion::Demotions,
    traces: Traces,
}

/// A reply that waits for its records to be durable.
struct Parked {
    sequence: u64,
    since: Timestamp,
    to: ShardIx,
    op: OpId,
    reply: Reply,
}

impl Shard {
    /// An empty shard with the default space, ready to replay.
    pub fn new(config: ShardConfig) -> Self {
        let mut shard = Self::without_spaces(config);
        shard.create_default_space();
        shard
    }

    fn without_spaces(config: ShardConfig) -> Self {
        assert!(config.me.0 < config.partitioner.shards(), "a shard is one of those there are");
        Self {
            me: config.me,
            partitioner: config.partitioner,
            seed: config.seed,
            now: Timestamp::default(),
            clock: Timestamp::default(),
            lived: LivedClock::default(),
            lived_recorded: Lived::default(),
            analyzer: Analyzer::new(),
            spaces: SpaceTable::default(),
            space_numbers: hashbrown::HashMap::new(),
            dropped_spaces: HashMap::new(),
            next_space: 0,
            ops: KeyMap::default(),
            next_op: 0,
            collects: KeyMap::default(),
            next_collect: 0,
            parked: VecDeque::new(),
            sequence: 0,
            durable: 0,
            log_bytes: 0,
            local: VecDeque::new(),
            effects: Vec::new(),
            poisoned: false,
            budget: Budget::default(),
            log_room: LogRoom::default(),
            replaying: true,
            untold: Untold::Everything,
            freeze: Freeze::default(),
            forgets: forget::Forgets::default(),
            exchanged: Vec::new(),
            answered: 0,
            scans: VecDeque::new(),
            scratch: search::Scratches::default(),
            associations: 0,
            runs: consolidate::Runs::default(),
            near: VecDeque::new(),
            demotes: config.demotes,
            lives: Lives::default(),
            draining: false,
            demotions: demotion::Demotions::default(),
            traces: Traces::default(),
        }
    }

    /// Does what an event asks for; the effects are fetched by [`Shard::effects`].
    pub fn step(&mut self, now: Timestamp, event: Event) {
        self.now = now;
        self.lived.advance(now);
        match event {
            Event::Request { ticket, request } => self.on_request(ticket, request),
            Event::Envelope { from, envelope } => {
                self.clock = self.clock.max(envelope.clock);
                self.freeze.count_heard(&envelope.message);
                self.lived.heard(envelope.lived);
                self.on_message(from, envelope.message);
            }
            Event::Durable { sequence, log_bytes } => {
                self.log_bytes = log_bytes;
                self.on_durable(sequence);
            }
            Event::Fetched { fetch, bytes } => self.on_fetched(fetch, bytes),
            Event::FetchedCold { fetch, bytes } => self.on_fetched_cold(fetch, bytes),
            Event::StoredCold { segment, outcome } => self.on_stored_cold(segment, outcome),
            Event::Poisoned => self.on_poisoned(),
            Event::Budget(budget) => self.budget = budget,
            Event::LogRoom(room) => self.on_log_room(room),
            Event::Local => {
                if let Some((from, message)) = self.local.pop_front() {
                    self.on_message(from, message);
                }
            }
            Event::Tick => self.on_tick(),
            Event::Mark => self.mark(),
            Event::Drain => {
                self.stop_runs();
                self.record_lived(1);
            }
            Event::Prune => self.begin_last_runs(),
        }
    }

    /// Messages to itself wait for [`Event::Local`].
    pub fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// Operations that this shard is home of and that are under way.
    pub fn in_flight(&self) -> usize {
        self.ops.len()
    }

    /// No work is left that can be done later: an image that is made now is as good as any.
    pub fn is_settled(&self) -> bool {
        let indexed = |space: &Space| space.vectors.as_ref().is_none_or(|v| v.backlog() == 0);
        self.association_backlog() == 0 && self.spaces.values().all(indexed)
    }

    /// The log can't be written.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Notes what the request of this ticket will ask of the shards, until [`Self::end_trace`].
    pub fn begin_trace(&mut self, ticket: Ticket) {
        self.traces.begin(ticket);
    }

    /// What the request of this ticket asked of the shards; `None` where nobody wanted to know.
    pub fn end_trace(&mut self, ticket: Ticket) -> Option<Trace> {
        self.traces.end(ticket)
    }

    /// Moves what has to be done to the end of `out`.
    pub fn effects(&mut self, out: &mut Vec<Effect>) {
        out.append(&mut self.effects);
    }

    /// Notes where the newest record of a memory lies.
    pub fn placed(&mut self, place: Place, address: LogAddress) {
        if let Some(space) = self.spaces.get_mut(&place.space) {
            space.placed(place.node, address);
        }
    }

    /// Runs one slice of work: a search that a recall waits for, else association, else the index.
    pub fn work(&mut self, now: Timestamp) -> Remaining {
        self.now = now;
        if self.run_scan() {
            return Remaining::Foreground;
        }
        if self.run_background() { Remaining::Background } else { Remaining::Nothing }
    }

    /// A recall waits for a slice of work.
    pub fn has_foreground(&self) -> bool {
        !self.scans.is_empty()
    }

    fn run_background(&mut self) -> bool {
        if self.replaying || self.stands_still() || !self.budget.background {
            return false;
        }
        let made = self.run_association() | self.run_index_build() | self.run_demotion();
        made || self.run_near() || self.run_consolidation()
    }

    /// A new timestamp, later than every one given or seen before.
    fn stamp(&mut self) -> Timestamp {
        self.clock = Timestamp(self.clock.0 + 1).max(self.now);
        self.clock
    }

    fn on_message(&mut self, from: ShardIx, message: Message) {
        let Some(message) = self.freeze.pass(from, message) else { return };
        match message {
            Message::Ask(op, ask) => self.on_ask(from, op, ask),
            Message::Reply(op, reply, synced_us) => self.on_reply(from, op, reply, synced_us),
            Message::Tell(space, tell) => self.on_tell(from, &space, tell),
        }
    }

    fn send(&mut self, to: ShardIx, message: Message) {
        if to == self.me {
            self.local.push_back((to, message));
        } else {
            self.freeze.count_told(&message);
            let envelope = Envelope { clock: self.clock, lived: self.lived.lived(), message };
            self.effects.push(Effect::Send { to, envelope });
        }
    }

    fn ask(&mut self, to: ShardIx, op: OpId, ask: Ask) {
        self.send(to, Message::Ask(op, ask));
    }

    fn reply(&mut self, to: ShardIx, op: OpId, reply: Result<Reply, Rejection>) {
        self.send(to, Message::Reply(op, reply, 0));
    }

    /// Replies once everything appended so far is durable.
    fn reply_when_durable(&mut self, to: ShardIx, op: OpId, reply: Reply) {
        if self.sequence <= self.durable {
            return self.reply(to, op, Ok(reply));
        }
        // What is not durable by now never will be, or not before there is room.
        if let Err(rejection) = self.check_writable() {
            return self.reply(to, op, Err(rejection));
        }
        let (sequence, since) = (self.sequence, self.now);
        self.parked.push_back(Parked { sequence, since, to, op, reply });
    }

    fn on_durable(&mut self, sequence: u64) {
        assert!(sequence >= self.durable, "what is durable stays durable");
        assert!(sequence <= self.sequence, "only what was appended can be durable");
        self.durable = sequence;
        while self.parked.front().is_some_and(|p| p.sequence <= sequence) {
            let Some(parked) = self.parked.pop_front() else { break };
            let synced_us = u32::try_from(self.now.0 - parked.since.0).unwrap_or(0);
            self.send(parked.to, Message::Reply(parked.op, Ok(parked.reply), synced_us));
        }
        self.tell_forgotten();
    }

    fn on_poisoned(&mut self) {
        self.poisoned = true;
        self.refuse_parked(&poisoned());
    }

    /// Whoever waits for the log to be written is told that it can't be.
    fn refuse_parked(&mut self, rejection: &Rejection) {
        for parked in std::mem::take(&mut self.parked) {
            self.reply(parked.to, parked.op, Err(rejection.clone()));
        }
        self.refuse_forgets(rejection);
    }

    fn append(&mut self, contents: &Contents, place: Option<Place>) {
        assert!(!self.replaying, "what is replayed is in the log already");
        self.sequence += 1;
        let draft = contents.draft();
        self.effects.push(Effect::Append { sequence: self.sequence, draft, place });
    }

    fn space_number(&self, name: &SpaceName) -> Option<SpaceNumber> {
        self.space_numbers.get(name).copied()
    }

    fn space(&self, name: &SpaceName) -> Result<&Space, Rejection> {
        let number = self.space_number(name).ok_or_else(|| no_space(name))?;
        Ok(&self.spaces[&number])
    }

    /// Runs `f` on a space, then sends what it wants told.
    fn with_space<T>(
        &mut self,
        name: &SpaceName,
        f: impl FnOnce(&mut Space, &mut Surroundings<'_>) -> T,
    ) -> Result<T, Rejection> {
        let number = self.space_number(name).ok_or_else(|| no_space(name))?;
        let mut tells: Tells = Vec::new();
        let recovering = !self.is_recovered();
        let space = self.spaces.get_mut(&number).expect("a numbered space is there");
        let mut surroundings = Surroundings {
            me: self.me,
            partitioner: &self.partitioner,
            analyzer: &mut self.analyzer,
            tells: &mut tells,
            replaying: self.replaying,
            recovering,
            lived: self.lived_recorded,
        };
        let value = f(space, &mut surroundings);
        self.tell(name, tells);
        Ok(value)
    }

    /// Sends tells, or, while records are replayed, keeps those that others do not know yet.
    fn tell(&mut self, name: &SpaceName, tells: Tells) {
        match &mut self.untold {
            _ if !self.replaying => {
                for (to, tell) in tells {
                    self.send(to, Message::Tell(name.clone(), tell));
                }
            }
            Untold::Everything => {}
            Untold::Since(kept) => {
                kept.extend(tells.into_iter().map(|(to, tell)| (to, name.clone(), tell)));
            }
        }
    }

    fn tell_everyone(&mut self, name: &SpaceName, tell: impl Fn() -> Tell) {
        for shard in 0..self.partitioner.shards() {
            self.send(ShardIx(shard), Message::Tell(name.clone(), tell()));
        }
    }

    fn on_tell(&mut self, from: ShardIx, name: &SpaceName, tell: Tell) {
        let at = self.clock;
        match tell {
            Tell::Space { at, config } => return self.on_space(name, at, config),
            Tell::SpaceGone { at } => return self.on_space_gone(name, at),
            Tell::Exchanged => return self.on_exchanged(from),
            Tell::Answered => return self.on_answered(),
            Tell::Return { key } => return self.on_return(name, key),
            Tell::Used { lived, memories, ways } => {
                return self.on_used(name, lived, &memories, &ways);
            }
            _ => {}
        }
        let exchanging = !self.is_recovered() && !self.exchanged.contains(&from);
        let lost = self.with_space(name, |space, s| apply_tell(space, s, tell, at, exchanging));
        // A space that was dropped meanwhile has nothing left to be told.
        if let Ok(lost) = lost {
            self.append_unlinks(name, lost);
        }
    }
}

/// Applies a tell to a space; client links that were lost by it are returned for the log.
fn apply_tell(
    space: &mut Space,
    s: &mut Surroundings<'_>,
    tell: Tell,
    at: Timestamp,
    exchanging: bool,
) -> Vec<crate::request::LinkName> {
    match tell {
        Tell::LinkIn(link) => space.link_in(&link, exchanging, s),
        Tell::LinkGone { from, to, kind, automatic } => space.link_gone(from, to, &kind, automatic),
        Tell::Live { key } => space.live(key),
        Tell::Gone { key, at } => return space.gone(key, at, s),
        Tell::Named { phrases } => space.named(phrases),
        Tell::Reassociate { keys } => space.reassociate(&keys),
        Tell::Scanned { keys, names_version } => space.scanned(keys, names_version, s),
        Tell::SequenceJoin { sequence, member } => space.change_sequence(sequence, member, true, s),
        Tell::SequenceLeave { sequence, member } => {
            space.change_sequence(sequence, member, false, s);
        }
        Tell::SequenceLinks { of, links } => space.set_sequence_links(of, &links, at, s),
        Tell::Merged { key, into } => space.merged_elsewhere(key, into),
        Tell::Absorbed { of, id, into, version } => space.note_source((of, id), into, version, s),
        Tell::Released { of, into } => space.drop_source(of, into),
        Tell::Space { .. }
        | Tell::SpaceGone { .. }
        | Tell::Exchanged
        | Tell::Answered
        | Tell::Used { .. }
        | Tell::Return { .. } => {
            unreachable!("handled before a space is looked up")
        }
    }
    Vec::new()
}

fn no_space(name: &SpaceName) -> Rejection {
    let detail = format!("there is no space `{}`; PUT it or store a memory in it", name.as_str());
    Rejection::new(Code::SpaceNotFound, detail)
}

fn poisoned() -> Rejection {
    let detail = "the log of this shard could not be written, so writes are refused until the \
                  server was restarted on a sound disk; reads go on";
    Rejection::new(Code::Poisoned, detail)
}
