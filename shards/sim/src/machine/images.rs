//! Sets of images: all shards stand still for one moment, and are written as they are.
//!
//! *Invariants*: a set holds all shards at one moment, at which nothing was under way between them.
//!
//! *Not here*: starting from a set (`start`).

use engram_engine::image::Header;
use engram_engine::shard::{Event, Settled};

use super::{Core, Happening, Machine};

/// Between two looks whether all shards stand still for an image.
const LOOK_US: u64 = 200;
/// Looks after which a set of images is given up.
const LOOKS_MAX: u64 = 60;

impl Machine {
    /// Begins a set of images, unless one is under way.
    pub fn begin_images(&mut self) {
        let is_frozen = self.cores.iter().any(|core| core.is_frozen);
        if self.looks > 0 || is_frozen || !self.is_open() {
            return;
        }
        self.looks = LOOKS_MAX;
        for me in 0..self.manifest.shards {
            let after = self.random.delay(100);
            self.schedule(after, Happening::Freeze(me));
        }
        self.schedule(LOOK_US, Happening::Look);
    }

    pub(super) fn freeze(&mut self, me: u16) {
        let core = &mut self.cores[usize::from(me)];
        if self.looks > 0 {
            core.shard.borrow_mut().freeze();
            core.is_frozen = true;
        }
    }

    /// Takes the set once nothing is under way between shards, or gives it up.
    pub(super) fn look(&mut self) {
        self.looks -= 1;
        let settled: Vec<Settled> = self.cores.iter().map(settled).collect();
        let told: u64 = settled.iter().map(|s| s.told).sum();
        let heard: u64 = settled.iter().map(|s| s.heard).sum();
        if told == heard && settled.iter().all(|s| s.quiet) {
            self.take_images();
            self.looks = 0;
        }
        if self.looks > 0 {
            return self.schedule(LOOK_US, Happening::Look);
        }
        for me in 0..self.manifest.shards {
            let after = self.random.delay(100);
            self.schedule(after, Happening::Thaw(me));
        }
    }

    fn take_images(&mut self) {
        self.sets += 1;
        let mut images = Vec::new();
        for (me, core) in (0..).zip(&mut self.cores) {
            // A shard whose log can't be written has none.
            let Ok(image) = core.shard.borrow_mut().hold() else { return };
            let place = core.log.place();
            let header = Header {
                directory: self.manifest.directory,
                generation: self.manifest.generation,
                shards: self.manifest.shards,
                shard: me,
                set: self.sets,
                sequence: image.sequence(),
                segment: place.segment,
                nonce: place.nonce,
                layout: place.layout,
            };
            let mut bytes = Vec::new();
            image.write(&header, &mut bytes).expect("memory takes it");
            images.push(bytes);
        }
        self.images = Some((self.manifest.generation, images));
    }

    pub(super) fn thaw(&mut self, me: u16) {
        let core = &mut self.cores[usize::from(me)];
        if std::mem::take(&mut core.is_frozen) {
            core.shard.borrow_mut().thaw();
            self.drive(me, Event::Tick);
        }
    }
}

fn settled(core: &Core) -> Settled {
    let mut settled = core.shard.borrow().settled();
    settled.quiet &= !core.is_moving.get();
    settled
}
