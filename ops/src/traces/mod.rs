//! Sends traces on by OTLP over HTTP, as the standard variables OTEL_* say.
//!
//! *Invariants*: one thread beside the cores, which blocks where it likes; a collector that is slow
//! or gone costs a queue of bounded length and nothing else; what is lost is counted.
//!
//! *Not here*: which requests are traced (`net::trace`), what spans look like (`otlp`).

mod otlp;
mod settings;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engram_net::trace::{TraceCounts, Traced, Tracer};

use self::settings::Settings;
use crate::failure::Failure;

/// Traces that are sent at once.
const BATCH_TRACES_MAX: usize = 256;
/// Rest after a collector did not take a batch.
const REST: Duration = Duration::from_secs(5);
/// How long the end of the server waits for the last traces to be sent.
const LAST_BATCH_TIME: Duration = Duration::from_secs(2);

/// What cores need of traces.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Begins them.
    pub tracer: Tracer,
    /// How many.
    pub counts: Arc<TraceCounts>,
}

/// The thread that sends traces.
pub struct Exporter {
    thread: JoinHandle<()>,
}

impl Exporter {
    /// Begins to send traces, where the environment asks for them.
    ///
    /// # Errors
    /// Where a variable is not what the standard allows.
    pub fn start() -> Result<Option<(Tracing, Self)>, Failure> {
        let Some(settings) = Settings::read(|name| std::env::var(name).ok())? else {
            return Ok(None);
        };
        let (tracer, traced, counts) = Tracer::new(settings.sampler);
        log::info!("traces go to {}", settings.endpoint);
        let sending = Sending::new(settings, traced, counts.clone());
        let thread = std::thread::Builder::new().name("traces".to_owned());
        let thread = thread
            .spawn(move || sending.run())
            .map_err(Failure::because("a thread for traces can't be started"))?;
        Ok(Some((Tracing { tracer, counts }, Self { thread })))
    }

    /// Waits for the last traces to be sent, but not for long.
    pub fn finish(self) {
        let until = Instant::now() + LAST_BATCH_TIME;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Sending {
    settings: Settings,
    agent: ureq::Agent,
    traced: Receiver<Traced>,
    counts: Arc<TraceCounts>,
}

impl Sending {
    fn new(settings: Settings, traced: Receiver<Traced>, counts: Arc<TraceCounts>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            .http_status_as_error(false)
            .tls_config(engram_cold::tls::of_system())
            .build();
        Self { settings, agent: config.into(), traced, counts }
    }

    /// Gathers and sends until every core has ended.
    fn run(&self) {
        let mut goes_on = true;
        while goes_on {
            let mut batch = Vec::new();
            goes_on = self.gather(&mut batch);
            if batch.is_empty() {
                continue;
            }
            let count = batch.len() as u64;
            match self.send(&batch) {
                Ok(()) => {
                    self.counts.sent.fetch_add(count, Ordering::Relaxed);
                }
                Err(reason) => {
                    self.counts.dropped.fetch_add(count, Ordering::Relaxed);
                    log::warn!("{count} traces are lost: {}: {reason}", self.settings.endpoint);
                    if goes_on {
                        std::thread::sleep(REST);
                    }
                }
            }
        }
    }

    /// Fills a batch until it is full or due; false where no more will come.
    fn gather(&self, batch: &mut Vec<Traced>) -> bool {
        let due = Instant::now() + self.settings.delay;
        while batch.len() < BATCH_TRACES_MAX {
            match self.traced.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(traced) => batch.push(traced),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    fn send(&self, batch: &[Traced]) -> Result<(), String> {
        let body = otlp::encode(&self.settings.resource, batch);
        let mut request = self.agent.post(&self.settings.endpoint);
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let request = request.header("content-type", "application/x-protobuf");
        let answer = request.send(&body[..]).map_err(|error| error.to_string())?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}
