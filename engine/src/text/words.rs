//! Text into words: folding, splitting and stop words, for any language.
//!
//! *Invariants*: a word is a run of letters and digits after folding (NFKD, combining marks
//! dropped, lower case), with at most one apostrophe inside and never with `'s` at its end;
//! scripts that are written without blanks give each character and each pair of neighbours.
//!
//! *Not here*: stemming (`analysis`), names (`crate::names`).

use std::borrow::Cow;

use unicode_normalization::char::{canonical_combining_class, decompose_compatible};

/// Words that carry no meaning of their own, sorted; English.
const STOP_WORDS: [&str; 100] = [
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because",
    "been", "before", "between", "both", "but", "by", "can", "could", "did", "do", "does",
    "during", "each", "few", "for", "from", "had", "has", "have", "he", "her", "hers", "him",
    "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "me", "more", "most", "my",
    "no", "not", "of", "on", "or", "other", "our", "over", "own", "same", "she", "should", "so",
    "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they",
    "this", "those", "through", "to", "too", "under", "until", "up", "us", "very", "was", "we",
    "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with",
    "would", "you", "your",
];

/// `word`, folded, is a stop word.
pub fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

/// NFKD without combining marks, in lower case, typographic apostrophes made plain.
pub fn fold(text: &str) -> Cow<'_, str> {
    if !text.is_ascii() {
        return Cow::Owned(fold_unicode(text));
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    Cow::Borrowed(text)
}

fn fold_unicode(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\0'..='\x7f' => folded.push(character.to_ascii_lowercase()),
            '\u{2019}' | '\u{02BC}' => folded.push('\''),
            _ => decompose_compatible(character, |part| push_folded(&mut folded, part)),
        }
    }
    folded
}

fn push_folded(folded: &mut String, part: char) {
    if canonical_combining_class(part) == 0 {
        // Lower case may itself decompose (İ gives i and a dot above): marks are dropped again.
        folded.extend(part.to_lowercase().filter(|&c| canonical_combining_class(c) == 0));
    }
}

/// The script of `character` is written without blanks between words.
pub fn is_unspaced(character: char) -> bool {
    matches!(u32::from(character),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x31F0..=0x31FF
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
}

/// Calls `each` with every word of `folded` in order, stop words included.
pub fn for_each_word(folded: &str, mut each: impl FnMut(&str)) {
    let mut rest = folded;
    while let Some(start) = rest.find(char::is_alphanumeric) {
        rest = &rest[start..];
        let length = if rest.starts_with(is_unspaced) {
            unspaced_run(rest, &mut each)
        } else {
            let length = spaced_word(rest);
            let word = &rest[..length];
            each(word.strip_suffix("'s").unwrap_or(word));
            length
        };
        rest = &rest[length..];
    }
}

/// Bytes of the word at the start of `text`, an apostrophe and the letters behind it included.
fn spaced_word(text: &str) -> usize {
    let run = |from: usize, keep: fn(char) -> bool| {
        text[from..].find(|c: char| !keep(c)).map_or(text.len(), |length| from + length)
    };
    let end = run(0, |c| c.is_alphanumeric() && !is_unspaced(c));
    if !text[end..].starts_with('\'') {
        return end;
    }
    let after = run(end + 1, |c| c.is_alphabetic() && !is_unspaced(c));
    if after > end + 1 { after } else { end }
}

/// Emits the characters and pairs of the run at the start of `text`; returns its bytes.
fn unspaced_run(text: &str, each: &mut impl FnMut(&str)) -> usize {
    let keep = |c: char| c.is_alphanumeric() && is_unspaced(c);
    let end = text.find(|c: char| !keep(c)).unwrap_or(text.len());
    let mut previous = None;
    for (at, character) in text[..end].char_indices() {
        let next = at + character.len_utf8();
        if let Some(previous) = previous {
            each(&text[previous..next]);
        }
        each(&text[at..next]);
        previous = Some(at);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
