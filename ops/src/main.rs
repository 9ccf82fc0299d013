//! The `engram` command.
//!
//! *Invariants*: results go to standard output, all else to standard error; the exit status says
//! how it ended.
//!
//! *Not here*: what the subcommands do (`commands`).

mod arguments;
mod backend;
mod budget;
mod client;
mod cold;
mod commands;
mod evaluation;
mod failure;
mod frames;
mod hardening;
mod lines;
mod logger;
mod metrics;
mod process;
mod progress;
mod records;
mod scrape;
mod server;
mod target;
mod traces;
mod units;
mod warm;
mod wire;

use arguments::Refused;

/// A heap for each thread: no core waits for another to allocate.
#[global_allocator]
static ALLOCATOR: engram_platform::Heap = engram_platform::Heap;

fn main() {
    process::note_start();
    let failure = match arguments::read(std::env::args_os().collect()) {
        Ok(arguments) => arguments.engram.command.run(&arguments.origins).err(),
        Err(Refused::Shown(shown)) => shown.exit(),
        Err(Refused::Failed(failure)) => Some(failure),
    };
    log::logger().flush();
    if let Some(failure) = failure.filter(|failure| !failure.is_broken_pipe()) {
        eprintln!("engram: {failure}");
        std::process::exit(failure.status.code());
    }
}
