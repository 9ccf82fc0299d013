//! What a memory, a link and a space are.
//!
//! *Invariants*: a value of one of these types is valid: ids, names, weights and embeddings are
//! checked where they are made, so that nothing behind that point checks again.
//!
//! *Not here*: how they are written to the log (`record`), how JSON becomes them (`net`).

use crate::limits;

/// A point in time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Later than anything.
    pub const MAX: Self = Self(i64::MAX);
}

/// The id of a memory: 1 to 256 bytes of UTF-8, unique in its space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryId(Box<str>);

impl MemoryId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// One sentence for the client where the id is empty, too long or holds a control character.
    pub fn new(id: &str) -> Result<Self, String> {
        if id.is_empty() {
            return Err("an id has at least one byte".to_owned());
        }
        if id.len() > limits::ID_BYTES_MAX {
            return Err(format!(
                "an id has at most {} bytes, this one has {}",
                limits::ID_BYTES_MAX,
                id.len()
            ));
        }
        if id.chars().any(char::is_control) {
            return Err("an id holds no control characters".to_owned());
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a space: `[a-z0-9_-]{1,64}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceName(Box<str>);

impl SpaceName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// One sentence for the client where the name does not fit the pattern.
    pub fn new(name: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        let length_fits = (1..=limits::SPACE_NAME_BYTES_MAX).contains(&name.len());
        if !length_fits || !name.bytes().all(allowed) {
            return Err("a space is named by 1 to 64 of a-z, 0-9, _ and -".to_owned());
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SpaceName {
    /// The space of requests that name none; it always exists.
    fn default() -> Self {
        Self("default".into())
    }
}

/// How near two embeddings are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Cosine of the angle, -1 to 1; the zero vector is refused.
    #[default]
    Cosine,
    /// Inner product.
    Dot,
    /// Negated Euclidean distance, so that more is nearer.
    L2,
}

/// How a space keeps its vectors in memory; the log always holds what the client sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VectorEncoding {
    /// One signed byte a dimension and one scale a vector.
    #[default]
    Int8,
    /// IEEE half precision.
    F16,
    /// As it came.
    F32,
}

/// What a space is: fixed by `PUT /spaces/{space}` or by its first memory.
#[derive(Clone, Debug, PartialEq)]
pub struct SpaceConfig {
    /// Dimension of every embedding; `None` until the first one.
    pub dimensions: Option<u16>,
    /// Metric of the vector index.
    pub metric: Metric,
    /// Encoding of the vectors in memory.
    pub encoding: VectorEncoding,
    /// Time after which a memory's base level has halved, in seconds; `None`: it never fades.
    pub half_life_s: Option<u64>,
    /// Automatic association (names, mentions, sequences, shared terms).
    pub associate: bool,
    /// The first line of the content is a name of the memory.
    pub title_from_content: bool,
}

/// Thirty days.
const HALF_LIFE_S: u64 = 30 * 86_400;

impl Default for SpaceConfig {
    fn default() -> Self {
        Self {
            dimensions: None,
            metric: Metric::Cosine,
            encoding: VectorEncoding::Int8,
            half_life_s: Some(HALF_LIFE_S),
            associate: true,
            title_from_content: false,
        }
    }
}

/// Strength of a link, 0 < weight ≤ 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Weight(f32);

impl Weight {
    /// The weight of a link for which none was given.
    pub const ONE: Self = Self(1.0);

    /// Checks and wraps a weight.
    ///
    /// # Errors
    /// One sentence for the client where it is not above 0 and at most 1.
    pub fn new(weight: f32) -> Result<Self, String> {
        if weight > 0.0 && weight <= 1.0 {
            Ok(Self(weight))
        } else {
            Err(format!("a weight is above 0 and at most 1, this one is {weight}"))
        }
    }

    /// The weight as a number.
    pub fn get(self) -> f32 {
        self.0
    }
}

/// The kind of a link, 1 to 64 bytes of UTF-8; `related` where the client gives none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKind(Box<str>);

impl LinkKind {
    /// Checks and wraps a kind.
    ///
    /// # Errors
    /// One sentence for the client where it is empty, too long or holds a control character.
    pub fn new(kind: &str) -> Result<Self, String> {
        let fits = (1..=limits::LINK_KIND_BYTES_MAX).contains(&kind.len());
        if !fits || kind.chars().any(char::is_control) {
            return Err("a link kind has 1 to 64 bytes and no control characters".to_owned());
        }
        Ok(Self(kind.into()))
    }

    /// The kind as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LinkKind {
    fn default() -> Self {
        Self("related".into())
    }
}

/// A link as it leaves one memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The memory it leads to; that one need not exist yet.
    pub to: MemoryId,
    /// Strength.
    pub weight: Weight,
    /// Kind.
    pub kind: LinkKind,
}

/// Metadata of a memory: a JSON object within the bounds of [`limits`].
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// A memory as a client gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMemory {
    /// The id; the server makes one where none is given.
    pub id: MemoryId,
    /// Text; at least one of it and `embedding` is there.
    pub content: Option<String>,
    /// Finite numbers, 1 to 4,096 of them, not all zero (the engine refuses zero for cosine).
    pub embedding: Option<Vec<f32>>,
    /// JSON object, empty where none was given.
    pub metadata: Metadata,
    /// How sure the client is, 0 to 1.
    pub confidence: Option<f32>,
    /// Client links that leave it; `None` leaves those that it has, `Some` replaces them.
    pub links: Option<Vec<Link>>,
    /// When it was made; the time of arrival where none is given.
    pub created_at: Option<Timestamp>,
    /// From when on it does not exist.
    pub expires_at: Option<Timestamp>,
}

/// A memory as it is read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// The id.
    pub id: MemoryId,
    /// Text.
    pub content: Option<String>,
    /// The embedding as the client sent it; only where it was asked for.
    pub embedding: Option<Vec<f32>>,
    /// JSON object.
    pub metadata: Metadata,
    /// How sure the client was, 0 to 1.
    pub confidence: Option<f32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// From when on it does not exist.
    pub expires_at: Option<Timestamp>,
    /// The links that leave it; only where they were asked for.
    pub links: Option<Vec<LinkView>>,
    /// Where its content lies.
    pub tier: Tier,
    /// What was merged into it; only where that was asked for.
    pub merged: Vec<MemoryId>,
    /// What it was merged into itself.
    pub merged_into: Option<MemoryId>,
}

/// A link as it is read back.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkView {
    /// The memory it leaves.
    pub from: MemoryId,
    /// The memory it leads to.
    pub to: MemoryId,
    /// Strength.
    pub weight: f32,
    /// Kind.
    pub kind: LinkKind,
    /// Made by the server (mention, sequence) rather than by a client.
    pub automatic: bool,
    /// The memory it leads to exists.
    pub live: bool,
}

/// Where the content of a memory lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tier {
    /// In memory.
    Fast,
    /// On the SSD.
    #[default]
    Warm,
    /// On the HDD or in S3.
    Cold,
}
