//! A volume, the server on it, and writers who know what it has acknowledged.
//!
//! *Invariants*: what was acknowledged is known to the writers alone, who are not on the disk.
//!
//! *Not here*: what goes wrong, and when (`cuts`, `failures`).

use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Launch, Server};
use crate::volume::{Format, Volume};
use crate::writer::{Finding, Writer, ask};

/// Writers at a time.
pub const WRITERS: u32 = 4;

/// All of it; the server itself is started and ended by whoever makes things go wrong.
pub struct Site {
    pub volume: Volume,
    pub launch: Launch,
    pub writers: Vec<Writer>,
}

impl Site {
    /// A new volume with nothing on it.
    ///
    /// # Errors
    /// What could not be done.
    pub fn new(
        folder: &Path,
        format: Format,
        seed: u64,
        honoured_one_in: u64,
        binary: &Path,
    ) -> Result<Self, String> {
        let volume = Volume::new(folder, format, seed, honoured_one_in)?;
        let launch = Launch {
            binary: binary.to_owned(),
            data: volume.path().join("data"),
            fast: folder.join("fast"),
            shards: 2,
        };
        launch.forget_fast()?;
        let writers = (0..WRITERS).map(|number| Writer::new(number, seed)).collect();
        Ok(Self { volume, launch, writers })
    }

    /// Reads back everything that was ever written, after a start; that is what has to stay.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub fn verify(&mut self, server: &Server) -> Result<Vec<Finding>, String> {
        let mut findings = Vec::new();
        let mut connection = server.connect()?;
        for writer in &mut self.writers {
            findings.extend(writer.verify(&mut connection)?);
        }
        let request = ("POST", "/api/v1/count".to_owned(), json!({}));
        let (_, counted) = ask(&mut connection, &request)?;
        let known: u64 = self.writers.iter().map(Writer::count).sum();
        if serde_json::from_str::<Value>(&counted).unwrap_or_default()["count"] != json!(known) {
            let what = format!("{known} memories are there, counted are {counted}");
            findings.push(Finding::Wrong(what));
        }
        Ok(findings)
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.writers.iter().map(|writer| writer.acknowledged).sum()
    }
}
