//! Archives of NumPy: `numpy.savez`.

use std::{
    io::{self, BufReader, Read},
    path::Path,
};

use zip::{CompressionMethod, ZipArchive, read::ZipFile};

use super::{Opened, Reader, Request, file_bytes, filed, has_extension, open_file};
use crate::{
    calibration::{
        CalibrationError, Note, NpyError,
        arrays::{Array, Arrays, array_error},
        npy,
    },
    limits,
};

/// Arrays by the names of inputs. Those that are not compressed stay in the file, and their rows are read as they are asked for;
/// the others are unpacked into memory.
pub(super) struct Npz;

impl Reader for Npz {
    fn id(&self) -> &'static str {
        "npz"
    }

    fn about(&self) -> &'static str {
        "a .npz file with an array for each input"
    }

    fn accepts(&self, path: &Path) -> bool {
        has_extension(path, "npz")
    }

    fn open(&self, path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError> {
        let specs = request.specs;
        let damaged = |source| CalibrationError::Npz { path: path.into(), problem: problem(path), source };
        let mut archive = ZipArchive::new(BufReader::new(open_file(path)?)).map_err(damaged)?;
        // As NumPy names them.
        let names: Vec<String> =
            archive.file_names().map(|name| name.strip_suffix(".npy").unwrap_or(name).to_owned()).collect();
        let mut read =
            |index: usize, name: &str| member(archive.by_index(index).map_err(damaged)?, path, name);
        let (mut arrays, mut notes) = (Vec::new(), Vec::new());
        if let ([input], [array]) = (specs.inputs.as_slice(), names.as_slice())
            && input.name != *array
        {
            arrays.push((input.name.clone(), read(0, array)?));
            notes.push(Note::Renamed { array: array.clone(), input: input.name.clone() });
        } else {
            // The others are not read.
            for (index, name) in names.into_iter().enumerate() {
                if specs.inputs.iter().any(|input| input.name == name) {
                    let array = read(index, &name)?;
                    arrays.push((name, array));
                } else {
                    notes.push(Note::Ignored { array: name });
                }
            }
        }
        Ok(Opened { notes, ..Opened::new(Arrays::new(specs, arrays)?) })
    }
}

/// The array in a member of the archive at `path`.
fn member<R: Read>(mut file: ZipFile<'_, R>, path: &Path, name: &str) -> Result<Array, CalibrationError> {
    let length = file.size();
    if file.compression() == CompressionMethod::Stored
        && let Some(array) = filed(path, name, file.data_start(), length)?
    {
        // Reading it to the end checks its sum, which rows that are read apart do not.
        let read = io::copy(&mut file, &mut io::sink()).map_err(NpyError::Io);
        let all = read.and_then(|read| if read == length { Ok(array) } else { Err(NpyError::Missing) });
        return all.map_err(|source| array_error(path, name, source));
    }
    let tensor = npy::read(file, limits::array_bytes(file_bytes(path)));
    tensor.map(Array::Held).map_err(|source| array_error(path, name, source))
}

/// What is wrong with a file that should be an archive and cannot be read as one.
fn problem(path: &Path) -> &'static str {
    /// What zip files begin with (APPNOTE.TXT of PKWARE, 4.3.7).
    const ZIP: &[u8] = b"PK\x03\x04";
    let mut start = Vec::new();
    let read = open_file(path).is_ok_and(|file| file.take(ZIP.len() as u64).read_to_end(&mut start).is_ok());
    match start.as_slice() {
        ZIP if read => "it is cut short or damaged; write it anew",
        [] if read => "it is empty",
        _ => "it is of another format; numpy.savez writes such files",
    }
}
