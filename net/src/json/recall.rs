//! Recalls, counts and their batches as clients send them.
//!
//! *Invariants*: what is not given has the value of `Recall::default`.
//!
//! *Not here*: answers (`view`).

use engram_engine::filter::Filter;
use engram_engine::limits;
use engram_engine::model::Tier;
use engram_engine::request::{Code, Cue, CueKind, Recall, With};

use super::reader::Reader;
use super::{bounded_string, embedding, filter, fraction, id, invalid, link};
use crate::error::{Checked, Fault, Problem};

/// Fields of a recall.
pub const FIELDS: &[&str] = &[
    "cues",
    "top_k",
    "filter",
    "max_hops",
    "decay",
    "min_activation",
    "fan_out",
    "max_seeds",
    "link_kinds",
    "names",
    "tiers",
    "exact",
    "explain",
    "reinforce",
    "with",
    "include_merged",
    "timeout_ms",
];
/// Fields of a cue.
pub const CUE_FIELDS: &[&str] = &["text", "embedding", "id", "weight"];

/// Reads a recall.
///
/// # Errors
/// Where it is not a recall of the contract.
pub fn read(reader: &mut Reader<'_>) -> Checked<Recall> {
    let mut recall = Recall::default();
    reader.fields(FIELDS, |reader, field| recall_field(&mut recall, reader, FIELDS[field]))?;
    if recall.cues.is_empty() {
        return Err(Problem::new(Fault::MissingField, "a recall has at least one cue in `cues`"));
    }
    Ok(recall)
}

fn recall_field(recall: &mut Recall, reader: &mut Reader<'_>, name: &str) -> Checked<()> {
    if name != "cues" && reader.null()? {
        return Ok(());
    }
    match name {
        "cues" => recall.cues = cues(reader)?,
        "top_k" => recall.top_k = whole(reader, 1, limits::TOP_K_MAX)?,
        "filter" => recall.filter = filter::read(reader)?,
        "max_hops" => recall.max_hops = Some(whole(reader, 0, limits::HOPS_MAX)?),
        "decay" => recall.decay = fraction(reader)?,
        "min_activation" => recall.min_activation = fraction(reader)?,
        "fan_out" => recall.fan_out = whole(reader, 1, limits::FAN_OUT_MAX)?,
        "max_seeds" => recall.max_seeds = whole(reader, 1, limits::SEEDS_MAX)?,
        "link_kinds" => recall.link_kinds = Some(link_kinds(reader)?),
        "names" => recall.names = reader.boolean()?,
        "tiers" => recall.tiers = tiers(reader)?,
        "exact" => recall.exact = reader.boolean()?,
        "explain" => recall.explain = reader.boolean()?,
        "reinforce" => recall.reinforce = reader.boolean()?,
        "with" => recall.with = With { merged: recall.with.merged, ..with(reader)? },
        "include_merged" => recall.with.merged = reader.boolean()?,
        "timeout_ms" => recall.timeout_ms = whole(reader, 1, limits::TIMEOUT_MS_MAX)?,
        other => unreachable!("{other} is in FIELDS without being read"),
    }
    Ok(())
}

/// Reads `{recalls: [...]}` or an array of recalls.
///
/// # Errors
/// Where one of them is not a recall, or they are too many.
pub fn read_batch(reader: &mut Reader<'_>) -> Checked<Vec<Recall>> {
    let mut recalls = Vec::new();
    let mut all = |reader: &mut Reader<'_>| {
        reader.elements(limits::RECALLS_PER_BATCH_MAX, |reader, _| {
            recalls.push(read(reader)?);
            Ok(())
        })
    };
    match reader.kind()? {
        super::reader::Kind::Array => all(reader)?,
        _ => reader.fields(&["recalls"], |reader, _| all(reader))?,
    }
    if recalls.is_empty() {
        return Err(Problem::new(Fault::MissingField, "a batch has at least one recall"));
    }
    Ok(recalls)
}

/// Reads `{filter}`, where the filter may be missing.
///
/// # Errors
/// Where the filter is none.
pub fn read_count(reader: &mut Reader<'_>) -> Checked<Filter> {
    let mut found = Filter::default();
    reader.fields(&["filter"], |reader, _| {
        found = reader.nullable(filter::read)?.unwrap_or_default();
        Ok(())
    })?;
    Ok(found)
}

fn cues(reader: &mut Reader<'_>) -> Checked<Vec<Cue>> {
    let mut cues = Vec::new();
    reader.elements(limits::CUES_MAX, |reader, _| {
        cues.push(cue(reader)?);
        Ok(())
    })?;
    Ok(cues)
}

fn cue(reader: &mut Reader<'_>) -> Checked<Cue> {
    let mut found = None;
    let mut weight = 1.0;
    reader.fields(CUE_FIELDS, |reader, field| {
        let kind = match CUE_FIELDS[field] {
            "text" => CueKind::Text(bounded_string(reader, limits::CUE_TEXT_BYTES_MAX)?),
            "embedding" => CueKind::Embedding(embedding::read(reader)?),
            "id" => CueKind::Id(id(reader)?),
            "weight" => {
                weight = super::weight(reader)?.get();
                return Ok(());
            }
            other => unreachable!("{other} is in CUE_FIELDS without being read"),
        };
        match found.replace(kind) {
            None => Ok(()),
            Some(_) => {
                Err(Problem::new(Fault::DuplicateField, "a cue is one of text, embedding and id"))
            }
        }
    })?;
    let missing = || Problem::new(Fault::MissingField, "a cue has one of text, embedding and id");
    Ok(Cue { kind: found.ok_or_else(missing)?, weight })
}

fn link_kinds(reader: &mut Reader<'_>) -> Checked<Vec<engram_engine::model::LinkKind>> {
    let mut kinds = Vec::new();
    reader.elements(limits::LINK_KINDS_MAX, |reader, _| {
        kinds.push(link::kind(reader)?);
        Ok(())
    })?;
    Ok(kinds)
}

fn tiers(reader: &mut Reader<'_>) -> Checked<Vec<Tier>> {
    let mut tiers = Vec::new();
    reader.elements(3, |reader, _| {
        let name = reader.string()?;
        let tier = [Tier::Fast, Tier::Warm, Tier::Cold]
            .into_iter()
            .find(|tier| super::view::tier_name(*tier) == name)
            .ok_or_else(|| invalid("a tier is one of fast, warm and cold"))?;
        if !tiers.contains(&tier) {
            tiers.push(tier);
        }
        Ok(())
    })?;
    if tiers.is_empty() {
        return Err(invalid("at least one tier is searched"));
    }
    Ok(tiers)
}

fn with(reader: &mut Reader<'_>) -> Checked<With> {
    let mut with = With::NONE;
    reader.elements(4, |reader, _| with_part(&mut with, &reader.string()?))?;
    Ok(with)
}

/// Adds one named part of a memory to what is read back.
///
/// # Errors
/// Where there is no part of that name.
pub fn with_part(with: &mut With, name: &str) -> Checked<()> {
    match name {
        "content" => with.content = true,
        "metadata" => with.metadata = true,
        "embedding" => with.embedding = true,
        "links" => with.links = true,
        _ => return Err(invalid("`with` takes content, metadata, embedding and links")),
    }
    Ok(())
}

fn whole<T>(reader: &mut Reader<'_>, low: u64, high: T) -> Checked<T>
where
    T: TryFrom<u64> + TryInto<u64>,
{
    let beyond = || Problem::new(Code::InvalidValue, "the number is too large");
    let high = high.try_into().map_err(|_| beyond())?;
    T::try_from(reader.integer(low..=high)?).map_err(|_| beyond())
}
