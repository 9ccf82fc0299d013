//! Bad input over a socket against the real server: the right refusal, nothing stored, and the
//! connection goes on.

use engram_bench::http::{Connection, JSON};
use serde_json::{Value, json};

use crate::server::{Folder, Server};

struct Case {
    method: &'static str,
    path: &'static str,
    headers: &'static str,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
}

fn case(path: &'static str, body: &str, status: u16, code: &'static str) -> Case {
    let body = body.as_bytes().to_vec();
    Case { method: "POST", path, headers: JSON, body, status, code }
}

fn cases() -> Vec<Case> {
    const MEMORIES: &str = "/api/v1/memories";
    const RECALL: &str = "/api/v1/recall";
    let long_id = format!(r#"{{"id": "{}", "content": "x"}}"#, "i".repeat(257));
    let too_large = format!(r#"{{"content": "{}"}}"#, "x".repeat((1 << 20) + 1));
    let mut cases = vec![
        case(MEMORIES, r#"{"content": 7}"#, 400, "invalid_type"),
        case(MEMORIES, r#"{"content": "x", "colour": "red"}"#, 400, "unknown_field"),
        case(MEMORIES, r#"{"id": "x"}"#, 400, "missing_field"),
        case(MEMORIES, r#"{"content": "x""#, 400, "malformed_json"),
        case(MEMORIES, r#"{"embedding": [1e39, 0, 0]}"#, 422, "invalid_value"),
        case(MEMORIES, r#"{"embedding": [NaN, 0, 0]}"#, 400, "malformed_json"),
        case(MEMORIES, r#"{"embedding": [0, 0, 0]}"#, 422, "zero_vector"),
        case(MEMORIES, r#"{"embedding": [1, 0]}"#, 400, "dimension_mismatch"),
        case(MEMORIES, r#"{"id": "known", "content": "x"}"#, 409, "already_exists"),
        case(MEMORIES, &long_id, 422, "invalid_value"),
        case(MEMORIES, &too_large, 422, "limit_exceeded"),
        case(RECALL, r#"{"cues": []}"#, 400, "missing_field"),
        case(RECALL, r#"{"cues": [{"embedding": [1, 0]}]}"#, 400, "dimension_mismatch"),
        case(RECALL, r#"{"cues": [{"text": "x"}], "top_k": 0}"#, 422, "invalid_value"),
        case("/api/v1/nothing", "{}", 404, "path_not_found"),
    ];
    cases.push(Case {
        body: b"{\"content\": \"\xff\"}".to_vec(),
        ..case(MEMORIES, "", 400, "invalid_utf8")
    });
    cases.push(Case { method: "PUT", ..case(RECALL, "{}", 405, "method_not_allowed") });
    cases.push(Case {
        headers: "content-type: text/plain\r\n",
        ..case(MEMORIES, r#"{"content": "x"}"#, 415, "unsupported_media_type")
    });
    let unknown =
        Case { method: "GET", headers: "", ..case("/api/v1/memories/none", "", 404, "not_found") };
    cases.push(unknown);
    cases
}

fn ask(connection: &mut Connection, case: &Case) -> (u16, Value) {
    let reply = connection.call(case.method, case.path, case.headers, &case.body);
    let reply = reply.unwrap_or_else(|error| panic!("{} {}: {error}", case.path, case.code));
    (reply.status, serde_json::from_slice(&reply.body).unwrap_or_default())
}

#[test]
fn bad_input_is_refused_with_its_code_and_stores_nothing() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let known = json!({"id": "known", "content": "x", "embedding": [0.5, 0.5, 0.0]});
    assert_eq!(server.call("POST", "/api/v1/memories", &known).status, 201);
    let mut connection = server.connect();
    for case in cases() {
        let (status, problem) = ask(&mut connection, &case);
        let said = String::from_utf8_lossy(&case.body[..case.body.len().min(80)]).into_owned();
        assert_eq!((status, &problem["code"]), (case.status, &json!(case.code)), "{said}");
        assert_eq!(problem["status"], json!(case.status), "{said}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{said}");
    }
    assert_eq!(server.count(), 1);
}

#[test]
fn a_refused_line_does_not_stop_the_others() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let file = folder.file(
        "memories.ndjson",
        "{\"id\":\"a\",\"content\":\"x\"}\n{\"id\":\"b\"}\n{\"id\":\"c\",\"content\":\"y\"}\n",
    );
    let file = file.display().to_string();
    let loaded = server.run(&["load", "--file", &file]);
    assert_eq!(loaded.status.code(), Some(1));
    let said = crate::server::stderr(&loaded);
    assert!(said.contains("memory 2") && said.contains("missing_field"), "{said}");
    assert_eq!(server.count(), 2);
}
