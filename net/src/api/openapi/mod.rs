//! The OpenAPI 3.1 document, made from the tables by which requests are routed, read and refused.
//!
//! *Invariants*: every route that is offered, every field, bound and code of those tables is in it.
//!
//! *Not here*: the schemas (`schemas`).

mod schemas;

use std::sync::OnceLock;

use engram_engine::limits;
use hyper::body::Bytes;
use serde_json::{Map, Value, json};

use super::call::SPACE_HEADER;
use super::route::{Operation, ROUTES, Route};
use crate::error::Reason;

/// The document as JSON, made once.
pub fn document() -> Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    DOCUMENT.get_or_init(|| Bytes::from(build().to_string())).clone()
}

/// What the document says of an operation beside its route.
struct Described {
    summary: &'static str,
    /// Schema of the body.
    body: Option<&'static str>,
    /// Statuses of success, each with its schema, where it has a body.
    answers: &'static [(u16, &'static str)],
}

const fn described(
    summary: &'static str,
    body: Option<&'static str>,
    answers: &'static [(u16, &'static str)],
) -> Described {
    Described { summary, body, answers }
}

const EMPTY: &str = "";

/// The same order as the table of routes.
const DESCRIBED: &[(Operation, Described)] = &[
    (Operation::StoreMemory, described("Store one memory.", Some("NewMemory"), &[(201, "Stored")])),
    (Operation::ListMemories, described("Page through memories.", None, &[(200, "Page")])),
    (
        Operation::StoreBatch,
        described(
            "Store many memories: an array, or lines with one verdict each.",
            Some("NewMemories"),
            &[(200, "Verdicts")],
        ),
    ),
    (
        Operation::PutMemory,
        described(
            "Create or replace one memory; an id in the body must be that of the path.",
            Some("PutMemory"),
            &[(200, "Stored"), (201, "Stored")],
        ),
    ),
    (Operation::GetMemory, described("Read one memory.", None, &[(200, "Memory")])),
    (
        Operation::PatchMemory,
        described(
            "Change one memory by a JSON merge patch (RFC 7396).",
            Some("Patch"),
            &[(200, "Memory")],
        ),
    ),
    (Operation::DeleteMemory, described("Forget one memory for good.", None, &[(204, EMPTY)])),
    (Operation::GetLinks, described("Links of one memory.", None, &[(200, "Links")])),
    (
        Operation::Count,
        described("Exact count under a filter.", Some("Count"), &[(200, "Counted")]),
    ),
    (
        Operation::PutLinks,
        described("Write links, one or many.", Some("NewLinks"), &[(200, "Linked")]),
    ),
    (Operation::DeleteLinks, described("Remove links.", Some("LinkNames"), &[(204, EMPTY)])),
    (
        Operation::Recall,
        described(
            "Recall by spreading activation from cues.",
            Some("Recall"),
            &[(200, "Recalled")],
        ),
    ),
    (
        Operation::RecallBatch,
        described("Several recalls at once.", Some("Recalls"), &[(200, "RecalledBatch")]),
    ),
    (
        Operation::Reinforce,
        described(
            "Say how useful memories were, and the links between them.",
            Some("Reinforce"),
            &[(200, "Reinforced")],
        ),
    ),
    (Operation::Forget, described("Forget many memories.", Some("Forget"), &[(200, "Forgotten")])),
    (
        Operation::Demote,
        described("Move memories to the cold tier.", Some("Forget"), &[(200, "Demoted")]),
    ),
    (
        Operation::StartConsolidation,
        described(
            "Start a consolidation: what says the same is merged, weak automatic links are pruned, what \
             is little present goes to the cold tier.",
            Some("Consolidate"),
            &[(202, "Consolidation")],
        ),
    ),
    (
        Operation::ListConsolidations,
        described("Consolidations of a space, newest first.", None, &[(200, "Consolidations")]),
    ),
    (
        Operation::GetConsolidation,
        described(
            "One consolidation, its progress and what it did.",
            None,
            &[(200, "Consolidation")],
        ),
    ),
    (
        Operation::UndoConsolidation,
        described(
            "Take back what a consolidation merged, pruned and demoted.",
            None,
            &[(202, "Consolidation")],
        ),
    ),
    (Operation::ListSpaces, described("Spaces.", None, &[(200, "Spaces")])),
    (Operation::GetSpace, described("One space.", None, &[(200, "Space")])),
    (
        Operation::PutSpace,
        described(
            "Create a space, or change what may change.",
            Some("SpaceConfig"),
            &[(200, "Space")],
        ),
    ),
    (
        Operation::DeleteSpace,
        described("Forget a space with all that is in it.", None, &[(204, EMPTY)]),
    ),
    (
        Operation::StartSnapshot,
        described("Start a snapshot.", Some("NewSnapshot"), &[(202, "Snapshot")]),
    ),
    (Operation::ListSnapshots, described("Every snapshot.", None, &[(200, "Snapshots")])),
    (
        Operation::GetSnapshot,
        described("One snapshot, and how far it has come.", None, &[(200, "Snapshot")]),
    ),
    (
        Operation::PutSnapshot,
        described("Start a snapshot of that name.", Some("NewSnapshot"), &[(202, "Snapshot")]),
    ),
    (Operation::DeleteSnapshot, described("Remove a snapshot.", None, &[(204, EMPTY)])),
    (Operation::StartCompaction, described("Compact the log now.", None, &[(202, "Compaction")])),
    (
        Operation::GetCompaction,
        described("How far compaction has come.", None, &[(200, "Compaction")]),
    ),
    (Operation::Stats, described("Counts of the whole server.", None, &[(200, "Stats")])),
    (Operation::Topology, described("Which shard sits where.", None, &[(200, "AnyObject")])),
    (Operation::Live, described("The process answers.", None, &[(200, "AnyObject")])),
    (
        Operation::Ready,
        described("Whether traffic should come.", None, &[(200, "Health"), (503, "Health")]),
    ),
    (
        Operation::Startup,
        described("Whether recovery is over.", None, &[(200, "Health"), (503, "Health")]),
    ),
    (Operation::LiveAlias, described("The process answers.", None, &[(200, "AnyObject")])),
    (
        Operation::ReadyAlias,
        described("Whether traffic should come.", None, &[(200, "Health"), (503, "Health")]),
    ),
    (
        Operation::StartupAlias,
        described("Whether recovery is over.", None, &[(200, "Health"), (503, "Health")]),
    ),
    (Operation::Metrics, described("Metrics for Prometheus.", None, &[(200, "text/plain")])),
    (Operation::OpenApi, described("This document.", None, &[(200, "AnyObject")])),
    (Operation::Console, described("The console page.", None, &[(200, "text/html")])),
];

fn describe(operation: Operation) -> &'static Described {
    let (of, described) = &DESCRIBED[operation as usize];
    assert_eq!(*of, operation, "descriptions are in the order of routes");
    described
}

fn build() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Engram",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "An associative memory server.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths(),
        "components": {
            "schemas": schemas::all(),
            "responses": {"Problem": {
                "description": "Refused, with a reason of the table `x-problems`.",
                "content": {"application/problem+json": {"schema": reference("Problem")}},
            }},
        },
        "x-problems": problems(),
    })
}

fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for route in ROUTES.iter().filter(|route| is_offered(route.operation)) {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    paths
}

/// What is answered with 501 is not part of the document.
fn is_offered(operation: Operation) -> bool {
    !describe(operation).answers.is_empty()
}

fn operation(route: &Route) -> Value {
    let Described { summary, body, answers } = describe(route.operation);
    let mut responses = Map::new();
    for (status, schema) in *answers {
        responses.insert(status.to_string(), answer(*status, schema));
    }
    for class in ["4XX", "5XX"] {
        responses.insert(class.to_owned(), json!({"$ref": "#/components/responses/Problem"}));
    }
    let mut value = json!({
        "operationId": operation_id(route),
        "summary": summary,
        "parameters": parameters(route),
        "responses": responses,
    });
    if let Some(schema) = body {
        value["requestBody"] = request_body(route.operation, schema);
    }
    value
}

/// Aliases of health share a name in metrics; here names are unique.
fn operation_id(route: &Route) -> String {
    match route.operation {
        Operation::LiveAlias | Operation::ReadyAlias | Operation::StartupAlias => {
            format!("{}_alias", route.name)
        }
        _ => route.name.to_owned(),
    }
}

fn answer(status: u16, schema: &str) -> Value {
    let description = match status {
        201 => "Created.",
        202 => "Under way.",
        204 => "Done.",
        503 => "Not now; the body says why.",
        _ => "As asked.",
    };
    match schema {
        EMPTY => json!({"description": description}),
        media if media.contains('/') => json!({
            "description": description,
            "content": {media: {"schema": {"type": "string"}}},
        }),
        "Verdicts" => json!({
            "description": description,
            "content": {
                "application/json": {"schema": reference(schema)},
                "application/x-ndjson": {"schema": reference("Verdict")},
            },
        }),
        _ => json!({
            "description": description,
            "content": {"application/json": {"schema": reference(schema)}},
        }),
    }
}

fn request_body(operation: Operation, schema: &str) -> Value {
    let content = json!({
        "schema": reference(schema),
        "examples": {"example": {"value": schemas::example(schema)}},
    });
    let mut media = Map::from_iter([("application/json".to_owned(), content.clone())]);
    match operation {
        Operation::PatchMemory => {
            media.insert("application/merge-patch+json".to_owned(), content);
        }
        Operation::StoreBatch => {
            let line = json!({"schema": {"type": "string"}});
            media.insert("application/x-ndjson".to_owned(), line);
        }
        _ => {}
    }
    json!({"required": true, "content": media})
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Some((_, rest)) = route.path.split_once('{') {
        let (name, _) = rest.split_once('}').expect("patterns close their braces");
        let schema = match name {
            "id" => reference("MemoryId"),
            "space" => reference("SpaceName"),
            _ => json!({"type": "string", "minLength": 1, "maxLength": 256}),
        };
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
    }
    for name in route.query {
        let mut parameter = json!({"name": name, "in": "query"});
        match *name {
            "filter" => {
                parameter["content"] = json!({"application/json": {"schema": reference("Filter")}});
            }
            "space" => {
                parameter["schema"] = reference("SpaceName");
                parameter["description"] =
                    json!(format!("Or the header `{SPACE_HEADER}`, with the same name if both."));
            }
            name => parameter["schema"] = parameter_schema(name),
        }
        parameters.push(parameter);
    }
    if matches!(route.operation, Operation::StoreMemory | Operation::StoreBatch) {
        let schema = json!({"type": "string", "minLength": 1, "maxLength": 256});
        parameters.push(json!({
            "name": "idempotency-key", "in": "header", "schema": schema,
            "description": "A repeat with the same key stores nothing twice.",
        }));
    }
    parameters
}

fn parameter_schema(name: &str) -> Value {
    match name {
        "wait" => json!({"enum": ["durable", "applied"], "default": "durable"}),
        "with" => json!({
            "type": "string",
            "pattern": "^(content|metadata|embedding|links)(,(content|metadata|embedding|links))*$",
        }),
        "limit" => json!({
            "type": "integer", "minimum": 1, "maximum": limits::PAGE_MEMORIES_MAX, "default": 100,
        }),
        "cursor" => json!({"type": "string", "description": "`next_cursor` of the page before."}),
        "direction" => json!({"enum": ["out", "in", "both"], "default": "out"}),
        "kind" => reference("LinkKind"),
        "include_merged" => json!({"type": "boolean", "default": false}),
        other => unreachable!("{other} is a parameter without a schema"),
    }
}

fn problems() -> Vec<Value> {
    Reason::all()
        .map(|reason| {
            json!({
                "code": reason.name(),
                "status": reason.status().as_u16(),
                "title": reason.title(),
            })
        })
        .collect()
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document = build();
        let mut stack = vec![&document];
        let mut references = 0;
        while let Some(value) = stack.pop() {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(target)) = members.get("$ref") {
                        let pointer = target.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{target}");
                        references += 1;
                    }
                    stack.extend(members.values());
                }
                Value::Array(values) => stack.extend(values),
                _ => {}
            }
        }
        assert!(references > 50);
    }

    #[test]
    fn every_route_and_every_code_is_in_it() {
        let document = build();
        for route in ROUTES.iter().filter(|route| is_offered(route.operation)) {
            let method = route.method.as_str().to_ascii_lowercase();
            assert!(document["paths"][route.path][method].is_object(), "{}", route.path);
        }
        let codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap();
        assert_eq!(codes.len(), Reason::all().count());
        assert_eq!(document["x-problems"].as_array().unwrap().len(), codes.len());
    }
}
