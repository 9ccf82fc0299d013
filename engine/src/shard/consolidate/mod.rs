//! Consolidation of a space: what says the same is merged, weak automatic links are pruned, what is
//! little present is demoted.
//!
//! One shard, the authority, leads a run in slices: it asks owners for memories, every shard for what is
//! near to them, compares what they say, and asks owners to merge. Each merge is one record of one
//! shard, so that wherever a run is interrupted every memory is as before or merged.
//!
//! *Invariants*: one run at a time in a space; a run does one thing at a time, in slices that wait
//! for whatever clients ask; nothing is merged into what is not there as it was when it was compared.
//!
//! *Not here*: what an owner does (`owner`), which of what says the same is merged (`group`), what a merged
//! memory is (`space::merged`).

mod group;
mod owner;
mod run;
mod sightings;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::key::{MemoryKey, ShardIx};
use crate::life::run::{Merge, Prune, Run, RunId, RunState, RunView};
use crate::mesh::{Ask, OpId, Reply};
use crate::model::{MemoryId, SpaceName, Timestamp};
use crate::record::{Contents, SpaceNumber};
use crate::request::{Answer, Code, Rejection};

use super::home::Then;
use super::{AUTHORITY, Shard, Ticket};

pub(super) use owner::{NearSearch, ReturnFor};
use run::Beginning;
pub(super) use run::{Awaited, UnderWay};

/// Runs of one space that are remembered.
const RUNS_MAX: usize = 100;
/// Merges, and as many memories with pruned links or demoted, that the view of a run lists.
const LISTED_MAX: usize = 10_000;

/// What is asked for a consolidation.
#[derive(Clone, Debug)]
pub enum ConsolidateAsk {
    /// To the authority: begin.
    Start { threshold: f32, dry_run: bool },
    /// To the authority: every run of the space.
    Runs,
    /// To the authority: one run.
    One(RunId),
    /// To the authority: take back what a run did.
    Undo(RunId),
    /// What the words of some memories come to, or their vectors.
    Scan(ScanOf),
    /// What is near to these.
    Near(Arc<Vec<Pattern>>),
    /// Memories, whole or only what is known of them without reading.
    Read { keys: Vec<MemoryKey>, whole: bool },
    /// Merge memories of the receiver into others.
    Merge(RunId, Vec<MergeItem>),
    /// Prune the links of some memories, or say how many would go.
    Prune { run: RunId, dry_run: bool, from: u32 },
    /// Which memories have a base level below this.
    Faded { threshold: f32, from: u32 },
    /// Bring some of what a run merged or demoted back.
    Return(RunId),
    /// What a run did.
    Deeds(RunId),
}

impl ConsolidateAsk {
    /// It changes what the receiver holds.
    pub fn changes(&self) -> bool {
        match self {
            Self::Start { .. } | Self::Undo(_) | Self::Merge(..) | Self::Return(_) => true,
            Self::Prune { dry_run, .. } => !dry_run,
            Self::Runs | Self::One(_) | Self::Scan(_) | Self::Near(_) => false,
            Self::Read { .. } | Self::Faded { .. } | Self::Deeds(_) => false,
        }
    }
}

/// Which memories are scanned, and for what.
#[derive(Clone, Debug)]
pub enum ScanOf {
    /// The words of the next from this node on.
    From(u32),
    /// The vectors of these, as far as they exist.
    Vectors(Vec<MemoryKey>),
}

/// What something near is looked for.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The memory.
    pub key: MemoryKey,
    /// Its vector.
    pub vector: Vec<f32>,
    /// How many near to it are wanted.
    pub count: usize,
}

/// One memory to be merged into another.
#[derive(Clone, Debug)]
pub struct MergeItem {
    /// It.
    pub key: MemoryKey,
    /// When it was last written.
    pub version: Timestamp,
    /// The other.
    pub into: MemoryKey,
    /// Its id.
    pub into_id: MemoryId,
    /// When that one was last written.
    pub into_version: Timestamp,
}

/// What is replied to a [`ConsolidateAsk`].
#[derive(Debug)]
pub enum ConsolidateReply {
    /// One run.
    Run(Box<RunView>),
    /// Runs, newest first.
    Runs(Vec<RunView>),
    /// See [`Scanned`].
    Scanned(Scanned),
    /// For each pattern, what is near to it, nearest first.
    Near(Vec<Vec<MemoryKey>>),
    /// Which were merged.
    Merged(Vec<MemoryKey>),
    /// How many links went, by a dry run also of which memories, and where the next begin.
    Pruned { links: u64, of: Vec<(MemoryId, u32)>, next: Option<u32> },
    /// Memories that are little present, and where the next begin.
    Faded { memories: Vec<(MemoryKey, MemoryId)>, next: Option<u32> },
    /// Some came back, and whether there are more.
    Returned { more: bool },
    /// What a run did.
    Deeds(Deeds),
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Memories that were looked at.
    pub count: u64,
    /// What the words of those with a text come to.
    pub texts: Vec<Seen>,
    /// Vectors, where they were asked for.
    pub vectors: Vec<(MemoryKey, Vec<f32>)>,
    /// Where the next memories begin.
    pub next: Option<u32>,
}

/// A memory whose words were looked at.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// It.
    pub key: MemoryKey,
    /// The same for all with the same words.
    pub fingerprint: u64,
    /// It has a vector, and so many words that others may say the same in a few more.
    pub is_long: bool,
}

/// What a run did, or would do, as far as it is listed.
#[derive(Clone, Debug, Default)]
pub struct Deeds {
    /// What was merged, into what.
    merges: Vec<(MemoryId, MemoryId)>,
    /// How many links of which memories were pruned.
    prunes: Vec<(MemoryId, u32)>,
    /// What was demoted.
    demotions: Vec<MemoryId>,
    /// There is more of something.
    more: bool,
}

impl Deeds {
    fn merge(&mut self, goes: MemoryId, into: MemoryId) {
        self.more |= self.merges.len() >= LISTED_MAX;
        if self.merges.len() < LISTED_MAX {
            self.merges.push((goes, into));
        }
    }

    fn prune(&mut self, from: MemoryId, links: u32) {
        self.more |= self.prunes.len() >= LISTED_MAX;
        if self.prunes.len() < LISTED_MAX {
            self.prunes.push((from, links));
        }
    }

    fn demote(&mut self, id: MemoryId) {
        self.more |= self.demotions.len() >= LISTED_MAX;
        if self.demotions.len() < LISTED_MAX {
            self.demotions.push(id);
        }
    }

    fn add(&mut self, other: Self) {
        self.more |= other.more;
        other.merges.into_iter().for_each(|(goes, into)| self.merge(goes, into));
        other.prunes.into_iter().for_each(|(from, links)| self.prune(from, links));
        other.demotions.into_iter().for_each(|id| self.demote(id));
    }

    /// Puts merged memories under what they were merged into, and all in the order of ids.
    fn list(mut self, view: &mut RunView) {
        let mut by_target: BTreeMap<MemoryId, Vec<MemoryId>> = BTreeMap::new();
        for (merged, into) in self.merges {
            by_target.entry(into).or_default().push(merged);
        }
        let merge = |(into, mut merged): (MemoryId, Vec<MemoryId>)| {
            merged.sort_unstable();
            Merge { into, merged }
        };
        view.merges = by_target.into_iter().map(merge).collect();
        self.prunes.sort_unstable();
        view.prunes = self.prunes.into_iter().map(|(from, links)| Prune { from, links }).collect();
        self.demotions.sort_unstable();
        view.demotions = self.demotions;
        view.more = self.more;
    }
}

/// The runs that the authority knows of.
#[derive(Default)]
pub(super) struct Runs {
    over: BTreeMap<SpaceNumber, Vec<Run>>,
    under_way: BTreeMap<SpaceNumber, Box<UnderWay>>,
}

impl Runs {
    /// A space is gone with its runs.
    pub(super) fn forget(&mut self, space: SpaceNumber) {
        self.over.remove(&space);
        self.under_way.remove(&space);
    }

    /// What a log or image says of a run.
    pub(super) fn set(&mut self, space: SpaceNumber, run: Run) {
        let runs = self.over.entry(space).or_default();
        match runs.iter_mut().find(|known| known.id == run.id) {
            Some(known) => *known = run,
            None => runs.push(run),
        }
        if runs.len() > RUNS_MAX {
            runs.remove(0);
        }
    }

    /// Runs that were under way when the server stopped are not any more.
    pub(super) fn interrupted(&mut self) {
        for run in self.over.values_mut().flatten().filter(|run| run.state.is_under_way()) {
            run.state = RunState::Stopped;
        }
    }

    /// All that are known, by space.
    pub(super) fn all(&self) -> impl Iterator<Item = (SpaceNumber, &Run)> {
        let over = self.over.iter().flat_map(|(space, runs)| runs.iter().map(|run| (*space, run)));
        let under_way = self.under_way.iter().filter(|(_, run)| run.is_written_down());
        over.chain(under_way.map(|(space, run)| (*space, &run.run)))
    }
}

/// What a shard has done with its memories since the server started, and the runs that it leads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lives {
    /// Memories merged into others.
    pub merged: u64,
    /// Links pruned.
    pub pruned: u64,
    /// Memories demoted, by consolidations and clients.
    pub demoted: u64,
    /// Memories that came back from the cold tier.
    pub promoted: u64,
    /// Runs that ended, or were undone, by the number of their state.
    pub runs: [u64; RunState::ALL.len()],
}

impl Shard {
    /// What it has done with its memories.
    pub fn lives(&self) -> Lives {
        self.lives
    }

    /// Share of the run under way that is done, 0 to 1: of the one that is furthest behind. `None`
    /// where this shard leads none.
    pub fn run_progress(&self) -> Option<f64> {
        let under_way = self.runs.under_way.values().filter(|run| run.run.state.is_under_way());
        under_way.map(|run| run.progress()).min_by(f64::total_cmp)
    }

    /// Some space is being consolidated, or a consolidation taken back.
    pub fn is_consolidating(&self) -> bool {
        self.runs.under_way.values().any(|run| run.run.state.is_under_way())
    }

    /// The run is one of those that are remembered.
    pub(super) fn knows_run(&self, space: SpaceNumber, run: RunId) -> bool {
        self.runs.all().any(|(of, known)| of == space && known.id == run)
    }

    /// Starts what a client asks of the authority.
    pub(super) fn start_consolidate(
        &mut self,
        ticket: Ticket,
        space: SpaceName,
        ask: ConsolidateAsk,
    ) -> Result<(), Rejection> {
        self.space(&space)?;
        let asks = vec![(AUTHORITY, Ask::Consolidate(space.clone(), ask))];
        self.start(Some(ticket), Then::Consolidation(space), asks);
        Ok(())
    }

    /// The authority has answered: of one run it is said what it merged.
    pub(super) fn consolidation_answered(
        &mut self,
        ticket: Option<Ticket>,
        space: SpaceName,
        replies: Vec<(ShardIx, Reply)>,
    ) {
        match consolidated(replies).next() {
            Some((_, ConsolidateReply::Runs(runs))) => {
                self.answer(ticket, Ok(Answer::Runs(runs)));
            }
            Some((_, ConsolidateReply::Run(view))) if !view.dry_run => {
                let id = view.run.id;
                let asks = (0..self.partitioner.shards()).map(|shard| {
                    let ask = ConsolidateAsk::Deeds(id);
                    (ShardIx(shard), Ask::Consolidate(space.clone(), ask))
                });
                let asks = asks.collect();
                self.start(ticket, Then::ConsolidationDeeds(view), asks);
            }
            Some((_, ConsolidateReply::Run(view))) => self.answer(ticket, Ok(Answer::Run(view))),
            other => unreachable!("runs were asked for, not {other:?}"),
        }
    }

    /// Every shard has said what a run did.
    pub(super) fn deeds_answered(
        &mut self,
        ticket: Option<Ticket>,
        mut view: Box<RunView>,
        replies: Vec<(ShardIx, Reply)>,
    ) {
        let mut deeds = Deeds::default();
        for (_, reply) in consolidated(replies) {
            match reply {
                ConsolidateReply::Deeds(of_shard) => deeds.add(of_shard),
                other => unreachable!("deeds were asked for, not {other:?}"),
            }
        }
        deeds.list(&mut view);
        self.answer(ticket, Ok(Answer::Run(view)));
    }

    /// What the authority does when it is asked.
    pub(super) fn authorise(
        &mut self,
        from: ShardIx,
        op: OpId,
        space: &SpaceName,
        ask: ConsolidateAsk,
    ) {
        assert!(self.me == AUTHORITY, "one shard leads consolidations");
        let replied = match ask {
            ConsolidateAsk::Start { threshold, dry_run } => {
                self.begin_run(space, threshold, dry_run)
            }
            ConsolidateAsk::Undo(id) => self.begin_undo(space, id),
            ConsolidateAsk::One(id) => {
                self.run_view(space, id).map(|view| ConsolidateReply::Run(Box::new(view)))
            }
            ConsolidateAsk::Runs => self.run_views(space).map(ConsolidateReply::Runs),
            other => unreachable!("owners are asked for {other:?}"),
        };
        match replied {
            Ok(reply) => self.reply_when_durable(from, op, Reply::Consolidated(reply)),
            Err(rejection) => self.reply(from, op, Err(rejection)),
        }
    }

    fn begin_run(
        &mut self,
        space: &SpaceName,
        threshold: f32,
        dry_run: bool,
    ) -> Result<ConsolidateReply, Rejection> {
        let number = self.check_may_begin(space, dry_run)?;
        let run = self.new_run(threshold);
        if !dry_run {
            self.append(&Contents::Run { space: number, run: run.clone() }, None);
        }
        let under_way = self.under_way(space, run, dry_run);
        let view = under_way.view();
        self.runs.under_way.insert(number, Box::new(under_way));
        Ok(ConsolidateReply::Run(Box::new(view)))
    }

    fn new_run(&mut self, threshold: f32) -> Run {
        let started_at = self.stamp();
        Run {
            id: RunId(started_at.0.cast_unsigned()),
            started_at,
            finished_at: None,
            state: RunState::Running,
            threshold,
            counts: Default::default(),
        }
    }

    fn begin_undo(&mut self, space: &SpaceName, id: RunId) -> Result<ConsolidateReply, Rejection> {
        let number = self.check_may_begin(space, false)?;
        let known = self.runs.over.get(&number).and_then(|runs| runs.iter().find(|r| r.id == id));
        let mut run = known.cloned().ok_or_else(no_run)?;
        (run.state, run.finished_at) = (RunState::Undoing, None);
        self.append(&Contents::Run { space: number, run: run.clone() }, None);
        let under_way = self.under_way(space, run, false);
        let view = under_way.view();
        self.runs.under_way.insert(number, Box::new(under_way));
        Ok(ConsolidateReply::Run(Box::new(view)))
    }

    fn under_way(&self, space: &SpaceName, run: Run, dry_run: bool) -> UnderWay {
        let (space, demotes, durable_at) = (space.clone(), self.demotes, self.sequence);
        let beginning = Beginning { space, run, dry_run, demotes, durable_at };
        UnderWay::new(self.partitioner, beginning)
    }

    fn check_may_begin(&self, space: &SpaceName, dry_run: bool) -> Result<SpaceNumber, Rejection> {
        let number = self.space(space)?.number;
        let under_way = self.runs.under_way.get(&number);
        if let Some(other) = under_way.filter(|other| other.run.state.is_under_way()) {
            let detail = format!(
                "consolidation {} of this space is under way; wait until it is over",
                other.run.id
            );
            return Err(Rejection::new(Code::ConsolidationRunning, detail));
        }
        if !dry_run {
            self.check_writable()?;
        }
        if self.draining {
            return Err(Rejection::new(Code::Unavailable, "the server stops"));
        }
        Ok(number)
    }

    fn run_view(&self, space: &SpaceName, id: RunId) -> Result<RunView, Rejection> {
        self.run_views(space)?.into_iter().find(|view| view.run.id == id).ok_or_else(no_run)
    }

    /// Runs of a space, newest first.
    fn run_views(&self, space: &SpaceName) -> Result<Vec<RunView>, Rejection> {
        let number = self.space(space)?.number;
        let newest = self.runs.under_way.get(&number);
        let mut views: Vec<RunView> = newest.map(|run| run.view()).into_iter().collect();
        let over = self.runs.over.get(&number).into_iter().flatten().rev();
        let over = over.filter(|run| newest.is_none_or(|newest| newest.run.id != run.id));
        views.extend(over.map(|run| RunView::over(space.clone(), run.clone())));
        Ok(views)
    }

    /// The server stops: a run ends where it is.
    pub(super) fn stop_runs(&mut self) {
        self.draining = true;
        let numbers: Vec<SpaceNumber> = self.runs.under_way.keys().copied().collect();
        for number in numbers {
            self.end_run(number, RunState::Stopped, None);
        }
    }

    /// The server stops and every shard is drained: weak links go in the spaces that were consolidated,
    /// unless the last run there was taken back.
    pub(super) fn begin_last_runs(&mut self) {
        assert!(self.draining, "a server that goes on consolidates when it is asked to");
        if self.me != AUTHORITY || self.check_writable().is_err() || !self.budget.background {
            return;
        }
        let is_wanted = |runs: &Vec<Run>| match runs.last().map(|run| run.state) {
            Some(RunState::Done | RunState::Stopped) => true,
            Some(RunState::Running | RunState::Failed | RunState::Undoing | RunState::Undone) => {
                false
            }
            None => false,
        };
        let wanted = self.runs.over.iter().filter(|(_, runs)| is_wanted(runs));
        let wanted: Vec<SpaceNumber> = wanted.map(|(number, _)| *number).collect();
        for number in wanted {
            let Some(name) = self.name_of(number) else { continue };
            // Nothing has a base level below this.
            let run = self.new_run(0.0);
            let under_way = UnderWay::last(self.partitioner, Beginning::last(name, run));
            self.runs.under_way.insert(number, Box::new(under_way));
        }
    }

    /// A run is over.
    fn end_run(&mut self, number: SpaceNumber, state: RunState, reason: Option<String>) {
        let now = self.stamp();
        let Some(under_way) = self.runs.under_way.get_mut(&number) else { return };
        if !under_way.run.state.is_under_way() {
            return;
        }
        under_way.end(state, reason, now);
        let (run, dry_run) = (under_way.run.clone(), under_way.dry_run);
        if !dry_run {
            self.lives.runs[state as usize] += 1;
            self.runs.set(number, run.clone());
            if !self.poisoned {
                self.append(&Contents::Run { space: number, run }, None);
            }
        }
    }
}

fn consolidated(
    replies: Vec<(ShardIx, Reply)>,
) -> impl Iterator<Item = (ShardIx, ConsolidateReply)> {
    replies.into_iter().map(|(shard, reply)| match reply {
        Reply::Consolidated(reply) => (shard, reply),
        other => unreachable!("a consolidation asked, and got {other:?}"),
    })
}

fn no_run() -> Rejection {
    Rejection::new(Code::NotFound, "there is no consolidation with this id in this space")
}
