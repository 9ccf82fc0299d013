//! Reads the synsets of WordNet's `data.*` files (wndb(5WN)).
//!
//! *Invariants*: a relation between two synsets stands once, even where several of their words have
//! it; satellites of adjectives have the letter of adjectives.
//!
//! *Not here*: the senses of words (`gloss`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// The files, and the letter in ids of what is in them.
pub const PARTS: [(&str, char); 4] = [("noun", 'n'), ("verb", 'v'), ("adj", 'a'), ("adv", 'r')];

/// Pointer symbols and the kinds of links that they become.
const RELATIONS: [(&str, &str); 26] = [
    ("!", "antonym"),
    ("@", "hypernym"),
    ("@i", "instance_hypernym"),
    ("~", "hyponym"),
    ("~i", "instance_hyponym"),
    ("#m", "member_holonym"),
    ("#s", "substance_holonym"),
    ("#p", "part_holonym"),
    ("%m", "member_meronym"),
    ("%s", "substance_meronym"),
    ("%p", "part_meronym"),
    ("=", "attribute"),
    ("+", "derivation"),
    ("*", "entailment"),
    (">", "cause"),
    ("^", "also_see"),
    ("$", "verb_group"),
    ("&", "similar_to"),
    ("<", "participle"),
    ("\\", "pertainym"),
    (";c", "domain_topic"),
    ("-c", "domain_topic_member"),
    (";r", "domain_region"),
    ("-r", "domain_region_member"),
    (";u", "domain_usage"),
    ("-u", "domain_usage_member"),
];

/// A set of words with one meaning.
#[derive(Debug, PartialEq)]
pub struct Synset {
    /// Letter and offset.
    pub id: String,
    /// `n`, `v`, `a`, `s` or `r`.
    pub part: String,
    /// Number of the file that its lexicographer wrote.
    pub lexicographer: u32,
    /// Its words.
    pub lemmas: Vec<String>,
    /// Definition and examples.
    pub gloss: String,
    /// Kinds and ids of what it is related to.
    pub relations: Vec<(&'static str, String)>,
}

/// Every synset.
pub struct Database {
    /// By part of speech, then by offset.
    pub synsets: Vec<Synset>,
}

impl Database {
    /// Reads `data.noun`, `data.verb`, `data.adj` and `data.adv`.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut synsets = Vec::new();
        for (part, letter) in PARTS {
            let text = read_latin1(&folder.join(format!("data.{part}")))?;
            for line in text.lines().filter(|line| !line.starts_with("  ")) {
                let synset = synset(line, letter).ok_or_else(|| {
                    let start: String = line.chars().take(40).collect();
                    io::Error::new(io::ErrorKind::InvalidData, format!("data.{part}: {start}"))
                })?;
                synsets.push(synset);
            }
        }
        Ok(Self { synsets })
    }
}

/// A file in ISO 8859-1, as WordNet's are.
pub fn read_latin1(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(bytes.into_iter().map(char::from).collect())
}

fn synset(line: &str, letter: char) -> Option<Synset> {
    let (head, gloss) = line.split_once(" | ")?;
    let mut words = head.split_whitespace();
    let offset = words.next()?;
    let lexicographer = words.next()?.parse().ok()?;
    let part = words.next()?.to_owned();
    let lemma_count = usize::from_str_radix(words.next()?, 16).ok()?;
    let mut lemmas = Vec::with_capacity(lemma_count);
    for _ in 0..lemma_count {
        lemmas.push(lemma(words.next()?));
        words.next()?;
    }
    let pointer_count: usize = words.next()?.parse().ok()?;
    let mut relations = BTreeSet::new();
    let mut in_order = Vec::new();
    for _ in 0..pointer_count {
        let relation = relation(&mut words)?;
        if relations.insert(relation.clone()) {
            in_order.push(relation);
        }
    }
    let gloss = gloss.trim().to_owned();
    let id = format!("{letter}{offset}");
    Some(Synset { id, part, lexicographer, lemmas, gloss, relations: in_order })
}

/// Underscores are blanks; adjectives may carry where they stand, as in `galore(ip)`.
fn lemma(word: &str) -> String {
    let bare = word.strip_suffix(')').and_then(|word| word.rsplit_once('('));
    bare.map_or(word, |(word, _)| word).replace('_', " ")
}

fn relation<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<(&'static str, String)> {
    let symbol = words.next()?;
    let offset = words.next()?;
    let letter = words.next()?.replace('s', "a");
    words.next()?;
    let (_, kind) = RELATIONS.iter().find(|(known, _)| *known == symbol)?;
    Some((kind, format!("{letter}{offset}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_synset() {
        let line = "00002325 00 s 02 dead(p) 0 out_of_it 0 003 & 00001740 a 0000 + 00002098 v 0101 \
                    & 00001740 s 0000 | no longer alive; \"dead now\"  ";
        let expected = Synset {
            id: "a00002325".to_owned(),
            part: "s".to_owned(),
            lexicographer: 0,
            lemmas: vec!["dead".to_owned(), "out of it".to_owned()],
            gloss: "no longer alive; \"dead now\"".to_owned(),
            relations: vec![
                ("similar_to", "a00001740".to_owned()),
                ("derivation", "v00002098".to_owned()),
            ],
        };
        assert_eq!(synset(line, 'a'), Some(expected));
        assert_eq!(synset("00002325 00 s", 'a'), None);
    }
}
