//! kill -9 at random moments of a load and of compaction, on an empty ext4 volume: what was
//! acknowledged is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engram_bench::http::{Connection, JSON};
use serde_json::json;

use crate::server::{Folder, Server, eventually};

/// How often, where `ENGRAM_TEST_KILLS` does not say.
const KILLS: u64 = 200;
const WRITERS: u64 = 3;
/// Longest life of a server under load.
const LIFE_MS_MAX: u64 = 40;

/// An ext4 volume in a file, mounted until it is dropped.
pub struct Volume {
    _folder: Folder,
    pub mounted: PathBuf,
}

impl Volume {
    pub fn new() -> Self {
        let folder = Folder::new();
        let (file, mounted) = (folder.0.join("volume"), folder.0.join("mounted"));
        let sized = std::fs::File::create(&file).and_then(|f| f.set_len(1 << 30));
        sized.expect("a file for the volume can be made");
        std::fs::create_dir(&mounted).expect("a folder to mount it at can be made");
        let text = |path: &Path| path.display().to_string();
        must("mkfs.ext4", &["-q", "-F", &text(&file)]);
        must("mount", &["-o", "loop", &text(&file), &text(&mounted)]);
        Self { _folder: folder, mounted }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A volume that is still busy goes away with the last process that uses it.
        let _ignored = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

fn must(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).status();
    let done = ended.as_ref().is_ok_and(std::process::ExitStatus::success);
    assert!(done, "`{program}` has to work, as root, for this test: {ended:?}");
}

/// What was acknowledged, by id: the content, or that it was deleted.
type Acknowledged = Arc<Mutex<BTreeMap<String, Option<String>>>>;

/// Stores, replaces and deletes until the server is gone.
fn write(server: std::net::SocketAddr, round: u64, writer: u64, acknowledged: &Acknowledged) {
    let Ok(mut connection) = Connection::open(server, Duration::from_secs(5)) else { return };
    for number in 0.. {
        // Writers keep to ids of their own, so that the last acknowledgement is the last write.
        let id = format!("w{writer}-{round}-{}", number / 3);
        let outcome = if number % 3 == 2 && number % 2 == 0 {
            let path = format!("/api/v1/memories/{id}");
            connection.call("DELETE", &path, "", b"").map(|reply| (reply.status, None))
        } else {
            let content = format!("round {round} writer {writer} number {number}");
            let body = json!({"id": id, "content": content}).to_string();
            let path = format!("/api/v1/memories/{id}");
            let reply = connection.call("PUT", &path, JSON, body.as_bytes());
            reply.map(|reply| (reply.status, Some(content)))
        };
        match outcome {
            Ok((200 | 201 | 204, state)) => {
                acknowledged.lock().expect("no writer panicked").insert(id, state);
            }
            Ok((status, _)) => panic!("a write was answered {status}"),
            // What is under way when the server dies may have happened or not.
            Err(_) => {
                acknowledged.lock().expect("no writer panicked").remove(&id);
                return;
            }
        }
    }
}

/// Has the log compacted again and again until the server is gone.
fn compact(server: std::net::SocketAddr) {
    let Ok(mut connection) = Connection::open(server, Duration::from_secs(5)) else { return };
    while connection.call("POST", "/api/v1/compaction", "", b"").is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn verify(server: &Server, expected: &BTreeMap<String, Option<String>>) {
    let mut connection = server.connect();
    for (id, state) in expected {
        let path = format!("/api/v1/memories/{id}");
        let reply = connection.call("GET", &path, "", b"").expect("the server answers");
        match state {
            None => assert_eq!(reply.status, 404, "{id} was deleted"),
            Some(content) => {
                let memory = reply.json().unwrap_or_else(|e| panic!("{id} was stored: {e}"));
                assert_eq!(memory["content"], json!(content), "{id}");
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_under_load_on_an_empty_ext4_volume() {
    let kills = std::env::var("ENGRAM_TEST_KILLS")
        .map_or(KILLS, |kills| kills.parse().expect("ENGRAM_TEST_KILLS is a number"));
    let volume = Volume::new();
    let directory = volume.mounted.join("data");
    let all: Acknowledged = Arc::default();
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    for round in 0..kills {
        let server = Server::start(&directory, &[]);
        let acknowledged: Acknowledged = Arc::default();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (address, acknowledged) = (server.address, acknowledged.clone());
                std::thread::spawn(move || write(address, round, writer, &acknowledged))
            })
            .collect();
        let address = server.address;
        let compacting = std::thread::spawn(move || compact(address));
        // On a busy machine a short life would end before the load has begun; some do all the same.
        if round % 4 != 0 {
            let begun = || !acknowledged.lock().expect("no writer panicked").is_empty();
            eventually("a write is acknowledged", begun);
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round | 1);
        std::thread::sleep(Duration::from_micros((random >> 33) % (LIFE_MS_MAX * 1000)));
        server.kill();
        writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
        compacting.join().expect("it ends with the server");
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
        let again = Server::start(&directory, &[]);
        verify(&again, &acknowledged);
        all.lock().unwrap().extend(acknowledged);
        let present = all.lock().unwrap().values().filter(|state| state.is_some()).count() as u64;
        assert!(again.count() >= present, "round {round}: {} of {present}", again.count());
        again.kill();
    }
    let server = Server::start(&directory, &[]);
    let all = all.lock().unwrap();
    verify(&server, &all);
    println!("{kills} kills, {} acknowledged ids, none lost", all.len());
    // Every start of a server begins a segment, and none of them is full: they become one.
    assert!(server.run(&["compact"]).status.success());
    let view = server.ask("GET", "/api/v1/compaction", &serde_json::Value::Null);
    let segments = view["segments"].as_u64().expect("a number");
    assert!((1..kills / 10).contains(&segments), "{view}");
    verify(&server, &all);
    assert!(all.len() as u64 > kills / 2, "the load was acknowledged");
}
