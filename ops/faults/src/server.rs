//! The real server as a process: started, asked, killed.
//!
//! *Invariants*: it does not outlive its value.
//!
//! *Not here*: what it is asked (`writer`), where its files lie (`volume`).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::Connection;

/// Longer than anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);
/// Lines of its log that are kept for whoever wants to know why.
const LINES_MAX: usize = 30;

/// How servers are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The executable.
    pub binary: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// Its folder on tmpfs, which a power cut empties.
    pub fast: PathBuf,
    /// Its number of shards, which may change from one start to the next.
    pub shards: u64,
}

impl Launch {
    /// Starts a server.
    ///
    /// # Errors
    /// Where the executable can't be run.
    pub fn start(&self) -> Result<Server, String> {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("ENGRAM_")) {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text"]);
        command.args(["--shards", &self.shards.to_string(), "--warm-up", "0s"]);
        command.arg("--data-dir").arg(&self.data);
        command.arg("--fast-dir").arg(&self.fast).stdin(Stdio::null()).stderr(Stdio::piped());
        let started = Instant::now();
        let spawned = command.spawn();
        let mut child = spawned.map_err(|e| format!("run {}: {e}", self.binary.display()))?;
        let said: Arc<Mutex<Said>> = Arc::default();
        let (stderr, lines) = (child.stderr.take().expect("it is piped"), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).take(line);
            }
        });
        Ok(Server { child, said, started })
    }

    /// Empties the folder on tmpfs, as a power cut does.
    ///
    /// # Errors
    /// Where that can't be done.
    pub fn forget_fast(&self) -> Result<(), String> {
        let emptied = clear(&self.fast);
        emptied.map_err(|e| format!("empty {}: {e}", self.fast.display()))
    }
}

fn clear(folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir(folder)
}

/// What it said on standard error.
#[derive(Default)]
struct Said {
    address: Option<SocketAddr>,
    lines: VecDeque<String>,
}

impl Said {
    fn take(&mut self, line: String) {
        if let Some((_, rest)) = line.split_once("listens on http://") {
            self.address = rest.split(',').next().and_then(|address| address.parse().ok());
        }
        self.lines.push_back(line);
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
        }
    }
}

/// A server.
pub struct Server {
    child: Child,
    said: Arc<Mutex<Said>>,
    started: Instant,
}

impl Server {
    /// Waits until it is ready; how long that took since it was started.
    ///
    /// # Errors
    /// What it said, where it ended or is not ready in time.
    pub fn ready(&mut self) -> Result<Duration, String> {
        self.until("ready", |server| server.health().is_some_and(|(status, _)| status == 200))?;
        Ok(self.started.elapsed())
    }

    /// Status and body of its readiness, where it answers.
    pub fn health(&self) -> Option<(u16, String)> {
        let mut connection = Connection::open(self.known_address()?, PATIENCE).ok()?;
        let reply = connection.call("GET", "/health/ready", "", b"").ok()?;
        Some((reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
    }

    /// Waits until something holds of it.
    ///
    /// # Errors
    /// What it said, where it ended or that does not hold in time.
    pub fn until(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<(), String> {
        while !holds(self) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the server ended ({status}): {}", self.log()));
            }
            if self.started.elapsed() > PATIENCE {
                return Err(format!("the server is not {what} in time: {}", self.log()));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// Where it has not in time.
    pub fn ended(mut self) -> Result<(ExitStatus, String), String> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                // What it said last may still be on its way.
                std::thread::sleep(PAUSE);
                return Ok((status, self.log()));
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("the server does not end: {}", self.log()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Where it listens; it is ready.
    pub fn address(&self) -> SocketAddr {
        self.known_address().expect("a server that is ready has said where it listens")
    }

    /// A connection to it.
    ///
    /// # Errors
    /// Where it does not accept.
    pub fn connect(&self) -> Result<Connection, String> {
        let opened = Connection::open(self.address(), PATIENCE);
        opened.map_err(|e| format!("the server does not accept ({e}): {}", self.log()))
    }

    /// Whether it started from images, not from the log alone.
    ///
    /// # Errors
    /// Where it does not say.
    pub fn has_started_from_image(&self) -> Result<bool, String> {
        let reply = self.connect()?.call("GET", "/metrics", "", b"").map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let tier = text.lines().find(|line| line.starts_with("engram_image_start_tier{"));
        let tier = tier.and_then(|line| line.split(' ').next_back());
        tier.map(|tier| tier != "0").ok_or_else(|| format!("no tier of the start: {text}"))
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal reaches the server");
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// The end of what it said.
    pub fn log(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.lines.iter().map(|line| format!("\n    {line}")).collect()
    }

    fn known_address(&self) -> Option<SocketAddr> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).address
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ignored = self.child.kill();
        let _ignored = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
