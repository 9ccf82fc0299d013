//! Why a command ends without success, and with which exit status.
//!
//! *Invariants*: the chain of causes is printed once, in `main`, each level by itself; the hint says
//! what to do.
//!
//! *Not here*: refusals of single memories, which commands count and show themselves.

use std::error::Error;
use std::fmt;

use engram_platform::EXIT_STATUS_FATAL;

/// What the exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 1: the work was not done.
    Failed,
    /// 2: the command was not used as it is meant.
    Usage,
    /// 3: the server can't be reached.
    Unreachable,
    /// 78: the machine must change first.
    Environment,
}

impl Status {
    /// As a number.
    pub fn code(self) -> i32 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Environment => EXIT_STATUS_FATAL,
        }
    }
}

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failure {
    /// For the exit status.
    pub status: Status,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// The work was not done.
    pub fn new(message: impl Into<String>) -> Self {
        Self { status: Status::Failed, message: message.into(), hint: None, source: None }
    }

    /// The command was not used as it is meant.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: Status::Usage, ..Self::new(message) }
    }

    /// With another exit status.
    pub fn with_status(self, status: Status) -> Self {
        Self { status, ..self }
    }

    /// With what to do about it.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With what caused it.
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// Turns an error into a failure that says what was attempted.
    pub fn because<E>(message: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let message = message.into();
        move |source| Self::new(message).with_source(source)
    }

    /// The reader of standard output went away, which is no failure.
    pub fn is_broken_pipe(&self) -> bool {
        let source = self.source.as_deref().and_then(|s| s.downcast_ref::<std::io::Error>());
        source.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl Error for Failure {}
