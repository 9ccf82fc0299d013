//! `engram completions`: completions for a shell.
//!
//! *Invariants*: made from the same definitions as the command itself.
//!
//! *Not here*: manual pages (`man`).

use clap::Args;
use clap_complete::Shell;

use super::output;
use crate::arguments;
use crate::failure::Failure;

/// Writes completions.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    /// Writes them.
    ///
    /// # Errors
    /// Where standard output can't be written.
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut arguments::command(), "engram", &mut script);
        output::text_as_it_is(&String::from_utf8_lossy(&script))
    }
}
