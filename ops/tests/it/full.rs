//! A server on a disk that is full for a while.

use std::path::PathBuf;
use std::process::Command;

use engram_bench::http::Reply;
use serde_json::{Value, json};

use crate::kills::Volume;
use crate::server::{Server, eventually};

/// What takes the room of a volume, until it is removed.
struct Ballast(PathBuf);

impl Ballast {
    /// Takes all room but less than 64 KiB.
    fn fill(volume: &Volume) -> Self {
        let folder = volume.mounted.join("ballast");
        std::fs::create_dir(&folder).expect("a folder can be made");
        for bytes in (16..30).rev().map(|power| 1_u64 << power) {
            let is_taken = |number: u64| {
                let name = folder.join(format!("{bytes}-{number}")).display().to_string();
                let length = bytes.to_string();
                let taken = Command::new("fallocate").args(["-l", &length, &name]).output();
                taken.expect("fallocate is there").status.success()
            };
            let failed = (0..).find(|number| !is_taken(*number)).expect("a volume has an end");
            std::fs::remove_file(folder.join(format!("{bytes}-{failed}"))).expect("it is there");
        }
        Self(folder)
    }

    fn remove(self) {
        std::fs::remove_dir_all(self.0).expect("it is there");
    }
}

fn store(server: &Server, id: &str) -> Reply {
    server.call("POST", "/api/v1/memories", &json!({"id": id, "content": format!("{id} in mind")}))
}

fn forget(server: &Server, id: &str) -> Reply {
    server.call("DELETE", &format!("/api/v1/memories/{id}"), &Value::Null)
}

fn read(server: &Server, id: &str) -> u16 {
    server.call("GET", &format!("/api/v1/memories/{id}"), &Value::Null).status
}

/// Refused for want of room, in one sentence about the disk.
fn is_refused(reply: &Reply) -> bool {
    if reply.status != 507 {
        return false;
    }
    let problem: Value = serde_json::from_slice(&reply.body).expect("a problem is JSON");
    assert_eq!(problem["code"], "disk_budget");
    let detail = problem["detail"].as_str().expect("a refusal says why");
    assert!(detail.starts_with("the disk ") && detail.contains("reads go on"), "{detail}");
    true
}

fn wanted_room(server: &Server) -> Option<String> {
    let scraped = server.call("GET", "/metrics", &Value::Null);
    let text = String::from_utf8_lossy(&scraped.body).into_owned();
    let line = text.lines().find(|line| line.starts_with("engram_log_room_wanted{"))?;
    line.rsplit(' ').next().map(str::to_owned)
}

fn is_ready(server: &Server) -> bool {
    server.call("GET", "/health/ready", &Value::Null).status == 200
}

#[test]
fn on_a_full_disk_a_server_reads_and_forgets_and_stores_again_when_there_is_room() {
    let volume = Volume::new();
    let directory = volume.mounted.join("data");
    let server = Server::start(&directory, &["--shards", "1"]);
    for id in ["kept", "gone", "late"] {
        assert_eq!(store(&server, id).status, 201);
    }
    let ballast = Ballast::fill(&volume);
    eventually("a full disk is seen", || is_refused(&store(&server, "more")));
    let recalled = server.ask("POST", "/api/v1/recall", &json!({"cues": [{"text": "kept"}]}));
    assert_eq!(recalled["memories"][0]["id"], "kept");
    assert_eq!(forget(&server, "gone").status, 204, "room is kept for what frees some");
    ballast.remove();
    eventually("stores go on", || [200, 201].contains(&store(&server, "after").status));
    server.kill();

    let server = Server::start(&directory, &["--shards", "1"]);
    assert_eq!(["kept", "gone", "late", "after"].map(|id| read(&server, id)), [200, 404, 200, 200]);
}

/// Nothing is set aside where the disk was full before the server came: not even a segment can be
/// begun.
#[test]
fn a_log_that_finds_no_room_at_all_is_not_poisoned() {
    let volume = Volume::new();
    let directory = volume.mounted.join("data");
    let server = Server::start(&directory, &["--shards", "1"]);
    for id in ["kept", "gone"] {
        assert_eq!(store(&server, id).status, 201);
    }
    assert_eq!(server.terminate(), Some(0));
    // A start cuts off the room that the log had not used.
    assert_eq!(Server::start(&directory, &["--shards", "1"]).terminate(), Some(0));
    let ballast = Ballast::fill(&volume);

    let server = Server::start(&directory, &["--shards", "1"]);
    eventually("no room is found", || wanted_room(&server).as_deref() == Some("1"));
    assert!(is_refused(&store(&server, "more")));
    assert!(is_refused(&forget(&server, "gone")), "there is no room for that either");
    assert_eq!(wanted_room(&server).as_deref(), Some("2"));
    assert!(is_refused(&forget(&server, "kept")), "nor for anything after it");
    assert_eq!(read(&server, "kept"), 200);
    assert!(is_ready(&server), "nothing is poisoned");
    ballast.remove();
    eventually("stores go on", || [200, 201].contains(&store(&server, "after").status));
    assert_eq!(wanted_room(&server).as_deref(), Some("0"));
    server.kill();

    let server = Server::start(&directory, &["--shards", "1"]);
    // What was asked for last was done once there was room.
    assert_eq!(["kept", "gone", "after"].map(|id| read(&server, id)), [200, 404, 200]);
}
