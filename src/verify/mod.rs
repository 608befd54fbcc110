//! Verification: the pruned model, as it will be written, against the masked original.

mod choices;
mod runs;

pub use runs::Extent;
pub(crate) use runs::Runs;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    calibration::{CalibrationError, Samples},
    onnx::{self, OnnxError, proto::ModelProto},
    ops,
    plan::cost::{CountError, PerCost, Pruned},
    runtime::{Engine, RuntimeError},
    tensor::{DType, Tensor},
};

/// The largest difference between pruned and masked outputs, relative to the largest output, that rounding explains: some 800
/// times the last place of single precision (`2⁻²³`). Sums over n terms in another order differ by about `√n` of it, and
/// deep networks add such differences up.
///
/// It serves all types. Half precision is compared in single. Double precision would allow for less, but runtimes compute some
/// functions of doubles in single.
pub const TOLERANCE: f64 = 1e-4;

/// What was checked, and what came out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// Per output: the largest difference between pruned and masked model, relative to the output's largest value.
    pub outputs: Vec<OutputProof>,
    /// Batch sizes at which both ran.
    pub batches: Vec<usize>,
    /// Other extents of open axes at which both ran.
    pub extents: Vec<Extent>,
    /// Axes that the file leaves open, and of which the model takes no other extent.
    pub fixed: Vec<String>,
    /// What the pruned model costs, counted anew.
    #[serde(flatten)]
    pub costs: PerCost<u64>,
    /// Whether everything holds.
    pub holds: bool,
}

/// One output's comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutputProof {
    /// The output.
    pub name: String,
    /// Largest difference over largest value.
    pub difference: f64,
}

impl OutputProof {
    /// Whether rounding explains the difference; one that is no number is explained by nothing.
    pub fn holds(&self) -> bool {
        self.difference <= TOLERANCE
    }
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
}

impl From<CountError> for VerifyError {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Runtime(error) => Self::Runtime(error),
            CountError::Calibration(error) => Self::Calibration(error),
        }
    }
}

/// Compares `pruned` with `masked` ([`Reference::compare`]), and counts what it costs anew, in a file of `file_bytes`.
pub fn verify(
    engine: &dyn Engine,
    masked: &ModelProto,
    pruned: &ModelProto,
    samples: &Samples,
    batch: usize,
    file_bytes: u64,
) -> Result<Proof, VerifyError> {
    let reference = Reference::new(engine, masked, samples, batch)?;
    let outputs = reference.compare(engine, pruned)?;
    let costs = Pruned { engine, model: pruned, samples, batch, file_bytes }.recount()?;
    let holds = outputs.iter().all(OutputProof::holds);
    let runs = &reference.runs;
    Ok(Proof {
        outputs,
        batches: runs.batches(),
        extents: runs.extents(),
        fixed: runs.fixed.clone(),
        costs,
        holds,
    })
}

/// What a model gives at two batch sizes and at second extents, for others to be held against: it is loaded once for all of
/// them.
///
/// Models of half precision are compared in single: whether the same is computed is not a question of rounding, and by
/// the roundings of half precision, of which each layer adds some, hardly any difference could be seen.
pub struct Reference<'a> {
    /// The model as it is compared.
    model: Cow<'a, ModelProto>,
    runs: Runs,
}

impl<'a> Reference<'a> {
    /// Runs `model` on batches of `batch` samples and of half as many, and at other extents.
    pub fn new(
        engine: &dyn Engine,
        model: &'a ModelProto,
        samples: &Samples,
        batch: usize,
    ) -> Result<Self, VerifyError> {
        let model = comparable(model);
        let mut session = engine.load(&model)?;
        let runs = Runs::of(&mut *session, &model, samples, batch, in_single)?;
        Ok(Self { model, runs })
    }

    /// How far the outputs of another model lie from it.
    ///
    /// Where activations are quantised, both are compared without that: a difference in the last place would become a whole
    /// step. Where the largest of several numbers are chosen, of which some are almost equal, the other model is given what
    /// this one chose, and what both chose from is compared as outputs are.
    pub fn compare(&self, engine: &dyn Engine, other: &ModelProto) -> Result<Vec<OutputProof>, VerifyError> {
        let names = other.graph.iter().flat_map(|g| &g.output).map(|o| o.name().to_owned());
        let mut outputs: Vec<OutputProof> = names.map(|name| OutputProof { name, difference: 0.0 }).collect();
        let other = comparable(other);
        let mut session = engine.load(&other)?;
        for run in &self.runs.runs {
            let found = session.run(&run.feed)?;
            let differences = run.outputs.iter().zip(&found).map(|(a, b)| relative_difference(a, b));
            let mut differences: Vec<f64> = differences.collect();
            if differences.iter().any(|d| *d > TOLERANCE)
                && let Some(same) = choices::with_same_choices(engine, &self.model, &other, &run.feed)?
            {
                differences = same;
            }
            for (proof, difference) in outputs.iter_mut().zip(differences) {
                proof.difference = proof.difference.max(difference);
            }
        }
        Ok(outputs)
    }
}

/// The model in single precision, and without the rounding of activations, which makes steps of differences in the last place.
fn comparable(model: &ModelProto) -> Cow<'_, ModelProto> {
    let model = onnx::single(model).map_or(Cow::Borrowed(model), Cow::Owned);
    match ops::unrounded(&model) {
        Some(unrounded) => Cow::Owned(unrounded),
        None => model,
    }
}

/// Numbers of half precision in single.
fn in_single(feed: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let single = |x: Tensor| if x.dtype().is_half() { x.cast_float(DType::F32).unwrap_or(x) } else { x };
    feed.into_iter().map(|(name, x)| (name, single(x))).collect()
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
