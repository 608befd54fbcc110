//! Verification: the pruned model, as it will be written, against the masked original.

mod choices;

use std::{borrow::Cow, collections::BTreeSet};

use bytes::Bytes;
use prost::Message;
use serde::Serialize;

use crate::{
    calibration::{CalibrationError, Samples},
    graph::Graph,
    onnx::{self, OnnxError, proto::ModelProto},
    ops,
    plan::Cost,
    runtime::{Engine, RuntimeError},
    tensor::Tensor,
    typing::{infer, observe},
};

/// The largest difference between pruned and masked outputs, relative to the largest output, that rounding explains.
pub const TOLERANCE: f64 = 1e-4;

/// What was checked, and what came out.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// Per output: the largest difference between pruned and masked model, relative to the output's largest value.
    pub outputs: Vec<OutputProof>,
    /// Batch sizes at which both ran.
    pub batches: Vec<usize>,
    /// FLOPs of one sample, counted anew from the pruned model.
    pub flops: u64,
    /// Whether everything holds.
    pub holds: bool,
}

/// One output's comparison.
#[derive(Clone, Debug, Serialize)]
pub struct OutputProof {
    /// The output.
    pub name: String,
    /// Largest difference over largest value.
    pub difference: f64,
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The runtime failed on the pruned or the masked model.
    #[error("the pruned model does not run: {0}")]
    Runtime(#[from] RuntimeError),
    /// The pruned model is not well formed.
    #[error("the pruned model is not well formed: {0}")]
    Onnx(#[from] OnnxError),
    /// Samples could not be batched.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The encoded model cannot be decoded.
    #[error("the pruned model cannot be read back: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// Compares `pruned`, after a round through its encoding, with `masked` ([`Reference::compare`]), and counts its FLOPs anew, which
/// runs it as it will be written.
pub fn verify(
    engine: &dyn Engine,
    masked: &ModelProto,
    pruned: &ModelProto,
    samples: &Samples,
    batch: usize,
) -> Result<Proof, VerifyError> {
    // Before the round trip, so that only one session and one copy of the weights are there at a time.
    let reference = Reference::new(engine, masked, samples, batch)?;
    let mut pruned = ModelProto::decode(Bytes::from(onnx::encode(pruned)))?;
    onnx::validate(&mut pruned)?;
    let outputs = reference.compare(engine, &pruned)?;
    let flops = recount(engine, &pruned, samples, batch)?;
    let holds = outputs.iter().all(|o| o.difference <= TOLERANCE);
    Ok(Proof { outputs, batches: reference.batches(), flops, holds })
}

/// What a model gives at two batch sizes, for others to be held against: it is loaded once for all of them.
pub struct Reference<'a> {
    /// The model; where activations are quantised, without that.
    model: Cow<'a, ModelProto>,
    runs: Vec<Run>,
}

/// One batch: so many samples, what is fed, and what comes out.
struct Run {
    samples: usize,
    feed: Vec<(String, Tensor)>,
    outputs: Vec<Tensor>,
}

impl<'a> Reference<'a> {
    /// Runs `model` on batches of `batch` samples and of half as many.
    pub fn new(
        engine: &dyn Engine,
        model: &'a ModelProto,
        samples: &Samples,
        batch: usize,
    ) -> Result<Self, VerifyError> {
        let model = unrounded(model);
        let mut session = engine.load(&model)?;
        let half = if samples.fixed_batch().is_some() { batch } else { batch.max(2) / 2 };
        let mut runs = Vec::new();
        for size in BTreeSet::from([batch, half]) {
            let Some(range) = samples.ranges(size).next() else { continue };
            let feed = samples.batch(range.start, range.end)?;
            let outputs = session.run(&feed)?;
            runs.push(Run { samples: range.len(), feed, outputs });
        }
        Ok(Self { model, runs })
    }

    /// The batch sizes.
    pub fn batches(&self) -> Vec<usize> {
        self.runs.iter().map(|run| run.samples).collect()
    }

    /// How far the outputs of another model lie from it.
    ///
    /// Where activations are quantised, both are compared without that: a difference in the last place would become a whole
    /// step. Where the largest of several numbers are chosen, of which some are almost equal, the other model is given what
    /// this one chose, and what both chose from is compared as outputs are.
    pub fn compare(&self, engine: &dyn Engine, other: &ModelProto) -> Result<Vec<OutputProof>, VerifyError> {
        let names = other.graph.iter().flat_map(|g| &g.output).map(|o| o.name().to_owned());
        let mut outputs: Vec<OutputProof> = names.map(|name| OutputProof { name, difference: 0.0 }).collect();
        let other = unrounded(other);
        let mut session = engine.load(&other)?;
        for run in &self.runs {
            let found = session.run(&run.feed)?;
            let differences = run.outputs.iter().zip(&found).map(|(a, b)| relative_difference(a, b));
            let mut differences: Vec<f64> = differences.collect();
            if differences.iter().any(|d| *d > TOLERANCE)
                && let Some(alike) = choices::alike(engine, &self.model, &other, &run.feed)?
            {
                differences = alike;
            }
            for (proof, difference) in outputs.iter_mut().zip(differences) {
                proof.difference = proof.difference.max(difference);
            }
        }
        Ok(outputs)
    }
}

/// The model without the rounding of activations, which makes steps of differences in the last place.
fn unrounded(model: &ModelProto) -> Cow<'_, ModelProto> {
    ops::unrounded(model).map_or(Cow::Borrowed(model), Cow::Owned)
}

/// FLOPs of one sample, from the model alone.
pub fn recount(
    engine: &dyn Engine,
    model: &ModelProto,
    samples: &Samples,
    batch: usize,
) -> Result<u64, VerifyError> {
    let graph = Graph::new(model);
    let Some(range) = samples.ranges(batch).next() else { return Ok(0) };
    let facts = observe(engine, model, &graph, &samples.batch(range.start, range.end)?, range.len())?;
    let widths = infer(&graph, &facts, &BTreeSet::new());
    Ok(Cost::flops(&widths, &[], range.len()).total(&[]))
}

/// `max |a − b| / max |a|`; infinite when shapes differ or one side is not finite where the other is.
fn relative_difference(a: &Tensor, b: &Tensor) -> f64 {
    if a.shape() != b.shape() {
        return f64::INFINITY;
    }
    let (Some(x), Some(y)) = (a.to_f32(), b.to_f32()) else {
        return if a == b { 0.0 } else { f64::INFINITY };
    };
    let largest = x.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(f64::from(v.abs())));
    let difference = x.iter().zip(&y).fold(0f64, |m, (x, y)| {
        let same = x == y || (x.is_nan() && y.is_nan());
        let d = if same { 0.0 } else { f64::from((x - y).abs()) };
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    });
    if difference == 0.0 { 0.0 } else { difference / largest.max(f64::MIN_POSITIVE) }
}
