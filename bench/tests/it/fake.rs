//! A tiny HTTP server whose answers a test chooses.
//!
//! *Invariants*: it answers each request in the order of arrival on its connection.
//!
//! *Not here*: anything of Engram.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A request as the fake sees it.
pub struct Seen {
    /// Number of the request over all connections, from 0.
    pub number: u64,
    /// Method and path.
    pub target: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What the fake does with a request: bytes to send, and whether to close then.
pub struct Said {
    /// A whole answer, or a piece of one.
    pub bytes: Vec<u8>,
    /// Close the connection.
    pub close: bool,
}

impl Said {
    /// An answer with this status and body.
    pub fn status(status: u16, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
        Self { bytes: (head + body).into_bytes(), close: false }
    }
}

/// Starts a server that lives as long as the test's process.
pub fn serve(answer: impl Fn(Seen) -> Said + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    let numbers = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, numbers) = (answer.clone(), numbers.clone());
            std::thread::spawn(move || converse(stream.unwrap(), &*answer, &numbers));
        }
    });
    address
}

fn converse(mut stream: TcpStream, answer: &dyn Fn(Seen) -> Said, numbers: &AtomicU64) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    loop {
        let Some((target, body)) = take_request(&mut buffer) else {
            let mut chunk = [0; 16 << 10];
            match stream.read(&mut chunk) {
                Ok(n) if n > 0 => buffer.extend_from_slice(&chunk[..n]),
                _ => return,
            }
            continue;
        };
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let said = answer(Seen { number, target, body });
        if stream.write_all(&said.bytes).is_err() || said.close {
            return;
        }
    }
}

/// A whole request off the front of the buffer.
fn take_request(buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
    let body = if head.contains("transfer-encoding: chunked") {
        take_chunks(buffer, end)?
    } else {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |text| text.parse().unwrap());
        if buffer.len() < end + length {
            return None;
        }
        let body = buffer[end..end + length].to_vec();
        buffer.drain(..end + length);
        body
    };
    let line = head.lines().next().unwrap();
    Some((line.trim_end_matches(" HTTP/1.1").to_owned(), body))
}

fn take_chunks(buffer: &mut Vec<u8>, mut at: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = at + buffer[at..].windows(2).position(|w| w == b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&buffer[at..end]).unwrap(), 16).unwrap();
        let next = end + 2 + size + 2;
        if buffer.len() < next {
            return None;
        }
        body.extend_from_slice(&buffer[end + 2..end + 2 + size]);
        at = next;
        if size == 0 {
            buffer.drain(..at);
            return Some(body);
        }
    }
}
