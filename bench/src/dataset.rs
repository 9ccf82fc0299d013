//! What is stored and asked: synthetic memories of any number, or a file of NDJSON.
//!
//! *Invariants*: memory number i is a function of the seed and i alone, so that nothing need be
//! kept and several connections can store at once.
//!
//! *Not here*: what the right answers are (`truth`), sending (`loader`).

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::random::{Random, Zipf};

/// Dimensions of the manifold that the vectors lie on; with the constants below the two-nearest-
/// neighbours estimate (Facco et al., 2017) is about 17, as sentence embeddings of text have it.
const LATENT_DIMENSIONS: usize = 20;
const SMOOTHNESS: f64 = 0.4;
const CLUSTER_SPREAD: f64 = 0.6;
const CLUSTERS_MAX: u64 = 256;
const CLUSTER_EXPONENT: f64 = 0.6;
/// In-degrees fall off as a power of about -2.3, as those of citations and hyperlinks do.
const POPULARITY_EXPONENT: f64 = 0.75;
const WORDS: u64 = 30_000;
const WORD_EXPONENT: f64 = 1.0;
const CONTENT_WORDS: usize = 20;

/// Streams of random numbers of one memory or query.
mod stream {
    pub(super) const SHAPE: u64 = 1;
    pub(super) const VECTOR: u64 = 2;
    pub(super) const LINKS: u64 = 3;
    pub(super) const CONTENT: u64 = 4;
    pub(super) const QUERY_VECTOR: u64 = 5;
    pub(super) const QUERY_TEXT: u64 = 6;
}

/// How vectors travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorForm {
    /// Base64 of little-endian f32.
    #[default]
    Base64,
    /// A JSON array.
    Json,
}

/// The size and seed of a synthetic set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Memories.
    pub memories: u64,
    /// Length of the vectors.
    pub dimensions: usize,
    /// Links that leave each memory: half to its own cluster, half by popularity.
    pub out_degree: u64,
    /// The same seed gives the same set.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

fn default_seed() -> u64 {
    1
}

/// Memories with vectors on a curved manifold in clusters, a graph with power-law in-degrees and
/// texts with Zipf words of their cluster.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// Size and seed.
    pub shape: Shape,
    centres: Vec<[f64; LATENT_DIMENSIONS]>,
    /// Transposed: one row for each dimension of the vectors.
    features: Vec<[f64; LATENT_DIMENSIONS]>,
    phases: Vec<f64>,
    /// Places at which the clusters end.
    cluster_ends: Vec<u64>,
    stride: u64,
    stride_inverse: u64,
    popularity: Zipf,
    words: Zipf,
}

impl Synthetic {
    /// Draws what all memories share.
    pub fn new(shape: Shape) -> Self {
        assert!(shape.memories > 1 && shape.dimensions > 0, "a set has memories and dimensions");
        let mut random = Random::for_item(shape.seed, stream::SHAPE, 0);
        let clusters = CLUSTERS_MAX.min(shape.memories / 2).max(1);
        let mut point = |scale: f64| std::array::from_fn(|_| scale * random.normal());
        let centres = (0..clusters).map(|_| point(1.0)).collect();
        let features = (0..shape.dimensions).map(|_| point(SMOOTHNESS)).collect();
        let phases = (0..shape.dimensions).map(|_| std::f64::consts::TAU * random.unit()).collect();
        let (stride, stride_inverse) = coprime(shape.memories);
        Self {
            shape,
            centres,
            features,
            phases,
            cluster_ends: cluster_ends(clusters, shape.memories),
            stride,
            stride_inverse,
            popularity: Zipf::new(shape.memories, POPULARITY_EXPONENT),
            words: Zipf::new(WORDS, WORD_EXPONENT),
        }
    }

    /// The id of memory number `i`.
    pub fn id(i: u64) -> String {
        format!("m{i:08}")
    }

    /// The number of the memory with this id.
    pub fn number(id: &str) -> Option<u64> {
        id.strip_prefix('m')?.parse().ok()
    }

    /// Where memory `i` stands among the clusters; neighbours in number stand far apart.
    fn place(&self, i: u64) -> u64 {
        multiply(i, self.stride, self.shape.memories)
    }

    fn at_place(&self, place: u64) -> u64 {
        multiply(place, self.stride_inverse, self.shape.memories)
    }

    /// The cluster of memory `i`.
    pub fn cluster(&self, i: u64) -> usize {
        let place = self.place(i);
        self.cluster_ends.partition_point(|end| *end <= place)
    }

    /// The vector of memory `i`, of length 1.
    pub fn vector(&self, i: u64) -> Vec<f32> {
        let mut random = Random::for_item(self.shape.seed, stream::VECTOR, i);
        self.vector_in(self.cluster(i), &mut random)
    }

    /// The vector of query `q`, drawn as those of the memories are.
    pub fn query_vector(&self, q: u64) -> Vec<f32> {
        let mut random = Random::for_item(self.shape.seed, stream::QUERY_VECTOR, q);
        let cluster = self.cluster(random.below(self.shape.memories));
        self.vector_in(cluster, &mut random)
    }

    fn vector_in(&self, cluster: usize, random: &mut Random) -> Vec<f32> {
        let centre = &self.centres[cluster];
        let latent: [f64; LATENT_DIMENSIONS] =
            std::array::from_fn(|k| centre[k] + CLUSTER_SPREAD * random.normal());
        let mut vector: Vec<f32> = self
            .features
            .iter()
            .zip(&self.phases)
            .map(|(feature, phase)| {
                let angle: f64 = feature.iter().zip(&latent).map(|(w, z)| w * z).sum();
                (angle + phase).cos() as f32
            })
            .collect();
        let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        vector
    }

    /// The links of memory `i`: (number, weight).
    pub fn links(&self, i: u64) -> Vec<(u64, f32)> {
        let mut random = Random::for_item(self.shape.seed, stream::LINKS, i);
        let cluster = self.cluster(i);
        let end = self.cluster_ends[cluster];
        let begin = if cluster == 0 { 0 } else { self.cluster_ends[cluster - 1] };
        let wanted = self.shape.out_degree.min(self.shape.memories - 1) as usize;
        let mut links: Vec<(u64, f32)> = Vec::with_capacity(wanted);
        for attempt in 0..wanted * 20 {
            if links.len() == wanted {
                break;
            }
            let to = if attempt % 2 == 0 {
                self.at_place(begin + random.below(end - begin))
            } else {
                // Popular memories are spread over all clusters.
                self.popularity.draw(&mut random)
            };
            if to != i && links.iter().all(|(other, _)| *other != to) {
                links.push((to, (0.1 + 0.9 * random.unit()) as f32));
            }
        }
        links
    }

    /// The text of memory `i`.
    pub fn content(&self, i: u64) -> String {
        let mut random = Random::for_item(self.shape.seed, stream::CONTENT, i);
        self.text(self.cluster(i), CONTENT_WORDS, &mut random)
    }

    /// The text of query `q`.
    pub fn query_text(&self, q: u64) -> String {
        let mut random = Random::for_item(self.shape.seed, stream::QUERY_TEXT, q);
        let cluster = self.cluster(random.below(self.shape.memories));
        self.text(cluster, 5, &mut random)
    }

    /// Half of the words belong to the cluster: its ranks are those of the language, turned.
    fn text(&self, cluster: usize, words: usize, random: &mut Random) -> String {
        let mut text = String::new();
        for n in 0..words {
            let rank = self.words.draw(random);
            let turn = if n % 2 == 0 { 0 } else { (cluster as u64 + 1) * 113 };
            if n > 0 {
                text.push(' ');
            }
            push_word((rank + turn) % WORDS, &mut text);
        }
        text
    }

    /// Memory `i` as one line of NDJSON, without the line end.
    pub fn push_line(&self, i: u64, form: VectorForm, line: &mut String) {
        let id = Self::id(i);
        let content = self.content(i);
        let _ = write!(line, r#"{{"id":"{id}","content":"{content}","embedding":"#);
        push_vector(&self.vector(i), form, line);
        let _ = write!(line, r#","metadata":{{"group":{}}},"links":["#, self.cluster(i));
        for (n, (to, weight)) in self.links(i).iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let _ = write!(line, r#"{comma}{{"to":"{}","weight":{weight}}}"#, Self::id(*to));
        }
        line.push_str("]}");
    }
}

/// A vector as JSON.
pub fn push_vector(vector: &[f32], form: VectorForm, text: &mut String) {
    match form {
        VectorForm::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            text.push('"');
            base64::engine::general_purpose::STANDARD.encode_string(&bytes, text);
            text.push('"');
        }
        VectorForm::Json => {
            for (n, x) in vector.iter().enumerate() {
                text.push(if n == 0 { '[' } else { ',' });
                let _ = write!(text, "{x}");
            }
            text.push(']');
        }
    }
}

/// A pronounceable word for each rank; frequent words are short.
fn push_word(rank: u64, text: &mut String) {
    const ONSETS: &[u8] = b"bdfgklmnprstvz";
    const VOWELS: &[u8] = b"aeiou";
    let mut rest = rank + 1;
    loop {
        let syllable = (rest % 70) as usize;
        text.push(char::from(ONSETS[syllable / 5]));
        text.push(char::from(VOWELS[syllable % 5]));
        rest /= 70;
        if rest == 0 {
            text.push('n');
            return;
        }
    }
}

fn cluster_ends(clusters: u64, memories: u64) -> Vec<u64> {
    let weight = |c: u64| ((c + 1) as f64).powf(-CLUSTER_EXPONENT);
    let total: f64 = (0..clusters).map(weight).sum();
    let mut sum = 0.0;
    let mut ends: Vec<u64> = (0..clusters)
        .map(|c| {
            sum += weight(c);
            (sum / total * memories as f64) as u64
        })
        .collect();
    ends[clusters as usize - 1] = memories;
    ends
}

fn multiply(a: u64, b: u64, modulus: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(modulus)) as u64
}

/// A number without common divisor with `n`, near the golden section, and its inverse modulo n.
fn coprime(n: u64) -> (u64, u64) {
    let mut candidate = ((n as f64 * 0.618) as u64).max(1);
    loop {
        let (divisor, inverse) = euclid(i128::from(candidate), i128::from(n));
        if divisor == 1 {
            let inverse = inverse.rem_euclid(i128::from(n)) as u64;
            return (candidate, inverse);
        }
        candidate += 1;
    }
}

/// The greatest common divisor of a and n, and x with a·x ≡ divisor (mod n).
fn euclid(a: i128, n: i128) -> (i128, i128) {
    let (mut r, mut next_r) = (a, n);
    let (mut x, mut next_x) = (1, 0);
    while next_r != 0 {
        let quotient = r / next_r;
        (r, next_r) = (next_r, r - quotient * next_r);
        (x, next_x) = (next_x, x - quotient * next_x);
    }
    (r, x)
}

/// Memories from a file of NDJSON, sent as they are.
#[derive(Clone, Debug)]
pub struct Lines {
    /// The lines, without line ends.
    pub lines: Vec<String>,
    /// Ids of the memories, in order.
    pub ids: Vec<String>,
    contents: Vec<String>,
}

#[derive(Deserialize)]
struct LineHead {
    id: String,
    #[serde(default)]
    content: String,
}

impl Lines {
    /// Reads a file.
    ///
    /// # Errors
    /// Those of the system; `InvalidData` with the line's number where one is no memory.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut set = Self { lines: Vec::new(), ids: Vec::new(), contents: Vec::new() };
        for (number, line) in BufReader::new(std::fs::File::open(path)?).lines().enumerate() {
            let line = line?;
            let head: LineHead = serde_json::from_str(&line).map_err(|e| {
                let text = format!("{}, line {}: {e}", path.display(), number + 1);
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            set.lines.push(line);
            set.ids.push(head.id);
            set.contents.push(head.content);
        }
        Ok(set)
    }

    /// A few words that stand together in some memory.
    fn query_text(&self, seed: u64, q: u64) -> String {
        let mut random = Random::for_item(seed, stream::QUERY_TEXT, q);
        let content = &self.contents[random.below(self.contents.len() as u64) as usize];
        let words: Vec<&str> =
            content.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
        if words.is_empty() {
            return "thing".to_owned();
        }
        let count = (3 + random.below(5) as usize).min(words.len());
        let first = random.below((words.len() - count + 1) as u64) as usize;
        words[first..first + count].join(" ")
    }
}

/// A data set.
#[derive(Clone, Debug)]
pub enum Dataset {
    /// Drawn.
    Synthetic(Box<Synthetic>),
    /// From a file.
    Lines(Lines),
}

impl Dataset {
    /// How many memories it has.
    pub fn memories(&self) -> u64 {
        match self {
            Self::Synthetic(set) => set.shape.memories,
            Self::Lines(set) => set.lines.len() as u64,
        }
    }

    /// The id of memory `i`.
    pub fn id(&self, i: u64) -> String {
        match self {
            Self::Synthetic(_) => Synthetic::id(i),
            Self::Lines(set) => set.ids[i as usize].clone(),
        }
    }

    /// Appends memory `i` as a line of NDJSON, with its line end.
    pub fn push_line(&self, i: u64, form: VectorForm, text: &mut String) {
        match self {
            Self::Synthetic(set) => set.push_line(i, form, text),
            Self::Lines(set) => text.push_str(&set.lines[i as usize]),
        }
        text.push('\n');
    }

    /// The text of query `q`.
    pub fn query_text(&self, q: u64) -> String {
        match self {
            Self::Synthetic(set) => set.query_text(q),
            Self::Lines(set) => set.query_text(1, q),
        }
    }

    /// The vector of query `q`, where the set has vectors of its own.
    pub fn query_vector(&self, q: u64) -> Option<Vec<f32>> {
        match self {
            Self::Synthetic(set) => Some(set.query_vector(q)),
            Self::Lines(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(memories: u64) -> Synthetic {
        Synthetic::new(Shape { memories, dimensions: 96, out_degree: 8, seed: 7 })
    }

    #[test]
    fn places_are_a_permutation() {
        for memories in [2, 10, 999, 1000, 4096] {
            let set = set(memories);
            let mut seen: Vec<u64> = (0..memories).map(|i| set.place(i)).collect();
            assert!((0..memories).all(|i| set.at_place(set.place(i)) == i));
            seen.sort_unstable();
            assert_eq!(seen, (0..memories).collect::<Vec<_>>());
        }
    }

    #[test]
    fn lines_are_memories_and_the_same_each_time() {
        let set = set(500);
        for form in [VectorForm::Base64, VectorForm::Json] {
            let mut line = String::new();
            set.push_line(17, form, &mut line);
            let mut again = String::new();
            Synthetic::new(set.shape).push_line(17, form, &mut again);
            assert_eq!(line, again);
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["id"], "m00000017");
            assert_eq!(json["links"].as_array().unwrap().len(), 8);
        }
    }

    #[test]
    fn in_degrees_follow_a_power_law_and_out_degrees_are_as_asked() {
        let set = set(20_000);
        let mut in_degrees = vec![0_u32; 20_000];
        for i in 0..20_000 {
            let links = set.links(i);
            assert_eq!(links.len(), 8);
            links.iter().for_each(|(to, _)| in_degrees[*to as usize] += 1);
        }
        in_degrees.sort_unstable_by(|a, b| b.cmp(a));
        let (first, tenth, hundredth) = (in_degrees[0], in_degrees[9], in_degrees[99]);
        let slope = (f64::from(first) / f64::from(hundredth)).ln() / 100_f64.ln();
        assert!((0.4..0.9).contains(&slope), "{first} {tenth} {hundredth}: {slope}");
    }

    /// The two-nearest-neighbours estimate over a sample.
    fn intrinsic_dimension(vectors: &[Vec<f32>]) -> f64 {
        let mut ratios: Vec<f64> = vectors
            .iter()
            .enumerate()
            .map(|(i, a)| {
                let (mut first, mut second) = (f64::MAX, f64::MAX);
                for (j, b) in vectors.iter().enumerate() {
                    if i == j {
                        continue;
                    }
                    let d: f64 = a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum();
                    if d < first {
                        (first, second) = (d, first);
                    } else if d < second {
                        second = d;
                    }
                }
                (second / first).sqrt().ln()
            })
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let kept = ratios.len() * 9 / 10;
        let points: Vec<(f64, f64)> = (0..kept)
            .map(|n| (ratios[n], -(1.0 - (n + 1) as f64 / ratios.len() as f64).ln()))
            .collect();
        points.iter().map(|(x, y)| x * y).sum::<f64>()
            / points.iter().map(|(x, _)| x * x).sum::<f64>()
    }

    #[test]
    fn vectors_have_the_intrinsic_dimension_of_text_embeddings() {
        let set = Synthetic::new(Shape { memories: 3000, dimensions: 384, out_degree: 8, seed: 1 });
        let vectors: Vec<_> = (0..1500).map(|i| set.vector(i)).collect();
        let dimension = intrinsic_dimension(&vectors);
        assert!((12.0..24.0).contains(&dimension), "{dimension}");
        let norm: f32 = vectors[0].iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
}
