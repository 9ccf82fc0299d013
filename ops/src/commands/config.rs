//! `engram config`: the settings of `serve` that are in force.
//!
//! *Invariants*: takes the flags of `serve` and shows each with its value and where that came from.
//!
//! *Not here*: what the settings do (`serve`).

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Map, json};

use super::output;
use super::serve::Settings;
use crate::arguments::{Origins, variable};
use crate::failure::Failure;

/// Shows settings.
#[derive(Debug, Args)]
pub struct Config {
    /// The answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Config {
    /// Shows them.
    ///
    /// # Errors
    /// Where standard output can't be written.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let rows = self.settings.rows();
        if self.json {
            let rows: Map<_, _> = rows
                .into_iter()
                .map(|(flag, value)| {
                    let origin = origins.of(flag).to_string();
                    let row = json!({"value": value, "origin": origin, "variable": variable(flag)});
                    (flag.to_owned(), row)
                })
                .collect();
            return output::json(&rows);
        }
        let width = rows.iter().map(|(_, value)| value.chars().count()).max().unwrap_or_default();
        let mut text = String::new();
        for (flag, value) in rows {
            let origin = origins.of(flag);
            let _infallible = writeln!(text, "{flag:15} {value:width$}  {origin}");
        }
        output::text_as_it_is(&text)
    }
}
