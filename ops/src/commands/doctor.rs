//! `engram doctor`: what this machine lacks, and what keeps it from its best.
//!
//! *Invariants*: every finding comes with its remedy; a fatal one is one for which `serve` would not
//! start, and gives the same exit status.
//!
//! *Not here*: what is looked for (`platform`).

use std::path::PathBuf;

use clap::Args;
use engram_platform::{CpuList, Finding, PlacementOptions, Preflight};

use super::{output, topology};
use crate::failure::{Failure, Status};
use crate::server::RING_ENTRIES;

/// Looks for what is missing.
#[derive(Debug, Args)]
pub struct Doctor {
    /// CPUs to use, such as 2-7 or 0,2,4
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,
    /// Number of shards
    #[arg(long, value_name = "COUNT")]
    shards: Option<u16>,
    /// Data directory to try as well
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The findings as JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Shows what was found.
    ///
    /// # Errors
    /// Where a finding is fatal.
    pub fn run(self) -> Result<(), Failure> {
        let options = PlacementOptions { cpus: self.cpus, shards: self.shards };
        let report = topology::report(&options)?;
        let shards = u16::try_from(report.placement.shards.len()).unwrap_or(u16::MAX);
        let preflight = Preflight {
            shards,
            ring_entries: RING_ENTRIES,
            data_dir: self.data_dir,
            fast_dir: None,
        };
        let mut findings = preflight.run(&report.machine);
        findings.extend(report.findings);
        if self.json {
            output::json(&findings)?;
        } else {
            output::text_as_it_is(&text(&findings))?;
        }
        verdict(&findings)
    }
}

fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing is missing\n".to_owned();
    }
    let lines = findings.iter().map(|finding| {
        let mark = if finding.fatal { "fatal" } else { "hint" };
        format!("{mark} {}: {}\n  → {}\n", finding.code, finding.problem, finding.remedy)
    });
    lines.collect()
}

fn verdict(findings: &[Finding]) -> Result<(), Failure> {
    let fatal = findings.iter().filter(|finding| finding.fatal).count();
    if fatal == 0 {
        return Ok(());
    }
    let detail = format!("a server would not start here: {fatal} of the findings are fatal");
    Err(Failure::new(detail).with_status(Status::Environment))
}
