//! Durations and sizes as people write them.
//!
//! *Invariants*: a number without a unit is refused where its unit is not evident.
//!
//! *Not here*: which settings have which unit (`commands`).

use std::time::Duration;

/// Reads a duration such as `25s`, `500ms`, `2m` or `1h`.
///
/// # Errors
/// One sentence about what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is no duration such as 25s, 500ms, 2m or 1h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` has no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| format!("`{text}`: {error}"))
}

/// Reads a size in bytes such as `512MiB`, `8GiB`, `8G` or `1073741824`.
///
/// # Errors
/// One sentence about what is expected.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.trim_end_matches("iB").trim_end_matches('i') {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("`{text}` is no size such as 512MiB, 8GiB or 1073741824")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` has no number"))?;
    let bytes = number * (1_u64 << shift) as f64;
    if (1.0..9e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(format!("`{text}` is out of range"))
    }
}

/// A duration as [`duration`] reads it.
pub fn duration_text(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_they_are_written() {
        assert_eq!(duration("25s"), Ok(Duration::from_secs(25)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("25").is_err());
        assert_eq!(bytes("8GiB"), Ok(8 << 30));
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("4096"), Ok(4096));
        assert!(bytes("eight").is_err() && bytes("1XB").is_err() && bytes("0").is_err());
    }
}
