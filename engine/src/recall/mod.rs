//! A recall from its home shard's view: ask, fuse, spread, rank, fetch.
//!
//! *Invariants*: the answer depends on the replies alone, not on their number or order; every loop
//! is bounded by hops, candidates and the budget of links; a budget that ends it early is said.
//!
//! *Not here*: what a shard does to reply (`shard::search`).

mod cues;
mod lit;
mod path;
mod recipe;

use std::sync::Arc;

use crate::fixed::Activation;
use crate::fuse::{self, Recipe};
use crate::key::{KeyMap, MemoryKey, Partitioner, ShardIx};
use crate::life::{Lived, Outcome};
use crate::limits;
use crate::mesh::{
    Ask, Found, HopAsk, Hopped, LexicalAsk, LexicalFound, Probe, Probed, Pulse, Reach, Reply,
    ScoreAsk, Source, TermMembers, UsedWay, Via,
};
use crate::model::{LinkKind, Memory, SpaceConfig, SpaceName, Tier, Timestamp};
use crate::names;
use crate::request::{
    Code, CueKind, PhaseTime, Recall, RecallPhase, Recalled, RecalledMemory, Rejection,
    ScoreBreakdown,
};
use crate::terms::SharedTermKey;
use crate::text::{self, Analyzer, TermKey};

use cues::Cues;
use lit::{Cell, Lit};
use path::Paths;

pub(crate) use cues::named;

/// The kind under which explanations and `link_kinds` know an edge over a shared term.
pub const SHARED_TERM: &str = "shared_term";

/// What a recall does next.
pub enum Next {
    /// Waits for a reply to each of these.
    Ask(Box<RecallRun>, Vec<(ShardIx, Ask)>),
    /// Is over; what was of use is there where the client wants it reinforced.
    Done(Box<Recalled>, Option<Box<Touched>>),
    /// Can't be answered.
    Refuse(Rejection),
}

/// When a recall begins.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock.
    pub now: Timestamp,
    /// By what the server lived through.
    pub lived: Lived,
}

/// What a recall brought to mind, and the ways there.
#[derive(Debug)]
pub struct Touched {
    /// Space.
    pub space: SpaceName,
    /// When the recall began.
    pub lived: Lived,
    /// Memories: each as useful as its place among the answers says.
    pub memories: Vec<(MemoryKey, Outcome)>,
    /// Ways, as useful as the best memory that they led to.
    pub ways: Vec<UsedWay>,
}

/// One recall under way.
pub struct RecallRun {
    recall: Recall,
    space: SpaceName,
    partitioner: Partitioner,
    started: Moment,
    /// Some memory of the space was reinforced.
    traced: bool,
    stage: RecallPhase,
    stage_started: Timestamp,
    text_terms: Vec<Vec<TermKey>>,
    distinct_terms: Vec<TermKey>,
    memories: u64,
    cues: Cues,
    recipe: Recipe,
    candidates: usize,
    /// Terms of all text cues with their weights, and the average length of a document.
    weighed: Vec<(TermKey, f32)>,
    average_length: f64,
    held: u64,
    lit: Lit,
    /// Scaled BM25 and scaled similarity of the candidates: the first memories met, in their order.
    parts: Vec<(f64, f64)>,
    hop: u8,
    /// Places of the memories at which activation arrives in the hop under way.
    reached: Vec<u32>,
    sources: Vec<Source>,
    source_terms: Vec<(MemoryKey, Vec<SharedTermKey>)>,
    terms: Arc<Vec<SharedTermKey>>,
    scoring: Vec<Vec<MemoryKey>>,
    ranked: Vec<(f64, MemoryKey)>,
    ranked_next: usize,
    fetching: Vec<(f64, MemoryKey)>,
    fetched: KeyMap<Memory>,
    expired: bool,
    activation_max: f64,
    residual_max: f32,
    paths: Paths,
    used: Vec<(MemoryKey, f64)>,
    done: Recalled,
}

impl RecallRun {
    /// Starts a recall: the run, and what every shard is asked first.
    ///
    /// # Errors
    /// [`Code::DimensionMismatch`] or [`Code::ZeroVector`] for an embedding that does not fit.
    #[expect(clippy::type_complexity, reason = "a run and its first asks, once")]
    pub fn begin(
        recall: Recall,
        space: SpaceName,
        config: &SpaceConfig,
        partitioner: Partitioner,
        analyzer: &mut Analyzer,
        started: Moment,
    ) -> Result<(Box<Self>, Vec<(ShardIx, Ask)>), Rejection> {
        let embeddings = check_embeddings(&recall, config)?;
        let texts: Vec<&str> = recall.cues.iter().filter_map(text_of).collect();
        let text_terms: Vec<Vec<TermKey>> = texts.iter().map(|t| analyzer.query(t)).collect();
        let mut distinct_terms: Vec<TermKey> = text_terms.iter().flatten().copied().collect();
        distinct_terms.sort_unstable();
        distinct_terms.dedup();
        let normal: Vec<String> = texts.iter().map(|t| names::normal_form(t)).collect();
        let ids = id_keys(&recall, &partitioner, &space);
        let cues = Cues::new(&recall, &ids, &normal);
        let candidates = cues.candidates(&recall);
        let probe = Arc::new(Probe {
            space: space.clone(),
            filter: recall.filter.clone(),
            embeddings,
            terms: distinct_terms.clone(),
            texts: normal,
            ids,
            candidates,
            exact: recall.exact,
            names: recall.names,
        });
        let run = Self {
            cues,
            recipe: Recipe::STATEMENT,
            candidates,
            weighed: Vec::new(),
            average_length: 0.0,
            held: 0,
            recall,
            space,
            partitioner,
            started,
            traced: false,
            stage: RecallPhase::Probe,
            stage_started: started.now,
            text_terms,
            distinct_terms,
            memories: 0,
            lit: Lit::default(),
            parts: Vec::new(),
            hop: 0,
            reached: Vec::new(),
            sources: Vec::new(),
            source_terms: Vec::new(),
            terms: Arc::default(),
            scoring: Vec::new(),
            ranked: Vec::new(),
            ranked_next: 0,
            fetching: Vec::new(),
            fetched: KeyMap::default(),
            expired: false,
            activation_max: 0.0,
            residual_max: 0.0,
            paths: Paths::default(),
            used: Vec::new(),
            done: Recalled::default(),
        };
        let asks = run.everyone(|| Ask::Probe(probe.clone()));
        Ok((Box::new(run), asks))
    }

    /// When it has to be over.
    pub fn deadline(&self) -> Timestamp {
        let timeout_us = i64::try_from(self.recall.timeout_ms * 1000).unwrap_or(i64::MAX);
        Timestamp(self.started.now.0.saturating_add(timeout_us))
    }

    /// Goes on with the replies to what was asked, ordered by shard.
    pub fn advance(mut self: Box<Self>, replies: Vec<(ShardIx, Reply)>, now: Timestamp) -> Next {
        self.count(&replies);
        self.finish_phase(now);
        match self.stage {
            RecallPhase::Probe => self.probed(replies),
            RecallPhase::Lexical => {
                self.lexical(replies);
                self.fuse(now)
            }
            RecallPhase::Hop => self.hopped(replies, now),
            RecallPhase::Terms => {
                self.terms_known(replies);
                self.end_hop(now)
            }
            RecallPhase::Score => {
                self.scored(replies);
                self.rank()
            }
            RecallPhase::Fetch => self.fetched(replies),
            RecallPhase::Cold => {
                self.take_cold(replies);
                self.keep_fetched();
                self.fetch_more()
            }
            RecallPhase::Names => {
                self.paths.name(replies);
                self.finish()
            }
        }
    }

    /// The deadline passed: what was found so far is ranked and fetched, no more is looked for.
    pub fn expire(mut self: Box<Self>, replies: Vec<(ShardIx, Reply)>, now: Timestamp) -> Next {
        self.done.truncated = true;
        self.expired = true;
        self.finish_phase(now);
        // Fetching what was found is bounded by `top_k`; it gets as long again.
        let extended = self.recall.timeout_ms.saturating_mul(2).max(1);
        match self.stage {
            RecallPhase::Probe => {
                self.recall.max_hops = Some(0);
                self.recall.timeout_ms = extended;
                self.gather_probes(replies);
                self.fuse(now)
            }
            RecallPhase::Lexical => {
                self.recall.max_hops = Some(0);
                self.recall.timeout_ms = extended;
                self.lexical(replies);
                self.fuse(now)
            }
            RecallPhase::Hop | RecallPhase::Terms | RecallPhase::Score => {
                self.recall.timeout_ms = extended;
                self.rank()
            }
            RecallPhase::Fetch => {
                self.take_fetched(replies);
                self.keep_fetched();
                self.finish()
            }
            RecallPhase::Cold => {
                self.take_cold(replies);
                self.keep_fetched();
                self.finish()
            }
            RecallPhase::Names => self.finish(),
        }
    }

    fn count(&mut self, replies: &[(ShardIx, Reply)]) {
        self.done.visited.messages += 2 * (replies.len() as u64).saturating_sub(1);
        self.done.visited.shards = self.done.visited.shards.max(replies.len() as u64);
    }

    fn finish_phase(&mut self, now: Timestamp) {
        let took_us = u64::try_from(now.0 - self.stage_started.0).unwrap_or(0);
        self.done.phases.push(PhaseTime { phase: self.stage, took_us });
        self.stage_started = now;
    }

    fn everyone(&self, ask: impl Fn() -> Ask) -> Vec<(ShardIx, Ask)> {
        (0..self.partitioner.shards()).map(|s| (ShardIx(s), ask())).collect()
    }

    fn ask(mut self: Box<Self>, stage: RecallPhase, asks: Vec<(ShardIx, Ask)>) -> Next {
        self.stage = stage;
        Next::Ask(self, asks)
    }

    fn by_owner<T>(&self, items: impl IntoIterator<Item = (MemoryKey, T)>) -> Vec<Vec<T>> {
        let mut by_owner: Vec<Vec<T>> =
            (0..self.partitioner.shards()).map(|_| Vec::new()).collect();
        for (key, item) in items {
            by_owner[self.partitioner.owner(key).index()].push(item);
        }
        by_owner
    }

    fn gather_probes(&mut self, replies: Vec<(ShardIx, Reply)>) -> (Vec<u32>, u64, u64) {
        let mut frequencies = vec![0u32; self.distinct_terms.len()];
        let (mut documents, mut total_length) = (0, 0);
        let mut probes = Vec::with_capacity(replies.len());
        for (_, reply) in replies {
            let Reply::Probed(probed) = reply else { unreachable!("a probe was asked for") };
            let Probed { document_frequency, .. } = &*probed;
            for (sum, frequency) in frequencies.iter_mut().zip(document_frequency) {
                *sum = sum.saturating_add(*frequency);
            }
            documents += probed.documents;
            total_length += probed.total_length;
            self.memories += probed.memories;
            self.traced |= probed.traced;
            probes.push(*probed);
        }
        self.cues.probed(probes);
        self.recipe = self.cues.recipe.unwrap_or(Recipe::STATEMENT);
        (frequencies, documents, total_length)
    }

    fn probed(mut self: Box<Self>, replies: Vec<(ShardIx, Reply)>) -> Next {
        let (frequencies, documents, total_length) = self.gather_probes(replies);
        let known = frequencies.iter().any(|f| *f > 0);
        let attributes = self.cues.attributes().to_vec();
        if !known && attributes.is_empty() {
            let now = self.stage_started;
            return self.fuse(now);
        }
        let idf = |term: &TermKey| {
            let at = self.distinct_terms.binary_search(term).expect("made from the same terms");
            (*term, text::idf(documents, u64::from(frequencies[at])))
        };
        let queries: Vec<Vec<(TermKey, f32)>> =
            self.text_terms.iter().map(|terms| terms.iter().map(idf).collect()).collect();
        self.weighed = queries.concat();
        self.average_length = total_length as f64 / documents.max(1) as f64;
        let ask = Arc::new(LexicalAsk {
            space: self.space.clone(),
            filter: self.recall.filter.clone(),
            queries,
            average_length: self.average_length,
            candidates: self.candidates,
            attributes: attributes.clone(),
        });
        let marked = if attributes.is_empty() { Vec::new() } else { self.cues.nearest_keys() };
        let marked = self.by_owner(marked.into_iter().map(|key| (key, key)));
        let asks = (0u16..).map(ShardIx).zip(marked);
        let asks = asks.map(|(shard, keys)| (shard, Ask::Lexical(ask.clone(), keys))).collect();
        self.ask(RecallPhase::Lexical, asks)
    }

    fn lexical(&mut self, replies: Vec<(ShardIx, Reply)>) {
        let found = replies.into_iter().map(|(_, reply)| {
            let Reply::Lexical(found) = reply else { unreachable!("lexical search was asked for") };
            *found
        });
        let found: Vec<LexicalFound> = found.collect();
        self.cues.lexical(found);
    }

    fn fuse(mut self: Box<Self>, now: Timestamp) -> Next {
        let count = self.recall.top_k.max(self.recipe.candidates);
        let fused = self.cues.fuse(&self.recipe, count);
        self.lit.reserve(fused.list().len());
        for candidate in fused.list() {
            let place = self.lit.meet(MemoryKey(candidate.key));
            let cell = self.lit.at(place);
            (cell.direct, cell.lit) = (candidate.direct, true);
            self.parts.push((candidate.lexical, candidate.semantic));
        }
        let seeds = fused.seeds(self.recall.max_seeds as usize, &self.recipe);
        let source = |(key, direct)| Source::new(MemoryKey(key), Activation::from_f64(direct));
        self.sources = seeds.into_iter().map(source).collect();
        for (key, weight) in self.cues.ids() {
            let place = self.lit.meet(key);
            let cell = self.lit.at(place);
            (cell.cue, cell.lit) = (true, true);
            let activation = Activation::from_f64(weight);
            match self.sources.iter_mut().find(|seed| seed.key == key) {
                Some(seed) => seed.activation = activation.max(seed.activation),
                None => self.sources.push(Source::new(key, activation)),
            }
        }
        for source in &self.sources {
            let place = self.lit.meet(source.key);
            let cell = self.lit.at(place);
            (cell.seed, cell.lit) = (true, true);
        }
        self.next_hop(now)
    }

    fn next_hop(mut self: Box<Self>, now: Timestamp) -> Next {
        let hops = self.recall.max_hops.unwrap_or(self.recipe.hops);
        if self.hop >= hops || self.sources.is_empty() {
            return self.score_residual();
        }
        let links_left = limits::LINKS_PER_RECALL_MAX.saturating_sub(self.done.visited.links);
        if now >= self.deadline() || links_left == 0 {
            self.done.truncated = true;
            return self.rank();
        }
        self.hop += 1;
        self.reached.clear();
        self.source_terms.clear();
        let held = self.weighed.iter().map(|(term, _)| *term);
        let held = if self.hop == 1 { held.take(HELD_TERMS_MAX).collect() } else { Vec::new() };
        let kinds = self.recall.link_kinds.clone();
        let terms = self.hop == 1 && follows_terms(kinds.as_deref());
        let ask = Arc::new(HopAsk {
            space: self.space.clone(),
            kinds,
            fan_out: self.recall.fan_out,
            budget: links_left,
            explain: self.recall.explain || self.recall.reinforce,
            terms,
            held,
            lived: self.started.lived,
        });
        let sources = self.by_owner(self.sources.iter().map(|s| (s.key, *s)));
        let asks = (0u16..).map(ShardIx).zip(sources).filter(|(_, s)| !s.is_empty());
        let asks = asks.map(|(shard, sources)| (shard, Ask::Hop(ask.clone(), sources))).collect();
        self.ask(RecallPhase::Hop, asks)
    }

    fn hopped(mut self: Box<Self>, replies: Vec<(ShardIx, Reply)>, now: Timestamp) -> Next {
        for (shard, reply) in replies {
            let Reply::Hopped(hopped) = reply else { unreachable!("a hop was asked for") };
            self.take_part(shard, *hopped);
        }
        let mut terms: Vec<SharedTermKey> =
            self.source_terms.iter().flat_map(|(_, terms)| terms).copied().collect();
        if terms.is_empty() {
            return self.end_hop(now);
        }
        terms.sort_unstable();
        terms.dedup();
        self.terms = Arc::new(terms);
        let (space, terms, explain) = (&self.space, &self.terms, self.recall.explain);
        let ask = || Ask::Terms { space: space.clone(), terms: terms.clone(), explain };
        let asks = self.everyone(ask);
        self.ask(RecallPhase::Terms, asks)
    }

    /// Takes what a shard says of the hop under way, or a part of it.
    pub fn take_part(&mut self, from: ShardIx, hopped: Hopped) {
        self.done.visited.links += hopped.links;
        self.done.truncated |= hopped.truncated;
        self.held |= hopped.held;
        self.arrive(from, &hopped.pulses);
        let keys = hopped.pulses.iter().map(|pulse| pulse.key);
        self.paths.note(self.hop, keys.zip(hopped.via));
        self.source_terms.extend(hopped.terms);
    }

    /// Adds the pulses of a shard up by target.
    fn arrive(&mut self, from: ShardIx, pulses: &[Pulse]) {
        self.lit.reserve(pulses.len());
        for pulse in pulses {
            let place = self.lit.meet(pulse.key);
            let cell = self.lit.at(place);
            if cell.arriving == Activation::ZERO {
                self.reached.push(place as u32);
            }
            cell.arriving = cell.arriving.plus(pulse.amount);
            if self.partitioner.owner(pulse.key) == from {
                cell.node = pulse.node;
            }
        }
    }

    /// Activation over shared terms: from each source to the other memories that hold the term.
    fn terms_known(&mut self, replies: Vec<(ShardIx, Reply)>) {
        let mut rows: Vec<TermMembers> = vec![TermMembers::default(); self.terms.len()];
        for (_, reply) in replies {
            let Reply::Terms(members) = reply else { unreachable!("terms were asked for") };
            for (sum, row) in rows.iter_mut().zip(members) {
                sum.count += row.count;
                sum.keys.extend(row.keys);
                sum.display = sum.display.take().or(row.display);
            }
        }
        let weights: Vec<Option<f64>> =
            rows.iter().map(|row| recipe::term_weight(row.count, self.memories)).collect();
        let kind = Arc::new(LinkKind::new(SHARED_TERM).expect("a valid kind"));
        for (source, terms) in std::mem::take(&mut self.source_terms) {
            let at = |term: &SharedTermKey| self.terms.binary_search(term).expect("of the same");
            let counting = terms.iter().map(at).filter_map(|at| weights[at].map(|w| (at, w)));
            let mut counting: Vec<(usize, f64)> = counting.collect();
            counting.sort_unstable_by_key(|(at, _)| *at);
            let total: f64 = counting.iter().map(|(_, weight)| weight).sum();
            let sent = self.sources.iter().find(|s| s.key == source);
            let amount = sent.map_or(0.0, |s| s.activation.to_f64());
            for (at, weight) in counting {
                let row = &rows[at];
                let share = weight / total.powf(recipe::TERM_EXPONENT) / row.count as f64;
                let pulse = Activation::from_f64(self.recipe.shared * amount * share);
                self.done.visited.links += row.keys.len() as u64;
                for key in row.keys.iter().filter(|k| **k != source) {
                    let place = self.lit.meet(*key);
                    let cell = self.lit.at(place);
                    if cell.seed {
                        continue;
                    }
                    if cell.arriving == Activation::ZERO {
                        self.reached.push(place as u32);
                    }
                    cell.arriving = cell.arriving.plus(pulse);
                    if self.recall.explain || self.recall.reinforce {
                        let term = row.display.clone();
                        let kind = kind.clone();
                        let via = Via { from: source, kind, weight: share, amount: pulse, term };
                        self.paths.note(self.hop, [(*key, via)]);
                    }
                }
            }
        }
    }

    fn end_hop(mut self: Box<Self>, now: Timestamp) -> Next {
        let decay = Activation::from_f64(f64::from(self.recall.decay));
        let threshold = Activation::from_f64(f64::from(self.recall.min_activation));
        let last = self.hop >= self.recall.max_hops.unwrap_or(self.recipe.hops);
        self.sources.clear();
        for place in &self.reached {
            let cell = self.lit.at(*place as usize);
            let arrived = std::mem::take(&mut cell.arriving);
            let amount = if self.hop == 1 { arrived } else { arrived.times(decay) };
            if amount < threshold || amount == Activation::ZERO {
                continue;
            }
            cell.lit = true;
            cell.activation = cell.activation.plus(amount);
            if amount > cell.strongest {
                (cell.strongest, cell.hop) = (amount, self.hop);
            }
            if !last {
                self.sources.push(Source { key: cell.key, activation: amount, node: cell.node });
            }
        }
        if last {
            return self.score_residual();
        }
        let links_left = limits::LINKS_PER_RECALL_MAX.saturating_sub(self.done.visited.links);
        if self.sources.len() as u64 * u64::from(self.recall.fan_out) > links_left {
            // The budget of links cuts at the weakest, in an order that no shard count changes.
            self.sources.sort_unstable_by_key(|s| (std::cmp::Reverse(s.activation), s.key));
        }
        self.next_hop(now)
    }

    /// Asks how much of what the seeds lack of the cue is in what was lit up, and, where anything
    /// was ever reinforced, what use did to all that may come back.
    fn score_residual(self: Box<Self>) -> Next {
        let residual = fuse::residual_terms(&self.weighed, &[self.held]);
        if residual.is_empty() && !self.traced {
            return self.rank();
        }
        let wanted = |cell: &&Cell| self.traced || cell.activation > Activation::ZERO;
        let lit = self.lit.cells().iter().filter(|cell| cell.lit).filter(wanted);
        let lit: Vec<MemoryKey> = lit.map(|cell| cell.key).collect();
        if lit.is_empty() {
            return self.rank();
        }
        let ask = Arc::new(ScoreAsk {
            space: self.space.clone(),
            terms: residual,
            average_length: self.average_length,
            lived: self.started.lived,
        });
        let keys = self.by_owner(lit.into_iter().map(|key| (key, key)));
        let mut run = self;
        run.scoring = keys;
        let asks = (0u16..).map(ShardIx).zip(&run.scoring).filter(|(_, keys)| !keys.is_empty());
        let asks = asks.map(|(shard, keys)| (shard, Ask::Score(ask.clone(), keys.clone())));
        let asks = asks.collect();
        run.ask(RecallPhase::Score, asks)
    }

    fn scored(&mut self, replies: Vec<(ShardIx, Reply)>) {
        for (shard, reply) in replies {
            let Reply::Scored { scores, lifts } = reply else {
                unreachable!("scores were asked for")
            };
            for (key, lift) in lifts {
                let place = self.lit.meet(key);
                self.lit.at(place).lift = lift;
            }
            for (key, score) in self.scoring[shard.index()].iter().zip(scores) {
                let place = self.lit.meet(*key);
                let cell = self.lit.at(place);
                cell.residual = score;
                if !cell.seed && cell.activation > Activation::ZERO {
                    self.residual_max = self.residual_max.max(score);
                }
            }
        }
    }

    fn rank(mut self: Box<Self>) -> Next {
        let lit = || self.lit.cells().iter().filter(|cell| cell.lit);
        let spread = lit().filter(|cell| !cell.seed);
        self.activation_max = spread.map(|cell| self.preferred(cell)).fold(0.0, f64::max);
        let lit = || self.lit.cells().iter().filter(|cell| cell.lit);
        self.done.visited.memories = lit().count() as u64;
        let ranked = lit().filter(|cell| !cell.cue);
        self.ranked = ranked.map(|cell| (self.score(cell).0, cell.key)).collect();
        if self.traced {
            let best = self.ranked.iter().map(|(score, _)| *score).fold(1.0, f64::max);
            self.ranked.iter_mut().for_each(|(score, _)| *score /= best);
        }
        self.fetch_more()
    }

    /// Activation of a memory, more where it holds what the seeds lack of the cue.
    fn preferred(&self, cell: &Cell) -> f64 {
        let factor = fuse::residual_factor(cell.residual, self.residual_max, &self.recipe);
        cell.activation.to_f64() * factor
    }

    /// Score of a memory and what of it came along links.
    fn score(&self, cell: &Cell) -> (f64, f64) {
        let activation =
            fuse::scaled_activation(self.preferred(cell), self.activation_max, &self.recipe);
        (fuse::lifted(fuse::score(cell.direct, activation), cell.lift), activation)
    }

    fn fetch_more(mut self: Box<Self>) -> Next {
        let wanted = self.recall.top_k - self.done.memories.len();
        let rest = &mut self.ranked[self.ranked_next..];
        if wanted == 0 || rest.is_empty() {
            return self.name_paths();
        }
        // A filter removes some of what is fetched: ask for more, so that one round is enough.
        let spare = if self.recall.filter.is_empty() { 0 } else { wanted };
        let count = (wanted + spare).min(rest.len());
        let order =
            |a: &(f64, MemoryKey), b: &(f64, MemoryKey)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if count < rest.len() {
            rest.select_nth_unstable_by(count, order);
        }
        rest[..count].sort_unstable_by(order);
        self.fetching = rest[..count].to_vec();
        self.ranked_next += count;
        let keys = self.by_owner(self.fetching.iter().map(|(_, key)| (*key, *key)));
        let filter = Arc::new(self.recall.filter.clone());
        let (space, with) = (&self.space, self.recall.with);
        let asks = (0u16..).map(ShardIx).zip(keys).filter(|(_, keys)| !keys.is_empty());
        let reach = reach_of(&self.recall.tiers);
        let filter = || filter.clone();
        let ask = |keys| Ask::Fetch { space: space.clone(), keys, filter: filter(), with, reach };
        let asks = asks.map(|(shard, keys)| (shard, ask(keys))).collect();
        self.ask(RecallPhase::Fetch, asks)
    }

    fn fetched(mut self: Box<Self>, replies: Vec<(ShardIx, Reply)>) -> Next {
        let cold = self.take_fetched(replies);
        if cold.is_empty() || self.expired {
            self.keep_fetched();
            return self.fetch_more();
        }
        let (space, with) = (&self.space, self.recall.with);
        let ask = |key| Ask::FetchCold { space: space.clone(), key, with };
        let asks = cold.into_iter().map(|key| (self.partitioner.owner(key), ask(key))).collect();
        self.ask(RecallPhase::Cold, asks)
    }

    /// Takes what the log had; the keys of what lies in the cold tier.
    fn take_fetched(&mut self, replies: Vec<(ShardIx, Reply)>) -> Vec<MemoryKey> {
        let mut cold = Vec::new();
        for (shard, reply) in replies {
            let Reply::Fetched(found) = reply else { unreachable!("contents were asked for") };
            let asked = self.fetching.iter().filter(|(_, k)| self.partitioner.owner(*k) == shard);
            for ((_, key), found) in asked.zip(found) {
                match found {
                    Found::Memory(memory) => drop(self.fetched.insert(key.0, *memory)),
                    Found::Cold => cold.push(*key),
                    Found::Nothing => {}
                    Found::OutOfReach => self.done.truncated = true,
                }
            }
        }
        cold
    }

    fn take_cold(&mut self, replies: Vec<(ShardIx, Reply)>) {
        for (_, reply) in replies {
            let Reply::FetchedCold(key, found) = reply else {
                unreachable!("cold contents were asked for")
            };
            match found {
                Found::Memory(memory) => drop(self.fetched.insert(key.0, *memory)),
                Found::Nothing => {}
                Found::Cold | Found::OutOfReach => self.done.truncated = true,
            }
        }
    }

    /// Keeps what was fetched, best first.
    fn keep_fetched(&mut self) {
        let mut fetched = std::mem::take(&mut self.fetched);
        for (score, key) in std::mem::take(&mut self.fetching) {
            if self.done.memories.len() == self.recall.top_k {
                break;
            }
            if let Some(memory) = fetched.remove(&key.0) {
                self.keep(score, key, memory);
            }
        }
    }

    fn keep(&mut self, score: f64, key: MemoryKey, memory: Memory) {
        let place = self.lit.meet(key);
        let cell = *self.lit.at(place);
        let (_, activation) = self.score(&cell);
        let hops = if cell.direct >= activation { 0 } else { cell.hop };
        if self.recall.explain || self.recall.reinforce {
            self.paths.wanted(key, hops, &memory.id);
        }
        if self.recall.reinforce {
            self.used.push((key, score));
        }
        let (lexical, semantic) = self.parts.get(place).copied().unwrap_or_default();
        let recency = cell.lift.to_f64();
        let breakdown = ScoreBreakdown { semantic, lexical, activation, recency };
        let path = Vec::new();
        self.done.memories.push(RecalledMemory { memory, score, breakdown, hops, path });
    }

    fn name_paths(mut self: Box<Self>) -> Next {
        let unnamed = if self.recall.explain { self.paths.unnamed() } else { Vec::new() };
        if unnamed.is_empty() {
            return self.finish();
        }
        let keys = self.by_owner(unnamed.into_iter().map(|key| (key, key)));
        let space = &self.space;
        let asks = (0u16..).map(ShardIx).zip(keys).filter(|(_, keys)| !keys.is_empty());
        let ask = |keys| Ask::Names { space: space.clone(), keys };
        let asks = asks.map(|(shard, keys)| (shard, ask(keys))).collect();
        self.stage = RecallPhase::Names;
        self.ask(RecallPhase::Names, asks)
    }

    fn finish(mut self: Box<Self>) -> Next {
        if self.recall.explain {
            let paths = self.paths.build(&self.lit);
            for (memory, path) in self.done.memories.iter_mut().zip(paths) {
                memory.path = path;
            }
        }
        let touched = self.recall.reinforce.then(|| Box::new(self.touched()));
        Next::Done(Box::new(self.done), touched)
    }

    /// What came back and how, to be reinforced.
    fn touched(&mut self) -> Touched {
        let used = std::mem::take(&mut self.used);
        let best = used.iter().map(|(_, score)| *score).fold(1e-9, f64::max);
        let outcome = |(key, score): &(MemoryKey, f64)| (*key, fuse::usefulness(*score / best));
        let memories: Vec<(MemoryKey, Outcome)> = used.iter().map(outcome).collect();
        let ways = self.paths.used(&memories);
        Touched { space: self.space.clone(), lived: self.started.lived, memories, ways }
    }
}

/// Terms of a cue of which it is known whether a seed holds them.
const HELD_TERMS_MAX: usize = 64;

fn text_of(cue: &crate::request::Cue) -> Option<&str> {
    match &cue.kind {
        CueKind::Text(text) => Some(text),
        CueKind::Embedding(_) | CueKind::Id(_) => None,
    }
}

fn reach_of(tiers: &[Tier]) -> Reach {
    let log = tiers.iter().any(|tier| matches!(tier, Tier::Fast | Tier::Warm));
    Reach { log, cold: tiers.contains(&Tier::Cold) }
}

fn follows_terms(kinds: Option<&[LinkKind]>) -> bool {
    kinds.is_none_or(|kinds| kinds.iter().any(|k| k.as_str() == SHARED_TERM))
}

fn id_keys(recall: &Recall, partitioner: &Partitioner, space: &SpaceName) -> Vec<MemoryKey> {
    let ids = recall.cues.iter().filter_map(|cue| match &cue.kind {
        CueKind::Id(id) => Some(partitioner.key(space, id)),
        CueKind::Text(_) | CueKind::Embedding(_) => None,
    });
    ids.collect()
}

fn check_embeddings(recall: &Recall, config: &SpaceConfig) -> Result<Vec<Vec<f32>>, Rejection> {
    let mut embeddings = Vec::new();
    for (i, cue) in recall.cues.iter().enumerate() {
        let CueKind::Embedding(embedding) = &cue.kind else { continue };
        let Some(dimensions) = config.dimensions.map(usize::from) else { continue };
        let pointer = format!("/cues/{i}/embedding");
        if embedding.len() != dimensions {
            let detail = format!(
                "the embedding has {} dimensions, those of this space have {dimensions}",
                embedding.len()
            );
            return Err(Rejection::at(Code::DimensionMismatch, pointer, detail));
        }
        crate::shard::check_direction(config.metric, embedding)
            .map_err(|r| Rejection { pointer, ..r })?;
        embeddings.push(embedding.clone());
    }
    Ok(embeddings)
}
