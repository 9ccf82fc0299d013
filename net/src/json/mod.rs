//! JSON of the contract, both ways.
//!
//! *Invariants*: what is read is within the bounds of `engine::limits`; unknown fields are refused.
//!
//! *Not here*: framing, content types and sizes of bodies (`body`), problems (`error`).

pub mod consolidate;
pub mod embedding;
pub mod filter;
pub mod forget;
pub mod link;
pub mod memory;
mod plain;
pub mod reader;
pub mod recall;
pub mod reinforce;
pub mod snapshot;
pub mod space;
pub mod time;
pub mod view;
pub mod writer;

use engram_engine::limits;
use engram_engine::model::{MemoryId, Weight};
use engram_engine::request::Code;

use crate::error::{Checked, Problem};
use reader::Reader;

/// Reads the id of a memory.
fn id(reader: &mut Reader<'_>) -> Checked<MemoryId> {
    let text = reader.string()?;
    MemoryId::new(&text).map_err(invalid)
}

/// Reads the ids of one request.
fn ids(reader: &mut Reader<'_>) -> Checked<Vec<MemoryId>> {
    let mut ids = Vec::new();
    reader.elements(limits::IDS_PER_REQUEST_MAX, |reader, _| {
        ids.push(id(reader)?);
        Ok(())
    })?;
    Ok(ids)
}

/// A number from 0 to 1.
fn fraction(reader: &mut Reader<'_>) -> Checked<f32> {
    let value = reader.double()?;
    if (0.0..=1.0).contains(&value) {
        Ok(value as f32)
    } else {
        Err(invalid(format!("expected 0 to 1, found {value}")))
    }
}

/// The weight of a link or of a cue.
fn weight(reader: &mut Reader<'_>) -> Checked<Weight> {
    let value = reader.double()?;
    // Rounding to f32 would let through what is a little more than 1.
    let value = if value > 1.0 { value.max(1.1) } else { value };
    Weight::new(value as f32).map_err(invalid)
}

/// A string of at most `most` bytes.
fn bounded_string(reader: &mut Reader<'_>, most: usize) -> Checked<String> {
    let text = reader.string()?;
    if text.len() > most {
        let detail = format!("at most {most} bytes are allowed here, these are {}", text.len());
        return Err(Problem::new(Code::LimitExceeded, detail));
    }
    Ok(text.into_owned())
}

fn invalid(detail: impl Into<String>) -> Box<Problem> {
    Problem::new(Code::InvalidValue, detail)
}
