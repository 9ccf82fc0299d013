//! What clients ask, and what the shadow model expects of the answers.
//!
//! *Invariants*: each version of a memory is a function of its number, so that an answer says which
//! write it shows; each memory can have a few links only, so that all of them are known.
//!
//! *Not here*: when clients ask (`run`), what a register may read as (`model`).

use std::collections::BTreeMap;

use engram_engine::fixed;
use engram_engine::life;
use engram_engine::model::{
    Link, LinkKind, LinkView, Memory, MemoryId, NewMemory, SpaceName, Tier, Timestamp, Weight,
};
use engram_engine::request::{
    Answer, Code, Cue, CueKind, Direction, LinkName, Patch, Recall, Rejection, Request, StoreMode,
    Wait, With,
};
use serde_json::json;

use crate::machine::Outcome;
use crate::model::{Moment, Register};
use crate::random::Random;
use crate::spaces::{self, Act, Spaces, Window};
use crate::upkeep::{Runs, Upkeep};

/// Links that a memory can have.
pub const SLOTS: usize = 3;
const WORDS: [&str; 12] = [
    "river",
    "harbour",
    "lantern",
    "copper",
    "violin",
    "glacier",
    "market",
    "orchard",
    "pilot",
    "cathedral",
    "winter",
    "engine",
];
const DIMENSIONS: u64 = 4;
/// Weights are multiples of so many units, which answers can tell apart.
const WEIGHT_STEP: u16 = 8;
const WEIGHTS: u64 = 8000;

/// Number of a version of a memory.
pub type Version = u64;

/// A memory to store: which, its version, and a weight for each of its links where they are given.
pub type Item = (usize, Version, Option<[Option<u16>; SLOTS]>);

/// One operation of a client.
#[derive(Clone, Debug)]
pub enum What {
    /// Store memories.
    Put { items: Vec<Item>, create: bool },
    /// Change one.
    Patch { memory: usize, version: Version },
    /// Forget one.
    Delete { memory: usize },
    /// Write a link.
    Link { from: usize, slot: usize, weight: u16 },
    /// Remove a link.
    Unlink { from: usize, slot: usize },
    /// Read one.
    Read { memory: usize },
    /// The links of one.
    Links { memory: usize },
    /// Say that some were of use.
    Reinforce { memories: Vec<usize> },
    /// Something in another space.
    In { space: usize, act: Act },
    /// Something that changes nothing that is read.
    Upkeep(Upkeep),
    /// All spaces.
    Spaces,
    /// All memories.
    List,
    /// Recall by a word and a memory.
    Recall { word: usize, memory: usize, hurried: bool },
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its number.
    pub operation: u64,
    /// The client.
    pub client: usize,
    /// When it began.
    pub begin: Moment,
    /// No clock has shown less since.
    pub clock_min: Timestamp,
    /// How often the cold tier had failed by then.
    pub cold_failures: u64,
    /// When it is answered.
    pub wait: Wait,
    /// What it asks.
    pub what: What,
}

/// The world as the clients may see it.
pub struct Shadow {
    /// Each memory's version.
    pub memories: Vec<Register<Version>>,
    /// The weight of each link.
    pub links: Vec<[Register<u16>; SLOTS]>,
    /// Other spaces.
    pub spaces: Spaces,
    runs: Runs,
    has_cold: bool,
    now: Moment,
    versions: Version,
}

impl Shadow {
    /// Nothing was ever stored.
    pub fn new(memories: usize, has_cold: bool) -> Self {
        Self {
            memories: vec![Register::default(); memories],
            links: (0..memories).map(|_| Default::default()).collect(),
            spaces: Spaces::default(),
            runs: Runs::default(),
            has_cold,
            now: 0,
            versions: 0,
        }
    }

    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// Where the link in a slot leads.
    pub fn target(&self, from: usize, slot: usize) -> Option<usize> {
        let count = self.memories.len();
        let to = (from + 1 + slot * (count / 5).max(1)) % count;
        (to != from).then_some(to)
    }

    /// The links that may lead to a memory.
    fn links_to(&self, to: usize) -> Vec<(usize, usize)> {
        let all =
            (0..self.memories.len()).flat_map(|from| (0..SLOTS).map(move |slot| (from, slot)));
        all.filter(|(from, slot)| self.target(*from, *slot) == Some(to)).collect()
    }

    /// Draws an operation.
    pub fn draw(&mut self, random: &mut Random, now: Timestamp) -> What {
        let count = self.memories.len();
        let memory = random.index(count);
        match random.below(100) {
            0..=21 => self.draw_put(random),
            22..=26 => What::Patch { memory, version: self.next_version() },
            27..=36 => What::Delete { memory },
            37..=50 => {
                let weight = draw_weight(random);
                What::Link { from: memory, slot: random.index(SLOTS), weight }
            }
            51..=56 => What::Unlink { from: memory, slot: random.index(SLOTS) },
            57..=65 => What::Read { memory },
            66..=70 => What::Links { memory },
            71..=72 => What::List,
            73..=74 => What::Reinforce { memories: vec![memory, random.index(count)] },
            75..=88 => {
                let (space, version) = (random.index(Spaces::COUNT), self.next_version());
                What::In { space, act: self.spaces.draw(random, space, version, now) }
            }
            89 => What::Spaces,
            90..=93 => What::Upkeep(self.runs.draw(random, count, self.has_cold)),
            _ => {
                let (word, hurried) = (random.index(WORDS.len()), random.permille(100));
                What::Recall { word, memory, hurried }
            }
        }
    }

    fn draw_put(&mut self, random: &mut Random) -> What {
        let count = [1, 1, 1, 2, 5][random.index(5)];
        let mut items: Vec<Item> = Vec::new();
        for _ in 0..count {
            let memory = random.index(self.memories.len());
            if items.iter().any(|(known, ..)| *known == memory) {
                continue;
            }
            let links = random.permille(400).then(|| {
                let mut links = [None; SLOTS];
                links.iter_mut().for_each(|link| {
                    *link = random.permille(500).then(|| draw_weight(random));
                });
                links
            });
            items.push((memory, self.next_version(), links));
        }
        What::Put { items, create: random.permille(200) }
    }

    fn next_version(&mut self) -> Version {
        self.versions += 1;
        self.versions
    }

    /// An operation begins: it may write from now on.
    pub fn begin(&mut self, asked: &Asked) {
        let (operation, now) = (asked.operation, asked.begin);
        match &asked.what {
            What::Put { items, .. } => {
                for (memory, version, links) in items {
                    self.memories[*memory].begin(operation, Some(*version), now);
                    for (slot, weight) in links.iter().flatten().enumerate() {
                        self.links[*memory][slot].begin(operation, *weight, now);
                    }
                }
            }
            What::Patch { memory, version } => {
                self.memories[*memory].begin(operation, Some(*version), now);
            }
            What::Delete { memory } => {
                self.memories[*memory].begin(operation, None, now);
                for (from, slot) in self.links_with(*memory) {
                    self.links[from][slot].begin(operation, None, now);
                }
            }
            What::Link { from, slot, weight } => {
                self.links[*from][*slot].begin(operation, Some(*weight), now);
            }
            What::Unlink { from, slot } => {
                self.links[*from][*slot].begin(operation, None, now);
            }
            What::In { space, act } => self.spaces.begin(*space, act, operation, now),
            What::Read { .. }
            | What::Links { .. }
            | What::Reinforce { .. }
            | What::Upkeep(_)
            | What::Spaces
            | What::List
            | What::Recall { .. } => {}
        }
    }

    /// The links that go with a memory.
    fn links_with(&self, memory: usize) -> Vec<(usize, usize)> {
        let mut links = self.links_to(memory);
        links.extend((0..SLOTS).map(|slot| (memory, slot)));
        links
    }

    /// The request of an operation.
    pub fn request(&self, asked: &Asked) -> Request {
        let (space, wait) = (SpaceName::default(), asked.wait);
        match &asked.what {
            What::Put { items, create } => {
                let memories = items.iter().map(|(memory, version, links)| {
                    let links = links.map(|links| {
                        let links = (0..SLOTS).zip(links);
                        links.filter_map(|(slot, w)| self.link(*memory, slot, w?)).collect()
                    });
                    memory_of(*memory, *version, links)
                });
                let mode = if *create { StoreMode::Create } else { StoreMode::Upsert };
                Request::Store { space, memories: memories.collect(), mode, wait }
            }
            What::Patch { memory, version } => {
                let patch = Box::new(patch_of(*version));
                Request::Patch { space, id: id(*memory), patch, wait }
            }
            What::Delete { memory } => Request::Delete { space, id: id(*memory), wait },
            What::Link { from, slot, weight } => {
                let link = self.link(*from, *slot, *weight);
                let links = link.into_iter().map(|link| (id(*from), link)).collect();
                Request::Link { space, links, wait }
            }
            What::Unlink { from, slot } => {
                let to = self.target(*from, *slot);
                let name = |to| LinkName { from: id(*from), to: id(to), kind: Some(kind(*slot)) };
                Request::Unlink { space, links: to.map(name).into_iter().collect(), wait }
            }
            What::Read { memory } => Request::Read { space, id: id(*memory), with: With::ALL },
            What::Links { memory } => {
                let direction = Direction::Out;
                Request::Links { space, id: id(*memory), direction, kind: None }
            }
            What::Reinforce { memories } => {
                let ids = memories.iter().map(|memory| id(*memory)).collect();
                Request::Reinforce { space, ids, outcome: life::Outcome::BEST, wait }
            }
            What::In { space, act } => Spaces::request(*space, act, wait),
            What::Upkeep(upkeep) => Runs::request(upkeep),
            What::Spaces => Request::ListSpaces,
            What::List => spaces::list(space),
            What::Recall { word, memory, hurried } => {
                recall(space, WORDS[*word], Some(*memory), if *hurried { 1 } else { 1000 })
            }
        }
    }

    fn link(&self, from: usize, slot: usize, weight: u16) -> Option<Link> {
        let weight = f32::from(weight) / f32::from(fixed::WEIGHT_ONE);
        let weight = Weight::new(weight).expect("above 0 and at most 1");
        Some(Link { to: id(self.target(from, slot)?), weight, kind: kind(slot) })
    }

    /// An operation was answered.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn finish(
        &mut self,
        asked: &Asked,
        outcome: &Outcome,
        cold_failures: u64,
    ) -> Result<(), String> {
        let now = self.tick();
        match outcome {
            // A part of it may have been done, or all of it, and become durable even so.
            Err(rejection) if is_unwritten(rejection) => return Ok(()),
            Err(rejection) if rejection.code == Code::DeadlineExceeded => return Ok(()),
            Err(rejection) if rejection.code == Code::ColdUnavailable => {
                if let What::Patch { memory, .. } = &asked.what {
                    self.refused(asked.operation, &[*memory]);
                }
                let failed = asked.cold_failures < cold_failures;
                return if failed { Ok(()) } else { Err(format!("nothing failed: {rejection:?}")) };
            }
            _ => {}
        }
        match (&asked.what, outcome) {
            (What::Put { items, create }, Ok(Answer::Stored { verdicts, durable })) => {
                for ((memory, _, _), verdict) in items.iter().zip(verdicts) {
                    match verdict {
                        Ok(_) => self.written(asked.operation, &[*memory], *durable, now),
                        Err(refusal) if *create && refusal.code == Code::AlreadyExists => {
                            self.refused(asked.operation, &[*memory]);
                            self.must_have_been(*memory, asked.begin, now)?;
                        }
                        Err(refusal) if is_unwritten(refusal) => {}
                        Err(refusal) => return Err(format!("a valid store: {refusal:?}")),
                    }
                }
                Ok(())
            }
            (What::Patch { memory, .. }, Ok(Answer::Memory(_))) => {
                self.written(asked.operation, &[*memory], asked.wait == Wait::Durable, now);
                Ok(())
            }
            (What::Delete { memory }, Ok(Answer::Deleted { durable })) => {
                self.written(asked.operation, &[*memory], *durable, now);
                for (from, slot) in self.links_with(*memory) {
                    self.links[from][slot].written(asked.operation, *durable, now);
                }
                Ok(())
            }
            (What::Link { from, slot, .. }, Ok(Answer::Linked { verdicts, durable })) => {
                match verdicts.first() {
                    None => self.links[*from][*slot].refused(asked.operation),
                    Some(Ok(())) => {
                        self.links[*from][*slot].written(asked.operation, *durable, now);
                    }
                    Some(Err(refusal)) if refusal.code == Code::NotFound => {
                        self.links[*from][*slot].refused(asked.operation);
                        self.may_lack(*from, asked.begin, now)?;
                    }
                    Some(Err(refusal)) if is_unwritten(refusal) => {}
                    Some(Err(refusal)) => return Err(format!("a valid link: {refusal:?}")),
                }
                Ok(())
            }
            (What::Unlink { from, slot }, Ok(Answer::Unlinked { durable, .. })) => {
                self.links[*from][*slot].written(asked.operation, *durable, now);
                Ok(())
            }
            (
                What::Patch { memory, .. }
                | What::Delete { memory }
                | What::Read { memory }
                | What::Links { memory },
                Err(rejection),
            ) if rejection.code == Code::NotFound => {
                self.refused(asked.operation, &[*memory]);
                if matches!(asked.what, What::Delete { .. }) {
                    for (from, slot) in self.links_with(*memory) {
                        self.links[from][slot].refused(asked.operation);
                    }
                }
                self.may_lack(*memory, asked.begin, now)
            }
            (_, outcome) => self.finish_read(asked, outcome, now),
        }
    }

    /// The same for what only reads.
    fn finish_read(&mut self, asked: &Asked, outcome: &Outcome, now: Moment) -> Result<(), String> {
        match (&asked.what, outcome) {
            (What::Read { memory }, Ok(Answer::Memory(read))) => {
                self.check_memory(*memory, read, true, asked.begin, now).map(drop)
            }
            (What::Links { memory }, Ok(Answer::Links(views))) => {
                self.check_links(*memory, views, asked.begin, now)
            }
            (What::List, Ok(Answer::Page { memories, .. })) => {
                self.check_all(memories, asked.begin, now)
            }
            (What::Recall { .. }, Ok(Answer::Recalled(recalled))) => {
                for found in &recalled.memories {
                    let memory = index_of(&found.memory.id)?;
                    self.check_memory(memory, &found.memory, false, asked.begin, now)?;
                }
                Ok(())
            }
            (_, outcome) => self.finish_beside(asked, outcome, now),
        }
    }

    /// The same for what concerns other spaces, and what changes nothing that is read back.
    fn finish_beside(
        &mut self,
        asked: &Asked,
        outcome: &Outcome,
        now: Moment,
    ) -> Result<(), String> {
        let (operation, begin) = (asked.operation, asked.begin);
        match (&asked.what, outcome) {
            (What::Reinforce { memories }, Ok(Answer::Reinforced { missing, .. })) => {
                memories.iter().try_for_each(|memory| match missing.contains(&id(*memory)) {
                    true => self.may_lack(*memory, begin, now),
                    false => self.must_have_been(*memory, begin, now),
                })
            }
            (What::In { space, act }, outcome) => {
                let window = Window { from: begin, to: now, clock_min: asked.clock_min };
                self.spaces.finish((*space, act), operation, outcome, window)
            }
            (What::Upkeep(upkeep), outcome) => {
                let space = match upkeep {
                    Upkeep::Demote { space, .. } => *space,
                    Upkeep::Consolidate { space, .. } | Upkeep::Undo { space, .. } => *space,
                    Upkeep::Expire | Upkeep::Sweep => None,
                };
                let missing = |r: &Rejection| r.code == Code::SpaceNotFound;
                match space.filter(|_| outcome.as_ref().is_err_and(missing)) {
                    Some(space) => self.spaces.check_one(space, false, begin, now),
                    None => self.runs.finish(upkeep, outcome),
                }
            }
            (What::Spaces, Ok(Answer::Spaces(views))) => self.spaces.check(views, begin, now),
            (what, outcome) => Err(format!("{what:?} was answered {outcome:?}")),
        }
    }

    fn written(&mut self, operation: u64, memories: &[usize], durable: bool, now: Moment) {
        for memory in memories {
            self.memories[*memory].written(operation, durable, now);
            self.links[*memory].iter_mut().for_each(|l| l.written(operation, durable, now));
        }
    }

    fn refused(&mut self, operation: u64, memories: &[usize]) {
        for memory in memories {
            self.memories[*memory].refused(operation);
            self.links[*memory].iter_mut().for_each(|link| link.refused(operation));
        }
    }

    fn must_have_been(&self, memory: usize, from: Moment, to: Moment) -> Result<(), String> {
        let register = &self.memories[memory];
        if register.may_be_any(from, to) {
            return Ok(());
        }
        Err(format!("m{memory} exists, is said, and can't: {}", register.describe()))
    }

    fn may_lack(&self, memory: usize, from: Moment, to: Moment) -> Result<(), String> {
        let register = &self.memories[memory];
        if register.may_be(None, from, to) {
            return Ok(());
        }
        Err(format!("m{memory} is lost at {from}..{to}: {}", register.describe()))
    }

    /// A memory that was read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_memory(
        &self,
        memory: usize,
        read: &Memory,
        whole: bool,
        from: Moment,
        to: Moment,
    ) -> Result<Version, String> {
        let version = version_read(memory, read, whole)?;
        let register = &self.memories[memory];
        if register.may_be(Some(&version), from, to) {
            return Ok(version);
        }
        let known = register.describe();
        Err(format!("m{memory} reads as version {version} at {from}..{to}: {known}"))
    }

    fn check_all(&self, memories: &[Memory], from: Moment, to: Moment) -> Result<(), String> {
        let mut seen: BTreeMap<usize, &Memory> = BTreeMap::new();
        for read in memories {
            if seen.insert(index_of(&read.id)?, read).is_some() {
                return Err(format!("{:?} is listed twice", read.id));
            }
        }
        for memory in 0..self.memories.len() {
            match seen.get(&memory) {
                Some(read) => drop(self.check_memory(memory, read, false, from, to)?),
                None => self.may_lack(memory, from, to)?,
            }
        }
        Ok(())
    }

    /// The links that leave a memory.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check_links(
        &self,
        memory: usize,
        views: &[LinkView],
        from: Moment,
        to: Moment,
    ) -> Result<(), String> {
        let mut views: Vec<&LinkView> = views.iter().filter(|view| !view.automatic).collect();
        for slot in 0..SLOTS {
            let Some(target) = self.target(memory, slot) else { continue };
            let meant = |v: &&LinkView| v.to == id(target) && v.kind == kind(slot);
            let at = views.iter().position(meant);
            let weight = at.map(|at| units_of(views.swap_remove(at).weight));
            let register = &self.links[memory][slot];
            if !register.may_be(weight.as_ref(), from, to) {
                let known = register.describe();
                return Err(format!(
                    "the link m{memory} to m{target} reads as {weight:?} at {from}..{to}: {known}"
                ));
            }
        }
        if views.is_empty() { Ok(()) } else { Err(format!("links that never were: {views:?}")) }
    }

    /// Nothing is under way, and a memory is this version and has these links, or does not exist.
    ///
    /// # Errors
    /// It can't be.
    pub fn settle(
        &mut self,
        memory: usize,
        version: Option<Version>,
        links: &[LinkView],
        from: Moment,
        to: Moment,
    ) -> Result<(), String> {
        match version {
            Some(_) => self.check_links(memory, links, from, to)?,
            None => self.may_lack(memory, from, to)?,
        }
        self.memories[memory].settle(version, to);
        for slot in 0..SLOTS {
            let Some(target) = self.target(memory, slot) else { continue };
            let meant = |v: &&LinkView| !v.automatic && v.to == id(target) && v.kind == kind(slot);
            let weight = links.iter().find(meant).map(|view| units_of(view.weight));
            self.links[memory][slot].settle(weight, to);
        }
        Ok(())
    }

    /// The machine crashed.
    pub fn crash(&mut self) {
        let now = self.tick();
        self.memories.iter_mut().for_each(|register| register.crash(now));
        self.links.iter_mut().flatten().for_each(|register| register.crash(now));
        self.spaces.crash(now);
    }

    /// Forgets what no operation can see any more.
    pub fn forget_hidden(&mut self, oldest: Moment) {
        self.memories.iter_mut().for_each(|register| register.forget_hidden(oldest));
        self.links.iter_mut().flatten().for_each(|register| register.forget_hidden(oldest));
        self.spaces.forget_hidden(oldest);
    }
}

/// The log could not be written in time: it may have been done, in part or in all, or be done later.
pub fn is_unwritten(rejection: &Rejection) -> bool {
    matches!(rejection.code, Code::Poisoned | Code::DiskBudget)
}

fn draw_weight(random: &mut Random) -> u16 {
    let step = u16::try_from(1 + random.below(WEIGHTS)).expect("small");
    step * WEIGHT_STEP
}

/// The units of a weight as it is answered, in four decimals.
pub fn units_of(weight: f32) -> u16 {
    let units = f64::from(weight) * f64::from(fixed::WEIGHT_ONE);
    ((units / f64::from(WEIGHT_STEP)).round() as u16).saturating_mul(WEIGHT_STEP)
}

/// The id of a memory.
pub fn id(memory: usize) -> MemoryId {
    MemoryId::new(&format!("m{memory}")).expect("valid")
}

/// The memory of an id.
///
/// # Errors
/// There is none.
pub fn index_of(id: &MemoryId) -> Result<usize, String> {
    let number = id.as_str().strip_prefix('m').and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("{id:?} was never stored"))
}

/// The kind of the links in a slot.
pub fn kind(slot: usize) -> LinkKind {
    LinkKind::new(["cites", "near_by"][slot % 2]).expect("valid")
}

/// The version that a memory was read as.
///
/// # Errors
/// It was never stored so.
pub fn version_read(memory: usize, read: &Memory, whole: bool) -> Result<Version, String> {
    let version = version_of(read.content.as_deref().unwrap_or(""))?;
    let expected = memory_of(memory, version, None);
    let same = read.id == expected.id
        && read.content == expected.content
        && read.metadata == expected.metadata
        && (!whole || read.embedding == expected.embedding);
    if same { Ok(version) } else { Err(format!("m{memory} was never so: {read:?}")) }
}

/// A recall by a text, and by a memory.
pub fn recall(space: SpaceName, text: &str, memory: Option<usize>, timeout_ms: u64) -> Request {
    let named = memory.map(|memory| CueKind::Id(id(memory)));
    let kinds = std::iter::once(CueKind::Text(text.to_owned())).chain(named);
    let cues = kinds.map(|kind| Cue { kind, weight: 1.0 }).collect();
    let tiers = vec![Tier::Fast, Tier::Warm, Tier::Cold];
    let recall = Recall { cues, top_k: 20, exact: true, tiers, timeout_ms, ..Recall::default() };
    Request::Recall { space, recall: Box::new(recall) }
}

/// The word by which one version alone is found.
pub fn token(version: Version) -> String {
    format!("version{version}x")
}

fn version_of(content: &str) -> Result<Version, String> {
    let first = content.split(' ').next().and_then(|word| word.strip_prefix("version"));
    let number = first.and_then(|word| word.strip_suffix('x')).and_then(|n| n.parse().ok());
    number.ok_or_else(|| format!("a content that never was: {content:?}"))
}

/// A version of a memory.
pub fn memory_of(memory: usize, version: Version, links: Option<Vec<Link>>) -> NewMemory {
    let mut random = Random::new(version);
    let words: Vec<&str> = (0..4).map(|_| WORDS[random.index(WORDS.len())]).collect();
    let content = format!("{} the {} was told", token(version), words.join(" "));
    let embedding = (0..DIMENSIONS).map(|_| 1.0 + random.below(100) as f32);
    let mut metadata = serde_json::Map::new();
    metadata.insert("version".into(), json!(version));
    if version.is_multiple_of(3) {
        metadata.insert("session".into(), json!(version % 2));
    }
    if version.is_multiple_of(4) {
        metadata.insert("title".into(), json!(words[..2].join(" ")));
    }
    NewMemory {
        id: id(memory),
        content: Some(content),
        embedding: (!version.is_multiple_of(5)).then(|| embedding.collect()),
        metadata,
        confidence: None,
        links,
        created_at: None,
        expires_at: None,
    }
}

/// A patch that turns any version into this one.
fn patch_of(version: Version) -> Patch {
    let whole = memory_of(0, version, None);
    let mut metadata = whole.metadata;
    for key in ["session", "title"] {
        metadata.entry(key).or_insert(serde_json::Value::Null);
    }
    Patch {
        content: Some(whole.content),
        embedding: Some(whole.embedding),
        metadata: Some(Some(metadata)),
        ..Patch::default()
    }
}
