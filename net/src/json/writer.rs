//! Writes views as JSON, byte for byte as `serde_json` does, in a fifth of its instructions: it looks
//! at strings byte by byte, and the answer of a recall is mostly strings.
//!
//! *Invariants*: what comes out is JSON; numbers that are not finite come out as `null`.
//!
//! *Not here*: what is in a view (`view`).

use std::fmt::Display;

use serde::Serialize;
use serde::ser::{self, Impossible, SerializeMap, SerializeSeq, SerializeStruct, Serializer};

use super::plain::plain;

/// Any view as bytes of JSON.
///
/// # Panics
/// As [`write`].
pub fn to_json(view: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    write(&mut bytes, view);
    bytes
}

/// Writes a view behind what is there.
///
/// # Panics
/// Where a view has parts that JSON has no word for, or that no view has: bytes, tuples, and
/// variants with fields.
pub fn write(out: &mut Vec<u8>, view: &impl Serialize) {
    view.serialize(Writer(out)).expect("views are made of what is written here");
}

/// What a view must not have.
#[derive(Debug)]
struct Unfit(String);

impl Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

impl ser::Error for Unfit {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

fn unfit<T>(what: &str) -> Result<T, Unfit> {
    Err(Unfit(format!("{what} in a view")))
}

struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    fn raw(self, text: &[u8]) -> Result<(), Unfit> {
        self.0.extend_from_slice(text);
        Ok(())
    }

    fn integer(self, value: impl itoa::Integer) -> Result<(), Unfit> {
        self.raw(itoa::Buffer::new().format(value).as_bytes())
    }

    fn opened(self, open: u8, close: u8) -> Parts<'a> {
        self.0.push(open);
        Parts { out: self.0, close, any: false }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    loop {
        let (kept, from) = rest.split_at(plain(rest));
        out.extend_from_slice(kept);
        let Some((special, behind)) = from.split_first() else { break };
        escape(out, *special);
        rest = behind;
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x8 => b'b',
        0xc => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// The parts of an array or of an object.
struct Parts<'a> {
    out: &'a mut Vec<u8>,
    close: u8,
    any: bool,
}

impl Parts<'_> {
    fn next(&mut self) {
        if self.any {
            self.out.push(b',');
        }
        self.any = true;
    }

    fn part(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Unfit> {
        value.serialize(Writer(self.out))
    }

    fn closed(self) {
        self.out.push(self.close);
    }
}

impl SerializeSeq for Parts<'_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unfit> {
        self.next();
        self.part(value)
    }

    fn end(self) -> Result<(), Unfit> {
        self.closed();
        Ok(())
    }
}

impl SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unfit> {
        self.next();
        let start = self.out.len();
        self.part(key)?;
        if self.out.get(start) == Some(&b'"') { Ok(()) } else { unfit("a key that is no string") }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unfit> {
        self.out.push(b':');
        self.part(value)
    }

    fn end(self) -> Result<(), Unfit> {
        self.closed();
        Ok(())
    }
}

impl SerializeStruct for Parts<'_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Unfit> {
        debug_assert_eq!(plain(key.as_bytes()), key.len(), "fields are named plainly");
        self.next();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.part(value)
    }

    fn end(self) -> Result<(), Unfit> {
        self.closed();
        Ok(())
    }
}

impl<'a> Serializer for Writer<'a> {
    type Ok = ();
    type Error = Unfit;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Impossible<(), Unfit>;
    type SerializeTupleStruct = Impossible<(), Unfit>;
    type SerializeTupleVariant = Impossible<(), Unfit>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Impossible<(), Unfit>;

    fn serialize_bool(self, value: bool) -> Result<(), Unfit> {
        self.raw(if value { b"true" } else { b"false" })
    }

    fn serialize_i8(self, value: i8) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_i16(self, value: i16) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_i32(self, value: i32) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_i64(self, value: i64) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_u8(self, value: u8) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_u16(self, value: u16) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_u32(self, value: u32) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_u64(self, value: u64) -> Result<(), Unfit> {
        self.integer(value)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Unfit> {
        if !value.is_finite() {
            return self.serialize_unit();
        }
        self.raw(zmij::Buffer::new().format_finite(value).as_bytes())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Unfit> {
        if !value.is_finite() {
            return self.serialize_unit();
        }
        self.raw(zmij::Buffer::new().format_finite(value).as_bytes())
    }

    fn serialize_char(self, value: char) -> Result<(), Unfit> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Unfit> {
        string(self.0, value);
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unfit> {
        unfit("bytes")
    }

    fn serialize_none(self) -> Result<(), Unfit> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unfit> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unfit> {
        self.raw(b"null")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unfit> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Unfit> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unfit> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Unfit> {
        unfit("a variant with a value")
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Unfit> {
        Ok(self.opened(b'[', b']'))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unfit> {
        unfit("a tuple")
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Unfit> {
        unfit("a tuple")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unfit> {
        unfit("a variant with values")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a>, Unfit> {
        Ok(self.opened(b'{', b'}'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Unfit> {
        Ok(self.opened(b'{', b'}'))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unfit> {
        unfit("a variant with fields")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn same(view: &impl Serialize) {
        let mut ours = b"before ".to_vec();
        write(&mut ours, view);
        let theirs = serde_json::to_string(view).expect("serialises");
        assert_eq!(String::from_utf8_lossy(&ours), format!("before {theirs}"));
    }

    #[derive(Serialize)]
    enum Unit {
        Variant,
    }

    #[derive(Serialize)]
    struct Wrapped(u64);

    #[derive(Serialize)]
    struct Everything<'a> {
        text: &'a str,
        character: char,
        none: Option<u8>,
        some: Option<Option<i8>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped: Option<bool>,
        unit: (),
        variant: Unit,
        wrapped: Wrapped,
        empty: Vec<u8>,
        numbers: Vec<i64>,
        map: BTreeMap<String, Vec<u16>>,
    }

    #[test]
    fn views_come_out_as_serde_json_writes_them() {
        same(&Everything {
            text: "a \"quoted\" \\ text",
            character: '\u{7f}',
            none: None,
            some: Some(Some(-128)),
            skipped: None,
            unit: (),
            variant: Unit::Variant,
            wrapped: Wrapped(u64::MAX),
            empty: Vec::new(),
            numbers: vec![0, -1, i64::MIN, i64::MAX],
            map: [("a".to_owned(), vec![]), ("\n".to_owned(), vec![1, 65535])].into(),
        });
        same(&json!({"a": [1, -2.5, null, true, {"b": {}}, []], "é": "😀", "": [[], [{}]]}));
        same(&Value::Null);
    }

    #[test]
    fn every_character_is_escaped_as_serde_json_does() {
        for code in 0..0x300 {
            let character = char::from_u32(code).expect("below surrogates");
            for before in [0, 1, 30, 31, 32, 33, 64] {
                same(&format!("{}{character}{character} behind", "x".repeat(before)));
            }
        }
    }

    #[test]
    fn numbers_have_the_digits_of_serde_json() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..50_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round | 1);
            same(&f64::from_bits(random));
            same(&f32::from_bits((random >> 32) as u32));
            same(&(random >> (random % 64)));
        }
        for number in [0.0, -0.0, 1.0, 1e15, 1e16, 1e-5, f64::NAN, f64::INFINITY] {
            same(&number);
            same(&(number as f32));
        }
    }

    #[test]
    fn what_json_has_no_key_for_is_refused() {
        let by_number: BTreeMap<u8, u8> = [(1, 2)].into();
        assert!(by_number.serialize(Writer(&mut Vec::new())).is_err());
        assert!((1, 2).serialize(Writer(&mut Vec::new())).is_err());
    }
}
