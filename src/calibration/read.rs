//! Readers of NumPy files and of the test data of the ONNX model zoo.

use std::{
    fs::File,
    io::{BufReader, Read},
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
    let damaged = |source| CalibrationError::Npz { path: path.into(), source };
    let mut reader = NpzReader::new(BufReader::new(open(path)?)).map_err(damaged)?;
    let (mut arrays, mut notes) = (Vec::new(), Vec::new());
    for name in reader.names().map_err(damaged)? {
        if specs.inputs.iter().any(|input| input.name == name) {
            let tensor = read_tensor(&mut Entry { reader: &mut reader, name: &name }, path, &name)?;
            arrays.push((name, tensor));
        } else {
            notes.push(Note::Ignored { array: name });
        }
    }
    Ok((arrays, notes))
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
        "f4" => source.read().map(row_major).map(Tensor::F32),
        "f8" => source.read().map(row_major).map(Tensor::F64),
        "f2" => source.read::<Half>().map(|a| Tensor::F16(row_major(a).mapv(|x| x.0))),
        "i1" => source.read().map(row_major).map(Tensor::I8),
        "i2" => source.read().map(row_major).map(Tensor::I16),
        "i4" => source.read().map(row_major).map(Tensor::I32),
        "i8" => source.read().map(row_major).map(Tensor::I64),
        "u1" => source.read().map(row_major).map(Tensor::U8),
        "u2" => source.read().map(row_major).map(Tensor::U16),
        "u4" => source.read().map(row_major).map(Tensor::U32),
        "u8" => source.read().map(row_major).map(Tensor::U64),
        "b1" => source.read().map(row_major).map(Tensor::Bool),
        _ => {
            let (path, array) = (path.into(), array.into());
            return Err(CalibrationError::ArrayType { path, array, found: descriptor });
        }
    };
    tensor.map_err(damaged)
}

/// Fortran order is turned, row-major order left where it is.
fn row_major<T: Clone>(array: ArrayD<T>) -> ArrayD<T> {
    if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() }
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

/// A half-precision float, which `ndarray-npy` does not know.
#[derive(Clone, Copy)]
struct Half(f16);

impl ReadableElement for Half {
    fn read_to_end_exact_vec<R: Read>(
        reader: R,
        descriptor: &Value,
        len: usize,
    ) -> Result<Vec<Self>, ReadDataError> {
        let decode = match descriptor.as_string().map(String::as_str) {
            Some("<f2") => f16::from_le_bytes,
            Some(">f2") => f16::from_be_bytes,
            _ => return Err(ReadDataError::WrongDescriptor(descriptor.clone())),
        };
        // Bytes of the same number of 16-bit integers.
        let bits = u16::read_to_end_exact_vec(reader, &Value::String("<u2".into()), len)?;
        Ok(bits.into_iter().map(|bits| Self(decode(bits.to_le_bytes()))).collect())
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
