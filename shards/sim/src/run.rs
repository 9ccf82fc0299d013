//! One run: clients, crashes and audits, from one seed.
//!
//! *Invariants*: the same seed and options give the same run, to the last step; an audit looks at a
//! machine on which nothing is under way.
//!
//! *Not here*: what may be answered (`workload`), what the machine does (`machine`).

use std::collections::BTreeMap;

use engram_engine::life::run::{RunId, RunState, RunView};
use engram_engine::model::{LinkView, Memory, SpaceName};
use engram_engine::request::{Answer, Code, Direction, Request, Wait, With};
use engram_engine::shard::ConsolidateAsk;

use crate::machine::{Happened, Machine, Outcome, Started};
use crate::plan::{Options, Plan};
use crate::random::Random;
use crate::spaces::{self, Spaces, Window};
use crate::upkeep::Upkeep;
use crate::workload::{Asked, Shadow, Version, What, id, index_of, recall, token, units_of};

/// Longest time without an answer, in microseconds.
const SILENCE_US_MAX: u64 = 10_000_000;
/// A client that found no shard open looks again after this, in microseconds.
const CLOSED_US: u64 = 300;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations of clients that were begun.
    pub operations: u64,
    /// Crashes, power cuts and kills.
    pub crashes: u64,
    /// Logs that could not be written any more.
    pub poisonings: u64,
    /// Times that a log had no room on the disk for what waited.
    pub shortages: u64,
    /// Starts from images.
    pub image_starts: u64,
    /// Flipped bits because of which a start was refused.
    pub rot_found: u64,
    /// Logs of which segments were compacted.
    pub compactions: u64,
    /// Starts on another number of shards.
    pub reshardings: u64,
    /// Segments that were written to the cold tier.
    pub cold_stores: u64,
    /// Calls of the cold tier that failed.
    pub cold_failures: u64,
    /// Memories that were found merged into others, in audits.
    pub merged: u64,
    /// Audits of everything.
    pub audits: u64,
    /// A hash of all that happened.
    pub trace: u64,
}

/// What must never happen, and did.
#[derive(Clone, Debug)]
pub struct Violation {
    /// From which it happens again.
    pub seed: u64,
    /// After so many operations.
    pub operations: u64,
    /// What it is.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, operation {}: {}", self.seed, self.operations, self.what)
    }
}

/// Runs a seed.
///
/// # Errors
/// The first violation.
pub fn run(seed: u64, options: Options) -> Result<Report, Violation> {
    let plan = Plan::new(seed, options);
    let machine = Machine::new(&plan).map_err(|error| Violation {
        seed,
        operations: 0,
        what: format!("an empty disk is refused: {error}"),
    })?;
    let mut run = Run {
        random: Random::new(seed ^ 0x434C_4945),
        shadow: Shadow::new(plan.memories, plan.has_cold),
        under_way: BTreeMap::new(),
        next_operation: 1,
        crash_after: None,
        heard_us: 0,
        report: Report::default(),
        machine,
        plan,
    };
    run.go().map_err(|what| Violation { seed, operations: run.report.operations, what })?;
    run.report.shortages = run.machine.shortages();
    run.report.compactions = run.machine.compactions();
    run.report.reshardings = run.machine.reshardings();
    run.report.cold_stores = run.machine.cold_stores();
    run.report.cold_failures = run.machine.cold_failures();
    run.report.trace = run.machine.trace();
    Ok(run.report)
}

struct Run {
    plan: Plan,
    machine: Machine,
    random: Random,
    shadow: Shadow,
    under_way: BTreeMap<u64, Asked>,
    next_operation: u64,
    /// Steps until the machine crashes.
    crash_after: Option<u64>,
    /// When an answer came last.
    heard_us: u64,
    report: Report,
}

impl Run {
    fn go(&mut self) -> Result<(), String> {
        self.wake_clients();
        while self.report.operations < self.plan.operations {
            self.check_health()?;
            match self.machine.advance() {
                Happened::Client(client) => self.act(client)?,
                Happened::Within => {}
                Happened::Nothing => return Err(self.stuck()),
            }
            self.take_replies()?;
            self.maybe_crash()?;
        }
        self.quiesce()?;
        self.audit()?;
        self.crash()?;
        self.quiesce()?;
        self.audit()
    }

    fn stuck(&self) -> String {
        format!("no answer came to {:?}", self.under_way.values())
    }

    /// Answers come, and shards open, within a time; nothing is found damaged.
    fn check_health(&self) -> Result<(), String> {
        if let Some(damage) = self.machine.damage() {
            return Err(damage.to_owned());
        }
        let silence_us = self.machine.time_us() - self.heard_us;
        if silence_us > SILENCE_US_MAX { Err(self.stuck()) } else { Ok(()) }
    }

    fn say(&self, what: impl Fn() -> String) {
        if self.plan.narrate {
            println!("{}", what());
        }
    }

    fn wake_clients(&mut self) {
        for client in 0..self.plan.clients {
            let after = self.random.delay(self.plan.think_us);
            self.machine.wake_client(client, after);
        }
    }

    /// A client asks something, or everything stands still for an audit.
    fn act(&mut self, client: usize) -> Result<(), String> {
        let homes = self.machine.open_homes();
        if homes.is_empty() {
            self.machine.wake_client(client, CLOSED_US);
            return Ok(());
        }
        if self.random.below(400) == 0 {
            self.quiesce()?;
            self.audit()?;
            self.wake_clients();
            return Ok(());
        }
        if self.plan.clock_jumps && self.random.below(200) == 0 {
            self.jump_clock();
        }
        if self.plan.outage_every > 0 && self.random.below(self.plan.outage_every) == 0 {
            let is_up = self.machine.cold_is_up();
            self.machine.set_cold(!is_up);
        }
        if self.plan.images_every > 0 && self.random.below(self.plan.images_every) == 0 {
            self.machine.begin_images();
        }
        if self.plan.compact_every > 0 && self.random.below(self.plan.compact_every) == 0 {
            self.machine.begin_compaction();
        }
        let home = homes[self.random.index(homes.len())];
        self.ask(client, home);
        let poisoned = self.machine.is_poisoned();
        let every = if poisoned { 10 } else { self.plan.crash_every };
        if self.crash_after.is_none() && self.random.below(every) == 0 {
            self.crash_after = Some(self.random.below(60));
        }
        Ok(())
    }

    fn jump_clock(&mut self) {
        self.shadow.spaces.note_clock(self.machine.now());
        self.machine.jump_clock();
        let now = self.machine.now();
        self.shadow.spaces.note_clock(now);
        self.under_way.values_mut().for_each(|asked| asked.clock_min = asked.clock_min.min(now));
    }

    fn ask(&mut self, client: usize, home: u16) {
        let operation = self.next_operation;
        self.next_operation += 1;
        self.report.operations += 1;
        let wait = if self.random.permille(100) { Wait::Applied } else { Wait::Durable };
        let clock_min = self.machine.now();
        let mut what = self.shadow.draw(&mut self.random, clock_min);
        let sweeps = |what: &What| matches!(what, What::Upkeep(Upkeep::Sweep));
        if sweeps(&what) && self.under_way.values().any(|asked| sweeps(&asked.what)) {
            what = What::Upkeep(Upkeep::Expire);
        }
        let (begin, cold_failures) = (self.shadow.tick(), self.machine.cold_failures());
        let asked = Asked { operation, client, begin, clock_min, cold_failures, wait, what };
        self.shadow.begin(&asked);
        let mut request = self.shadow.request(&asked);
        if let Request::Sweep { listed } = &mut request {
            *listed = self.machine.list_cold();
        }
        self.say(|| format!("{} shard {home} is asked {asked:?}", asked.begin));
        self.under_way.insert(operation, asked);
        self.machine.request(home, operation, request);
    }

    fn take_replies(&mut self) -> Result<(), String> {
        for (ticket, outcome) in self.machine.take_replies() {
            self.heard_us = self.machine.time_us();
            let Some(asked) = self.under_way.remove(&ticket) else {
                return Err(format!("operation {ticket} was answered twice"));
            };
            self.note_outcome(ticket, &outcome);
            self.say(|| format!("{ticket} is answered {outcome:?}"));
            self.finish(&asked, &outcome)?;
            if ticket.is_multiple_of(16) {
                let begun = self.under_way.values().map(|asked| asked.begin).min();
                let oldest = begun.unwrap_or_else(|| self.shadow.tick());
                self.shadow.forget_hidden(oldest);
            }
            let after = self.random.delay(self.plan.think_us);
            self.machine.wake_client(asked.client, after);
        }
        Ok(())
    }

    fn finish(&mut self, asked: &Asked, outcome: &Outcome) -> Result<(), String> {
        self.shadow.spaces.note_clock(self.machine.now());
        if let Ok(Answer::Swept { unused, .. }) = outcome {
            self.machine.sweep_cold(unused);
        }
        self.shadow.finish(asked, outcome, self.machine.cold_failures())
    }

    fn note_outcome(&mut self, ticket: u64, outcome: &Outcome) {
        let what = match outcome {
            Ok(Answer::Recalled(recalled)) => recalled.memories.len() as u64,
            Ok(_) => 1 << 32,
            Err(rejection) => 2 << 32 | rejection.code as u64,
        };
        self.machine.note(&[9, ticket, what]);
    }

    fn maybe_crash(&mut self) -> Result<(), String> {
        match &mut self.crash_after {
            None => Ok(()),
            Some(0) => {
                self.crash()?;
                if self.random.permille(500) {
                    self.quiesce()?;
                    self.audit()?;
                }
                self.wake_clients();
                Ok(())
            }
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
        }
    }

    fn crash(&mut self) -> Result<(), String> {
        self.crash_after = None;
        self.heard_us = self.machine.time_us();
        self.report.crashes += 1;
        self.report.poisonings += u64::from(self.machine.is_poisoned());
        self.machine.crash();
        self.under_way.clear();
        self.shadow.crash();
        let mut started = self.machine.start();
        if started.is_err() && self.machine.mend_rot() {
            self.report.rot_found += 1;
            started = self.machine.start();
        }
        self.say(|| format!("a crash, then {started:?}"));
        let started = started.map_err(|error| format!("a sound log is refused: {error}"))?;
        self.report.image_starts += u64::from(started == Started::Images);
        if started == Started::Images {
            // What lies before an image is not read.
            self.machine.mend_rot();
        }
        Ok(())
    }

    /// Waits until nothing is under way; clients ask nothing meanwhile.
    fn quiesce(&mut self) -> Result<(), String> {
        self.heard_us = self.machine.time_us();
        loop {
            self.check_health()?;
            match self.machine.advance() {
                Happened::Client(_) | Happened::Within => {}
                Happened::Nothing => break,
            }
            for (ticket, outcome) in self.machine.take_replies() {
                self.heard_us = self.machine.time_us();
                let asked = self.under_way.remove(&ticket);
                let asked = asked.ok_or_else(|| format!("{ticket} was answered twice"))?;
                self.note_outcome(ticket, &outcome);
                self.say(|| format!("{ticket} is answered {outcome:?}"));
                self.finish(&asked, &outcome)?;
            }
        }
        if !self.machine.is_open() {
            return Err("a shard never hears of every other".to_owned());
        }
        if self.under_way.is_empty() { Ok(()) } else { Err(self.stuck()) }
    }

    /// Asks something and waits for the answer, while nobody else asks.
    fn call(&mut self, request: Request) -> Outcome {
        let homes = self.machine.open_homes();
        let home = homes[self.random.index(homes.len())];
        self.call_at(home, request)
    }

    fn call_at(&mut self, home: u16, request: Request) -> Outcome {
        let ticket = self.next_operation;
        self.next_operation += 1;
        self.machine.request(home, ticket, request);
        self.heard_us = self.machine.time_us();
        loop {
            self.check_health().expect("an audit is answered");
            if let Some((of, outcome)) = self.machine.take_replies().pop() {
                assert!(of == ticket, "nobody else asks");
                return outcome;
            }
            assert!(self.machine.advance() != Happened::Nothing, "every request is answered");
        }
    }

    /// Everything that there is, from all sides. A shard whose log can't be written knows of what
    /// will never be durable: it is started anew before.
    fn audit(&mut self) -> Result<(), String> {
        while self.machine.is_poisoned() {
            self.crash()?;
            self.quiesce()?;
        }
        self.report.audits += 1;
        self.machine.set_cold(true);
        let from = self.shadow.tick();
        let mut versions: BTreeMap<usize, Version> = BTreeMap::new();
        let mut links: BTreeMap<usize, Vec<LinkView>> = BTreeMap::new();
        for memory in 0..self.plan.memories {
            if let Some((version, views)) = self.audit_memory(memory, from)? {
                versions.insert(memory, version);
                links.insert(memory, views);
            }
        }
        self.audit_ends(&links)?;
        self.audit_spaces()?;
        self.audit_list(&versions)?;
        for (memory, version) in &versions {
            self.audit_recall(*memory, *version)?;
        }
        let undone = self.random.index(4 * Spaces::COUNT);
        if undone < Spaces::COUNT { self.audit_undo(undone) } else { Ok(()) }
    }

    /// A memory and all its links; settles what the shadow knows of them.
    fn audit_memory(
        &mut self,
        memory: usize,
        from: u64,
    ) -> Result<Option<(Version, Vec<LinkView>)>, String> {
        let request =
            Request::Read { space: SpaceName::default(), id: id(memory), with: With::ALL };
        let read: Option<Memory> = match self.call(request) {
            Ok(Answer::Memory(read)) => Some(*read),
            Err(rejection) if rejection.code == Code::NotFound => None,
            other => return Err(format!("m{memory} reads as {other:?}")),
        };
        let now = self.shadow.tick();
        let Some(read) = read else {
            self.shadow.settle(memory, None, &[], from, now)?;
            return Ok(None);
        };
        let version = self.shadow.check_memory(memory, &read, true, from, now)?;
        let (space, direction) = (SpaceName::default(), Direction::Both);
        let views = match self.call(Request::Links { space, id: id(memory), direction, kind: None })
        {
            Ok(Answer::Links(views)) => views,
            other => return Err(format!("the links of m{memory} read as {other:?}")),
        };
        let out: Vec<LinkView> = views.iter().filter(|v| v.from == id(memory)).cloned().collect();
        self.shadow.settle(memory, Some(version), &out, from, now)?;
        Ok(Some((version, views)))
    }

    /// Both ends of each link say the same of it.
    fn audit_ends(&mut self, links: &BTreeMap<usize, Vec<LinkView>>) -> Result<(), String> {
        let all = || links.iter().flat_map(|(of, views)| views.iter().map(move |view| (*of, view)));
        for (of, view) in all() {
            let (from, to) = (index_of(&view.from)?, index_of(&view.to)?);
            let other = if of == from { to } else { from };
            let live = links.contains_key(&to);
            if view.live != live {
                return Err(format!("m{to} exists: {live}, and m{of} says {view:?}"));
            }
            let same = |v: &LinkView| {
                (&v.from, &v.to, &v.kind, units_of(v.weight), v.automatic)
                    == (&view.from, &view.to, &view.kind, units_of(view.weight), view.automatic)
            };
            if live && !links.get(&other).is_some_and(|views| views.iter().any(same)) {
                return Err(format!("m{of} has {view:?}, and m{other} does not"));
            }
        }
        Ok(())
    }

    /// Every shard knows the same spaces; settles what the shadow knows of them.
    fn audit_spaces(&mut self) -> Result<(), String> {
        for space in 0..Spaces::COUNT {
            let from = self.shadow.tick();
            let mut known = Vec::new();
            for home in self.machine.open_homes() {
                let request = Request::ReadSpace { space: Spaces::name(space) };
                known.push(match self.call_at(home, request) {
                    Ok(_) => true,
                    Err(rejection) if rejection.code == Code::SpaceNotFound => false,
                    other => return Err(format!("space {space} reads as {other:?}")),
                });
            }
            let is_there = known.iter().any(|known| *known);
            if known.iter().any(|known| *known != is_there) {
                return Err(format!("shards know space {space}: {known:?}"));
            }
            let now = self.shadow.tick();
            self.shadow.spaces.check_one(space, is_there, from, now)?;
            self.shadow.spaces.all[space].exists.settle(is_there.then_some(()), now);
            self.report.merged += self.audit_space(space)?;
        }
        Ok(())
    }

    /// Consolidations are undone: nothing that they merged stays so.
    fn audit_undo(&mut self, space: usize) -> Result<(), String> {
        for run in self.consolidations(space) {
            let _begun = self.call(consolidate(space, ConsolidateAsk::Undo(run)));
            self.quiesce()?;
        }
        if self.machine.is_poisoned() || !self.consolidations(space).is_empty() {
            return Ok(());
        }
        match self.audit_space(space)? {
            0 => Ok(()),
            merged => Err(format!("{merged} memories of space {space} stay merged")),
        }
    }

    /// Consolidations of a space that are not undone.
    fn consolidations(&mut self, space: usize) -> Vec<RunId> {
        let Ok(Answer::Runs(runs)) = self.call(consolidate(space, ConsolidateAsk::Runs)) else {
            return Vec::new();
        };
        let counts = |view: &RunView| !view.dry_run && view.run.state != RunState::Undone;
        runs.into_iter().filter(counts).map(|view| view.run.id).collect()
    }

    /// The memories of a space; how many of them were merged into others.
    fn audit_space(&mut self, space: usize) -> Result<u64, String> {
        let (from, clock_min) = (self.shadow.tick(), self.machine.now());
        let name = Spaces::name(space);
        let mut read = Vec::new();
        for memory in 0..spaces::MEMORIES {
            let outcome = self.call(spaces::read(name.clone(), memory));
            read.push(spaces::read_in(memory, &outcome)?);
        }
        let listed = match self.call(spaces::list(name)) {
            Ok(Answer::Page { memories, .. }) => memories,
            Err(rejection) if rejection.code == Code::SpaceNotFound => Vec::new(),
            other => return Err(format!("the list of space {space} is {other:?}")),
        };
        let now = self.machine.now();
        self.shadow.spaces.note_clock(now);
        let merged = read.iter().flatten().filter(|memory| memory.merged_into.is_some()).count();
        let window = Window { from, to: self.shadow.tick(), clock_min };
        self.shadow.spaces.audit(space, &read, &listed, now, window)?;
        Ok(merged as u64)
    }

    fn audit_list(&mut self, versions: &BTreeMap<usize, Version>) -> Result<(), String> {
        let Ok(Answer::Page { memories, .. }) = self.call(spaces::list(SpaceName::default()))
        else {
            return Err("there is no list".to_owned());
        };
        let mut listed = BTreeMap::new();
        for read in memories {
            let memory = index_of(&read.id)?;
            let now = self.shadow.tick();
            listed.insert(memory, self.shadow.check_memory(memory, &read, false, now, now)?);
        }
        if listed == *versions {
            return Ok(());
        }
        Err(format!("{versions:?} are there, {listed:?} are listed"))
    }

    /// What is there is found by the word that it alone holds.
    fn audit_recall(&mut self, memory: usize, version: Version) -> Result<(), String> {
        let outcome = self.call(recall(SpaceName::default(), &token(version), None, 60_000));
        let Ok(Answer::Recalled(recalled)) = &outcome else {
            return Err(format!("a recall was answered {outcome:?}"));
        };
        let now = self.shadow.tick();
        for found in &recalled.memories {
            let found_memory = index_of(&found.memory.id)?;
            self.shadow.check_memory(found_memory, &found.memory, false, now, now)?;
        }
        if recalled.memories.first().is_some_and(|found| found.memory.id == id(memory)) {
            return Ok(());
        }
        Err(format!("m{memory} is not found by `{}`: {recalled:?}", token(version)))
    }
}

fn consolidate(space: usize, ask: ConsolidateAsk) -> Request {
    Request::Consolidate { space: Spaces::name(space), ask }
}
