//! The page of a scaling study: `docs/benchmarks/scale.md` out of `bench/results/scale`.
//!
//! *Invariants*: the page is a function of the study alone, and says itself whether the model agrees
//! with the server as well as it states.
//!
//! *Not here*: measuring and predicting (`scale`).

use std::fmt::Write as _;

use super::{Check, Figures, Row, Study};

/// By so much a prediction may differ from what is measured.
const ERROR_MAX: f64 = 0.25;

/// The page.
pub fn page(study: &Study) -> String {
    let mut page = "# More cores than this machine has: a model

This page is generated from `bench/results/scale` by `engram-bench pages`. **Only the figures that say \
\"measured\" were seen on a server.** All else is a model: a combined recall (one vector as cue, at most 5 \
seeds, 3 hops, the best 10 with content) is run on real shards of the engine that stand in one thread, each \
step is timed, and a simulation of cores, mailboxes and queues puts the steps together. Steps are timed in one \
pass, in which every recall is by another vector, and by the computing time of their thread. What lies \
between the steps is measured in the same run. Contents are read from memory: the servers are asked all that \
is asked once before they are measured. Latency is in microseconds. The memories are the same on all rows: \
more cores hold fewer each, but enough that every shard walks through its graph of vectors.

"
    .to_owned();
    push_costs(study, &mut page);
    push_checks(&study.checks, &mut page);
    push_rows(&study.rows, &mut page);
    let machine = &study.machine;
    let _ = writeln!(
        page,
        "{} memories of 384 dimensions. {}. \
         One command makes the study again, and one the page:\n\n```\n{}\nengram-bench pages\n```",
        study.memories,
        machine.line(),
        machine.command
    );
    page
}

fn push_costs(study: &Study, page: &mut String) {
    let us = |ns: u64| ns as f64 / 1e3;
    let costs = &study.costs;
    let rows = [
        (
            costs.request_ns,
            "HTTP and JSON of a request, computing",
            "the empty request at 64 clients; `engram-bench micro` of both JSONs",
        ),
        (
            costs.line_ns,
            "what a client waits besides: kernel, waking, the client itself",
            "the empty request at 1 client",
        ),
        (
            costs.envelope_ns,
            "an envelope, computing at each end",
            "16 questions at a time between 2 shards, against 1 shard",
        ),
        (
            costs.flight_ns,
            "an envelope on its way to a core that is awake",
            "one question after the other, cores that poll",
        ),
        (costs.wake_ns, "in addition to a core that sleeps", "the same, cores that do not poll"),
        (
            costs.sleep_ns,
            "going to sleep and waking up again, computing",
            "one question after the other, against 16 at a time",
        ),
        (
            costs.pause_ns,
            "letting others run after a slice of a search, computing",
            "pauses of an executor alone",
        ),
        (study.client_ns, "the client of a request, computing", "recalls at 8 clients"),
    ];
    page.push_str("## What is measured\n\n| µs | what | from |\n| ---: | --- | --- |\n");
    for (ns, what, from) in rows {
        let _ = writeln!(page, "| {:.1} | {what} | {from} |", us(ns));
    }
    page.push_str(
        "\nA core sleeps as soon as it has nothing to do, as on shared cores; cores of their own poll first, which \
         is not modelled.\n",
    );
    let _ = writeln!(
        page,
        "\nA step is taken to last {:.2} times as long in a server as it did alone: then the computing time of a recall is that \
         of the server of one shard at 64 clients. Why it differs was not measured.",
        costs.step_permille as f64 / 1e3
    );
}

fn push_checks(checks: &[Check], page: &mut String) {
    page.push_str(
        "\n## The model beside a server\n\nThe client has CPU 1 where the shards have one CPU; where they have both, it shares them, and \
         what it computes is charged to the home of the recall. Each cell: predicted, measured, difference.\n\n\
         | shards | on CPUs | clients | answers/s | P50 | P99 | server CPU |\n| ---: | ---: | ---: | --- | --- | --- | --- |\n",
    );
    for check in checks {
        let of = |figure: fn(&Figures) -> f64| {
            let (predicted, measured) = (figure(&check.predicted), figure(&check.measured));
            let error = (predicted / measured - 1.0) * 100.0;
            format!("{predicted:.0}, {measured:.0}, {error:+.0} %")
        };
        let cells = [of(|f| f.per_s), of(|f| f.p50_us), of(|f| f.p99_us), of(|f| f.cpu_us)];
        let Check { shards, cpus, clients, .. } = check;
        let _ = writeln!(page, "| {shards} | {cpus} | {clients} | {} |", cells.join(" | "));
    }
    let (bound, worst) = (ERROR_MAX * 100.0, worst(checks) * 100.0);
    let verdict = if worst <= bound {
        format!("It is met: the largest difference is {worst:.0} %.")
    } else {
        format!(
            "**It is not met: the largest difference is {worst:.0} %, so that the model is not validated, and the table \
             below says which way things go, not how far.**"
        )
    };
    let _ = writeln!(
        page,
        "\nThe server of one shard gave the model its costs; two shards test it. Stated bound there for answers a second, \
         median and server CPU: {bound:.0} %. {verdict} P99 has no bound: what makes it on a shared virtual machine is \
         not in the model. No server with more than two shards was measured."
    );
}

/// The largest difference of those that have a bound: of servers that gave the model nothing.
fn worst(checks: &[Check]) -> f64 {
    let differ = |check: &Check, of: fn(&Figures) -> f64| {
        (of(&check.predicted) / of(&check.measured) - 1.0).abs()
    };
    let all = checks.iter().filter(|check| check.shards > 1).flat_map(|check| {
        [differ(check, |f| f.per_s), differ(check, |f| f.p50_us), differ(check, |f| f.cpu_us)]
    });
    all.fold(0.0, f64::max)
}

fn push_rows(rows: &[Row], page: &mut String) {
    page.push_str(
        "\n## Predicted, by cores\n\n| cores | memories a shard | answers/s | × one core | P50 of 1 client | P50 at 70 % | P99 at 70 % | CPU of a \
         recall | of it home | other shards | messages | envelopes | busy |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let first = rows.first().map_or(1.0, |row| row.per_s / f64::from(row.cores));
    for row in rows {
        let _ = writeln!(
            page,
            "| {} | {} | {:.0} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} % |",
            row.cores,
            row.memories,
            row.per_s,
            row.per_s / first,
            row.alone_p50_us,
            row.used_p50_us,
            row.used_p99_us,
            row.cpu_us,
            row.home_us,
            row.others_us,
            row.messages_us,
            row.envelopes,
            row.busy * 100.0
        );
    }
    if let [first, .., last] = rows {
        let share = |us: f64| us / last.cpu_us * 100.0;
        let _ = writeln!(
            page,
            "\nAnswers a second are those of {} clients a core, P50 and P99 at 70 % of them come in a Poisson process. A \
             recall takes {:.0} µs of computing on {} and {:.0} µs on {} cores, because each asks every shard for its nearest: \
             on {} cores {:.0} % of it is work of other shards and {:.0} % messages. In the model that work is what bounds \
             answers a second: cores that have nothing else to wait for compute {:.0} % of the time. Locks, and caches and \
             memory that cores share, are not in it.\n",
            super::CLIENTS_A_CORE,
            first.cpu_us,
            first.cores,
            last.cpu_us,
            last.cores,
            last.cores,
            share(last.others_us),
            share(last.messages_us),
            last.busy * 100.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(predicted: f64, measured: f64) -> Check {
        let figures = |x| Figures { per_s: x, p50_us: x, p99_us: 9.0 * x, cpu_us: x };
        let (predicted, measured) = (figures(predicted), figures(measured));
        Check { shards: 2, cpus: 2, clients: 8, predicted, measured }
    }

    #[test]
    fn a_page_says_whether_the_model_holds() {
        let page_of = |checks: &[Check]| {
            let mut page = String::new();
            push_checks(checks, &mut page);
            page
        };
        // What gave the model its costs says nothing about it.
        let source = Check { shards: 1, cpus: 1, ..check(900.0, 100.0) };
        let good = page_of(&[source, check(110.0, 100.0), check(80.0, 100.0)]);
        assert!(good.contains("It is met: the largest difference is 20 %."), "{good}");
        let bad = page_of(&[check(110.0, 100.0), check(140.0, 100.0)]);
        assert!(bad.contains("**It is not met: the largest difference is 40 %"), "{bad}");
    }
}
