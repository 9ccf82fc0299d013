//! Postings of one term: ascending numbers with a frequency each, in compressed blocks.
//!
//! *Invariants*: numbers ascend strictly; a block holds 1 to [`BLOCK_POSTINGS`] of them; a block's
//! `frequency_max` is never below a frequency in it, nor its `length_min` above a document's
//! length, so that a score made of the two is an upper bound.
//!
//! *Not here*: scores (`search`), which term it is (`index`).

use crate::image::{Reader, Unsound, Writer, ensure};

/// Most postings in one block.
pub(super) const BLOCK_POSTINGS: usize = 128;
/// A list shrinks back to one block without a head at this many postings.
const SHORT_AGAIN: usize = BLOCK_POSTINGS / 2;

/// A number (of a node, or of a term) and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posting {
    pub number: u32,
    pub frequency: u32,
}

/// Appends `posting`; `next` is the smallest number that may come.
///
/// A posting is one varint of twice the gap, plus one if the frequency is above one and follows.
pub(super) fn encode(bytes: &mut Vec<u8>, next: u32, posting: Posting) {
    let gap = u64::from(posting.number - next);
    push_varint(bytes, gap << 1 | u64::from(posting.frequency > 1));
    if posting.frequency > 1 {
        push_varint(bytes, u64::from(posting.frequency - 2));
    }
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Encodes a whole sequence whose first number is at least `next`.
pub(super) fn encode_all(mut next: u32, postings: &[Posting]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(postings.len() * 2 + 4);
    for &posting in postings {
        encode(&mut bytes, next, posting);
        next = posting.number + 1;
    }
    bytes
}

/// Reads what [`encode_all`] wrote.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    next: u32,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(next: u32, bytes: &'a [u8]) -> Self {
        Self { bytes, next }
    }

    fn varint(&mut self) -> u64 {
        let mut value = 0u64;
        let mut shift = 0;
        while let Some((&byte, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
            shift += 7;
        }
        value
    }
}

impl Iterator for Decoder<'_> {
    type Item = Posting;

    #[inline]
    fn next(&mut self) -> Option<Posting> {
        if self.bytes.is_empty() {
            return None;
        }
        let code = self.varint();
        let number = self.next.wrapping_add((code >> 1) as u32);
        let frequency = if code & 1 == 0 { 1 } else { 2 + self.varint() as u32 };
        self.next = number.wrapping_add(1);
        Some(Posting { number, frequency })
    }
}

/// A block of a long list.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub first: u32,
    pub last: u32,
    pub length_min: u32,
    pub frequency_max: u32,
    count: u32,
    bytes: Vec<u8>,
}

impl Block {
    fn new(postings: &[Posting], lengths: &impl Fn(u32) -> u32) -> Self {
        let (first, last) = match postings {
            [first, .., last] => (first.number, last.number),
            [only] => (only.number, only.number),
            [] => unreachable!("a block holds at least one posting"),
        };
        let length_min = postings.iter().map(|posting| lengths(posting.number)).min();
        let frequency_max = postings.iter().map(|posting| posting.frequency).max();
        Self {
            first,
            last,
            length_min: length_min.unwrap_or_default(),
            frequency_max: frequency_max.unwrap_or_default(),
            count: postings.len() as u32,
            bytes: encode_all(first, postings),
        }
    }

    fn append(&mut self, posting: Posting, length: u32) {
        encode(&mut self.bytes, self.last + 1, posting);
        self.last = posting.number;
        self.count += 1;
        self.length_min = self.length_min.min(length);
        self.frequency_max = self.frequency_max.max(posting.frequency);
        if self.count as usize == BLOCK_POSTINGS {
            self.bytes.shrink_to_fit();
        }
    }

    pub(super) fn postings(&self) -> Decoder<'_> {
        Decoder::new(self.first, &self.bytes)
    }
}

/// The postings of one term.
#[derive(Clone, Debug, Default)]
pub(super) enum Postings {
    /// None: the term is not in use.
    #[default]
    Empty,
    /// One, inline.
    One(Posting),
    /// At most [`BLOCK_POSTINGS`], numbered from 0.
    Short(Box<[u8]>),
    /// Blocks in ascending order.
    Long(Vec<Block>),
}

const EMPTY: u8 = 0;
const ONE: u8 = 1;
const SHORT: u8 = 2;
const LONG: u8 = 3;

impl Postings {
    /// Writes the list into an image.
    pub(super) fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Empty => out.u8(EMPTY),
            Self::One(Posting { number, frequency }) => {
                out.u8(ONE);
                out.u32(*number);
                out.u32(*frequency);
            }
            Self::Short(bytes) => {
                out.u8(SHORT);
                out.pods(bytes);
            }
            Self::Long(blocks) => {
                out.u8(LONG);
                out.count(blocks.len());
                for Block { first, last, length_min, frequency_max, count, bytes } in blocks {
                    for value in [first, last, length_min, frequency_max, count] {
                        out.u32(*value);
                    }
                    out.pods(bytes);
                }
            }
        }
    }

    /// Reads what [`Postings::write`] wrote.
    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        match input.u8()? {
            EMPTY => Ok(Self::Empty),
            ONE => Ok(Self::One(Posting { number: input.u32()?, frequency: input.u32()? })),
            SHORT => Ok(Self::Short(input.pods()?.into_boxed_slice())),
            LONG => {
                let mut blocks = Vec::new();
                for _ in 0..input.count()? {
                    blocks.push(Block {
                        first: input.u32()?,
                        last: input.u32()?,
                        length_min: input.u32()?,
                        frequency_max: input.u32()?,
                        count: input.u32()?,
                        bytes: input.pods()?,
                    });
                }
                ensure(!blocks.is_empty(), "a list of postings")?;
                Ok(Self::Long(blocks))
            }
            _ => Err(Unsound::Content("a list of postings")),
        }
    }

    /// Every number passes; also those at the ends of blocks.
    pub(super) fn all_within(&self, within: &impl Fn(u32) -> bool) -> bool {
        match self {
            Self::Empty => true,
            Self::One(posting) => within(posting.number),
            Self::Short(bytes) => Decoder::new(0, bytes).all(|p| within(p.number)),
            Self::Long(blocks) => blocks.iter().all(|block| {
                let mut count = 0;
                let fits = block.postings().all(|posting| {
                    count += 1;
                    (block.first..=block.last).contains(&posting.number) && within(posting.number)
                });
                fits && count == block.count && count > 0 && block.first <= block.last
            }),
        }
    }

    /// Adds a posting whose number is not there yet; `lengths` gives a document's length.
    pub(super) fn insert(&mut self, posting: Posting, lengths: &impl Fn(u32) -> u32) {
        match self {
            Self::Empty => *self = Self::One(posting),
            Self::One(_) | Self::Short(_) => {
                let mut postings = self.collect();
                insert_sorted(&mut postings, posting);
                *self = if postings.len() <= BLOCK_POSTINGS {
                    Self::Short(encode_all(0, &postings).into_boxed_slice())
                } else {
                    let (left, right) = postings.split_at(BLOCK_POSTINGS);
                    Self::Long(vec![Block::new(left, lengths), Block::new(right, lengths)])
                };
            }
            Self::Long(blocks) => insert_long(blocks, posting, lengths),
        }
    }

    /// Removes the posting of `number`, which is there.
    pub(super) fn remove(&mut self, number: u32, lengths: &impl Fn(u32) -> u32) {
        if let Self::Long(blocks) = self {
            remove_long(blocks, number, lengths);
            let total: usize = blocks.iter().map(|block| block.count as usize).sum();
            if blocks.len() == 1 || total <= SHORT_AGAIN {
                *self = Self::Short(encode_all(0, &self.collect()).into_boxed_slice());
            }
            return;
        }
        let mut postings = self.collect();
        postings.retain(|posting| posting.number != number);
        *self = match postings.as_slice() {
            [] => Self::Empty,
            [only] => Self::One(*only),
            several => Self::Short(encode_all(0, several).into_boxed_slice()),
        };
    }

    /// All of them in order.
    pub(super) fn collect(&self) -> Vec<Posting> {
        match self {
            Self::Empty => Vec::new(),
            Self::One(posting) => vec![*posting],
            Self::Short(bytes) => Decoder::new(0, bytes).collect(),
            Self::Long(blocks) => blocks.iter().flat_map(Block::postings).collect(),
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Empty | Self::One(_) => 0,
            Self::Short(bytes) => bytes.len(),
            Self::Long(blocks) => {
                let heads = blocks.capacity() * size_of::<Block>();
                heads + blocks.iter().map(|block| block.bytes.capacity()).sum::<usize>()
            }
        }
    }
}

fn insert_sorted(postings: &mut Vec<Posting>, posting: Posting) {
    let at = postings.partition_point(|other| other.number < posting.number);
    postings.insert(at, posting);
}

fn insert_long(blocks: &mut Vec<Block>, posting: Posting, lengths: &impl Fn(u32) -> u32) {
    let at = blocks.partition_point(|block| block.last < posting.number);
    if at == blocks.len() {
        match blocks.last_mut() {
            Some(last) if (last.count as usize) < BLOCK_POSTINGS => {
                last.append(posting, lengths(posting.number));
            }
            _ => blocks.push(Block::new(&[posting], lengths)),
        }
        return;
    }
    let mut postings: Vec<Posting> = blocks[at].postings().collect();
    insert_sorted(&mut postings, posting);
    if postings.len() <= BLOCK_POSTINGS {
        blocks[at] = Block::new(&postings, lengths);
    } else {
        let (left, right) = postings.split_at(postings.len() / 2);
        blocks[at] = Block::new(left, lengths);
        blocks.insert(at + 1, Block::new(right, lengths));
    }
}

fn remove_long(blocks: &mut Vec<Block>, number: u32, lengths: &impl Fn(u32) -> u32) {
    let at = blocks.partition_point(|block| block.last < number);
    let mut postings: Vec<Posting> = blocks[at].postings().collect();
    postings.retain(|posting| posting.number != number);
    if postings.is_empty() {
        blocks.remove(at);
    } else {
        blocks[at] = Block::new(&postings, lengths);
    }
}
