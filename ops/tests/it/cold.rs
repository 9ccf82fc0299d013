//! The cold tier of a real server: what is moved there is found, comes back, and is forgotten for
//! good; a tier that is down harms nobody else.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use engram_engine::cold::segment;
use serde_json::{Value, json};

use crate::server::{Folder, Server, engram, eventually};

const COUNT: usize = 40;

fn word(i: usize) -> String {
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    format!("zq{}{}{}word", letter(i), letter(i / 26), letter(i * 7))
}

fn store(server: &Server) {
    let memories: Vec<Value> = (0..COUNT)
        .map(|i| {
            let content = format!("memory number {i} holds {} and little else", word(i));
            json!({"id": format!("m{i}"), "content": content,
                   "embedding": [(i as f32).sin(), (i as f32).cos(), 0.5]})
        })
        .collect();
    server.ask("POST", "/api/v1/memories/batch", &json!(memories));
    eventually("associations are made", || {
        server.ask("GET", "/api/v1/stats", &Value::Null)["association_backlog"] == 0
    });
}

fn cold_memories(server: &Server) -> u64 {
    let stats = server.ask("GET", "/api/v1/stats", &Value::Null);
    stats["cold_memories"].as_u64().expect("a number")
}

fn ids(range: std::ops::Range<usize>) -> Value {
    range.map(|i| json!(format!("m{i}"))).collect()
}

fn recall(server: &Server, i: usize, tiers: &Value) -> Value {
    let body =
        json!({"cues": [{"text": word(i)}], "tiers": tiers, "max_hops": 0, "timeout_ms": 3000});
    server.ask("POST", "/api/v1/recall", &body)
}

/// All that cold segments below a folder hold, unpacked.
pub fn unpacked(folder: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            out.extend(unpacked(&path));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        let Ok((_, _, blocks)) = segment::read_header(&bytes) else { continue };
        let mut at = segment::HEADER_BYTES;
        for _ in 0..blocks {
            out.extend(segment::unpack(&bytes[at..]).expect("what was written is whole"));
            let packed = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes"));
            at += segment::BLOCK_HEADER_BYTES + packed as usize;
        }
    }
    out
}

pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn memories_go_to_the_cold_tier_come_back_and_are_forgotten_there() {
    let folder = Folder::new();
    let (data, cold) = (folder.0.join("data"), folder.0.join("cold"));
    let url = format!("file://{}", cold.display());
    let arguments = ["--cold-url", &url, "--sweep-interval", "1s", "--shards", "2"];
    let server = Server::start(&data, &arguments);
    store(&server);
    let moved = server.ask("POST", "/api/v1/demote", &json!({"ids": ids(0..20)}));
    assert_eq!(moved["demoted"], 20);
    assert!(holds(&unpacked(&cold), &word(3)));
    let (warm, all) = (json!(["fast", "warm"]), json!(["fast", "warm", "cold"]));
    assert_eq!(recall(&server, 3, &warm)["memories"], json!([]), "it is not warm");
    let read = server.ask("GET", "/api/v1/memories/m5?with=embedding", &Value::Null);
    assert_eq!(
        (&read["tier"], read["embedding"].as_array().map(Vec::len)),
        (&json!("cold"), Some(3))
    );
    assert_eq!(server.terminate(), Some(0));

    let server = Server::start(&data, &arguments);
    assert_eq!(cold_memories(&server), 20);
    let found = recall(&server, 3, &all);
    assert_eq!(
        (&found["memories"][0]["id"], &found["memories"][0]["tier"]),
        (&json!("m3"), &json!("cold"))
    );
    assert_eq!(found["truncated"], false);
    assert_eq!(recall(&server, 3, &warm)["memories"][0]["id"], "m3", "it came back");
    assert_eq!(cold_memories(&server), 19);
    assert_eq!(server.call("DELETE", "/api/v1/memories/m7", &Value::Null).status, 204);
    eventually("what is forgotten leaves the cold tier", || {
        let left = unpacked(&cold);
        !holds(&left, &word(7)) && !holds(&left, &word(3)) && holds(&left, &word(5))
    });
    assert!((0..20).filter(|i| *i != 7).all(|i| {
        let path = format!("/api/v1/memories/m{i}");
        server.ask("GET", &path, &Value::Null)["content"].is_string()
    }));
    let soon = json!({"id": "brief", "content": "gone soon", "expires_at": "2020-01-01T00:00:00Z"});
    server.ask("POST", "/api/v1/memories", &soon);
    eventually("what has expired is forgotten", || {
        let answer = server.call("PUT", "/api/v1/memories/brief", &json!({"content": "again"}));
        answer.status == 201
    });
}

#[test]
fn a_cold_tier_that_hangs_or_is_dead_harms_nobody_else() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let hanging = format!("http://{}", silent.local_addr().expect("it listens"));
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let dead = format!("http://{}", closed.local_addr().expect("it listened"));
    drop(closed);
    for endpoint in [hanging, dead] {
        let folder = Folder::new();
        let (data, cold) = (folder.0.join("data"), format!("file://{}/cold", folder.0.display()));
        let server = Server::start(&data, &["--cold-url", &cold, "--shards", "2"]);
        store(&server);
        server.ask("POST", "/api/v1/demote", &json!({"ids": ids(0..20)}));
        assert_eq!(server.terminate(), Some(0));
        let variables = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ];
        let arguments = ["--cold-url", "s3://shelf", "--cold-timeout", "1s", "--shards", "2"];
        let server = Server::with_environment(&data, &arguments, &variables);
        let (warm, all) = (json!(["fast", "warm"]), json!(["fast", "warm", "cold"]));
        let started = Instant::now();
        let body = json!({"cues": [{"text": format!("{} {}", word(3), word(30))}], "tiers": all,
                          "max_hops": 0, "timeout_ms": 300});
        let both = server.ask("POST", "/api/v1/recall", &body);
        assert!(started.elapsed() < Duration::from_secs(2), "within its time");
        assert_eq!(both["truncated"], true, "{both}");
        assert_eq!(both["memories"].as_array().map(Vec::len), Some(1), "the warm one is there");
        assert_eq!(both["memories"][0]["id"], "m30");
        let alone = recall(&server, 30, &warm);
        assert_eq!(
            (&alone["truncated"], &alone["memories"][0]["id"]),
            (&json!(false), &json!("m30"))
        );
        let refused = server.call("GET", "/api/v1/memories/m3", &Value::Null);
        assert_eq!(refused.status, 503);
        let moved = server.call("POST", "/api/v1/demote", &json!({"ids": ids(30..31)}));
        assert_eq!(moved.status, 503, "nothing can be moved there");
        let started = Instant::now();
        for i in 20..COUNT {
            assert_eq!(recall(&server, i, &warm)["memories"][0]["id"], format!("m{i}"));
            let path = format!("/api/v1/memories/new{i}");
            assert_eq!(server.call("PUT", &path, &json!({"content": "warm"})).status, 201);
        }
        assert!(started.elapsed() < Duration::from_secs(20), "fast and warm go on");
        assert_eq!(server.call("GET", "/health/ready", &Value::Null).status, 200);
        assert_eq!(server.terminate(), Some(0), "it stops in its time");
    }
}

#[test]
fn settings_of_the_cold_tier_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    for url in ["s3://", "http://x", "file://relative", "s3://abc/../d"] {
        let ended = engram().args(["serve", "--cold-url", url]).output().expect("it starts");
        assert_eq!(ended.status.code(), Some(2), "{url}");
    }
    let mut command = engram();
    command.args(["serve", "--listen", "127.0.0.1:0", "--cold-url", "s3://shelf", "--data-dir"]);
    command.arg(&folder.0).env("HOME", &folder.0);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SHARED_CREDENTIALS_FILE");
    let ended = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
}
