//! Traces as OTLP has them: the messages of `opentelemetry/proto/collector/trace/v1` that are sent.
//!
//! *Invariants*: field numbers are those of OTLP 1; a span lies within its parent.
//!
//! *Not here*: how they travel (the parent).

use std::hash::{BuildHasher, RandomState};

use engram_engine::trace::{Replied, Step};
use engram_net::trace::Traced;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
    #[prost(int64, optional, tag = "3")]
    int_value: Option<i64>,
}

/// SPAN_KIND_INTERNAL.
const INTERNAL: i32 = 1;
/// SPAN_KIND_SERVER.
const SERVER: i32 = 2;
/// STATUS_CODE_ERROR.
const ERROR: i32 = 2;

/// A batch as the body of a request.
pub fn encode(resource: &[(String, String)], batch: &[Traced]) -> Vec<u8> {
    let mut attributes: Vec<KeyValue> =
        resource.iter().map(|(key, value)| text(key, value)).collect();
    attributes.push(text("service.version", env!("CARGO_PKG_VERSION")));
    let scope = Scope { name: "engram".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = batch.iter().flat_map(spans_of).collect();
    let request = ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        }],
    };
    request.encode_to_vec()
}

/// The spans of one request: its own, one for each round of questions, one for each shard in it,
/// and one where a shard waited for stable storage.
fn spans_of(traced: &Traced) -> Vec<Span> {
    let mut spans = Spans::of(traced);
    spans.add_request(traced);
    for step in traced.shards.iter().flat_map(|trace| &trace.steps) {
        spans.add_step(traced.span_id, step);
    }
    spans.spans
}

struct Spans {
    spans: Vec<Span>,
    trace_id: u128,
    random: RandomState,
    end_us: u64,
}

impl Spans {
    fn of(traced: &Traced) -> Self {
        let random = RandomState::new();
        Self { spans: Vec::new(), trace_id: traced.trace_id, random, end_us: traced.ended_us }
    }

    fn add_request(&mut self, traced: &Traced) {
        let mut attributes = vec![
            text("http.request.method", traced.method),
            number("http.response.status_code", i64::from(traced.status)),
            text("engram.request_id", &traced.request_id),
        ];
        let mut name = traced.method.to_owned();
        if !traced.route.is_empty() {
            attributes.push(text("http.route", traced.route));
            name = format!("{name} {}", traced.route);
        }
        if let Some(code) = traced.refused {
            attributes.push(text("error.type", code));
        }
        let failed = traced.status >= 500;
        let message = traced.refused.unwrap_or_default().to_owned();
        let status = failed.then_some(Status { message, code: ERROR });
        let parent = traced.parent_id.unwrap_or(0);
        let times = (traced.started_us, traced.ended_us);
        self.push(traced.span_id, parent, name, times, attributes);
        let own = self.spans.last_mut().expect("it was just added");
        (own.kind, own.status) = (SERVER, status);
    }

    fn add_step(&mut self, parent: u64, step: &Step) {
        let asked_us = step.asked_at.0.cast_unsigned();
        let last = step.replies.iter().map(|reply| reply.at.0.cast_unsigned()).max();
        // A step that was not over when the request was, ended with it.
        let ended_us = last.unwrap_or(self.end_us).max(asked_us);
        let id = self.next_id();
        let attributes = vec![number("engram.shards", step.replies.len() as i64)];
        self.push(id, parent, step.name.to_owned(), (asked_us, ended_us), attributes);
        for reply in &step.replies {
            self.add_reply(id, step.name, asked_us, reply);
        }
    }

    fn add_reply(&mut self, parent: u64, name: &str, asked_us: u64, reply: &Replied) {
        let id = self.next_id();
        let ended_us = reply.at.0.cast_unsigned().max(asked_us);
        let attributes = vec![number("engram.shard", i64::from(reply.shard.0))];
        let name = format!("{name} on shard {}", reply.shard.0);
        self.push(id, parent, name, (asked_us, ended_us), attributes.clone());
        if reply.synced_us > 0 {
            let began_us = ended_us.saturating_sub(u64::from(reply.synced_us)).max(asked_us);
            let own = self.next_id();
            self.push(own, id, "log sync".to_owned(), (began_us, ended_us), attributes);
        }
    }

    fn push(
        &mut self,
        id: u64,
        parent: u64,
        name: String,
        (started_us, ended_us): (u64, u64),
        attributes: Vec<KeyValue>,
    ) {
        self.spans.push(Span {
            trace_id: self.trace_id.to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
            name,
            kind: INTERNAL,
            start_time_unix_nano: started_us * 1000,
            end_time_unix_nano: ended_us * 1000,
            attributes,
            status: None,
        });
    }

    fn next_id(&self) -> u64 {
        self.random.hash_one(self.spans.len()).max(1)
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { string_value: Some(value.to_owned()), int_value: None };
    KeyValue { key: key.to_owned(), value: Some(value) }
}

fn number(key: &str, value: i64) -> KeyValue {
    let value = AnyValue { string_value: None, int_value: Some(value) };
    KeyValue { key: key.to_owned(), value: Some(value) }
}
