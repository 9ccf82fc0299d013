//! Bodies that do not fit: each is refused by name, nothing is stored, the connection goes on.

use crate::server::Server;

struct Case {
    what: &'static str,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    pointer: &'static str,
}

fn case(
    what: &'static str,
    body: impl Into<Vec<u8>>,
    status: u16,
    code: &'static str,
    pointer: &'static str,
) -> Case {
    Case { what, body: body.into(), status, code, pointer }
}

fn check(method: &str, path: &str, cases: &[Case]) {
    let server = Server::start();
    let mut client = server.client();
    for case in cases {
        let response = client.request(method, path, &case.body);
        let seen = (response.status, response.code(), response.pointer());
        let wanted = (case.status, case.code.to_owned(), case.pointer.to_owned());
        assert_eq!(seen, wanted, "{}: {}", case.what, response.text());
        assert_eq!(client.get("/health/live").status, 200, "{}: the connection goes on", case.what);
    }
    assert_eq!(server.knobs.stored(), 0, "nothing is stored");
    println!("{} bodies that do not fit", cases.len());
}

#[test]
fn a_memory_that_does_not_fit_is_refused() {
    let long_id = "x".repeat(257);
    let deep = format!(
        "{{\"content\":\"x\",\"metadata\":{{\"a\":{}1{}}}}}",
        "[".repeat(40),
        "]".repeat(40)
    );
    let keys: Vec<String> = (0..300).map(|key| format!("\"k{key}\":1")).collect();
    let many_keys = format!("{{\"content\":\"x\",\"metadata\":{{{}}}}}", keys.join(","));
    let large = format!("{{\"content\":\"x\",\"metadata\":{{\"a\":\"{}\"}}}}", "y".repeat(70_000));
    let many_dimensions = format!("{{\"embedding\":[{}1]}}", "1,".repeat(4096));
    check(
        "POST",
        "/api/v1/memories",
        &[
            case("an array", "[]", 400, "invalid_type", ""),
            case("a string", "\"x\"", 400, "invalid_type", ""),
            case("nothing", "", 400, "malformed_json", ""),
            case("truncated", "{\"content\": \"x\"", 400, "malformed_json", ""),
            case("truncated string", "{\"content\": \"x", 400, "malformed_json", "/content"),
            case("two values", "{\"content\": \"x\"} {}", 400, "malformed_json", ""),
            case("a comment", "{\"content\": \"x\" /* y */}", 400, "malformed_json", ""),
            case("trailing comma", "{\"content\": \"x\",}", 400, "malformed_json", ""),
            case("single quotes", "{'content': 'x'}", 400, "malformed_json", ""),
            case("bad UTF-8", b"{\"content\": \"\xff\xfe\"}", 400, "invalid_utf8", ""),
            case("lone surrogate", r#"{"content": "\ud800"}"#, 400, "malformed_json", "/content"),
            case(
                "raw control character",
                "{\"content\": \"a\nb\"}",
                400,
                "malformed_json",
                "/content",
            ),
            case("unknown field", r#"{"contents": "x"}"#, 400, "unknown_field", "/contents"),
            case(
                "field twice",
                r#"{"content":"x","content":"y"}"#,
                400,
                "duplicate_field",
                "/content",
            ),
            case("neither content nor embedding", r#"{"id": "a"}"#, 400, "missing_field", ""),
            case("content is a number", r#"{"content": 7}"#, 400, "invalid_type", "/content"),
            case("empty id", r#"{"id":"","content":"x"}"#, 422, "invalid_value", "/id"),
            case(
                "long id",
                format!("{{\"id\":\"{long_id}\",\"content\":\"x\"}}"),
                422,
                "invalid_value",
                "/id",
            ),
            case(
                "control character in id",
                r#"{"id":"a\u0000b","content":"x"}"#,
                422,
                "invalid_value",
                "/id",
            ),
            case("NaN", r#"{"embedding":[NaN]}"#, 400, "malformed_json", "/embedding/0"),
            case(
                "infinity",
                r#"{"embedding":[1,Infinity]}"#,
                400,
                "malformed_json",
                "/embedding/1",
            ),
            case("1e39", r#"{"embedding":[0.5,1e39]}"#, 422, "invalid_value", "/embedding/1"),
            case("leading zero", r#"{"embedding":[01]}"#, 400, "malformed_json", "/embedding/0"),
            case("a string in it", r#"{"embedding":[1,"2"]}"#, 400, "invalid_type", "/embedding/1"),
            case("no dimensions", r#"{"embedding":[]}"#, 422, "invalid_value", "/embedding"),
            case("too many dimensions", many_dimensions, 422, "limit_exceeded", "/embedding"),
            case("not base64", r#"{"embedding":"?!"}"#, 422, "invalid_value", "/embedding"),
            case("half a float", r#"{"embedding":"AAA="}"#, 422, "invalid_value", "/embedding"),
            case(
                "NaN in base64",
                r#"{"embedding":"AADAfw=="}"#,
                422,
                "invalid_value",
                "/embedding",
            ),
            case("zero vector", r#"{"embedding":[0,0.0]}"#, 422, "zero_vector", "/embedding"),
            case(
                "metadata is an array",
                r#"{"content":"x","metadata":[]}"#,
                400,
                "invalid_type",
                "/metadata",
            ),
            case(
                "metadata key twice",
                r#"{"content":"x","metadata":{"a":1,"a":2}}"#,
                400,
                "duplicate_field",
                "/metadata/a",
            ),
            case("metadata with too many keys", many_keys, 422, "limit_exceeded", "/metadata"),
            case("metadata too large", large, 422, "limit_exceeded", "/metadata"),
            case(
                "metadata number too large",
                r#"{"content":"x","metadata":{"a":1e999}}"#,
                422,
                "invalid_value",
                "/metadata/a",
            ),
            case(
                "confidence above 1",
                r#"{"content":"x","confidence":1.5}"#,
                422,
                "invalid_value",
                "/confidence",
            ),
            case(
                "confidence below 0",
                r#"{"content":"x","confidence":-0.1}"#,
                422,
                "invalid_value",
                "/confidence",
            ),
            case(
                "time without zone",
                r#"{"content":"x","created_at":"2026-01-01T00:00:00"}"#,
                422,
                "invalid_value",
                "/created_at",
            ),
            case(
                "time as a number",
                r#"{"content":"x","expires_at":0}"#,
                400,
                "invalid_type",
                "/expires_at",
            ),
            case(
                "weight of 0",
                r#"{"content":"x","links":[{"to":"a","weight":0}]}"#,
                422,
                "invalid_value",
                "/links/0/weight",
            ),
            case(
                "link without target",
                r#"{"content":"x","links":[{}]}"#,
                400,
                "missing_field",
                "/links/0",
            ),
            case(
                "link with unknown field",
                r#"{"content":"x","links":[{"too":"a"}]}"#,
                400,
                "unknown_field",
                "/links/0/too",
            ),
            case("nested too deep", deep, 422, "limit_exceeded", DEEP_POINTER),
        ],
    );
}

static DEEP_POINTER: &str =
    "/metadata/a/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0";

#[test]
fn a_recall_that_does_not_fit_is_refused() {
    check(
        "POST",
        "/api/v1/recall",
        &[
            case("no cues", "{}", 400, "missing_field", ""),
            case("empty cues", r#"{"cues":[]}"#, 400, "missing_field", ""),
            case("cues is an object", r#"{"cues":{"text":"x"}}"#, 400, "invalid_type", "/cues"),
            case(
                "two kinds in one cue",
                r#"{"cues":[{"text":"x","id":"a"}]}"#,
                400,
                "duplicate_field",
                "/cues/0/id",
            ),
            case("cue without kind", r#"{"cues":[{"weight":1}]}"#, 400, "missing_field", "/cues/0"),
            case(
                "top_k of 0",
                r#"{"cues":[{"text":"x"}],"top_k":0}"#,
                422,
                "invalid_value",
                "/top_k",
            ),
            case(
                "top_k with a fraction",
                r#"{"cues":[{"text":"x"}],"top_k":1.5}"#,
                400,
                "invalid_type",
                "/top_k",
            ),
            case(
                "top_k too large",
                r#"{"cues":[{"text":"x"}],"top_k":1001}"#,
                422,
                "invalid_value",
                "/top_k",
            ),
            case(
                "negative hops",
                r#"{"cues":[{"text":"x"}],"max_hops":-1}"#,
                422,
                "invalid_value",
                "/max_hops",
            ),
            case(
                "decay above 1",
                r#"{"cues":[{"text":"x"}],"decay":2}"#,
                422,
                "invalid_value",
                "/decay",
            ),
            case(
                "unknown tier",
                r#"{"cues":[{"text":"x"}],"tiers":["hot"]}"#,
                422,
                "invalid_value",
                "/tiers/0",
            ),
            case(
                "unknown part",
                r#"{"cues":[{"text":"x"}],"with":["all"]}"#,
                422,
                "invalid_value",
                "/with/0",
            ),
            case("misspelt", r#"{"cues":[{"text":"x"}],"topk":3}"#, 400, "unknown_field", "/topk"),
            case(
                "geo filter",
                r#"{"cues":[{"text":"x"}],"filter":{"must":[{"key":"a","geo_radius":{}}]}}"#,
                400,
                "unknown_field",
                "/filter/must/0/geo_radius",
            ),
            case(
                "empty condition",
                r#"{"cues":[{"text":"x"}],"filter":{"must":[{}]}}"#,
                400,
                "missing_field",
                "/filter/must/0",
            ),
            case(
                "match of an object",
                r#"{"cues":[{"text":"x"}],"filter":{"must":[{"key":"a","match":{"value":{}}}]}}"#,
                400,
                "invalid_type",
                "/filter/must/0/match/value",
            ),
            case(
                "range of nothing",
                r#"{"cues":[{"text":"x"}],"filter":{"must":[{"key":"a","range":{}}]}}"#,
                400,
                "missing_field",
                "/filter/must/0/range",
            ),
        ],
    );
}

#[test]
fn a_link_that_does_not_fit_is_refused() {
    check(
        "POST",
        "/api/v1/links",
        &[
            case("no from", r#"{"to":"b"}"#, 400, "missing_field", ""),
            case("no to", r#"[{"from":"a"}]"#, 400, "missing_field", "/0"),
            case(
                "weight above 1",
                r#"[{"from":"a","to":"b","weight":1.01}]"#,
                422,
                "invalid_value",
                "/0/weight",
            ),
            case("empty kind", r#"{"from":"a","to":"b","kind":""}"#, 422, "invalid_value", "/kind"),
            case("a string", r#""a""#, 400, "invalid_type", ""),
        ],
    );
}
