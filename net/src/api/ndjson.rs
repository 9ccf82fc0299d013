//! Memories as a stream of lines: any length in, one verdict a line out, in order.
//!
//! *Invariants*: memory is bounded whatever the length of the stream; a line that does not fit has
//! its verdict and does not stop the others.
//!
//! *Not here*: what a memory is (`json::memory`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use engram_engine::limits::NDJSON_LINE_BYTES_MAX;
use engram_engine::model::{NewMemory, SpaceName};
use engram_engine::request::{Answer, Request, StoreMode, Wait};
use http::StatusCode;
use hyper::body::Bytes;

use super::body::{Body, Lease};
use super::call::{Answered, Call, Core};
use super::idempotency::Key;
use super::operations::unexpected;
use super::route::Operation;
use super::slice::Slice;
use super::together::InOrder;
use crate::backend::Backend;
use crate::error::{Checked, Fault, Problem};
use crate::json::view::Verdict;
use crate::json::writer::write;
use crate::json::{memory, reader};
use crate::server::reply::{Chunks, Payload};

/// Batches that are under way at once.
const BATCHES_AT_ONCE: usize = 4;
/// Most memories of one batch.
const BATCH_MEMORIES_MAX: usize = 512;
/// Bytes of lines after which a batch is sent.
const BATCH_BYTES: usize = 1 << 20;
/// Verdicts that wait for a client who sends everything before it reads.
const OUTBOX_BYTES_MAX: usize = 8 << 20;
/// What a stream holds of the core's budget at least, so that it always gets on.
const STREAM_BYTES: usize = 2 << 20;
/// A line takes about this much as text and as the memory that was read from it.
const TEXT_AND_MEMORY: usize = 2;

/// Answers with the verdicts of the lines to come.
///
/// # Errors
/// Where the core has no room for another stream.
pub fn store<B: Backend>(
    call: &mut Call<'_, B>,
    space: SpaceName,
    wait: Wait,
) -> Checked<Answered> {
    let mut lease = call.core.budget.lease();
    lease.grow(STREAM_BYTES)?;
    let body = call.body.take().expect("only this operation takes the body");
    let outbox = Rc::new(Outbox::default());
    let intake = Intake {
        core: Rc::clone(call.core),
        space,
        wait,
        key: call.key,
        body,
        line: Vec::new(),
        skipping: false,
        batch: Batch::default(),
        lines: 0,
        sent_bytes: 0,
        lease,
    };
    // A task of its own, once a stream: a client may send everything before it reads a verdict,
    // and hyper polls an answer only while the socket takes it.
    glommio::spawn_local(intake.run(Rc::clone(&outbox))).detach();
    let payload = Payload::Stream(Box::pin(Verdicts { outbox }));
    Ok(Answered {
        status: StatusCode::OK,
        media: "application/x-ndjson",
        payload,
        headers: Vec::new(),
        counted: true,
        lease: None,
    })
}

/// Verdicts between the task that makes them and the connection that sends them.
#[derive(Debug, Default)]
struct Outbox {
    chunks: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    over: Cell<bool>,
    abandoned: Cell<bool>,
    sender: RefCell<Option<Waker>>,
    maker: RefCell<Option<Waker>>,
}

impl Outbox {
    fn push(&self, chunk: Bytes) {
        self.bytes.set(self.bytes.get() + chunk.len());
        self.chunks.borrow_mut().push_back(chunk);
        wake(&self.sender);
    }

    fn end(&self) {
        self.over.set(true);
        wake(&self.sender);
    }

    fn has_room(&self) -> bool {
        self.bytes.get() < OUTBOX_BYTES_MAX
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}

/// The answer's side of the outbox.
struct Verdicts {
    outbox: Rc<Outbox>,
}

impl Chunks for Verdicts {
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let outbox = &self.outbox;
        if let Some(chunk) = outbox.chunks.borrow_mut().pop_front() {
            outbox.bytes.set(outbox.bytes.get() - chunk.len());
            wake(&outbox.maker);
            return Poll::Ready(Some(chunk));
        }
        if outbox.over.get() {
            return Poll::Ready(None);
        }
        *outbox.sender.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Verdicts {
    fn drop(&mut self) {
        self.outbox.abandoned.set(true);
        wake(&self.outbox.maker);
    }
}

/// Lines that are stored together, each with its refusal or none.
#[derive(Default)]
struct Batch {
    first: u64,
    refusals: Vec<Option<Box<Problem>>>,
    memories: Vec<NewMemory>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.refusals.len() >= BATCH_MEMORIES_MAX || self.bytes >= BATCH_BYTES
    }
}

/// The stream on its way in.
struct Intake<B> {
    core: Rc<Core<B>>,
    space: SpaceName,
    wait: Wait,
    key: Option<Key>,
    body: Body,
    line: Vec<u8>,
    skipping: bool,
    batch: Batch,
    lines: u64,
    /// Bytes of the batches under way.
    sent_bytes: usize,
    lease: Lease,
}

/// Bytes of a batch that is done, and its verdicts.
type Batched = (usize, Bytes);

enum Event {
    Abandoned,
    Verdicts(Batched),
    Chunk(Checked<Option<Bytes>>),
    Quiet,
}

impl<B: Backend> Intake<B> {
    async fn run(mut self, outbox: Rc<Outbox>) {
        let mut running = InOrder::new();
        let mut over = false;
        while !over || running.count() > 0 || !self.batch.refusals.is_empty() {
            let event = poll_fn(|cx| {
                if outbox.abandoned.get() {
                    return Poll::Ready(Event::Abandoned);
                }
                *outbox.maker.borrow_mut() = Some(cx.waker().clone());
                if running.count() > 0
                    && let Poll::Ready(verdicts) = running.poll_next(cx)
                {
                    return Poll::Ready(Event::Verdicts(verdicts));
                }
                let alone = running.count() == 0 && outbox.bytes.get() == 0;
                if running.count() >= BATCHES_AT_ONCE || !self.has_room(&outbox, alone) {
                    return Poll::Pending;
                }
                if !over && let Poll::Ready(chunk) = self.body.poll_chunk(cx) {
                    return Poll::Ready(Event::Chunk(chunk));
                }
                if self.batch.refusals.is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(Event::Quiet)
                }
            })
            .await;
            match event {
                Event::Abandoned => return,
                Event::Verdicts((bytes, verdicts)) => {
                    self.sent_bytes -= bytes;
                    outbox.push(verdicts);
                }
                Event::Quiet => running.push(self.send_batch()),
                Event::Chunk(Ok(Some(chunk))) => {
                    let mut rest = &chunk[..];
                    while self.take_lines(&mut rest).await {
                        running.push(self.send_batch());
                    }
                }
                Event::Chunk(Ok(None)) => {
                    over = true;
                    self.take_line(&[]);
                }
                Event::Chunk(Err(problem)) => {
                    over = true;
                    self.batch.refusals.push(Some(problem));
                }
            }
        }
        outbox.end();
    }

    /// Whether more may be read: within what the core's budget gives, and always where nothing of
    /// this stream is under way that would make room.
    fn has_room(&mut self, outbox: &Outbox, alone: bool) -> bool {
        let lines = self.line.len() + (self.batch.bytes + self.sent_bytes) * TEXT_AND_MEMORY;
        let wanted = (lines + outbox.bytes.get()).max(STREAM_BYTES);
        let granted = self.lease.hold(wanted).is_ok();
        alone || wanted == STREAM_BYTES || (granted && outbox.has_room())
    }

    /// Takes the lines of a chunk, in slices; true where a batch is full before the chunk is empty.
    async fn take_lines(&mut self, rest: &mut &[u8]) -> bool {
        let mut slice = Slice::begin();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            *rest = &after[1..];
            self.take_line(line);
            if self.batch.is_full() {
                return true;
            }
            slice.rest_if_due().await;
        }
        self.keep(std::mem::take(rest));
        false
    }

    /// Keeps the beginning of a line whose end is yet to come.
    fn keep(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        if self.line.len() + part.len() > NDJSON_LINE_BYTES_MAX {
            self.skipping = true;
            self.line = Vec::new();
            return;
        }
        self.line.extend_from_slice(part);
    }

    /// Takes the end of a line, and with it the line.
    fn take_line(&mut self, end: &[u8]) {
        self.body.progressed();
        let mut line = std::mem::take(&mut self.line);
        let whole: &[u8] = if line.is_empty() {
            end
        } else {
            line.extend_from_slice(end);
            &line
        };
        let too_long = std::mem::take(&mut self.skipping) || whole.len() > NDJSON_LINE_BYTES_MAX;
        if too_long {
            let detail = format!("a line has at most {NDJSON_LINE_BYTES_MAX} bytes");
            self.batch.refusals.push(Some(Problem::new(Fault::BodyTooLarge, detail)));
        } else if !whole.trim_ascii().is_empty() {
            self.read_memory(whole);
        }
        if line.capacity() <= 64 << 10 {
            line.clear();
            self.line = line;
        }
    }

    fn read_memory(&mut self, line: &[u8]) {
        let (core, key) = (&self.core, self.key);
        let index = self.lines + self.batch.refusals.len() as u64;
        let make_id = || core.make_id(key, index);
        self.batch.bytes += line.len();
        match reader::document(line, |reader| memory::read(reader, make_id)) {
            Ok(memory) => {
                self.batch.memories.push(memory);
                self.batch.refusals.push(None);
            }
            Err(problem) => self.batch.refusals.push(Some(problem)),
        }
    }

    fn send_batch(&mut self) -> impl Future<Output = Batched> + use<B> {
        let mut batch = std::mem::take(&mut self.batch);
        let bytes = batch.bytes;
        self.sent_bytes += bytes;
        batch.first = self.lines;
        self.lines += batch.refusals.len() as u64;
        let memories = std::mem::take(&mut batch.memories);
        let (core, space, wait) = (Rc::clone(&self.core), self.space.clone(), self.wait);
        async move {
            let mode = StoreMode::Upsert;
            let answer = if memories.is_empty() {
                Ok(Answer::Stored { verdicts: Vec::new(), durable: true })
            } else {
                core.backend.call(Request::Store { space, memories, mode, wait }).await
            };
            (bytes, write_verdicts(&core, batch, answer))
        }
    }
}

fn write_verdicts<B: Backend>(
    core: &Core<B>,
    batch: Batch,
    answer: Result<Answer, engram_engine::request::Rejection>,
) -> Bytes {
    let (verdicts, durable, whole) = match answer {
        Ok(Answer::Stored { verdicts, durable }) => (verdicts, durable, None),
        Ok(other) => unexpected(&other),
        Err(rejection) => (Vec::new(), false, Some(rejection)),
    };
    let mut verdicts = verdicts.into_iter();
    let mut lines = Vec::with_capacity(batch.refusals.len() * 64);
    for (index, refusal) in (batch.first..).zip(batch.refusals) {
        let verdict = match (refusal, &whole) {
            (Some(problem), _) => Err(problem),
            (None, Some(rejection)) => Err(rejection.clone().into()),
            (None, None) => {
                let verdict = verdicts.next().expect("one verdict for each memory");
                verdict.map_err(Box::<Problem>::from)
            }
        };
        let refused = verdict.as_ref().err().map(|problem| problem.reason);
        core.metrics.outcome(Operation::StoreBatch, refused, 1);
        let view = match &verdict {
            Ok(stored) => Verdict::stored(index, stored, durable),
            Err(no) => Verdict::refused(index, no.reason, &no.detail, &no.pointer),
        };
        write(&mut lines, &view);
        lines.push(b'\n');
    }
    lines.into()
}
