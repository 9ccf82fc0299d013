//! A restart from images: fast, to the same answers, and from the log wherever they can't be trusted.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::server::{Folder, Server, run};

const MEMORIES: usize = 600;

/// What a start began with, by the metric.
const LOG: &str = "0";
const WARM: &str = "1";
const FAST: &str = "2";

struct Place {
    _folder: Folder,
    data: PathBuf,
    fast: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = Folder::new();
        let (data, fast) = (folder.0.join("data"), folder.0.join("fast"));
        Self { _folder: folder, data, fast }
    }

    fn start(&self, shards: &str) -> Server {
        let fast = self.fast.display().to_string();
        Server::start(&self.data, &["--fast-dir", &fast, "--shards", shards])
    }

    /// Every image in a tier.
    fn images(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![folder.to_owned()];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.extension().and_then(|e| e.to_str()) {
                    Some("image") => found.push(path),
                    _ if path.is_dir() => left.push(path),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }
}

fn fill(server: &Server, from: usize, to: usize) {
    let names = ["Ada", "Grace", "Edsger", "Barbara", "Donald"];
    let memories: Vec<Value> = (from..to)
        .map(|i| {
            let angle = i as f64 * 0.7;
            json!({
                "id": format!("m{i}"),
                "content": format!("{} met {} in year {}", names[i % 5], names[i / 5 % 5], 1900 + i % 90),
                "embedding": [angle.cos(), angle.sin(), (angle * 1.7).cos(), 0.3],
                "metadata": {"title": format!("Note {i}"), "group": i % 9, "session": i % 40},
                "links": [{"to": format!("m{}", (i * 7 + 1) % MEMORIES), "kind": "cites"}],
            })
        })
        .collect();
    for batch in memories.chunks(200) {
        server.ask("POST", "/api/v1/memories/batch", &json!(batch));
    }
}

/// Scores and order of a few recalls.
fn answers(server: &Server) -> Vec<Value> {
    let cues = (0..12).map(|i| {
        let angle = f64::from(i) * 1.3;
        json!([
            {"text": format!("who met Grace in {}", 1900 + i * 7)},
            {"embedding": [angle.cos(), angle.sin(), (angle * 1.7).cos(), 0.3]},
        ])
    });
    cues.map(|cues| {
        let recall = json!({"cues": cues, "exact": true, "top_k": 15});
        let mut answer = server.ask("POST", "/api/v1/recall", &recall);
        let object = answer.as_object_mut().expect("an object");
        object.retain(|key, _| key == "memories" || key == "results");
        answer
    })
    .collect()
}

fn started_from(server: &Server) -> String {
    let reply = server.call("GET", "/metrics", &Value::Null);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let line = text.lines().find(|line| line.starts_with("engram_image_start_tier{"));
    let value = line.and_then(|line| line.rsplit(' ').next()).expect("the metric is there");
    value.to_owned()
}

fn wait_until_settled(server: &Server) {
    crate::server::eventually("associations are made", || {
        let stats = server.ask("GET", "/api/v1/stats", &Value::Null);
        stats.to_string().contains("\"association_backlog\":0")
            || !stats.to_string().contains("association_backlog")
    });
}

#[test]
fn a_restart_from_an_image_gives_the_same_answers() {
    for shards in ["1", "3"] {
        let place = Place::new();
        let server = place.start(shards);
        assert_eq!(started_from(&server), LOG);
        fill(&server, 0, MEMORIES);
        wait_until_settled(&server);
        let expected = answers(&server);
        assert_eq!(server.terminate(), Some(0));
        assert_eq!(Place::images(&place.fast).len().to_string(), shards);

        let again = place.start(shards);
        assert_eq!(started_from(&again), FAST, "{shards} shards");
        assert_eq!(expected, answers(&again), "{shards} shards");
        fill(&again, MEMORIES, MEMORIES + 100);
        again.call("DELETE", "/api/v1/memories/m7", &Value::Null);
        wait_until_settled(&again);
        let later = answers(&again);
        again.kill();

        let tail = place.start(shards);
        assert_eq!(started_from(&tail), FAST, "{shards} shards, image and tail");
        assert_eq!(tail.count(), MEMORIES as u64 + 99);
        wait_until_settled(&tail);
        assert_eq!(later, answers(&tail), "{shards} shards, image and tail");
        tail.kill();

        fs::remove_dir_all(&place.fast).expect("the fast tier can go");
        fs::remove_dir_all(place.data.join("images")).ok();
        let log = place.start(shards);
        assert_eq!(started_from(&log), LOG, "{shards} shards");
        wait_until_settled(&log);
        assert_eq!(later, answers(&log), "{shards} shards, the log alone");
    }
}

#[test]
fn images_that_are_wrong_are_refused() {
    let place = Place::new();
    let server = place.start("2");
    fill(&server, 0, MEMORIES);
    assert_eq!(server.terminate(), Some(0));
    let images = Place::images(&place.fast);
    let good = fs::read(&images[1]).expect("an image can be read");
    let flipped = |at: usize| {
        let mut wrong = good.clone();
        wrong[at] ^= 4;
        wrong
    };
    let cut = good[..good.len() - 1].to_vec();
    let other = fs::read(&images[0]).expect("an image can be read");
    let cases = [
        ("a flipped bit", flipped(good.len() / 2)),
        ("a flipped bit of the header", flipped(30)),
        ("a torn end", cut),
        ("another shard's", other),
        ("nothing", Vec::new()),
    ];
    for (case, bytes) in cases {
        fs::write(&images[1], bytes).expect("an image can be replaced");
        let server = place.start("2");
        let from = started_from(&server);
        assert!([LOG, WARM].contains(&&*from), "{case}: {from}");
        assert_eq!(server.count(), MEMORIES as u64, "{case}");
        server.kill();
    }
    fs::write(&images[1], &good).expect("an image can be replaced");
    let server = place.start("2");
    assert_eq!(started_from(&server), FAST, "the good one is good");
    server.kill();
    fs::remove_file(&images[1]).expect("an image can be removed");
    std::os::unix::fs::symlink(&images[0], &images[1]).expect("a link can be made");
    let server = place.start("2");
    assert_ne!(started_from(&server), FAST, "a symbolic link is not followed");
}

#[test]
fn an_image_of_another_history_is_refused() {
    let place = Place::new();
    let server = place.start("2");
    fill(&server, 0, 200);
    assert_eq!(server.terminate(), Some(0));
    let backup = place.data.with_extension("backup");
    copy(&place.data, &backup);
    let server = place.start("2");
    fill(&server, 200, 400);
    assert_eq!(server.terminate(), Some(0));
    // The directory goes back in time; the image on tmpfs does not.
    fs::remove_dir_all(&place.data).expect("the data can go");
    fs::rename(&backup, &place.data).expect("the backup takes its place");
    let server = place.start("2");
    assert_ne!(started_from(&server), FAST);
    assert_eq!(server.count(), 200);
    fill(&server, 400, 650);
    assert_eq!(server.count(), 450);
    server.kill();
    let server = place.start("2");
    assert_ne!(started_from(&server), FAST, "the same numbers, another history");
    assert_eq!(server.count(), 450);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be listed").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a file can be copied");
        }
    }
}

/// The last batch of a log can't be told from one that was torn; an image knows that it was whole.
#[test]
fn a_check_says_of_a_log_that_it_ends_before_an_image() {
    let place = Place::new();
    let server = place.start("1");
    fill(&server, 0, 40);
    server.ask("POST", "/api/v1/memories", &json!({"id": "last", "content": "the last of all"}));
    server.terminate();
    let mut logs = Vec::new();
    for entry in fs::read_dir(place.data.join("generation-000001/shard-0000")).expect("it is there")
    {
        logs.push(entry.expect("it can be read").path());
    }
    let log = logs.into_iter().max().expect("there is a segment");
    let mut bytes = fs::read(&log).expect("it can be read");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("it says something");
    bytes[last] ^= 1;
    fs::write(&log, &bytes).expect("it can be written");

    let (data, fast) = (place.data.display().to_string(), place.fast.display().to_string());
    let check = |more: &[&str]| {
        let mut arguments = vec!["check", "--quiet", "--json", "--fast-dir", &fast, &data];
        arguments.extend(more);
        let output = run(&arguments);
        let said: Value = serde_json::from_slice(&output.stdout).expect("a check says JSON");
        (output.status.success(), said)
    };
    let (whole, said) = check(&[]);
    assert!(!whole, "{said}");
    assert!(said.to_string().contains("what was acknowledged is lost"), "{said}");
    assert_eq!(said["missing"].as_array().map(Vec::len), Some(1), "{said}");
    assert_eq!(Place::images(&place.fast).len(), 1);
    let (mended, said) = check(&["--repair"]);
    assert!(mended && said["mended"] == true, "{said}");
    let aside = said["moved_to"].as_str().expect("the images went aside");
    assert_eq!(Place::images(Path::new(aside)).len(), 1, "{said}");
    assert_eq!(Place::images(&place.fast).len(), 0);
    assert!(check(&[]).0);

    let server = place.start("1");
    assert_eq!(started_from(&server), LOG);
    assert_eq!(server.call("GET", "/api/v1/memories/m1", &Value::Null).status, 200);
}
