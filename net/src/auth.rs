//! Who may do what: keys, their roles and their spaces.
//!
//! *Invariants*: a key is kept as its SHA-256 only; looking one up compares digests, whose timing
//! says nothing of the key; no key is ever printed.
//!
//! *Not here*: whether a server may listen without keys, and reading the file (`ops`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engram_engine::model::SpaceName;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use crate::error::{Checked, Fault, Problem};

/// What an operation asks of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing: health, the console page.
    Open,
    /// Reading and recalling.
    Read,
    /// Storing and forgetting.
    Write,
    /// Spaces, snapshots, consolidations.
    Admin,
}

/// What a key allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Its name, for people.
    pub name: String,
    /// The most that it allows.
    pub role: Role,
    /// The spaces that it may touch; `None`: all of them.
    pub spaces: Option<Vec<SpaceName>>,
}

impl Grant {
    /// Whether the key may touch a space.
    pub fn reaches(&self, space: &SpaceName) -> bool {
        self.spaces.as_ref().is_none_or(|spaces| spaces.contains(space))
    }
}

/// Keys by their digests.
#[derive(Default)]
pub struct Keys(HashMap<[u8; 32], Rc<Grant>>);

/// The keys of a file, as they go from thread to thread.
#[derive(Clone)]
pub struct KeysFile(Vec<([u8; 32], Grant)>);

/// Why a file of keys is refused.
#[derive(Debug, PartialEq)]
pub struct KeysError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it; never holds a key.
    pub what: &'static str,
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the keys file: {}", self.line, self.what)
    }
}

impl std::error::Error for KeysError {}

impl KeysFile {
    /// Reads a file of one key a line: `name role sha256:digest [space,space]`, where role is
    /// `read`, `write` or `admin`; empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// Where a line is not of that form, or the file holds no key.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<([u8; 32], Grant)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_text = line.trim();
            if line_text.is_empty() || line_text.starts_with('#') {
                continue;
            }
            let (digest, grant) =
                parse_line(line_text).map_err(|what| KeysError { line: index + 1, what })?;
            if keys.iter().any(|(other, _)| *other == digest) {
                return Err(KeysError { line: index + 1, what: "the key is there twice" });
            }
            keys.push((digest, grant));
        }
        if keys.is_empty() {
            return Err(KeysError { line: 1, what: "there is no key in it" });
        }
        Ok(Self(keys))
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for KeysFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.count())
    }
}

fn parse_line(line: &str) -> Result<([u8; 32], Grant), &'static str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (name, role, digest, spaces) = match fields.as_slice() {
        [name, role, digest] => (name, role, digest, None),
        [name, role, digest, spaces] => (name, role, digest, Some(spaces)),
        _ => return Err("expected: name role sha256:digest [space,space]"),
    };
    let role = match *role {
        "read" => Role::Read,
        "write" => Role::Write,
        "admin" => Role::Admin,
        _ => return Err("the role is one of read, write and admin"),
    };
    let hex = digest.strip_prefix("sha256:").ok_or("the key is given as sha256:digest")?;
    let digest = parse_digest(hex).ok_or("the digest has 64 hexadecimal digits")?;
    let spaces = spaces.map(|names| names.split(',').map(SpaceName::new).collect());
    let spaces: Result<Option<Vec<SpaceName>>, String> = spaces.transpose();
    let spaces = spaces.map_err(|_| "a space is named by 1 to 64 of a-z, 0-9, _ and -")?;
    Ok((digest, Grant { name: (*name).to_owned(), role, spaces }))
}

fn parse_digest(hex: &str) -> Option<[u8; 32]> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let mut digest = [0; 32];
    if pairs.len() != digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(digest)
}

/// A key as it stands in the file: `sha256:` and its digest.
pub fn digest_text(key: &str) -> String {
    let digits = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let digits: String = digits;
    format!("sha256:{digits}")
}

/// The keys that are in force, shared by all cores and replaced as a whole.
///
/// A lock guards the replacement, not the look-up: each core keeps a copy of its own and looks at a
/// version number, which changes when the file is read again.
#[derive(Clone, Debug, Default)]
pub struct Auth(Arc<Current>);

#[derive(Debug, Default)]
struct Current {
    version: AtomicU64,
    keys: Mutex<Option<KeysFile>>,
}

impl Auth {
    /// These keys are asked for.
    pub fn required(keys: KeysFile) -> Self {
        let auth = Self::default();
        auth.replace(keys);
        auth
    }

    /// Whether any key is asked for.
    pub fn is_required(&self) -> bool {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// These keys take the place of those before.
    pub fn replace(&self, keys: KeysFile) {
        *self.0.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        self.0.version.fetch_add(1, Ordering::Release);
    }
}

/// The keys as one core sees them.
pub struct Guard {
    auth: Auth,
    version: Cell<u64>,
    keys: RefCell<Option<Keys>>,
}

impl Guard {
    /// For one core.
    pub fn new(auth: Auth) -> Self {
        let guard = Self { auth, version: Cell::new(0), keys: RefCell::new(None) };
        guard.refresh();
        guard
    }

    /// What the request's key allows; `None` where no keys are asked for, or none is needed.
    ///
    /// # Errors
    /// Where it has no key, an unknown one, or one that does not allow this.
    pub fn check(&self, headers: &HeaderMap, needed: Role) -> Checked<Option<Rc<Grant>>> {
        if self.version.get() != self.auth.0.version.load(Ordering::Acquire) {
            self.refresh();
        }
        let keys = self.keys.borrow();
        let Some(keys) = keys.as_ref().filter(|_| needed > Role::Open) else { return Ok(None) };
        let unauthorized = |detail: &str| Problem::new(Fault::Unauthorized, detail);
        let key = presented(headers).ok_or_else(|| {
            unauthorized("send a key, as Authorization: Bearer KEY, api-key or X-API-Key")
        })?;
        let digest: [u8; 32] = Sha256::digest(key).into();
        let grant = keys.0.get(&digest).ok_or_else(|| unauthorized("the key is not known"))?;
        if grant.role < needed {
            let detail = format!("this needs the role {}", role_name(needed));
            return Err(Problem::new(Fault::Forbidden, detail));
        }
        Ok(Some(Rc::clone(grant)))
    }

    fn refresh(&self) {
        let current = self.auth.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        self.version.set(self.auth.0.version.load(Ordering::Acquire));
        let keys = current.as_ref().map(|file| {
            let owned = file.0.iter().map(|(digest, grant)| (*digest, Rc::new(grant.clone())));
            Keys(owned.collect())
        });
        *self.keys.borrow_mut() = keys;
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Open => "none",
        Role::Read => "read",
        Role::Write => "write",
        Role::Admin => "admin",
    }
}

/// The key of a request, in any of the three forms.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        return scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii());
    }
    let value = headers.get("api-key").or_else(|| headers.get("x-api-key"))?;
    Some(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_file_is_read_line_by_line() {
        let digest = digest_text("secret");
        let text =
            format!("# keys\n\nann admin {digest}\nbob read sha256:{} a,b\n", "0".repeat(64));
        let keys = KeysFile::parse(&text).unwrap();
        assert_eq!(keys.count(), 2);
        assert_eq!(keys.0[1].1.spaces.as_ref().unwrap().len(), 2);
        for (text, line) in [
            ("", 1),
            ("ann admin secret", 1),
            ("# x\nann root sha256:00", 2),
            ("ann read sha256:00", 1),
            (&format!("ann read {digest}\nbob read {digest}"), 2),
            (&format!("ann read {digest} NO"), 1),
        ] {
            let error = KeysFile::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
