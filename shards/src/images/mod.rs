//! Images of all shards: when a set is made, how, and how a start uses one.
//!
//! *Invariants*: an image is never trusted: one that is wrong, old, torn or foreign is refused, with
//! the reason logged and counted, and the log is read instead; reads go on while one is written,
//! and writes wait for it only where it is urgent.
//!
//! *Not here*: what is in an image (`engram_engine::shard`), how shards agree on a moment (`cut`).

mod cut;
mod start;
mod store;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engram_engine::image::Header;
use engram_engine::phase::Phase;
use engram_engine::shard::{Event, ShardImage};
use glommio::timer::sleep;

use crate::core::{Core, micros, now};
use crate::directory::Directory;
use crate::status::Counters;
use cut::{Cut, Last, Outcome};
use start::Ballots;
pub(crate) use start::start;
pub(crate) use store::ImageStore;
pub use store::ImageTier;
pub(crate) use store::free_bytes;

/// How images are made.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// A folder on tmpfs; `None`: images lie in the data directory only.
    pub fast: Option<PathBuf>,
    /// Bytes that the process may use, tmpfs included.
    pub memory_bytes: u64,
    /// How long stopping may take, images included.
    pub grace: Duration,
}

/// How often a shard looks whether an image is wanted.
const LOOK: Duration = Duration::from_millis(250);
/// How often shards that settle look at each other.
const SETTLE: Duration = Duration::from_micros(500);
/// Longest time that shards take to settle; then the cut is given up. The last one of a process has
/// as long as the grace lasts.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// No set is made before so many bytes were written to the logs since the last one, and this part of
/// a set's bytes.
const QUIET_LOG_BYTES: u64 = 16 << 20;
const QUIET_SHARE: u64 = 8;
/// The same for sets on the SSD, which writing wears out.
const WARM_LOG_BYTES: u64 = 64 << 20;
const WARM_SHARE: u64 = 2;
/// The same for a set on the SSD at the end: less is read from the log in a moment.
const LAST_WARM_LOG_BYTES: u64 = 4 << 20;
/// No set is made before nothing was written for so long.
const QUIET: Duration = Duration::from_secs(3);
/// Past so many bytes one is made even while writes come and have to wait.
const URGENT_LOG_BYTES: u64 = 2 << 30;
/// Shortest time between two sets that nobody waits for.
const BETWEEN: Duration = Duration::from_secs(60);
/// Kept of the grace for ending after the last image.
const GRACE_AFTER: Duration = Duration::from_secs(1);
/// Images are about as large as what they are of.
const ROOM_SHARE: (u64, u64) = (5, 4);

/// What shards share to make and use images.
pub(crate) struct Images {
    store: ImageStore,
    cut: Cut,
    ballots: Ballots,
    options: ImageOptions,
    /// What the logs hold that the newest set of a tier does not cover.
    fast: Coverage,
    warm: Coverage,
    /// Shards that copy their image to the SSD, and those that have.
    copying: AtomicU16,
    copied: AtomicU16,
}

/// What a tier's newest set leaves to the logs.
#[derive(Debug)]
struct Coverage {
    /// Bytes that were in the logs at the start.
    at_start: AtomicU64,
    /// Of the bytes that were written since, those that are covered.
    since: AtomicU64,
    /// Of the compactions since, those that are covered: an image names where records lie.
    compactions: AtomicU64,
}

/// What was done to all logs in this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    bytes: u64,
    compactions: u64,
}

/// Nothing is covered, however much there is.
const UNCOVERED: u64 = 1 << 60;

impl Coverage {
    fn none() -> Self {
        Self {
            at_start: AtomicU64::new(UNCOVERED),
            since: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
        }
    }

    fn missing_bytes(&self, written: Written) -> u64 {
        let since = written.bytes.saturating_sub(self.since.load(Ordering::Relaxed));
        self.at_start.load(Ordering::Relaxed) + since
    }

    /// Records were moved since: a start would have to read whole logs.
    fn is_stale(&self, written: Written) -> bool {
        self.compactions.load(Ordering::Relaxed) < written.compactions
    }

    fn cover(&self, written: Written) {
        self.at_start.store(0, Ordering::Relaxed);
        self.since.store(written.bytes, Ordering::Relaxed);
        self.compactions.store(written.compactions, Ordering::Relaxed);
    }
}

/// Why a set is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Nothing else is to be done.
    Quiet,
    /// The logs have grown long.
    Urgent,
}

impl Images {
    pub fn new(directory: &Directory, options: ImageOptions) -> Self {
        let manifest = directory.manifest();
        let store = ImageStore::new(directory.path(), manifest, options.fast.as_deref());
        let ballots = Ballots::new(store.candidates(manifest), manifest.shards);
        let cut = Cut::new(manifest.shards);
        Self {
            store,
            cut,
            ballots,
            options,
            fast: Coverage::none(),
            warm: Coverage::none(),
            copying: AtomicU16::new(0),
            copied: AtomicU16::new(0),
        }
    }

    /// The folder on tmpfs.
    pub fn folder(&self) -> Option<&Path> {
        self.store.fast_folder()
    }

    /// The tier that a set of so many bytes is written to.
    fn tier_for(&self, image_bytes: u64) -> Option<ImageTier> {
        let wanted = image_bytes / ROOM_SHARE.1 * ROOM_SHARE.0;
        let memory_left = self.options.memory_bytes.saturating_sub(resident_bytes());
        let fits = |tier| self.store.room_bytes(tier) >= wanted;
        if self.store.has_fast() && fits(ImageTier::Fast) && memory_left >= wanted {
            return Some(ImageTier::Fast);
        }
        fits(ImageTier::Warm).then_some(ImageTier::Warm)
    }
}

/// Makes images while the shard serves; shard 0 decides when.
pub(crate) async fn run(core: Rc<Core>, images: Arc<Images>) {
    let seen = Written { bytes: 0, compactions: 0 };
    let mut clock = Clock { seen, since: Instant::now(), last: Instant::now() };
    loop {
        sleep(LOOK).await;
        if core.counters().phase() >= Phase::Draining {
            return;
        }
        if core.me.0 == 0
            && let Some(why) = clock.decide(&core, &images)
        {
            images.begin(why == Why::Urgent);
            clock.last = Instant::now();
        }
        let wanted = images.cut.wanted();
        if wanted != core.last_set.get() && core.counters().phase() == Phase::Running {
            make(&core, &images, false).await;
        }
    }
}

/// Makes the last set of this process's life; every shard is drained, and its log is flushed.
pub(crate) async fn run_last(core: &Rc<Core>, images: &Arc<Images>) {
    let stopping = core.status.life().stage().lasted;
    let left = images.options.grace.saturating_sub(stopping + GRACE_AFTER);
    let deadline = Instant::now() + left;
    while core.is_imaging.get() {
        if Instant::now() >= deadline {
            images.cut.give_up();
        }
        sleep(SETTLE).await;
    }
    let set = loop {
        if core.status.life().has_failed() || Instant::now() >= deadline {
            return;
        }
        match images.cut.last() {
            Last::Nothing => return,
            Last::Set(set) => break set,
            Last::NotYet if core.me.0 == 0 && !images.is_busy() => {
                images.cut.end(images.wants_last(core).then(|| images.next_set()));
            }
            Last::NotYet => images.pass_over(core),
        }
        sleep(SETTLE).await;
    };
    while images.cut.wanted() != set {
        sleep(SETTLE).await;
    }
    let watch = async {
        while Instant::now() < deadline {
            sleep(LOOK).await;
        }
        log::warn!("shard {}: the grace ends before its image was written", core.me.0);
        images.cut.give_up();
        std::future::pending::<()>().await;
    };
    futures_lite::future::or(make(core, images, true), watch).await;
}

/// What shard 0 knows of the time.
struct Clock {
    seen: Written,
    since: Instant,
    last: Instant,
}

impl Clock {
    /// Whether a set is to be made now, and why.
    fn decide(&mut self, core: &Rc<Core>, images: &Images) -> Option<Why> {
        let written = written(core);
        if written != self.seen {
            (self.seen, self.since) = (written, Instant::now());
        }
        let all_run = core.status.shards().iter().all(|s| s.phase() == Phase::Running);
        if !all_run
            || images.is_busy()
            || (images.cut.wanted() > 0 && self.last.elapsed() < BETWEEN)
        {
            return None;
        }
        let log_bytes = shards_sum(core, |shard| &shard.log_bytes);
        let image_bytes = shards_sum(core, |shard| &shard.image_bytes);
        let wanted = QUIET_LOG_BYTES.max(image_bytes / QUIET_SHARE);
        let missing = images.missing_bytes(written).min(log_bytes);
        let quiet = self.since.elapsed() >= QUIET && core.shard.borrow().is_settled();
        if missing >= URGENT_LOG_BYTES.max(wanted) {
            Some(Why::Urgent)
        } else {
            let long = missing >= wanted || (images.are_stale(written) && log_bytes >= wanted);
            (quiet && long).then_some(Why::Quiet)
        }
    }
}

fn written(core: &Rc<Core>) -> Written {
    Written {
        bytes: shards_sum(core, |shard| &shard.log_written_bytes),
        compactions: shards_sum(core, |shard| &shard.compactions),
    }
}

fn shards_sum(core: &Rc<Core>, counter: fn(&Counters) -> &AtomicU64) -> u64 {
    core.status.shards().iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
}

impl Images {
    /// How long stopping may take, images included.
    pub(crate) fn grace(&self) -> Duration {
        self.options.grace
    }

    /// The number of the next set.
    fn next_set(&self) -> u64 {
        self.copied.store(0, Ordering::Relaxed);
        u64::try_from(now().0).unwrap_or(2).max(self.cut.wanted() + 2)
    }

    fn begin(&self, urgent: bool) {
        self.cut.begin(self.next_set(), urgent);
    }

    /// A set that this shard took no part in, since it stops, does not become whole.
    fn pass_over(&self, core: &Rc<Core>) {
        let wanted = self.cut.wanted();
        if wanted != core.last_set.get() && self.cut.last() == Last::NotYet {
            core.last_set.set(wanted);
            self.cut.give_up();
            self.cut.finish(false);
        }
    }

    /// Shards are at a set, or at its copies.
    fn is_busy(&self) -> bool {
        let made = self.cut.wanted() > 0 && self.cut.outcome() == Outcome::UnderWay;
        made || self.copying.load(Ordering::Acquire) > 0
    }

    fn coverage(&self, tier: ImageTier) -> &Coverage {
        match tier {
            ImageTier::Fast => &self.fast,
            ImageTier::Warm => &self.warm,
        }
    }

    /// Bytes of the logs that no set covers, whichever tier it found room in.
    fn missing_bytes(&self, written: Written) -> u64 {
        self.fast.missing_bytes(written).min(self.warm.missing_bytes(written))
    }

    /// There is no set of which all records lie where they lay.
    fn are_stale(&self, written: Written) -> bool {
        self.fast.is_stale(written) && self.warm.is_stale(written)
    }

    /// A set is worth its while before the process ends, and what is in memory can be trusted.
    fn wants_last(&self, core: &Rc<Core>) -> bool {
        let written = written(core);
        let missing = self.missing_bytes(written);
        let poisoned = core.status.shards().iter().any(|s| s.phase() == Phase::Poisoned);
        let least = if self.store.has_fast() { 1 } else { LAST_WARM_LOG_BYTES };
        (missing >= least || self.are_stale(written))
            && !poisoned
            && core.shard.borrow().is_recovered()
    }

    /// The shards start from a set of this tier.
    fn note_start(&self, tier: ImageTier) {
        self.coverage(tier).at_start.store(0, Ordering::Relaxed);
    }

    /// So many bytes of a log are not in the image that was started from.
    pub fn note_replayed(&self, bytes: u64) {
        for coverage in [&self.fast, &self.warm] {
            coverage.at_start.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A copy on the SSD is worth its while.
    fn wants_copy(&self, written: Written, image_bytes: u64, last: bool) -> bool {
        let least = if last { LAST_WARM_LOG_BYTES } else { WARM_LOG_BYTES };
        let share = if last { 0 } else { image_bytes / WARM_SHARE };
        (self.warm.missing_bytes(written) >= least.max(share) || self.warm.is_stale(written))
            && self.store.room_bytes(ImageTier::Warm) >= image_bytes / ROOM_SHARE.1 * ROOM_SHARE.0
    }

    /// A shard has copied its image; the last one to do so lets go of older sets.
    fn note_copied(&self, set: u64, shards: u16, written: Written) {
        if self.copied.fetch_add(1, Ordering::AcqRel) + 1 == shards {
            self.warm.cover(written);
            self.store.keep_only(ImageTier::Warm, set);
        }
    }
}

/// A shard's part in a set. Ends when its file is written, or the set is given up.
async fn make(core: &Rc<Core>, images: &Arc<Images>, last: bool) {
    let started = Instant::now();
    core.is_imaging.set(true);
    core.last_set.set(images.cut.wanted());
    core.shard.borrow_mut().freeze();
    let image = stand_still(core, images, (!last).then_some(started)).await;
    let covered = written(core);
    let written = match image {
        Some(image) => write(core, images, image).await,
        None => None,
    };
    core.shard.borrow_mut().thaw();
    core.drive(Event::Tick);
    let counters = core.counters();
    counters.image_pause_us_max.fetch_max(micros(started), Ordering::Relaxed);
    if let Some((_, bytes)) = written {
        counters.image_bytes.store(bytes, Ordering::Relaxed);
    }
    images.cut.finish(written.is_some());
    if let Some((tier, _)) = written {
        keep(core, images, tier, covered, last).await;
    }
    core.is_imaging.set(false);
}

/// Waits until the set is whole, then lets go of older ones and copies it to the SSD.
async fn keep(
    core: &Rc<Core>,
    images: &Arc<Images>,
    tier: ImageTier,
    covered: Written,
    last: bool,
) {
    while images.cut.outcome() == Outcome::UnderWay {
        sleep(SETTLE).await;
    }
    let set = images.cut.wanted();
    if images.cut.outcome() == Outcome::GivenUp {
        if core.me.0 == 0 {
            images.store.drop_set(tier, set);
        }
        return;
    }
    Counters::add(&core.counters().images_written, 1);
    let image_bytes = shards_sum(core, |shard| &shard.image_bytes);
    let copy = tier == ImageTier::Fast && images.wants_copy(covered, image_bytes, last);
    if core.me.0 == 0 {
        images.coverage(tier).cover(covered);
        images.store.keep_only(tier, set);
        log::info!("images of all shards are in the {} tier, set {set:016x}", tier.as_str());
    }
    if copy {
        images.copying.fetch_add(1, Ordering::AcqRel);
        copy_to_warm(core, images, set, covered, last).await;
        images.copying.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits until all shards stand still, then takes the picture and waits until all have theirs.
async fn stand_still(
    core: &Rc<Core>,
    images: &Images,
    patient_since: Option<Instant>,
) -> Option<ShardImage> {
    let cut = &images.cut;
    core.drive(Event::Tick);
    if !core.shard.borrow().is_recovered() {
        cut.give_up();
    }
    loop {
        let mut settled = core.shard.borrow().settled();
        settled.quiet &= !core.is_moving.get();
        if cut.settle(core.me.index(), settled) {
            break;
        }
        let others_wait = !cut.is_urgent() && core.shard.borrow().holds_changes();
        if others_wait || patient_since.is_some_and(|since| since.elapsed() > SETTLE_MAX) {
            cut.give_up();
        }
        if cut.is_given_up() {
            return None;
        }
        sleep(SETTLE).await;
    }
    let held = core.shard.borrow_mut().hold();
    let Ok(image) = held else {
        cut.give_up();
        return None;
    };
    cut.take();
    while !cut.are_taken() {
        if cut.is_given_up() {
            return None;
        }
        sleep(SETTLE).await;
    }
    Some(image)
}

/// Writes the image on a thread of its own, which runs on this core beside the shard.
async fn write(
    core: &Rc<Core>,
    images: &Arc<Images>,
    image: ShardImage,
) -> Option<(ImageTier, u64)> {
    let place = core.log.place();
    let manifest = core.manifest();
    let header = Header {
        directory: manifest.directory,
        generation: manifest.generation,
        shards: manifest.shards,
        shard: core.me.0,
        set: images.cut.wanted(),
        sequence: image.sequence(),
        segment: place.segment,
        nonce: place.nonce,
        layout: place.layout,
    };
    let (sender, receiver) = flume::bounded(1);
    let shared = images.clone();
    let urgent = images.cut.is_urgent();
    std::thread::spawn(move || {
        if !urgent {
            lower_priority();
        }
        let tier = shared.tier_for(image.memory_bytes() * u64::from(header.shards));
        let written = match tier {
            Some(tier) => shared.store.write(tier, &header, &image, &shared.cut.given_up),
            None => Err(std::io::Error::other("there is no room for it")),
        };
        drop(image);
        // The shard waits for this as long as it lives.
        let _ = sender.send(written.map(|bytes| (tier.expect("it was written there"), bytes)));
    });
    let written = loop {
        match receiver.try_recv() {
            Ok(written) => break written,
            Err(flume::TryRecvError::Disconnected) => return None,
            Err(flume::TryRecvError::Empty) => {}
        }
        if !images.cut.is_urgent() && core.shard.borrow().holds_changes() {
            images.cut.give_up();
        }
        sleep(SETTLE).await;
    };
    match written {
        Ok(written) => Some(written),
        Err(error) => {
            if !images.cut.is_given_up() {
                log::warn!("shard {}: no image was written: {error}", core.me.0);
            }
            images.cut.give_up();
            None
        }
    }
}

/// Copies the shard's file to the SSD, where a reboot leaves it.
async fn copy_to_warm(
    core: &Rc<Core>,
    images: &Arc<Images>,
    set: u64,
    covered: Written,
    last: bool,
) {
    let (sender, receiver) = flume::bounded(1);
    let (shared, shard) = (images.clone(), core.me.0);
    std::thread::spawn(move || {
        if !last {
            lower_priority();
        }
        let copied = shared.store.copy_to_warm(set, shard, &shared.cut.given_up);
        // The shard waits for this as long as it lives.
        let _ = sender.send(copied);
    });
    match receiver.recv_async().await {
        Ok(Ok(())) => images.note_copied(set, core.manifest().shards, covered),
        Ok(Err(error)) => log::warn!("shard {shard}: no copy of its image: {error}"),
        Err(flume::RecvError::Disconnected) => {}
    }
}

/// Background writing gets what is left of the core.
fn lower_priority() {
    const NICE: libc::c_int = 10;
    // SAFETY: setpriority takes plain numbers; 0 is the calling thread on Linux.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Bytes of this process in memory, images on tmpfs not included.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}
