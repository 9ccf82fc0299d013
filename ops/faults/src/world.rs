//! What one writer's memories and links are, were its writes done one after the other.
//!
//! *Invariants*: a version of a memory is a function of its number, and its content says which it
//! is, so that an answer shows which write it comes from, or that it comes from none.
//!
//! *Not here*: asking the server (`writer`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::random::Random;

/// Memories of one writer.
pub const MEMORIES: u32 = 24;
/// Links that one memory may have.
const SLOTS: u32 = 3;
const DIMENSIONS: usize = 8;
const WORDS: [&str; 8] =
    ["river", "harbour", "lantern", "copper", "violin", "glacier", "market", "orchard"];

/// Memories with their versions; links with their weights in eighths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// By memory.
    pub memories: BTreeMap<u32, u64>,
    /// By source and target.
    pub links: BTreeMap<(u32, u32), u8>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Stores or replaces a memory; its links with it, where they are given.
    Put { memory: u32, version: u64, links: Option<Vec<(u32, u8)>> },
    /// Changes the content of a memory that is there.
    Patch { memory: u32, version: u64 },
    /// Deletes one that is there.
    Delete { memory: u32 },
    /// Writes a link of one that is there.
    Link { from: u32, to: u32, eighths: u8 },
    /// Removes a link.
    Unlink { from: u32, to: u32 },
}

impl World {
    /// Draws a write that has to succeed.
    pub fn draw(&self, random: &mut Random, version: u64) -> Operation {
        let memory = small(random, MEMORIES);
        let present = self.memories.contains_key(&memory);
        let (to, eighths) = (target(memory, small(random, SLOTS)), weight(random));
        match random.below(100) {
            0..=14 if present => Operation::Patch { memory, version },
            15..=29 if present => Operation::Delete { memory },
            30..=49 if present => Operation::Link { from: memory, to, eighths },
            50..=57 if present => Operation::Unlink { from: memory, to },
            number => {
                let links = (number % 3 == 0).then(|| {
                    let slots = (0..SLOTS).filter(|_| random.percent(50)).collect::<Vec<_>>();
                    let link = |slot| (target(memory, slot), weight(random));
                    slots.into_iter().map(link).collect()
                });
                Operation::Put { memory, version, links }
            }
        }
    }

    /// What it is once a write is done.
    pub fn after(&self, operation: &Operation) -> Self {
        let mut world = self.clone();
        match operation {
            Operation::Put { memory, version, links } => {
                world.memories.insert(*memory, *version);
                if let Some(links) = links {
                    world.links.retain(|(from, _), _| from != memory);
                    let links = links.iter().map(|(to, eighths)| ((*memory, *to), *eighths));
                    world.links.extend(links);
                }
            }
            Operation::Patch { memory, version } => {
                world.memories.insert(*memory, *version);
            }
            Operation::Delete { memory } => {
                world.memories.remove(memory);
                world.links.retain(|(from, to), _| from != memory && to != memory);
            }
            Operation::Link { from, to, eighths } => {
                world.links.insert((*from, *to), *eighths);
            }
            Operation::Unlink { from, to } => {
                world.links.remove(&(*from, *to));
            }
        }
        world
    }
}

/// A request: method, path, body.
pub type Request = (&'static str, String, Value);

/// The request of a write.
pub fn request(writer: u32, operation: &Operation) -> Request {
    let path = |memory| format!("/api/v1/memories/{}", id(writer, memory));
    match operation {
        Operation::Put { memory, version, links } => {
            let mut body = json!({
                "content": content(writer, *memory, *version),
                "embedding": embedding(*version),
                "metadata": {"version": version},
            });
            if let Some(links) = links {
                let links = links.iter().map(|(to, eighths)| link(writer, *to, *eighths));
                body["links"] = links.collect();
            }
            ("PUT", path(*memory), body)
        }
        Operation::Patch { memory, version } => {
            let body = json!({
                "content": content(writer, *memory, *version),
                "embedding": embedding(*version),
                "metadata": {"version": version},
            });
            ("PATCH", path(*memory), body)
        }
        Operation::Delete { memory } => ("DELETE", path(*memory), Value::Null),
        Operation::Link { from, to, eighths } => {
            let mut link = link(writer, *to, *eighths);
            link["from"] = json!(id(writer, *from));
            ("POST", "/api/v1/links".to_owned(), link)
        }
        Operation::Unlink { from, to } => {
            let link = json!({"from": id(writer, *from), "to": id(writer, *to), "kind": KIND});
            ("DELETE", "/api/v1/links".to_owned(), link)
        }
    }
}

const KIND: &str = "next";

fn link(writer: u32, to: u32, eighths: u8) -> Value {
    json!({"to": id(writer, to), "kind": KIND, "weight": f64::from(eighths) / 8.0})
}

/// The id of a memory.
pub fn id(writer: u32, memory: u32) -> String {
    format!("w{writer}-m{memory}")
}

/// Takes what the server says of one memory into a world.
///
/// # Errors
/// What can't come from any write.
pub fn read(world: &mut World, writer: u32, memory: u32, answer: &Value) -> Result<(), String> {
    let id = id(writer, memory);
    let text = answer["content"].as_str().ok_or_else(|| format!("{id} has no content"))?;
    let version = genuine(text).map_err(|e| format!("{id}: {e}"))?;
    if text != content(writer, memory, version) {
        return Err(format!("{id} has the content of another memory: {}", start(text)));
    }
    if answer["metadata"] != json!({"version": version}) {
        return Err(format!("{id}, version {version}, has metadata {}", answer["metadata"]));
    }
    if answer["embedding"] != json!(embedding(version)) {
        return Err(format!("{id}, version {version}, has embedding {}", answer["embedding"]));
    }
    world.memories.insert(memory, version);
    for link in answer["links"].as_array().into_iter().flatten() {
        if link["automatic"] == json!(true) {
            continue;
        }
        let name = link["to"].as_str().unwrap_or_default();
        let to = (0..MEMORIES).find(|to| self::id(writer, *to) == name);
        let eighths = link["weight"].as_f64().map_or(0.0, |weight| weight * 8.0);
        match to {
            Some(to) if eighths.fract() == 0.0 && (1.0..=8.0).contains(&eighths) => {
                // Between 1 and 8.
                world.links.insert((memory, to), eighths as u8);
            }
            _ => return Err(format!("{id} has a link that nobody wrote: {link}")),
        }
    }
    Ok(())
}

/// The version that a content says it is of.
///
/// # Errors
/// Where nobody wrote it.
pub fn genuine(text: &str) -> Result<u64, String> {
    let numbers = text.split(' ').take(3).zip(["w", "m", "v"]);
    let numbers = numbers.map(|(word, letter)| word.strip_prefix(letter)?.parse::<u64>().ok());
    let numbers: Option<Vec<u64>> = numbers.collect();
    if let Some([writer, memory, version]) = numbers.as_deref()
        && let (Ok(writer), Ok(memory)) = (u32::try_from(*writer), u32::try_from(*memory))
        && content(writer, memory, *version) == text
    {
        return Ok(*version);
    }
    Err(format!("a content that nobody wrote: {}", start(text)))
}

fn start(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Most are short; some take several blocks, so that a batch can be torn in many ways.
pub fn content(writer: u32, memory: u32, version: u64) -> String {
    let mut random = Random::new(version, u64::from(writer) << 32 | u64::from(memory));
    let bytes = match random.below(20) {
        0 => random.below(24 << 10),
        1..=4 => random.below(4 << 10),
        _ => random.below(200),
    };
    let mut text = format!("w{writer} m{memory} v{version}");
    while (text.len() as u64) < bytes {
        text.push(' ');
        text.push_str(WORDS[small(&mut random, 8) as usize]);
    }
    text
}

/// Multiples of 1/64, which f32 and its shortest decimals keep as they are; never zero.
fn embedding(version: u64) -> Vec<f64> {
    let mut random = Random::new(version, 3);
    (0..DIMENSIONS).map(|_| (random.below(256) as f64 + 1.0) / 64.0).collect()
}

fn target(from: u32, slot: u32) -> u32 {
    (from + 1 + slot * 5) % MEMORIES
}

fn weight(random: &mut Random) -> u8 {
    u8::try_from(1 + random.below(8)).expect("at most 8")
}

fn small(random: &mut Random, bound: u32) -> u32 {
    u32::try_from(random.below(u64::from(bound))).expect("below a bound of 32 bits")
}
