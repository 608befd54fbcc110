//! Readers of NumPy files and of the test data of the ONNX model zoo.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use half::f16;
use ndarray::{ArrayD, IxDyn, OwnedRepr};
use ndarray_npy::{NpzReader, ReadDataError, ReadNpyError, ReadNpyExt, ReadNpzError, ReadableElement};
use prost::Message;
use py_literal::Value;

use crate::{
    calibration::{
        CalibrationError, SetTensor,
        samples::Note,
        spec::{InputSpec, InputSpecs},
    },
    onnx::{proto::TensorProto, tensor::to_tensor},
    tensor::Tensor,
};

/// Arrays by the name of the input they are for.
pub(super) type Arrays = Vec<(String, Tensor)>;

/// The arrays of a `.npz` file that are inputs of the model, and the other names. Only the former are read.
pub(super) fn npz(path: &Path, specs: &InputSpecs) -> Result<(Arrays, Vec<Note>), CalibrationError> {
    let damaged = |source| CalibrationError::Npz { path: path.into(), problem: npz_problem(path), source };
    let mut reader = NpzReader::new(BufReader::new(open(path)?)).map_err(damaged)?;
    let names = reader.names().map_err(damaged)?;
    let mut read = |name: &str| read_tensor(&mut Entry { reader: &mut reader, name }, path, name);
    if let ([input], [array]) = (specs.inputs.as_slice(), names.as_slice())
        && input.name != *array
    {
        let note = Note::Renamed { array: array.clone(), input: input.name.clone() };
        return Ok((vec![(input.name.clone(), read(array)?)], vec![note]));
    }
    let (mut arrays, mut notes) = (Vec::new(), Vec::new());
    for name in names {
        if specs.inputs.iter().any(|input| input.name == name) {
            let tensor = read(&name)?;
            arrays.push((name, tensor));
        } else {
            notes.push(Note::Ignored { array: name });
        }
    }
    Ok((arrays, notes))
}

/// What is wrong with a file that should be an archive and cannot be read as one.
fn npz_problem(path: &Path) -> &'static str {
    /// What zip files begin with (APPNOTE.TXT of PKWARE, 4.3.7).
    const ZIP: &[u8] = b"PK\x03\x04";
    let mut start = Vec::new();
    let read = open(path).is_ok_and(|file| file.take(ZIP.len() as u64).read_to_end(&mut start).is_ok());
    match start.as_slice() {
        ZIP if read => "it is cut short or damaged; write it anew",
        [] if read => "it is empty",
        _ => "it is of another format; numpy.savez writes such files",
    }
}

/// The array of a `.npy` file, for the only input of the model.
pub(super) fn npy(path: &Path, specs: &InputSpecs) -> Result<Arrays, CalibrationError> {
    let [input] = specs.inputs.as_slice() else {
        return Err(CalibrationError::Unnamed { path: path.into(), inputs: specs.names() });
    };
    let tensor = read_tensor(&mut Npy(path), path, &input.name)?;
    Ok(vec![(input.name.clone(), tensor)])
}

/// Where an array can be read from, more than once.
trait Source {
    fn read<T: ReadableElement>(&mut self) -> Result<ArrayD<T>, ReadNpzError>;
}

struct Npy<'a>(&'a Path);

impl Source for Npy<'_> {
    fn read<T: ReadableElement>(&mut self) -> Result<ArrayD<T>, ReadNpzError> {
        let file = File::open(self.0).map_err(ReadNpyError::Io)?;
        Ok(ArrayD::read_npy(BufReader::new(file))?)
    }
}

struct Entry<'a> {
    reader: &'a mut NpzReader<BufReader<File>>,
    name: &'a str,
}

impl Source for Entry<'_> {
    fn read<T: ReadableElement>(&mut self) -> Result<ArrayD<T>, ReadNpzError> {
        self.reader.by_name::<OwnedRepr<T>, IxDyn>(self.name)
    }
}

/// Reads the element type first, then the array, which is decoded straight into its memory.
fn read_tensor(source: &mut impl Source, path: &Path, array: &str) -> Result<Tensor, CalibrationError> {
    let damaged = |source| CalibrationError::Array { path: path.into(), array: array.into(), source };
    let descriptor = match source.read::<Descriptor>() {
        Err(ReadNpzError::Npy(ReadNpyError::WrongDescriptor(Value::String(descriptor)))) => descriptor,
        Err(source) => return Err(damaged(source)),
        Ok(_) => String::new(),
    };
    // The first character is the byte order.
    let tensor = match descriptor.get(1..).unwrap_or_default() {
        "f4" => numbers(source).map(Tensor::F32),
        "f8" => numbers(source).map(Tensor::F64),
        "f2" => numbers(source).map(Tensor::F16),
        "i1" => numbers(source).map(Tensor::I8),
        "i2" => numbers(source).map(Tensor::I16),
        "i4" => numbers(source).map(Tensor::I32),
        "i8" => numbers(source).map(Tensor::I64),
        "u1" => numbers(source).map(Tensor::U8),
        "u2" => numbers(source).map(Tensor::U16),
        "u4" => numbers(source).map(Tensor::U32),
        "u8" => numbers(source).map(Tensor::U64),
        "b1" => numbers::<u8>(source).map(|bytes| Tensor::Bool(bytes.mapv(|byte| byte != 0))),
        _ => {
            let (path, array) = (path.into(), array.into());
            return Err(CalibrationError::ArrayType { path, array, found: descriptor });
        }
    };
    tensor.map_err(damaged)
}

/// The array in row-major order.
fn numbers<T: Number>(source: &mut impl Source) -> Result<ArrayD<T>, ReadNpzError> {
    let array = source.read::<Element<T>>()?;
    if !array.is_standard_layout() {
        return Ok(array.as_standard_layout().mapv(|element| element.0));
    }
    let shape = array.raw_dim();
    // The elements are converted where they lie.
    let elements = array.into_raw_vec_and_offset().0.into_iter().map(|element| element.0).collect();
    ArrayD::from_shape_vec(shape, elements)
        .map_err(|e| ReadNpyError::Io(io::Error::new(io::ErrorKind::InvalidData, e)).into())
}

/// An element that is never read: the refusal tells the type of the array.
struct Descriptor;

impl ReadableElement for Descriptor {
    fn read_to_end_exact_vec<R: Read>(
        _: R,
        descriptor: &Value,
        _: usize,
    ) -> Result<Vec<Self>, ReadDataError> {
        Err(ReadDataError::WrongDescriptor(descriptor.clone()))
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

/// An element that is read piece by piece, so that memory is taken for what a file holds, not for what it says it holds.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Element<T>(T);

impl<T: Number> ReadableElement for Element<T> {
    fn read_to_end_exact_vec<R: Read>(
        mut reader: R,
        descriptor: &Value,
        len: usize,
    ) -> Result<Vec<Self>, ReadDataError> {
        const PIECE: usize = 1 << 16;
        let order = descriptor.as_string().and_then(|text| text.chars().next());
        let big_endian = order.map_or(cfg!(target_endian = "big"), |order| order == '>');
        let mut piece = [0; PIECE];
        let mut elements = Vec::new();
        while elements.len() < len {
            let bytes = (len - elements.len()).saturating_mul(T::SIZE).min(PIECE);
            let Some(part) = piece.get_mut(..bytes) else { break };
            reader.read_exact(part).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => ReadDataError::MissingData,
                _ => e.into(),
            })?;
            elements.extend(part.chunks(T::SIZE).map(|bytes| Self(T::from_bytes(bytes, big_endian))));
        }
        match reader.read(&mut piece)? {
            0 => Ok(elements),
            more => Err(ReadDataError::ExtraBytes(more)),
        }
    }
}

/// The test data of the model zoo under `folder`: all `test_data_set_N`, or the folder itself when it is one such set.
/// Every set is a batch; the batches are laid one after another in the order of `N`.
pub(super) fn test_data(folder: &Path, specs: &InputSpecs) -> Result<Arrays, CalibrationError> {
    let mut folders = test_data_sets(folder)?;
    if folders.is_empty() {
        folders.push(folder.into());
    }
    let sets = folders
        .into_iter()
        .map(|folder| Ok((test_data_set(&folder, specs)?, folder)))
        .collect::<Result<Vec<_>, CalibrationError>>()?;
    specs.inputs.iter().filter_map(|input| join(input, &sets).transpose()).collect()
}

/// The folders `test_data_set_N` in `folder`, by ascending N.
pub(super) fn test_data_sets(folder: &Path) -> Result<Vec<PathBuf>, CalibrationError> {
    let mut sets = numbered(folder, "test_data_set_", "")?;
    sets.retain(|(_, path)| path.is_dir());
    Ok(sets.into_iter().map(|(_, path)| path).collect())
}

/// The tensors of one set: by their names if those are all inputs, otherwise by the number in the file name, as exporters
/// rename inputs but keep their order.
fn test_data_set(folder: &Path, specs: &InputSpecs) -> Result<Arrays, CalibrationError> {
    let files = numbered(folder, "input_", ".pb")?;
    if files.is_empty() {
        return Err(CalibrationError::NoTestData { path: folder.into() });
    }
    let mut tensors = Vec::new();
    for (index, path) in files {
        let (name, tensor) = read_proto(&path)?;
        tensors.push((index, path, name, tensor));
    }
    let named = specs.inputs.iter().filter(|input| tensors.iter().any(|(_, _, name, _)| *name == input.name));
    let by_name = named.count() == tensors.len();
    let place = |(index, path, name, tensor): (usize, PathBuf, String, Tensor)| {
        if by_name {
            return Ok((name, tensor));
        }
        let inputs = specs.inputs.len();
        let input = specs.inputs.get(index).ok_or(CalibrationError::SurplusInput { path, index, inputs })?;
        Ok((input.name.clone(), tensor))
    };
    tensors.into_iter().map(place).collect()
}

fn read_proto(path: &Path) -> Result<(String, Tensor), CalibrationError> {
    let bytes = std::fs::read(path).map_err(|source| CalibrationError::Io { path: path.into(), source })?;
    let proto = TensorProto::decode(bytes.as_slice())
        .map_err(|source| CalibrationError::Protobuf { path: path.into(), source })?;
    let tensor =
        to_tensor(&proto).map_err(|source| CalibrationError::Tensor { path: path.into(), source })?;
    Ok((proto.name().to_owned(), tensor))
}

/// One input from all sets; `None` when the first does not have it.
fn join(input: &InputSpec, sets: &[(Arrays, PathBuf)]) -> Result<Option<(String, Tensor)>, CalibrationError> {
    let parts: Vec<(&Tensor, &Path)> = sets
        .iter()
        .filter_map(|(arrays, folder)| {
            let (_, tensor) = arrays.iter().find(|(name, _)| *name == input.name)?;
            Some((tensor, folder.as_path()))
        })
        .collect();
    let Some(&(first, first_folder)) = parts.first() else { return Ok(None) };
    let skipped = usize::from(input.batched);
    for &(second, second_folder) in &parts {
        let alike = first.dtype() == second.dtype()
            && first.rank() == second.rank()
            && first.shape().iter().skip(skipped).eq(second.shape().iter().skip(skipped));
        if !alike {
            let described = |tensor: &Tensor, set: &Path| {
                Box::new(SetTensor { dtype: tensor.dtype(), shape: tensor.shape().into(), set: set.into() })
            };
            return Err(CalibrationError::SetsDiffer {
                input: input.name.clone(),
                first: described(first, first_folder),
                second: described(second, second_folder),
            });
        }
        if !input.batched && first != second {
            let (first, second) = (first_folder.into(), second_folder.into());
            return Err(CalibrationError::WholeDiffers { input: input.name.clone(), first, second });
        }
    }
    let joined = if input.batched && first.rank() > 0 {
        Tensor::concat(&parts.iter().map(|(tensor, _)| (*tensor).clone()).collect::<Vec<_>>(), 0)
    } else {
        Some(first.clone())
    };
    Ok(joined.map(|tensor| (input.name.clone(), tensor)))
}

/// The entries of `folder` that are called `prefix`, a number, `suffix`, by ascending number.
fn numbered(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<(usize, PathBuf)>, CalibrationError> {
    let io = |source| CalibrationError::Io { path: folder.into(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok());
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn open(path: &Path) -> Result<File, CalibrationError> {
    File::open(path).map_err(|source| CalibrationError::Io { path: path.into(), source })
}
