//! A filter held against JSON, plainly and slowly: the model that the index must agree with.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use engram_engine::filter::{Condition, Filter};
use engram_engine::model::{MemoryId, Metadata, Timestamp};
use engram_engine::text::{fold, for_each_word};
use serde_json::{Number, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A memory as the model sees it.
pub struct Plain {
    pub id: MemoryId,
    pub metadata: Metadata,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

impl Plain {
    pub fn passes(&self, filter: &Filter) -> bool {
        filter.must.iter().all(|condition| self.holds(condition))
            && !filter.must_not.iter().any(|condition| self.holds(condition))
            && (filter.should.is_empty() || filter.should.iter().any(|c| self.holds(c)))
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Any { key, values } => {
                self.scalars(key).iter().any(|found| values.iter().any(|v| equal(found, v)))
            }
            Condition::Except { key, values } => {
                self.scalars(key).iter().any(|found| !values.iter().any(|v| equal(found, v)))
            }
            Condition::Text { key, text } => {
                let wanted = words(text);
                let contains = |found: &Value| match found {
                    Value::String(text) => wanted.is_subset(&words(text)),
                    _ => false,
                };
                self.own_time(key).is_none() && self.scalars(key).iter().any(contains)
            }
            Condition::Range { key, gt, gte, lt, lte } => {
                self.scalars(key).iter().filter_map(place).any(|at| {
                    gt.is_none_or(|b| at > b)
                        && gte.is_none_or(|b| at >= b)
                        && lt.is_none_or(|b| at < b)
                        && lte.is_none_or(|b| at <= b)
                })
            }
            Condition::IsEmpty { key } => match self.own_time(key) {
                Some(time) => time.is_none(),
                None => !resolve(&self.metadata, key).iter().any(|v| is_something(v)),
            },
            Condition::HasId(ids) => ids.contains(&self.id),
            Condition::Nested(filter) => self.passes(filter),
        }
    }

    fn own_time(&self, key: &str) -> Option<Option<Timestamp>> {
        match key {
            "created_at" => Some(Some(self.created_at)),
            "expires_at" => Some(self.expires_at),
            _ => None,
        }
    }

    /// The scalars at a path; a memory's own time as an RFC 3339 string.
    fn scalars(&self, key: &str) -> Vec<Value> {
        if let Some(time) = self.own_time(key) {
            return time.map(|at| Value::String(written(at))).into_iter().collect();
        }
        let mut scalars = Vec::new();
        for value in resolve(&self.metadata, key) {
            leaves(value, &mut scalars);
        }
        scalars
    }
}

pub fn written(at: Timestamp) -> String {
    let nanoseconds = i128::from(at.0) * 1000;
    let at =
        OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).expect("a time of this century");
    at.format(&Rfc3339).expect("RFC 3339 writes such a time")
}

fn place(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
            Some((at.unix_timestamp_nanos() / 1000) as f64)
        }
        _ => None,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b).is_eq(),
        _ => a == b,
    }
}

fn compare(a: &Number, b: &Number) -> Ordering {
    let whole = |n: &Number| {
        let float = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e20).map(|f| f as i128);
        n.as_i64().map(i128::from).or(n.as_u64().map(i128::from)).or(float)
    };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().zip(b.as_f64()).map_or(Ordering::Less, |(a, b)| a.total_cmp(&b)),
    }
}

fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for_each_word(&fold(text), |word| {
        words.insert(word.to_owned());
    });
    words
}

/// Every value to which a path leads, arrays on the way passed through.
fn resolve<'a>(object: &'a Metadata, path: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    for (key, value) in object {
        if key == path {
            found.push(value);
        } else if let Some(rest) = path.strip_prefix(key.as_str())
            && let Some(rest) = rest.strip_prefix('.')
        {
            descend(value, rest, &mut found);
        }
    }
    found
}

fn descend<'a>(value: &'a Value, path: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => found.extend(resolve(object, path)),
        Value::Array(elements) => elements.iter().for_each(|e| descend(e, path, found)),
        _ => {}
    }
}

fn leaves(value: &Value, scalars: &mut Vec<Value>) {
    match value {
        Value::Array(elements) => elements.iter().for_each(|element| leaves(element, scalars)),
        Value::Null | Value::Object(_) => {}
        scalar => scalars.push(scalar.clone()),
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(elements) => !elements.is_empty(),
        _ => true,
    }
}
