//! Recovery: what is left of each pruned layer takes over what was removed, by least squares on the calibration samples.
//!
//! Layer by layer in the pruned network, as K-prune does (Park et al., 2024, section 3.4): the layer's weights are corrected
//! so that the value after its residual connection comes as close as it can to the dense model's. The difference holds
//! what earlier layers still lack, so that errors do not pile up. Shapes stay as they are.

mod bias;
mod judge;
mod layer;
mod layer_probe;
mod layerwise;
mod measured;
mod pass;
mod recovery;
mod refit;
mod ridge;
mod siblings;
mod stream;
mod write;

pub use bias::BIAS;
pub(crate) use judge::nearness_of;
pub use judge::{HeldOut, RecoverOptions, recover};
pub use layer::LeftReason;
pub use recovery::{Corrected, Fit, Mode, RecoverContext, Recovery};
pub use refit::{REFIT, RIDGE};
pub use ridge::{Chosen, Form, choose_form, fit};

use std::ops::Range;

use serde::Serialize;

use crate::{
    calibration::CalibrationError,
    onnx::{OnnxError, proto::ModelProto},
    runtime::RuntimeError,
    tensor::DType,
};

/// Why recovery failed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The runtime failed.
    #[error("recovery failed: {0}")]
    Runtime(#[from] RuntimeError),
    /// A weight could not be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Samples could not be batched.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// A corrected weight is beyond what the type of the weight holds.
    #[error("the corrected weights leave the range of {dtype}")]
    Overflow {
        /// The weight's type.
        dtype: DType,
    },
}

/// What was done to a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Weights and bias are corrected; found with this ridge, relative to the mean variance of what the layer reads.
    Refitted {
        /// The ridge.
        ridge: f64,
    },
    /// The bias is corrected.
    Shifted,
    /// Nothing.
    Left(LeftReason),
}

/// How one layer fared. Errors are sums of squares at the layer's waypoint on samples that were held out, relative to the
/// dense waypoint's variance.
#[derive(Clone, Debug, Serialize)]
pub struct LayerRecovery {
    /// The layer's name.
    pub name: String,
    /// Entries that it sums over.
    pub entries: usize,
    /// Positions that were measured.
    pub positions: usize,
    /// Error before, with the layers before it corrected.
    pub before: f64,
    /// Error after.
    pub after: f64,
    /// What was done.
    pub outcome: Outcome,
}

impl Outcome {
    /// How the layer is corrected, if it is.
    fn form(&self) -> Option<Form> {
        match self {
            Self::Refitted { ridge } => Some(Form::Ridge(*ridge)),
            Self::Shifted => Some(Form::Bias),
            Self::Left(_) => None,
        }
    }
}

impl LayerRecovery {
    fn left(name: String, reason: LeftReason) -> Self {
        let outcome = Outcome::Left(reason);
        Self { name, entries: 0, positions: 0, before: 0.0, after: 0.0, outcome }
    }
}

/// A recovered model, and how it came to be.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The model.
    pub model: ModelProto,
    /// What is to be reported.
    pub report: RecoveryReport,
    /// The batches of samples that were held out of the first walk.
    pub held_out: Vec<Range<usize>>,
}

/// What recovery did.
#[derive(Clone, Debug, Serialize)]
pub struct RecoveryReport {
    /// The recovery.
    pub mode: Mode,
    /// One entry per layer that pruning touches, in the order of the network.
    pub layers: Vec<LayerRecovery>,
    /// Samples that were held out.
    pub held_out: usize,
    /// Distance of the outputs from the dense model's, over samples that were held out, as
    /// [`output_distance`](crate::trajectory::output_distance) has it.
    pub before: f64,
    /// The same after recovery by the other samples. Where that is no improvement, recovery is undone.
    pub after: f64,
    /// Parameters of biases that layers were given.
    pub added: u64,
    /// Whether the recovered model came out worse, and was discarded.
    pub undone: bool,
    /// Layers that are too large to be refitted, and why.
    pub notes: Vec<String>,
}

impl RecoveryReport {
    /// The layers that could not be corrected though they should have been, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.layers.iter().filter_map(|layer| match &layer.outcome {
            Outcome::Left(LeftReason::Failed { why }) => Some((layer.name.as_str(), why.as_str())),
            _ => None,
        })
    }
}
