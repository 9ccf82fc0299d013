//! Traces: which requests are traced, in whose trace, and what is known of them when they end.
//!
//! *Invariants*: a request that is not traced costs a look at its head; whoever sends traces on may
//! be slow or gone without a request noticing: what finds no room is dropped and counted.
//!
//! *Not here*: spans as they are sent (`ops`), what shards note (`engram_engine::trace`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use engram_engine::trace::Trace;
use http::HeaderMap;

/// Traces that wait to be sent on.
const QUEUE_TRACES_MAX: usize = 2048;
/// Traces of shards that are kept of one request; a batch of recalls has one each.
const STEPS_OF_REQUEST_MAX: usize = 16;

/// Which requests that begin a trace are traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Root {
    /// All.
    On,
    /// None.
    Off,
    /// This share of them, 0 to 1.
    Ratio(f64),
}

/// Which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// A request that belongs to a trace is traced if its client traces.
    pub parent_based: bool,
    /// The others.
    pub root: Root,
}

impl Sampler {
    fn wants(self, trace_id: u128, parent: Option<&Parent>) -> bool {
        if let (true, Some(parent)) = (self.parent_based, parent) {
            return parent.sampled;
        }
        match self.root {
            Root::On => true,
            Root::Off => false,
            // As OpenTelemetry does it, so that all services decide the same of one trace.
            Root::Ratio(ratio) => ((trace_id as u64) >> 1) < (ratio * (1u64 << 63) as f64) as u64,
        }
    }
}

/// What a client says of the trace that a request belongs to (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl Parent {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let (first, second) = (values.next()?, values.next());
        if second.is_some() { None } else { Self::read(first.as_bytes()) }
    }

    /// `00-{32 digits}-{16 digits}-{2 digits}`; later versions may say more behind that.
    fn read(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(55)?;
        let fits = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
        let version = hex(&head[..2])?;
        let ends =
            if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|c| *c == b'-') };
        if !fits || !ends || version == 0xff {
            return None;
        }
        let trace_id = hex(&head[3..35])?;
        let span_id = u64::try_from(hex(&head[36..52])?).ok()?;
        let sampled = hex(&head[53..])? & 1 == 1;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled })
    }
}

/// Lower-case digits only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// A request that was traced, when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The trace.
    pub trace_id: u128,
    /// Its own span.
    pub span_id: u64,
    /// The client's span.
    pub parent_id: Option<u64>,
    /// Microseconds since 1970.
    pub started_us: u64,
    /// Microseconds since 1970.
    pub ended_us: u64,
    /// Method.
    pub method: &'static str,
    /// Path as in the table of routes; empty: none fitted.
    pub route: &'static str,
    /// Status of the answer.
    pub status: u16,
    /// The stable code of a refusal.
    pub refused: Option<&'static str>,
    /// The request's id.
    pub request_id: String,
    /// What shards were asked.
    pub shards: Vec<Trace>,
}

/// Numbers of traces.
#[derive(Debug, Default)]
pub struct TraceCounts {
    /// Requests that were traced.
    pub begun: AtomicU64,
    /// Traces that found no room, or could not be sent on.
    pub dropped: AtomicU64,
    /// Traces that were sent on.
    pub sent: AtomicU64,
}

/// Begins traces and hands them on; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    sampler: Sampler,
    sender: SyncSender<Traced>,
    counts: Arc<TraceCounts>,
}

impl Tracer {
    /// A tracer, and where its traces come out.
    pub fn new(sampler: Sampler) -> (Self, Receiver<Traced>, Arc<TraceCounts>) {
        let (sender, receiver) = sync_channel(QUEUE_TRACES_MAX);
        let counts = Arc::<TraceCounts>::default();
        (Self { sampler, sender, counts: counts.clone() }, receiver, counts)
    }

    /// Begins the span of a request, if it is to be traced; `random` gives random bits.
    pub(crate) fn begin(
        &self,
        headers: &HeaderMap,
        random: impl Fn() -> u64,
    ) -> Option<Rc<Active>> {
        let parent = Parent::of(headers);
        let made = || (u128::from(random()) << 64 | u128::from(random())).max(1);
        let trace_id = parent.map_or_else(made, |parent| parent.trace_id);
        if !self.sampler.wants(trace_id, parent.as_ref()) {
            return None;
        }
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Rc::new(Active {
            tracer: self.clone(),
            trace_id,
            span_id: random().max(1),
            parent_id: parent.map(|parent| parent.span_id),
            started_us: u64::try_from(since.as_micros()).unwrap_or(0),
            started: Instant::now(),
            shards: RefCell::default(),
            ended: Cell::new(false),
        }))
    }
}

/// The span of a request that is under way.
#[derive(Debug)]
pub(crate) struct Active {
    tracer: Tracer,
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    started_us: u64,
    started: Instant,
    shards: RefCell<Vec<Trace>>,
    ended: Cell<bool>,
}

/// How a request ended.
pub(crate) struct Ended<'a> {
    pub method: &'static str,
    pub route: &'static str,
    pub status: u16,
    pub refused: Option<&'static str>,
    pub request_id: &'a str,
}

impl Active {
    /// The shards were asked something.
    pub fn note(&self, trace: Option<Trace>) {
        let mut shards = self.shards.borrow_mut();
        if shards.len() < STEPS_OF_REQUEST_MAX {
            shards.extend(trace);
        }
    }

    /// The id of its trace, as it is written.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The request was answered: its trace is handed on.
    pub fn end(&self, ended: &Ended<'_>) {
        assert!(!self.ended.replace(true), "a request ends once");
        let took_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0);
        let traced = Traced {
            trace_id: self.trace_id,
            span_id: self.span_id,
            parent_id: self.parent_id,
            started_us: self.started_us,
            ended_us: self.started_us + took_us,
            method: ended.method,
            route: ended.route,
            status: ended.status,
            refused: ended.refused,
            request_id: ended.request_id.to_owned(),
            shards: self.shards.take(),
        };
        match self.tracer.sender.try_send(traced) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.tracer.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_context_is_read_as_the_standard_says() {
        let parent = Parent::read(GOOD.as_bytes()).unwrap();
        assert_eq!(parent.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((parent.span_id, parent.sampled), (0xb7ad_6b71_6920_3331, true));
        let later = GOOD.replacen("00", "cc", 1);
        for (value, is_read) in [
            (GOOD.replace("-01", "-00"), true),
            (format!("{later}-more"), true),
            (format!("{later}more"), false),
            (format!("{GOOD}-more"), false),
            (GOOD.replacen("00", "ff", 1), false),
            (GOOD.to_uppercase(), false),
            (GOOD.replace("b7ad6b7169203331", "0000000000000000"), false),
            (GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), false),
            (GOOD[..54].to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(Parent::read(value.as_bytes()).is_some(), is_read, "{value}");
        }
    }

    #[test]
    fn sampling_follows_the_client_or_the_share() {
        let parent = |sampled| Parent { trace_id: 1, span_id: 1, sampled };
        let share = Sampler { parent_based: true, root: Root::Ratio(0.25) };
        assert!(share.wants(u128::MAX, Some(&parent(true))));
        assert!(!share.wants(1, Some(&parent(false))));
        let ids =
            (0..10_000u128).map(|id| id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let traced = ids.filter(|id| share.wants(*id, None)).count();
        assert!((2300..2700).contains(&traced), "{traced}");
        let always = Sampler { parent_based: false, root: Root::On };
        assert!(always.wants(1, Some(&parent(false))));
    }
}
