//! A client that sends bytes as they are and reads what comes back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status);
        json["code"].as_str().unwrap().to_owned()
    }

    pub fn pointer(&self) -> String {
        self.json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    pub fn end_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    pub fn request(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request_as(method, path, "application/json", body)
    }

    pub fn request_as(
        &mut self,
        method: &str,
        path: &str,
        media: &str,
        body: impl AsRef<[u8]>,
    ) -> Response {
        let body = body.as_ref();
        let length = body.len();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n").into_bytes();
        if length > 0 || !matches!(method, "GET" | "DELETE" | "HEAD" | "OPTIONS") {
            let head = format!("Content-Type: {media}\r\nContent-Length: {length}\r\n");
            request.extend_from_slice(head.as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.send(request);
        self.read_answer_to(method)
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "")
    }

    pub fn read_answer(&mut self) -> Response {
        self.read_answer_to("GET")
    }

    pub fn read_answer_to(&mut self, method: &str) -> Response {
        self.try_read_answer(method).expect("an answer comes before the connection ends")
    }

    /// The next answer, or nothing where the connection ends first.
    pub fn try_read_answer(&mut self, method: &str) -> Option<Response> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let head: Vec<u8> = self.unread.drain(..head_end).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response { status, head, body: Vec::new() };
        if status == 100 {
            return self.try_read_answer(method);
        }
        if response.header("transfer-encoding") == Some("chunked") {
            response.body = self.read_chunks();
        } else if method != "HEAD" && status != 204 {
            let length: usize = response.header("content-length").unwrap_or("0").parse().unwrap();
            while self.unread.len() < length {
                assert!(self.fill(), "the connection ends within a body");
            }
            response.body = self.unread.drain(..length).collect();
        }
        Some(response)
    }

    fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                match self.unread.windows(2).position(|two| two == b"\r\n") {
                    Some(at) => break at,
                    None => assert!(self.fill(), "the connection ends within a chunk"),
                }
            };
            let line: Vec<u8> = self.unread.drain(..line_end + 2).collect();
            let size = std::str::from_utf8(&line[..line_end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            while self.unread.len() < size + 2 {
                assert!(self.fill(), "the connection ends within a chunk");
            }
            body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
            if size == 0 {
                return body;
            }
        }
    }

    /// Whatever has come, as text.
    pub fn read_some(&mut self) -> String {
        if self.unread.is_empty() {
            assert!(self.fill(), "the connection ends");
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned()
    }

    /// Whether the server closes without sending more.
    pub fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.fill()
    }

    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing comes: {error}"),
        }
    }
}
