//! Why a run failed.

use crate::{
    calibration::CalibrationError,
    compare::CompareError,
    gate::GateError,
    latency::{LatencyError, MeasureError, ServingError, TableError},
    model::TypeError,
    onnx::OnnxError,
    paths::PathError,
    plan::{OverBudget, PlanError},
    refusal::Refusal,
    rotate::RotateError,
    runtime::RuntimeError,
    score::{SavedError, ScoreError},
    staging::WriteError,
    verify::VerifyError,
};

/// Why a model was not pruned. Whatever it is, nothing was written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be read, or the pruned one not be written.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The axes of the model cannot be typed.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// Samples could not be batched.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The runtime failed, or there is none.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Units could not be scored.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The budget cannot be met, or leaves nothing to prune.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Heads could not be turned.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// The dense model could not be run to hold others against it.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The plan cannot be carried out, and no dimension is to blame.
    #[error("{0}; nothing was written")]
    Refused(#[from] Refusal),
    /// What was to be written is not what was planned.
    #[error("{0}; nothing was written")]
    Gate(#[from] GateError),
    /// Once dimensions had to keep their extent, there was no plan any more.
    #[error("with the dimensions left whole that could not be pruned, {0}")]
    Replan(PlanError),
    /// However much room was left for what plans do not count, the pruned model took more.
    #[error("{0}; nothing was written")]
    OverBudget(#[from] OverBudget),
    /// A path leads to what may not be written.
    #[error(transparent)]
    Paths(#[from] PathError),
    /// Saved scores do not fit.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// Scores or a report could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A budget of time is not kept, or a model could not be timed.
    #[error(transparent)]
    Latency(#[from] LatencyError),
    /// An output is named that the model does not have.
    #[error("`{name}` is no output of the model; its outputs are {}", outputs.join(", "))]
    NoOutput { name: String, outputs: Vec<String> },
    /// Two models cannot be held against each other.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// The caller asked to stop.
    #[error("cancelled; nothing was written")]
    Cancelled,
}

impl Error {
    /// Whether the job ran and was not done (exit code 1), rather than being refused because of what was asked (2): the model, the
    /// data, the budget, the paths or the runtime.
    pub fn ran(&self) -> bool {
        match self {
            Self::Onnx(error) => error.is_of_writing(),
            Self::Type(TypeError::Runtime(error)) | Self::Runtime(error) => error.is_of_running(),
            Self::Latency(error) => error.ran(),
            Self::Type(_)
            | Self::NoOutput { .. }
            | Self::Calibration(_)
            | Self::Plan(_)
            | Self::Paths(_)
            | Self::Compare(_)
            | Self::Saved(_) => false,
            Self::Score(_)
            | Self::Rotate(_)
            | Self::Verify(_)
            | Self::Refused(_)
            | Self::Gate(_)
            | Self::Replan(_)
            | Self::OverBudget(_)
            | Self::Write(_)
            | Self::Cancelled => true,
        }
    }
}

impl From<MeasureError> for Error {
    fn from(error: MeasureError) -> Self {
        LatencyError::from(error).into()
    }
}

impl From<ServingError> for Error {
    fn from(error: ServingError) -> Self {
        LatencyError::from(error).into()
    }
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        LatencyError::from(error).into()
    }
}
