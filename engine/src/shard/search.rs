//! The owner's side of a recall: probing its indexes, spreading along its links, and reading back
//! what is to be answered.
//!
//! *Invariants*: what a shard replies depends on its memories and the ask alone, and is ordered by
//! score and key, never by node number.
//!
//! *Not here*: how replies are put together (`recall`).

use std::sync::Arc;

use crate::attributes::Attribute;
use crate::filter::Filter;
use crate::fixed::{Activation, WEIGHT_ONE, weight_of};
use crate::fuse::Recipe;
use crate::graph::{Edge, KindIx};
use crate::key::{KeyMap, MemoryKey, ShardIx};
use crate::life::{Lift, Lived};
use crate::limits;
use crate::mesh::{
    AutomaticKind, Found, HopAsk, Hopped, LexicalAsk, LexicalFound, Mention, Neighbours, OpId,
    Probe, Probed, Pulse, Reach, Reply, ScoreAsk, Source, TermMembers, Via,
};
use crate::model::{LinkKind, SpaceName, Timestamp};
use crate::node::NodeIx;
use crate::recall::Spare;
use crate::request::With;
use crate::space::{Space, way_trace};
use crate::terms::SharedTermKey;
use crate::text::{self, Bm25Query};
use crate::vector::{self, Hit};

use super::Shard;
use super::collect::Purpose;

/// Memory that the searches of a shard share.
#[derive(Default)]
pub(super) struct Scratches {
    pub text: text::Scratch,
    pub vector: vector::Scratch,
    /// What recalls that are over worked in.
    pub recalls: Vec<Spare>,
    /// Room for what hops reply.
    pub pulses: Vec<Vec<Pulse>>,
    ways: Vec<Way>,
}

/// Most that is kept of each for the next recalls, and the largest list of pulses among it.
const KEPT_MAX: usize = 32;
const PULSES_KEPT_MAX: usize = 1 << 14;

impl Scratches {
    /// Keeps what a recall worked in.
    pub fn keep(&mut self, mut spare: Spare) {
        for mut pulses in spare.pulses.drain(..) {
            if self.pulses.len() < KEPT_MAX && pulses.capacity() <= PULSES_KEPT_MAX {
                pulses.clear();
                self.pulses.push(pulses);
            }
        }
        if self.recalls.len() < KEPT_MAX {
            self.recalls.push(spare);
        }
    }
}

/// What of memories is wanted for an answer, and which may be in it.
pub(super) struct Wanted<'a> {
    pub filter: &'a Filter,
    pub with: With,
    pub reach: Reach,
}

impl Shard {
    pub(super) fn score(&mut self, from: ShardIx, op: OpId, ask: &ScoreAsk, keys: &[MemoryKey]) {
        let (scores, lifts) = match self.space(&ask.space) {
            Ok(space) => (scores(space, ask, keys, self.now), lifts(space, keys, ask.lived)),
            Err(_) => (vec![0.0; keys.len()], Vec::new()),
        };
        self.reply(from, op, Ok(Reply::Scored { scores, lifts }));
    }

    pub(super) fn term_members(
        &mut self,
        from: ShardIx,
        op: OpId,
        space: &SpaceName,
        terms: &[SharedTermKey],
        explain: bool,
    ) {
        let rows = match self.space(space) {
            Ok(space) => terms.iter().map(|t| members(space, *t, explain)).collect(),
            Err(_) => vec![TermMembers::default(); terms.len()],
        };
        self.reply(from, op, Ok(Reply::Terms(rows)));
    }

    pub(super) fn mentions(
        &mut self,
        from: ShardIx,
        op: OpId,
        space: &SpaceName,
        texts: &[String],
    ) {
        let (found, names_version) = match self.space(space) {
            Ok(space) => {
                let found = texts.iter().map(|text| mentions_in(space, text)).collect();
                (found, space.names_version())
            }
            Err(_) => (vec![Vec::new(); texts.len()], 0),
        };
        self.reply(from, op, Ok(Reply::Mentions { found, names_version }));
    }

    pub(super) fn fetch(
        &mut self,
        from: ShardIx,
        op: OpId,
        name: &SpaceName,
        keys: Vec<MemoryKey>,
        wanted: &Wanted<'_>,
    ) {
        let Wanted { filter, with, reach } = *wanted;
        let Ok(space) = self.space(name) else {
            let none = keys.iter().map(|_| Found::Nothing).collect();
            return self.reply(from, op, Ok(Reply::Fetched(none)));
        };
        let compiled = (!filter.is_empty()).then(|| space.metadata.compile(filter));
        // A key that the filter removes is asked for as one that does not exist.
        let absent = MemoryKey(0);
        let allowed = |key: &MemoryKey| {
            let is_cold = !space.cold().is_empty() && space.cold().address(*key).is_some();
            let reached = if is_cold { reach.cold } else { reach.log };
            let node = space.live_node(*key, self.now).filter(|_| reached);
            node.is_some_and(|n| compiled.as_ref().is_none_or(|c| space.metadata.matches(c, n)))
        };
        let wanted = keys.iter().map(|k| if allowed(k) { *k } else { absent }).collect();
        self.collect(from, op, name, wanted, with, Purpose::Fetch);
    }
}

pub(super) fn probe_text(space: &Space, probe: &Probe, now: Timestamp) -> Probed {
    let df = |t: &text::TermKey| u32::try_from(space.text.df(*t)).unwrap_or(u32::MAX);
    let mut attributes: Vec<Attribute> = Vec::new();
    let mut mentions = Vec::with_capacity(probe.texts.len());
    for text in &probe.texts {
        mentions.push(if probe.names { mentions_in(space, text) } else { Vec::new() });
        if probe.names {
            attributes.extend(space.attributes.named_in(text));
        }
    }
    Probed {
        documents: space.text.documents(),
        total_length: space.text.total_length(),
        memories: space.memories(),
        document_frequency: probe.terms.iter().map(df).collect(),
        nearest: Vec::with_capacity(probe.embeddings.len()),
        mentions,
        ids: probe.ids.iter().copied().filter(|k| space.live_node(*k, now).is_some()).collect(),
        attributes,
        neighbours: Vec::new(),
        traced: !space.traces.is_empty(),
    }
}

pub(super) fn keyed(space: &Space, hits: &[Hit]) -> Vec<(MemoryKey, f32)> {
    hits.iter().map(|hit| (space.graph.key(hit.node), hit.score)).collect()
}

/// The sequence links of memories, where they have any.
pub(super) fn neighbours(space: &Space, keys: impl Iterator<Item = MemoryKey>) -> Neighbours {
    let kinds = space.sequence_kinds();
    if kinds.is_empty() {
        return Vec::new();
    }
    let links = keys.filter_map(|key| {
        let node = space.graph.find(key)?;
        let edges = space.graph.outward(node).iter();
        let sequence = edges.filter(|e| e.is_automatic() && kinds.contains(&e.kind()));
        let links: Vec<(MemoryKey, f32)> =
            sequence.map(|e| (space.graph.key(e.node), weight_of(e.weight))).collect();
        (!links.is_empty()).then_some((key, links))
    });
    links.collect()
}

/// What use has done to those of `keys` that were used.
fn lifts(space: &Space, keys: &[MemoryKey], lived: Lived) -> Vec<(MemoryKey, Lift)> {
    if space.traces.is_empty() {
        return Vec::new();
    }
    let lift = |key: &MemoryKey| space.traces.lift(*key, lived, space.config.half_life_s);
    keys.iter().filter_map(|key| Some((*key, lift(key)?))).collect()
}

fn scores(space: &Space, ask: &ScoreAsk, keys: &[MemoryKey], now: Timestamp) -> Vec<f32> {
    if ask.terms.is_empty() {
        return vec![0.0; keys.len()];
    }
    let query = Bm25Query {
        terms: &ask.terms,
        average_length: ask.average_length,
        k: 0,
        keys: space.graph.keys(),
        accept: None,
    };
    let found: Vec<Option<NodeIx>> = keys.iter().map(|k| space.live_node(*k, now)).collect();
    let nodes: Vec<NodeIx> = found.iter().flatten().copied().collect();
    let mut scores = space.text.score_nodes(&query, &nodes).into_iter();
    found.iter().map(|node| node.and_then(|_| scores.next()).unwrap_or(0.0)).collect()
}

fn mentions_in(space: &Space, text: &str) -> Vec<Mention> {
    let matches = space.names.matches(text).into_iter().map(|found| Mention {
        span: found.span,
        holder_count: found.holder_count,
        holders: found.holders.iter().map(|(n, w)| (space.graph.key(*n), *w)).collect(),
    });
    matches.collect()
}

/// What is wanted of a lexical search beside its hits.
pub(super) fn complete_lexical(
    space: &Space,
    ask: &LexicalAsk,
    marked: &[MemoryKey],
    now: Timestamp,
    found: &mut LexicalFound,
) {
    found.neighbours = neighbours(space, found.hits.iter().flatten().map(|(key, _)| *key));
    for attribute in &ask.attributes {
        let hits = found.hits.iter().flatten().map(|(key, _)| *key);
        let bears = |key: &MemoryKey| {
            let node = space.live_node(*key, now);
            node.is_some_and(|n| space.attributes.of(n).contains(attribute))
        };
        let mut bearers: Vec<MemoryKey> =
            hits.chain(marked.iter().copied()).filter(bears).collect();
        bearers.sort_unstable();
        bearers.dedup();
        found.bearers.push(bearers);
    }
}

/// Which links a hop follows.
struct Followed {
    kinds: Option<Vec<KindIx>>,
    /// The kind that is followed back, from what is named to what names it.
    back: Option<KindIx>,
}

impl Followed {
    fn of(space: &Space, kinds: Option<&[LinkKind]>) -> Self {
        let named = |k: &LinkKind| k.as_str() == MENTIONED_BY;
        let goes_back = kinds.is_none_or(|kinds| kinds.iter().any(named));
        Self {
            kinds: kinds.map(|k| k.iter().filter_map(|k| space.graph.find_kind(k)).collect()),
            back: space.automatic_kind(AutomaticKind::Mentions).filter(|_| goes_back),
        }
    }

    /// The ways that leave a node: its own links, and the mentions of it, weakly, backwards.
    fn ways<'a>(&'a self, space: &'a Space, node: NodeIx) -> impl Iterator<Item = Way> + 'a {
        let leads = |e: &Edge| {
            let merged = || space.merged.alias(space.graph.key(e.node)).is_some();
            e.is_live() || (!space.merged.has_no_aliases() && merged())
        };
        let follows = move |e: &&Edge| {
            leads(e) && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&e.kind()))
        };
        let out = space.graph.outward(node).iter().filter(follows);
        let way = |e: &Edge| Way { to: e.node, weight: u32::from(e.weight), kind: Some(e.kind()) };
        let out = out.map(way);
        let named = |e: &Edge| e.is_automatic() && Some(e.kind()) == self.back;
        // Where nothing is named, the links that lead here are left alone: there may be many.
        let into = self.back.into_iter().flat_map(move |_| space.graph.inward(node));
        let weight = |e: Edge| ((f32::from(e.weight) * MENTION_BACK) as u32).max(1);
        let back = into.filter(named);
        out.chain(back.map(move |e| Way { to: e.node, weight: weight(e), kind: None }))
    }
}

/// One way that activation may take; `kind: None` is a mention followed back.
#[derive(Clone, Copy)]
struct Way {
    to: NodeIx,
    weight: u32,
    kind: Option<KindIx>,
}

/// Share of a mention's weight that leads back from the named memory.
const MENTION_BACK: f32 = 0.2;
/// The kind under which a mention followed back is known.
const MENTIONED_BY: &str = "mentioned_by";

/// Follows the links of the sources from `next` on, about `links` of them; where it got to.
pub(super) fn run_hop(
    space: &Space,
    ask: &HopAsk,
    sources: &[Source],
    now: Timestamp,
    slice: HopSlice,
    scratch: &mut Scratches,
    hopped: &mut Hopped,
) -> usize {
    let followed = Followed::of(space, ask.kinds.as_deref());
    let HopSlice { next, links, followed: before } = slice;
    if next == 0 && !ask.held.is_empty() {
        let live = sources.iter().filter_map(|source| source_node(space, source, now));
        let nodes: Vec<NodeIx> = live.collect();
        let held = space.text.held_terms(&ask.held, &nodes);
        hopped.held = held.iter().fold(0, |all, held| all | held);
    }
    let room = sources.len().saturating_sub(next).saturating_mul(WAYS_EXPECTED);
    hopped.pulses.reserve(room.min(links as usize));
    look_at_first(space, &sources[next.min(sources.len())..]);
    for (place, source) in sources.iter().enumerate().skip(next) {
        if hopped.links >= links {
            return place;
        }
        look_ahead(space, &sources[place..]);
        let Some(node) = source_node(space, source, now) else { continue };
        if before + hopped.links >= ask.budget {
            hopped.truncated = true;
            break;
        }
        if ask.terms {
            hopped.terms.push((source.key, space.terms.terms_of(node).to_vec()));
        }
        spread_from(space, ask, &followed, node, source.activation, scratch, hopped);
    }
    sources.len()
}

/// A part of a hop.
#[derive(Clone, Copy)]
pub(super) struct HopSlice {
    /// The first source of it.
    pub next: usize,
    /// Links that it may follow, about.
    pub links: u64,
    /// Links that were followed before it.
    pub followed: u64,
}

/// The node of a source: by its number, where that is still its own.
fn source_node(space: &Space, source: &Source, now: Timestamp) -> Option<NodeIx> {
    if space.graph.is_numbered(source.node, source.key) && !space.has_expired(now) {
        return Some(source.node);
    }
    space.live_node(source.key, now)
}

/// Links of a source that there is room for before they are counted.
const WAYS_EXPECTED: usize = 8;

/// Sources ahead of which the processor fetches where the links are, the links themselves, and the
/// keys of what they lead to.
const LISTS_AHEAD: usize = 12;
const LINKS_AHEAD: usize = 8;
const KEYS_AHEAD: usize = 4;

/// Asks for all that the first sources need, each kind for all of them before the next kind: it
/// waits for memory three times, not three times for each source.
fn look_at_first(space: &Space, sources: &[Source]) {
    sources.iter().take(LISTS_AHEAD).for_each(|s| space.graph.prefetch_lists(s.node));
    sources.iter().take(LINKS_AHEAD).for_each(|s| space.graph.prefetch_links(s.node));
    sources.iter().take(KEYS_AHEAD).for_each(|s| space.graph.prefetch_targets(s.node));
}

fn look_ahead(space: &Space, sources: &[Source]) {
    if let Some(source) = sources.get(LISTS_AHEAD) {
        space.graph.prefetch_lists(source.node);
    }
    if let Some(source) = sources.get(LINKS_AHEAD) {
        space.graph.prefetch_links(source.node);
    }
    if let Some(source) = sources.get(KEYS_AHEAD) {
        space.graph.prefetch_targets(source.node);
    }
}

fn spread_from(
    space: &Space,
    ask: &HopAsk,
    followed: &Followed,
    node: NodeIx,
    activation: Activation,
    scratch: &mut Scratches,
    hopped: &mut Hopped,
) {
    let mut ways = std::mem::take(&mut scratch.ways);
    ways.clear();
    let mut total = 0;
    // Within the iterator: it asks itself but once which of its parts it is in.
    followed.ways(space, node).for_each(|way| {
        total += u64::from(way.weight);
        ways.push(way);
    });
    if total == 0 {
        scratch.ways = ways;
        return;
    }
    let from = space.graph.key(node);
    let lifted = lift_ways(space, from, ask.lived, &mut ways).unwrap_or(total);
    let fan_out = ask.fan_out as usize;
    if ways.len() > fan_out {
        let order = |w: &Way| (u32::MAX - w.weight, space.graph.key(w.to), kind_name(space, *w));
        ways.select_nth_unstable_by_key(fan_out, order);
        ways.truncate(fan_out);
    }
    let weight = total as f64 / f64::from(WEIGHT_ONE);
    let norm = Activation::from_f64(weight.powf(-Recipe::STATEMENT.fan_out_exponent));
    // What use adds to one way the others lose: no memory ever sends more than unused.
    let norm = if lifted == total { norm } else { norm.share(total, lifted) };
    let each = activation.times(norm);
    hopped.links += ways.len() as u64;
    hopped.pulses.extend(ways.iter().map(|way| {
        let (key, amount) = (space.graph.key(way.to), each.through(way.weight));
        Pulse { key, amount, node: way.to }
    }));
    if !space.merged.has_no_aliases() {
        for pulse in hopped.pulses.iter_mut().rev().take(ways.len()) {
            if let Some(key) = space.merged.alias(pulse.key) {
                (pulse.key, pulse.node) = (key, NodeIx::NONE);
            }
        }
    }
    if ask.explain {
        let vias = ways.iter().map(|&way| Via {
            from,
            kind: kind_name(space, way),
            weight: norm.through(way.weight).to_f64(),
            amount: each.through(way.weight),
            term: None,
        });
        hopped.via.extend(vias);
    }
    scratch.ways = ways;
}

/// Weighs ways by what use did to them; what they weigh together then, where any was used.
fn lift_ways(space: &Space, from: MemoryKey, lived: Lived, ways: &mut [Way]) -> Option<u64> {
    let traces = space.traces.ways_of(from);
    if traces.is_empty() {
        return None;
    }
    let back = space.graph.find_kind(&mentioned_by());
    for way in ways.iter_mut() {
        let end = way.kind.or(back).map(|kind| (space.graph.key(way.to), kind));
        if let Some(trace) = end.and_then(|(to, kind)| way_trace(traces, to, kind)) {
            way.weight = trace.lift(lived, space.config.half_life_s).of(way.weight).max(1);
        }
    }
    Some(ways.iter().map(|way| u64::from(way.weight)).sum())
}

fn mentioned_by() -> LinkKind {
    LinkKind::new(MENTIONED_BY).expect("a valid kind")
}

fn kind_name(space: &Space, way: Way) -> Arc<LinkKind> {
    match way.kind {
        Some(kind) => space.graph.kind(kind).clone(),
        None => Arc::new(mentioned_by()),
    }
}

/// Keeps the stronger of two sources; of equal ones that with the smaller key.
pub(crate) fn keep_stronger(via: &mut KeyMap<Via>, to: MemoryKey, new: Via) {
    match via.entry(to.0) {
        hashbrown::hash_map::Entry::Vacant(slot) => {
            slot.insert(new);
        }
        hashbrown::hash_map::Entry::Occupied(mut slot) => {
            let old = slot.get();
            let order = |v: &Via| (std::cmp::Reverse(v.amount), v.from, v.kind.clone());
            if order(&new) < order(old) {
                slot.insert(new);
            }
        }
    }
}

fn members(space: &Space, term: SharedTermKey, explain: bool) -> TermMembers {
    let nodes = space.terms.members(term);
    let few = nodes.len() <= limits::TERM_MEMBERS_MAX;
    TermMembers {
        count: nodes.len() as u64,
        keys: if few { nodes.iter().map(|n| space.graph.key(*n)).collect() } else { Vec::new() },
        display: if explain { space.terms.display(term).map(Arc::from) } else { None },
    }
}
