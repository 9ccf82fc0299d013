//! The server's log on standard error: a line for each event, as text or as JSON.
//!
//! *Invariants*: one event is one line, whatever it contains; who logs never waits for who reads: a
//! thread writes, and what finds no room is counted; one place of the code gets few lines in a while.
//!
//! *Not here*: results of commands, which go to standard output.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use serde_json::Map;
use time::OffsetDateTime;
use time::macros::format_description;

/// Lines that wait to be written.
const QUEUE_LINES_MAX: usize = 1024;
/// Lines of one place of the code in a window.
const REPEATS_MAX: u32 = 20;
/// After which a place may say as much again.
const WINDOW: Duration = Duration::from_secs(10);
/// How long the end of the process waits for the last lines.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// What is worth a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What may go wrong, too.
    Warn,
    /// What an operator wants to know, too.
    Info,
    /// What a developer wants to know, too.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::Off,
            Self::Error => LevelFilter::Error,
            Self::Warn => LevelFilter::Warn,
            Self::Info => LevelFilter::Info,
            Self::Debug => LevelFilter::Debug,
            Self::Trace => LevelFilter::Trace,
        }
    }
}

/// What the thread that writes is told.
enum Told {
    Line(String),
    /// Everything before is written once this is dropped.
    Flush(SyncSender<()>),
}

struct Logger {
    format: Format,
    sender: SyncSender<Told>,
    lost: AtomicU64,
    repeats: Mutex<Repeats>,
}

/// The format where nobody chose one.
pub fn default_format() -> Format {
    if std::io::stderr().is_terminal() { Format::Text } else { Format::Json }
}

/// Starts to log; a second call changes nothing but the level.
pub fn start(level: Level, format: Format) {
    let (sender, receiver) = sync_channel(QUEUE_LINES_MAX);
    let logger = Logger { format, sender, lost: AtomicU64::new(0), repeats: Mutex::default() };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        // Where no thread can be had, the process is about to say so and end.
        let _ignored =
            std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&receiver));
    }
    set_level(level);
}

/// What is worth a line from now on.
pub fn set_level(level: Level) {
    log::set_max_level(level.filter());
}

fn write(told: &Receiver<Told>) {
    while let Ok(told) = told.recv() {
        match told {
            // A log that can't be written can't be told about in the log.
            Told::Line(line) => drop(std::io::stderr().lock().write_all(line.as_bytes())),
            Told::Flush(done) => drop(done),
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates tell their developers something; glommio calls the cure of its probe an error.
        metadata.target().starts_with("engram") || log::max_level() >= LevelFilter::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let place = (record.module_path_static().unwrap_or_default(), record.line().unwrap_or(0));
        let turn = self.repeats.lock().unwrap_or_else(PoisonError::into_inner).turn(place);
        let Some(left_out) = turn else { return };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let line = line(self.format, &now(), record, left_out, lost);
        if self.sender.try_send(Told::Line(line)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, written) = sync_channel(0);
        if self.sender.try_send(Told::Flush(done)).is_ok() {
            // Nothing is ever sent: the sender is dropped, or the time is over.
            let _ignored = written.recv_timeout(FLUSH_TIME);
        }
    }
}

/// A place of the code that logs.
type Place = (&'static str, u32);

/// How much each place has said lately.
#[derive(Default)]
struct Repeats(HashMap<Place, Said>);

struct Said {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Repeats {
    /// Whether the place may say one more, and how many of its lines were left out before this.
    fn turn(&mut self, place: Place) -> Option<u64> {
        let fresh = || Said { since: Instant::now(), lines: 0, left_out: 0 };
        let said = self.0.entry(place).or_insert_with(fresh);
        let mut left_out = 0;
        if said.since.elapsed() >= WINDOW {
            left_out = said.left_out;
            *said = fresh();
        }
        said.lines += 1;
        if said.lines > REPEATS_MAX {
            said.left_out += 1;
            return None;
        }
        Some(left_out)
    }
}

fn now() -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

/// One event; `left_out` events of its place and `lost` ones of any were not written before it.
fn line(format: Format, now: &str, record: &Record<'_>, left_out: u64, lost: u64) -> String {
    let level = record.level().as_str().to_lowercase();
    let mut fields = Fields::default();
    // Our own visitor never fails.
    let _ignored = record.key_values().visit(&mut fields);
    for (name, count) in [("left_out", left_out), ("lost", lost)] {
        if count > 0 {
            fields.0.insert(name.to_owned(), count.into());
        }
    }
    let message = record.args().to_string();
    match format {
        Format::Text => {
            let mut line = format!("{now} {level:5} {}", message.replace('\n', " "));
            for (name, value) in &fields.0 {
                write!(line, " {name}={value}").expect("writing to a string never fails");
            }
            line.push('\n');
            line
        }
        Format::Json => {
            let mut event = Map::new();
            event.insert("time".to_owned(), now.into());
            event.insert("level".to_owned(), level.into());
            event.insert("target".to_owned(), record.target().into());
            event.insert("message".to_owned(), message.into());
            event.extend(fields.0);
            format!("{}\n", serde_json::Value::Object(event))
        }
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = match (value.to_u64(), value.to_bool()) {
            (Some(number), _) => number.into(),
            (None, Some(yes)) => yes.into(),
            (None, None) => value.to_string().into(),
        };
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let arguments = format_args!("a \"b\"\nc");
        let fields = [("request_id", "r\n1")];
        let mut builder = Record::builder();
        builder.args(arguments).level(log::Level::Info).target("t").key_values(&fields);
        let record = builder.build();
        let text = line(Format::Text, "T", &record, 0, 3);
        assert_eq!(text, "T info  a \"b\" c lost=3 request_id=\"r\\n1\"\n");
        let json: serde_json::Value =
            serde_json::from_str(&line(Format::Json, "T", &record, 2, 0)).unwrap();
        assert_eq!(json["message"], "a \"b\"\nc");
        assert_eq!((&json["level"], &json["left_out"]), (&"info".into(), &2.into()));
        assert_eq!(json["request_id"], "r\n1");
    }

    #[test]
    fn a_place_that_repeats_itself_is_cut_short() {
        let mut repeats = Repeats::default();
        let said = (0..100).filter(|_| repeats.turn(("here", 1)).is_some()).count();
        assert_eq!(said, REPEATS_MAX as usize);
        assert_eq!(repeats.turn(("there", 1)), Some(0), "others are heard");
        repeats.0.get_mut(&("here", 1)).unwrap().since -= WINDOW;
        assert_eq!(repeats.turn(("here", 1)), Some(80));
    }
}
