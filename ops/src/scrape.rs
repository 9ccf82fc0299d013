//! Reads metrics as a server exposes them, and what changed between two readings.
//!
//! *Invariants*: what is missing counts as nothing, so that servers of other versions can be read.
//!
//! *Not here*: which metrics there are (`metrics`).

use std::collections::BTreeMap;
use std::time::Instant;

/// One reading of all metrics.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// When.
    pub at: Instant,
    samples: BTreeMap<String, Vec<Sample>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    fn fits(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == Some(value))
    }
}

impl Scrape {
    /// Reads the text format of Prometheus.
    pub fn read(text: &str) -> Self {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = read_sample(line) {
                samples.entry(name.to_owned()).or_default().push(sample);
            }
        }
        Self { at: Instant::now(), samples }
    }

    fn of(&self, name: &str) -> &[Sample] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// The sum of the samples that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name).iter().filter(|sample| sample.fits(labels)).map(|sample| sample.value).sum()
    }

    /// The value of a label on the first sample that is not zero.
    pub fn label(&self, name: &str, label: &str) -> Option<&str> {
        self.of(name).iter().find(|sample| sample.value != 0.0)?.label(label)
    }

    /// Every value of a label.
    pub fn labels(&self, name: &str, label: &str) -> Vec<&str> {
        self.of(name).iter().filter_map(|sample| sample.label(label)).collect()
    }

    /// What a counter grew by for each second since `before`.
    pub fn rate(&self, before: &Self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64().max(1e-9);
        (self.sum(name, labels) - before.sum(name, labels)).max(0.0) / seconds
    }

    /// The quantile of what a histogram saw since `before`, between the bounds of its bucket;
    /// `None` where it saw nothing.
    pub fn quantile(
        &self,
        before: &Self,
        name: &str,
        labels: &[(&str, &str)],
        quantile: f64,
    ) -> Option<f64> {
        let (now, then) = (self.buckets(name, labels), before.buckets(name, labels));
        let grown = |(bound, count): (&u64, &f64)| {
            let bound = f64::from_bits(*bound);
            let earlier = then.get(&bound.to_bits()).copied().unwrap_or(0.0);
            (bound, (count - earlier).max(0.0))
        };
        let buckets: Vec<(f64, f64)> = now.iter().map(grown).collect();
        let all = buckets.last().filter(|(_, count)| *count > 0.0)?.1;
        let wanted = quantile * all;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= wanted {
                let share = (wanted - below) / (count - below).max(1e-9);
                return Some(if bound.is_finite() {
                    lower + (bound - lower) * share
                } else {
                    lower
                });
            }
            (below, lower) = (count, bound);
        }
        None
    }

    /// Cumulated counts by upper bound, over all samples with these labels. Bounds are kept as bits,
    /// which are ordered like the numbers, since none is negative.
    fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> BTreeMap<u64, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(&format!("{name}_bucket")).iter().filter(|s| s.fits(labels)) {
            let bound: Option<f64> = sample.label("le").and_then(|bound| bound.parse().ok());
            if let Some(bound) = bound {
                *sums.entry(bound.to_bits()).or_insert(0.0) += sample.value;
            }
        }
        sums
    }
}

/// `name{label="value",…} number`
fn read_sample(line: &str) -> Option<(&str, Sample)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series, Sample { labels: Vec::new(), value }));
    };
    let mut rest = labels.strip_suffix('}')?;
    let mut read = Vec::new();
    while let Some((label, after)) = rest.split_once("=\"") {
        let end = end_of_value(after)?;
        let text = after[..end].replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\");
        read.push((label.trim_start_matches(',').to_owned(), text));
        rest = &after[end + 1..];
    }
    Some((name, Sample { labels: read, value }))
}

fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a Some help.\n# TYPE a counter\na{b=\"x\\\"}\",c=\"1\"} 3\na{b=\"y\"} 4\n\
        plain 0.5\nh_bucket{le=\"0.001\"} 50\nh_bucket{le=\"0.002\"} 100\nh_bucket{le=\"+Inf\"} 100\n";

    #[test]
    fn samples_are_read_with_their_labels() {
        let scrape = Scrape::read(TEXT);
        assert_eq!(scrape.sum("a", &[]), 7.0);
        assert_eq!(scrape.sum("a", &[("b", "x\"}")]), 3.0);
        assert_eq!(scrape.sum("plain", &[]), 0.5);
        assert_eq!(scrape.labels("a", "b"), ["x\"}", "y"]);
        assert_eq!(scrape.sum("missing", &[]), 0.0);
    }

    #[test]
    fn quantiles_lie_between_the_bounds_of_their_bucket() {
        let (none, scrape) = (Scrape::read(""), Scrape::read(TEXT));
        let quantile = |quantile| scrape.quantile(&none, "h", &[], quantile);
        assert_eq!(quantile(0.5), Some(0.001));
        assert_eq!(quantile(0.75), Some(0.0015));
        assert_eq!(scrape.quantile(&scrape, "h", &[], 0.5), None, "nothing since then");
    }
}
