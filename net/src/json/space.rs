//! What a space is, as clients send it.
//!
//! *Invariants*: what is not given has the value of `SpaceConfig::default`; `null` is the same,
//! but for `half_life`, where it says that nothing fades.
//!
//! *Not here*: what of a space may change later (`engine`).

use engram_engine::limits::DIMENSIONS_MAX;
use engram_engine::model::{Metric, SpaceConfig, VectorEncoding};

use super::invalid;
use super::reader::Reader;
use crate::error::Checked;

/// Fields of a space.
pub const FIELDS: &[&str] =
    &["dimensions", "metric", "encoding", "half_life", "associate", "title_from_content"];

/// Reads a space.
///
/// # Errors
/// Where it is not a space of the contract.
pub fn read(reader: &mut Reader<'_>) -> Checked<SpaceConfig> {
    let mut config = SpaceConfig::default();
    reader.fields(FIELDS, |reader, field| {
        if reader.null()? {
            if FIELDS[field] == "half_life" {
                config.half_life_s = None;
            }
            return Ok(());
        }
        match FIELDS[field] {
            "dimensions" => {
                let dimensions = reader.integer(1..=DIMENSIONS_MAX as u64)?;
                config.dimensions = u16::try_from(dimensions).ok();
            }
            "metric" => config.metric = metric(&reader.string()?)?,
            "encoding" => config.encoding = encoding(&reader.string()?)?,
            "half_life" => config.half_life_s = Some(reader.integer(1..=u64::from(u32::MAX))?),
            "associate" => config.associate = reader.boolean()?,
            "title_from_content" => config.title_from_content = reader.boolean()?,
            other => unreachable!("{other} is in FIELDS without being read"),
        }
        Ok(())
    })?;
    Ok(config)
}

/// The name of a metric.
pub fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Cosine => "cosine",
        Metric::Dot => "dot",
        Metric::L2 => "l2",
    }
}

/// The name of an encoding.
pub fn encoding_name(encoding: VectorEncoding) -> &'static str {
    match encoding {
        VectorEncoding::Int8 => "int8",
        VectorEncoding::F16 => "f16",
        VectorEncoding::F32 => "f32",
    }
}

fn metric(name: &str) -> Checked<Metric> {
    [Metric::Cosine, Metric::Dot, Metric::L2]
        .into_iter()
        .find(|metric| metric_name(*metric) == name)
        .ok_or_else(|| invalid("a metric is one of cosine, dot and l2"))
}

fn encoding(name: &str) -> Checked<VectorEncoding> {
    [VectorEncoding::Int8, VectorEncoding::F16, VectorEncoding::F32]
        .into_iter()
        .find(|encoding| encoding_name(*encoding) == name)
        .ok_or_else(|| invalid("an encoding is one of int8, f16 and f32"))
}
