//! `engram export`: writes every memory of a space.
//!
//! *Invariants*: `load` reads what is written and makes the same memories of it; links that the
//! server made by itself are left out, since it makes them again.
//!
//! *Not here*: snapshots.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use super::output;
use crate::arguments::Origins;
use crate::client::{Client, escaped};
use crate::failure::Failure;
use crate::frames::PackFrames;
use crate::progress::Progress;
use crate::records::Pack;
use crate::target::Target;

/// Fields of a memory as it is read that a new one does not take.
const FIELDS_OF_THE_SERVER: [&str; 4] = ["updated_at", "tier", "merged", "merged_into"];
/// Fields of a link that a new one takes.
const FIELDS_OF_A_LINK: [&str; 3] = ["to", "weight", "kind"];

/// Writes every memory of a space.
#[derive(Debug, Args)]
pub struct Export {
    /// File to write: .ndjson, .ndjson.zst, .bin, or - for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Only what this filter lets through (JSON)
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Leave embeddings out
    #[arg(long)]
    without_embeddings: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    target: Target,
}

impl Export {
    /// Exports.
    ///
    /// # Errors
    /// Where the server can't be reached or the file can't be written.
    pub fn run(self, origins: &Origins) -> Result<(), Failure> {
        let name = self.file.display().to_string();
        let ending = self.file.extension().and_then(|ending| ending.to_str());
        if ending == Some("gz") {
            let refused = Failure::usage("an export can't be written as .gz");
            return Err(refused.with_hint("name it .ndjson, .ndjson.zst or .bin"));
        }
        let mut opened = self.target.open(origins)?;
        let failed = || Failure::because(format!("{name} can't be written"));
        let create = || File::create(&self.file).map(BufWriter::new).map_err(failed());
        let client = &mut opened.client;
        let outcome = match ending {
            _ if name == "-" => self.pages(client, &mut output::buffered(), failed),
            Some("zst") => self.pages(client, &mut PackFrames::new(create()?), failed),
            Some("bin") => {
                let mut pack = Pack::new(create()?).map_err(failed())?;
                // What has no end is not whole, and is refused by `load`.
                let paged = self.pages(client, &mut pack, failed);
                paged.and_then(|()| pack.finish().map_err(failed()))
            }
            _ => self.pages(client, &mut create()?, failed),
        };
        let closed = opened.close();
        outcome.and(closed)
    }

    fn pages<F: FnOnce(io::Error) -> Failure>(
        &self,
        client: &mut Client,
        out: &mut dyn Write,
        failed: impl Fn() -> F,
    ) -> Result<(), Failure> {
        let with = if self.without_embeddings { "" } else { ",embedding" };
        let mut path = format!("/api/v1/memories?limit=500&with=content,metadata,links{with}");
        if self.filter.is_none() {
            // What was merged is stored again as the memory that it was.
            path.push_str("&include_merged=true");
        }
        if let Some(filter) = &self.filter {
            path.push_str(&format!("&filter={}", escaped(filter)));
        }
        let mut progress = Progress::new("memories", self.quiet);
        let mut count = 0;
        let mut cursor = String::new();
        loop {
            let mut page: Value = client.get(&format!("{path}{cursor}"))?.json()?;
            let memories = page["memories"].as_array_mut().map(std::mem::take).unwrap_or_default();
            for memory in memories {
                let mut line = storable(memory).to_string();
                line.push('\n');
                out.write_all(line.as_bytes()).map_err(failed())?;
                count += 1;
            }
            progress.show(count, None);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", escaped(next)),
                None => break,
            }
        }
        out.flush().map_err(failed())?;
        progress.finish();
        Ok(())
    }
}

/// A memory that was read, as one that can be stored.
fn storable(mut memory: Value) -> Value {
    let Some(object) = memory.as_object_mut() else { return memory };
    FIELDS_OF_THE_SERVER.iter().for_each(|field| drop(object.remove(*field)));
    object.retain(|_, value| !value.is_null());
    if let Some(links) = object.get_mut("links").and_then(Value::as_array_mut) {
        links.retain(|link| link["automatic"] != Value::Bool(true));
        links.iter_mut().for_each(|link| *link = storable_link(link));
    }
    memory
}

fn storable_link(link: &Value) -> Value {
    let field = |name: &str| Some((name.to_owned(), link.get(name)?.clone()));
    Value::Object(FIELDS_OF_A_LINK.into_iter().filter_map(field).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_exported_can_be_stored() {
        let read = json!({
            "id": "a", "content": "c", "confidence": null, "tier": "warm", "updated_at": "t",
            "created_at": "t", "expires_at": null, "metadata": {"k": null},
            "links": [
                {"from": "a", "to": "b", "weight": 0.5, "kind": "k", "automatic": false, "live": true},
                {"from": "a", "to": "c", "weight": 1.0, "kind": "mentions", "automatic": true},
            ],
        });
        let expected = json!({
            "id": "a", "content": "c", "created_at": "t", "metadata": {"k": null},
            "links": [{"to": "b", "weight": 0.5, "kind": "k"}],
        });
        assert_eq!(storable(read), expected);
    }
}
