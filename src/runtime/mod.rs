//! Running models: one trait, two engines. ONNX Runtime is loaded at run time; tract is compiled in.

use crate::{onnx::proto::ModelProto, tensor::Tensor};

/// Why a runtime could not be used, or a model not be run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine refused the model.
    #[error("{engine} cannot load the model: {reason}")]
    Load {
        /// Name of the engine.
        engine: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The engine failed while running.
    #[error("{engine} failed to run the model: {reason}")]
    Run {
        /// Name of the engine.
        engine: &'static str,
        /// What the engine said.
        reason: String,
    },
}

/// Something that runs ONNX models.
pub trait Engine {
    /// For people: name, version and where it was found.
    fn describe(&self) -> String;

    /// Prepares `model` for repeated runs. All tensors are inside the protobuf (no external data). Outputs may lack a type.
    fn load(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError>;
}

/// A model made ready to run.
pub trait Session {
    /// Runs once. `inputs` are matched by name, all graph inputs must be there; returns one tensor per graph output, in
    /// the order of `graph.output`.
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, RuntimeError>;
}
