//! What can go wrong with files, executors and their configuration.
//!
//! *Invariants*: each level says its own part; the cause is in `source()`.
//!
//! *Not here*: what clients are told (`engram_engine::request::Rejection`).

use std::path::PathBuf;

/// Why shards can't start or go on.
#[derive(Debug)]
pub enum ShardsError {
    /// A file or directory operation failed.
    Io {
        /// What was attempted, as in "create".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another process holds the data directory.
    Held {
        /// The directory.
        path: PathBuf,
        /// Who holds it, as that process wrote it.
        by: String,
    },
    /// A file is not what it should be.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file was written by a version that this program does not know.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The disk has no room.
    Room {
        /// For what.
        path: PathBuf,
        /// How much it takes.
        wanted_bytes: u64,
        /// How much there is.
        free_bytes: u64,
    },
    /// An executor could not be started.
    Executor {
        /// What it said.
        reason: String,
    },
}

impl ShardsError {
    /// The disk is full, or this user's share of it is.
    pub fn is_for_want_of_room(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            Self::Room { .. } => true,
            Self::Held { .. }
            | Self::Damaged { .. }
            | Self::Version { .. }
            | Self::Executor { .. } => false,
        }
    }

    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn ring(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(glommio::GlommioError<()>) -> Self {
        let path = path.into();
        move |error| Self::Io { what, path, source: error.into() }
    }
}

impl std::fmt::Display for ShardsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { what, path, .. } => write!(f, "can't {what} {}", path.display()),
            Self::Held { path, by } => write!(
                f,
                "{} is held by {by}; stop that process or choose another ENGRAM_DATA_DIR",
                path.display()
            ),
            Self::Damaged { path, offset, reason } => write!(
                f,
                "{} is damaged at byte {offset}: {reason}; run `engram check` on the directory",
                path.display()
            ),
            Self::Version { path, version } => write!(
                f,
                "{} has format version {version}, which this program does not know; use the \
                 program that wrote it",
                path.display()
            ),
            Self::Room { path, wanted_bytes, free_bytes } => write!(
                f,
                "{} takes up to {} MiB, and the disk has {} MiB",
                path.display(),
                wanted_bytes.div_ceil(1 << 20),
                free_bytes >> 20
            ),
            Self::Executor { reason } => write!(f, "an executor could not be started: {reason}"),
        }
    }
}

impl std::error::Error for ShardsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Held { .. }
            | Self::Damaged { .. }
            | Self::Version { .. }
            | Self::Room { .. }
            | Self::Executor { .. } => None,
        }
    }
}
