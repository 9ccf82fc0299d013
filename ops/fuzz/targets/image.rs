//! Bytes of images: no bytes panic, whatever their checksums, and what is read starts a shard.
//!
//! The first byte chooses: bytes as they are; bytes as the contents of an image whose checksums
//! fit; or changes to an image of a few memories, resealed, which get furthest.
//!
//! *Not here*: files of images (`shards`), images of every state (`events`).
#![no_main]

use std::sync::OnceLock;

use engram_engine::image::{HEADER_BYTES, Header, Writer};
use engram_engine::key::{Partitioner, ShardIx};
use engram_engine::model::{Link, LinkKind, MemoryId, NewMemory, SpaceName, Timestamp, Weight};
use engram_engine::request::{Request, StoreMode, Wait};
use engram_engine::shard::{Event, Remaining, Shard, ShardConfig, ShardImage, Ticket};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const NOW: Timestamp = Timestamp(1_000_000);
/// In front of a chunk: its length and its checksum.
const FRAME_BYTES: usize = 8;
/// Where a shard's contents say at which record they were made: behind name and version of the
/// part, clock and time lived.
const SEQUENCE_AT: usize = 4 + 4 + 8 + 4;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => start(bytes),
        1 => start(&sealed(bytes)),
        _ => start(&sealed(&changed(bytes))),
    }
});

fn start(bytes: &[u8]) {
    if let Ok((_, image)) = ShardImage::read(&mut &bytes[..]) {
        let shard = Shard::from_image(config(), image);
        assert!(!shard.is_poisoned());
    }
}

/// The contents of the image, changed at places and to values that the input names.
fn changed(bytes: &[u8]) -> Vec<u8> {
    let mut contents = model().to_vec();
    for change in bytes.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % contents.len();
        match change[2] % 4 {
            0 => contents[at] = change[3],
            1 => contents[at] ^= 1 << (change[3] % 8),
            2 => contents.truncate(at.max(1)),
            _ => contents.insert(at, change[3]),
        }
    }
    contents
}

/// An image of these contents, its checksums right. Its place in the log is where the contents say
/// that it is, so that they are read to their end.
fn sealed(contents: &[u8]) -> Vec<u8> {
    let place = contents.get(SEQUENCE_AT..SEQUENCE_AT + 8).and_then(|bytes| bytes.try_into().ok());
    let mut image = Vec::new();
    let mut writer = Writer::new(&mut image, &header(place.map_or(0, u64::from_le_bytes)));
    writer.raw(contents);
    writer.finish().expect("memory takes it");
    image
}

/// What an image holds of a shard with memories of each kind: the bytes of its only chunk.
fn model() -> &'static [u8] {
    static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let mut shard = Shard::new(config());
        shard.start_exchange(NOW);
        settle(&mut shard);
        let (space, mode, wait) = (SpaceName::default(), StoreMode::Create, Wait::Applied);
        let memories = (0..6).map(memory).collect();
        let request = Request::Store { space, memories, mode, wait };
        shard.step(NOW, Event::Request { ticket: Ticket(1), request });
        settle(&mut shard);
        shard.freeze();
        let image = shard.hold().expect("its log is sound");
        let mut bytes = Vec::new();
        image.write(&header(image.sequence()), &mut bytes).expect("memory takes it");
        bytes[HEADER_BYTES + FRAME_BYTES..bytes.len() - FRAME_BYTES].to_vec()
    })
}

/// Lets everything happen that is left to do.
fn settle(shard: &mut Shard) {
    let mut durable = 0;
    loop {
        // Neither answers nor places in a log matter here.
        shard.effects(&mut Vec::new());
        let sequence = shard.sequence();
        if shard.has_local() {
            shard.step(NOW, Event::Local);
        } else if durable < sequence {
            durable = sequence;
            shard.step(NOW, Event::Durable { sequence, log_bytes: 0 });
        } else if shard.work(NOW) == Remaining::Nothing {
            return;
        }
    }
}

fn memory(number: u16) -> NewMemory {
    let name = |number: u16| MemoryId::new(&format!("m{number}")).expect("a valid id");
    let kind = LinkKind::new("cites").expect("a valid kind");
    let metadata = json!({"title": format!("Harbour {number}"), "n": number, "kind": ["a", "b"]});
    let serde_json::Value::Object(metadata) = metadata else { unreachable!("it is an object") };
    NewMemory {
        id: name(number),
        content: (number != 3).then(|| format!("Harbour {} and the lantern {number}", number / 2)),
        embedding: (number != 4).then(|| vec![1.0, f32::from(number), -0.5]),
        metadata,
        confidence: (number == 2).then_some(0.5),
        links: Some(vec![Link { to: name(number + 1), weight: Weight::ONE, kind }]),
        created_at: Some(Timestamp(i64::from(number))),
        expires_at: (number == 5).then_some(Timestamp(i64::MAX / 2)),
    }
}

fn config() -> ShardConfig {
    ShardConfig {
        me: ShardIx(0),
        partitioner: Partitioner::new([7, 11], 1),
        seed: 5,
        demotes: true,
    }
}

fn header(sequence: u64) -> Header {
    Header {
        directory: 1,
        generation: 1,
        shards: 1,
        shard: 0,
        set: 1,
        sequence,
        segment: 0,
        nonce: 0,
        layout: 0,
    }
}
