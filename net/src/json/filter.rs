//! Filters in Qdrant's shape.
//!
//! *Invariants*: conditions, depth and values are bounded.
//!
//! *Not here*: what passes a filter (`engine::filter`).

use engram_engine::filter::{Condition, Filter};
use engram_engine::limits::{
    FILTER_CONDITIONS_MAX, FILTER_DEPTH_MAX, FILTER_VALUES_MAX, METADATA_BYTES_MAX,
};
use engram_engine::request::Code;
use serde_json::Value;

use super::reader::{Kind, Reader};
use super::{bounded_string, ids, time};
use crate::error::{Checked, Fault, Problem};

/// Fields of a filter.
pub const FIELDS: &[&str] = &["must", "should", "must_not"];
/// Fields of a condition; one that has those of a filter is a filter within the filter.
pub const CONDITION_FIELDS: &[&str] =
    &["key", "match", "range", "is_empty", "has_id", "must", "should", "must_not"];
/// Fields of `match`.
pub const MATCH_FIELDS: &[&str] = &["value", "any", "except", "text"];
/// Fields of `range`.
pub const RANGE_FIELDS: &[&str] = &["gt", "gte", "lt", "lte"];

/// Reads a filter.
///
/// # Errors
/// Where it is not a filter, or passes a bound.
pub fn read(reader: &mut Reader<'_>) -> Checked<Filter> {
    let mut left = FILTER_CONDITIONS_MAX;
    let mut filter = Filter::default();
    reader
        .fields(FIELDS, |reader, field| clause(&mut filter, FIELDS[field], reader, &mut left, 1))?;
    Ok(filter)
}

fn clause(
    filter: &mut Filter,
    name: &str,
    reader: &mut Reader<'_>,
    left: &mut usize,
    depth: usize,
) -> Checked<()> {
    if depth > FILTER_DEPTH_MAX {
        let detail = format!("filters are nested at most {FILTER_DEPTH_MAX} deep");
        return Err(Problem::new(Code::LimitExceeded, detail));
    }
    let conditions = match name {
        "must" => &mut filter.must,
        "should" => &mut filter.should,
        "must_not" => &mut filter.must_not,
        other => unreachable!("{other} is no clause of a filter"),
    };
    match reader.kind()? {
        Kind::Object => {
            conditions.push(condition(reader, left, depth)?);
            Ok(())
        }
        Kind::Array => reader.elements(usize::MAX, |reader, _| {
            conditions.push(condition(reader, left, depth)?);
            Ok(())
        }),
        Kind::String | Kind::Number | Kind::Boolean | Kind::Null => {
            Err(reader.unfit("an array of conditions"))
        }
    }
}

#[derive(Default)]
struct Draft {
    key: Option<String>,
    on_key: Option<OnKey>,
    whole: Option<Condition>,
    nested: Option<Filter>,
}

enum OnKey {
    Any(Vec<Value>),
    Except(Vec<Value>),
    Text(String),
    Range([Option<f64>; 4]),
}

fn condition(reader: &mut Reader<'_>, left: &mut usize, depth: usize) -> Checked<Condition> {
    *left = left.checked_sub(1).ok_or_else(|| {
        let detail = format!("a filter has at most {FILTER_CONDITIONS_MAX} conditions in all");
        Problem::new(Code::LimitExceeded, detail)
    })?;
    let mut draft = Draft::default();
    reader.fields(CONDITION_FIELDS, |reader, field| {
        match CONDITION_FIELDS[field] {
            "key" => draft.key = Some(bounded_string(reader, METADATA_BYTES_MAX)?),
            "match" => draft.on_key = Some(matching(reader)?),
            "range" => draft.on_key = Some(range(reader)?),
            "is_empty" => draft.whole = Some(is_empty(reader)?),
            "has_id" => draft.whole = Some(Condition::HasId(ids(reader)?)),
            name => {
                let nested = draft.nested.get_or_insert_default();
                clause(nested, name, reader, left, depth + 1)?;
            }
        }
        Ok(())
    })?;
    finish(draft)
}

fn finish(draft: Draft) -> Checked<Condition> {
    match (draft.key, draft.on_key, draft.whole, draft.nested) {
        (Some(key), Some(OnKey::Any(values)), None, None) => Ok(Condition::Any { key, values }),
        (Some(key), Some(OnKey::Except(values)), None, None) => {
            Ok(Condition::Except { key, values })
        }
        (Some(key), Some(OnKey::Text(text)), None, None) => Ok(Condition::Text { key, text }),
        (Some(key), Some(OnKey::Range([gt, gte, lt, lte])), None, None) => {
            Ok(Condition::Range { key, gt, gte, lt, lte })
        }
        (None, None, Some(whole), None) => Ok(whole),
        (None, None, None, Some(nested)) => Ok(Condition::Nested(nested)),
        _ => {
            let detail = "a condition is one of {key, match}, {key, range}, {is_empty}, {has_id} \
                          and a nested {must, should, must_not}";
            Err(Problem::new(Fault::MissingField, detail))
        }
    }
}

fn matching(reader: &mut Reader<'_>) -> Checked<OnKey> {
    let mut found = None;
    reader.fields(MATCH_FIELDS, |reader, field| {
        let this = match MATCH_FIELDS[field] {
            "value" => OnKey::Any(vec![scalar(reader)?]),
            "any" => OnKey::Any(scalars(reader)?),
            "except" => OnKey::Except(scalars(reader)?),
            "text" => OnKey::Text(bounded_string(reader, METADATA_BYTES_MAX)?),
            other => unreachable!("{other} is in MATCH_FIELDS without being read"),
        };
        match found.replace(this) {
            None => Ok(()),
            Some(_) => Err(Problem::new(Fault::DuplicateField, "a match has one of its fields")),
        }
    })?;
    found.ok_or_else(|| {
        Problem::new(Fault::MissingField, "a match has one of value, any, except and text")
    })
}

fn scalars(reader: &mut Reader<'_>) -> Checked<Vec<Value>> {
    let mut values = Vec::new();
    reader.elements(FILTER_VALUES_MAX, |reader, _| {
        values.push(scalar(reader)?);
        Ok(())
    })?;
    Ok(values)
}

fn scalar(reader: &mut Reader<'_>) -> Checked<Value> {
    match reader.kind()? {
        Kind::String | Kind::Number | Kind::Boolean => reader.value(&mut 0),
        Kind::Object | Kind::Array | Kind::Null => {
            Err(reader.unfit("a string, a number or a boolean"))
        }
    }
}

fn range(reader: &mut Reader<'_>) -> Checked<OnKey> {
    let mut bounds = [None; 4];
    reader.fields(RANGE_FIELDS, |reader, field| {
        bounds[field] = Some(bound(reader)?);
        Ok(())
    })?;
    if bounds.iter().all(Option::is_none) {
        return Err(Problem::new(Fault::MissingField, "a range has one of gt, gte, lt and lte"));
    }
    Ok(OnKey::Range(bounds))
}

/// A number, or a time, which counts in microseconds.
fn bound(reader: &mut Reader<'_>) -> Checked<f64> {
    match reader.kind()? {
        Kind::Number => reader.double(),
        #[allow(clippy::cast_precision_loss, reason = "2^53 microseconds last until 2255")]
        Kind::String => time::read(reader).map(|timestamp| timestamp.0 as f64),
        Kind::Object | Kind::Array | Kind::Boolean | Kind::Null => {
            Err(reader.unfit("a number or a time"))
        }
    }
}

fn is_empty(reader: &mut Reader<'_>) -> Checked<Condition> {
    let mut found = None;
    reader.fields(&["key"], |reader, _| {
        found = Some(bounded_string(reader, METADATA_BYTES_MAX)?);
        Ok(())
    })?;
    let key = found.ok_or_else(|| Problem::new(Fault::MissingField, "is_empty has a `key`"))?;
    Ok(Condition::IsEmpty { key })
}
