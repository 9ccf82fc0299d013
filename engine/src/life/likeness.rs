//! Whether two texts say the same, as far as words can tell.
//!
//! *Invariants*: texts that differ in a number, a name, a negation or the order of their words never
//! say the same; nor do mere paraphrases. It errs towards two memories too many.
//!
//! *Not here*: which memories are compared (`shard::consolidate`), how near their vectors are.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use unicode_normalization::UnicodeNormalization;

use crate::model::Metadata;

/// Longer texts are never taken for one another: comparing them is no work for a slice.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// A text of at least so many words may have further words that the other has not: one in so many.
const WORDS_FOR_ONE_MORE: usize = 20;

/// Words that change nothing of what is said.
const FILLERS: &[&str] = &[
    "a",
    "an",
    "the",
    "really",
    "very",
    "quite",
    "just",
    "also",
    "actually",
    "indeed",
    "simply",
    "basically",
    "too",
    "well",
    "oh",
    "um",
    "uh",
    "hey",
    "please",
    "truly",
    "literally",
    "honestly",
    "certainly",
    "definitely",
];

/// Words that turn what is said into something else, and what ends or begins like them.
const TURNING: &[&str] = &[
    "no",
    "not",
    "never",
    "none",
    "nobody",
    "nothing",
    "nowhere",
    "neither",
    "nor",
    "without",
    "hardly",
    "barely",
    "scarcely",
    "rarely",
    "seldom",
    "few",
    "fewer",
    "little",
    "less",
    "least",
    "except",
    "unless",
    "only",
    "former",
    "formerly",
    "ex",
    "fake",
    "false",
    "alleged",
    "allegedly",
    "almost",
    "nearly",
    "failed",
    "fails",
    "fail",
    "refused",
    "refuses",
    "denied",
    "denies",
    "stopped",
    "stops",
    "against",
    "anti",
    "non",
    "un",
    "if",
    "whether",
    "may",
    "might",
    "could",
    "would",
    "should",
    "or",
    "but",
    "before",
    "after",
    "until",
    "since",
    "than",
    "instead",
    "half",
    "twice",
    "another",
    "other",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "hundred",
    "thousand",
    "million",
    "billion",
    "first",
    "second",
    "third",
    "last",
    "next",
    "yesterday",
    "today",
    "tomorrow",
    "north",
    "south",
    "east",
    "west",
    "left",
    "right",
    "up",
    "down",
    "more",
    "most",
    "all",
    "some",
    "any",
    "every",
    "each",
    "both",
    "many",
    "much",
];

/// A word, number or sign of a text.
#[derive(Debug, PartialEq)]
struct Word {
    /// In lower case.
    text: String,
    /// A word in lower case that turns nothing.
    plain: bool,
}

/// Whether two texts differ in nothing but case, spacing, punctuation and fillers, and, where they
/// are long, in a few plain words that one of them has more.
pub fn say_the_same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    if one.len().max(other.len()) > TEXT_BYTES_MAX {
        return false;
    }
    let (one, other) = (words(one), words(other));
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    let more = long.len() - short.len();
    !short.is_empty() && more <= short.len() / WORDS_FOR_ONE_MORE && is_part(&short, &long)
}

/// What the words of a text come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// The same number for texts that differ in case, spacing, punctuation and fillers alone.
    pub fingerprint: u64,
    /// Another text may say the same in a few words more, or fewer.
    pub is_long: bool,
}

/// `None` for texts that are too long, or empty; those without words are the same where they are equal.
pub fn sketch(text: &str) -> Option<Sketch> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let words = words(text);
    let mut hasher = SipHasher13::new();
    for word in &words {
        hasher.write(word.text.as_bytes());
        hasher.write_u8(0);
    }
    if words.is_empty() {
        hasher.write(text.as_bytes());
    }
    Some(Sketch { fingerprint: hasher.finish(), is_long: words.len() >= WORDS_FOR_ONE_MORE })
}

/// Whether `part` says nothing that `whole` does not.
pub fn is_part_of(part: &Metadata, whole: &Metadata) -> bool {
    part.iter().all(|(key, value)| whole.get(key) == Some(value))
}

/// Whether `long` is `short` with plain words between.
fn is_part(short: &[Word], long: &[Word]) -> bool {
    let mut rest = short.iter().peekable();
    for word in long {
        if rest.next_if(|next| next.text == word.text).is_none() && !word.plain {
            return false;
        }
    }
    rest.next().is_none()
}

fn words(text: &str) -> Vec<Word> {
    let text: Vec<char> = text.nfkc().map(straight).collect();
    let mut words = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let end = word_end(&text, at);
        if let Some(word) = word(&text[at..end]) {
            words.push(word);
        }
        at = end;
    }
    words
}

/// Typographic marks as they are typed.
fn straight(c: char) -> char {
    match c {
        '\u{2018}' | '\u{2019}' => '\'',
        '\u{2212}' => '-',
        other => other,
    }
}

/// Where the word, number or sign at `at` ends.
fn word_end(text: &[char], at: usize) -> usize {
    let digit = |i: usize| text.get(i).is_some_and(|c| c.is_numeric());
    let letter = |i: usize| text.get(i).is_some_and(|c| c.is_alphanumeric());
    let begins_number = text[at] == '-' && digit(at + 1) && (at == 0 || !letter(at - 1));
    if !letter(at) && !begins_number {
        return at + 1;
    }
    let mut end = at + 1;
    // A mark inside stays: 3.5, 12:30, don't.
    while letter(end)
        || (text.get(end).is_some_and(|c| ".,:/".contains(*c)) && digit(end - 1) && digit(end + 1))
        || (text.get(end) == Some(&'\'') && letter(end - 1) && letter(end + 1))
    {
        end += 1;
    }
    end
}

/// A word as it is compared; `None` for what says nothing.
fn word(characters: &[char]) -> Option<Word> {
    let text: String = characters.iter().flat_map(|c| c.to_lowercase()).collect();
    let is_word = characters[0].is_alphanumeric() || characters.len() > 1;
    if !is_word {
        let silent = characters[0].is_whitespace() || SILENT.contains(characters[0]);
        return (!silent).then_some(Word { text, plain: false });
    }
    if FILLERS.contains(&text.as_str()) {
        return None;
    }
    let lower = characters.iter().all(|c| c.is_alphabetic() && !c.is_uppercase());
    let turns = TURNING.contains(&text.as_str()) || text.ends_with("less");
    Some(Word { plain: lower && !turns, text })
}

/// Marks between words that say nothing: not the question mark, nor signs of reckoning.
const SILENT: &str = ".,;:!\"'`()[]{}-\u{2013}\u{2014}\u{2026}\u{201c}\u{201d}\u{ab}\u{bb}*_";

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways(one: &str, other: &str) -> bool {
        let same = say_the_same(one, other);
        assert_eq!(same, say_the_same(other, one), "it has no direction");
        same
    }

    const LONG: &str = "The committee met in the old town hall on Monday and agreed that the bridge over \
        the river needs repair before winter, because ice had damaged two of its pillars last year";

    #[test]
    fn what_differs_in_writing_only_is_the_same() {
        for (one, other) in [
            ("Alice likes tea.", "alice   likes tea"),
            ("Alice likes tea", "Alice really likes the tea!"),
            ("It\u{2019}s 3.5 km", "it's 3.5 km."),
            ("\u{201c}Yes\u{201d}, he said", "\"Yes\" he said"),
            ("A dog \u{2014} a cat", "a dog, a cat"),
        ] {
            assert!(both_ways(one, other), "{one} / {other}");
            assert_eq!(sketch(one), sketch(other));
        }
        assert!(both_ways(
            LONG,
            &LONG.replace("old town", "old and dusty town").replace("dusty ", "")
        ));
        assert!(both_ways(LONG, &LONG.replace("ice had", "ice sadly had")));
    }

    #[test]
    fn another_fact_is_not_the_same() {
        for (one, other) in [
            ("Alice likes tea", "Bob likes tea"),
            ("Alice likes tea", "Alice likes coffee"),
            ("Alice likes tea", "Alice does not like tea"),
            ("Alice likes tea", "Alice likes tea less"),
            ("Alice paid Bob", "Bob paid Alice"),
            ("The room has 12 seats", "The room has 21 seats"),
            ("It is 3.5 m wide", "It is 35 m wide"),
            ("It is 5 degrees", "It is -5 degrees"),
            ("a > b", "a < b"),
            ("He left.", "He left?"),
            ("He flew to Rome", "He flew from Rome"),
            ("She works here", "She worked here"),
            ("I can do it", "I can't do it"),
            ("costs $5", "costs \u{20ac}5"),
            ("It was the first of May", "It was the second of May"),
        ] {
            assert!(!both_ways(one, other), "{one} / {other}");
            assert_ne!(sketch(one), sketch(other));
        }
        for (part, other) in [
            ("Monday", "Tuesday"),
            ("agreed", "never agreed"),
            ("two of", "three of"),
            ("ice had", "ice in Berlin had"),
            ("damaged", "damaged 2"),
            ("before winter", "after winter"),
            ("repair", "replacement"),
        ] {
            assert!(!both_ways(LONG, &LONG.replace(part, other)), "{part} / {other}");
        }
    }

    #[test]
    fn texts_without_words_are_the_same_only_where_they_are_equal() {
        assert!(both_ways("...", "..."));
        assert!(!both_ways("...", "!!!"));
        assert!(!both_ways("", "."));
        assert_ne!(sketch("..."), sketch("!!!"));
        assert_eq!(sketch(""), None);
    }
}
