//! Embeddings: a JSON array, or base64 of little-endian 32-bit floats.
//!
//! *Invariants*: 1 to 4,096 finite numbers come out.
//!
//! *Not here*: dimensions of a space and the zero vector (`engine`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engram_engine::limits::DIMENSIONS_MAX;
use engram_engine::request::Code;

use super::reader::{Kind, Reader};
use crate::error::{Checked, Problem};

/// Reads an embedding in either form.
///
/// # Errors
/// Where it is neither, has no or too many dimensions, or holds what is not finite.
pub fn read(reader: &mut Reader<'_>) -> Checked<Vec<f32>> {
    let embedding = match reader.kind()? {
        Kind::Array => array(reader)?,
        Kind::String => base64(reader)?,
        Kind::Object | Kind::Number | Kind::Boolean | Kind::Null => {
            return Err(reader.unfit("an array of numbers, or a base64 string"));
        }
    };
    if embedding.is_empty() {
        return Err(Problem::new(Code::InvalidValue, "an embedding has at least one dimension"));
    }
    Ok(embedding)
}

fn array(reader: &mut Reader<'_>) -> Checked<Vec<f32>> {
    let mut embedding = Vec::with_capacity(384);
    reader.elements(DIMENSIONS_MAX, |reader, _| {
        embedding.push(reader.float()?);
        Ok(())
    })?;
    Ok(embedding)
}

fn base64(reader: &mut Reader<'_>) -> Checked<Vec<f32>> {
    let text = reader.string()?;
    let refuse = |detail: String| Problem::new(Code::InvalidValue, detail);
    if text.len() > DIMENSIONS_MAX * 4 * 4 / 3 + 4 {
        let detail = format!("an embedding has at most {DIMENSIONS_MAX} dimensions");
        return Err(Problem::new(Code::LimitExceeded, detail));
    }
    let bytes = STANDARD
        .decode(text.as_bytes())
        .map_err(|error| refuse(format!("the embedding is not base64: {error}")))?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(refuse(format!("{} bytes are not a whole number of floats", bytes.len())));
    }
    let embedding: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    match embedding.iter().position(|value| !value.is_finite()) {
        Some(index) => {
            Err(refuse(format!("dimension {index} is {}, which is not finite", embedding[index])))
        }
        None => Ok(embedding),
    }
}
