//! Tensors as Hugging Face's safetensors writes them.

use std::{io::Read, path::Path, sync::Mutex};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::{Opened, Reader, Request, file_bytes, has_extension, open_file};
use crate::{
    calibration::{
        CalibrationError, Note,
        arrays::{Array, Arrays, Filed, array_error},
        npy::Rows,
    },
    limits,
};

/// Tensors by the names of inputs, which stay in the file.
pub(super) struct Safetensors;

impl Reader for Safetensors {
    fn id(&self) -> &'static str {
        "safetensors"
    }

    fn about(&self) -> &'static str {
        "a .safetensors file with a tensor for each input"
    }

    fn accepts(&self, path: &Path) -> bool {
        has_extension(path, "safetensors")
    }

    fn open(&self, path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError> {
        let damaged = |problem: String| CalibrationError::Safetensors { path: path.into(), problem };
        let header = header(path)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
        // The length of the header precedes it.
        let start = 8 + header.len() as u64;
        if start.saturating_add(metadata.data_len() as u64) != file_bytes(path) {
            return Err(damaged("it is cut short, or more follows after its tensors".to_owned()));
        }
        let (mut arrays, mut notes) = (Vec::new(), Vec::new());
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            if request.specs.inputs.iter().any(|input| input.name == name) {
                let array = array(path, &name, info, start)?;
                arrays.push((name, array));
            } else {
                notes.push(Note::Ignored { array: name });
            }
        }
        Ok(Opened { notes, ..Opened::new(Arrays::new(request.specs, arrays)?) })
    }
}

/// The description of the tensors, which is JSON.
fn header(path: &Path) -> Result<Vec<u8>, CalibrationError> {
    let failed = |source| CalibrationError::Io { path: path.into(), source };
    let damaged =
        || CalibrationError::Safetensors { path: path.into(), problem: "it is cut short".to_owned() };
    let mut file = open_file(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| damaged())?;
    let length = u64::from_le_bytes(length);
    // What it says is believed as far as the file goes.
    if length > file_bytes(path).min(limits::SAFETENSORS_HEADER) {
        return Err(damaged());
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(failed)?;
    Ok(header)
}

fn array(path: &Path, name: &str, info: &TensorInfo, start: u64) -> Result<Array, CalibrationError> {
    let failed = |source| array_error(path, name, source);
    let rows =
        Rows::plain(&descriptor(info.dtype), &info.shape, start.saturating_add(info.data_offsets.0 as u64));
    let rows = rows
        .map_err(failed)?
        .ok_or_else(|| CalibrationError::Empty { input: name.to_owned(), found: info.shape.clone() })?;
    Ok(Array::Filed(Filed {
        path: path.into(),
        name: name.to_owned(),
        file: Mutex::new(open_file(path)?),
        rows,
    }))
}

/// What NumPy calls a type; others have names of their own.
fn descriptor(dtype: Dtype) -> String {
    let known = match dtype {
        Dtype::BOOL => "|b1",
        Dtype::U8 => "|u1",
        Dtype::I8 => "|i1",
        Dtype::U16 => "<u2",
        Dtype::I16 => "<i2",
        Dtype::F16 => "<f2",
        Dtype::U32 => "<u4",
        Dtype::I32 => "<i4",
        Dtype::F32 => "<f4",
        Dtype::U64 => "<u8",
        Dtype::I64 => "<i8",
        Dtype::F64 => "<f8",
        other => return format!("{other:?}"),
    };
    known.to_owned()
}
