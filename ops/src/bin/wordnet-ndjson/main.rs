//! Turns WordNet's database files into memories that `engram load` reads.
//!
//! *Invariants*: one line a synset, in the order of the files; ids are the letter of the part of
//! speech and the eight digits of the offset.
//!
//! *Not here*: storing them (`engram load`).

mod database;
mod gloss;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use database::{Database, Synset};
use gloss::Senses;
use serde_json::{Value, json};

/// Writes WordNet as NDJSON: {id, content, metadata: {pos, lex, names}, links: [{to, kind, weight}]}
#[derive(Debug, Parser)]
#[command(name = "wordnet-ndjson")]
struct Arguments {
    /// Folder of the database files (Debian: wordnet-base)
    #[arg(long, value_name = "DIR", default_value = "/usr/share/wordnet")]
    source: PathBuf,
    /// Link words of definitions to what they may mean, too
    #[arg(long)]
    gloss: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match convert(&arguments) {
        Ok((synsets, links)) => {
            eprintln!("{synsets} synsets, {links} links");
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let source = arguments.source.display();
            eprintln!("wordnet-ndjson: {source}: {error}");
            eprintln!("  install WordNet (Debian: apt-get install wordnet-base), or name --source");
            ExitCode::FAILURE
        }
    }
}

/// Writes everything; returns how many synsets and links there are.
fn convert(arguments: &Arguments) -> io::Result<(usize, usize)> {
    let database = Database::read(&arguments.source)?;
    let senses = if arguments.gloss { Some(Senses::read(&arguments.source)?) } else { None };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut link_count = 0;
    for synset in &database.synsets {
        let links = links(synset, senses.as_ref());
        link_count += links.len();
        writeln!(out, "{}", memory(synset, links))?;
    }
    out.flush()?;
    Ok((database.synsets.len(), link_count))
}

fn memory(synset: &Synset, links: Vec<Value>) -> Value {
    json!({
        "id": synset.id,
        "content": format!("{}: {}", synset.lemmas.join(", "), synset.gloss),
        "metadata": {"pos": synset.part, "lex": synset.lexicographer, "names": synset.lemmas},
        "links": links,
    })
}

fn links(synset: &Synset, senses: Option<&Senses>) -> Vec<Value> {
    let typed = synset.relations.iter().map(|(kind, to)| json!({"to": to, "kind": kind}));
    let glosses = senses.map(|senses| senses.of_gloss(&synset.gloss)).unwrap_or_default();
    let glosses = glosses.into_iter().filter(|(to, _)| *to != synset.id);
    let glosses = glosses.map(|(to, weight)| json!({"to": to, "kind": "gloss", "weight": weight}));
    typed.chain(glosses).collect()
}
