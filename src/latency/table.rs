//! Times that were measured, by what they depend on: kept in a file, nothing is timed twice, and plans come out the same.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::staging::{self, StagedFile, WriteError};

/// The version of the format (`docs/latency-table.schema.json`). It is raised when a field changes its meaning.
const VERSION: u32 = 1;

/// Bytes of a file of times; one entry takes some fifty.
const LARGEST: u64 = 1 << 28;

/// Times of models and of their parts on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    schema_version: u32,
    /// What the times hold for.
    device: String,
    /// Picoseconds, by a hash of the structure and all shapes.
    times: BTreeMap<String, u64>,
}

/// Why a file of times is not used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum TableError {
    /// The file could not be read.
    #[error("cannot read the latency table `{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// There is a folder, a device or a pipe, or far more than a table.
    #[error("`{path}` is not a regular file of a size that latency tables have")]
    NotAFile { path: PathBuf },
    /// The file holds something else.
    #[error("`{path}` does not hold a latency table: {source}; remove it, and times are measured anew")]
    Format { path: PathBuf, source: serde_json::Error },
    /// It is of another version of this program.
    #[error(
        "the latency table `{path}` has format version {found}, and this program reads {VERSION}: remove it, and times are \
         measured anew"
    )]
    Version { path: PathBuf, found: u32 },
    /// It was measured elsewhere.
    #[error("the latency table `{path}` was measured on {theirs}, and this is {ours}: name another file")]
    Device { path: PathBuf, theirs: String, ours: String },
    /// A time is none.
    #[error("the latency table `{path}` holds a time of nothing: remove it, and times are measured anew")]
    Nothing { path: PathBuf },
}

impl Table {
    /// An empty one.
    pub fn new(device: String) -> Self {
        Self { schema_version: VERSION, device, times: BTreeMap::new() }
    }

    /// The table in a file; an empty one where there is no file yet.
    ///
    /// # Errors
    /// When the file is none, or was measured on another device.
    pub fn load(path: &Path, device: String) -> Result<Self, TableError> {
        let name = || path.to_owned();
        let io = |source| TableError::Io { path: name(), source };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new(device)),
            Err(error) => return Err(io(error)),
            Ok(found) if !found.is_file() || found.len() > LARGEST => {
                return Err(TableError::NotAFile { path: name() });
            }
            Ok(_) => {}
        }
        let text = fs::read_to_string(path).map_err(io)?;
        let table: Self =
            serde_json::from_str(&text).map_err(|source| TableError::Format { path: name(), source })?;
        if table.schema_version != VERSION {
            return Err(TableError::Version { path: name(), found: table.schema_version });
        }
        if table.device != device {
            return Err(TableError::Device { path: name(), theirs: table.device, ours: device });
        }
        if table.times.values().any(|time| *time == 0) {
            return Err(TableError::Nothing { path: name() });
        }
        Ok(table)
    }

    /// Writes the table beside `path`, to be put there by [`StagedFile::publish`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn stage(&self, path: &Path) -> Result<StagedFile, WriteError> {
        let failed = |error| WriteError::Io { path: path.into(), source: io::Error::other(error) };
        staging::stage(path, &serde_json::to_vec_pretty(self).map_err(failed)?)
    }

    /// A time in picoseconds.
    pub(super) fn get(&self, structure: &str) -> Option<u64> {
        self.times.get(structure).copied()
    }

    /// Remembers a time.
    pub(super) fn insert(&mut self, structure: String, picoseconds: u64) {
        self.times.insert(structure, picoseconds.max(1));
    }

    /// How many times it holds.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}
