//! Spaces that come and go, with a few memories each that say the same now and then, and expire.
//!
//! *Invariants*: as in `model`; a space is dropped with all that is in it, and comes into being by
//! the first store in it. What has expired is read no more, whether it was cleared away or not. What
//! was merged into another is read by its own id as before, and not listed.
//!
//! *Not here*: the default space (`workload`).

use std::collections::{BTreeMap, BTreeSet};

use engram_engine::model::{Memory, SpaceConfig, SpaceName, Timestamp};
use engram_engine::request::{Answer, Code, Rejection, Request, SpaceView, StoreMode, Wait, With};

use crate::machine::Outcome;
use crate::model::{Moment, Register};
use crate::random::Random;
use crate::workload::{
    Version, id, index_of, is_unwritten, memory_of, recall, token, version_read,
};

/// Memories of each space.
pub const MEMORIES: usize = 4;
const NAMES: [&str; 2] = ["left", "right"];
/// Times after which memories expire, in microseconds.
const LIVES_US: [i64; 4] = [300, 3000, 20_000, 3_600_000_000];
/// Versions that are stored once more under another id.
const RECENT_MAX: usize = 3;

/// What a memory of a space is: its version, and until when it is.
pub type Value = (Version, Option<Timestamp>);

/// One operation within a space.
#[derive(Clone, Debug)]
pub enum Act {
    /// Create it.
    Put,
    /// Forget it with all that is in it.
    Drop,
    /// Store a memory; the space comes into being by that.
    Store { memory: usize, value: Value },
    /// Forget one.
    Delete { memory: usize },
    /// Read one.
    Read { memory: usize },
    /// All of them.
    List,
    /// Recall by the word of a version.
    Recall { version: Version },
}

/// When an operation was under way: moments of the run, and the earliest that a clock showed.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// It began.
    pub from: Moment,
    /// It ended.
    pub to: Moment,
    /// No clock showed less meanwhile.
    pub clock_min: Timestamp,
}

/// One space.
#[derive(Default)]
pub struct SpaceShadow {
    /// Whether it exists.
    pub exists: Register<()>,
    /// Its memories.
    pub memories: [Register<Value>; MEMORIES],
    /// Versions, and the memories that they were first stored as.
    stored: BTreeMap<Version, usize>,
    recent: Vec<Version>,
    /// Versions that more than one memory was stored as.
    shared: BTreeSet<Version>,
}

/// The spaces beside the default one.
#[derive(Default)]
pub struct Spaces {
    /// By number.
    pub all: [SpaceShadow; NAMES.len()],
    /// The latest that a clock has shown.
    clock_max: Timestamp,
}

impl Spaces {
    /// How many there are.
    pub const COUNT: usize = NAMES.len();

    /// The name of a space.
    pub fn name(space: usize) -> SpaceName {
        SpaceName::new(NAMES[space]).expect("valid")
    }

    /// A clock shows this.
    pub fn note_clock(&mut self, now: Timestamp) {
        self.clock_max = self.clock_max.max(now);
    }

    /// Draws an operation; `version` is one that was not used yet.
    pub fn draw(&self, random: &mut Random, space: usize, version: Version, now: Timestamp) -> Act {
        let recent = &self.all[space].recent;
        let again = |random: &mut Random| match recent.len() {
            0 => version,
            count => recent[random.index(count)],
        };
        let memory = random.index(MEMORIES);
        match random.below(40) {
            0 => Act::Put,
            1 => Act::Drop,
            2..=17 => {
                let version = if random.permille(400) { again(random) } else { version };
                let life = LIVES_US[random.index(LIVES_US.len())];
                let expires = random.permille(300).then_some(Timestamp(now.0 + life));
                Act::Store { memory, value: (version, expires) }
            }
            18..=21 => Act::Delete { memory },
            22..=31 => Act::Read { memory },
            32..=35 => Act::List,
            _ => Act::Recall { version: again(random) },
        }
    }

    /// The request of an operation.
    pub fn request(space: usize, act: &Act, wait: Wait) -> Request {
        let space = Self::name(space);
        match act {
            Act::Put => Request::PutSpace { space, config: SpaceConfig::default() },
            Act::Drop => Request::DropSpace { space },
            Act::Store { memory, value: (version, expires_at) } => {
                let mut stored = memory_of(*memory, *version, None);
                stored.expires_at = *expires_at;
                Request::Store { space, memories: vec![stored], mode: StoreMode::Upsert, wait }
            }
            Act::Delete { memory } => Request::Delete { space, id: id(*memory), wait },
            Act::Read { memory } => read(space, *memory),
            Act::List => list(space),
            Act::Recall { version } => recall(space, &token(*version), None, 1000),
        }
    }

    /// An operation begins.
    pub fn begin(&mut self, space: usize, act: &Act, operation: u64, now: Moment) {
        let shadow = &mut self.all[space];
        match act {
            Act::Put => shadow.exists.begin(operation, Some(()), now),
            Act::Drop => {
                shadow.exists.begin(operation, None, now);
                shadow.memories.iter_mut().for_each(|m| m.begin(operation, None, now));
            }
            Act::Store { memory, value } => {
                shadow.exists.begin(operation, Some(()), now);
                shadow.memories[*memory].begin(operation, Some(*value), now);
                shadow.note_stored(value.0, *memory);
            }
            Act::Delete { memory } => shadow.memories[*memory].begin(operation, None, now),
            Act::Read { .. } | Act::List | Act::Recall { .. } => {}
        }
    }

    /// An operation was answered.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn finish(
        &mut self,
        (space, act): (usize, &Act),
        operation: u64,
        outcome: &Outcome,
        window: Window,
    ) -> Result<(), String> {
        let now = window.to;
        match (act, outcome) {
            (Act::Put, Ok(Answer::Spaces(_))) => {
                self.all[space].exists.written(operation, true, now);
                Ok(())
            }
            // It was dropped before it was read back.
            (Act::Put, Err(rejection)) if rejection.code == Code::SpaceNotFound => Ok(()),
            (Act::Drop | Act::Delete { .. }, Ok(Answer::Deleted { durable })) => {
                self.written(space, operation, *durable, now);
                Ok(())
            }
            (Act::Store { .. }, Ok(Answer::Stored { verdicts, durable })) => match &verdicts[0] {
                Ok(_) => {
                    self.written(space, operation, *durable, now);
                    Ok(())
                }
                Err(refusal) if is_unwritten(refusal) => Ok(()),
                Err(refusal) => Err(format!("a valid store: {refusal:?}")),
            },
            (Act::Delete { memory }, Err(rejection)) if is_missing(rejection) => {
                self.refused(space, operation);
                self.check_memory((space, *memory), None, window)
            }
            (Act::Read { memory }, outcome) => {
                let value = value_in(*memory, outcome)?;
                self.check_memory((space, *memory), value, window)
            }
            (Act::List, Ok(Answer::Page { memories, .. })) => {
                self.check_list(space, memories, window)
            }
            (Act::Recall { .. }, Ok(Answer::Recalled(recalled))) => {
                let found = recalled.memories.iter();
                found
                    .into_iter()
                    .try_for_each(|found| self.check_found(space, &found.memory, window).map(drop))
            }
            (Act::Drop | Act::List | Act::Recall { .. }, Err(rejection))
                if rejection.code == Code::SpaceNotFound =>
            {
                self.refused(space, operation);
                self.check_one(space, false, window.from, now)
            }
            (act, outcome) => Err(format!("{act:?} in space {space} was answered {outcome:?}")),
        }
    }

    /// What an operation wanted to write is there.
    fn written(&mut self, space: usize, operation: u64, durable: bool, now: Moment) {
        self.all[space].exists.written(operation, durable, now);
        self.all[space].memories.iter_mut().for_each(|m| m.written(operation, durable, now));
    }

    /// It is not.
    fn refused(&mut self, space: usize, operation: u64) {
        self.all[space].exists.refused(operation);
        self.all[space].memories.iter_mut().for_each(|m| m.refused(operation));
    }

    /// Checks a list of all spaces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, views: &[SpaceView], from: Moment, to: Moment) -> Result<(), String> {
        (0..Self::COUNT).try_for_each(|space| {
            let is_there = views.iter().any(|view| view.name == Self::name(space));
            self.check_one(space, is_there, from, to)
        })
    }

    /// Checks whether a space is there.
    ///
    /// # Errors
    /// It can't be, or has to.
    pub fn check_one(
        &self,
        space: usize,
        is_there: bool,
        from: Moment,
        to: Moment,
    ) -> Result<(), String> {
        let exists = &self.all[space].exists;
        if exists.may_be(is_there.then_some(&()), from, to) {
            return Ok(());
        }
        let name = NAMES[space];
        Err(format!("space {name} is there: {is_there}, at {from}..{to}: {}", exists.describe()))
    }

    /// Checks a memory of a space.
    ///
    /// # Errors
    /// It can't be so.
    pub fn check_memory(
        &self,
        (space, memory): (usize, usize),
        value: Option<Value>,
        window: Window,
    ) -> Result<(), String> {
        let register = &self.all[space].memories[memory];
        let Window { from, to, clock_min } = window;
        let may_be = register.may_be(value.as_ref(), from, to);
        let name = NAMES[space];
        match value {
            Some((_, Some(end))) if end <= clock_min => {
                Err(format!("m{memory} of space {name} expired at {end:?}, read at {window:?}"))
            }
            Some(_) if may_be => Ok(()),
            None if may_be || self.may_have_expired((space, memory), from, to) => Ok(()),
            Some(_) | None => {
                let known = register.describe();
                Err(format!("m{memory} of space {name} reads as {value:?} at {window:?}: {known}"))
            }
        }
    }

    /// It may be something that has expired, cleared away or not.
    fn may_have_expired(&self, (space, memory): (usize, usize), from: Moment, to: Moment) -> bool {
        let is_over = |(_, end): &Value| end.is_some_and(|end| end <= self.clock_max);
        self.all[space].memories[memory].may_be_one(from, to, is_over)
    }

    /// Checks a memory that a list or a recall has shown.
    ///
    /// # Errors
    /// It can't be so.
    pub fn check_found(
        &self,
        space: usize,
        found: &Memory,
        window: Window,
    ) -> Result<usize, String> {
        let memory = index_of(&found.id)?;
        if memory >= MEMORIES {
            return Err(format!("space {} never had {:?}", NAMES[space], found.id));
        }
        let value = (version_read(memory, found, false)?, found.expires_at);
        self.check_memory((space, memory), Some(value), window).map(|()| memory)
    }

    fn check_list(&self, space: usize, memories: &[Memory], window: Window) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for found in memories {
            if !seen.insert(self.check_found(space, found, window)?) {
                return Err(format!("{:?} is listed twice", found.id));
            }
        }
        let is_shared = |(version, _): &Value| self.all[space].shared.contains(version);
        let unseen = (0..MEMORIES).filter(|memory| !seen.contains(memory));
        unseen.into_iter().try_for_each(|memory| {
            let register = &self.all[space].memories[memory];
            match register.may_be_one(window.from, window.to, is_shared) {
                true => Ok(()),
                false => self.check_memory((space, memory), None, window),
            }
        })
    }

    /// Nothing is under way: what the memories of a space read as, and which of them are listed.
    /// What was merged is not, and what it was merged into is.
    ///
    /// # Errors
    /// It can't be so.
    pub fn audit(
        &mut self,
        space: usize,
        read: &[Option<Memory>],
        listed: &[Memory],
        now: Timestamp,
        window: Window,
    ) -> Result<(), String> {
        let name = NAMES[space];
        let is_listed = |memory: &Memory| listed.iter().any(|one| one.id == memory.id);
        let lasts = |memory: &&Memory| memory.expires_at.is_none_or(|end| end > now);
        for memory in read.iter().flatten().filter(lasts) {
            let into = memory.merged_into.as_ref();
            if into.is_none() != is_listed(memory) {
                return Err(format!("space {name}: {memory:?}, of which {listed:?} are listed"));
            }
            let Some(into) = into else { continue };
            let target = read.iter().flatten().find(|one| one.id == *into);
            if !target.is_some_and(|t| t.content == memory.content && t.merged_into.is_none()) {
                return Err(format!("space {name}: {memory:?} was merged into {target:?}"));
            }
        }
        for (memory, read) in read.iter().enumerate() {
            let value = match read {
                Some(read) => Some((version_read(memory, read, true)?, read.expires_at)),
                None => None,
            };
            self.check_memory((space, memory), value, window)?;
            // What has expired is still there for a clock that is set back.
            let is_sure =
                value.is_some() || !self.may_have_expired((space, memory), window.from, window.to);
            if is_sure {
                self.all[space].memories[memory].settle(value, window.to);
            }
        }
        Ok(())
    }

    /// The machine crashed.
    pub fn crash(&mut self, now: Moment) {
        for space in &mut self.all {
            space.exists.crash(now);
            space.memories.iter_mut().for_each(|register| register.crash(now));
        }
    }

    /// Forgets what no operation can see any more.
    pub fn forget_hidden(&mut self, oldest: Moment) {
        for space in &mut self.all {
            space.exists.forget_hidden(oldest);
            space.memories.iter_mut().for_each(|register| register.forget_hidden(oldest));
        }
    }
}

impl SpaceShadow {
    fn note_stored(&mut self, version: Version, memory: usize) {
        if *self.stored.entry(version).or_insert(memory) != memory {
            self.shared.insert(version);
        }
        if !self.recent.contains(&version) {
            self.recent.push(version);
        }
        if self.recent.len() > RECENT_MAX {
            self.recent.remove(0);
        }
    }
}

/// A read of a memory.
pub fn read(space: SpaceName, memory: usize) -> Request {
    Request::Read { space, id: id(memory), with: With { merged: true, ..With::ALL } }
}

/// All memories of a space.
pub fn list(space: SpaceName) -> Request {
    let with = With::DEFAULT;
    Request::List { space, limit: 1000, cursor: None, filter: Default::default(), with }
}

fn is_missing(rejection: &Rejection) -> bool {
    matches!(rejection.code, Code::NotFound | Code::SpaceNotFound)
}

/// What a memory was read as; `None`: there is none.
///
/// # Errors
/// It was never stored so.
fn value_in(memory: usize, outcome: &Outcome) -> Result<Option<Value>, String> {
    let read = read_in(memory, outcome)?;
    read.map(|read| Ok((version_read(memory, &read, true)?, read.expires_at))).transpose()
}

/// The memory of an answer; `None`: there is none.
///
/// # Errors
/// It is another answer.
pub fn read_in(memory: usize, outcome: &Outcome) -> Result<Option<Memory>, String> {
    match outcome {
        Ok(Answer::Memory(read)) => Ok(Some((**read).clone())),
        Err(rejection) if is_missing(rejection) => Ok(None),
        other => Err(format!("m{memory} of a space was answered {other:?}")),
    }
}
