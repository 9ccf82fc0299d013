//! A shard's state between two starts.
//!
//! *Invariants*: the images of one set are pictures of all shards at one moment, with nothing under
//! way between them; a shard that starts from one needs to be told only what its log says since.
//!
//! *Not here*: how values become bytes (`crate::image`), what a space writes (`crate::space`).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::image::{Header, Part, Reader, Unsound, Writer, ensure};
use crate::key::ShardIx;
use crate::life::Lived;
use crate::life::run::{Run, RunCounts, RunId, RunState};
use crate::mesh::Tell;
use crate::model::{SpaceName, Timestamp};
use crate::record::SpaceNumber;
use crate::space::Space;

use super::{Shard, ShardConfig};

/// What a shard knows when nothing is under way; may be written by another thread.
pub struct ShardImage {
    clock: Timestamp,
    lived: Lived,
    sequence: u64,
    next_space: u32,
    dropped_spaces: HashMap<SpaceName, Timestamp>,
    spaces: Vec<Arc<Space>>,
    runs: Vec<(SpaceNumber, Run)>,
}

/// What a shard tells the others when its replay is over.
pub(super) enum Untold {
    /// Everything: they know of nothing.
    Everything,
    /// What follows from the records behind the image.
    Since(Vec<(ShardIx, SpaceName, Tell)>),
}

impl Untold {
    /// A space is gone: nothing of it is to be told.
    pub(super) fn forget(&mut self, name: &SpaceName) {
        match self {
            Self::Everything => {}
            Self::Since(kept) => kept.retain(|(_, of, _)| of != name),
        }
    }
}

impl ShardImage {
    /// Writes the image.
    ///
    /// # Errors
    /// The first error of `out`.
    pub fn write(&self, header: &Header, out: &mut dyn Write) -> io::Result<()> {
        assert!(header.sequence == self.sequence, "an image is of one place in the log");
        let mut writer = Writer::new(out, header);
        writer.part(self);
        writer.finish()
    }

    /// Reads an image.
    ///
    /// # Errors
    /// [`Unsound`], where the bytes are none, not whole, or not of one this program knows.
    pub fn read(input: &mut dyn Read) -> Result<(Header, Self), Unsound> {
        let (header, mut reader) = Reader::new(input)?;
        let image: Self = reader.part()?;
        reader.finish()?;
        ensure(image.sequence == header.sequence, "the place in the log")?;
        Ok((header, image))
    }

    /// About the bytes that it will have.
    pub fn memory_bytes(&self) -> u64 {
        let parts = self.spaces.iter().flat_map(|space| space.memory_bytes());
        parts.map(|(_, bytes)| bytes).sum()
    }

    /// Sequence number of the last record that is in it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Part for ShardImage {
    const NAME: &'static str = "shard";
    const VERSION: u32 = 2;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { clock, lived, sequence, next_space, dropped_spaces, spaces, runs } = self;
        out.time(*clock);
        out.u32(lived.0);
        out.u64(*sequence);
        out.u32(*next_space);
        out.count(dropped_spaces.len());
        for (name, at) in dropped_spaces {
            out.text(name.as_str());
            out.time(*at);
        }
        out.count(spaces.len());
        spaces.iter().for_each(|space| out.part(&**space));
        out.count(runs.len());
        for (space, run) in runs {
            out.u32(space.0);
            write_run(out, run);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let (clock, lived) = (input.time()?, Lived(input.u32()?));
        let (sequence, next_space) = (input.u64()?, input.u32()?);
        let mut dropped_spaces = HashMap::new();
        for _ in 0..input.count()? {
            dropped_spaces.insert(input.space_name()?, input.time()?);
        }
        let mut spaces: Vec<Arc<Space>> = Vec::new();
        for _ in 0..input.count()? {
            let space: Space = input.part()?;
            let fresh = spaces.iter().all(|s| s.number != space.number && s.name != space.name);
            ensure(fresh && space.number.0 < next_space, "the number of a space")?;
            spaces.push(Arc::new(space));
        }
        ensure(spaces.iter().any(|s| s.name == SpaceName::default()), "the default space")?;
        let mut runs = Vec::new();
        for _ in 0..input.count()? {
            runs.push((SpaceNumber(input.u32()?), read_run(input)?));
        }
        Ok(Self { clock, lived, sequence, next_space, dropped_spaces, spaces, runs })
    }
}

fn write_run(out: &mut Writer<'_>, run: &Run) {
    let Run { id, started_at, finished_at, state, threshold, counts } = run;
    let RunCounts { compared, merged, pruned, demoted } = counts;
    out.u64(id.0);
    out.time(*started_at);
    out.u8(u8::from(finished_at.is_some()));
    out.time(finished_at.unwrap_or_default());
    out.u8(*state as u8);
    out.u32(threshold.to_bits());
    [compared, merged, pruned, demoted].into_iter().for_each(|count| out.u64(*count));
}

fn read_run(input: &mut Reader<'_>) -> Result<Run, Unsound> {
    let (id, started_at) = (RunId(input.u64()?), input.time()?);
    let (is_over, at) = (input.u8()? == 1, input.time()?);
    let number = input.u8()?;
    let state = RunState::ALL.into_iter().find(|state| *state as u8 == number);
    Ok(Run {
        id,
        started_at,
        finished_at: is_over.then_some(at),
        state: state.ok_or(Unsound::Content("the state of a run"))?,
        threshold: f32::from_bits(input.u32()?),
        counts: RunCounts {
            compared: input.u64()?,
            merged: input.u64()?,
            pruned: input.u64()?,
            demoted: input.u64()?,
        },
    })
}

impl Shard {
    /// A shard as it was when the image was made, ready to replay what the log says since.
    pub fn from_image(config: ShardConfig, image: ShardImage) -> Self {
        let ShardImage { clock, lived, sequence, next_space, dropped_spaces, spaces, runs } = image;
        let mut shard = Self::without_spaces(config);
        shard.clock = clock;
        shard.lived.heard(lived);
        shard.lived_recorded = lived;
        shard.sequence = sequence;
        shard.durable = sequence;
        shard.next_space = next_space;
        shard.dropped_spaces = dropped_spaces;
        for space in spaces {
            shard.space_numbers.insert(space.name.clone(), space.number);
            shard.spaces.insert(space);
        }
        runs.into_iter().for_each(|(space, run)| shard.runs.set(space, run));
        shard.untold = Untold::Since(Vec::new());
        shard
    }

    /// What is known now, shared with whoever writes it.
    pub(super) fn image(&self) -> ShardImage {
        ShardImage {
            clock: self.clock,
            lived: self.lived.lived(),
            sequence: self.sequence,
            next_space: self.next_space,
            dropped_spaces: self.dropped_spaces.clone(),
            spaces: self.spaces.hold(),
            runs: self.runs.all().map(|(space, run)| (space, run.clone())).collect(),
        }
    }
}
