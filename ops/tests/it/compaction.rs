//! Compaction: what nobody needs leaves the files, and nothing else changes.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Folder, Server, eventually, stderr, stdout};

const COUNT: usize = 300;

fn content(i: usize, version: usize) -> String {
    format!("the lantern of harbour {i} in its version {version}")
}

fn put(server: &Server, i: usize, version: usize) {
    let link = json!([{"to": format!("m{}", (i + 1) % COUNT), "kind": "cites"}]);
    let body = json!({"content": content(i, version), "links": link, "metadata": {"i": i}});
    let reply = server.call("PUT", &format!("/api/v1/memories/m{i}"), &body);
    assert!(matches!(reply.status, 200 | 201), "{}", reply.status);
}

fn delete(server: &Server, i: usize) {
    assert_eq!(server.call("DELETE", &format!("/api/v1/memories/m{i}"), &Value::Null).status, 204);
}

/// The version that a memory has once all was written; `None`: it is forgotten.
fn version(i: usize) -> Option<usize> {
    match i % 5 {
        0 => None,
        1 => Some(2),
        _ => Some(1),
    }
}

fn fill(server: &Server) {
    (0..COUNT).for_each(|i| put(server, i, 1));
    (0..COUNT).filter(|i| version(*i).is_none()).for_each(|i| delete(server, i));
    (0..COUNT).filter(|i| version(*i) == Some(2)).for_each(|i| put(server, i, 2));
}

/// Everything that is read of every memory.
fn seen(server: &Server) -> Vec<String> {
    let one = |i: usize| {
        let reply = server.call("GET", &format!("/api/v1/memories/m{i}?with=links"), &Value::Null);
        match version(i) {
            None => assert_eq!(reply.status, 404, "m{i} is forgotten"),
            Some(version) => {
                let memory = server.ask("GET", &format!("/api/v1/memories/m{i}"), &Value::Null);
                assert_eq!(memory["content"], content(i, version));
            }
        }
        String::from_utf8_lossy(&reply.body).into_owned()
    };
    (0..COUNT).map(one).collect()
}

fn recalled(server: &Server) -> Vec<String> {
    let ask = |i: usize| {
        let cue = json!({"cues": [{"text": format!("lantern harbour {i}")}], "top_k": 5});
        let answer = server.ask("POST", "/api/v1/recall", &cue);
        let rows = answer["memories"].as_array().expect("a list").clone();
        format!("{:?}", rows.iter().map(|m| (&m["id"], &m["score"])).collect::<Vec<_>>())
    };
    (0..20).map(ask).collect()
}

/// The segments of all shards, as bytes.
fn segments(directory: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "log" || e == "compacting") {
                // It may just have gone; and what was set aside holds nothing.
                let bytes = std::fs::read(path).unwrap_or_default();
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                found.push(bytes[..used].to_vec());
            }
        }
    }
    found
}

/// How many of the memories' contents that nobody needs are in the log.
fn forgotten(directory: &Path) -> usize {
    let segments = segments(directory);
    let is_there = |text: String| {
        let text = text.as_bytes();
        segments.iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text))
    };
    let dead = (0..COUNT).flat_map(|i| (1..3).map(move |v| (i, v)));
    let dead = dead.filter(|(i, v)| version(*i).is_none_or(|newest| *v < newest));
    dead.filter(|(i, v)| is_there(content(*i, *v))).count()
}

#[test]
fn what_was_forgotten_leaves_the_log_when_it_is_compacted_and_nothing_else_changes() {
    let folder = Folder::new();
    let server = Server::start(&folder.0, &["--shards", "2"]);
    fill(&server);
    let (before, answers) = (seen(&server), recalled(&server));
    assert_eq!(forgotten(&folder.0), COUNT / 5 * 2, "nothing leaves at once");
    let bytes: usize = segments(&folder.0).iter().map(Vec::len).sum();
    let compacted = server.run(&["compact"]);
    assert!(compacted.status.success(), "{}", stderr(&compacted));
    assert!(stdout(&compacted).contains("segments were rewritten"), "{}", stdout(&compacted));
    assert_eq!(forgotten(&folder.0), 0);
    let view = server.ask("GET", "/api/v1/compaction", &Value::Null);
    assert!(view["freed_bytes"].as_u64().unwrap() > 0, "{view}");
    let now: usize = segments(&folder.0).iter().map(Vec::len).sum();
    assert!(now < bytes + (64 << 20), "{now} bytes");
    assert_eq!(before, seen(&server));
    assert_eq!(answers, recalled(&server));
    assert_eq!(server.terminate(), Some(0));
    for arguments in [&["--shards", "2"][..], &["--shards", "3"], &["--shards", "1"]] {
        let server = Server::start(&folder.0, arguments);
        assert_eq!(before, seen(&server), "{arguments:?}");
        assert_eq!(answers, recalled(&server), "{arguments:?}");
        server.kill();
    }
}

#[test]
fn what_was_forgotten_leaves_the_log_by_itself_after_sixty_sweeps() {
    let folder = Folder::new();
    let server = Server::start(&folder.0, &["--shards", "1", "--sweep-interval", "100ms"]);
    fill(&server);
    eventually("what is forgotten has left the log", || {
        std::thread::sleep(Duration::from_millis(200));
        forgotten(&folder.0) == 0
    });
    seen(&server);
    server.kill();
    let server = Server::start(&folder.0, &["--shards", "1"]);
    seen(&server);
}

#[test]
fn a_snapshot_that_is_taken_while_the_log_is_compacted_is_whole() {
    let folder = Folder::new();
    let (data, cold) = (folder.0.join("data"), folder.0.join("cold"));
    let url = format!("file://{}", cold.display());
    let server = Server::start(&data, &["--shards", "2", "--cold-url", &url]);
    fill(&server);
    let address = server.address;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let compacting = std::thread::spawn(move || {
        let patience = Duration::from_secs(60);
        let mut connection =
            engram_bench::http::Connection::open(address, patience).expect("it accepts");
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let reply = connection.call("POST", "/api/v1/compaction", "", b"").expect("it answers");
            assert_eq!(reply.status, 202);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    for round in 0..8 {
        (1..COUNT).step_by(5).for_each(|i| put(&server, i, 2));
        let name = format!("s{round}");
        let taken = server.run(&["snapshot", "--name", &name, "--verify", "--quiet"]);
        assert!(taken.status.success(), "{}", stderr(&taken));
        let to = folder.0.join(&name);
        let restored = crate::server::run(&[
            "restore",
            &name,
            "--from",
            &url,
            "--data-dir",
            &to.display().to_string(),
            "--quiet",
        ]);
        assert!(restored.status.success(), "{}", stderr(&restored));
        let again = Server::start(&to, &["--shards", "2", "--cold-url", &url]);
        seen(&again);
        again.kill();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    compacting.join().expect("it ends");
    let view = server.ask("GET", "/api/v1/compaction", &Value::Null);
    assert!(view["compactions"].as_u64().unwrap() > 8, "{view}");
}
