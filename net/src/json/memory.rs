//! Memories as clients send them.
//!
//! *Invariants*: a memory has content or an embedding; metadata is within its bounds.
//!
//! *Not here*: what the space requires of an embedding (`engine`).

use engram_engine::limits;
use engram_engine::model::{Link, MemoryId, Metadata, NewMemory, Timestamp};
use engram_engine::request::{Code, Patch};

use super::reader::Reader;
use super::{bounded_string, embedding, fraction, id, link, time};
use crate::error::{Checked, Fault, Problem};

/// Fields of a memory.
pub const FIELDS: &[&str] =
    &["id", "content", "embedding", "metadata", "confidence", "links", "created_at", "expires_at"];

/// Fields of a merge patch.
pub const PATCH_FIELDS: &[&str] = &["content", "embedding", "metadata", "confidence", "expires_at"];

#[derive(Default)]
struct Draft {
    id: Option<MemoryId>,
    content: Option<String>,
    embedding: Option<Vec<f32>>,
    metadata: Option<Metadata>,
    confidence: Option<f32>,
    links: Option<Vec<Link>>,
    created_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

/// Reads a memory; `make_id` gives an id where it has none.
///
/// # Errors
/// Where it is not a memory of the contract.
pub fn read(reader: &mut Reader<'_>, make_id: impl FnOnce() -> MemoryId) -> Checked<NewMemory> {
    let mut draft = Draft::default();
    reader.fields(FIELDS, |reader, field| draft_field(&mut draft, reader, field))?;
    if draft.content.is_none() && draft.embedding.is_none() {
        let detail = "a memory has content, an embedding, or both";
        return Err(Problem::new(Fault::MissingField, detail));
    }
    Ok(NewMemory {
        id: draft.id.unwrap_or_else(make_id),
        content: draft.content,
        embedding: draft.embedding,
        metadata: draft.metadata.unwrap_or_default(),
        confidence: draft.confidence,
        links: draft.links,
        created_at: draft.created_at,
        expires_at: draft.expires_at,
    })
}

fn draft_field(draft: &mut Draft, reader: &mut Reader<'_>, field: usize) -> Checked<()> {
    match FIELDS[field] {
        "id" => draft.id = reader.nullable(id)?,
        "content" => draft.content = reader.nullable(content)?,
        "embedding" => draft.embedding = reader.nullable(embedding::read)?,
        "metadata" => draft.metadata = reader.nullable(metadata)?,
        "confidence" => draft.confidence = reader.nullable(fraction)?,
        "links" => draft.links = reader.nullable(link::read_leaving)?,
        "created_at" => draft.created_at = reader.nullable(time::read)?,
        "expires_at" => draft.expires_at = reader.nullable(time::read)?,
        other => unreachable!("{other} is in FIELDS without being read"),
    }
    Ok(())
}

/// Reads a merge patch (RFC 7396): `null` removes.
///
/// # Errors
/// Where it is not a patch of the contract.
pub fn read_patch(reader: &mut Reader<'_>) -> Checked<Patch> {
    let mut patch = Patch::default();
    reader.fields(PATCH_FIELDS, |reader, field| {
        match PATCH_FIELDS[field] {
            "content" => patch.content = Some(reader.nullable(content)?),
            "embedding" => patch.embedding = Some(reader.nullable(embedding::read)?),
            "metadata" => patch.metadata = Some(reader.nullable(metadata)?),
            "confidence" => patch.confidence = Some(reader.nullable(fraction)?),
            "expires_at" => patch.expires_at = Some(reader.nullable(time::read)?),
            other => unreachable!("{other} is in PATCH_FIELDS without being read"),
        }
        Ok(())
    })?;
    Ok(patch)
}

fn content(reader: &mut Reader<'_>) -> Checked<String> {
    bounded_string(reader, limits::CONTENT_BYTES_MAX)
}

fn metadata(reader: &mut Reader<'_>) -> Checked<Metadata> {
    let start = reader.position();
    let mut keys = 0;
    let map = reader.map(&mut keys)?;
    let bytes = reader.position() - start;
    let exceeded = |detail| Err(Problem::new(Code::LimitExceeded, detail));
    if bytes > limits::METADATA_BYTES_MAX {
        let most = limits::METADATA_BYTES_MAX;
        return exceeded(format!("metadata has at most {most} bytes of JSON, this has {bytes}"));
    }
    if keys > limits::METADATA_KEYS_MAX {
        let most = limits::METADATA_KEYS_MAX;
        return exceeded(format!("metadata has at most {most} keys in all, this has {keys}"));
    }
    Ok(map)
}
