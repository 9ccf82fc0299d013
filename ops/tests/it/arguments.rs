//! Flags over variables over a file over defaults; exit statuses.

use serde_json::Value;

use crate::server::{Folder, engram, run, stderr, stdout};

fn origin(settings: &Value, flag: &str) -> (String, String) {
    let text = |part: &str| settings[flag][part].as_str().unwrap_or_default().to_owned();
    (text("value"), text("origin"))
}

#[test]
fn a_flag_wins_over_a_variable_over_a_file_over_a_default() {
    let folder = Folder::new();
    let file = folder.file("engram.toml", "listen = '127.0.0.1:1'\nshards = 3\nwait = 'applied'\n");
    let output = engram()
        .args(["config", "--json", "--listen", "127.0.0.1:3", "--config"])
        .arg(&file)
        .env("ENGRAM_LISTEN", "127.0.0.1:2")
        .env("ENGRAM_SHARDS", "2")
        .env("ENGRAM_DATA_DIR", "")
        .output()
        .expect("the command starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let settings: Value = serde_json::from_slice(&output.stdout).expect("settings are JSON");
    let expect = |flag: &str, value: &str, from: &str| {
        assert_eq!(origin(&settings, flag), (value.to_owned(), from.to_owned()), "{flag}");
    };
    expect("listen", "127.0.0.1:3", "flag");
    expect("shards", "2", "ENGRAM_SHARDS");
    expect("wait", "applied", &file.display().to_string());
    expect("shutdown-grace", "25s", "default");
    assert_eq!(origin(&settings, "data-dir").1, "default", "an empty variable counts as unset");
}

#[test]
fn wrong_usage_ends_with_status_2_and_says_what_is_meant() {
    let folder = Folder::new();
    let unknown = folder.file("a.toml", "lisen = '127.0.0.1:1'").display().to_string();
    let broken = folder.file("b.toml", "listen =").display().to_string();
    for (arguments, said) in [
        (vec!["serve", "--port", "1"], "--port"),
        (vec!["config", "--config", &unknown], "did you mean `listen`"),
        (vec!["config", "--config", &broken], "no TOML"),
        (vec!["serve", "--listen", "0.0.0.0:0"], "--insecure"),
        (vec!["serve", "--listen", "nowhere"], "--listen"),
        (vec!["recall"], "TEXT"),
        (vec!["recall", "x", "--filter", "{"], "--filter is no JSON"),
        (vec!["topology", "--cpus", "9999"], "9999"),
        (vec!["frobnicate"], "frobnicate"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_variable_that_nobody_knows_is_refused_unless_a_service_link_explains_it() {
    let with = |name: &str, value: &str| {
        engram().arg("config").env(name, value).output().expect("the command starts")
    };
    let refused = with("ENGRAM_DATADIR", "/data");
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("ENGRAM_DATA_DIR"), "{}", stderr(&refused));
    let link = with("ENGRAM_PORT", "tcp://10.0.0.1:8080");
    assert_eq!(link.status.code(), Some(0), "{}", stderr(&link));
}

#[test]
fn a_server_that_is_not_there_is_status_3() {
    for command in ["health", "query"] {
        let extra: &[&str] = if command == "query" { &["--count"] } else { &[] };
        let output = run(&[&[command], extra, &["--url", "http://127.0.0.1:1"]].concat());
        assert_eq!(output.status.code(), Some(3), "{command}: {}", stderr(&output));
        assert!(stderr(&output).contains("can't be reached"), "{}", stderr(&output));
    }
}

#[test]
fn a_leading_name_is_passed_over_and_texts_are_made() {
    let version = run(&["engram", "--version"]);
    assert_eq!(stdout(&version), concat!("engram ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(stdout(&run(&["completions", "bash"])).contains("_engram"));
    assert!(stdout(&run(&["man"])).contains(".TH engram"));
    let help = stdout(&run(&["serve", "--help"]));
    assert!(help.contains("ENGRAM_SHUTDOWN_GRACE"), "{help}");
}

#[test]
fn the_doctor_names_a_remedy_for_everything_and_fails_where_a_server_would() {
    let fit = run(&["doctor", "--json"]);
    assert_eq!(fit.status.code(), Some(0), "{}", stderr(&fit));
    let findings: serde_json::Value = serde_json::from_slice(&fit.stdout).expect("JSON");
    for finding in findings.as_array().expect("a list") {
        assert!(finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{finding}");
    }
    let unfit = run(&["doctor", "--data-dir", "/proc/engram"]);
    assert_eq!(unfit.status.code(), Some(78), "{}", stderr(&unfit));
    assert!(stdout(&unfit).contains("fatal data_dir_unwritable"), "{}", stdout(&unfit));
}
