//! Metrics as text: the Prometheus format and OpenMetrics from the same calls.
//!
//! *Invariants*: a family is announced once, before its samples; label values are escaped.
//!
//! *Not here*: what is counted (`metrics`), which of the two formats a client gets (`routes`).

use std::fmt::{Display, Write};

use engram_platform::meter::Seen;

/// Which text format is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text exposition format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// What a family of samples is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// Writes families of samples.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    format: Format,
}

impl Exposition {
    /// Nothing written yet.
    pub fn new(format: Format) -> Self {
        Self { text: String::with_capacity(16 << 10), format }
    }

    /// Announces a family; its samples follow.
    pub fn family(&mut self, kind: Kind, name: &str, help: &str) {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let announced = match self.format {
            Format::Prometheus => name,
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.put(format_args!("# HELP {announced} {help}\n# TYPE {announced} {kind}\n"));
    }

    /// Writes one sample; for a histogram `name` carries `_bucket`, `_sum` or `_count`.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        let mut separator = '{';
        for (label, text) in labels {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(label);
            self.text.push_str("=\"");
            self.escaped(text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    /// Writes the samples of one histogram whose values are in units of which `per_unit` make one
    /// of the metric's.
    #[allow(clippy::cast_precision_loss, reason = "exact to 2^53")]
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], seen: &Seen, per_unit: f64) {
        let bucket = format!("{name}_bucket");
        let bounds = seen.cumulated().map(|(bound, below)| (bound as f64 / per_unit, below));
        for (bound, below) in bounds.chain([(f64::INFINITY, seen.count())]) {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let labels: Vec<(&str, &str)> =
                labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, seen.sum() as f64 / per_unit);
        self.sample(&format!("{name}_count"), labels, seen.count());
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, kind: Kind, name: &str, help: &str, value: impl Display) {
        self.family(kind, name, help);
        self.sample(name, &[], value);
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        match self.format {
            Format::Prometheus => {}
            Format::OpenMetrics => self.text.push_str("# EOF\n"),
        }
        self.text
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }

    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text.write_fmt(arguments).expect("writing to a string never fails");
    }
}
