//! Requests that are not what HTTP allows, or that try to hold on: each row has its answer.

use std::time::{Duration, Instant};

use engram_net::{Options, Timeouts};

use crate::server::Server;

/// Sends bytes, and checks the status and whether the connection ends after it.
fn check(name: &str, bytes: &[u8], status: u16, closes: bool) {
    let server = Server::start();
    let mut client = server.client();
    client.send(bytes);
    let answer = client.try_read_answer("GET");
    let answer = answer.unwrap_or_else(|| panic!("{name}: no answer"));
    assert_eq!(answer.status, status, "{name}: {} {}", answer.head, answer.text());
    assert!(status < 400 || !answer.code().is_empty(), "{name}: it is a problem");
    if closes {
        assert!(client.is_closed(), "{name}: the connection ends");
    } else {
        assert_eq!(client.get("/livez").status, 200, "{name}: the connection goes on");
    }
    assert_eq!(server.knobs.stored(), 0, "{name}: nothing is stored");
}

const STORE: &str =
    "POST /api/v1/memories HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n";

fn store(rest: &str) -> Vec<u8> {
    format!("{STORE}{rest}").into_bytes()
}

#[test]
fn what_http_does_not_allow_is_refused() {
    let many_headers = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let long_header = format!("X: {}\r\n", "y".repeat(40_000));
    let rows: Vec<(&str, Vec<u8>, u16, bool)> = vec![
        ("no host", b"GET /livez HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        ("two hosts", b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(), 400, true),
        ("bad host", b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n".to_vec(), 400, true),
        ("two lengths", store("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"), 400, true),
        ("length list", store("Content-Length: 2, 3\r\n\r\n{}"), 400, true),
        ("signed length", store("Content-Length: +2\r\n\r\n{}"), 400, true),
        ("negative length", store("Content-Length: -2\r\n\r\n{}"), 400, true),
        ("huge length", store("Content-Length: 99999999999999999999999\r\n\r\n{}"), 400, true),
        ("unknown coding", store("Transfer-Encoding: gzip\r\n\r\n{}"), 400, true),
        (
            "coding before chunked",
            store("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            400,
            true,
        ),
        (
            "chunk size overflow",
            store("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
            400,
            true,
        ),
        (
            "chunk size not hex",
            store("Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
            400,
            true,
        ),
        ("obs-fold", b"GET /livez HTTP/1.1\r\nHost: t\r\nX: a\r\n b\r\n\r\n".to_vec(), 400, true),
        ("blank before colon", b"GET /livez HTTP/1.1\r\nHost : t\r\n\r\n".to_vec(), 400, true),
        ("bare CR", b"GET /livez HTTP/1.1\r\nHost: t\r\nX: a\rb\r\n\r\n".to_vec(), 400, true),
        ("NUL", b"GET /livez HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n".to_vec(), 400, true),
        ("NUL in path", b"GET /livez\0 HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(), 400, true),
        (
            "header without colon",
            b"GET /livez HTTP/1.1\r\nHost: t\r\nX\r\n\r\n".to_vec(),
            400,
            true,
        ),
        ("empty header name", b"GET /livez HTTP/1.1\r\nHost: t\r\n: x\r\n\r\n".to_vec(), 400, true),
        ("HTTP/1.2", b"GET /livez HTTP/1.2\r\nHost: t\r\n\r\n".to_vec(), 400, true),
        ("no version", b"GET /livez\r\nHost: t\r\n\r\n".to_vec(), 400, true),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400, true),
        (
            "many headers",
            format!("GET /livez HTTP/1.1\r\nHost: t\r\n{many_headers}\r\n").into_bytes(),
            431,
            true,
        ),
        (
            "long header",
            format!("GET /livez HTTP/1.1\r\nHost: t\r\n{long_header}\r\n").into_bytes(),
            431,
            true,
        ),
        ("expectation", store("Expect: magic\r\nContent-Length: 2\r\n\r\n{}"), 417, true),
    ];
    for (name, bytes, status, closes) in &rows {
        check(name, bytes, *status, *closes);
    }
    println!("{} hostile requests", rows.len());
}

#[test]
fn what_is_not_offered_is_refused_and_the_connection_goes_on() {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").into_bytes();
    let rows: Vec<(&str, Vec<u8>, u16, bool)> = vec![
        ("unknown path", get("/nothing"), 404, false),
        ("trailing slash", get("/api/v1/memories/"), 404, false),
        ("double slash", get("//livez"), 404, false),
        ("traversal", get("/api/v1/../../metrics"), 404, false),
        ("encoded traversal", get("/api/v1/memories/%2e%2e%2f%2e%2e%2fmetrics"), 404, false),
        ("bad percent", get("/api/v1/memories/%zz"), 400, false),
        ("cut percent", get("/api/v1/memories/%4"), 400, false),
        ("percent not UTF-8", get("/api/v1/memories/%ff"), 400, false),
        ("encoded NUL", get("/api/v1/memories/a%00"), 400, false),
        ("unknown parameter", get("/livez?x=1").to_vec(), 200, false),
        ("unknown parameter of a memory", get("/api/v1/memories/a?x=1"), 400, false),
        ("parameter twice", get("/api/v1/memories/a?with=links&with=links"), 400, false),
        ("wrong method", b"PUT /api/v1/memories HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n".to_vec(), 405, false),
        ("unknown method", b"BREW /livez HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(), 405, false),
        ("trace", b"TRACE /livez HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(), 405, false),
        ("absolute form", b"GET http://t/livez HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(), 200, false),
        ("body on GET", b"GET /livez HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}".to_vec(), 400, false),
        ("no length", store("\r\n"), 411, false),
        ("form", b"POST /api/v1/memories HTTP/1.1\r\nHost: t\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 2\r\n\r\n{}".to_vec(), 415, false),
        ("no type", b"POST /api/v1/memories HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}".to_vec(), 415, false),
        ("other charset", b"POST /api/v1/memories HTTP/1.1\r\nHost: t\r\nContent-Type: application/json; charset=latin1\r\nContent-Length: 2\r\n\r\n{}".to_vec(), 415, false),
        ("compressed", store("Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"), 415, false),
        ("leading empty line", b"\r\nGET /livez HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(), 200, false),
        ("HTTP/1.0 without host", b"GET /livez HTTP/1.0\r\n\r\n".to_vec(), 200, true),
    ];
    for (name, bytes, status, closes) in &rows {
        check(name, bytes, *status, *closes);
    }
    println!("{} hostile requests", rows.len());
}

#[test]
fn a_chunked_body_is_read_with_its_extensions_and_trailers() {
    let server = Server::start();
    let mut client = server.client();
    let body = "{\"id\":\"a\",\"content\":\"x\"}";
    let (one, two) = body.split_at(5);
    let chunks =
        format!("{:x};note=1\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\nX: y\r\n\r\n", one.len(), two.len());
    client.send(store(&format!("Transfer-Encoding: chunked\r\n\r\n{chunks}")));
    assert_eq!(client.read_answer().status, 201);
    assert_eq!(client.get("/livez").status, 200);
}

#[test]
fn a_smuggled_request_is_never_performed() {
    let server = Server::start();
    let mut client = server.client();
    let inner = "DELETE /api/v1/memories/a HTTP/1.1\r\nHost: t\r\n\r\n";
    let length = 5 + inner.len();
    client.send(store(&format!(
        "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
    )));
    assert_eq!(client.read_answer().status, 400);
    assert!(client.is_closed());
    assert_eq!(server.knobs.calls(), 0);
}

#[test]
fn http_2_is_hung_up_on() {
    let server = Server::start();
    let mut client = server.client();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(client.is_closed());
}

#[test]
fn the_methods_of_a_path_are_named() {
    let server = Server::start();
    let mut client = server.client();
    let refused = client.request("PUT", "/api/v1/recall", "{}");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST, OPTIONS")));
    assert_eq!(refused.code(), "method_not_allowed");
    let options = client.request("OPTIONS", "/api/v1/memories/a", "");
    assert_eq!(options.status, 204);
    assert_eq!(options.header("allow"), Some("PUT, GET, HEAD, PATCH, DELETE, OPTIONS"));
    let head = client.request("HEAD", "/livez", "");
    assert_eq!((head.status, head.header("content-length")), (200, Some("13")));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.client();
    let mut requests = Vec::new();
    for n in 0..50 {
        let body = format!("{{\"id\":\"m{n}\",\"content\":\"x\"}}");
        requests.extend(store(&format!("Content-Length: {}\r\n\r\n{body}", body.len())));
    }
    client.send(requests);
    for n in 0..50 {
        assert_eq!(client.read_answer().json()["id"], format!("m{n}"));
    }
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let server = Server::start();
    let mut client = server.client();
    client.send(store(&format!("Content-Length: {}\r\n\r\n", 1_u64 << 40)));
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.code()), (413, "body_too_large".to_owned()));
    assert!(client.is_closed());
}

#[test]
fn a_body_that_grows_over_the_limit_is_refused_while_it_is_read() {
    let server = Server::start();
    let mut client = server.client();
    client.send(store("Transfer-Encoding: chunked\r\n\r\n"));
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..70 {
        if client.try_send(&chunk).is_err() {
            break;
        }
    }
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.code()), (413, "body_too_large".to_owned()));
    assert_eq!(server.knobs.calls(), 0);
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let server = Server::start();
    let mut client = server.client();
    let body = "{\"content\":\"x\"}";
    client.send(store(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len())));
    assert!(client.read_some().starts_with("HTTP/1.1 100 "));
    client.send(body);
    assert_eq!(client.read_answer().status, 201);
}

#[test]
fn a_half_closed_connection_still_gets_its_answer() {
    let server = Server::start();
    server.knobs.delay_ms.store(100, std::sync::atomic::Ordering::SeqCst);
    let mut client = server.client();
    let body = "{\"content\":\"x\"}";
    client.send(store(&format!("Content-Length: {}\r\n\r\n{body}", body.len())));
    client.end_sending();
    assert_eq!(client.read_answer().status, 201);
    assert!(client.is_closed());
}

#[test]
fn a_body_that_breaks_off_stores_nothing() {
    let server = Server::start();
    let mut client = server.client();
    client.send(store("Content-Length: 100\r\n\r\n{\"content\":\"x\"}"));
    client.end_sending();
    let answer = client.try_read_answer("POST");
    assert!(answer.is_none_or(|answer| answer.status == 400));
    assert_eq!(server.knobs.calls(), 0);
}

fn impatient() -> Server {
    let timeouts = Timeouts {
        head: Duration::from_millis(300),
        idle: Duration::from_millis(600),
        body: Duration::from_millis(300),
        send: Duration::from_millis(300),
        ..Timeouts::default()
    };
    Server::with(Options { timeouts, ..Options::default() })
}

#[test]
fn a_slow_head_ends_in_408() {
    let server = impatient();
    let mut client = server.client();
    let start = Instant::now();
    for byte in b"GET /livez HTTP/1.1\r\nHost: ttttttttttttttttttttttttttttttttttttttt" {
        if client.try_send([*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        if start.elapsed() > Duration::from_millis(900) {
            break;
        }
    }
    assert_eq!(client.try_read_answer("GET").map(|answer| answer.status), Some(408));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = impatient();
    let mut client = server.client();
    assert_eq!(client.get("/livez").status, 200);
    let start = Instant::now();
    assert!(client.is_closed());
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_slow_body_ends_in_408() {
    let server = impatient();
    let mut client = server.client();
    client.send(store("Content-Length: 1000\r\n\r\n{"));
    for _ in 0..50 {
        if client.try_send(" ").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = client.read_answer();
    assert_eq!((answer.status, answer.code()), (408, "request_timeout".to_owned()));
    assert_eq!(server.knobs.calls(), 0);
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let server = impatient();
    let mut client = server.client();
    let content = "x".repeat(1 << 20);
    let body = format!("{{\"id\":\"a\",\"content\":\"{content}\"}}");
    assert_eq!(client.request("POST", "/api/v1/memories", body).status, 201);
    for _ in 0..200 {
        if client.try_send("GET /api/v1/memories/a HTTP/1.1\r\nHost: t\r\n\r\n").is_err() {
            break;
        }
    }
    let start = Instant::now();
    while !metrics(&server).contains("engram_http_shed_total{reason=\"slow_reader\"} 1") {
        assert!(start.elapsed() < Duration::from_secs(10), "it is cut off");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn answers_that_are_not_taken_hold_no_more_than_their_budget() {
    let server = Server::with(Options { body_bytes_max: 3 << 20, ..Options::default() });
    let mut honest = server.client();
    let content = "x".repeat(1 << 20);
    let large = format!("{{\"id\":\"large\",\"content\":\"{content}\"}}");
    assert_eq!(honest.request("POST", "/api/v1/memories", large).status, 201);
    let small = r#"{"id":"small","content":"x"}"#;
    assert_eq!(honest.request("POST", "/api/v1/memories", small).status, 201);
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let mut client = server.client();
            client.send("GET /api/v1/memories/large HTTP/1.1\r\nHost: t\r\n\r\n");
            assert!(client.read_some().starts_with("HTTP/1.1 200"), "it is under way");
            client
        })
        .collect();
    let refused = honest.get("/api/v1/memories/large");
    assert_eq!((refused.status, refused.code()), (503, "over_capacity".to_owned()));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(honest.get("/api/v1/memories/small").status, 200, "little goes out at once");
    drop(slow);
    let start = Instant::now();
    let answer = loop {
        let answer = honest.get("/api/v1/memories/large");
        if answer.status == 200 || start.elapsed() > Duration::from_secs(10) {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(answer.json()["content"], content, "all of it comes once there is room");
}

fn metrics(server: &Server) -> String {
    server.client().get("/metrics").text()
}

#[test]
fn a_full_core_makes_room_for_a_new_client() {
    let server = Server::with(Options { connections_max: 10, ..Options::default() });
    let mut honest = server.client();
    assert_eq!(honest.get("/livez").status, 200);
    let attackers: Vec<_> = (0..50).map(|_| server.client()).collect();
    assert_eq!(server.client().get("/livez").status, 200, "a new client is served");
    assert_eq!(honest.get("/livez").status, 200, "one that has asked before is kept");
    drop(attackers);
}

#[test]
fn an_address_that_has_its_connections_gets_no_more_until_one_ends() {
    let addresses = engram_net::Addresses::of_each(3);
    let server = Server::with(Options { addresses, ..Options::default() });
    let mut kept: Vec<_> = (0..3).map(|_| server.client()).collect();
    assert!(kept.iter_mut().all(|client| client.get("/livez").status == 200));
    let refused = server.client().read_answer();
    assert_eq!((refused.status, refused.code()), (429, "too_many_connections".to_owned()));
    assert!(refused.header("retry-after").is_some());
    assert!(kept.iter_mut().all(|client| client.get("/livez").status == 200));
    let text = kept[0].get("/metrics").text();
    assert!(text.contains("engram_http_shed_total{reason=\"address\"} 1"), "{text}");
    kept.pop();
    let start = Instant::now();
    while !kept[0].get("/metrics").text().contains("engram_http_connections 2") {
        assert!(start.elapsed() < Duration::from_secs(10), "one has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.client().get("/livez").status, 200, "there is a place again");
}

#[test]
fn requests_on_their_way_are_answered_while_draining() {
    let server = Server::start();
    server.knobs.delay_ms.store(150, std::sync::atomic::Ordering::SeqCst);
    let mut busy = server.client();
    let body = "{\"content\":\"x\"}";
    let request = store(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    busy.send(&request);
    let mut idle = server.client();
    assert_eq!(idle.get("/livez").status, 200);
    server.stop();
    std::thread::sleep(Duration::from_millis(50));
    idle.send(&request);
    let mut fresh = server.client();
    fresh.send(&request);
    for client in [&mut busy, &mut idle, &mut fresh] {
        let answer = client.read_answer();
        assert_eq!(answer.status, 201);
    }
    assert_eq!(idle.try_read_answer("GET").map(|answer| answer.status), None);
    assert_eq!(server.join().cut, 0);
}

#[test]
fn a_second_listener_on_the_port_is_refused() {
    let server = Server::start();
    let error = engram_net::Port::claim(server.address).unwrap_err();
    assert!(error.to_string().contains("another process listens"), "{error}");
}

#[test]
fn a_key_allows_its_role_in_its_spaces() {
    use engram_net::auth::{Auth, KeysFile, digest_text};
    let file = |text: &str| KeysFile::parse(text).unwrap();
    let auth = Auth::required(file(&format!(
        "reader read {}\nwriter write {} notes\nboss admin {}",
        digest_text("r-key"),
        digest_text("w-key"),
        digest_text("a-key")
    )));
    let server = Server::with(Options { auth: auth.clone(), ..Options::default() });
    let mut client = server.client();
    let mut ask = |request: &str, key: &str, body: &str| {
        client.send(format!(
            "{request} HTTP/1.1\r\nHost: t\r\n{key}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.read_answer_to(request.split(' ').next().unwrap()).status
    };
    let memory = "{\"content\":\"x\"}";
    let store = "POST /api/v1/memories";
    let rows = [
        (ask("GET /livez", "X: 1", ""), 200),
        (ask("GET /metrics", "X: 1", ""), 200),
        (ask("GET /api/v1/stats", "X: 1", ""), 401),
        (ask("GET /api/v1/stats", "Authorization: Bearer r-key", ""), 200),
        (ask("GET /api/v1/stats", "Authorization: bearer r-key", ""), 200),
        (ask("GET /api/v1/stats", "Authorization: Basic r-key", ""), 401),
        (ask("GET /api/v1/stats", "Authorization: x", ""), 401),
        (ask("GET /api/v1/stats", "api-key: r-key", ""), 200),
        (ask("GET /api/v1/stats", "X-API-Key: r-key", ""), 200),
        (ask("GET /api/v1/stats", "X-API-Key: r-key2", ""), 401),
        (ask(store, "X-API-Key: r-key", memory), 403),
        (ask(store, "X-API-Key: w-key", memory), 403),
        (ask(&format!("{store}?space=notes"), "X-API-Key: w-key", memory), 201),
        (ask("GET /api/v1/stats", "X-API-Key: w-key", ""), 403),
        (ask("GET /api/v1/spaces/default", "X-API-Key: w-key", ""), 403),
        (ask("GET /api/v1/spaces/notes", "X-API-Key: w-key", ""), 200),
        (ask("DELETE /api/v1/spaces/notes", "X-API-Key: w-key", ""), 403),
        (ask("DELETE /api/v1/spaces/notes", "X-API-Key: a-key", ""), 204),
    ];
    for (index, (seen, wanted)) in rows.into_iter().enumerate() {
        assert_eq!(seen, wanted, "row {index}");
    }
    auth.replace(file(&format!("other read {}", digest_text("new-key"))));
    assert_eq!(ask("GET /api/v1/stats", "api-key: r-key", ""), 401, "keys are replaced");
    assert_eq!(ask("GET /api/v1/stats", "api-key: new-key", ""), 200);
}

/// Draining closed connections that had come a moment before, without an answer.
#[test]
fn a_client_that_connects_while_draining_is_answered() {
    let server = Server::start();
    server.stop();
    let begin = std::time::Instant::now();
    let body = "{\"content\":\"x\"}";
    let request = store(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    while begin.elapsed() < Duration::from_millis(900) {
        let mut client = server.client();
        std::thread::sleep(Duration::from_millis(20));
        client.send(&request);
        let answer = client.read_answer();
        assert!(answer.status == 201 || answer.status == 503, "{}", answer.status);
        if answer.status == 503 {
            break;
        }
    }
    assert_eq!(server.join().cut, 0);
}

#[test]
fn a_flood_of_tiny_headers_is_cut_off() {
    let server = Server::start();
    let mut client = server.client();
    let flood = "a:1\r\n".repeat(100_000);
    let _ = client.try_send(format!("GET /livez HTTP/1.1\r\nHost: t\r\n{flood}\r\n"));
    let answer = client.try_read_answer("GET");
    assert!(answer.is_none_or(|answer| answer.status == 431));
    assert_eq!(server.client().get("/livez").status, 200);
}

#[test]
fn a_page_of_another_site_cannot_reach_a_local_server_by_its_own_name() {
    let server = Server::with(Options { local_names_only: true, ..Options::default() });
    let mut client = server.client();
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8080", 403),
    ] {
        client.send(format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.read_answer().status, status, "{host}");
    }
}

/// A gauge of requests in flight only grew where connections ended within a request.
#[test]
fn a_request_whose_connection_ends_is_no_longer_in_flight() {
    let server = Server::start();
    server.knobs.delay_ms.store(200, std::sync::atomic::Ordering::SeqCst);
    let body = "{\"content\":\"x\"}";
    for _ in 0..5 {
        let mut client = server.client();
        client.send(store(&format!("Content-Length: {}\r\n\r\n{body}", body.len())));
    }
    let start = Instant::now();
    let alone = "engram_http_requests_in_flight 1\n";
    while server.knobs.calls() < 5 || !metrics(&server).contains(alone) {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", metrics(&server));
        std::thread::sleep(Duration::from_millis(20));
    }
}
