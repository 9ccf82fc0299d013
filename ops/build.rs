//! Leaves the tables for unwinding out of the shipped executable, which aborts on a panic.
//!
//! *Invariants*: profiles that unwind keep them: only `release`, and what inherits it, aborts.
//!
//! *Not here*: what goes into the executable otherwise (`Cargo.toml`, profile `release`).

/// Discards the tables wherever they come from, for the standard library is compiled with them, but
/// from the first and last object: on arm64 the code of those refers to theirs.
const SCRIPT: &str = "SECTIONS { /DISCARD/ : {
    *(EXCLUDE_FILE(*crtbegin*.o *crtend*.o) .eh_frame EXCLUDE_FILE(*crtbegin*.o *crtend*.o) .eh_frame.*)
} } INSERT AFTER .text;
";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let folder = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let script = folder.join("without-unwinding.ld");
    std::fs::write(&script, SCRIPT).expect("OUT_DIR is writable");
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{}", script.display());
}
