//! Recovery: what is left of each pruned layer takes over what was removed, by least squares on the calibration samples.
//!
//! Layer by layer in the pruned network, as K-prune does (Park et al., 2024, section 3.4): the layer's weights are corrected
//! so that the value after its residual connection comes as close as it can to the dense model's. The difference holds
//! what earlier layers still lack, so that errors do not pile up. Shapes stay as they are.

mod layer;
mod pass;
mod probe;
mod ridge;
mod stream;
mod write;

pub use layer::Reason;
pub use ridge::{Form, choose_form, fit};

use std::ops::Range;

use serde::Serialize;

use crate::{
    calibration::CalibrationError,
    graph::{Graph, tidy},
    memory::MemoryBudget,
    model::ModelView,
    named::named,
    onnx::{OnnxError, is_float, proto::ModelProto},
    runtime::{Engine, RuntimeError},
    tensor::DType,
    trajectory::{Output, output_distance, outputs},
    widths::Kept,
};
use pass::Pass;

/// What recovery may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Off,
    /// Biases: they take over the mean of what was removed.
    Bias,
    /// Weights and biases.
    #[default]
    Refit,
}

named!(
    Mode,
    "a kind of recovery",
    [
        (Off, "off", "Nothing is changed after units are removed."),
        (Bias, "bias", "Biases alone are corrected: they take over the mean of what was removed."),
        (
            Refit,
            "refit",
            "Weights and biases are refitted, layer by layer, by least squares on the calibration samples."
        ),
    ]
);

/// Settings of recovery.
#[derive(Clone, Copy, Debug)]
pub struct RecoverOptions<'a> {
    /// Outputs that hold logits, beside those that can be told.
    pub logits: &'a [String],
    /// What may change.
    pub mode: Mode,
    /// The ridge, relative to the mean variance of what a layer reads; `None`: chosen per layer on held-out samples.
    pub ridge: Option<f64>,
    /// Whether layers without a bias may be given one.
    pub grow: bool,
    /// Seed of the choice of positions.
    pub seed: u64,
    /// What may be held beside the models: values that are kept on the host, and moments.
    pub memory: MemoryBudget,
}

impl Default for RecoverOptions<'_> {
    fn default() -> Self {
        Self {
            logits: &[],
            mode: Mode::default(),
            ridge: None,
            grow: true,
            seed: 0,
            memory: MemoryBudget::default(),
        }
    }
}

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
    Left(Reason),
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
    fn left(name: String, reason: Reason) -> Self {
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
    pub report: Recovery,
    /// The batches of samples that were held out of the first walk.
    pub held_out: Vec<Range<usize>>,
}

/// What recovery did.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    /// What was allowed to change.
    pub mode: Mode,
    /// One entry per layer that pruning touches, in the order of the network.
    pub layers: Vec<LayerRecovery>,
    /// Samples that were held out.
    pub held_out: usize,
    /// Distance of the outputs from the dense model's, over samples that were held out, as
    /// [`output_distance`] has it.
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

/// Corrects the layers of `pruned`, which is the dense model of `view` without what `kept` leaves out.
///
/// The network is walked twice. The first time, some samples are held out, of every layer alike: they choose how each layer is
/// corrected, and judge the whole. The second time, all samples are used. `progress` is told how many layers are done, of
/// how many.
pub fn recover(
    engine: &dyn Engine,
    view: ModelView<'_>,
    kept: &Kept,
    pruned: &ModelProto,
    options: &RecoverOptions<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Recovered, RecoverError> {
    let mut trial = Pass::new(engine, view, pruned, options)?;
    let layers = layer::layers(view, kept, trial.graph(), trial.facts());
    let total = 2 * layers.len();
    let moments = pass::largest(layers.iter().flatten(), options.memory);
    trial.keep_beside(moments);
    let mut notes = Vec::new();
    for layer in layers.iter().flatten().filter(|_| options.mode == Mode::Refit) {
        if let Some(why) = pass::too_large(layer, options.memory) {
            notes.push(format!("{}: of its weights, the bias alone is corrected: {why}", layer.name));
        }
    }
    let mut reports = Vec::with_capacity(layers.len());
    for (done, layer) in layers.iter().enumerate() {
        progress(done, total);
        reports.push(match layer {
            Ok(layer) => attempt(&mut trial, |pass| pass.choose(layer, done)).unwrap_or_else(|error| {
                LayerRecovery::left(layer.name.clone(), Reason::Failed { why: error.to_string() })
            }),
            Err((name, reason)) => LayerRecovery::left(name.clone(), reason.clone()),
        });
    }
    notes.extend(trial.notes());
    let held_out = trial.held_out();
    let judged = distances(engine, view, options.logits, &[pruned, trial.model()], &held_out)?;
    let (before, after) = (judged[0], judged[1]);
    // A distance that is no number is no improvement.
    let undone = after.partial_cmp(&before).is_none_or(std::cmp::Ordering::is_gt);
    let mut model = pruned.clone();
    if !undone {
        let mut pass = trial.again(pruned);
        pass.keep_beside(moments);
        drop(trial);
        for (done, (layer, report)) in layers.iter().zip(&mut reports).enumerate() {
            progress(layers.len() + done, total);
            if let (Ok(layer), Some(form)) = (layer, report.outcome.form())
                && let Err(error) = attempt(&mut pass, |pass| pass.apply(layer, done, form))
            {
                report.outcome = Outcome::Left(Reason::Failed { why: error.to_string() });
            }
        }
        model.clone_from(pass.model());
        tidy(&mut model);
    }
    let added = parameters(&model).saturating_sub(parameters(pruned));
    let (mode, layers) = (options.mode, reports);
    let count = held_out.iter().map(ExactSizeIterator::len).sum();
    let report = Recovery { mode, layers, held_out: count, before, after, added, undone, notes };
    Ok(Recovered { model, report, held_out })
}

/// Does something to a layer; if that fails, once more from the input on, where no piece of the model can be the reason.
fn attempt<T>(
    pass: &mut Pass<'_>,
    mut work: impl FnMut(&mut Pass<'_>) -> Result<T, RecoverError>,
) -> Result<T, RecoverError> {
    work(pass).or_else(|_| {
        pass.restart();
        let again = work(pass);
        if again.is_err() {
            pass.restart();
        }
        again
    })
}

impl Recovery {
    /// The layers that could not be corrected though they should have been, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.layers.iter().filter_map(|layer| match &layer.outcome {
            Outcome::Left(Reason::Failed { why }) => Some((layer.name.as_str(), why.as_str())),
            _ => None,
        })
    }
}

/// Floating-point numbers in the constants of a model.
fn parameters(model: &ModelProto) -> u64 {
    let graph = Graph::new(model);
    let constants = graph.values().filter_map(|(id, _)| graph.constant(id)).filter(|tensor| is_float(tensor));
    constants.map(|tensor| tensor.dims.iter().map(|d| d.unsigned_abs()).product::<u64>()).sum()
}

/// How far the outputs of each of some models lie from the dense model's, over some batches, as [`output_distance`] has it.
pub(crate) fn distances(
    engine: &dyn Engine,
    view: ModelView<'_>,
    logits: &[String],
    others: &[&ModelProto],
    batches: &[Range<usize>],
) -> Result<Vec<f64>, RecoverError> {
    let places: Vec<(usize, Output)> = outputs(view.graph, view.facts, logits)
        .into_iter()
        .filter_map(|output| Some((view.graph.outputs().iter().position(|o| *o == output.value)?, output)))
        .collect();
    let mut dense = engine.load(view.model)?;
    let mut others = others.iter().map(|model| engine.load(model)).collect::<Result<Vec<_>, _>>()?;
    let mut totals = vec![0.0; others.len()];
    for range in batches {
        let feed = view.samples.batch(range.start, range.end)?;
        let dense = dense.run(&feed)?;
        for (total, other) in totals.iter_mut().zip(&mut others) {
            let other = other.run(&feed)?;
            let pairs = places.iter().filter_map(|(i, output)| {
                let (a, b) = (dense.get(*i)?.to_f32()?, other.get(*i)?.to_f32()?);
                Some(output_distance(*output, a.view(), b.view()))
            });
            *total += pairs.sum::<f64>() * range.len() as f64;
        }
    }
    let samples = batches.iter().map(ExactSizeIterator::len).sum::<usize>().max(1) as f64;
    Ok(totals.into_iter().map(|total| total / samples).collect())
}
