//! What fits is done, and answered as the contract says.

use base64::Engine as _;
use serde_json::json;

use crate::server::Server;

#[test]
fn a_memory_is_stored_read_changed_and_forgotten() {
    let server = Server::start();
    let mut client = server.client();
    let body = json!({
        "id": "a/b", "content": "a dog barks", "embedding": [0.5, -1.25], "confidence": 0.5,
        "metadata": {"title": "dog", "n": [1, -2, 2.5, true, null, {"x": "\u{1f600}\n"}]},
        "created_at": "2026-01-31T12:00:00.25+01:00", "expires_at": null,
        "links": [{"to": "c", "weight": 0.5, "kind": "cites"}],
    });
    let response = client.request("POST", "/api/v1/memories", body.to_string());
    assert_eq!(response.status, 201, "{}", response.text());
    assert_eq!(response.header("location"), Some("/api/v1/memories/a%2Fb"));
    assert_eq!(response.json()["id"], "a/b");
    assert_eq!(response.json()["durable"], true);

    let again = client.request("POST", "/api/v1/memories", body.to_string());
    assert_eq!((again.status, again.code()), (409, "already_exists".to_owned()));

    let read = client.get("/api/v1/memories/a%2Fb?with=embedding,links").json();
    assert_eq!(read["content"], "a dog barks");
    assert_eq!(read["metadata"], body["metadata"]);
    assert_eq!(read["embedding"], json!([0.5, -1.25]));
    assert_eq!(read["created_at"], "2026-01-31T11:00:00.25Z");
    assert_eq!(read["links"], json!([]));
    let read = client.get("/api/v1/memories/a%2Fb").json();
    assert!(read.get("embedding").is_none() && read.get("links").is_none(), "{read}");

    let patch = r#"{"content":"a cat purrs","confidence":null}"#;
    let patched = client.request_as(
        "PATCH",
        "/api/v1/memories/a%2Fb",
        "application/merge-patch+json; charset=utf-8",
        patch,
    );
    assert_eq!(patched.json()["content"], "a cat purrs");
    assert_eq!(patched.json()["confidence"], json!(null));

    let put = client.request("PUT", "/api/v1/memories/a%2Fb", r#"{"content":"x"}"#);
    assert_eq!(put.status, 200);
    let put = client.request("PUT", "/api/v1/memories/new?wait=applied", r#"{"content":"x"}"#);
    assert_eq!((put.status, &put.json()["durable"]), (201, &json!(false)));
    let put = client.request("PUT", "/api/v1/memories/new", r#"{"id":"other","content":"x"}"#);
    assert_eq!((put.status, put.pointer()), (422, "/id".to_owned()));

    assert_eq!(client.request("DELETE", "/api/v1/memories/a%2Fb", "").status, 204);
    assert_eq!(client.get("/api/v1/memories/a%2Fb").code(), "not_found");
}

#[test]
fn an_id_is_made_where_none_is_given() {
    let server = Server::start();
    let response = server.client().request("POST", "/api/v1/memories", r#"{"content":"x"}"#);
    let id = response.json()["id"].as_str().unwrap().to_owned();
    assert_eq!((id.len(), &id[14..15]), (36, "7"), "{id}");
}

#[test]
fn base64_is_the_same_embedding_as_an_array() {
    let server = Server::start();
    let mut client = server.client();
    let floats = [0.25_f32, -3.5, 1e-20];
    let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    let body = json!({"id": "a", "embedding": text}).to_string();
    assert_eq!(client.request("POST", "/api/v1/memories", body).status, 201);
    let read = client.get("/api/v1/memories/a?with=embedding").json();
    assert_eq!(read["embedding"], json!([0.25, -3.5, 1e-20]));
    let body = json!({"id": "b", "embedding": [1, 2]}).to_string();
    assert_eq!(client.request("POST", "/api/v1/memories", body).code(), "dimension_mismatch");
}

#[test]
fn a_batch_as_an_array_has_a_verdict_for_each_memory() {
    let server = Server::start();
    let body = r#"[{"id":"a","content":"x"},{"id":"b","embedding":[0]},{"id":"a","content":"y"}]"#;
    let response = server.client().request("POST", "/api/v1/memories/batch", body);
    let json = response.json();
    assert_eq!((&json["stored"], &json["refused"]), (&json!(2), &json!(1)), "{json}");
    let statuses: Vec<_> =
        json["verdicts"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, [201, 422, 200]);
    assert_eq!(json["verdicts"][1]["code"], "zero_vector");
}

#[test]
fn a_malformed_array_stores_nothing() {
    let server = Server::start();
    let body = r#"[{"id":"a","content":"x"},{"id":"b","contents":"x"}]"#;
    let response = server.client().request("POST", "/api/v1/memories/batch", body);
    assert_eq!(
        (response.code(), response.pointer()),
        ("unknown_field".into(), "/1/contents".into())
    );
    assert_eq!(server.knobs.stored(), 0);
}

#[test]
fn lines_have_their_verdicts_in_order() {
    let server = Server::start();
    let mut lines = String::new();
    for line in 0..5000 {
        match line % 10 {
            3 => lines.push_str("{\"content\": 7}\n"),
            7 => lines.push_str("not json\r\n"),
            _ => lines.push_str(&format!("{{\"id\":\"m{line}\",\"content\":\"text {line}\"}}\n")),
        }
        if line % 100 == 0 {
            lines.push('\n');
        }
    }
    lines.push_str("{\"id\":\"last\",\"content\":\"no newline after it\"}");
    let mut client = server.client();
    let response =
        client.request_as("POST", "/api/v1/memories/batch", "application/x-ndjson", lines);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/x-ndjson"));
    let verdicts: Vec<serde_json::Value> =
        response.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), 5001);
    for (index, verdict) in verdicts.iter().enumerate() {
        assert_eq!(verdict["index"], index);
        match index {
            5000 => assert_eq!(verdict["id"], "last"),
            _ if index % 10 == 3 => assert_eq!(verdict["code"], "invalid_type"),
            _ if index % 10 == 7 => assert_eq!(verdict["code"], "malformed_json"),
            _ => assert_eq!(verdict["id"], format!("m{index}")),
        }
    }
    assert_eq!(server.knobs.stored(), 4001);
    assert_eq!(client.get("/livez").status, 200, "the connection goes on");
}

#[test]
fn verdicts_come_while_lines_are_still_sent() {
    let server = Server::start();
    let mut client = server.client();
    client.send(
        "POST /api/v1/memories/batch HTTP/1.1\r\nHost: test\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: 60\r\n\r\n\
         {\"id\":\"a\",\"content\":\"one line\"}\n",
    );
    let mut seen = client.read_some();
    while !seen.contains("\"id\":\"a\"") {
        seen.push_str(&client.read_some());
    }
}

#[test]
fn a_client_may_send_everything_before_it_reads() {
    let server = Server::start();
    let mut client = server.client();
    let line = format!("{{\"content\":\"{}\"}}\n", "x".repeat(40));
    let lines = line.repeat(100_000);
    let response =
        client.request_as("POST", "/api/v1/memories/batch", "application/x-ndjson", lines);
    assert_eq!(response.text().lines().count(), 100_000);
}

#[test]
fn a_line_too_long_is_refused_alone() {
    let server = Server::start();
    let long = format!("{{\"content\":\"{}\"}}\n", "x".repeat(5 << 20));
    let lines =
        format!("{{\"id\":\"a\",\"content\":\"x\"}}\n{long}{{\"id\":\"b\",\"content\":\"x\"}}\n");
    let response =
        server.client().request_as("POST", "/api/v1/memories/batch", "application/x-ndjson", lines);
    let text = response.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[1].contains("body_too_large") && lines[2].contains("\"b\""), "{text}");
}

#[test]
fn links_are_written_read_and_removed() {
    let server = Server::start();
    let mut client = server.client();
    let body = r#"[{"from":"a","to":"b","weight":0.5,"kind":"cites"},{"from":"b","to":"c"}]"#;
    assert_eq!(client.request("POST", "/api/v1/links", body).json()["linked"], 2);
    let body = r#"{"from":"c","to":"a"}"#;
    assert_eq!(client.request("POST", "/api/v1/links", body).json()["linked"], 1);
    let links = client.get("/api/v1/memories/b/links?direction=both").json();
    assert_eq!(links["links"].as_array().unwrap().len(), 2, "{links}");
    assert_eq!(links["links"][0]["weight"], 0.5);
    let removed = client.request("DELETE", "/api/v1/links", r#"[{"from":"a","to":"b"}]"#);
    assert_eq!((removed.status, removed.header("x-durable")), (204, Some("true")));
    let links = client.get("/api/v1/memories/a/links").json();
    assert_eq!(links["links"], json!([]));
}

#[test]
fn a_recall_answers_with_what_was_asked_for() {
    let server = Server::start();
    let mut client = server.client();
    let body = json!({"id": "a", "content": "a dog barks", "metadata": {"k": 1}}).to_string();
    client.request("POST", "/api/v1/memories", body);
    let recall = json!({
        "cues": [{"text": "dog"}, {"id": "x", "weight": 0.5}, {"embedding": [1, 2]}],
        "filter": {"must": [{"key": "k", "match": {"value": 1}},
                            {"should": {"is_empty": {"key": "a.b"}}},
                            {"key": "created_at", "range": {"gte": "2026-01-01T00:00:00Z"}}],
                   "must_not": [{"has_id": ["z"]}, {"key": "k", "match": {"any": [2, "x"]}}]},
        "top_k": 3, "max_hops": 2, "decay": 0.5, "min_activation": 0.01, "fan_out": 8,
        "link_kinds": null, "tiers": ["fast", "warm"], "exact": true, "explain": true,
        "reinforce": false, "with": ["content"], "timeout_ms": 500,
    });
    let response = client.request("POST", "/api/v1/recall", recall.to_string());
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    let memory = &answer["memories"][0];
    assert_eq!((&memory["id"], &memory["content"]), (&json!("a"), &json!("a dog barks")));
    assert!(memory.get("metadata").is_none() && memory["path"].is_array(), "{memory}");
    assert_eq!(memory["score_breakdown"]["lexical"], 1.0);
    assert_eq!(answer["truncated"], false);

    let batch = json!([{"cues": [{"text": "dog"}]}, {"cues": [{"text": "none"}]}]).to_string();
    let results = client.request("POST", "/api/v1/recall/batch", batch).json();
    assert_eq!(results["results"][0]["memories"][0]["metadata"]["k"], 1);
    assert_eq!(results["results"][1]["memories"], json!([]));
}

#[test]
fn spaces_are_separate() {
    let server = Server::start();
    let mut client = server.client();
    let put = client.request("PUT", "/api/v1/spaces/notes", r#"{"dimensions":3,"metric":"dot"}"#);
    assert_eq!((&put.json()["dimensions"], &put.json()["metric"]), (&json!(3), &json!("dot")));
    let body = r#"{"id":"a","content":"x"}"#;
    assert_eq!(client.request("POST", "/api/v1/memories?space=notes", body).status, 201);
    assert_eq!(client.get("/api/v1/memories/a").code(), "not_found");
    client.send("GET /api/v1/memories/a HTTP/1.1\r\nHost: t\r\nX-Memory-Space: notes\r\n\r\n");
    assert_eq!(client.read_answer().status, 200);
    let count = client.request("POST", "/api/v1/count?space=notes", "{}").json();
    assert_eq!(count, json!({"count": 1}));
    let spaces = client.get("/api/v1/spaces").json();
    assert_eq!(spaces["spaces"].as_array().unwrap().len(), 2);
    assert_eq!(client.request("DELETE", "/api/v1/spaces/notes", "").status, 204);
    assert_eq!(client.get("/api/v1/spaces/notes").code(), "space_not_found");
    assert_eq!(client.get("/api/v1/memories/a?space=Notes").code(), "invalid_parameter");
}

#[test]
fn a_listing_pages_through_all() {
    let server = Server::start();
    let mut client = server.client();
    for id in ["a", "b", "c"] {
        let body = json!({"id": id, "content": "x"}).to_string();
        client.request("POST", "/api/v1/memories", body);
    }
    let page = client.get("/api/v1/memories?limit=2").json();
    assert_eq!(page["memories"].as_array().unwrap().len(), 2);
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = client.get(&format!("/api/v1/memories?limit=2&cursor={cursor}")).json();
    assert_eq!(page["memories"][0]["id"], "c");
    assert_eq!(client.get("/api/v1/memories?limit=0").code(), "invalid_parameter");
    assert_eq!(client.get("/api/v1/memories?limt=1").code(), "unknown_parameter");
    assert_eq!(client.get("/api/v1/memories?filter=%7B%22muss%22:1%7D").code(), "unknown_field");
}

#[test]
fn health_says_why_writes_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.get("/health/ready").json()["phase"], "running");
    server.knobs.poisoned.store(true, std::sync::atomic::Ordering::SeqCst);
    let ready = client.get("/readyz");
    assert_eq!((ready.status, &ready.json()["phase"]), (503, &json!("poisoned")));
    assert_eq!(client.get("/startupz").status, 200);
    let refused = client.request("POST", "/api/v1/memories", r#"{"content":"x"}"#);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(refused.code(), "poisoned");
}

#[test]
fn forgetting_counts_first_and_then_forgets() {
    let server = Server::start();
    let mut client = server.client();
    for id in ["a", "b", "c"] {
        let body = json!({"id": id, "content": "x"}).to_string();
        client.request("POST", "/api/v1/memories", body);
    }
    let mut forget = |body: &str| client.request("POST", "/api/v1/forget", body);
    let answer = forget(r#"{"filter":{"must":[{"has_id":["a"]}]},"dry_run":true}"#).json();
    assert_eq!(answer["dry_run"], true);
    let answer = forget(r#"{"ids":["a","b","nobody"]}"#).json();
    assert_eq!(answer, json!({"forgotten": 2, "dry_run": false}));
    let answer = forget(r#"{"filter":{"must":[{"is_empty":{"key":"k"}}]}}"#).json();
    assert_eq!(answer["forgotten"], 1);
    assert_eq!(forget(r#"{"filter":{}}"#).code(), "invalid_value");
    assert_eq!(forget("{}").code(), "missing_field");
}

#[test]
fn a_repeat_with_the_same_key_gets_the_first_answer() {
    let server = Server::start();
    let mut client = server.client();
    let mut store = |key: &str, body: &str| {
        client.send(format!(
            "POST /api/v1/memories HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
             Idempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.read_answer()
    };
    let first = store("k1", r#"{"content":"x"}"#);
    let again = store("k1", r#"{"content":"x"}"#);
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json(), again.json());
    assert_eq!(server.knobs.stored(), 1);
    assert_eq!(store("k1", r#"{"content":"y"}"#).code(), "idempotency_key_reused");
    assert_ne!(store("k2", r#"{"content":"x"}"#).json()["id"], first.json()["id"]);
    assert_eq!(store("k3", r#"{"id":"own","content":"x"}"#).status, 201);
    assert_eq!(store("k3", r#"{"id":"own","content":"x"}"#).status, 201);
    assert_eq!(store("k4", r#"{"id":"own","content":"z"}"#).code(), "already_exists");
}

#[test]
fn a_batch_that_is_repeated_stores_nothing_twice() {
    let server = Server::start();
    let mut client = server.client();
    let mut count_after = |media: &str, body: &str| {
        client.send(format!(
            "POST /api/v1/memories/batch HTTP/1.1\r\nHost: t\r\nContent-Type: {media}\r\n\
             Idempotency-Key: k\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(client.read_answer().status, 200);
        client.request("POST", "/api/v1/count", "{}").json()["count"].as_u64().unwrap()
    };
    for _ in 0..2 {
        let count = count_after("application/json", r#"[{"content":"x"},{"content":"y"}]"#);
        assert_eq!(count, 2);
    }
    for _ in 0..2 {
        let lines = "{\"content\":\"x\"}\n{\"content\":\"y\"}\n{\"content\":\"z\"}\n";
        assert_eq!(count_after("application/x-ndjson", lines), 3);
    }
}

#[test]
fn every_example_of_the_openapi_document_is_accepted() {
    let server = Server::start();
    let mut client = server.client();
    let document = client.get("/openapi.json").json();
    let mut sent = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let example = "/requestBody/content/application~1json/examples/example/value";
            let Some(example) = operation.pointer(example) else { continue };
            let path = path.replace("{id}", "sheep").replace("{space}", "notes");
            if method == "patch" {
                let put = client.request("PUT", &path, r#"{"content":"x"}"#);
                assert!(put.status < 300, "{}", put.text());
            }
            let answer = client.request(&method.to_ascii_uppercase(), &path, example.to_string());
            assert!(answer.status < 300, "{method} {path}: {}", answer.text());
            let statuses = operation["responses"].as_object().unwrap();
            assert!(statuses.contains_key(&answer.status.to_string()), "{method} {path}");
            sent += 1;
        }
    }
    assert!(sent >= 10, "{sent} examples");
}

#[test]
fn metrics_pass_promtools_lint() {
    let server = Server::start();
    let mut client = server.client();
    client.request("POST", "/api/v1/memories", r#"{"content":"x"}"#);
    client.request("POST", "/api/v1/memories", r#"{"contents":"x"}"#);
    client.get("/nothing");
    client.get("/livez");
    client.get("/health/live");
    let metrics = client.get("/metrics").text();
    let mut samples: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(sample, _)| sample)
        .collect();
    let all = samples.len();
    samples.sort_unstable();
    samples.dedup();
    assert_eq!(samples.len(), all, "no sample is there twice");
    for wanted in [
        "engram_http_requests_total{route=\"/api/v1/memories\",method=\"POST\",status=\"2xx\"} 1",
        "engram_http_requests_total{route=\"/api/v1/memories\",method=\"POST\",status=\"4xx\"} 1",
        "engram_http_requests_total{route=\"none\",method=\"any\",status=\"4xx\"} 1",
        "engram_operations_total{operation=\"store_memory\",outcome=\"ok\"} 1",
        "engram_operations_total{operation=\"store_memory\",outcome=\"unknown_field\"} 1",
        "engram_http_connections 1",
        "engram_fake 1",
    ] {
        assert!(metrics.lines().any(|line| line == wanted), "{wanted} in\n{metrics}");
    }
    client.send("GET /metrics HTTP/1.1\r\nHost: t\r\nAccept: application/openmetrics-text\r\n\r\n");
    let open = client.read_answer();
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(open.text().ends_with("# EOF\n"));
    assert!(open.text().contains("# TYPE engram_http_requests counter\n"));
    lint(&metrics);
}

fn lint(metrics: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("promtool (Debian's package prometheus) is absent: its lint was not run");
        return;
    };
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn the_console_page_loads_nothing_from_elsewhere() {
    let server = Server::start();
    let page = server.client().get("/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(!page.text().contains("http://") && !page.text().contains("https://"));
}
