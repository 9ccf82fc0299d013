//! Starts the real server on a port of the system's choice and talks to it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use engram_bench::http::{Connection, JSON, Reply};
use serde_json::Value;

/// Longer than anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// A folder that goes away.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let unique = format!("engram-test-{}-{:?}", std::process::id(), Instant::now());
        let unique: String = unique.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir(&path).expect("a temporary folder can be made");
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a temporary file can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the temporary folder harms nobody.
        let _ignored = std::fs::remove_dir_all(&self.0);
    }
}

/// The command, without settings of the machine that runs the tests.
pub fn engram() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engram"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("ENGRAM_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the command to its end.
pub fn run(arguments: &[&str]) -> Output {
    engram().args(arguments).stdin(Stdio::null()).output().expect("the command starts")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server that runs until it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts on a directory and waits until it is ready.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        let server = Self::listening(directory, arguments);
        server.wait_until_ready();
        server
    }

    /// The same for one that speaks TLS and takes any client.
    pub fn start_encrypted(directory: &Path, arguments: &[&str]) -> Self {
        let server = Self::listening(directory, arguments);
        if !arguments.contains(&"--tls-client-ca") {
            let url = format!("https://{}", server.address);
            eventually("the server is ready", || run(&["health", "--url", &url]).status.success());
        }
        server
    }

    /// Starts on a directory and waits until it accepts connections.
    pub fn listening(directory: &Path, arguments: &[&str]) -> Self {
        Self::spawn(directory, arguments, &[])
    }

    /// Starts with further variables and waits until it is ready.
    pub fn with_environment(
        directory: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let server = Self::spawn(directory, arguments, variables);
        server.wait_until_ready();
        server
    }

    /// What it has logged.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("nobody panicked over the log").clone()
    }

    fn spawn(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = engram()
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text", "--data-dir"])
            .arg(directory)
            .args(arguments)
            .envs(variables.iter().copied())
            // Nothing is left behind on tmpfs but where a test names a folder.
            .args(if arguments.contains(&"--fast-dir") { &[][..] } else { &["--fast-dir", "none"] })
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stderr = BufReader::new(child.stderr.take().expect("its log is piped"));
        let (sender, receiver) = mpsc::channel();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("server: {line}");
                lines.lock().expect("nobody panicked over the log").push(line.clone());
                if let Some((_, url)) = line.split_once("listens on http") {
                    let (_, rest) = url.split_once("://").expect("it is a URL");
                    let address = rest.split(',').next().unwrap_or_default();
                    // The test may have ended.
                    let _ignored = sender.send(address.parse().expect("an address is logged"));
                }
            }
        });
        let address = receiver.recv_timeout(PATIENCE).expect("the server says where it listens");
        Self { child, address, log }
    }

    fn wait_until_ready(&self) {
        let started = Instant::now();
        loop {
            let reply = self.connect().call("GET", "/health/ready", "", b"");
            if reply.is_ok_and(|reply| reply.status == 200) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the server is not ready in time");
            std::thread::sleep(PAUSE);
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address, PATIENCE).expect("the server accepts")
    }

    /// One request over a connection of its own.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Reply {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let headers = if bytes.is_empty() { "" } else { JSON };
        self.connect().call(method, path, headers, &bytes).expect("the server answers")
    }

    /// One request that succeeds.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, path, body).json().expect("the request succeeds")
    }

    pub fn count(&self) -> u64 {
        let answer = self.ask("POST", "/api/v1/count", &serde_json::json!({}));
        answer["count"].as_u64().expect("a count is a number")
    }

    /// Begins a request that does not end, and waits until the server is at it: it is over when the
    /// stream is dropped.
    pub fn begin_request(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the server accepts");
        let head = "POST /api/v1/count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\
                    Content-Type: application/json\r\n\r\n{";
        stream.write_all(head.as_bytes()).expect("a head can be sent");
        eventually("the request is under way", || {
            let metrics = self.call("GET", "/metrics", &Value::Null);
            String::from_utf8_lossy(&metrics.body).contains("engram_http_requests_in_flight 2")
        });
        stream
    }

    /// Runs a command against it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let url = self.url();
        run(&[arguments, &["--url", &url]].concat())
    }

    /// SIGTERM; returns the exit status.
    pub fn terminate(self) -> Option<i32> {
        self.signal("TERM");
        self.ended()
    }

    /// Waits until it has ended; returns the exit status.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("the server ends").code()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server ends");
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal reaches the server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ignored = self.child.kill();
        let _ignored = self.child.wait();
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(PAUSE);
    }
}
