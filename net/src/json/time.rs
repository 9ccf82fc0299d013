//! Points in time as RFC 3339 text.
//!
//! *Invariants*: any offset is read; UTC with `Z` is written; microseconds survive a round trip.
//!
//! *Not here*: what a time means to a memory (`engine`).

use engram_engine::model::Timestamp;
use engram_engine::request::Code;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::reader::Reader;
use crate::error::{Checked, Problem};

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
pub fn format(timestamp: Timestamp) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp.0) * 1000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

/// Serialises a time as text.
pub fn serialize<S: Serializer>(timestamp: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*timestamp))
}

/// Serialises a time that may be missing.
pub fn serialize_option<S: Serializer>(
    timestamp: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    timestamp.map(format).serialize(serializer)
}
