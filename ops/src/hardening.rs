//! What the server process denies to others on its machine.
//!
//! *Invariants*: files that it makes are its user's alone, whatever the umask was; its memory, which
//! holds contents and the private key, goes to no core dump and to no debugger of the same user.
//!
//! *Not here*: the modes that files are made with (`shards`), what a container or unit adds
//! (`container`, `ops/systemd`).

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};

/// Denies it, before the first file is opened.
pub fn harden() {
    umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::warn!("a crash may leave a core dump with memories in it: {error}");
    }
}
