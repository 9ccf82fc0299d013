//! How far long work has come: a bar on a terminal, a line every few seconds elsewhere.
//!
//! *Invariants*: everything goes to standard error; nothing is drawn where `--quiet` asked so.
//!
//! *Not here*: results, which go to standard output.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const REDRAW: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(5);
const BAR_CELLS: usize = 30;

/// Progress of one piece of work.
pub struct Progress {
    noun: &'static str,
    started: Instant,
    drawn: Option<Instant>,
    style: Style,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Bar,
    Lines,
    Silent,
}

impl Progress {
    /// Starts; `noun` is what is counted, in the plural.
    pub fn new(noun: &'static str, quiet: bool) -> Self {
        let style = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Style::Silent,
            (false, true) => Style::Bar,
            (false, false) => Style::Lines,
        };
        Self { noun, started: Instant::now(), drawn: None, style }
    }

    /// Shows where the work is, if it is time to; `share` is 0 to 1 where the end is known.
    pub fn show(&mut self, count: u64, share: Option<f64>) {
        let pause = if self.style == Style::Bar { REDRAW } else { LINE };
        let last = self.drawn.unwrap_or(self.started);
        if self.style == Style::Silent || last.elapsed() < pause {
            return;
        }
        self.drawn = Some(Instant::now());
        let text = self.text(count, share);
        let mut stderr = std::io::stderr().lock();
        // Progress that nobody can read any more is no reason to fail.
        let _ignored = match self.style {
            Style::Bar => write!(stderr, "\r\x1b[K{text}"),
            Style::Lines | Style::Silent => writeln!(stderr, "{text}"),
        };
    }

    /// Clears the bar and returns how long the work took.
    pub fn finish(self) -> Duration {
        if self.style == Style::Bar && self.drawn.is_some() {
            let _ignored = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
        self.started.elapsed()
    }

    fn text(&self, count: u64, share: Option<f64>) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = count as f64 / elapsed.max(1e-9);
        let counted = format!("{count} {}, {rate:.0}/s", self.noun);
        let Some(share) = share else { return counted };
        let left = if share > 0.01 { elapsed / share - elapsed } else { f64::NAN };
        let left = if left.is_finite() { format!(", {left:.0} s left") } else { String::new() };
        match self.style {
            Style::Bar => format!("{} {:3.0} % {counted}{left}", bar(share), share * 100.0),
            Style::Lines | Style::Silent => format!("{:.0} %, {counted}{left}", share * 100.0),
        }
    }
}

fn bar(share: f64) -> String {
    let full = ((share.clamp(0.0, 1.0) * BAR_CELLS as f64) as usize).min(BAR_CELLS);
    format!("{}{}", "█".repeat(full), "░".repeat(BAR_CELLS - full))
}
