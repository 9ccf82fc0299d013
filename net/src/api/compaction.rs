//! Compaction of the log: having it done now, and looking how far it is.
//!
//! *Invariants*: it concerns all spaces: keys for some of them don't reach it.
//!
//! *Not here*: how it is done (the backend).

use http::StatusCode;

use super::call::{Answered, Call};
use crate::backend::Backend;
use crate::error::Checked;
use crate::json::writer::to_json;

/// Has all shards compact their logs, instead of waiting until it is worth it.
///
/// # Errors
/// Where the key is not for all spaces.
pub fn start<B: Backend>(call: &Call<'_, B>) -> Checked<Answered> {
    call.query()?;
    call.reaches_all()?;
    let view = to_json(&call.core.backend.compaction(true));
    Ok(Answered::with_status(StatusCode::ACCEPTED, view).header("location", "/api/v1/compaction"))
}

/// What the logs hold, and what was done.
///
/// # Errors
/// Where the key is not for all spaces.
pub fn read<B: Backend>(call: &Call<'_, B>) -> Checked<Answered> {
    call.query()?;
    call.reaches_all()?;
    Ok(Answered::json(to_json(&call.core.backend.compaction(false))))
}
