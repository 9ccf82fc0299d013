//! The server's log on standard error: a line for each event, as text or as JSON.
//!
//! *Invariants*: one event is one line, whatever it contains; a line is written by one call.
//!
//! *Not here*: results of commands, which go to standard output.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use log::{LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::macros::format_description;

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

struct Logger {
    format: Format,
}

/// The format where nobody chose one.
pub fn default_format() -> Format {
    if std::io::stderr().is_terminal() { Format::Text } else { Format::Json }
}

/// Starts to log; a second call changes nothing but the level.
pub fn start(level: Level, format: Format) {
    if log::set_boxed_logger(Box::new(Logger { format })).is_ok() || level != Level::Off {
        log::set_max_level(level.filter());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates tell their developers something; glommio calls the cure of its probe an error.
        metadata.target().starts_with("engram") || log::max_level() >= LevelFilter::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(self.format, &now(), record);
            // A log that can't be written can't be told about in the log.
            let _ignored = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn now() -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

fn line(format: Format, now: &str, record: &Record<'_>) -> String {
    let level = record.level().as_str().to_lowercase();
    let message = record.args().to_string();
    match format {
        Format::Text => format!("{now} {level:5} {}\n", message.replace('\n', " ")),
        Format::Json => {
            let event = serde_json::json!({
                "time": now, "level": level, "target": record.target(), "message": message,
            });
            format!("{event}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let arguments = format_args!("a \"b\"\nc");
        let record = Record::builder().args(arguments).level(log::Level::Info).target("t").build();
        let text = line(Format::Text, "T", &record);
        assert_eq!(text, "T info  a \"b\" c\n");
        let json: serde_json::Value =
            serde_json::from_str(&line(Format::Json, "T", &record)).unwrap();
        assert_eq!(json["message"], "a \"b\"\nc");
        assert_eq!(json["level"], "info");
    }
}
