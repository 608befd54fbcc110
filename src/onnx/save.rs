//! Writing a model file.
//!
//! Large weights go to a file of their own, which is named by its contents: `<file name>.<16 digits of its SHA-256>.data`. The
//! model that is replaced and the new one so never share a name for different weights, and whoever is interrupted between
//! the two renames leaves a model with the weights that it refers to.

use super::{
    OnnxError, load,
    proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation},
    tensor, visit,
};
use crate::{
    hash,
    staging::{self, Stage},
};
use bytes::{BufMut, Bytes, buf::UninitSlice};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Protobuf readers refuse messages that are longer than a signed 32-bit length.
const MAX_ENCODED: usize = i32::MAX as usize;
/// Smaller tensors stay in the model file: shape arithmetic must be readable without the data.
const MIN_EXTERNAL: usize = 1024;
/// External data starts at multiples of a page so that runtimes can map it.
const ALIGNMENT: u64 = 4096;
/// How many digits of the hash of external data name its file.
const DIGITS: usize = 16;

/// The bytes of the protobuf file.
pub fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// Writes `model` to `path` and returns how many bytes that took: [`stage`] and [`Staged::publish`] in one.
///
/// # Errors
/// As theirs.
pub fn save(model: &ModelProto, path: &Path, external: bool) -> Result<u64, OnnxError> {
    stage(model, path, external)?.publish()
}

/// A model that is written, synced and complete, and has yet to be put in its place. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Staged {
    stage: Stage,
    /// The name of the file of weights, and whether it is there already, with the same contents.
    data: Option<(String, bool)>,
    /// The files of weights that the replaced model refers to and the new one does not.
    obsolete: BTreeSet<String>,
    bytes: u64,
}

/// Writes `model` to a folder of its own beside `path`, for [`Staged::publish`] to put it there. If `external`, or if the file
/// would be too long for protobuf, initializers of at least 1 KiB go to `<file name>.<hash>.data` beside it.
///
/// What killed programs have left behind in the folder is removed.
///
/// # Errors
/// When a file cannot be written, when there is something at `path` that is no file, when a file has the name of the weights
/// and neither their contents nor belongs to the model that is replaced, and when the model without its weights is
/// too long for protobuf.
pub fn stage(model: &ModelProto, path: &Path, external: bool) -> Result<Staged, OnnxError> {
    clean(path);
    let stage = Stage::beside(path)?;
    let name = stage.name().to_owned();
    let mut staged = Staged { obsolete: owned(path), stage, data: None, bytes: 0 };
    let stage = &staged.stage;
    if !external && model.encoded_len() <= MAX_ENCODED {
        stage.write(&name, |out| stream(model, out))?;
    } else {
        let mut model = model.clone();
        if let Some(data) = detach(&mut model, stage)? {
            let known = staged.obsolete.remove(&data);
            let there = same_contents(&stage.path(data.as_ref()), &stage.published(data.as_ref()), known)?;
            staged.data = Some((data, there));
        }
        let bytes = model.encoded_len();
        if bytes > MAX_ENCODED {
            return Err(OnnxError::TooLarge { bytes });
        }
        stage.write(&name, |out| stream(&model, out))?;
    }
    let data = staged.data.as_ref().map(|(name, _)| stage.path(name.as_ref()));
    for file in [Some(staged.path()), data].into_iter().flatten() {
        staged.bytes += fs::metadata(&file).map_err(|source| io_error("read", &file, source))?.len();
    }
    Ok(staged)
}

impl Staged {
    /// The complete model, as it will stand, with its weights beside it; for whoever wants to try it first.
    pub fn path(&self) -> PathBuf {
        self.stage.path(self.stage.name())
    }

    /// The size of the model and its weights in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts the model in its place and returns its size in bytes: weights first, then the model over what was there, which
    /// `model` may have viewed; then the weights of the replaced model go, unless they have a name that this program would not have
    /// given. A link at the path is replaced, not followed.
    ///
    /// # Errors
    /// When the operating system refuses. What was there before is whole then.
    pub fn publish(mut self) -> Result<u64, OnnxError> {
        let new =
            self.data.iter().filter(|(_, there)| !there).map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if !new.is_empty() || !self.obsolete.is_empty() {
            let names = new.iter().chain(&self.obsolete).map(String::as_str).collect::<Vec<_>>();
            self.stage.journal(&names.join("\n"))?;
        }
        new.iter().try_for_each(|name| self.stage.publish(name.as_ref()))?;
        if let Err(error) = self.stage.publish(self.stage.name()) {
            for name in &new {
                fs::remove_file(self.stage.published(name.as_ref())).ok();
            }
            return Err(error.into());
        }
        // On systems that keep a file which is in use, it stays.
        for name in &self.obsolete {
            fs::remove_file(self.stage.published(name.as_ref())).ok();
        }
        Ok(self.bytes)
    }
}

/// How many bytes [`stage`] would take for `model` at `path`, external data included, without writing anything.
pub fn written_bytes(model: &ModelProto, path: &Path, external: bool) -> u64 {
    let alone = model.encoded_len();
    if !external && alone <= MAX_ENCODED {
        return alone as u64;
    }
    let mut model = model.clone();
    let mut data = Data { out: &mut io::sink(), length: 0, hash: None, written: HashMap::new() };
    // A sink takes everything.
    model.graph.iter_mut().try_for_each(|graph| detach_graph(graph, &mut data)).ok();
    let length = data.length;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    relocate(&mut model, &data_name(name, &"0".repeat(DIGITS)));
    (model.encoded_len() as u64).saturating_add(length)
}

/// Whether there is an ONNX model at `path`, as far as the file itself tells.
pub fn is_model(path: &Path) -> bool {
    load::map(path).is_ok_and(|file| load::decode(path, &file).is_ok())
}

/// The files of weights that the model at `path` refers to; none if there is no model.
pub fn weight_files(path: &Path) -> Vec<PathBuf> {
    referred(path).iter().map(|name| path.with_file_name(name)).collect()
}

/// The files of weights that go when the model at `path` is replaced, unless the new one refers to them.
pub fn own_weight_files(path: &Path) -> Vec<PathBuf> {
    owned(path).iter().map(|name| path.with_file_name(name)).collect()
}

/// The files of weights beside the model at `path` that it refers to and that bear a name which [`stage`] gives, or `<file
/// name>.data`, which many exporters give.
fn owned(path: &Path) -> BTreeSet<String> {
    let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_file());
    if !is_file(path) {
        return BTreeSet::new();
    }
    let names = referred(path).into_iter().filter(|name| is_data_name(path.file_name(), name));
    names.filter(|name| is_file(&path.with_file_name(name))).collect()
}

/// The files that the model at `path` refers to; none if there is no model.
fn referred(path: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Ok(mut model) = load::map(path).and_then(|file| load::decode(path, &file)) {
        let visited = visit::tensors(&mut model, &mut |tensor| {
            let locations = tensor.external_data.iter().filter(|entry| entry.key() == "location");
            names.extend(locations.map(|entry| entry.value().to_owned()));
            Ok(())
        });
        visited.ok();
    }
    names
}

/// Whether a file of weights of the model called `model` may be called `name`.
fn is_data_name(model: Option<&OsStr>, name: &str) -> bool {
    let between = model
        .and_then(OsStr::to_str)
        .and_then(|model| name.strip_prefix(model)?.strip_suffix(".data"))
        .map(|hash| hash.strip_prefix('.').unwrap_or(hash));
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    between.is_some_and(|hash| hash.is_empty() || (hash.len() == DIGITS && hash.bytes().all(is_digit)))
}

/// Does what programs that were killed while they published could not: of the files of weights that they noted, those
/// go to which the model that stands there does not refer.
fn clean(path: &Path) {
    let home = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    for stage in staging::abandoned(home) {
        let target = home.join(&stage.target);
        let used = referred(&target);
        let names = stage.journal.lines().filter(|name| is_data_name(Some(&stage.target), name));
        for name in names.filter(|name| !used.contains(*name)) {
            fs::remove_file(home.join(name)).ok();
        }
        stage.remove();
    }
}

/// Whether the file `old` exists with the contents of `new`. It is an error if it has others, unless it is `known` to belong to the
/// model that is replaced.
fn same_contents(new: &Path, old: &Path, known: bool) -> Result<bool, OnnxError> {
    let Ok(found) = old.symlink_metadata() else { return Ok(false) };
    if found.is_file() && load::map(old)? == load::map(new)? {
        return Ok(true);
    }
    if known { Ok(false) } else { Err(OnnxError::WouldOverwrite { path: old.into() }) }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> OnnxError {
    OnnxError::Io { action, path: path.into(), source }
}

/// Writes the large initializers of `model` to a file in `stage` and makes them refer to it. Returns its name, if there are
/// any. Attributes keep their tensors: runtimes need not look for external data there.
fn detach(model: &mut ModelProto, stage: &Stage) -> Result<Option<String>, OnnxError> {
    let name = stage.name().to_str();
    let name = name.ok_or_else(|| staging::WriteError::NoFileName { path: stage.target().into() })?;
    let draft = format!("{name}.data");
    let (length, digest) = stage.write(draft.as_ref(), |out| {
        let mut out = Data { out, length: 0, hash: Some(Sha256::new()), written: HashMap::new() };
        model.graph.iter_mut().try_for_each(|graph| detach_graph(graph, &mut out))?;
        Ok((out.length, out.hash.unwrap_or_default().finalize()))
    })?;
    if length == 0 {
        return Ok(None);
    }
    let digits = hash::hex(digest);
    let data = data_name(name, digits.get(..DIGITS).unwrap_or(&digits));
    stage.rename(draft.as_ref(), data.as_ref())?;
    relocate(model, &data);
    Ok(Some(data))
}

/// What the file of weights of the model called `model` is called.
fn data_name(model: &str, digits: &str) -> String {
    format!("{model}.{digits}.data")
}

/// Lets all external data of a model lie in the file called `data`.
fn relocate(model: &mut ModelProto, data: &str) {
    let visited = visit::tensors(model, &mut |tensor| {
        let locations = tensor.external_data.iter_mut().filter(|entry| entry.key() == "location");
        locations.for_each(|entry| entry.value = Some(data.to_owned()));
        Ok(())
    });
    visited.ok();
}

/// A file of weights that is being written.
struct Data<'a> {
    out: &'a mut dyn Write,
    length: u64,
    /// Of what was written, if anybody asks for it.
    hash: Option<Sha256>,
    /// Stretches of memory that tensors view, and where they were written: those that several view are written once. They
    /// are kept, so that no other comes to lie in the same place.
    written: HashMap<(usize, usize), (Bytes, u64)>,
}

impl Write for Data<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes.get(..written).unwrap_or(bytes));
        }
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn detach_graph(graph: &mut GraphProto, out: &mut Data<'_>) -> io::Result<()> {
    for tensor in &mut graph.initializer {
        let Some(data) = raw(tensor).filter(|data| data.len() >= MIN_EXTERNAL) else { continue };
        if let Some((_, start)) = viewed(tensor).and_then(|place| out.written.get(&place)) {
            refer(tensor, *start, data.len());
            continue;
        }
        let start = out.length.next_multiple_of(ALIGNMENT);
        io::copy(&mut io::repeat(0).take(start - out.length), out)?;
        out.write_all(&data)?;
        if let Some(place) = viewed(tensor) {
            out.written.insert(place, (data.clone(), start));
        }
        refer(tensor, start, data.len());
    }
    graph.node.iter_mut().flat_map(visit::subgraphs_mut).try_for_each(|graph| detach_graph(graph, out))
}

/// Where in memory the raw bytes of a tensor are that would go to a file of weights, and how many.
fn viewed(tensor: &TensorProto) -> Option<(usize, usize)> {
    let raw = tensor.raw_data.as_ref().filter(|raw| raw.len() >= MIN_EXTERNAL)?;
    Some((raw.as_ptr() as usize, raw.len()))
}

/// Bytes that a model takes in its file, or if `external` in that and a file of weights, the space between those left out.
pub(crate) fn stored_bytes(model: &ModelProto, external: bool) -> u64 {
    let mut seen = HashSet::new();
    let places = model.graph.iter().flat_map(|graph| &graph.initializer).filter_map(viewed);
    let repeated = places.filter(|place| external && !seen.insert(*place)).map(|(_, length)| length as u64);
    (model.encoded_len() as u64).saturating_sub(repeated.sum())
}

/// The data of a tensor as raw bytes, if it can be had.
fn raw(tensor: &TensorProto) -> Option<Bytes> {
    match &tensor.raw_data {
        Some(raw) if !raw.is_empty() => Some(raw.clone()),
        _ => tensor::from_tensor("", &tensor::to_tensor(tensor).ok()?).raw_data,
    }
}

/// Makes `tensor` refer to its data in a file that has yet to get its name, and hold none itself.
fn refer(tensor: &mut TensorProto, offset: u64, length: usize) {
    let entries =
        [("location", String::new()), ("offset", offset.to_string()), ("length", length.to_string())];
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
