//! A workload from its data set to its result.
//!
//! *Invariants*: steps run in the order of the workload; a ramp ends at the first rate that the
//! server does not sustain.
//!
//! *Not here*: files and pages of the result (`main`, `report`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::dataset::{Dataset, Synthetic, VectorForm};
use crate::http::{Connection, JSON};
use crate::loader::{self, Loaded, Loading};
use crate::machine::{self, Machine};
use crate::operations::Operation;
use crate::outcome::Outcome;
use crate::result::{SessionResult, StepResult};
use crate::run::{self, Load, Run};
use crate::truth;
use crate::workload::{CueSpec, LoadSpec, Step, Workload, recall_body};

/// How a session is driven, apart from the workload.
#[derive(Clone, Debug)]
pub struct Session {
    /// The server.
    pub address: SocketAddr,
    /// Client threads.
    pub threads: usize,
    /// CPUs of the client.
    pub cpus: Vec<usize>,
    /// The clients poll.
    pub spin: bool,
    /// Of arrivals, picks and fresh ids: another one for each session on the same server.
    pub seed: u64,
    /// Replaces the duration of every step.
    pub duration_s: Option<f64>,
    /// Seconds after which an answer is given up.
    pub timeout_s: f64,
    /// Process of the server, where it runs on this machine: its CPU time is part of the result.
    pub server_pid: Option<u32>,
}

/// A step with all that it recorded.
pub struct Recorded {
    /// In short.
    pub result: StepResult,
    /// In full.
    pub outcome: Outcome,
    /// When it began.
    pub began: SystemTime,
}

impl Session {
    /// Drives all steps; `show` sees each result as it comes.
    ///
    /// # Errors
    /// What kept a run from starting.
    pub fn steps(
        &self,
        workload: &Workload,
        set: &Dataset,
        show: &mut dyn FnMut(&StepResult),
    ) -> io::Result<Vec<Recorded>> {
        let all = workload.operations(set, &self.address.to_string(), self.seed);
        let mut recorded = Vec::new();
        for step in &workload.steps {
            let operations = chosen(&all, step)?;
            for load in step.load.loads() {
                let run = self.run(workload, step, load, recorded.len() as u64);
                let began = SystemTime::now();
                let cpu_before = self.server_pid.and_then(machine::cpu_ns);
                let outcome = run::drive(&run, &operations)?;
                let cpu_after = self.server_pid.and_then(machine::cpu_ns);
                let mut result = StepResult::of(&step_name(step, load), load, &outcome);
                if let (Some(before), Some(after)) = (cpu_before, cpu_after) {
                    let us = after.saturating_sub(before) as f64 / 1e3;
                    result.server_cpu_us =
                        Some((us / outcome.sent.max(1) as f64 * 10.0).round() / 10.0);
                }
                result.not_sustained = shortfall(&step.load, &result);
                show(&result);
                let is_last = result.not_sustained.is_some();
                recorded.push(Recorded { result, outcome, began });
                if is_last {
                    break;
                }
            }
        }
        Ok(recorded)
    }

    fn run(&self, workload: &Workload, step: &Step, load: Load, number: u64) -> Run {
        Run {
            address: self.address,
            load,
            threads: self.threads,
            cpus: self.cpus.clone(),
            warm_up_s: workload.warm_up_s,
            duration_s: self.duration_s.unwrap_or(step.duration_s),
            timeout_s: self.timeout_s,
            spin: self.spin,
            seed: self.seed + number,
            requests_max: None,
        }
    }

    /// Stores the data set and waits until the server has caught up with it.
    ///
    /// # Errors
    /// As [`loader::load`] and [`loader::settle`].
    pub fn load(
        &self,
        set: &Dataset,
        connections: usize,
        vectors: VectorForm,
        progress: &(dyn Fn(u64) + Sync),
    ) -> io::Result<Loaded> {
        let loading = Loading {
            address: self.address,
            connections,
            lines: 1000,
            vectors,
            cpu: self.cpus.first().copied(),
        };
        let cpu_ns = || self.server_pid.and_then(machine::cpu_ns);
        let seconds =
            |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?) as f64 / 1e9);
        let before = cpu_ns();
        let mut loaded = loader::load(set, loading, progress)?;
        let stored = cpu_ns();
        loaded.settled_s = loader::settle(self.address, Duration::from_secs(1800))?;
        loaded.server_cpu_s = seconds(before, stored);
        loaded.settled_cpu_s = seconds(stored, cpu_ns());
        Ok(loaded)
    }

    /// The facts round the steps.
    pub fn result(
        &self,
        workload: &Workload,
        set: &Dataset,
        server: &str,
        steps: Vec<StepResult>,
    ) -> SessionResult {
        SessionResult {
            name: workload.name.clone(),
            about: workload.about.clone(),
            server: server.to_owned(),
            machine: Machine::read(),
            memories: set.memories(),
            loaded: None,
            recall_at_10: None,
            durability: None,
            steps,
        }
    }
}

/// The operations of the mix that take part in a step.
fn chosen(all: &Arc<[Operation]>, step: &Step) -> io::Result<Arc<[Operation]>> {
    let takes_part = |o: &&Operation| step.only.is_empty() || step.only.contains(&o.name);
    let chosen: Arc<[Operation]> = all.iter().filter(takes_part).cloned().collect();
    if chosen.is_empty() {
        return Err(io::Error::other(format!("no operation takes part in {}", step.name)));
    }
    Ok(chosen)
}

fn step_name(step: &Step, load: Load) -> String {
    match (&step.load, load) {
        (LoadSpec::Ramp { .. }, Load::Open { rate, .. }) => format!("{} {rate:.0}/s", step.name),
        _ => step.name.clone(),
    }
}

/// What keeps a ramp's rate from being sustained: less than 98 % of it is answered well, or not within
/// the time that it asks for.
fn shortfall(load: &LoadSpec, result: &StepResult) -> Option<String> {
    let LoadSpec::Ramp { p99_ms_max, .. } = load else { return None };
    let (offered, p99_ms) = (result.offered_per_s.unwrap_or(0.0), result.latency_us.p99 / 1e3);
    if result.ok_per_s >= 0.98 * offered && p99_ms <= *p99_ms_max {
        return None;
    }
    Some(format!(
        "the ramp ends here: {:.0} of {offered:.0}/s were answered well, 98 % are asked for; P99 is \
         {p99_ms:.1} ms, at most {p99_ms_max:.0} are asked for",
        result.ok_per_s
    ))
}

/// Share of the true ten nearest among the ten that vector search alone returns.
///
/// # Errors
/// Those of the connection; an answer that is no recall.
pub fn recall_at_10(address: SocketAddr, set: &Synthetic, queries: u64) -> io::Result<f64> {
    let vectors: Vec<Vec<f32>> = (0..queries).map(|q| set.query_vector(q)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let right = truth::nearest(set, &vectors, 10, threads);
    let whole = Dataset::Synthetic(Box::new(set.clone()));
    let fields: Map<String, Value> =
        [("top_k", json!(10)), ("max_hops", json!(0)), ("with", json!([]))]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
    let mut connection = Connection::open(address, Duration::from_secs(30))?;
    let mut sum = 0.0;
    for (q, right) in (0..queries).zip(&right) {
        let body = recall_body(&whole, CueSpec::Embedding, &fields, VectorForm::Base64, q);
        let reply = connection.call("POST", "/api/v1/recall", JSON, body.as_bytes())?;
        let answer = reply.json().map_err(io::Error::other)?;
        let given: Vec<u64> = answer["memories"]
            .as_array()
            .ok_or_else(|| io::Error::other("the answer has no memories"))?
            .iter()
            .filter_map(|memory| Synthetic::number(memory["id"].as_str()?))
            .collect();
        sum += truth::recall_at(right, &given, 10);
    }
    Ok(sum / queries.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_ends_where_answers_are_too_few_or_too_late() {
        let (from, to, factor, connections, p99_ms_max) = (100.0, 200.0, 2.0, 1, 50.0);
        let ramp = LoadSpec::Ramp { from, to, factor, connections, p99_ms_max };
        let says = |load: &LoadSpec, ok_per_s, p99_us| {
            let mut result =
                StepResult { offered_per_s: Some(100.0), ok_per_s, ..Default::default() };
            result.latency_us.p99 = p99_us;
            shortfall(load, &result)
        };
        assert_eq!(says(&ramp, 98.0, 50_000.0), None);
        assert!(says(&ramp, 97.0, 50_000.0).is_some_and(|why| why.contains("97 of 100/s")));
        assert!(says(&ramp, 100.0, 51_000.0).is_some_and(|why| why.contains("P99 is 51.0 ms")));
        assert_eq!(says(&LoadSpec::Closed { clients: 1 }, 1.0, 1e9), None);
    }
}
