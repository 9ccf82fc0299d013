//! Reads JSON straight into the server's own types, and says where it does not fit.
//!
//! *Invariants*: the input is read once, front to back; nesting is bounded; what RFC 8259 does not
//! allow is refused; a refusal carries the JSON pointer of the value that does not fit.
//!
//! *Not here*: which fields the objects of the contract have (the neighbours of this file).

use std::borrow::Cow;

use engram_engine::limits;
use engram_engine::request::Code;
use serde_json::{Map, Number, Value};

use super::plain::plain;
use crate::error::{Checked, Fault, Problem};

/// A cursor over one JSON text.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    String,
    /// A digit or a minus.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `null`
    Null,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Null => "null",
        }
    }
}

/// Reads a whole body with `read`, and refuses what follows the value.
///
/// # Errors
/// Where the bytes are not UTF-8, not JSON, or not what `read` expects.
pub fn document<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Checked<T>,
) -> Checked<T> {
    let mut reader = Reader::over(bytes)?;
    let value = read(&mut reader)?;
    reader.end()?;
    Ok(value)
}

impl<'a> Reader<'a> {
    /// Begins to read.
    ///
    /// # Errors
    /// Where the bytes are not UTF-8.
    pub fn over(bytes: &'a [u8]) -> Checked<Self> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let detail = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
            Problem::new(Fault::InvalidUtf8, detail)
        })?;
        Ok(Self { text, at: 0, depth: 0 })
    }

    /// Refuses whatever follows what was read.
    ///
    /// # Errors
    /// Where something does.
    pub fn end(&mut self) -> Checked<()> {
        self.space();
        if self.at < self.text.len() {
            return Err(self.malformed("something follows the value"));
        }
        Ok(())
    }

    /// What comes next; moves past white space only.
    pub fn kind(&mut self) -> Checked<Kind> {
        self.space();
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') if self.ahead("true") || self.ahead("false") => Ok(Kind::Boolean),
            Some(b'n') if self.ahead("null") => Ok(Kind::Null),
            Some(_) => Err(self.malformed("a value was expected")),
            None => Err(self.malformed("the text ends where a value was expected")),
        }
    }

    /// Reads an object with none but the given fields, each at most once; `field` gets the index
    /// into `names` and must read the value.
    pub fn fields(
        &mut self,
        names: &[&'static str],
        mut field: impl FnMut(&mut Self, usize) -> Checked<()>,
    ) -> Checked<()> {
        debug_assert!(names.len() <= 64);
        let mut seen = 0_u64;
        self.members(|reader, key| {
            let index = names.iter().position(|name| *name == key).ok_or_else(|| {
                let known = names.join(", ");
                Problem::new(Fault::UnknownField, format!("unknown field; known are: {known}"))
            })?;
            if seen & (1 << index) != 0 {
                return Err(Problem::new(Fault::DuplicateField, "the field is there twice"));
            }
            seen |= 1 << index;
            field(reader, index)
        })
    }

    /// Reads an object of any fields; `member` gets each key and must read its value.
    pub fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Checked<()>,
    ) -> Checked<()> {
        self.expect(Kind::Object)?;
        self.enter()?;
        if self.closes(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.malformed("a field name was expected"));
            }
            let key = self.text_value()?;
            self.space();
            self.eat(b':', "a colon was expected")?;
            member(self, &key).map_err(|problem| problem.under(&key))?;
            if self.ends(b'}', "a comma or a closing brace was expected")? {
                return Ok(());
            }
        }
    }

    /// Reads an array of at most `most` elements; `element` must read one value.
    pub fn elements(
        &mut self,
        most: usize,
        mut element: impl FnMut(&mut Self, usize) -> Checked<()>,
    ) -> Checked<()> {
        self.open_array()?;
        let mut index = 0;
        while self.next_element(index, most)? {
            element(self, index).map_err(|problem| problem.under_index(index))?;
            index += 1;
        }
        Ok(())
    }

    /// Moves into an array, for callers that read it step by step.
    pub fn open_array(&mut self) -> Checked<()> {
        self.expect(Kind::Array)?;
        self.enter()
    }

    /// Moves to the element of that index, which is then to be read; false at the end of the array.
    pub fn next_element(&mut self, index: usize, most: usize) -> Checked<bool> {
        if self.closes(b']') {
            return Ok(false);
        }
        if index == most {
            let detail = format!("at most {most} elements are allowed here");
            return Err(Problem::new(Code::LimitExceeded, detail));
        }
        if index > 0 {
            self.eat(b',', "a comma or a closing bracket was expected")?;
        }
        Ok(true)
    }

    /// Reads a string.
    pub fn string(&mut self) -> Checked<Cow<'a, str>> {
        self.expect(Kind::String)?;
        self.text_value()
    }

    /// Reads `true` or `false`.
    pub fn boolean(&mut self) -> Checked<bool> {
        self.expect(Kind::Boolean)?;
        let value = self.peek() == Some(b't');
        self.at += if value { 4 } else { 5 };
        Ok(value)
    }

    /// Moves past `null`, if that comes next.
    pub fn null(&mut self) -> Checked<bool> {
        if self.kind()? != Kind::Null {
            return Ok(false);
        }
        self.at += 4;
        Ok(true)
    }

    /// Reads a value that may be `null`.
    pub fn nullable<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Checked<T>,
    ) -> Checked<Option<T>> {
        if self.null()? { Ok(None) } else { read(self).map(Some) }
    }

    /// Reads a number as f32, by way of f64; one that is infinite as f32 is refused.
    pub fn float(&mut self) -> Checked<f32> {
        let scanned = self.number()?;
        let value = self.value_of(&scanned)? as f32;
        if !value.is_finite() {
            let digits = scanned.digits;
            let detail = format!("{digits} is beyond the range of 32-bit floating point");
            return Err(Problem::new(Code::InvalidValue, detail));
        }
        Ok(value)
    }

    /// Reads a number as f64; one that is infinite as f64 is refused.
    pub fn double(&mut self) -> Checked<f64> {
        let scanned = self.number()?;
        let value = self.value_of(&scanned)?;
        if !value.is_finite() {
            let digits = scanned.digits;
            let detail = format!("{digits} is beyond the range of 64-bit floating point");
            return Err(Problem::new(Code::InvalidValue, detail));
        }
        Ok(value)
    }

    /// Reads a whole number within a range.
    pub fn integer(&mut self, range: std::ops::RangeInclusive<u64>) -> Checked<u64> {
        let digits = self.number()?.digits;
        if let Ok(value) = digits.parse()
            && range.contains(&value)
        {
            return Ok(value);
        }
        match whole(digits) {
            Some(value) if range.contains(&value) => Ok(value),
            None if digits.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) => {
                let detail = format!("expected a whole number, found {digits}");
                Err(Problem::new(Fault::InvalidType, detail))
            }
            Some(_) | None => {
                let (low, high) = (range.start(), range.end());
                let detail = format!("expected {low} to {high}, found {digits}");
                Err(Problem::new(Code::InvalidValue, detail))
            }
        }
    }

    /// Reads any value, counting the members of its objects in `keys`.
    pub fn value(&mut self, keys: &mut usize) -> Checked<Value> {
        Ok(match self.kind()? {
            Kind::Object => Value::Object(self.map(keys)?),
            Kind::Array => {
                let mut values = Vec::new();
                self.elements(usize::MAX, |reader, _| {
                    values.push(reader.value(keys)?);
                    Ok(())
                })?;
                Value::Array(values)
            }
            Kind::String => Value::String(self.text_value()?.into_owned()),
            Kind::Number => Value::Number(self.any_number()?),
            Kind::Boolean => Value::Bool(self.boolean()?),
            Kind::Null => {
                self.at += 4;
                Value::Null
            }
        })
    }

    /// Reads an object of any content, counting members in `keys`; a key twice is refused.
    pub fn map(&mut self, keys: &mut usize) -> Checked<Map<String, Value>> {
        let mut map = Map::new();
        self.members(|reader, key| {
            *keys += 1;
            let value = reader.value(keys)?;
            match map.insert(key.to_owned(), value) {
                None => Ok(()),
                Some(_) => Err(Problem::new(Fault::DuplicateField, "the field is there twice")),
            }
        })?;
        Ok(map)
    }

    /// Where the next value begins, in bytes.
    pub fn position(&mut self) -> usize {
        self.space();
        self.at
    }

    /// A refusal of what comes next, which is not `wanted`.
    pub fn unfit(&mut self, wanted: &str) -> Box<Problem> {
        match self.kind() {
            Ok(kind) => {
                let detail = format!("expected {wanted}, found {}", kind.name());
                Problem::new(Fault::InvalidType, detail)
            }
            Err(problem) => problem,
        }
    }

    fn expect(&mut self, wanted: Kind) -> Checked<()> {
        if self.kind()? == wanted { Ok(()) } else { Err(self.unfit(wanted.name())) }
    }

    fn enter(&mut self) -> Checked<()> {
        self.at += 1;
        self.depth += 1;
        if self.depth > limits::JSON_DEPTH_MAX {
            let detail = format!("JSON is nested at most {} deep", limits::JSON_DEPTH_MAX);
            return Err(Problem::new(Code::LimitExceeded, detail));
        }
        Ok(())
    }

    fn closes(&mut self, close: u8) -> bool {
        self.space();
        let closed = self.peek() == Some(close);
        if closed {
            self.at += 1;
            self.depth -= 1;
        }
        closed
    }

    fn ends(&mut self, close: u8, otherwise: &str) -> Checked<bool> {
        if self.closes(close) {
            return Ok(true);
        }
        self.eat(b',', otherwise)?;
        Ok(false)
    }

    fn eat(&mut self, byte: u8, otherwise: &str) -> Checked<()> {
        if self.peek() != Some(byte) {
            return Err(self.malformed(otherwise));
        }
        self.at += 1;
        Ok(())
    }

    fn ahead(&self, word: &str) -> bool {
        self.text.as_bytes()[self.at..].starts_with(word.as_bytes())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn malformed(&self, what: &str) -> Box<Problem> {
        let ended = if self.at >= self.text.len() { " (the text ends here)" } else { "" };
        let detail = format!("{what} at byte {}{ended}", self.at);
        Problem::new(Fault::MalformedJson, detail)
    }

    /// A number, checked against the grammar of RFC 8259.
    fn number(&mut self) -> Checked<Scanned<'a>> {
        self.expect(Kind::Number)?;
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let zero = self.peek() == Some(b'0');
        let mut mantissa = 0;
        let mut count = self.digits(&mut mantissa)?;
        if zero && count > 1 {
            return Err(self.malformed("a number has no leading zeros"));
        }
        let mut exponent = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            let fraction = self.digits(&mut mantissa)?;
            count += fraction;
            exponent -= i64::try_from(fraction).unwrap_or(i64::MAX);
        }
        if let Some(b'e' | b'E') = self.peek() {
            exponent = exponent.saturating_add(self.exponent()?);
        }
        let digits = &self.text[start..self.at];
        // Both factors are exact as f64, so their product or quotient is rounded once (Clinger).
        let exact = count <= 19 && mantissa < 1 << 53 && exponent.unsigned_abs() <= 22;
        let fast = exact.then(|| scaled(mantissa, exponent, negative));
        Ok(Scanned { digits, fast })
    }

    fn exponent(&mut self) -> Checked<i64> {
        self.at += 1;
        let negative = self.peek() == Some(b'-');
        if let Some(b'+' | b'-') = self.peek() {
            self.at += 1;
        }
        let mut exponent = 0;
        let count = self.digits(&mut exponent)?;
        let exponent = if count > 10 { 1 << 40 } else { exponent.cast_signed() };
        Ok(if negative { -exponent } else { exponent })
    }

    /// Moves past at least one digit; adds up to 19 of them to `sum`, more make it meaningless.
    fn digits(&mut self, sum: &mut u64) -> Checked<usize> {
        let rest = &self.text.as_bytes()[self.at..];
        let mut count = 0;
        while let Some(digit @ 0..=9) = rest.get(count).map(|byte| byte.wrapping_sub(b'0')) {
            *sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
            count += 1;
        }
        self.at += count;
        if count == 0 {
            return Err(self.malformed("a digit was expected"));
        }
        Ok(count)
    }

    fn value_of(&self, scanned: &Scanned<'_>) -> Checked<f64> {
        match scanned.fast {
            Some(value) => Ok(value),
            None => scanned.digits.parse().map_err(|_| self.malformed("not a number")),
        }
    }

    fn any_number(&mut self) -> Checked<Number> {
        let start = self.at;
        let digits = self.number()?.digits;
        if let Ok(whole) = digits.parse::<u64>() {
            return Ok(whole.into());
        }
        if let Ok(whole) = digits.parse::<i64>()
            && digits != "-0"
        {
            return Ok(whole.into());
        }
        self.at = start;
        let double = self.double()?;
        Ok(Number::from_f64(double).expect("finite was checked"))
    }

    /// A string, the cursor being on its opening quote.
    fn text_value(&mut self) -> Checked<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        self.skip_plain();
        match self.peek() {
            Some(b'"') => {
                let text = &self.text[start..self.at];
                self.at += 1;
                Ok(Cow::Borrowed(text))
            }
            Some(b'\\') => self.escaped_text(start).map(Cow::Owned),
            Some(_) => Err(self.malformed("a control character is escaped")),
            None => Err(self.malformed("a string is not closed")),
        }
    }

    /// Moves to the next quote, backslash or control character.
    fn skip_plain(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += plain(rest);
    }

    /// The rest of a string from its first escape on.
    fn escaped_text(&mut self, start: usize) -> Checked<String> {
        let mut text = self.text[start..self.at].to_owned();
        loop {
            let plain = self.at;
            self.skip_plain();
            text.push_str(&self.text[plain..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                Some(_) => return Err(self.malformed("a control character is escaped")),
                None => return Err(self.malformed("a string is not closed")),
            }
        }
    }

    fn escape(&mut self) -> Checked<char> {
        let Some(byte) = self.peek() else {
            return Err(self.malformed("a string is not closed"));
        };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return Err(self.malformed("an escape is not known")),
        })
    }

    fn unicode_escape(&mut self) -> Checked<char> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                return Err(self.malformed("half of a surrogate pair stands alone"));
            }
            self.at += 2;
            let second = self.hex4()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.malformed("half of a surrogate pair stands alone"));
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.malformed("half of a surrogate pair stands alone"))
    }

    fn hex4(&mut self) -> Checked<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(code) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            return Err(self.malformed("four hexadecimal digits were expected"));
        };
        self.at += 4;
        Ok(code)
    }
}

/// A number as it stands in the text, and its value where that is cheap to know.
struct Scanned<'a> {
    digits: &'a str,
    fast: Option<f64>,
}

/// A mantissa times a power of ten between -22 and 22.
fn scaled(mantissa: u64, exponent: i64, negative: bool) -> f64 {
    const POWERS: [f64; 23] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
        1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
    ];
    let power = POWERS[exponent.unsigned_abs() as usize];
    let value = mantissa as f64;
    let value = if exponent < 0 { value / power } else { value * power };
    if negative { -value } else { value }
}

/// A whole number that is written with a fraction of zero or an exponent, such as `5.0`.
fn whole(digits: &str) -> Option<u64> {
    let value: f64 = digits.parse().ok()?;
    let exact = value.fract() == 0.0 && (0.0..9e15).contains(&value);
    exact.then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Checked<Value> {
        document(bytes, |reader| reader.value(&mut 0))
    }

    /// The same text read by this reader and by `serde_json`: the same value, or refused by both.
    fn compare(bytes: &[u8]) {
        let ours = read(bytes);
        let theirs = serde_json::from_slice::<Value>(bytes);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => {
                assert!(is_same(&ours, &theirs), "{}: {ours} {theirs}", show(bytes));
            }
            (Err(_), Err(_)) => {}
            (Err(problem), Ok(_)) => {
                let stricter = [Fault::DuplicateField.into(), Code::LimitExceeded.into()];
                assert!(stricter.contains(&problem.reason), "{}: {problem:?}", show(bytes));
            }
            (Ok(_), Err(error)) => panic!("{}: {error}", show(bytes)),
        }
    }

    /// Equal, but for the last bit of a float, which `serde_json` rounds carelessly by default.
    fn is_same(ours: &Value, theirs: &Value) -> bool {
        match (ours, theirs) {
            (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                (a - b).abs() <= a.abs() * f64::EPSILON + f64::MIN_POSITIVE
            }
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_same(a, b)))
            }
            (a, b) => a == b,
        }
    }

    fn show(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    const TEXTS: [&str; 8] = [
        r#"{"a":[1,-2.5e3,0,-0,-0.0,1E+2,1e-400,18446744073709551615,-9223372036854775808]}"#,
        r#"[true,false,null,"",{},[],[[]],{"":{}}]"#,
        r#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00 é 😀""#,
        " \t\r\n{ \"k\" : [ 1 , 2 ] } \n",
        r#"{"nested":{"deeper":{"deepest":["x",{"y":null}]}},"other":"value"}"#,
        "123456789012345678901234567890",
        r#"[0.1,1.5e308,5e-324,1e310]"#,
        r#"{"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]}"#,
    ];

    #[test]
    fn texts_mean_what_they_mean_to_serde_json() {
        for text in TEXTS {
            compare(text.as_bytes());
            for end in 0..text.len() {
                compare(&text.as_bytes()[..end]);
            }
        }
    }

    #[test]
    fn mutated_texts_mean_what_they_mean_to_serde_json() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let alphabet = b"{}[]\",:\\/.eE+-0123456789truefalsn u\t\n\x00\x1f\x7f\x80\xc3\xff";
        for _ in 0..100_000 {
            let mut bytes = TEXTS[next(TEXTS.len())].as_bytes().to_vec();
            for _ in 0..=next(3) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] = alphabet[next(alphabet.len())],
                    1 => bytes.insert(at, alphabet[next(alphabet.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            compare(&bytes);
        }
    }

    #[test]
    fn numbers_are_the_nearest_doubles() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..200_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round | 1);
            let value = f64::from_bits(random);
            let mantissa = random >> (random % 60);
            let texts = [
                format!("{value:e}"),
                format!("-0.{mantissa}"),
                format!("{mantissa}.{}e-{}", random % 1000, random % 40),
                format!("{}", f32::from_bits(random as u32)),
            ];
            for text in texts.iter().filter(|text| !text.contains(['N', 'i'])) {
                let read = document(text.as_bytes(), Reader::double).unwrap();
                let wanted: f64 = text.parse().unwrap();
                assert_eq!(read.to_bits(), wanted.to_bits(), "{text}");
            }
            let float = f32::from_bits(random as u32);
            if float.is_finite() {
                let text = format!("{float:e}");
                let read = document(text.as_bytes(), Reader::float).unwrap();
                assert_eq!(read.to_bits(), float.to_bits(), "{text}");
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for depth in [limits::JSON_DEPTH_MAX, limits::JSON_DEPTH_MAX + 1, 100_000] {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            assert_eq!(read(text.as_bytes()).is_ok(), depth <= limits::JSON_DEPTH_MAX, "{depth}");
        }
    }
}
