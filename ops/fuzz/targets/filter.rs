//! Filters held against metadata: the compiled filter and its candidates agree, whatever both are.
//!
//! The input is two JSON texts with a NUL between: a filter, and the metadata of one memory.
//!
//! *Not here*: what a filter means (`engine/tests/metadata` holds it against a naive reading).
#![no_main]

use engram_engine::filter::Filter;
use engram_engine::metadata::MetadataIndex;
use engram_engine::model::{MemoryId, Metadata, Timestamp};
use engram_engine::node::NodeIx;
use engram_net::json::filter;
use engram_net::json::reader::{Reader, document};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(at) = bytes.iter().position(|byte| *byte == 0) else { return };
    let (filter_text, metadata_text) = (&bytes[..at], &bytes[at + 1..]);
    let Ok(filter) = document(filter_text, filter::read) else { return };
    let read = |reader: &mut Reader<'_>| reader.map(&mut 0);
    let Ok(metadata) = document(metadata_text, read) else { return };
    check(&filter, &metadata);
});

/// Every way of asking says the same, and what is removed is found no more.
fn check(filter: &Filter, metadata: &Metadata) {
    let mut index = MetadataIndex::new();
    if index.admit(metadata).is_err() {
        return;
    }
    let (node, id) = (NodeIx(3), MemoryId::new("a").expect("a valid id"));
    let early = index.compile(filter);
    index.insert(node, &id, metadata, Timestamp(1), None);
    let compiled = index.compile(filter);
    let matches = index.matches(&compiled, node);
    assert_eq!(index.matches(&early, node), matches, "a filter stays exact when memories come");
    let count = usize::from(matches);
    assert_eq!(index.count(&compiled), count);
    assert!(index.estimate(&compiled) >= count);
    if let Some(candidates) = index.candidates(&compiled, 10) {
        assert_eq!(candidates, vec![node; count]);
    }
    index.remove(node);
    assert_eq!(index.count(&index.compile(filter)), 0);
}
