//! The kernel's release as numbers.
//!
//! *Invariants*: only the first two numbers count; the rest is kept as text for people.
//!
//! *Not here*: which release is enough ([`crate::Preflight`]).

use std::fmt;

use serde::Serialize;

/// A kernel release such as `6.1.0-18-amd64`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// As the kernel says it.
    pub release: String,
}

impl KernelVersion {
    /// Reads the first two numbers of a release; what can't be read counts as 0.
    pub fn parse(release: &str) -> Self {
        let release = release.trim();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Self { major: next(), minor: next(), release: release.to_owned() }
    }

    /// At least `major.minor`.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.release)
    }
}
