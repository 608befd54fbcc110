//! The test data of the ONNX model zoo: `test_data_set_N/input_I.pb`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use prost::Message;

use super::{Opened, Reader, Request, open_file};
use crate::{
    calibration::{
        CalibrationError, SetTensor,
        arrays::Arrays,
        spec::{InputSpec, InputSpecs},
    },
    onnx::{check_decoded_tensor, proto::TensorProto, tensor::to_tensor},
    tensor::Tensor,
};

/// Tensors by the name of the input they are for.
type Tensors = Vec<(String, Tensor)>;

/// A folder of sets, or one set, which are laid one after another in memory.
pub(in crate::calibration) struct TestData;

impl Reader for TestData {
    fn id(&self) -> &'static str {
        "test-data"
    }

    fn about(&self) -> &'static str {
        "a folder with test_data_set_N/input_I.pb"
    }

    fn accepts(&self, path: &Path) -> bool {
        let holds = |prefix, suffix| numbered(path, prefix, suffix).is_ok_and(|found| !found.is_empty());
        holds("test_data_set_", "") || holds("input_", ".pb")
    }

    fn open(&self, path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError> {
        let specs = request.specs;
        Ok(Opened::new(Arrays::held(specs, joined(path, specs)?)?))
    }
}

/// The test data of the model zoo under `folder`: all `test_data_set_N`, or the folder itself when it is one such set.
/// Every set is a batch; the batches are laid one after another in the order of `N`.
fn joined(folder: &Path, specs: &InputSpecs) -> Result<Tensors, CalibrationError> {
    let mut folders = sets(folder)?;
    if folders.is_empty() {
        folders.push(folder.into());
    }
    let sets = folders
        .into_iter()
        .map(|folder| Ok((set(&folder, specs)?, folder)))
        .collect::<Result<Vec<_>, CalibrationError>>()?;
    specs.inputs.iter().filter_map(|input| join(input, &sets).transpose()).collect()
}

/// The folders `test_data_set_N` in `folder`, by ascending N.
pub(in crate::calibration) fn sets(folder: &Path) -> Result<Vec<PathBuf>, CalibrationError> {
    let mut sets = numbered(folder, "test_data_set_", "")?;
    sets.retain(|(_, path)| path.is_dir());
    Ok(sets.into_iter().map(|(_, path)| path).collect())
}

/// The tensors of one set: by their names if those are all inputs, otherwise by the number in the file name, as exporters
/// rename inputs but keep their order.
fn set(folder: &Path, specs: &InputSpecs) -> Result<Tensors, CalibrationError> {
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
    open_file(path)?
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
fn join(
    input: &InputSpec,
    sets: &[(Tensors, PathBuf)],
) -> Result<Option<(String, Tensor)>, CalibrationError> {
    let parts: Vec<(&Tensor, &Path)> = sets
        .iter()
        .filter_map(|(tensors, folder)| {
            let (_, tensor) = tensors.iter().find(|(name, _)| *name == input.name)?;
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
