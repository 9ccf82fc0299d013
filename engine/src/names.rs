//! Names of memories: their normal form, where they come from, and where a text mentions them.
//!
//! *Invariants*: a name is known by the hash of its normal form's tokens, so that a scan of a text
//! costs about one probe a token; every match at every position is reported, so that the
//! coordinator can resolve the longest ones over all shards by [`longest`].
//!
//! *Not here*: links made from mentions (the coordinator), words of content (`crate::text`).

use hashbrown::{HashMap, HashSet};

use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::model::Metadata;
use crate::node::NodeIx;
use crate::text::{fold, hash_bytes, hash_next, is_stop_word, is_unspaced};

/// Most tokens of a name that is looked for.
pub const NAME_TOKENS_MAX: usize = 8;
/// Most names of one memory.
pub const NAMES_PER_MEMORY_MAX: usize = 32;
/// A name with more holders than this on one shard is reported without them.
pub const NAME_HOLDERS_MAX: usize = 256;
/// Fewest characters of a name of one token that is found inside of a longer text.
const SINGLE_TOKEN_CHARS_MIN: usize = 4;
/// Weight of a name without its trailing "(…)".
const WEIGHT_WITHOUT_QUALIFIER: f32 = 0.7;

/// One name of a memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// Normal form: lower-case tokens joined by one blank.
    pub normal: String,
    /// As it was written, for a search of older content that mentions it.
    pub spelled: String,
    /// 1 for a name or an alias, less for a shortened one.
    pub weight: f32,
}

/// The normal form: NFKD without marks, lower case, `'s` dropped, all but letters and digits blank.
pub fn normal_form(text: &str) -> String {
    let folded = fold(text);
    let mut normal = String::with_capacity(folded.len());
    let mut rest = folded.chars().peekable();
    let mut previous_unspaced = false;
    while let Some(character) = rest.next() {
        if character.is_alphanumeric() {
            let unspaced = is_unspaced(character);
            if unspaced || previous_unspaced {
                push_blank(&mut normal);
            }
            normal.push(character);
            previous_unspaced = unspaced;
            continue;
        }
        previous_unspaced = false;
        if character == '\'' && rest.peek() == Some(&'s') {
            let mut after = rest.clone();
            after.next();
            if !after.peek().is_some_and(|c| c.is_alphanumeric()) {
                rest = after;
            }
        }
        push_blank(&mut normal);
    }
    normal.truncate(normal.trim_end().len());
    normal
}

fn push_blank(normal: &mut String) {
    if !normal.is_empty() && !normal.ends_with(' ') {
        normal.push(' ');
    }
}

/// The names of a memory: `title`, `name`, `names`, and the first line of its content where the
/// space says so. Distinct, in that order, at most [`NAMES_PER_MEMORY_MAX`].
pub fn names_of(metadata: &Metadata, content: Option<&str>, title_from_content: bool) -> Vec<Name> {
    let text = |key: &str| metadata.get(key).and_then(serde_json::Value::as_str);
    let mut names = Vec::new();
    for key in ["title", "name"] {
        if let Some(title) = text(key) {
            push_title(&mut names, title);
        }
    }
    if let Some(serde_json::Value::Array(aliases)) = metadata.get("names") {
        for alias in aliases.iter().filter_map(serde_json::Value::as_str) {
            push_name(&mut names, alias, 1.0);
        }
    }
    if title_from_content && let Some(content) = content {
        push_first_line(&mut names, content);
    }
    names.truncate(NAMES_PER_MEMORY_MAX);
    names
}

fn push_title(names: &mut Vec<Name>, title: &str) {
    push_name(names, title, 1.0);
    push_name(names, without_qualifier(title), WEIGHT_WITHOUT_QUALIFIER);
}

/// The first line; of a line such as "head, word: what it means" each of the head words.
fn push_first_line(names: &mut Vec<Name>, content: &str) {
    let line = content.lines().next().unwrap_or_default();
    match line.split_once(": ") {
        Some((head, _)) if head.split(", ").all(|part| part.split(' ').count() <= 4) => {
            head.split(", ").for_each(|part| push_name(names, part, 1.0));
        }
        _ => push_title(names, line),
    }
}

fn push_name(names: &mut Vec<Name>, spelled: &str, weight: f32) {
    let normal = normal_form(spelled);
    if !names.iter().any(|name| name.normal == normal) && is_linkable(&normal) {
        names.push(Name { normal, spelled: spelled.to_owned(), weight });
    }
}

/// `title` without one trailing "(…)".
fn without_qualifier(title: &str) -> &str {
    let trimmed = title.trim_end();
    match (trimmed.ends_with(')'), trimmed.rfind('(')) {
        (true, Some(open)) => trimmed[..open].trim_end(),
        _ => title,
    }
}

/// There is something to it, and it is short enough to be found.
fn is_linkable(normal: &str) -> bool {
    !normal.is_empty() && normal.split(' ').count() <= NAME_TOKENS_MAX
}

/// Too short, too common or too much of a number to be taken for a mention inside of a longer text:
/// a text that is nothing but such a name means it all the same.
fn is_weak(tokens: &[&str]) -> bool {
    let number = |token: &str| token.bytes().all(|byte| byte.is_ascii_digit());
    let short = |token: &str| {
        token.chars().count() < SINGLE_TOKEN_CHARS_MIN && !token.starts_with(is_unspaced)
    };
    let single_is_weak = matches!(tokens, [only] if number(only) || short(only));
    single_is_weak || tokens.iter().all(|token| is_stop_word(token))
}

/// The key by which a normal form is known.
pub fn name_key(normal: &str) -> u64 {
    normal.split(' ').fold(0, |state, token| hash_next(state, hash_bytes(token.as_bytes())))
}

/// Where a text holds a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameSpan {
    /// First token.
    pub start_token: u32,
    /// Number of tokens.
    pub token_count: u8,
    /// The name.
    pub name_key: u64,
}

/// One match on one shard.
#[derive(Clone, Debug, PartialEq)]
pub struct NameMatch {
    /// Where, and which name.
    pub span: NameSpan,
    /// How many memories of this shard have the name.
    pub holder_count: u32,
    /// They, ascending, and the weight of the name for each; empty where there are more than
    /// [`NAME_HOLDERS_MAX`], which no single one of them stands out of.
    pub holders: Vec<(NodeIx, f32)>,
}

/// The names that a text mentions: from the left the longest match each time, then on behind it;
/// each name once, at its first place. Takes the spans of all shards in any order.
pub fn longest(spans: &[NameSpan]) -> Vec<NameSpan> {
    let mut ordered = spans.to_vec();
    ordered.sort_unstable_by_key(|span| (span.start_token, u8::MAX - span.token_count));
    let mut seen = HashSet::new();
    let mut next_token = 0;
    ordered.retain(|span| {
        let free = span.start_token >= next_token;
        if free {
            next_token = span.start_token + u32::from(span.token_count);
        }
        free && seen.insert(span.name_key)
    });
    ordered
}

/// The names of one space on one shard.
#[derive(Default)]
pub struct NameIndex {
    first_tokens: HashMap<u64, FirstToken>,
    names: HashMap<u64, Holders>,
    /// By node: the keys of its names.
    of_node: Vec<Box<[u64]>>,
}

/// The names that begin with one token.
#[derive(Clone, Copy, Default)]
struct FirstToken {
    /// Bit n - 1: there is or was a name of n tokens.
    lengths: u8,
    names: u32,
}

/// Who has a name: rarely more than one.
struct Holders {
    first_token: u64,
    list: HolderList,
}

enum HolderList {
    One((NodeIx, f32)),
    Several(Vec<(NodeIx, f32)>),
}

impl HolderList {
    fn read(input: &mut Reader<'_>, count: u32) -> Result<Self, Unsound> {
        let mut list: Vec<(NodeIx, f32)> = input.room(count as usize);
        for _ in 0..count {
            list.push((NodeIx(input.u32()?), f32::from_bits(input.u32()?)));
        }
        ensure(!list.is_empty() && list.is_sorted_by_key(|&(node, _)| node), "a name's holders")?;
        Ok(if let [only] = list[..] { Self::One(only) } else { Self::Several(list) })
    }

    fn as_slice(&self) -> &[(NodeIx, f32)] {
        match self {
            Self::One(holder) => std::slice::from_ref(holder),
            Self::Several(holders) => holders,
        }
    }

    /// Adds a holder in order; whether it was none yet.
    fn insert(&mut self, node: NodeIx, weight: f32) -> bool {
        let Err(at) = self.as_slice().binary_search_by_key(&node, |&(holder, _)| holder) else {
            return false;
        };
        match self {
            Self::One(holder) => {
                let mut holders = vec![*holder];
                holders.insert(at, (node, weight));
                *self = Self::Several(holders);
            }
            Self::Several(holders) => holders.insert(at, (node, weight)),
        }
        true
    }

    /// Removes a holder; whether any is left.
    fn remove(&mut self, node: NodeIx) -> bool {
        match self {
            Self::One((holder, _)) => *holder != node,
            Self::Several(holders) => {
                holders.retain(|&(holder, _)| holder != node);
                !holders.is_empty()
            }
        }
    }
}

impl Part for NameIndex {
    const NAME: &'static str = "names";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { first_tokens, names, of_node } = self;
        out.count(first_tokens.len());
        for (token, FirstToken { lengths, names }) in first_tokens {
            out.u64(*token);
            out.u8(*lengths);
            out.u32(*names);
        }
        out.count(names.len());
        for (key, Holders { first_token, list }) in names {
            out.u64(*key);
            out.u64(*first_token);
            let list = list.as_slice();
            out.u32(u32::try_from(list.len()).expect("nodes have 32-bit numbers"));
            for (node, weight) in list {
                out.u32(node.0);
                out.u32(weight.to_bits());
            }
        }
        out.lists(of_node.iter().map(|keys| &**keys));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let count = input.count()?;
        let mut first_tokens = HashMap::with_capacity(input.room::<u64>(count).capacity());
        for _ in 0..count {
            let token = input.u64()?;
            let first = FirstToken { lengths: input.u8()?, names: input.u32()? };
            first_tokens.insert(token, first);
        }
        let count = input.count()?;
        let mut names = HashMap::with_capacity(input.room::<u64>(count).capacity());
        for _ in 0..count {
            let (key, first_token, holders) = (input.u64()?, input.u64()?, input.u32()?);
            let list = HolderList::read(input, holders)?;
            names.insert(key, Holders { first_token, list });
        }
        let of_node = input.lists(Reader::boxed::<u64>)?;
        let index = Self { first_tokens, names, of_node };
        let known = |key: &u64| index.names.contains_key(key);
        ensure(index.of_node.iter().flatten().all(known), "a name")?;
        let begun = |name: &Holders| index.first_tokens.contains_key(&name.first_token);
        ensure(index.names.values().all(begun), "the first word of a name")?;
        Ok(index)
    }
}

impl NameIndex {
    /// An index without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a node its names; it has none yet.
    pub fn insert(&mut self, node: NodeIx, names: &[Name]) {
        if names.is_empty() {
            return;
        }
        let keys: Vec<u64> = names.iter().filter_map(|name| self.insert_name(node, name)).collect();
        if self.of_node.len() <= node.index() {
            self.of_node.resize_with(node.index() + 1, Box::default);
        }
        assert!(self.of_node[node.index()].is_empty(), "a node gets its names once");
        self.of_node[node.index()] = keys.into_boxed_slice();
    }

    /// Adds a holder to a name; the name's key, unless the node has that name already.
    fn insert_name(&mut self, node: NodeIx, name: &Name) -> Option<u64> {
        let key = name_key(&name.normal);
        if let Some(holders) = self.names.get_mut(&key) {
            return holders.list.insert(node, name.weight).then_some(key);
        }
        let mut tokens = name.normal.split(' ');
        let first_token = hash_bytes(tokens.next().unwrap_or_default().as_bytes());
        let entry = self.first_tokens.entry(first_token).or_default();
        entry.names += 1;
        entry.lengths |= 1 << tokens.count().min(NAME_TOKENS_MAX - 1);
        let list = HolderList::One((node, name.weight));
        self.names.insert(key, Holders { first_token, list });
        Some(key)
    }

    /// Takes a node's names away, if it has any.
    pub fn remove(&mut self, node: NodeIx) {
        let Some(keys) = self.of_node.get_mut(node.index()) else { return };
        for key in std::mem::take(keys) {
            let holders = self.names.get_mut(&key).expect("a held name has holders");
            if !holders.list.remove(node) {
                let first_token = holders.first_token;
                self.names.remove(&key);
                self.forget_first(first_token);
            }
        }
    }

    fn forget_first(&mut self, first_token: u64) {
        let entry = self.first_tokens.get_mut(&first_token).expect("a held name has a first token");
        entry.names -= 1;
        if entry.names == 0 {
            self.first_tokens.remove(&first_token);
        }
    }

    /// Every name at every position of `normal_text`, in the order of positions and lengths. Weak
    /// names (short single tokens, numbers, stop words) only where they are the whole text.
    pub fn matches(&self, normal_text: &str) -> Vec<NameMatch> {
        let mut matches = Vec::new();
        if self.names.is_empty() || normal_text.is_empty() {
            return matches;
        }
        let tokens: Vec<&str> = normal_text.split(' ').collect();
        let hashes: Vec<u64> = tokens.iter().map(|token| hash_bytes(token.as_bytes())).collect();
        for (start, hash) in hashes.iter().enumerate() {
            if let Some(first) = self.first_tokens.get(hash) {
                self.matches_at(&tokens, &hashes, start, first.lengths, &mut matches);
            }
        }
        matches
    }

    /// Matches of the lengths given by bits at one position.
    fn matches_at(
        &self,
        tokens: &[&str],
        hashes: &[u64],
        start: usize,
        lengths: u8,
        into: &mut Vec<NameMatch>,
    ) {
        let mut key = 0;
        for (count, &token) in (1u8..).zip(&hashes[start..]) {
            if u32::from(count) > u8::BITS - lengths.leading_zeros() {
                break;
            }
            key = hash_next(key, token);
            if lengths & (1 << (count - 1)) == 0 {
                continue;
            }
            let Some(holders) = self.names.get(&key) else { continue };
            let matched = &tokens[start..start + usize::from(count)];
            if matched.len() == tokens.len() || !is_weak(matched) {
                into.push(name_match(start, count, key, holders.list.as_slice()));
            }
        }
    }

    /// The keys of a node's names.
    pub fn names_of(&self, node: NodeIx) -> impl Iterator<Item = u64> + '_ {
        self.of_node.get(node.index()).into_iter().flatten().copied()
    }

    /// Bytes by part.
    pub fn memory_bytes(&self) -> [(&'static str, u64); 1] {
        let several = |holders: &Holders| match &holders.list {
            HolderList::One(_) => 0,
            HolderList::Several(list) => list.capacity() * size_of::<(NodeIx, f32)>(),
        };
        let holders: usize = self.names.values().map(several).sum();
        let keys: usize = self.of_node.iter().map(|keys| keys.len() * 8).sum();
        let of_node = self.of_node.capacity() * size_of::<Box<[u64]>>() + keys;
        let tables = self.first_tokens.allocation_size() + self.names.allocation_size();
        [("names", (holders + of_node + tables) as u64)]
    }
}

fn name_match(start: usize, count: u8, key: u64, holders: &[(NodeIx, f32)]) -> NameMatch {
    let start_token = u32::try_from(start).expect("content is bounded in bytes");
    let shown = if holders.len() <= NAME_HOLDERS_MAX { holders } else { &[] };
    NameMatch {
        span: NameSpan { start_token, token_count: count, name_key: key },
        holder_count: u32::try_from(holders.len()).expect("nodes are 32-bit numbers"),
        holders: shown.to_vec(),
    }
}
