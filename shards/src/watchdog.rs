//! A thread that wakes a shard which sleeps on work.
//!
//! *Invariants*: a shard that serves is woken only where it had something to do at two looks and did
//! nothing in between; one that does not serve yet has something to do at all times, and is woken at
//! every look; waking one that runs changes nothing; an idle server is looked at four times a second.
//!
//! *Not here*: work that takes long (`stall`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engram_engine::phase::Phase;
use flume::{Receiver, Sender};

use crate::mesh::Delivery;
use crate::status::{Counters, Status};

/// How often shards are looked at: a shard with operations under way does something each 5 ms.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the watchdog knows of one shard.
struct Watched {
    inbox: Sender<Delivery>,
    alarm: Sender<()>,
    /// Steps that it had taken at the last look, where it had something to do then.
    busy_at: Option<u64>,
}

impl Watched {
    /// It had something to do, has it still, and has done nothing.
    fn sleeps(&mut self, counters: &Counters) -> bool {
        let steps = counters.steps.load(Ordering::Relaxed);
        let has_work = !self.inbox.is_empty() || counters.busy.load(Ordering::Relaxed) > 0;
        let sleeps = has_work && self.busy_at == Some(steps);
        self.busy_at = has_work.then_some(steps);
        sleeps
    }
}

/// Starts to look after shards with these inboxes; each has to listen to its alarm.
pub(crate) fn start(status: Arc<Status>, inboxes: &[Sender<Delivery>]) -> Vec<Receiver<()>> {
    let (watched, alarms): (Vec<Watched>, Vec<Receiver<()>>) = inboxes
        .iter()
        .map(|inbox| {
            let (alarm, heard) = flume::bounded(1);
            (Watched { inbox: inbox.clone(), alarm, busy_at: None }, heard)
        })
        .unzip();
    let looking = std::thread::Builder::new().name("watchdog".to_owned());
    // Without it everything works but the cure of a rare fault.
    if let Err(error) = looking.spawn(move || look(&status, watched)) {
        log::warn!("shards that sleep on work are not woken: {error}");
    }
    alarms
}

fn look(status: &Status, mut watched: Vec<Watched>) {
    while status.shards().iter().any(|shard| shard.phase() != Phase::Stopped) {
        std::thread::sleep(LOOK_EVERY);
        for (shard, (watched, counters)) in watched.iter_mut().zip(status.shards()).enumerate() {
            let rises = counters.phase() < Phase::Running;
            let sleeps = watched.sleeps(counters) && !rises;
            if sleeps {
                log::warn!("shard {shard} sleeps on work: it is woken");
            }
            if rises || sleeps {
                let _ = watched.alarm.try_send(());
            }
        }
    }
}

/// Runs on the shard from its first moment: that the alarm wakes it is all that it is for.
pub(crate) async fn listen(alarm: Receiver<()>, status: Arc<Status>, shard: usize) {
    let counters = &status.shards()[shard];
    while alarm.recv_async().await.is_ok() {
        if counters.phase() >= Phase::Running {
            Counters::add(&counters.woken, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_sleeps_on_work_where_it_takes_no_step_between_two_looks() {
        let (inbox, _deliveries) = flume::bounded(1);
        let (alarm, _heard) = flume::bounded(1);
        let counters = Counters::default();
        let mut watched = Watched { inbox, alarm, busy_at: None };
        let mut seen = Vec::new();
        // Steps that it takes, and operations under way, before each look.
        for (steps, busy) in [(0, 0), (0, 0), (0, 1), (5, 1), (0, 1), (0, 1), (0, 0), (0, 1)] {
            Counters::add(&counters.steps, steps);
            counters.busy.store(busy, Ordering::Relaxed);
            seen.push(watched.sleeps(&counters));
        }
        assert_eq!(seen, [false, false, false, false, true, true, false, false]);
    }
}
