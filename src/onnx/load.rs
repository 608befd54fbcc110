//! Reading a model file.

use super::{
    OnnxError, Packed, external, footprint, inline_functions, pages, proto::ModelProto, regular, validate,
};
use crate::hash;
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    fs::{File, Metadata},
    path::Path,
};

/// Bytes that are hashed before their pages are given back.
const HASHED: usize = 64 << 20;

/// A model and the file it came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The model, checked by [`validate`]: functions inlined, external data resolved to views of the mapped files.
    pub model: ModelProto,
    /// SHA-256 of the .onnx file, and after it of the external data that it uses, in lower-case hexadecimal digits. Without
    /// external data it is that of the file.
    pub sha256: String,
    /// Size of the .onnx file and of the external data that it uses, in bytes.
    pub bytes: u64,
    /// Whether there was external data.
    pub external: bool,
    /// Weights of the model that are raw bytes for the time being, where the file has typed elements.
    pub packed: Packed,
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
    // Where each stretch is, and how long, the file itself says.
    let parts = || [&file].into_iter().chain(&external);
    let mut hash = Sha256::new();
    for piece in parts().flat_map(|part| part.chunks(HASHED)) {
        hash.update(piece);
        // The hash has touched every page of it.
        pages::release();
    }
    let sha256 = hash::hex(hash.finalize());
    let bytes = parts().fold(0, |sum: u64, part| sum.saturating_add(part.len() as u64));
    Ok(Source { model, sha256, bytes, external: !external.is_empty(), packed: Packed::default() })
}

/// Reads a model from the bytes of a file, without external data.
///
/// # Errors
/// As [`load`]; a model with external data is one.
pub fn read(bytes: Vec<u8>) -> Result<Source, OnnxError> {
    let file = Bytes::from(bytes);
    let mut model = decode(Path::new("(memory)"), &file)?;
    validate::versions(&model)?;
    inline_functions(&mut model)?;
    validate(&mut model)?;
    let (sha256, bytes) = (hash::hex(Sha256::digest(&file)), file.len() as u64);
    Ok(Source { model, sha256, bytes, external: false, packed: Packed::default() })
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
    if let Some((format, advice)) = other_format(file) {
        return Err(OnnxError::OtherFormat { path, format, advice });
    }
    footprint::check_model(&path, file)?;
    match (ModelProto::decode(file.clone()), text(file)) {
        (Ok(model), _) if model.graph.is_some() => Ok(model),
        (_, Some(begins)) => Err(OnnxError::Text { path, begins }),
        (Ok(_), None) => Err(OnnxError::NoGraph),
        (Err(source), None) => Err(OnnxError::Decode { path, source }),
    }
}

/// What the file is, if its first bytes are those of another format that models come in, and what to do about it.
fn other_format(file: &[u8]) -> Option<(&'static str, &'static str)> {
    const EXPORT: &str = "export the model with torch.onnx.export";
    let safetensors = || {
        // <https://github.com/huggingface/safetensors#format>: the length of a header in JSON, and the header.
        let (length, header) = file.split_first_chunk::<8>()?;
        (u64::from_le_bytes(*length) <= header.len() as u64 && header.starts_with(b"{\"")).then_some(())
    };
    match file {
        [b'P', b'K', 3, 4, ..] => Some((
            "a zip archive, as PyTorch saves checkpoints and NumPy arrays",
            "of a checkpoint, export the model with torch.onnx.export; of an archive, unpack the .onnx file",
        )),
        // Pickles of protocol 2 and later begin with the opcode PROTO.
        [0x80, 2..=5, ..] => Some(("a Python pickle, as PyTorch saved checkpoints", EXPORT)),
        [0x89, b'H', b'D', b'F', ..] => {
            Some(("an HDF5 file, as Keras saves models", "convert it with tf2onnx"))
        }
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => {
            Some(("a TensorFlow Lite model", "convert it with tf2onnx"))
        }
        [0x1f, 0x8b, ..] => Some(("compressed by gzip", "unpack it first")),
        _ if safetensors().is_some() => Some(("a file of safetensors: weights without a graph", EXPORT)),
        _ => None,
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
