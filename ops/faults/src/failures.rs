//! Disks that fail without losing power: errors, short writes, bits that change, no room.
//!
//! *Invariants*: each failure ends with a power cut and a start, after which everything
//! acknowledged is read back.
//!
//! *Not here*: power cuts under load (`cuts`).

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::device::{Failure, Often, Trouble};
use crate::http::Connection;
use crate::server::Server;
use crate::site::{Site, WRITERS};
use crate::volume::Format;
use crate::world;
use crate::writer::{End, Finding, Writer, ask, read_one};

/// Writes of each writer before anything fails.
const WRITES: u64 = 40;
/// Writes of each writer until it has to have met the failure.
const WRITES_MAX: u64 = 200;
/// Between writes while the server has not yet seen that there is no room, or room: it looks once a
/// second.
const PAUSE: Duration = Duration::from_millis(20);
/// Status of a server that lacks something of the machine.
const NOT_HERE: i32 = 78;
/// How often a write is tried again that was refused.
const TRIES: usize = 5;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Scenario {
    /// The disk fails like this, and then works again.
    Trouble(Trouble, Often),
    /// What the disk is made of is full for a while, and it says so.
    Lack,
    /// Bits change in what was written.
    Rot,
    /// Somebody else fills the file system.
    Full,
}

/// All of them, by name.
pub const ALL: [(&str, Scenario); 8] = [
    ("EIO on one write", Scenario::Trouble(Trouble::Writes(Failure::Io), Often::Once)),
    ("EIO on every write", Scenario::Trouble(Trouble::Writes(Failure::Io), Often::Always)),
    ("no room behind the disk", Scenario::Lack),
    ("one short write", Scenario::Trouble(Trouble::ShortWrites, Often::Once)),
    ("EIO on one sync", Scenario::Trouble(Trouble::Syncs, Often::Once)),
    ("EIO on every sync", Scenario::Trouble(Trouble::Syncs, Often::Always)),
    ("bit rot", Scenario::Rot),
    ("a full file system", Scenario::Full),
];

/// Brings one about on a new volume; what was seen, in a few words.
///
/// # Errors
/// What is not as it has to be.
pub fn run(
    scenario: Scenario,
    format: Format,
    seed: u64,
    binary: &Path,
    folder: &Path,
) -> Result<String, String> {
    let mut site = Site::new(folder, format, seed, 1, binary)?;
    let mut server = site.launch.start()?;
    server.ready()?;
    for writer in &mut site.writers {
        let mut connection = server.connect()?;
        for _ in 0..WRITES {
            let operation = writer.draw();
            taken(&writer.write_one(&mut connection, operation))?;
        }
    }
    match scenario {
        Scenario::Trouble(trouble, often) => fail(&mut site, server, trouble, often),
        Scenario::Lack => lack(&mut site, server),
        Scenario::Rot => rot(&mut site, server),
        Scenario::Full => fill(&mut site, server),
    }
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("this does not hold: {what}")) }
}

fn taken(end: &End) -> Result<(), String> {
    must(*end == End::Told, &format!("a write is taken: {end:?}"))
}

fn nothing_found(findings: &[Finding]) -> Result<(), String> {
    findings.first().map_or(Ok(()), |first| Err(format!("{first:?}")))
}

/// A failed write or sync: the shard takes no further write, reads go on, and it says why.
fn fail(
    site: &mut Site,
    mut server: Server,
    trouble: Trouble,
    often: Often,
) -> Result<String, String> {
    site.volume.disk.device().trouble(Some((trouble, often)));
    let mut refused = Vec::new();
    let before = site.acknowledged();
    for writer in &mut site.writers {
        let mut connection = server.connect()?;
        for _ in 0..WRITES_MAX {
            let operation = writer.draw_put();
            match writer.write_one(&mut connection, operation) {
                End::Told => {}
                End::Refused(503, body, operation) if code(&body) == "poisoned" => {
                    refused.push((writer.number, operation));
                    break;
                }
                end => return Err(format!("a failed disk ends a write with {end:?}")),
            }
        }
    }
    let after = site.acknowledged() - before;
    site.volume.disk.device().trouble(None);
    must(!refused.is_empty(), "a write meets the failure")?;
    server.until("poisoned", |server| {
        server.health().is_some_and(|(status, body)| {
            let said: Value = serde_json::from_str(&body).unwrap_or_default();
            let reason = said["reason"].as_str().unwrap_or_default();
            status == 503 && said["phase"] == json!("poisoned") && reason.contains("log")
        })
    })?;
    server.until("saying why", |server| server.log().contains("refuses writes from now on"))?;
    let mut connection = server.connect()?;
    for (writer, operation) in &refused {
        for _ in 0..TRIES {
            let (status, body) = ask(&mut connection, &world::request(*writer, operation))?;
            let is_refused = status == 503 && code(&body) == "poisoned";
            must(is_refused, &format!("{operation:?} is refused again: {status} {body}"))?;
        }
    }
    let unreadable = read_on(site, &mut connection)?;
    // XFS shuts down where its own log can't be synced, and then no file can be read.
    let may_shut_down = trouble == Trouble::Syncs && site.volume.format() == Format::Xfs;
    must(unreadable == 0 || may_shut_down, "reads go on")?;
    site.volume.disk.device().cut();
    server.kill();
    site.volume.come_back()?;
    start_again(site)?;
    let reads = if unreadable == 0 { "all reads went on" } else { "the file system shut down" };
    Ok(format!(
        "{} of {WRITERS} writers met it, {after} writes came through, {reads}",
        refused.len()
    ))
}

/// Writes that the disk has no room for are refused, and go through once it has: the same server goes
/// on.
fn lack(site: &mut Site, mut server: Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    let no_room = (Trouble::Writes(Failure::NoSpace), Often::Always);
    site.volume.disk.device().trouble(Some(no_room));
    let is_full = refused_for_room(site, &mut connection);
    let unreadable = read_on(site, &mut connection);
    site.volume.disk.device().trouble(None);
    must(is_full?, "writes are refused on a full disk")?;
    must(unreadable? == 0, "reads go on")?;
    server.until("having room", |_| {
        let metrics = ask(&mut connection, &("GET", "/metrics".to_owned(), Value::Null));
        let (_, text) = metrics.unwrap_or_default();
        let mut shards = text.lines().filter(|line| line.starts_with("engram_log_room_wanted{"));
        !text.is_empty() && shards.all(|line| line.ends_with(" 0"))
    })?;
    // What was refused may have been done by now, or not.
    nothing_found(&site.verify(&server)?)?;
    write_and_cut(site, server, &mut connection)?;
    Ok("writes were refused, reads went on; with room again all were taken".to_owned())
}

/// Every writer's next write is taken; then the power goes, and nothing of it may be missing.
fn write_and_cut(
    site: &mut Site,
    server: Server,
    connection: &mut Connection,
) -> Result<(), String> {
    for writer in &mut site.writers {
        let operation = writer.draw_put();
        taken(&writer.write_one(connection, operation))?;
    }
    site.volume.disk.device().cut();
    server.kill();
    site.volume.come_back()?;
    start_again(site)
}

/// Reads everything from a server that refuses writes: right, or not at all. How many were refused.
fn read_on(site: &Site, connection: &mut Connection) -> Result<usize, String> {
    let mut refused = 0;
    for writer in &site.writers {
        for (memory, content, perhaps) in writer.contents() {
            let (status, body) = ask(connection, &read_one(writer.number, memory))?;
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            let text = answer["content"].as_str().unwrap_or_default();
            let is_right = status == 200 && (text == content || perhaps.as_deref() == Some(text));
            let is_refused = status == 500 && code(&body) == "unreadable";
            must(is_right || is_refused, &format!("reads are right or refused: {status} {body}"))?;
            refused += usize::from(is_refused);
        }
    }
    Ok(refused)
}

fn code(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    body["code"].as_str().unwrap_or_default().to_owned()
}

/// After a cut: everything is there, and writes are taken.
fn start_again(site: &mut Site) -> Result<(), String> {
    site.launch.forget_fast()?;
    let mut server = site.launch.start()?;
    server.ready()?;
    nothing_found(&site.verify(&server)?)?;
    for writer in &mut site.writers {
        let operation = writer.draw();
        taken(&writer.write_one(&mut server.connect()?, operation))?;
    }
    Ok(())
}

/// Bits change under a server that started from an image, so that it has read none of the contents.
fn rot(site: &mut Site, server: Server) -> Result<String, String> {
    server.signal("TERM");
    let (status, log) = server.ended()?;
    must(status.success(), &format!("a server that was told to stop ends well: {log}"))?;
    let mut server = site.launch.start()?;
    server.ready()?;
    // Something lies behind what rots: else it could not be told from a write that was torn.
    let mut connection = server.connect()?;
    let rotten = spoil(site);
    for writer in &mut site.writers {
        let operation = writer.draw_put();
        taken(&writer.write_one(&mut connection, operation))?;
    }
    let refused = read_rotten(site, &mut connection, &rotten)?;
    must(refused > 0, "something rotten is read")?;
    site.volume.disk.device().cut();
    server.kill();
    site.volume.come_back()?;
    refuse_to_start(site)?;
    Ok(format!("{} contents were rotten, {refused} reads refused, the start, too", rotten.len()))
}

/// Changes a bit in every third content that is long enough to be told from others.
fn spoil(site: &Site) -> Vec<(u32, u32)> {
    let mut rotten = Vec::new();
    let mut device = site.volume.disk.device();
    for writer in &site.writers {
        for (memory, content, _) in
            writer.contents().filter(|(_, content, _)| content.len() > 40).step_by(3)
        {
            let places = device.places(content.as_bytes());
            for place in &places {
                device.rot(place + content.len() / 2, memory);
            }
            if !places.is_empty() {
                rotten.push((writer.number, memory));
            }
        }
    }
    rotten
}

/// Reads everything: what rots is refused or right, all else is right. How many were refused.
fn read_rotten(
    site: &Site,
    connection: &mut Connection,
    rotten: &[(u32, u32)],
) -> Result<usize, String> {
    let mut refused = 0;
    for writer in &site.writers {
        for (memory, content, _) in writer.contents() {
            let (status, body) = ask(connection, &read_one(writer.number, memory))?;
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            let is_right = status == 200 && answer["content"] == json!(content);
            let is_refused = status == 500 && code(&body) == "unreadable";
            let may_be_refused = rotten.contains(&(writer.number, memory));
            let id = world::id(writer.number, memory);
            must(
                is_right || is_refused && may_be_refused,
                &format!("{id} is read as it was written, or refused: {status} {body}"),
            )?;
            refused += usize::from(is_refused);
        }
    }
    Ok(refused)
}

/// The log alone: a start refuses it, `check` says so, and what `check --repair` leaves is true.
fn refuse_to_start(site: &Site) -> Result<(), String> {
    site.launch.forget_fast()?;
    let images = site.launch.data.join("images");
    std::fs::remove_dir_all(&images).map_err(|e| format!("remove {}: {e}", images.display()))?;
    let (status, log) = site.launch.start()?.ended()?;
    must(
        status.code() == Some(1),
        &format!("a start from a rotten log is refused: {status} {log}"),
    )?;
    must(log.contains("is damaged at byte"), &format!("it says what is damaged: {log}"))?;
    must(check(site, &[])? == Some(1), "`check` says that something is damaged")?;
    must(check(site, &["--repair"])? == Some(0), "`check --repair` mends it")?;
    let mut server = site.launch.start()?;
    server.ready()?;
    let mut connection = server.connect()?;
    for writer in &site.writers {
        for (memory, ..) in writer.contents() {
            let (status, body) = ask(&mut connection, &read_one(writer.number, memory))?;
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            let text = answer["content"].as_str().unwrap_or_default();
            let is_true = status == 404 || status == 200 && world::genuine(text).is_ok();
            must(is_true, &format!("what was kept is true: {status} {body}"))?;
        }
    }
    Ok(())
}

/// Writes that need room are refused, what frees it is not, a start says what to do; all is well once
/// there is room.
fn fill(site: &mut Site, mut server: Server) -> Result<String, String> {
    let ballast = site.volume.path().join("ballast");
    occupy(&ballast)?;
    let mut connection = server.connect()?;
    let before = site.acknowledged();
    let full = refused_for_room(site, &mut connection)?;
    let went_on = site.acknowledged() - before;
    must(full, "writes are refused on a full file system")?;
    must(read_on(site, &mut connection)? == 0, "reads go on")?;
    for writer in &mut site.writers {
        let end = writer.delete_one(&mut connection);
        must(end == Some(End::Told), &format!("a full file system takes a deletion: {end:?}"))?;
    }
    std::fs::remove_dir_all(&ballast).map_err(|e| format!("make room: {e}"))?;
    let mut stored = server.connect()?;
    for writer in &mut site.writers {
        stores_again(writer, &mut stored)?;
    }
    occupy(&ballast)?;
    server.kill();
    site.launch.forget_fast()?;
    let (status, log) = site.launch.start()?.ended()?;
    let is_told = status.code() == Some(NOT_HERE) && log.contains("free some space");
    must(is_told, &format!("a start is refused until there is room: {status} {log}"))?;
    std::fs::remove_dir_all(&ballast).map_err(|e| format!("make room: {e}"))?;
    server = site.launch.start()?;
    server.ready()?;
    nothing_found(&site.verify(&server)?)?;
    let mut connection = server.connect()?;
    write_and_cut(site, server, &mut connection)?;
    Ok(format!(
        "{went_on} writes went on, then all were refused; deletions were taken; with room again all were"
    ))
}

/// Once there is room, writes are taken by the server that refused them.
fn stores_again(writer: &mut Writer, connection: &mut Connection) -> Result<(), String> {
    for _ in 0..WRITES_MAX {
        let operation = writer.draw_put();
        match writer.write_one(connection, operation) {
            End::Told => return Ok(()),
            End::Refused(507, body, _) if code(&body) == "disk_budget" => {
                std::thread::sleep(PAUSE);
            }
            end => return Err(format!("with room again a write ends with {end:?}")),
        }
    }
    Err("writes are refused although there is room again".to_owned())
}

/// Takes all room that there is.
fn occupy(folder: &Path) -> Result<(), String> {
    std::fs::create_dir(folder).map_err(|e| format!("make a folder: {e}"))?;
    let mut bytes: u64 = 256 << 20;
    for number in 0.. {
        let path = folder.join(format!("{number}"));
        let mut command = Command::new("fallocate");
        command.arg("--length").arg(bytes.to_string()).arg(&path).stderr(Stdio::null());
        let taken = command.status().map_err(|e| format!("fallocate can't be run: {e}"))?;
        match (taken.success(), bytes) {
            (true, _) => {}
            (false, ..=4096) => break,
            (false, _) => bytes /= 2,
        }
    }
    Ok(())
}

/// Writes until every writer is refused for want of room, or nobody is.
fn refused_for_room(site: &mut Site, connection: &mut Connection) -> Result<bool, String> {
    let mut refused = 0;
    for writer in &mut site.writers {
        for _ in 0..WRITES_MAX {
            let operation = writer.draw_put();
            match writer.write_one(connection, operation) {
                End::Told => std::thread::sleep(PAUSE),
                End::Refused(507, body, _) if code(&body) == "disk_budget" => {
                    refused += 1;
                    break;
                }
                end => return Err(format!("a full file system ends a write with {end:?}")),
            }
        }
    }
    Ok(refused == site.writers.len())
}
fn check(site: &Site, arguments: &[&str]) -> Result<Option<i32>, String> {
    let mut command = Command::new(&site.launch.binary);
    command.arg("check").arg(&site.launch.data).args(arguments).arg("--quiet");
    let ended = command.output().map_err(|e| format!("`check` can't be run: {e}"))?;
    Ok(ended.status.code())
}
