//! What was useful, as clients say it.
//!
//! *Invariants*: ids and an outcome are given; the outcome is between -1 and 1.
//!
//! *Not here*: what an outcome does (`engine::life`).

use engram_engine::life::Outcome;
use engram_engine::model::MemoryId;

use super::reader::Reader;
use super::{ids, invalid};
use crate::error::{Checked, Fault, Problem};

/// Fields of the request.
pub const FIELDS: &[&str] = &["ids", "outcome"];

/// Reads the request; without an outcome the memories were what was wanted.
///
/// # Errors
/// Where it names no memories, or the outcome is out of its range.
pub fn read(reader: &mut Reader<'_>) -> Checked<(Vec<MemoryId>, Outcome)> {
    let (mut named, mut outcome) = (None, Outcome::BEST);
    reader.fields(FIELDS, |reader, field| {
        match FIELDS[field] {
            "ids" => named = Some(ids(reader)?),
            "outcome" => {
                let value = reader.double()?;
                if !(-1.0..=1.0).contains(&value) {
                    return Err(invalid(format!("expected -1 to 1, found {value}")));
                }
                outcome = Outcome::new(value);
            }
            other => unreachable!("{other} is in FIELDS without being read"),
        }
        Ok(())
    })?;
    let missing = || Problem::new(Fault::MissingField, "`ids` says which memories were useful");
    Ok((named.ok_or_else(missing)?, outcome))
}
