//! The workspace as a whole: which crate may know which, and what lies at its top.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate and the crates of the workspace that it may use, in tests and builds too.
const DIRECTIONS: [(&str, &[&str]); 8] = [
    ("engram-engine", &[]),
    ("engram-platform", &[]),
    ("engram-cold", &[]),
    ("engram-shards", &["engram-cold", "engram-engine", "engram-platform"]),
    ("engram-sim", &["engram-engine", "engram-shards"]),
    ("engram-net", &["engram-engine", "engram-platform"]),
    (
        "engram",
        &[
            "engram-bench",
            "engram-cold",
            "engram-engine",
            "engram-net",
            "engram-platform",
            "engram-shards",
        ],
    ),
    ("engram-bench", &["engram-cold", "engram-engine", "engram-net", "engram-shards"]),
];

/// What the top of the repository holds, names with a leading dot aside.
const TOP: [&str; 14] = [
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "bench",
    "clippy.toml",
    "container",
    "docs",
    "engine",
    "net",
    "ops",
    "platform",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "shards",
];

#[test]
fn each_crate_uses_only_what_the_architecture_lets_it_know() {
    let mut seen = BTreeSet::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let (_, may_use) = DIRECTIONS
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} has no place in the architecture"));
        for used in workspace_dependencies(&package) {
            assert!(may_use.contains(&used.as_str()), "{name} must not know {used}");
        }
        seen.insert(name.to_owned());
    }
    let expected: BTreeSet<String> = DIRECTIONS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(seen, expected, "crates of the workspace");
}

#[test]
fn the_engine_knows_no_clock_disk_network_or_executor() {
    let foreign = ["glommio", "hyper", "tokio", "libc", "flume", "io-uring", "mio", "socket2"];
    let engine = packages().into_iter().find(|package| package["name"] == "engram-engine");
    for dependency in engine.unwrap()["dependencies"].as_array().unwrap() {
        let name = dependency["name"].as_str().unwrap();
        let in_product = dependency["kind"].is_null();
        assert!(!in_product || !foreign.contains(&name), "the engine must not know {name}");
    }
}

/// Looks at what git tracks; what a build or an editor leaves beside it is nobody's business.
#[test]
fn the_top_of_the_repository_holds_nothing_else() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let tracked = listed.ok().filter(|output| output.status.success() && !output.stdout.is_empty());
    let Some(tracked) = tracked else {
        println!("this is no git checkout: there is nothing to look at");
        return;
    };
    let paths = String::from_utf8(tracked.stdout).unwrap();
    let tops = paths.split('\0').filter_map(|path| path.split('/').next());
    let unknown: BTreeSet<&str> = tops
        .filter(|name| !name.is_empty() && !name.starts_with('.') && !TOP.contains(name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} are not for the top of the repository");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Names of the crates of this workspace that a package depends on, whatever for.
fn workspace_dependencies(package: &Value) -> Vec<String> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    let names = dependencies.map(|dependency| dependency["name"].as_str().unwrap());
    names.filter(|name| name.starts_with("engram")).map(str::to_owned).collect()
}
