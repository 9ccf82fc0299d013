//! Serves one core: accepts, answers, drains.
//!
//! *Invariants*: a connection that was accepted is answered or told to go; while draining, requests
//! that still come are answered and their connections closed after them.
//!
//! *Not here*: which requests are answered (`api`), when to stop (the caller).

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use engram_engine::request::Wait;
use engram_platform::sockets::Socket;
use futures_lite::future::{or, poll_once};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use glommio::timer::sleep;
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::addresses::{Addresses, Place};
use super::entrance::Entrance;
use super::peer::Peer;
use super::refused;
use super::stream::{READ_BYTES_MAX, Scratch, Stream, scratch};
use super::watch::{Connections, End, SWEEP_INTERVAL, Timeouts, Watched};
use crate::api::body::Budget;
use crate::api::call::Core;
use crate::api::service::{self, Asker};
use crate::api::slice::Slice;
use crate::api::uuid::Uuids;
use crate::auth::{Auth, Guard};
use crate::backend::Backend;
use crate::error::Fault;
use crate::metrics::{Registry, Shed};
use crate::rates::Rates;
use crate::tls::Tls;
use crate::trace::Tracer;

/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// After draining begins, how long connections are kept for requests that are on their way.
const LINGER: Duration = Duration::from_millis(500);
/// What is read and dropped of an unread body after the answer, and for how long.
const DISCARD_BYTES_MAX: usize = 4 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// How often it is looked at how far draining is.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);
/// How long a connection that has begun may take to be there, before the listener is closed.
const HANDSHAKE_TIME: Duration = Duration::from_millis(100);
/// Rest within a sweep, in which those that it ended go, and requests go on.
const SWEEP_REST: Duration = Duration::from_micros(1);
/// Rest after accepting failed, for instance for want of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(5);

/// How one core serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long connections may stand still.
    pub timeouts: Timeouts,
    /// Most connections of this core.
    pub connections_max: usize,
    /// Most connections of one address, the same for each core.
    pub addresses: Addresses,
    /// Most bytes of request bodies that this core holds; and, beside them, of answers that clients
    /// have not taken.
    pub body_bytes_max: usize,
    /// When a write is answered where the request does not say.
    pub wait: Wait,
    /// How long draining may take.
    pub drain: Duration,
    /// Counters of all cores; the same registry for each.
    pub registry: Registry,
    /// Keys, the same for each core; the default asks for none.
    pub auth: Auth,
    /// `/metrics` asks for a key that may read.
    pub metrics_guarded: bool,
    /// TLS, the same for each core; `None`: the listener speaks in the clear.
    pub tls: Option<Tls>,
    /// Requests must name the server as `localhost` or by an address, not by another name: for a
    /// listener on loopback without keys, which pages of other sites could reach otherwise.
    pub local_names_only: bool,
    /// Requests that a client may send, the same for each core; `None`: any number.
    pub rates: Option<Rates>,
    /// Recalls that take as long are logged.
    pub slow_recall: Duration,
    /// Traces, where somebody wants them.
    pub tracer: Option<Tracer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            connections_max: 8192,
            addresses: Addresses::of_server(8192),
            body_bytes_max: 256 << 20,
            wait: Wait::Durable,
            drain: Duration::from_secs(20),
            registry: Registry::default(),
            auth: Auth::default(),
            metrics_guarded: false,
            tls: None,
            local_names_only: false,
            rates: None,
            slow_recall: Duration::from_secs(1),
            tracer: None,
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the time for draining was over.
    pub cut: usize,
}

struct Shared<B> {
    core: Rc<Core<B>>,
    options: Options,
    connections: Connections,
    scratch: Scratch,
    stage: Cell<Stage>,
    entrance: Entrance,
    /// Clients that are told that the server goes.
    goodbyes: Cell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// Answers ask clients to close.
    Draining,
    /// Idle connections are closed, new ones turned away.
    Closing,
    /// Whoever is left is cut off.
    Closed,
}

/// Serves until `stop` is ready, then drains; to be awaited inside the core's executor.
///
/// At the end no connection is reset that has begun: once all cores are done the listeners hear of no
/// new ones, and those that wait in their queues are told that the server goes.
pub async fn serve<B: Backend>(
    backend: B,
    entrance: Entrance,
    options: Options,
    stop: impl Future<Output = ()>,
) -> Drained {
    let core = Core {
        backend,
        metrics: options.registry.join(entrance.core()),
        registry: options.registry.clone(),
        budget: Budget::new(options.body_bytes_max, "requests"),
        untaken: Budget::new(options.body_bytes_max, "answers that clients are slow to take"),
        uuids: Uuids::new(),
        wait: options.wait,
        guard: Guard::new(options.auth.clone()),
        metrics_guarded: options.metrics_guarded,
        local_names_only: options.local_names_only,
        rates: options.rates.clone(),
        slow_recall: options.slow_recall,
        tracer: options.tracer.clone(),
    };
    let shared = Rc::new(Shared {
        core: Rc::new(core),
        options,
        connections: Connections::new(),
        scratch: scratch(),
        stage: Cell::new(Stage::Serving),
        entrance,
        goodbyes: Cell::new(0),
    });
    glommio::spawn_local(accept(Rc::clone(&shared))).detach();
    glommio::spawn_local(receive(Rc::clone(&shared))).detach();
    glommio::spawn_local(sweep(Rc::clone(&shared))).detach();
    stop.await;
    drain(&shared).await
}

/// Takes what comes, in slices: who asks on a connection that is there need not wait until a flood
/// of new ones has been let in.
async fn accept<B: Backend>(shared: Rc<Shared<B>>) {
    let mut slice = Slice::begin();
    loop {
        match shared.entrance.accept().await {
            Ok(stream) if shared.stage.get() == Stage::Serving => {
                match shared.entrance.share(stream) {
                    Some(stream) => admit(&shared, stream),
                    None => shared.core.metrics.handed_over.add(1),
                }
            }
            Ok(stream) => admit(&shared, stream),
            Err(_) => {
                shared.connections.make_room();
                sleep(ACCEPT_REST).await;
            }
        }
        slice.rest_if_due().await;
    }
}

/// Takes what other cores give away.
async fn receive<B: Backend>(shared: Rc<Shared<B>>) {
    let mut slice = Slice::begin();
    loop {
        let stream = shared.entrance.receive().await;
        admit(&shared, stream);
        slice.rest_if_due().await;
    }
}

fn admit<B: Backend>(shared: &Rc<Shared<B>>, stream: Socket) {
    let metrics = &shared.core.metrics;
    metrics.accepted.add(1);
    // Clients that come back for ever would keep a server from its end, and be cut off at last.
    if shared.stage.get() >= Stage::Closing {
        metrics.shed(Shed::Draining);
        if shared.options.tls.is_none() {
            shared.goodbyes.set(shared.goodbyes.get() + 1);
            glommio::spawn_local(say_goodbye(Rc::clone(shared), stream)).detach();
        }
        return;
    }
    let address = peer_address(&stream);
    let Ok(place) = shared.options.addresses.take(address) else {
        return turn_away(shared, stream, Shed::Address);
    };
    let full = shared.connections.open() >= shared.options.connections_max;
    if full && !shared.connections.make_room() {
        return turn_away(shared, stream, Shed::Connections);
    }
    let (slot, watched) = shared.connections.add();
    count_open(shared);
    let seat = Seat { slot, watched, address, _place: place };
    glommio::spawn_local(connection(Rc::clone(shared), stream, seat)).detach();
}

/// What an admitted connection holds.
struct Seat {
    slot: usize,
    watched: Rc<Watched>,
    address: IpAddr,
    _place: Option<Place>,
}

fn count_open<B>(shared: &Shared<B>) {
    let open = shared.connections.open();
    shared.core.metrics.open.set(open as u64);
    shared.entrance.has_open(open);
}

/// One attempt to say why, in the clear; a fresh socket takes these few bytes.
fn turn_away<B>(shared: &Shared<B>, mut stream: Socket, why: Shed) {
    shared.core.metrics.shed(why);
    if shared.options.tls.is_some() {
        return;
    }
    let fault = if why == Shed::Address { Fault::AddressFull } else { Fault::OverCapacity };
    let mut sending = pin!(stream.write(refused::answer(fault)));
    let waker = std::task::Waker::noop();
    let _ = sending.as_mut().poll(&mut std::task::Context::from_waker(waker));
}

/// Says that the server goes, and waits till the client has taken that: a socket that is closed
/// with a request unread is reset, and the answer with it.
async fn say_goodbye<B>(shared: Rc<Shared<B>>, mut stream: Socket) {
    let said = stream.write_all(refused::answer(Fault::OverCapacity)).await.is_ok();
    if said && end_sending(&mut stream).await {
        client_goes(&mut stream).await;
    }
    shared.goodbyes.set(shared.goodbyes.get() - 1);
}

async fn sweep<B: Backend>(shared: Rc<Shared<B>>) {
    while shared.stage.get() < Stage::Closed || shared.connections.open() > 0 {
        let mut from = Some(0);
        while let Some(slot) = from {
            from = shared.connections.sweep(slot, &shared.options.timeouts);
            sleep(if from.is_some() { SWEEP_REST } else { SWEEP_INTERVAL }).await;
        }
    }
}

async fn connection<B: Backend>(shared: Rc<Shared<B>>, stream: Socket, seat: Seat) {
    let watched = &seat.watched;
    let peer = match &shared.options.tls {
        None => Some(Peer::Plain(stream)),
        Some(tls) => shake_hands(&shared, tls, stream, watched).await,
    };
    if let Some(peer) = peer {
        let stream = Stream::new(peer, Rc::clone(watched), Rc::clone(&shared.scratch));
        converse(&shared, stream, watched, seat.address).await;
    }
    shared.connections.remove(seat.slot);
    count_open(&shared);
}

/// Agrees on keys with a client, in the time for a head; while draining, with nobody new.
async fn shake_hands<B: Backend>(
    shared: &Rc<Shared<B>>,
    tls: &Tls,
    stream: Socket,
    watched: &Rc<Watched>,
) -> Option<Peer> {
    let metrics = &shared.core.metrics;
    let mut accepting = pin!(tls.acceptor().accept(stream));
    watched.received();
    let shaken = poll_fn(|cx| {
        watched.polled_by(cx.waker());
        match watched.ended() {
            Some(end) => Poll::Ready(Err(shed_by(end))),
            None if shared.stage.get() >= Stage::Closing => Poll::Ready(Err(Shed::Draining)),
            None => accepting.as_mut().poll(cx).map(Ok),
        }
    })
    .await;
    watched.finish();
    match shaken {
        Ok(Ok(stream)) => return Some(Peer::Tls(Box::new(stream))),
        Ok(Err(_)) => metrics.broken.add(1),
        Err(shed) => metrics.shed(shed),
    }
    None
}

/// Where a client is. One that has gone already is nowhere.
fn peer_address(stream: &Socket) -> IpAddr {
    let address = stream.peer_address().ok();
    address.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip())
}

async fn converse<B: Backend>(
    shared: &Rc<Shared<B>>,
    stream: Stream<Peer>,
    watched: &Rc<Watched>,
    address: IpAddr,
) {
    let service = service_fn(|request| {
        let (core, watched) = (Rc::clone(&shared.core), Rc::clone(watched));
        let draining = shared.stage.get() > Stage::Serving;
        let asker = Asker { watched, address };
        async move { Ok::<_, Infallible>(service::answer(core, asker, request, draining).await) }
    });
    let mut http = http1::Builder::new();
    http.half_close(true)
        .header_read_timeout(None)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_BYTES_MAX)
        .writev(false);
    let mut connection = http.serve_connection(stream, service);
    let mut told = false;
    let ended = poll_fn(|cx| {
        watched.polled_by(cx.waker());
        if let Some(end) = watched.ended() {
            return Poll::Ready(Err(end));
        }
        // A client that has just connected is on its way to send: its answer closes.
        let may_be_told = watched.has_asked() || watched.is_silent_for(LINGER);
        if shared.stage.get() >= Stage::Closing && may_be_told && !told {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        Pin::new(&mut connection).poll(cx).map(Ok)
    })
    .await;
    let mut stream = connection.into_parts().io;
    match &ended {
        Ok(Ok(())) => {}
        Ok(Err(_)) => shared.core.metrics.broken.add(1),
        Err(end) => {
            shared.core.metrics.shed(shed_by(*end));
            if *end == End::SlowHead {
                let answer = refused::answer(Fault::RequestTimeout);
                let _ = poll_once(stream.inner().write_all(answer)).await;
            }
        }
    }
    close(stream.inner(), ended.err(), watched).await;
}

fn shed_by(end: End) -> Shed {
    match end {
        End::SlowHead => Shed::SlowHead,
        End::Idle => Shed::Idle,
        End::Evicted => Shed::Evicted,
        End::SlowReader => Shed::SlowReader,
    }
}

/// Closes. Where the client still sends, reads that for a while first, since closing with bytes
/// unread resets the connection and the answer may be lost. Where the client was told to go and does
/// not, or does not read, resets: the kernel would keep what it has not taken for it.
async fn close(stream: &mut Peer, end: Option<End>, watched: &Watched) {
    let gone = match end {
        None if watched.is_unread() => end_sending(stream).await && client_goes(stream).await,
        None => end_sending(stream).await,
        Some(End::Idle | End::SlowHead) => end_sending(stream).await && client_goes(stream).await,
        Some(End::SlowReader | End::Evicted) => false,
    };
    if !gone {
        stream.reset_on_close();
    }
}

/// Sends what is left and says that it was all; false where the client does not take it.
async fn end_sending(stream: &mut (impl AsyncWrite + Unpin)) -> bool {
    let sent = async {
        // Where the connection is broken, there is nobody to wait for.
        let _ = stream.close().await;
        true
    };
    or(sent, async {
        sleep(DISCARD_TIME).await;
        false
    })
    .await
}

/// Reads and drops what comes until the client closes; false where it takes too long over it.
async fn client_goes(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let discard = async {
        let mut left = DISCARD_BYTES_MAX;
        let mut bytes = vec![0; 16 << 10];
        while left > 0 {
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return true,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
        false
    };
    or(discard, async {
        sleep(DISCARD_TIME).await;
        false
    })
    .await
}

async fn drain<B: Backend>(shared: &Rc<Shared<B>>) -> Drained {
    let start = Instant::now();
    let advance = |stage| {
        shared.stage.set(stage);
        shared.connections.wake_all();
    };
    advance(Stage::Draining);
    let lingers = LINGER.min(shared.options.drain / 2);
    wait_for_none(shared, start + lingers).await;
    advance(Stage::Closing);
    wait_for_none(shared, start + shared.options.drain).await;
    advance(Stage::Closed);
    let cut = shared.connections.open();
    close_entrance(shared, start + shared.options.drain).await;
    Drained { cut }
}

/// Waits for the other cores, which would get what this one does not hear of; then hears of no new
/// connections, and tells those that have begun that the server goes.
async fn close_entrance<B: Backend>(shared: &Rc<Shared<B>>, until: Instant) {
    shared.entrance.is_done();
    while Instant::now() < until
        && !shared.entrance.all_are_done()
        && !shared.core.backend.is_hurried()
    {
        sleep(DRAIN_PAUSE).await;
    }
    // Where the kernel refuses it, connections that come while this ends are reset.
    let _ = shared.entrance.close();
    sleep(HANDSHAKE_TIME).await;
    let until = Instant::now() + DISCARD_TIME;
    while shared.goodbyes.get() > 0 && Instant::now() < until {
        sleep(DRAIN_PAUSE).await;
    }
}

async fn wait_for_none<B: Backend>(shared: &Rc<Shared<B>>, until: Instant) {
    while Instant::now() < until && !shared.core.backend.is_hurried() {
        sleep(DRAIN_PAUSE).await;
        if shared.stage.get() >= Stage::Closing {
            if shared.connections.open() == 0 {
                return;
            }
            shared.connections.wake_all();
        }
    }
}
