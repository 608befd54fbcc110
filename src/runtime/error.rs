//! Why a runtime could not be used.

use std::path::PathBuf;

use super::locate::{LibraryOrigin, Search};
use crate::tensor::DType;

/// Why a runtime could not be used, or a model not be run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The work was to stop.
    #[error("cancelled")]
    Cancelled,
    /// No place holds a usable ONNX Runtime library.
    #[error(
        "ONNX Runtime was not found: install it, or name its library; these places were searched:\n{search}"
    )]
    NotFound {
        /// Every place with its outcome.
        search: Search,
    },
    /// A library was named that does not exist.
    #[error("the ONNX Runtime library `{}` does not exist ({origin})", path.display())]
    LibraryMissing {
        /// Who named it.
        origin: LibraryOrigin,
        /// The name.
        path: PathBuf,
    },
    /// A library exists but cannot be used.
    #[error("the ONNX Runtime library `{}` cannot be used: {reason}", path.display())]
    LibraryUnusable {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A process can load one ONNX Runtime only.
    #[error(
        "ONNX Runtime cannot be loaded from `{}`: this process already runs `{}`",
        wanted.display(), loaded.display()
    )]
    AlreadyLoaded {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        wanted: PathBuf,
    },
    /// CUDA was asked for and cannot be had.
    #[error(
        "CUDA was asked for, but `{}` cannot use it: {reason}; name the library of an `onnxruntime-gpu` package, \
         with the CUDA and cuDNN libraries on the loader path, or compute on the CPU",
        path.display()
    )]
    CudaUnavailable {
        /// The ONNX Runtime library.
        path: PathBuf,
        /// What stands in the way.
        reason: String,
    },
    /// CUDA was asked for together with tract.
    #[error("CUDA was asked for, but tract runs on the CPU only; choose ONNX Runtime or the CPU")]
    CudaOnTract,
    /// ONNX Runtime could not be installed.
    #[error("ONNX Runtime could not be installed: {reason}")]
    Install {
        /// What failed, and what to do by hand.
        reason: String,
    },
    /// The weights of a large model could not be put into files, from which sessions read them.
    #[error(
        "the weights of the model cannot be kept in `{}`, where ONNX Runtime is to read them from: {source}; let TMPDIR \
         name a folder on a disk with room for twice the model",
        folder.display()
    )]
    Scratch {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The engine refused the model.
    #[error("{engine} cannot load the model: {reason}")]
    Load {
        /// Name of the engine.
        engine: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The engine cannot be trusted with an operator.
    #[error("tract does not run this `{op}` operator correctly: use ONNX Runtime")]
    OperatorOnTract {
        /// Type of the node.
        op: String,
    },
    /// The engine failed while running.
    #[error("{engine} failed to run the model: {reason}")]
    Run {
        /// Name of the engine.
        engine: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// Something was fed that the model does not take.
    #[error("the model has no input `{name}`; its inputs are: {expected}")]
    UnknownInput {
        /// What was fed.
        name: String,
        /// Names of the model's inputs.
        expected: String,
    },
    /// An input was fed twice.
    #[error("the input `{name}` was fed more than once")]
    RepeatedInput {
        /// The input.
        name: String,
    },
    /// An input was not fed.
    #[error("the model's input `{name}` was not fed")]
    MissingInput {
        /// The input.
        name: String,
    },
    /// An input has the wrong element type.
    #[error("the model's input `{name}` is {expected}, but was fed {found}")]
    InputType {
        /// The input.
        name: String,
        /// What the model declares.
        expected: DType,
        /// What was fed.
        found: DType,
    },
    /// An input has the wrong shape.
    #[error("the model's input `{name}` has shape {expected}, but was fed {found:?}")]
    InputShape {
        /// The input.
        name: String,
        /// What the model declares, `?` for an extent that may vary.
        expected: String,
        /// What was fed.
        found: Vec<usize>,
    },
}

impl RuntimeError {
    /// Whether a runtime that was found failed, rather than not being there or not being what was asked for.
    pub(crate) fn is_of_running(&self) -> bool {
        !matches!(
            self,
            Self::NotFound { .. }
                | Self::LibraryMissing { .. }
                | Self::LibraryUnusable { .. }
                | Self::AlreadyLoaded { .. }
                | Self::CudaUnavailable { .. }
                | Self::CudaOnTract
                | Self::OperatorOnTract { .. }
        )
    }
}
