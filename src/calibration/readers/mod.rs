//! Formats of calibration data: one file per reader, and [`READERS`] lists them.

mod images;
mod npy;
mod npz;
mod safetensors;
pub(super) mod test_data;
mod text;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    CalibrationError, CalibrationOptions, Note, Source,
    arrays::{Array, Filed, array_error},
    npy::Rows,
    spec::InputSpecs,
};
use crate::warning::Warning;

/// All formats that are read, in the order in which they are tried.
pub(super) static READERS: &[&dyn Reader] =
    &[&npz::Npz, &npy::Npy, &safetensors::Safetensors, &test_data::TestData, &images::Images, &text::Text];

/// A format of calibration data.
pub(super) trait Reader: Sync {
    /// Its name, unique and never changed: `npz`.
    fn id(&self) -> &'static str;

    /// What it reads, as the end of the sentence "calibration data may be ...".
    fn about(&self) -> &'static str;

    /// Whether what is at `path` is of this format, by its name and, of a folder, by the names in it.
    fn accepts(&self, path: &Path) -> bool;

    /// Opens what is at `path` for a model, as the request says. What is large is read by the source, batch by batch.
    ///
    /// # Errors
    /// When it is damaged, or cannot belong to such a model. Whether its samples suit the model is checked later, for all
    /// formats alike.
    fn open(&self, path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError>;
}

/// What samples are wanted.
pub(super) struct Request<'a> {
    /// The inputs of the model.
    pub specs: &'a InputSpecs,
    /// The folder of the model, if it is in one. What belongs to a model is looked for there.
    pub beside: Option<&'a Path>,
    /// What else is said of them.
    pub options: &'a CalibrationOptions,
}

impl Request<'_> {
    /// The file `name` beside the model, or else in the folder `data`.
    fn companion(&self, name: &str, data: &Path) -> Option<PathBuf> {
        self.beside.into_iter().chain([data]).map(|folder| folder.join(name)).find(|path| path.is_file())
    }
}

/// Calibration data that have been opened.
pub(super) struct Opened {
    /// The samples.
    pub source: Arc<dyn Source>,
    /// What their owner may want to know of.
    pub notes: Vec<Note>,
    /// What their owner has to know.
    pub warnings: Vec<Warning>,
    /// How many are used where nobody says how many; `None`: all.
    pub enough: Option<usize>,
}

impl Opened {
    /// Samples of which there is nothing to say, and of which all are used.
    pub fn new(source: impl Source + 'static) -> Self {
        Self::of(Arc::new(source))
    }

    /// The same, of a source that is shared.
    pub fn of(source: Arc<dyn Source>) -> Self {
        Self { source, notes: Vec::new(), warnings: Vec::new(), enough: None }
    }
}

/// Opens what is at `path` by the first reader that accepts it.
pub(super) fn open(path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError> {
    if let Some(reader) = READERS.iter().find(|reader| reader.accepts(path)) {
        return reader.open(path, request);
    }
    if path.is_dir() {
        // A folder that may not be looked into holds nothing known either, for another reason.
        std::fs::read_dir(path).map_err(|source| CalibrationError::Io { path: path.into(), source })?;
    }
    Err(CalibrationError::UnknownFormat { path: path.into(), known: accepted() })
}

/// What the readers accept, for people: `a .npz file ..., or a folder ...`.
pub fn accepted() -> String {
    let abouts: Vec<&str> = READERS.iter().map(|reader| reader.about()).collect();
    match abouts.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{}, or {last}", others.join(", ")),
        _ => abouts.concat(),
    }
}

/// Names of the readers, each with what it reads.
pub fn formats() -> impl Iterator<Item = (&'static str, &'static str)> {
    READERS.iter().map(|reader| (reader.id(), reader.about()))
}

/// Whether `path` is no folder and its name ends in this extension, in letters of any case.
fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension)) && !path.is_dir()
}

/// A regular file: a pipe would be waited for, and a device never ends.
fn open_file(path: &Path) -> Result<File, CalibrationError> {
    let failed = |source| CalibrationError::Io { path: path.into(), source };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(CalibrationError::NotAFile { path: path.into() });
    }
    File::open(path).map_err(failed)
}

/// Bytes of the file at `path`.
fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The array `name` that takes `length` bytes of the file at `path` from `offset` on, if its rows can be read one by one.
fn filed(path: &Path, name: &str, offset: u64, length: u64) -> Result<Option<Array>, CalibrationError> {
    use std::io::{BufReader, Seek, SeekFrom};
    let failed = |source| CalibrationError::Io { path: path.into(), source };
    let mut file = open_file(path)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let found = Rows::find(BufReader::new(&mut file), offset, length);
    let rows = found.map_err(|source| array_error(path, name, source))?;
    Ok(rows.map(|rows| {
        Array::Filed(Filed { path: path.into(), name: name.to_owned(), file: Mutex::new(file), rows })
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn readers_have_names_of_their_own() {
        let ids: BTreeSet<&str> = formats().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), READERS.len());
        assert!(formats().all(|(_, about)| accepted().contains(about)));
    }
}
