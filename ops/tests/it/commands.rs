//! Commands against a server that runs.

use std::io::Write;
use std::process::Stdio;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};

use crate::server::{Folder, Server, engram, stderr, stdout};

const ANIMALS: &str = r#"{"id":"dog","content":"A dog guards the house.","metadata":{"names":["dog"],"legs":4}}
{"id":"cat","content":"A cat fears the dog.","metadata":{"names":["cat"],"legs":4}}
{"id":"hen","content":"Hens lay eggs.","metadata":{"names":["hen"],"legs":2},"links":[{"to":"dog","kind":"knows","weight":0.5}]}
"#;

#[test]
fn what_is_loaded_is_counted_searched_recalled_and_explained() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let file = folder.file("animals.ndjson", ANIMALS).display().to_string();
    let loaded = server.run(&["load", "--file", &file]);
    assert!(stdout(&loaded).starts_with("stored 3 memories (3 new"), "{}", stderr(&loaded));

    assert_eq!(stdout(&server.run(&["query", "--count"])), "3\n");
    let four = r#"{"must": [{"key": "legs", "match": {"value": 4}}]}"#;
    assert_eq!(stdout(&server.run(&["query", "--count", "--filter", four])), "2\n");

    let found = stdout(&server.run(&["query", "eggs"]));
    assert!(found.contains("hen") && !found.contains("cat"), "{found}");
    let recalled = server.run(&["recall", "eggs", "--explain"]);
    let shown = stdout(&recalled);
    assert!(shown.contains("dog") && shown.contains("─knows"), "{shown}{}", stderr(&recalled));
    let json = server.run(&["recall", "--id", "hen", "--json"]);
    let answer: Value = serde_json::from_slice(&json.stdout).expect("the answer is JSON");
    assert_eq!(answer["truncated"], false);
    assert!(answer["memories"].as_array().is_some_and(|all| !all.is_empty()));
}

#[test]
fn standard_input_and_packed_files_are_read() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(ANIMALS.as_bytes()).expect("packing works");
    let packed = folder.0.join("animals.ndjson.gz");
    std::fs::write(&packed, packer.finish().expect("packing works")).expect("a file is written");
    let loaded = server.run(&["load", "--file", &packed.display().to_string(), "--skip", "2"]);
    assert!(stdout(&loaded).starts_with("stored 1 memories"), "{}", stderr(&loaded));

    let lines: Vec<&str> = ANIMALS.split_inclusive('\n').collect();
    let frame = |line: &str| compress_to_vec(line.as_bytes(), CompressionLevel::Fastest);
    let frames = [frame(lines[0]), frame(lines[1])].concat();
    let packed = folder.0.join("animals.ndjson.zst");
    std::fs::write(&packed, frames).expect("a file is written");
    let loaded = server.run(&["load", "--file", &packed.display().to_string()]);
    assert!(stdout(&loaded).starts_with("stored 2 memories"), "{}", stderr(&loaded));

    let mut child = engram()
        .args(["load", "--file", "-", "--url", &server.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut input = child.stdin.take().expect("its input is piped");
    input.write_all(ANIMALS.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(stdout(&output).starts_with("stored 3 memories (0 new, 3 replaced)"));
}

#[test]
fn health_and_topology_are_told_by_the_server() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &["--shards", "3"]);
    for probe in ["live", "ready", "startup"] {
        let health = server.run(&["health", "--probe", probe]);
        assert_eq!(health.status.code(), Some(0), "{probe}: {}", stderr(&health));
    }
    let topology = server.run(&["topology", "--json"]);
    let topology: Value = serde_json::from_slice(&topology.stdout).expect("topology is JSON");
    assert_eq!(topology["placement"]["shards"].as_array().map(Vec::len), Some(3));
}

#[test]
fn keys_are_asked_for_and_read_again() {
    let folder = Folder::new();
    let line = |key: &str| format!("tests admin {}\n", engram_net::auth::digest_text(key));
    let keys = folder.file("keys", &line("first key of this test, long enough"));
    let shown = keys.display().to_string();
    let server = Server::start(&folder.0.join("data"), &["--auth-keys-file", &shown]);
    let count = |key: &str| {
        let url = server.url();
        let mut command = engram();
        command.args(["query", "--count", "--url", &url]);
        if !key.is_empty() {
            command.env("ENGRAM_API_KEY", key);
        }
        command.output().expect("the command starts")
    };
    assert!(stderr(&count("")).contains("401 unauthorized"));
    assert_eq!(stdout(&count("first key of this test, long enough")), "0\n");

    std::fs::write(&keys, line("second key of this test, long enough")).expect("keys are written");
    server.signal("HUP");
    crate::server::eventually("the second key is in force", || {
        stdout(&count("second key of this test, long enough")) == "0\n"
    });
    assert!(stderr(&count("first key of this test, long enough")).contains("401"));
}

#[test]
fn a_command_works_in_the_space_that_it_is_told() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let file = folder.file("animals.ndjson", ANIMALS).display().to_string();
    let loaded = server.run(&["load", "--file", &file, "--space", "farm"]);
    assert_eq!(loaded.status.code(), Some(0), "{}", stderr(&loaded));
    assert_eq!(stdout(&server.run(&["query", "--count"])), "0\n");
    assert_eq!(stdout(&server.run(&["query", "--count", "--space", "farm"])), "3\n");
    let spaces = server.ask("GET", "/api/v1/spaces", &Value::Null);
    let farm = spaces["spaces"].as_array().into_iter().flatten().find(|s| s["name"] == "farm");
    assert_eq!(farm.map(|space| space["memories"].clone()), Some(json!(3)));
}
