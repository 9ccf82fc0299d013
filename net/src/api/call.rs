//! One request with what every operation needs of it, and its answer before it becomes HTTP.
//!
//! *Invariants*: an operation reads its body through [`Call::json_bytes`] only, which checks type and
//! size.
//!
//! *Not here*: the operations.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engram_engine::limits;
use engram_engine::model::{MemoryId, SpaceName};
use engram_engine::request::{Answer, Recalled, Rejection, Request, Wait, With};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::Bytes;

use super::body::{self, Body, Budget, Lease};
use super::idempotency::Key;
use super::route::Operation;
use super::uri::{Query, invalid};
use super::uuid::Uuids;
use crate::auth::{Grant, Guard, Role};
use crate::backend::Backend;
use crate::error::{Checked, Fault, Problem};
use crate::json::reader::{self, Reader};
use crate::json::recall::with_part;
use crate::metrics::{CoreMetrics, Registry};
use crate::rates::Rates;
use crate::server::reply::Payload;
use crate::trace::{Active, Tracer};

/// What requests of one core share.
pub struct Core<B> {
    /// The server behind.
    pub backend: B,
    /// Counters of this core.
    pub metrics: Arc<CoreMetrics>,
    /// Counters of all cores.
    pub registry: Registry,
    /// Bytes of bodies.
    pub budget: Rc<Budget>,
    /// What answers that clients have not taken may hold.
    pub untaken: Rc<Budget>,
    /// Ids that are made here.
    pub uuids: Uuids,
    /// When a write is answered where the request does not say.
    pub wait: Wait,
    /// Keys.
    pub guard: Guard,
    /// `/metrics` asks for a key as well.
    pub metrics_guarded: bool,
    /// Requests must name this machine as `localhost` or by an address.
    pub local_names_only: bool,
    /// Requests that a client may send, where that is limited.
    pub rates: Option<Rates>,
    /// Recalls that take as long are logged.
    pub slow_recall: Duration,
    /// Traces, where somebody wants them.
    pub tracer: Option<Tracer>,
}

impl<B: Backend> Core<B> {
    /// An id for a memory that came without one: that of its key, where the request has one.
    pub fn make_id(&self, key: Option<Key>, index: u64) -> MemoryId {
        match key {
            Some(key) => key.memory_id(index),
            None => self.uuids.memory_id(self.backend.now()),
        }
    }
}

/// One request.
pub struct Call<'a, B> {
    /// What its core shares.
    pub core: &'a Rc<Core<B>>,
    /// What it asks for.
    pub operation: Operation,
    /// The parameter of its path.
    pub parameter: Cow<'a, str>,
    /// Its head.
    pub parts: &'a Parts,
    /// Its body; taken by whoever streams it.
    pub body: Option<Body>,
    /// What its body holds of the budget.
    pub lease: Lease,
    /// Its idempotency key, once an operation that knows them has read it.
    pub key: Option<Key>,
    /// What its key allows; `None`: everything.
    pub grant: Option<Rc<Grant>>,
    /// Its id.
    pub request_id: &'a HeaderValue,
    /// Its trace, if it is traced.
    pub trace: Option<Rc<Active>>,
}

impl<'a, B: Backend> Call<'a, B> {
    /// Asks the server.
    pub async fn ask(&self, request: Request) -> Checked<Answer> {
        Ok(self.call(request).await?)
    }

    /// The same, with the server's own words for a refusal.
    pub async fn call(&self, request: Request) -> Result<Answer, Rejection> {
        let Some(active) = &self.trace else { return self.core.backend.call(request).await };
        let (answer, trace) = self.core.backend.call_traced(request).await;
        active.note(trace);
        answer
    }

    /// Says of a recall that took long what it spent its time on, and nothing of what it was about.
    pub fn note_slow(&self, recalled: &Recalled, took: Duration) {
        if took < self.core.slow_recall {
            return;
        }
        let phases = recalled.phases.iter().map(|t| format!("{} {}", t.phase.as_str(), t.took_us));
        let phases: Vec<String> = phases.collect();
        log::warn!(
            request_id = self.request_id.to_str().unwrap_or_default(),
            trace_id = self.trace.as_ref().map(|active| active.trace_id()).unwrap_or_default(),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            phases_us = phases.join(", "),
            memories = recalled.visited.memories,
            links = recalled.visited.links,
            shards = recalled.visited.shards,
            truncated = recalled.truncated;
            "a slow recall"
        );
    }

    /// An id for the memory of this index that came without one.
    pub fn make_id(&self, index: u64) -> MemoryId {
        self.core.make_id(self.key, index)
    }

    /// Its headers.
    pub fn headers(&self) -> &'a HeaderMap {
        &self.parts.headers
    }

    /// Its query, which may hold the parameters of its route.
    pub fn query(&self) -> Checked<Query<'a>> {
        Query::parse(self.parts.uri.query(), self.operation.route().query)
    }

    /// The memory that its path names.
    pub fn memory_id(&self) -> Checked<MemoryId> {
        MemoryId::new(&self.parameter).map_err(|why| Problem::new(Fault::InvalidPath, why))
    }

    /// The space that its path names.
    pub fn space_in_path(&self) -> Checked<SpaceName> {
        let space = SpaceName::new(&self.parameter);
        self.reached(space.map_err(|why| Problem::new(Fault::InvalidPath, why))?)
    }

    /// Whether its key reaches a space.
    pub fn reaches(&self, space: &SpaceName) -> bool {
        self.grant.as_ref().is_none_or(|grant| grant.reaches(space))
    }

    /// What concerns all spaces is not for keys of some.
    pub fn reaches_all(&self) -> Checked<()> {
        match self.grant.as_ref().and_then(|grant| grant.spaces.as_ref()) {
            None => Ok(()),
            Some(_) => Err(Problem::new(Fault::Forbidden, "the key is for some spaces only")),
        }
    }

    /// What changes something is not for keys that only read.
    pub fn may_write(&self) -> Checked<()> {
        match &self.grant {
            Some(grant) if grant.role < Role::Write => {
                Err(Problem::new(Fault::Forbidden, "the key is for reading only"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn reached(&self, space: SpaceName) -> Checked<SpaceName> {
        if self.reaches(&space) {
            return Ok(space);
        }
        Err(Problem::new(Fault::Forbidden, "the key is not for this space"))
    }

    /// The space that its header or its query names.
    pub fn space(&self, query: &Query<'_>) -> Checked<SpaceName> {
        let mut headers = self.headers().get_all(SPACE_HEADER).iter();
        let header = headers.next().map(|value| value.to_str().unwrap_or("\u{fffd}"));
        if headers.next().is_some() {
            return Err(invalid(SPACE_HEADER, "it is there twice"));
        }
        let name = match (header, query.get("space")) {
            (None, None) => return self.reached(SpaceName::default()),
            (Some(one), None) | (None, Some(one)) => one,
            (Some(one), Some(other)) if one == other => one,
            (Some(_), Some(_)) => return Err(invalid("space", "the header names another one")),
        };
        self.reached(SpaceName::new(name).map_err(|why| invalid("space", &why))?)
    }

    /// When it is to be answered.
    pub fn wait(&self, query: &Query<'_>) -> Checked<Wait> {
        match query.get("wait") {
            None => Ok(self.core.wait),
            Some("durable") => Ok(Wait::Durable),
            Some("applied") => Ok(Wait::Applied),
            Some(_) => Err(invalid("wait", "expected durable or applied")),
        }
    }

    /// What of a memory is read back: content, metadata, and what the query adds.
    pub fn with(&self, query: &Query<'_>) -> Checked<With> {
        let mut with = With::DEFAULT;
        for part in query.get("with").into_iter().flat_map(|parts| parts.split(',')) {
            with_part(&mut with, part).map_err(|problem| invalid("with", &problem.detail))?;
        }
        with.merged = match query.get("include_merged") {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(invalid("include_merged", "expected true or false")),
        };
        Ok(with)
    }

    /// Reads its body as JSON.
    pub async fn json<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'_>) -> Checked<T>,
    ) -> Checked<T> {
        let bytes = self.json_bytes().await?;
        reader::document(&bytes, read)
    }

    /// Its body, which says that it is JSON.
    pub async fn json_bytes(&mut self) -> Checked<Bytes> {
        body::announced(self.headers(), JSON, false)?;
        self.bytes().await
    }

    /// Reads its body.
    pub async fn bytes(&mut self) -> Checked<Bytes> {
        let most = limits::BODY_BYTES_MAX.min(self.core.budget.most());
        let body = self.body.as_mut().expect("only a stream takes the body");
        body.whole(most, &mut self.lease).await
    }
}

/// The header that names a space.
pub const SPACE_HEADER: &str = "x-memory-space";

/// Types of bodies that are read as JSON.
pub const JSON: &[&str] = &["application/json", "application/merge-patch+json"];

/// What an operation answers, before headers that all answers have.
pub struct Answered {
    /// Status.
    pub status: StatusCode,
    /// Content type.
    pub media: &'static str,
    /// Body.
    pub payload: Payload,
    /// Header fields beside those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// The operation counted its outcomes itself.
    pub counted: bool,
    /// What its body holds of the budget of answers.
    pub lease: Option<Lease>,
}

impl Answered {
    /// JSON with 200.
    pub fn json(bytes: Vec<u8>) -> Self {
        Self::with_status(StatusCode::OK, bytes)
    }

    /// JSON with another status.
    pub fn with_status(status: StatusCode, bytes: Vec<u8>) -> Self {
        Self::text(status, "application/json", bytes)
    }

    /// Any text.
    pub fn text(status: StatusCode, media: &'static str, bytes: impl Into<Bytes>) -> Self {
        let payload = Payload::Whole(bytes.into());
        Self { status, media, payload, headers: Vec::new(), counted: false, lease: None }
    }

    /// 204.
    pub fn nothing() -> Self {
        Self::text(StatusCode::NO_CONTENT, "", Bytes::new())
    }

    /// Adds a header field.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The operation counted its outcomes itself.
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }
}
