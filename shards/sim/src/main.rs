//! The command: runs seeds and says what they found.
//!
//! *Invariants*: every message names its seed; the status is 1 where anything was found.
//!
//! *Not here*: what a run is (`engram_sim`).

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use engram_sim::{Options, Planted, Report, check, run_caught};

/// Runs the engine, the log and the messages between shards on a simulated machine that fails.
#[derive(Parser)]
#[command(name = "engram-sim")]
struct Arguments {
    /// Seeds: one, or a range such as 1..100, the last of which is not run.
    #[arg(long, default_value = "1..101", value_parser = seeds)]
    seeds: std::ops::Range<u64>,
    /// Operations of each seed.
    #[arg(long, default_value_t = 1000)]
    operations: u64,
    /// Stops after so many seconds, whatever seeds are left.
    #[arg(long)]
    seconds: Option<u64>,
    /// Breaks something on purpose.
    #[arg(long, value_enum)]
    planted: Option<Planted>,
    /// Runs each seed once, without comparing it to itself.
    #[arg(long)]
    once: bool,
    /// Prints what clients ask and are answered.
    #[arg(long)]
    narrate: bool,
    /// Goes on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// Runs so many seeds beside each other; all cores are used where it is left out.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
}

thread_local! {
    /// The seed that is being run: where a panic aborts, nobody else can name it.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn name_seed_of_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("seed {} panics", SEED.get());
        usual(panic);
    }));
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    match text.split_once("..") {
        Some((first, end)) => Ok(number(first)?..number(end)?),
        None => number(text).map(|seed| seed..seed + 1),
    }
}

/// What was run, and what it found.
#[derive(Default)]
struct Sum {
    runs: u64,
    violations: u64,
    of: Report,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.of.operations += report.operations;
        self.of.crashes += report.crashes;
        self.of.poisonings += report.poisonings;
        self.of.shortages += report.shortages;
        self.of.image_starts += report.image_starts;
        self.of.rot_found += report.rot_found;
        self.of.compactions += report.compactions;
        self.of.reshardings += report.reshardings;
        self.of.cold_stores += report.cold_stores;
        self.of.cold_failures += report.cold_failures;
        self.of.merged += report.merged;
        self.of.audits += report.audits;
    }
}

/// What threads share: the seeds that are left, and what was found.
struct Shared {
    seeds: std::ops::Range<u64>,
    sum: Sum,
}

/// Runs seeds until none is left.
fn work(shared: &Mutex<Shared>, arguments: &Arguments, until: Option<Instant>) {
    let Arguments { operations, planted, narrate, .. } = *arguments;
    let options = Options { operations, planted, narrate };
    let lock = || shared.lock().expect("violations are values, panics abort or are caught");
    while until.is_none_or(|until| Instant::now() < until) {
        let Some(seed) = lock().seeds.next() else { return };
        SEED.set(seed);
        let outcome = if arguments.once { run_caught(seed, options) } else { check(seed, options) };
        let mut shared = lock();
        shared.sum.runs += 1;
        match outcome {
            Ok(report) => shared.sum.add(&report),
            Err(violation) => {
                shared.sum.violations += 1;
                println!("{violation}");
                if !arguments.keep_going {
                    shared.seeds = 0..0;
                }
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    name_seed_of_panics();
    let started = Instant::now();
    let until = arguments.seconds.map(|seconds| started + Duration::from_secs(seconds));
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // What several seeds print at once can't be read.
    let jobs = match arguments.narrate {
        true => 1,
        false => arguments.jobs.map_or_else(cores, NonZeroUsize::get),
    };
    let shared = Mutex::new(Shared { seeds: arguments.seeds.clone(), sum: Sum::default() });
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(&shared, &arguments, until));
        }
    });
    let Sum { runs, violations, of } =
        shared.into_inner().expect("violations are values, panics abort or are caught").sum;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{runs} seeds, {} operations, {} crashes, {} poisoned logs, {} full ones, {} starts from images, {} flipped \
         bits found, {} compactions, {} changes of the number of shards, {} cold segments, {} failures of the cold tier, {} times something merged, {} audits, {violations} violations in {seconds:.1} s: {:.2} seeds a second",
        of.operations,
        of.crashes,
        of.poisonings,
        of.shortages,
        of.image_starts,
        of.rot_found,
        of.compactions,
        of.reshardings,
        of.cold_stores,
        of.cold_failures,
        of.merged,
        of.audits,
        runs as f64 / seconds
    );
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
