//! The io_uring of a core's sockets, and what is known of each socket.
//!
//! *Invariants*: a place in the table is free only when the kernel holds nothing of it any more, so
//! that each completion finds its socket; bytes under way to the kernel stay where they are until
//! it says that it is done with them; nobody is woken while the table is borrowed.
//!
//! *Not here*: the handles that tasks hold (`socket`), when the ring is looked at (`driver`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::buffers::{Buffers, GROUP};
use super::{Mode, RingError};

/// Entries of the submission queue; more wait in [`Table::queued`].
pub const NETWORK_RING_ENTRIES: u32 = 256;
/// Entries of the completion queue; the kernel keeps what does not fit.
pub const NETWORK_RING_COMPLETIONS: u32 = 1024;
/// Completions that are looked at in one turn, each of which may wake a task: the rest stays in the
/// queue, so that a flood on many sockets delays what the core does else by this many tasks a turn.
const COMPLETIONS_A_TURN: usize = 64;
/// Unread bytes of one socket at which no more are received for it.
const UNREAD_BYTES_MAX: usize = 64 << 10;
/// Unread bytes of all sockets at which no more are received for one that has any.
const UNREAD_BYTES_ALL_MAX: usize = 32 << 20;
/// Most bytes under way to the kernel on one socket.
const SEND_BYTES_MAX: usize = 64 << 10;
/// Buffers of bytes that are kept for the next use, and the largest kept.
const SPARE_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 16 << 10;

/// What was asked of the kernel; the upper half of a completion's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Ask {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Cancel = 4,
}

impl Ask {
    fn mark(self, slot: u32) -> u64 {
        (self as u64) << 32 | u64::from(slot)
    }

    fn of(mark: u64) -> (Self, u32) {
        let slot = mark as u32;
        match mark >> 32 {
            1 => (Self::Accept, slot),
            2 => (Self::Receive, slot),
            3 => (Self::Send, slot),
            4 => (Self::Cancel, slot),
            other => panic!("the ring returned a mark that it was not given: {other}"),
        }
    }
}

/// A connected socket.
pub(super) struct Connected {
    fd: OwnedFd,
    /// The kernel receives until it says that it does not.
    receiving: bool,
    /// It was asked to stop that.
    stopping: bool,
    /// The client will send no more.
    ended: bool,
    /// The outbox is the kernel's.
    sending: bool,
    /// Nobody holds the handle any more.
    dropped: bool,
    receive_error: Option<i32>,
    send_error: Option<i32>,
    inbox: Vec<u8>,
    read: usize,
    outbox: Vec<u8>,
    sent: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A listening socket.
pub(super) struct Listening {
    fd: OwnedFd,
    accepting: bool,
    dropped: bool,
    accepted: VecDeque<OwnedFd>,
    error: Option<i32>,
    acceptor: Option<Waker>,
}

enum Place {
    Free,
    Connected(Connected),
    Listening(Box<Listening>),
}

/// The ring and its sockets.
pub(super) struct Table {
    // Dropped in this order: the kernel lets go of everything before memory is freed.
    uring: IoUring,
    buffers: Buffers,
    places: Vec<Place>,
    free: Vec<u32>,
    /// What found the submission queue full.
    queued: VecDeque<Entry>,
    /// Buffers between two uses.
    spare: Vec<Vec<u8>>,
    unread_bytes: usize,
    driver: Option<Waker>,
    /// Who is to be woken once the table is free, first come, first woken.
    woken: VecDeque<Waker>,
}

impl Table {
    pub(super) fn new(mode: Mode) -> Result<Self, RingError> {
        let uring = build(mode).map_err(RingError::step("set up"))?;
        let buffers =
            Buffers::register(&uring.submitter()).map_err(RingError::step("give buffers to"))?;
        Ok(Self {
            uring,
            buffers,
            places: Vec::new(),
            free: Vec::new(),
            queued: VecDeque::new(),
            spare: Vec::new(),
            unread_bytes: 0,
            driver: None,
            woken: VecDeque::new(),
        })
    }

    /// Signals `event` for completions while [`Self::sleep`] lasts.
    pub(super) fn signal_by(&self, event: &OwnedFd) -> Result<(), RingError> {
        self.uring
            .submitter()
            .register_eventfd(event.as_raw_fd())
            .map_err(RingError::step("register an event of"))
    }

    fn place(&mut self, place: Place) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.places[slot as usize] = place;
            return slot;
        }
        self.places.push(place);
        u32::try_from(self.places.len() - 1).expect("descriptors are fewer than 2^32")
    }

    pub(super) fn connect(&mut self, fd: OwnedFd) -> u32 {
        self.place(Place::Connected(Connected {
            fd,
            receiving: false,
            stopping: false,
            ended: false,
            sending: false,
            dropped: false,
            receive_error: None,
            send_error: None,
            inbox: Vec::new(),
            read: 0,
            outbox: Vec::new(),
            sent: 0,
            reader: None,
            writer: None,
        }))
    }

    pub(super) fn listen(&mut self, fd: OwnedFd) -> u32 {
        self.place(Place::Listening(Box::new(Listening {
            fd,
            accepting: false,
            dropped: false,
            accepted: VecDeque::new(),
            error: None,
            acceptor: None,
        })))
    }

    pub(super) fn connected(&mut self, slot: u32) -> &mut Connected {
        match &mut self.places[slot as usize] {
            Place::Connected(connected) => connected,
            Place::Free | Place::Listening(_) => panic!("a handle keeps its place"),
        }
    }

    pub(super) fn listening(&mut self, slot: u32) -> &mut Listening {
        match &mut self.places[slot as usize] {
            Place::Listening(listening) => listening,
            Place::Free | Place::Connected(_) => panic!("a handle keeps its place"),
        }
    }

    /// The next connection that was accepted; asks for more where there is none.
    pub(super) fn poll_accept(
        &mut self,
        slot: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<OwnedFd>> {
        let listening = self.listening(slot);
        if let Some(fd) = listening.accepted.pop_front() {
            return Poll::Ready(Ok(fd));
        }
        if let Some(error) = listening.error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
        }
        listening.acceptor = Some(cx.waker().clone());
        if !std::mem::replace(&mut listening.accepting, true) {
            let fd = Fd(listening.fd.as_raw_fd());
            let flags = libc::SOCK_CLOEXEC;
            self.ask(opcode::AcceptMulti::new(fd).flags(flags).build(), Ask::Accept, slot);
        }
        Poll::Pending
    }

    /// What has come and was not read; none at the end of what the client sends.
    pub(super) fn poll_unread(
        &mut self,
        slot: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<&[u8]>> {
        let socket = self.connected(slot);
        if socket.inbox.is_empty() {
            if let Some(error) = socket.receive_error.take() {
                return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
            }
            if !socket.ended {
                remember(&mut socket.reader, cx);
                self.receive(slot);
                return Poll::Pending;
            }
        }
        let socket = self.connected(slot);
        Poll::Ready(Ok(&socket.inbox[socket.read..]))
    }

    /// Some of what [`Self::poll_unread`] gave was read.
    pub(super) fn consume(&mut self, slot: u32, bytes: usize) {
        let socket = self.connected(slot);
        socket.read += bytes;
        assert!(socket.read <= socket.inbox.len(), "only what has come is read");
        if socket.read == socket.inbox.len() {
            socket.read = 0;
            let inbox = std::mem::take(&mut socket.inbox);
            self.keep(inbox);
        }
        self.unread_bytes -= bytes;
    }

    fn receive(&mut self, slot: u32) {
        let socket = self.connected(slot);
        if !std::mem::replace(&mut socket.receiving, true) {
            let fd = Fd(socket.fd.as_raw_fd());
            self.ask(opcode::RecvMulti::new(fd, GROUP).build(), Ask::Receive, slot);
        }
    }

    /// Takes bytes to send, unless the last ones are still under way.
    pub(super) fn poll_send(
        &mut self,
        slot: u32,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.connected(slot);
        if let Some(error) = socket.send_error {
            return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
        }
        if socket.sending {
            remember(&mut socket.writer, cx);
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(SEND_BYTES_MAX)];
        let mut outbox = self.spare.pop().unwrap_or_default();
        outbox.extend_from_slice(bytes);
        let socket = self.connected(slot);
        socket.outbox = outbox;
        socket.sent = 0;
        socket.sending = true;
        self.send(slot);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Everything that was taken to send is with the kernel.
    pub(super) fn poll_sent(&mut self, slot: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.connected(slot);
        match socket.send_error {
            Some(error) => Poll::Ready(Err(io::Error::from_raw_os_error(error))),
            None if socket.sending => {
                remember(&mut socket.writer, cx);
                Poll::Pending
            }
            None => Poll::Ready(Ok(())),
        }
    }

    fn send(&mut self, slot: u32) {
        let socket = self.connected(slot);
        let rest = &socket.outbox[socket.sent..];
        let bytes = u32::try_from(rest.len()).expect("an outbox is small");
        let send = opcode::Send::new(Fd(socket.fd.as_raw_fd()), rest.as_ptr(), bytes);
        let entry = send.flags(libc::MSG_NOSIGNAL).build();
        self.ask(entry, Ask::Send, slot);
    }

    /// The handle of a place is gone: it is given up as soon as the kernel holds nothing of it.
    pub(super) fn drop_handle(&mut self, slot: u32) {
        let (receiving, sending) = match &mut self.places[slot as usize] {
            Place::Free => panic!("a handle keeps its place"),
            Place::Connected(socket) => {
                socket.dropped = true;
                (socket.receiving.then_some(Ask::Receive), socket.sending.then_some(Ask::Send))
            }
            Place::Listening(listening) => {
                listening.dropped = true;
                (listening.accepting.then_some(Ask::Accept), None)
            }
        };
        // What waits in front of it in the queue is still tried once: a last word is sent.
        for ask in receiving.into_iter().chain(sending) {
            self.cancel(ask, slot);
        }
        self.give_up(slot);
    }

    fn cancel(&mut self, what: Ask, slot: u32) {
        let entry = opcode::AsyncCancel::new(what.mark(slot)).build();
        self.ask(entry, Ask::Cancel, slot);
    }

    fn give_up(&mut self, slot: u32) {
        let place = &mut self.places[slot as usize];
        let over = match place {
            Place::Free => false,
            Place::Connected(one) => one.dropped && !one.receiving && !one.sending,
            Place::Listening(one) => one.dropped && !one.accepting,
        };
        if !over {
            return;
        }
        if let Place::Connected(one) = std::mem::replace(place, Place::Free) {
            self.unread_bytes -= one.inbox.len() - one.read;
            self.keep(one.inbox);
            self.keep(one.outbox);
        }
        self.free.push(slot);
    }

    /// Keeps the memory of a buffer for the next use.
    fn keep(&mut self, mut buffer: Vec<u8>) {
        let fits = (1..=SPARE_BYTES_MAX).contains(&buffer.capacity());
        if fits && self.spare.len() < SPARE_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn ask(&mut self, entry: Entry, ask: Ask, slot: u32) {
        let entry = entry.user_data(ask.mark(slot));
        // SAFETY: the descriptor and the outbox that an entry names belong to its place, which
        // outlives what the kernel holds of it.
        let full =
            !self.queued.is_empty() || unsafe { self.uring.submission().push(&entry) }.is_err();
        if full {
            self.queued.push_back(entry);
        }
        if let Some(driver) = self.driver.take() {
            self.woken.push_back(driver);
        }
    }

    /// Submits what was asked for, reads of what has completed as much as a turn may, and says how
    /// much that was.
    pub(super) fn turn(&mut self) -> usize {
        let mut completed = 0;
        loop {
            self.fill();
            let submission = self.uring.submission();
            let asks = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
            drop(submission);
            if asks {
                self.enter();
            }
            let read = self.reap(COMPLETIONS_A_TURN - completed);
            completed += read;
            if self.queued.is_empty() || read == 0 || completed == COMPLETIONS_A_TURN {
                return completed;
            }
        }
    }

    fn fill(&mut self) {
        let mut submission = self.uring.submission();
        while let Some(entry) = self.queued.front() {
            // SAFETY: as in `ask`, where it could not be pushed.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.queued.pop_front();
        }
    }

    fn enter(&self) {
        match self.uring.submit() {
            Ok(_) => {}
            // Interrupted, or out of memory for a moment, or too much unread: the next turn.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
                ) => {}
            Err(error) => panic!("the network ring of this core is broken: {error}"),
        }
    }

    fn reap(&mut self, most: usize) -> usize {
        let mut read = 0;
        while read < most {
            let completion = self.uring.completion().next();
            let Some(completion) = completion else { break };
            read += 1;
            let (ask, slot) = Ask::of(completion.user_data());
            let (result, flags) = (completion.result(), completion.flags());
            match ask {
                Ask::Accept => self.accepted(slot, result, flags),
                Ask::Receive => self.received(slot, result, flags),
                Ask::Send => self.sent(slot, result),
                // What was to be stopped tells of its end itself.
                Ask::Cancel => {}
            }
        }
        if read > 0 {
            self.buffers.publish();
        }
        read
    }

    fn accepted(&mut self, slot: u32, result: i32, flags: u32) {
        let listening = self.listening(slot);
        match u32::try_from(result) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(_) => listening.accepted.push_back(unsafe { OwnedFd::from_raw_fd(result) }),
            Err(_) if -result == libc::ECANCELED => {}
            Err(_) => listening.error = Some(-result),
        }
        listening.accepting = cqueue::more(flags);
        let waker = listening.acceptor.take();
        self.woken.extend(waker);
        self.give_up(slot);
    }

    fn received(&mut self, slot: u32, result: i32, flags: u32) {
        self.take_in(slot, result, flags);
        let crowded = self.unread_bytes > UNREAD_BYTES_ALL_MAX;
        let socket = self.connected(slot);
        match result {
            0 => socket.ended = true,
            _ if result > 0 || -result == libc::ENOBUFS || -result == libc::ECANCELED => {}
            _ => socket.receive_error = Some(-result),
        }
        socket.receiving = cqueue::more(flags);
        let unread = socket.inbox.len() - socket.read;
        let enough = unread > UNREAD_BYTES_MAX || (crowded && unread > 0);
        let stop = enough && socket.receiving && !socket.stopping;
        socket.stopping = socket.receiving && (socket.stopping || stop);
        let starved = -result == libc::ENOBUFS && !socket.receiving && !socket.dropped;
        let waker = socket.reader.take();
        self.woken.extend(waker);
        if stop {
            self.cancel(Ask::Receive, slot);
        }
        if starved && !enough {
            self.receive(slot);
        }
        self.give_up(slot);
    }

    /// Copies what came and gives the buffer back.
    fn take_in(&mut self, slot: u32, result: i32, flags: u32) {
        let Some(buffer) = cqueue::buffer_select(flags) else { return };
        let bytes = self.buffers.received(buffer, usize::try_from(result).unwrap_or(0));
        let Place::Connected(socket) = &mut self.places[slot as usize] else {
            panic!("what receives is a connected socket");
        };
        if !socket.dropped {
            if socket.inbox.capacity() == 0 {
                socket.inbox = self.spare.pop().unwrap_or_default();
            }
            socket.inbox.extend_from_slice(bytes);
            self.unread_bytes += bytes.len();
        }
        self.buffers.give(buffer);
    }

    fn sent(&mut self, slot: u32, result: i32) {
        let socket = self.connected(slot);
        match usize::try_from(result) {
            Ok(bytes) => socket.sent += bytes,
            Err(_) if -result == libc::EINTR && !socket.dropped => {}
            Err(_) => socket.send_error = Some(-result),
        }
        let more = socket.send_error.is_none() && socket.sent < socket.outbox.len();
        if more && !socket.dropped {
            return self.send(slot);
        }
        socket.sending = false;
        let (outbox, waker) = (std::mem::take(&mut socket.outbox), socket.writer.take());
        self.keep(outbox);
        self.woken.extend(waker);
        self.give_up(slot);
    }

    /// Ready where something is to be done; else arms the event, and remembers whom to wake.
    pub(super) fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_work() {
            return Poll::Ready(());
        }
        self.uring.completion().enable_eventfd();
        // The kernel sets its flag and then looks whether to signal; we do it the other way round.
        fence(Ordering::SeqCst);
        if self.has_work() {
            self.awake();
            return Poll::Ready(());
        }
        remember(&mut self.driver, cx);
        Poll::Pending
    }

    /// No more events: the driver looks by itself.
    pub(super) fn awake(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    fn has_work(&mut self) -> bool {
        let submission = self.uring.submission();
        let waits = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        waits || !self.queued.is_empty() || !self.uring.completion().is_empty()
    }

    /// Lets the driver look again.
    pub(super) fn wake_driver(&mut self) {
        self.woken.extend(self.driver.take());
    }

    /// Who is to be woken, to be called until there is nobody.
    pub(super) fn take_woken(&mut self) -> Option<Waker> {
        self.woken.pop_front()
    }

    /// The descriptor of a socket on which nothing has happened; its place is free then.
    pub(super) fn release(&mut self, slot: u32) -> Option<OwnedFd> {
        let socket = self.connected(slot);
        let fresh =
            !socket.receiving && !socket.sending && !socket.ended && socket.inbox.is_empty();
        if !fresh {
            return None;
        }
        let place = std::mem::replace(&mut self.places[slot as usize], Place::Free);
        self.free.push(slot);
        match place {
            Place::Connected(socket) => Some(socket.fd),
            Place::Free | Place::Listening(_) => None,
        }
    }

    /// The descriptor of a listening socket.
    pub(super) fn listening_descriptor(&mut self, slot: u32) -> &OwnedFd {
        &self.listening(slot).fd
    }

    /// The descriptor of a connected socket.
    pub(super) fn descriptor(&mut self, slot: u32) -> &OwnedFd {
        &self.connected(slot).fd
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // The kernel must not write to buffers that are about to be freed.
        let patience = Timespec::new().sec(1);
        let _ = self.uring.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
    }
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn build(mode: Mode) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(NETWORK_RING_COMPLETIONS).setup_single_issuer().setup_taskrun_flag();
    match mode {
        Mode::Deferred => builder.setup_defer_taskrun(),
        Mode::Cooperative => builder.setup_coop_taskrun(),
    };
    builder.build(NETWORK_RING_ENTRIES)
}
