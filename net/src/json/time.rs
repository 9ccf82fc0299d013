//! Points in time as RFC 3339 text.
//!
//! *Invariants*: any offset is read; UTC with `Z` is written; microseconds survive a round trip.
//!
//! *Not here*: what a time means to a memory (`engine`).

use engram_engine::model::Timestamp;
use engram_engine::request::Code;
use serde::Serializer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::reader::Reader;
use crate::error::{Checked, Problem};

/// For times beyond what RFC 3339 has digits for.
const LAST: &str = "9999-12-31T23:59:59Z";

/// Reads a time.
///
/// # Errors
/// Where the text is not RFC 3339.
pub fn read(reader: &mut Reader<'_>) -> Checked<Timestamp> {
    let text = reader.string()?;
    parse(&text).ok_or_else(|| {
        let detail = "expected a time such as 2026-01-31T12:00:00Z (RFC 3339)";
        Problem::new(Code::InvalidValue, detail)
    })
}

/// The time that a text names, where it is RFC 3339.
pub fn parse(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let micros = time.unix_timestamp_nanos().div_euclid(1000);
    i64::try_from(micros).ok().map(Timestamp)
}

/// A time as text.
struct Text {
    bytes: [u8; 40],
    length: usize,
}

impl Text {
    fn of(timestamp: Timestamp) -> Self {
        let mut text = Self { bytes: [0; 40], length: 0 };
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp.0) * 1000).ok();
        let mut room = text.bytes.as_mut_slice();
        let written = time.and_then(|time| time.format_into(&mut room, &Rfc3339).ok());
        let left = room.len();
        text.length = if written.is_some() {
            text.bytes.len() - left
        } else {
            text.bytes[..LAST.len()].copy_from_slice(LAST.as_bytes());
            LAST.len()
        };
        text
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("a time is ASCII")
    }
}

/// Serialises a time as text.
pub fn serialize<S: Serializer>(timestamp: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Text::of(*timestamp).as_str())
}

/// Serialises a time that may be missing.
pub fn serialize_option<S: Serializer>(
    timestamp: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match timestamp {
        Some(timestamp) => serialize(timestamp, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_a_round_trip() {
        let seconds = 1_769_860_800;
        for (micros, shown) in [
            (0, "2026-01-31T12:00:00Z"),
            (1, "2026-01-31T12:00:00.000001Z"),
            (250_000, "2026-01-31T12:00:00.25Z"),
            (999_990, "2026-01-31T12:00:00.99999Z"),
            (-1, "2026-01-31T11:59:59.999999Z"),
        ] {
            let time = Timestamp(seconds * 1_000_000 + micros);
            assert_eq!(Text::of(time).as_str(), shown);
            assert_eq!(parse(shown), Some(time));
        }
        assert_eq!(Text::of(Timestamp(-1)).as_str(), "1969-12-31T23:59:59.999999Z");
        for beyond in [i64::MIN, i64::MAX] {
            assert_eq!(Text::of(Timestamp(beyond)).as_str(), LAST);
        }
    }
}
