//! Another number of shards at a start, also where the process is killed on the way.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Folder, Server, engram};

const MEMORIES: usize = 900;
const KILLS: u64 = 60;

fn start(directory: &Path, shards: u64) -> Server {
    let shards = shards.to_string();
    Server::start(directory, &["--fast-dir", "none", "--shards", &shards])
}

fn fill(server: &Server) {
    let memory = |i: usize| {
        json!({
            "id": format!("m{i}"),
            "content": format!("memory {i} {}", "x".repeat(i % 50)),
            "embedding": [(i as f64).cos(), (i as f64).sin(), 0.5],
            "links": [{"to": format!("m{}", (i * 31 + 7) % MEMORIES), "kind": "cites"}],
        })
    };
    for space in ["default", "other"] {
        let memories: Vec<Value> = (0..MEMORIES).map(memory).collect();
        let path = format!("/api/v1/memories/batch?space={space}");
        server.ask("POST", &path, &json!(memories));
    }
    for i in (0..MEMORIES).step_by(10) {
        server.call("DELETE", &format!("/api/v1/memories/m{i}"), &Value::Null);
    }
}

/// Every memory with its content, embedding and links.
fn everything(server: &Server) -> BTreeSet<String> {
    let output = server.run(&["export"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn assert_everything(expected: &BTreeSet<String>, server: &Server, case: &str) {
    let found = everything(server);
    let differ: Vec<&String> = expected.symmetric_difference(&found).take(6).collect();
    assert!(differ.is_empty(), "{case}: {differ:#?}");
}

#[test]
fn data_move_to_any_number_of_shards_and_back() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = start(&directory, 2);
    fill(&server);
    let expected = everything(&server);
    assert_eq!(expected.len(), MEMORIES - MEMORIES / 10);
    assert_eq!(server.terminate(), Some(0));
    for shards in [5, 1, 7, 2, 3] {
        let server = start(&directory, shards);
        assert_everything(&expected, &server, &format!("{shards} shards"));
        let topology = server.ask("GET", "/api/v1/stats", &Value::Null);
        assert!(topology.is_object());
        assert_eq!(server.terminate(), Some(0));
        let manifest = std::fs::read_to_string(directory.join("manifest.json")).unwrap();
        assert!(manifest.contains(&format!("\"shards\": {shards}")), "{manifest}");
        let generations = std::fs::read_dir(&directory).unwrap().flatten();
        let generations =
            generations.filter(|e| e.file_name().to_string_lossy().starts_with("generation-"));
        assert_eq!(generations.count(), 1, "the old generation is gone");
    }
}

#[test]
fn the_number_is_kept_where_that_is_asked_for() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = start(&directory, 2);
    fill(&server);
    assert_eq!(server.terminate(), Some(0));
    let server =
        Server::start(&directory, &["--fast-dir", "none", "--shards", "3", "--reshard", "never"]);
    assert_eq!(server.count(), (MEMORIES - MEMORIES / 10) as u64);
    let manifest = std::fs::read_to_string(directory.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"shards\": 2"), "{manifest}");
}

/// A kill -9 at any moment of a move leaves the old shards or the new ones, and all that was in them.
#[test]
fn a_move_that_is_killed_at_any_moment_loses_nothing() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = start(&directory, 2);
    fill(&server);
    let expected = everything(&server);
    server.kill();
    let counts = [3, 5, 2, 7, 1];
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut moved = 0;
    for round in 0..KILLS {
        let shards = counts[(round % 5) as usize];
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = engram()
            .args(["serve", "--listen", "127.0.0.1:0", "--fast-dir", "none", "--shards"])
            .arg(shards.to_string())
            .arg("--data-dir")
            .arg(&directory)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        std::thread::sleep(Duration::from_micros((random >> 33) % 60_000));
        child.kill().expect("the server can be killed");
        child.wait().expect("the server ends");
        let manifest = std::fs::read_to_string(directory.join("manifest.json")).unwrap();
        moved += u64::from(manifest.contains(&format!("\"shards\": {shards},")));
        if round % 10 == 9 {
            let kept: u64 = shards_of(&manifest);
            let server = start(&directory, kept);
            assert_everything(&expected, &server, &format!("round {round}"));
            server.kill();
        }
    }
    println!("{KILLS} kills, {moved} moves were over");
    assert!(moved > 0, "some moves came to their end");
    let server = start(&directory, 4);
    assert_everything(&expected, &server, "at the end");
    let listed = Command::new("ls").arg(&directory).output().expect("a folder can be listed");
    println!("{}", String::from_utf8_lossy(&listed.stdout));
}

fn shards_of(manifest: &str) -> u64 {
    let manifest: Value = serde_json::from_str(manifest).expect("a manifest is JSON");
    manifest["shards"].as_u64().expect("a number")
}
