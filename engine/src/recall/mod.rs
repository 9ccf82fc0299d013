//! A recall from its home shard's view: ask, fuse, spread, rank, fetch.
//!
//! *Invariants*: the answer depends on the replies alone, not on their number or order; every loop
//! is bounded by hops, candidates and the budget of links; a budget that ends it early is said.
//!
//! *Not here*: what a shard does to reply (`shard::search`); the hops (`spread`), ranks and contents
//! (`answer`).

mod answer;
mod cues;
mod lit;
mod path;
mod recipe;
mod spread;

use std::sync::Arc;

use crate::fixed::Activation;
use crate::fuse::Recipe;
use crate::key::{KeyMap, MemoryKey, Partitioner, ShardIx};
use crate::life::{Lived, Outcome};
use crate::mesh::{Ask, LexicalAsk, LexicalFound, Probe, Probed, Pulse, Reply, Source, UsedWay};
use crate::model::{Memory, SpaceConfig, SpaceName, Timestamp};
use crate::names;
use crate::request::{Code, CueKind, PhaseTime, Recall, RecallPhase, Recalled, Rejection};
use crate::terms::SharedTermKey;
use crate::text::{self, Analyzer, TermKey};

use cues::Cues;
use lit::Lit;
use path::Paths;

pub(crate) use cues::named;

/// The kind under which explanations and `link_kinds` know an edge over a shared term.
pub const SHARED_TERM: &str = "shared_term";

/// What a recall does next.
pub enum Next {
    /// Waits for a reply to each of these.
    Ask(Box<RecallRun>, Vec<(ShardIx, Ask)>),
    /// Is over; what was of use is there where the client wants it reinforced.
    Done(Box<Recalled>, Option<Box<Touched>>, Spare),
    /// Can't be answered.
    Refuse(Rejection),
}

/// Memory that a recall is done with, for the next one.
#[derive(Debug, Default)]
pub struct Spare {
    lit: Lit,
    ranked: Vec<(f64, MemoryKey)>,
    /// Those of replies, for the hops of this shard.
    pub pulses: Vec<Vec<Pulse>>,
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
    /// Of replies that were taken in.
    pulses: Vec<Vec<Pulse>>,
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
            pulses: Vec::new(),
            done: Recalled::default(),
        };
        let asks = run.everyone(|| Ask::Probe(probe.clone()));
        Ok((Box::new(run), asks))
    }

    /// Works in the memory of one that is over.
    pub fn reuse(&mut self, spare: Spare) {
        self.lit = spare.lit;
        self.ranked = spare.ranked;
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
        if self.partitioner.shards() == 1 {
            return vec![items.into_iter().map(|(_, item)| item).collect()];
        }
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
}

fn text_of(cue: &crate::request::Cue) -> Option<&str> {
    match &cue.kind {
        CueKind::Text(text) => Some(text),
        CueKind::Embedding(_) | CueKind::Id(_) => None,
    }
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
