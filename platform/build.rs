//! Makes a link against hwloc possible where the system has no libudev to link with: it is asked
//! for with a shared hwloc, too, which brings its own.
//!
//! *Invariants*: runs no tool and reads nothing but cargo's environment.
//!
//! *Not here*: the symbols that stand in for libudev (`src/udev.rs`).

use std::path::PathBuf;

/// An archive without members: `-ludev` is found. In a static link its symbols come from
/// `src/udev.rs`.
const EMPTY_ARCHIVE: &[u8] = b"!<arch>\n";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(static_hwloc)");
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(folder.join("libudev.a"), EMPTY_ARCHIVE).expect("OUT_DIR is writable");
    println!("cargo::rustc-link-search=native={}", folder.display());
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo::rustc-cfg=static_hwloc");
    }
}
