//! Histograms in the formats of HdrHistogram's tools: `.hgrm` (percentiles) and `.hlog` (intervals).
//!
//! *Invariants*: values are nanoseconds inside and microseconds in `.hgrm`, milliseconds in the
//! readable column of `.hlog`, as those tools do it.
//!
//! *Not here*: pictures (`plot`).

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use crate::outcome::Outcome;

const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// The percentile distribution as text, in microseconds.
pub fn hgrm(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = micros(step.value_iterated_to());
        let _ = write!(text, "{value:12.3} {quantile:2.12} {total:10}");
        if quantile < 1.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let mean = histogram.mean() / 1e3;
    let deviation = histogram.stdev() / 1e3;
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let max = micros(histogram.max());
    let count = histogram.len();
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    let buckets = histogram.buckets();
    let _ = writeln!(text, "#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 2048);
    text
}

/// Nanoseconds as microseconds.
pub fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// The time line as an interval log.
///
/// # Errors
/// Where a histogram can't be encoded.
pub fn hlog(outcome: &Outcome, began: SystemTime, comment: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment(comment)
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(1e6);
    let mut log = builder.begin_log_with(&mut bytes, &mut serializer).map_err(io::Error::other)?;
    for interval in &outcome.intervals {
        let from = Duration::from_secs_f64(interval.number as f64 * outcome.interval_s);
        let length = Duration::from_secs_f64(outcome.interval_s);
        log.write_histogram(&interval.latency, from, length, None)
            .map_err(|e| io::Error::other(format!("an interval can't be encoded: {e:?}")))?;
    }
    drop(log);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_file_ends_at_the_maximum() {
        let mut histogram = crate::outcome::histogram();
        for us in 1..=1000 {
            histogram.record(us * 1000).unwrap();
        }
        let text = hgrm(&histogram);
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
        let row = text.lines().find(|line| line.contains(" 0.500000000000")).unwrap();
        assert!(row.trim_start().starts_with("500."), "{row}");
        assert!(text.contains("Total count    =         1000]"));
    }
}
