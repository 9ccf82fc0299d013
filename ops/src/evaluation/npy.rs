//! Reads matrices of numpy (NPY 1.0 and 2.0): rows of `<f4` or `<f2`.
//!
//! *Invariants*: what is not such a matrix is refused.
//!
//! *Not here*: which row belongs to what (`set`).

use std::path::Path;

use crate::failure::Failure;

/// A matrix of numbers, row by row.
#[derive(Debug, PartialEq)]
pub struct Matrix {
    /// Numbers of one row.
    pub columns: usize,
    numbers: Vec<f32>,
}

impl Matrix {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it can't be read or is no such matrix.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let bytes =
            std::fs::read(path).map_err(Failure::because(format!("{name} can't be read")))?;
        Self::parse(&bytes).map_err(|reason| Failure::new(format!("{name}: {reason}")))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.numbers.len() / self.columns
    }

    /// One row.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.numbers[at * self.columns..(at + 1) * self.columns]
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("it is no NPY file")?;
        let (length, from) = match rest {
            [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 4),
            [2, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
            _ => return Err("its NPY version is not known".to_owned()),
        };
        let header = rest.get(from..from + length).ok_or("its header is cut off")?;
        let header = std::str::from_utf8(header).map_err(|_| "its header is no text")?;
        if !header.contains("'fortran_order': False") {
            return Err("its columns come first".to_owned());
        }
        let (rows, columns) = shape(header).ok_or("it is no matrix")?;
        let data = &rest[from + length..];
        let numbers: Vec<f32> = if header.contains("'<f4'") {
            data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        } else if header.contains("'<f2'") {
            data.chunks_exact(2).map(|b| half(u16::from_le_bytes([b[0], b[1]]))).collect()
        } else {
            return Err("its numbers are neither <f4 nor <f2".to_owned());
        };
        let whole = columns > 0 && rows.checked_mul(columns) == Some(numbers.len());
        if whole { Ok(Self { columns, numbers }) } else { Err("it is cut off".to_owned()) }
    }
}

fn shape(header: &str) -> Option<(usize, usize)> {
    let (_, after) = header.split_once("'shape': (")?;
    let (inside, _) = after.split_once(')')?;
    let mut sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
    let size = (sizes.next()?.parse().ok()?, sizes.next()?.parse().ok()?);
    sizes.next().is_none().then_some(size)
}

/// IEEE half precision.
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3FF);
    match i32::from(bits >> 10 & 0x1F) {
        0 => sign * fraction * (-24_f32).exp2(),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        exponent => sign * (1024.0 + fraction) * ((exponent - 25) as f32).exp2(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn halves_and_floats_are_read_row_by_row() {
        let halves = [0x3C00_u16, 0xC000, 0x0001, 0x7BFF].map(u16::to_le_bytes).concat();
        let matrix = Matrix::parse(&file("<f2", "(2, 2)", &halves)).unwrap();
        assert_eq!(matrix.row(0), [1.0, -2.0]);
        assert_eq!(matrix.row(1), [5.960_464_5e-8, 65504.0]);
        let floats = [1.5_f32, -0.25].map(f32::to_le_bytes).concat();
        assert_eq!(Matrix::parse(&file("<f4", "(1, 2)", &floats)).unwrap().row(0), [1.5, -0.25]);
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        assert!(Matrix::parse(b"PK").is_err());
        assert!(Matrix::parse(&file("<f4", "(2, 2)", &[0; 4])).is_err());
        assert!(Matrix::parse(&file("<i8", "(1, 1)", &[0; 8])).is_err());
        assert!(Matrix::parse(&file("<f4", "(4,)", &[0; 16])).is_err());
    }
}
