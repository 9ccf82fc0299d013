//! How long a message to another shard and its answer take: counting the memories of a space asks
//! every shard once, so two shards are compared with one.
//!
//! `cargo bench -p engram-shards --bench round_trip --profile quick` measures on CPUs 0 and 1: with
//! pauses, after which both cores sleep; one question after the other; and sixteen at a time.
//!
//! *Invariants*: shards, mailboxes and executors are those of the server; nothing else asks.
//!
//! *Not here*: what HTTP adds (`net/benches`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engram_engine::model::SpaceName;
use engram_engine::phase::Phase;
use engram_engine::request::Request;
use engram_shards::{Config, CorePlace, Directory, Handle, ImageOptions, start};
use futures_lite::future::zip;
use glommio::timer::sleep;

/// Questions of each measurement.
const QUESTIONS: usize = 4000;
/// Between two questions to cores that sleep.
const PAUSE: Duration = Duration::from_millis(2);
/// What a core of its own may poll before it sleeps.
const SPIN: Duration = Duration::from_micros(100);

#[derive(Clone, Copy)]
enum Load {
    Idle,
    OneByOne,
    Sixteen,
}

const LOADS: [(Load, &str); 3] = [
    (Load::Idle, "cores that sleep"),
    (Load::OneByOne, "one after the other"),
    (Load::Sixteen, "sixteen at a time"),
];

fn main() {
    println!("shards  polls at most      load                     P50 us   P99 us  CPU of a core");
    for spin in [Duration::ZERO, SPIN] {
        for shards in [1, 2] {
            measure(shards, spin);
        }
    }
}

fn measure(shards: u16, spin: Duration) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let directory = Directory::open(folder.path(), shards).expect("an empty directory opens");
    let place = |cpu| CorePlace { cpu: Some(cpu), node: None, spin };
    let places = (0..u32::from(shards)).map(place).collect();
    let images = ImageOptions { fast: None, memory_bytes: 0, grace: Duration::ZERO };
    let folder = engram_cold::ColdUrl::folder(&directory.path().join("cold"));
    let cold = engram_cold::Tier::new(folder, engram_cold::Limits::default());
    let cold = Arc::new(cold.expect("a folder needs no settings"));
    let sweep_pause = Duration::from_secs(60);
    let (cache_bytes, demotes) = (1 << 20, false);
    let config = Config { directory, places, cache_bytes, images, cold, sweep_pause, demotes };
    let running = start(config, move |handle| run(handle, shards, spin));
    running.expect("the shards start").join().expect("the shards end");
}

async fn run(handle: Handle, shards: u16, spin: Duration) {
    handle.open();
    if handle.shard().0 > 0 {
        return handle.status().life().told_to_stop().await;
    }
    while handle.status().life().phase() != Phase::Running {
        sleep(PAUSE).await;
    }
    for (load, name) in LOADS {
        let mut took = Vec::with_capacity(QUESTIONS);
        for _ in 0..QUESTIONS / 10 {
            ask(&handle, load, &mut Vec::new()).await;
        }
        let (begun, used) = (Instant::now(), cpu_time());
        while took.len() < QUESTIONS {
            ask(&handle, load, &mut took).await;
        }
        let share = (cpu_time() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
        let share = share * 100.0 / f64::from(shards);
        took.sort_unstable();
        let at = |share: usize| took[took.len() * share / 100].as_nanos() as f64 / 1e3;
        let spin_us = spin.as_micros();
        println!(
            "{shards:>6}  {spin_us:>10} us  {name:<26} {:>8.1} {:>8.1} {share:>12.1} %",
            at(50),
            at(99)
        );
    }
    handle.status().life().stop();
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).expect("a process has run for no negative time")
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
    }
}

async fn count(handle: &Handle) -> Duration {
    let begun = Instant::now();
    let request = Request::Count { space: SpaceName::default(), filter: Default::default() };
    let answer = handle.call(request).await;
    assert!(answer.is_ok(), "the default space is there: {answer:?}");
    begun.elapsed()
}
