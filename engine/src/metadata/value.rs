//! A metadata value in one word and a tag, and how JSON becomes such values.
//!
//! *Invariants*: two numbers are equal in value exactly where their tag and word are equal, whether
//! they were written as integers or as floats.
//!
//! *Not here*: which memory has which value (`metadata`).

use serde_json::{Number, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::{Metadata, Timestamp};

/// What the word of an entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tag {
    /// Something is there that is no scalar: an object or an array with elements.
    Present,
    /// 0 or 1.
    Boolean,
    /// An `i64`.
    Integer,
    /// A `u64` above the largest `i64`.
    Unsigned,
    /// An `f64` that is no integer or lies outside of the integers.
    Float,
    /// The number of an interned string.
    Text,
    /// An `f64`: a string's point in time in microseconds; it stands beside the `Text` entry.
    Time,
}

const TAGS: [Tag; 7] =
    [Tag::Present, Tag::Boolean, Tag::Integer, Tag::Unsigned, Tag::Float, Tag::Text, Tag::Time];

/// A tag and its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Coded {
    /// What the word means.
    pub tag: Tag,
    /// The word.
    pub word: u64,
}

impl Coded {
    /// The mark of something that is there and is no scalar.
    pub const PRESENT: Self = Self { tag: Tag::Present, word: 0 };

    /// A boolean.
    pub fn boolean(value: bool) -> Self {
        Self { tag: Tag::Boolean, word: u64::from(value) }
    }

    /// A number, the same for 1 and 1.0.
    pub fn number(number: &Number) -> Self {
        if let Some(integer) = number.as_i64() {
            return Self::integer(integer);
        }
        if let Some(unsigned) = number.as_u64() {
            return Self { tag: Tag::Unsigned, word: unsigned };
        }
        Self::float(number.as_f64().unwrap_or(f64::NAN))
    }

    /// An integer.
    pub fn integer(integer: i64) -> Self {
        Self { tag: Tag::Integer, word: integer.cast_unsigned() }
    }

    fn float(float: f64) -> Self {
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        if float.fract() == 0.0 && (-TWO_63..TWO_63).contains(&float) {
            return Self::integer(float as i64);
        }
        if float.fract() == 0.0 && (TWO_63..2.0 * TWO_63).contains(&float) {
            return Self { tag: Tag::Unsigned, word: float as u64 };
        }
        Self { tag: Tag::Float, word: float.to_bits() }
    }

    /// The interned string of this number.
    pub fn text(number: u32) -> Self {
        Self { tag: Tag::Text, word: u64::from(number) }
    }

    /// The number of the interned string; the tag is `Text`.
    pub fn string_number(self) -> u32 {
        assert_eq!(self.tag, Tag::Text, "only a string has a number");
        u32::try_from(self.word).expect("made from 32 bits")
    }

    /// A point in time.
    pub fn time(at: Timestamp) -> Self {
        Self { tag: Tag::Time, word: (at.0 as f64).to_bits() }
    }

    /// Where the value lies on the line of a range, if it has a place there.
    pub fn place(self) -> Option<f64> {
        match self.tag {
            Tag::Integer => Some(self.word.cast_signed() as f64),
            Tag::Unsigned => Some(self.word as f64),
            Tag::Float | Tag::Time => Some(f64::from_bits(self.word)),
            Tag::Present | Tag::Boolean | Tag::Text => None,
        }
    }
}

/// A key and what a memory has under it, in twelve bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Entry {
    /// Number of the key, above the tag.
    key_and_tag: u32,
    high: u32,
    low: u32,
}

/// What the postings go by: a key and the string or boolean under it.
pub type Posted = u64;

impl Entry {
    /// Most keys that an entry can tell apart.
    pub const KEYS_MAX: u32 = 1 << 24;

    /// Packs a key's number and a value.
    pub fn new(key: u32, value: Coded) -> Self {
        assert!(key < Self::KEYS_MAX, "the bound on keys leaves room for the tag");
        let (high, low) = ((value.word >> 32) as u32, value.word as u32);
        Self { key_and_tag: key << 8 | value.tag as u32, high, low }
    }

    /// The tag is one; what is read from an image is believed only after this.
    pub fn is_sound(self) -> bool {
        let tag = TAGS.get((self.key_and_tag & 0xFF) as usize);
        tag.is_some_and(|tag| *tag != Tag::Text || self.high == 0)
    }

    /// Number of the key.
    pub fn key(self) -> u32 {
        self.key_and_tag >> 8
    }

    /// The value.
    pub fn value(self) -> Coded {
        let tag = TAGS[(self.key_and_tag & 0xFF) as usize];
        Coded { tag, word: u64::from(self.high) << 32 | u64::from(self.low) }
    }

    /// Under which postings a memory with this entry stands, if it is a string or a boolean.
    pub fn posted(self) -> Option<Posted> {
        let by_value = matches!(self.value().tag, Tag::Boolean | Tag::Text);
        by_value.then_some(u64::from(self.key_and_tag) << 32 | u64::from(self.low))
    }
}

/// A scalar, or the mark of something else, as it is found in JSON.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Codes without further ado.
    Coded(Coded),
    /// A string.
    Text(&'a str),
}

/// Calls `each` with every path of `metadata` and what is there.
///
/// The parts of a path are joined by dots; an array gives each of its elements under its own path.
pub fn for_each_value<'a>(metadata: &'a Metadata, each: &mut impl FnMut(&str, Found<'a>)) {
    let mut path = String::new();
    members(metadata, &mut path, each);
}

fn members<'a>(object: &'a Metadata, path: &mut String, each: &mut impl FnMut(&str, Found<'a>)) {
    for (key, value) in object {
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        visit(value, path, each);
        path.truncate(length);
    }
}

fn visit<'a>(value: &'a Value, path: &mut String, each: &mut impl FnMut(&str, Found<'a>)) {
    match value {
        Value::Null => {}
        Value::Bool(boolean) => each(path, Found::Coded(Coded::boolean(*boolean))),
        Value::Number(number) => each(path, Found::Coded(Coded::number(number))),
        Value::String(text) => each(path, Found::Text(text)),
        Value::Array(elements) => {
            if !elements.is_empty() {
                each(path, Found::Coded(Coded::PRESENT));
            }
            elements.iter().for_each(|element| visit(element, path, each));
        }
        Value::Object(object) => {
            each(path, Found::Coded(Coded::PRESENT));
            members(object, path, each);
        }
    }
}

/// The point in time that an RFC 3339 string names.
pub fn time_of(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let plausible = bytes.len() >= 20 && bytes[4] == b'-' && bytes[13] == b':';
    if !plausible {
        return None;
    }
    let nanoseconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    i64::try_from(nanoseconds.div_euclid(1000)).ok().map(Timestamp)
}
