//! Starting from images: the newest set that is good for every shard.
//!
//! *Invariants*: all shards start from the same set or all from their logs: each votes for a set when
//! it has read its image and found its place in its log, and one vote against refuses it.
//!
//! *Not here*: which sets there are (`store`), replaying what the log says since (`crate::run`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use engram_engine::image::{Header, Unsound};
use engram_engine::shard::{Shard, ShardConfig, ShardImage};
use glommio::timer::sleep;

use super::Images;
use super::store::{Candidate, ImageStore, ImageTier};
use crate::disk::Disk;
use crate::error::ShardsError;
use crate::recover::{Recovery, SegmentBytes};
use crate::status::{Counters, Status};

/// How often a shard that has voted looks whether the others have.
const LOOK: Duration = Duration::from_micros(500);

/// Sets to start from, and what shards say of them.
#[derive(Debug)]
pub(crate) struct Ballots {
    candidates: Vec<Candidate>,
    votes: Vec<Vote>,
    shards: u16,
}

#[derive(Debug, Default)]
struct Vote {
    good: AtomicU16,
    bad: AtomicU16,
}

/// What a shard starts from.
pub(crate) struct Started {
    /// As it was when the image was made.
    pub shard: Shard,
    /// The segment in which the log goes on, read up to where the image ends.
    pub segment: Option<SegmentBytes>,
}

impl Ballots {
    pub fn new(candidates: Vec<Candidate>, shards: u16) -> Self {
        let votes = candidates.iter().map(|_| Vote::default()).collect();
        Self { candidates, votes, shards }
    }

    /// Tiers that hold a set.
    fn tiers_of(&self, set: u64) -> impl Iterator<Item = ImageTier> {
        self.candidates.iter().filter(move |c| c.set == set).map(|c| c.tier)
    }
}

/// The shard as the newest good set has it; `None`: there is none, the log is read from its start.
pub(crate) async fn start<D: Disk>(
    images: &Images,
    recovery: &mut Recovery<D>,
    config: ShardConfig,
    status: &Arc<Status>,
) -> Result<Option<Started>, ShardsError> {
    let ballots = &images.ballots;
    for (candidate, vote) in ballots.candidates.iter().zip(&ballots.votes) {
        let tried = try_image(candidate, recovery, config, status).await?;
        let counters = &status.shards()[config.me.index()];
        match &tried {
            Ok(_) => vote.good.fetch_add(1, Ordering::AcqRel),
            Err(reason) => {
                Counters::add(&counters.images_refused, 1);
                log::warn!(
                    "shard {}: its image in the {} tier, set {:016x}, is refused: {reason}",
                    config.me.0,
                    candidate.tier.as_str(),
                    candidate.set
                );
                vote.bad.fetch_add(1, Ordering::AcqRel)
            }
        };
        if !is_elected(vote, ballots.shards, status).await {
            continue;
        }
        if let Ok(started) = tried {
            ballots.tiers_of(candidate.set).for_each(|tier| images.note_start(tier));
            counters.image_tier.store(1 + candidate.tier as u64, Ordering::Relaxed);
            return Ok(Some(started));
        }
    }
    recovery.rewind();
    Ok(None)
}

/// Waits until every shard has voted, or one can't start at all.
async fn is_elected(vote: &Vote, shards: u16, status: &Status) -> bool {
    loop {
        let (good, bad) = (vote.good.load(Ordering::Acquire), vote.bad.load(Ordering::Acquire));
        if bad > 0 || status.life().is_told_to_stop() {
            return false;
        }
        if good == shards {
            return true;
        }
        sleep(LOOK).await;
    }
}

/// Reads an image and looks for its place in the log; the inner error says why it is refused.
async fn try_image<D: Disk>(
    candidate: &Candidate,
    recovery: &mut Recovery<D>,
    config: ShardConfig,
    status: &Arc<Status>,
) -> Result<Result<Started, String>, ShardsError> {
    let (header, image) = match read(candidate, config.me.0, status).await {
        Ok(read) => read,
        Err(unsound) => return Ok(Err(unsound.to_string())),
    };
    if header.set != candidate.set || header.shard != config.me.0 {
        return Ok(Err("it was exchanged for another".to_owned()));
    }
    Ok(match recovery.seek(&header).await? {
        Ok(segment) => Ok(Started { shard: Shard::from_image(config, image), segment }),
        Err(reason) => Err(reason.to_owned()),
    })
}

/// Reads on a thread of its own, so that this core serves meanwhile.
async fn read(
    candidate: &Candidate,
    shard: u16,
    status: &Arc<Status>,
) -> Result<(Header, ShardImage), Unsound> {
    let (sender, receiver) = flume::bounded(1);
    let (candidate, status) = (candidate.clone(), status.clone());
    std::thread::spawn(move || {
        let progress = &status.shards()[usize::from(shard)].progress;
        // The shard waits for this as long as it lives.
        let _ = sender.send(ImageStore::read(&candidate, shard, progress));
    });
    let gone = |_| Unsound::Content("its reader ended");
    receiver.recv_async().await.map_err(gone)?
}
