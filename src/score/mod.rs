//! Importance of every unit, as plain data that can be saved and planned from again.

mod exact;
mod quirks;
mod weights;

pub use exact::{ExactOptions, exact};
pub use weights::{magnitude, wanda};

use serde::{Deserialize, Serialize};

use crate::{
    calibration::{InputRole, Samples, input_roles},
    graph::{Facts, Graph, ValueId},
    onnx::proto::ModelProto,
    typing::{Dimension, Kind},
    widths::Widths,
};

/// What scoring needs to see of a model.
#[derive(Clone, Copy)]
pub struct ModelView<'a> {
    /// The model.
    pub model: &'a ModelProto,
    /// Its graph.
    pub graph: &'a Graph,
    /// What one run showed.
    pub facts: &'a Facts,
    /// The width of every axis.
    pub widths: &'a Widths,
    /// What is scored.
    pub dimensions: &'a [Dimension],
    /// Calibration samples.
    pub samples: &'a Samples,
    /// Samples per run.
    pub batch: usize,
}

impl ModelView<'_> {
    /// The first input that is a mask `[batch, positions]`: its name and value.
    pub fn padding(&self) -> Option<(String, ValueId)> {
        let roles = input_roles(self.model);
        let masks = roles.into_iter().filter(|(_, role)| *role == InputRole::Mask);
        let masks = masks.filter_map(|(name, _)| self.graph.find(&name).map(|v| (name, v)));
        masks.into_iter().find(|(_, v)| self.facts.get(*v).is_some_and(|f| f.shape.len() == 2))
    }

    /// Whether `value` has the positions of the mask as (part of) an axis.
    pub fn is_padded(&self, value: ValueId, mask: ValueId) -> bool {
        let positions = self.widths.value(mask).and_then(|axes| axes.get(1).copied());
        let axes = self.widths.value(value).unwrap_or_default();
        positions.is_some_and(|p| axes.iter().any(|a| self.widths.table.contains(*a, p)))
    }
}

/// How units are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// OPTIN's trajectory importance, one masked run per unit.
    Exact,
    /// Norm of the weights that make the unit (a baseline).
    Magnitude,
    /// Norm of the weights that read the unit, times the norm of its activation (a baseline).
    Wanda,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Magnitude => "magnitude",
            Self::Wanda => "wanda",
        })
    }
}

/// Why units could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
    /// A weight could not be read.
    #[error(transparent)]
    Onnx(#[from] crate::onnx::OnnxError),
    /// Samples could not be batched.
    #[error(transparent)]
    Calibration(#[from] crate::calibration::CalibrationError),
}

/// Scores of one dimension's units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DimensionScores {
    /// The dimension's name.
    pub name: String,
    /// What its units are.
    pub kind: Kind,
    /// Its place among the dimensions of its kind.
    pub layer: usize,
    /// One per unit; the larger, the more the model loses without the unit.
    pub scores: Vec<f64>,
}

/// Scores of all units of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// How they were made.
    pub score: Method,
    /// SHA-256 of the model they are of.
    pub model: String,
    /// Where the calibration samples came from.
    pub calibration: String,
    /// Number of samples.
    pub samples: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// One entry per prunable dimension.
    pub dimensions: Vec<DimensionScores>,
}

impl DimensionScores {
    /// The scores under the name of the dimension they belong to.
    pub fn of(dimension: &Dimension, scores: Vec<f64>) -> Self {
        Self { name: dimension.name.clone(), kind: dimension.kind, layer: dimension.layer, scores }
    }
}
