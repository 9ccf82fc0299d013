//! Pictures as SVG text: percentiles of latency, and latency over time.
//!
//! *Invariants*: no script, no font file, no link: a picture can stand in any page.
//!
//! *Not here*: the page round it (`report`).

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use crate::outcome::Outcome;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 45.0;
const COLOURS: [&str; 8] =
    ["#0b6fb8", "#c8401e", "#2d8a3e", "#8646a8", "#a87b00", "#00838a", "#b0286f", "#555555"];

/// A line with its name.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Latency by percentile, one line for each named histogram; both axes are logarithmic.
pub fn percentiles(histograms: &[(String, Histogram<u64>)]) -> String {
    let series: Vec<Series> = histograms.iter().map(|(name, h)| percentile_line(name, h)).collect();
    let marks: Vec<(f64, String)> =
        (0..=6).map(|nines| (f64::from(nines), percentile_name(nines))).collect();
    Picture::of("Latency by percentile", &series, marks, "percentile").to_svg()
}

fn percentile_name(nines: i32) -> String {
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        nines => format!("99.{} %", "9".repeat(nines as usize - 2)),
    }
}

fn percentile_line(name: &str, histogram: &Histogram<u64>) -> Series {
    let points = histogram
        .iter_quantiles(8)
        .map(|step| (step.quantile_iterated_to(), step.value_iterated_to()))
        .filter(|(quantile, _)| *quantile < 1.0)
        .map(|(quantile, ns)| (-(1.0 - quantile).log10(), ns as f64 / 1e3))
        .collect();
    Series { name: name.to_owned(), points }
}

/// Latency over the time of a run: median, 99th percentile and maximum of each interval.
pub fn time_line(title: &str, outcome: &Outcome) -> String {
    let line = |name: &str, value: &dyn Fn(&Histogram<u64>) -> u64| Series {
        name: name.to_owned(),
        points: outcome
            .intervals
            .iter()
            .filter(|interval| !interval.latency.is_empty())
            .map(|interval| {
                let at_s = interval.number as f64 * outcome.interval_s;
                (at_s, value(&interval.latency) as f64 / 1e3)
            })
            .collect(),
    };
    let series = [
        line("P50", &|h| h.value_at_quantile(0.5)),
        line("P99", &|h| h.value_at_quantile(0.99)),
        line("max", &|h| h.max()),
    ];
    let end_s = series[0].points.last().map_or(1.0, |(at, _)| at.max(outcome.interval_s));
    let marks =
        (0..=5).map(|n| f64::from(n) * end_s / 5.0).map(|s| (s, format!("{s:.1}"))).collect();
    Picture::of(title, &series, marks, "seconds since the warm-up").to_svg()
}

struct Picture<'a> {
    title: String,
    series: &'a [Series],
    marks: Vec<(f64, String)>,
    x_name: String,
    x_max: f64,
    /// Decades of microseconds.
    y_from: f64,
    y_to: f64,
}

impl<'a> Picture<'a> {
    fn of(title: &str, series: &'a [Series], marks: Vec<(f64, String)>, x_name: &str) -> Self {
        let points = || series.iter().flat_map(|line| &line.points);
        let x_max = points().map(|(x, _)| *x).fold(1.0, f64::max);
        let lowest = points().map(|(_, y)| *y).fold(f64::MAX, f64::min).max(0.1);
        let highest = points().map(|(_, y)| *y).fold(1.0, f64::max);
        let y_from = lowest.min(highest).log10().floor();
        Self {
            title: title.to_owned(),
            series,
            marks,
            x_name: x_name.to_owned(),
            x_max,
            y_from,
            y_to: highest.log10().ceil().max(y_from + 1.0),
        }
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + x / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, us: f64) -> f64 {
        let share = (us.max(0.1).log10() - self.y_from) / (self.y_to - self.y_from);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn to_svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let title = escape(&self.title);
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{title}</text>");
        self.draw_axes(&mut svg);
        for (number, line) in self.series.iter().enumerate() {
            self.draw_line(number, line, &mut svg);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, svg: &mut String) {
        let (x_end, y_end) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut us = 10_f64.powf(self.y_from);
        while us <= 10_f64.powf(self.y_to) * 1.001 {
            let (y, name) = (self.y(us), time_name(us));
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{x_end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                LEFT - 6.0,
                y + 4.0
            );
            us *= 10.0;
        }
        for (at, name) in self.marks.iter().filter(|(at, _)| *at <= self.x_max * 1.001) {
            let x = self.x(*at);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{y_end}\" stroke=\"#eee\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
                y_end + 16.0
            );
        }
        let (x, y) = ((LEFT + x_end) / 2.0, HEIGHT - 8.0);
        let name = escape(&self.x_name);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{name}</text>");
    }

    fn draw_line(&self, number: usize, line: &Series, svg: &mut String) {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", self.x(*x), self.y(*y)))
            .collect();
        let y = TOP + 8.0 + 16.0 * number as f64;
        let x = WIDTH - RIGHT + 10.0;
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>\
             <text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>",
            points.join(" "),
            escape(&line.name)
        );
    }
}

fn time_name(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us} µs"),
        us if us < 1e6 => format!("{} ms", us / 1e3),
        us => format!("{} s", us / 1e6),
    }
}

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_well_formed_and_within_its_frame() {
        let mut histogram = crate::outcome::histogram();
        (1..10_000).for_each(|us| histogram.record(us * 1000).unwrap());
        let svg = percentiles(&[("a < b".to_owned(), histogram)]);
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{point}");
        }
    }
}
