//! Problems that are answered where there is no request: to a head that is no HTTP, in place of the
//! empty answer that hyper gives; to one that does not come; to a connection too many.
//!
//! *Invariants*: only such an answer is replaced: it has no request id, as all of ours have.
//!
//! *Not here*: refusals of requests that could be read (`api`).

use std::fmt::Write as _;
use std::sync::OnceLock;

use crate::error::{Fault, Problem};

/// What is sent instead of `bytes`, where these are an answer of hyper's own.
pub fn problem_for(bytes: &[u8]) -> Option<&'static [u8]> {
    let status = bytes.strip_prefix(b"HTTP/1.1 4").or_else(|| bytes.strip_prefix(b"HTTP/1.0 4"))?;
    let fault = match status.get(..2)? {
        b"00" => Fault::BadRequest,
        b"14" => Fault::UriTooLong,
        b"31" => Fault::HeadTooLarge,
        _ => return None,
    };
    let ours = bytes.windows(REQUEST_ID.len()).any(|part| part == REQUEST_ID);
    (!ours).then(|| answer(fault))
}

const FAULTS: [Fault; 6] = [
    Fault::BadRequest,
    Fault::UriTooLong,
    Fault::HeadTooLarge,
    Fault::RequestTimeout,
    Fault::AddressFull,
    Fault::OverCapacity,
];
const REQUEST_ID: &[u8] = b"x-request-id";

/// The whole answer for a fault of [`FAULTS`], after which the connection ends.
pub fn answer(fault: Fault) -> &'static [u8] {
    static ANSWERS: OnceLock<Vec<(Fault, Vec<u8>)>> = OnceLock::new();
    let answers =
        ANSWERS.get_or_init(|| FAULTS.into_iter().map(|fault| (fault, made(fault))).collect());
    let found = answers.iter().find(|(other, _)| *other == fault);
    found.map(|(_, bytes)| bytes.as_slice()).expect("each of these faults has its answer")
}

fn made(fault: Fault) -> Vec<u8> {
    let detail = match fault {
        Fault::HeadTooLarge => "a head has at most 32 KiB and 100 fields",
        Fault::UriTooLong => "the path is too long",
        Fault::RequestTimeout => "the head of the request took too long to arrive",
        Fault::AddressFull => {
            "this address has as many connections as it may: close some, or use them again"
        }
        Fault::OverCapacity => "the server has as many connections as it can, or is about to stop",
        _ => "the head of the request is not HTTP/1.1",
    };
    let problem = Problem::new(fault, detail);
    let (status, body) = (problem.reason.status(), problem.to_json());
    let retry = problem.reason.retry_after_s().map(|seconds| format!("retry-after: {seconds}\r\n"));
    let mut answer = String::new();
    write!(
        answer,
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n\
         cache-control: no-store\r\n{}connection: close\r\ncontent-length: {}\r\n\r\n",
        retry.unwrap_or_default(),
        body.len()
    )
    .expect("writing to a string never fails");
    [answer.into_bytes(), body].concat()
}
