//! Measures the text index: rates of analysis and insertion, bytes a memory, latency of searches.
//!
//! Without options it runs on a few contents, as a test. `--contents FILE` reads one content a line;
//! `--copies 9` repeats them, each copy with a word of its own. Cues are 2, 6 and 12 words of two
//! contents each.
//!
//! *Not here*: the vector index (`vector`), recall over HTTP (`bench`).

use std::time::Instant;

use engram_engine::model::Metadata;
use engram_engine::names::{NameIndex, longest, names_of, normal_form};
use engram_engine::node::NodeIx;
use engram_engine::terms::{TermIndex, terms_of};
use engram_engine::text::{
    Analyzer, Bm25Query, Scratch, TermKey, TextIndex, fold, for_each_word, idf, is_stop_word,
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let text = option("--contents").map_or_else(few_contents, |path| {
        std::fs::read_to_string(path).expect("the file of contents is text")
    });
    let copies: usize = option("--copies").map_or(1, |copies| copies.parse().expect("a number"));
    let contents: Vec<String> = (0..copies)
        .flat_map(|copy| text.lines().map(move |line| line.replace(" the ", &format!(" c{copy} "))))
        .collect();
    associate(&contents);
    let (index, mut analyzer) = build(&contents);
    for (part, bytes) in index.memory_bytes() {
        println!("{part}: {:.1} bytes a memory", bytes as f64 / contents.len() as f64);
    }
    for words in [2, 6, 12] {
        search(&index, &mut analyzer, &contents, words);
    }
    remove(index, contents.len());
}

fn few_contents() -> String {
    let line = |at: u32| format!("memory {at} of the set has word{} and word{}\n", at % 7, at % 31);
    (0..300).map(line).collect()
}

/// Rates of what storing a memory needs besides: names, mentions, shared terms.
fn associate(contents: &[String]) {
    let (mut names, mut terms) = (NameIndex::new(), TermIndex::new());
    let start = Instant::now();
    for (node, content) in (0..).zip(contents) {
        names.insert(NodeIx(node), &names_of(&Metadata::new(), Some(content), true));
    }
    let named = start.elapsed();
    let mut mentions = 0;
    for content in contents {
        let spans: Vec<_> =
            names.matches(&normal_form(content)).iter().map(|found| found.span).collect();
        mentions += longest(&spans).len();
    }
    let mentioned = start.elapsed() - named;
    for (node, content) in (0..).zip(contents) {
        terms.insert(NodeIx(node), &terms_of(&Metadata::new(), Some(content)));
    }
    let shared = start.elapsed() - named - mentioned;
    let rate = |time: std::time::Duration| contents.len() as f64 / time.as_secs_f64();
    println!(
        "names {:.0}/s, mentions {:.0}/s ({mentions} found), shared terms {:.0}/s",
        rate(named),
        rate(mentioned),
        rate(shared)
    );
    for (part, bytes) in names.memory_bytes().iter().chain(&terms.memory_bytes()) {
        println!("{part}: {:.1} bytes a memory", *bytes as f64 / contents.len() as f64);
    }
}

fn build(contents: &[String]) -> (TextIndex, Analyzer) {
    let (mut index, mut analyzer) = (TextIndex::new(), Analyzer::new());
    let start = Instant::now();
    let analyzed: Vec<_> = contents.iter().map(|content| analyzer.analyze(content)).collect();
    let analysis = start.elapsed();
    for (node, analyzed) in (0..).zip(&analyzed) {
        index.insert(NodeIx(node), analyzed);
    }
    let insertion = start.elapsed() - analysis;
    let rate = |seconds: f64| contents.len() as f64 / seconds;
    println!(
        "{} memories: analysis {:.0}/s, insertion {:.0}/s",
        contents.len(),
        rate(analysis.as_secs_f64()),
        rate(insertion.as_secs_f64())
    );
    (index, analyzer)
}

fn cue(content: &str, words: usize, salt: usize) -> String {
    let mut held = Vec::new();
    for_each_word(&fold(content), |word| {
        if !is_stop_word(word) {
            held.push(word.to_owned());
        }
    });
    (0..words.min(held.len()))
        .map(|at| held[(at * 7 + salt) % held.len()].as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn search(index: &TextIndex, analyzer: &mut Analyzer, contents: &[String], words: usize) {
    let keys: Vec<u64> = (0..contents.len() as u64).collect();
    let average_length = index.total_length() as f64 / index.documents() as f64;
    let mut scratch = Scratch::default();
    let mut times = Vec::new();
    let mut found = 0;
    for sample in 0..1000 {
        let place = |step: usize| sample * 7919 * step % contents.len();
        let joined = format!("{} {}", contents[place(1)], contents[place(3)]);
        let terms = analyzer.query(&cue(&joined, words, sample));
        let start = Instant::now();
        let weighed: Vec<(TermKey, f32)> =
            terms.iter().map(|&term| (term, idf(index.documents(), index.df(term)))).collect();
        let query =
            Bm25Query { terms: &weighed, average_length, k: 100, keys: &keys, accept: None };
        found += index.search(&query, &mut scratch).len();
        times.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{words} words: P50 {:.0} us, P90 {:.0} us, P99 {:.0} us ({found} found)",
        times[500], times[900], times[990]
    );
}

fn remove(mut index: TextIndex, count: usize) {
    let start = Instant::now();
    for node in (0..count).step_by(10) {
        index.remove(NodeIx(node as u32));
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / (count / 10).max(1) as f64;
    println!("removal: {each:.1} us each");
}
