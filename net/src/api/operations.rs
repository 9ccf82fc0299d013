//! What each operation of the contract does.
//!
//! *Invariants*: path, query and body are checked before the server is asked.
//!
//! *Not here*: NDJSON streams (`ndjson`), health and documents (`health`).

use std::time::{Duration, Instant};

use engram_engine::limits;
use engram_engine::model::NewMemory;
use engram_engine::request::{
    Answer, Code, Direction, Recall, Rejection, Request, StoreMode, Stored, With,
};
use http::StatusCode;
use serde::Serialize;

use super::body::{Media, announced};
use super::call::{Answered, Call, JSON};
use super::route::Operation;
use super::slice::Slice;
use super::together;
use super::uri::{encoded_segment, invalid};
use super::{compaction, consolidate, forget, health, idempotency, ndjson, snapshots};
use crate::backend::Backend;
use crate::error::{Checked, Problem};
use crate::json::reader::{Reader, document};
use crate::json::writer::{to_json, write};
use crate::json::{link, memory, recall, reinforce, space, view};

/// Recalls of one batch that are under way at once.
const RECALLS_AT_ONCE: usize = 8;

/// Performs the operation that was asked for.
///
/// # Errors
/// Where it is refused, here or by the server.
pub async fn perform<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    match call.operation {
        Operation::StoreMemory => store_memory(call).await,
        Operation::ListMemories => list_memories(call).await,
        Operation::StoreBatch => store_batch(call).await,
        Operation::PutMemory => put_memory(call).await,
        Operation::GetMemory => get_memory(call).await,
        Operation::PatchMemory => patch_memory(call).await,
        Operation::DeleteMemory => delete_memory(call).await,
        Operation::GetLinks => get_links(call).await,
        Operation::Count => count(call).await,
        Operation::PutLinks => put_links(call).await,
        Operation::DeleteLinks => delete_links(call).await,
        Operation::Recall => recall(call).await,
        Operation::RecallBatch => recall_batch(call).await,
        Operation::ListSpaces => list_spaces(call).await,
        Operation::GetSpace => get_space(call).await,
        Operation::PutSpace => put_space(call).await,
        Operation::DeleteSpace => delete_space(call).await,
        Operation::Stats => stats(call).await,
        Operation::Topology => {
            call.query()?;
            Ok(Answered::json(to_json(&call.core.backend.topology())))
        }
        Operation::Live | Operation::LiveAlias => Ok(health::live()),
        Operation::Ready | Operation::ReadyAlias => Ok(health::ready(&call.core.backend)),
        Operation::Startup | Operation::StartupAlias => Ok(health::startup(&call.core.backend)),
        Operation::Metrics => Ok(health::metrics(call)),
        Operation::OpenApi => Ok(health::openapi()),
        Operation::Console => Ok(health::console()),
        Operation::Forget => forget::forget(call).await,
        Operation::Reinforce => reinforce(call).await,
        Operation::StartConsolidation => consolidate::start(call).await,
        Operation::ListConsolidations => consolidate::list(call).await,
        Operation::GetConsolidation => consolidate::get(call).await,
        Operation::UndoConsolidation => consolidate::undo(call).await,
        Operation::Demote => forget::demote(call).await,
        Operation::StartSnapshot => snapshots::start(call, false).await,
        Operation::PutSnapshot => snapshots::start(call, true).await,
        Operation::ListSnapshots => snapshots::list(call).await,
        Operation::GetSnapshot => snapshots::read(call).await,
        Operation::DeleteSnapshot => snapshots::delete(call).await,
        Operation::StartCompaction => compaction::start(call),
        Operation::GetCompaction => compaction::read(call),
    }
}

async fn store_memory<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait) = (call.space(&query)?, call.wait(&query)?);
    call.key = idempotency::key(call.headers(), &space)?;
    let first_id = call.make_id(0);
    let memory = call.json(|reader| memory::read(reader, || first_id)).await?;
    let memories = vec![memory.clone()];
    let request = Request::Store { space: space.clone(), memories, mode: StoreMode::Create, wait };
    let (stored, durable) = match store_one(call, request).await {
        Err(problem) if call.key.is_some() && problem.reason == Code::AlreadyExists.into() => {
            (idempotency::first(call, space, &memory, problem).await?, true)
        }
        result => result?,
    };
    Ok(Answered::with_status(StatusCode::CREATED, view::stored(&stored, durable))
        .header("location", location(&stored)))
}

async fn put_memory<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait, id) = (call.space(&query)?, call.wait(&query)?, call.memory_id()?);
    let memory = call.json(|reader| memory::read(reader, || id.clone())).await?;
    if memory.id != id {
        let problem = Problem::new(Code::InvalidValue, "the path names another id than the body");
        return Err(problem.under("id"));
    }
    let request = Request::Store { space, memories: vec![memory], mode: StoreMode::Upsert, wait };
    let (stored, durable) = store_one(call, request).await?;
    let status = if stored.created { StatusCode::CREATED } else { StatusCode::OK };
    let answered = Answered::with_status(status, view::stored(&stored, durable));
    Ok(if stored.created { answered.header("location", location(&stored)) } else { answered })
}

async fn store_one<B: Backend>(call: &Call<'_, B>, request: Request) -> Checked<(Stored, bool)> {
    match call.ask(request).await? {
        Answer::Stored { verdicts, durable } => {
            let [verdict] = <[_; 1]>::try_from(verdicts).expect("one verdict for one memory");
            Ok((verdict?, durable))
        }
        other => unexpected(&other),
    }
}

fn location(stored: &Stored) -> String {
    format!("/api/v1/memories/{}", encoded_segment(stored.id.as_str()))
}

async fn store_batch<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait) = (call.space(&query)?, call.wait(&query)?);
    call.key = idempotency::key(call.headers(), &space)?;
    if announced(call.headers(), JSON, true)? == Media::Lines {
        return ndjson::store(call, space, wait);
    }
    let bytes = call.bytes().await?;
    let memories = read_memories(call, &bytes).await?;
    let request = Request::Store { space, memories, mode: StoreMode::Upsert, wait };
    match call.ask(request).await? {
        Answer::Stored { verdicts, durable } => {
            for verdict in &verdicts {
                let refused = verdict.as_ref().err().map(|no| no.code.into());
                call.core.metrics.outcome(call.operation, refused, 1);
            }
            Ok(Answered::json(view::verdicts(&verdicts, durable)).counted())
        }
        other => unexpected(&other),
    }
}

/// Reads an array of memories, in slices, since it may be long.
async fn read_memories<B: Backend>(call: &Call<'_, B>, bytes: &[u8]) -> Checked<Vec<NewMemory>> {
    let mut slice = Slice::begin();
    let mut memories = Vec::new();
    let mut reader = Reader::over(bytes)?;
    reader.open_array()?;
    while reader.next_element(memories.len(), limits::MEMORIES_PER_BATCH_MAX)? {
        let index = memories.len();
        let make_id = || call.make_id(index as u64);
        let memory = memory::read(&mut reader, make_id);
        memories.push(memory.map_err(|problem| problem.under_index(index))?);
        slice.rest_if_due().await;
    }
    reader.end()?;
    Ok(memories)
}

async fn get_memory<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, with, id) = (call.space(&query)?, call.with(&query)?, call.memory_id()?);
    match call.ask(Request::Read { space, id, with }).await? {
        Answer::Memory(memory) => Ok(Answered::json(to_json(&view::memory(&memory, with)))),
        other => unexpected(&other),
    }
}

async fn patch_memory<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait, id) = (call.space(&query)?, call.wait(&query)?, call.memory_id()?);
    let patch = Box::new(call.json(memory::read_patch).await?);
    match call.ask(Request::Patch { space, id, patch, wait }).await? {
        Answer::Memory(memory) => {
            Ok(Answered::json(to_json(&view::memory(&memory, With::DEFAULT))))
        }
        other => unexpected(&other),
    }
}

async fn delete_memory<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait, id) = (call.space(&query)?, call.wait(&query)?, call.memory_id()?);
    match call.ask(Request::Delete { space, id, wait }).await? {
        Answer::Deleted { durable } => Ok(deleted(durable)),
        other => unexpected(&other),
    }
}

fn deleted(durable: bool) -> Answered {
    Answered::nothing().header("x-durable", durable.to_string())
}

async fn list_memories<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, with) = (call.space(&query)?, call.with(&query)?);
    let limit = match query.get("limit").map(str::parse) {
        None => 100,
        Some(Ok(limit)) if (1..=limits::PAGE_MEMORIES_MAX).contains(&limit) => limit,
        Some(_) => return Err(invalid("limit", "expected 1 to 1000")),
    };
    let filter = match query.get("filter") {
        None => engram_engine::filter::Filter::default(),
        Some(text) => document(text.as_bytes(), crate::json::filter::read)?,
    };
    let cursor = query.get("cursor").map(str::to_owned);
    match call.ask(Request::List { space, limit, cursor, filter, with }).await? {
        Answer::Page { memories, next_cursor } => {
            Ok(Answered::json(view::page(&memories, next_cursor.as_deref(), with)))
        }
        other => unexpected(&other),
    }
}

async fn count<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let space = call.space(&query)?;
    let filter = call.json(recall::read_count).await?;
    match call.ask(Request::Count { space, filter }).await? {
        Answer::Count(count) => Ok(Answered::json(format!("{{\"count\":{count}}}").into_bytes())),
        other => unexpected(&other),
    }
}

async fn put_links<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait) = (call.space(&query)?, call.wait(&query)?);
    let links = call.json(link::read).await?;
    match call.ask(Request::Link { space, links, wait }).await? {
        Answer::Linked { verdicts, durable } => linked(verdicts, durable),
        other => unexpected(&other),
    }
}

/// One link that is refused refuses the request; of several, each has its verdict.
fn linked(verdicts: Vec<Result<(), Rejection>>, durable: bool) -> Checked<Answered> {
    if let [Err(rejection)] = verdicts.as_slice() {
        return Err(rejection.clone().into());
    }
    Ok(Answered::json(view::linked(&verdicts, durable)))
}

async fn delete_links<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait) = (call.space(&query)?, call.wait(&query)?);
    let links = call.json(link::read_names).await?;
    match call.ask(Request::Unlink { space, links, wait }).await? {
        Answer::Unlinked { durable, .. } => Ok(deleted(durable)),
        other => unexpected(&other),
    }
}

async fn get_links<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    #[derive(Serialize)]
    struct Links<L: Serialize> {
        links: Vec<L>,
    }
    let query = call.query()?;
    let (space, id) = (call.space(&query)?, call.memory_id()?);
    let direction = match query.get("direction") {
        None | Some("out") => Direction::Out,
        Some("in") => Direction::In,
        Some("both") => Direction::Both,
        Some(_) => return Err(invalid("direction", "expected out, in or both")),
    };
    let kind = query.get("kind").map(engram_engine::model::LinkKind::new).transpose();
    let kind = kind.map_err(|why| invalid("kind", &why))?;
    match call.ask(Request::Links { space, id, direction, kind }).await? {
        Answer::Links(links) => Ok(Answered::json(to_json(&Links { links: view::links(&links) }))),
        other => unexpected(&other),
    }
}

/// Says how useful memories were.
async fn reinforce<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait) = (call.space(&query)?, call.wait(&query)?);
    let (ids, outcome) = call.json(reinforce::read).await?;
    match call.ask(Request::Reinforce { space, ids, outcome, wait }).await? {
        Answer::Reinforced { reinforced, missing, durable } => {
            Ok(Answered::json(view::reinforced(reinforced, &missing, durable)))
        }
        other => unexpected(&other),
    }
}

/// A recall that reinforces is a write.
fn allowed<B: Backend>(call: &Call<'_, B>, recall: &Recall) -> Checked<()> {
    if recall.reinforce { call.may_write().map_err(|p| p.under("reinforce")) } else { Ok(()) }
}

async fn recall<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let space = call.space(&query)?;
    let body = call.json_bytes().await?;
    let recall = document(&body, recall::read)?;
    allowed(call, &recall)?;
    let (with, explain) = (recall.with, recall.explain);
    let start = Instant::now();
    let request = Request::Recall { space: space.clone(), recall: Box::new(recall) };
    match call.ask(request).await? {
        Answer::Recalled(recalled) => {
            call.core.backend.note_recall(&space, &body);
            let took_us = micros(start);
            call.note_slow(&recalled, Duration::from_micros(took_us));
            let view = view::recalled(&recalled, with, explain, took_us);
            Ok(Answered::json(to_json(&view)))
        }
        other => unexpected(&other),
    }
}

async fn recall_batch<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let space = call.space(&query)?;
    let recalls = call.json(recall::read_batch).await?;
    recalls.iter().try_for_each(|one| allowed(call, one))?;
    let shown: Vec<(With, bool)> = recalls.iter().map(|one| (one.with, one.explain)).collect();
    let core = call.core;
    let asked = recalls.into_iter().map(|recall| {
        let request = Request::Recall { space: space.clone(), recall: Box::new(recall) };
        let start = Instant::now();
        let answer = call.call(request);
        async move { (answer.await, micros(start)) }
    });
    let answers = together::all(asked, RECALLS_AT_ONCE).await;
    let mut body = b"{\"results\":[".to_vec();
    for ((answer, took_us), (with, explain)) in answers.into_iter().zip(shown) {
        let refused = answer.as_ref().err().map(|no| no.code.into());
        core.metrics.outcome(call.operation, refused, 1);
        if !body.ends_with(b"[") {
            body.push(b',');
        }
        match answer {
            Ok(Answer::Recalled(recalled)) => {
                call.note_slow(&recalled, Duration::from_micros(took_us));
                let view = view::recalled(&recalled, with, explain, took_us);
                write(&mut body, &view);
            }
            Ok(other) => unexpected(&other),
            Err(rejection) => {
                body.extend_from_slice(b"{\"error\":");
                body.extend_from_slice(&Box::<Problem>::from(rejection).to_json());
                body.push(b'}');
            }
        }
    }
    body.extend_from_slice(b"]}");
    Ok(Answered::json(body).counted())
}

async fn list_spaces<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    #[derive(Serialize)]
    struct Spaces<S: Serialize> {
        spaces: Vec<S>,
    }
    call.query()?;
    match call.ask(Request::ListSpaces).await? {
        Answer::Spaces(spaces) => {
            let reached = spaces.iter().filter(|space| call.reaches(&space.name));
            let spaces = reached.map(view::space).collect();
            Ok(Answered::json(to_json(&Spaces { spaces })))
        }
        other => unexpected(&other),
    }
}

async fn get_space<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    call.query()?;
    let space = call.space_in_path()?;
    one_space(call.ask(Request::ReadSpace { space }).await?)
}

async fn put_space<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    call.query()?;
    let space = call.space_in_path()?;
    let config = call.json(space::read).await?;
    one_space(call.ask(Request::PutSpace { space, config }).await?)
}

fn one_space(answer: Answer) -> Checked<Answered> {
    match answer {
        Answer::Spaces(spaces) => {
            let space = spaces.first().expect("one space was asked for");
            Ok(Answered::json(to_json(&view::space(space))))
        }
        other => unexpected(&other),
    }
}

async fn delete_space<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    call.query()?;
    let space = call.space_in_path()?;
    match call.ask(Request::DropSpace { space }).await? {
        Answer::Deleted { durable } => Ok(deleted(durable)),
        other => unexpected(&other),
    }
}

async fn stats<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    call.query()?;
    call.reaches_all()?;
    match call.ask(Request::Stats).await? {
        Answer::Stats(stats) => Ok(Answered::json(view::stats(&stats))),
        other => unexpected(&other),
    }
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The server answered another question: our bug.
pub fn unexpected(answer: &Answer) -> ! {
    panic!("the backend answered another question: {answer:?}")
}
