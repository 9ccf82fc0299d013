//! What was acknowledged stays, however the server ends; who holds a directory is known.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Folder, Server, run, stderr, stdout};

fn store(server: &Server, from: u64, to: u64) {
    for number in from..to {
        let memory = json!({
            "id": format!("memory {number}"), "content": format!("the cat number {number} sleeps"),
            "metadata": {"number": number},
            "links": [{"to": format!("memory {}", number / 2), "weight": 0.5, "kind": "half"}],
        });
        assert_eq!(server.call("POST", "/api/v1/memories", &memory).status, 201);
    }
}

#[test]
fn memories_links_and_spaces_outlive_every_kind_of_end() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = Server::start(&directory, &[]);
    store(&server, 0, 20);
    let gone = server.call("DELETE", "/api/v1/memories/memory%203", &Value::Null);
    assert_eq!(gone.status, 204);
    let space = json!({"dimensions": 3, "metric": "dot"});
    assert!(server.call("PUT", "/api/v1/spaces/other", &space).status < 300);
    server.kill();

    let server = Server::start(&directory, &[]);
    assert_eq!(server.count(), 19);
    let other = server.ask("GET", "/api/v1/spaces/other", &Value::Null);
    assert_eq!((&other["dimensions"], &other["metric"]), (&json!(3), &json!("dot")));
    store(&server, 20, 40);
    assert_eq!(server.terminate(), Some(0), "a server that drained ends with status 0");

    let server = Server::start(&directory, &[]);
    assert_eq!(server.count(), 39);
    let links = server.ask("GET", "/api/v1/memories/memory%2030/links", &Value::Null);
    assert_eq!(links["links"][0]["to"], "memory 15");
    let under = json!({"filter": {"must": [{"key": "number", "range": {"gte": 30}}]}});
    assert_eq!(server.ask("POST", "/api/v1/count", &under)["count"], 10);
}

#[test]
fn a_directory_is_held_by_one_process() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = Server::start(&directory, &[]);
    store(&server, 0, 3);
    let shown = directory.display().to_string();
    let refused = run(&["query", "--count", "--data-dir", &shown]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("is held by process"), "{said}");
    assert_eq!(server.terminate(), Some(0));

    let counted = run(&["query", "--count", "--data-dir", &shown]);
    assert_eq!(stdout(&counted), "3\n", "{}", stderr(&counted));
}

#[test]
fn a_directory_is_loaded_and_exported_without_a_server() {
    let folder = Folder::new();
    let directory = folder.0.join("data").display().to_string();
    let lines = "{\"id\":\"a\",\"content\":\"one\",\"links\":[{\"to\":\"b\",\"kind\":\"next\"}]}\n\
                 \n{\"id\":\"b\",\"embedding\":[0.25,-0.5],\"metadata\":{\"k\":[1,\"x\"]}}";
    let file = folder.file("memories.ndjson", lines).display().to_string();
    let loaded = run(&["load", "--file", &file, "--data-dir", &directory, "--json"]);
    assert_eq!(loaded.status.code(), Some(0), "{}", stderr(&loaded));
    let loaded: Value = serde_json::from_slice(&loaded.stdout).expect("the result is JSON");
    assert_eq!((&loaded["created"], &loaded["refused"]), (&json!(2), &json!(0)));

    let exported = run(&["export", "--data-dir", &directory]);
    assert_eq!(exported.status.code(), Some(0), "{}", stderr(&exported));
    let again = folder.file("again.ndjson", &stdout(&exported)).display().to_string();
    let copy = folder.0.join("copy").display().to_string();
    let reloaded = run(&["load", "--file", &again, "--data-dir", &copy]);
    assert_eq!(reloaded.status.code(), Some(0), "{}", stderr(&reloaded));
    let copied = run(&["export", "--data-dir", &copy]);
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(stdout(&copied)), sorted(stdout(&exported)));
}

/// More than one frame of it, and embeddings to the bit.
#[test]
fn a_packed_export_is_loaded_as_it_was() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).display().to_string();
    let line = |n: u32| {
        let words: Vec<String> = (0..60).map(|w| format!("w{}", n * 31 + w * 7919)).collect();
        let embedding: Vec<f32> = (1..9).map(|d| ((n * 8 + d) as f32).sin()).collect();
        json!({"id": format!("m{n}"), "content": words.join(" "), "embedding": embedding})
            .to_string()
    };
    let lines: Vec<String> = (0..4000).map(line).collect();
    let file = folder.file("memories.ndjson", &lines.join("\n")).display().to_string();
    let load = |file: &str, directory: &str| {
        run(&[
            "load",
            "--quiet",
            "--wait",
            "applied",
            "--file",
            file,
            "--data-dir",
            &path(directory),
        ])
    };
    let export = |file: &str, directory: &str| {
        let done =
            run(&["export", "--quiet", "--file", &path(file), "--data-dir", &path(directory)]);
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        std::fs::read(path(file)).expect("it was written")
    };
    assert_eq!(load(&file, "data").status.code(), Some(0));
    let plain = export("plain.ndjson", "data");
    let packed = export("packed.ndjson.zst", "data");
    assert!(plain.len() > 1 << 20 && packed.len() < plain.len() / 2, "{}", packed.len());
    let sorted = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("it is text");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let plain = sorted(plain);
    let binary = export("packed.bin", "data");
    for (name, copy) in [("packed.ndjson.zst", "of-zst"), ("packed.bin", "of-bin")] {
        let loaded = load(&path(name), copy);
        assert_eq!(loaded.status.code(), Some(0), "{}", stderr(&loaded));
        assert!(sorted(export("copy.ndjson", copy)) == plain, "{name}");
    }

    // A torn one ends where it is torn, at once; one that is packed in no way is refused by name.
    let foreign = b"{\"content\": \"plain\"}\n";
    let bad = [
        ("torn.ndjson.zst", &packed[..packed.len() / 2]),
        ("torn.bin", &binary[..binary.len() / 2]),
        ("foreign.ndjson.zst", foreign),
        ("foreign.bin", foreign),
    ];
    for (name, bytes) in bad {
        std::fs::write(path(name), bytes).expect("it can be written");
        let began = Instant::now();
        let refused = load(&path(name), "refused");
        assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(name), "{}", stderr(&refused));
        assert!(began.elapsed() < Duration::from_secs(30), "{name} took {:?}", began.elapsed());
    }
    let refused = run(&["export", "--file", &path("copy.gz"), "--data-dir", &path("data")]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains(".ndjson.zst"), "{}", stderr(&refused));
    assert!(!Path::new(&path("copy.gz")).exists());
}

/// One shard that could not start left the others waiting for it, and the process with them.
#[test]
fn a_shard_that_cannot_start_ends_the_server_with_its_reason() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    assert_eq!(Server::start(&directory, &["--shards", "2"]).terminate(), Some(0));
    let log = directory.join("generation-000001/shard-0001/0000000001.log");
    std::fs::create_dir(&log).expect("a folder can take the place of the log");
    let shown = directory.display().to_string();
    let ended = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &shown]);
    assert_eq!(ended.status.code(), Some(1));
    let said = stderr(&ended);
    assert!(said.contains("shard-0001/0000000001.log"), "{said}");
}
