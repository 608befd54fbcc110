//! Arrays as NumPy writes them (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! The header is a literal of Python, of which only what describes arrays of numbers is read: no nesting, so that no stack
//! can overflow, and no objects, which are programs. Memory is taken for what a file holds, not for what it says it holds.

use std::{
    cmp::Ordering,
    fmt,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
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
#[derive(Clone)]
struct Header {
    /// Bytes that it takes itself.
    length: u64,
    /// Byte order, kind and size: `<f4`.
    descriptor: String,
    /// Whether the first axis is the one whose elements are neighbours.
    fortran: bool,
    shape: Vec<u64>,
}

/// Reads an array to the end of `reader`, if it takes at most `most` bytes.
pub(super) fn read(mut reader: impl Read, most: u64) -> Result<Tensor, NpyError> {
    let header = Header::begin(&mut reader)?;
    Contents { reader, header, most }.tensor()
}

/// An array in a file, whose rows are read when they are asked for. A row is an entry of the first axis.
pub(super) struct Rows {
    header: Header,
    /// Where in the file its elements begin.
    start: u64,
    /// Bytes of a row.
    row: u64,
}

impl Rows {
    /// The array that begins at `offset` in a file and takes `length` bytes of it, where `reader` stands. `None` if its rows do not
    /// lie one after another, or there are none.
    pub fn find(mut reader: impl Read, offset: u64, length: u64) -> Result<Option<Self>, NpyError> {
        let header = Header::begin(&mut reader)?;
        let element = header.element()?;
        let bytes = header.bytes(element, u64::MAX)?;
        let Some(rows) = header.shape.first().filter(|_| !header.fortran && !header.shape.contains(&0))
        else {
            return Ok(None);
        };
        match bytes.cmp(&length.saturating_sub(header.length)) {
            Ordering::Greater => return Err(NpyError::Missing),
            Ordering::Less => return Err(NpyError::Surplus),
            Ordering::Equal => {}
        }
        let row = bytes / rows;
        Ok(Some(Self { start: offset.saturating_add(header.length), row, header }))
    }

    /// Elements of this type in row-major order, from `start` on in a file. `None` if there are no rows.
    pub fn plain(descriptor: &str, shape: &[usize], start: u64) -> Result<Option<Self>, NpyError> {
        let shape: Vec<u64> = shape.iter().map(|extent| *extent as u64).collect();
        let header = Header { length: 0, descriptor: descriptor.to_owned(), fortran: false, shape };
        let bytes = header.bytes(header.element()?, u64::MAX)?;
        let rows = header.shape.first().filter(|_| !header.shape.contains(&0));
        Ok(rows.map(|rows| bytes / rows).map(|row| Self { header, start, row }))
    }

    /// Extent of every axis, none of them zero.
    pub fn shape(&self) -> Vec<usize> {
        self.header.shape.iter().map(|extent| *extent as usize).collect()
    }

    /// Reads some rows, which must be among those that there are.
    pub fn read(&self, mut file: impl Read + Seek, rows: Range<usize>) -> Result<Tensor, NpyError> {
        let mut header = self.header.clone();
        if let Some(extent) = header.shape.first_mut() {
            *extent = rows.len() as u64;
        }
        let most = self.row.saturating_mul(rows.len() as u64);
        file.seek(SeekFrom::Start(self.start.saturating_add(self.row.saturating_mul(rows.start as u64))))?;
        Contents { reader: file.take(most), header, most }.tensor()
    }
}

impl Header {
    /// The header of the array that `reader` is to give.
    fn begin(reader: &mut impl Read) -> Result<Self, NpyError> {
        Self::read(reader).map_err(|error| match error {
            NpyError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => NpyError::Short,
            error => error,
        })
    }

    /// Kind and size of elements: `f4`.
    fn kind(&self) -> &str {
        // The first character is the byte order.
        self.descriptor.get(1..).unwrap_or_default()
    }

    /// Bytes of an element.
    fn element(&self) -> Result<u64, NpyError> {
        Ok(match self.kind() {
            "i1" | "u1" | "b1" => 1,
            "f2" | "i2" | "u2" => 2,
            "f4" | "i4" | "u4" => 4,
            "f8" | "i8" | "u8" => 8,
            _ => return Err(NpyError::Type(self.descriptor.clone())),
        })
    }

    /// Bytes of all elements, if those are at most `most`.
    fn bytes(&self, element: u64, most: u64) -> Result<u64, NpyError> {
        // Axes without elements do not make others small: arrays multiply all of them.
        let bytes = self.shape.iter().try_fold(element, |bytes, extent| bytes.checked_mul((*extent).max(1)));
        let too_large = || NpyError::TooLarge { shape: Shape(self.shape.clone()), most };
        bytes.filter(|bytes| *bytes <= most).ok_or_else(too_large)
    }

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
        let all = start.len() + width + length;
        Ok(Self { length: all as u64, ..Self::parse(Literal(&text))? })
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
            (Some(descriptor), Some(fortran), Some(shape)) => {
                Ok(Self { length: 0, descriptor, fortran, shape })
            }
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
    fn tensor(mut self) -> Result<Tensor, NpyError> {
        Ok(match self.header.kind() {
            "f4" => Tensor::F32(self.numbers()?),
            "f8" => Tensor::F64(self.numbers()?),
            "f2" => Tensor::F16(self.numbers()?),
            "i1" => Tensor::I8(self.numbers()?),
            "i2" => Tensor::I16(self.numbers()?),
            "i4" => Tensor::I32(self.numbers()?),
            "i8" => Tensor::I64(self.numbers()?),
            "u1" => Tensor::U8(self.numbers()?),
            "u2" => Tensor::U16(self.numbers()?),
            "u4" => Tensor::U32(self.numbers()?),
            "u8" => Tensor::U64(self.numbers()?),
            "b1" => Tensor::Bool(self.numbers::<u8>()?.mapv(|byte| byte != 0)),
            _ => return Err(NpyError::Type(self.header.descriptor)),
        })
    }

    /// The elements in row-major order.
    fn numbers<T: Number>(&mut self) -> Result<ArrayD<T>, NpyError> {
        self.header.bytes(T::SIZE as u64, self.most)?;
        let Header { shape, fortran, descriptor, .. } = &self.header;
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
