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
    Probe, Probed, Reach, Reply, ScoreAsk, TermMembers, Via,
};
use crate::model::{LinkKind, SpaceName, Timestamp};
use crate::node::NodeIx;
use crate::request::With;
use crate::space::{Space, way_trace};
use crate::terms::SharedTermKey;
use crate::text::{self, Bm25Query};
use crate::vector::{self, Accept, Hit, Progress, Scope, Search};

use super::Shard;
use super::collect::Purpose;

/// Memory that the searches of a shard share.
#[derive(Default)]
pub(super) struct Scratches {
    text: text::Scratch,
    pub(super) vector: vector::Scratch,
    pulses: hashbrown::HashMap<u32, u64, crate::key::KeyHashBuilder>,
    via: KeyMap<Via>,
    ways: Vec<Way>,
}

/// An exact search that runs in slices.
pub(super) struct Scan {
    to: ShardIx,
    op: OpId,
    probe: Arc<Probe>,
    probed: Box<Probed>,
    running: Option<vector::Probe>,
    now: Timestamp,
}

/// Most memories that a filter lets through for which each is looked at.
const CANDIDATES_MAX: usize = 10_000;

/// What a recall may find in a space: by filter and by time.
enum Allowed {
    All,
    Only(Vec<NodeIx>),
    Where { compiled: crate::metadata::Compiled, estimate: usize },
}

impl Allowed {
    fn of(space: &Space, filter: &Filter, now: Timestamp) -> Self {
        if filter.is_empty() && !space.has_expired(now) {
            return Self::All;
        }
        let compiled = space.metadata.compile(filter);
        let live = |n: &NodeIx| space.entry(*n, now).is_some();
        match space.metadata.candidates(&compiled, CANDIDATES_MAX) {
            Some(candidates) => {
                let passes = |n: &NodeIx| live(n) && space.metadata.matches(&compiled, *n);
                Self::Only(candidates.into_iter().filter(passes).collect())
            }
            None => {
                let estimate = space.metadata.estimate(&compiled);
                Self::Where { compiled, estimate }
            }
        }
    }

    fn passes(&self, space: &Space, now: Timestamp, node: NodeIx) -> bool {
        match self {
            Self::All => true,
            Self::Only(nodes) => nodes.contains(&node),
            Self::Where { compiled, .. } => {
                space.entry(node, now).is_some() && space.metadata.matches(compiled, node)
            }
        }
    }
}

/// Runs `f` with what may be found, as the vector index wants it said.
fn with_scope<T>(
    space: &Space,
    filter: &Filter,
    now: Timestamp,
    f: impl FnOnce(&Scope<'_>) -> T,
) -> T {
    let allowed = Allowed::of(space, filter, now);
    let test = |node: NodeIx| allowed.passes(space, now, node);
    let accept = match &allowed {
        Allowed::All => Accept::All,
        Allowed::Only(nodes) => Accept::Only(nodes),
        Allowed::Where { estimate, .. } => Accept::Where { test: &test, estimate: *estimate },
    };
    f(&Scope { keys: space.graph.keys(), accept })
}

/// What of memories is wanted for an answer, and which may be in it.
pub(super) struct Wanted<'a> {
    pub filter: &'a Filter,
    pub with: With,
    pub reach: Reach,
}

impl Shard {
    pub(super) fn probe(&mut self, from: ShardIx, op: OpId, probe: Arc<Probe>) {
        let Some(number) = self.space_number(&probe.space) else {
            let nearest = vec![Vec::new(); probe.embeddings.len()];
            let mentions = vec![Vec::new(); probe.texts.len()];
            let document_frequency = vec![0; probe.terms.len()];
            let empty = Probed { nearest, mentions, document_frequency, ..Probed::default() };
            return self.reply(from, op, Ok(Reply::Probed(Box::new(empty))));
        };
        let space = &self.spaces[&number];
        let mut probed = Box::new(probe_text(space, &probe, self.now));
        match &space.vectors {
            None => probed.nearest = vec![Vec::new(); probe.embeddings.len()],
            Some(vectors) if probe.exact && !probe.embeddings.is_empty() => {
                let running = Some(vectors.exact(&probe.embeddings[0], probe.candidates));
                let now = self.now;
                self.scans.push_back(Scan { to: from, op, probe, probed, running, now });
                return;
            }
            Some(vectors) => {
                let (now, scratch) = (self.now, &mut self.scratch.vector);
                with_scope(space, &probe.filter, now, |scope| {
                    for embedding in &probe.embeddings {
                        let search = Search {
                            vector: embedding,
                            k: probe.candidates,
                            ef: None,
                            scope: *scope,
                        };
                        probed.nearest.push(keyed(space, &vectors.search(scratch, &search)));
                    }
                });
            }
        }
        probed.neighbours = neighbours(space, probed.nearest.iter().flatten().map(|(key, _)| *key));
        self.reply(from, op, Ok(Reply::Probed(probed)));
    }

    /// Runs one slice of an exact search; false where there is none.
    pub(super) fn run_scan(&mut self) -> bool {
        let Some(mut scan) = self.scans.pop_front() else { return false };
        let number = self.space_number(&scan.probe.space);
        let vectors = number.and_then(|n| self.spaces[&n].vectors.as_ref().map(|v| (n, v)));
        let Some((number, vectors)) = vectors else {
            // The space went away under the scan.
            scan.probed.nearest = vec![Vec::new(); scan.probe.embeddings.len()];
            self.reply(scan.to, scan.op, Ok(Reply::Probed(scan.probed)));
            return true;
        };
        let space = &self.spaces[&number];
        let mut running = scan.running.take().expect("a scan in the queue is running");
        let progress = with_scope(space, &scan.probe.filter, scan.now, |scope| {
            running.step(vectors, scope, vectors.slice())
        });
        if progress == Progress::More {
            scan.running = Some(running);
            self.scans.push_back(scan);
            return true;
        }
        let hits = running.finish(vectors, space.graph.keys(), &mut self.scratch.vector);
        scan.probed.nearest.push(keyed(space, &hits));
        match scan.probe.embeddings.get(scan.probed.nearest.len()) {
            Some(next) => {
                scan.running = Some(vectors.exact(next, scan.probe.candidates));
                self.scans.push_back(scan);
            }
            None => {
                let hits = scan.probed.nearest.iter().flatten().map(|(key, _)| *key);
                scan.probed.neighbours = neighbours(space, hits);
                self.reply(scan.to, scan.op, Ok(Reply::Probed(scan.probed)));
            }
        }
        true
    }

    pub(super) fn lexical(
        &mut self,
        from: ShardIx,
        op: OpId,
        ask: &LexicalAsk,
        marked: &[MemoryKey],
    ) {
        let Some(number) = self.space_number(&ask.space) else {
            let hits = vec![Vec::new(); ask.queries.len()];
            let bearers = vec![Vec::new(); ask.attributes.len()];
            return self.reply(
                from,
                op,
                Ok(Reply::Lexical(Box::new(LexicalFound {
                    hits,
                    bearers,
                    ..LexicalFound::default()
                }))),
            );
        };
        let space = &self.spaces[&number];
        let found = lexical_search(space, ask, marked, self.now, &mut self.scratch.text);
        self.reply(from, op, Ok(Reply::Lexical(Box::new(found))));
    }

    pub(super) fn hop(
        &mut self,
        from: ShardIx,
        op: OpId,
        ask: &HopAsk,
        sources: &[(MemoryKey, Activation)],
    ) {
        let mut hopped = Hopped::default();
        if let Some(number) = self.space_number(&ask.space) {
            let space = &self.spaces[&number];
            run_hop(space, ask, sources, self.now, &mut self.scratch, &mut hopped);
        }
        self.reply(from, op, Ok(Reply::Hopped(Box::new(hopped))));
    }

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

fn probe_text(space: &Space, probe: &Probe, now: Timestamp) -> Probed {
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

fn keyed(space: &Space, hits: &[Hit]) -> Vec<(MemoryKey, f32)> {
    hits.iter().map(|hit| (space.graph.key(hit.node), hit.score)).collect()
}

/// The sequence links of memories, where they have any.
fn neighbours(space: &Space, keys: impl Iterator<Item = MemoryKey>) -> Neighbours {
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

fn lexical_search(
    space: &Space,
    ask: &LexicalAsk,
    marked: &[MemoryKey],
    now: Timestamp,
    scratch: &mut text::Scratch,
) -> LexicalFound {
    let allowed = Allowed::of(space, &ask.filter, now);
    let all = matches!(allowed, Allowed::All);
    let nodes: Option<hashbrown::HashSet<NodeIx>> = match &allowed {
        Allowed::Only(nodes) => Some(nodes.iter().copied().collect()),
        Allowed::All | Allowed::Where { .. } => None,
    };
    let accept = |node: NodeIx| match &nodes {
        Some(nodes) => nodes.contains(&node),
        None => allowed.passes(space, now, node),
    };
    let mut found = LexicalFound::default();
    for terms in &ask.queries {
        let query = Bm25Query {
            terms,
            average_length: ask.average_length,
            k: ask.candidates,
            keys: space.graph.keys(),
            accept: if all { None } else { Some(&accept) },
        };
        let hits = space.text.search(&query, scratch);
        found.hits.push(hits.iter().map(|(n, score)| (space.graph.key(*n), *score)).collect());
    }
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
    found
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
        let named = |e: &&Edge| e.is_automatic() && Some(e.kind()) == self.back;
        let back = space.graph.inward(node).iter().filter(named);
        let weight = |e: &Edge| ((f32::from(e.weight) * MENTION_BACK) as u32).max(1);
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

fn run_hop(
    space: &Space,
    ask: &HopAsk,
    sources: &[(MemoryKey, Activation)],
    now: Timestamp,
    scratch: &mut Scratches,
    hopped: &mut Hopped,
) {
    let followed = Followed::of(space, ask.kinds.as_deref());
    scratch.pulses.clear();
    scratch.via.clear();
    for (key, activation) in sources {
        let Some(node) = space.live_node(*key, now) else { continue };
        if hopped.links >= ask.budget {
            hopped.truncated = true;
            break;
        }
        if ask.terms {
            hopped.terms.push((*key, space.terms.terms_of(node).to_vec()));
        }
        spread_from(space, ask, &followed, node, *activation, scratch, hopped);
    }
    if !ask.held.is_empty() {
        let live = sources.iter().filter_map(|(key, _)| space.live_node(*key, now));
        let nodes: Vec<NodeIx> = live.collect();
        let held = space.text.held_terms(&ask.held, &nodes);
        hopped.held = held.iter().fold(0, |all, held| all | held);
    }
    hopped.pulses.reserve(scratch.pulses.len());
    let direct = space.merged.has_no_aliases();
    for (node, amount) in &scratch.pulses {
        let key = space.graph.key(NodeIx(*node));
        let to = if direct { key } else { space.merged.alias(key).unwrap_or(key) };
        hopped.pulses.push((to, Activation(*amount)));
        if ask.explain {
            let via = scratch.via.remove(&key.0).expect("each pulse notes its strongest source");
            hopped.via.push(via);
        }
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
    ways.extend(followed.ways(space, node));
    let total: u64 = ways.iter().map(|way| u64::from(way.weight)).sum();
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
    for &way in &ways {
        let amount = each.through(way.weight);
        let sum = scratch.pulses.entry(way.to.0).or_insert(0);
        *sum = sum.saturating_add(amount.0);
        if ask.explain {
            let weight = norm.through(way.weight).to_f64();
            let via = Via { from, kind: kind_name(space, way), weight, amount, term: None };
            keep_stronger(&mut scratch.via, space.graph.key(way.to), via);
        }
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
