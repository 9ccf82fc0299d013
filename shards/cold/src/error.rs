//! Why the cold tier did not do what it was asked for.
//!
//! *Invariants*: what may pass by itself is told from what will not.
//!
//! *Not here*: what clients are told (`engram_engine::request::Rejection`).

/// Why an operation on the cold tier failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColdError {
    /// There is no such object, or it is shorter than what was asked for.
    NotFound(String),
    /// The tier did not answer, or said that it can't now.
    Unreachable(String),
    /// The tier refuses: permission, credentials, a bucket that is not there.
    Refused(String),
    /// The settings make no sense.
    Settings(String),
}

impl ColdError {
    /// Trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::NotFound(_) | Self::Refused(_) | Self::Settings(_) => false,
        }
    }

    pub(crate) fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let text = format!("can't {what} {}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof => {
                Self::NotFound(text)
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Self::Refused(text)
            }
            _ => Self::Unreachable(text),
        }
    }
}

impl std::fmt::Display for ColdError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound(text)
            | Self::Unreachable(text)
            | Self::Refused(text)
            | Self::Settings(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ColdError {}
