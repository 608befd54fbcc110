//! Recovery: what is left of each pruned layer takes over what was removed, by least squares on the calibration samples.
//!
//! Layer by layer in the pruned network, as K-prune does (Park et al., 2024, section 3.4): the layer's weights are corrected
//! so that the value after its residual connection comes as close as it can to the dense model's. The difference holds
//! what earlier layers still lack, so that errors do not pile up. Shapes stay as they are.

mod layer;
mod moments;
mod probe;
mod ridge;
mod stream;
mod write;

pub use layer::Reason;
pub use moments::{Correction, Moments};
pub use ridge::{Form, cross_validate, fit};

use std::ops::Range;

use serde::Serialize;

use crate::{
    calibration::CalibrationError,
    graph::{Facts, Graph, NodeId, ValueId},
    onnx::{OnnxError, proto::ModelProto},
    rewrite,
    runtime::{Engine, RuntimeError},
    score::ModelView,
    tensor::DType,
    trajectory::{Head, heads, output_distance},
    typing::observe,
    widths::Kept,
};
use layer::Layer;
use probe::{Probe, choose};
use stream::Stream;

/// What recovery may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing.
    Off,
    /// Biases: they take over the mean of what was removed.
    Bias,
    /// Weights and biases.
    #[default]
    Refit,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Bias => "bias",
            Self::Refit => "refit",
        })
    }
}

/// Settings of recovery.
#[derive(Clone, Copy, Debug)]
pub struct RecoverOptions {
    /// What may change.
    pub mode: Mode,
    /// The ridge, relative to the mean variance of what a layer reads; `None`: chosen per layer on held-out samples.
    pub ridge: Option<f64>,
    /// Seed of the choice of positions.
    pub seed: u64,
    /// Bytes of intermediate values that may be kept on the host, for each of the two models.
    pub memory: usize,
}

impl Default for RecoverOptions {
    fn default() -> Self {
        Self { mode: Mode::default(), ridge: None, seed: 0, memory: 2 << 30 }
    }
}

/// Why recovery failed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The runtime failed.
    #[error("recovery failed: {0}; --recover off does without")]
    Runtime(#[from] RuntimeError),
    /// A weight could not be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Samples could not be batched.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
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

/// How one layer fared. Errors are sums of squares at the layer's waypoint, relative to the dense waypoint's variance.
#[derive(Clone, Debug, Serialize)]
pub struct LayerRecovery {
    /// The layer's name.
    pub name: String,
    /// Entries that it sums over.
    pub entries: usize,
    /// Positions that were measured.
    pub positions: usize,
    /// Error before.
    pub before: f64,
    /// Error after, on samples that the correction was not fitted to.
    pub after: f64,
    /// What was done.
    pub outcome: Outcome,
}

/// A recovered model, and how it came to be.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The model.
    pub model: ModelProto,
    /// What is to be reported.
    pub report: Recovery,
}

/// What recovery did.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    /// What was allowed to change.
    pub mode: Mode,
    /// One entry per layer that pruning touches, in the order of the network.
    pub layers: Vec<LayerRecovery>,
    /// Distance of the outputs from the dense model's, over the calibration samples: divergence in nats where they are
    /// class scores, else the relative squared error.
    pub before: f64,
    /// The same after recovery. Where that is no improvement, recovery is undone.
    pub after: f64,
    /// Whether the recovered model came out worse, and was discarded.
    pub undone: bool,
}

/// Positions per summed entry that least squares are given, if the samples have as many.
const POSITIONS_PER_ENTRY: usize = 32;

/// Positions that are measured at least, if the samples have as many.
const FEWEST_POSITIONS: usize = 8192;

/// The largest Gram matrix, in rows; layers that sum over more have their bias corrected alone.
const MOST_ENTRIES: usize = 4608;

/// Parts that samples are divided into, each held out once.
const FOLDS: usize = 4;

/// Corrects the layers of `pruned`, which is the dense model of `view` without what `kept` leaves out.
///
/// `progress` is told how many layers are done, of how many.
pub fn recover(
    engine: &dyn Engine,
    view: ModelView<'_>,
    kept: &Kept,
    pruned: &ModelProto,
    options: &RecoverOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Recovered, RecoverError> {
    let mut pass = Pass::new(engine, view, pruned, options)?;
    let layers = layer::layers(view, kept, &Graph::new(pruned), &pass.facts);
    let total = layers.len();
    let mut reports = Vec::with_capacity(total);
    for (done, layer) in layers.into_iter().enumerate() {
        progress(done, total);
        reports.push(match layer {
            Ok(layer) => pass.layer(&layer, done)?,
            Err((name, reason)) => left(name, reason),
        });
    }
    let mut model = pass.model;
    rewrite::drop_unused(&mut model);
    let (before, after) = distances(engine, view, pruned, &model)?;
    // A distance that is no number is no improvement.
    let undone = !(after <= before);
    if undone {
        model = pruned.clone();
    }
    let report = Recovery { mode: options.mode, layers: reports, before, after, undone };
    Ok(Recovered { model, report })
}

fn left(name: String, reason: Reason) -> LayerRecovery {
    let outcome = Outcome::Left(reason);
    LayerRecovery { name, entries: 0, positions: 0, before: 0.0, after: 0.0, outcome }
}

/// The walk through the network.
struct Pass<'a> {
    view: ModelView<'a>,
    options: &'a RecoverOptions,
    batches: Vec<Range<usize>>,
    padding: Option<(String, ValueId)>,
    /// The pruned model, corrected so far.
    model: ModelProto,
    /// What one run of the pruned model showed.
    facts: Facts,
    types: std::collections::BTreeMap<String, (DType, usize)>,
    dense: Stream<'a>,
    pruned: Stream<'a>,
    /// The result of the last layer: what comes before it is as it will be.
    settled: Option<String>,
}

/// What was measured of a layer.
struct Measured {
    folds: Vec<Moments>,
    /// Sum of squares of the dense waypoint about its mean.
    variance: f64,
    positions: usize,
}

impl<'a> Pass<'a> {
    fn new(
        engine: &'a dyn Engine,
        view: ModelView<'a>,
        pruned: &ModelProto,
        options: &'a RecoverOptions,
    ) -> Result<Self, RecoverError> {
        let graph = Graph::new(pruned);
        let first = view.samples.ranges(view.facts.samples).next().unwrap_or(0..1);
        let feed = view.samples.batch(first.start, first.end)?;
        let facts = observe(engine, pruned, &graph, &feed, first.len())?;
        // At least as many batches as folds.
        let batch = view.batch.min(view.samples.len().div_ceil(FOLDS)).max(1);
        let batches: Vec<_> = view.samples.ranges(batch).collect();
        let stream = |graph: &Graph, facts: &Facts| {
            Stream::new(engine, view.samples, graph, facts, batches.len(), options.memory)
        };
        let typed = |(id, value): (ValueId, &crate::graph::Value)| {
            let fact = facts.get(id)?;
            Some((value.name.clone(), (fact.dtype, fact.shape.len())))
        };
        Ok(Self {
            view,
            options,
            padding: view.padding(),
            dense: stream(view.graph, view.facts),
            pruned: stream(&graph, &facts),
            types: graph.values().filter_map(typed).collect(),
            batches,
            model: pruned.clone(),
            facts,
            settled: None,
        })
    }

    /// Measures a layer and corrects it.
    fn layer(&mut self, layer: &Layer, number: usize) -> Result<LayerRecovery, RecoverError> {
        let entries = match self.options.mode {
            Mode::Refit if layer.entries <= MOST_ENTRIES => layer.entries,
            _ => 0,
        };
        let measured = self.measure(layer, entries, number)?;
        self.settled = Some(layer.result.clone());
        let name = layer.name.clone();
        let Some(Measured { folds, variance, positions }) = measured else {
            return Ok(left(name, Reason::Positions));
        };
        let Some((first, rest)) = folds.split_first().filter(|(_, rest)| !rest.is_empty()) else {
            return Ok(left(name, Reason::Samples));
        };
        let total = rest.iter().fold(first.clone(), |sum, fold| sum.plus(fold));
        let (form, error) = cross_validate(&folds, &total, self.options.ridge);
        let relative = |error: f64| error / variance.max(f64::MIN_POSITIVE);
        let (before, after) = (relative(total.energy), relative(error));
        let correction = fit(&total, form).filter(|_| error < total.energy);
        let (outcome, after) = match (&correction, form) {
            (None, _) => (Outcome::Left(Reason::NoGain), before),
            (Some(_), Form::Bias) => (Outcome::Shifted, after),
            (Some(_), Form::Ridge(ridge)) => (Outcome::Refitted { ridge }, after),
        };
        if let Some(correction) = &correction {
            self.model = write::correct(&self.model, &Graph::new(&self.model), layer, correction)?;
        }
        Ok(LayerRecovery { name, entries: layer.entries, positions, before, after, outcome })
    }

    /// Moments per fold, with so many entries (none: of the errors alone); `None` where positions vary among batches.
    fn measure(
        &mut self,
        layer: &Layer,
        entries: usize,
        number: usize,
    ) -> Result<Option<Measured>, RecoverError> {
        let graph = Graph::new(&self.model);
        let types = &self.types;
        let Some(probe) =
            Probe::new(&self.model, &graph, layer, entries > 0, |name| types.get(name).copied())
        else {
            return Ok(None);
        };
        let (whole, settled) = (Graph::new(&probe.model), self.settled.as_deref());
        let wanted: Vec<ValueId> = probe.outputs.iter().filter_map(|name| whole.find(name)).collect();
        let places = self.places(&whole, settled, layer);
        let mut piece = self.pruned.piece(&probe.model, &whole, &wanted, places)?;
        let dense = self.view.graph;
        let Some(waypoint) = dense.find(&layer.waypoint.0) else { return Ok(None) };
        let places = self.places(dense, settled, layer);
        let mut reference = self.dense.piece(self.view.model, dense, &[waypoint], places)?;
        let count = (POSITIONS_PER_ENTRY * entries).max(FEWEST_POSITIONS).div_ceil(self.batches.len());
        let (groups, features) = (layer.linear.groups, layer.gain.len());
        let zero = Moments::zero(groups, entries, features / groups);
        let folds = self.batches.len().min(FOLDS);
        let mut measured = Measured { folds: vec![zero; folds], variance: 0.0, positions: 0 };
        let mut spread = Spread::new(features);
        let mut steady = true;
        for (number_of_batch, range) in self.batches.clone().iter().enumerate() {
            let found = self.dense.run(&mut reference, number_of_batch, range, Vec::new())?;
            let found = found.into_iter().next();
            steady &= found.as_ref().is_some_and(|f| self.is_steady(waypoint, f.shape(), range.len()));
            let real = self.real_positions(waypoint, range)?;
            let seed = self.options.seed ^ ((number as u64) << 32) ^ number_of_batch as u64;
            let chosen = found.and_then(|f| choose(layer, &f, real.as_deref(), count, seed));
            let Some(chosen) = chosen else { return Ok(None) };
            let feed = probe.feed(layer, &chosen, range.len());
            let results = self.pruned.run(&mut piece, number_of_batch, range, feed)?;
            spread.add(&chosen.target);
            measured.positions += chosen.rows.len();
            steady &= probe.collect(&results, &mut measured.folds[number_of_batch % folds]).is_some();
        }
        self.dense.advance(reference);
        self.pruned.advance(piece);
        measured.variance = spread.total();
        Ok(Some(measured).filter(|_| steady))
    }

    /// Positions among the nodes of `graph` from behind the last layer to this one, where the model may be cut.
    fn places(&self, graph: &Graph, settled: Option<&str>, layer: &Layer) -> Range<usize> {
        let index = |result: &str| graph.find(result).and_then(|v| graph.producer(v)).map(NodeId::index);
        let start = settled.and_then(index).map_or(0, |last| last + 1);
        start..index(&layer.result).map_or(start, |layer| layer + 1)
    }

    /// Whether the value has the positions that were observed.
    fn is_steady(&self, value: ValueId, shape: &[usize], samples: usize) -> bool {
        let observed = self.view.facts.get(value).map_or(0, |f| f.shape.iter().product::<usize>());
        observed * samples == shape.iter().product::<usize>() * self.view.facts.samples
    }

    /// For each position of a batch, whether it is no padding; `None` where there is none.
    fn real_positions(&self, value: ValueId, range: &Range<usize>) -> Result<Option<Vec<i64>>, RecoverError> {
        let Some((name, mask)) = &self.padding else { return Ok(None) };
        if !self.view.is_padded(value, *mask) {
            return Ok(None);
        }
        let inputs = self.view.samples.batch(range.start, range.end)?;
        Ok(inputs.iter().find(|(n, _)| n == name).and_then(|(_, mask)| mask.to_ints()))
    }
}

/// Sums that give a variance.
struct Spread {
    rows: f64,
    sums: Vec<f64>,
    squares: f64,
}

impl Spread {
    fn new(features: usize) -> Self {
        Self { rows: 0.0, sums: vec![0.0; features], squares: 0.0 }
    }

    fn add(&mut self, rows: &ndarray::Array2<f32>) {
        self.rows += rows.nrows() as f64;
        for row in rows.outer_iter() {
            for (sum, x) in self.sums.iter_mut().zip(row) {
                *sum += f64::from(*x);
                self.squares += f64::from(*x).powi(2);
            }
        }
    }

    /// Sum of squares about the mean.
    fn total(&self) -> f64 {
        let means: f64 = self.sums.iter().map(|s| s * s / self.rows.max(1.0)).sum();
        (self.squares - means).max(0.0)
    }
}

/// Distances of the outputs of two models from the dense model's, over all samples.
fn distances(
    engine: &dyn Engine,
    view: ModelView<'_>,
    before: &ModelProto,
    after: &ModelProto,
) -> Result<(f64, f64), RecoverError> {
    let heads = heads(view.graph, view.facts);
    let places: Vec<(usize, Head)> = heads
        .into_iter()
        .filter_map(|(value, head)| Some((view.graph.outputs().iter().position(|o| *o == value)?, head)))
        .collect();
    let mut sessions = [engine.load(view.model)?, engine.load(before)?, engine.load(after)?];
    let mut totals = [0.0; 2];
    for range in view.samples.ranges(view.batch) {
        let feed = view.samples.batch(range.start, range.end)?;
        let mut outputs = Vec::with_capacity(sessions.len());
        for session in &mut sessions {
            outputs.push(session.run(&feed)?);
        }
        let Some((dense, others)) = outputs.split_first() else { continue };
        for (total, other) in totals.iter_mut().zip(others) {
            let pairs = places.iter().filter_map(|(i, head)| {
                let (a, b) = (dense.get(*i)?.to_f32()?, other.get(*i)?.to_f32()?);
                Some(output_distance(*head, a.view(), b.view()))
            });
            *total += pairs.sum::<f64>() * range.len() as f64;
        }
    }
    let samples = view.samples.len().max(1) as f64;
    Ok((totals[0] / samples, totals[1] / samples))
}
