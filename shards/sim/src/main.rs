//! The command: runs seeds and says what they found.
//!
//! *Invariants*: every message names its seed; the status is 1 where anything was found.
//!
//! *Not here*: what a run is (`engram_sim`).

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
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
}

/// The seed that is being run: where a panic aborts, nobody else can name it.
static SEED: AtomicU64 = AtomicU64::new(0);

fn name_seed_of_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("seed {} panics", SEED.load(Ordering::Relaxed));
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Arguments { operations, planted, narrate, .. } = arguments;
    let options = Options { operations, planted, narrate };
    name_seed_of_panics();
    let started = Instant::now();
    let limit = arguments.seconds.map(Duration::from_secs);
    let (mut runs, mut violations) = (0u64, 0u64);
    let mut sum = Report::default();
    for seed in arguments.seeds {
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        runs += 1;
        SEED.store(seed, Ordering::Relaxed);
        let outcome = if arguments.once { run_caught(seed, options) } else { check(seed, options) };
        match outcome {
            Ok(report) => {
                sum.operations += report.operations;
                sum.crashes += report.crashes;
                sum.poisonings += report.poisonings;
                sum.image_starts += report.image_starts;
                sum.rot_found += report.rot_found;
                sum.audits += report.audits;
            }
            Err(violation) => {
                violations += 1;
                println!("{violation}");
                if !arguments.keep_going {
                    break;
                }
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{runs} seeds, {} operations, {} crashes, {} poisoned logs, {} starts from images, {} flipped \
         bits found, {} audits, {violations} violations in {seconds:.1} s: {:.2} seeds a second",
        sum.operations,
        sum.crashes,
        sum.poisonings,
        sum.image_starts,
        sum.rot_found,
        sum.audits,
        runs as f64 / seconds
    );
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
