//! Images: what is read back is what was written, and nothing else is believed.

use engram_engine::image::{HEADER_BYTES, Header, Reader, Writer};

use super::*;

const DIMENSIONS: usize = 512;

const HEADER: Header = Header {
    directory: 1,
    generation: 1,
    shards: 1,
    shard: 0,
    set: 1,
    sequence: 1,
    segment: 1,
    nonce: 1,
    layout: 1,
};
/// Bytes in front of a chunk, the last four of them its checksum.
const FRAME_BYTES: usize = 8;

/// The contents of an index's image, without header, frames and checksums.
fn written(index: &mut VectorIndex) -> Vec<u8> {
    index.settle();
    let mut image = Vec::new();
    let mut writer = Writer::new(&mut image, &HEADER);
    writer.part(index);
    writer.finish().expect("memory takes what is written to it");
    let (mut rest, mut contents) = (&image[HEADER_BYTES..], Vec::new());
    loop {
        let length: [u8; 4] = rest[..4].try_into().expect("a frame");
        let (chunk, later) = rest[FRAME_BYTES..].split_at(u32::from_le_bytes(length) as usize);
        if chunk.is_empty() {
            return contents;
        }
        contents.extend_from_slice(chunk);
        rest = later;
    }
}

/// Reads contents under checksums that fit.
fn read(contents: &[u8]) -> Option<VectorIndex> {
    let mut image = Vec::new();
    let mut writer = Writer::new(&mut image, &HEADER);
    writer.raw(contents);
    writer.finish().expect("memory takes what is written to it");
    let mut image = &image[..];
    let (_, mut reader) = Reader::new(&mut image).expect("the header is whole");
    let index = reader.part().ok()?;
    reader.finish().ok()?;
    Some(index)
}

/// An index in the midst of everything: some linked, some dead, some waiting.
fn busy(metric: Metric, encoding: VectorEncoding) -> VectorIndex {
    let mut source = Source::new(40, DIMENSIONS);
    let mut index = VectorIndex::new(DIMENSIONS as u16, metric, encoding, 2);
    for node in 0..2100 {
        index.insert(NodeIx(node), &source.vector());
    }
    while index.build(Work(5000)) == Progress::More {}
    for node in 0..300 {
        index.insert(NodeIx(node * 5), &source.vector());
        index.remove(NodeIx(node * 5 + 1));
    }
    let _ = index.build(Work(40_000));
    assert!(index.backlog() > 0);
    index
}

#[test]
fn an_index_is_read_back_from_its_image_and_goes_on() {
    let keys = keys(2100);
    for (metric, encoding) in pairs() {
        let mut index = busy(metric, encoding);
        let mut again = read(&written(&mut index)).expect("an image of its own is believed");
        let queries = Source::new(41, DIMENSIONS).vectors(5);
        for _ in 0..2 {
            for query in &queries {
                assert_eq!(nearest(&index, query, 10, &keys), nearest(&again, query, 10, &keys));
            }
            while again.build(Work(5000)) == Progress::More {}
            while index.build(Work(5000)) == Progress::More {}
            assert_eq!(again.len(), index.len());
        }
        assert!(read(&written(&mut again)).is_some());
    }
}

#[test]
fn a_wrong_image_is_refused_or_harmless() {
    let keys = keys(2100);
    let mut index = busy(Metric::Cosine, VectorEncoding::Int8);
    let bytes = written(&mut index);
    let query = Source::new(42, DIMENSIONS).vector();
    let mut numbers = Numbers(43);
    let mut refused = 0;
    for _ in 0..150 {
        let mut wrong = bytes.clone();
        // The links, the tables of slots and the head lie behind the codes.
        let start = if numbers.below(4) == 0 { 0 } else { 2100 * DIMENSIONS };
        for _ in 0..1 + numbers.below(4) {
            let place = start + numbers.below(bytes.len() - start);
            wrong[place] = numbers.next() as u8;
        }
        match read(&wrong) {
            None => refused += 1,
            Some(mut index) => {
                let _ = nearest(&index, &query, 10, &keys);
                index.insert(NodeIx(3), &query);
                index.remove(NodeIx(7));
                while index.build(Work(50_000)) == Progress::More {}
                let _ = nearest(&index, &query, 10, &keys);
            }
        }
    }
    assert!(refused > 20, "only {refused} of 150 were refused");
}
