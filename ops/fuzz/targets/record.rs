//! Bytes of a log as records: no bytes panic, and what is read writes back to what it was.
//!
//! The first byte chooses: bytes as they are, or bytes as the head and tail of a record whose
//! checksums fit, which gets behind them to the contents.
//!
//! *Not here*: segments and recovery (`shards`).
#![no_main]

use engram_engine::record::{Contents, Draft, Kind, Stamp, View, read_head, read_put_head};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let _ = read_head(bytes);
    if let Ok(view) = View::read(bytes) {
        let _ = Contents::read(view.kind, view.head, view.tail);
    }
    let kind = Kind::ALL[usize::from(choice) % Kind::ALL.len()];
    let tail_bytes = usize::from(choice >> 3).min(bytes.len());
    let (head, tail) = bytes.split_at(bytes.len() - tail_bytes);
    let _ = read_put_head(head);
    let Ok(contents) = Contents::read(kind, head, tail) else { return };
    let draft = contents.draft();
    let again = Contents::read(draft.kind, &draft.head, &draft.tail);
    // Not a comparison of values: an embedding or a confidence may be NaN in the bytes.
    let again = again.expect("what was written reads back").draft();
    assert_eq!((&draft.head, &draft.tail), (&again.head, &again.tail));
    whole_record_reads_back(&draft);
});

fn whole_record_reads_back(draft: &Draft) {
    let mut record = Vec::new();
    draft.write(Stamp { sequence: 1, batch: 1, epoch: 1 }, &mut record);
    let view = View::read(&record).expect("a record that was just written is whole");
    assert_eq!((view.head, view.tail), (&draft.head[..], &draft.tail[..]));
    assert_eq!(view.bytes(), record.len());
}
