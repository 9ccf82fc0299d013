//! `engram top`: what a server does, as a page that fits a terminal of 80 columns.
//!
//! *Invariants*: everything shown is a difference of two scrapes of `/metrics`, or the newer one; a
//! line has at most 80 characters.
//!
//! *Not here*: reading metrics (`crate::scrape`).

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use super::output;
use crate::client::Client;
use crate::failure::Failure;
use crate::scrape::Scrape;
use crate::target::Target;
use crate::units;

/// Lines above the table of shards, and its head.
const HEAD_LINES: usize = 11;
/// Rows of the table where the terminal does not say how high it is.
const USUAL_ROWS: usize = 24;
/// Moves to the top left and clears what is below: the page is drawn over the one before.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Shows what a server does, again and again.
#[derive(Debug, Args)]
pub struct Top {
    /// One page, and no more
    #[arg(long)]
    once: bool,
    /// Time between two pages, over which rates and latencies are taken
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = units::duration)]
    interval: Duration,
    #[command(flatten)]
    target: Target,
}

impl Top {
    /// Shows pages until it is interrupted.
    ///
    /// # Errors
    /// Where the server can't be reached.
    pub fn run(self) -> Result<(), Failure> {
        let mut client = self.target.connect();
        let address = self.target.server().to_string();
        let draws = !self.once && std::io::stdout().is_terminal();
        let mut before = scrape(&mut client)?;
        loop {
            std::thread::sleep(self.interval);
            let now = scrape(&mut client)?;
            let rows = if draws { rows_of_terminal() } else { usize::MAX };
            let page = page(&address, &before, &now, rows);
            output::text_as_it_is(&if draws { format!("{REDRAW}{page}") } else { page })?;
            if self.once {
                return Ok(());
            }
            before = now;
        }
    }
}

fn scrape(client: &mut Client) -> Result<Scrape, Failure> {
    let reply = client.get("/metrics")?;
    Ok(Scrape::read(&String::from_utf8_lossy(&reply.body)))
}

fn rows_of_terminal() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.map_or(USUAL_ROWS, |size| usize::from(size.ws_row).max(HEAD_LINES + 2))
}

/// The whole page, of at most so many rows.
fn page(address: &str, before: &Scrape, now: &Scrape, rows: usize) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        let text: String = text.chars().take(80).collect();
        page.push_str(text.trim_end());
        page.push('\n');
    };
    let sum = |name: &str| now.sum(name, &[]);
    let rate = |name: &str| now.rate(before, name, &[]);
    line(format!(
        "engram {} at {address}: {}, up {}",
        now.label("engram_build_info", "version").unwrap_or("?"),
        now.label("engram_phase", "phase").unwrap_or("?"),
        units::duration_text(uptime(now))
    ));
    line(String::new());
    let http = "engram_http_requests_total";
    let bad = |class| now.rate(before, http, &[("status", class)]);
    line(format!(
        "requests    {:>9}/s  4xx {:>5}/s  5xx {:>5}/s  under way {:>4}  clients {:>5}",
        short(rate(http)),
        short(bad("4xx")),
        short(bad("5xx")),
        short(sum("engram_http_requests_in_flight")),
        short(sum("engram_http_connections")),
    ));
    let latency = "engram_http_request_duration_seconds";
    line(format!("latency     {}", quantiles(before, now, latency, &[])));
    line(format!("recalls     {}", quantiles(before, now, "engram_recall_duration_seconds", &[])));
    line(format!("  P99       {}", phases(before, now)));
    let part = |part| bytes(now.sum("engram_memory_bytes", &[("part", part)]));
    line(format!(
        "memory      {:>9} resident, {} cache, limit {}",
        part("resident"),
        part("record_cache"),
        part("limit")
    ));
    let sync = "engram_log_sync_duration_seconds";
    line(format!(
        "log         {:>9}  {} records/s  {}/s  sync {}",
        bytes(sum("engram_log_bytes")),
        short(rate("engram_log_records_total")),
        bytes(rate("engram_log_written_bytes_total")),
        quantiles(before, now, sync, &[]),
    ));
    line(format!(
        "data        {:>9} memories  {} links  to index {}  to associate {}",
        short(sum("engram_memories")),
        short(sum("engram_links")),
        short(sum("engram_index_backlog")),
        short(sum("engram_association_backlog")),
    ));
    line(String::new());
    line("shard   CPU %    ops/s  messages/s  mailbox  memories   links  cache %      log".into());
    for row in shards(before, now, rows.saturating_sub(HEAD_LINES)) {
        line(row);
    }
    page
}

fn uptime(now: &Scrape) -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let started = now.sum("process_start_time_seconds", &[]);
    let seconds = since.unwrap_or_default().as_secs_f64() - started;
    Duration::from_secs(seconds.max(0.0) as u64)
}

/// One row for each shard, the busiest first where there are too many.
fn shards(before: &Scrape, now: &Scrape, rows_max: usize) -> Vec<String> {
    let cpu = |shard: &str| {
        100.0 * now.rate(before, "engram_shard_cpu_seconds_total", &[("shard", shard)])
    };
    let mut names = now.labels("engram_shard_requests_total", "shard");
    let left_out = names.len().saturating_sub(rows_max);
    if left_out > 0 {
        names.sort_by(|a, b| cpu(b).total_cmp(&cpu(a)));
        names.truncate(rows_max.saturating_sub(1));
    }
    let shown = names.len();
    let mut rows: Vec<String> =
        names.into_iter().map(|shard| row(before, now, shard, cpu(shard))).collect();
    if left_out > 0 {
        let all = now.labels("engram_shard_requests_total", "shard").len();
        rows.push(format!("{:>5}   and {} shards with less to do", "", all - shown));
    }
    rows
}

fn row(before: &Scrape, now: &Scrape, shard: &str, cpu: f64) -> String {
    let of = [("shard", shard)];
    let rate = |name: &str| now.rate(before, name, &of);
    let (hits, misses) =
        (rate("engram_record_cache_hits_total"), rate("engram_record_cache_misses_total"));
    let hit_rate = match hits + misses {
        0.0 => "-".to_owned(),
        all => format!("{:.1}", 100.0 * hits / all),
    };
    format!(
        "{shard:>5}   {cpu:>5.1}  {:>7}  {:>10}  {:>7}  {:>8}  {:>6}  {hit_rate:>7}  {:>7}",
        short(rate("engram_shard_requests_total")),
        short(rate("engram_envelopes_total")),
        short(now.sum("engram_mailbox_envelopes", &of)),
        short(now.sum("engram_memories", &of)),
        short(now.sum("engram_links", &of)),
        bytes(now.sum("engram_log_bytes", &of)),
    )
}

fn quantiles(before: &Scrape, now: &Scrape, name: &str, labels: &[(&str, &str)]) -> String {
    let quantile = |q| time(now.quantile(before, name, labels, q));
    format!("P50 {}  P99 {}", quantile(0.5), quantile(0.99))
}

fn phases(before: &Scrape, now: &Scrape) -> String {
    let name = "engram_recall_phase_duration_seconds";
    let mut text = String::new();
    for phase in engram_shards::RECALL_PHASES {
        if let Some(p99) = now.quantile(before, name, &[("phase", phase)], 0.99) {
            write!(text, "{phase} {}  ", time(Some(p99))).expect("writing to a string never fails");
        }
    }
    text
}

/// A time in the unit in which it is short.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// A number in at most six characters.
fn short(number: f64) -> String {
    match number {
        n if n < 10.0 && n.fract() > 0.0 => format!("{n:.1}"),
        n if n < 100_000.0 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.0}k", n / 1e3),
        n if n < 1e9 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

fn bytes(number: f64) -> String {
    match number {
        n if n < 1024.0 => format!("{n:.0} B"),
        n if n < 1_048_576.0 => format!("{:.0} K", n / 1024.0),
        n if n < 1_073_741_824.0 => format!("{:.0} M", n / 1_048_576.0),
        n => format!("{:.1} G", n / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fits_80_columns_and_the_rows_that_there_are() {
        let shards: String = (0..200)
            .map(|shard| {
                format!(
                    "engram_shard_requests_total{{shard=\"{shard}\"}} 123456789012\n\
                     engram_memories{{shard=\"{shard}\"}} 123456789012\n\
                     engram_log_bytes{{shard=\"{shard}\"}} 1234567890123456\n\
                     engram_mailbox_envelopes{{shard=\"{shard}\"}} 4096\n"
                )
            })
            .collect();
        let (before, now) = (Scrape::read(""), Scrape::read(&shards));
        let page =
            page("http://a-host-with-a-rather-long-name.example.org:8080", &before, &now, 24);
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        assert_eq!(page.lines().count(), 24, "{page}");
        assert!(page.contains("and 188 shards"), "{page}");
    }
}
