//! Writing a model file.

use super::{
    OnnxError, load,
    proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation},
    tensor, visit,
};
use bytes::{BufMut, Bytes, buf::UninitSlice};
use prost::Message;
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Protobuf readers refuse messages that are longer than a signed 32-bit length.
const MAX_ENCODED: usize = i32::MAX as usize;
/// Smaller tensors stay in the model file: shape arithmetic must be readable without the data.
const MIN_EXTERNAL: usize = 1024;
/// External data starts at multiples of a page so that runtimes can map it.
const ALIGNMENT: u64 = 4096;

/// The bytes of the protobuf file.
pub fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// Writes `model` to `path` and returns how many bytes that took. If `external`, or if the file would be too long for
/// protobuf, initializers of at least 1 KiB go to `<file name>.data` beside it.
///
/// Files are written under temporary names, synced and then renamed, weights first: what was there before survives a
/// failure to write, `model` may view the file that is replaced, and a link at `path` is replaced, not followed.
///
/// # Errors
/// When a file cannot be written, when `<file name>.data` exists and is not that of the model being replaced, and when
/// the model without its weights is too long for protobuf.
pub fn save(model: &ModelProto, path: &Path, external: bool) -> Result<u64, OnnxError> {
    if path.is_dir() {
        return Err(OnnxError::NotAFile { path: path.into() });
    }
    if !external && model.encoded_len() <= MAX_ENCODED {
        let file = Output::create(path)?.write(|out| stream(model, out))?;
        return file.publish();
    }
    let (name, data_path) = data_file(path)?;
    check_replaceable(path, &name, &data_path)?;
    let mut model = model.clone();
    let data = Output::create(&data_path)?.write(|out| detach(&mut model, &name, out))?;
    let bytes = model.encoded_len();
    if bytes > MAX_ENCODED {
        return Err(OnnxError::TooLarge { bytes });
    }
    let file = Output::create(path)?.write(|out| stream(&model, out))?;
    Ok(data.publish()? + file.publish()?)
}

/// Name and path of the file for the weights of the model at `path`.
fn data_file(path: &Path) -> Result<(String, PathBuf), OnnxError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| OnnxError::NoFileName { path: path.into() })?;
    let name = format!("{name}.data");
    let data = path.with_file_name(&name);
    Ok((name, data))
}

/// Refuses to replace a file of weights unless the model that is replaced refers to it.
fn check_replaceable(path: &Path, name: &str, data: &Path) -> Result<(), OnnxError> {
    if data.symlink_metadata().is_err() {
        return Ok(());
    }
    let mut owned = false;
    if let Ok(mut model) = load::map(path).and_then(|file| load::decode(path, &file)) {
        visit::tensors(&mut model, &mut |tensor| {
            owned |= tensor.external_data.iter().any(|e| e.key() == "location" && e.value() == name);
            Ok(())
        })?;
    }
    if owned && !data.is_dir() { Ok(()) } else { Err(OnnxError::WouldOverwrite { path: data.into() }) }
}

/// Writes the large initializers of `model` to `out` and makes them refer to the file `name`. Attributes keep their
/// tensors: runtimes need not look for external data there.
fn detach(model: &mut ModelProto, name: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut offset = 0;
    model.graph.iter_mut().try_for_each(|graph| detach_graph(graph, name, &mut offset, out))
}

fn detach_graph(graph: &mut GraphProto, name: &str, offset: &mut u64, out: &mut dyn Write) -> io::Result<()> {
    for tensor in &mut graph.initializer {
        let Some(data) = raw(tensor).filter(|data| data.len() >= MIN_EXTERNAL) else { continue };
        let start = offset.next_multiple_of(ALIGNMENT);
        io::copy(&mut io::repeat(0).take(start - *offset), out)?;
        out.write_all(&data)?;
        *offset = start + data.len() as u64;
        refer(tensor, name, start, data.len());
    }
    graph
        .node
        .iter_mut()
        .flat_map(visit::subgraphs_mut)
        .try_for_each(|graph| detach_graph(graph, name, offset, out))
}

/// The data of a tensor as raw bytes, if it can be had.
fn raw(tensor: &TensorProto) -> Option<Bytes> {
    match &tensor.raw_data {
        Some(raw) if !raw.is_empty() => Some(raw.clone()),
        _ => tensor::from_tensor("", &tensor::to_tensor(tensor).ok()?).raw_data,
    }
}

/// Makes `tensor` refer to its data in the file `name`, and hold none itself.
fn refer(tensor: &mut TensorProto, name: &str, offset: u64, length: usize) {
    let entries =
        [("location", name.to_owned()), ("offset", offset.to_string()), ("length", length.to_string())];
    *tensor = TensorProto {
        dims: std::mem::take(&mut tensor.dims),
        data_type: tensor.data_type,
        name: tensor.name.take(),
        doc_string: tensor.doc_string.take(),
        metadata_props: std::mem::take(&mut tensor.metadata_props),
        data_location: Some(DataLocation::External.into()),
        external_data: entries
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key: Some(key.into()), value: Some(value) })
            .collect(),
        ..TensorProto::default()
    };
}

/// A file on its way to `path`, under a temporary name in the same directory.
struct Output {
    file: NamedTempFile,
    path: PathBuf,
    directory: PathBuf,
}

impl Output {
    fn create(path: &Path) -> Result<Self, OnnxError> {
        let name = path.file_name().ok_or_else(|| OnnxError::NoFileName { path: path.into() })?;
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut prefix = OsString::from(".");
        prefix.push(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        // As any program creates files; temporary ones are otherwise closed to all but their owner.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(&directory);
        let file = file.map_err(|source| OnnxError::Io { action: "write", path: path.into(), source })?;
        Ok(Self { file, path: path.into(), directory })
    }

    /// Fills the file by `fill` and syncs it.
    fn write(mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Self, OnnxError> {
        let mut out = BufWriter::new(self.file.as_file_mut());
        let written = fill(&mut out).and_then(|()| out.flush());
        drop(out);
        match written.and_then(|()| self.file.as_file().sync_all()) {
            Ok(()) => Ok(self),
            Err(source) => Err(OnnxError::Io { action: "write", path: self.path, source }),
        }
    }

    /// Gives the file its name and returns its size.
    fn publish(self) -> Result<u64, OnnxError> {
        let failed = |source| OnnxError::Io { action: "write", path: self.path.clone(), source };
        let file = self.file.persist(&self.path).map_err(|e| failed(e.error))?;
        // The new name is on the disk once the directory is; where directories cannot be synced, the system sees to it.
        if let Ok(directory) = File::open(&self.directory) {
            directory.sync_all().ok();
        }
        Ok(file.metadata().map_err(failed)?.len())
    }
}

/// Encodes `model` into `out` piece by piece, so that weights are not held in memory once more.
fn stream(model: &ModelProto, out: &mut dyn Write) -> io::Result<()> {
    let mut sink = Sink { buffer: Vec::with_capacity(1 << 16), out, failed: None };
    model.encode(&mut sink).map_err(io::Error::other)?;
    sink.spill();
    sink.failed.map_or(Ok(()), Err)
}

/// Takes what protobuf encodes, through a small buffer.
struct Sink<'a> {
    buffer: Vec<u8>,
    out: &'a mut dyn Write,
    /// The first failure; whatever comes after it is dropped.
    failed: Option<io::Error>,
}

impl Sink<'_> {
    fn spill(&mut self) {
        if self.failed.is_none() {
            self.failed = self.out.write_all(&self.buffer).err();
        }
        self.buffer.clear();
    }
}

// SAFETY: everything is left to the buffer, whose implementation is sound; it is emptied only between writes.
#[allow(unsafe_code)]
unsafe impl BufMut for Sink<'_> {
    fn remaining_mut(&self) -> usize {
        usize::MAX
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller has initialized `count` bytes of `chunk_mut`, which is that of the buffer.
        unsafe { self.buffer.advance_mut(count) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.buffer.len() == self.buffer.capacity() {
            self.spill();
        }
        self.buffer.chunk_mut()
    }
}
