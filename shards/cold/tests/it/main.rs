//! Stores as they are: folders, and a real S3 server (moto).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod endpoint;
mod moto;
mod stores;
