//! What a question to another shard and its answer take: counting the memories of a space asks every
//! shard once, so that two shards are compared with one.
//!
//! *Invariants*: shards, mailboxes and executors are those of the server; nothing else asks.
//!
//! *Not here*: what HTTP adds (`net/benches`), what becomes of the figures (`scale`).

use std::fmt;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use engram_engine::model::SpaceName;
use engram_engine::phase::Phase;
use engram_engine::request::Request;
use engram_shards::{Config, CorePlace, Directory, Handle, ImageOptions, Running, start};
use futures_lite::future::zip;
use glommio::timer::sleep;

use crate::child::Folder;

/// Between two questions to cores that sleep.
const PAUSE: Duration = Duration::from_millis(2);
/// What a core of its own may poll before it sleeps.
pub const SPIN: Duration = Duration::from_micros(100);
/// How long a core lets others run between two slices of a search.
const SLICE_PAUSE: Duration = Duration::from_micros(1);

/// How questions follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// With pauses, after which the cores sleep.
    Idle,
    /// The next one after the answer.
    OneByOne,
    /// Sixteen at a time.
    Sixteen,
    /// No question: the core lets others run, as between two slices of a search.
    Pause,
}

/// What questions took.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Median from question to answer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 are shorter.
    pub p99_us: f64,
    /// CPU time of all cores for one question, in microseconds.
    pub cpu_us: f64,
    /// Share of the time that a core computed.
    pub busy: f64,
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50_us, p99_us, cpu_us, busy } = self;
        write!(f, "P50 {p50_us:8.1}  P99 {p99_us:8.1} µs  CPU {cpu_us:6.1} µs a question, ")?;
        write!(f, "{:.0} % of a core", busy * 100.0)
    }
}

/// Empty shards, each on a core of its own where there are so many.
pub struct Shards {
    shards: u16,
    asks: Option<flume::Sender<(Load, usize)>>,
    took: mpsc::Receiver<Vec<Duration>>,
    running: Option<Running>,
    _folder: Folder,
}

impl Shards {
    /// Starts them; each core polls for at most `spin` before it sleeps.
    ///
    /// # Errors
    /// Where they can't be started.
    pub fn start(shards: u16, spin: Duration) -> io::Result<Self> {
        let folder = Folder::new()?;
        let directory = Directory::open(folder.path(), shards).map_err(io::Error::other)?;
        let cpus = allowed_cpus()?;
        let pinned = cpus.len() >= usize::from(shards);
        let place = |n: usize| CorePlace { cpu: pinned.then(|| cpus[n] as u32), node: None, spin };
        let cold = engram_cold::ColdUrl::folder(&directory.path().join("cold"));
        let cold = engram_cold::Tier::new(cold, engram_cold::Limits::default());
        let config = Config {
            directory,
            places: (0..usize::from(shards)).map(place).collect(),
            cache_bytes: 1 << 20,
            images: ImageOptions { fast: None, memory_bytes: 0, grace: Duration::ZERO },
            cold: Arc::new(cold.map_err(io::Error::other)?),
            sweep_pause: Duration::from_secs(60),
            demotes: false,
        };
        let (asks, asked) = flume::unbounded();
        let (answers, took) = mpsc::channel();
        let serve = move |handle| serve(handle, asked.clone(), answers.clone());
        let running = Some(start(config, serve).map_err(io::Error::other)?);
        Ok(Self { shards, asks: Some(asks), took, running, _folder: folder })
    }

    /// Asks so many questions, sixteen more at most, and says how long each took.
    pub fn ask(&self, load: Load, questions: usize) -> Vec<Duration> {
        let asks = self.asks.as_ref().expect("it is taken at the end only");
        asks.send((load, questions)).expect("shard 0 listens until the end");
        self.took.recv().expect("shard 0 answers until the end")
    }

    /// Asks so many questions after a tenth of them to warm up.
    pub fn measure(&self, load: Load, questions: usize) -> Answered {
        self.ask(load, questions / 10);
        let (begun, used) = (Instant::now(), cpu_time());
        let mut took = self.ask(load, questions);
        let (used, passed) = ((cpu_time() - used).as_secs_f64(), begun.elapsed().as_secs_f64());
        took.sort_unstable();
        let at = |percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1e6;
        Answered {
            p50_us: at(50),
            p99_us: at(99),
            cpu_us: used * 1e6 / took.len() as f64,
            busy: used / passed / f64::from(self.shards),
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(Err(e)) = self.running.take().map(Running::join) {
            eprintln!("the shards ended with an error: {e}");
        }
    }
}

/// Answers for shard 0 until nobody asks any more; the others only serve their mailboxes.
async fn serve(
    handle: Handle,
    asked: flume::Receiver<(Load, usize)>,
    answers: mpsc::Sender<Vec<Duration>>,
) {
    handle.open();
    if handle.shard().0 > 0 {
        return handle.status().life().told_to_stop().await;
    }
    while handle.status().life().phase() != Phase::Running {
        sleep(PAUSE).await;
    }
    while let Ok((load, questions)) = asked.recv_async().await {
        let mut took = Vec::with_capacity(questions + 16);
        while took.len() < questions {
            ask(&handle, load, &mut took).await;
        }
        answers.send(took).expect("who asked waits for the answer");
    }
    handle.status().life().stop();
}

async fn ask(handle: &Handle, load: Load, took: &mut Vec<Duration>) {
    match load {
        Load::Idle => {
            sleep(PAUSE).await;
            took.push(count(handle).await);
        }
        Load::OneByOne => took.push(count(handle).await),
        Load::Sixteen => {
            let two = || zip(count(handle), count(handle));
            let four = || zip(two(), two());
            let eight = || zip(four(), four());
            let (((a, b), (c, d)), ((e, f), (g, h))) = zip(eight(), eight()).await;
            for (one, other) in [a, b, c, d, e, f, g, h] {
                took.extend([one, other]);
            }
        }
        Load::Pause => {
            let begun = Instant::now();
            sleep(SLICE_PAUSE).await;
            took.push(begun.elapsed());
        }
    }
}

async fn count(handle: &Handle) -> Duration {
    let begun = Instant::now();
    let request = Request::Count { space: SpaceName::default(), filter: Default::default() };
    let answer = handle.call(request).await;
    assert!(answer.is_ok(), "the default space is there: {answer:?}");
    begun.elapsed()
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).expect("a process has run for no negative time")
}

fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}
