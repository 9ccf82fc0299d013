//! One thing that is missing or not ideal, and how to grant it.
//!
//! *Invariants*: a fatal finding means that the server can't run; `code` is stable.
//!
//! *Not here*: what is looked for (`preflight`, `diagnosis`).

use std::fmt;

use serde::Serialize;

/// What is missing and how to grant it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name, such as `io_uring_forbidden`.
    pub code: &'static str,
    /// The server can't run like this: exit status 78.
    pub fatal: bool,
    /// What is so, without a full stop.
    pub problem: String,
    /// What to do about it, without a full stop.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn fatal(
        code: &'static str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { code, fatal: true, problem: problem.into(), remedy: remedy.into() }
    }

    pub(crate) fn hint(
        code: &'static str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { code, fatal: false, problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}.", self.problem, self.remedy)
    }
}
