//! The load generator measures what it says.
//!
//! *Invariants*: bounds are wide: what is tested is the kind of number, not the machine.
//!
//! *Not here*: parsing of answers (unit tests of `http`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engram_bench::http::encode;
use engram_bench::operations::{Encoded, Operation, Pick};
use engram_bench::outcome::{Failure, Outcome};
use engram_bench::run::{Load, Run, drive};
use engram_bench::schedule::Gaps;

use crate::fake::{Said, serve};

fn get(path: &str) -> Arc<[Operation]> {
    let bytes = encode("GET", path, "localhost", "", b"");
    Arc::new([Operation {
        name: "get".to_owned(),
        weight: 1.0,
        requests: Arc::new([Encoded::fixed(bytes)]),
        pick: Pick::InOrder,
        items: 1,
        verdicts: false,
    }])
}

fn run(address: SocketAddr, load: Load) -> Run {
    Run {
        address,
        load,
        threads: 1,
        cpus: Vec::new(),
        warm_up_s: 0.0,
        duration_s: 0.5,
        timeout_s: 5.0,
        spin: false,
        seed: 1,
        requests_max: None,
    }
}

fn open(rate: f64, connections: usize) -> Load {
    Load::Open { rate, gaps: Gaps::Constant, connections }
}

fn slower_than(outcome: &Outcome, ms: u64) -> u64 {
    let latency = outcome.latency();
    latency.len() - latency.count_between(0, ms * 1_000_000)
}

fn stalls_once(ms: u64) -> SocketAddr {
    serve(move |seen| {
        if seen.number == 100 {
            std::thread::sleep(Duration::from_millis(ms));
        }
        Said::status(200, "ok")
    })
}

#[test]
fn a_stall_counts_for_every_request_that_should_have_been_sent_in_it() {
    let outcome = drive(&run(stalls_once(300), open(1000.0, 1)), &get("/")).unwrap();
    assert_eq!(outcome.ok(), 500);
    let slow = slower_than(&outcome, 50);
    assert!((200..=350).contains(&slow), "{slow} requests saw the stall");
    let service_slow = outcome.service.len() - outcome.service.count_between(0, 50_000_000);
    assert!(service_slow < 20, "{service_slow} answers took that long after they were asked for");
}

#[test]
fn a_closed_loop_hides_a_stall_and_is_not_called_open() {
    let outcome = drive(&run(stalls_once(300), Load::Closed { clients: 1 }), &get("/")).unwrap();
    assert!(slower_than(&outcome, 250) == 1);
    assert_eq!(outcome.offered, None);
}

#[test]
fn every_status_is_counted_and_only_2xx_is_success() {
    let address = serve(|seen| match seen.number % 10 {
        _ if seen.target != "GET /" => Said::status(400, ""),
        7 => Said::status(429, "{}"),
        8 => Said::status(503, "{}"),
        9 => Said::status(404, "{}"),
        _ => Said::status(201, "{}"),
    });
    let mut spec = run(address, Load::Closed { clients: 1 });
    spec.requests_max = Some(1000);
    spec.duration_s = 20.0;
    let outcome = drive(&spec, &get("/")).unwrap();
    let statuses: Vec<_> = outcome.operations[0].statuses.clone().into_iter().collect();
    assert_eq!(statuses, [(201, 700), (404, 100), (429, 100), (503, 100)]);
    assert_eq!((outcome.ok(), outcome.not_ok()), (700, 300));
}

#[test]
fn connections_that_break_are_failures_and_are_opened_again() {
    let address = serve(|seen| match seen.number % 50 {
        10 => Said { bytes: Vec::new(), close: true },
        20 => {
            Said { bytes: b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut".to_vec(), close: true }
        }
        30 => Said { bytes: b"what is this\r\n\r\n".to_vec(), close: false },
        _ => Said::status(200, "ok"),
    });
    let mut spec = run(address, Load::Closed { clients: 2 });
    spec.requests_max = Some(500);
    spec.duration_s = 20.0;
    let outcome = drive(&spec, &get("/")).unwrap();
    let failures = &outcome.operations[0].failures;
    assert_eq!(failures[&Failure::Closed] + failures[&Failure::Malformed], 30);
    assert_eq!(failures[&Failure::Malformed], 10);
    assert_eq!(outcome.ok() + outcome.not_ok(), 500);
    assert!(outcome.reconnects >= 29, "{}", outcome.reconnects);
}

#[test]
fn a_server_that_does_not_answer_is_a_timeout() {
    let address = serve(|_| {
        std::thread::sleep(Duration::from_secs(3600));
        Said::status(200, "")
    });
    let mut spec = run(address, Load::Closed { clients: 3 });
    spec.timeout_s = 0.2;
    spec.requests_max = Some(3);
    let outcome = drive(&spec, &get("/")).unwrap();
    assert_eq!(outcome.operations[0].failures[&Failure::Timeout], 3);
}

#[test]
fn arrivals_that_could_not_be_sent_are_counted() {
    let address = serve(|_| {
        std::thread::sleep(Duration::from_millis(10));
        Said::status(200, "ok")
    });
    let mut spec = run(address, open(2000.0, 2));
    spec.timeout_s = 0.2;
    let outcome = drive(&spec, &get("/")).unwrap();
    assert_eq!(outcome.ok() + outcome.not_ok(), 1000);
    assert!(outcome.not_sent > 500, "{}", outcome.not_sent);
}

#[test]
fn the_warm_up_is_sent_and_not_recorded() {
    let address = serve(|_| Said::status(200, "ok"));
    let mut spec = run(address, open(1000.0, 4));
    (spec.warm_up_s, spec.duration_s, spec.threads) = (0.3, 0.4, 2);
    let outcome = drive(&spec, &get("/")).unwrap();
    assert!((398..=402).contains(&outcome.ok()), "{}", outcome.ok());
    assert!(!outcome.intervals.is_empty());
    let in_line: u64 = outcome.intervals.iter().map(|interval| interval.latency.len()).sum();
    assert_eq!(in_line, outcome.ok());
}

#[test]
fn a_large_request_goes_out_in_pieces() {
    let address = serve(|seen| {
        let good = seen.body.len() == 3 << 20 && seen.body.iter().all(|b| *b == b'x');
        Said::status(if good { 200 } else { 400 }, "")
    });
    let mut operations = get("/").to_vec();
    let body = vec![b'x'; 3 << 20];
    operations[0].requests =
        Arc::new([Encoded::fixed(encode("POST", "/", "localhost", "", &body))]);
    let mut spec = run(address, Load::Closed { clients: 2 });
    spec.requests_max = Some(6);
    spec.duration_s = 30.0;
    spec.timeout_s = 30.0;
    let outcome = drive(&spec, &operations.into()).unwrap();
    assert_eq!((outcome.ok(), outcome.not_ok()), (6, 0));
}

#[test]
fn a_server_that_is_not_there_is_an_error_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert!(drive(&run(address, Load::Closed { clients: 1 }), &get("/")).is_err());
}
