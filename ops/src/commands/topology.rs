//! `engram topology`: the machine and where shards go on it.
//!
//! *Invariants*: with `--url` it is the server's own answer, else what this process would do here.
//!
//! *Not here*: how places are computed (`platform`).

use std::path::Path;

use clap::Args;
use engram_platform::{
    CpuList, Machine, Placement, PlacementOptions, PlatformError, TopologyReport, diagnose,
};
use serde_json::Value;

use super::output;
use crate::arguments::Origins;
use crate::failure::{Failure, Status};
use crate::target::Target;

/// Shows the machine and where shards go on it.
#[derive(Debug, Args)]
pub struct Topology {
    /// CPUs to use, such as 2-7 or 0,2,4
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Number of shards
    #[arg(long, value_name = "COUNT")]
    shards: Option<u16>,
    /// The answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Topology {
    /// Shows it.
    ///
    /// # Errors
    /// Where the machine can't be read, or the server not be reached.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        if origins.is_given("url") {
            let answer: Value = self.target.connect().get("/api/v1/topology")?.json()?;
            let text = if self.json { answer.to_string() } else { format!("{answer:#}") };
            return output::text_line(&text);
        }
        let report = report(&PlacementOptions { cpus: self.cpus, shards: self.shards })?;
        if self.json { output::json(&report) } else { output::text_as_it_is(&report.to_string()) }
    }
}

/// The machine, its placement, and what is missing.
///
/// # Errors
/// Where the machine can't be read or does not have what is asked for.
pub fn report(options: &PlacementOptions) -> Result<TopologyReport, Failure> {
    let unfit = |error: PlatformError| {
        Failure::new("this machine can't be used as it was asked for").with_source(error)
    };
    let machine = Machine::read().map_err(unfit)?;
    let placement = Placement::compute(&machine, options)
        .map_err(|error| unfit(error).with_status(Status::Usage))?;
    let findings = diagnose(Path::new("/"), &machine, &placement);
    Ok(TopologyReport { machine, placement, findings })
}
