//! Objects in a bucket of S3, or of a server that speaks its protocol.
//!
//! *Invariants*: an object is written only where there is none (`If-None-Match: *`); a request ends
//! within its timeout; a redirection is not followed.
//!
//! *Not here*: retries and limits (`tier`).

mod credentials;
mod sign;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::tls::{Certificate, PemItem, parse_pem};
use ureq::{Agent, Body};

use crate::error::ColdError;
use crate::tier::{Object, Put};
use crate::tls;
use credentials::Credentials;
pub use credentials::Variables;
use sign::{Unsigned, encoded, sign};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Longest explanation of an error that is shown.
const REASON_BYTES_MAX: usize = 300;

/// A bucket, and what every name in it starts with.
#[derive(Debug)]
pub struct Bucket {
    agent: Agent,
    scheme: String,
    host: String,
    /// In front of the names of objects, encoded, with slashes at both ends.
    path: String,
    /// The path of the bucket itself.
    bucket_path: String,
    prefix: String,
    region: String,
    credentials: Mutex<Credentials>,
    variables: Variables,
}

impl Bucket {
    /// Reads endpoint, region and credentials from the variables.
    pub fn new(
        bucket: &str,
        prefix: &str,
        timeout: Duration,
        variables: Variables,
    ) -> Result<Self, ColdError> {
        let variable = |name: &str| variables.get(name);
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
        let (scheme, host, bucket_path) = match endpoint {
            Some(endpoint) => {
                let (scheme, host) = parts_of(&endpoint)?;
                (scheme, host, format!("/{bucket}"))
            }
            // A name with dots does not fit the certificate of `*.s3.region.amazonaws.com`.
            None if bucket.contains('.') => {
                ("https".to_owned(), format!("s3.{region}.amazonaws.com"), format!("/{bucket}"))
            }
            None => {
                let host = format!("{bucket}.s3.{region}.amazonaws.com");
                ("https".to_owned(), host, String::new())
            }
        };
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let path = format!("{bucket_path}/{}", encoded(&prefix, true));
        let bucket_path = if bucket_path.is_empty() { "/".to_owned() } else { bucket_path };
        let credentials = Mutex::new(Credentials::find(&variables)?);
        let agent = agent(timeout, variable("AWS_CA_BUNDLE"))?;
        Ok(Self { agent, scheme, host, path, bucket_path, prefix, region, credentials, variables })
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, ColdError> {
        let headers = [("if-none-match", "*".to_owned())];
        let path = self.path_of(name);
        let answer = self.send(Method::PUT, &path, "", &headers, bytes)?;
        match answer.status() {
            StatusCode::PRECONDITION_FAILED => Ok(Put::Exists),
            // Another write of the same name is under way.
            StatusCode::CONFLICT => Err(ColdError::Unreachable(reason(answer, name))),
            status if status.is_success() => Ok(Put::Created),
            _ => Err(failure(answer, name)),
        }
    }

    pub fn get(&self, name: &str) -> Result<Vec<u8>, ColdError> {
        let path = self.path_of(name);
        let answer = self.send(Method::GET, &path, "", &[], &[])?;
        match answer.status() {
            StatusCode::OK => read_whole(answer, name),
            _ => Err(failure(answer, name)),
        }
    }

    pub fn get_range(&self, name: &str, offset: u64, bytes: usize) -> Result<Vec<u8>, ColdError> {
        let last = offset + (bytes as u64).max(1) - 1;
        let headers = [("range", format!("bytes={offset}-{last}"))];
        let path = self.path_of(name);
        let answer = self.send(Method::GET, &path, "", &headers, &[])?;
        let read = match answer.status() {
            StatusCode::PARTIAL_CONTENT => read_whole(answer, name)?,
            _ => return Err(failure(answer, name)),
        };
        if read.len() == bytes {
            return Ok(read);
        }
        Err(ColdError::NotFound(format!("{name}: it has {} of {bytes} bytes there", read.len())))
    }

    pub fn list(&self, prefix: &str) -> Result<Vec<Object>, ColdError> {
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        let whole_prefix = encoded(&format!("{}{prefix}", self.prefix), false);
        loop {
            let more = token.as_ref().map(|t| format!("continuation-token={}&", encoded(t, false)));
            let more = more.unwrap_or_default();
            let query = format!("{more}list-type=2&prefix={whole_prefix}");
            let answer = self.send(Method::GET, &self.bucket_path, &query, &[], &[])?;
            if answer.status() != StatusCode::OK {
                return Err(failure(answer, "the list of objects"));
            }
            let text =
                String::from_utf8_lossy(&read_whole(answer, "the list of objects")?).into_owned();
            for contents in elements(&text, "Contents") {
                objects.extend(self.object_of(contents));
            }
            token = elements(&text, "NextContinuationToken").next().map(unescaped);
            if token.is_none() {
                return Ok(objects);
            }
        }
    }

    fn object_of(&self, contents: &str) -> Option<Object> {
        let key = unescaped(elements(contents, "Key").next()?);
        let bytes = elements(contents, "Size").next()?.trim().parse().ok()?;
        let name = key.strip_prefix(&self.prefix)?.to_owned();
        Some(Object { name, bytes })
    }

    pub fn delete(&self, name: &str) -> Result<(), ColdError> {
        let path = self.path_of(name);
        let answer = self.send(Method::DELETE, &path, "", &[], &[])?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(failure(answer, name)),
        }
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}{}", self.path, encoded(name, true))
    }

    /// Sends a request; where it is refused and the credentials have changed, once more.
    fn send(
        &self,
        method: Method,
        path: &str,
        query: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<Response<Body>, ColdError> {
        let used = self.credentials();
        let answer = self.send_as(&used, method.clone(), path, query, headers, body)?;
        if !matches!(answer.status(), StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            return Ok(answer);
        }
        match Credentials::find(&self.variables) {
            Ok(found) if found != used => {
                *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = found.clone();
                self.send_as(&found, method, path, query, headers, body)
            }
            Ok(_) | Err(_) => Ok(answer),
        }
    }

    fn credentials(&self) -> Credentials {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send_as(
        &self,
        credentials: &Credentials,
        method: Method,
        path: &str,
        query: &str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<Response<Body>, ColdError> {
        let host = &self.host;
        let unsigned = Unsigned { method: method.as_str(), host, path, query, headers, body };
        let signed = sign(&unsigned, credentials, &self.region, OffsetDateTime::now_utc());
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}://{host}{path}{mark}{query}", self.scheme);
        let mut request = Request::builder().method(method.clone()).uri(url);
        for (name, value) in headers.iter().chain(&signed) {
            request = request.header(*name, value);
        }
        let unfit = |error| ColdError::Settings(format!("{host}{path}: {error}"));
        let sent = match method {
            Method::PUT => self.agent.run(request.body(body).map_err(unfit)?),
            _ => self.agent.run(request.body(()).map_err(unfit)?),
        };
        sent.map_err(|error| ColdError::Unreachable(format!("{host}: {error}")))
    }
}

fn parts_of(endpoint: &str) -> Result<(String, String), ColdError> {
    let wrong = || ColdError::Settings(format!("AWS_ENDPOINT_URL `{endpoint}` is no http(s) URL"));
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(wrong)?;
    let host = rest.trim_end_matches('/');
    let plain = !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    match scheme {
        "http" | "https" if plain => Ok((scheme.to_owned(), host.to_owned())),
        _ => Err(wrong()),
    }
}

fn agent(timeout: Duration, bundle: Option<String>) -> Result<Agent, ColdError> {
    let tls = match bundle {
        None => tls::of_system(),
        Some(path) => tls::of(certificates(&path)?),
    };
    let config = Agent::config_builder()
        .timeout_connect(Some(timeout / 3))
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("engram/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build();
    Ok(config.into())
}

fn certificates(path: &str) -> Result<Vec<Certificate<'static>>, ColdError> {
    let wrong = |why: String| ColdError::Settings(format!("AWS_CA_BUNDLE {path}: {why}"));
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(found) }
}

fn read_whole(mut answer: Response<Body>, name: &str) -> Result<Vec<u8>, ColdError> {
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    body.read_to_vec().map_err(|error| ColdError::Unreachable(format!("{name}: {error}")))
}

fn failure(answer: Response<Body>, name: &str) -> ColdError {
    let status = answer.status();
    let text = reason(answer, name);
    match status {
        StatusCode::NOT_FOUND if text.contains("NoSuchBucket") => ColdError::Refused(text),
        StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => ColdError::NotFound(text),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => ColdError::Unreachable(text),
        status if status.is_server_error() => ColdError::Unreachable(text),
        _ => ColdError::Refused(text),
    }
}

fn reason(answer: Response<Body>, name: &str) -> String {
    let status = answer.status();
    let body = read_whole(answer, name).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let code = elements(&text, "Code").next().unwrap_or_default().to_owned();
    let mut message: String = elements(&text, "Message").next().map(unescaped).unwrap_or_default();
    message.truncate(message.floor_char_boundary(REASON_BYTES_MAX));
    format!("{name}: S3 said {} {code} {message}", status.as_u16()).trim_end().to_owned()
}

/// What stands between `<name>` and `</name>`, as often as it does; enough for what S3 answers,
/// where no element lies in another of the same name.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let start = rest.find(&open)? + open.len();
        let end = start + rest[start..].find(&close)?;
        let inner = &rest[start..end];
        rest = &rest[end + close.len()..];
        Some(inner)
    })
}

fn unescaped(text: &str) -> String {
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    plain.replace("&apos;", "'").replace("&#39;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_errors_are_read() {
        let xml = "<L><Contents><Key>p/a&amp;b</Key><Size>7</Size></Contents><Contents><Key>p/c\
                   </Key><Size>8</Size></Contents><NextContinuationToken>t=</NextContinuationToken></L>";
        let keys: Vec<String> = elements(xml, "Contents")
            .filter_map(|c| elements(c, "Key").next())
            .map(unescaped)
            .collect();
        assert_eq!(keys, ["p/a&b", "p/c"]);
        assert_eq!(elements(xml, "NextContinuationToken").next(), Some("t="));
        assert_eq!(elements("<Key>half", "Key").next(), None);
    }

    #[test]
    fn endpoints_are_read_and_refused() {
        assert_eq!(parts_of("http://127.0.0.1:9000/").unwrap().1, "127.0.0.1:9000");
        for bad in ["127.0.0.1:9000", "ftp://x", "http://", "http://a/b", "http://u:p@h"] {
            assert!(parts_of(bad).is_err(), "{bad}");
        }
    }
}
