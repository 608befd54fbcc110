//! A typed model, as the stages after typing see it.

use crate::{
    calibration::Samples,
    graph::{Facts, Graph},
    onnx::proto::ModelProto,
    typing::Dimension,
    widths::Widths,
};

/// What the stages after typing see of a model.
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
    /// What can be pruned.
    pub dimensions: &'a [Dimension],
    /// Calibration samples.
    pub samples: &'a Samples,
    /// Samples per run.
    pub batch: usize,
}
