//! Bodies of requests, within their limits.
//!
//! *Invariants*: no more is buffered than the limit of the route and the budget of the core; a body
//! that stops coming ends in 408.
//!
//! *Not here*: what is in them (`json`), streams of lines (`ndjson`).

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use hyper::body::{Body as _, Bytes, Incoming};

use crate::error::{Checked, Fault, Problem};
use crate::metrics::{CoreMetrics, Shed};
use crate::server::watch::Watched;

/// A body that is read at once and dropped when a request is refused before its body matters, so
/// that the connection survives.
const DISCARD_BYTES_MAX: u64 = 64 << 10;

/// Bytes of bodies that one core holds.
#[derive(Debug)]
pub struct Budget {
    held: Cell<usize>,
    most: usize,
    of: &'static str,
}

impl Budget {
    /// Nothing held yet; a refusal names what the bodies are `of`.
    pub fn new(most: usize, of: &'static str) -> Rc<Self> {
        Rc::new(Self { held: Cell::new(0), most, of })
    }

    /// The most that is ever held, and so the largest body.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Holds some bytes until the lease is dropped.
    pub fn lease(self: &Rc<Self>) -> Lease {
        Lease { budget: Rc::clone(self), bytes: 0 }
    }
}

/// What one request holds of the budget.
#[derive(Debug)]
pub struct Lease {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Lease {
    /// Holds so many bytes in all, where there is room for them.
    pub fn hold(&mut self, bytes: usize) -> Checked<()> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.budget.held.set(self.budget.held.get() - (self.bytes - bytes));
        self.bytes = bytes;
        Ok(())
    }

    /// Holds more.
    ///
    /// # Errors
    /// Where the core holds as much as it can.
    pub fn grow(&mut self, bytes: usize) -> Checked<()> {
        let held = self.budget.held.get() + bytes;
        if held > self.budget.most {
            let of = self.budget.of;
            let detail = format!("too many bytes of {of} are in memory; send it again later");
            return Err(Problem::new(Fault::OverCapacity, detail));
        }
        self.budget.held.set(held);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.held.set(self.budget.held.get() - self.bytes);
    }
}

/// The body of one request, on its way in.
pub struct Body {
    incoming: Incoming,
    watched: Rc<Watched>,
    metrics: std::sync::Arc<CoreMetrics>,
    waits: bool,
    over: bool,
    dead: bool,
}

impl Body {
    /// The body that comes with a request.
    pub fn new(
        incoming: Incoming,
        watched: Rc<Watched>,
        metrics: std::sync::Arc<CoreMetrics>,
    ) -> Self {
        let over = incoming.is_end_stream();
        Self { incoming, watched, metrics, waits: false, over, dead: false }
    }

    /// It has none, or all of it was read.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Polls for the next part; `None` is the end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Checked<Option<Bytes>>> {
        if self.over {
            return Poll::Ready(Ok(None));
        }
        if self.watched.take_body_late() {
            self.dead = true;
            self.metrics.shed(Shed::SlowBody);
            let detail = "the body stopped coming, or came too slowly";
            return Poll::Ready(Err(Problem::new(Fault::RequestTimeout, detail)));
        }
        if !self.waits {
            self.waits = true;
            self.watched.body_begins();
        }
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.end();
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end();
                    let detail = format!("the body broke off: {error}");
                    return Poll::Ready(Err(Problem::new(Fault::BadRequest, detail)));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers carry nothing that is known here.
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.watched.body_came(bytes.len());
                    self.metrics.received_bytes.add(bytes.len() as u64);
                    return Poll::Ready(Ok(Some(bytes)));
                }
            }
        }
    }

    /// A line of a stream is complete: the time for a body begins anew.
    pub fn progressed(&mut self) {
        if self.waits && !self.over {
            self.watched.body_begins();
        }
    }

    async fn chunk(&mut self) -> Checked<Option<Bytes>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    fn end(&mut self) {
        self.over = true;
        self.watched.body_ends();
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// Where it is larger than `most`, breaks off, or there is no room for it.
    pub async fn whole(&mut self, most: usize, lease: &mut Lease) -> Checked<Bytes> {
        let too_large = || {
            let detail = format!("the body of this request has at most {most} bytes");
            Problem::new(Fault::BodyTooLarge, detail)
        };
        let announced = self.incoming.size_hint().lower();
        if announced > most as u64 {
            return Err(too_large());
        }
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        self.grow(lease, first.len())?;
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let room = usize::try_from(announced).unwrap_or(0).min(1 << 20) + first.len();
        let mut all = Vec::with_capacity(room);
        all.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(chunk) = next {
            if all.len() + chunk.len() > most {
                return Err(too_large());
            }
            self.grow(lease, chunk.len())?;
            all.extend_from_slice(&chunk);
            next = self.chunk().await?;
        }
        Ok(all.into())
    }

    fn grow(&self, lease: &mut Lease, bytes: usize) -> Checked<()> {
        lease.grow(bytes).inspect_err(|_| self.metrics.shed(Shed::BodyBytes))
    }

    /// Reads and drops what is left, if it is little, so that the connection can go on; else
    /// leaves it, and the connection will end. True where nothing is left.
    pub async fn discard(&mut self) -> bool {
        let mut left = DISCARD_BYTES_MAX;
        if self.dead || self.incoming.size_hint().lower() > left {
            left = 0;
        }
        while !self.over && left > 0 {
            match self.chunk().await {
                Ok(Some(chunk)) => left = left.saturating_sub(chunk.len() as u64),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        self.leave()
    }

    /// Leaves what is unread, and the connection will end after its answer. True where nothing is.
    pub fn leave(&self) -> bool {
        if !self.over {
            self.watched.body_ends();
            self.watched.leave_unread();
        }
        self.over
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.over {
            self.watched.body_ends();
        }
    }
}

/// What a body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/x-ndjson`, one JSON value a line.
    Lines,
}

/// Checks that a body is announced, and as something that is read here.
///
/// # Errors
/// Where length, type or encoding are missing or others than expected.
pub fn announced(headers: &HeaderMap, accepted: &[&str], lines: bool) -> Checked<Media> {
    if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        let detail = "send Content-Length, or Transfer-Encoding: chunked";
        return Err(Problem::new(Fault::LengthRequired, detail));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|value| value != "identity") {
        let detail = "send the body without Content-Encoding";
        return Err(Problem::new(Fault::UnsupportedMediaType, detail));
    }
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (media, parameters) = value.split_once(';').unwrap_or((value, ""));
    let media = media.trim();
    let is = |name: &&str| media.eq_ignore_ascii_case(name);
    let charset_fits = parameters.split(';').map(str::trim).all(|parameter| {
        let charset = parameter.get(..8).filter(|name| name.eq_ignore_ascii_case("charset="));
        charset.is_none() || parameter[8..].trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if charset_fits && lines && NDJSON.iter().any(is) {
        return Ok(Media::Lines);
    }
    if charset_fits && accepted.iter().any(is) {
        return Ok(Media::Json);
    }
    let also = if lines { " or application/x-ndjson" } else { "" };
    let detail = format!("send Content-Type: {}{also}, in UTF-8", accepted.join(" or "));
    Err(Problem::new(Fault::UnsupportedMediaType, detail))
}

const NDJSON: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
