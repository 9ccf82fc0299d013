//! Reads what a client wants of a snapshot.
//!
//! *Invariants*: at least one snapshot is kept.
//!
//! *Not here*: taking it (the backend).

use super::reader::Reader;
use crate::backend::SnapshotAsk;
use crate::error::Checked;

/// Fields of the request.
pub const FIELDS: &[&str] = &["name", "keep", "verify"];
/// Most snapshots that a request may ask to keep.
pub const KEEP_MAX: u64 = 10_000;

/// Reads the request.
///
/// # Errors
/// Where a field is unknown or has no meaning.
pub fn read(reader: &mut Reader<'_>) -> Checked<SnapshotAsk> {
    let (mut name, mut keep, mut verify) = (None, None, false);
    reader.fields(FIELDS, |reader, field| {
        match FIELDS[field] {
            "name" => name = reader.nullable(Reader::string)?.map(|text| text.into_owned()),
            "keep" => keep = reader.nullable(|reader| reader.integer(1..=KEEP_MAX))?,
            "verify" => verify = reader.boolean()?,
            other => unreachable!("{other} is in FIELDS without being read"),
        }
        Ok(())
    })?;
    Ok(SnapshotAsk::Start { name, keep, verify })
}
