//! Shared terms: what of a content ties memories together, and which memories hold it.
//!
//! *Invariants*: extraction depends on content and tags alone; at most
//! [`TERMS_PER_MEMORY_MAX`] terms a memory; the display string of a term is kept once.
//!
//! *Not here*: which terms are too rare or too common to count (the coordinator, from the space's
//! document frequencies), words for BM25 (`crate::text`).

use hashbrown::HashMap;

use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::model::Metadata;
use crate::names::{name_key, normal_form};
use crate::node::NodeIx;
use crate::text::is_stop_word;

/// Most shared terms of one memory.
pub const TERMS_PER_MEMORY_MAX: usize = 32;
/// Most tokens of a capitalised span.
const SPAN_TOKENS_MAX: usize = 7;
/// A capitalised word of at most so many characters before a full stop may be an abbreviation.
const ABBREVIATION_CHARS_MAX: usize = 3;
/// Fewest bytes of a term; one character of a script without blanks has three.
const TERM_BYTES_MIN: usize = 3;
/// Most bytes of a quoted string or a tag that is taken for a term.
const PHRASE_BYTES_MAX: usize = 64;

/// A shared term: the hash of its normal form.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bytemuck::Pod, bytemuck::Zeroable,
)]
#[repr(transparent)]
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
        let number = display.bytes().all(|byte| byte.is_ascii_digit()) && !is_year(&display);
        let long_enough = display.len() >= TERM_BYTES_MIN;
        let known = self.found.iter().any(|term| term.key == key);
        if long_enough && !number && !known && !display.split(' ').all(is_stop_word) {
            self.found.push(SharedTerm { key, display });
        }
    }
}

/// Runs of capitalised words within a sentence, small words such as "of" inside them included, and
/// years. Stop words at the start of a run ("The", "In") are not part of it.
fn push_spans(terms: &mut Terms, content: &str) {
    for line in content.lines() {
        let mut span = Span::default();
        let mut rest = line;
        while let Some(character) = rest.chars().next() {
            if character.is_alphanumeric() {
                let word = joined_word(rest);
                rest = &rest[word.len()..];
                let dot = rest.starts_with('.');
                rest = rest.strip_prefix('.').unwrap_or(rest);
                span.push_word(terms, word, dot);
            } else {
                rest = &rest[character.len_utf8()..];
                if !character.is_whitespace() {
                    span.flush(terms);
                }
            }
        }
        span.flush(terms);
    }
}

/// The word at the start of `text`: letters and digits, joined by single marks such as in
/// "Jean-Luc", "O'Neill", "U.S" and "AT&T".
fn joined_word(text: &str) -> &str {
    let mut end = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let joins = matches!(character, '\'' | '’' | '.' | '-' | '&')
            && characters.peek().is_some_and(|&(_, next)| next.is_alphanumeric());
        if !character.is_alphanumeric() && !joins {
            break;
        }
        end = at + character.len_utf8();
    }
    &text[..end]
}

/// A run of capitalised words that is being read.
#[derive(Default)]
struct Span<'a> {
    words: Vec<&'a str>,
    /// Small words after the last capitalised one; part of the run if another one follows.
    pending: Vec<&'a str>,
}

impl<'a> Span<'a> {
    fn push_word(&mut self, terms: &mut Terms, word: &'a str, dot: bool) {
        if is_year(word) {
            terms.push(word);
        }
        let capitalised = word.starts_with(char::is_uppercase);
        if capitalised {
            if self.words.len() + self.pending.len() >= SPAN_TOKENS_MAX {
                self.flush(terms);
            }
            self.words.append(&mut self.pending);
            self.words.push(word);
        } else if !self.words.is_empty() && self.pending.len() < 2 && is_joining(word) {
            self.pending.push(word);
        } else {
            self.flush(terms);
        }
        let abbreviated = capitalised && word.chars().count() <= ABBREVIATION_CHARS_MAX;
        if dot && !abbreviated {
            self.flush(terms);
        }
    }

    fn flush(&mut self, terms: &mut Terms) {
        let is_stop = |word: &&&str| is_stop_word(&word.to_lowercase());
        let leading = self.words.iter().take_while(is_stop).count();
        if leading < self.words.len() {
            terms.push(&self.words[leading..].join(" "));
        }
        self.words.clear();
        self.pending.clear();
    }
}

/// Small words inside of names, in the languages that write them so.
fn is_joining(word: &str) -> bool {
    matches!(
        word,
        "of" | "the"
            | "de"
            | "la"
            | "von"
            | "van"
            | "di"
            | "du"
            | "del"
            | "le"
            | "da"
            | "der"
            | "den"
            | "al"
            | "des"
            | "y"
            | "el"
    )
}

fn is_year(word: &str) -> bool {
    word.len() == 4
        && word.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(word.as_bytes(), [b'1', ..] | [b'2', b'0', ..])
}

/// What stands between quotation marks.
fn push_quoted(terms: &mut Terms, content: &str) {
    let pairs: [(&[char], &[char]); 3] =
        [(&['"', '“', '”'], &['"', '“', '”']), (&['«'], &['»']), (&['「', '『'], &['」', '』'])];
    for (opening, closing) in pairs {
        let mut rest = content;
        while let Some((_, quoted)) = rest.split_once(opening) {
            let Some((inner, after)) = quoted.split_once(closing) else { break };
            terms.push(inner);
            rest = after;
        }
    }
}

/// The shared terms of one space on one shard.
#[derive(Default)]
pub struct TermIndex {
    terms: HashMap<SharedTermKey, Members>,
    /// By node: the keys of its terms.
    of_node: Vec<Box<[SharedTermKey]>>,
}

/// A term and who holds it: most terms are held once.
struct Members {
    display: Box<str>,
    nodes: Nodes,
}

#[expect(clippy::box_collection, reason = "most terms are held once: 8 bytes instead of 24")]
enum Nodes {
    One(NodeIx),
    Several(Box<Vec<NodeIx>>),
}

impl Nodes {
    fn as_slice(&self) -> &[NodeIx] {
        match self {
            Self::One(node) => std::slice::from_ref(node),
            Self::Several(nodes) => nodes,
        }
    }

    fn insert(&mut self, node: NodeIx) {
        let Err(at) = self.as_slice().binary_search(&node) else { return };
        match self {
            Self::One(first) => {
                let mut nodes = vec![*first];
                nodes.insert(at, node);
                *self = Self::Several(Box::new(nodes));
            }
            Self::Several(nodes) => nodes.insert(at, node),
        }
    }

    /// Removes a member; whether any is left.
    fn remove(&mut self, node: NodeIx) -> bool {
        match self {
            Self::One(only) => *only != node,
            Self::Several(nodes) => {
                nodes.retain(|&other| other != node);
                !nodes.is_empty()
            }
        }
    }
}

impl Part for TermIndex {
    const NAME: &'static str = "shared terms";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { terms, of_node } = self;
        out.count(terms.len());
        for (key, Members { display, nodes }) in terms {
            out.u64(key.0);
            out.text(display);
            out.pods(nodes.as_slice());
        }
        out.lists(of_node.iter().map(|keys| &**keys));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let count = input.count()?;
        let mut terms = HashMap::with_capacity(input.room::<u64>(count).capacity());
        for _ in 0..count {
            let (key, display) = (SharedTermKey(input.u64()?), input.text()?);
            let nodes: Vec<NodeIx> = input.pods()?;
            ensure(!nodes.is_empty() && nodes.is_sorted(), "the holders of a shared term")?;
            let nodes = if let [only] = nodes[..] {
                Nodes::One(only)
            } else {
                Nodes::Several(nodes.into())
            };
            terms.insert(key, Members { display, nodes });
        }
        Ok(Self { terms, of_node: input.lists(Reader::boxed)? })
    }
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
        if self.of_node.len() <= node.index() {
            self.of_node.resize_with(node.index() + 1, Box::default);
        }
        assert!(self.of_node[node.index()].is_empty(), "a node gets its terms once");
        self.of_node[node.index()] = terms.iter().map(|term| term.key).collect();
        for term in terms {
            self.terms
                .entry(term.key)
                .and_modify(|members| members.nodes.insert(node))
                .or_insert_with(|| Members {
                    display: term.display.as_str().into(),
                    nodes: Nodes::One(node),
                });
        }
    }

    /// Takes a node's terms away, if it has any.
    pub fn remove(&mut self, node: NodeIx) {
        let Some(keys) = self.of_node.get_mut(node.index()) else { return };
        for key in std::mem::take(keys) {
            if self.terms.get_mut(&key).is_some_and(|members| !members.nodes.remove(node)) {
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
        self.terms.get(&term).map_or(&[], |members| members.nodes.as_slice())
    }

    /// The terms that a node holds.
    pub fn terms_of(&self, node: NodeIx) -> &[SharedTermKey] {
        self.of_node.get(node.index()).map_or(&[], |keys| keys)
    }

    /// A term as people read it, where this shard knows it.
    pub fn display(&self, term: SharedTermKey) -> Option<&str> {
        self.terms.get(&term).map(|members| &*members.display)
    }

    /// Bytes by part.
    pub fn memory_bytes(&self) -> [(&'static str, u64); 1] {
        let several = |members: &Members| match &members.nodes {
            Nodes::One(_) => members.display.len(),
            Nodes::Several(nodes) => {
                members.display.len() + size_of::<Vec<NodeIx>>() + nodes.capacity() * 4
            }
        };
        let members: usize = self.terms.values().map(several).sum();
        let keys: usize = self.of_node.iter().map(|keys| keys.len() * 8).sum();
        let of_node = self.of_node.capacity() * size_of::<Box<[SharedTermKey]>>() + keys;
        [("shared_terms", (members + of_node + self.terms.allocation_size()) as u64)]
    }
}
