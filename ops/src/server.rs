//! A server in this process: a shard and a listener on each placed core.
//!
//! *Invariants*: nothing starts where something is missing that it can't run without; what was
//! acknowledged before [`Server::stop`] returns is durable.
//!
//! *Not here*: settings and signals (`commands::serve`), requests (`net`), shards (`shards`).

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engram_cold::{ColdUrl, Limits as ColdLimits, Tier};
use engram_engine::phase::Phase;
use engram_engine::request::Wait;
use engram_net::auth::Auth;
use engram_net::{Addresses, Doors, Options, Port};
use engram_platform::sockets::{SocketWay, Sockets};
use engram_platform::{Finding, PlacementOptions, Preflight, TopologyReport};
use engram_shards::{CorePlace, Directory, Handle, ImageOptions, Running, ShardsError};

use crate::backend::{Core, Shared};
use crate::budget::{Limits, Readings, Watch};
use crate::client::Url;
use crate::commands::machine_report;
use crate::failure::{Failure, Status};
use crate::traces::Tracing;
use crate::warm::{self, HotCues};

/// Entries of a shard's ring.
pub const RING_ENTRIES: u32 = 128;
/// Share of the memory budget that keeps records which were read or written lately.
const CACHE_SHARE: u64 = 8;
/// Share of the memory budget that bodies of requests may hold, and its bounds for each core.
const BODY_SHARE: u64 = 16;
const BODY_BYTES_MIN: u64 = 8 << 20;
const BODY_BYTES_MAX: u64 = 256 << 20;
/// A heap within a smaller budget does without pages of 2 MiB.
const HUGE_PAGES_FROM_BYTES: u64 = 4 << 30;
/// How often a start that is waited for is looked at.
const START_PAUSE: Duration = Duration::from_millis(5);

/// How often a move to another number of shards says how far it has come.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);

/// What happens where a data directory has another number of shards than is planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Reshard {
    /// The data move before anything is served.
    #[default]
    Auto,
    /// The directory keeps its number.
    Never,
}

/// What a server needs to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The warm tier.
    pub data_dir: PathBuf,
    /// CPUs and number of shards, where they were asked for.
    pub placement: PlacementOptions,
    /// What happens where the directory has another number of shards.
    pub reshard: Reshard,
    /// Bytes that the process may use.
    pub memory_bytes: u64,
    /// What serves sockets.
    pub sockets: SocketWay,
    /// Folder of images on tmpfs.
    pub fast_dir: Option<PathBuf>,
    /// How long stopping may take.
    pub grace: Duration,
    /// When a write is answered where the request does not say.
    pub wait: Wait,
    /// How long draining may take.
    pub drain: Duration,
    /// Keys that clients need.
    pub auth: Auth,
    /// Requests that a client may send.
    pub rates: Option<engram_net::rates::Rates>,
    /// Connections of one address; `None`: what is usual for a server of this size.
    pub address_connections: Option<u32>,
    /// `/metrics` needs one, too.
    pub metrics_guarded: bool,
    /// Recalls that take as long are logged.
    pub slow_recall: Duration,
    /// How long warm-up may take; zero: there is none, and no cues are kept for the next.
    pub warm_up: Duration,
    /// Traces, where somebody wants them.
    pub tracing: Option<Tracing>,
    /// TLS, where it is spoken.
    pub tls: Option<engram_net::tls::Tls>,
    /// The cold tier.
    pub cold: Cold,
}

/// The cold tier of a server.
#[derive(Clone, Debug)]
pub struct Cold {
    /// Where it is.
    pub url: ColdUrl,
    /// What it may use.
    pub limits: ColdLimits,
    /// Pause between two sweeps.
    pub sweep_pause: Duration,
    /// Consolidation moves memories there: somebody said where it is.
    pub demotes: bool,
}

impl Cold {
    /// The tier for a command that opens a directory by itself; `None`: none was named.
    pub fn of(named: Option<&ColdUrl>, data_dir: &Path) -> Self {
        Self {
            url: named.cloned().unwrap_or_else(|| cold_folder(data_dir)),
            limits: ColdLimits::default(),
            sweep_pause: Duration::from_secs(60),
            demotes: named.is_some(),
        }
    }

    fn tier(&self) -> Result<Arc<Tier>, Failure> {
        let tier = Tier::new(self.url.clone(), self.limits);
        Ok(Arc::new(tier.map_err(Failure::because("the cold tier can't be used"))?))
    }
}

/// The cold tier of a data directory where none is named.
pub fn cold_folder(data_dir: &Path) -> ColdUrl {
    let folder = data_dir.join("cold");
    ColdUrl::folder(&std::path::absolute(&folder).unwrap_or(folder))
}

/// A server that runs.
pub struct Server {
    address: SocketAddr,
    encrypted: bool,
    running: Running,
    cores: Arc<Cores>,
}

/// What the cores of one server share, beside their shards.
#[derive(Debug)]
struct Cores {
    shared: Arc<Shared>,
    data_dir: PathBuf,
    warm_up: Duration,
    /// What serves their sockets.
    sockets: SocketWay,
    /// Cores that accept connections.
    listening: AtomicUsize,
    failure: Mutex<Option<Failure>>,
}

/// Tells a server to stop, from any thread.
#[derive(Clone)]
pub struct Stopper(Arc<engram_shards::Status>);

impl Stopper {
    /// Not ready at once; then cores drain.
    pub fn stop(&self) {
        self.0.life().stop();
    }

    /// What is under way is cut off; what was acknowledged is still made durable.
    pub fn hurry(&self) {
        self.0.life().hurry();
    }

    /// The shards that have not stopped, and what each is at.
    pub fn unfinished(&self) -> String {
        let phases = self.0.shards().iter().map(|shard| shard.phase()).enumerate();
        let left = phases.filter(|(_, phase)| *phase != Phase::Stopped);
        let left: Vec<String> =
            left.map(|(shard, phase)| format!("shard {shard} ({})", phase.as_str())).collect();
        left.join(", ")
    }
}

impl Server {
    /// Starts: the address answers and recovery goes on while this returns.
    ///
    /// # Errors
    /// Where the machine lacks something, the address is taken, or the directory is held.
    pub fn start(plan: &Plan) -> Result<Self, Failure> {
        let report = machine_report(&plan.placement)?;
        let shards = u16::try_from(report.placement.shards.len()).unwrap_or(u16::MAX);
        let way = check(plan, shards, &report)?;
        if plan.memory_bytes < HUGE_PAGES_FROM_BYTES
            && let Err(error) = engram_platform::allow_huge_pages(false)
        {
            log::info!("the heap takes more memory than it needs: {error}");
        }
        let port = Port::claim(plan.listen).map_err(Failure::because("the server can't listen"))?;
        let mut directory = Directory::open(&plan.data_dir, shards).map_err(of_shards)?;
        fit_shards(&mut directory, shards, plan.reshard)?;
        let config = engram_shards::Config {
            places: places(&report),
            cache_bytes: cache_bytes(plan, directory.manifest().shards),
            images: ImageOptions {
                fast: plan.fast_dir.clone(),
                memory_bytes: plan.memory_bytes,
                grace: plan.grace,
            },
            directory,
            cold: plan.cold.tier()?,
            sweep_pause: plan.cold.sweep_pause,
            demotes: plan.cold.demotes,
        };
        let topology =
            serde_json::to_value(&report).map_err(Failure::because("the topology is no JSON"))?;
        let cores = Arc::new(Cores {
            shared: Arc::new(Shared {
                topology,
                readings: Arc::default(),
                traces: plan.tracing.as_ref().map(|tracing| tracing.counts.clone()),
            }),
            data_dir: plan.data_dir.clone(),
            warm_up: plan.warm_up,
            sockets: way,
            listening: AtomicUsize::new(0),
            failure: Mutex::default(),
        });
        let options = options(plan, shards);
        let doors = open_doors(port, &config)?;
        let (address, shared) = (doors.address(), cores.clone());
        let serve =
            move |handle| serve_core(handle, doors.clone(), options.clone(), shared.clone());
        let running = engram_shards::start(config, serve).map_err(of_shards)?;
        start_watch(plan, shards, &running, &cores)?;
        Ok(Self { address, encrypted: plan.tls.is_some(), running, cores })
    }

    /// The address, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is reached on this machine.
    pub fn url(&self) -> Url {
        let scheme = if self.encrypted { "https" } else { "http" };
        format!("{scheme}://{}", self.address).parse().expect("an address is a URL")
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.running.status().shards().len()
    }

    /// What of memory and disk is in use.
    pub fn readings(&self) -> &Arc<Readings> {
        &self.cores.shared.readings
    }

    /// The right to tell it to stop.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.running.status().clone())
    }

    /// Waits until every core accepts connections; false where the server was told to stop before.
    pub fn wait_until_listening(&self) -> bool {
        let status = self.running.status();
        while self.cores.listening.load(Ordering::Relaxed) < status.shards().len() {
            if status.life().is_told_to_stop() {
                return false;
            }
            std::thread::sleep(START_PAUSE);
        }
        true
    }

    /// Waits until it serves; false where it was told to stop before, or its log can't be written.
    pub fn wait_until_ready(&self) -> bool {
        loop {
            match self.running.status().life().phase() {
                Phase::Running | Phase::Consolidating => return self.wait_until_listening(),
                Phase::Poisoned | Phase::Draining | Phase::Stopped => return false,
                Phase::Starting | Phase::Recovering | Phase::Warming => {
                    std::thread::sleep(START_PAUSE);
                }
            }
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Why it ended, where nobody told it to.
    pub fn join(self) -> Result<(), Failure> {
        let ended = self.running.join().map_err(of_shards);
        let failure = self.cores.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            Some(failure) => Err(failure),
            None => ended,
        }
    }

    /// Stops it and waits until it has ended.
    ///
    /// # Errors
    /// As [`Server::join`].
    pub fn stop(self) -> Result<(), Failure> {
        self.stopper().stop();
        self.join()
    }
}

/// Begins to watch memory and disk, until the server is told to stop.
fn start_watch(plan: &Plan, shards: u16, running: &Running, cores: &Cores) -> Result<(), Failure> {
    let limits = Limits {
        memory_bytes: plan.memory_bytes,
        data_dir: plan.data_dir.clone(),
        disk_reserve_bytes: engram_shards::DISK_RESERVE_BYTES * u64::from(shards),
        images: running.image_folder().map(Path::to_owned),
    };
    let (status, rooms) = (running.status().clone(), running.rooms().clone());
    let watch = Watch::new(limits, status, rooms, cores.shared.readings.clone());
    std::thread::Builder::new()
        .name("budget".to_owned())
        .spawn(move || watch.run())
        .map_err(Failure::because("the watch over memory can't start"))?;
    Ok(())
}

fn options(plan: &Plan, shards: u16) -> Options {
    let connections_max = engram_net::connections_per_core(usize::from(shards));
    let of_each = |count: u32| Addresses::of_each(usize::try_from(count).unwrap_or(usize::MAX));
    let usual = || Addresses::of_server(connections_max * usize::from(shards));
    Options {
        wait: plan.wait,
        drain: plan.drain,
        auth: plan.auth.clone(),
        metrics_guarded: plan.metrics_guarded,
        rates: plan.rates.clone(),
        tls: plan.tls.clone(),
        body_bytes_max: body_bytes(plan, shards),
        connections_max,
        addresses: plan.address_connections.map_or_else(usual, of_each),
        local_names_only: plan.listen.ip().is_loopback() && !plan.auth.is_required(),
        slow_recall: plan.slow_recall,
        tracer: plan.tracing.as_ref().map(|tracing| tracing.tracer.clone()),
        ..Options::default()
    }
}

/// How long a command on a data directory may take to leave images of what it wrote.
const IMAGE_GRACE: Duration = Duration::from_secs(120);

/// Opens a data directory for the commands of this process alone.
///
/// # Errors
/// As [`Server::start`] and [`Server::join`].
pub fn open_directory(directory: &Path, cold: Cold) -> Result<Server, Failure> {
    let server = Server::start(&Plan {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        data_dir: directory.to_owned(),
        placement: PlacementOptions::default(),
        reshard: Reshard::Never,
        memory_bytes: memory_bytes(None)?,
        sockets: SocketWay::Ring,
        // Memory is not left behind; what was written is kept ready for the next start on the SSD.
        fast_dir: None,
        grace: IMAGE_GRACE,
        wait: Wait::Durable,
        drain: Duration::from_secs(5),
        auth: Auth::default(),
        metrics_guarded: false,
        rates: None,
        address_connections: None,
        slow_recall: Duration::MAX,
        warm_up: Duration::ZERO,
        tracing: None,
        cold,
        tls: None,
    })?;
    if server.wait_until_ready() {
        return Ok(server);
    }
    server.stop()?;
    Err(Failure::new(format!("{} could not be opened", directory.display())))
}

/// Where images lie for a fast restart unless a folder is named: where Linux has its tmpfs.
pub fn default_fast_dir() -> Option<PathBuf> {
    let shared_memory = Path::new("/dev/shm");
    let writable = rustix::fs::access(shared_memory, rustix::fs::Access::WRITE_OK).is_ok();
    (shared_memory.is_dir() && writable).then(|| shared_memory.to_owned())
}

/// Another process holds the directory.
pub fn is_held(directory: &Path) -> bool {
    let lock = File::open(directory.join("lock"));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

/// The memory budget: what was asked for, else 80 % of what the process may use.
///
/// # Errors
/// Where the machine can't be read.
pub fn memory_bytes(asked: Option<u64>) -> Result<u64, Failure> {
    match asked {
        Some(bytes) => Ok(bytes),
        None => {
            let report = machine_report(&PlacementOptions::default())?;
            Ok(report.machine.memory.limit_bytes / 5 * 4)
        }
    }
}

/// Listens for every shard, and steers connections where each shard has a CPU of its own.
fn open_doors(port: Port, config: &engram_shards::Config) -> Result<Doors, Failure> {
    let shards = usize::from(config.directory.manifest().shards);
    let doors = port.listen(shards).map_err(Failure::because("the server can't listen"))?;
    let cpus: Option<Vec<u32>> = config.places.iter().map(|place| place.cpu).collect();
    if let Some(cpus) = cpus.filter(|cpus| cpus.len() == shards)
        && let Err(error) = doors.steer(&cpus)
    {
        log::info!("connections are spread by a hash, not to where their packets arrive: {error}");
    }
    Ok(doors)
}

async fn serve_core(handle: Handle, doors: Doors, options: Options, cores: Arc<Cores>) {
    let (sockets, refused) = Sockets::start(cores.sockets);
    if let Some(error) = refused {
        log::warn!("shard {}: {error}; glommio serves its sockets", handle.shard().0);
    }
    let entrance = doors.enter(usize::from(handle.shard().0), sockets);
    cores.listening.fetch_add(1, Ordering::Relaxed);
    let (shard, status) = (handle.shard().0, handle.status().clone());
    let (cues, path) = (Rc::<HotCues>::default(), warm::cues_path(&cores.data_dir, shard));
    let core = Core::new(handle, cores.shared.clone(), cues.clone());
    glommio::spawn_local(core.clone().open(path.clone(), cores.warm_up)).detach();
    let keeps = !cores.warm_up.is_zero();
    if keeps {
        glommio::spawn_local(warm::keep_saving(cues.clone(), path.clone(), status.clone()))
            .detach();
    }
    let stop = status.life().told_to_stop();
    let drained = engram_net::serve(core, entrance, options, stop).await;
    if drained.cut > 0 {
        log::warn!("shard {shard}: {} connections were cut while draining", drained.cut);
    }
    if keeps {
        warm::save(&cues, &path);
    }
}

/// Says what is missing, and what serves sockets with what there is.
fn check(plan: &Plan, shards: u16, report: &TopologyReport) -> Result<SocketWay, Failure> {
    let preflight = Preflight {
        shards,
        ring_entries: RING_ENTRIES,
        data_dir: Some(plan.data_dir.clone()),
        fast_dir: plan.fast_dir.clone(),
    };
    let findings = preflight.run(&report.machine);
    let (fatal, hints): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().chain(&report.findings).partition(|finding| finding.fatal);
    for hint in hints {
        log::info!("{}: {hint}", hint.code);
    }
    let Some(first) = fatal.first() else {
        let room = preflight.has_room_for_network_rings(&report.machine);
        return Ok(if room { plan.sockets } else { SocketWay::Glommio });
    };
    fatal[1..].iter().for_each(|finding| log::error!("{}: {finding}", finding.code));
    Err(Failure::new(first.problem.clone())
        .with_status(Status::Environment)
        .with_hint(first.remedy.clone()))
}

/// Moves the data to as many shards as are planned.
fn fit_shards(directory: &mut Directory, wanted: u16, reshard: Reshard) -> Result<(), Failure> {
    let has = directory.manifest().shards;
    if has == wanted {
        return Ok(());
    }
    if reshard == Reshard::Never {
        log::warn!("the data directory has {has} shards and keeps them; {wanted} were planned");
        return Ok(());
    }
    log::info!("the data move from {has} shards to {wanted}; --reshard=never keeps the number");
    let started = Instant::now();
    let mut said = started;
    let moved = directory.reshard(wanted, |progress| {
        if said.elapsed() >= PROGRESS_PAUSE {
            said = Instant::now();
            log::info!("moved: {} of {} segments", progress.done, progress.total);
        }
    });
    match moved {
        Ok(()) => {
            log::info!("the data are in {wanted} shards after {:.1?}", started.elapsed());
            Ok(())
        }
        Err(error @ ShardsError::Room { .. }) => {
            log::warn!("the data stay in {has} shards: {error}");
            Ok(())
        }
        Err(error) => Err(of_shards(error)),
    }
}

fn places(report: &TopologyReport) -> Vec<CorePlace> {
    let placement = &report.placement;
    let several = report.machine.nodes.len() > 1;
    let place = |place: &engram_platform::ShardPlace| CorePlace {
        cpu: placement.pinned.then_some(place.cpu),
        node: place.node.filter(|_| several && placement.pinned),
        spin: Duration::from_micros(placement.spin_us.into()),
    };
    placement.shards.iter().map(place).collect()
}

fn cache_bytes(plan: &Plan, shards: u16) -> usize {
    let share = plan.memory_bytes / CACHE_SHARE / u64::from(shards.max(1));
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// Bytes of request bodies that one core may hold.
fn body_bytes(plan: &Plan, shards: u16) -> usize {
    let share = plan.memory_bytes / BODY_SHARE / u64::from(shards.max(1));
    usize::try_from(share.clamp(BODY_BYTES_MIN, BODY_BYTES_MAX)).unwrap_or(usize::MAX)
}

fn of_shards(error: ShardsError) -> Failure {
    Failure::new("the shards can't go on").with_source(error)
}
