//! HTTP/1.1 as a client that measures needs it: requests encoded ahead, answers parsed in place.
//!
//! *Invariants*: an answer is complete exactly when RFC 9112 says so (content length, chunks, no
//! body for 1xx, 204 and 304, end of stream); what does not parse is an error, never a guess.
//!
//! *Not here*: when a request is sent (`client`), what it asks (`operations`).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest head of an answer; a longer one is an error.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Encodes a whole request with its body.
pub fn encode(method: &str, path: &str, host: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}").into_bytes();
    if !body.is_empty() || method != "GET" {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Headers of a JSON body.
pub const JSON: &str = "content-type: application/json\r\n";

/// Why bytes are not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed answer: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// The end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete {
    /// HTTP status.
    pub status: u16,
    /// The server keeps the connection open.
    pub keep_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Fixed(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
}

/// Parses one answer after the other; the caller keeps the bytes that were not consumed.
#[derive(Debug)]
pub struct Answer {
    state: State,
    head: Complete,
    body: Option<Vec<u8>>,
}

impl Answer {
    /// Forgets bodies as they come.
    pub fn without_body() -> Self {
        let head = Complete { status: 0, keep_alive: true };
        Self { state: State::Head, head, body: None }
    }

    /// Keeps the body of the current answer.
    pub fn with_body() -> Self {
        Self { body: Some(Vec::new()), ..Self::without_body() }
    }

    /// Keeps bodies from the next answer on, or forgets them.
    pub fn keep_body(&mut self, keep: bool) {
        self.body = if keep { Some(self.body.take().unwrap_or_default()) } else { None };
    }

    /// The body of the answer that was completed last, where bodies are kept.
    pub fn take_body(&mut self) -> Vec<u8> {
        self.body.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes as much of `bytes` as belongs to the current answer; returns how many bytes it used.
    ///
    /// # Errors
    /// [`Malformed`]: the connection can't be used any further.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, Option<Complete>), Malformed> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let step = match self.state {
                State::Head => self.read_head(rest)?,
                State::Fixed(left) => self.take(rest, left, State::Head, State::Fixed),
                State::Chunk(left) => self.take(rest, left, State::ChunkEnd, State::Chunk),
                State::UntilClose => self.take(rest, u64::MAX, State::Head, |_| State::UntilClose),
                State::ChunkSize => self.read_chunk_size(rest)?,
                State::ChunkEnd => self.read_chunk_end(rest)?,
                State::Trailer => self.read_trailer(rest)?,
            };
            match step {
                Step::More => return Ok((used, None)),
                Step::Used(n) => used += n,
                Step::Done(n) => {
                    self.state = State::Head;
                    return Ok((used + n, Some(self.head)));
                }
            }
            if used == bytes.len() && !matches!(self.state, State::Fixed(0)) {
                return Ok((used, None));
            }
        }
    }

    /// The peer closed the connection.
    ///
    /// # Errors
    /// [`Malformed`] where an answer was under way whose length was known.
    pub fn close(&mut self) -> Result<Option<Complete>, Malformed> {
        match self.state {
            State::Head => Ok(None),
            State::UntilClose => {
                self.state = State::Head;
                Ok(Some(Complete { keep_alive: false, ..self.head }))
            }
            State::Fixed(_)
            | State::ChunkSize
            | State::Chunk(_)
            | State::ChunkEnd
            | State::Trailer => Err(Malformed("the connection ended within the body")),
        }
    }

    fn take(
        &mut self,
        rest: &[u8],
        left: u64,
        then: State,
        partial: impl FnOnce(u64) -> State,
    ) -> Step {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        if let Some(body) = &mut self.body {
            body.extend_from_slice(&rest[..n]);
        }
        let left = left - n as u64;
        self.state = if left == 0 { then } else { partial(left) };
        match (self.state, n) {
            (State::Head, n) => Step::Done(n),
            (_, 0) => Step::More,
            (_, n) => Step::Used(n),
        }
    }

    fn read_head(&mut self, rest: &[u8]) -> Result<Step, Malformed> {
        let Some(end) = find(rest, b"\r\n\r\n") else {
            if rest.len() > HEAD_BYTES_MAX {
                return Err(Malformed("the head is too long"));
            }
            return Ok(Step::More);
        };
        let (complete, framing) = parse_head(&rest[..end + 2])?;
        if let Some(body) = &mut self.body {
            body.clear();
        }
        if complete.status < 200 {
            return Ok(Step::Used(end + 4));
        }
        self.head = complete;
        let bodiless = matches!(complete.status, 204 | 304);
        self.state = match framing {
            _ if bodiless => return Ok(Step::Done(end + 4)),
            Framing::Length(0) => return Ok(Step::Done(end + 4)),
            Framing::Length(length) => State::Fixed(length),
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::UntilClose,
        };
        Ok(Step::Used(end + 4))
    }

    fn read_chunk_size(&mut self, rest: &[u8]) -> Result<Step, Malformed> {
        let Some(end) = find(rest, b"\r\n") else {
            return if rest.len() > 1024 {
                Err(Malformed("the chunk size is too long"))
            } else {
                Ok(Step::More)
            };
        };
        let text = std::str::from_utf8(&rest[..end]).map_err(|_| Malformed("chunk size"))?;
        let digits = text.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| Malformed("chunk size"))?;
        self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
        Ok(Step::Used(end + 2))
    }

    fn read_chunk_end(&mut self, rest: &[u8]) -> Result<Step, Malformed> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.state = State::ChunkSize;
                Ok(Step::Used(2))
            }
            [] | [b'\r'] => Ok(Step::More),
            _ => Err(Malformed("no line end after a chunk")),
        }
    }

    fn read_trailer(&mut self, rest: &[u8]) -> Result<Step, Malformed> {
        match find(rest, b"\r\n") {
            None if rest.len() > HEAD_BYTES_MAX => Err(Malformed("the trailer is too long")),
            None => Ok(Step::More),
            Some(0) => Ok(Step::Done(2)),
            Some(end) => Ok(Step::Used(end + 2)),
        }
    }
}

enum Step {
    /// More bytes are needed.
    More,
    /// This many bytes were used.
    Used(usize),
    /// This many bytes were used and the answer is complete.
    Done(usize),
}

enum Framing {
    Length(u64),
    Chunked,
    Close,
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(head: &[u8]) -> Result<(Complete, Framing), Malformed> {
    let line = head.strip_prefix(b"HTTP/1.").ok_or(Malformed("no status line"))?;
    let [minor @ (b'0' | b'1'), b' ', a, b, c, ..] = line else {
        return Err(Malformed("no status line"));
    };
    let digit = |d: &u8| d.is_ascii_digit().then(|| u16::from(d - b'0'));
    let (Some(a), Some(b), Some(c)) = (digit(a), digit(b), digit(c)) else {
        return Err(Malformed("the status is not a number"));
    };
    let mut complete = Complete { status: a * 100 + b * 10 + c, keep_alive: *minor == b'1' };
    let mut framing = Framing::Close;
    let first = find(head, b"\r\n").map_or(head.len(), |end| end + 2);
    let mut rest = &head[first..];
    while let Some(end) = find(rest, b"\r\n") {
        read_header(&rest[..end], &mut complete, &mut framing)?;
        rest = &rest[end + 2..];
    }
    Ok((complete, framing))
}

fn read_header(
    line: &[u8],
    complete: &mut Complete,
    framing: &mut Framing,
) -> Result<(), Malformed> {
    let colon = line.iter().position(|b| *b == b':').ok_or(Malformed("a header without colon"))?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.eq_ignore_ascii_case(b"content-length") {
        let text = std::str::from_utf8(value).map_err(|_| Malformed("content-length"))?;
        let length = text.parse().map_err(|_| Malformed("content-length"))?;
        if !matches!(framing, Framing::Chunked) {
            *framing = Framing::Length(length);
        }
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed("an unknown transfer encoding"));
        }
        *framing = Framing::Chunked;
    } else if name.eq_ignore_ascii_case(b"connection") {
        if value.eq_ignore_ascii_case(b"close") {
            complete.keep_alive = false;
        } else if value.eq_ignore_ascii_case(b"keep-alive") {
            complete.keep_alive = true;
        }
    }
    Ok(())
}

/// One blocking connection, for everything that is not measured: set-up, checks, quality.
pub struct Connection {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
    answer: Answer,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Errors
    /// The status and the start of the body, where the status is not 2xx or it is no JSON.
    pub fn json(&self) -> Result<serde_json::Value, String> {
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        if !(200..300).contains(&self.status) {
            return Err(format!("status {}: {shown}", self.status));
        }
        serde_json::from_slice(&self.body).map_err(|e| format!("no JSON ({e}): {shown}"))
    }
}

impl Connection {
    /// Connects; every read and write is bounded by `timeout`.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let answer = Answer::with_body();
        Ok(Self { stream, host: address.to_string(), buffer: Vec::new(), answer })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Those of the system; `InvalidData` where the answer does not parse.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Reply> {
        let request = encode(method, path, &self.host, headers, body);
        self.exchange(&request)
    }

    /// Sends a `POST` while its answer is already being read: for answers that come as a stream.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn call_duplex(&mut self, path: &str, headers: &str, body: &[u8]) -> io::Result<Reply> {
        let request = encode("POST", path, &self.host, headers, body);
        let mut writer = self.stream.try_clone()?;
        std::thread::scope(|scope| {
            let written = scope.spawn(move || writer.write_all(&request));
            let reply = self.read_reply();
            let written = written.join().expect("writing does not panic");
            reply.and_then(|reply| written.map(|()| reply))
        })
    }

    /// Sends bytes that are a whole request and waits for the answer.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Reply> {
        self.stream.write_all(request)?;
        self.read_reply()
    }

    fn read_reply(&mut self) -> io::Result<Reply> {
        loop {
            let (used, complete) = self.answer.advance(&self.buffer).map_err(invalid)?;
            self.buffer.drain(..used);
            if let Some(complete) = complete {
                return Ok(Reply { status: complete.status, body: self.answer.take_body() });
            }
            let mut chunk = [0; 16 << 10];
            let n = read_some(&mut self.stream, &mut chunk)?;
            if n == 0 {
                return match self.answer.close().map_err(invalid)? {
                    Some(end) => Ok(Reply { status: end.status, body: self.answer.take_body() }),
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }
}

/// Reads what there is; a signal to the process is no end of a connection.
///
/// # Errors
/// Those of the system.
pub fn read_some(stream: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen<T> = (u16, bool, T);

    /// Feeds the text in pieces of `size` and returns what came out.
    fn run(text: &[u8], size: usize) -> Result<Vec<Seen<String>>, Malformed> {
        let mut answer = Answer::with_body();
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for piece in text.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                let (used, complete) = answer.advance(&buffer)?;
                buffer.drain(..used);
                let Some(end) = complete else { break };
                let body = String::from_utf8(answer.take_body()).unwrap();
                seen.push((end.status, end.keep_alive, body));
            }
        }
        if let Some(end) = answer.close()? {
            let body = String::from_utf8(answer.take_body()).unwrap();
            seen.push((end.status, end.keep_alive, body));
        }
        Ok(seen)
    }

    #[test]
    fn answers_are_the_same_however_the_bytes_are_cut() {
        let cases: [(&[u8], Vec<Seen<&str>>); 8] = [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", vec![(200, true, "hi")]),
            (b"HTTP/1.1 204 No Content\r\n\r\n", vec![(204, true, "")]),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", vec![(200, true, "")]),
            (
                b"HTTP/1.1 429 x\r\nConnection: close\r\ncontent-length: 1\r\n\r\n.",
                vec![(429, false, ".")],
            ),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                  3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nt: 1\r\n\r\n",
                vec![(200, true, "abc0123456789")],
            ),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 x\r\ncontent-length: 1\r\n\r\ny",
                vec![(201, true, "y")],
            ),
            (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", vec![(200, false, "until the end")]),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 503 x\r\n\
                  content-length: 1\r\n\r\nb",
                vec![(200, true, "a"), (503, true, "b")],
            ),
        ];
        for (text, expected) in cases {
            for size in [1, 2, 7, 1000] {
                let got = run(text, size).unwrap();
                let got: Vec<_> = got.iter().map(|(s, k, b)| (*s, *k, b.as_str())).collect();
                assert_eq!(got, expected, "pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let cases: [&[u8]; 7] = [
            b"SPDY/3 200\r\n\r\n",
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut",
        ];
        for text in cases {
            assert!(run(text, 1000).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }
}
