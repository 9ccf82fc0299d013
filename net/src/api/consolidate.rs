//! Consolidations: started, watched, taken back.
//!
//! *Invariants*: a run that was started is in the log before it is answered.
//!
//! *Not here*: what a run does (`engine::shard`).

use engram_engine::life::run::{RunId, RunView};
use engram_engine::request::{Answer, Code, Request};
use engram_engine::shard::ConsolidateAsk;
use http::StatusCode;
use serde::Serialize;

use super::call::{Answered, Call};
use super::operations::unexpected;
use crate::backend::Backend;
use crate::error::{Checked, Problem};
use crate::json::writer::to_json;
use crate::json::{consolidate, view};

/// Starts a run.
///
/// # Errors
/// Where one is under way, or the server refuses writes.
pub async fn start<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let consolidate::Consolidate { threshold, dry_run } = call.json(consolidate::read).await?;
    let run = one(call, ConsolidateAsk::Start { threshold, dry_run }).await?;
    Ok(accepted(&run))
}

/// Every run of a space, newest first.
///
/// # Errors
/// Where there is no such space.
pub async fn list<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    #[derive(Serialize)]
    struct Consolidations<R: Serialize> {
        consolidations: Vec<R>,
    }
    let query = call.query()?;
    let space = call.space(&query)?;
    match call.ask(Request::Consolidate { space, ask: ConsolidateAsk::Runs }).await? {
        Answer::Runs(runs) => {
            let consolidations = runs.iter().map(|run| view::run(run, false)).collect();
            Ok(Answered::json(to_json(&Consolidations { consolidations })))
        }
        other => unexpected(&other),
    }
}

/// One run, with what it merged.
///
/// # Errors
/// Where there is no such run.
pub async fn get<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let id = run_id(call)?;
    let run = one(call, ConsolidateAsk::One(id)).await?;
    Ok(Answered::json(to_json(&view::run(&run, true))))
}

/// Takes back what a run did.
///
/// # Errors
/// Where there is no such run, or another is under way.
pub async fn undo<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let id = run_id(call)?;
    let run = one(call, ConsolidateAsk::Undo(id)).await?;
    Ok(accepted(&run))
}

fn accepted(run: &RunView) -> Answered {
    let location = format!("/api/v1/consolidations/{}", run.run.id);
    let body = to_json(&view::run(run, false));
    Answered::with_status(StatusCode::ACCEPTED, body).header("location", location)
}

async fn one<B: Backend>(call: &Call<'_, B>, ask: ConsolidateAsk) -> Checked<Box<RunView>> {
    let query = call.query()?;
    let space = call.space(&query)?;
    match call.ask(Request::Consolidate { space, ask }).await? {
        Answer::Run(run) => Ok(run),
        other => unexpected(&other),
    }
}

fn run_id<B>(call: &Call<'_, B>) -> Checked<RunId> {
    let id = call.parameter.parse().ok().filter(|id: &RunId| id.to_string() == call.parameter);
    let detail = "there is no consolidation with this id in this space";
    id.ok_or_else(|| Problem::new(Code::NotFound, detail))
}
