//! What an operator sees of a running server: metrics, traces, log, `engram top`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::server::{Folder, Server, eventually, stdout};

const SECRET: &str = "zanzibar";

fn store(server: &Server, count: u64) {
    for number in 0..count {
        let memory = json!({
            "id": format!("m{number}"), "content": format!("the cat {number} of {SECRET} sleeps"),
            "links": [{"to": format!("m{}", number / 2), "weight": 0.5, "kind": "half"}],
        });
        assert_eq!(server.call("POST", "/api/v1/memories", &memory).status, 201);
    }
}

fn recall(server: &Server, text: &str) -> Value {
    server.ask("POST", "/api/v1/recall", &json!({"cues": [{"text": text}], "max_hops": 2}))
}

fn metrics(server: &Server) -> String {
    let reply = server.call("GET", "/metrics", &Value::Null);
    String::from_utf8(reply.body).expect("metrics are text")
}

/// Everything that is announced, by its name.
fn families(text: &str) -> BTreeSet<String> {
    let announced = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    announced.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &["--shards", "2"]);
    store(&server, 20);
    recall(&server, "a cat that sleeps");
    let there = families(&metrics(&server));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(page).expect("docs/metrics.md is there");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names =
        rows.filter_map(|row| row.split('`').next()).filter(|name| !name.starts_with("OTEL"));
    let documented: BTreeSet<String> = names.map(str::to_owned).collect();
    assert_eq!(there, documented);
}

#[test]
fn recalls_are_measured_by_phase() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &["--shards", "2"]);
    store(&server, 20);
    (0..5).for_each(|_| drop(recall(&server, "a cat that sleeps")));
    let text = metrics(&server);
    for phase in ["seed", "hop_1", "fetch"] {
        let line = format!("engram_recall_phase_duration_seconds_count{{phase=\"{phase}\"}} 5");
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(text.contains("engram_recall_duration_seconds_count 5"), "{text}");
    assert!(text.contains("engram_phase{phase=\"running\"} 1"), "{text}");
    let steps = "engram_phase_transitions_total{of=\"server\",from=\"warming\",to=\"running\"} 1";
    assert!(text.contains(steps), "{text}");
}

/// Something that takes traces as a collector does, and remembers them.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let taken = bodies.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                while let Some(body) = read_request(&mut reader) {
                    taken.lock().expect("nobody panicked over it").push(body);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    reader.get_mut().write_all(answer).expect("the exporter reads");
                }
            }
        });
        Self { address, bodies }
    }

    fn spans(&self) -> Vec<Span> {
        self.bodies
            .lock()
            .expect("nobody panicked over it")
            .iter()
            .flat_map(|body| spans(body))
            .collect()
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut length, mut line) = (0, String::new());
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    assert!(line.starts_with("POST /v1/traces HTTP/1.1"), "{line}");
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let (name, value) = match line.trim().split_once(": ") {
            Some((name, value)) => (name.to_lowercase(), value),
            None => break,
        };
        match name.as_str() {
            "content-length" => length = value.parse().expect("a length is a number"),
            "content-type" => assert_eq!(value, "application/x-protobuf"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

/// A field of a protobuf message: its number and its bytes, or its number as eight bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            1 => take(&mut bytes, 8),
            2 => {
                let length = varint(&mut bytes);
                take(&mut bytes, usize::try_from(length).expect("it fits memory"))
            }
            5 => take(&mut bytes, 4),
            other => panic!("no wire type of protobuf: {other}"),
        };
        found.push((key >> 3, value));
    }
    found
}

fn take(bytes: &mut &[u8], count: usize) -> Vec<u8> {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head.to_vec()
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a number of more than 64 bits");
}

fn all(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(field, _)| *field == number).map(|(_, v)| v).collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("it is text")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A span, by the field numbers of `opentelemetry/proto/trace/v1/trace.proto`.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u8,
    times: (u64, u64),
    attributes: BTreeMap<String, String>,
}

fn spans(body: &[u8]) -> Vec<Span> {
    let scopes = all(body, 1).iter().flat_map(|resource| all(resource, 2)).collect::<Vec<_>>();
    scopes.iter().flat_map(|scope| all(scope, 2)).map(|span| read_span(&span)).collect()
}

fn read_span(span: &[u8]) -> Span {
    let one = |number| all(span, number).into_iter().next().unwrap_or_default();
    let time = |number| u64::from_le_bytes(one(number).try_into().expect("a fixed64"));
    let attribute = |pair: Vec<u8>| {
        let value = all(&pair, 2).pop().expect("an attribute has a value");
        let value = match fields(&value).pop().expect("a value is set") {
            (1, string) => text(string),
            (3, number) => {
                u64::from_le_bytes(number.try_into().expect("a varint was widened")).to_string()
            }
            other => panic!("neither text nor number: {other:?}"),
        };
        (text(all(&pair, 1).pop().expect("an attribute has a key")), value)
    };
    Span {
        trace: hex(&one(1)),
        id: hex(&one(2)),
        parent: hex(&one(4)),
        name: text(one(5)),
        kind: one(6)[0],
        times: (time(7), time(8)),
        attributes: all(span, 9).into_iter().map(attribute).collect(),
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[test]
fn traces_reach_a_collector_with_a_span_for_each_shard_hop_and_sync() {
    let folder = Folder::new();
    let collector = Collector::start();
    let endpoint = format!("http://{}", collector.address);
    let server = Server::with_environment(
        &folder.0.join("data"),
        &["--shards", "2"],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ],
    );
    store(&server, 20);
    let headers = format!("{}traceparent: 00-{TRACE}-{PARENT}-01\r\n", engram_bench::http::JSON);
    let headers = headers + "X-Request-Id: mine\r\n";
    for (path, body) in [
        ("/api/v1/memories", json!({"id": "new", "content": "the cat of a trace"})),
        ("/api/v1/recall", json!({"cues": [{"text": "a cat that sleeps"}], "max_hops": 2})),
    ] {
        let body = body.to_string();
        let reply = server.connect().call("POST", path, &headers, body.as_bytes()).unwrap();
        assert!(reply.status < 300);
    }
    eventually("both traces arrive", || {
        collector.spans().iter().filter(|s| s.kind == 2).count() == 2
    });
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "others were not sampled: {spans:?}");
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect(name).clone();
    let (stored, recalled) = (named("POST /api/v1/memories"), named("POST /api/v1/recall"));
    for request in [&stored, &recalled] {
        assert_eq!((request.parent.as_str(), request.kind), (PARENT, 2));
        assert_eq!(request.attributes["engram.request_id"], "mine");
    }
    assert_eq!(stored.attributes["http.response.status_code"], "201");
    assert_eq!(recalled.attributes["http.route"], "/api/v1/recall");
    let sync = named("log sync");
    let on_shard = spans.iter().find(|span| span.id == sync.parent).expect("its parent is there");
    assert!(on_shard.name.starts_with("store on shard"), "{on_shard:?}");
    let seed = named("seed");
    assert_eq!(seed.parent, recalled.id);
    for shard in ["seed on shard 0", "seed on shard 1"] {
        let span = named(shard);
        assert_eq!(span.parent, seed.id);
        assert!(span.times.0 >= seed.times.0 && span.times.1 <= seed.times.1, "{span:?}");
    }
    assert!(spans.iter().any(|span| span.name == "hop" && span.parent == recalled.id));
    assert!(spans.iter().any(|span| span.name == "fetch" && span.parent == recalled.id));
    let shown = format!("{spans:?}");
    assert!(!shown.contains(SECRET), "nothing of a memory is in a trace");
    eventually("sent traces are counted", || {
        metrics(&server).contains("engram_traces_total{outcome=\"sent\"} 2")
    });
}

/// Nobody listens where traces go: requests are served as ever, and what is lost is counted.
#[test]
fn a_collector_that_is_gone_costs_nothing() {
    let folder = Folder::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{gone}");
    let server = Server::with_environment(
        &folder.0.join("data"),
        &[],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "10")],
    );
    store(&server, 20);
    eventually("the loss is counted", || {
        let text = metrics(&server);
        let dropped = text
            .lines()
            .find_map(|line| line.strip_prefix("engram_traces_total{outcome=\"dropped\"} "));
        dropped.is_some_and(|count| count.parse::<u64>().unwrap() > 0)
    });
    assert_eq!(recall(&server, "a cat that sleeps")["truncated"], false);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_slow_recall_is_logged_by_its_id_and_phases_and_not_by_what_it_was_about() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &["--slow-recall", "0ms"]);
    store(&server, 20);
    let body = json!({"cues": [{"text": format!("a cat of {SECRET}")}]}).to_string();
    let headers = format!("{}X-Request-Id: the-slow-one\r\n", engram_bench::http::JSON);
    for _ in 0..100 {
        let reply = server.connect().call("POST", "/api/v1/recall", &headers, body.as_bytes());
        assert_eq!(reply.unwrap().status, 200);
    }
    let slow = || -> Vec<String> {
        server.log().into_iter().filter(|line| line.contains("a slow recall")).collect()
    };
    eventually("it is logged", || !slow().is_empty());
    assert!(slow()[0].contains("request_id=\"the-slow-one\""), "{:?}", slow()[0]);
    assert!(slow()[0].contains("probe ") && slow()[0].contains("fetch "), "{:?}", slow()[0]);
    assert!(slow().len() <= 40, "what repeats itself is cut short: {}", slow().len());
    assert!(!server.log().join("\n").contains(SECRET));
}

#[test]
fn a_hangup_changes_the_level_of_the_log() {
    let folder = Folder::new();
    let settings = folder.file("engram.toml", "log-level = \"info\"\n");
    let settings = settings.display().to_string();
    let server = Server::start(&folder.0.join("data"), &["--config", &settings]);
    folder.file("engram.toml", "log-level = \"debug\"\n");
    server.signal("HUP");
    eventually("the new level is said", || {
        server.log().iter().any(|line| line.contains("the log has level debug"))
    });
    folder.file("engram.toml", "log-level = \"loud\"\n");
    server.signal("HUP");
    eventually("a level that is none is said", || {
        server.log().iter().any(|line| line.contains("the log's level stays as it was"))
    });
    assert_eq!(server.count(), 0);
}

#[test]
fn top_shows_a_page_of_80_columns() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &["--shards", "2"]);
    store(&server, 20);
    let shown = server.run(&["top", "--once", "--interval", "1200ms"]);
    let page = stdout(&shown);
    assert_eq!(shown.status.code(), Some(0), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    assert!(page.contains("running") && page.contains("20 memories"), "{page}");
    assert_eq!(page.lines().count(), 13, "{page}");
}

/// What was asked often is asked again by a server that starts, before it is ready.
#[test]
fn a_server_warms_up_with_what_it_was_asked() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = Server::start(&directory, &[]);
    store(&server, 50);
    for number in 0..64 {
        recall(&server, &format!("the cat {} sleeps", number % 4));
    }
    assert_eq!(server.terminate(), Some(0));
    let kept: Vec<_> = std::fs::read_dir(directory.join("warm")).unwrap().collect();
    assert!(!kept.is_empty());

    let server = Server::start(&directory, &[]);
    let warmed = || server.log().iter().any(|line| line.contains("cues of its last life"));
    eventually("it says what it asked itself", warmed);
    let hits = |text: &str| -> u64 {
        let lines = text.lines().filter_map(|l| l.strip_prefix("engram_record_cache_hits_total"));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    };
    assert!(hits(&metrics(&server)) > 0, "records were read before anybody asked");
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(&directory, &["--warm-up", "0s"]);
    assert!(!server.log().iter().any(|line| line.contains("cues of its last life")));
}

#[test]
fn a_consolidation_is_a_phase_of_life() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    store(&server, 50);
    let begun = server.call("POST", "/api/v1/consolidations", &json!({"threshold": 0.9}));
    assert_eq!(begun.status, 202);
    let step = |from: &str, to: &str| {
        format!("engram_phase_transitions_total{{of=\"server\",from=\"{from}\",to=\"{to}\"}} 1")
    };
    eventually("it began and ended", || {
        let text = metrics(&server);
        text.contains(&step("running", "consolidating"))
            && text.contains(&step("consolidating", "running"))
    });
}
