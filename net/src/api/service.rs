//! One request from its head to the head of its answer.
//!
//! *Invariants*: a request is refused before its body is read wherever its head allows it; each
//! answer carries a request id.
//!
//! *Not here*: operations (`operations`), connections (`server`).

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Bytes, Incoming};

use super::body::Body;
use super::call::{Answered, Call, Core};
use super::operations::perform;
use super::route::{self, Operation};
use crate::auth::Role;
use crate::backend::Backend;
use crate::error::{Checked, Fault, Problem, Reason};
use crate::metrics::Shed;
use crate::rates::Client;
use crate::server::reply::{PIECE_BYTES_MAX, Payload, Reply};
use crate::server::watch::Watched;
use crate::trace::{Active, Ended};

/// Longest request id that is echoed.
const REQUEST_ID_BYTES_MAX: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who sends a request.
pub struct Asker {
    /// Its connection.
    pub watched: Rc<Watched>,
    /// The address at the other end; anything where nobody asks.
    pub address: IpAddr,
}

/// Answers one request; `draining` asks the client to close the connection afterwards.
pub async fn answer<B: Backend>(
    core: Rc<Core<B>>,
    asker: Asker,
    request: Request<Incoming>,
    draining: bool,
) -> Response<Reply> {
    let start = Instant::now();
    let Asker { watched, address } = asker;
    watched.begin();
    let _in_flight = InFlight::begin(&core);
    let (parts, incoming) = request.into_parts();
    let request_id = request_id(&core, &parts.headers);
    let trace = core.tracer.as_ref();
    let trace = trace.and_then(|tracer| tracer.begin(&parts.headers, || core.uuids.random()));
    let mut body = Some(Body::new(incoming, Rc::clone(&watched), core.metrics.clone()));
    let mut operation = None;
    let asked =
        Asked { parts: &parts, request_id: &request_id, trace: trace.clone(), address, start };
    let result = answer_to(&core, asked, &mut body, &mut operation).await;
    let result = result.and_then(|answered| with_room(&core, operation, answered));
    let read = match &mut body {
        Some(body) if parts.headers.contains_key(header::EXPECT) => body.leave(),
        Some(body) => body.discard().await,
        None => true,
    };
    let refused = result.as_ref().err().map(|problem| problem.reason);
    let counted = result.as_ref().is_ok_and(|answered| answered.counted);
    let answered = result.unwrap_or_else(|problem| refusal(&problem));
    if let Some(operation) = operation.filter(|_| !counted) {
        core.metrics.outcome(operation, refused, 1);
    }
    core.metrics.answered(operation, answered.status.as_u16(), start.elapsed());
    if draining {
        core.metrics.shed(Shed::Draining);
    }
    if let Some(trace) = trace {
        trace.end(&Ended {
            method: known_method(&parts.method),
            route: operation.map_or("", |operation| operation.route().path),
            status: answered.status.as_u16(),
            refused: refused.map(Reason::name),
            request_id: request_id.to_str().unwrap_or_default(),
        });
    }
    let closes = draining || !read || refused == Some(Fault::BadRequest.into());
    respond(request_id, answered, closes, watched)
}

/// Counts a request as long as it is answered, also where its connection ends before that.
struct InFlight<B>(Rc<Core<B>>);

impl<B> InFlight<B> {
    fn begin(core: &Rc<Core<B>>) -> Self {
        core.metrics.requests_in_flight(1);
        Self(Rc::clone(core))
    }
}

impl<B> Drop for InFlight<B> {
    fn drop(&mut self) {
        self.0.metrics.requests_in_flight(-1);
    }
}

/// What is known of a request before it is looked at.
struct Asked<'a> {
    parts: &'a Parts,
    request_id: &'a HeaderValue,
    trace: Option<Rc<Active>>,
    address: IpAddr,
    start: Instant,
}

async fn answer_to<B: Backend>(
    core: &Rc<Core<B>>,
    asked: Asked<'_>,
    body: &mut Option<Body>,
    operation: &mut Option<Operation>,
) -> Checked<Answered> {
    let Asked { parts, request_id, trace, address, start } = asked;
    check_head(parts)?;
    check_local(core, parts)?;
    if parts.method == Method::OPTIONS {
        return options(parts.uri.path());
    }
    let matched = route::find(&parts.method, parts.uri.path())?;
    *operation = Some(matched.operation);
    let needed = match matched.operation {
        Operation::Metrics if core.metrics_guarded => Role::Read,
        operation => operation.route().role,
    };
    let grant = core.guard.check(&parts.headers, needed);
    if needed > Role::Open {
        let key = grant.as_ref().ok().and_then(Option::as_ref);
        check_rate(core, key.map_or(Client::at(address), |key| Client::Key(&key.name)), start)?;
    }
    let grant = grant?;
    if matched.operation.asks_shards() {
        core.backend.admit(matched.operation.demand())?;
    }
    let takes_body = takes_body(&parts.method, matched.operation);
    if !takes_body && body.as_ref().is_some_and(|body| !body.is_over()) {
        return Err(Problem::new(Fault::UnexpectedBody, "send this request without a body"));
    }
    let mut call = Call {
        core,
        operation: matched.operation,
        parameter: matched.parameter,
        parts,
        body: body.take(),
        lease: core.budget.lease(),
        key: None,
        grant,
        request_id,
        trace,
    };
    let result = perform(&mut call).await;
    *body = call.body.take();
    result
}

/// Holds room for an answer that is more than the connection takes at once: who asks for much and
/// takes little would fill the memory otherwise. What has changed something is answered in any case.
fn with_room<B: Backend>(
    core: &Core<B>,
    operation: Option<Operation>,
    mut answered: Answered,
) -> Checked<Answered> {
    let reads = operation.is_some_and(|operation| operation.route().role == Role::Read);
    if let Payload::Whole(bytes) = &answered.payload
        && bytes.len() > PIECE_BYTES_MAX
        && reads
    {
        let mut lease = core.untaken.lease();
        // One that is larger than all the room waits until it has that for itself.
        lease.hold(bytes.len().min(core.untaken.most()))?;
        answered.lease = Some(lease);
    }
    Ok(answered)
}

/// What hyper lets through and RFC 9112 does not.
fn check_head(parts: &Parts) -> Checked<()> {
    let bad = |detail: &str| Err(Problem::new(Fault::BadRequest, detail));
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), parts.version) {
        (_, Some(_), _) => return bad("the request has more than one Host"),
        (None, _, Version::HTTP_11) => return bad("the request has no Host"),
        (Some(host), _, _) if !is_host(host.as_bytes()) => return bad("the Host is not valid"),
        _ => {}
    }
    if let Some(coding) = parts.headers.get(header::TRANSFER_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
    {
        return bad("the only transfer coding is chunked");
    }
    if let Some(expectation) = parts.headers.get(header::EXPECT)
        && !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Problem::new(Fault::ExpectationFailed, "the only expectation is 100-continue"));
    }
    Ok(())
}

/// Where only this machine is served, and nobody is asked for a key, a page of another site must not
/// reach the server under a name of its own that leads here (DNS rebinding).
fn check_local<B: Backend>(core: &Core<B>, parts: &Parts) -> Checked<()> {
    let host =
        parts.headers.get(header::HOST).map_or(b"localhost".as_slice(), |host| host.as_bytes());
    if core.local_names_only && !is_local_name(host) {
        let detail = "this server is for its own machine: address it as localhost or 127.0.0.1";
        return Err(Problem::new(Fault::Forbidden, detail));
    }
    Ok(())
}

/// A client sends no more requests than it may. Whoever shows no key that fits counts by address,
/// so that keys can't be guessed any faster.
fn check_rate<B>(core: &Core<B>, client: Client<'_>, now: Instant) -> Checked<()> {
    let Some(rates) = core.rates.as_ref().filter(|rates| !rates.lets_in(client, now)) else {
        return Ok(());
    };
    core.metrics.shed(Shed::Rate);
    let detail = format!("a client may send {} requests a second: send fewer", rates.per_second());
    Err(Problem::new(Fault::RateLimited, detail))
}

fn is_local_name(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let address: Result<std::net::IpAddr, _> = name.parse();
    name.eq_ignore_ascii_case("localhost") || address.is_ok()
}

fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

/// Methods that are served, by their names; a client may send any other word.
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

fn takes_body(method: &Method, operation: Operation) -> bool {
    match *method {
        Method::POST | Method::PUT | Method::PATCH => true,
        _ => operation == Operation::DeleteLinks,
    }
}

fn options(path: &str) -> Checked<Answered> {
    let allow = if path == "*" {
        "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned()
    } else {
        route::allowed(path)
    };
    if allow.is_empty() {
        return Err(Problem::new(Fault::PathNotFound, "there is nothing at this path"));
    }
    Ok(Answered::nothing().header("allow", allow))
}

fn refusal(problem: &Problem) -> Answered {
    let status = problem.reason.status();
    let mut answered = Answered::text(status, "application/problem+json", problem.to_json());
    if let Some(seconds) = problem.reason.retry_after_s() {
        answered = answered.header("retry-after", seconds.to_string());
    }
    if let Some(allow) = &problem.allow {
        answered = answered.header("allow", allow.as_str());
    }
    if problem.reason == Fault::Unauthorized.into() {
        answered = answered.header("www-authenticate", "Bearer");
    }
    answered
}

fn respond(
    request_id: HeaderValue,
    answered: Answered,
    closes: bool,
    watched: Rc<Watched>,
) -> Response<Reply> {
    let mut response = Response::new(Reply::new(answered.payload, answered.lease, watched));
    *response.status_mut() = answered.status;
    let headers = response.headers_mut();
    headers.reserve(6 + answered.headers.len());
    if answered.status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answered.media));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REQUEST_ID, request_id);
    for (name, value) in answered.headers {
        let value = HeaderValue::from_str(&value).expect("header values are made of ASCII");
        headers.insert(HeaderName::from_static(name), value);
    }
    if closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The client's id, where it is short and plain; else one of ours.
fn request_id<B: Backend>(core: &Core<B>, headers: &HeaderMap) -> HeaderValue {
    let plain = |value: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
            && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(REQUEST_ID).filter(plain) {
        Some(value) => value.clone(),
        None => {
            let made = Bytes::from(core.uuids.short_id());
            HeaderValue::from_maybe_shared(made).expect("hexadecimal digits are a valid value")
        }
    }
}
