//! A vector as it is kept, in bytes: for a record that must bring it back to the bit.
//!
//! *Invariants*: what [`VectorIndex::frozen`] gives, [`VectorIndex::thaw`] puts back unchanged;
//! bytes that no vector gives are refused.
//!
//! *Not here*: the embedding as the client sent it (`record`).

use super::VectorIndex;
use super::codec::{Codec, Encoded};
use super::kernel::f16_to_f32;
use super::rows::Line;
use crate::model::VectorEncoding;
use crate::node::NodeIx;

/// Bytes that are no vector of this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoVector;

impl VectorIndex {
    /// The vector of `node`: value of one unit (f32), then the elements as they are kept.
    pub fn frozen(&self, node: NodeIx) -> Option<Vec<u8>> {
        let slot = self.image.slots.slot_of(node)?;
        let encoded = self.image.vectors.encoded(&self.codec, slot);
        let mut bytes = encoded.scale.to_le_bytes().to_vec();
        let elements: &[u8] = bytemuck::cast_slice(&encoded.lines);
        bytes.extend_from_slice(&elements[..element_bytes(&self.codec)]);
        Some(bytes)
    }

    /// Gives `node` the vector that [`Self::frozen`] gave.
    ///
    /// # Errors
    /// [`NoVector`].
    pub fn thaw(&mut self, node: NodeIx, bytes: &[u8]) -> Result<(), NoVector> {
        let encoded = encoded_of(&self.codec, bytes).ok_or(NoVector)?;
        self.remove(node);
        self.store(node, &encoded);
        Ok(())
    }
}

fn element_bytes(codec: &Codec) -> usize {
    let width = match codec.encoding {
        VectorEncoding::Int8 => 1,
        VectorEncoding::F16 => 2,
        VectorEncoding::F32 => 4,
    };
    usize::from(codec.dimensions) * width
}

fn encoded_of(codec: &Codec, bytes: &[u8]) -> Option<Encoded> {
    let (scale, elements) = bytes.split_at_checked(size_of::<f32>())?;
    let scale = f32::from_le_bytes(scale.try_into().ok()?);
    if elements.len() != element_bytes(codec) || !scale.is_finite() || scale < 0.0 {
        return None;
    }
    let mut lines = vec![Line::ZERO; codec.lines()];
    bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..elements.len()].copy_from_slice(elements);
    let mut squares = 0;
    let sound = match codec.encoding {
        VectorEncoding::Int8 => {
            let codes: &[i8] = bytemuck::cast_slice(&lines);
            squares = codes.iter().map(|&code| i32::from(code).pow(2).unsigned_abs()).sum();
            !codes.contains(&i8::MIN)
        }
        VectorEncoding::F16 => {
            let halves: &[u16] = bytemuck::cast_slice(&lines);
            halves.iter().all(|&half| f16_to_f32(half).is_finite())
        }
        VectorEncoding::F32 => {
            let floats: &[f32] = bytemuck::cast_slice(&lines);
            floats.iter().all(|float| float.is_finite())
        }
    };
    sound.then_some(Encoded { lines, scale, squares })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Metric;

    #[test]
    fn a_vector_comes_back_to_the_bit() {
        for encoding in [VectorEncoding::Int8, VectorEncoding::F16, VectorEncoding::F32] {
            for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
                let mut index = VectorIndex::new(70, metric, encoding, 1);
                let vector: Vec<f32> = (0..70).map(|i| (i as f32 * 0.37).sin()).collect();
                index.insert(NodeIx(3), &vector);
                let frozen = index.frozen(NodeIx(3)).unwrap();
                let mut other = VectorIndex::new(70, metric, encoding, 1);
                other.thaw(NodeIx(3), &frozen).unwrap();
                assert_eq!(other.frozen(NodeIx(3)).unwrap(), frozen);
                let slot = |index: &VectorIndex| index.image.slots.slot_of(NodeIx(3)).unwrap();
                let row =
                    |index: &VectorIndex| index.image.vectors.encoded(&index.codec, slot(index));
                assert_eq!(row(&index), row(&other));
                assert!(other.thaw(NodeIx(4), &frozen[1..]).is_err());
            }
        }
    }

    #[test]
    fn bytes_that_no_vector_gives_are_refused() {
        let mut index = VectorIndex::new(2, Metric::Cosine, VectorEncoding::Int8, 1);
        let nan = [f32::NAN.to_le_bytes().as_slice(), &[1, 2]].concat();
        let lowest = [1f32.to_le_bytes().as_slice(), &[0x80, 2]].concat();
        assert!(index.thaw(NodeIx(0), &nan).is_err());
        assert!(index.thaw(NodeIx(0), &lowest).is_err());
        assert!(index.thaw(NodeIx(0), &[]).is_err());
    }
}
