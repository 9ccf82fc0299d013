//! `engram serve`: runs a server until it is told to stop.
//!
//! *Invariants*: an address that others reach needs `--insecure`; after SIGTERM the process ends
//! within the grace, with status 0 where everything was drained.
//!
//! *Not here*: how it starts and drains (`crate::server`).

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use engram_cold::{ColdUrl, Limits};
use engram_engine::request;
use engram_net::auth::{Auth, KeysFile};
use engram_net::rates::{RATE_MAX, Rates};
use engram_net::tls::{Tls, TlsFiles};
use engram_platform::sockets::SocketWay;
use engram_platform::{CpuList, PlacementOptions, Signal, Signals};

use rustix::fs::Access;

use super::Subcommand;
use super::load::Wait;
use crate::arguments::{self, Arguments, Engram, Refused};
use crate::failure::{Failure, Status};
use crate::hardening;
use crate::logger::{self, Format, Level};
use crate::server::{
    Cold, Plan, Reshard, Server, Stopper, cold_folder, default_fast_dir, memory_bytes,
};
use crate::traces::Exporter;
use crate::units::{self, duration_text};

/// Kept of the grace for what comes after draining: flushing and ending.
const GRACE_AFTER_DRAINING: u32 = 5;
const SYSTEM_DATA_DIR: &str = "/var/lib/engram";
const LOCAL_DATA_DIR: &str = "engram-data";

/// Runs a server.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    settings: Settings,
}

/// The settings of a server.
#[derive(Debug, Args)]
pub struct Settings {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Folder of the data [default: /var/lib/engram if writable, else ./engram-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder on tmpfs of images for a fast restart, or none [default: /dev/shm where it is]
    #[arg(long, value_name = "DIR")]
    fast_dir: Option<PathBuf>,
    /// Where seldom recalled memories and snapshots go: file:///folder or s3://bucket/prefix
    /// [default: the folder cold of the data]
    #[arg(long, value_name = "URL")]
    cold_url: Option<ColdUrl>,
    /// Most bytes of cold segments, such as 500GiB [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    cold_limit: Option<u64>,
    /// Requests to the cold tier at a time
    #[arg(long, value_name = "COUNT", default_value = "4",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    cold_requests: u16,
    /// How long one request to the cold tier may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    cold_timeout: Duration,
    /// Pause between sweeps, which forget what expired and free the cold tier of what is forgotten
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    sweep_interval: Duration,
    /// CPUs to use, such as 2-7 [default: those that the process may use]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Number of shards [default: one for each physical core, less with a CPU quota]
    #[arg(long, value_name = "COUNT")]
    shards: Option<u16>,
    /// What is done where the data lie in another number of shards
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    reshard: Reshard,
    /// Memory that the process stays within, such as 8GiB [default: 80 % of what there is]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    memory_limit: Option<u64>,
    /// What serves sockets: a ring of their own, or the one that files use, too
    #[arg(long, value_name = "WAY", default_value = "ring")]
    sockets: Way,
    /// When writes are answered where the request does not say
    #[arg(long, value_name = "WHEN", default_value = "durable")]
    wait: Wait,
    /// How long stopping may take
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = units::duration)]
    shutdown_grace: Duration,
    /// File of keys, a line each: name, role (read, write, admin), sha256:digest, [spaces]
    #[arg(long, value_name = "FILE")]
    auth_keys_file: Option<PathBuf>,
    /// Certificate and those above it, PEM: serve https
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates by which clients must be signed, PEM: others are turned away
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Requests a second of one key, or of one address without keys [default: any number]
    #[arg(long, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate_limit: Option<u32>,
    /// Connections of one address, loopback included [default: half of all and 4,096 at most; on
    /// loopback any number]
    #[arg(long, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(u32::MAX)))]
    address_connections: Option<u32>,
    /// Ask for a key at /metrics, too
    #[arg(long)]
    guard_metrics: bool,
    /// Serve addresses that others reach, without keys
    #[arg(long)]
    insecure: bool,
    /// How long a start may take to ask itself what it was asked most before; 0s: not at all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    warm_up: Duration,
    /// Recalls that take this long are logged, with their phases and without what they are about
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::duration)]
    slow_recall: Duration,
    /// What is logged
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,
    /// How the log looks [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
}

/// What serves sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    /// A ring for sockets alone, where the kernel has one to give; else glommio's
    Ring,
    /// glommio's rings
    Glommio,
}

impl Settings {
    /// Every setting by its flag, with the value that is in force.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
        let path =
            |path: &Option<PathBuf>| or(path.as_ref().map(|p| p.display().to_string()), "none");
        let memory = match memory_bytes(self.memory_limit) {
            Ok(bytes) => format!("{}MiB", bytes >> 20),
            Err(_) => "unknown".to_owned(),
        };
        vec![
            ("listen", self.listen.to_string()),
            ("data-dir", self.data_dir().display().to_string()),
            ("fast-dir", path(&self.fast_dir())),
            ("cold-url", self.cold_url().to_string()),
            ("cold-limit", or(self.cold_limit.map(|bytes| format!("{}MiB", bytes >> 20)), "none")),
            ("cold-requests", self.cold_requests.to_string()),
            ("cold-timeout", duration_text(self.cold_timeout)),
            ("sweep-interval", duration_text(self.sweep_interval)),
            ("cpus", or(self.cpus.as_ref().map(ToString::to_string), "allowed")),
            ("shards", or(self.shards.map(|count| count.to_string()), "by cores")),
            ("reshard", name_of(&self.reshard)),
            ("memory-limit", memory),
            ("sockets", name_of(&self.sockets)),
            ("wait", self.wait.as_str().to_owned()),
            ("shutdown-grace", duration_text(self.shutdown_grace)),
            ("auth-keys-file", path(&self.auth_keys_file)),
            ("tls-cert", path(&self.tls_cert)),
            ("tls-key", path(&self.tls_key)),
            ("tls-client-ca", path(&self.tls_client_ca)),
            ("rate-limit", or(self.rate_limit.map(|count| count.to_string()), "none")),
            (
                "address-connections",
                or(self.address_connections.map(|count| count.to_string()), "half, 4096 at most"),
            ),
            ("guard-metrics", self.guard_metrics.to_string()),
            ("insecure", self.insecure.to_string()),
            ("warm-up", duration_text(self.warm_up)),
            ("slow-recall", duration_text(self.slow_recall)),
            ("log-level", name_of(&self.log_level)),
            ("log-format", name_of(&self.log_format())),
        ]
    }

    fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| {
            let system = Path::new(SYSTEM_DATA_DIR);
            if is_writable(system) { system.to_owned() } else { LOCAL_DATA_DIR.into() }
        })
    }

    fn fast_dir(&self) -> Option<PathBuf> {
        match &self.fast_dir {
            Some(folder) if folder.as_os_str() == "none" => None,
            Some(folder) => Some(folder.clone()),
            None => default_fast_dir(),
        }
    }

    fn cold_url(&self) -> ColdUrl {
        self.cold_url.clone().unwrap_or_else(|| cold_folder(&self.data_dir()))
    }

    fn cold(&self) -> Cold {
        let limits = Limits {
            requests_max: usize::from(self.cold_requests),
            request_timeout: self.cold_timeout,
            patience: self.cold_timeout * 3 / 2,
            bytes_max: self.cold_limit,
        };
        Cold {
            url: self.cold_url(),
            limits,
            sweep_pause: self.sweep_interval,
            demotes: self.cold_url.is_some(),
        }
    }

    fn log_format(&self) -> Format {
        self.log_format.unwrap_or_else(logger::default_format)
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let grace = self.shutdown_grace;
        Ok(Plan {
            listen: self.listen,
            data_dir: self.data_dir(),
            placement: PlacementOptions { cpus: self.cpus.clone(), shards: self.shards },
            reshard: self.reshard,
            memory_bytes: memory_bytes(self.memory_limit)?,
            sockets: match self.sockets {
                Way::Ring => SocketWay::Ring,
                Way::Glommio => SocketWay::Glommio,
            },
            fast_dir: self.fast_dir(),
            grace,
            wait: match self.wait {
                Wait::Durable => request::Wait::Durable,
                Wait::Applied => request::Wait::Applied,
            },
            drain: grace - grace / GRACE_AFTER_DRAINING,
            auth: match &self.auth_keys_file {
                Some(path) => Auth::required(read_keys(path)?),
                None => Auth::default(),
            },
            metrics_guarded: self.guard_metrics,
            rates: self.rate_limit.and_then(NonZeroU32::new).map(Rates::new),
            address_connections: self.address_connections,
            slow_recall: self.slow_recall,
            warm_up: self.warm_up,
            tracing: None,
            cold: self.cold(),
            tls: self.tls()?,
        })
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let Some((certificates, key)) = self.tls_cert.clone().zip(self.tls_key.clone()) else {
            return Ok(None);
        };
        let files = TlsFiles { certificates, key, clients: self.tls_client_ca.clone() };
        let tls = Tls::read(files);
        tls.map(Some).map_err(|error| Failure::usage("TLS can't be spoken").with_source(error))
    }

    fn refuse_open_doors(&self) -> Result<(), Failure> {
        let asks_who = self.auth_keys_file.is_some() || self.tls_client_ca.is_some();
        if self.listen.ip().is_loopback() || asks_who {
            return Ok(());
        }
        if !self.insecure {
            let listen = self.listen;
            return Err(Failure::usage(format!("{listen} is reachable by others, without keys"))
                .with_hint(
                    "name keys by --auth-keys-file or signers of clients by --tls-client-ca, listen on \
                     127.0.0.1, or say --insecure (ENGRAM_INSECURE=true) where the network is closed \
                     to strangers",
                ));
        }
        log::warn!("anyone who reaches {} may read, write and delete every memory", self.listen);
        Ok(())
    }
}

impl Serve {
    /// Runs a server until it has stopped.
    ///
    /// # Errors
    /// Where it can't start, or did not stop in time.
    pub fn run(self) -> Result<(), Failure> {
        let settings = self.settings;
        // First of all: a thread that was started before would take signals by their usual actions.
        let signals = Signals::install().map_err(Failure::because("signals can't be taken"))?;
        logger::start(settings.log_level, settings.log_format());
        hardening::harden();
        settings.refuse_open_doors()?;
        let mut plan = settings.plan()?;
        let exporter = Exporter::start()?.map(|(tracing, exporter)| {
            plan.tracing = Some(tracing);
            exporter
        });
        let server = Server::start(&plan)?;
        let obedience = Obedience {
            stopper: server.stopper(),
            grace: settings.shutdown_grace,
            auth: plan.auth.clone(),
            keys_file: settings.auth_keys_file,
            tls: plan.tls.clone(),
        };
        std::thread::spawn(move || obedience.obey(&signals));
        if server.wait_until_listening() {
            log::info!(
                "engram {} listens on {}, data in {}",
                env!("CARGO_PKG_VERSION"),
                server.url(),
                plan.data_dir.display()
            );
        }
        let ended = server.join();
        // Its queue ends with the last of those who fill it.
        drop(plan);
        exporter.into_iter().for_each(Exporter::finish);
        log::info!("stopped");
        ended
    }
}

/// What signals do.
struct Obedience {
    stopper: Stopper,
    grace: Duration,
    auth: Auth,
    keys_file: Option<PathBuf>,
    tls: Option<Tls>,
}

impl Obedience {
    /// The first signal to end drains the server, the second one cuts that short, and the third
    /// one ends the process, as the end of the grace does.
    fn obey(&self, signals: &Signals) {
        let mut asked = 0;
        loop {
            match signals.wait() {
                Signal::Hangup => self.reload(),
                signal @ (Signal::Terminate | Signal::Interrupt) => {
                    asked += 1;
                    self.end(signal, asked);
                }
            }
        }
    }

    fn end(&self, signal: Signal, asked: u32) {
        match asked {
            1 => self.stop_within_grace(signal),
            2 => {
                log::warn!("{} again: what is under way is cut off", signal_name(signal));
                self.stopper.hurry();
            }
            _ => {
                log::error!("{} again: ending before the log is closed", signal_name(signal));
                log::logger().flush();
                std::process::exit(130);
            }
        }
    }

    fn stop_within_grace(&self, signal: Signal) {
        let grace = self.grace;
        log::info!("{}: draining within {}", signal_name(signal), duration_text(grace));
        self.stopper.stop();
        let stopper = self.stopper.clone();
        std::thread::spawn(move || {
            std::thread::sleep(grace);
            let unfinished = stopper.unfinished();
            log::error!("the grace is over; not finished: {unfinished}");
            log::logger().flush();
            std::process::exit(Status::Failed.code());
        });
    }

    /// Reads again what may change while the server runs: keys, certificates, and the level of the
    /// log from the file of settings. What can't be read stays as it was.
    fn reload(&self) {
        match read_level() {
            Ok(level) => {
                logger::set_level(level);
                log::info!("SIGHUP: the log has level {}", name_of(&level));
            }
            Err(failure) => log::error!("SIGHUP: the log's level stays as it was: {failure}"),
        }
        if let Some(path) = &self.keys_file {
            self.read_keys_again(path);
        }
        match self.tls.as_ref().map(Tls::read_again) {
            None => {}
            Some(Ok(())) => log::info!("SIGHUP: the certificate is in force for new connections"),
            Some(Err(error)) => log::error!("SIGHUP: the certificate stays as it was: {error}"),
        }
    }

    fn read_keys_again(&self, path: &Path) {
        match read_keys(path) {
            Ok(keys) => {
                log::info!("SIGHUP: {} keys are in force", keys.count());
                self.auth.replace(keys);
            }
            Err(failure) => log::error!("SIGHUP: the keys stay as they were: {failure}"),
        }
    }
}

/// The level of the log that the flags, the environment and the file say now.
fn read_level() -> Result<Level, Failure> {
    let read = arguments::read(std::env::args_os().collect());
    match read {
        Ok(Arguments { engram: Engram { command: Subcommand::Serve(serve), .. }, .. }) => {
            Ok(serve.settings.log_level)
        }
        Ok(_) => unreachable!("this process serves"),
        Err(Refused::Failed(failure)) => Err(failure),
        Err(Refused::Shown(shown)) => Err(Failure::usage(shown.to_string())),
    }
}

fn read_keys(path: &Path) -> Result<KeysFile, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(Failure::because(format!("{} can't be read", path.display())))?;
    KeysFile::parse(&text)
        .map_err(|error| Failure::usage(path.display().to_string()).with_source(error))
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Terminate => "SIGTERM",
        Signal::Interrupt => "SIGINT",
        Signal::Hangup => "SIGHUP",
    }
}

fn name_of(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|name| name.get_name().to_owned()).unwrap_or_default()
}

/// The folder, or the nearest one above it that exists, may be written.
fn is_writable(folder: &Path) -> bool {
    let existing = folder.ancestors().find(|folder| folder.exists());
    existing.is_some_and(|folder| rustix::fs::access(folder, Access::WRITE_OK).is_ok())
}
