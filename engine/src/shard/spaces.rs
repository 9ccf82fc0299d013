//! Spaces: created, changed and dropped by the authority, known to every shard.
//!
//! *Invariants*: the default space always exists; dimensions, once fixed, never change; a shard
//! writes a space to its log before anything that lies in it.
//!
//! *Not here*: what a space holds (`space`).

use std::sync::Arc;

use crate::key::ShardIx;
use crate::limits;
use crate::mesh::{Ask, OpId, Tell};
use crate::model::{SpaceConfig, SpaceName, Timestamp};
use crate::record::{Contents, SpaceNumber};
use crate::request::{Code, Rejection};
use crate::space::Space;

use super::home::Then;
use super::{AUTHORITY, Shard};

impl Shard {
    pub(super) fn create_default_space(&mut self) {
        self.install_space(&SpaceName::default(), Timestamp(0), SpaceConfig::default());
    }

    /// Makes a space known, or its configuration newer; its number.
    pub(super) fn install_space(
        &mut self,
        name: &SpaceName,
        at: Timestamp,
        config: SpaceConfig,
    ) -> SpaceNumber {
        if let Some(number) = self.space_number(name) {
            let space = self.spaces.get_mut(&number).expect("a numbered space is there");
            if at >= space.at {
                let dimensions = config.dimensions.or(space.config.dimensions);
                space.config = SpaceConfig { dimensions, ..config };
                space.at = at;
            }
            return number;
        }
        let number = SpaceNumber(self.next_space);
        self.install_numbered_space(number, name, at, config);
        number
    }

    /// Installs a space under a number that the log gave it.
    pub(super) fn install_numbered_space(
        &mut self,
        number: SpaceNumber,
        name: &SpaceName,
        at: Timestamp,
        config: SpaceConfig,
    ) {
        self.next_space = self.next_space.max(number.0 + 1);
        self.space_numbers.insert(name.clone(), number);
        let space = Space::new(number, name.clone(), config, at, self.seed);
        self.spaces.insert(Arc::new(space));
    }

    /// Drops a space with all that is in it.
    pub(super) fn remove_space(&mut self, name: &SpaceName, at: Timestamp) {
        if let Some(number) = self.space_numbers.remove(name) {
            self.spaces.remove(&number);
            self.runs.forget(number);
        }
        self.untold.forget(name);
        self.dropped_spaces.insert(name.clone(), at);
        if *name == SpaceName::default() {
            self.install_space(name, at, SpaceConfig::default());
        }
    }

    pub(super) fn on_put_space(
        &mut self,
        from: ShardIx,
        op: OpId,
        name: &SpaceName,
        config: SpaceConfig,
    ) {
        let decided = self.decide_space(name, config);
        self.publish_space(from, op, name, decided);
    }

    pub(super) fn on_ensure_space(
        &mut self,
        from: ShardIx,
        op: OpId,
        name: &SpaceName,
        dimensions: Option<u16>,
    ) {
        let known = self.space(name).map(|s| s.config.clone()).unwrap_or_default();
        let config = SpaceConfig { dimensions: known.dimensions.or(dimensions), ..known };
        let decided = self.decide_space(name, config);
        self.publish_space(from, op, name, decided);
    }

    fn publish_space(
        &mut self,
        from: ShardIx,
        op: OpId,
        name: &SpaceName,
        decided: Result<SpaceConfig, Rejection>,
    ) {
        assert!(self.me == AUTHORITY, "one shard decides about spaces");
        match decided.and_then(|config| self.check_writable().map(|()| config)) {
            Ok(config) => {
                let at = self.stamp();
                self.tell_everyone(name, || Tell::Space { at, config: config.clone() });
                self.reply_when_published(from, op);
            }
            Err(rejection) => self.reply(from, op, Err(rejection)),
        }
    }

    /// Replies once every shard has what it was told before, durably.
    fn reply_when_published(&mut self, to: ShardIx, op: OpId) {
        self.ask_everyone(None, Then::Published(to, op), || Ask::Barrier);
    }

    /// Keeps what was asked about a space, or its dimensions, of which this shard has not heard yet,
    /// until it has.
    pub(super) fn ask_once_known(
        &mut self,
        (from, op): (ShardIx, OpId),
        (space, dimensions): (SpaceName, Option<u16>),
        ask: Ask,
    ) {
        let then = Then::SpaceKnown { from, op, ask: Box::new(ask) };
        self.start(None, then, vec![(AUTHORITY, Ask::EnsureSpace { space, dimensions })]);
    }

    /// What an embedding of this many dimensions needs, where this shard has not heard of it yet.
    pub(super) fn unknown_dimensions(
        &self,
        name: &SpaceName,
        embedding: Option<usize>,
    ) -> Option<(SpaceName, Option<u16>)> {
        let known = self.space(name).ok().map(|space| space.config.dimensions);
        let is_known = known.is_some_and(|known| known.is_some() || embedding.is_none());
        let dimensions = embedding.and_then(|length| u16::try_from(length).ok());
        (!is_known).then(|| (name.clone(), dimensions))
    }

    /// The configuration that a space is to have, given what it has.
    fn decide_space(
        &self,
        name: &SpaceName,
        wanted: SpaceConfig,
    ) -> Result<SpaceConfig, Rejection> {
        let Ok(space) = self.space(name) else {
            if self.spaces.len() >= limits::SPACES_MAX {
                let detail = format!("a server has at most {} spaces", limits::SPACES_MAX);
                return Err(Rejection::new(Code::LimitExceeded, detail));
            }
            return Ok(wanted);
        };
        let has = &space.config;
        let dimensions = wanted.dimensions.or(has.dimensions);
        let same_vectors = has.metric == wanted.metric && has.encoding == wanted.encoding;
        let fixed = has.dimensions.is_some_and(|d| Some(d) != dimensions || !same_vectors);
        if fixed {
            let detail = format!(
                "the space has {} dimensions, and neither they nor its metric or encoding can \
                 change once an embedding fixed them; drop the space or use another",
                has.dimensions.unwrap_or(0)
            );
            return Err(Rejection::new(Code::SpaceConflict, detail));
        }
        Ok(SpaceConfig { dimensions, ..wanted })
    }

    pub(super) fn on_space(&mut self, name: &SpaceName, at: Timestamp, config: SpaceConfig) {
        let dropped_later = self.dropped_spaces.get(name).is_some_and(|dropped| *dropped > at);
        let unchanged = self.space(name).is_ok_and(|s| s.config == config);
        if dropped_later || unchanged {
            return;
        }
        let space = self.install_space(name, at, config);
        let config = self.spaces[&space].config.clone();
        if !self.poisoned {
            self.append(&Contents::PutSpace { space, at, name: name.clone(), config }, None);
        }
    }

    pub(super) fn on_space_gone(&mut self, name: &SpaceName, at: Timestamp) {
        let newer = self.space(name).is_ok_and(|s| s.at > at);
        let known = self.dropped_spaces.get(name).is_some_and(|dropped| *dropped >= at);
        if newer || known {
            return;
        }
        self.remove_space(name, at);
        if !self.poisoned {
            self.append(&Contents::DropSpace { at, name: name.clone() }, None);
        }
    }

    pub(super) fn on_drop_space(&mut self, from: ShardIx, op: OpId, name: &SpaceName) {
        assert!(self.me == AUTHORITY, "one shard decides about spaces");
        let allowed = self.space(name).map(|_| ()).and_then(|()| self.check_writable());
        if let Err(rejection) = allowed {
            return self.reply(from, op, Err(rejection));
        }
        let at = self.stamp();
        self.tell_everyone(name, || Tell::SpaceGone { at });
        self.reply_when_published(from, op);
    }
}
