//! Runs the real server on a disk that loses power and fails, and says what came of it.
//!
//! *Invariants*: one seed draws everything that is drawn here; when the kernel and the server do
//! what, it does not say. Nothing stays mounted: `ops/dev/faults` gives it a namespace of its own.
//!
//! *Not here*: the same in simulation, where the seed decides all (`shards/sim`).

mod block_file;
mod cuts;
mod device;
mod failures;
// The client that the load generator has; it depends on nothing else.
#[path = "../../../bench/src/http.rs"]
#[allow(dead_code)]
mod http;
mod random;
mod server;
mod site;
mod volume;
mod world;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::cuts::{Plan, Report};
use crate::volume::Format;

const USAGE: &str = "usage: engram-faults --binary FILE --folder DIR [--filesystem ext4|xfs]
       [--cuts N] [--seed N] [--honoured-one-in N] [--failures yes|no]";

/// Most findings that are shown.
const FINDINGS_SHOWN: usize = 10;

struct Arguments {
    binary: PathBuf,
    folder: PathBuf,
    plan: Plan,
    failures: bool,
}

fn arguments() -> Option<Arguments> {
    let (mut binary, mut folder) = (None, None);
    let mut plan = Plan { format: Format::Ext4, cuts: 50, seed: 1, honoured_one_in: 1 };
    let mut failures = false;
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next()?;
        match name.as_str() {
            "--binary" => binary = Some(PathBuf::from(value)),
            "--folder" => folder = Some(PathBuf::from(value)),
            "--filesystem" if value == "ext4" => plan.format = Format::Ext4,
            "--filesystem" if value == "xfs" => plan.format = Format::Xfs,
            "--failures" => failures = value == "yes",
            "--cuts" => plan.cuts = value.parse().ok()?,
            "--seed" => plan.seed = value.parse().ok()?,
            "--honoured-one-in" => plan.honoured_one_in = value.parse().ok().filter(|n| *n > 0)?,
            _ => return None,
        }
    }
    Some(Arguments { binary: binary?, folder: folder?, plan, failures })
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let is_good = if arguments.failures { fail(&arguments) } else { cut(&arguments) };
    if is_good {
        return ExitCode::SUCCESS;
    }
    let Plan { format, seed, .. } = arguments.plan;
    eprintln!("again: --filesystem {} --seed {seed}", format.name());
    ExitCode::FAILURE
}

/// Brings about every failure; whether the server bore them.
fn fail(Arguments { binary, folder, plan, .. }: &Arguments) -> bool {
    let mut is_good = true;
    for (number, (name, scenario)) in failures::ALL.into_iter().enumerate() {
        let folder = folder.join(format!("{}-failure-{number}", plan.format.name()));
        let ended = failures::run(scenario, plan.format, plan.seed, binary, &folder);
        is_good &= ended.is_ok();
        match ended {
            Ok(seen) => println!("{}: {name}: as it has to be; {seen}", plan.format.name()),
            Err(error) => eprintln!("{}: {name}: {error}", plan.format.name()),
        }
    }
    is_good
}

/// Cuts the power; whether the server bore it, or whether a disk that lies was caught.
fn cut(Arguments { binary, folder, plan, .. }: &Arguments) -> bool {
    let started = Instant::now();
    let report = cuts::run(plan, binary, folder);
    print(plan, &report, started);
    if plan.honoured_one_in == 1 && !report.said.is_empty() {
        eprintln!("{}", report.said);
    }
    report.findings.iter().take(FINDINGS_SHOWN).for_each(|finding| eprintln!("{finding:?}"));
    report.failure.iter().for_each(|failure| eprintln!("{failure}"));
    if plan.honoured_one_in == 1 {
        return !report.is_bad();
    }
    let verdict = if report.is_bad() { "was caught after" } else { "was not caught in" };
    println!("the disk that lies {verdict} {} cuts", report.cuts);
    report.is_bad()
}

fn print(plan: &Plan, report: &Report, started: Instant) {
    println!(
        "{}: {} power cuts, {} acknowledged writes, {} lost, {} wrong; recovery P50 {} ms, max {} ms, {} from images; \
         unflushed sectors {} kept, {} lost, writes torn {}; {} s, seed {}",
        plan.format.name(),
        report.cuts,
        report.acknowledged,
        report.lost(),
        report.wrong(),
        report.recovery(50).as_millis(),
        report.recovery(100).as_millis(),
        report.from_images,
        report.fate.kept,
        report.fate.lost,
        report.fate.torn,
        started.elapsed().as_secs(),
        plan.seed,
    );
}
