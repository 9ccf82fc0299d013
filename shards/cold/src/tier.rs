//! One cold tier with its limits: retries with pauses, a circuit breaker, and what it measures.
//!
//! *Invariants*: an operation ends within [`Limits::patience`] and one request's timeout; only what
//! may pass by itself is tried again; every attempt is counted.
//!
//! *Not here*: threads (`workers`), the two kinds of stores (`file`, `s3`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::breaker::Breaker;
use crate::error::ColdError;
use crate::file::Folder;
use crate::s3::{Bucket, Variables};
use crate::url::ColdUrl;

/// What a tier may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight.
    pub requests_max: usize,
    /// Time for one attempt.
    pub request_timeout: Duration,
    /// Time after which nothing is tried again.
    pub patience: Duration,
    /// Bytes of cold segments that may be kept; `None`: no limit.
    pub bytes_max: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 4,
            request_timeout: Duration::from_secs(10),
            patience: Duration::from_secs(15),
            bytes_max: None,
        }
    }
}

/// What became of an object that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Created,
    /// An object of this name was there before and stays as it was.
    Exists,
}

/// An object as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name below the tier's URL.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Measures {
    /// Attempts of requests.
    pub requests: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
    /// Attempts after the first.
    pub retries: AtomicU64,
    /// Requests that the open circuit turned away.
    pub turned_away: AtomicU64,
    /// Requests that are being answered.
    pub in_flight: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Bytes read.
    pub read_bytes: AtomicU64,
    /// Time of all attempts, in microseconds.
    pub spent_us: AtomicU64,
    /// Bytes of cold segments, as they were last listed.
    pub segment_bytes: AtomicU64,
    /// Cold segments, as they were last listed.
    pub segments: AtomicU64,
}

#[derive(Debug)]
enum Store {
    Folder(Folder),
    Bucket(Box<Bucket>),
}

/// One cold tier.
#[derive(Debug)]
pub struct Tier {
    url: ColdUrl,
    store: Store,
    limits: Limits,
    breaker: Breaker,
    measures: Measures,
    lot: AtomicU64,
}

impl Tier {
    /// The tier at a URL; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ColdError::Settings`] where variables or files that S3 needs are missing or wrong.
    pub fn new(url: ColdUrl, limits: Limits) -> Result<Self, ColdError> {
        Self::with(url, limits, Variables::of_environment())
    }

    /// The same with variables that are not those of the environment.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(url: ColdUrl, limits: Limits, variables: Variables) -> Result<Self, ColdError> {
        let store = match &url {
            ColdUrl::File(path) => Store::Folder(Folder::new(path)),
            ColdUrl::S3 { bucket, prefix } => Store::Bucket(Box::new(Bucket::new(
                bucket,
                prefix,
                limits.request_timeout,
                variables,
            )?)),
        };
        let lot = AtomicU64::new(u64::from(std::process::id()) | 1);
        let (breaker, measures) = (Breaker::default(), Measures::default());
        Ok(Self { url, store, limits, breaker, measures, lot })
    }

    /// Where it is.
    pub fn url(&self) -> &ColdUrl {
        &self.url
    }

    /// What it may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What was done so far.
    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    /// It failed again and again, and is left alone for a while.
    pub fn is_shunned(&self) -> bool {
        self.breaker.is_open()
    }

    /// Writes an object, unless there is one of this name.
    ///
    /// # Errors
    /// [`ColdError`].
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, ColdError> {
        let mut attempts = 0;
        let put = self.attempt(|| {
            attempts += 1;
            match &self.store {
                Store::Folder(folder) => folder.put(name, bytes),
                Store::Bucket(bucket) => bucket.put(name, bytes),
            }
        })?;
        if put == Put::Created {
            add(&self.measures.written_bytes, bytes.len());
        }
        // The answer to an attempt that did its work may have been lost.
        let ours = put == Put::Exists && attempts > 1 && self.get(name)? == bytes;
        Ok(if ours { Put::Created } else { put })
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`ColdError`].
    pub fn get(&self, name: &str) -> Result<Vec<u8>, ColdError> {
        let read = self.attempt(|| match &self.store {
            Store::Folder(folder) => folder.get(name),
            Store::Bucket(bucket) => bucket.get(name),
        })?;
        add(&self.measures.read_bytes, read.len());
        Ok(read)
    }

    /// Reads a part of an object; all of it, or an error.
    ///
    /// # Errors
    /// [`ColdError`].
    pub fn get_range(&self, name: &str, offset: u64, bytes: usize) -> Result<Vec<u8>, ColdError> {
        let read = self.attempt(|| match &self.store {
            Store::Folder(folder) => folder.get_range(name, offset, bytes),
            Store::Bucket(bucket) => bucket.get_range(name, offset, bytes),
        })?;
        add(&self.measures.read_bytes, read.len());
        Ok(read)
    }

    /// Every object whose name starts with `prefix`, in the order of names.
    ///
    /// # Errors
    /// [`ColdError`].
    pub fn list(&self, prefix: &str) -> Result<Vec<Object>, ColdError> {
        self.attempt(|| match &self.store {
            Store::Folder(folder) => folder.list(prefix),
            Store::Bucket(bucket) => bucket.list(prefix),
        })
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// [`ColdError`].
    pub fn delete(&self, name: &str) -> Result<(), ColdError> {
        self.attempt(|| match &self.store {
            Store::Folder(folder) => folder.delete(name),
            Store::Bucket(bucket) => bucket.delete(name),
        })
    }

    fn attempt<T>(&self, mut once: impl FnMut() -> Result<T, ColdError>) -> Result<T, ColdError> {
        let started = Instant::now();
        let mut pause = PAUSE;
        loop {
            let error = match self.attempt_once(&mut once) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let wait = self.drawn_below(pause);
            let over = started.elapsed() + wait >= self.limits.patience;
            if !error.is_transient() || over || self.breaker.is_open() {
                return Err(error);
            }
            std::thread::sleep(wait);
            pause = (pause * 2).min(PAUSE_MAX);
            self.measures.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn attempt_once<T>(
        &self,
        once: &mut impl FnMut() -> Result<T, ColdError>,
    ) -> Result<T, ColdError> {
        let started = Instant::now();
        if let Err(left) = self.breaker.admit(started) {
            self.measures.turned_away.fetch_add(1, Ordering::Relaxed);
            let seconds = left.as_secs() + 1;
            let text =
                format!("{} failed again and again; it is left alone for {seconds} s", self.url);
            return Err(ColdError::Unreachable(text));
        }
        self.measures.requests.fetch_add(1, Ordering::Relaxed);
        self.measures.in_flight.fetch_add(1, Ordering::Relaxed);
        let outcome = once();
        self.measures.in_flight.fetch_sub(1, Ordering::Relaxed);
        let spent = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.measures.spent_us.fetch_add(spent, Ordering::Relaxed);
        match &outcome {
            Err(error) if error.is_transient() => {
                self.measures.failures.fetch_add(1, Ordering::Relaxed);
                self.breaker.failed(Instant::now());
            }
            Err(ColdError::Refused(_) | ColdError::Settings(_)) => {
                self.measures.failures.fetch_add(1, Ordering::Relaxed);
                self.breaker.succeeded();
            }
            Ok(_) | Err(_) => self.breaker.succeeded(),
        }
        outcome
    }

    /// A pause drawn by lot, so that those who failed together do not try again together.
    fn drawn_below(&self, most: Duration) -> Duration {
        let mut lot = self.lot.load(Ordering::Relaxed);
        lot ^= lot << 13;
        lot ^= lot >> 7;
        lot ^= lot << 17;
        self.lot.store(lot, Ordering::Relaxed);
        most.mul_f64(0.5 + (lot >> 11) as f64 / (1u64 << 54) as f64)
    }
}

/// Pause before the second attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(3);

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
