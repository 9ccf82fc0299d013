//! TLS through the real server and the real command: what is trusted, who is let in, and that
//! certificates change while it runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::server::{Folder, Server, eventually, run, stderr, stdout};

/// An authority with the certificates that it has signed, as files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn arguments(&self, certificate_flag: &'static str, key_flag: &'static str) -> [String; 4] {
        let text = |path: &PathBuf| path.to_str().expect("a test's path is UTF-8").to_owned();
        let (certificate, key) = (text(&self.certificate), text(&self.key));
        [certificate_flag.to_owned(), certificate, key_flag.to_owned(), key]
    }
}

impl Authority {
    fn new(folder: &Folder, name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let file = folder.file(&format!("{name}.pem"), &issuer.pem());
        Self { issuer, file }
    }

    fn sign(&self, folder: &Folder, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key can be made");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("these are names");
        let signed = params.signed_by(&key, &self.issuer).expect("the authority signs");
        Pair {
            certificate: folder.file(&format!("{name}.pem"), &signed.pem()),
            key: folder.file(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

fn start(folder: &Folder, arguments: &[String]) -> Server {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::start_encrypted(&folder.0.join("data"), &arguments)
}

fn https(server: &Server, arguments: &[&str]) -> std::process::Output {
    let url = format!("https://{}", server.address);
    run(&[arguments, &["--url", &url, "--timeout", "20s"]].concat())
}

#[test]
fn memories_are_stored_and_recalled_over_tls() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let pair = authority.sign(&folder, "server");
    let server = start(&folder, &pair.arguments("--tls-cert", "--tls-key"));
    let trusted = authority.file.to_str().expect("a test's path is UTF-8");
    let mut lines = String::new();
    for index in 0..5000 {
        lines.push_str(&format!("{{\"id\": \"m{index}\", \"content\": \"memory {index}\"}}\n"));
    }
    let file = folder.file("memories.ndjson", &lines);
    let file = file.to_str().expect("a test's path is UTF-8");
    let loaded = https(&server, &["load", "--file", file, "--ca-file", trusted]);
    assert!(loaded.status.success(), "{}", stderr(&loaded));
    let counted = https(&server, &["query", "--count", "--ca-file", trusted]);
    assert_eq!(stdout(&counted).trim(), "5000", "{}", stderr(&counted));
}

#[test]
fn a_server_that_nobody_trusts_is_not_talked_to() {
    let folder = Folder::new();
    let pair = Authority::new(&folder, "authority").sign(&folder, "server");
    let stranger = Authority::new(&folder, "stranger");
    let server = start(&folder, &pair.arguments("--tls-cert", "--tls-key"));
    let trusted = stranger.file.to_str().expect("a test's path is UTF-8");
    let refused = https(&server, &["query", "--count", "--ca-file", trusted]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(stderr(&refused).contains("certificate"), "{}", stderr(&refused));
}

#[test]
fn a_client_without_a_certificate_is_turned_away_where_one_is_asked_for() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let (pair, client) = (authority.sign(&folder, "server"), authority.sign(&folder, "client"));
    let mut arguments = pair.arguments("--tls-cert", "--tls-key").to_vec();
    let trusted = authority.file.to_str().expect("a test's path is UTF-8");
    arguments.extend(["--tls-client-ca".to_owned(), trusted.to_owned()]);
    let server = start(&folder, &arguments);
    let shown = client.arguments("--client-cert", "--client-key");
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let count = ["query", "--count", "--ca-file", trusted];
    assert_eq!(https(&server, &count).status.code(), Some(3));
    eventually("a client with a certificate is served", || {
        https(&server, &[&count[..], &shown[..]].concat()).status.success()
    });
}

#[test]
fn a_new_certificate_is_in_force_after_sighup_and_a_broken_one_is_not() {
    let folder = Folder::new();
    let (first, second) = (Authority::new(&folder, "first"), Authority::new(&folder, "second"));
    let pair = first.sign(&folder, "server");
    let server = start(&folder, &pair.arguments("--tls-cert", "--tls-key"));
    let trusts = |authority: &Authority| {
        let trusted = authority.file.to_str().expect("a test's path is UTF-8");
        https(&server, &["query", "--count", "--ca-file", trusted]).status.success()
    };
    assert!(trusts(&first) && !trusts(&second));
    second.sign(&folder, "server");
    server.signal("HUP");
    eventually("the new certificate is in force", || trusts(&second));
    folder.file("server.pem", "this is no certificate");
    server.signal("HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(trusts(&second), "the one before stays in force");
}

#[test]
fn what_is_not_tls_gets_no_answer_and_harms_nobody() {
    let folder = Folder::new();
    let authority = Authority::new(&folder, "authority");
    let pair = authority.sign(&folder, "server");
    let server = start(&folder, &pair.arguments("--tls-cert", "--tls-key"));
    for bytes in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0x16, 3, 1, 255, 255], &[0; 4096]] {
        let mut socket = TcpStream::connect(server.address).expect("the server accepts");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        socket.write_all(bytes).expect("a few bytes fit");
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = socket.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "nothing is said in the clear");
    }
    let trusted = authority.file.to_str().expect("a test's path is UTF-8");
    assert!(https(&server, &["query", "--count", "--ca-file", trusted]).status.success());
}

#[test]
fn files_that_are_no_certificates_are_refused_by_name() {
    let folder = Folder::new();
    let pair = Authority::new(&folder, "authority").sign(&folder, "server");
    let broken = folder.file("broken.pem", "nothing");
    let broken = broken.to_str().expect("a test's path is UTF-8");
    let [_, certificate, _, key] = pair.arguments("--tls-cert", "--tls-key");
    let data = folder.0.join("data");
    let data = data.to_str().expect("a test's path is UTF-8");
    let cases = [
        (["--tls-cert", broken, "--tls-key", &key], "broken.pem: "),
        (["--tls-cert", &certificate, "--tls-key", broken], "broken.pem: no private key in PEM"),
        (["--tls-cert", "/nowhere", "--tls-key", &key], "/nowhere: "),
    ];
    for (arguments, said) in cases {
        let arguments =
            [&["serve", "--listen", "127.0.0.1:0", "--data-dir", data], &arguments[..]].concat();
        let refused = run(&arguments);
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
    }
}
