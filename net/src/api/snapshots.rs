//! Snapshots: taking one, looking at them, removing one.
//!
//! *Invariants*: a snapshot is of all spaces: keys for some of them don't reach it.
//!
//! *Not here*: how one is taken (the backend).

use http::StatusCode;

use super::call::{Answered, Call};
use super::uri::encoded_segment;
use crate::backend::{Backend, SnapshotAsk};
use crate::error::{Checked, Fault, Problem};
use crate::json::snapshot;
use crate::json::writer::to_json;

/// Starts one; the answer tells where to look how far it has come.
///
/// # Errors
/// Where one is under way, or the name is taken or does not fit.
pub async fn start<B: Backend>(call: &mut Call<'_, B>, named: bool) -> Checked<Answered> {
    call.query()?;
    call.reaches_all()?;
    let SnapshotAsk::Start { mut name, keep, verify } = call.json(snapshot::read).await? else {
        unreachable!("that is what is read")
    };
    if named && name.as_deref().is_some_and(|name| *name != call.parameter) {
        let detail = "the path names another snapshot than the body";
        return Err(Problem::new(Fault::InvalidPath, detail));
    }
    if named {
        name = Some(call.parameter.to_string());
    }
    let view = call.core.backend.snapshots(SnapshotAsk::Start { name, keep, verify }).await?;
    let name = view["name"].as_str().unwrap_or_default();
    let location = format!("/api/v1/snapshots/{}", encoded_segment(name));
    Ok(Answered::with_status(StatusCode::ACCEPTED, to_json(&view)).header("location", location))
}

/// All of them.
///
/// # Errors
/// Where the cold tier can't be reached.
pub async fn list<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    look(call, SnapshotAsk::List).await
}

/// One of them.
///
/// # Errors
/// Where there is none of this name.
pub async fn read<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    let name = call.parameter.to_string();
    look(call, SnapshotAsk::Read(name)).await
}

async fn look<B: Backend>(call: &mut Call<'_, B>, ask: SnapshotAsk) -> Checked<Answered> {
    call.query()?;
    call.reaches_all()?;
    Ok(Answered::json(to_json(&call.core.backend.snapshots(ask).await?)))
}

/// Removes one.
///
/// # Errors
/// Where there is none of this name, or it is being taken.
pub async fn delete<B: Backend>(call: &mut Call<'_, B>) -> Checked<Answered> {
    call.query()?;
    call.reaches_all()?;
    let name = call.parameter.to_string();
    call.core.backend.snapshots(SnapshotAsk::Delete(name)).await?;
    Ok(Answered::nothing())
}
