//! What is to be forgotten, as clients send it.
//!
//! *Invariants*: ids or a filter, never both or none; a filter lets not everything through.
//!
//! *Not here*: forgetting (`api::forget`).

use engram_engine::filter::Filter;
use engram_engine::model::MemoryId;

use super::reader::Reader;
use super::{filter, ids, invalid};
use crate::error::{Checked, Fault, Problem};

/// Fields of the request.
pub const FIELDS: &[&str] = &["ids", "filter", "dry_run"];

/// The request.
#[derive(Debug)]
pub struct Forget {
    /// What.
    pub chosen: Chosen,
    /// Only count.
    pub dry_run: bool,
}

/// What is meant.
#[derive(Debug)]
pub enum Chosen {
    /// These.
    Ids(Vec<MemoryId>),
    /// All that pass.
    Filter(Filter),
}

/// Reads the request.
///
/// # Errors
/// Where it names nothing, or everything.
pub fn read(reader: &mut Reader<'_>) -> Checked<Forget> {
    let (mut named, mut passing, mut dry_run) = (None, None, false);
    reader.fields(FIELDS, |reader, field| {
        match FIELDS[field] {
            "ids" => named = Some(ids(reader)?),
            "filter" => passing = Some(filter::read(reader)?),
            "dry_run" => dry_run = reader.boolean()?,
            other => unreachable!("{other} is in FIELDS without being read"),
        }
        Ok(())
    })?;
    let chosen = match (named, passing) {
        (Some(ids), None) => Chosen::Ids(ids),
        (None, Some(filter)) if filter.is_empty() => {
            let detail = "an empty filter means everything: delete the space for that";
            return Err(invalid(detail).under("filter"));
        }
        (None, Some(filter)) => Chosen::Filter(filter),
        (None, None) | (Some(_), Some(_)) => {
            return Err(Problem::new(Fault::MissingField, "name either `ids` or a `filter`"));
        }
    };
    Ok(Forget { chosen, dry_run })
}
