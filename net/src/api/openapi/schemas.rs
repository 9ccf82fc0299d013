//! Schemas of everything that is sent and answered, over the field tables of `json`.
//!
//! *Invariants*: an object that is read has exactly the fields of its table.
//!
//! *Not here*: paths and parameters (the parent).

use engram_engine::limits;
use engram_engine::model::SpaceConfig;
use engram_engine::request::Recall;
use serde_json::{Map, Value, json};

use super::reference;
use crate::error::Reason;
use crate::json::{consolidate, filter, forget, link, memory, recall, reinforce, snapshot, space};

/// From here on a number is infinite as f32.
const F32_BOUND: f64 = 3.402_823_567_797_336_6e38;
/// Up to here a number is zero as f32.
const F32_ZERO_BOUND: f64 = 7.006_492_321_624_085e-46;
/// Base64 of a whole number of four-byte floats.
const BASE64_FLOATS: &str = "^([A-Za-z0-9+/]{16})*([A-Za-z0-9+/]{16}\
    |[A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/]{5}[AQgw]==)$";

/// Every schema by its name.
pub fn all() -> Map<String, Value> {
    let mut schemas = values();
    schemas.extend(requests());
    schemas.extend(answers());
    schemas
}

fn named(list: Vec<(&str, Value)>) -> Map<String, Value> {
    list.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// A closed object of the fields of a table.
fn closed(fields: &[&str], required: &[&str], schema_of: impl Fn(&str) -> Value) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), schema_of(field))).collect();
    let mut object =
        json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn nullable(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

fn array(items: Value, most: usize) -> Value {
    json!({"type": "array", "items": items, "maxItems": most})
}

fn fraction() -> Value {
    json!({"type": "number", "minimum": 0, "maximum": 1})
}

fn weight() -> Value {
    json!({"type": "number", "exclusiveMinimum": F32_ZERO_BOUND, "maximum": 1})
}

fn text(most: usize) -> Value {
    json!({"type": "string", "maxLength": most})
}

fn whole(low: u64, high: u64, default: u64) -> Value {
    nullable(json!({"type": "integer", "minimum": low, "maximum": high, "default": default}))
}

fn flag(default: bool) -> Value {
    nullable(json!({"type": "boolean", "default": default}))
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn one_of(names: &[&str]) -> Value {
    json!({"enum": names})
}

fn values() -> Map<String, Value> {
    named(vec![
        (
            "MemoryId",
            json!({
                "type": "string", "minLength": 1, "maxLength": limits::ID_BYTES_MAX,
                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
                "description": "At most 256 bytes of UTF-8, no control characters.",
            }),
        ),
        ("SpaceName", json!({"type": "string", "pattern": "^[a-z0-9_-]{1,64}$"})),
        (
            "LinkKind",
            json!({
                "type": "string", "minLength": 1, "maxLength": limits::LINK_KIND_BYTES_MAX,
                "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$", "default": "related",
            }),
        ),
        (
            "Embedding",
            json!({"oneOf": [
                {"type": "array", "items": {"type": "number", "exclusiveMinimum": -F32_BOUND, "exclusiveMaximum": F32_BOUND},
             "minItems": 1, "maxItems": limits::DIMENSIONS_MAX},
                {"type": "string", "contentEncoding": "base64", "pattern": BASE64_FLOATS,
             "description": "Little-endian 32-bit floats, all finite."},
            ]}),
        ),
        (
            "Metadata",
            json!({
                "type": "object", "maxProperties": limits::METADATA_KEYS_MAX,
                "description": "At most 64 KiB of JSON and 256 keys, nested ones included.",
            }),
        ),
        ("Tier", one_of(&["fast", "warm", "cold"])),
        ("AnyObject", json!({"type": "object"})),
    ])
}

fn requests() -> Map<String, Value> {
    let many = |schema: &str| {
        json!({"oneOf": [
            reference(schema),
            array(reference(schema), limits::LINKS_PER_REQUEST_MAX),
        ]})
    };
    let leaving = closed(link::LEAVING_FIELDS, &["to"], link_field);
    let batch = limits::RECALLS_PER_BATCH_MAX;
    let recalls = json!({
        "type": "array", "items": reference("Recall"), "minItems": 1, "maxItems": batch,
    });
    let mut new_memory = closed(memory::FIELDS, &[], memory_field);
    new_memory["anyOf"] = something();
    let without_id: Vec<&str> =
        memory::FIELDS.iter().copied().filter(|field| *field != "id").collect();
    let mut put_memory = closed(&without_id, &[], memory_field);
    put_memory["anyOf"] = something();
    named(vec![
        ("NewMemory", new_memory),
        ("PutMemory", put_memory),
        ("NewMemories", array(reference("NewMemory"), limits::MEMORIES_PER_BATCH_MAX)),
        ("Patch", closed(memory::PATCH_FIELDS, &[], memory_field)),
        ("LeavingLink", leaving),
        ("NewLink", closed(link::FIELDS, &["from", "to"], link_field)),
        ("NewLinks", many("NewLink")),
        ("LinkName", closed(link::NAME_FIELDS, &["from", "to"], link_field)),
        ("LinkNames", many("LinkName")),
        ("Filter", closed(filter::FIELDS, &[], filter_field)),
        ("Condition", condition()),
        ("Count", closed(&["filter"], &[], |_| nullable(reference("Filter")))),
        ("Cue", cue()),
        ("Recall", closed(recall::FIELDS, &["cues"], recall_field)),
        ("Recalls", recalls),
        ("Forget", forget_schema()),
        ("Reinforce", reinforce_schema()),
        ("Consolidate", consolidate_schema()),
        ("NewSnapshot", closed(snapshot::FIELDS, &[], snapshot_field)),
        ("SpaceConfig", closed(space::FIELDS, &[], space_field)),
    ])
}

/// Content or an embedding, not null.
fn something() -> Value {
    json!([
        {"required": ["content"], "properties": {"content": {"type": "string"}}},
        {"required": ["embedding"], "properties": {"embedding": {"type": ["array", "string"]}}},
    ])
}

fn memory_field(field: &str) -> Value {
    match field {
        "id" => nullable(reference("MemoryId")),
        "content" => nullable(text(limits::CONTENT_BYTES_MAX)),
        "embedding" => nullable(reference("Embedding")),
        "metadata" => nullable(reference("Metadata")),
        "confidence" => nullable(fraction()),
        "links" => nullable(array(reference("LeavingLink"), limits::LINKS_PER_REQUEST_MAX)),
        "created_at" | "expires_at" => nullable(time()),
        other => unreachable!("{other} is a field of a memory without a schema"),
    }
}

fn link_field(field: &str) -> Value {
    match field {
        "from" | "to" => reference("MemoryId"),
        "weight" => nullable(weight()),
        "kind" => nullable(reference("LinkKind")),
        other => unreachable!("{other} is a field of a link without a schema"),
    }
}

fn filter_field(_clause: &str) -> Value {
    json!({"anyOf": [
        array(reference("Condition"), limits::FILTER_CONDITIONS_MAX),
        reference("Condition"),
    ]})
}

/// One of five shapes, which together have the fields of the table.
fn condition() -> Value {
    let shapes: [&[&str]; 4] = [&["key", "match"], &["key", "range"], &["is_empty"], &["has_id"]];
    let mut all: Vec<Value> =
        shapes.iter().map(|fields| closed(fields, fields, condition_field)).collect();
    all.push(nested_filter());
    json!({"oneOf": all})
}

fn condition_field(field: &str) -> Value {
    let scalar = json!({"type": ["string", "number", "boolean"]});
    let bound = json!({"anyOf": [{"type": "number"}, time()]});
    match field {
        "key" => text(limits::METADATA_BYTES_MAX),
        "match" => {
            let mut matching = closed(filter::MATCH_FIELDS, &[], |field| match field {
                "value" => scalar.clone(),
                "any" | "except" => array(scalar.clone(), limits::FILTER_VALUES_MAX),
                "text" => text(limits::METADATA_BYTES_MAX),
                other => unreachable!("{other} is a field of a match without a schema"),
            });
            matching["minProperties"] = json!(1);
            matching["maxProperties"] = json!(1);
            matching
        }
        "range" => {
            let mut range = closed(filter::RANGE_FIELDS, &[], |_| bound.clone());
            range["minProperties"] = json!(1);
            range
        }
        "is_empty" => closed(&["key"], &["key"], |_| text(limits::METADATA_BYTES_MAX)),
        "has_id" => array(reference("MemoryId"), limits::IDS_PER_REQUEST_MAX),
        other => unreachable!("{other} is a field of a condition without a schema"),
    }
}

/// A filter within a filter.
fn nested_filter() -> Value {
    let mut filter = closed(filter::FIELDS, &[], filter_field);
    filter["minProperties"] = json!(1);
    filter
}

/// A filter that does not let everything through.
fn some_filter() -> Value {
    let some = json!({"anyOf": [{"type": "object"}, {"type": "array", "minItems": 1}]});
    let mut filter = closed(filter::FIELDS, &[], filter_field);
    filter["anyOf"] = filter::FIELDS
        .iter()
        .map(|clause| json!({"required": [clause], "properties": {*clause: some}}))
        .collect();
    filter
}

fn cue() -> Value {
    let mut cue = closed(recall::CUE_FIELDS, &[], |field| match field {
        "text" => text(limits::CUE_TEXT_BYTES_MAX),
        "embedding" => reference("Embedding"),
        "id" => reference("MemoryId"),
        "weight" => weight(),
        other => unreachable!("{other} is a field of a cue without a schema"),
    });
    let kinds = ["text", "embedding", "id"];
    cue["oneOf"] = kinds.iter().map(|kind| json!({"required": [kind]})).collect();
    cue
}

fn recall_field(field: &str) -> Value {
    let default = Recall::default();
    let fraction_or = |default: f32| {
        let mut schema = fraction();
        schema["default"] = json!(default);
        nullable(schema)
    };
    match field {
        "cues" => json!({
            "type": "array", "items": reference("Cue"), "minItems": 1, "maxItems": limits::CUES_MAX,
        }),
        "top_k" => whole(1, limits::TOP_K_MAX as u64, default.top_k as u64),
        "filter" => nullable(reference("Filter")),
        "max_hops" => {
            nullable(json!({"type": "integer", "minimum": 0, "maximum": limits::HOPS_MAX}))
        }
        "decay" => fraction_or(default.decay),
        "min_activation" => fraction_or(default.min_activation),
        "fan_out" => whole(1, limits::FAN_OUT_MAX.into(), default.fan_out.into()),
        "max_seeds" => whole(1, limits::SEEDS_MAX.into(), default.max_seeds.into()),
        "link_kinds" => nullable(array(reference("LinkKind"), limits::LINK_KINDS_MAX)),
        "names" => flag(default.names),
        "tiers" => nullable(json!({
            "type": "array", "items": reference("Tier"), "minItems": 1, "maxItems": 3,
        })),
        "exact" => flag(default.exact),
        "explain" => flag(default.explain),
        "reinforce" => flag(default.reinforce),
        "include_merged" => flag(default.with.merged),
        "with" => nullable(array(one_of(&["content", "metadata", "embedding", "links"]), 4)),
        "timeout_ms" => whole(1, limits::TIMEOUT_MS_MAX, default.timeout_ms),
        other => unreachable!("{other} is a field of a recall without a schema"),
    }
}

fn forget_schema() -> Value {
    let mut schema = closed(forget::FIELDS, &[], |field| match field {
        "ids" => array(reference("MemoryId"), limits::IDS_PER_REQUEST_MAX),
        "filter" => some_filter(),
        "dry_run" => json!({"type": "boolean", "default": false}),
        other => unreachable!("{other} is a field of forget without a schema"),
    });
    schema["oneOf"] = json!([{"required": ["ids"]}, {"required": ["filter"]}]);
    schema
}

fn consolidate_schema() -> Value {
    closed(consolidate::FIELDS, &[], |field| match field {
        "threshold" => {
            let mut schema = fraction();
            schema["default"] = json!(0.3);
            schema
        }
        "dry_run" => json!({"type": "boolean", "default": false}),
        other => unreachable!("{other} is a field of consolidate without a schema"),
    })
}

fn reinforce_schema() -> Value {
    closed(reinforce::FIELDS, &["ids"], |field| match field {
        "ids" => array(reference("MemoryId"), limits::IDS_PER_REQUEST_MAX),
        "outcome" => json!({"type": "number", "minimum": -1, "maximum": 1, "default": 1}),
        other => unreachable!("{other} is a field of reinforce without a schema"),
    })
}

fn snapshot_field(field: &str) -> Value {
    match field {
        "name" => {
            nullable(json!({"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"}))
        }
        "keep" => nullable(json!({"type": "integer", "minimum": 1, "maximum": snapshot::KEEP_MAX})),
        "verify" => json!({"type": "boolean", "default": false}),
        other => unreachable!("{other} is a field of snapshots without a schema"),
    }
}

fn space_field(field: &str) -> Value {
    match field {
        "dimensions" => nullable(json!({
            "type": "integer", "minimum": 1, "maximum": limits::DIMENSIONS_MAX,
        })),
        "metric" => nullable(one_of(&["cosine", "dot", "l2"])),
        "encoding" => nullable(one_of(&["int8", "f16", "f32"])),
        "half_life" => nullable(json!({
            "type": "integer", "minimum": 1, "maximum": u32::MAX,
            "default": SpaceConfig::default().half_life_s,
            "description": "Seconds after which what use has added is half; null: it does not fade.",
        })),
        "associate" => flag(true),
        "title_from_content" => flag(false),
        other => unreachable!("{other} is a field of a space without a schema"),
    }
}

/// An object of which all of the first and perhaps some of the second fields are there.
fn answer(always: &[(&str, Value)], sometimes: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> = always
        .iter()
        .chain(sometimes)
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
        .collect();
    let required: Vec<&str> = always.iter().map(|(name, _)| *name).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn boolean() -> Value {
    json!({"type": "boolean"})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn string() -> Value {
    json!({"type": "string"})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn list_of(schema: &str) -> Value {
    list(reference(schema))
}

fn code() -> Value {
    json!({"enum": Reason::all().map(Reason::name).collect::<Vec<_>>()})
}

/// An object with these fields, all of one schema.
fn all_of_kind(names: &[&str], schema: &Value) -> Value {
    let fields: Vec<(&str, Value)> = names.iter().map(|name| (*name, schema.clone())).collect();
    answer(&fields, &[])
}

fn answers() -> Map<String, Value> {
    let mut answers = answers_on_memories();
    answers.extend(answers_on_links());
    answers.extend(answers_on_consolidations());
    answers.extend(answers_on_recalls());
    answers.extend(answers_on_the_server());
    answers
}

/// What each memory is read back with.
fn memory_always() -> Vec<(&'static str, Value)> {
    vec![
        ("id", reference("MemoryId")),
        ("confidence", nullable(number())),
        ("created_at", time()),
        ("updated_at", time()),
        ("expires_at", nullable(time())),
        ("tier", reference("Tier")),
    ]
}

/// What it is read back with where it was asked for.
fn memory_sometimes() -> Vec<(&'static str, Value)> {
    vec![
        ("content", nullable(string())),
        ("metadata", reference("Metadata")),
        ("embedding", nullable(list(number()))),
        ("links", list_of("Link")),
        ("merged", list_of("MemoryId")),
        ("merged_into", reference("MemoryId")),
    ]
}

fn answers_on_memories() -> Map<String, Value> {
    let page = [("memories", list_of("Memory")), ("next_cursor", nullable(string()))];
    let stored = [
        ("id", reference("MemoryId")),
        ("created", boolean()),
        ("created_at", time()),
        ("durable", boolean()),
    ];
    let verdict = [("index", count()), ("status", count())];
    let verdict_sometimes = [
        ("id", reference("MemoryId")),
        ("durable", boolean()),
        ("code", code()),
        ("detail", string()),
        ("pointer", string()),
    ];
    let verdicts = [
        ("stored", count()),
        ("refused", count()),
        ("durable", boolean()),
        ("verdicts", list_of("Verdict")),
    ];
    let reinforced =
        [("reinforced", count()), ("missing", list_of("MemoryId")), ("durable", boolean())];
    let compaction = [
        ("state", one_of(&["running", "done"])),
        ("log_bytes", count()),
        ("live_bytes", count()),
        ("segments", count()),
        ("compactions", count()),
        ("freed_bytes", count()),
        ("damaged_segments", count()),
    ];
    named(vec![
        ("Memory", answer(&memory_always(), &memory_sometimes())),
        ("Page", answer(&page, &[])),
        ("Stored", answer(&stored, &[])),
        ("Verdict", answer(&verdict, &verdict_sometimes)),
        ("Verdicts", answer(&verdicts, &[])),
        ("Counted", answer(&[("count", count())], &[])),
        ("Reinforced", answer(&reinforced, &[])),
        ("Forgotten", answer(&[("forgotten", count()), ("dry_run", boolean())], &[])),
        ("Demoted", answer(&[("demoted", count()), ("dry_run", boolean())], &[])),
        ("Snapshot", json!({"type": "object", "required": ["name", "state"]})),
        ("Snapshots", answer(&[("snapshots", list_of("Snapshot"))], &[])),
        ("Compaction", answer(&compaction, &[])),
    ])
}

fn answers_on_consolidations() -> Map<String, Value> {
    let merge = [("into", reference("MemoryId")), ("merged", list_of("MemoryId"))];
    let run = [
        ("id", string()),
        ("space", reference("SpaceName")),
        ("state", one_of(&["running", "done", "stopped", "failed", "undoing", "undone"])),
        ("phase", one_of(&["compare", "merge", "prune", "demote", "over"])),
        ("dry_run", boolean()),
        ("threshold", number()),
        ("started_at", time()),
        ("finished_at", nullable(time())),
        ("progress", fraction()),
        ("compared", count()),
        ("merged", count()),
        ("pruned", count()),
        ("demoted", count()),
    ];
    let prune = [("from", reference("MemoryId")), ("links", count())];
    let sometimes = [
        ("reason", string()),
        ("merges", list_of("Merge")),
        ("prunes", list_of("Prune")),
        ("demotions", list_of("MemoryId")),
        ("more", boolean()),
    ];
    let runs = [("consolidations", list_of("Consolidation"))];
    named(vec![
        ("Merge", answer(&merge, &[])),
        ("Prune", answer(&prune, &[])),
        ("Consolidation", answer(&run, &sometimes)),
        ("Consolidations", answer(&runs, &[])),
    ])
}

fn answers_on_links() -> Map<String, Value> {
    let link = [
        ("from", reference("MemoryId")),
        ("to", reference("MemoryId")),
        ("weight", number()),
        ("kind", reference("LinkKind")),
        ("automatic", boolean()),
        ("live", boolean()),
    ];
    let linked = [("linked", count()), ("refused", count()), ("durable", boolean())];
    named(vec![
        ("Link", answer(&link, &[])),
        ("Links", answer(&[("links", list_of("Link"))], &[])),
        ("Linked", answer(&linked, &[("refusals", list_of("Verdict"))])),
    ])
}

fn answers_on_recalls() -> Map<String, Value> {
    let parts = ["semantic", "lexical", "activation", "recency"];
    let visited = ["memories", "links", "shards", "messages"];
    let mut memory = memory_always();
    memory.extend([
        ("score", number()),
        ("score_breakdown", all_of_kind(&parts, &number())),
        ("hops", count()),
    ]);
    let mut memory_parts = memory_sometimes();
    memory_parts.push(("path", list_of("Step")));
    let step = [("id", reference("MemoryId")), ("activation", number())];
    let step_sometimes = [("kind", string()), ("weight", number()), ("term", string())];
    let recalled = [
        ("memories", list_of("RecalledMemory")),
        ("truncated", boolean()),
        ("took_us", count()),
        ("visited", all_of_kind(&visited, &count())),
    ];
    let phase = answer(&[("name", string()), ("took_us", count())], &[]);
    let refused = answer(&[("error", reference("Problem"))], &[]);
    let result = json!({"oneOf": [reference("Recalled"), refused]});
    named(vec![
        ("Step", answer(&step, &step_sometimes)),
        ("RecalledMemory", answer(&memory, &memory_parts)),
        ("Recalled", answer(&recalled, &[("phases", list(phase))])),
        ("RecalledBatch", answer(&[("results", list(result))], &[])),
    ])
}

fn answers_on_the_server() -> Map<String, Value> {
    let space = [
        ("name", reference("SpaceName")),
        ("dimensions", nullable(count())),
        ("metric", string()),
        ("encoding", string()),
        ("half_life", nullable(count())),
        ("associate", boolean()),
        ("title_from_content", boolean()),
        ("memories", count()),
        ("links", count()),
    ];
    let stats = [
        ("memories", count()),
        ("links", count()),
        ("automatic_links", count()),
        ("cold_memories", count()),
        ("spaces", count()),
        ("index_backlog", count()),
        ("association_backlog", count()),
        ("merged", count()),
        ("pruned_links", count()),
        ("traces", count()),
        ("memory_bytes", json!({"type": "object", "additionalProperties": count()})),
        ("shards", list_of("AnyObject")),
    ];
    let health = [
        ("phase", string()),
        ("progress", fraction()),
        ("seconds", json!({"type": "number", "minimum": 0})),
        ("started", boolean()),
        ("ready", boolean()),
    ];
    let problem = [
        ("type", string()),
        ("title", string()),
        ("status", count()),
        ("detail", string()),
        ("code", code()),
    ];
    let errors = list(all_of_kind(&["pointer", "detail"], &string()));
    named(vec![
        ("Space", answer(&space, &[])),
        ("Spaces", answer(&[("spaces", list_of("Space"))], &[])),
        ("Stats", answer(&stats, &[])),
        ("Health", answer(&health, &[("reason", string())])),
        ("Problem", answer(&problem, &[("errors", errors)])),
    ])
}

/// An example of each body; a test sends them all.
pub fn example(schema: &str) -> Value {
    match schema {
        "PutMemory" => json!({"content": "Sheep are herded by dogs.", "confidence": 0.9}),
        "NewMemory" => json!({
            "content": "The border collie is a herding dog.",
            "metadata": {"title": "Border Collie", "tags": ["dog"]},
            "links": [{"to": "herding", "weight": 0.8, "kind": "about"}],
        }),
        "NewMemories" => json!([
            {"id": "herding", "content": "Herding is driving animals from place to place."},
            {"id": "sheep", "content": "Sheep are herded by dogs."},
        ]),
        "Patch" => json!({"metadata": {"tags": null, "seen": true}}),
        "NewLinks" => json!([{"from": "sheep", "to": "herding", "weight": 0.5, "kind": "about"}]),
        "LinkNames" => json!([{"from": "sheep", "to": "herding"}]),
        "Count" => json!({"filter": {"must": [{"key": "tags", "match": {"value": "dog"}}]}}),
        "Recall" => json!({"cues": [{"text": "which dog herds sheep?"}], "top_k": 5}),
        "Recalls" => json!([{"cues": [{"text": "dog"}]}, {"cues": [{"id": "sheep"}]}]),
        "Forget" => json!({"ids": ["sheep"], "dry_run": true}),
        "Consolidate" => json!({"threshold": 0.3, "dry_run": true}),
        "Reinforce" => json!({"ids": ["sheep", "herding"], "outcome": 0.5}),
        "NewSnapshot" => json!({"keep": 7, "verify": true}),
        "SpaceConfig" => json!({"dimensions": 384, "metric": "cosine"}),
        other => unreachable!("{other} is sent without an example"),
    }
}
