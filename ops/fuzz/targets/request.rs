//! Bodies of requests: no bytes panic, and what is let through is within the bounds.
//!
//! *Not here*: filters by themselves (`filter`), sockets and framing (`net/tests/it`).
#![no_main]

use engram_engine::limits;
use engram_engine::model::MemoryId;
use engram_net::json::reader::document;
use engram_net::json::{forget, link, memory, recall, space};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, body)) = bytes.split_first() else { return };
    match choice % 8 {
        0 => memory_body(body),
        1 => drop(document(body, memory::read_patch)),
        2 => recall_body(body),
        3 => drop(document(body, recall::read_batch)),
        4 => drop(document(body, recall::read_count)),
        5 => drop(document(body, link::read)),
        6 => drop(document(body, forget::read)),
        _ => drop(document(body, space::read)),
    }
});

fn memory_body(body: &[u8]) {
    let make_id = || MemoryId::new("made").expect("a valid id");
    let Ok(memory) = document(body, |reader| memory::read(reader, make_id)) else { return };
    assert!(memory.content.is_some() || memory.embedding.is_some());
    assert!(memory.id.as_str().len() <= limits::ID_BYTES_MAX);
    assert!(memory.content.is_none_or(|text| text.len() <= limits::CONTENT_BYTES_MAX));
    let finite = |vector: Vec<f32>| {
        (1..=limits::DIMENSIONS_MAX).contains(&vector.len()) && vector.iter().all(|x| x.is_finite())
    };
    assert!(memory.embedding.is_none_or(finite));
}

fn recall_body(body: &[u8]) {
    let Ok(recall) = document(body, recall::read) else { return };
    assert!((1..=limits::CUES_MAX).contains(&recall.cues.len()));
    assert!((1..=limits::TOP_K_MAX).contains(&recall.top_k));
    assert!(recall.max_hops.is_none_or(|hops| hops <= limits::HOPS_MAX));
}
