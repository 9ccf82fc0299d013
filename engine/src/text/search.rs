//! The best documents of a query, without scoring those that cannot be among them.
//!
//! Works through windows of node numbers. In each window the terms whose upper bounds together do
//! not reach the k-th best score so far are only looked up for documents that other terms brought
//! in (MaxScore, Turtle and Flood 1995, with the bounds of blocks as in block-max indexes).
//!
//! *Invariants*: contributions are integers, so that their sum has no order; a bound is never below
//! what it bounds, so that pruning changes no result.
//!
//! *Not here*: how postings are kept (`postings`), statistics (`index`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::index::Bm25Query;
use super::postings::{BLOCK_POSTINGS, Block, Decoder, Postings};
use crate::node::NodeIx;
use crate::vector::Progress;

/// Saturation of term frequency.
const K1: f64 = 1.2;
/// How much length counts.
const B: f64 = 0.75;
/// Contributions are integers of this fraction of 1.
const CONTRIBUTION_ONE: f64 = (1u64 << 24) as f64;
/// Node numbers in one window.
const WINDOW: usize = 2048;
/// What going through a window costs beside its postings, in postings.
const WINDOW_POSTINGS: usize = 64;

/// What one occurrence of a term adds to a document, for a given average length.
#[derive(Clone, Copy)]
pub(super) struct Contribution {
    base: f64,
    per_term: f64,
}

impl Contribution {
    pub(super) fn new(average_length: f64) -> Self {
        Self { base: K1 * (1.0 - B), per_term: K1 * B / average_length.max(f64::MIN_POSITIVE) }
    }

    /// In fractions of [`CONTRIBUTION_ONE`].
    #[inline]
    pub(super) fn of(self, weight: f32, frequency: u32, length: u32) -> u64 {
        let norm = self.base + self.per_term * f64::from(length);
        let frequency = f64::from(frequency);
        let scaled = f64::from(weight) * ((K1 + 1.0) * CONTRIBUTION_ONE);
        (scaled * (frequency / (frequency + norm)) + 0.5) as u64
    }
}

/// The score of a sum of contributions.
pub(super) fn score(sum: u64) -> f32 {
    (sum as f64 / CONTRIBUTION_ONE) as f32
}

/// A sum below this has a score below `score`.
fn sum_floor(score: f32) -> u64 {
    (f64::from(score) * CONTRIBUTION_ONE * (1.0 - 2e-7)) as u64
}

/// One term of the query: its postings, its weight and how often the query holds it.
pub(super) struct QueryTerm<'a> {
    pub postings: &'a Postings,
    pub weight: f32,
    pub times: u64,
}

/// Working memory of a search, kept between searches.
pub struct Scratch {
    sums: Box<[u64; WINDOW]>,
    touched: [u64; WINDOW / 64],
    buffers: Vec<Buffer>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { sums: Box::new([0; WINDOW]), touched: [0; WINDOW / 64], buffers: Vec::new() }
    }
}

/// A search between its steps.
#[derive(Default)]
pub struct Running {
    /// Node numbers below this were looked at.
    from: u32,
    best: BinaryHeap<Reverse<Ranked>>,
    /// Sums below this cannot enter the answer.
    floor: u64,
}

impl Running {
    /// The documents, best first, that pass `is_there`: node and key; others went between two steps.
    pub fn finish(self, is_there: impl Fn(NodeIx, u64) -> bool) -> Vec<(NodeIx, f32)> {
        let mut ranked: Vec<Ranked> = self.best.into_iter().map(|Reverse(each)| each).collect();
        ranked.retain(|each| is_there(NodeIx(each.node), each.key.0));
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.into_iter().map(|each| (NodeIx(each.node), f32::from_bits(each.score))).collect()
    }
}

/// A document in the order of the answer: the greatest is the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    /// Bits of a positive score, which order as the score does.
    score: u32,
    key: Reverse<u64>,
    node: u32,
}

/// One decoded block.
#[derive(Clone)]
struct Buffer {
    numbers: [u32; BLOCK_POSTINGS],
    frequencies: [u32; BLOCK_POSTINGS],
    count: usize,
    at: usize,
}

impl Buffer {
    const EMPTY: Self =
        Self { numbers: [0; BLOCK_POSTINGS], frequencies: [0; BLOCK_POSTINGS], count: 0, at: 0 };

    fn fill(&mut self, postings: Decoder<'_>) {
        self.at = 0;
        self.count = 0;
        for posting in postings {
            self.numbers[self.count] = posting.number;
            self.frequencies[self.count] = posting.frequency;
            self.count += 1;
        }
    }

    fn fill_one(&mut self, number: u32, frequency: u32) {
        (self.numbers[0], self.frequencies[0], self.count, self.at) = (number, frequency, 1, 0);
    }
}

/// A place in the postings of one term.
struct Cursor<'a> {
    /// Blocks that are left, the current one first; empty for a short list, which is all decoded.
    blocks: &'a [Block],
    /// The buffer holds the current block.
    decoded: bool,
    weight: f32,
    times: u64,
    /// Upper bound of its contributions in the current window.
    bound: u64,
    /// Upper bound over a short list.
    short_bound: u64,
}

impl<'a> Cursor<'a> {
    fn new(term: &QueryTerm<'a>, buffer: &mut Buffer) -> Self {
        let mut cursor = Self {
            blocks: &[],
            decoded: true,
            weight: term.weight,
            times: term.times,
            bound: 0,
            short_bound: 0,
        };
        match term.postings {
            Postings::Empty => buffer.count = 0,
            Postings::One(posting) => buffer.fill_one(posting.number, posting.frequency),
            Postings::Short(bytes) => buffer.fill(Decoder::new(0, bytes)),
            Postings::Long(blocks) => {
                (cursor.blocks, cursor.decoded, buffer.count) = (blocks, false, 0);
            }
        }
        buffer.at = 0;
        cursor
    }

    /// Bounds the contributions of a short list, which is decoded as a whole.
    fn bounded(mut self, buffer: &Buffer, contribution: Contribution, lengths: &[u32]) -> Self {
        let postings = buffer.numbers.iter().zip(&buffer.frequencies).take(buffer.count);
        let each = postings.map(|(&number, &frequency)| {
            contribution.of(self.weight, frequency, lengths[number as usize] - 1)
        });
        self.short_bound = self.times * each.max().unwrap_or(0);
        self
    }

    /// There is a posting of `number`; numbers are asked for in ascending order.
    fn holds(&mut self, number: u32, buffer: &mut Buffer) -> bool {
        if self.seek(number, buffer) != Some(number) {
            return false;
        }
        if !self.decoded
            && let Some(block) = self.blocks.first()
        {
            buffer.fill(block.postings());
            self.decoded = true;
        }
        self.seek(number, buffer) == Some(number)
    }

    /// Moves on to the first posting at or behind `number`; returns a number that it is not below,
    /// and `None` at the end.
    fn seek(&mut self, number: u32, buffer: &mut Buffer) -> Option<u32> {
        while let [block, rest @ ..] = self.blocks
            && block.last < number
        {
            (self.blocks, self.decoded, buffer.count, buffer.at) = (rest, false, 0, 0);
        }
        if !self.decoded {
            return self.blocks.first().map(|block| block.first.max(number));
        }
        while buffer.at < buffer.count && buffer.numbers[buffer.at] < number {
            buffer.at += 1;
        }
        (buffer.at < buffer.count).then(|| buffer.numbers[buffer.at])
    }

    /// Upper bound of a contribution to any document below `end`.
    fn bound_below(&self, end: u32, contribution: Contribution) -> u64 {
        let block_bound =
            |block: &Block| contribution.of(self.weight, block.frequency_max, block.length_min);
        let blocks = self.blocks.iter().take_while(|block| block.first < end);
        let bound = blocks.map(block_bound).max();
        bound.map_or(self.short_bound, |bound| bound * self.times)
    }

    /// Calls `each` with (number, frequency) of the postings from `start` to below `end`, and passes
    /// them. A search that goes on within a block finds the block's beginning again, and leaves it out.
    fn drain(&mut self, start: u32, end: u32, buffer: &mut Buffer, mut each: impl FnMut(u32, u32)) {
        loop {
            if !self.decoded {
                let Some(block) = self.blocks.first().filter(|block| block.first < end) else {
                    return;
                };
                buffer.fill(block.postings());
                self.decoded = true;
            }
            while buffer.at < buffer.count && buffer.numbers[buffer.at] < end {
                if buffer.numbers[buffer.at] >= start {
                    each(buffer.numbers[buffer.at], buffer.frequencies[buffer.at]);
                }
                buffer.at += 1;
            }
            if buffer.at < buffer.count || self.blocks.is_empty() {
                return;
            }
            self.blocks = &self.blocks[1..];
            (self.decoded, buffer.count, buffer.at) = (false, 0, 0);
        }
    }
}

/// One search under way.
struct Search<'a, 'q> {
    query: &'a Bm25Query<'q>,
    contribution: Contribution,
    /// Length of each node's document, plus one.
    lengths: &'a [u32],
    scratch: &'a mut Scratch,
    running: &'a mut Running,
    /// Postings that this step may still look at.
    left: usize,
}

/// Looks on for the best documents, within about `work` postings; whether anything is left.
/// `lengths` holds each node's length plus one.
pub(super) fn step(
    query: &Bm25Query<'_>,
    terms: &[QueryTerm<'_>],
    lengths: &[u32],
    scratch: &mut Scratch,
    running: &mut Running,
    work: usize,
) -> Progress {
    if query.k == 0 || terms.is_empty() {
        return Progress::Done;
    }
    let contribution = Contribution::new(query.average_length);
    let mut buffers = std::mem::take(&mut scratch.buffers);
    buffers.resize(terms.len().max(buffers.len()), Buffer::EMPTY);
    let mut cursors: Vec<Cursor<'_>> = terms
        .iter()
        .zip(&mut buffers)
        .map(|(term, buffer)| Cursor::new(term, buffer).bounded(buffer, contribution, lengths))
        .collect();
    let mut search = Search { query, contribution, lengths, scratch, running, left: work };
    let progress = search.run(&mut cursors, &mut buffers);
    scratch.buffers = buffers;
    progress
}

impl Search<'_, '_> {
    fn run(&mut self, cursors: &mut [Cursor<'_>], buffers: &mut [Buffer]) -> Progress {
        let mut order: Vec<usize> = (0..cursors.len()).collect();
        while self.left > 0 {
            let from = self.running.from;
            let next = |(cursor, buffer): (&mut Cursor<'_>, &mut Buffer)| cursor.seek(from, buffer);
            let Some(start) = cursors.iter_mut().zip(&mut *buffers).filter_map(next).min() else {
                return Progress::Done;
            };
            let end = start.saturating_add(WINDOW as u32);
            self.window(start, end, cursors, buffers, &mut order);
            self.running.from = end;
            self.left = self.left.saturating_sub(WINDOW_POSTINGS);
        }
        Progress::More
    }

    /// Scores the documents from `start` to below `end` that can enter the answer.
    fn window(
        &mut self,
        start: u32,
        end: u32,
        cursors: &mut [Cursor<'_>],
        buffers: &mut [Buffer],
        order: &mut [usize],
    ) {
        for (cursor, buffer) in cursors.iter_mut().zip(&mut *buffers) {
            let within = cursor.seek(start, buffer).is_some_and(|number| number < end);
            cursor.bound = if within { cursor.bound_below(end, self.contribution) } else { 0 };
        }
        order.sort_unstable_by_key(|&at| Reverse(cursors[at].bound));
        let mut left: u64 = cursors.iter().map(|cursor| cursor.bound).sum();
        let mut entered = false;
        for &at in &*order {
            let (cursor, buffer) = (&mut cursors[at], &mut buffers[at]);
            if cursor.bound == 0 {
                break;
            }
            if left >= self.running.floor {
                self.enter(start, end, cursor, buffer);
                entered = true;
            } else if !entered || !self.drop_hopeless(left) {
                break;
            } else {
                self.look_up(start, end, cursor, buffer);
            }
            left -= cursor.bound;
        }
        if entered {
            self.rank(start);
        }
    }

    /// Adds a term to every document of the window that holds it.
    fn enter(&mut self, start: u32, end: u32, cursor: &mut Cursor<'_>, buffer: &mut Buffer) {
        let (weight, times) = (cursor.weight, cursor.times);
        let (sums, touched) = (&mut self.scratch.sums, &mut self.scratch.touched);
        let mut count = 0;
        cursor.drain(start, end, buffer, |number, frequency| {
            count += 1;
            let at = (number - start) as usize % WINDOW;
            let length = self.lengths[number as usize] - 1;
            sums[at] += times * self.contribution.of(weight, frequency, length);
            touched[at / 64] |= 1 << (at % 64);
        });
        self.left = self.left.saturating_sub(count);
    }

    /// Adds a term to the documents of the window that are still in the run.
    fn look_up(&mut self, start: u32, end: u32, cursor: &mut Cursor<'_>, buffer: &mut Buffer) {
        let (weight, times) = (cursor.weight, cursor.times);
        let (sums, touched) = (&mut self.scratch.sums, &self.scratch.touched);
        let mut count = 0;
        cursor.drain(start, end, buffer, |number, frequency| {
            count += 1;
            let at = (number - start) as usize % WINDOW;
            if touched[at / 64] & (1 << (at % 64)) != 0 {
                let length = self.lengths[number as usize] - 1;
                sums[at] += times * self.contribution.of(weight, frequency, length);
            }
        });
        self.left = self.left.saturating_sub(count);
    }

    /// Drops documents whose sum cannot reach the floor with `left` more; whether any is left.
    fn drop_hopeless(&mut self, left: u64) -> bool {
        let mut any = false;
        for (word, touched) in self.scratch.touched.iter_mut().enumerate() {
            let mut bits = *touched;
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let sum = &mut self.scratch.sums[word * 64 + bit];
                if *sum + left < self.running.floor {
                    *sum = 0;
                    *touched &= !(1 << bit);
                }
            }
            any |= *touched != 0;
        }
        any
    }

    /// Takes the documents of the window into the answer where they are good enough.
    fn rank(&mut self, start: u32) {
        for word in 0..self.scratch.touched.len() {
            let mut bits = std::mem::take(&mut self.scratch.touched[word]);
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let sum = std::mem::take(&mut self.scratch.sums[at]);
                if sum >= self.running.floor.max(1) {
                    self.offer(start + at as u32, sum);
                }
            }
        }
    }

    fn offer(&mut self, node: u32, sum: u64) {
        let key = Reverse(self.query.keys[node as usize]);
        let ranked = Ranked { score: score(sum).to_bits(), key, node };
        let best = &mut self.running.best;
        let full = best.len() == self.query.k;
        let worse = full && best.peek().is_some_and(|worst| ranked < worst.0);
        if worse || self.query.accept.is_some_and(|accept| !accept(NodeIx(node))) {
            return;
        }
        if full {
            best.pop();
        }
        best.push(Reverse(ranked));
        if best.len() == self.query.k
            && let Some(Reverse(worst)) = best.peek()
        {
            self.running.floor = sum_floor(f32::from_bits(worst.score));
        }
    }
}

/// The numbers that all of `lists` hold, ascending; the shortest list comes first.
pub(super) fn intersection(lists: &[&Postings]) -> Vec<u32> {
    let Some((first, rest)) = lists.split_first() else { return Vec::new() };
    let mut numbers: Vec<u32> = first.collect().iter().map(|posting| posting.number).collect();
    for &postings in rest {
        let term = QueryTerm { postings, weight: 0.0, times: 0 };
        let mut buffer = Buffer::EMPTY;
        let mut cursor = Cursor::new(&term, &mut buffer);
        numbers.retain(|&number| cursor.holds(number, &mut buffer));
    }
    numbers
}
