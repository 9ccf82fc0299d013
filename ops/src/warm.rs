//! What a server is asked most, kept for its next life, which begins by asking itself the same.
//!
//! *Invariants*: what is kept is bounded, on disk too; a file that is damaged, or asks for what is
//! gone, costs the warm-up and nothing else; warm-up ends in its time.
//!
//! *Not here*: phases (`engram_shards`), reading recalls (`engram_net::json`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engram_engine::model::SpaceName;
use engram_engine::request::{Recall, Request};
use engram_net::json;
use engram_shards::{Handle, Status};
use glommio::timer::sleep;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Cues that a core keeps.
const CUES_MAX: usize = 256;
/// Bytes of a recall that is kept.
const CUE_BYTES_MAX: usize = 16 << 10;
/// Bytes of a file that is read.
const FILE_BYTES_MAX: u64 = 2 * (CUES_MAX * CUE_BYTES_MAX) as u64;
/// One recall of so many is looked at.
const SAMPLE: u32 = 8;
/// How often cues are written.
const SAVE_PAUSE: Duration = Duration::from_secs(60);
/// Share of the records that has to come from memory before a server is warm.
const HIT_RATE_MIN: f64 = 0.5;
/// Between two cues.
const TURN: Duration = Duration::from_micros(1);
/// Over this time more and more clients are let in.
pub const OPENING: Duration = Duration::from_secs(1);

/// The cues that one core is asked most.
#[derive(Default)]
pub struct HotCues {
    cues: RefCell<HashMap<u64, Cue>>,
    hasher: RandomState,
    seen: Cell<u32>,
    /// Those of the last life were read: what is here now may replace them.
    known: Cell<bool>,
}

struct Cue {
    space: SpaceName,
    body: Vec<u8>,
    count: u64,
}

/// A cue as it is kept: a line of JSON.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    space: &'a str,
    count: u64,
    #[serde(borrow)]
    recall: &'a RawValue,
}

impl HotCues {
    /// A recall was asked for; `body` is its JSON.
    pub fn note(&self, space: &SpaceName, body: &[u8]) {
        let seen = self.seen.get().wrapping_add(1);
        self.seen.set(seen);
        if seen.is_multiple_of(SAMPLE) && body.len() <= CUE_BYTES_MAX {
            self.count(space, body, 1);
        }
    }

    /// The rarest makes room for a new one, which takes over its count: what is frequent stays,
    /// whatever the order in which it comes ("Space-Saving", Metwally and others, 2005).
    fn count(&self, space: &SpaceName, body: &[u8], times: u64) {
        let key = self.hasher.hash_one((space.as_str(), body));
        let mut cues = self.cues.borrow_mut();
        if let Some(cue) = cues.get_mut(&key) {
            cue.count += times;
            return;
        }
        let mut count = times;
        if cues.len() >= CUES_MAX {
            let rarest = cues.iter().min_by_key(|(_, cue)| cue.count);
            let rarest = rarest.map(|(key, cue)| (*key, cue.count));
            let (rarest, its_count) = rarest.expect("there are some");
            cues.remove(&rarest);
            count += its_count;
        }
        cues.insert(key, Cue { space: space.clone(), body: body.to_vec(), count });
    }

    /// A space is gone, and what was asked of it with it.
    pub fn forget(&self, space: &SpaceName) {
        self.cues.borrow_mut().retain(|_, cue| cue.space != *space);
    }

    /// The most frequent first, as lines; what was counted counts half from now on.
    fn take_lines(&self) -> Vec<u8> {
        let mut cues = self.cues.borrow_mut();
        let mut by_count: Vec<&mut Cue> = cues.values_mut().collect();
        by_count.sort_unstable_by_key(|cue| std::cmp::Reverse(cue.count));
        let mut lines = Vec::new();
        for cue in by_count {
            // JSON that was read is JSON; a line break in it is only ever white space.
            let flat: Vec<u8> = cue
                .body
                .iter()
                .map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b })
                .collect();
            if let Ok(recall) = serde_json::from_slice::<&RawValue>(&flat) {
                let line = Line { space: cue.space.as_str(), count: cue.count, recall };
                serde_json::to_writer(&mut lines, &line).expect("lines serialise into memory");
                lines.push(b'\n');
            }
            cue.count = cue.count.div_ceil(2);
        }
        lines
    }
}

/// The file of a core's cues.
pub fn cues_path(data_dir: &Path, shard: u16) -> PathBuf {
    data_dir.join("warm").join(format!("cues-{shard:04}.ndjson"))
}

/// Writes the cues of a core; a failure costs the next warm-up, and is said.
pub fn save(cues: &HotCues, path: &Path) {
    if !cues.known.get() {
        return;
    }
    if let Err(error) = write(path, &cues.take_lines()) {
        log::warn!("the cues for the next warm-up can't be kept in {}: {error}", path.display());
    }
}

/// Writes them again and again, until the server is told to stop.
pub async fn keep_saving(cues: Rc<HotCues>, path: PathBuf, status: std::sync::Arc<Status>) {
    loop {
        sleep(SAVE_PAUSE).await;
        if status.life().is_told_to_stop() {
            return;
        }
        if !cues.known.get() {
            continue;
        }
        let (lines, path) = (cues.take_lines(), path.clone());
        let shown = path.display().to_string();
        let written = glommio::executor().spawn_blocking(move || write(&path, &lines)).await;
        if let Err(error) = written {
            log::warn!("the cues for the next warm-up can't be kept in {shown}: {error}");
        }
    }
}

fn write(path: &Path, lines: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(lines)?;
    fs::rename(&temporary, path)
}

/// A recall of the last life.
struct Kept {
    space: SpaceName,
    recall: Recall,
}

/// What the file holds that can still be asked; the cues go on to be counted.
fn read(path: &Path, cues: &HotCues) -> Vec<Kept> {
    cues.known.set(true);
    let is_sound = fs::metadata(path).is_ok_and(|file| file.len() <= FILE_BYTES_MAX);
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    if !is_sound {
        return Vec::new();
    }
    let mut kept = Vec::new();
    for line in text.lines().take(CUES_MAX) {
        let Ok(line) = serde_json::from_str::<Line<'_>>(line) else { continue };
        let body = line.recall.get().as_bytes();
        let recall = json::reader::document(body, json::recall::read);
        if let (Ok(space), Ok(recall)) = (SpaceName::new(line.space), recall) {
            cues.count(&space, body, line.count);
            kept.push(Kept { space, recall });
        }
    }
    kept
}

/// What a warm-up brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmed {
    /// Cues that were asked.
    pub cues: usize,
    /// Share of the records that came from memory when they were asked again.
    pub hit_rate: f64,
}

/// Asks what was asked most in the last life, until most of what that needs comes from memory, or
/// the time is over. `None`: there is nothing to ask, or no time.
pub async fn warm_up(
    handle: &Handle,
    cues: &HotCues,
    path: &Path,
    time: Duration,
) -> Option<Warmed> {
    let until = Instant::now() + time;
    let kept = read(path, cues);
    if kept.is_empty() || time.is_zero() {
        return None;
    }
    let status = handle.status();
    let mut warmed = Warmed { cues: 0, hit_rate: 0.0 };
    loop {
        let before = reads(status);
        for one in &kept {
            if Instant::now() >= until || status.life().is_told_to_stop() {
                return Some(warmed);
            }
            let recall = Box::new(one.recall.clone());
            let request = Request::Recall { space: one.space.clone(), recall };
            // A space that is gone, or a cue that no longer fits, warms nothing.
            let _ignored = handle.call(request).await;
            warmed.cues += usize::from(warmed.cues < kept.len());
            // A refusal is there at once: sockets get their turn all the same.
            sleep(TURN).await;
        }
        let after = reads(status);
        let (hits, misses) = (after.0 - before.0, after.1 - before.1);
        warmed.hit_rate = hits as f64 / (hits + misses).max(1) as f64;
        if warmed.hit_rate >= HIT_RATE_MIN || hits + misses == 0 {
            return Some(warmed);
        }
    }
}

/// Records that came from memory and from the disk.
fn reads(status: &Status) -> (u64, u64) {
    let shards = status.shards().iter();
    shards.fold((0, 0), |(hits, misses), shard| {
        let hits = hits + shard.cache_hits.load(Ordering::Relaxed);
        (hits, misses + shard.cache_misses.load(Ordering::Relaxed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(cue: u32) -> Vec<u8> {
        format!("{{\"cues\": [{{\"text\":\n\"cue {cue}\"}}]}}").into_bytes()
    }

    #[test]
    fn what_is_asked_often_outlives_what_is_asked_once() {
        let (cues, space) = (HotCues::default(), SpaceName::default());
        for round in 0..400u32 {
            (0..4).for_each(|cue| cues.count(&space, &body(cue), 1));
            (0..40).for_each(|rare| cues.count(&space, &body(1000 + round * 40 + rare), 1));
        }
        assert_eq!(cues.cues.borrow().len(), CUES_MAX, "it is bounded");
        let folder = std::env::temp_dir().join(format!("engram-warm-{}", std::process::id()));
        let path = cues_path(&folder, 0);
        cues.known.set(true);
        save(&cues, &path);
        let again = HotCues::default();
        let kept = read(&path, &again);
        assert_eq!(kept.len(), CUES_MAX);
        for cue in 0..4 {
            let key = again.hasher.hash_one((space.as_str(), body(cue).as_slice()));
            let flat: Vec<u8> =
                body(cue).iter().map(|b| if *b == b'\n' { b' ' } else { *b }).collect();
            let flat = again.hasher.hash_one((space.as_str(), flat.as_slice()));
            let cues = again.cues.borrow();
            assert!(cues.contains_key(&key) || cues.contains_key(&flat), "cue {cue} was kept");
        }
        again.forget(&space);
        assert!(again.cues.borrow().is_empty());
        fs::write(&path, b"{\"space\":\"default\"}\nnonsense\n\xff").unwrap();
        assert!(read(&path, &again).is_empty(), "damage costs the warm-up only");
        fs::remove_dir_all(&folder).unwrap();
    }
}
