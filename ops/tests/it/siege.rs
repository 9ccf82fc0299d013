//! Attackers that hold connections are shed, and whoever asks honestly hardly notices.
//!
//! Attackers have machines of their own in life. Here they share one with the server and its honest
//! clients, and run at the lowest priority, so that what is measured is what the server spends on
//! them: they get what it and the honest clients leave, which is enough to open them all.
//!
//! `ENGRAM_TEST_ATTACKERS=20000` makes it as many, and asks for what is promised of a machine that
//! does nothing else; `ENGRAM_TEST_ATTACKER_ADDRESSES=200` says from how many addresses they come.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::server::{Folder, Server, eventually};

/// How many attack, unless `ENGRAM_TEST_ATTACKERS` says otherwise.
const ATTACKERS: usize = 400;
/// Tests run side by side: what others take of the machine is no fault of the server.
const NOISE: Duration = Duration::from_millis(250);
/// Pause between two bytes of a slow client, and between two recalls of an honest one.
const DRIP: Duration = Duration::from_secs(1);
/// Slow clients know nothing of each other: in each part of that pause, a part of them sends.
const DRIP_PARTS: usize = 100;
/// Connections that are opened in each part, before the next pause.
const OPENED_AT_ONCE: usize = 50;
const RECALL_PAUSE: Duration = Duration::from_millis(5);
const HONEST: usize = 2;
/// How long the server is measured before the attack.
const IDLE: Duration = Duration::from_secs(4);
/// Past the times of `docs/http.md`: a head 10 s, a body 15 s, what is not taken 15 s.
const SLOW_FOR_MAX: Duration = Duration::from_secs(45);
const LARGE_BYTES: usize = 1 << 20;
/// Where attackers come from: so many addresses from this one on, unless
/// `ENGRAM_TEST_ATTACKER_ADDRESSES` says otherwise, and how many connections each may have.
const THEIRS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 0);
const THEIR_ADDRESSES: usize = 1;
const ADDRESS_CONNECTIONS: usize = 4096;
const NICE_MAX: i32 = 19;

/// How an attacker holds its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Silent,
    SlowHead,
    SlowBody,
    SlowReader,
}

impl Way {
    /// Of 100 attackers so many of each.
    fn of(number: usize) -> Self {
        match number % 100 {
            0..=39 => Self::Silent,
            40..=69 => Self::SlowHead,
            70..=94 => Self::SlowBody,
            _ => Self::SlowReader,
        }
    }

    fn begin(self) -> Vec<u8> {
        let get = "GET /api/v1/memories/large HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let text = match self {
            Self::Silent => "",
            Self::SlowHead => "GET /livez HTTP/1.1\r\nHost: localhost\r\n",
            Self::SlowBody => {
                "POST /api/v1/recall HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
            }
            Self::SlowReader => return get.repeat(32).into_bytes(),
        };
        text.as_bytes().to_vec()
    }

    fn go_on(self) -> &'static [u8] {
        match self {
            Self::Silent | Self::SlowReader => b"",
            Self::SlowHead => b"X: y\r\n",
            Self::SlowBody => b" ",
        }
    }
}

struct Attacker {
    way: Way,
    stream: Option<TcpStream>,
    begun: Instant,
    held: Duration,
}

impl Attacker {
    fn begin(from: Ipv4Addr, address: SocketAddr, way: Way) -> Self {
        let begun = Instant::now();
        let mut stream = connect(from, address).expect("a listener lets in, or turns away later");
        stream.set_nonblocking(true).expect("a socket need not block");
        // What does not go out at once is more than a server takes.
        let _ignored = stream.write(&way.begin());
        Self { way, stream: Some(stream), begun, held: Duration::ZERO }
    }

    /// Sends a little more, and sees whether the server has hung up.
    fn drip(&mut self) {
        let Some(mut stream) = self.stream.as_ref() else { return };
        let written = stream.write(self.way.go_on());
        let mut answer = [0; 512];
        let read = match self.way {
            Way::SlowReader => stream.peek(&mut answer).map(|count| count.max(1)),
            Way::Silent | Way::SlowHead | Way::SlowBody => stream.read(&mut answer),
        };
        let waits = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        let broken = written.is_err_and(|error| !waits(&error))
            || stream.take_error().is_ok_and(|error| error.is_some());
        let refused = self.way == Way::SlowReader && answer.starts_with(b"HTTP/1.1 503");
        let ended = match read {
            Ok(count) => count == 0,
            Err(error) => !waits(&error),
        };
        // Who is refused for want of room holds no more than one that says nothing.
        if ended || broken || refused {
            self.held = self.begun.elapsed();
            self.stream = None;
        }
    }
}

/// Connects from an address that is not that of honest clients.
fn connect(from: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// What attacks, and from how many addresses.
#[derive(Clone, Copy)]
struct Attack {
    count: usize,
    addresses: usize,
}

/// Opens all connections, and goes on until every slow one was shed or time is over; at the lowest
/// priority.
fn attack(address: SocketAddr, attack: Attack) -> Vec<Attacker> {
    // On Linux this is of the calling thread alone.
    rustix::process::nice(NICE_MAX).expect("anyone may step back");
    let begun = Instant::now();
    let mut attackers = Vec::new();
    let mut all_since = None;
    for part in (0..DRIP_PARTS).cycle() {
        for number in attackers.len()..attack.count.min(attackers.len() + OPENED_AT_ONCE) {
            let from = u32::from(THEIRS) + (number % attack.addresses) as u32;
            attackers.push(Attacker::begin(from.into(), address, Way::of(number)));
        }
        attackers.iter_mut().skip(part).step_by(DRIP_PARTS).for_each(Attacker::drip);
        if attackers.len() == attack.count && all_since.is_none() {
            println!("{} connections opened in {:.1?}", attack.count, begun.elapsed());
            all_since = Some(Instant::now());
        }
        let holds = |attacker: &Attacker| attacker.way != Way::Silent && attacker.stream.is_some();
        if all_since.is_some_and(|since| since.elapsed() > SLOW_FOR_MAX)
            || part == 0 && all_since.is_some() && !attackers.iter().any(holds)
        {
            break;
        }
        std::thread::sleep(DRIP / DRIP_PARTS as u32);
    }
    attackers
}

/// Recalls until told to stop; how long each took.
fn recall(server: &Server, stop: &AtomicBool) -> Vec<Duration> {
    let mut connection = server.connect();
    let body = json!({"cues": [{"text": "lantern of house 7"}]}).to_string();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let headers = "Content-Type: application/json\r\n";
        let reply = connection.call("POST", "/api/v1/recall", headers, body.as_bytes());
        assert_eq!(reply.expect("an honest client keeps its connection").status, 200);
        took.push(begun.elapsed());
        std::thread::sleep(RECALL_PAUSE);
    }
    took
}

/// What honest clients see while something happens: the median, and the slowest of a hundred.
struct Seen {
    recalls: usize,
    p50: Duration,
    p99: Duration,
}

impl Seen {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let at = |share: usize| took[took.len() * share / 100];
        Self { recalls: took.len(), p50: at(50), p99: at(99) }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recalls, p50, p99 } = self;
        write!(f, "{recalls} recalls, P50 {p50:.1?}, P99 {p99:.1?}")
    }
}

/// What honest clients see while something happens on a thread of its own.
fn seen_during<T: Send>(server: &Server, what: impl FnOnce() -> T + Send) -> (Seen, T) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let honest: Vec<_> = (0..HONEST).map(|_| scope.spawn(|| recall(server, &stop))).collect();
        let done = scope.spawn(what).join().expect("it ends");
        stop.store(true, Ordering::Relaxed);
        let took = honest.into_iter().flat_map(|one| one.join().expect("it is answered"));
        (Seen::of(took.collect()), done)
    })
}

fn fill(server: &Server) {
    let line = |number: u64| {
        let content = format!("the lantern of house {number} in street {}", number % 97);
        format!("{}\n", json!({"id": format!("m{number}"), "content": content}))
    };
    let lines: String = (0..2000).map(line).collect();
    let headers = "Content-Type: application/x-ndjson\r\n";
    let stored = server.connect().call("POST", "/api/v1/memories/batch", headers, lines.as_bytes());
    assert_eq!(stored.expect("the server answers").status, 200);
    let large = json!({"id": "large", "content": "x".repeat(LARGE_BYTES)});
    server.ask("POST", "/api/v1/memories", &large);
}

fn gauge(server: &Server, name: &str) -> u64 {
    let metrics = server.call("GET", "/metrics", &serde_json::Value::Null).body;
    let text = String::from_utf8(metrics).expect("metrics are text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).expect("the metric is there")
}

fn number(variable: &str) -> Option<usize> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("it is a number"))
}

#[test]
fn attackers_are_shed_and_honest_clients_hardly_notice() {
    let asked = number("ENGRAM_TEST_ATTACKERS");
    let count = asked.unwrap_or(ATTACKERS);
    let noise = if asked.is_some() { Duration::ZERO } else { NOISE };
    let addresses = number("ENGRAM_TEST_ATTACKER_ADDRESSES").unwrap_or(THEIR_ADDRESSES);
    let folder = Folder::new();
    // On loopback nobody is counted unless that is asked for.
    let bound = ["--shards", "2", "--address-connections", &ADDRESS_CONNECTIONS.to_string()];
    let server = Server::start(&folder.0.join("data"), &bound);
    fill(&server);
    let (idle, ()) = seen_during(&server, || std::thread::sleep(IDLE));
    let theirs = Attack { count, addresses };
    let (attacked, mut attackers) = seen_during(&server, || attack(server.address, theirs));
    let ratio = attacked.p99.as_secs_f64() / idle.p99.as_secs_f64();
    println!("{count} attackers from {addresses} addresses: {ratio:.2} times the P99");
    println!("before: {idle}\nmeanwhile: {attacked}");
    for way in [Way::Silent, Way::SlowHead, Way::SlowBody, Way::SlowReader] {
        let of = || attackers.iter().filter(|attacker| attacker.way == way);
        let shed = of().filter(|attacker| attacker.stream.is_none()).count();
        let longest = of().map(|attacker| attacker.held).max().unwrap_or_default();
        println!("{way:?}: {shed} of {} shed, the last after {longest:.1?}", of().count());
        assert!(way == Way::Silent || shed == of().count(), "{way:?} ones are still there");
    }
    assert!(attacked.p99 <= (3 * idle.p99).max(noise), "{attacked}; before: {idle}");
    attackers.clear();
    eventually("nothing is left of them", || gauge(&server, "engram_http_connections") <= 1);
}

#[test]
fn one_address_gets_its_share_of_the_connections_and_others_theirs() {
    let folder = Folder::new();
    let bound = ["--shards", "2", "--address-connections", "20"];
    let server = Server::start(&folder.0.join("data"), &bound);
    let held: Vec<Attacker> =
        (0..200).map(|_| Attacker::begin(THEIRS, server.address, Way::Silent)).collect();
    eventually("those beyond the bound are turned away", || {
        let metrics = server.call("GET", "/metrics", &serde_json::Value::Null).body;
        let metrics = String::from_utf8(metrics).expect("metrics are text");
        metrics.contains("engram_http_shed_total{reason=\"address\"} 180")
    });
    // Theirs, and who asks.
    eventually("they have what they may", || gauge(&server, "engram_http_connections") == 21);
    drop(held);
}
