//! Shared terms: what of a content ties memories together, and which memories hold it.
//!
//! *Invariants*: extraction depends on content and tags alone; at most
//! [`TERMS_PER_MEMORY_MAX`] terms a memory; the display string of a term is kept once.
//!
//! *Not here*: which terms are too rare or too common to count (the coordinator, from the space's
//! document frequencies), words for BM25 (`crate::text`).

use hashbrown::HashMap;

use crate::model::Metadata;
use crate::names::{name_key, normal_form};
use crate::node::NodeIx;
use crate::text::is_stop_word;

/// Most shared terms of one memory.
pub const TERMS_PER_MEMORY_MAX: usize = 32;
/// Most tokens of a capitalised span.
const SPAN_TOKENS_MAX: usize = 6;
/// Most bytes of a quoted string or a tag that is taken for a term.
const PHRASE_BYTES_MAX: usize = 64;

/// A shared term: the hash of its normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedTermKey(pub u64);

/// A term of one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedTerm {
    /// Its normal form's hash.
    pub key: SharedTermKey,
    /// Its normal form, for people.
    pub display: String,
}

/// The terms of a memory in the order in which they occur: its tags, then capitalised spans,
/// quoted strings and years of its content. Distinct and bounded.
pub fn terms_of(metadata: &Metadata, content: Option<&str>) -> Vec<SharedTerm> {
    let mut terms = Terms::default();
    if let Some(serde_json::Value::Array(tags)) = metadata.get("tags") {
        tags.iter().filter_map(serde_json::Value::as_str).for_each(|tag| terms.push(tag));
    }
    if let Some(content) = content {
        push_spans(&mut terms, content);
        push_quoted(&mut terms, content);
    }
    terms.found
}

/// Distinct terms up to the bound.
#[derive(Default)]
struct Terms {
    found: Vec<SharedTerm>,
}

impl Terms {
    fn push(&mut self, text: &str) {
        if self.found.len() >= TERMS_PER_MEMORY_MAX || text.len() > PHRASE_BYTES_MAX {
            return;
        }
        let display = normal_form(text);
        let key = SharedTermKey(name_key(&display));
        let known = self.found.iter().any(|term| term.key == key);
        if display.chars().count() >= 3 && !is_stop_word(&display) && !known {
            self.found.push(SharedTerm { key, display });
        }
    }
}

/// Runs of capitalised words within a sentence, and years.
fn push_spans(terms: &mut Terms, content: &str) {
    let mut span: Vec<&str> = Vec::new();
    for raw in content.split_whitespace() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric());
        if is_year(word) {
            terms.push(word);
        }
        if word.starts_with(char::is_uppercase) && span.len() < SPAN_TOKENS_MAX {
            span.push(word);
            if raw.ends_with(|c: char| !c.is_alphanumeric()) {
                push_span(terms, &mut span);
            }
        } else {
            push_span(terms, &mut span);
        }
    }
    push_span(terms, &mut span);
}

fn push_span(terms: &mut Terms, span: &mut Vec<&str>) {
    if !span.is_empty() {
        terms.push(&span.join(" "));
        span.clear();
    }
}

fn is_year(word: &str) -> bool {
    word.len() == 4
        && word.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(word.as_bytes(), [b'1', b'0'..=b'9', ..] | [b'2', b'0', ..])
}

/// What stands between double quotes.
fn push_quoted(terms: &mut Terms, content: &str) {
    let mut parts = content.split(['"', '“', '”']);
    parts.next();
    while let (Some(quoted), Some(_)) = (parts.next(), parts.next()) {
        terms.push(quoted);
    }
}

/// The shared terms of one space on one shard.
#[derive(Default)]
pub struct TermIndex {
    terms: HashMap<SharedTermKey, Members>,
    of_node: HashMap<NodeIx, Box<[SharedTermKey]>>,
}

struct Members {
    display: Box<str>,
    nodes: Vec<NodeIx>,
}

impl TermIndex {
    /// An index without terms.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a node its terms; it has none yet.
    pub fn insert(&mut self, node: NodeIx, terms: &[SharedTerm]) {
        if terms.is_empty() {
            return;
        }
        for term in terms {
            let members = self.terms.entry(term.key).or_insert_with(|| Members {
                display: term.display.as_str().into(),
                nodes: Vec::new(),
            });
            if let Err(at) = members.nodes.binary_search(&node) {
                members.nodes.insert(at, node);
            }
        }
        let keys = terms.iter().map(|term| term.key).collect();
        let previous = self.of_node.insert(node, keys);
        assert!(previous.is_none(), "a node gets its terms once");
    }

    /// Takes a node's terms away, if it has any.
    pub fn remove(&mut self, node: NodeIx) {
        for key in self.of_node.remove(&node).unwrap_or_default() {
            let Some(members) = self.terms.get_mut(&key) else { continue };
            if let Ok(at) = members.nodes.binary_search(&node) {
                members.nodes.remove(at);
            }
            if members.nodes.is_empty() {
                self.terms.remove(&key);
            }
        }
    }

    /// Number of this shard's memories that hold `term`.
    pub fn df(&self, term: SharedTermKey) -> u64 {
        self.members(term).len() as u64
    }

    /// The memories that hold `term`, ascending.
    pub fn members(&self, term: SharedTermKey) -> &[NodeIx] {
        self.terms.get(&term).map_or(&[], |members| &members.nodes)
    }

    /// The terms that a node holds.
    pub fn terms_of(&self, node: NodeIx) -> &[SharedTermKey] {
        self.of_node.get(&node).map_or(&[], |keys| keys)
    }

    /// A term as people read it, where this shard knows it.
    pub fn display(&self, term: SharedTermKey) -> Option<&str> {
        self.terms.get(&term).map(|members| &*members.display)
    }

    /// Bytes by part.
    pub fn memory_bytes(&self) -> [(&'static str, u64); 1] {
        let members: usize = self
            .terms
            .values()
            .map(|members| members.display.len() + members.nodes.capacity() * 4)
            .sum();
        let of_node: usize = self.of_node.values().map(|keys| keys.len() * 8).sum();
        let tables = self.terms.allocation_size() + self.of_node.allocation_size();
        [("shared_terms", (members + of_node + tables) as u64)]
    }
}
