//! The pages of kept results: `docs/benchmarks` out of `bench/results`.
//!
//! *Invariants*: the pages are a function of the files alone; a test holds them in step.
//!
//! *Not here*: measuring.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::compare::{self, Ratio};
use crate::report::summary;
use crate::result::{Round, SessionResult};
use crate::scale;

const HEAD: &str = "# Benchmarks

This page is generated from the files of `bench/results` by `engram-bench pages`; edit those, not \
this. Each table says how to reproduce it. Latency is in microseconds. In an open loop it counts \
from the moment at which a request should have been sent (no coordinated omission), in a closed \
loop from the moment at which it was. \"not ok\" counts every request that did not end with \
status 2xx; \"server CPU\" is the server's computing time for each request. Figures of several servers stand in one table only where they come from one run on \
one machine, side by side. A load average above the number of CPUs says that others used the \
machine, too: rates and tails are then worse than the server's own, and the median at one client \
and the server CPU are the figures to read. See [how it is measured](method.md), and \
[what more cores would make of it](scale.md), a model.
";

const ENGRAM: &str = "Engram";

const RATIOS: &str = "
How many times as long as Engram's: the geometric mean over the rounds, in which all took turns, and \
its 95 % confidence interval. Below 1 the other is faster; \"Engram loses\" stands where the whole \
interval says so. The last column is the time an answer takes at that number of clients, the inverse of the throughput.

| server | run | P50 | P99 | time an answer |
| --- | --- | ---: | ---: | ---: |
";

/// The pages of a folder of results, by their file names.
///
/// # Errors
/// Those of the system; a file that is no result.
pub fn all(results: &Path) -> io::Result<Vec<(&'static str, String)>> {
    let mut pages = vec![("README.md", page(&read_results(results)?))];
    let study = results.join("scale/scale.json");
    if study.exists() {
        let study = serde_json::from_slice(&std::fs::read(study)?).map_err(io::Error::other)?;
        pages.push(("scale.md", scale::page::page(&study)));
    }
    Ok(pages)
}

/// Reads all results of a folder, in the order of their names.
///
/// # Errors
/// Those of the system; a file that is no result.
pub fn read_results(folder: &Path) -> io::Result<Vec<SessionResult>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files.iter().map(|path| SessionResult::read(path)).collect()
}

/// The page.
pub fn page(results: &[SessionResult]) -> String {
    let mut groups: BTreeMap<(String, u64), Vec<&SessionResult>> = BTreeMap::new();
    for result in results {
        groups.entry((result.name.clone(), result.memories)).or_default().push(result);
    }
    let mut page = HEAD.to_owned();
    for ((name, memories), group) in groups {
        let _ = write!(page, "\n## {name}, {memories} memories\n\n{}\n\n", group[0].about);
        push_table(&group, &mut page);
        push_ratios(&group, &mut page);
        push_notes(&group, &mut page);
    }
    page
}

fn push_table(group: &[&SessionResult], page: &mut String) {
    page.push_str(
        "| server | run | answers/s | P50 | P90 | P99 | P99.9 | max | not ok | server CPU |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for result in group {
        for step in &result.steps {
            let l = &step.latency_us;
            let _ = writeln!(
                page,
                "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {} |",
                result.server,
                step.name,
                step.ok_per_s,
                l.p50,
                l.p90,
                l.p99,
                l.p999,
                l.max,
                step.not_ok,
                step.server_cpu_us.map_or(String::new(), |us| format!("{us:.0}"))
            );
            for (name, operation) in &step.operations {
                let l = &operation.latency_us;
                let _ = writeln!(
                    page,
                    "| | – {name} | | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | |",
                    l.p50, l.p90, l.p99, l.p999, l.max, operation.not_ok
                );
            }
        }
    }
}

/// How many times as long others take as Engram, where they took turns with it.
fn push_ratios(group: &[&SessionResult], page: &mut String) {
    let Some(engram) = group.iter().find(|result| result.server == ENGRAM) else { return };
    let mut rows = String::new();
    for result in group.iter().filter(|result| result.server != ENGRAM) {
        for step in &result.steps {
            let base = engram.steps.iter().find(|one| one.name == step.name);
            let pairs = |of: fn(&Round) -> f64| {
                let base = base.iter().flat_map(|one| &one.rounds).map(of);
                compare::ratio(&base.zip(step.rounds.iter().map(of)).collect::<Vec<_>>())
            };
            let time = |round: &Round| 1.0 / round.ok_per_s.max(1e-9);
            let ratios = [pairs(|round| round.p50), pairs(|round| round.p99), pairs(time)];
            if let [Some(p50), Some(p99), Some(time)] = ratios {
                let cells = [p50, p99, time].map(|ratio| ratio_cell(&ratio));
                let _ =
                    writeln!(rows, "| {} | {} | {} |", result.server, step.name, cells.join(" | "));
            }
        }
    }
    if !rows.is_empty() {
        page.push_str(RATIOS);
        page.push_str(&rows);
    }
}

fn ratio_cell(ratio: &Ratio) -> String {
    let loses = if ratio.high < 1.0 { " Engram loses" } else { "" };
    format!("× {:.2} ({:.2} to {:.2}){loses}", ratio.mean, ratio.low, ratio.high)
}

fn push_notes(group: &[&SessionResult], page: &mut String) {
    page.push('\n');
    for result in group {
        let machine = &result.machine;
        let _ = writeln!(
            page,
            "- **{}**: {} {}. `{}`",
            result.server,
            summary(result),
            machine.line(),
            machine.command
        );
        for step in &result.steps {
            for (problem, count) in &step.problems {
                let _ = writeln!(page, "  - {}: {count} × {problem}", step.name);
            }
            for reason in step.notes() {
                let _ = writeln!(page, "  - {}: {reason}", step.name);
            }
        }
    }
}
