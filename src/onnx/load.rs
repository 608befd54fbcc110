//! Reading a model file.

use super::{OnnxError, external, footprint, inline_functions, pages, proto::ModelProto, regular, validate};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    fs::{File, Metadata},
    path::Path,
};

/// A model and the file it came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The model, checked by [`validate`]: functions inlined, external data resolved to views of the mapped files.
    pub model: ModelProto,
    /// SHA-256 of the .onnx file, in lower-case hexadecimal digits.
    pub sha256: String,
    /// Size of the .onnx file and of the external data that it uses, in bytes.
    pub bytes: u64,
    /// Whether there was external data.
    pub external: bool,
}

/// Reads the model at `path` and the external data beside it. The files are mapped, not copied: weights take no memory
/// until they are touched, and the files must not be cut while the model lives (replacing them is safe).
///
/// # Errors
/// When the file cannot be read, is not an ONNX model of a known version, has external data out of bounds, or fails
/// [`validate`].
pub fn load(path: &Path) -> Result<Source, OnnxError> {
    let file = map(path)?;
    let mut model = decode(path, &file)?;
    validate::versions(&model)?;
    let external = external::resolve(&mut model, path)?;
    inline_functions(&mut model)?;
    validate(&mut model)?;
    let sha256 = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    // The hash has touched every page.
    pages::release();
    let bytes = (file.len() as u64).saturating_add(external.unwrap_or(0));
    Ok(Source { model, sha256, bytes, external: external.is_some() })
}

/// The model in the bytes of the file at `path`, as it is; its byte fields are views of `file`.
pub(super) fn decode(path: &Path, file: &Bytes) -> Result<ModelProto, OnnxError> {
    let path = path.to_path_buf();
    if file.is_empty() {
        return Err(OnnxError::Empty { path });
    }
    if file.starts_with(b"version https://git-lfs") {
        return Err(OnnxError::LfsPointer { path });
    }
    footprint::check_model(&path, file)?;
    match (ModelProto::decode(file.clone()), text(file)) {
        (Ok(model), _) if model.graph.is_some() => Ok(model),
        (_, Some(begins)) => Err(OnnxError::Text { path, begins }),
        (Ok(_), None) => Err(OnnxError::NoGraph),
        (Err(source), None) => Err(OnnxError::Decode { path, source }),
    }
}

/// The first characters of `file` if it seems to be text.
fn text(file: &[u8]) -> Option<String> {
    let start = file.get(..256).unwrap_or(file);
    let is_text = |c: &u8| c.is_ascii_graphic() || c.is_ascii_whitespace() || *c >= 0x80;
    let text = start.iter().all(is_text).then(|| String::from_utf8_lossy(start))?;
    Some(text.lines().next().unwrap_or_default().chars().take(40).collect())
}

/// The bytes of a regular file, mapped into memory.
pub(super) fn map(path: &Path) -> Result<Bytes, OnnxError> {
    let (file, opened) = regular::open(path)?;
    map_open(path, &file, &opened)
}

/// The bytes of an open file, mapped into memory.
pub(super) fn map_open(path: &Path, file: &File, opened: &Metadata) -> Result<Bytes, OnnxError> {
    if opened.len() == 0 {
        return Ok(Bytes::new());
    }
    let mapped = pages::map(file);
    let (mapped, _) = mapped.map_err(|source| OnnxError::Io { action: "read", path: path.into(), source })?;
    Ok(mapped)
}
