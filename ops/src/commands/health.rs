//! `engram health`: whether a server is ready, for health checks of containers without a shell.
//!
//! *Invariants*: the exit status says it; what else is known goes with it.
//!
//! *Not here*: what ready means (`net`).

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::output;
use crate::failure::Failure;
use crate::target::Target;

/// Asks whether a server is ready.
#[derive(Debug, Args)]
pub struct Health {
    /// What to ask for
    #[arg(long, value_name = "PROBE", default_value = "ready")]
    probe: Probe,
    /// The answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Probe {
    /// The process answers.
    Live,
    /// It serves.
    Ready,
    /// Recovery is over.
    Startup,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Self::Live => "/health/live",
            Self::Ready => "/health/ready",
            Self::Startup => "/health/startup",
        }
    }

    fn adjective(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Startup => "started",
        }
    }
}

impl Health {
    /// Asks.
    ///
    /// # Errors
    /// Status 1 where the answer is no, 3 where there is none.
    pub fn run(self) -> Result<(), Failure> {
        let (status, body) = self.target.connect().exchange("GET", self.probe.path(), b"")?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        let is_well = (200..300).contains(&status);
        if self.json {
            output::json(&answer)?;
        } else if is_well {
            let phase = field("phase");
            output::text_line(if phase.is_empty() { self.probe.adjective() } else { phase })?;
        }
        if is_well {
            return Ok(());
        }
        let said = ["phase", "reason", "detail"].map(field);
        let said: Vec<&str> = said.into_iter().filter(|part| !part.is_empty()).collect();
        let adjective = self.probe.adjective();
        Err(Failure::new(format!("not {adjective} ({status}): {}", said.join(": "))))
    }
}
