//! Why a file could not be read or written.

use crate::staging::WriteError;
use std::{io, path::PathBuf};

/// Why an ONNX file could not be read, trusted or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OnnxError {
    /// There is nothing at the path.
    #[error("`{path}` does not exist")]
    NotFound { path: PathBuf },

    /// The path names a directory, a device or a pipe.
    #[error("`{path}` is not a file; give the path of the .onnx file itself")]
    NotAFile { path: PathBuf },

    /// The operating system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    /// The file has no bytes.
    #[error("`{path}` is empty")]
    Empty { path: PathBuf },

    /// The file holds text, not protobuf.
    #[error("`{path}` is a text file, not an ONNX model; it begins with `{begins}`")]
    Text { path: PathBuf, begins: String },

    /// The file is of a known format that is not ONNX.
    #[error("`{path}` is {format}, not an ONNX model: {advice}")]
    OtherFormat { path: PathBuf, format: &'static str, advice: &'static str },

    /// The file stands for one that Git LFS has not fetched.
    #[error("`{path}` is a Git LFS pointer, not the model itself; fetch the model with `git lfs pull`")]
    LfsPointer { path: PathBuf },

    /// The bytes are not those of an ONNX model.
    #[error(
        "`{path}` is not a readable ONNX model (another format, damaged, cut short or nested too deep): {source}"
    )]
    Decode { path: PathBuf, source: prost::DecodeError },

    /// The file holds masses of tiny messages.
    #[error(
        "`{path}` would take {bytes} bytes of memory once decoded, weights not counted, and has only {file}: \
         no exporter writes such a file"
    )]
    DecodedSize { path: PathBuf, bytes: u64, file: usize },

    /// The model has no graph.
    #[error("the model has no graph; the file may be cut short or of another format")]
    NoGraph,

    /// The format version is unknown here.
    #[error("the model has IR version {found}; versions {oldest} to {newest} can be read")]
    IrVersion { found: i64, oldest: i64, newest: i64 },

    /// The model does not say which operators it means.
    #[error("the model imports no version of the ai.onnx operator set; export it again or set opset_import")]
    NoOpset,

    /// The standard operator set is of an unknown version.
    #[error(
        "the model uses ai.onnx opset {found}; opsets {oldest} to {newest} can be read: \
         convert it with onnx.version_converter or export it again"
    )]
    Opset { found: i64, oldest: i64, newest: i64 },

    /// External data may only lie beside the model.
    #[error("tensor `{tensor}` has its data in `{location}`, which is refused: {reason}")]
    Location { tensor: String, location: String, reason: &'static str },

    /// An external data file is missing.
    #[error(
        "tensor `{tensor}` has its data in `{location}`, which is not in `{directory}`; keep it beside the model"
    )]
    ExternalMissing { tensor: String, location: String, directory: PathBuf },

    /// An external data entry is not a number of bytes.
    #[error("tensor `{tensor}` has external data with {key} `{value}`, which is not a number of bytes")]
    ExternalNumber { tensor: String, key: &'static str, value: String },

    /// An external data entry points outside the file.
    #[error(
        "tensor `{tensor}` has {length} bytes of data at offset {offset} of `{location}`, which has only {size}"
    )]
    ExternalRange { tensor: String, location: String, offset: u64, length: u64, size: u64 },

    /// Masses of tensors share the same external data.
    #[error(
        "the tensors of the model take {used} bytes of external data, and the files hold only {size}: \
         no exporter writes such a file"
    )]
    ExternalSharing { used: u64, size: u64 },

    /// A sparse tensor stands for more than can be held.
    #[error(
        "the sparse tensor `{tensor}` has the impossible shape {dims:?}: written out it would be too large"
    )]
    SparseDims { tensor: String, dims: Vec<i64> },

    /// A loop that the file itself shows to be endless.
    #[error("node {node} never ends: its condition is always true and nothing bounds its iterations")]
    EndlessLoop { node: String },

    /// The element type is unknown, or cannot be had in the place.
    #[error("tensor `{tensor}` has element type {code} (a TensorProto.DataType), which cannot be read here")]
    ElementType { tensor: String, code: i32 },

    /// The extents are negative or their product overflows.
    #[error("tensor `{tensor}` has the impossible shape {dims:?}")]
    Dims { tensor: String, dims: Vec<i64> },

    /// The data does not fill the shape.
    #[error("tensor `{tensor}` of shape {dims:?} needs {expected} {unit} of data and has {found}")]
    Length { tensor: String, dims: Vec<i64>, expected: usize, found: usize, unit: &'static str },

    /// A tensor stores its data in more than one field.
    #[error("tensor `{tensor}` has data in more than one field")]
    TwoData { tensor: String },

    /// A graph input or an initializer has no name.
    #[error("graph `{graph}` has an {kind} without a name")]
    Unnamed { graph: String, kind: &'static str },

    /// A name is defined twice in one scope.
    #[error("graph `{graph}` defines value `{value}` more than once")]
    Redefined { graph: String, value: String },

    /// A node reads a value that nothing makes.
    #[error("node {node} reads `{value}`, which nothing before it makes")]
    Unresolved { node: String, value: String },

    /// A graph returns a value that nothing makes.
    #[error("graph `{graph}` returns `{value}`, which nothing makes")]
    NoOutput { graph: String, value: String },

    /// Nodes depend on each other in a circle.
    #[error("node {node} depends on its own result")]
    Cycle { node: String },

    /// A node has two attributes of one name.
    #[error("node {node} has attribute `{attribute}` more than once")]
    TwoAttributes { node: String, attribute: String },

    /// A node refers to an attribute of a function it is not in.
    #[error("node {node} takes attribute `{attribute}` from a function, but is in none")]
    AttributeReference { node: String, attribute: String },

    /// Two functions have the same identity.
    #[error("the model defines function `{function}` more than once")]
    TwoFunctions { function: String },

    /// A function calls itself.
    #[error("function `{function}` calls itself, directly or through others")]
    RecursiveFunction { function: String },

    /// A call has more inputs or outputs than the function.
    #[error("node {node} has {found} {kind}, but function `{function}` has {expected}")]
    FunctionArity { node: String, function: String, kind: &'static str, found: usize, expected: usize },

    /// A function needs other operators than the model.
    #[error("function `{function}` imports {domain} opset {found}, but the model imports {expected}")]
    FunctionOpset { function: String, domain: String, found: i64, expected: i64 },

    /// Functions expand to more than can be held.
    #[error("function `{function}` cannot be inlined: the functions of the model expand to {limit}")]
    FunctionExpansion { function: String, limit: &'static str },

    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),

    /// A file of weights would replace one that belongs to something else.
    #[error(
        "`{path}` exists and does not belong to the model being replaced; move it away or choose another name"
    )]
    WouldOverwrite { path: PathBuf },

    /// Not even external data makes the model small enough.
    #[error("the model takes {bytes} bytes without its weights; a protobuf file can hold 2147483647")]
    TooLarge { bytes: usize },
}

impl OnnxError {
    /// Whether writing failed, rather than reading.
    pub(crate) fn is_of_writing(&self) -> bool {
        matches!(self, Self::Write(_) | Self::WouldOverwrite { .. } | Self::TooLarge { .. })
    }
}
