//! One core: its shard is stepped, and what the steps ask for is done.
//!
//! *Invariants*: the shard is borrowed for one step at a time and never across an await; effects
//! are performed in the order in which they came.
//!
//! *Not here*: what a step decides (`engram_engine::shard`).

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use engram_engine::key::ShardIx;
use engram_engine::limits;
use engram_engine::mesh::{Ask, Message};
use engram_engine::model::Timestamp;
use engram_engine::phase::Phase;
use engram_engine::request::{Answer, Code, Rejection, Request};
use engram_engine::shard::{Effect, Event, FetchId, LogRoom, Remaining, Shard, Ticket};
use engram_engine::space::LogAddress;
use engram_engine::trace::Trace;
use flume::Receiver;
use futures_lite::future::or;
use glommio::timer::sleep;

use crate::admission::{Admission, Permit};
use crate::cache::Cache;
use crate::cold::{ColdTier, ToCore};
use crate::directory::{Directory, Manifest};
use crate::error::ShardsError;
use crate::log::{Flushed, Log};
use crate::mesh::{Delivery, Outbox};
use crate::notify::Notify;
use crate::patience::Arrivals;
use crate::ring::RingDisk;
use crate::stall::Work;
use crate::status::{Counters, Status};

/// Envelopes taken from the inbox before sockets get their turn.
const INBOX_BURST: usize = 64;
/// Between two slices of work: time for the reactor to look at sockets.
const SLICE_PAUSE: Duration = Duration::from_micros(1);
/// The same while requests come and little waits: background work then takes a tenth of the core
/// or less.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// With so many vectors waiting for their index, the pause is half as long.
const WAITING_FEW: u32 = 64;
/// Requests come while the last one is no longer ago than this.
const BUSY_US: i64 = 2000;
/// How often deadlines are looked at while operations are under way.
const TICK: Duration = Duration::from_millis(5);
/// Pause of a write while records wait for the disk.
const LOG_PAUSE: Duration = Duration::from_millis(1);
/// How often a shard that recovers is looked at by whoever wants to ask it.
const WARM_PAUSE: Duration = Duration::from_millis(5);
/// How often an idle shard hears what time it is: what use has left on memories fades by that.
const IDLE_TICK: Duration = Duration::from_secs(60);
/// How often it is looked whether a full disk has room again.
const ROOM_PAUSE: Duration = Duration::from_secs(1);
/// How often gauges are set.
const GAUGE_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a full inbox is tried again.
const RETRY_PAUSE: Duration = Duration::from_micros(50);

type Outcome = Result<Answer, Rejection>;

#[derive(Default)]
struct Waiter {
    outcome: Option<(Outcome, Option<Trace>)>,
    waker: Option<Waker>,
}

/// Everything that one executor owns.
pub(crate) struct Core {
    pub(crate) me: ShardIx,
    pub(crate) shard: RefCell<Shard>,
    pub(crate) log: Log<RingDisk>,
    pub(crate) status: Arc<Status>,
    outbox: Outbox,
    admission: Rc<Admission>,
    pub(crate) cold: Arc<ColdTier>,
    cache: RefCell<Cache>,
    waiters: RefCell<HashMap<u64, Waiter>>,
    next_ticket: Cell<u64>,
    last_request: Cell<Timestamp>,
    pub(crate) arrivals: Rc<Arrivals>,
    pending: RefCell<VecDeque<Event>>,
    work: Notify,
    unsent: Notify,
    started: Notify,
    directory: Arc<Directory>,
    /// What the log found on the disk for its next segment.
    pub(crate) log_room: Cell<LogRoom>,
    /// It takes part in a set of images.
    pub(crate) is_imaging: Cell<bool>,
    /// The last set that it took part in, or passed over.
    pub(crate) last_set: Cell<u64>,
    /// Records are being moved: no image is made meanwhile.
    pub(crate) is_moving: Cell<bool>,
    /// Somebody wants the log to be compacted.
    pub(crate) compaction: Notify,
    /// Held by every read from the log that began since records were moved last.
    readers: RefCell<Rc<()>>,
}

/// What a core has beside its shard and its log.
pub(crate) struct Means {
    pub(crate) directory: Arc<Directory>,
    pub(crate) cold: Arc<ColdTier>,
    pub(crate) cache_bytes: usize,
}

impl Core {
    pub(crate) fn new(
        me: ShardIx,
        shard: Shard,
        log: Log<RingDisk>,
        status: Arc<Status>,
        outbox: Outbox,
        means: Means,
    ) -> Rc<Self> {
        let Means { directory, cold, cache_bytes } = means;
        Rc::new(Self {
            me,
            shard: RefCell::new(shard),
            log,
            status,
            outbox,
            admission: Admission::new(now),
            cold,
            cache: RefCell::new(Cache::new(cache_bytes)),
            waiters: RefCell::default(),
            next_ticket: Cell::new(0),
            last_request: Cell::new(Timestamp(0)),
            arrivals: Rc::default(),
            pending: RefCell::default(),
            work: Notify::default(),
            unsent: Notify::default(),
            started: Notify::default(),
            directory,
            log_room: Cell::default(),
            is_imaging: Cell::new(false),
            last_set: Cell::new(0),
            is_moving: Cell::new(false),
            compaction: Notify::default(),
            readers: RefCell::default(),
        })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        self.directory.manifest()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.status.shards()[self.me.index()]
    }

    /// Steps the shard with an event, and with all that follows from it here.
    pub(crate) fn drive(self: &Rc<Self>, event: Event) {
        self.pending.borrow_mut().push_back(event);
        let mut effects = Vec::new();
        loop {
            let next = self.pending.borrow_mut().pop_front();
            let (work, begun) = (next.as_ref().map_or(Work::Local, Work::of), Instant::now());
            {
                let mut shard = self.shard.borrow_mut();
                match next {
                    Some(event) => shard.step(now(), event),
                    None if shard.has_local() => shard.step(now(), Event::Local),
                    None => break,
                }
                shard.effects(&mut effects);
            }
            effects.drain(..).for_each(|effect| self.perform(effect));
            self.did(work, begun);
        }
        self.work.notify();
    }

    pub(crate) fn did(&self, work: Work, begun: Instant) {
        let counters = self.counters();
        Counters::add(&counters.steps, 1);
        counters.stalls.note(self.me.index(), work, begun);
    }

    /// Takes so much from the size of the record cache, in units of 1/1000.
    pub(crate) fn shrink_cache(&self, less_permille: u16) {
        let mut cache = self.cache.borrow_mut();
        cache.resize(1000_u16.saturating_sub(less_permille));
        self.counters().cache_bytes.store(cache.bytes() as u64, Ordering::Relaxed);
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Send { to, envelope } => {
                Counters::add(&self.counters().envelopes, 1);
                if !self.outbox.send(to, envelope) {
                    Counters::add(&self.counters().envelopes_waited, 1);
                    self.unsent.notify();
                }
            }
            Effect::Append { sequence, draft, place } => {
                Counters::add(&self.counters().appends, 1);
                let address = self.log.append(sequence, &draft);
                let waiting = self.log.waiting_bytes();
                self.counters().log_waiting_bytes.store(waiting, Ordering::Relaxed);
                if let Some(place) = place {
                    self.shard.borrow_mut().placed(place, address);
                    if let Some(head) = self.log.unwritten(address, address.head_bytes as usize) {
                        let key = (address.segment, address.offset);
                        self.cache.borrow_mut().put(key, head);
                    }
                }
            }
            Effect::Fetch { fetch, address, tail } => self.fetch(fetch, address, tail),
            Effect::FetchCold { fetch, address } => {
                self.cold.fetch(self.me.index(), fetch, address);
            }
            Effect::StoreCold { segment, records, blocks } => {
                self.cold.store(self.me.index(), segment, records, blocks);
            }
            Effect::Reply { ticket, outcome } => {
                if let Ok(Answer::Recalled(recalled)) = &outcome {
                    self.counters().meters.recalled(&recalled.phases);
                }
                let trace = self.shard.borrow_mut().end_trace(ticket);
                if let Some(waiter) = self.waiters.borrow_mut().get_mut(&ticket.0) {
                    waiter.outcome = Some((outcome, trace));
                    if let Some(waker) = waiter.waker.take() {
                        waker.wake();
                    }
                }
            }
        }
    }

    fn fetch(self: &Rc<Self>, fetch: FetchId, address: LogAddress, tail: bool) {
        let key = (address.segment, address.offset);
        let bytes =
            address.head_bytes as usize + if tail { address.tail_bytes as usize } else { 0 };
        let cached = if tail { None } else { self.cache.borrow_mut().get(key) };
        if let Some(bytes) = cached.or_else(|| self.log.unwritten(address, bytes)) {
            Counters::add(&self.counters().cache_hits, 1);
            self.pending.borrow_mut().push_back(Event::Fetched { fetch, bytes: Ok(bytes) });
            return;
        }
        Counters::add(&self.counters().cache_misses, 1);
        let (core, reader) = (self.clone(), self.readers.borrow().clone());
        glommio::spawn_local(async move {
            let started = Instant::now();
            let read = core.log.read(address, bytes).await;
            core.counters().meters.read_us.observe(micros(started));
            let moved = !Rc::ptr_eq(&reader, &core.readers.borrow());
            drop(reader);
            if let (Ok(bytes), false) = (&read, tail || moved) {
                core.cache.borrow_mut().put(key, bytes.clone());
            }
            let bytes = read.map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                format!("{error}: {}", cause.unwrap_or_default())
            });
            core.drive(Event::Fetched { fetch, bytes });
        })
        .detach();
    }

    /// A record that may be in the cache lies elsewhere, or is not needed any more.
    pub(crate) fn recache(&self, from: LogAddress, to: Option<LogAddress>) {
        let mut cache = self.cache.borrow_mut();
        let bytes = cache.take((from.segment, from.offset));
        if let (Some(bytes), Some(to)) = (bytes, to) {
            cache.put((to.segment, to.offset), bytes);
        }
    }

    /// What every read holds that began before now.
    pub(crate) fn replace_readers(&self) -> Rc<()> {
        self.readers.replace(Rc::default())
    }

    /// Gives the core to others, for longer where they want it.
    pub(crate) async fn let_others(&self) {
        if self.is_busy() || self.shard.borrow().has_foreground() {
            sleep(BUSY_PAUSE).await;
        } else {
            sleep(SLICE_PAUSE).await;
        }
    }

    /// Takes envelopes from the inbox as they come.
    pub(crate) async fn run_inbox(self: Rc<Self>, inbox: Receiver<Delivery>) {
        while let Ok(first) = inbox.recv_async().await {
            self.arrivals.note();
            let more = std::iter::from_fn(|| inbox.try_recv().ok()).take(INBOX_BURST);
            for Delivery { from, envelope, sent } in std::iter::once(first).chain(more) {
                self.counters().meters.envelope_us.observe(micros(sent));
                if serves_a_client(&envelope.message) {
                    self.last_request.set(now());
                }
                self.drive(Event::Envelope { from, envelope });
            }
            if !inbox.is_empty() {
                sleep(SLICE_PAUSE).await;
            }
        }
    }

    /// Sends what found a full inbox.
    pub(crate) async fn run_outbox(self: Rc<Self>) {
        loop {
            self.unsent.wait().await;
            while !self.outbox.retry() {
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Writes batches to the log, one after the other, until that fails for good.
    pub(crate) async fn run_log(self: Rc<Self>) {
        let Err(error) = self.write_log().await;
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let cause = cause.unwrap_or_default();
        log::error!("shard {} refuses writes from now on: {error}: {cause}", self.me.0);
        self.status.enter(self.me, Phase::Poisoned);
        self.drive(Event::Poisoned);
    }

    async fn write_log(self: &Rc<Self>) -> Result<Infallible, ShardsError> {
        self.look_for_room().await?;
        let (mut written, mut looked) = (None, Instant::now());
        loop {
            if self.log_room.get() == LogRoom::Last && looked.elapsed() >= ROOM_PAUSE {
                self.look_for_room().await?;
                looked = Instant::now();
            }
            if self.log.is_flushed() {
                self.wait_for_records().await;
                continue;
            }
            let started = Instant::now();
            match self.log.flush().await {
                Ok(flushed) => {
                    self.note_flushed(flushed, &mut written, started);
                    if self.log_room.get() != LogRoom::Last {
                        self.look_for_room().await?;
                    }
                }
                Err(error @ ShardsError::Room { .. }) => {
                    self.note_room(LogRoom::None, Some(&error));
                    sleep(ROOM_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until there is something to write, or until it is to be seen whether there is room.
    async fn wait_for_records(&self) {
        match self.log_room.get() {
            LogRoom::Enough => self.log.wait_for_records().await,
            LogRoom::Last | LogRoom::None => {
                or(self.log.wait_for_records(), sleep(ROOM_PAUSE)).await;
            }
        }
    }

    fn note_flushed(self: &Rc<Self>, flushed: Flushed, written: &mut Option<u64>, began: Instant) {
        let counters = self.counters();
        Counters::add(&counters.syncs, 1);
        counters.meters.sync_us.observe(micros(began));
        counters.meters.batch_bytes.observe(flushed.bytes);
        // Where the log went on from is not known here: the first batch is not counted.
        if let Some(before) = written.replace(flushed.sequence) {
            counters.meters.batch_records.observe(flushed.sequence - before);
        }
        Counters::add(&counters.log_written_bytes, flushed.bytes);
        let log_bytes = self.log.bytes();
        counters.log_bytes.store(log_bytes, Ordering::Relaxed);
        let cache_bytes = self.cache.borrow().bytes() as u64;
        counters.cache_bytes.store(cache_bytes, Ordering::Relaxed);
        counters.log_waiting_bytes.store(self.log.waiting_bytes(), Ordering::Relaxed);
        self.drive(Event::Durable { sequence: flushed.sequence, log_bytes });
        self.note_owed();
    }

    /// Runs slices of work, with pauses in which sockets are served.
    pub(crate) async fn run_work(self: Rc<Self>) {
        let mut effects = Vec::new();
        loop {
            let begun = Instant::now();
            let remaining = {
                let mut shard = self.shard.borrow_mut();
                let remaining = shard.work(now());
                shard.effects(&mut effects);
                remaining
            };
            Counters::add(&self.counters().slices, 1);
            self.note_owed();
            effects.drain(..).for_each(|effect| self.perform(effect));
            self.did(Work::Slice, begun);
            self.finish_local();
            self.note_consolidation();
            match remaining {
                Remaining::Nothing => self.work.wait().await,
                Remaining::Foreground => sleep(SLICE_PAUSE).await,
                Remaining::Background if self.is_busy() => self.pause_background().await,
                Remaining::Background => sleep(SLICE_PAUSE).await,
            }
        }
    }

    /// Lets clients have the core; ends early where a recall waits for a slice.
    async fn pause_background(&self) {
        let until = Instant::now() + self.busy_pause();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shard.borrow().has_foreground() {
                return;
            }
            or(self.work.wait(), sleep(left)).await;
        }
    }

    /// Says how much memory the work that waits will take.
    fn note_owed(&self) {
        let owed = self.shard.borrow().owed_bytes();
        self.counters().owed_bytes.store(owed, Ordering::Relaxed);
    }

    /// The shorter, the more vectors wait: every search compares these one by one.
    fn busy_pause(&self) -> Duration {
        let waiting = self.shard.borrow().vectors_waiting();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX - WAITING_FEW);
        (BUSY_PAUSE * WAITING_FEW / waiting.saturating_add(WAITING_FEW)).max(SLICE_PAUSE)
    }

    /// A consolidation that began or ended here is a phase of life.
    fn note_consolidation(&self) {
        let next = match (self.counters().phase(), self.shard.borrow().is_consolidating()) {
            (Phase::Running, true) => Phase::Consolidating,
            (Phase::Consolidating, false) => Phase::Running,
            _ => return,
        };
        self.status.enter(self.me, next);
    }

    /// Clients of any core ask something of this shard.
    fn is_busy(&self) -> bool {
        now().0 - self.last_request.get().0 < BUSY_US
    }

    /// Does what a slice of work sent to its own shard.
    fn finish_local(self: &Rc<Self>) {
        let waiting = !self.pending.borrow().is_empty() || self.shard.borrow().has_local();
        if waiting {
            self.drive_pending();
        }
    }

    fn drive_pending(self: &Rc<Self>) {
        let event = self.pending.borrow_mut().pop_front().unwrap_or(Event::Local);
        self.drive(event);
    }

    /// Tells the shard the time now and then, whatever else happens.
    pub(crate) async fn run_idle_ticks(self: Rc<Self>) {
        loop {
            sleep(IDLE_TICK).await;
            self.drive(Event::Tick);
        }
    }

    /// Says once a second what the shard holds and how much CPU time it has used.
    pub(crate) async fn run_gauges(self: Rc<Self>, inbox: Receiver<Delivery>) {
        loop {
            self.set_gauges(inbox.len());
            sleep(GAUGE_PAUSE).await;
        }
    }

    fn set_gauges(&self, inbox_envelopes: usize) {
        let meters = &self.counters().meters;
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let used_us = used.tv_sec * 1_000_000 + used.tv_nsec / 1000;
        meters.cpu_us.set(u64::try_from(used_us).unwrap_or(0));
        self.counters().stalls.look();
        meters.inbox_envelopes.set(inbox_envelopes as u64);
        let shard = self.shard.borrow();
        let counts = shard.counts();
        meters.memories.set(counts.memories);
        meters.links.set(counts.links);
        meters.automatic_links.set(counts.automatic_links);
        meters.index_backlog.set(counts.index_backlog);
        meters.association_backlog.set(counts.association_backlog);
        meters.operations_in_flight.set(shard.in_flight() as u64);
        let lives = shard.lives();
        meters.merged.set(lives.merged);
        meters.pruned.set(lives.pruned);
        meters.demoted.set(lives.demoted);
        meters.promoted.set(lives.promoted);
        meters.runs.iter().zip(lives.runs).for_each(|(meter, count)| meter.set(count));
        meters.run_permille.set((shard.run_progress().unwrap_or(0.0) * 1000.0) as u64);
    }

    /// Ends operations at their deadlines.
    pub(crate) async fn run_ticks(self: Rc<Self>) {
        loop {
            self.started.wait().await;
            self.counters().busy.store(1, Ordering::Relaxed);
            while self.shard.borrow().in_flight() > 0 {
                sleep(TICK).await;
                self.drive(Event::Tick);
                self.admission.expire();
            }
            self.counters().busy.store(0, Ordering::Relaxed);
        }
    }
}

/// The message belongs to something that a client waits for.
fn serves_a_client(message: &Message) -> bool {
    match message {
        Message::Ask(_, Ask::Mentions { .. } | Ask::Consolidate(..)) => false,
        Message::Ask(_, Ask::Demote { run: Some(_), .. }) => false,
        Message::Reply(..) | Message::Tell(..) => false,
        Message::Ask(..) => true,
    }
}

/// Microseconds that have passed since then.
pub(crate) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The time now, in microseconds since 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The way from a core's sockets to its shard.
#[derive(Clone)]
pub struct Handle {
    me: ShardIx,
    status: Arc<Status>,
    cold: Arc<ColdTier>,
    /// Empty until the log was read.
    core: Rc<OnceCell<Rc<Core>>>,
    opened: Rc<Cell<bool>>,
}

impl Handle {
    pub(crate) fn new(me: ShardIx, status: Arc<Status>, cold: Arc<ColdTier>) -> Self {
        Self { me, status, cold, core: Rc::default(), opened: Rc::default() }
    }

    /// The log was read: there is a shard to ask.
    pub(crate) fn recovered(&self, core: Rc<Core>) {
        assert!(self.core.set(core).is_ok(), "a shard recovers once");
    }

    pub(crate) fn core(&self) -> Option<&Rc<Core>> {
        self.core.get()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opened.get()
    }

    /// Warm-up is over on this core: the shard serves as soon as it can.
    pub fn open(&self) {
        self.opened.set(true);
    }

    /// Waits until the shard can be asked; false where the server was told to stop before.
    pub async fn wait_until_warming(&self) -> bool {
        while self.status.shards()[self.me.index()].phase() < Phase::Warming {
            if self.status.life().is_told_to_stop() {
                return false;
            }
            sleep(WARM_PAUSE).await;
        }
        true
    }

    /// Waits until the shard has made its associations again, as far as there is room for them.
    pub async fn wait_until_associated(&self) {
        let is_waiting = || {
            let shard = self.core.get().map(|core| core.shard.borrow());
            shard.is_some_and(|shard| shard.association_backlog() > 0 && shard.makes_indexes())
        };
        while is_waiting() && !self.status.life().is_told_to_stop() {
            sleep(WARM_PAUSE).await;
        }
    }

    /// Performs a request with this core's shard as its home, from the time that it warms.
    pub fn call(&self, request: Request) -> impl Future<Output = Outcome> + use<> {
        let asked = self.ask(request, false);
        async move { asked.await.0 }
    }

    /// The same, and what it asked of the shards.
    pub fn call_traced(
        &self,
        request: Request,
    ) -> impl Future<Output = (Outcome, Option<Trace>)> + use<> {
        self.ask(request, true)
    }

    fn ask(
        &self,
        request: Request,
        traced: bool,
    ) -> impl Future<Output = (Outcome, Option<Trace>)> + use<> {
        let core = self.core.get().filter(|core| core.can_be_asked()).cloned();
        async move {
            let Some(core) = core else { return (Err(unavailable()), None) };
            let _permit = match core.admit(&request).await {
                Ok(permit) => permit,
                Err(rejection) => return (Err(rejection), None),
            };
            Counters::add(&core.counters().requests, 1);
            let ticket = core.next_ticket.get();
            core.next_ticket.set(ticket + 1);
            core.waiters.borrow_mut().insert(ticket, Waiter::default());
            let _guard = WaiterGuard { core: core.clone(), ticket };
            core.last_request.set(now());
            core.arrivals.note();
            if traced {
                core.shard.borrow_mut().begin_trace(Ticket(ticket));
            }
            core.drive(Event::Request { ticket: Ticket(ticket), request });
            core.started.notify();
            poll_fn(|context| core.poll_waiter(ticket, context)).await
        }
    }

    /// Whether a recall that comes now would be worked on in its time.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`].
    pub fn admits_recall(&self) -> Result<(), Rejection> {
        let Some(core) = self.core.get() else { return Ok(()) };
        let refused = core.admission.would_refuse_recall();
        if refused.is_err() {
            Counters::add(&core.counters().refused, 1);
        }
        refused
    }

    /// Whether the budgets of the process have room for more memories and links.
    ///
    /// # Errors
    /// [`Code::MemoryBudget`], [`Code::DiskBudget`].
    pub fn admits_growth(&self) -> Result<(), Rejection> {
        self.core.get().map_or(Ok(()), |core| core.shard.borrow().check_budget())
    }

    /// The shard serves.
    pub(crate) fn check_running(&self) -> Result<(), Rejection> {
        let core = self.core.get().filter(|core| core.can_be_asked());
        core.map(|_| ()).ok_or_else(unavailable)
    }

    /// Has every shard compact its log.
    pub fn want_compaction(&self) {
        self.status.want_compaction();
        for core in self.cold.cores() {
            // A core that has ended compacts nothing.
            let _ = core.send(ToCore::Compact);
        }
    }

    /// The cold tier.
    pub fn cold(&self) -> &Arc<ColdTier> {
        &self.cold
    }

    /// This core's shard.
    pub fn shard(&self) -> ShardIx {
        self.me
    }

    /// Counters of all shards.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        now()
    }
}

struct WaiterGuard {
    core: Rc<Core>,
    ticket: u64,
}

impl Drop for WaiterGuard {
    fn drop(&mut self) {
        self.core.waiters.borrow_mut().remove(&self.ticket);
    }
}

fn unavailable() -> Rejection {
    Rejection::new(Code::Unavailable, "the server reads its data, or stops")
}

impl Core {
    /// Waits until there is room for a request.
    async fn admit(&self, request: &Request) -> Result<Permit, Rejection> {
        self.started.notify();
        let permit = self.admission.enter(request).await;
        if permit.is_err() {
            Counters::add(&self.counters().refused, 1);
        }
        let permit = permit?;
        if permit.is_write() {
            self.wait_for_log().await?;
        }
        Ok(permit)
    }

    /// Waits while some shard has more records in memory than its log should keep waiting.
    async fn wait_for_log(&self) -> Result<(), Rejection> {
        let mut pauses = limits::WAIT_MS_MAX;
        while self.status.log_waiting_bytes() > limits::LOG_WAITING_BYTES_MAX
            && self.status.life().phase() != Phase::Poisoned
        {
            if pauses == 0 {
                Counters::add(&self.counters().refused, 1);
                let detail = "the disk takes longer than records come; try again later";
                return Err(Rejection::new(Code::TooManyRequests, detail));
            }
            pauses -= 1;
            sleep(LOG_PAUSE).await;
        }
        Ok(())
    }

    /// The other shards have told what this one must know, and it has not stopped.
    fn can_be_asked(&self) -> bool {
        match self.counters().phase() {
            Phase::Starting | Phase::Recovering | Phase::Stopped => false,
            Phase::Warming | Phase::Running | Phase::Consolidating | Phase::Poisoned => true,
            Phase::Draining => self.shard.borrow().is_recovered(),
        }
    }

    fn poll_waiter(
        &self,
        ticket: u64,
        context: &mut std::task::Context<'_>,
    ) -> Poll<(Outcome, Option<Trace>)> {
        let mut waiters = self.waiters.borrow_mut();
        let waiter = waiters.get_mut(&ticket).expect("a waiter stays until its guard is dropped");
        match waiter.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                waiter.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
