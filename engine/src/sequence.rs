//! Which sequence a memory belongs to, from its metadata.
//!
//! *Invariants*: pure; equal values of equal JSON types give equal keys.
//!
//! *Not here*: the order within a sequence and the links along it (the coordinator).

use serde_json::Value;

use crate::model::Metadata;
use crate::text::{hash_bytes, hash_next};

/// A sequence within one space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceKey(pub u64);

/// The sequence of a memory: by its `session`, else by its `source`, each any JSON scalar but null.
pub fn sequence_of(metadata: &Metadata) -> Option<SequenceKey> {
    ["session", "source"].iter().zip(1u64..).find_map(|(&key, kind)| {
        let value = scalar(metadata.get(key)?)?;
        Some(SequenceKey(hash_next(kind, hash_bytes(value.as_bytes()))))
    })
}

/// The value as JSON text, so that `1` and `"1"` differ.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
