//! What HTTP costs by itself: the same empty handler behind hyper on each way to the sockets, and
//! behind the server as it is, in turns in one run.
//!
//! Each server has one thread on CPU 0; the client is wrk on CPU 1. Run it by
//! `cargo bench -p engram-net --bench overhead --profile quick`; arguments after `--` are the
//! seconds of each measurement and the number of rounds.
//!
//! *Invariants*: every way is measured in every round, so that what else the machine does falls on
//! all of them; the time on the processor is the server thread's own.
//!
//! *Not here*: what requests cost (`bench`).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use engram_net::{Entrance, Options, Port, serve};
use engram_platform::sockets::{Ring, Socket, Sockets};
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::{LocalExecutorBuilder, Placement};
use http_body_util::Full;
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;

#[allow(dead_code, clippy::unwrap_used, reason = "it is of the tests, which use more of it")]
#[path = "../tests/it/fake.rs"]
mod fake;

use fake::{Fake, Knobs};

const SERVER_CPU: usize = 0;
const CLIENT_CPU: &str = "1";
const CONNECTIONS: [u32; 2] = [1, 64];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// hyper on tokio's runtime of one thread: what the others are held against.
    Tokio,
    /// hyper on glommio's sockets.
    Glommio,
    /// hyper on the sockets of a network ring.
    Ring,
    /// The server as it is, on glommio's sockets.
    ServerOnGlommio,
    /// The server as it is.
    Server,
}

const WAYS: [Way; 5] = [Way::Tokio, Way::Glommio, Way::Ring, Way::ServerOnGlommio, Way::Server];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Tokio => "hyper, tokio",
            Self::Glommio => "hyper, glommio",
            Self::Ring => "hyper, ring",
            Self::ServerOnGlommio => "engram, glommio",
            Self::Server => "engram, ring",
        }
    }
}

/// A server that listens, and the number of its thread.
struct Started {
    address: SocketAddr,
    thread: i32,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Figures {
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let seconds = numbers.first().copied().unwrap_or(3);
    let rounds = numbers.get(1).copied().unwrap_or(3);
    if Command::new("wrk").arg("-v").output().is_err() {
        eprintln!("wrk is not installed: apt-get install wrk");
        return ExitCode::FAILURE;
    }
    let servers: Vec<Started> = WAYS.into_iter().map(start).collect();
    for connections in CONNECTIONS {
        let mut seen = vec![Vec::new(); WAYS.len()];
        for _ in 0..rounds {
            for (server, seen) in servers.iter().zip(&mut seen) {
                seen.push(measure(server, connections, seconds));
            }
        }
        report(connections, &seen);
    }
    ExitCode::SUCCESS
}

fn report(connections: u32, seen: &[Vec<Figures>]) {
    let median = |of: &[Figures], pick: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = of.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let base = median(&seen[0], |one| one.requests_per_second);
    println!("\n{connections} connections, medians of {} rounds", seen[0].len());
    println!("  way                 requests/s   ratio   P50 us   P99 us   server CPU us/request");
    for (way, figures) in WAYS.iter().zip(seen) {
        let rate = median(figures, |one| one.requests_per_second);
        println!(
            "  {:<18} {rate:>11.0} {:>7.2} {:>8.0} {:>8.0} {:>23.2}",
            way.name(),
            rate / base,
            median(figures, |one| one.p50_us),
            median(figures, |one| one.p99_us),
            median(figures, |one| one.cpu_us),
        );
    }
}

fn measure(server: &Started, connections: u32, seconds: u64) -> Figures {
    let url = format!("http://{}/health/live", server.address);
    let before = on_cpu_ns(server.thread);
    let output = Command::new("taskset")
        .args(["-c", CLIENT_CPU, "wrk", "-t1", "--latency"])
        .args([format!("-c{connections}"), format!("-d{seconds}s"), url])
        .output()
        .expect("wrk runs");
    let spent_us = (on_cpu_ns(server.thread) - before) as f64 / 1e3;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    let requests: f64 = after(&text, " requests in").parse().expect("wrk counts requests");
    Figures {
        requests_per_second: before_word(&text, "Requests/sec:").parse().expect("and their rate"),
        p50_us: microseconds(before_word(&text, "50%")),
        p99_us: microseconds(before_word(&text, "99%")),
        cpu_us: spent_us / requests,
    }
}

/// The word before some text.
fn after<'a>(text: &'a str, what: &str) -> &'a str {
    let head = text.split(what).next().unwrap_or_default();
    head.split_whitespace().next_back().unwrap_or_default()
}

/// The word that follows a label at the beginning of a line.
fn before_word<'a>(text: &'a str, label: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
    line.unwrap_or_default().trim()
}

/// What wrk writes as `87.00us` or `1.20ms`.
fn microseconds(text: &str) -> f64 {
    for (unit, scale) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().expect("wrk writes numbers") * scale;
        }
    }
    panic!("{text:?} is no time");
}

/// Nanoseconds that a thread has spent on a processor.
fn on_cpu_ns(thread: i32) -> u64 {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let text = std::fs::read_to_string(path).expect("the server's thread lives");
    let first = text.split_whitespace().next().expect("schedstat has three numbers");
    first.parse().expect("schedstat has numbers")
}

fn start(way: Way) -> Started {
    let (started, starts) = mpsc::channel();
    std::thread::spawn(move || match way {
        Way::Tokio => tokio_server(&started),
        Way::Glommio => bare_server(&started, false),
        Way::Ring => bare_server(&started, true),
        Way::ServerOnGlommio => engram_server(&started, false),
        Way::Server => engram_server(&started, true),
    });
    starts.recv_timeout(Duration::from_secs(10)).expect("the server starts")
}

fn thread_number() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// The handler that every way has in common: what `/health/live` says.
async fn alive(_: hyper::Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"{\"status\":\"up\"}")));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    Ok(response)
}

fn tokio_server(started: &mpsc::Sender<Started>) {
    engram_platform::pin_current_thread(SERVER_CPU as u32).expect("CPU 0 may be used");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("tokio starts").block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        started.send(Started { address, thread: thread_number() }).expect("somebody waits");
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    let stream = hyper_util::rt::TokioIo::new(stream);
                    let serving = http1::Builder::new().serve_connection(stream, service_fn(alive));
                    tokio::task::spawn_local(async move {
                        let _ = serving.await;
                    });
                }
            })
            .await;
    });
}

fn executor() -> glommio::LocalExecutor {
    LocalExecutorBuilder::new(Placement::Fixed(SERVER_CPU))
        .io_memory(1 << 20)
        .ring_depth(128)
        .preempt_timer(Duration::from_millis(10))
        .make()
        .expect("io_uring is there")
}

fn sockets(ring: bool) -> Sockets {
    if ring {
        Sockets::Ring(Ring::start().expect("the kernel has a ring for sockets"))
    } else {
        Sockets::Glommio
    }
}

/// Listens on a free port, and says where.
fn listen(started: &mpsc::Sender<Started>, sockets: Sockets) -> Entrance {
    let port = Port::claim("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let doors = port.listen(1).expect("it may be listened on");
    let address = doors.address();
    started.send(Started { address, thread: thread_number() }).expect("somebody waits");
    doors.enter(0, sockets)
}

fn bare_server(started: &mpsc::Sender<Started>, ring: bool) {
    executor().run(async {
        let listener = listen(started, sockets(ring));
        while let Ok(socket) = listener.accept().await {
            let serving = http1::Builder::new().serve_connection(Bare(socket), service_fn(alive));
            glommio::spawn_local(async move {
                let _ = serving.await;
            })
            .detach();
        }
    });
}

fn engram_server(started: &mpsc::Sender<Started>, ring: bool) {
    executor().run(async {
        let listener = listen(started, sockets(ring));
        serve(Fake::new(Knobs::default()), listener, Options::default(), std::future::pending())
            .await;
    });
}

/// A socket as hyper wants it, without anything that the server adds.
struct Bare(Socket);

impl hyper::rt::Read for Bare {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = cursor.remaining().min(bytes.len());
        let count = ready!(Pin::new(&mut self.0).poll_read(cx, &mut bytes[..room]))?;
        cursor.put_slice(&bytes[..count]);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Bare {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}
