//! Signatures of requests: AWS Signature Version 4.
//!
//! *Invariants*: what is sent is what was signed: method, path, query, host, time and body.
//!
//! *Not here*: sending (`super`). Source: "Create a signed AWS API request", AWS documentation.

use ring::{digest, hmac};
use time::OffsetDateTime;
use time::macros::format_description;

use super::credentials::Credentials;

/// What is signed of a request.
pub struct Unsigned<'a> {
    pub method: &'a str,
    pub host: &'a str,
    /// Encoded, with its leading slash.
    pub path: &'a str,
    /// Encoded, in the order of names.
    pub query: &'a str,
    /// Beside host and those that signing adds; names in lower case.
    pub headers: &'a [(&'static str, String)],
    pub body: &'a [u8],
}

/// The headers that sign a request.
pub fn sign(
    request: &Unsigned<'_>,
    credentials: &Credentials,
    region: &str,
    now: OffsetDateTime,
) -> Vec<(&'static str, String)> {
    let stamp = now.format(format_description!("[year][month][day]T[hour][minute][second]Z"));
    let stamp = stamp.expect("a time of this era has a text");
    let day = &stamp[..8];
    let body_hash = hex(digest::digest(&digest::SHA256, request.body).as_ref());
    let mut added =
        vec![("x-amz-content-sha256", body_hash.clone()), ("x-amz-date", stamp.clone())];
    added.extend(credentials.token.clone().map(|token| ("x-amz-security-token", token)));
    let mut headers = vec![("host", request.host.to_owned())];
    headers.extend(request.headers.iter().cloned());
    headers.extend(added.iter().cloned());
    headers.sort();
    let lines: String = headers.iter().map(|(n, v)| format!("{n}:{}\n", v.trim())).collect();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let Unsigned { method, path, query, .. } = request;
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body_hash}");
    let canonical_hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let scope = format!("{day}/{region}/s3/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical_hash}");
    let mut key = format!("AWS4{}", credentials.secret).into_bytes();
    for part in [day, region, "s3", "aws4_request"] {
        key = keyed(&key, part);
    }
    let signature = hex(&keyed(&key, &to_sign));
    let who = &credentials.key_id;
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={who}/{scope},SignedHeaders={names},Signature={signature}"
    );
    added.push(("authorization", authorization));
    added
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string never fails");
    }
    text
}

/// Percent-encodes as S3 wants it signed: all but letters, digits and `-._~`.
pub fn encoded(text: &str, keeps_slash: bool) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain || (keeps_slash && byte == b'/') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string never fails");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    /// The example "GET Object" of the Amazon S3 documentation on Signature Version 4.
    #[test]
    fn the_documented_example_gets_the_documented_signature() {
        let request = Unsigned {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: "",
            headers: &[("range", "bytes=0-9".to_owned())],
            body: b"",
        };
        let credentials = Credentials {
            key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let signed = sign(&request, &credentials, "us-east-1", datetime!(2013-05-24 0:00 UTC));
        let expected = "AWS4-HMAC-SHA256 \
            Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
            SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
            Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(signed.last().unwrap().1, expected);
        assert_eq!(encoded("a b/ü~", true), "a%20b/%C3%BC~");
    }
}
