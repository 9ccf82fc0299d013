//! What operators ask: health, metrics, the OpenAPI document, the console page.
//!
//! *Invariants*: none of it waits for a shard.
//!
//! *Not here*: what the phases mean (`backend`).

use http::StatusCode;
use http::header::ACCEPT;
use serde::Serialize;

use super::call::{Answered, Call};
use super::openapi;
use crate::backend::Backend;
use crate::exposition::{Exposition, Format};
use crate::json::writer::to_json;

/// The page's own script and style, and requests to this server; nothing else, no frames.
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'; \
    base-uri 'none'; form-action 'none'";

#[derive(Serialize)]
struct Health {
    phase: &'static str,
    progress: f32,
    seconds: f32,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    started: bool,
    ready: bool,
}

/// The process answers.
pub fn live() -> Answered {
    Answered::json(b"{\"live\":true}".to_vec())
}

/// Whether traffic should come.
pub fn ready(backend: &impl Backend) -> Answered {
    health(backend, |health| health.ready)
}

/// Whether recovery is over.
pub fn startup(backend: &impl Backend) -> Answered {
    health(backend, |health| health.started)
}

fn health(backend: &impl Backend, fits: impl Fn(&Health) -> bool) -> Answered {
    let readiness = backend.readiness();
    let health = Health {
        phase: readiness.phase.as_str(),
        progress: readiness.progress,
        seconds: readiness.lasted.as_millis() as f32 / 1000.0,
        reason: readiness.reason,
        started: readiness.started,
        ready: readiness.phase.is_ready(),
    };
    if fits(&health) {
        return Answered::json(to_json(&health));
    }
    Answered::with_status(StatusCode::SERVICE_UNAVAILABLE, to_json(&health))
        .header("retry-after", "1")
}

/// Metrics of this server, in the format that the scraper asks for.
pub fn metrics<B: Backend>(call: &Call<'_, B>) -> Answered {
    let accept = call.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (format, media) = if accept.contains("application/openmetrics-text") {
        (Format::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    } else {
        (Format::Prometheus, "text/plain; version=0.0.4; charset=utf-8")
    };
    let mut out = Exposition::new(format);
    call.core.registry.write(&mut out);
    call.core.backend.metrics(&mut out);
    Answered::text(StatusCode::OK, media, out.finish())
}

/// The OpenAPI document.
pub fn openapi() -> Answered {
    Answered::text(StatusCode::OK, "application/json", openapi::document())
}

/// The console page.
pub fn console() -> Answered {
    let page = include_bytes!("console.html").as_slice();
    Answered::text(StatusCode::OK, "text/html; charset=utf-8", page)
        .header("content-security-policy", CONSOLE_POLICY)
}
