//! Mending a log: what is whole of a damaged segment becomes the next edition of it; images that know
//! more than the log go aside.
//!
//! *Invariants*: the damaged file has a second name in a folder aside before the new one takes its
//! place; a process that dies on the way leaves a log that can be mended again.
//!
//! *Not here*: what is damaged (`log`).

use std::fs;
use std::path::Path;

use super::log::{Found, LogCheck, each_record};
use crate::directory::make_directory;
use crate::error::ShardsError;
use crate::plain::{self, sync_directory};
use crate::segment::{BLOCK_BYTES, Compacted, SegmentHeader, unfinished_path};

/// Mends the log in `folder`; files that were not whole are kept in `aside`.
///
/// # Errors
/// [`ShardsError::Io`].
pub fn mend(folder: &Path, aside: &Path, log: &LogCheck) -> Result<(), ShardsError> {
    make_directory(aside)?;
    let kept: Vec<&Found> = log.segments.iter().filter(|found| !found.replaced).collect();
    for (at, found) in kept.iter().enumerate().filter(|(_, found)| found.damaged) {
        let end = kept.get(at + 1).map(|behind| behind.header.first_sequence - 1);
        let first = if at == 0 { 1 } else { found.header.first_sequence };
        mend_one(folder, aside, found, first, end)?;
    }
    Ok(())
}

/// Keeps an image aside, with the folder of its set: a start does without the set then.
///
/// # Errors
/// [`ShardsError::Io`].
pub fn move_image(image: &Path, aside: &Path) -> Result<(), ShardsError> {
    let set = image.parent().and_then(Path::file_name).expect("an image lies in a set");
    let folder = aside.join("images").join(set);
    make_directory(&folder)?;
    let kept = folder.join(image.file_name().expect("an image has a name"));
    // It may lie on another disk.
    fs::copy(image, &kept).map_err(ShardsError::io("keep", &kept))?;
    let synced = fs::File::open(&kept).and_then(|copy| copy.sync_all());
    synced.map_err(ShardsError::io("sync", &kept))?;
    sync_directory(&folder)?;
    fs::remove_file(image).map_err(ShardsError::io("remove", image))
}

fn mend_one(
    folder: &Path,
    aside: &Path,
    found: &Found,
    first_sequence: u64,
    end_sequence: Option<u64>,
) -> Result<(), ShardsError> {
    let mut bytes = vec![0; BLOCK_BYTES];
    let (mut records, mut last) = (0, first_sequence - 1);
    let epoch = found.header.epoch();
    each_record(found, |view, _| {
        view.write(epoch, &mut bytes);
        (records, last) = (records + 1, view.header.sequence);
    })?;
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let compacted = Compacted {
        edition: found.header.compacted.map_or(0, |compacted| compacted.edition) + 1,
        end_sequence: end_sequence.unwrap_or(last),
        // What is missing is missing: nothing is demanded of what lies behind.
        horizon: 0,
        records,
    };
    let header = SegmentHeader { first_sequence, compacted: Some(compacted), ..found.header };
    bytes[..BLOCK_BYTES].copy_from_slice(&header.block());
    let new = unfinished_path(folder, found.header.segment);
    plain::write_whole(&new, &bytes)?;
    let name = found.path.file_name().expect("a segment has a name");
    let kept = aside.join(name);
    match fs::hard_link(&found.path, &kept) {
        // Kept by a repair that was interrupted.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        linked => linked.map_err(ShardsError::io("keep", &kept))?,
    }
    sync_directory(aside)?;
    fs::rename(&new, &found.path).map_err(ShardsError::io("rename", &new))?;
    sync_directory(folder)
}
