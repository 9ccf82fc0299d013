//! The variables of OpenTelemetry that concern traces.
//!
//! *Invariants*: a name means what the specification of OpenTelemetry says; what is not understood
//! is said, not guessed.
//!
//! *Not here*: settings of Engram's own (`arguments`).

use std::time::Duration;

use engram_net::trace::{Root, Sampler};

use crate::failure::Failure;

/// How and where traces are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// URL that batches are posted to.
    pub endpoint: String,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// How long one post may take.
    pub timeout: Duration,
    /// How long a batch gathers.
    pub delay: Duration,
    /// What sends the traces.
    pub resource: Vec<(String, String)>,
    /// Which requests are traced.
    pub sampler: Sampler,
}

impl Settings {
    /// Reads them; `None` where nobody asks for traces.
    ///
    /// # Errors
    /// Where a value is not one that the specification allows, or that is spoken here.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |last: &str| {
            variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{last}"))
                .or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{last}")))
        };
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let exporter = variable("OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".to_owned());
        let endpoint = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            let base = variable("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some(format!("{}/v1/traces", base.trim_end_matches('/')))
        });
        let Some(endpoint) = endpoint.filter(|_| !is_off && exporter != "none") else {
            return Ok(None);
        };
        if exporter != "otlp" {
            return Err(unknown("OTEL_TRACES_EXPORTER", &exporter, "otlp or none"));
        }
        if let Some(protocol) = either("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
            return Err(unknown("OTEL_EXPORTER_OTLP_PROTOCOL", &protocol, "http/protobuf"));
        }
        let timeout = milliseconds(either("TIMEOUT"), "OTEL_EXPORTER_OTLP_TIMEOUT", 10_000)?;
        let name = "OTEL_BSP_SCHEDULE_DELAY";
        let mut resource = pairs(&variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        if let Some(service) = variable("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), service));
        } else if !resource.iter().any(|(key, _)| key == "service.name") {
            resource.push(("service.name".to_owned(), "engram".to_owned()));
        }
        Ok(Some(Self {
            endpoint,
            headers: pairs(&either("HEADERS").unwrap_or_default()),
            timeout,
            delay: milliseconds(variable(name), name, 5000)?,
            resource,
            sampler: sampler(
                variable("OTEL_TRACES_SAMPLER").as_deref(),
                variable("OTEL_TRACES_SAMPLER_ARG").as_deref(),
            )?,
        }))
    }
}

fn unknown(name: &str, value: &str, expected: &str) -> Failure {
    Failure::usage(format!("{name} is `{value}`")).with_hint(format!("expected {expected}"))
}

fn milliseconds(value: Option<String>, name: &str, usual: u64) -> Result<Duration, Failure> {
    let Some(value) = value else { return Ok(Duration::from_millis(usual)) };
    let parsed = value.parse().ok().filter(|ms| (1..=600_000).contains(ms));
    parsed.map(Duration::from_millis).ok_or_else(|| unknown(name, &value, "1 to 600000 ms"))
}

fn sampler(name: Option<&str>, argument: Option<&str>) -> Result<Sampler, Failure> {
    let name = name.unwrap_or("parentbased_always_on");
    let (parent_based, rest) = match name.strip_prefix("parentbased_") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    let root = match rest {
        "always_on" => Root::On,
        "always_off" => Root::Off,
        "traceidratio" => Root::Ratio(share(argument.unwrap_or("1"))?),
        _ => {
            let expected = "always_on, always_off or traceidratio, with or without parentbased_";
            return Err(unknown("OTEL_TRACES_SAMPLER", name, expected));
        }
    };
    Ok(Sampler { parent_based, root })
}

fn share(text: &str) -> Result<f64, Failure> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| unknown("OTEL_TRACES_SAMPLER_ARG", text, "0 to 1"))
}

/// `key=value,key=value` with percent-encoded values.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), decoded(value.trim()))).collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, Failure> {
        Settings::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nobody_is_traced_unless_there_is_an_endpoint() {
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        for variables in [
            &[][..],
            &[at, ("OTEL_SDK_DISABLED", "true")],
            &[at, ("OTEL_TRACES_EXPORTER", "none")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        ] {
            assert_eq!(read(variables).unwrap(), None, "{variables:?}");
        }
    }

    #[test]
    fn the_usual_variables_are_understood() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,host.name=h"),
            ("OTEL_SERVICE_NAME", "mine"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
        ]);
        let settings = settings.unwrap().unwrap();
        assert_eq!(settings.endpoint, "http://c:4318/v1/traces");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(settings.headers, [pair("api-key", "a b"), pair("x", "1")]);
        assert_eq!(settings.resource, [pair("host.name", "h"), pair("service.name", "mine")]);
        assert_eq!(settings.sampler, Sampler { parent_based: true, root: Root::Ratio(0.01) });
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        for wrong in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ] {
            let failure = read(&[at, wrong]).unwrap_err().to_string();
            assert!(failure.contains(wrong.0), "{failure}");
        }
    }
}
