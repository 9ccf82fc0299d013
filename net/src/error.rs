//! Every way in which a request is refused, and what the client sees of it.
//!
//! *Invariants*: one row a code: status, stable name, title. Names never change once released.
//!
//! *Not here*: when something is refused (`json`, `routes`, the engine).

use engram_engine::request::{Code, Rejection};
use http::StatusCode;
use serde::Serialize;

use crate::json::writer::to_json;

/// Declares the refusals of HTTP and JSON themselves: variant, status, name, title.
macro_rules! faults {
    ($($variant:ident $status:literal $name:literal $title:literal)*) => {
        /// Why `net` itself refuses a request; the engine's reasons are [`Code`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault { $(#[doc = $title] $variant,)* }

        impl Fault {
            /// Every fault, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            fn row(self) -> Row {
                match self { $(Self::$variant => Row { status: $status, name: $name, title: $title },)* }
            }
        }
    };
}

faults! {
    BadRequest 400 "bad_request" "The request is not valid HTTP"
    InvalidPath 400 "invalid_path" "The path holds what cannot be decoded"
    UnknownParameter 400 "unknown_parameter" "The query holds a parameter that is not known"
    InvalidParameter 400 "invalid_parameter" "A query parameter or header has a value that does not fit"
    UnexpectedBody 400 "unexpected_body" "This request takes no body"
    MalformedJson 400 "malformed_json" "The body is not JSON"
    InvalidUtf8 400 "invalid_utf8" "The body is not UTF-8"
    InvalidType 400 "invalid_type" "A value has another JSON type than expected"
    UnknownField 400 "unknown_field" "An object holds a field that is not known"
    DuplicateField 400 "duplicate_field" "An object holds a field twice"
    MissingField 400 "missing_field" "An object lacks a field that it must have"
    Unauthorized 401 "unauthorized" "A valid key is needed"
    Forbidden 403 "forbidden" "The key does not allow this"
    PathNotFound 404 "path_not_found" "There is nothing at this path"
    MethodNotAllowed 405 "method_not_allowed" "The path does not take this method"
    RequestTimeout 408 "request_timeout" "The request took too long to arrive"
    LengthRequired 411 "length_required" "The body's length must be announced"
    BodyTooLarge 413 "body_too_large" "The body is larger than allowed"
    UriTooLong 414 "uri_too_long" "The path is longer than allowed"
    UnsupportedMediaType 415 "unsupported_media_type" "The body has a type that is not read here"
    ExpectationFailed 417 "expectation_failed" "The expectation cannot be met"
    IdempotencyConflict 422 "idempotency_key_reused" "The idempotency key came with another body before"
    RateLimited 429 "rate_limited" "The client sends more requests than it may"
    AddressFull 429 "too_many_connections" "The address has as many connections as it may"
    HeadTooLarge 431 "head_too_large" "The head of the request is larger than allowed"
    OverCapacity 503 "over_capacity" "The server holds as much as it can"
}

struct Row {
    status: u16,
    name: &'static str,
    title: &'static str,
}

/// The engine's codes, each with its row; the match keeps the list complete.
fn engine_row(code: Code) -> Row {
    let (status, name, title) = match code {
        Code::NotFound => (404, "not_found", "There is no such memory"),
        Code::SpaceNotFound => (404, "space_not_found", "There is no such space"),
        Code::AlreadyExists => (409, "already_exists", "The id exists"),
        Code::ConsolidationRunning => {
            (409, "consolidation_running", "A consolidation of the space is under way")
        }
        Code::SpaceConflict => (409, "space_conflict", "The space exists and is different"),
        Code::DimensionMismatch => {
            (400, "dimension_mismatch", "The embedding's length is not the space's")
        }
        Code::ZeroVector => (422, "zero_vector", "The embedding has no direction"),
        Code::InvalidValue => (422, "invalid_value", "A value is outside of its range"),
        Code::LimitExceeded => (422, "limit_exceeded", "A bound is passed"),
        Code::TooManyRequests => (429, "too_many_requests", "Too much is under way"),
        Code::Unavailable => (503, "unavailable", "The server does not take requests now"),
        Code::Poisoned => (503, "poisoned", "The log could not be written; reads go on"),
        Code::DeadlineExceeded => (504, "deadline_exceeded", "The deadline passed"),
        Code::Unreadable => (500, "unreadable", "A record can't be read back"),
        Code::MemoryBudget => (507, "memory_budget", "The memory budget is reached"),
        Code::DiskBudget => (507, "disk_budget", "The disk is nearly full"),
        Code::SnapshotNotFound => (404, "snapshot_not_found", "There is no such snapshot"),
        Code::SnapshotRunning => (409, "snapshot_running", "A snapshot is being taken"),
        Code::ColdUnavailable => {
            (503, "cold_unavailable", "The cold tier, where the content lies, can't be reached")
        }
    };
    Row { status, name, title }
}

/// The engine's codes in the order of their table.
pub const ENGINE_CODES: [Code; 19] = [
    Code::NotFound,
    Code::SpaceNotFound,
    Code::AlreadyExists,
    Code::ConsolidationRunning,
    Code::SpaceConflict,
    Code::DimensionMismatch,
    Code::ZeroVector,
    Code::InvalidValue,
    Code::LimitExceeded,
    Code::TooManyRequests,
    Code::Unavailable,
    Code::Poisoned,
    Code::DeadlineExceeded,
    Code::Unreadable,
    Code::MemoryBudget,
    Code::DiskBudget,
    Code::SnapshotNotFound,
    Code::SnapshotRunning,
    Code::ColdUnavailable,
];

/// A reason to refuse, of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// HTTP or JSON.
    Fault(Fault),
    /// Memories.
    Engine(Code),
}

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Code> for Reason {
    fn from(code: Code) -> Self {
        Self::Engine(code)
    }
}

impl Reason {
    /// Every reason there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let faults = Fault::ALL.iter().map(|&fault| Self::Fault(fault));
        faults.chain(ENGINE_CODES.iter().map(|&code| Self::Engine(code)))
    }

    fn row(self) -> Row {
        match self {
            Self::Fault(fault) => fault.row(),
            Self::Engine(code) => engine_row(code),
        }
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().status).expect("the table holds valid statuses")
    }

    /// The stable name, as in `code`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// One short sentence that is the same for every request.
    pub fn title(self) -> &'static str {
        self.row().title
    }

    /// Seconds after which trying again makes sense, where it does.
    pub fn retry_after_s(self) -> Option<u64> {
        match self.row().status {
            429 => Some(1),
            503 => Some(2),
            _ => None,
        }
    }
}

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Why.
    pub reason: Reason,
    /// One sentence for people: what is wrong and what to do.
    pub detail: String,
    /// Where in the body, as a JSON pointer; empty: the whole.
    pub pointer: String,
    /// The methods that would do, with [`Fault::MethodNotAllowed`].
    pub allow: Option<String>,
}

/// What readers and routes give back.
pub type Checked<T> = Result<T, Box<Problem>>;

impl Problem {
    /// A refusal of the whole request.
    pub fn new(reason: impl Into<Reason>, detail: impl Into<String>) -> Box<Self> {
        let (reason, detail) = (reason.into(), detail.into());
        Box::new(Self { reason, detail, pointer: String::new(), allow: None })
    }

    /// Puts a step before the pointer, for callers on the way out of nested values.
    pub fn under(mut self: Box<Self>, step: &str) -> Box<Self> {
        let step = step.replace('~', "~0").replace('/', "~1");
        self.pointer.insert_str(0, &step);
        self.pointer.insert(0, '/');
        self
    }

    /// As [`Self::under`], for an element of an array.
    pub fn under_index(self: Box<Self>, index: usize) -> Box<Self> {
        self.under(&index.to_string())
    }

    /// As `application/problem+json`.
    pub fn to_json(&self) -> Vec<u8> {
        let at = ErrorView { pointer: &self.pointer, detail: &self.detail };
        let view = ProblemView {
            r#type: format!("urn:engram:problem:{}", self.reason.name()),
            title: self.reason.title(),
            status: self.reason.status().as_u16(),
            detail: &self.detail,
            code: self.reason.name(),
            errors: if self.pointer.is_empty() { Vec::new() } else { vec![at] },
        };
        to_json(&view)
    }
}

impl From<Rejection> for Box<Problem> {
    fn from(rejection: Rejection) -> Self {
        let mut problem = Problem::new(rejection.code, rejection.detail);
        problem.pointer = rejection.pointer;
        problem
    }
}

#[derive(Serialize)]
struct ProblemView<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ErrorView<'a>>,
}

#[derive(Serialize)]
struct ErrorView<'a> {
    pointer: &'a str,
    detail: &'a str,
}
