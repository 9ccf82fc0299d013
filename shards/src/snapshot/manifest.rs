//! What a snapshot holds, as the file that makes it one.
//!
//! *Invariants*: a snapshot without a manifest that fits its checksum does not exist.
//!
//! *Not here*: the parts that it names (`take`, `read`).

use engram_cold::{ColdError, Put, Tier};
use serde::{Deserialize, Serialize};

use crate::directory::Manifest;

use super::SnapshotError;

/// Version of the format.
pub const VERSION: u32 = 1;
/// Everything of snapshots in the tier.
pub const FOLDER: &str = "snapshots/";
const FILE: &str = "manifest.json";
/// Says whose snapshot it is going to be, before there is a manifest.
const BEGUN: &str = "begun.json";

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// Version of the format.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// When it began (RFC 3339).
    pub created_at: String,
    /// The data directory that it is of.
    pub directory: Manifest,
    /// Where each shard's log was cut.
    pub shards: Vec<ShardCut>,
    /// Segments of the logs.
    pub logs: Vec<LogFile>,
    /// Cold segments.
    pub cold: Vec<ColdFile>,
    /// Bytes of all parts as they are stored.
    pub stored_bytes: u64,
}

/// Where a shard's log was cut: everything up to this record is in the snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardCut {
    /// Number of the shard.
    pub shard: u16,
    /// Sequence number of its last record.
    pub sequence: u64,
}

/// A segment of a log, in parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFile {
    /// Shard.
    pub shard: u16,
    /// Number.
    pub segment: u32,
    /// Bytes of each part before compression, and their CRC-32C.
    pub parts: Vec<(u64, u32)>,
}

/// A cold segment, as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColdFile {
    /// Its name: number and records.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32C of all of them.
    pub checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Begun {
    directory: u64,
}

/// The folder of one snapshot.
pub fn folder(name: &str) -> String {
    format!("{FOLDER}{name}/")
}

/// The name of a part of a log.
pub fn part_name(snapshot: &str, shard: u16, segment: u32, part: usize) -> String {
    format!("{}log/{shard:04}-{segment:010}-{part:04}", folder(snapshot))
}

/// The name of a cold segment in a snapshot.
pub fn cold_name(snapshot: &str, segment: &str) -> String {
    format!("{}cold/{segment}", folder(snapshot))
}

/// Reserves a name.
///
/// # Errors
/// [`SnapshotError::Exists`], [`SnapshotError::Cold`].
pub fn begin(tier: &Tier, name: &str, directory: u64) -> Result<(), SnapshotError> {
    let text = serde_json::to_vec(&Begun { directory }).expect("a number always has a text");
    match tier.put(&format!("{}{BEGUN}", folder(name)), &text)? {
        Put::Created => Ok(()),
        Put::Exists => Err(SnapshotError::Exists(name.to_owned())),
    }
}

/// Whose snapshot a folder was going to be.
pub fn begun_by(tier: &Tier, name: &str) -> Option<u64> {
    let text = tier.get(&format!("{}{BEGUN}", folder(name))).ok()?;
    serde_json::from_slice(&text).ok().map(|begun: Begun| begun.directory)
}

impl SnapshotManifest {
    /// Writes it, which makes the snapshot one.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`], [`SnapshotError::Cold`].
    pub fn write(&self, tier: &Tier) -> Result<(), SnapshotError> {
        let mut text = serde_json::to_string(self).expect("a manifest always has a text");
        text.push_str(&format!("\n{:08x}\n", crc32c::crc32c(text.as_bytes())));
        match tier.put(&format!("{}{FILE}", folder(&self.name)), text.as_bytes())? {
            Put::Created => Ok(()),
            Put::Exists => Err(SnapshotError::Exists(self.name.clone())),
        }
    }

    /// Reads the manifest of a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`], where there is none or it is not whole.
    pub fn read(tier: &Tier, name: &str) -> Result<Self, SnapshotError> {
        let file = format!("{}{FILE}", folder(name));
        let bytes = tier.get(&file).map_err(|error| match error {
            ColdError::NotFound(_) => SnapshotError::NotFound(name.to_owned()),
            other => SnapshotError::Cold(other),
        })?;
        let damaged = |reason: &str| SnapshotError::Damaged {
            snapshot: name.to_owned(),
            file: file.clone(),
            reason: reason.to_owned(),
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is no text"))?;
        let (json, rest) = text.split_once('\n').ok_or_else(|| damaged("it is cut off"))?;
        if rest != format!("{:08x}\n", crc32c::crc32c(json.as_bytes())) {
            return Err(damaged("the checksum does not fit"));
        }
        let any: serde_json::Value =
            serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))?;
        if any["version"] != VERSION {
            return Err(damaged(&format!("its version is {}, known is {VERSION}", any["version"])));
        }
        let read: Self =
            serde_json::from_value(any).map_err(|error| damaged(&error.to_string()))?;
        if read.name == name { Ok(read) } else { Err(damaged("it is of another snapshot")) }
    }

    /// Bytes of logs and cold segments before compression.
    pub fn raw_bytes(&self) -> u64 {
        let logs = self.logs.iter().flat_map(|file| &file.parts).map(|(bytes, _)| bytes);
        logs.sum::<u64>() + self.cold.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// Parts and cold segments.
    pub fn parts(&self) -> usize {
        self.logs.iter().map(|file| file.parts.len()).sum::<usize>() + self.cold.len()
    }
}

/// Every snapshot's name, with whether it has a manifest.
///
/// # Errors
/// [`ColdError`].
pub fn names(tier: &Tier) -> Result<Vec<(String, bool)>, ColdError> {
    let mut names: Vec<(String, bool)> = Vec::new();
    for object in tier.list(FOLDER)? {
        let Some((name, file)) = object.name[FOLDER.len()..].split_once('/') else { continue };
        match names.last_mut().filter(|(last, _)| last == name) {
            Some((_, whole)) => *whole |= file == FILE,
            None => names.push((name.to_owned(), file == FILE)),
        }
    }
    Ok(names)
}

/// Removes a snapshot: its manifest first, so that it is whole or gone.
///
/// # Errors
/// [`ColdError`].
pub fn remove(tier: &Tier, name: &str) -> Result<(), ColdError> {
    tier.delete(&format!("{}{FILE}", folder(name)))?;
    for object in tier.list(&folder(name))? {
        tier.delete(&object.name)?;
    }
    Ok(())
}
