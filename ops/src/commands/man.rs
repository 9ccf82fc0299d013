//! `engram man`: manual pages.
//!
//! *Invariants*: made from the same definitions as the command itself.
//!
//! *Not here*: completions.

use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man as Page;

use super::output;
use crate::arguments;
use crate::failure::Failure;

/// Writes manual pages.
#[derive(Debug, Args)]
pub struct Man {
    /// Write one page a subcommand into this folder, instead of the first one to standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Writes them.
    ///
    /// # Errors
    /// Where they can't be written.
    pub fn run(self) -> Result<(), Failure> {
        let command = arguments::command();
        if let Some(dir) = self.dir {
            let failed = Failure::because(format!("{} can't be written", dir.display()));
            return clap_mangen::generate_to(command, &dir).map_err(failed);
        }
        let mut page = Vec::new();
        Page::new(command).render(&mut page).map_err(Failure::because("no page can be made"))?;
        output::text_as_it_is(&String::from_utf8_lossy(&page))
    }
}
