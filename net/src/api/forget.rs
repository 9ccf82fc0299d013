//! Forgetting many memories at once, and moving many to the cold tier.
//!
//! *Invariants*: a dry run changes nothing and counts what would go; an empty filter is refused.
//!
//! *Not here*: forgetting one (`operations`), a whole space (`operations`).

use engram_engine::filter::{Condition, Filter};
use engram_engine::limits;
use engram_engine::model::{MemoryId, SpaceName};
use engram_engine::request::{Answer, Code, Request, Wait, With};
use serde::Serialize;

use super::call::{Answered, Call};
use super::operations::unexpected;
use super::together;
use crate::backend::Backend;
use crate::error::{Checked, Problem};
use crate::json::forget::{self, Chosen};
use crate::json::writer::to_json;

/// Memories that are being forgotten at once.
const AT_ONCE: usize = 32;

#[derive(Serialize)]
struct Forgotten {
    forgotten: u64,
    dry_run: bool,
}

/// Forgets what a request names, or counts it.
///
/// # Errors
/// Where the request does not fit, or a write fails; what was forgotten until then stays so.
pub async fn forget<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let (space, wait) = (call.space(&query)?, call.wait(&query)?);
    let forget::Forget { chosen, dry_run } = call.json(forget::read).await?;
    let forgotten = match (chosen, dry_run) {
        (chosen, true) => count(call, space, chosen).await?,
        (Chosen::Ids(ids), false) => forget_ids(call, &space, ids, wait).await?,
        (Chosen::Filter(filter), false) => forget_filtered(call, &space, filter, wait).await?,
    };
    Ok(Answered::json(to_json(&Forgotten { forgotten, dry_run })))
}

#[derive(Serialize)]
struct Demoted {
    demoted: u64,
    dry_run: bool,
}

/// Moves what a request names to the cold tier, or counts it.
///
/// # Errors
/// Where the request does not fit, or the cold tier can't be written; what was moved until then
/// stays so.
pub async fn demote<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let query = call.query()?;
    let space = call.space(&query)?;
    let forget::Forget { chosen, dry_run } = call.json(forget::read).await?;
    let demoted = match (chosen, dry_run) {
        (chosen, true) => count(call, space, chosen).await?,
        (Chosen::Ids(ids), false) => demote_ids(call, &space, ids).await?,
        (Chosen::Filter(filter), false) => {
            let (mut demoted, mut cursor) = (0, None);
            loop {
                let (ids, next) = page(call, &space, &filter, cursor).await?;
                demoted += demote_ids(call, &space, ids).await?;
                match next {
                    Some(next) => cursor = Some(next),
                    None => break demoted,
                }
            }
        }
    };
    Ok(Answered::json(to_json(&Demoted { demoted, dry_run })))
}

async fn demote_ids<B: Backend>(
    call: &Call<'_, B>,
    space: &SpaceName,
    ids: Vec<MemoryId>,
) -> Checked<u64> {
    match call.ask(Request::Demote { space: space.clone(), ids }).await? {
        Answer::Demoted(count) => Ok(count),
        other => unexpected(&other),
    }
}

async fn count<B: Backend>(call: &Call<'_, B>, space: SpaceName, chosen: Chosen) -> Checked<u64> {
    let filter = match chosen {
        Chosen::Filter(filter) => filter,
        Chosen::Ids(ids) => Filter { must: vec![Condition::HasId(ids)], ..Filter::default() },
    };
    match call.ask(Request::Count { space, filter }).await? {
        Answer::Count(count) => Ok(count),
        other => unexpected(&other),
    }
}

async fn forget_filtered<B: Backend>(
    call: &Call<'_, B>,
    space: &SpaceName,
    filter: Filter,
    wait: Wait,
) -> Checked<u64> {
    let mut forgotten = 0;
    let mut cursor = None;
    loop {
        let (ids, next) = page(call, space, &filter, cursor).await?;
        forgotten += forget_ids(call, space, ids, wait).await?;
        match next {
            Some(next) => cursor = Some(next),
            None => return Ok(forgotten),
        }
    }
}

/// The next ids that pass, and where those after them begin.
async fn page<B: Backend>(
    call: &Call<'_, B>,
    space: &SpaceName,
    filter: &Filter,
    cursor: Option<String>,
) -> Checked<(Vec<MemoryId>, Option<String>)> {
    let request = Request::List {
        space: space.clone(),
        limit: limits::PAGE_MEMORIES_MAX,
        cursor,
        filter: filter.clone(),
        with: With::NONE,
    };
    match call.ask(request).await? {
        Answer::Page { memories, next_cursor } => {
            Ok((memories.into_iter().map(|memory| memory.id).collect(), next_cursor))
        }
        other => unexpected(&other),
    }
}

/// Ids that name nothing, or no longer, are passed over.
async fn forget_ids<B: Backend>(
    call: &Call<'_, B>,
    space: &SpaceName,
    ids: Vec<MemoryId>,
    wait: Wait,
) -> Checked<u64> {
    let asked =
        ids.into_iter().map(|id| call.call(Request::Delete { space: space.clone(), id, wait }));
    let mut forgotten = 0;
    for answer in together::all(asked, AT_ONCE).await {
        match answer {
            Ok(Answer::Deleted { .. }) => forgotten += 1,
            Ok(other) => unexpected(&other),
            Err(rejection) if rejection.code == Code::NotFound => {}
            Err(rejection) => return Err(Box::<Problem>::from(rejection)),
        }
    }
    Ok(forgotten)
}
