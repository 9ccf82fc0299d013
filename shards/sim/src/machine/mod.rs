//! A machine of several cores: the real shards, logs and recovery on a simulated mesh, clock and disk.
//!
//! *Invariants*: one thing happens at a time, in the order of the simulated time; envelopes between
//! two shards arrive in the order in which they were sent; everything follows from the plan.
//!
//! *Not here*: clients (`workload`), what their answers must be (`model`, `check`).

mod cold;
mod compaction;
mod images;
mod start;

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use engram_engine::cold::ColdSegmentId;
use engram_engine::key::ShardIx;
use engram_engine::mesh::{Ask, Envelope, Message};
use engram_engine::model::Timestamp;
use engram_engine::request::{Answer, Rejection, Request};
use engram_engine::shard::{
    ConsolidateAsk, Effect, Event, FetchId, LogRoom, Remaining, Shard, Ticket,
};
use engram_shards::log::{Flushed, Log};
use engram_shards::{Manifest, ShardsError};

use crate::disk::SimDisk;
use crate::plan::{Plan, Planted};
use crate::random::Random;
use crate::workload::id;

use cold::ColdCall;
use compaction::Compaction;
use start::Rot;
pub use start::Started;

/// What a client is answered.
pub type Outcome = Result<Answer, Rejection>;

type Flush = Pin<Box<dyn Future<Output = Result<(Option<Flushed>, LogRoom), ShardsError>>>>;
type Read = Pin<Box<dyn Future<Output = Result<Rc<[u8]>, ShardsError>>>>;

const DIRECTORY: u64 = 77;
/// Version of the manifest.
const DIRECTORY_VERSION: u32 = 1;
const SECRET: [u64; 2] = [7, 11];
/// The simulated time at which a run begins, in microseconds since 1970.
const BEGINNING: i64 = 1_700_000_000_000_000;
/// Planted: by how much a clock is late, in microseconds.
const SLOW_US: i64 = 20_000;
const TICK_US: u64 = 5000;
const BACKGROUND_US: u64 = 200;
/// Between two looks whether a full disk has room again, about.
const ROOM_US: u64 = 500;

/// Something that is to happen.
#[derive(Debug)]
enum Happening {
    Client(usize),
    Rise(u16),
    Deliver { from: u16, to: u16, envelope: Box<Envelope> },
    Flush(u16),
    DiskCall { core: u16, call: u64 },
    Cold { core: u16, call: ColdCall },
    Work(u16),
    Tick(u16),
    Freeze(u16),
    Look,
    Thaw(u16),
}

/// What happened last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A client is to ask something.
    Client(usize),
    /// Something within the machine.
    Within,
    /// Nothing: nothing is under way.
    Nothing,
}

struct Core {
    shard: Rc<RefCell<Shard>>,
    log: Rc<Log<SimDisk>>,
    flush: Option<Flush>,
    reads: Vec<(FetchId, Read)>,
    /// Held by whoever reads the log.
    readers: Rc<RefCell<Rc<()>>>,
    compaction: Option<Compaction>,
    /// Records are being moved: no image can be taken.
    is_moving: Rc<Cell<bool>>,
    pending: VecDeque<Event>,
    inbox: VecDeque<(u16, Envelope)>,
    is_up: bool,
    is_poisoned: bool,
    room: LogRoom,
    is_frozen: bool,
    works: bool,
    ticks: bool,
    /// Where the last durable batch of this life begins: what lies before it can be missed.
    missable: Option<(u32, u64)>,
}

/// The machine.
pub struct Machine {
    plan: Plan,
    random: Random,
    manifest: Manifest,
    disk: SimDisk,
    cores: Vec<Core>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_happening: u64,
    /// Microseconds since the beginning.
    time_us: u64,
    /// By how much the wall clock is wrong, in microseconds.
    clock_offset: i64,
    last_arrival: BTreeMap<(u16, u16), u64>,
    replies: Vec<(u64, Outcome)>,
    trace: u64,
    starts: u64,
    /// The newest set of images, and the generation that they belong to.
    images: Option<(u32, Vec<Vec<u8>>)>,
    sets: u64,
    /// Looks until a set under way is given up.
    looks: u64,
    rot: Option<Rot>,
    compactions: u64,
    reshardings: u64,
    cold: BTreeMap<ColdSegmentId, (u32, Vec<u8>)>,
    cold_is_up: bool,
    cold_failures: u64,
    cold_stores: u64,
    /// A segment that was read through is not what was written to it.
    damage: Option<String>,
    /// Times that a log had no room for what waited.
    shortages: u64,
}

impl Machine {
    /// A machine with an empty disk, started.
    ///
    /// # Errors
    /// What its start said, which on an empty disk is a bug.
    pub fn new(plan: &Plan) -> Result<Self, ShardsError> {
        let mut random = Random::new(plan.seed ^ 0x4D41_4348);
        let disk = SimDisk::new(random.bits(), plan.disk);
        let manifest = Manifest {
            version: DIRECTORY_VERSION,
            directory: DIRECTORY,
            secret: SECRET,
            shards: plan.shards,
            generation: 1,
        };
        let mut machine = Self {
            plan: plan.clone(),
            random,
            manifest,
            disk,
            cores: Vec::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_happening: 0,
            time_us: 0,
            clock_offset: 0,
            last_arrival: BTreeMap::new(),
            replies: Vec::new(),
            trace: plan.seed,
            starts: 0,
            images: None,
            sets: 0,
            looks: 0,
            rot: None,
            compactions: 0,
            reshardings: 0,
            cold: BTreeMap::new(),
            cold_is_up: true,
            cold_failures: 0,
            cold_stores: 0,
            damage: None,
            shortages: 0,
        };
        machine.make_directory()?;
        machine.start()?;
        Ok(machine)
    }

    /// A hash of everything that happened.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Microseconds since the beginning.
    pub fn time_us(&self) -> u64 {
        self.time_us
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        let time = i64::try_from(self.time_us).expect("a run ends before that");
        Timestamp(BEGINNING + time + self.clock_offset)
    }

    /// What a core takes for the time.
    fn now_on(&self, me: u16) -> Timestamp {
        let is_slow = self.plan.planted == Some(Planted::SlowClock) && me == 0;
        Timestamp(self.now().0 - if is_slow { SLOW_US } else { 0 })
    }

    /// Sets the wall clock forwards or backwards.
    pub fn jump_clock(&mut self) {
        let jump = self.random.below(20_000_000);
        self.clock_offset += i64::try_from(jump).expect("20 seconds") - 10_000_000;
    }

    /// Shards that take requests.
    pub fn open_homes(&self) -> Vec<u16> {
        let open = |(_, core): &(u16, &Core)| core.is_up && core.shard.borrow().is_recovered();
        (0..).zip(&self.cores).filter(open).map(|(me, _)| me).collect()
    }

    /// All shards take requests.
    pub fn is_open(&self) -> bool {
        self.open_homes().len() == self.cores.len()
    }

    /// Some log can't be written any more.
    pub fn is_poisoned(&self) -> bool {
        self.cores.iter().any(|core| core.is_poisoned)
    }

    /// How often a log had no room for what waited.
    pub fn shortages(&self) -> u64 {
        self.shortages
    }

    /// How often a log was compacted.
    pub fn compactions(&self) -> u64 {
        self.compactions
    }

    /// How often the number of shards was changed.
    pub fn reshardings(&self) -> u64 {
        self.reshardings
    }

    /// What was found damaged that nobody has damaged.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// A client asks.
    pub fn request(&mut self, home: u16, ticket: u64, request: Request) {
        self.note(&[0, u64::from(home), ticket]);
        self.drive(home, Event::Request { ticket: Ticket(ticket), request });
        self.tick_later(home);
    }

    /// Answers since it was asked last.
    pub fn take_replies(&mut self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut self.replies)
    }

    /// A client acts later.
    pub fn wake_client(&mut self, client: usize, after_us: u64) {
        self.schedule(after_us, Happening::Client(client));
    }

    /// Lets the next thing happen.
    pub fn advance(&mut self) -> Happened {
        let Some(Reverse((time, number))) = self.queue.pop() else { return Happened::Nothing };
        let happening = self.happenings.remove(&number).expect("each is scheduled once");
        self.time_us = time;
        match happening {
            Happening::Client(client) => {
                self.note(&[1, time, client as u64]);
                return Happened::Client(client);
            }
            Happening::Rise(me) => self.rise(me),
            Happening::Deliver { from, to, envelope } => {
                self.note(&[2, time, u64::from(from), u64::from(to)]);
                let core = &mut self.cores[usize::from(to)];
                if core.is_up {
                    self.drive(to, Event::Envelope { from: ShardIx(from), envelope: *envelope });
                } else {
                    core.inbox.push_back((from, *envelope));
                }
            }
            Happening::Flush(me) => {
                self.note(&[3, time, u64::from(me)]);
                self.begin_flush(me);
            }
            Happening::DiskCall { core, call } => {
                self.note(&[4, time, u64::from(core), call]);
                self.disk.end(call);
                self.poll_disk(core);
            }
            Happening::Cold { core, call } => self.end_cold(core, call),
            Happening::Work(me) => self.work(me),
            Happening::Freeze(me) => self.freeze(me),
            Happening::Look => self.look(),
            Happening::Thaw(me) => self.thaw(me),
            Happening::Tick(me) => {
                self.cores[usize::from(me)].ticks = false;
                self.drive(me, Event::Tick);
                self.tick_later(me);
            }
        }
        Happened::Within
    }

    /// A core is done with its log: it tells the others, and hears what they told meanwhile.
    fn rise(&mut self, me: u16) {
        self.note(&[6, self.time_us, u64::from(me)]);
        let now = self.now_on(me);
        let core = &mut self.cores[usize::from(me)];
        core.is_up = true;
        core.shard.borrow_mut().start_exchange(now);
        let inbox = std::mem::take(&mut core.inbox);
        self.drive(me, Event::Tick);
        for (from, envelope) in inbox {
            self.drive(me, Event::Envelope { from: ShardIx(from), envelope });
        }
    }

    /// Steps a shard with an event, and with all that follows from it there.
    fn drive(&mut self, me: u16, event: Event) {
        self.cores[usize::from(me)].pending.push_back(event);
        let mut effects = Vec::new();
        loop {
            let now = self.now_on(me);
            let core = &mut self.cores[usize::from(me)];
            match core.pending.pop_front() {
                Some(event) => core.shard.borrow_mut().step(now, event),
                None if core.shard.borrow().has_local() => {
                    core.shard.borrow_mut().step(now, Event::Local);
                }
                None => break,
            }
            core.shard.borrow_mut().effects(&mut effects);
            effects.drain(..).for_each(|effect| self.perform(me, effect));
        }
        self.work_later(me, 1);
        self.schedule_disk();
    }

    fn perform(&mut self, me: u16, effect: Effect) {
        match effect {
            Effect::Send { to, envelope } => self.send(me, to.0, envelope),
            Effect::Append { sequence, draft, place } => {
                let head = draft
                    .head
                    .iter()
                    .fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
                self.note(&[7, u64::from(me), sequence, head]);
                let early = self.plan.planted == Some(Planted::EarlyAcknowledgement);
                let core = &mut self.cores[usize::from(me)];
                let is_idle = core.log.is_flushed();
                let address = core.log.append(sequence, &draft);
                if let Some(place) = place {
                    core.shard.borrow_mut().placed(place, address);
                }
                if early {
                    core.pending.push_back(Event::Durable { sequence, log_bytes: 0 });
                }
                if is_idle && !core.is_poisoned {
                    let after = self.random.delay(5);
                    self.schedule(after, Happening::Flush(me));
                }
            }
            Effect::Fetch { fetch, address, tail } => {
                let tail_bytes = if tail { address.tail_bytes } else { 0 };
                let bytes = (address.head_bytes + tail_bytes) as usize;
                let core = &mut self.cores[usize::from(me)];
                match core.log.unwritten(address, bytes) {
                    Some(bytes) => {
                        core.pending.push_back(Event::Fetched { fetch, bytes: Ok(bytes) });
                    }
                    None => {
                        let log = core.log.clone();
                        let reading = core.readers.borrow().clone();
                        let read = async move {
                            let read = log.read(address, bytes).await;
                            drop(reading);
                            read
                        };
                        core.reads.push((fetch, Box::pin(read)));
                        self.poll_reads(me);
                    }
                }
            }
            Effect::Reply { ticket, outcome } => self.replies.push((ticket.0, outcome)),
            Effect::FetchCold { fetch, address } => {
                self.begin_cold(me, ColdCall::Fetch { fetch, address });
            }
            Effect::StoreCold { segment, records, blocks } => {
                self.begin_cold(me, ColdCall::Store { segment, records, blocks });
            }
        }
    }

    fn send(&mut self, from: u16, to: u16, mut envelope: Envelope) {
        if self.plan.planted == Some(Planted::LostMessage) && self.random.permille(2) {
            return;
        }
        if self.plan.planted == Some(Planted::MergedIntoNothing)
            && let Message::Ask(_, Ask::Consolidate(_, ConsolidateAsk::Merge(_, items))) =
                &mut envelope.message
        {
            items.iter_mut().for_each(|item| item.into_id = id(usize::MAX));
        }
        if self.plan.planted == Some(Planted::LostNews)
            && let Message::Ask(_, Ask::Forget(memories)) = &mut envelope.message
        {
            *memories = Default::default();
        }
        let sent = self.time_us + self.random.delay(self.plan.message_us);
        let last = self.last_arrival.entry((from, to)).or_default();
        let overtakes = self.plan.planted == Some(Planted::Overtaking);
        let arrival = if overtakes { sent } else { sent.max(*last) };
        *last = arrival;
        let happening = Happening::Deliver { from, to, envelope: Box::new(envelope) };
        self.schedule(arrival - self.time_us, happening);
    }

    fn begin_flush(&mut self, me: u16) {
        let core = &mut self.cores[usize::from(me)];
        let is_wanted = !core.log.is_flushed() || core.room == LogRoom::Last;
        if core.flush.is_some() || core.is_poisoned || !is_wanted {
            return;
        }
        core.flush = Some(Box::pin(flush(core.log.clone())));
        self.poll_disk(me);
    }

    /// Goes on with what waits for the disk.
    fn poll_disk(&mut self, me: u16) {
        let core = &mut self.cores[usize::from(me)];
        let polled = core.flush.as_mut().map(poll_once);
        match polled {
            None | Some(Poll::Pending) => {}
            Some(Poll::Ready(Ok((flushed, room)))) => {
                core.flush = None;
                if let Some(flushed) = flushed {
                    let durable = core.log.durable();
                    core.missable = Some((durable.segment, durable.end - flushed.bytes));
                }
                let before = std::mem::replace(&mut core.room, room);
                if !core.log.is_flushed() || room == LogRoom::Last {
                    let usual = if room == LogRoom::Enough { 3 } else { ROOM_US };
                    let after = self.random.delay(usual);
                    self.schedule(after, Happening::Flush(me));
                }
                let early = self.plan.planted == Some(Planted::EarlyAcknowledgement);
                if let Some(Flushed { sequence, .. }) = flushed.filter(|_| !early) {
                    let log_bytes = self.cores[usize::from(me)].log.bytes();
                    self.drive(me, Event::Durable { sequence, log_bytes });
                }
                if before != room {
                    self.shortages += u64::from(room == LogRoom::None);
                    self.drive(me, Event::LogRoom(room));
                }
            }
            Some(Poll::Ready(Err(_))) => {
                core.flush = None;
                core.is_poisoned = true;
                self.drive(me, Event::Poisoned);
            }
        }
        self.poll_reads(me);
        self.poll_compaction(me);
        self.schedule_disk();
    }

    fn poll_reads(&mut self, me: u16) {
        let core = &mut self.cores[usize::from(me)];
        let mut came = Vec::new();
        core.reads.retain_mut(|(fetch, read)| match poll_once(read) {
            Poll::Pending => true,
            Poll::Ready(bytes) => {
                let bytes = bytes.map_err(|error| error.to_string());
                came.push(Event::Fetched { fetch: *fetch, bytes });
                false
            }
        });
        for event in came {
            self.drive(me, event);
        }
    }

    fn work(&mut self, me: u16) {
        self.note(&[8, self.time_us, u64::from(me)]);
        let now = self.now_on(me);
        let mut effects = Vec::new();
        let core = &mut self.cores[usize::from(me)];
        core.works = false;
        let remaining = core.shard.borrow_mut().work(now);
        core.shard.borrow_mut().effects(&mut effects);
        effects.drain(..).for_each(|effect| self.perform(me, effect));
        let core = &mut self.cores[usize::from(me)];
        if core.shard.borrow().has_local() || !core.pending.is_empty() {
            let event = core.pending.pop_front().unwrap_or(Event::Local);
            self.drive(me, event);
        }
        match remaining {
            Remaining::Nothing => {}
            Remaining::Foreground => self.work_later(me, 1),
            Remaining::Background => {
                let after = self.random.delay(BACKGROUND_US);
                self.work_later(me, after);
            }
        }
        self.schedule_disk();
    }

    fn work_later(&mut self, me: u16, after_us: u64) {
        let core = &mut self.cores[usize::from(me)];
        // Before it has heard of the others a shard makes no indexes.
        if core.works || !core.shard.borrow().is_recovered() {
            return;
        }
        core.works = true;
        self.schedule(after_us, Happening::Work(me));
    }

    fn tick_later(&mut self, me: u16) {
        let core = &mut self.cores[usize::from(me)];
        if !core.ticks && core.shard.borrow().in_flight() > 0 {
            core.ticks = true;
            self.schedule(TICK_US, Happening::Tick(me));
        }
    }

    fn schedule_disk(&mut self) {
        for begun in self.disk.take_begun() {
            let happening = Happening::DiskCall { core: begun.core, call: begun.call };
            self.schedule(begun.takes_us, happening);
        }
    }

    fn schedule(&mut self, after_us: u64, happening: Happening) {
        let number = self.next_happening;
        self.next_happening += 1;
        self.happenings.insert(number, happening);
        self.queue.push(Reverse((self.time_us + after_us, number)));
    }

    /// Adds what happened to the trace.
    pub fn note(&mut self, what: &[u64]) {
        for word in what {
            self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }
}

/// Writes what waits, and sets room aside for the next segment; what was written, and what room is
/// left.
async fn flush(log: Rc<Log<SimDisk>>) -> Result<(Option<Flushed>, LogRoom), ShardsError> {
    let mut flushed = None;
    if !log.is_flushed() {
        match log.flush().await {
            Ok(written) => flushed = Some(written),
            Err(ShardsError::Room { .. }) => return Ok((None, LogRoom::None)),
            Err(error) => return Err(error),
        }
    }
    match log.keep_spare().await {
        Ok(()) => Ok((flushed, LogRoom::Enough)),
        Err(ShardsError::Room { .. }) => Ok((flushed, LogRoom::Last)),
        Err(error) => Err(error),
    }
}

fn poll_once<T>(future: &mut Pin<Box<dyn Future<Output = T>>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
