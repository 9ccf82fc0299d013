//! The metadata of a space in an image.
//!
//! *Invariants*: what is read names no key, string or set that is not there.
//!
//! *Not here*: strings (`interner`) and sets (`nodes`), which write themselves.

use hashbrown::{HashMap, HashTable};

use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::node::NodeIx;

use super::line::{Line, Spot};
use super::nodes::NodeSet;
use super::value::{Entry, Tag};
use super::{MetadataIndex, Row, hash_in};

const ONE: u8 = 0;
const MANY: u8 = 1;

impl Part for MetadataIndex {
    const NAME: &'static str = "metadata";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { keys, strings, rows, count, ids: _, postings, sets, lines } = self;
        out.part(keys);
        out.part(strings);
        let none: &[Entry] = &[];
        out.lists(rows.iter().map(|row| row.as_ref().map_or(none, |row| &*row.entries)));
        out.count(*count);
        for (row, node) in rows.iter().zip(0u32..) {
            if let Some(Row { id_hash, entries: _ }) = row {
                out.u32(node);
                out.u64(*id_hash);
            }
        }
        out.count(postings.len());
        for (posted, set) in postings {
            out.u64(*posted);
            let (tag, number) = match set {
                NodeSet::One(node) => (ONE, node.0),
                NodeSet::Many(number) => (MANY, *number),
            };
            out.u8(tag);
            out.u32(number);
        }
        out.part(sets);
        out.count(lines.values().map(|line| line.spots().count()).sum());
        for (key, spot) in lines.iter().flat_map(|(key, line)| line.spots().map(move |s| (key, s)))
        {
            out.u32(*key);
            out.u32(spot.node().0);
            out.u64(spot.at().to_bits());
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let (keys, strings) = (input.part()?, input.part()?);
        let entries = input.lists(Reader::boxed::<Entry>)?;
        let count = input.count()?;
        let rows = read_rows(input, entries, count)?;
        let postings = read_postings(input)?;
        let sets = input.part()?;
        let mut lines: HashMap<u32, Line> = HashMap::new();
        for _ in 0..input.count()? {
            let (key, node) = (input.u32()?, NodeIx(input.u32()?));
            let spot = Spot::new(f64::from_bits(input.u64()?), node);
            lines.entry(key).or_default().insert(spot);
        }
        let ids = HashTable::with_capacity(count);
        let mut index = Self { keys, strings, rows, count, ids, postings, sets, lines };
        index.check()?;
        index.number_ids();
        Ok(index)
    }
}

fn read_rows(
    input: &mut Reader<'_>,
    entries: Vec<Box<[Entry]>>,
    count: usize,
) -> Result<Vec<Option<Row>>, Unsound> {
    let mut entries: Vec<Option<Box<[Entry]>>> = entries.into_iter().map(Some).collect();
    let mut rows: Vec<Option<Row>> = (0..entries.len()).map(|_| None).collect();
    for _ in 0..count {
        let (node, id_hash) = (input.u32()? as usize, input.u64()?);
        let entries = entries.get_mut(node).and_then(Option::take);
        let entries = entries.ok_or(Unsound::Content("a row of the metadata"))?;
        rows[node] = Some(Row { id_hash, entries });
    }
    Ok(rows)
}

fn read_postings(input: &mut Reader<'_>) -> Result<HashMap<u64, NodeSet>, Unsound> {
    let count = input.count()?;
    let mut postings = HashMap::with_capacity(input.room::<u64>(count).capacity());
    for _ in 0..count {
        let posted = input.u64()?;
        let set = match (input.u8()?, input.u32()?) {
            (ONE, node) => NodeSet::One(NodeIx(node)),
            (MANY, number) => NodeSet::Many(number),
            _ => return Err(Unsound::Content("a set of nodes")),
        };
        postings.insert(posted, set);
    }
    Ok(postings)
}

impl MetadataIndex {
    fn check(&self) -> Result<(), Unsound> {
        let sound = |entry: &Entry| {
            entry.is_sound()
                && self.keys.is_used(entry.key())
                && (entry.value().tag != Tag::Text
                    || self.strings.is_used(entry.value().string_number()))
        };
        let mut entries = self.rows.iter().flatten().flat_map(|row| &*row.entries);
        ensure(entries.all(sound), "an entry of the metadata")?;
        ensure(self.postings.values().all(|set| self.sets.has(*set)), "a set of nodes")
    }

    fn number_ids(&mut self) {
        let (rows, ids) = (&self.rows, &mut self.ids);
        for (row, node) in rows.iter().zip((0u32..).map(NodeIx)) {
            if let Some(row) = row {
                ids.insert_unique(row.id_hash, node, |&other| hash_in(rows, other));
            }
        }
    }
}
