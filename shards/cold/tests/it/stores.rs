//! What every store promises, and what happens where one fails.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engram_cold::{Busy, ColdError, ColdUrl, Limits, Put, Tier, Variables, Workers};

use crate::endpoint::{Habit, listen};
use crate::moto::Moto;

fn at(endpoint: &str) -> Variables {
    let endpoint = endpoint.to_owned();
    Variables::of(move |name| match name {
        "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
        "AWS_ACCESS_KEY_ID" => Some("key".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
        "AWS_REGION" => Some("eu-central-1".to_owned()),
        _ => None,
    })
}

fn quick() -> Limits {
    let (request_timeout, patience) = (Duration::from_millis(600), Duration::from_secs(2));
    Limits { requests_max: 2, request_timeout, patience, bytes_max: None }
}

fn tier(url: &str, limits: Limits) -> Tier {
    bucket(url, limits, "http://127.0.0.1:9")
}

fn bucket(url: &str, limits: Limits, endpoint: &str) -> Tier {
    let url = url.parse().expect("a good URL");
    Tier::with(url, limits, at(endpoint)).expect("settings are there")
}

/// The promises, on an empty store.
fn promises(tier: &Tier) {
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|i| [(i % 251) as u8]).collect();
    assert_eq!(tier.put("a/one", b"first"), Ok(Put::Created));
    assert_eq!(tier.put("a/one", b"second"), Ok(Put::Exists), "what is there stays");
    assert_eq!(tier.get("a/one"), Ok(b"first".to_vec()));
    assert_eq!(tier.put("a/two-3", &large), Ok(Put::Created));
    assert_eq!(tier.get("a/two-3").map(|read| read == large), Ok(true));
    assert_eq!(tier.get_range("a/two-3", 1_000_000, 77).unwrap(), large[1_000_000..1_000_077]);
    let short = tier.get_range("a/one", 2, 100);
    assert!(matches!(short, Err(ColdError::NotFound(_))), "all of it, or an error: {short:?}");
    let behind = tier.get_range("a/one", 200, 1);
    assert!(matches!(behind, Err(ColdError::NotFound(_))), "{behind:?}");
    assert!(matches!(tier.get("a/nothing"), Err(ColdError::NotFound(_))));
    assert!(matches!(tier.get_range("a/nothing", 0, 1), Err(ColdError::NotFound(_))));
    tier.put("b/three", b"").unwrap();
    let names = |prefix: &str| -> Vec<(String, u64)> {
        tier.list(prefix).unwrap().into_iter().map(|o| (o.name, o.bytes)).collect()
    };
    let a = vec![("a/one".to_owned(), 5), ("a/two-3".to_owned(), 3_000_000)];
    assert_eq!(names("a/"), a);
    assert_eq!(names("").len(), 3);
    assert_eq!(names("nothing/"), []);
    assert_eq!(tier.delete("a/one"), Ok(()));
    assert_eq!(tier.delete("a/one"), Ok(()), "what is not there is no error");
    assert_eq!(names("a/").len(), 1);
    let winners = std::thread::scope(|scope| {
        let write = |i: u8| move || tier.put("race", &[i; 1000]).unwrap() == Put::Created;
        let writers: Vec<_> = (0..8).map(|i| scope.spawn(write(i))).collect();
        writers.into_iter().map(|w| usize::from(w.join().unwrap())).sum::<usize>()
    });
    assert_eq!(winners, 1, "one of them wrote it");
    let read = tier.get("race").unwrap();
    assert!(read.len() == 1000 && read.iter().all(|byte| *byte == read[0]), "whole");
}

#[test]
fn a_folder_keeps_the_promises() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/not/yet/there", folder.path().display());
    promises(&tier(&url, Limits::default()));
    let left = Command::new("find").arg(folder.path()).args(["-name", "*.unfinished"]).output();
    assert!(left.unwrap().stdout.is_empty(), "nothing unfinished is left");
}

#[test]
fn a_real_s3_server_keeps_the_promises_and_its_end_is_borne() {
    let mut moto = Moto::start();
    let endpoint = moto.endpoint.clone();
    let at = |url: &str, limits: Limits| bucket(url, limits, &endpoint);
    let missing = at("s3://not-made/x", quick());
    assert!(
        matches!(missing.get("a"), Err(ColdError::Refused(text)) if text.contains("NoSuchBucket"))
    );
    let made = "import sys, urllib.request as r; \
                r.urlopen(r.Request(sys.argv[1], method='PUT', data=b''))";
    let shelf = format!("{endpoint}/shelf");
    assert!(Command::new("python3").args(["-c", made, &shelf]).status().unwrap().success());
    promises(&at("s3://shelf", Limits::default()));
    promises(&at("s3://shelf/deep/prefix", Limits::default()));
    let many = at("s3://shelf/many", Limits::default());
    for i in 0..1100 {
        assert_eq!(many.put(&format!("n/{i:05}"), b"x"), Ok(Put::Created));
    }
    assert_eq!(many.list("n/").unwrap().len(), 1100, "a list of several pages");
    moto.kill();
    let down = at("s3://shelf", quick());
    let started = Instant::now();
    assert!(matches!(down.get("race"), Err(ColdError::Unreachable(_))));
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn endpoints_that_misbehave_are_left_alone_after_a_while() {
    for habit in [Habit::Hangs, Habit::HangsUp, Habit::SlowDown] {
        let (endpoint, came) = listen(habit);
        let tier = bucket("s3://shelf", quick(), &endpoint);
        let started = Instant::now();
        while !tier.is_shunned() {
            let refused = tier.get("x");
            assert!(matches!(refused, Err(ColdError::Unreachable(_))), "{habit:?}: {refused:?}");
            assert!(started.elapsed() < Duration::from_secs(20), "{habit:?}");
        }
        let before = came.load(Ordering::Relaxed);
        let started = Instant::now();
        assert!(tier.put("x", b"y").is_err());
        assert!(started.elapsed() < Duration::from_millis(100), "{habit:?}: it fails at once");
        assert_eq!(came.load(Ordering::Relaxed), before, "{habit:?}: nothing is sent");
        let measures = tier.measures();
        assert!(measures.turned_away.load(Ordering::Relaxed) > 0);
        assert!(measures.failures.load(Ordering::Relaxed) >= 5, "{habit:?}");
    }
}

#[test]
fn a_folder_that_can_t_be_written_is_refused_without_another_try() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "in the way").unwrap();
    let url = format!("file://{}/file/below", folder.path().display());
    let tier = tier(&url, Limits { patience: Duration::from_millis(300), ..quick() });
    assert!(tier.put("a", b"b").is_err());
    assert!(tier.get("a").is_err());
}

#[test]
fn what_waits_for_a_thread_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let url = ColdUrl::folder(folder.path());
    let tier = Arc::new(Tier::new(url, quick()).unwrap());
    let workers = Workers::start(tier).unwrap();
    let (open, gate) = flume::bounded::<()>(0);
    let outcome = (0..5000).find_map(|_| {
        let gate = gate.clone();
        let wait = move |_: &Tier| assert!(gate.recv().is_err(), "nothing is sent");
        workers.submit(wait).err()
    });
    assert_eq!(outcome, Some(Busy));
    drop(open);
}
