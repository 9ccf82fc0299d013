//! `engram evaluate` on the small set of this repository.

use std::path::Path;

use serde_json::Value;

use crate::server::{Folder, Server, stderr, stdout};

fn set(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evaluation").join(name);
    path.display().to_string()
}

#[test]
fn spreading_finds_what_search_alone_does_not() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let (memories, queries) = (set("memories.ndjson"), set("queries.ndjson"));
    let runs = folder.0.join("runs");
    let shown = runs.display().to_string();
    let arguments = ["evaluate", "--memories", &memories, "--queries", &queries, "--runs", &shown];
    let output = server.run(&[&arguments[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("the result is JSON");
    let recall_at_5 = |way: &str| {
        let rows = answer["ways"].as_array().into_iter().flatten();
        let row = rows.into_iter().find(|row| row["way"] == way).expect("each way is measured");
        assert_eq!(row["queries"], 14);
        row["recall_at_5"].as_f64().expect("a measure is a number")
    };
    let (fused, spreading) = (recall_at_5("fused"), recall_at_5("spreading"));
    assert!(spreading >= 0.95, "{answer}");
    assert!(spreading > fused && fused > 0.5, "{answer}");
    for way in ["semantic", "lexical"] {
        assert!(recall_at_5(way) <= spreading, "{answer}");
        let run = std::fs::read_to_string(runs.join(format!("{way}.ndjson")));
        assert_eq!(run.map(|text| text.lines().count()).ok(), Some(14));
    }
    let spaces = server.ask("GET", "/api/v1/spaces", &Value::Null);
    let left = spaces["spaces"].as_array().map(Vec::len);
    assert_eq!(left, Some(1), "its space is gone afterwards: {spaces}");
}

#[test]
fn a_space_that_exists_is_left_alone() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let (memories, queries) = (set("memories.ndjson"), set("queries.ndjson"));
    let loaded = server.run(&["load", "--file", &memories, "--space", "mine"]);
    assert_eq!(loaded.status.code(), Some(0), "{}", stderr(&loaded));
    let set = ["evaluate", "--memories", &memories, "--queries", &queries, "--space", "mine"];
    let refused = server.run(&set);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("exists"), "{}", stderr(&refused));
    assert_eq!(stdout(&server.run(&["query", "--count", "--space", "mine"])), "24\n");
    let measured = server.run(&[&set[..], &["--loaded", "--ways", "lexical"]].concat());
    assert!(stdout(&measured).contains("lexical"), "{}", stderr(&measured));
    assert_eq!(stdout(&server.run(&["query", "--count", "--space", "mine"])), "24\n");
}
