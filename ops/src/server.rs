//! A server in this process: a shard and a listener on each placed core.
//!
//! *Invariants*: nothing starts where something is missing that it can't run without; what was
//! acknowledged before [`Server::stop`] returns is durable.
//!
//! *Not here*: settings and signals (`commands::serve`), requests (`net`), shards (`shards`).

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engram_engine::request::Wait;
use engram_net::auth::Auth;
use engram_net::{Options, Port};
use engram_platform::{Finding, PlacementOptions, Preflight, TopologyReport};
use engram_shards::{CorePlace, Directory, Handle, Running, ShardPhase, ShardsError};
use flume::{Receiver, Sender};

use crate::backend::{Core, Shared};
use crate::budget::{Limits, Readings, Watch};
use crate::client::Url;
use crate::commands::machine_report;
use crate::failure::{Failure, Status};

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

/// What a server needs to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The warm tier.
    pub data_dir: PathBuf,
    /// CPUs and number of shards, where they were asked for.
    pub placement: PlacementOptions,
    /// Bytes that the process may use.
    pub memory_bytes: u64,
    /// When a write is answered where the request does not say.
    pub wait: Wait,
    /// How long draining may take.
    pub drain: Duration,
    /// Keys that clients need.
    pub auth: Auth,
    /// `/metrics` needs one, too.
    pub metrics_guarded: bool,
}

/// A server that runs.
pub struct Server {
    address: SocketAddr,
    running: Running,
    stopper: Stopper,
}

/// Tells a server to stop, from any thread.
#[derive(Clone)]
pub struct Stopper {
    shared: Arc<Shared>,
    /// Dropped to stop: every core waits for the other end.
    sender: Arc<Mutex<Option<Sender<()>>>>,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Stopper {
    /// Not ready at once; then cores drain.
    pub fn stop(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn fail(&self, failure: Failure) {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(failure);
        drop(first);
        self.stop();
    }
}

impl Server {
    /// Starts; recovery goes on while this returns.
    ///
    /// # Errors
    /// Where the machine lacks something, the address is taken, or the directory is held.
    pub fn start(plan: &Plan) -> Result<Self, Failure> {
        let report = machine_report(&plan.placement)?;
        let shards = u16::try_from(report.placement.shards.len()).unwrap_or(u16::MAX);
        check(plan, shards, &report)?;
        if plan.memory_bytes < HUGE_PAGES_FROM_BYTES
            && let Err(error) = engram_platform::allow_huge_pages(false)
        {
            log::info!("the heap takes more memory than it needs: {error}");
        }
        let port = Port::claim(plan.listen).map_err(Failure::because("the server can't listen"))?;
        let directory = Directory::open(&plan.data_dir, shards).map_err(of_shards)?;
        warn_of_shards(&directory, shards);
        let config = engram_shards::Config {
            places: places(&report),
            cache_bytes: cache_bytes(plan, directory.manifest().shards),
            directory,
        };
        let topology =
            serde_json::to_value(&report).map_err(Failure::because("the topology is no JSON"))?;
        let (sender, receiver) = flume::bounded(0);
        let readings = Arc::new(Readings::default());
        let shared = Arc::new(Shared {
            topology,
            readings: readings.clone(),
            draining: AtomicBool::new(false),
            listening: AtomicUsize::new(0),
        });
        let stopper =
            Stopper { shared, sender: Arc::new(Mutex::new(Some(sender))), failure: Arc::default() };
        let options = Options {
            wait: plan.wait,
            drain: plan.drain,
            auth: plan.auth.clone(),
            metrics_guarded: plan.metrics_guarded,
            body_bytes_max: body_bytes(plan, shards),
            connections_max: engram_net::connections_per_core(usize::from(shards)),
            local_names_only: plan.listen.ip().is_loopback() && !plan.auth.is_required(),
            ..Options::default()
        };
        let (address, cores, ended) = (port.address(), stopper.clone(), receiver.clone());
        let serve = move |handle| {
            serve_core(handle, port.clone(), options.clone(), cores.clone(), receiver.clone())
        };
        let running = engram_shards::start(config, serve).map_err(of_shards)?;
        let limits = Limits {
            memory_bytes: plan.memory_bytes,
            data_dir: plan.data_dir.clone(),
            disk_reserve_bytes: engram_shards::DISK_RESERVE_BYTES * u64::from(shards),
            images: None,
        };
        let watch = Watch::new(limits, running.status().clone(), running.rooms().clone(), readings);
        std::thread::Builder::new()
            .name("budget".to_owned())
            .spawn(move || watch.run(&ended))
            .map_err(Failure::because("the watch over memory can't start"))?;
        Ok(Self { address, running, stopper })
    }

    /// The address, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is reached on this machine.
    pub fn url(&self) -> Url {
        self.address.to_string().parse().expect("an address is a URL")
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.running.status().shards().len()
    }

    /// What of memory and disk is in use.
    pub fn readings(&self) -> &Arc<Readings> {
        &self.stopper.shared.readings
    }

    /// The right to tell it to stop.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until every core accepts connections; false where the server was told to stop before.
    pub fn wait_until_listening(&self) -> bool {
        let status = self.running.status();
        while self.stopper.shared.listening.load(Ordering::Relaxed) < status.shards().len() {
            if status.has_failed() {
                self.stopper.stop();
            }
            if self.is_told_to_stop() {
                return false;
            }
            std::thread::sleep(START_PAUSE);
        }
        true
    }

    /// Waits until it serves; false where it was told to stop before, or its log can't be written.
    pub fn wait_until_ready(&self) -> bool {
        self.wait_until_listening();
        loop {
            match self.running.status().phase() {
                ShardPhase::Running => return true,
                ShardPhase::Poisoned => return false,
                _ if self.is_told_to_stop() => return false,
                _ => std::thread::sleep(START_PAUSE),
            }
        }
    }

    fn is_told_to_stop(&self) -> bool {
        self.stopper.shared.draining.load(Ordering::Relaxed)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Why it ended, where nobody told it to.
    pub fn join(self) -> Result<(), Failure> {
        let ended = self.running.join().map_err(of_shards);
        let failure = self.stopper.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
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
        self.stopper.stop();
        self.join()
    }
}

/// Opens a data directory for the commands of this process alone.
///
/// # Errors
/// As [`Server::start`] and [`Server::join`].
pub fn open_directory(directory: &Path) -> Result<Server, Failure> {
    let server = Server::start(&Plan {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        data_dir: directory.to_owned(),
        placement: PlacementOptions::default(),
        memory_bytes: memory_bytes(None)?,
        wait: Wait::Durable,
        drain: Duration::from_secs(5),
        auth: Auth::default(),
        metrics_guarded: false,
    })?;
    if server.wait_until_ready() {
        return Ok(server);
    }
    server.stop()?;
    Err(Failure::new(format!("{} could not be opened", directory.display())))
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

async fn serve_core(
    handle: Handle,
    port: Port,
    options: Options,
    stopper: Stopper,
    stopped: Receiver<()>,
) {
    let listener = match port.listen() {
        Ok(listener) => listener,
        Err(error) => {
            return stopper.fail(Failure::because("a core can't listen")(error));
        }
    };
    stopper.shared.listening.fetch_add(1, Ordering::Relaxed);
    let shard = handle.shard().0;
    let core = Core::new(handle, stopper.shared.clone());
    let stop = async move {
        // Nothing is ever sent: the sender is dropped.
        let _disconnected = stopped.recv_async().await;
    };
    let drained = engram_net::serve(core, listener, options, stop).await;
    if drained.cut > 0 {
        log::warn!("shard {shard}: {} connections were cut while draining", drained.cut);
    }
}

fn check(plan: &Plan, shards: u16, report: &TopologyReport) -> Result<(), Failure> {
    let preflight = Preflight {
        shards,
        ring_entries: RING_ENTRIES,
        data_dir: Some(plan.data_dir.clone()),
        fast_dir: None,
    };
    let findings = preflight.run(&report.machine);
    let (fatal, hints): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().chain(&report.findings).partition(|finding| finding.fatal);
    for hint in hints {
        log::info!("{}: {hint}", hint.code);
    }
    let Some(first) = fatal.first() else { return Ok(()) };
    fatal[1..].iter().for_each(|finding| log::error!("{}: {finding}", finding.code));
    Err(Failure::new(first.problem.clone())
        .with_status(Status::Environment)
        .with_hint(first.remedy.clone()))
}

fn warn_of_shards(directory: &Directory, wanted: u16) {
    let has = directory.manifest().shards;
    if has != wanted {
        log::warn!(
            "the data directory was made with {has} shards and keeps them; {wanted} were planned"
        );
    }
}

fn places(report: &TopologyReport) -> Vec<CorePlace> {
    let placement = &report.placement;
    let place = |place: &engram_platform::ShardPlace| CorePlace {
        cpu: placement.pinned.then_some(place.cpu),
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
