//! Talks to a server: one connection that is kept open, and uploads whose verdicts are read while
//! they are sent.
//!
//! No HTTP library that blocks sends a body and reads its answer at once, and a stream of any length
//! needs that: a server that waits for its verdicts to be read stops reading. So the connection is
//! ours, over the answer parser that the load generator has.
//!
//! *Invariants*: an answer other than 2xx is a failure with the server's own words; a request is
//! sent again only where the connection was an old one and nothing of the answer had come.
//!
//! *Not here*: what requests mean (`commands`).

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use engram_bench::http::{Answer, Complete, encode, read_some};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Failure, Status};
use crate::wire::{TlsFiles, Wire};

const READ_BYTES: usize = 64 << 10;
/// Bytes that are sent as one chunk of an upload.
const CHUNK_BYTES: usize = 128 << 10;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    encrypted: bool,
    host: String,
    port: u16,
    prefix: String,
}

impl std::str::FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (encrypted, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("`{port}` is no port"))?)
            }
            _ => (authority, if encrypted { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(format!("`{text}` names no host; expected http://host:port"));
        }
        let prefix = path.trim_end_matches('/').to_owned();
        Ok(Self { encrypted, host: host.to_owned(), port, prefix })
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl Url {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// How requests are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server is.
    pub url: Url,
    /// The space that requests concern.
    pub space: String,
    /// Key of a server that wants one.
    pub api_key: Option<String>,
    /// How long one read or write may take.
    pub timeout: Duration,
    /// What is needed where the URL says `https`.
    pub tls: TlsFiles,
}

/// A client of one server.
pub struct Client {
    options: Options,
    connection: Option<Connection>,
}

/// An answer with status 2xx.
#[derive(Debug)]
pub struct Reply {
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Errors
    /// Where it is none, or of another shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(Failure::because("the server's answer is not what was expected"))
    }
}

impl Client {
    /// A client that connects when it is first used.
    pub fn new(options: Options) -> Self {
        Self { options, connection: None }
    }

    /// Requests concern this space from now on.
    pub fn enter_space(&mut self, space: &str) {
        space.clone_into(&mut self.options.space);
    }

    /// Reads.
    ///
    /// # Errors
    /// Where the server can't be reached or refuses.
    pub fn get(&mut self, path: &str) -> Result<Reply, Failure> {
        self.call("GET", path, b"")
    }

    /// Sends JSON by `POST`.
    ///
    /// # Errors
    /// Where the server can't be reached or refuses.
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Reply, Failure> {
        self.call("POST", path, body.to_string().as_bytes())
    }

    /// Makes any request; a body is JSON.
    ///
    /// # Errors
    /// Where the server can't be reached or refuses.
    pub fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Reply, Failure> {
        let (status, body) = self.exchange(method, path, body)?;
        if (200..300).contains(&status) { Ok(Reply { body }) } else { Err(refusal(status, &body)) }
    }

    /// Makes a request and returns status and body, whatever the status is.
    ///
    /// # Errors
    /// Where the server can't be reached.
    pub fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>), Failure> {
        let media = if body.is_empty() { None } else { Some("application/json") };
        let headers = self.headers(media);
        let path = format!("{}{path}", self.options.url.prefix);
        let request = encode(method, &path, &self.options.url.authority(), &headers, body);
        let reused = self.connection.is_some();
        let outcome = self.attempt(&request);
        let outcome = match outcome {
            Err(_) if reused && self.connection.is_none() => self.attempt(&request),
            outcome => outcome,
        };
        outcome.map_err(|error| unreachable_server(&self.options.url, error))
    }

    /// Sends lines by `POST` in chunks as `produce` gives them, and hands the lines of the answer to
    /// `consume` while that goes on.
    ///
    /// # Errors
    /// Those of the server, of `produce` and of `consume`.
    pub fn stream(
        &mut self,
        path: &str,
        mut produce: impl FnMut(&mut Vec<u8>) -> Result<bool, Failure> + Send,
        mut consume: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let url = self.options.url.clone();
        let lost = |error| unreachable_server(&url, error);
        let connection = Connection::open(&self.options).map_err(lost)?;
        let mut head = self.headers(Some("application/x-ndjson"));
        head.push_str("transfer-encoding: chunked\r\n");
        let path = format!("{}{path}", url.prefix);
        let head = format!("POST {path} HTTP/1.1\r\nhost: {}\r\n{head}\r\n", url.authority());
        let writer = connection.wire.clone();
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || send(writer, head.as_bytes(), &mut produce));
            let received = receive(connection, &mut consume, &url);
            let sent = sending.join().expect("the sending thread does not panic");
            match (sent, received) {
                (Err(Sent::Produce(failure)), _) => Err(failure),
                (_, Err(failure)) => Err(failure),
                (Err(Sent::Write(error)), Ok(())) => Err(lost(error)),
                (Ok(()), Ok(())) => Ok(()),
            }
        })
    }

    fn headers(&self, media: Option<&str>) -> String {
        let mut headers = format!("x-memory-space: {}\r\n", self.options.space);
        if let Some(key) = &self.options.api_key {
            // Writing to a string can't fail.
            let _infallible = write!(headers, "authorization: Bearer {key}\r\n");
        }
        if let Some(media) = media {
            let _infallible = write!(headers, "content-type: {media}\r\n");
        }
        headers
    }

    /// Leaves no connection behind where the request may be tried on a new one.
    fn attempt(&mut self, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.options)?,
        };
        connection.wire.write_all(request)?;
        let mut body = Vec::new();
        let complete = connection.read_answer(|part| {
            body.extend_from_slice(part);
            Ok(())
        })?;
        if complete.keep_alive {
            self.connection = Some(connection);
        }
        Ok((complete.status, body))
    }
}

struct Connection {
    wire: Wire,
    answer: Answer,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(options: &Options) -> io::Result<Self> {
        let Url { encrypted, host, port, .. } = &options.url;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host.as_str(), *port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, options.timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(options.timeout))?;
                    stream.set_write_timeout(Some(options.timeout))?;
                    let wire = match encrypted {
                        false => Wire::plain(stream),
                        true => Wire::encrypted(stream, host, &options.tls)?,
                    };
                    return Ok(Self { wire, answer: Answer::with_body(), buffer: Vec::new() });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Reads one answer and hands over its body as it comes.
    fn read_answer(
        &mut self,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Complete> {
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let (used, complete) = self.answer.advance(&self.buffer).map_err(malformed)?;
            self.buffer.drain(..used);
            let body = self.answer.take_body();
            if !body.is_empty() {
                each(&body)?;
            }
            if let Some(complete) = complete {
                return Ok(complete);
            }
            let count = read_some(&mut self.wire, &mut chunk).map_err(timed_out)?;
            if count == 0 {
                let complete = self.answer.close().map_err(malformed)?;
                return complete.ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }
}

/// Why sending stopped.
enum Sent {
    Produce(Failure),
    Write(io::Error),
}

fn send(
    mut wire: Wire,
    head: &[u8],
    produce: &mut impl FnMut(&mut Vec<u8>) -> Result<bool, Failure>,
) -> Result<(), Sent> {
    wire.write_all(head).map_err(Sent::Write)?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + READ_BYTES);
    let mut more = true;
    while more {
        chunk.clear();
        while more && chunk.len() < CHUNK_BYTES {
            more = produce(&mut chunk).map_err(|failure| {
                // Who reads the answer waits for a request that will not end.
                wire.shutdown();
                Sent::Produce(failure)
            })?;
        }
        if !chunk.is_empty() {
            let size = format!("{:x}\r\n", chunk.len());
            chunk.extend_from_slice(b"\r\n");
            wire.write_all(size.as_bytes()).map_err(Sent::Write)?;
            wire.write_all(&chunk).map_err(Sent::Write)?;
        }
    }
    wire.write_all(b"0\r\n\r\n").map_err(Sent::Write)
}

fn receive(
    mut connection: Connection,
    consume: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    url: &Url,
) -> Result<(), Failure> {
    let mut rest: Vec<u8> = Vec::new();
    let mut stopped = None;
    let complete = connection.read_answer(|part| {
        rest.extend_from_slice(part);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Err(failure) = consume(line) {
                stopped = Some(failure);
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        rest.drain(..whole);
        Ok(())
    });
    if let Some(failure) = stopped {
        // The sender may be waiting for a server that nobody listens to any more.
        connection.wire.shutdown();
        return Err(failure);
    }
    let complete = complete.map_err(|error| {
        connection.wire.shutdown();
        unreachable_server(url, error)
    })?;
    match complete.status {
        200..300 if rest.is_empty() => Ok(()),
        200..300 => consume(&rest),
        status => {
            connection.wire.shutdown();
            Err(refusal(status, &rest))
        }
    }
}

fn malformed(error: engram_bench::http::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A timeout of a blocking socket says "try again", which helps nobody.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time")
        }
        _ => error,
    }
}

fn unreachable_server(url: &Url, error: io::Error) -> Failure {
    Failure::new(format!("the server at {url} can't be reached"))
        .with_source(error)
        .with_status(Status::Unreachable)
        .with_hint("start one by `engram serve`, or name another by --url or ENGRAM_URL")
}

/// What the server says in RFC 9457's shape.
pub fn refusal(status: u16, body: &[u8]) -> Failure {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| problem.get(field).and_then(Value::as_str);
    let code = text("code").unwrap_or("no reason given");
    let detail = text("detail").or_else(|| text("title")).unwrap_or_default();
    let mut message = format!("the server refused: {status} {code}: {detail}");
    for error in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let part = |field: &str| error.get(field).and_then(Value::as_str).unwrap_or_default();
        if !part("pointer").is_empty() {
            let _infallible = write!(message, "\n  at {}: {}", part("pointer"), part("detail"));
        }
    }
    Failure::new(message)
}

/// A text as one segment of a path or one value of a query.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _infallible = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_host_port_and_prefix() {
        for (text, shown) in [
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("127.0.0.1:1", "http://127.0.0.1:1"),
            ("http://[::1]:8080/memory/", "http://[::1]:8080/memory"),
            ("http://engram", "http://engram:80"),
            ("https://engram/a", "https://engram:443/a"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), shown);
        }
        assert!("http://:80".parse::<Url>().is_err());
        assert!("http://host:port".parse::<Url>().is_err());
    }

    #[test]
    fn a_refusal_repeats_what_the_server_said() {
        let body =
            br#"{"code":"unknown_field","detail":"d","errors":[{"pointer":"/a","detail":"b"}]}"#;
        let shown = refusal(400, body).to_string();
        assert_eq!(shown, "the server refused: 400 unknown_field: d\n  at /a: b");
        assert!(refusal(502, b"<html>").to_string().contains("502"));
    }

    #[test]
    fn every_byte_that_is_not_plain_is_escaped() {
        assert_eq!(escaped("a/b c%é"), "a%2Fb%20c%25%C3%A9");
    }
}
