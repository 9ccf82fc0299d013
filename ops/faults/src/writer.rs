//! Clients: writers, who know what they were told is durable, and a reader, who knows what is true.
//!
//! *Invariants*: a writer has one write under way, on memories that no other touches; so after a
//! crash its world is that of before the write or that of after it, and nothing else.
//!
//! *Not here*: what writes do (`world`), when the power goes (`cuts`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{Connection, JSON};
use crate::random::Random;
use crate::world::{self, MEMORIES, Operation, Request, World};

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// What was acknowledged is not there.
    Lost(String),
    /// What is there was never written, or an answer is false.
    Wrong(String),
}

/// What ended a writer's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop, between two writes.
    Told,
    /// A write was not acknowledged: what was answered, and what was asked.
    Refused(u16, String, Operation),
    /// The connection broke.
    Broken(String),
}

/// A writer.
pub struct Writer {
    pub number: u32,
    /// What is acknowledged.
    world: World,
    /// What it may be besides: a write was under way.
    perhaps: Option<World>,
    versions: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    random: Random,
}

impl Writer {
    /// One that has written nothing.
    pub fn new(number: u32, seed: u64) -> Self {
        Self {
            number,
            world: World::default(),
            perhaps: None,
            versions: 0,
            acknowledged: 0,
            random: Random::new(seed, 1000 + u64::from(number)),
        }
    }

    /// Writes until it is told to stop or is refused. What it is has to be known.
    pub fn write(&mut self, server: SocketAddr, stop: &AtomicBool) -> End {
        assert!(self.perhaps.is_none(), "a writer starts from what was read");
        let opened = Connection::open(server, PATIENCE);
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(error) => return End::Broken(error.to_string()),
        };
        while !stop.load(Ordering::Relaxed) {
            let operation = self.draw();
            match self.write_one(&mut connection, operation) {
                End::Told => {}
                end => return end,
            }
        }
        End::Told
    }

    /// Any write.
    pub fn draw(&mut self) -> Operation {
        self.versions += 1;
        self.world.draw(&mut self.random, self.versions)
    }

    /// A write that stores or replaces.
    pub fn draw_put(&mut self) -> Operation {
        loop {
            let operation = self.draw();
            if matches!(operation, Operation::Put { .. }) {
                return operation;
            }
        }
    }

    /// A deletion, where there is something to delete. Nothing else is under way: what was refused
    /// was not done.
    pub fn delete_one(&mut self, connection: &mut Connection) -> Option<End> {
        self.perhaps = None;
        let memory = *self.world.memories.keys().next()?;
        Some(self.write_one(connection, Operation::Delete { memory }))
    }

    /// One write.
    pub fn write_one(&mut self, connection: &mut Connection, operation: Operation) -> End {
        let after = self.world.after(&operation);
        match ask(connection, &world::request(self.number, &operation)) {
            Ok((200..=299, _)) => {
                (self.world, self.perhaps) = (after, None);
                self.acknowledged += 1;
                End::Told
            }
            Ok((status, body)) => {
                self.perhaps = Some(after);
                End::Refused(status, body, operation)
            }
            Err(error) => {
                self.perhaps = Some(after);
                End::Broken(error)
            }
        }
    }

    /// Reads back everything; from now on what was read is what has to stay.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub fn verify(&mut self, connection: &mut Connection) -> Result<Vec<Finding>, String> {
        let mut findings = Vec::new();
        let read = self.read(connection, &mut findings)?;
        let perhaps = self.perhaps.take().unwrap_or_else(|| self.world.clone());
        self.compare(&perhaps, &read, &mut findings);
        self.world = read;
        Ok(findings)
    }

    /// Its memories: what their contents are as far as is acknowledged, and what they may be
    /// besides.
    pub fn contents(&self) -> impl Iterator<Item = (u32, String, Option<String>)> {
        let content = |memory, version| world::content(self.number, memory, version);
        self.world.memories.iter().map(move |(memory, version)| {
            let perhaps = self.perhaps.as_ref().and_then(|world| world.memories.get(memory));
            (*memory, content(*memory, *version), perhaps.map(|v| content(*memory, *v)))
        })
    }

    /// How many memories it has.
    pub fn count(&self) -> u64 {
        self.world.memories.len() as u64
    }

    fn read(
        &self,
        connection: &mut Connection,
        findings: &mut Vec<Finding>,
    ) -> Result<World, String> {
        let mut world = World::default();
        for memory in 0..MEMORIES {
            let (status, body) = ask(connection, &read_one(self.number, memory))?;
            let taken = match status {
                404 => Ok(()),
                200 => {
                    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
                    world::read(&mut world, self.number, memory, &answer)
                }
                _ => Err(format!(
                    "reading {} is answered {status}: {body}",
                    world::id(self.number, memory)
                )),
            };
            findings.extend(taken.err().map(Finding::Wrong));
        }
        Ok(world)
    }

    /// Compares what was read with what may be there.
    fn compare(&self, after: &World, read: &World, findings: &mut Vec<Finding>) {
        let (writer, before) = (self.number, &self.world);
        let found = findings.len();
        for memory in 0..MEMORIES {
            let version = |world: &World| world.memories.get(&memory).copied();
            let (old, new, now) = (version(before), version(after), version(read));
            if now == old || now == new {
                continue;
            }
            let what = format!(
                "{} is version {now:?}, acknowledged {old:?}, under way {new:?}",
                world::id(writer, memory)
            );
            // A deletion that is forgotten brings an old version back.
            let is_stale = now.is_none_or(|version| version < self.versions);
            findings.push(if is_stale { Finding::Lost(what) } else { Finding::Wrong(what) });
        }
        let links = [before, after, read].into_iter().flat_map(|world| world.links.keys());
        for link in links.collect::<BTreeSet<_>>() {
            let weight = |world: &World| world.links.get(link).copied();
            let (old, new, now) = (weight(before), weight(after), weight(read));
            if now == old || now == new {
                continue;
            }
            let what = format!(
                "the link of {} to {} is {now:?}, acknowledged {old:?}, under way {new:?}",
                world::id(writer, link.0),
                world::id(writer, link.1)
            );
            findings.push(if now.is_none() { Finding::Lost(what) } else { Finding::Wrong(what) });
        }
        if found == findings.len() && read != before && read != after {
            let what = format!("writer {writer}: a write was done in part: {before:?}, {after:?}");
            findings.push(Finding::Wrong(format!("{what}, read {read:?}")));
        }
    }
}

pub fn read_one(writer: u32, memory: u32) -> Request {
    let id = world::id(writer, memory);
    ("GET", format!("/api/v1/memories/{id}?with=content,metadata,embedding,links"), Value::Null)
}

/// Sends a request; status and body.
///
/// # Errors
/// Where the connection broke.
pub fn ask(connection: &mut Connection, request: &Request) -> Result<(u16, String), String> {
    let (method, path, body) = request;
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let headers = match *method {
        _ if bytes.is_empty() => "",
        "PATCH" => "content-type: application/merge-patch+json\r\n",
        _ => JSON,
    };
    let reply = connection.call(method, path, headers, &bytes).map_err(|e| e.to_string())?;
    Ok((reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
}

/// Reads and recalls until the server is gone; what was false.
pub fn read_on(server: SocketAddr, writers: u32, seed: u64, stop: &AtomicBool) -> Vec<Finding> {
    let mut random = Random::new(seed, 4);
    let mut findings = Vec::new();
    let Ok(mut connection) = Connection::open(server, PATIENCE) else { return findings };
    for number in 0_u64.. {
        let draw = |random: &mut Random, bound: u32| {
            u32::try_from(random.below(u64::from(bound))).expect("below a bound of 32 bits")
        };
        let (writer, memory) = (draw(&mut random, writers), draw(&mut random, MEMORIES));
        let request = if number % 32 == 7 {
            let cue = json!({"cues": [{"id": world::id(writer, memory)}, {"text": "violin"}]});
            ("POST", "/api/v1/recall".to_owned(), cue)
        } else {
            read_one(writer, memory)
        };
        let Ok((status, body)) = ask(&mut connection, &request) else { return findings };
        if status == 200 {
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            let one = std::slice::from_ref(&answer);
            for memory in answer["memories"].as_array().map_or(one, Vec::as_slice) {
                let text = memory["content"].as_str().unwrap_or_default();
                findings.extend(world::genuine(text).err().map(Finding::Wrong));
            }
        }
        if stop.load(Ordering::Relaxed) {
            return findings;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    findings
}
