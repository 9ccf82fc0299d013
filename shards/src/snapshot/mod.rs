//! Snapshots of a data directory in the cold tier.
//!
//! *Invariants*: one is taken at a time; it holds every write that was acknowledged before it was
//! asked for, of each shard everything up to one place in its log, and is restored as a power cut at
//! these places would have left it.
//!
//! *Not here*: HTTP and the command (`net`, `ops`).

mod manifest;
mod read;
mod take;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engram_cold::{ColdError, Tier};
use engram_engine::request::{Code, Rejection};
use serde_json::{Value, json};

use crate::cold::ColdTier;
use crate::core::Handle;
use crate::directory::Manifest;
use crate::error::ShardsError;

pub use manifest::{SnapshotManifest, names as snapshot_names};
pub use read::{restore, verify};
pub(crate) use take::{Cut, cut};

/// How often a snapshot looks whether a sweep is over.
const POLL: Duration = Duration::from_millis(20);
/// Snapshots of the past whose outcome is still told.
const OUTCOMES_MAX: usize = 64;

/// Why a snapshot can't be taken, read or restored.
#[derive(Debug)]
pub enum SnapshotError {
    /// The cold tier failed.
    Cold(ColdError),
    /// The log can't be read or made durable.
    Log(String),
    /// There is one of this name.
    Exists(String),
    /// There is none of this name.
    NotFound(String),
    /// A part of it is not what it should be.
    Damaged { snapshot: String, file: String, reason: String },
    /// The directory to restore into holds something.
    NotEmpty(PathBuf),
    /// A file of the directory failed.
    Files(ShardsError),
}

impl From<ColdError> for SnapshotError {
    fn from(error: ColdError) -> Self {
        Self::Cold(error)
    }
}

impl From<ShardsError> for SnapshotError {
    fn from(error: ShardsError) -> Self {
        Self::Files(error)
    }
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cold(error) => write!(f, "the cold tier failed: {error}"),
            Self::Log(reason) => write!(f, "the log can't be copied: {reason}"),
            Self::Exists(name) => write!(f, "there is a snapshot `{name}` already"),
            Self::NotFound(name) => write!(f, "there is no snapshot `{name}`"),
            Self::Damaged { snapshot, file, reason } => {
                write!(f, "the snapshot `{snapshot}` is damaged: {file}: {reason}")
            }
            Self::NotEmpty(path) => {
                write!(f, "{} is not empty; name an empty or new directory", path.display())
            }
            Self::Files(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for SnapshotError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Files(error) => error.source(),
            Self::Cold(_)
            | Self::Log(_)
            | Self::Exists(_)
            | Self::NotFound(_)
            | Self::Damaged { .. }
            | Self::NotEmpty(_) => None,
        }
    }
}

impl From<SnapshotError> for Rejection {
    fn from(error: SnapshotError) -> Self {
        let code = match &error {
            SnapshotError::Cold(_) => Code::ColdUnavailable,
            SnapshotError::Log(_) | SnapshotError::Files(_) => Code::Unavailable,
            SnapshotError::Exists(_) => Code::AlreadyExists,
            SnapshotError::NotFound(_) => Code::SnapshotNotFound,
            SnapshotError::Damaged { .. } => Code::Unreadable,
            SnapshotError::NotEmpty(_) => Code::InvalidValue,
        };
        Self::new(code, error.to_string())
    }
}

/// How far a snapshot has come.
#[derive(Debug, Default)]
pub struct Copied {
    done: AtomicU64,
    total: AtomicU64,
}

impl Copied {
    pub(crate) fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that are done.
    pub fn bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// 0 to 1.
    pub fn share(&self) -> f64 {
        let total = self.total.load(Ordering::Relaxed).max(1);
        (self.bytes() as f64 / total as f64).min(1.0)
    }
}

/// What is wanted of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its name; made from the time where none is given.
    pub name: Option<String>,
    /// Remove the oldest of this directory's snapshots until so many are left.
    pub keep: Option<usize>,
    /// Read all of it back, before older ones are removed.
    pub verify: bool,
}

#[derive(Clone, Debug)]
enum State {
    Copying,
    Verifying,
    Done { verified: bool, removed: Vec<String> },
    Failed(Rejection),
}

#[derive(Clone, Debug)]
struct Job {
    state: State,
    progress: Arc<Copied>,
    created_at: String,
    began_s: u64,
}

impl Job {
    fn is_under_way(&self) -> bool {
        match self.state {
            State::Copying | State::Verifying => true,
            State::Done { .. } | State::Failed(_) => false,
        }
    }
}

/// The snapshots of one server.
pub struct Snapshots {
    directory: Manifest,
    jobs: Arc<Mutex<BTreeMap<String, Job>>>,
    last_success_s: Arc<AtomicU64>,
}

impl Snapshots {
    pub(crate) fn new(directory: Manifest) -> Self {
        Self { directory, jobs: Arc::default(), last_success_s: Arc::default() }
    }

    /// When the last whole snapshot of this process began, in seconds since 1970; 0: there is none.
    pub fn last_success_s(&self) -> u64 {
        self.last_success_s.load(Ordering::Relaxed)
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<String, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name on, `now_s` being the time in seconds since 1970.
    fn reserve(&self, wanted: &Wanted, now_s: i64) -> Result<(String, Job), Rejection> {
        let (created_at, stamp) = times_of(now_s);
        let tag = self.directory.directory & u64::from(u32::MAX);
        let name = wanted.name.clone().unwrap_or_else(|| format!("{stamp}-{tag:08x}"));
        check_name(&name)?;
        let mut jobs = self.jobs();
        if let Some((other, _)) = jobs.iter().find(|(_, job)| job.is_under_way()) {
            let detail = format!("the snapshot `{other}` is being taken; one is taken at a time");
            return Err(Rejection::new(Code::SnapshotRunning, detail));
        }
        if jobs.len() >= OUTCOMES_MAX {
            let oldest = jobs.iter().min_by(|a, b| a.1.created_at.cmp(&b.1.created_at));
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.and_then(|name| jobs.remove(&name));
        }
        let (state, progress) = (State::Copying, Arc::default());
        let began_s = u64::try_from(now_s).unwrap_or(0);
        let job = Job { state, progress, created_at, began_s };
        jobs.insert(name.clone(), job.clone());
        Ok((name, job))
    }

    fn give_up(&self, name: &str, rejection: Rejection) -> Rejection {
        self.jobs().remove(name);
        rejection
    }

    /// Goes on by itself, on a thread of its own.
    fn run(
        &self,
        cold: Arc<ColdTier>,
        name: String,
        job: Job,
        wanted: Wanted,
    ) -> std::io::Result<()> {
        let (directory, jobs) = (self.directory.clone(), self.jobs.clone());
        let last = self.last_success_s.clone();
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        thread.spawn(move || {
            let run =
                Run { cold: &cold, directory: &directory, name: &name, job: &job, jobs: &jobs };
            if run.to_its_end(&wanted) {
                last.fetch_max(job.began_s, Ordering::Relaxed);
            }
        })?;
        Ok(())
    }

    /// Every snapshot, the oldest first, and those that are being taken or have failed.
    fn list(&self, tier: &Tier) -> Result<Value, Rejection> {
        let names = manifest::names(tier).map_err(SnapshotError::from)?;
        let mut views = Vec::new();
        for (name, _) in names.iter().filter(|(_, whole)| *whole) {
            views.push(self.view(tier, name)?);
        }
        let jobs = self.jobs();
        let whole = |name: &String| names.iter().any(|(n, whole)| *whole && n == name);
        // One that was done and is not there any more was removed.
        let is_done = |job: &Job| matches!(job.state, State::Done { .. });
        let others = jobs.iter().filter(|(name, job)| !whole(name) && !is_done(job));
        views.extend(others.map(|(name, job)| view_of_job(name, job)));
        views.sort_by_key(|view| view["created_at"].as_str().unwrap_or_default().to_owned());
        Ok(json!({ "snapshots": views }))
    }

    /// One snapshot.
    fn read(&self, tier: &Tier, name: &str) -> Result<Value, Rejection> {
        check_name(name)?;
        self.view(tier, name)
    }

    fn view(&self, tier: &Tier, name: &str) -> Result<Value, Rejection> {
        let job = self.jobs().get(name).cloned();
        if let Some(job) = job.filter(|job| !matches!(job.state, State::Done { .. })) {
            return Ok(view_of_job(name, &job));
        }
        let verified = |job: &Job| matches!(job.state, State::Done { verified: true, .. });
        let verified = self.jobs().get(name).is_some_and(verified);
        let removed = match self.jobs().get(name).map(|job| job.state.clone()) {
            Some(State::Done { removed, .. }) => removed,
            _ => Vec::new(),
        };
        match SnapshotManifest::read(tier, name) {
            Ok(manifest) => {
                let mut view = view_of_manifest(&manifest);
                view["verified"] = verified.into();
                view["removed"] = removed.into();
                Ok(view)
            }
            Err(error @ SnapshotError::Damaged { .. }) => {
                Ok(json!({"name": name, "state": "damaged", "error": error.to_string()}))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes one.
    fn remove(&self, tier: &Tier, name: &str) -> Result<(), Rejection> {
        check_name(name)?;
        let known = manifest::names(tier).map_err(SnapshotError::from)?;
        if self.jobs().get(name).is_some_and(Job::is_under_way) {
            let detail = format!("the snapshot `{name}` is being taken");
            return Err(Rejection::new(Code::SnapshotRunning, detail));
        }
        let had = self.jobs().remove(name).is_some();
        if !had && !known.iter().any(|(n, _)| n == name) {
            return Err(SnapshotError::NotFound(name.to_owned()).into());
        }
        manifest::remove(tier, name).map_err(|error| SnapshotError::from(error).into())
    }
}

impl Handle {
    /// Starts a snapshot; what is known of it.
    ///
    /// # Errors
    /// Where one is being taken, or the name is taken or does not fit.
    pub fn start_snapshot(
        &self,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Value, Rejection>> + use<> {
        let (cold, now) = (self.cold().clone(), self.now());
        let running = self.check_running();
        async move {
            running?;
            let snapshots = cold.snapshots();
            let (name, job) = snapshots.reserve(&wanted, now.0 / 1_000_000)?;
            let (begun, directory) = (name.clone(), snapshots.directory.directory);
            let begun = cold.done(move |tier| manifest::begin(tier, &begun, directory)).await;
            let begun = begun.ok_or_else(busy).and_then(|begun| Ok(begun?));
            begun.map_err(|rejection| snapshots.give_up(&name, rejection))?;
            let view = view_of_job(&name, &job);
            let failed = |error: std::io::Error| {
                let rejection = Rejection::new(Code::Unavailable, error.to_string());
                snapshots.give_up(&name, rejection)
            };
            snapshots.run(cold.clone(), name.clone(), job, wanted).map_err(failed)?;
            Ok(view)
        }
    }

    /// Every snapshot, the oldest first, and those that are being taken or have failed.
    ///
    /// # Errors
    /// Where the cold tier can't be read.
    pub fn list_snapshots(&self) -> impl Future<Output = Result<Value, Rejection>> + use<> {
        self.on_snapshots(|snapshots, tier| snapshots.list(tier))
    }

    /// One snapshot.
    ///
    /// # Errors
    /// Where there is none of this name, or the cold tier can't be read.
    pub fn read_snapshot(
        &self,
        name: String,
    ) -> impl Future<Output = Result<Value, Rejection>> + use<> {
        self.on_snapshots(move |snapshots, tier| snapshots.read(tier, &name))
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// Where there is none of this name, it is being taken, or the cold tier can't be reached.
    pub fn remove_snapshot(
        &self,
        name: String,
    ) -> impl Future<Output = Result<Value, Rejection>> + use<> {
        self.on_snapshots(move |snapshots, tier| {
            snapshots.remove(tier, &name)?;
            Ok(Value::Null)
        })
    }

    fn on_snapshots<F>(&self, ask: F) -> impl Future<Output = Result<Value, Rejection>> + use<F>
    where
        F: FnOnce(&Snapshots, &Tier) -> Result<Value, Rejection> + Send + 'static,
    {
        let cold = self.cold().clone();
        async move {
            let asked = cold.clone();
            cold.done(move |tier| ask(asked.snapshots(), tier)).await.ok_or_else(busy)?
        }
    }
}

fn busy() -> Rejection {
    Rejection::new(Code::ColdUnavailable, "too many requests wait for the cold tier already")
}

/// One snapshot on its thread.
struct Run<'a> {
    cold: &'a ColdTier,
    directory: &'a Manifest,
    name: &'a str,
    job: &'a Job,
    jobs: &'a Mutex<BTreeMap<String, Job>>,
}

impl Run<'_> {
    /// Whether it is whole.
    fn to_its_end(&self, wanted: &Wanted) -> bool {
        while !self.cold.occupy() {
            std::thread::sleep(POLL);
        }
        let outcome = self.take_and_keep(wanted);
        self.cold.release();
        let whole = outcome.is_ok();
        self.enter(match outcome {
            Ok(removed) => State::Done { verified: wanted.verify, removed },
            Err(error) => {
                eprintln!("the snapshot `{}` failed: {error}", self.name);
                State::Failed(error.into())
            }
        });
        whole
    }

    fn take_and_keep(&self, wanted: &Wanted) -> Result<Vec<String>, SnapshotError> {
        let (progress, created_at) = (&self.job.progress, self.job.created_at.clone());
        let manifest = take::take(self.cold, self.directory, self.name, created_at, progress)?;
        if wanted.verify {
            self.enter(State::Verifying);
            let written = SnapshotManifest::read(self.cold.tier(), self.name)?;
            if written != manifest {
                let (snapshot, file) = (self.name.to_owned(), "manifest.json".to_owned());
                let reason = "it is not what was written".to_owned();
                return Err(SnapshotError::Damaged { snapshot, file, reason });
            }
            verify(self.cold.tier(), &written, progress)?;
        }
        match wanted.keep {
            Some(keep) => self.remove_older(keep),
            None => Ok(Vec::new()),
        }
    }

    /// Removes the oldest snapshots of this directory, and what failed ones have left.
    fn remove_older(&self, keep: usize) -> Result<Vec<String>, SnapshotError> {
        let tier = self.cold.tier();
        let (mut whole, mut gone) = (Vec::new(), Vec::new());
        for (name, is_whole) in manifest::names(tier)? {
            if !is_whole {
                let ours = manifest::begun_by(tier, &name) == Some(self.directory.directory);
                gone.extend((ours && name != self.name).then_some(name));
            } else if let Ok(manifest) = SnapshotManifest::read(tier, &name)
                && manifest.directory.directory == self.directory.directory
            {
                whole.push((manifest.created_at, name));
            }
        }
        whole.sort();
        let excess = whole.len().saturating_sub(keep.max(1));
        gone.extend(whole.into_iter().take(excess).map(|(_, name)| name));
        gone.retain(|name| name != self.name);
        for name in &gone {
            manifest::remove(tier, name)?;
        }
        Ok(gone)
    }

    fn enter(&self, state: State) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = jobs.get_mut(self.name) {
            job.state = state;
        }
    }
}

fn check_name(name: &str) -> Result<(), Rejection> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.');
    if fits {
        return Ok(());
    }
    let detail = "a snapshot is named by 1 to 64 letters, digits, - _ and .";
    Err(Rejection::at(Code::InvalidValue, "/name", detail))
}

/// A time as RFC 3339, and as a part of a name.
fn times_of(seconds: i64) -> (String, String) {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let (year, month, day) = civil(days);
    (
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"),
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"),
    )
}

/// The date of a number of days since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

fn view_of_job(name: &str, job: &Job) -> Value {
    let (state, error) = match &job.state {
        State::Copying => ("copying", None),
        State::Verifying => ("verifying", None),
        State::Done { .. } => ("done", None),
        State::Failed(rejection) => ("failed", Some(rejection.detail.clone())),
    };
    json!({
        "name": name,
        "state": state,
        "created_at": job.created_at,
        "progress": job.progress.share(),
        "bytes": job.progress.bytes(),
        "error": error,
    })
}

fn view_of_manifest(manifest: &SnapshotManifest) -> Value {
    json!({
        "name": manifest.name,
        "state": "done",
        "created_at": manifest.created_at,
        "progress": 1.0,
        "bytes": manifest.raw_bytes(),
        "stored_bytes": manifest.stored_bytes,
        "parts": manifest.parts(),
        "shards": manifest.shards,
        "directory": format!("{:016x}", manifest.directory.directory),
        "error": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_should() {
        assert_eq!(times_of(0).0, "1970-01-01T00:00:00Z");
        assert_eq!(times_of(951_868_799).0, "2000-02-29T23:59:59Z");
        assert_eq!(times_of(1_795_795_200).1, "20261127T160000Z");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", "a/b", "..", ".x", "a b", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("20261127T160000Z-0a1b2c3d").is_ok());
    }
}
