//! Starting and stopping: an executor on each placed core.
//!
//! *Invariants*: sockets are served from the first moment to the last; a shard serves after every
//! shard has recovered; it ends after every core's sockets are drained and its log is flushed.
//!
//! *Not here*: which cores (`engram-platform`), what serves sockets (given by the caller).

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use engram_cold::Tier;
use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::phase::Phase;
use engram_engine::shard::{Event, Shard, ShardConfig};
use flume::Receiver;
use glommio::{
    ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, PoolPlacement, Shares,
};

use crate::cold::{ColdTier, ToCore, run_sweeps};
use crate::compaction;
use crate::core::{Core, Handle, Means, now};
use crate::directory::Directory;
use crate::error::ShardsError;
use crate::images::{self, ImageOptions, Images};
use crate::log::Log;
use crate::mesh::{Delivery, Outbox, inboxes};
use crate::patience;
use crate::recover::{Recovery, Step};
use crate::ring::RingDisk;
use crate::room::{Room, Rooms};
use crate::segment::{SEGMENT_BYTES, SegmentHeader};
use crate::status::Status;
use crate::watchdog;

/// Where one shard runs.
#[derive(Clone, Copy, Debug)]
pub struct CorePlace {
    /// The CPU it is pinned to; `None`: wherever there is room.
    pub cpu: Option<u32>,
    /// The NUMA node whose memory it prefers, where there are several.
    pub node: Option<u32>,
    /// How long it polls before it sleeps, at most and where that pays; only on cores of its own.
    pub spin: Duration,
}

/// What shards need to start.
#[derive(Debug)]
pub struct Config {
    /// The data directory.
    pub directory: Directory,
    /// Cores for the shards; where there are fewer, they are used in turn.
    pub places: Vec<CorePlace>,
    /// Bytes of records kept in memory by each shard.
    pub cache_bytes: usize,
    /// How images are made.
    pub images: ImageOptions,
    /// The cold tier.
    pub cold: Arc<Tier>,
    /// Pause between two sweeps, in which what expired is forgotten and the cold tier is tidied.
    pub sweep_pause: Duration,
    /// Consolidation moves what is little present to the cold tier.
    pub demotes: bool,
}

/// How long records are replayed before sockets get their turn.
const REPLAY_SLICE: Duration = Duration::from_micros(500);
/// Pause while others are waited for.
const WAIT_PAUSE: Duration = Duration::from_millis(1);
/// How often a shard that warms is looked at.
const WARM_PAUSE: Duration = Duration::from_millis(5);
/// Registered memory of a ring; glommio's default would pass RLIMIT_MEMLOCK.
const IO_MEMORY_BYTES: usize = 1 << 20;
/// Entries of a ring.
const RING_ENTRIES: usize = 128;
/// A shorter preempt timer can park an executor for ever (docs/design.md, glommio).
const PREEMPT_TIMER: Duration = Duration::from_millis(10);

/// Shards that run.
pub struct Running {
    status: Arc<Status>,
    rooms: Arc<Rooms>,
    executors: Vec<ExecutorJoinHandle<()>>,
    image_folder: Option<PathBuf>,
    directory: Arc<Directory>,
}

impl Running {
    /// Counters of all shards.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// The way to tell every shard what it may do and hold.
    pub fn rooms(&self) -> &Arc<Rooms> {
        &self.rooms
    }

    /// Where images lie on tmpfs, whose pages are this process's memory.
    pub fn image_folder(&self) -> Option<&Path> {
        self.image_folder.as_deref()
    }

    /// Waits until every shard has ended.
    ///
    /// # Errors
    /// The first error that ended a shard.
    pub fn join(self) -> Result<(), ShardsError> {
        for executor in self.executors {
            if let Err(error) = executor.join() {
                self.status.life().fail(ShardsError::Executor { reason: error.to_string() });
            }
        }
        self.directory.release();
        self.status.life().take_failure().map_or(Ok(()), Err)
    }
}

/// Starts the shards; `serve` runs on each core beside its shard, from before recovery until it
/// returns, which stops the core. It has to say [`Handle::open`] before the shard runs.
///
/// # Errors
/// [`ShardsError::Executor`] where an executor can't be started.
pub fn start<F, S>(config: Config, serve: F) -> Result<Running, ShardsError>
where
    F: Fn(Handle) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + 'static,
{
    let manifest = config.directory.manifest().clone();
    let status = Arc::new(Status::new(manifest.shards));
    let ending = Arc::new(Ending::new(manifest.shards));
    let (senders, receivers) = inboxes(manifest.shards);
    let (rooms, changes) = Rooms::new(manifest.shards);
    let images = Arc::new(Images::new(&config.directory, config.images));
    let image_folder = images.folder().map(Path::to_owned);
    let (cold, told) = ColdTier::open(&config.directory, config.cold)?;
    let mut told = told.into_iter();
    let directory = Arc::new(config.directory);
    let mut alarms = watchdog::start(status.clone(), &senders).into_iter();
    let mut executors = Vec::new();
    for ((shard, inbox), changes) in (0..manifest.shards).zip(receivers).zip(changes) {
        let place = config.places[usize::from(shard) % config.places.len()];
        let start = ShardStart {
            me: ShardIx(shard),
            node: place.node,
            spin: place.spin,
            directory: directory.clone(),
            outbox: senders.clone(),
            inbox,
            alarm: alarms.next().expect("each inbox has its alarm"),
            changes,
            status: status.clone(),
            ending: ending.clone(),
            images: images.clone(),
            cache_bytes: config.cache_bytes,
            cold: cold.clone(),
            told: told.next().expect("one for each shard"),
            sweep_pause: config.sweep_pause,
            demotes: config.demotes,
        };
        let serve = serve.clone();
        let executor = LocalExecutorBuilder::new(placement(place))
            .name(&format!("shard-{shard}"))
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_ENTRIES)
            .preempt_timer(PREEMPT_TIMER)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
            .spawn(move || run_core(start, serve))
            .map_err(|error| ShardsError::Executor { reason: error.to_string() })?;
        executors.push(executor);
    }
    Ok(Running { status, rooms: Arc::new(rooms), executors, image_folder, directory })
}

fn placement(place: CorePlace) -> Placement {
    match place.cpu {
        Some(cpu) => Placement::Fixed(cpu as usize),
        None => Placement::Unbound,
    }
}

struct ShardStart {
    me: ShardIx,
    node: Option<u32>,
    spin: Duration,
    directory: Arc<Directory>,
    outbox: Vec<flume::Sender<Delivery>>,
    inbox: Receiver<Delivery>,
    alarm: Receiver<()>,
    changes: Receiver<Room>,
    status: Arc<Status>,
    ending: Arc<Ending>,
    images: Arc<Images>,
    cache_bytes: usize,
    cold: Arc<ColdTier>,
    told: Receiver<ToCore>,
    sweep_pause: Duration,
    demotes: bool,
}

/// How far the cores of a server that stops have come.
struct Ending {
    /// Cores whose sockets are still served.
    serving: AtomicU16,
    /// Some shard has not heard all that the others know: nothing is asked of it any more.
    is_early: AtomicBool,
    /// Nothing is asked of any shard any more.
    is_pruned: AtomicBool,
}

impl Ending {
    fn new(shards: u16) -> Self {
        let (is_early, is_pruned) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { serving: AtomicU16::new(shards), is_early, is_pruned }
    }
}

/// A core from its first moment to its last: its sockets are served before and after its shard is.
async fn run_core<F, S>(start: ShardStart, serve: F)
where
    F: Fn(Handle) -> S,
    S: Future<Output = ()> + 'static,
{
    let (me, status) = (start.me, start.status.clone());
    let handle = Handle::new(me, status.clone(), start.cold.clone());
    let sockets = glommio::spawn_local(serve(handle.clone()));
    if let Err(error) = rise(&start, &handle).await {
        status.life().fail(error);
    }
    sockets.await;
    // Where the sockets ended by themselves, nothing more can be asked of the others either.
    status.life().stop();
    let phase = status.shards()[me.index()].phase();
    let is_whole = matches!(phase, Phase::Warming | Phase::Running | Phase::Consolidating);
    enter_unless_poisoned(&status, me, Phase::Draining);
    let ending = &start.ending;
    if let Some(core) = handle.core() {
        core.drive(Event::Drain);
    }
    ending.is_early.fetch_or(!is_whole, Ordering::AcqRel);
    ending.serving.fetch_sub(1, Ordering::AcqRel);
    if me == ShardIx(0) {
        if let Some(core) = handle.core() {
            prune(core, ending, start.images.grace()).await;
        }
        ending.is_pruned.store(true, Ordering::Release);
    }
    if let Some(core) = handle.core() {
        end(core, ending, &start.images).await;
    }
    status.enter(me, Phase::Stopped);
}

/// Reads the log, and begins to serve; where the server is told to stop meanwhile, does not.
async fn rise(start: &ShardStart, handle: &Handle) -> Result<(), ShardsError> {
    let me = start.me;
    let messages = glommio::executor().create_task_queue(
        Shares::Static(1000),
        Latency::Matters(PREEMPT_TIMER),
        "mailbox",
    );
    let alarm = watchdog::listen(start.alarm.clone(), start.status.clone(), me.index());
    glommio::spawn_local_into(alarm, messages)
        .map_err(|error| ShardsError::Executor { reason: error.to_string() })?
        .detach();
    start.status.shards()[me.index()].memory_node.settle(start.node);
    let folder = start.directory.shard_path(me.0);
    cure_iopoll_probe(&folder).await?;
    start.status.enter(me, Phase::Recovering);
    let Some((shard, log)) = recover(start, &folder).await? else { return Ok(()) };
    let outbox = Outbox::new(me, start.outbox.clone());
    let means = Means {
        directory: start.directory.clone(),
        cold: start.cold.clone(),
        cache_bytes: start.cache_bytes,
    };
    let core = Core::new(me, shard, log, start.status.clone(), outbox, means);
    // Before it hears anything: a shard that still replays answers nothing.
    core.shard.borrow_mut().start_exchange(now());
    core.drive(Event::Tick);
    let inbox = core.clone().run_inbox(start.inbox.clone());
    glommio::spawn_local_into(inbox, messages)
        .map_err(|error| ShardsError::Executor { reason: error.to_string() })?
        .detach();
    glommio::spawn_local_into(core.clone().run_cold(start.told.clone()), messages)
        .map_err(|error| ShardsError::Executor { reason: error.to_string() })?
        .detach();
    glommio::spawn_local(core.clone().run_outbox()).detach();
    glommio::spawn_local(core.clone().run_log()).detach();
    glommio::spawn_local(core.clone().run_ticks()).detach();
    glommio::spawn_local(core.clone().run_room(start.changes.clone())).detach();
    glommio::spawn_local(core.clone().run_idle_ticks()).detach();
    glommio::spawn_local(core.clone().run_gauges(start.inbox.clone())).detach();
    glommio::spawn_local(images::run(core.clone(), start.images.clone())).detach();
    glommio::spawn_local(compaction::run(core.clone(), start.sweep_pause)).detach();
    if !start.spin.is_zero() {
        glommio::spawn_local(patience::run(core.arrivals.clone(), start.spin)).detach();
    }
    handle.recovered(core.clone());
    if me == ShardIx(0) {
        glommio::spawn_local(run_sweeps(handle.clone(), start.sweep_pause)).detach();
    }
    glommio::spawn_local(open_once_told(core, handle.clone())).detach();
    Ok(())
}

/// Prunes weak links where that is wanted, once all cores are drained: for a tenth of the grace at
/// most, and not in the fifth of it that is kept for the end.
async fn prune(core: &Rc<Core>, ending: &Ending, grace: Duration) {
    while ending.serving.load(Ordering::Acquire) > 0 {
        glommio::timer::sleep(WAIT_PAUSE).await;
    }
    let life = core.status.life();
    let left = (grace - grace / 5).saturating_sub(life.stage().lasted).min(grace / 10);
    if ending.is_early.load(Ordering::Acquire) {
        return;
    }
    let until = Instant::now() + left;
    core.drive(Event::Prune);
    while core.shard.borrow().is_consolidating() {
        if !core.can_write() || life.is_hurried() || Instant::now() >= until {
            log::warn!(
                "not all weak links are pruned: what is left waits for the next consolidation"
            );
            core.drive(Event::Drain);
        }
        glommio::timer::sleep(WAIT_PAUSE).await;
    }
    // What was asked of others is in their logs before these end.
    while core.shard.borrow().in_flight() > 0 {
        glommio::timer::sleep(WAIT_PAUSE).await;
    }
}

/// Waits until nothing is asked of this shard any more, and for the log; then the last image is
/// written.
async fn end(core: &Rc<Core>, ending: &Ending, images: &Arc<Images>) {
    loop {
        let is_asked =
            ending.serving.load(Ordering::Acquire) > 0 || !ending.is_pruned.load(Ordering::Acquire);
        if !is_asked && (core.log.is_flushed() || !core.can_write()) {
            break;
        }
        glommio::timer::sleep(WAIT_PAUSE).await;
    }
    images::run_last(core, images).await;
    core.log.close().await;
}

fn enter_unless_poisoned(status: &Status, me: ShardIx, phase: Phase) {
    if status.shards()[me.index()].phase() != Phase::Poisoned {
        status.enter(me, phase);
    }
}

/// Waits to hear what the logs of the other shards said, then serves once it is warm; gives up
/// where the server is told to stop.
async fn open_once_told(core: Rc<Core>, handle: Handle) {
    let counters = core.counters();
    let goes_on = |phase| counters.phase() == phase && !core.status.life().is_told_to_stop();
    while !core.shard.borrow().is_recovered() && goes_on(Phase::Recovering) {
        glommio::timer::sleep(WAIT_PAUSE).await;
    }
    if !goes_on(Phase::Recovering) {
        return;
    }
    core.status.enter(core.me, Phase::Warming);
    glommio::spawn_local(core.clone().run_work()).detach();
    let total = core.shard.borrow().association_backlog().max(1);
    while goes_on(Phase::Warming) {
        let left = core.shard.borrow().association_backlog();
        let done = 1000 - (left.min(total) * 1000 / total);
        counters.progress.store(done, Ordering::Relaxed);
        // Where memory is full they are not made, and waiting for them would never end.
        let is_warm = left == 0 || !core.shard.borrow().makes_indexes();
        if is_warm && handle.is_open() {
            return core.status.enter(core.me, Phase::Running);
        }
        glommio::timer::sleep(WARM_PAUSE).await;
    }
}

/// The first file that glommio opens on a device decides how it reads there: it must be one that
/// is opened for writing only (docs/design.md, glommio).
async fn cure_iopoll_probe(folder: &std::path::Path) -> Result<(), ShardsError> {
    let path: PathBuf = folder.join("probe");
    let file = glommio::io::DmaFile::create(&path).await;
    let file = file.map_err(ShardsError::ring("create", &path))?;
    file.close().await.map_err(ShardsError::ring("close", &path))?;
    std::fs::remove_file(&path).map_err(ShardsError::io("remove", &path))
}

/// Replays the log; `None` where the server was told to stop before the end of it.
async fn recover(
    start: &ShardStart,
    folder: &std::path::Path,
) -> Result<Option<(Shard, Log<RingDisk>)>, ShardsError> {
    let manifest = start.directory.manifest();
    let config = ShardConfig {
        me: start.me,
        partitioner: Partitioner::new(manifest.secret, manifest.shards),
        seed: manifest.secret[0],
        demotes: start.demotes,
    };
    let nonce = u64::try_from(now().0).unwrap_or(1);
    let header = SegmentHeader::first(manifest, start.me.0, nonce);
    let (life, counters) = (start.status.life(), &start.status.shards()[start.me.index()]);
    let mut recovery = Recovery::open(RingDisk, folder, header).await?;
    let started = images::start(&start.images, &mut recovery, config, &start.status).await?;
    let (mut shard, mut segment) = match started {
        Some(started) => (started.shard, started.segment),
        None => (Shard::new(config), None),
    };
    if segment.is_none() {
        segment = recovery.next_segment().await?;
    }
    while let Some(mut next) = segment {
        let mut slice = Instant::now();
        while next.step(&mut shard)? == Step::Record {
            if slice.elapsed() >= REPLAY_SLICE {
                if life.is_told_to_stop() {
                    return Ok(None);
                }
                counters.progress.store(recovery.progress(&next), Ordering::Relaxed);
                glommio::timer::sleep(Duration::from_micros(1)).await;
                slice = Instant::now();
            }
        }
        recovery.segment_done(&next).await?;
        start.images.note_replayed(next.replayed_bytes());
        segment = recovery.next_segment().await?;
    }
    let log_start = recovery.finish().await?;
    counters.log_bytes.store(log_start.log_bytes, Ordering::Relaxed);
    Ok(Some((shard, Log::new(RingDisk, folder, log_start, SEGMENT_BYTES))))
}
