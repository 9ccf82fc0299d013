//! What the process's budgets of memory and disk leave to each shard, as it is told to all of them.
//!
//! *Invariants*: a shard hears of each change in order; a shard that does not listen is told again.
//!
//! *Not here*: deciding (`engram_platform`), refusing (`engram_engine::shard`).

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use engram_engine::phase::Phase;
use engram_engine::shard::{Budget, Event, LogRoom};
use flume::{Receiver, Sender};

use crate::core::Core;
use crate::error::ShardsError;

/// Changes that wait for a shard to hear of them.
const CHANGES_MAX: usize = 8;

/// What a shard may do and hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Writes and background work.
    pub budget: Budget,
    /// What is taken from the size of the record cache, in units of 1/1000.
    pub cache_less_permille: u16,
    /// The heap gives empty pages back now.
    pub give_back: bool,
}

/// The way to tell every shard.
#[derive(Debug)]
pub struct Rooms {
    senders: Vec<Sender<Room>>,
    told: Mutex<Vec<Room>>,
}

impl Rooms {
    pub(crate) fn new(shards: u16) -> (Self, Vec<Receiver<Room>>) {
        let (senders, receivers) = (0..shards).map(|_| flume::bounded(CHANGES_MAX)).unzip();
        let told = vec![Room::default(); usize::from(shards)];
        (Self { senders, told: Mutex::new(told) }, receivers)
    }

    /// Tells every shard that does not know yet; one whose queue is full hears of it next time.
    pub fn tell(&self, room: Room) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (sender, told) in self.senders.iter().zip(told.iter_mut()) {
            if (*told != room || room.give_back) && sender.try_send(room).is_ok() {
                *told = room;
            }
        }
    }
}

impl Core {
    /// Obeys changes as they come.
    pub(crate) async fn run_room(self: Rc<Self>, changes: Receiver<Room>) {
        while let Ok(room) = changes.recv_async().await {
            self.shrink_cache(room.cache_less_permille);
            if room.give_back {
                engram_platform::give_back_heap();
            }
            self.drive(Event::Budget(room.budget));
        }
    }

    /// Sets room aside for the next segment of the log, and notes whether there is any.
    ///
    /// # Errors
    /// [`ShardsError::Io`]: the disk fails.
    pub(crate) async fn look_for_room(self: &Rc<Self>) -> Result<(), ShardsError> {
        match self.log.keep_spare().await {
            Ok(()) => self.note_room(LogRoom::Enough, None),
            Err(error @ ShardsError::Room { .. }) => self.note_room(LogRoom::Last, Some(&error)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What is appended to the log will be on the disk.
    pub(crate) fn can_write(&self) -> bool {
        self.counters().phase() != Phase::Poisoned && self.log_room.get() != LogRoom::None
    }

    /// What the log finds on the disk for its next segment may have changed.
    pub(crate) fn note_room(self: &Rc<Self>, room: LogRoom, why: Option<&ShardsError>) {
        if self.log_room.replace(room) == room {
            return;
        }
        let (me, why) = (self.me.0, why.map(ToString::to_string).unwrap_or_default());
        match room {
            LogRoom::Enough => log::info!("shard {me} takes all writes: its log has room"),
            LogRoom::Last => log::warn!("shard {me} takes only what frees room: {why}"),
            LogRoom::None => log::error!("shard {me} takes no writes until there is room: {why}"),
        }
        self.counters().log_room.store(room as u64, Ordering::Relaxed);
        self.drive(Event::LogRoom(room));
    }
}
