//! Readers of NumPy files and of the test data of the ONNX model zoo.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use prost::Message;
use zip::ZipArchive;

use crate::{
    calibration::{
        CalibrationError, NpyError, SetTensor, npy,
        samples::Note,
        spec::{InputSpec, InputSpecs},
    },
    limits,
    onnx::{check_decoded_tensor, proto::TensorProto, tensor::to_tensor},
    tensor::Tensor,
};

/// Arrays by the name of the input they are for.
pub(super) type Arrays = Vec<(String, Tensor)>;

/// The arrays of a `.npz` file that are inputs of the model, and the other names. Only the former are read.
pub(super) fn npz(path: &Path, specs: &InputSpecs) -> Result<(Arrays, Vec<Note>), CalibrationError> {
    let damaged = |source| CalibrationError::Npz { path: path.into(), problem: npz_problem(path), source };
    let mut archive = ZipArchive::new(BufReader::new(open(path)?)).map_err(damaged)?;
    // As NumPy names them.
    let names: Vec<String> =
        archive.file_names().map(|name| name.strip_suffix(".npy").unwrap_or(name).to_owned()).collect();
    let mut read =
        |index: usize, name: &str| read_tensor(archive.by_index(index).map_err(damaged)?, path, name);
    if let ([input], [array]) = (specs.inputs.as_slice(), names.as_slice())
        && input.name != *array
    {
        let note = Note::Renamed { array: array.clone(), input: input.name.clone() };
        return Ok((vec![(input.name.clone(), read(0, array)?)], vec![note]));
    }
    let (mut arrays, mut notes) = (Vec::new(), Vec::new());
    for (index, name) in names.into_iter().enumerate() {
        if specs.inputs.iter().any(|input| input.name == name) {
            let tensor = read(index, &name)?;
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
    let tensor = read_tensor(BufReader::new(open(path)?), path, &input.name)?;
    Ok(vec![(input.name.clone(), tensor)])
}

/// The array in `reader`, which belongs to the file at `path`.
fn read_tensor(reader: impl Read, path: &Path, array: &str) -> Result<Tensor, CalibrationError> {
    let (path, array) = (path.to_path_buf(), array.to_owned());
    let file = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    npy::read(reader, limits::array_bytes(file)).map_err(|source| match source {
        NpyError::Type(found) => CalibrationError::ArrayType { path, array, found },
        source => CalibrationError::Array { path, array, source },
    })
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
    let mut bytes = Vec::new();
    open(path)?
        .read_to_end(&mut bytes)
        .map_err(|source| CalibrationError::Io { path: path.into(), source })?;
    check_decoded_tensor(path, &bytes)
        .map_err(|source| CalibrationError::Tensor { path: path.into(), source })?;
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

/// A regular file: a pipe would be waited for, and a device never ends.
fn open(path: &Path) -> Result<File, CalibrationError> {
    let failed = |source| CalibrationError::Io { path: path.into(), source };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(CalibrationError::NotAFile { path: path.into() });
    }
    File::open(path).map_err(failed)
}
