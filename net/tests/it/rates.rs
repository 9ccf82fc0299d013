//! A client sends no more requests than it may, whichever core they come to.

use std::num::NonZeroU32;

use engram_net::Options;
use engram_net::auth::{Auth, KeysFile, digest_text};
use engram_net::rates::Rates;

use crate::client::{Client, Response};
use crate::server::Server;

/// So few a second that none is given back while a test runs its requests.
const RATE: u32 = 3;

fn options(auth: Auth) -> Options {
    let rates = NonZeroU32::new(RATE).map(Rates::new);
    Options { rates, auth, ..Options::default() }
}

fn auth() -> Auth {
    let lines = [("ann", "a-key"), ("ann", "a-second-key"), ("bob", "b-key")];
    let lines = lines.map(|(name, key)| format!("{name} read {}\n", digest_text(key)));
    Auth::required(KeysFile::parse(&lines.concat()).unwrap())
}

fn ask(client: &mut Client, path: &str, key: &str) -> Response {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\n\r\n"));
    client.read_answer()
}

#[test]
fn a_key_that_asks_too_often_is_told_when_to_come_back() {
    let server = Server::with(options(auth()));
    let mut client = server.client();
    for _ in 0..RATE {
        assert_eq!(ask(&mut client, "/api/v1/stats", "a-key").status, 200);
    }
    for key in ["a-key", "a-second-key"] {
        let refused = ask(&mut client, "/api/v1/stats", key);
        assert_eq!((refused.status, refused.code()), (429, "rate_limited".to_owned()), "{key}");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(ask(&mut client, "/api/v1/stats", "b-key").status, 200, "others are not told");
    for path in ["/livez", "/health/ready", "/openapi.json", "/metrics"] {
        assert_eq!(ask(&mut client, path, "a-key").status, 200, "{path} is not counted");
    }
    let metrics = client.get("/metrics").text();
    for line in [
        "engram_http_shed_total{reason=\"rate\"} 2",
        "engram_operations_total{operation=\"stats\",outcome=\"rate_limited\"} 2",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line} in {metrics}");
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(ask(&mut client, "/api/v1/stats", "a-key").status, 200, "after what it was told");
}

#[test]
fn who_tries_keys_counts_by_address_and_stops_nobody_else() {
    let server = Server::with(options(auth()));
    let mut client = server.client();
    let guess = |n| format!("guess-{n}");
    let seen: Vec<u16> =
        (0..10).map(|n| ask(&mut client, "/api/v1/stats", &guess(n)).status).collect();
    assert_eq!(seen[..RATE as usize], [401; RATE as usize]);
    assert!(seen[RATE as usize..].contains(&429), "{seen:?}");
    assert_eq!(ask(&mut client, "/api/v1/stats", "b-key").status, 200);
}

#[test]
fn an_address_has_one_limit_on_all_cores() {
    let server = Server::on_cores(3, options(Auth::default()));
    let mut clients: Vec<Client> = (0..12).map(|_| server.client()).collect();
    let started = std::time::Instant::now();
    let count = |clients: &mut [Client]| {
        let ask = |client: &mut Client| client.get("/api/v1/stats").status;
        clients.iter_mut().map(ask).filter(|status| *status == 200).count()
    };
    let let_in = count(&mut clients) + count(&mut clients);
    let given_back = started.elapsed().as_secs_f64() * f64::from(RATE);
    let most = RATE as usize + given_back.ceil() as usize;
    assert!((RATE as usize..=most).contains(&let_in), "{let_in} of at most {most}");
}

/// A body that nobody reads must not take a client with it that is only too fast.
#[test]
fn a_refused_request_leaves_its_connection_open() {
    let server = Server::with(options(Auth::default()));
    let mut client = server.client();
    let body = "{\"content\":\"x\"}";
    let statuses: Vec<u16> =
        (0..8).map(|_| client.request("POST", "/api/v1/memories", body).status).collect();
    assert!(statuses.starts_with(&[201; RATE as usize]), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(server.knobs.stored() < 8);
}
