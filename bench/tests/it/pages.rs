//! The kept results and the page that is made from them.
//!
//! *Invariants*: the page in docs is the one that the results give.
//!
//! *Not here*: whether the results are good.

use std::path::Path;

use engram_bench::pages;

#[test]
fn the_page_is_in_step_with_the_kept_results() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let results = pages::read_results(&root.join("bench/results")).unwrap();
    let page = std::fs::read_to_string(root.join("docs/benchmarks/README.md")).unwrap();
    assert!(page == pages::page(&results), "run `engram-bench pages`");
}
