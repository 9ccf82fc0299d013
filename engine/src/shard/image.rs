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
use crate::mesh::Tell;
use crate::model::{SpaceName, Timestamp};
use crate::space::Space;

use super::{Shard, ShardConfig};

/// What a shard knows when nothing is under way; may be written by another thread.
pub struct ShardImage {
    clock: Timestamp,
    sequence: u64,
    next_space: u32,
    dropped_spaces: HashMap<SpaceName, Timestamp>,
    spaces: Vec<Arc<Space>>,
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

    /// Sequence number of the last record that is in it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Part for ShardImage {
    const NAME: &'static str = "shard";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { clock, sequence, next_space, dropped_spaces, spaces } = self;
        out.time(*clock);
        out.u64(*sequence);
        out.u32(*next_space);
        out.count(dropped_spaces.len());
        for (name, at) in dropped_spaces {
            out.text(name.as_str());
            out.time(*at);
        }
        out.count(spaces.len());
        spaces.iter().for_each(|space| out.part(&**space));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let (clock, sequence, next_space) = (input.time()?, input.u64()?, input.u32()?);
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
        Ok(Self { clock, sequence, next_space, dropped_spaces, spaces })
    }
}

impl Shard {
    /// A shard as it was when the image was made, ready to replay what the log says since.
    pub fn from_image(config: ShardConfig, image: ShardImage) -> Self {
        let ShardImage { clock, sequence, next_space, dropped_spaces, spaces } = image;
        let mut shard = Self::without_spaces(config);
        shard.clock = clock;
        shard.sequence = sequence;
        shard.durable = sequence;
        shard.next_space = next_space;
        shard.dropped_spaces = dropped_spaces;
        for space in spaces {
            shard.space_numbers.insert(space.name.clone(), space.number);
            shard.spaces.insert(space);
        }
        shard.untold = Untold::Since(Vec::new());
        shard
    }

    /// What is known now, shared with whoever writes it.
    pub(super) fn image(&self) -> ShardImage {
        ShardImage {
            clock: self.clock,
            sequence: self.sequence,
            next_space: self.next_space,
            dropped_spaces: self.dropped_spaces.clone(),
            spaces: self.spaces.hold(),
        }
    }
}
