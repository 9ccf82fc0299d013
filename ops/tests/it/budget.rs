//! A server at its memory limit, and the benchmark that drives one there.

use std::time::{Duration, Instant};

use engram_bench::http::Reply;
use serde_json::{Value, json};

use crate::server::{Folder, Server, engram, stderr};

/// Longest time until room that was made is seen.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// Far more than the limit below has room for.
const BATCHES_MAX: u64 = 400;

/// Memories that take several KiB each: every word of theirs is new.
fn batch(number: u64) -> Value {
    let word = |i: u64, w: u64| format!("{:x}", (number * 100 + i) * 1000 + w + 7_000_000);
    let content = |i| (0..200).map(|w| word(i, w)).collect::<Vec<_>>().join(" ");
    let memories = (0..100).map(|i| json!({"id": format!("{number}-{i}"), "content": content(i)}));
    memories.collect()
}

fn code(reply: &Reply) -> String {
    let problem: Value = serde_json::from_slice(&reply.body).expect("a problem is JSON");
    problem["code"].as_str().unwrap_or_default().to_owned()
}

fn budget_reached(server: &Server) -> bool {
    let reply = server.call("GET", "/metrics", &Value::Null);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    text.contains("engram_budget_reached{budget=\"memory\"} 1\n")
}

#[test]
fn at_its_memory_limit_a_server_reads_and_forgets_until_there_is_room_again() {
    let folder = Folder::new();
    let limit = ["--memory-limit", "48MiB", "--shards", "2"];
    let server = Server::start(&folder.0.join("data"), &limit);
    server.ask("POST", "/api/v1/memories", &json!({"id": "kept", "content": "kept in mind"}));
    server.ask("POST", "/api/v1/memories", &json!({"id": "gone", "content": "soon forgotten"}));
    let path = "/api/v1/memories/batch?space=filler&wait=applied";
    let full = (0..BATCHES_MAX).find(|number| {
        let reply = server.call("POST", path, &batch(*number));
        assert!([200, 507].contains(&reply.status), "{}", String::from_utf8_lossy(&reply.body));
        reply.status == 507
    });
    assert!(full.is_some_and(|batches| batches > 2), "the limit is reached: {full:?}");
    assert!(budget_reached(&server));

    let memory = json!({"content": "one more"});
    let refused = server.call("POST", "/api/v1/memories", &memory);
    assert_eq!((refused.status, code(&refused).as_str()), (507, "memory_budget"));
    let recalled = server.ask("POST", "/api/v1/recall", &json!({"cues": [{"text": "mind"}]}));
    assert_eq!(recalled["memories"][0]["id"], "kept");
    assert_eq!(server.call("DELETE", "/api/v1/memories/gone", &Value::Null).status, 204);

    assert_eq!(server.call("DELETE", "/api/v1/spaces/filler", &Value::Null).status, 204);
    let began = Instant::now();
    while server.call("POST", "/api/v1/memories", &memory).status != 201 {
        assert!(began.elapsed() < PATIENCE, "writes are taken again once there is room");
        std::thread::sleep(PAUSE);
    }
    assert!(!budget_reached(&server));
}

#[test]
fn a_benchmark_measures_every_operation_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let output = engram()
        .args(["benchmark", "--operations=400", "--memories=100", "--dimensions=16", "--json"])
        .args(["--quiet", "--directory"])
        .arg(&folder.0)
        .output()
        .expect("the command starts");
    assert!(output.status.success(), "{}", stderr(&output));
    let measured: Value = serde_json::from_slice(&output.stdout).expect("the result is JSON");
    let operations = measured["operations"].as_array().expect("a row for each operation");
    let sum = |field: &str| -> u64 { operations.iter().filter_map(|o| o[field].as_u64()).sum() };
    assert_eq!((sum("ok"), sum("refused"), sum("failed")), (400, 0, 0), "{measured}");
    for operation in operations {
        let latency = &operation["latency_us"];
        let (p50, max) = (latency["p50"].as_f64(), latency["max"].as_f64());
        assert!(p50 > Some(0.0) && p50 <= max, "{operation}");
    }
    let left = std::fs::read_dir(&folder.0).expect("the folder is there").count();
    assert_eq!(left, 0);
}
