//! `engram-bench`: load, compare and report from the command line.
//!
//! *Invariants*: results go to stdout, all else to stderr; exit status 0 done, 1 failed or slower
//! than allowed, 2 wrong usage, 3 the server can't be reached.
//!
//! *Not here*: what it does (the library).

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use engram_bench::compare::{self, Metric};
use engram_bench::conditions::{self, Conditions, Row};
use engram_bench::dataset::{Dataset, Shape, Synthetic, VectorForm, push_vector};
use engram_bench::idle;
use engram_bench::result::{SessionResult, StepResult};
use engram_bench::session::{Recorded, Session, recall_at_10};
use engram_bench::workload::Workload;
use engram_bench::{hdr, pages, report};
use engram_bench::{loader, mailbox, micro, scale, truth};

/// Longest wait for what earlier runs left to index.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Measures Engram: open-loop load, latency histograms, comparisons.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drive a workload against a server and print what it measured.
    Run(RunArgs),
    /// Drive a workload against two servers in turns and say whether the second is slower.
    Pair(PairArgs),
    /// Recall alone, beside other work, in overload and with memory nearly full: one table.
    Conditions(ConditionsArgs),
    /// What is done when one, two and three times as much is asked for as can be done.
    Overload(ConditionsArgs),
    /// What idle connections cost, and whether eight active ones feel them.
    Idle(IdleArgs),
    /// Compare kept results, first with first, second with second and so on.
    Compare(CompareArgs),
    /// Make the pages of kept results, or check them.
    Pages(PagesArgs),
    /// Write a synthetic data set with queries and their right answers, for other systems.
    Dataset(DatasetArgs),
    /// Time the hot paths, and count their instructions.
    Micro(MicroArgs),
    /// What a question to another shard and its answer take.
    Mailbox,
    /// What more cores than this machine has would make of recalls: costs measured, cores simulated.
    Scale(ScaleArgs),
}

#[derive(Args)]
struct ScaleArgs {
    /// The `engram` command that the model is compared with, on CPUs 0 and 1.
    #[arg(long, default_value = "target/quick/engram")]
    engram: PathBuf,
    /// Numbers of shards, one core each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64])]
    shards: Vec<u16>,
    /// Memories of the data set, on all shards together.
    #[arg(long, default_value_t = 140_000)]
    memories: u64,
    /// Recalls that are measured on real shards, each by another vector.
    #[arg(long, default_value_t = 2048)]
    recalls: u64,
    /// Seconds of each run on the real server.
    #[arg(long, default_value_t = 1.0)]
    duration: f64,
    /// Seed of the simulation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the study to this file, such as bench/results/scale/scale.json, instead of printing its page.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct MicroArgs {
    /// Only the one with this name.
    #[arg(long)]
    only: Option<String>,
    /// Memories of the data set.
    #[arg(long, default_value_t = 20_000)]
    memories: u64,
    /// Count instructions as well; valgrind must be installed.
    #[arg(long)]
    counts: bool,
    /// Only call so many times, for valgrind.
    #[arg(long, hide = true)]
    repeat: Option<u64>,
}

#[derive(Args)]
struct DatasetArgs {
    /// Memories.
    #[arg(long, default_value_t = 10_000)]
    memories: u64,
    /// Queries.
    #[arg(long, default_value_t = 500)]
    queries: u64,
    /// Folder for memories.ndjson and queries.ndjson.
    #[arg(long)]
    output: PathBuf,
}

#[derive(Args)]
struct PairArgs {
    /// A file of bench/workloads; both servers hold its data set.
    workload: PathBuf,
    /// The second server; the first is --address.
    #[arg(long)]
    against: String,
    /// Pairs of runs.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    verdict: Verdict,
}

#[derive(Args)]
struct CompareArgs {
    /// Results of the first, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    base: Vec<PathBuf>,
    /// Results of the second, in the same order.
    #[arg(long, value_delimiter = ',', required = true)]
    new: Vec<PathBuf>,
    #[command(flatten)]
    verdict: Verdict,
}

#[derive(Args)]
struct ConditionsArgs {
    /// The `engram` command that is started for it.
    #[arg(long, default_value = "target/quick/engram")]
    engram: PathBuf,
    /// Memories that are stored before.
    #[arg(long, default_value_t = 20_000)]
    memories: u64,
    /// Seconds of each row.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// CPUs that the client threads are pinned to, such as 1; the server's are --flag=--cpus=0.
    #[arg(long, value_delimiter = ',')]
    client_cpus: Vec<usize>,
    /// A flag of `engram serve`, such as --flag=--shards=1.
    #[arg(long = "flag")]
    flags: Vec<String>,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct IdleArgs {
    /// The `engram` command that is started for it.
    #[arg(long, default_value = "target/quick/engram")]
    engram: PathBuf,
    /// Idle connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Seconds of each of the two runs.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Verdict {
    /// p50, p99 or rate.
    #[arg(long, default_value = "p50")]
    metric: String,
    /// Exit with status 1 where the second is slower by more than this many percent.
    #[arg(long, default_value_t = 5.0)]
    slower_than: f64,
}

#[derive(Args)]
struct PagesArgs {
    /// Folder of the kept results.
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// Folder of the pages.
    #[arg(long, default_value = "docs/benchmarks")]
    pages: PathBuf,
    /// Only say whether the pages are in step.
    #[arg(long)]
    check: bool,
}

#[derive(Args)]
struct Target {
    /// Address of the server, such as 127.0.0.1:8080.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// CPUs that the client threads are pinned to, such as 1 or 0,1.
    #[arg(long, value_delimiter = ',')]
    client_cpus: Vec<usize>,
    /// Client threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Poll instead of sleeping: no wake-up of the client in the latency.
    #[arg(long)]
    spin: bool,
    /// Seed of arrivals, picks and fresh ids; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of each step, instead of those in the workload.
    #[arg(long)]
    duration: Option<f64>,
    /// Seconds after which an answer is given up.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Process of the server, if it runs here: its CPU time a request is part of the result.
    #[arg(long)]
    server_pid: Option<u32>,
}

#[derive(Args)]
struct RunArgs {
    /// A file of bench/workloads.
    workload: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Store the data set first and wait until it is indexed.
    #[arg(long)]
    load: bool,
    /// Connections that store at once.
    #[arg(long, default_value_t = 4)]
    load_connections: usize,
    /// NDJSON for workloads that read their memories from a file.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Memories of the synthetic data set, instead of the workload's number.
    #[arg(long)]
    memories: Option<u64>,
    /// What is measured, for the report.
    #[arg(long, default_value = "engram")]
    server: String,
    /// Write the result, an HTML report, .hgrm and .hlog files into this folder.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => run(&args),
        Command::Pair(args) => pair(&args),
        Command::Conditions(args) => show_conditions(&args, conditions::measure),
        Command::Overload(args) => show_conditions(&args, conditions::overload),
        Command::Idle(args) => show_idle(&args),
        Command::Compare(args) => compare_results(&args),
        Command::Pages(args) => make_pages(&args),
        Command::Dataset(args) => write_dataset(&args),
        Command::Micro(args) => run_micro(&args),
        Command::Mailbox => show_mailbox(),
        Command::Scale(args) => run_scale(&args),
    };
    done.unwrap_or_else(|e| {
        eprintln!("engram-bench: {e}");
        let unreachable = matches!(e.kind(), io::ErrorKind::ConnectionRefused);
        ExitCode::from(if unreachable { 3 } else { 1 })
    })
}

fn session(target: &Target) -> io::Result<Session> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let fresh = now.map_or(1, |time| time.as_secs() & 0xff_ffff);
    Ok(Session {
        address: resolve(&target.address)?,
        threads: target.threads,
        cpus: target.client_cpus.clone(),
        spin: target.spin,
        seed: target.seed.unwrap_or(fresh),
        duration_s: target.duration,
        timeout_s: target.timeout,
        server_pid: target.server_pid,
    })
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other(format!("{address} has no address")))
}

fn run(args: &RunArgs) -> io::Result<ExitCode> {
    let mut workload = Workload::read(&args.workload)?;
    if let Some(memories) = args.memories {
        workload.dataset = workload.dataset.with_memories(memories);
    }
    let set = workload.dataset.open(args.file.as_deref())?;
    let session = session(&args.target)?;
    let mut loaded = None;
    if args.load {
        let progress = |stored: u64| {
            if stored % 10_000 < 1000 {
                eprintln!("stored {stored} of {}", set.memories());
            }
        };
        let done = session.load(&set, args.load_connections, VectorForm::Base64, &progress)?;
        eprintln!(
            "loaded {} memories at {:.0}/s, {:.0}/s until indexed; {} refused {:?}; server CPU \
             {:.1} s, then {:.1} s",
            done.stored,
            done.per_s(),
            done.settled_per_s(),
            done.refused,
            done.refusals,
            done.server_cpu_s.unwrap_or(0.0),
            done.settled_cpu_s.unwrap_or(0.0)
        );
        loaded = Some(done);
    }
    if let Err(e) = loader::settle(session.address, SETTLE_MAX) {
        eprintln!("the server may still be busy with what was stored before: {e}");
    }
    let mut quality = None;
    if let (Dataset::Synthetic(set), 1..) = (&set, workload.quality_queries) {
        let recall = recall_at_10(session.address, set, workload.quality_queries)?;
        eprintln!("recall@10 of vector search {recall:.4}");
        quality = Some(recall);
    }
    let steps = session.steps(&workload, &set, &mut |step| eprintln!("{}", step.line()))?;
    let results = steps.iter().map(|step| step.result.clone()).collect();
    let mut result = session.result(&workload, &set, &args.server, results);
    (result.loaded, result.recall_at_10) = (loaded, quality);
    if let Some(folder) = &args.output {
        write_files(folder, &result.name, &steps)?;
        let report = folder.join(format!("{}.html", result.name));
        std::fs::write(report, report::html(&result, &steps))?;
        std::fs::write(folder.join(format!("{}.json", result.name)), result.to_text())?;
    }
    if args.json {
        io::stdout().write_all(result.to_text().as_bytes())?;
    }
    let clean = result.steps.iter().all(|step| step.is_clean());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Measure = fn(&Conditions, &mut dyn FnMut(&Row)) -> io::Result<Vec<Row>>;

fn show_conditions(args: &ConditionsArgs, measure: Measure) -> io::Result<ExitCode> {
    let wanted = Conditions {
        engram: args.engram.clone(),
        memories: args.memories,
        duration_s: args.duration,
        client_cpus: args.client_cpus.clone(),
        flags: args.flags.clone(),
    };
    if !args.json {
        println!("{}", conditions::head());
    }
    let rows = measure(&wanted, &mut |row| {
        if !args.json {
            println!("{}", row.line());
        }
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows).map_err(io::Error::other)?);
    }
    let failed = rows.iter().any(|row| row.failed > 0 && !row.is_overload());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show_idle(args: &IdleArgs) -> io::Result<ExitCode> {
    let idle = idle::measure(&args.engram, args.connections, args.duration)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&idle).map_err(io::Error::other)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} idle connections: {:.0} bytes of the server each, {:.0} of the kernel (both ends)",
        idle.connections, idle.server_bytes_each, idle.kernel_bytes_each
    );
    let (alone, beside) = (idle.alone_us, idle.beside_us);
    println!("8 active clients alone:  P50 {:.0}  P99 {:.0} µs", alone.p50, alone.p99);
    println!("8 active beside them:    P50 {:.0}  P99 {:.0} µs", beside.p50, beside.p99);
    Ok(ExitCode::SUCCESS)
}

/// Steps of one round of each server.
type Round = (Vec<StepResult>, Vec<StepResult>);

fn pair(args: &PairArgs) -> io::Result<ExitCode> {
    let workload = Workload::read(&args.workload)?;
    let set = workload.dataset.open(None)?;
    let mut first = session(&args.target)?;
    let mut second = Session { address: resolve(&args.against)?, ..first.clone() };
    let mut rounds: Vec<Round> = Vec::new();
    for round in 0..args.rounds {
        first.seed += 100;
        second.seed = first.seed;
        let drive = |one: &Session| -> io::Result<Vec<StepResult>> {
            let steps = one.steps(&workload, &set, &mut |_| {})?;
            Ok(steps.into_iter().map(|step| step.result).collect())
        };
        // The order alternates: neither is always the one that comes second.
        let (a, b) = if round % 2 == 0 {
            let a = drive(&first)?;
            (a, drive(&second)?)
        } else {
            let b = drive(&second)?;
            (drive(&first)?, b)
        };
        eprintln!("round {} of {}", round + 1, args.rounds);
        rounds.push((a, b));
    }
    judge(&rounds, &args.verdict)
}

fn compare_results(args: &CompareArgs) -> io::Result<ExitCode> {
    let read = |path: &PathBuf| SessionResult::read(path).map(|result| result.steps);
    let pairs = args.base.iter().zip(&args.new);
    let rounds: Vec<Round> =
        pairs.map(|(base, new)| Ok((read(base)?, read(new)?))).collect::<io::Result<_>>()?;
    judge(&rounds, &args.verdict)
}

fn judge(rounds: &[Round], verdict: &Verdict) -> io::Result<ExitCode> {
    let metric = Metric::parse(&verdict.metric)
        .ok_or_else(|| io::Error::other("a metric is p50, p99 or rate"))?;
    let mut slower = false;
    let steps = rounds.first().map_or(0, |(first, _)| first.len());
    for step in 0..steps {
        let pairs: Vec<(f64, f64)> = rounds
            .iter()
            .filter_map(|(a, b)| Some((metric.of(a.get(step)?), metric.of(b.get(step)?))))
            .collect();
        let name = &rounds[0].0[step].name;
        let Some(ratio) = compare::ratio(&pairs) else {
            return Err(io::Error::other(format!("{name}: at least two pairs are needed")));
        };
        let is_slower = ratio.is_slower_by(verdict.slower_than);
        let word = if is_slower { "SLOWER" } else { "not slower" };
        println!("{name}: {} {ratio}: {word} by {} %", verdict.metric, verdict.slower_than);
        slower |= is_slower;
    }
    Ok(if slower { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn make_pages(args: &PagesArgs) -> io::Result<ExitCode> {
    let mut all_in_step = true;
    for (name, page) in pages::all(&args.results)? {
        let file = args.pages.join(name);
        if !args.check {
            std::fs::write(&file, page)?;
            continue;
        }
        let in_step = std::fs::read_to_string(&file)? == page;
        eprintln!("{} is {}in step", file.display(), if in_step { "" } else { "not " });
        all_in_step &= in_step;
    }
    Ok(if all_in_step { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_micro(args: &MicroArgs) -> io::Result<ExitCode> {
    let wanted = |m: &&micro::Micro| args.only.as_deref().is_none_or(|name| m.name == name);
    let set = micro::data(args.memories);
    let mut found = false;
    for micro in micro::ALL.iter().filter(wanted) {
        found = true;
        if let Some(calls) = args.repeat {
            micro.repeat(&set, calls);
            continue;
        }
        let took = micro.time(&set, 20.0, 11);
        let (name, about) = (micro.name, micro.about);
        let (median, least) = (took.median_ns, took.least_ns);
        print!("{name:18} {median:>11.1} ns  least {least:>11.1} ns");
        if args.counts {
            // Counting is slow: a smaller set keeps it short.
            let count = micro.instructions(args.memories.min(2000))?;
            print!("  {count:>11.0} instructions at {} memories", args.memories.min(2000));
        }
        println!("  {about}");
    }
    if found { Ok(ExitCode::SUCCESS) } else { Err(io::Error::other("there is none of that name")) }
}

fn show_mailbox() -> io::Result<ExitCode> {
    for spin in [Duration::ZERO, mailbox::SPIN] {
        for shards in [1, 2] {
            let asked = mailbox::Shards::start(shards, spin)?;
            for (load, name) in [
                (mailbox::Load::Idle, "cores that sleep"),
                (mailbox::Load::OneByOne, "one after the other"),
                (mailbox::Load::Sixteen, "sixteen at a time"),
            ] {
                let answered = asked.measure(load, 4000);
                println!("{shards} shards, poll {:3} µs, {name:20} {answered}", spin.as_micros());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_scale(args: &ScaleArgs) -> io::Result<ExitCode> {
    let wanted = scale::Scaling {
        engram: args.engram.clone(),
        shards: args.shards.clone(),
        memories: args.memories,
        recalls: args.recalls,
        duration_s: args.duration,
        seed: args.seed,
    };
    let study = scale::study(&wanted, &mut |step| eprintln!("{step}"))?;
    match &args.output {
        Some(file) => {
            let text = serde_json::to_string_pretty(&study).map_err(io::Error::other)?;
            std::fs::write(file, text + "\n")?;
        }
        None => print!("{}", scale::page::page(&study)),
    }
    Ok(ExitCode::SUCCESS)
}

fn write_dataset(args: &DatasetArgs) -> io::Result<ExitCode> {
    let shape = Shape { memories: args.memories, dimensions: 384, out_degree: 8, seed: 1 };
    let set = Synthetic::new(shape);
    std::fs::create_dir_all(&args.output)?;
    let mut file = BufWriter::new(File::create(args.output.join("memories.ndjson"))?);
    let mut line = String::new();
    for i in 0..args.memories {
        line.clear();
        set.push_line(i, VectorForm::Base64, &mut line);
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    let queries: Vec<Vec<f32>> = (0..args.queries).map(|q| set.query_vector(q)).collect();
    let right = truth::nearest(&set, &queries, 10, 2);
    let mut file = BufWriter::new(File::create(args.output.join("queries.ndjson"))?);
    for (query, right) in queries.iter().zip(right) {
        line.clear();
        push_vector(query, VectorForm::Base64, &mut line);
        let nearest: Vec<String> = right.into_iter().map(Synthetic::id).collect();
        let nearest = serde_json::Value::from(nearest);
        writeln!(file, "{{\"embedding\":{line},\"nearest\":{nearest}}}")?;
    }
    file.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn write_files(folder: &Path, name: &str, steps: &[Recorded]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (number, step) in steps.iter().enumerate() {
        let stem = folder.join(format!("{name}-{number}"));
        std::fs::write(stem.with_extension("hgrm"), hdr::hgrm(&step.outcome.latency()))?;
        let log = hdr::hlog(&step.outcome, step.began, &step.result.name)?;
        std::fs::write(stem.with_extension("hlog"), log)?;
    }
    Ok(())
}
