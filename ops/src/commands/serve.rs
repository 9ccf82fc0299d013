//! `engram serve`: runs a server until it is told to stop.
//!
//! *Invariants*: an address that others reach needs `--insecure`; after SIGTERM the process ends
//! within the grace, with status 0 where everything was drained.
//!
//! *Not here*: how it starts and drains (`crate::server`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use engram_engine::request;
use engram_platform::{CpuList, PlacementOptions, Signal, Signals};

use rustix::fs::Access;

use super::load::Wait;
use crate::failure::{Failure, Status};
use crate::logger::{self, Format, Level};
use crate::server::{Plan, Server, Stopper, memory_bytes};
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
    /// CPUs to use, such as 2-7 [default: those that the process may use]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Number of shards [default: one for each physical core, less with a CPU quota]
    #[arg(long, value_name = "COUNT")]
    shards: Option<u16>,
    /// Memory that the process may use, such as 8GiB [default: 80 % of what there is]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    memory_limit: Option<u64>,
    /// When writes are answered where the request does not say
    #[arg(long, value_name = "WHEN", default_value = "durable")]
    wait: Wait,
    /// How long stopping may take
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = units::duration)]
    shutdown_grace: Duration,
    /// Serve addresses that others reach, without keys
    #[arg(long)]
    insecure: bool,
    /// What is logged
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,
    /// How the log looks [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
}

impl Settings {
    /// Every setting by its flag, with the value that is in force.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
        let memory = match memory_bytes(self.memory_limit) {
            Ok(bytes) => format!("{}MiB", bytes >> 20),
            Err(_) => "unknown".to_owned(),
        };
        vec![
            ("listen", self.listen.to_string()),
            ("data-dir", self.data_dir().display().to_string()),
            ("cpus", or(self.cpus.as_ref().map(ToString::to_string), "allowed")),
            ("shards", or(self.shards.map(|count| count.to_string()), "by cores")),
            ("memory-limit", memory),
            ("wait", self.wait.as_str().to_owned()),
            ("shutdown-grace", duration_text(self.shutdown_grace)),
            ("insecure", self.insecure.to_string()),
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

    fn log_format(&self) -> Format {
        self.log_format.unwrap_or_else(logger::default_format)
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let grace = self.shutdown_grace;
        Ok(Plan {
            listen: self.listen,
            data_dir: self.data_dir(),
            placement: PlacementOptions { cpus: self.cpus.clone(), shards: self.shards },
            memory_bytes: memory_bytes(self.memory_limit)?,
            wait: match self.wait {
                Wait::Durable => request::Wait::Durable,
                Wait::Applied => request::Wait::Applied,
            },
            drain: grace - grace / GRACE_AFTER_DRAINING,
        })
    }

    fn refuse_open_doors(&self) -> Result<(), Failure> {
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        if !self.insecure {
            let listen = self.listen;
            return Err(Failure::usage(format!("{listen} is reachable by others, without keys"))
                .with_status(Status::Usage)
                .with_hint(
                    "listen on 127.0.0.1, or say --insecure (ENGRAM_INSECURE=true) where the \
                     network is closed to strangers",
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
        logger::start(settings.log_level, settings.log_format());
        settings.refuse_open_doors()?;
        let signals = Signals::install().map_err(Failure::because("signals can't be taken"))?;
        let plan = settings.plan()?;
        let server = Server::start(&plan)?;
        log::info!(
            "engram {} listens on http://{}, data in {}",
            env!("CARGO_PKG_VERSION"),
            server.address(),
            plan.data_dir.display()
        );
        let (stopper, grace) = (server.stopper(), settings.shutdown_grace);
        std::thread::spawn(move || obey(&signals, &stopper, grace));
        let ended = server.join();
        log::info!("stopped");
        ended
    }
}

/// Stops the server at the first signal, and ends the process when the grace is over or at the
/// second one.
fn obey(signals: &Signals, stopper: &Stopper, grace: Duration) {
    let mut stopping = false;
    loop {
        match signals.wait() {
            Signal::Hangup => log::info!("SIGHUP: there is nothing to read again"),
            Signal::Terminate | Signal::Interrupt if stopping => std::process::exit(130),
            signal @ (Signal::Terminate | Signal::Interrupt) => {
                stopping = true;
                log::info!("{}: draining within {}", signal_name(signal), duration_text(grace));
                stopper.stop();
                std::thread::spawn(move || {
                    std::thread::sleep(grace);
                    log::error!("the grace is over before everything was drained");
                    std::process::exit(Status::Failed.code());
                });
            }
        }
    }
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
