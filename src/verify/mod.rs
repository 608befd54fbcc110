//! Verification: the pruned model, as it will be written, against the masked original.

mod choices;

use std::collections::BTreeSet;

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

/// Compares `pruned`, after a round through its encoding, with `masked` ([`compare`]), and counts its FLOPs anew, which runs it
/// as it will be written.
pub fn verify(
    engine: &dyn Engine,
    masked: &ModelProto,
    pruned: &ModelProto,
    samples: &Samples,
    batch: usize,
) -> Result<Proof, VerifyError> {
    let mut pruned = ModelProto::decode(onnx::encode(pruned).as_slice())?;
    onnx::validate(&mut pruned)?;
    let (outputs, batches) = compare(engine, masked, &pruned, samples, batch)?;
    let flops = recount(engine, &pruned, samples, batch)?;
    let holds = outputs.iter().all(|o| o.difference <= TOLERANCE);
    Ok(Proof { outputs, batches, flops, holds })
}

/// How far the outputs of two models lie apart at two batch sizes, and the sizes.
///
/// Where activations are quantised, both are compared without that: a difference in the last place would become a whole step.
/// Where the largest of several numbers are chosen, of which some are almost equal, the pruned model is given what the masked
/// one chose, and what both chose from is compared as outputs are.
pub fn compare(
    engine: &dyn Engine,
    masked: &ModelProto,
    pruned: &ModelProto,
    samples: &Samples,
    batch: usize,
) -> Result<(Vec<OutputProof>, Vec<usize>), VerifyError> {
    // Rounding of activations makes steps of differences in the last place: the models are compared without it.
    let unrounded = (ops::unrounded(masked), ops::unrounded(pruned));
    let (masked, compared) = (unrounded.0.as_ref().unwrap_or(masked), unrounded.1.as_ref().unwrap_or(pruned));
    let mut reference = engine.load(masked)?;
    let mut smaller = engine.load(compared)?;
    let names = pruned.graph.iter().flat_map(|g| &g.output).map(|o| o.name().to_owned());
    let mut outputs: Vec<OutputProof> = names.map(|name| OutputProof { name, difference: 0.0 }).collect();
    let mut batches = Vec::new();
    let sizes =
        BTreeSet::from([batch, if samples.fixed_batch().is_some() { batch } else { batch.max(2) / 2 }]);
    for &size in &sizes {
        let Some(range) = samples.ranges(size).next() else { continue };
        let feed = samples.batch(range.start, range.end)?;
        let (expected, found) = (reference.run(&feed)?, smaller.run(&feed)?);
        let differences = expected.iter().zip(&found).map(|(a, b)| relative_difference(a, b));
        let mut differences: Vec<f64> = differences.collect();
        if differences.iter().any(|d| *d > TOLERANCE)
            && let Some(alike) = choices::alike(engine, masked, compared, &feed)?
        {
            differences = alike;
        }
        for (proof, difference) in outputs.iter_mut().zip(differences) {
            proof.difference = proof.difference.max(difference);
        }
        batches.push(range.len());
    }
    Ok((outputs, batches))
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
