//! What a consolidation is asked to do, as clients send it.
//!
//! *Invariants*: a threshold is between 0 and 1.
//!
//! *Not here*: consolidating (`engine::shard`).

use super::fraction;
use super::reader::Reader;
use crate::error::Checked;

/// Fields of the request.
pub const FIELDS: &[&str] = &["threshold", "dry_run"];
/// Threshold where none is given.
pub const THRESHOLD: f32 = 0.3;

/// The request.
#[derive(Clone, Copy, Debug)]
pub struct Consolidate {
    /// Base level below which memories go to the cold tier.
    pub threshold: f32,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// Reads the request.
///
/// # Errors
/// Where a value is out of its range.
pub fn read(reader: &mut Reader<'_>) -> Checked<Consolidate> {
    let mut asked = Consolidate { threshold: THRESHOLD, dry_run: false };
    reader.fields(FIELDS, |reader, field| {
        match FIELDS[field] {
            "threshold" => asked.threshold = fraction(reader)?,
            "dry_run" => asked.dry_run = reader.boolean()?,
            other => unreachable!("{other} is in FIELDS without being read"),
        }
        Ok(())
    })?;
    Ok(asked)
}
