//! The life of a server as an operator sees it: answers from the first moment, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use engram_bench::http::Connection;
use serde_json::{Value, json};

use crate::server::{Folder, Server, eventually};

const LINES: &str = "Content-Type: application/x-ndjson\r\n";

/// Enough that reading it again takes a while.
fn fill(server: &Server, memories: u64) {
    let line = |number: u64| {
        let content = format!("animal {number} of kind {} lives in house w{number}", number % 97);
        format!("{}\n", json!({"id": format!("m{number}"), "content": content}))
    };
    let lines: String = (0..memories).map(line).collect();
    let path = "/api/v1/memories/batch";
    let reply = server.connect().call("POST", path, LINES, lines.as_bytes());
    assert_eq!(reply.expect("the server answers").status, 200);
}

fn health(server: &Server, probe: &str) -> (u16, Value) {
    let path = format!("/health/{probe}");
    let reply = server.connect().call("GET", &path, "", b"").expect("the server answers");
    (reply.status, serde_json::from_slice(&reply.body).expect("health is JSON"))
}

#[test]
fn a_server_that_reads_its_log_says_so_and_can_be_told_to_stop() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = Server::start(&directory, &["--shards", "2"]);
    fill(&server, 20_000);
    assert_eq!(server.terminate(), Some(0));

    let server = Server::listening(&directory, &["--shards", "2"]);
    let (status, ready) = health(&server, "ready");
    assert_eq!(status, 503, "{ready}");
    let phase = ready["phase"].as_str().expect("a phase is text").to_owned();
    assert!(["starting", "recovering", "warming"].contains(&&*phase), "{ready}");
    assert!(!ready["reason"].as_str().expect("a reason is text").is_empty(), "{ready}");
    assert_eq!(health(&server, "live").0, 200);
    let refused = server.call("POST", "/api/v1/count", &json!({}));
    assert_eq!(refused.status, 503);
    let problem: Value = serde_json::from_slice(&refused.body).expect("a problem is JSON");
    assert_eq!(problem["code"], "unavailable", "{problem}");
    let metrics = server.call("GET", "/metrics", &Value::Null);
    let text = String::from_utf8(metrics.body).expect("metrics are text");
    assert!(text.contains("engram_ready 0"), "{text}");
    assert_eq!(server.terminate(), Some(0), "told to stop while it reads its log");

    let server = Server::start(&directory, &["--shards", "2"]);
    assert_eq!(health(&server, "startup").0, 200);
    let (_, ready) = health(&server, "ready");
    assert_eq!((&ready["phase"], &ready["progress"]), (&json!("running"), &json!(1.0)));
    assert_eq!(server.count(), 20_000);
}

/// A client that does not read holds the server for its whole grace, unless somebody is in a hurry.
#[test]
fn a_second_signal_hurries() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &["--shutdown-grace", "60s"]);
    let _unfinished = server.begin_request();
    let mut kept = Connection::open(server.address, Duration::from_secs(5)).expect("it accepts");
    server.signal("TERM");
    eventually("the server is not ready", || {
        kept.call("GET", "/health/ready", "", b"").map_or(true, |reply| reply.status == 503)
    });
    let begun = std::time::Instant::now();
    server.signal("INT");
    assert_eq!(server.ended(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// Clients that write as fast as they can, while the server is told to stop, again and again.
const CLIENTS: u64 = 8;

/// How often, unless `ENGRAM_TEST_TERMS` says more.
const TERMS: u64 = 3;

/// What became of the requests of a client.
#[derive(Default)]
struct Fate {
    acknowledged: Vec<String>,
    /// Sent on a connection that was accepted, and not answered.
    lost: Vec<String>,
}

/// Sends one request and reads its answer: status, and whether the connection goes on.
fn ask(stream: &mut std::net::TcpStream, id: &str) -> std::io::Result<(u16, bool)> {
    let body = json!({"content": format!("the memory {id}")}).to_string();
    let request = format!(
        "PUT /api/v1/memories/{id} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length, mut goes_on) = (0, 0, true);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_lowercase();
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().expect("a status is a number");
        } else if let Some(count) = line.strip_prefix("content-length: ") {
            length = count.parse().expect("a length is a number");
        } else if line == "connection: close" {
            goes_on = false;
        } else if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    Ok((status, goes_on))
}

/// Writes until nobody listens any more.
fn load(address: SocketAddr, client: String) -> Fate {
    let mut fate = Fate::default();
    let mut number = 0;
    while let Ok(mut stream) = std::net::TcpStream::connect(address) {
        let patience = stream.set_read_timeout(Some(Duration::from_secs(30)));
        patience.expect("a time can be set");
        let mut goes_on = true;
        while goes_on {
            number += 1;
            let id = format!("{client}-{number}");
            match ask(&mut stream, &id) {
                Ok((200 | 201, more)) => {
                    fate.acknowledged.push(id);
                    goes_on = more;
                }
                Ok((503, _)) => goes_on = false,
                Ok((status, _)) => panic!("a write was answered {status}"),
                Err(error) => {
                    fate.lost.push(format!("{id}: {error}"));
                    goes_on = false;
                }
            }
        }
    }
    fate
}

#[test]
fn no_request_is_lost_when_a_server_under_full_load_is_told_to_stop() {
    let terms = std::env::var("ENGRAM_TEST_TERMS").ok().and_then(|terms| terms.parse().ok());
    let terms: u64 = terms.unwrap_or(TERMS);
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let (mut acknowledged, mut lost) = (0, Vec::new());
    for round in 0..terms {
        let server = Server::start(&directory, &["--shards", "2"]);
        assert_eq!(server.count(), acknowledged, "round {round}");
        let address = server.address;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| std::thread::spawn(move || load(address, format!("{round}-{client}"))))
            .collect();
        std::thread::sleep(Duration::from_millis(300 + 37 * (round % 10)));
        assert_eq!(server.terminate(), Some(0));
        for client in clients {
            let fate = client.join().expect("a client ends");
            acknowledged += fate.acknowledged.len() as u64;
            lost.extend(fate.lost);
        }
    }
    println!("{terms} times: {acknowledged} writes acknowledged, {} lost", lost.len());
    assert_eq!(lost, Vec::<String>::new());
    assert!(acknowledged > terms * CLIENTS, "there was a load: {acknowledged}");
    let server = Server::start(&directory, &["--shards", "2"]);
    assert_eq!(server.count(), acknowledged);
}
