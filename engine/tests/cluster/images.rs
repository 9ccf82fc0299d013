//! A start from images is a start from the log, only faster.

use engram_engine::image::{HEADER_BYTES, Unsound};
use engram_engine::model::{Link, LinkKind, MemoryId, SpaceName, Weight};
use engram_engine::request::{Answer, Direction, LinkName, Request, Wait};
use engram_engine::shard::ShardImage;

use super::agreement::{all_links, answers, corpus, workload};
use super::{Cluster, Random, id, memory};

const COUNT: usize = 120;

/// What is written behind the images: all kinds of changes, to old memories and new ones.
fn change(cluster: &mut Cluster, seed: u64) {
    let space = SpaceName::default;
    for i in (3..COUNT).step_by(17) {
        let id = id(&format!("m{i}"));
        // Some of them are gone already.
        let _ = cluster.call(0, Request::Delete { space: space(), id, wait: Wait::Durable });
    }
    for verdict in cluster.store(corpus(seed + 7, COUNT + 30).split_off(COUNT - 15)) {
        verdict.expect("the corpus is valid");
    }
    let links = (2..COUNT).step_by(9).map(|i| LinkName {
        from: id(&format!("m{i}")),
        to: id(&format!("m{}", i + 3)),
        kind: None,
    });
    let unlink = Request::Unlink { space: space(), links: links.collect(), wait: Wait::Durable };
    cluster.call(0, unlink).expect("removing links never fails");
}

fn assert_same(expected: &[String], got: &[String], case: &str) {
    for (i, (a, b)) in expected.iter().zip(got).enumerate() {
        assert_eq!(a, b, "{case}, query {i}");
    }
}

#[test]
fn a_start_from_images_gives_the_answers_of_a_start_from_the_log() {
    for (shards, seed) in [(1, 21), (2, 22), (4, 23), (7, 24)] {
        let mut cluster = Cluster::new(shards, seed);
        workload(&mut cluster, seed, COUNT);
        let images = cluster.images();
        let at_once = answers(&mut cluster, COUNT);
        cluster.crash_to(&images);
        assert_same(&at_once, &answers(&mut cluster, COUNT), &format!("{shards} shards, no tail"));

        change(&mut cluster, seed);
        cluster.settle();
        let later = answers(&mut cluster, COUNT);
        assert_ne!(at_once, later);
        cluster.crash_to(&images);
        cluster.settle();
        let from_images = answers(&mut cluster, COUNT);
        assert_same(&later, &from_images, &format!("{shards} shards, tail"));
        let links = all_links(&mut cluster, COUNT + 30, Direction::Out);
        assert_eq!(links, all_links(&mut cluster, COUNT + 30, Direction::In), "{shards} shards");
        cluster.crash();
        cluster.settle();
        assert_same(&answers(&mut cluster, COUNT), &from_images, &format!("{shards} shards, log"));
        assert_eq!(links, all_links(&mut cluster, COUNT + 30, Direction::Out), "{shards} shards");
    }
}

/// A shard that had linked to another's memory, and does not any more, is not told that it goes: a
/// link that it makes later said after a start from images that its target exists.
#[test]
fn a_link_to_what_went_after_the_images_is_not_live() {
    let space = SpaceName::default;
    let names = |i: usize| (id(&format!("from{i}")), id(&format!("to{i}")));
    let link = |from: &MemoryId, to: &MemoryId| {
        let link = Link { to: to.clone(), weight: Weight::ONE, kind: LinkKind::default() };
        Request::Link { space: space(), links: vec![(from.clone(), link)], wait: Wait::Durable }
    };
    let mut cluster = Cluster::new(3, 41);
    let pairs: Vec<_> = (0..16).map(names).collect();
    for (from, to) in &pairs {
        for one in [from, to] {
            let stored = cluster.store(vec![memory(one.as_str(), "content")]);
            stored.into_iter().for_each(|verdict| drop(verdict.expect("it is valid")));
        }
        cluster.call(0, link(from, to)).expect("both are there");
        cluster.call(0, link(to, from)).expect("both are there");
        cluster.settle();
        let links = vec![LinkName { from: from.clone(), to: to.clone(), kind: None }];
        let unlink = Request::Unlink { space: space(), links, wait: Wait::Durable };
        cluster.call(0, unlink).expect("it is there");
    }
    let images = cluster.images();
    for (from, to) in &pairs {
        let delete = Request::Delete { space: space(), id: to.clone(), wait: Wait::Durable };
        cluster.call(0, delete).expect("it is there");
        cluster.call(0, link(from, to)).expect("links may lead to what does not exist");
    }
    cluster.crash_to(&images);
    cluster.settle();
    for (from, _) in pairs {
        let direction = Direction::Out;
        let links = Request::Links { space: space(), id: from.clone(), direction, kind: None };
        let Ok(Answer::Links(links)) = cluster.call(1, links) else { panic!("{from:?} is there") };
        assert_eq!(links.iter().map(|link| link.live).collect::<Vec<_>>(), [false], "{from:?}");
    }
}

#[test]
fn images_that_are_made_amid_associations_and_writes_lose_nothing() {
    for seed in 31..37 {
        let shards = [2, 3, 5][seed as usize % 3];
        let mut cluster = Cluster::new(shards, seed);
        let mut expected = Cluster::new(shards, seed + 100);
        workload(&mut cluster, seed, COUNT);
        workload(&mut expected, seed, COUNT);
        change(&mut cluster, seed);
        change(&mut expected, seed);
        // Nothing has settled: mentions are still to be made, tells are under way.
        let images = cluster.images();
        let more = corpus(seed + 9, COUNT).split_off(COUNT - 20);
        for cluster in [&mut cluster, &mut expected] {
            for verdict in cluster.store(more.clone()) {
                verdict.expect("the corpus is valid");
            }
        }
        cluster.crash_to(&images);
        cluster.settle();
        expected.settle();
        let case = format!("seed {seed}, {shards} shards");
        assert_same(&answers(&mut expected, COUNT), &answers(&mut cluster, COUNT), &case);
    }
}

#[test]
fn writes_wait_while_shards_stand_still_and_reads_do_not() {
    let mut cluster = Cluster::new(2, 5);
    workload(&mut cluster, 5, 40);
    cluster.shards.iter_mut().for_each(engram_engine::shard::Shard::freeze);
    cluster.settle();
    let images: Vec<ShardImage> =
        cluster.shards.iter_mut().map(|s| s.hold().expect("no log is poisoned")).collect();
    let delete = |i: usize| {
        let (space, id) = (SpaceName::default(), id(&format!("m{i}")));
        Request::Delete { space, id, wait: Wait::Durable }
    };
    let tickets: Vec<u64> = [1, 2, 3].map(|i| cluster.begin(i % 2, delete(usize::from(i)))).into();
    cluster.settle();
    let before = answers(&mut cluster, 40);
    assert!(before.iter().any(|a| a.contains("m1 ") || a.contains("m2 ")));
    assert!(tickets.iter().all(|t| !cluster.outcomes.contains_key(t)), "nothing was changed");
    assert!(cluster.shards.iter().any(|s| s.holds_changes()));
    drop(images);
    cluster.shards.iter_mut().for_each(engram_engine::shard::Shard::thaw);
    cluster.settle();
    for ticket in tickets {
        cluster.outcomes.remove(&ticket).expect("what waited was done").expect("it existed");
    }
    assert_ne!(before, answers(&mut cluster, 40));
}

/// Where the chunks of an image lie, without their frames.
fn chunks(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut chunks) = (HEADER_BYTES, Vec::new());
    loop {
        let frame: [u8; 4] = bytes[at..at + 4].try_into().expect("a frame");
        let length = u32::from_le_bytes(frame) as usize;
        if length == 0 {
            return chunks;
        }
        chunks.push(at + 8..at + 8 + length);
        at += 8 + length;
    }
}

/// Makes the checksums of changed bytes fit again.
fn reseal(bytes: &mut [u8]) {
    let seal = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
    for (number, chunk) in (0u64..).zip(chunks(bytes)) {
        let place = crc32c::crc32c_append(seal, &number.to_le_bytes());
        let checksum = crc32c::crc32c_append(place, &bytes[chunk.clone()]);
        bytes[chunk.start - 4..chunk.start].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn one_image() -> Vec<u8> {
    let mut cluster = Cluster::new(1, 3);
    workload(&mut cluster, 3, 12);
    change(&mut cluster, 3);
    cluster.images().pop().expect("one shard, one image")
}

#[test]
fn a_flipped_bit_anywhere_in_an_image_is_found() {
    let bytes = one_image();
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1 << (at % 8);
        assert!(ShardImage::read(&mut &wrong[..]).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn an_image_that_was_cut_anywhere_is_refused() {
    let bytes = one_image();
    for at in 0..bytes.len() {
        let read = ShardImage::read(&mut &bytes[..at]);
        assert!(matches!(read, Err(Unsound::Torn)), "cut at {at} of {}", bytes.len());
    }
}

#[test]
fn chunks_of_another_image_are_refused() {
    let bytes = one_image();
    let mut other = bytes.clone();
    // Another set of the same bytes: only the header differs.
    other[28] ^= 1;
    let checksum = crc32c::crc32c(&other[..HEADER_BYTES - 4]);
    other[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    assert!(matches!(ShardImage::read(&mut &other[..]), Err(Unsound::Damaged)));
    reseal(&mut other);
    let end = other.len() - 4;
    let last = crc32c::crc32c(&other[..HEADER_BYTES - 4]);
    let number = chunks(&other).len() as u64;
    let last = crc32c::crc32c_append(last, &number.to_le_bytes());
    other[end..].copy_from_slice(&last.to_le_bytes());
    assert!(ShardImage::read(&mut &other[..]).is_ok(), "the test itself seals right");
}

/// Checksums fit, contents are nonsense: it is refused, or it is harmless enough to be read; never a
/// panic, and never room for what is not there.
#[test]
fn nonsense_under_good_checksums_does_no_harm() {
    let bytes = one_image();
    let places: Vec<usize> = chunks(&bytes).into_iter().flatten().collect();
    let mut random = Random::new(77);
    let mut refused = 0;
    for _ in 0..4000 {
        let mut wrong = bytes.clone();
        for _ in 0..1 + random.below(3) {
            wrong[places[random.below(places.len())]] = random.next() as u8;
        }
        reseal(&mut wrong);
        refused += usize::from(ShardImage::read(&mut &wrong[..]).is_err());
    }
    assert!(refused > 400, "{refused} of 4000 were refused");
}
