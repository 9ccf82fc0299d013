//! Consolidation as an operator meets it: the command and the routes on a real server, stops and
//! kills in the middle, undo, the cold tier.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engram_bench::http::Connection;
use serde_json::{Value, json};

use crate::cold::{holds, unpacked};
use crate::moto::Moto;
use crate::server::{Folder, Server, eventually};

/// Moments of a consolidation at which the server is killed, unless `ENGRAM_TEST_KILLS` says more.
const KILLS: u64 = 6;
const RUNS: &str = "/api/v1/consolidations";

/// `count` memories, every fifth of them stored once more in other writing, with and without vectors.
fn fill(server: &Server, count: usize) {
    let content = |i: usize| format!("note {i} tells of lamp {} and of town w{}", i * 7, i % 13);
    let memory = |id: String, i: usize, content: String| {
        let mut memory =
            json!({"id": id, "content": content, "metadata": {"title": format!("w{}", i % 13)}});
        if i.is_multiple_of(2) {
            let x = i as f32;
            memory["embedding"] = json!([x.sin(), x.cos(), (x * 0.7).sin(), (x * 1.3).cos()]);
        }
        memory
    };
    let all: Vec<Value> = (0..count).map(|i| memory(format!("m{i}"), i, content(i))).collect();
    server.ask("POST", "/api/v1/memories/batch", &json!(all));
    let copies = (0..count).step_by(5);
    let copies: Vec<Value> = copies
        .map(|i| memory(format!("copy{i}"), i, format!("Actually, {}!", content(i).to_uppercase())))
        .collect();
    server.ask("POST", "/api/v1/memories/batch", &json!(copies));
    settle(server);
}

fn settle(server: &Server) {
    eventually("associations are made", || {
        server.ask("GET", "/api/v1/stats", &Value::Null)["association_backlog"] == 0
    });
}

fn copies(count: usize) -> BTreeSet<String> {
    (0..count).step_by(5).map(|i| format!("copy{i}")).collect()
}

fn listed(server: &Server, merged: bool) -> BTreeSet<String> {
    let (mut ids, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let path =
            format!("/api/v1/memories?limit=1000&include_merged={merged}&with=metadata{cursor}");
        let page = server.ask("GET", &path, &Value::Null);
        let memories = page["memories"].as_array().expect("a page");
        ids.extend(memories.iter().map(|memory| memory["id"].as_str().expect("text").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

/// Starts what `path` says and waits until it is over.
fn over(server: &Server, path: &str, body: &Value) -> Value {
    let started = server.ask("POST", path, body);
    wait(server, started["id"].as_str().expect("an id"))
}

fn wait(server: &Server, id: &str) -> Value {
    let (path, mut run) = (format!("{RUNS}/{id}"), Value::Null);
    eventually("the run is over", || {
        run = server.ask("GET", &path, &Value::Null);
        !["running", "undoing"].contains(&run["state"].as_str().expect("text"))
    });
    run
}

fn undo(server: &Server, id: &str) -> Value {
    over(server, &format!("{RUNS}/{id}/undo"), &json!({}))
}

/// Ids and scores of exact recalls.
fn answers(server: &Server, count: usize) -> Vec<Value> {
    let recall = |i: usize| {
        let cues =
            json!([{"text": format!("lamp {} in w{}", i * 7, i % 13)}, {"id": format!("m{i}")}]);
        let body =
            json!({"cues": cues, "exact": true, "top_k": 8, "with": [], "timeout_ms": 10_000});
        let found = server.ask("POST", "/api/v1/recall", &body);
        assert_eq!(found["truncated"], false);
        let rows = found["memories"].as_array().expect("memories").iter();
        rows.map(|row| json!([row["id"], row["score"], row["score_breakdown"]])).collect()
    };
    (0..count).step_by(count / 12).map(recall).collect()
}

#[test]
fn a_run_is_tried_done_shown_and_taken_back_by_the_command_over_restarts() {
    let (folder, count) = (Folder::new(), 60);
    let directory = folder.0.join("data");
    let server = Server::start(&directory, &["--shards", "2"]);
    fill(&server, count);
    let (all, before) = (listed(&server, false), answers(&server, count));
    let consolidate = |server: &Server, arguments: &[&str]| -> Value {
        let ended = server.run(&[&["consolidate", "--json"], arguments].concat());
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        serde_json::from_slice(&ended.stdout).expect("it is JSON")
    };
    let tried = consolidate(&server, &["--threshold=0.3", "--dry-run"]);
    assert_eq!((&tried["state"], &tried["dry_run"]), (&json!("done"), &json!(true)));
    assert_eq!(listed(&server, false), all, "a dry run changes nothing");
    let done = consolidate(&server, &["--threshold=0.3"]);
    for field in ["compared", "merged", "pruned", "demoted", "merges", "prunes", "demotions"] {
        assert_eq!(tried[field], done[field], "{field}");
    }
    assert_eq!(done["merged"], copies(count).len(), "{done}");
    assert_eq!((&done["progress"], &done["demoted"]), (&json!(1.0), &json!(0)));
    assert_eq!(listed(&server, false), &all - &copies(count));
    assert_eq!(listed(&server, true), all);
    let again = consolidate(&server, &[]);
    assert_eq!((&again["merged"], &again["pruned"]), (&json!(0), &json!(0)));
    assert_eq!(server.terminate(), Some(0));

    let server = Server::start(&directory, &["--shards", "2"]);
    let id = done["id"].as_str().expect("an id");
    let known = server.ask("GET", &format!("{RUNS}/{id}"), &Value::Null);
    assert_eq!(known["merges"], done["merges"]);
    let shown = consolidate(&server, &["--list"]);
    assert_eq!(shown["consolidations"].as_array().map(Vec::len), Some(2), "{shown}");
    let copy = server.ask("GET", "/api/v1/memories/copy5", &Value::Null);
    assert_eq!(copy["merged_into"], "m5");
    let undone = consolidate(&server, &["--undo", id]);
    assert_eq!(undone["state"], "undone");
    settle(&server);
    assert_eq!((listed(&server, false), answers(&server, count)), (all, before.clone()));
    server.kill();
    let server = Server::start(&directory, &["--shards", "2"]);
    settle(&server);
    assert_eq!(answers(&server, count), before, "also after a restart");
}

#[test]
fn a_server_that_is_told_to_stop_ends_a_run_and_the_next_goes_on() {
    // So many that the run is far from its end when the server hears that it has to stop.
    let (folder, count) = (Folder::new(), 8000);
    let directory = folder.0.join("data");
    let server = Server::start(&directory, &["--shards", "2"]);
    fill(&server, count);
    let started = server.ask("POST", RUNS, &json!({}));
    let second = server.call("POST", RUNS, &json!({}));
    assert_eq!(second.status, 409, "one at a time");
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(&directory, &["--shards", "2"]);
    let id = started["id"].as_str().expect("an id");
    let stopped = server.ask("GET", &format!("{RUNS}/{id}"), &Value::Null);
    assert_eq!(stopped["state"], "stopped");
    // What was under way when it was told to stop may have been done, and is listed then.
    let merged = |run: &Value| run["merges"].as_array().map_or(0, Vec::len);
    let rest = over(&server, RUNS, &json!({}));
    assert_eq!(merged(&stopped) + merged(&rest), copies(count).len());
}

/// Enough memories of one name that a mention of it is weak, and one mention.
fn mention(server: &Server, name: &str) {
    let bearer =
        |i: usize| json!({"content": format!("lamp {i} of {name}"), "metadata": {"title": name}});
    let mut all: Vec<Value> = (0..14).map(bearer).collect();
    all.push(json!({"content": format!("somebody spoke of {name} at noon")}));
    server.ask("POST", "/api/v1/memories/batch", &json!(all));
    settle(server);
}

fn runs(server: &Server) -> Vec<Value> {
    let runs = server.ask("GET", RUNS, &Value::Null);
    runs["consolidations"].as_array().expect("a list").clone()
}

#[test]
fn a_server_that_is_told_to_stop_prunes_where_somebody_consolidates() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let start = || Server::start(&directory, &["--shards", "2"]);
    let server = start();
    mention(&server, "Zora");
    assert_eq!(server.terminate(), Some(0));
    let server = start();
    assert_eq!(runs(&server), Vec::<Value>::new(), "nobody asked");
    let done = over(&server, RUNS, &json!({"threshold": 0.1}));
    assert!(done["pruned"].as_u64() > Some(0), "{done}");
    mention(&server, "Vilmar");
    assert_eq!(server.terminate(), Some(0));

    let server = start();
    let known = runs(&server);
    assert_eq!(known.len(), 2, "{known:?}");
    assert_eq!((&known[0]["state"], &known[0]["threshold"]), (&json!("done"), &json!(0.0)));
    assert!(known[0]["pruned"].as_u64() > Some(0), "{known:?}");
    let again = over(&server, RUNS, &json!({"threshold": 0.1}));
    assert_eq!(again["pruned"], 0, "nothing is left");
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(runs(&start()).len(), 3, "a stop that finds nothing says nothing");
}

/// A request that does not end keeps the server until the second signal comes, so that it is sure to
/// be in a hurry when it would prune.
#[test]
fn a_server_in_a_hurry_leaves_links_to_the_next_run_and_says_so() {
    let folder = Folder::new();
    let directory = folder.0.join("data");
    let server = Server::start(&directory, &["--shards", "2", "--shutdown-grace", "60s"]);
    mention(&server, "Zora");
    over(&server, RUNS, &json!({"threshold": 0.1}));
    mention(&server, "Vilmar");
    let _unfinished = server.begin_request();
    server.signal("TERM");
    server.signal("INT");
    eventually("it says what is left", || {
        server.log().iter().any(|line| line.contains("not all weak links are pruned"))
    });
    assert_eq!(server.ended(), Some(0));
    let server = Server::start(&directory, &["--shards", "2"]);
    assert_eq!(runs(&server).len(), 1);
    let rest = over(&server, RUNS, &json!({"threshold": 0.1}));
    assert!(rest["pruned"].as_u64() > Some(0), "{rest}");
}

#[test]
fn a_kill_at_any_moment_of_a_run_leaves_never_both_and_never_neither() {
    let kills = std::env::var("ENGRAM_TEST_KILLS").ok().and_then(|kills| kills.parse().ok());
    let (kills, count): (u64, usize) = (kills.unwrap_or(KILLS), 300);
    let folder = Folder::new();
    let (directory, cold) = (folder.0.join("data"), folder.0.join("cold"));
    let url = format!("file://{}", cold.display());
    let arguments = ["--shards", "2", "--cold-url", &url];
    let server = Server::start(&directory, &arguments);
    fill(&server, count);
    let (all, before) = (listed(&server, false), answers(&server, count));
    let taken = std::time::Instant::now();
    // All are little present by this threshold, so that merges and demotions are hit alike.
    let body = json!({"threshold": 0.9});
    let run = over(&server, RUNS, &body);
    let whole = taken.elapsed();
    assert_eq!(run["demoted"], all.len() - copies(count).len(), "{}", run["reason"]);
    undo(&server, run["id"].as_str().expect("an id"));
    server.kill();
    let (mut in_merges, mut in_demotions, mut after) = (0, 0, 0);
    for moment in 0..kills {
        let server = Server::start(&directory, &arguments);
        settle(&server);
        assert_eq!(listed(&server, false), all, "moment {moment}");
        let started = server.ask("POST", RUNS, &body);
        std::thread::sleep(whole.mul_f64((moment as f64 * 0.618_034).fract() * 1.1));
        server.kill();
        let server = Server::start(&directory, &arguments);
        let left = listed(&server, false);
        assert_eq!(listed(&server, true), all, "moment {moment}: nothing is lost");
        for name in copies(count) {
            assert!(left.contains(&name.replace("copy", "m")), "moment {moment}: the original");
            let copy = server.ask("GET", &format!("/api/v1/memories/{name}"), &Value::Null);
            let is_merged = copy["merged_into"].is_string();
            assert_eq!(is_merged, !left.contains(&name), "moment {moment}: {name}");
            assert!(copy["content"].is_string(), "moment {moment}: {name}");
        }
        let stats = server.ask("GET", "/api/v1/stats", &Value::Null);
        let demoted = stats["cold_memories"].as_u64().expect("a number") as usize;
        for name in left.iter().step_by(17) {
            let memory = server.ask("GET", &format!("/api/v1/memories/{name}"), &Value::Null);
            assert!(memory["content"].is_string(), "moment {moment}: {name} is whole");
        }
        match (left.len() < all.len(), demoted) {
            (_, _) if left.len() == all.len() - copies(count).len() && demoted == left.len() => {
                after += 1;
            }
            (_, 1..) => in_demotions += 1,
            (true, 0) => in_merges += 1,
            (false, 0) => {}
        }
        let undone = undo(&server, started["id"].as_str().expect("an id"));
        assert_eq!(undone["state"], "undone", "moment {moment}: {}", undone["reason"]);
        settle(&server);
        assert_eq!(answers(&server, count), before, "moment {moment}: as if nothing had been");
        server.kill();
    }
    println!(
        "{kills} kills: {in_merges} between the first merge and the first demotion, {in_demotions} \
         between the first demotion and the last, {after} after the end"
    );
    assert!(in_merges + in_demotions + after > 0, "some kill met a run");
}

#[test]
fn what_is_little_present_goes_to_a_cold_tier_that_was_named_and_to_no_other() {
    let (folder, count) = (Folder::new(), 60);
    let (directory, cold) = (folder.0.join("data"), folder.0.join("cold"));
    let server = Server::start(&directory, &["--shards", "2"]);
    fill(&server, count);
    let body = json!({"threshold": 0.9});
    assert_eq!(over(&server, RUNS, &body)["demoted"], 0, "no tier was named");
    assert_eq!(server.terminate(), Some(0));

    let url = format!("file://{}", cold.display());
    let arguments = ["--cold-url", &url, "--shards", "2"];
    let server = Server::start(&directory, &arguments);
    server.ask("POST", "/api/v1/reinforce", &json!({"ids": ["m1"]}));
    let tried = over(&server, RUNS, &json!({"threshold": 0.6, "dry_run": true}));
    let done = over(&server, RUNS, &json!({"threshold": 0.6}));
    assert_eq!((&tried["demoted"], &tried["demotions"]), (&done["demoted"], &done["demotions"]));
    assert_eq!(done["demoted"], count - 1, "all but what was used: {}", done["reason"]);
    let recall = |tiers: Value| {
        let body = json!({"cues": [{"id": "m1"}, {"text": "note 8 tells of lamp 56"}],
                          "tiers": tiers, "exact": true, "timeout_ms": 5000, "top_k": 3});
        server.ask("POST", "/api/v1/recall", &body)["memories"].clone()
    };
    let warm = recall(json!(["fast", "warm"]));
    assert!(warm.as_array().is_some_and(|found| found.iter().all(|m| m["id"] == "m1")), "{warm}");
    let all = recall(json!(["fast", "warm", "cold"]));
    assert!(all.as_array().is_some_and(|found| found.iter().any(|m| m["id"] == "m8")), "{all}");
    assert_eq!(recall(json!(["fast", "warm"]))[0]["id"], "m8", "it came back");
    assert_eq!(over(&server, RUNS, &json!({"threshold": 0.3}))["demoted"], 0, "and stays");
    eventually("it is counted", || {
        let reply = server.call("GET", "/metrics", &Value::Null);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        [
            format!("engram_memories_demoted_total {}", count - 1),
            "engram_consolidations_total{outcome=\"done\"} 2".to_owned(),
            "engram_consolidation_progress 0".to_owned(),
        ]
        .iter()
        .all(|line| text.lines().any(|other| other == line))
    });
    let undone = undo(&server, done["id"].as_str().expect("an id"));
    assert_eq!(undone["state"], "undone", "{}", undone["reason"]);
    let stats = server.ask("GET", "/api/v1/stats", &Value::Null);
    assert_eq!(stats["cold_memories"], 0);
}

#[test]
fn what_is_demoted_to_s3_is_found_there_after_a_kill_and_comes_back() {
    let (folder, mut moto, count) = (Folder::new(), Moto::start(), 60);
    let directory = folder.0.join("data");
    let host = moto.endpoint.trim_start_matches("http://").parse().expect("an address");
    let mut bucket = Connection::open(host, Duration::from_secs(30)).expect("moto accepts");
    let made = bucket.call("PUT", "/shelf", "", b"").expect("moto answers");
    assert_eq!(made.status, 200);
    let variables = [
        ("AWS_ENDPOINT_URL", moto.endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let arguments = ["--shards", "2", "--cold-url", "s3://shelf/engram"];
    let server = Server::with_environment(&directory, &arguments, &variables);
    fill(&server, count);
    let before = answers(&server, count);
    let run = over(&server, RUNS, &json!({"threshold": 0.9}));
    assert_eq!((&run["state"], &run["demoted"]), (&json!("done"), &json!(count)), "{run}");
    server.kill();
    let server = Server::with_environment(&directory, &arguments, &variables);
    let body = json!({"cues": [{"text": "note 8 tells of lamp 56"}], "timeout_ms": 10_000,
                      "tiers": ["fast", "warm", "cold"], "max_hops": 0, "top_k": 1});
    let found = server.ask("POST", "/api/v1/recall", &body);
    assert_eq!(found["memories"][0]["id"], "m8", "{found}");
    let undone = undo(&server, run["id"].as_str().expect("an id"));
    assert_eq!(undone["state"], "undone", "{}", undone["reason"]);
    settle(&server);
    assert_eq!(answers(&server, count), before);
    moto.kill();
    assert_eq!(answers(&server, count), before, "what is warm needs no tier");
}

/// The bytes of every file below a folder.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let below = below.map(|entry| entry.path());
    let of = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false => vec![std::fs::read(&path).unwrap_or_default()],
    };
    below.flat_map(of).collect()
}

#[test]
fn what_was_merged_or_demoted_and_then_forgotten_is_found_nowhere_on_the_disk() {
    let (folder, count) = (Folder::new(), 40);
    let (directory, cold) = (folder.0.join("data"), folder.0.join("cold"));
    let url = format!("file://{}", cold.display());
    let arguments = ["--shards", "2", "--cold-url", &url, "--sweep-interval", "200ms"];
    let server = Server::start(&directory, &arguments);
    let secret = |i: usize| format!("zqsecret{i}q");
    let told = |name: &str, end: &str| -> Vec<Value> {
        let content = |i| format!("it is {} and little else{end}", secret(i));
        (0..count).map(|i| json!({"id": format!("{name}{i}"), "content": content(i)})).collect()
    };
    server.ask("POST", "/api/v1/memories/batch", &json!(told("first", "")));
    server.ask("POST", "/api/v1/memories/batch", &json!(told("copy", "!")));
    settle(&server);
    let run = over(&server, RUNS, &json!({"threshold": 0.9}));
    assert_eq!((&run["merged"], &run["demoted"]), (&json!(count), &json!(count)), "{run}");
    assert!(holds(&unpacked(&cold), &secret(7)), "it went there");
    let ids = (1..count).flat_map(|i| [format!("copy{i}"), format!("first{i}")]);
    server.ask("POST", "/api/v1/forget", &json!({"ids": ids.collect::<Vec<_>>()}));
    eventually("what is forgotten is found nowhere", || {
        assert!(server.run(&["compact"]).status.success());
        let mut bytes = files(&folder.0);
        bytes.push(unpacked(&cold));
        let secrets = bytes.iter().flat_map(|bytes| bytes.windows(10));
        secrets
            .filter(|window| window.starts_with(b"zqsecret"))
            .all(|window| window.ends_with(b"0q"))
    });
    let left = server.ask("GET", "/api/v1/memories/copy0", &Value::Null);
    assert_eq!((&left["merged_into"], left["content"].is_string()), (&json!("first0"), true));
    assert!(server.ask("GET", "/api/v1/memories/first0", &Value::Null)["content"].is_string());
}
