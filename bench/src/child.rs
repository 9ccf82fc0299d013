//! A server that is started for a measurement and goes away with it.
//!
//! *Invariants*: its folder and its process end with the value; it is reached over the network only.
//!
//! *Not here*: what is measured (`conditions`, `overload`, `idle`).

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::http::Connection;

/// Longest wait until it is ready.
const READY_MAX: Duration = Duration::from_secs(120);
const READY_PAUSE: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(30);

/// A folder under the system's temporary ones that goes away.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one on a disk: `/var/tmp`, or what `TMPDIR` says.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new() -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parent = std::env::var_os("TMPDIR").map_or("/var/tmp".into(), PathBuf::from);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("engram-bench-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {e}", self.0.display());
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Served {
    /// Starts `engram serve` on a folder with further flags and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not start, or is not ready in time.
    pub fn start(engram: &Path, folder: &Path, flags: &[String]) -> io::Result<Self> {
        let mut command = Command::new(engram);
        // Only its flags say how it runs.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("ENGRAM_")) {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text", "--data-dir"])
            .arg(folder)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().ok_or_else(|| io::Error::other("it has no log"))?;
        let mut lines = BufReader::new(log).lines();
        let mut said = String::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let found = listens_on(&line);
            said = line;
            found
        });
        // What it says from here on is for people.
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| eprintln!("server: {line}"));
        });
        let ended = || io::Error::other(format!("the server did not start: {said}"));
        let address = address.ok_or_else(ended)?;
        let served = Self { child, address };
        served.wait_until_ready()?;
        Ok(served)
    }

    fn wait_until_ready(&self) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < READY_MAX {
            if self.get("/health/ready").is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            std::thread::sleep(READY_PAUSE);
        }
        Err(io::Error::other("the server was not ready in time"))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status and body of a path.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn get(&self, path: &str) -> io::Result<(u16, String)> {
        let reply = Connection::open(self.address, TIMEOUT)?.call("GET", path, "", b"")?;
        Ok((reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
    }

    /// The value of a sample on `/metrics`, by its name and labels as they are written there.
    ///
    /// # Errors
    /// Those of the connection; where there is no such sample.
    pub fn metric(&self, sample: &str) -> io::Result<f64> {
        let (_, text) = self.get("/metrics")?;
        let found = text.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
        found.ok_or_else(|| io::Error::other(format!("/metrics has no {sample}")))
    }

    /// Stops it and waits for its end.
    ///
    /// # Errors
    /// Those of the system.
    pub fn stop(mut self) -> io::Result<()> {
        let pid = self.child.id().cast_signed();
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        self.child.wait().map(|_| ())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already, or it ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listens_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listens on http://")?;
    rest.split([',', ' ']).next()?.parse().ok()
}
