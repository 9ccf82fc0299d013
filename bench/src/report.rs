//! A session as one HTML file that needs nothing else to be read.
//!
//! *Invariants*: no script and no link; every number says its unit; problems stand beside the
//! numbers that they spoil.
//!
//! *Not here*: the page of kept results (`pages`).

use std::fmt::Write as _;

use crate::plot::{self, escape};
use crate::result::{SessionResult, StepResult};
use crate::session::Recorded;

const STYLE: &str = "body{font:15px sans-serif;max-width:60em;margin:2em auto;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:3px 9px;\
text-align:right}td:first-child,th:first-child{text-align:left}.bad{color:#b00}";

/// The report.
pub fn html(result: &SessionResult, steps: &[Recorded]) -> String {
    let title = escape(&format!("{} ({})", result.name, result.server));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{}</p>\n",
        escape(&result.about)
    );
    let _ = writeln!(page, "<p>{}</p>", escape(&summary(result)));
    push_steps(result, &mut page);
    push_explanation(&mut page);
    let histograms: Vec<_> =
        steps.iter().map(|step| (step.result.name.clone(), step.outcome.latency())).collect();
    page.push_str(&plot::percentiles(&histograms));
    for step in steps {
        let title = format!("{}: latency over time", step.result.name);
        page.push_str(&plot::time_line(&title, &step.outcome));
    }
    page.push_str("<h2>Machine</h2>\n<table>");
    for (name, fact) in result.machine.rows() {
        let _ = writeln!(page, "<tr><td>{name}</td><td>{}</td></tr>", escape(&fact));
    }
    page.push_str("</table>\n</body></html>\n");
    page
}

/// The data set and the quality in one sentence or two.
pub fn summary(result: &SessionResult) -> String {
    let mut text = format!("{} memories.", result.memories);
    if let Some(loaded) = &result.loaded {
        let _ = write!(
            text,
            " They were stored at {:.0} a second ({:.0} a second until the indexes had caught up).",
            loaded.per_s(),
            loaded.settled_per_s()
        );
        if let (Some(cpu_s), Some(settled_cpu_s)) = (loaded.server_cpu_s, loaded.settled_cpu_s) {
            let each = |s: f64| s * 1e6 / loaded.stored.max(1) as f64;
            let _ = write!(
                text,
                " That took {:.0} µs of the server's CPU time for each, and {:.0} µs after it.",
                each(cpu_s),
                each(settled_cpu_s)
            );
        }
        if loaded.refused > 0 {
            let _ = write!(text, " {} were refused.", loaded.refused);
        }
    }
    if let Some(recall) = result.recall_at_10 {
        let _ =
            write!(text, " Vector search found {:.1} % of the true ten nearest.", recall * 100.0);
    }
    if let Some(durability) = &result.durability {
        let _ = write!(text, " Durability: {durability}.");
    }
    text
}

fn push_steps(result: &SessionResult, page: &mut String) {
    page.push_str(
        "<table><tr><th>run</th><th>arrivals</th><th>answers/s</th><th>P50 µs</th><th>P90</th>\
         <th>P99</th><th>P99.9</th><th>max</th><th>not ok</th></tr>\n",
    );
    for step in &result.steps {
        push_step(step, page);
    }
    page.push_str("</table>\n");
    for step in &result.steps {
        for (problem, count) in &step.problems {
            let text = escape(&format!("{}: {count} × {problem}", step.name));
            let _ = writeln!(page, "<p class=\"bad\">{text}</p>");
        }
        for reason in step.notes() {
            let text = escape(&format!("{}: {reason}", step.name));
            let _ = writeln!(page, "<p class=\"bad\">{text}</p>");
        }
    }
}

fn push_step(step: &StepResult, page: &mut String) {
    let l = &step.latency_us;
    let row = |name: &str, load: &str, per_s: f64, l: &crate::result::Percentiles, not_ok: u64| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{per_s:.0}</td><td>{:.0}</td><td>{:.0}</td>\
             <td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{not_ok}</td></tr>\n",
            escape(name),
            escape(load),
            l.p50,
            l.p90,
            l.p99,
            l.p999,
            l.max
        )
    };
    page.push_str(&row(&step.name, &step.load, step.ok_per_s, l, step.not_ok));
    for (name, operation) in &step.operations {
        let share = operation.ok as f64 / step.ok.max(1) as f64 * step.ok_per_s;
        let name = format!("– {name}");
        page.push_str(&row(&name, "", share, &operation.latency_us, operation.not_ok));
    }
}

fn push_explanation(page: &mut String) {
    page.push_str(
        "<p>P99 is the latency that 99 of 100 answers stay below. In an open loop requests arrive \
         by a clock, whatever the server does, and latency counts from that arrival: a server \
         that stalls is charged for every request that should have been sent meanwhile. In a \
         closed loop each client waits for its answer before it asks again, so that latency is \
         that of an answer and the rate follows from it. Only answers with status 2xx are in the \
         percentiles; all others are listed.</p>\n",
    );
}
