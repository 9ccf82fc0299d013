//! Snapshots of a real server, under load, and what is restored from them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engram_bench::http::{Connection, JSON};
use serde_json::{Value, json};

use crate::server::{Folder, Server, eventually, run, stderr, stdout};

fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

/// Stores one memory after the other until it is told to stop; how many were acknowledged.
fn write(
    address: std::net::SocketAddr,
    writer: usize,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut connection = Connection::open(address, Duration::from_secs(30)).expect("it accepts");
    for number in 0..u64::MAX {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = json!({"content": format!("from writer {writer}, number {number}")}).to_string();
        let path = format!("/api/v1/memories/w{writer}-{number}");
        let reply = connection.call("PUT", &path, JSON, body.as_bytes()).expect("it answers");
        assert_eq!(reply.status, 201);
        acknowledged.store(number + 1, Ordering::Relaxed);
    }
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(parts(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_snapshot_under_load_holds_all_that_was_acknowledged_before_it() {
    let folder = Folder::new();
    let (data, cold) = (folder.0.join("data"), folder.0.join("cold"));
    let server = Server::start(&data, &["--cold-url", &url(&cold), "--shards", "2"]);
    for i in 0..50 {
        let body = json!({"content": format!("cold one, number {i}"), "embedding": [1.0, i]});
        server.ask("PUT", &format!("/api/v1/memories/c{i}"), &body);
    }
    eventually("associations are made", || {
        server.ask("GET", "/api/v1/stats", &Value::Null)["association_backlog"] == 0
    });
    let all: Value = (0..50).map(|i| json!(format!("c{i}"))).collect();
    assert_eq!(server.ask("POST", "/api/v1/demote", &json!({"ids": all}))["demoted"], 50);
    let (stop, acknowledged) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    let before: Vec<u64> = std::thread::scope(|scope| {
        for (writer, count) in acknowledged.iter().enumerate() {
            let (address, stop) = (server.address, &stop);
            scope.spawn(move || write(address, writer, count, stop));
        }
        eventually("writes are under way", || {
            acknowledged.iter().all(|count| count.load(Ordering::Relaxed) > 50)
        });
        let before = acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let taken = server.run(&["snapshot", "--name", "under-load", "--verify", "--quiet"]);
        stop.store(true, Ordering::Relaxed);
        assert!(taken.status.success(), "{}", stderr(&taken));
        assert!(stdout(&taken).contains("verified"), "{}", stdout(&taken));
        before
    });
    drop(server);

    let restored = folder.0.join("restored");
    let (from, to) = (url(&cold), restored.display().to_string());
    let ended = run(&["restore", "under-load", "--from", &from, "--data-dir", &to, "--quiet"]);
    assert!(ended.status.success(), "{}", stderr(&ended));
    // What the first server had in the cold tier is not what the second one uses.
    std::fs::remove_dir_all(&cold).expect("it can be removed");
    let server = Server::start(&restored, &["--shards", "3", "--sweep-interval", "1s"]);
    for (writer, count) in before.iter().enumerate() {
        for number in 0..*count {
            let path = format!("/api/v1/memories/w{writer}-{number}");
            let read = server.ask("GET", &path, &Value::Null);
            assert_eq!(read["content"], format!("from writer {writer}, number {number}"));
        }
    }
    for i in 0..50 {
        let read = server.ask("GET", &format!("/api/v1/memories/c{i}"), &Value::Null);
        assert_eq!(read["content"], format!("cold one, number {i}"));
    }
}

#[test]
fn a_damaged_snapshot_is_refused_by_the_name_of_what_is_damaged() {
    let folder = Folder::new();
    let (data, cold) = (folder.0.join("data"), folder.0.join("cold"));
    let server = Server::start(&data, &["--cold-url", &url(&cold), "--shards", "2"]);
    for i in 0..20 {
        server.ask("PUT", &format!("/api/v1/memories/m{i}"), &json!({"content": format!("n {i}")}));
    }
    assert!(server.run(&["snapshot", "--name", "good", "--quiet"]).status.success());
    drop(server);
    let from = url(&cold);
    let restore = |to: &Path| {
        let to = to.display().to_string();
        run(&["restore", "good", "--from", &from, "--data-dir", &to, "--quiet"])
    };
    let files = parts(&cold.join("snapshots/good"));
    assert!(files.len() >= 4, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        if file.ends_with("begun.json") {
            continue;
        }
        let whole = std::fs::read(file).expect("it can be read");
        let mut bad = whole.clone();
        let at = bad.len() * 2 / 3;
        bad[at] ^= 4;
        std::fs::write(file, &bad).expect("it can be written");
        let to = folder.0.join(format!("bad-{number}"));
        let ended = restore(&to);
        assert_eq!(ended.status.code(), Some(1));
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let said = stderr(&ended);
        assert!(said.contains(name) && said.contains("damaged"), "{said}");
        assert!(!to.join("manifest.json").exists(), "it is no data directory");
        let checked = run(&["restore", "good", "--from", &from, "--check", "--quiet"]);
        assert_eq!(checked.status.code(), Some(1));
        std::fs::write(file, &whole).expect("it can be written");
    }
    let to = folder.0.join("good");
    assert!(run(&["restore", "good", "--from", &from, "--check", "--quiet"]).status.success());
    assert!(restore(&to).status.success());
    let again = restore(&to);
    assert!(again.status.code() == Some(1) && stderr(&again).contains("not empty"));
    let nobody = run(&["restore", "nobody", "--from", &from, "--check"]);
    assert!(stderr(&nobody).contains("there is no snapshot `nobody`"), "{}", stderr(&nobody));
}

#[test]
fn snapshots_are_kept_counted_and_removed() {
    let folder = Folder::new();
    let data = folder.0.join("data");
    let server = Server::start(&data, &["--shards", "2"]);
    server.ask("PUT", "/api/v1/memories/m", &json!({"content": "here"}));
    for i in 0..4 {
        let name = format!("s{i}");
        let taken = server.run(&["snapshot", "--name", &name, "--keep", "2", "--quiet"]);
        assert!(taken.status.success(), "{}", stderr(&taken));
        // Times have whole seconds.
        std::thread::sleep(Duration::from_millis(1100));
    }
    let names = |server: &Server| -> Vec<String> {
        let list = server.ask("GET", "/api/v1/snapshots", &Value::Null);
        let list = list["snapshots"].as_array().expect("a list").clone();
        list.iter().map(|view| view["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names(&server), ["s2", "s3"]);
    let taken = server.call("POST", "/api/v1/snapshots", &json!({"name": "s2"}));
    assert_eq!(taken.status, 409, "the name is taken");
    for bad in [json!({"name": "../x"}), json!({"keep": 0}), json!({"keeps": 1})] {
        assert!(
            (400..500).contains(&server.call("POST", "/api/v1/snapshots", &bad).status),
            "{bad}"
        );
    }
    assert_eq!(server.call("DELETE", "/api/v1/snapshots/s2", &Value::Null).status, 204);
    assert_eq!(server.call("DELETE", "/api/v1/snapshots/s2", &Value::Null).status, 404);
    assert_eq!(server.call("GET", "/api/v1/snapshots/s2", &Value::Null).status, 404);
    assert_eq!(names(&server), ["s3"]);
    assert_eq!(server.terminate(), Some(0));
    let directory = data.display().to_string();
    let alone =
        run(&["snapshot", "--data-dir", &directory, "--name", "alone", "--verify", "--quiet"]);
    assert!(alone.status.success(), "{}", stderr(&alone));
    let listed = run(&["snapshot", "--data-dir", &directory, "--list"]);
    assert!(stdout(&listed).contains("alone"), "{}", stdout(&listed));
}
