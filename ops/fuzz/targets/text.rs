//! Content as it becomes words, names and shared terms: no text panics, and reading is stable.
//!
//! *Not here*: what words, names and terms are found (`engine/tests`).
#![no_main]

use engram_engine::model::Metadata;
use engram_engine::names::{NameIndex, names_of, normal_form};
use engram_engine::node::NodeIx;
use engram_engine::terms::terms_of;
use engram_engine::text::Analyzer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut analyzer = Analyzer::new();
    let _ = analyzer.analyze(text);
    let _ = analyzer.query(text);
    let normal = normal_form(text);
    assert_eq!(normal_form(&normal), normal, "a normal form is its own normal form");
    let metadata = Metadata::new();
    let _ = terms_of(&metadata, Some(text));
    let mut index = NameIndex::new();
    index.insert(NodeIx(0), &names_of(&metadata, Some(text), true));
    let _ = index.matches(&normal);
    index.remove(NodeIx(0));
    assert!(index.matches(&normal).is_empty(), "a name goes with its memory");
});
