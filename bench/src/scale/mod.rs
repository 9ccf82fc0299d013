//! What more cores make of a recall than this machine has: costs that are measured here, on a machine
//! that is simulated, compared with a real server where there is one.
//!
//! *Invariants*: nothing is guessed: steps are timed on real shards, all that lies between them on
//! real mailboxes and a real server, in the same run; every figure says which of both it is.
//!
//! *Not here*: the page (`page`), one step (`cluster`), queues (`cores`).

pub mod cluster;
pub mod cores;
pub mod page;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use engram_engine::key::ShardIx;
use engram_engine::model::{Metric, VectorEncoding};
use engram_engine::vector::VectorIndex;
use serde::{Deserialize, Serialize};

use crate::child::{Folder, Served};
use crate::dataset::{Dataset, Synthetic, VectorForm};
use crate::http::Connection;
use crate::machine::Machine;
use crate::mailbox::{self, Load, Shards};
use crate::micro;
use crate::result::StepResult;
use crate::session::Session;
use crate::workload::Workload;
use cluster::{Cluster, Part, Trace};
use cores::{Arrivals, Costs, simulate};

/// Load of the columns that say how long a recall takes on a machine that is used.
const USED: f64 = 0.7;
/// Clients for each core that find out how many recalls are done at most.
const CLIENTS_A_CORE: usize = 16;
/// Recalls by other vectors before those that are measured: after them a step is as warm as the many
/// vectors in between leave it.
const BEFORE: u64 = 100;
/// Answers of a simulated run, at least.
const ANSWERS: usize = 20_000;
/// Questions between two shards for each cost of a message.
const QUESTIONS: usize = 4000;
/// Seconds of a run on the real server that are not recorded.
const WARM_UP_S: f64 = 0.3;
/// Memories fall on shards by lot: the smallest holds fewer than the average by so many standard
/// deviations at most.
const DEVIATIONS: f64 = 4.0;

/// What is studied.
#[derive(Clone, Debug)]
pub struct Scaling {
    /// The `engram` command.
    pub engram: PathBuf,
    /// Numbers of shards, one core each.
    pub shards: Vec<u16>,
    /// Memories of the data set, on all shards together.
    pub memories: u64,
    /// Recalls that are measured on real shards, each by another vector.
    pub recalls: u64,
    /// Seconds of each run on the real server.
    pub duration_s: f64,
    /// Seed of the simulation.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Study {
    /// The machine that the costs come from.
    pub machine: Machine,
    /// Memories on all shards together.
    pub memories: u64,
    /// Measured costs.
    pub costs: Costs,
    /// Measured computing time of the client for a request, which shares the cores of two shards.
    pub client_ns: u64,
    /// Predictions beside a real server.
    pub checks: Vec<Check>,
    /// Predictions.
    pub rows: Vec<Row>,
}

/// Recalls of a number of clients that each ask again when they are answered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Answers a second.
    pub per_s: f64,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 are shorter.
    pub p99_us: f64,
    /// Computing time of the server for each, in microseconds.
    pub cpu_us: f64,
}

/// One prediction beside a real server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// Shards of the server.
    pub shards: u16,
    /// CPUs that they share.
    pub cpus: u16,
    /// Clients.
    pub clients: usize,
    /// Of the model.
    pub predicted: Figures,
    /// Of the server.
    pub measured: Figures,
}

/// A recall on so many cores; times in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Cores, each with a shard.
    pub cores: u16,
    /// Memories of a shard, on average.
    pub memories: u64,
    /// Computed at the home for a recall.
    pub home_us: f64,
    /// Computed by all other shards for it.
    pub others_us: f64,
    /// Envelopes, answers included.
    pub envelopes: f64,
    /// Computed for these envelopes.
    pub messages_us: f64,
    /// All of it, HTTP and JSON included.
    pub cpu_us: f64,
    /// Answers a second with as many clients as it can use.
    pub per_s: f64,
    /// Share of the time that the cores compute then.
    pub busy: f64,
    /// One client alone, median.
    pub alone_p50_us: f64,
    /// At seven tenths of the most, median.
    pub used_p50_us: f64,
    /// The same, 99 of 100 stay below.
    pub used_p99_us: f64,
}

/// Measures the costs and the real server, and predicts; `show` hears how far it is.
///
/// # Errors
/// What kept a server or shards from starting.
pub fn study(wanted: &Scaling, show: &mut dyn FnMut(&str)) -> io::Result<Study> {
    check_walks(wanted)?;
    let set = micro::data(wanted.memories);
    show("measuring a server with one shard");
    let (empty, one) = serve(wanted, &["--shards=1", "--cpus=0"], &[1])?;
    show("measuring a server with two shards on one CPU");
    let (_, two_on_one) = serve(wanted, &["--shards=2", "--cpus=0"], &[1])?;
    show("measuring a server with two shards");
    let (_, two) = serve(wanted, &["--shards=2"], &[])?;
    show("measuring messages between shards");
    let between = costs(&set, &empty)?;
    let client_ns = (one[1].client_busy / one[1].ok_per_s * 1e9) as u64;
    let real = [
        (1, Shared { cpus: 1, client_ns: 0 }, &one),
        (2, Shared { cpus: 1, client_ns: 0 }, &two_on_one),
        (2, Shared { cpus: 2, client_ns }, &two),
    ];
    show("measuring the steps of recalls on one shard");
    let alone = measure(&set, 1, wanted.recalls);
    let step_permille = step_permille(&alone, between, one[2].server_cpu_us.unwrap_or(0.0));
    let costs = Costs { step_permille, ..between };
    let (mut checks, mut rows) = (Vec::new(), Vec::new());
    for cores in &wanted.shards {
        let traces = if *cores == 1 {
            alone.clone()
        } else {
            show(&format!("measuring the steps of recalls on {cores} shards"));
            measure(&set, *cores, wanted.recalls)
        };
        rows.push(predict(&traces, *cores, wanted.memories, costs, wanted.seed));
        for (shards, shared, steps) in real.iter().filter(|(shards, ..)| shards == cores) {
            checks.extend(steps.iter().zip(CLIENTS).map(|(step, clients)| {
                let predicted = beside(&traces, *shared, costs, clients, wanted.seed);
                let (shards, cpus) = (*shards, shared.cpus);
                Check { shards, cpus, clients, predicted, measured: measured(step) }
            }));
        }
    }
    let memories = wanted.memories;
    Ok(Study { machine: Machine::read(), memories, costs, client_ns, checks, rows })
}

/// Shards that hold little compare all vectors one by one: of those nothing could be learnt about
/// shards that walk through a graph.
fn check_walks(wanted: &Scaling) -> io::Result<()> {
    let flat = VectorIndex::new(384, Metric::Cosine, VectorEncoding::Int8, 1).flat_max() as f64;
    let most = wanted.shards.iter().copied().max().unwrap_or(1);
    let least = ((flat + DEVIATIONS * flat.sqrt()) * f64::from(most)).ceil() as u64;
    if wanted.memories >= least {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{most} shards compare vectors one by one unless there are {least} memories"
    )))
}

/// Clients of the steps of the workloads that are driven.
const CLIENTS: [usize; 3] = [1, 8, 64];

/// The steps of the empty request, and those of recalls, on a server with such flags.
fn serve(
    wanted: &Scaling,
    flags: &[&str],
    client_cpus: &[usize],
) -> io::Result<(Vec<StepResult>, Vec<StepResult>)> {
    let folder = Folder::new()?;
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let served = Served::start(&wanted.engram, folder.path(), &flags)?;
    let session = Session {
        address: served.address,
        threads: 1,
        cpus: client_cpus.to_vec(),
        spin: false,
        seed: wanted.seed,
        duration_s: Some(wanted.duration_s),
        timeout_s: 10.0,
        server_pid: Some(served.pid()),
    };
    let drive = |text: &str, load: bool| -> io::Result<Vec<StepResult>> {
        let mut workload: Workload = serde_json::from_str(text).map_err(io::Error::other)?;
        workload.warm_up_s = WARM_UP_S;
        workload.dataset = workload.dataset.with_memories(wanted.memories);
        let set: Dataset = workload.dataset.open(None)?;
        if load {
            session.load(&set, 2, VectorForm::Base64, &|_| {})?;
            ask_each(served.address, &workload, &set)?;
        }
        let steps = session.steps(&workload, &set, &mut |_| {})?;
        let steps: Vec<_> = steps.into_iter().map(|step| step.result).collect();
        match steps.iter().find(|step| !step.is_clean()) {
            Some(step) => Err(io::Error::other(format!("not all was answered: {}", step.line()))),
            None => Ok(steps),
        }
    };
    let empty = drive(include_str!("../../workloads/empty.json"), false)?;
    let recall = drive(include_str!("../../workloads/recall-combined.json"), true)?;
    served.stop()?;
    Ok((empty, recall))
}

/// Asks all that will be asked once: the model reads contents from memory, and then so does the server.
fn ask_each(address: SocketAddr, workload: &Workload, set: &Dataset) -> io::Result<()> {
    let mut connection = Connection::open(address, Duration::from_secs(30))?;
    for operation in workload.operations(set, &address.to_string(), 1).iter() {
        for request in operation.requests.iter() {
            connection.exchange(&request.bytes)?;
        }
    }
    Ok(())
}

/// What lies between the steps, from mailboxes, JSON and the empty request of one shard.
fn costs(set: &Synthetic, empty: &[StepResult]) -> io::Result<Costs> {
    let asked = |shards, spin, load| -> io::Result<mailbox::Answered> {
        Ok(Shards::start(shards, spin)?.measure(load, QUESTIONS))
    };
    // The same question on one shard alone crosses nothing.
    let more = |spin, load, of: fn(&mailbox::Answered) -> f64| -> io::Result<f64> {
        Ok((of(&asked(2, spin, load)?) - of(&asked(1, spin, load)?)).max(0.0))
    };
    let envelope_us = more(Duration::ZERO, Load::Sixteen, |answered| answered.cpu_us)? / 4.0;
    let awake_us = more(mailbox::SPIN, Load::OneByOne, |answered| answered.p50_us)?;
    let alone_us = asked(1, Duration::ZERO, Load::OneByOne)?;
    let asleep = asked(2, Duration::ZERO, Load::OneByOne)?;
    let wake_us = (asleep.p50_us - alone_us.p50_us - awake_us).max(0.0) / 2.0;
    // Both shards sleep and wake for each question.
    let sleep_us = (asleep.cpu_us - alone_us.cpu_us - 4.0 * envelope_us).max(0.0) / 2.0;
    let flight_us = (awake_us / 2.0 - 2.0 * envelope_us).max(0.0);
    let json_ns: f64 = micro::ALL
        .iter()
        .filter(|micro| ["json-in", "json-out"].contains(&micro.name))
        .map(|micro| micro.time(set, 5.0, 5).median_ns)
        .sum();
    let http_us = empty[2].server_cpu_us.unwrap_or(0.0);
    let ns = |us: f64| (us * 1e3) as u64;
    Ok(Costs {
        request_ns: ns(http_us) + json_ns as u64,
        line_ns: ns((empty[0].latency_us.p50 - http_us).max(0.0)),
        envelope_ns: ns(envelope_us),
        flight_ns: ns(flight_us),
        wake_ns: ns(wake_us),
        sleep_ns: ns(sleep_us),
        pause_ns: ns(asked(1, Duration::ZERO, Load::Pause)?.cpu_us),
        step_permille: 1000,
    })
}

/// How much longer steps take in a server of one shard whose core has no pause, such that its
/// computing time for a recall is the model's.
fn step_permille(alone: &[Trace], between: Costs, cpu_us: f64) -> u64 {
    let steps_us =
        mean(alone, |trace| trace.home().map(|part| part.cost_ns).sum::<u64>() as f64 / 1e3);
    let pauses = Costs { step_permille: 0, ..between };
    let rest_us =
        between.request_ns as f64 / 1e3 + mean(alone, |trace| sum_us(trace.home(), pauses));
    ((cpu_us - rest_us).max(0.0) / steps_us * 1e3).round() as u64
}

fn measured(step: &StepResult) -> Figures {
    Figures {
        per_s: step.ok_per_s,
        p50_us: step.latency_us.p50,
        p99_us: step.latency_us.p99,
        cpu_us: step.server_cpu_us.unwrap_or(0.0),
    }
}

/// Measures so many recalls, each by another vector, on so many shards that hold the set between
/// them.
pub fn measure(set: &Synthetic, shards: u16, recalls: u64) -> Vec<Trace> {
    let mut cluster = Cluster::new(shards);
    cluster.load(set);
    let home = |q| ShardIx((q % u64::from(shards)) as u16);
    for q in recalls..recalls + BEFORE {
        cluster.recall(home(q), set, q);
    }
    (0..recalls).map(|q| cluster.recall(home(q), set, q)).collect()
}

/// What the model makes of clients that ask again as soon as they are answered.
fn closed(traces: &[Trace], cores: u16, costs: Costs, clients: usize, seed: u64) -> Figures {
    let clients = Arrivals::Closed(clients);
    let done = simulate(traces, usize::from(cores), costs, clients, ANSWERS, seed);
    let us = |quantile| done.latency.value_at_quantile(quantile) as f64 / 1e3;
    let (p50_us, p99_us) = (us(0.5), us(0.99));
    Figures { per_s: done.per_s, p50_us, p99_us, cpu_us: done.cpu_ns / 1e3 }
}

/// What a server that is measured has for itself.
#[derive(Clone, Copy)]
struct Shared {
    /// CPUs; its shards share them.
    cpus: u16,
    /// What the client computes for a request on these CPUs.
    client_ns: u64,
}

/// The same beside a server.
fn beside(traces: &[Trace], server: Shared, costs: Costs, clients: usize, seed: u64) -> Figures {
    let Shared { cpus, client_ns } = server;
    let shared = Costs {
        request_ns: costs.request_ns + client_ns,
        line_ns: costs.line_ns.saturating_sub(client_ns),
        ..costs
    };
    let figures = closed(traces, cpus, shared, clients, seed);
    // What the client computes is not the server's.
    Figures { cpu_us: figures.cpu_us - client_ns as f64 / 1e3, ..figures }
}

/// What a machine with a core for each shard makes of these recalls.
pub fn predict(traces: &[Trace], cores: u16, memories: u64, costs: Costs, seed: u64) -> Row {
    let count = usize::from(cores);
    let clients = Arrivals::Closed(CLIENTS_A_CORE * count);
    let most = simulate(traces, count, costs, clients, ANSWERS.max(count * 500), seed);
    let rate = Arrivals::Open(most.per_s * USED);
    let used = simulate(traces, count, costs, rate, ANSWERS.max(count * 500), seed);
    let us = |ns: u64| ns as f64 / 1e3;
    let asks = mean(traces, |trace| trace.asks().count() as f64);
    Row {
        cores,
        memories: memories / u64::from(cores),
        home_us: mean(traces, |trace| sum_us(trace.home(), costs)),
        others_us: mean(traces, |trace| sum_us(trace.others(), costs)),
        envelopes: 2.0 * asks,
        messages_us: messages_us(traces, costs),
        cpu_us: most.cpu_ns / 1e3,
        per_s: most.per_s,
        busy: most.busy,
        alone_p50_us: closed(traces, cores, costs, 1, seed).p50_us,
        used_p50_us: us(used.latency.value_at_quantile(0.5)),
        used_p99_us: us(used.latency.value_at_quantile(0.99)),
    }
}

/// Each question and each reply costs at both of its ends.
fn messages_us(traces: &[Trace], costs: Costs) -> f64 {
    mean(traces, |trace| trace.asks().count() as f64) * 4.0 * costs.envelope_ns as f64 / 1e3
}

fn sum_us<'a>(parts: impl Iterator<Item = &'a Part>, costs: Costs) -> f64 {
    parts.map(|part| costs.of(part)).sum::<u64>() as f64 / 1e3
}

fn mean(traces: &[Trace], of: impl Fn(&Trace) -> f64) -> f64 {
    traces.iter().map(of).sum::<f64>() / traces.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Asked;

    const COSTS: Costs = Costs { pause_ns: 4000, ..Costs::ROUND };

    /// 90 µs at home, then a question to the other shard, which takes a slice of 50 µs; 2 µs at the end.
    fn crosses() -> Trace {
        let part = |us: u64, is_slice, asks| Part { cost_ns: us * 1000, is_slice, asks };
        let asked = Asked { offset: 1, parts: vec![part(50, true, Vec::new())] };
        let first = vec![part(90, false, vec![asked])];
        Trace { turns: vec![first, vec![part(2, false, Vec::new())]] }
    }

    #[test]
    fn a_row_adds_up_what_a_recall_computes() {
        let row = predict(&[crosses()], 2, 9001, COSTS, 1);
        assert_eq!((row.cores, row.memories), (2, 4500));
        let sums = [row.home_us, row.others_us, row.messages_us, row.envelopes];
        assert_eq!(sums, [92.0, 54.0, 4.0, 2.0]);
        let whole = 10.0 + sums[..3].iter().sum::<f64>();
        assert!((row.cpu_us / whole - 1.0).abs() < 0.01, "{} of {whole}", row.cpu_us);
        // Two cores share it, and neither waits for long.
        let bound = 2.0 * 1e6 / whole;
        assert!((0.95..1.01).contains(&(row.per_s / bound)), "{} of {bound}", row.per_s);
        // Request, home, envelope; flight; envelope, slice, pause, envelope; flight; envelope, end.
        assert!((row.alone_p50_us - 170.0).abs() < 1.0, "{}", row.alone_p50_us);
    }

    #[test]
    fn a_client_on_the_cores_of_the_server_takes_their_time_but_is_not_the_server() {
        let shared = Shared { cpus: 2, client_ns: 40_000 };
        let figures = beside(&[crosses()], shared, COSTS, 64, 1);
        assert!((figures.cpu_us / 160.0 - 1.0).abs() < 0.01, "{}", figures.cpu_us);
        let bound = 2.0 * 1e6 / 200.0;
        assert!((0.95..1.01).contains(&(figures.per_s / bound)), "{}", figures.per_s);
    }

    #[test]
    fn two_shards_on_one_cpu_compute_as_much_and_answer_half_as_often() {
        let figures = beside(&[crosses()], Shared { cpus: 1, client_ns: 0 }, COSTS, 64, 1);
        assert!((figures.cpu_us / 160.0 - 1.0).abs() < 0.01, "{}", figures.cpu_us);
        assert!((figures.per_s / (1e6 / 160.0) - 1.0).abs() < 0.01, "{}", figures.per_s);
    }

    #[test]
    fn steps_are_as_long_as_a_server_of_one_shard_says() {
        let part = Part { cost_ns: 90_000, is_slice: true, asks: Vec::new() };
        let alone = [Trace { turns: vec![vec![part]] }];
        // 10 for the request, 4 for the pause, half as much again for the step.
        let step_permille = step_permille(&alone, COSTS, 149.0);
        assert_eq!(step_permille, 1500);
        let figures = closed(&alone, 1, Costs { step_permille, ..COSTS }, 64, 1);
        assert!((figures.cpu_us / 149.0 - 1.0).abs() < 0.001, "{}", figures.cpu_us);
    }

    #[test]
    fn shards_that_would_not_walk_are_not_studied() {
        let (engram, shards) = (PathBuf::new(), vec![1, 64]);
        let mut wanted =
            Scaling { engram, shards, memories: 20_000, recalls: 1, duration_s: 1.0, seed: 1 };
        let refused = check_walks(&wanted).expect_err("2,000 vectors have no graph");
        assert!(refused.to_string().contains("64 shards"), "{refused}");
        wanted.memories = 140_000;
        assert!(check_walks(&wanted).is_ok());
    }

    #[test]
    fn every_shard_is_asked_and_a_machine_is_made_of_it() {
        let set = micro::data(400);
        for shards in [1, 3] {
            let traces = measure(&set, shards, 6);
            assert_eq!(traces.len(), 6);
            for trace in &traces {
                let asked = trace.asks().filter(|asked| !asked.parts.is_empty()).count();
                assert_eq!(asked, trace.asks().count(), "each question was seen to be answered");
                assert!(asked >= usize::from(shards) - 1, "seeds are searched on every shard");
                assert_eq!(trace.turns.len(), asked + 1, "one turn for each reply");
                assert!(trace.home().chain(trace.others()).any(|part| part.cost_ns > 0));
            }
            let row = predict(&traces, shards, 400, COSTS, 1);
            // No more than its cores can compute.
            let bound = f64::from(shards) * 1e6 / row.cpu_us;
            assert!(row.per_s > 0.0 && row.per_s < bound * 1.1, "{} {bound}", row.per_s);
            assert!(row.alone_p50_us > 0.0 && row.used_p50_us <= row.used_p99_us);
        }
    }
}
