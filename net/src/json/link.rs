//! Links as clients send them.
//!
//! *Invariants*: weights are above 0 and at most 1; kinds are named.
//!
//! *Not here*: links as they are read back (`view`).

use engram_engine::limits::LINKS_PER_REQUEST_MAX;
use engram_engine::model::{Link, LinkKind, MemoryId, Weight};
use engram_engine::request::LinkName;

use super::reader::{Kind, Reader};
use super::{id, invalid, weight};
use crate::error::{Checked, Fault, Problem};

/// Fields of a link that leaves the memory it is written with.
pub const LEAVING_FIELDS: &[&str] = &["to", "weight", "kind"];
/// Fields of a link that stands alone.
pub const FIELDS: &[&str] = &["from", "to", "weight", "kind"];
/// Fields by which a link is named.
pub const NAME_FIELDS: &[&str] = &["from", "to", "kind"];

#[derive(Default)]
struct Draft {
    from: Option<MemoryId>,
    to: Option<MemoryId>,
    weight: Option<Weight>,
    kind: Option<LinkKind>,
}

/// Reads the links of one memory.
///
/// # Errors
/// Where they are not an array of links.
pub fn read_leaving(reader: &mut Reader<'_>) -> Checked<Vec<Link>> {
    let mut links = Vec::new();
    reader.elements(LINKS_PER_REQUEST_MAX, |reader, _| {
        links.push(draft(reader, LEAVING_FIELDS)?.link()?);
        Ok(())
    })?;
    Ok(links)
}

/// Reads one link or an array of them, each with the memory that it leaves.
///
/// # Errors
/// Where they are not links.
pub fn read(reader: &mut Reader<'_>) -> Checked<Vec<(MemoryId, Link)>> {
    one_or_many(reader, |reader| {
        let draft = draft(reader, FIELDS)?;
        Ok((draft.from()?, draft.link()?))
    })
}

/// Reads one name of a link or an array of them.
///
/// # Errors
/// Where they do not name links.
pub fn read_names(reader: &mut Reader<'_>) -> Checked<Vec<LinkName>> {
    one_or_many(reader, |reader| {
        let draft = draft(reader, NAME_FIELDS)?;
        Ok(LinkName { from: draft.from()?, to: draft.to()?, kind: draft.kind })
    })
}

/// Reads a kind.
///
/// # Errors
/// Where it is no name of a kind.
pub fn kind(reader: &mut Reader<'_>) -> Checked<LinkKind> {
    let text = reader.string()?;
    LinkKind::new(&text).map_err(invalid)
}

impl Draft {
    fn from(&self) -> Checked<MemoryId> {
        present(&self.from, "from")
    }

    fn to(&self) -> Checked<MemoryId> {
        present(&self.to, "to")
    }

    fn link(&self) -> Checked<Link> {
        let kind = self.kind.clone().unwrap_or_default();
        Ok(Link { to: self.to()?, weight: self.weight.unwrap_or(Weight::ONE), kind })
    }
}

fn present(id: &Option<MemoryId>, name: &str) -> Checked<MemoryId> {
    id.clone().ok_or_else(|| Problem::new(Fault::MissingField, format!("a link has a `{name}`")))
}

fn draft(reader: &mut Reader<'_>, names: &[&'static str]) -> Checked<Draft> {
    let mut draft = Draft::default();
    reader.fields(names, |reader, field| {
        match names[field] {
            "from" => draft.from = Some(id(reader)?),
            "to" => draft.to = Some(id(reader)?),
            "weight" => draft.weight = reader.nullable(weight)?,
            "kind" => draft.kind = reader.nullable(kind)?,
            other => unreachable!("{other} is not a field of a link"),
        }
        Ok(())
    })?;
    Ok(draft)
}

fn one_or_many<'a, T>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Checked<T>,
) -> Checked<Vec<T>> {
    let mut all = Vec::new();
    match reader.kind()? {
        Kind::Object => all.push(read(reader)?),
        Kind::Array => reader.elements(LINKS_PER_REQUEST_MAX, |reader, _| {
            all.push(read(reader)?);
            Ok(())
        })?,
        Kind::String | Kind::Number | Kind::Boolean | Kind::Null => {
            return Err(reader.unfit("a link or an array of links"));
        }
    }
    Ok(all)
}
