//! Paths and queries: percent-decoding and parameters.
//!
//! *Invariants*: a query holds none but known parameters, each once.
//!
//! *Not here*: what a parameter means (`operations`).

use std::borrow::Cow;

use crate::error::{Checked, Fault, Problem};

/// Most bytes of a query.
pub const QUERY_BYTES_MAX: usize = 16 << 10;

/// Percent-decodes, where the result is UTF-8 and each percent sign leads two hexadecimal digits.
pub fn decoded(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('%') {
        return Some(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let byte = digit(0)? * 16 + digit(1)?;
        bytes.push(u8::try_from(byte).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Encodes what may not stand in one segment of a path.
pub fn encoded_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The parameters of a query.
#[derive(Debug, Default)]
pub struct Query<'a> {
    pairs: Vec<(&'static str, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Reads a query that may hold the given parameters.
    ///
    /// # Errors
    /// Where it holds others, one twice, or what cannot be decoded.
    pub fn parse(raw: Option<&'a str>, known: &[&'static str]) -> Checked<Self> {
        let mut pairs: Vec<(&'static str, Cow<'a, str>)> = Vec::new();
        let raw = raw.unwrap_or_default();
        if raw.len() > QUERY_BYTES_MAX {
            let detail = format!("a query has at most {QUERY_BYTES_MAX} bytes");
            return Err(Problem::new(Fault::InvalidParameter, detail));
        }
        for part in raw.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = known.iter().copied().find(|known| *known == name).ok_or_else(|| {
                let detail = match known {
                    [] => "this path takes no parameters".to_owned(),
                    _ => format!("unknown parameter; known are: {}", known.join(", ")),
                };
                Problem::new(Fault::UnknownParameter, detail)
            })?;
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(invalid(name, "it is there twice"));
            }
            let value = form_decoded(value)
                .ok_or_else(|| invalid(name, "it is not percent-encoded UTF-8"))?;
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref())
    }
}

/// A refusal of a parameter's value.
pub fn invalid(name: &str, why: &str) -> Box<Problem> {
    Problem::new(Fault::InvalidParameter, format!("parameter `{name}`: {why}"))
}

/// As [`decoded`], with `+` for a blank, as forms and most libraries encode queries.
fn form_decoded(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('+') {
        return decoded(raw);
    }
    decoded(&raw.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for text in ["plain", "a/b c", "äöü%", "..", "\u{1f600}"] {
            assert_eq!(decoded(&encoded_segment(text)).unwrap(), text);
        }
    }

    #[test]
    fn broken_percent_signs_are_refused() {
        for raw in ["%", "%4", "%zz", "a%f", "%ff%fe", "%+4", "%%41"] {
            assert_eq!(decoded(raw), None, "{raw}");
        }
    }
}
