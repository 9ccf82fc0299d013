//! What the words of a definition may mean.
//!
//! *Invariants*: the weight of a meaning is its share of the senses of its word, by how often
//! WordNet's own texts use each; a rare meaning gets no link.
//!
//! *Not here*: synsets (`database`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;

use engram_engine::text::{fold, for_each_word, is_stop_word};

use crate::database::{PARTS, read_latin1};

/// A meaning with a smaller share of its word's uses gets no link.
const SHARE_MIN: f64 = 0.15;
/// Endings of inflected words and what stands in their place.
const ENDINGS: [(&str, &str); 9] = [
    ("s", ""),
    ("es", ""),
    ("ies", "y"),
    ("ed", ""),
    ("ed", "e"),
    ("ing", ""),
    ("ing", "e"),
    ("er", ""),
    ("est", ""),
];

/// The senses of every word.
pub struct Senses {
    of_lemma: HashMap<String, Vec<(String, f64)>>,
    irregular: HashMap<String, String>,
}

impl Senses {
    /// Reads `index.*`, `*.exc` and `cntlist.rev`.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let counts = counts(&read_latin1(&folder.join("cntlist.rev"))?);
        let mut senses = Self { of_lemma: HashMap::new(), irregular: HashMap::new() };
        for (part, letter) in PARTS {
            let index = read_latin1(&folder.join(format!("index.{part}")))?;
            for line in index.lines().filter(|line| !line.starts_with(' ')) {
                senses.add(line, letter, &counts);
            }
            let exceptions = read_latin1(&folder.join(format!("{part}.exc")))?;
            for line in exceptions.lines() {
                if let Some((inflected, base)) = line.split_once(' ') {
                    let base = base.split(' ').next().unwrap_or_default().replace('_', " ");
                    senses.irregular.entry(inflected.replace('_', " ")).or_insert(base);
                }
            }
        }
        Ok(senses)
    }

    /// Ids and weights of what the words of a definition may mean.
    pub fn of_gloss(&self, gloss: &str) -> Vec<(String, f64)> {
        let mut seen = HashSet::new();
        let mut found: BTreeMap<&str, f64> = BTreeMap::new();
        for_each_word(&fold(gloss), |word| {
            let Some(lemma) = self.lemma(word).filter(|_| !is_stop_word(word)) else { return };
            if !seen.insert(lemma.clone()) {
                return;
            }
            let senses = &self.of_lemma[&lemma];
            let uses: f64 = senses.iter().map(|(_, uses)| uses).sum();
            for (id, own) in senses.iter().filter(|(_, own)| own / uses >= SHARE_MIN) {
                let weight = found.entry(id).or_default();
                *weight = weight.max((own / uses * 1000.0).round() / 1000.0);
            }
        });
        found.into_iter().map(|(id, weight)| (id.to_owned(), weight)).collect()
    }

    fn add(&mut self, line: &str, letter: char, counts: &HashMap<(String, char, usize), f64>) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [lemma, _, _, pointers, ..] = words[..] else { return };
        let skipped = 6 + pointers.parse::<usize>().unwrap_or_default();
        let senses = self.of_lemma.entry(lemma.replace('_', " ")).or_default();
        for (at, offset) in words.iter().skip(skipped).enumerate() {
            let uses = counts.get(&(lemma.to_owned(), letter, at + 1)).copied();
            let uses = uses.unwrap_or_default() + 1.0 / (at + 1) as f64;
            senses.push((format!("{letter}{offset}"), uses));
        }
    }

    /// The form of a word that the index has.
    fn lemma(&self, word: &str) -> Option<String> {
        let known = |word: &str| self.of_lemma.contains_key(word).then(|| word.to_owned());
        known(word).or_else(|| self.irregular.get(word).and_then(|base| known(base))).or_else(
            || {
                ENDINGS.iter().find_map(|(ending, instead)| {
                    let stem = word.strip_suffix(ending).filter(|stem| stem.len() > 1)?;
                    known(&format!("{stem}{instead}"))
                })
            },
        )
    }
}

/// How often each sense of each word occurs in WordNet's texts.
fn counts(text: &str) -> HashMap<(String, char, usize), f64> {
    let mut counts = HashMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(sense), Some(count)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Some((lemma, rest)) = key.split_once('%') else { continue };
        let letter = match rest.as_bytes().first() {
            Some(b'1') => 'n',
            Some(b'2') => 'v',
            Some(b'3' | b'5') => 'a',
            Some(b'4') => 'r',
            _ => continue,
        };
        if let (Ok(sense), Ok(count)) = (sense.parse(), count.parse()) {
            counts.insert((lemma.to_owned(), letter, sense), count);
        }
    }
    counts
}
