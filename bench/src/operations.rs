//! The requests of a run, encoded ahead, and which of them comes next.
//!
//! *Invariants*: nothing is encoded while a run is measured, but for a number in an id.
//!
//! *Not here*: what the requests ask (`workload`), how they are sent (`client`).

use std::sync::Arc;

use crate::random::{Random, Zipf};

/// A request whose bytes are ready; a fresh id is written over `id_at`.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Head and body.
    pub bytes: Vec<u8>,
    /// Where 16 hexadecimal digits of a fresh number go, if it stores something new.
    pub ids_at: Vec<usize>,
}

/// The digits that [`Encoded::find_ids`] looks for.
pub const ID_PLACE: &str = "fffffffffffffffe";

impl Encoded {
    /// A request that is always the same.
    pub fn fixed(bytes: Vec<u8>) -> Self {
        Self { bytes, ids_at: Vec::new() }
    }

    /// A request in which every [`ID_PLACE`] becomes a fresh number each time that it is sent.
    pub fn find_ids(bytes: Vec<u8>) -> Self {
        let place = ID_PLACE.as_bytes();
        let mut ids_at = Vec::new();
        let mut from = 0;
        while let Some(at) = bytes[from..].windows(place.len()).position(|w| w == place) {
            ids_at.push(from + at);
            from += at + place.len();
        }
        Self { bytes, ids_at }
    }
}

/// Which request of an operation comes next.
#[derive(Clone, Debug)]
pub enum Pick {
    /// One after the other, round and round; threads start at different places.
    InOrder,
    /// Any.
    Uniform,
    /// The first more often than the others.
    Zipf(Zipf),
}

/// One kind of request in a mix.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its name in reports.
    pub name: String,
    /// Its share of the mix, relative to the others.
    pub weight: f64,
    /// The requests to pick from.
    pub requests: Arc<[Encoded]>,
    /// How to pick.
    pub pick: Pick,
    /// What one request counts for (memories in a batch).
    pub items: u64,
    /// The answer holds verdicts, one for each item, and refusals among them are counted.
    pub verdicts: bool,
}

/// Picks requests for one thread.
#[derive(Debug)]
pub struct Source {
    operations: Arc<[Operation]>,
    cumulative: Vec<f64>,
    cursors: Vec<usize>,
    random: Random,
    fresh: u64,
}

/// The operation that was picked, and the request within it.
#[derive(Clone, Copy, Debug)]
pub struct Picked {
    /// Number of the operation.
    pub operation: usize,
    /// Number of its request.
    pub request: usize,
}

impl Source {
    /// A source for thread `thread` of a run; `seed` also makes fresh ids differ between runs.
    pub fn new(operations: Arc<[Operation]>, seed: u64, thread: u64) -> Self {
        assert!(!operations.is_empty(), "a run has operations");
        let mut sum = 0.0;
        let cumulative = operations
            .iter()
            .map(|operation| {
                assert!(!operation.requests.is_empty(), "{} has requests", operation.name);
                sum += operation.weight;
                sum
            })
            .collect();
        let mut random = Random::for_item(seed, 0x5043_4b53, thread);
        let cursors = operations
            .iter()
            .map(|operation| random.below(operation.requests.len() as u64) as usize)
            .collect();
        let fresh = (seed << 40) | (thread << 32);
        Self { operations, cumulative, cursors, random, fresh }
    }

    /// The next request.
    pub fn pick(&mut self) -> Picked {
        let operation = self.pick_operation();
        let requests = self.operations[operation].requests.len();
        let request = match &self.operations[operation].pick {
            Pick::InOrder => {
                let cursor = &mut self.cursors[operation];
                *cursor = (*cursor + 1) % requests;
                *cursor
            }
            Pick::Uniform => self.random.below(requests as u64) as usize,
            Pick::Zipf(zipf) => zipf.draw(&mut self.random) as usize % requests,
        };
        Picked { operation, request }
    }

    fn pick_operation(&mut self) -> usize {
        if self.cumulative.len() == 1 {
            return 0;
        }
        let total = self.cumulative[self.cumulative.len() - 1];
        let point = self.random.unit() * total;
        self.cumulative.iter().position(|sum| point < *sum).unwrap_or(self.cumulative.len() - 1)
    }

    /// The bytes of a request; those of one with fresh ids are made in `scratch`.
    pub fn bytes<'a>(&'a mut self, picked: Picked, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let request = &self.operations[picked.operation].requests[picked.request];
        if request.ids_at.is_empty() {
            return &request.bytes;
        }
        scratch.clear();
        scratch.extend_from_slice(&request.bytes);
        for at in &request.ids_at {
            self.fresh += 1;
            write_hex(self.fresh, &mut scratch[*at..*at + 16]);
        }
        scratch
    }

    /// The operations.
    pub fn operations(&self) -> &Arc<[Operation]> {
        &self.operations
    }
}

fn write_hex(number: u64, place: &mut [u8]) {
    for (i, digit) in place.iter_mut().enumerate() {
        let nibble = (number >> (60 - 4 * i)) as usize & 15;
        *digit = b"0123456789abcdef"[nibble];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(name: &str, weight: f64, requests: Vec<Encoded>, pick: Pick) -> Operation {
        Operation {
            name: name.to_owned(),
            weight,
            requests: requests.into(),
            pick,
            items: 1,
            verdicts: false,
        }
    }

    #[test]
    fn a_mix_has_the_stated_shares() {
        let fixed = |n: usize| vec![Encoded::fixed(vec![b'x']); n];
        let operations: Arc<[Operation]> = Arc::new([
            operation("read", 9.0, fixed(3), Pick::Uniform),
            operation("write", 1.0, fixed(1), Pick::InOrder),
        ]);
        let mut source = Source::new(operations, 1, 0);
        let writes = (0..100_000).filter(|_| source.pick().operation == 1).count();
        assert!((9_500..10_500).contains(&writes), "{writes}");
    }

    #[test]
    fn fresh_ids_differ_within_a_request_and_between_threads() {
        let body = format!("PUT /{ID_PLACE} and {ID_PLACE}").into_bytes();
        let request = Encoded::find_ids(body);
        assert_eq!(request.ids_at.len(), 2);
        let operations: Arc<[Operation]> =
            Arc::new([operation("store", 1.0, vec![request], Pick::InOrder)]);
        let mut seen = std::collections::BTreeSet::new();
        for thread in 0..2 {
            let mut source = Source::new(operations.clone(), 5, thread);
            for _ in 0..3 {
                let picked = source.pick();
                let mut scratch = Vec::new();
                let text = String::from_utf8(source.bytes(picked, &mut scratch).to_vec()).unwrap();
                let (first, second) = text.split_once(" and ").unwrap();
                assert!(seen.insert(first.trim_start_matches("PUT /").to_owned()));
                assert!(seen.insert(second.to_owned()));
            }
        }
        assert_eq!(seen.len(), 12);
    }
}
