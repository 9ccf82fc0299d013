//! What `net` counts: requests, their latency, connections, refusals.
//!
//! *Invariants*: each core writes its own counters only, without locks; a scrape adds them up; the
//! sets of labels are closed.
//!
//! *Not here*: how it is written (`exposition`), what shards count (the backend).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engram_platform::meter::{Counter, Histogram, Seen};

use crate::api::route::{Operation, ROUTES};
use crate::error::Reason;
use crate::exposition::{Exposition, Kind};

/// Why a connection or request was turned away before it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Too many connections.
    Connections,
    /// Too many connections of one address.
    Address,
    /// An idle connection made room for another.
    Evicted,
    /// A head that took too long.
    SlowHead,
    /// A body that took too long.
    SlowBody,
    /// A client that does not read its answer.
    SlowReader,
    /// An idle connection.
    Idle,
    /// Too many bytes of bodies in memory.
    BodyBytes,
    /// The server drains.
    Draining,
    /// More requests of one client than its rate.
    Rate,
}

const SHED: [(Shed, &str); 10] = [
    (Shed::Connections, "connections"),
    (Shed::Address, "address"),
    (Shed::Evicted, "evicted"),
    (Shed::SlowHead, "slow_head"),
    (Shed::SlowBody, "slow_body"),
    (Shed::SlowReader, "slow_reader"),
    (Shed::Idle, "idle"),
    (Shed::BodyBytes, "body_bytes"),
    (Shed::Draining, "draining"),
    (Shed::Rate, "rate"),
];

/// Counts of one route on one core.
#[derive(Debug)]
struct RouteCounts {
    by_class: [Counter; 6],
    took_us: Histogram,
    outcomes: Vec<Counter>,
}

/// The counters of one core, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreMetrics {
    routes: Vec<RouteCounts>,
    unmatched: [Counter; 6],
    shed: [Counter; SHED.len()],
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Connections that are open.
    pub open: Counter,
    /// Connections that broke off.
    pub broken: Counter,
    /// Bytes of request bodies.
    pub received_bytes: Counter,
    /// Connections that were given to a core with fewer.
    pub handed_over: Counter,
    in_flight: Counter,
    core: usize,
}

impl CoreMetrics {
    fn new(core: usize) -> Self {
        let outcomes = 1 + Reason::all().count();
        let route = || RouteCounts {
            by_class: Default::default(),
            took_us: Histogram::of_latency(),
            outcomes: (0..outcomes).map(|_| Counter::default()).collect(),
        };
        Self {
            routes: ROUTES.iter().map(|_| route()).collect(),
            unmatched: Default::default(),
            shed: Default::default(),
            accepted: Counter::default(),
            open: Counter::default(),
            broken: Counter::default(),
            received_bytes: Counter::default(),
            handed_over: Counter::default(),
            in_flight: Counter::default(),
            core,
        }
    }

    /// One request was answered; `None` where no route fitted.
    pub fn answered(&self, operation: Option<Operation>, status: u16, took: Duration) {
        let class = usize::from(status / 100).min(5);
        let Some(operation) = operation else {
            return self.unmatched[class].add(1);
        };
        let route = &self.routes[operation as usize];
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        route.by_class[class].add(1);
        route.took_us.observe(took_us);
    }

    /// One operation ended; several of them in one request of a batch.
    pub fn outcome(&self, operation: Operation, refused: Option<Reason>, count: u64) {
        let index = refused.map_or(0, |reason| {
            1 + Reason::all().position(|other| other == reason).expect("all reasons are listed")
        });
        self.routes[operation as usize].outcomes[index].add(count);
    }

    /// Requests that are being answered came or went.
    pub fn requests_in_flight(&self, change: i64) {
        self.in_flight.add(change.cast_unsigned());
    }

    /// Something was turned away.
    pub fn shed(&self, why: Shed) {
        self.shed[why as usize].add(1);
    }
}

/// The counters of all cores.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    cores: Arc<Mutex<Vec<Arc<CoreMetrics>>>>,
}

impl Registry {
    /// Counters for the core of this number; taken once when it starts to listen.
    pub fn join(&self, core: usize) -> Arc<CoreMetrics> {
        let core = Arc::new(CoreMetrics::new(core));
        let mut cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        cores.push(Arc::clone(&core));
        core
    }

    /// Writes the sums over all cores.
    pub fn write(&self, out: &mut Exposition) {
        let cores: Vec<Arc<CoreMetrics>> =
            self.cores.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum = |pick: &dyn Fn(&CoreMetrics) -> u64| cores.iter().map(|core| pick(core)).sum();
        write_requests(out, &sum);
        write_latency(out, &cores);
        write_operations(out, &sum);
        write_connections(out, &sum);
        write_cores(out, &cores);
    }
}

type Sum<'a> = &'a dyn Fn(&dyn Fn(&CoreMetrics) -> u64) -> u64;

const CLASSES: [(usize, &str); 4] = [(2, "2xx"), (3, "3xx"), (4, "4xx"), (5, "5xx")];

fn write_requests(out: &mut Exposition, sum: Sum<'_>) {
    let name = "engram_http_requests_total";
    out.family(Kind::Counter, name, "Requests answered, by route, method and class of status.");
    for (index, route) in ROUTES.iter().enumerate() {
        for (class, class_name) in CLASSES {
            let count = sum(&|core| core.routes[index].by_class[class].get());
            let labels =
                [("route", route.path), ("method", route.method.as_str()), ("status", class_name)];
            if count > 0 || class == 2 {
                out.sample(name, &labels, count);
            }
        }
    }
    for (class, class_name) in CLASSES {
        let count = sum(&|core| core.unmatched[class].get());
        let labels = [("route", "none"), ("method", "any"), ("status", class_name)];
        if count > 0 {
            out.sample(name, &labels, count);
        }
    }
}

fn write_latency(out: &mut Exposition, cores: &[Arc<CoreMetrics>]) {
    let name = "engram_http_request_duration_seconds";
    let help = "Time from the head of a request to its answer, in seconds.";
    out.family(Kind::Histogram, name, help);
    for (index, route) in ROUTES.iter().enumerate() {
        let seen = Seen::together(cores.iter().map(|core| &core.routes[index].took_us));
        if let Some(seen) = seen.filter(|seen| seen.count() > 0) {
            let labels = [("route", route.path), ("method", route.method.as_str())];
            out.histogram(name, &labels, &seen, 1e6);
        }
    }
}

fn write_operations(out: &mut Exposition, sum: Sum<'_>) {
    let name = "engram_operations_total";
    let help = "Operations, each memory or recall of a batch counted by itself, by outcome.";
    out.family(Kind::Counter, name, help);
    let outcomes = || std::iter::once("ok").chain(Reason::all().map(Reason::name)).enumerate();
    for (index, route) in ROUTES.iter().enumerate() {
        // Aliases of one path share a name, and so a sample.
        if ROUTES[..index].iter().any(|other| other.name == route.name) {
            continue;
        }
        for (outcome, outcome_name) in outcomes() {
            let same = (0..ROUTES.len()).filter(|other| ROUTES[*other].name == route.name);
            let counts = same.map(|other| sum(&|core| core.routes[other].outcomes[outcome].get()));
            let count: u64 = counts.sum();
            if count > 0 {
                let labels = [("operation", route.name), ("outcome", outcome_name)];
                out.sample(name, &labels, count);
            }
        }
    }
}

fn write_connections(out: &mut Exposition, sum: Sum<'_>) {
    let gauge = |out: &mut Exposition, name, help, value: u64| {
        out.single(Kind::Gauge, name, help, value);
    };
    let counter = |out: &mut Exposition, name, help, value: u64| {
        out.single(Kind::Counter, name, help, value);
    };
    let open = sum(&|core| core.open.get());
    gauge(out, "engram_http_connections", "Connections that are open.", open);
    let in_flight = sum(&|core| core.in_flight.get());
    gauge(out, "engram_http_requests_in_flight", "Requests being answered.", in_flight);
    let accepted = sum(&|core| core.accepted.get());
    counter(out, "engram_http_connections_accepted_total", "Connections accepted.", accepted);
    let broken = sum(&|core| core.broken.get());
    counter(out, "engram_http_connections_broken_total", "Connections that broke off.", broken);
    let bytes = sum(&|core| core.received_bytes.get());
    counter(out, "engram_http_received_bytes_total", "Bytes of request bodies.", bytes);
    let name = "engram_http_shed_total";
    out.family(Kind::Counter, name, "Connections and requests turned away, by reason.");
    for (index, (_, reason)) in SHED.iter().enumerate() {
        out.sample(name, &[("reason", reason)], sum(&|core| core.shed[index].get()));
    }
}

fn write_cores(out: &mut Exposition, cores: &[Arc<CoreMetrics>]) {
    let name = "engram_http_core_connections";
    out.family(Kind::Gauge, name, "Connections that are open, by core.");
    for core in cores {
        out.sample(name, &[("core", &core.core.to_string())], core.open.get());
    }
    let name = "engram_http_connections_handed_over_total";
    out.family(Kind::Counter, name, "Connections given to a core with fewer, by the giver.");
    for core in cores {
        out.sample(name, &[("core", &core.core.to_string())], core.handed_over.get());
    }
}
