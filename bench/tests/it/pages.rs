//! The kept results and the pages that are made from them.
//!
//! *Invariants*: the pages in docs are those that the results give.
//!
//! *Not here*: whether the results are good.

use std::path::Path;

use engram_bench::pages;

#[test]
fn the_pages_are_in_step_with_the_kept_results() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = pages::all(&root.join("bench/results")).unwrap();
    assert_eq!(pages.len(), 2, "results and the scaling study");
    for (name, page) in pages {
        let kept = std::fs::read_to_string(root.join("docs/benchmarks").join(name)).unwrap();
        assert!(kept == page, "{name}: run `engram-bench pages`");
    }
}
