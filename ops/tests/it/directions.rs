//! Which crate may know which.

use std::path::Path;

/// Crates of the workspace and those that each may use, tests included.
const DIRECTIONS: [(&str, &[&str]); 8] = [
    ("engine", &[]),
    ("shards/cold", &[]),
    ("platform", &[]),
    ("shards", &["cold", "engine", "platform"]),
    ("shards/sim", &["engine", "shards"]),
    ("net", &["engine", "platform"]),
    ("bench", &["engine"]),
    ("ops", &["bench", "cold", "engine", "net", "platform", "shards"]),
];

/// The crates of the workspace that a manifest names, whatever it needs them for.
fn uses(manifest: &str) -> Vec<String> {
    let named = manifest.lines().filter_map(|line| line.strip_prefix("engram-"));
    named.filter_map(|rest| rest.split([' ', '.', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn crates_know_only_whom_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let workspace = std::fs::read_to_string(root.join("Cargo.toml")).expect("there is a workspace");
    let members = workspace.lines().find(|line| line.starts_with("members"));
    let members = members.expect("the workspace names its members");
    assert_eq!(members.matches('"').count() / 2, DIRECTIONS.len(), "{members}");
    for (crate_name, allowed) in DIRECTIONS {
        let path = root.join(crate_name).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).expect("each crate has its manifest");
        for used in uses(&manifest) {
            assert!(allowed.contains(&used.as_str()), "{crate_name} must not use {used}");
        }
    }
}
