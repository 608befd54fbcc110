//! Arrays as NumPy writes them (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! The header is a literal of Python, of which only what describes arrays of numbers is read: no nesting, so that no stack
//! can overflow, and no objects, which are programs. Memory is taken for what a file holds, not for what it says it holds.

use std::{
    fmt,
    io::{self, Read},
};

use half::f16;
use ndarray::{Array, ArrayD, IxDyn, ShapeBuilder};

use crate::{limits, tensor::Tensor};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Why an array could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NpyError {
    /// It ends too soon, or the system or the archive refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it does not begin as an array of NumPy does")]
    Magic,
    /// It ends within its description, or before.
    #[error("it is empty or cut short: it ends before its elements begin")]
    Short,
    /// A version that came later.
    #[error("it is of version {0} of the format; versions 1 to 3 can be read")]
    Version(u8),
    /// The description is too long to be one.
    #[error("its header takes {0} bytes, which no array of numbers needs")]
    HeaderLength(usize),
    /// The description makes no sense.
    #[error("its header is damaged: {0}")]
    Header(&'static str),
    /// The elements are no numbers.
    #[error("its elements are of the type {0}")]
    Type(String),
    /// There is less than the header says.
    #[error("it is cut short: elements are missing")]
    Missing,
    /// There is more than the header says.
    #[error("more follows after its elements")]
    Surplus,
    /// It would expand beyond the bounds.
    #[error("it has the shape {shape}, which takes more than the {most} bytes that are read of such a file")]
    TooLarge { shape: Shape, most: u64 },
}

/// An array's shape, as long as it is short enough to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<u64>);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What the header says.
struct Header {
    /// Byte order, kind and size: `<f4`.
    descriptor: String,
    /// Whether the first axis is the one whose elements are neighbours.
    fortran: bool,
    shape: Vec<u64>,
}

/// Reads an array to the end of `reader`, if it takes at most `most` bytes.
pub(super) fn read(mut reader: impl Read, most: u64) -> Result<Tensor, NpyError> {
    let header = Header::read(&mut reader).map_err(|error| match error {
        NpyError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => NpyError::Short,
        error => error,
    })?;
    let mut array = Contents { reader, header, most };
    // The first character is the byte order.
    Ok(match array.header.descriptor.get(1..).unwrap_or_default() {
        "f4" => Tensor::F32(array.numbers()?),
        "f8" => Tensor::F64(array.numbers()?),
        "f2" => Tensor::F16(array.numbers()?),
        "i1" => Tensor::I8(array.numbers()?),
        "i2" => Tensor::I16(array.numbers()?),
        "i4" => Tensor::I32(array.numbers()?),
        "i8" => Tensor::I64(array.numbers()?),
        "u1" => Tensor::U8(array.numbers()?),
        "u2" => Tensor::U16(array.numbers()?),
        "u4" => Tensor::U32(array.numbers()?),
        "u8" => Tensor::U64(array.numbers()?),
        "b1" => Tensor::Bool(array.numbers::<u8>()?.mapv(|byte| byte != 0)),
        _ => return Err(NpyError::Type(array.header.descriptor)),
    })
}

impl Header {
    fn read(reader: &mut impl Read) -> Result<Self, NpyError> {
        let mut start = [0; 8];
        reader.read_exact(&mut start)?;
        let [magic @ .., major, _] = start;
        if magic != *MAGIC {
            return Err(NpyError::Magic);
        }
        let mut length = [0; 4];
        let width = match major {
            1 => 2,
            2 | 3 => 4,
            _ => return Err(NpyError::Version(major)),
        };
        reader.read_exact(length.get_mut(..width).unwrap_or_default())?;
        let length = u32::from_le_bytes(length) as usize;
        if length > limits::NUMPY_HEADER {
            return Err(NpyError::HeaderLength(length));
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| NpyError::Header("it is not text"))?;
        Self::parse(Literal(&text))
    }

    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, in any order.
    fn parse(mut text: Literal<'_>) -> Result<Self, NpyError> {
        let (mut descriptor, mut fortran, mut shape) = (None, None, None);
        text.expect("{")?;
        while !text.eat("}") {
            let key = text.string()?;
            text.expect(":")?;
            match key {
                "descr" => descriptor = Some(text.descriptor()?.to_owned()),
                "fortran_order" => fortran = Some(text.truth()?),
                "shape" => shape = Some(text.numbers()?),
                _ => return Err(NpyError::Header("it has an unknown key")),
            }
            if !text.eat(",") {
                text.expect("}")?;
                break;
            }
        }
        match (descriptor, fortran, shape) {
            (Some(descriptor), Some(fortran), Some(shape)) => Ok(Self { descriptor, fortran, shape }),
            _ => Err(NpyError::Header("a key is missing")),
        }
    }
}

/// What is left of a literal of Python.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn eat(&mut self, token: &str) -> bool {
        let rest = self.0.trim_start();
        let found = rest.strip_prefix(token);
        self.0 = found.unwrap_or(rest);
        found.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), NpyError> {
        if self.eat(token) { Ok(()) } else { Err(NpyError::Header("it is no dictionary of simple values")) }
    }

    fn string(&mut self) -> Result<&'a str, NpyError> {
        let expected = || NpyError::Header("a text is expected");
        let quote = ["'", "\""].into_iter().find(|quote| self.eat(quote)).ok_or_else(expected)?;
        let (text, rest) = self.0.split_once(quote).ok_or_else(expected)?;
        self.0 = rest;
        Ok(text)
    }

    /// A text, or what stands in its place: arrays of records have a list.
    fn descriptor(&mut self) -> Result<&'a str, NpyError> {
        if self.0.trim_start().starts_with('[') {
            return Err(NpyError::Type(self.0.trim().chars().take(40).collect()));
        }
        self.string()
    }

    fn truth(&mut self) -> Result<bool, NpyError> {
        if self.eat("True") {
            return Ok(true);
        }
        self.expect("False").map(|()| false)
    }

    fn numbers(&mut self) -> Result<Vec<u64>, NpyError> {
        let mut numbers = Vec::new();
        self.expect("(")?;
        while !self.eat(")") {
            let rest = self.0.trim_start();
            let (digits, rest) =
                rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
            numbers.push(digits.parse().map_err(|_| NpyError::Header("an extent is no number"))?);
            // As Python 2 marked long integers.
            self.0 = rest.strip_prefix('L').unwrap_or(rest);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(numbers)
    }
}

/// The elements after a header.
struct Contents<R> {
    reader: R,
    header: Header,
    most: u64,
}

impl<R: Read> Contents<R> {
    /// The elements in row-major order.
    fn numbers<T: Number>(&mut self) -> Result<ArrayD<T>, NpyError> {
        let Header { shape, fortran, descriptor } = &self.header;
        let too_large = || NpyError::TooLarge { shape: Shape(shape.clone()), most: self.most };
        // Axes without elements do not make others small: arrays multiply all of them.
        let bytes =
            shape.iter().try_fold(T::SIZE as u64, |bytes, extent| bytes.checked_mul((*extent).max(1)));
        bytes.filter(|bytes| *bytes <= self.most).ok_or_else(too_large)?;
        let extents: Vec<usize> = shape.iter().map(|extent| *extent as usize).collect();
        let elements = elements(&mut self.reader, extents.iter().product(), descriptor.starts_with('>'))?;
        let array = Array::from_shape_vec(IxDyn(&extents).set_f(*fortran), elements);
        let array = array.map_err(|_| NpyError::Header("the shape is impossible"))?;
        Ok(if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() })
    }
}

/// Reads `count` elements piece by piece, and makes sure that no more follow.
fn elements<T: Number>(reader: &mut impl Read, count: usize, big_endian: bool) -> Result<Vec<T>, NpyError> {
    const PIECE: usize = 1 << 16;
    let mut piece = vec![0; PIECE];
    let mut elements = Vec::new();
    while elements.len() < count {
        let bytes = (count - elements.len()).saturating_mul(T::SIZE).min(PIECE);
        let Some(part) = piece.get_mut(..bytes) else { break };
        reader.read_exact(part).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => NpyError::Missing,
            _ => NpyError::Io(e),
        })?;
        elements.extend(part.chunks(T::SIZE).map(|bytes| T::from_bytes(bytes, big_endian)));
    }
    match reader.read(&mut piece)? {
        0 => Ok(elements),
        _ => Err(NpyError::Surplus),
    }
}

/// A number of fixed size.
trait Number: Copy {
    const SIZE: usize;
    /// The number in these bytes, of which there are as many as it takes.
    fn from_bytes(bytes: &[u8], big_endian: bool) -> Self;
}

macro_rules! number {
    ($($number:ty),*) => {$(
        impl Number for $number {
            const SIZE: usize = size_of::<$number>();

            fn from_bytes(bytes: &[u8], big_endian: bool) -> Self {
                let mut own = [0; size_of::<$number>()];
                own.iter_mut().zip(bytes).for_each(|(own, byte)| *own = *byte);
                if big_endian { Self::from_be_bytes(own) } else { Self::from_le_bytes(own) }
            }
        }
    )*};
}

number!(f32, f64, f16, i8, i16, i32, i64, u8, u16, u32, u64);
