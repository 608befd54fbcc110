//! Tensors whose data lies in other files, by the rules of the ONNX document on external data and of its security
//! notes: <https://github.com/onnx/onnx/blob/main/docs/ExternalData.md>.

use super::{
    OnnxError, load,
    proto::{ModelProto, TensorProto, tensor_proto::DataLocation},
    regular, tensor, visit,
};
use crate::limits;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Component, Path, PathBuf},
};

/// Sets `raw_data` of every tensor with external data to a view of the mapped file. Returns the byte ranges that are used, in
/// ascending order of (location, offset, length), each once.
pub(super) fn resolve(model: &mut ModelProto, path: &Path) -> Result<Vec<Bytes>, OnnxError> {
    let mut files = Files::of_model(path)?;
    visit::tensors(model, &mut |tensor| {
        if tensor.data_location() == DataLocation::External {
            let data = files.read(tensor)?;
            tensor.raw_data = Some(data);
            tensor.external_data.clear();
            tensor.data_location = None;
        }
        Ok(())
    })?;
    Ok(files.stretches.into_values().collect())
}

/// The external data files of one model.
struct Files {
    /// The directory that locations are relative to.
    directory: PathBuf,
    /// Where data may lie: the directory of the path as given, and that of the file it leads to. Caches keep models as
    /// links to files elsewhere, with the data linked or placed beside either of them.
    roots: [PathBuf; 2],
    mapped: HashMap<String, Bytes>,
    /// Location, offset and length of each stretch that a tensor uses; tied weights may share one.
    stretches: BTreeMap<(String, u64, u64), Bytes>,
    /// Bytes of all tensors, shared ones counted for each.
    used: u64,
}

impl Files {
    fn of_model(model: &Path) -> Result<Self, OnnxError> {
        let canonical = |path: &Path| {
            fs::canonicalize(path).map_err(|source| OnnxError::Io {
                action: "resolve",
                path: path.into(),
                source,
            })
        };
        let directory = match model.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut target = canonical(model)?;
        target.pop();
        let roots = [canonical(&directory)?, target];
        Ok(Self { directory, roots, mapped: HashMap::new(), stretches: BTreeMap::new(), used: 0 })
    }

    /// The stretch of a file that holds the data of `tensor`.
    fn read(&mut self, tensor: &TensorProto) -> Result<Bytes, OnnxError> {
        let entry = |key: &str| tensor.external_data.iter().rfind(|e| e.key() == key).map(|e| e.value());
        let number = |key: &'static str| match entry(key) {
            None => Ok(None),
            Some(value) => value.parse::<u64>().map(Some).map_err(|_| OnnxError::ExternalNumber {
                tensor: tensor.name().into(),
                key,
                value: value.into(),
            }),
        };
        let location = entry("location").unwrap_or_default();
        let offset = number("offset")?.unwrap_or(0);
        let length = match number("length")? {
            Some(length) => length,
            None => tensor::raw_len(tensor)? as u64,
        };
        let file = self.open(tensor, location)?;
        let end = offset.checked_add(length).filter(|&end| end <= file.len() as u64);
        let Some(end) = end else {
            return Err(OnnxError::ExternalRange {
                tensor: tensor.name().into(),
                location: location.into(),
                offset,
                length,
                size: file.len() as u64,
            });
        };
        let stretch = file.slice(offset as usize..end as usize);
        self.stretches.insert((location.into(), offset, length), stretch.clone());
        self.used = self.used.saturating_add(length);
        self.check_sharing()?;
        Ok(stretch)
    }

    /// Refuses models whose tensors share so few bytes that decoding would expand them beyond reason.
    fn check_sharing(&self) -> Result<(), OnnxError> {
        if self.used <= limits::SHARED_DATA_BYTES {
            return Ok(());
        }
        let size = self.mapped.values().map(|file| file.len() as u64).sum::<u64>();
        if self.used <= size.saturating_mul(limits::SHARED_DATA) {
            return Ok(());
        }
        Err(OnnxError::ExternalSharing { used: self.used, size })
    }

    /// The file at `location`, mapped once.
    fn open(&mut self, tensor: &TensorProto, location: &str) -> Result<Bytes, OnnxError> {
        if let Some(file) = self.mapped.get(location) {
            return Ok(file.clone());
        }
        let refused =
            |reason| OnnxError::Location { tensor: tensor.name().into(), location: location.into(), reason };
        check_location(location).map_err(refused)?;
        let candidates = [&self.directory, &self.roots[1]].map(|root| root.join(location));
        let Some(path) = candidates.iter().find_map(|path| fs::canonicalize(path).ok()) else {
            return Err(OnnxError::ExternalMissing {
                tensor: tensor.name().into(),
                location: location.into(),
                directory: self.directory.clone(),
            });
        };
        if !self.roots.iter().any(|root| path.starts_with(root)) {
            return Err(refused("it is a link that leads out of the directory of the model"));
        }
        let (file, opened) = regular::open(&path)?;
        if !regular::still_at(&path, &opened) {
            return Err(refused("it was replaced while it was opened"));
        }
        if regular::has_other_names(&opened) {
            return Err(refused(
                "it is a hard link, which may lead out of the directory of the model; copy the file to read it",
            ));
        }
        let file = load::map_open(&path, &file, &opened)?;
        self.mapped.insert(location.into(), file.clone());
        Ok(file)
    }
}

/// Refuses locations that do not lead downwards from the directory of the model.
fn check_location(location: &str) -> Result<(), &'static str> {
    if location.is_empty() {
        return Err("it is empty");
    }
    if location.contains('\0') {
        return Err("it contains a NUL character");
    }
    if location.contains('\\') {
        return Err("it contains a backslash, which some systems take for a separator of folders");
    }
    Path::new(location).components().try_for_each(|component| match component {
        Component::Normal(_) | Component::CurDir => Ok(()),
        Component::ParentDir => Err("it leads upwards by `..`"),
        Component::RootDir | Component::Prefix(_) => Err("it is an absolute path"),
    })
}
