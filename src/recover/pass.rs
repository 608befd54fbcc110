//! The walk through the network, layer by layer.

use std::{collections::BTreeMap, ops::Range};

use ndarray::Array2;

use super::{
    LayerRecovery, Outcome, RecoverContext, RecoverError,
    layer::{Layer, LeftReason},
    layer_probe::{LayerProbe, Positions, choose},
    ridge::{Chosen, Form, choose_form, fit},
    stream::{Stream, Wanted},
    write,
};
use crate::{
    graph::{Facts, Graph, NodeId, Value, ValueId},
    memory::{Bytes, MemoryBudget},
    onnx::proto::ModelProto,
    stats::{Correction, RegressionStats},
    tensor::DType,
    trajectory::{Padding, padding},
};

/// Positions per summed entry that least squares are given, if the samples have as many.
const POSITIONS_PER_ENTRY: usize = 32;

/// Positions that are measured at least, if the samples have as many.
const FEWEST_POSITIONS: usize = 8192;

/// The part of the memory that measured positions of one batch may take: one in so many.
const POSITIONS_SHARE: u64 = 4;

/// The largest Gram matrix, in rows; layers that sum over more have their bias corrected alone.
const MOST_ENTRIES: usize = 4608;

/// What least squares may correct.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeastSquares {
    /// Whether weights, and not biases alone.
    pub weights: bool,
    /// The ridge of the weights, relative to the mean variance of what a layer reads; `None`: chosen per layer on held-out
    /// samples.
    pub ridge: Option<f64>,
}

/// Where the walk is.
pub(super) struct Pass<'a> {
    cx: RecoverContext<'a>,
    method: LeastSquares,
    padding: Option<Padding>,
    /// The pruned model, corrected so far.
    model: ModelProto,
    /// Its graph.
    graph: Graph,
    /// Type and number of axes of the pruned model's values, by name.
    types: BTreeMap<String, (DType, usize)>,
    dense: Stream<'a>,
    pruned: Stream<'a>,
    /// The result of the last layer: what comes before it is as it will be.
    settled: Option<String>,
    /// Layers of which fewer positions were measured than there are, for want of memory, and how many of each batch.
    tight: BTreeMap<String, usize>,
}

/// What was measured of a layer.
struct Measured {
    /// Of the samples that are not held out.
    training: RegressionStats,
    /// Of those that are.
    held_out: RegressionStats,
    /// Sum of squares of the dense waypoint about its mean, on samples that are held out.
    variance: f64,
}

impl<'a> Pass<'a> {
    /// At the input of the pruned model.
    pub fn new(cx: RecoverContext<'a>, method: LeastSquares) -> Self {
        let RecoverContext { engine, view, pruned, graph, facts, samples, .. } = cx;
        let batches = samples.batches().len();
        let stream = |graph: &Graph, facts: &Facts| Stream::new(engine, view.samples, graph, facts, batches);
        let typed = |(id, value): (ValueId, &Value)| {
            let fact = facts.get(id)?;
            Some((value.name.clone(), (fact.dtype, fact.shape.len())))
        };
        Self {
            cx,
            method,
            padding: padding(view.model, view.graph, view.facts, view.widths, view.samples),
            dense: stream(view.graph, view.facts),
            pruned: stream(graph, facts),
            types: graph.values().filter_map(typed).collect(),
            model: pruned.clone(),
            graph: Graph::new(pruned),
            settled: None,
            tight: BTreeMap::new(),
        }
    }

    /// Leaves to the values that are kept on the host what `moments` leave of the memory.
    pub fn keep_beside(&mut self, moments: u64) {
        let kept = self.cx.view.values.capacity();
        let each = self.cx.memory.less(moments).less(kept).share(2);
        self.dense.keep(each);
        self.pruned.keep(each);
    }

    /// The pruned model, corrected so far.
    pub fn into_model(self) -> ModelProto {
        self.model
    }

    /// Layers of which fewer positions were measured than should have been, in words.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let memory = self.cx.memory;
        self.tight.iter().map(move |(layer, count)| {
            format!("{layer}: {count} positions of each batch are measured, as many as the memory budget ({memory}) has room for")
        })
    }

    /// Begins at the input again, after a failure in the middle: the layers that are done stay as they are.
    pub fn restart(&mut self) {
        self.dense.restart();
        self.pruned.restart();
    }

    /// Chooses how a layer is corrected by its error on samples that are held out, and corrects it by the others.
    pub fn choose(&mut self, layer: &Layer, number: usize) -> Result<LayerRecovery, RecoverError> {
        let name = layer.name.clone();
        if self.cx.samples.batches().len() < 2 {
            return Ok(LayerRecovery::left(name, LeftReason::Samples));
        }
        let Some(Measured { training, held_out, variance }) =
            self.measure(layer, self.entries(layer), number)?
        else {
            return Ok(LayerRecovery::left(name, LeftReason::Positions));
        };
        let biased = self.is_biased(layer);
        let Chosen { form, error, correction } = choose_form(&training, &held_out, self.method.ridge, biased);
        let relative = |error: f64| error / variance.max(f64::MIN_POSITIVE);
        let before = relative(held_out.energy);
        let correction = correction.filter(|c| error < held_out.energy && c.is_finite());
        let (outcome, after) = match (&correction, form) {
            (None, _) => (Outcome::Left(LeftReason::NoGain), before),
            (Some(_), Form::Bias) => (Outcome::Shifted, relative(error)),
            (Some(_), Form::Ridge(ridge)) => (Outcome::Refitted { ridge }, relative(error)),
        };
        self.correct(layer, correction.as_ref())?;
        let positions = (training.rows + held_out.rows) as usize;
        Ok(LayerRecovery { name, entries: layer.entries, positions, before, after, outcome })
    }

    /// Corrects a layer in the form that was chosen, by all samples.
    pub fn apply(&mut self, layer: &Layer, number: usize, form: Form) -> Result<(), RecoverError> {
        let entries = if form == Form::Bias { 0 } else { self.entries(layer) };
        let measured = self.measure(layer, entries, number)?;
        let total = measured.map(|m| m.training.plus(&m.held_out));
        let correction = total.and_then(|total| fit(&total, form, self.is_biased(layer)));
        let correction = correction.filter(Correction::is_finite);
        self.correct(layer, correction.as_ref())
    }

    fn correct(&mut self, layer: &Layer, correction: Option<&Correction>) -> Result<(), RecoverError> {
        self.settled = Some(layer.result.clone());
        if let Some(correction) = correction {
            let patch = write::correction(&self.graph, layer, correction)?;
            patch.edit(&mut self.model);
            self.cx.engine.spill_weights(&mut self.model);
            self.graph.update(&patch, &self.model);
        }
        Ok(())
    }

    /// Entries of a layer that are measured; none where only its bias may change.
    fn entries(&self, layer: &Layer) -> usize {
        let refit = self.method.weights && too_large(layer, self.cx.memory).is_none();
        if refit { layer.entries } else { 0 }
    }

    fn is_biased(&self, layer: &Layer) -> bool {
        layer.biased || self.cx.grow
    }

    /// Moments with so many entries (none: of the errors alone); `None` where positions vary among batches.
    fn measure(
        &mut self,
        layer: &Layer,
        entries: usize,
        number: usize,
    ) -> Result<Option<Measured>, RecoverError> {
        let types = &self.types;
        let probe = LayerProbe::new(&self.graph, layer, entries > 0, |name| types.get(name).copied());
        let Some(mut probe) = probe else { return Ok(None) };
        let settled = self.settled.as_deref();
        let places = self.places(&self.graph, settled, layer);
        let wanted = std::mem::take(&mut probe.wanted);
        let mut piece = self.pruned.piece(&self.model, &self.graph, &[], wanted, places)?;
        let dense = self.cx.view.graph;
        let Some(waypoint) = dense.find(&layer.waypoint.0) else { return Ok(None) };
        let places = self.places(dense, settled, layer);
        let values = self.cx.view.values;
        let mut reference = if values.has_all(&layer.waypoint.0, self.cx.samples.batches()) {
            None
        } else {
            let model = self.cx.view.model;
            Some(self.dense.piece(model, dense, &[waypoint], Wanted::default(), places)?)
        };
        let (groups, features) = (layer.linear.groups, layer.gain.len());
        let wanted =
            (POSITIONS_PER_ENTRY * entries).max(FEWEST_POSITIONS).div_ceil(self.cx.samples.batches().len());
        // What positions read is there as gathered, by group, extended, and transposed; what they lack, three times.
        let position = (4 * (groups * entries) + 3 * features) * size_of::<f32>();
        let count = wanted.min(self.cx.memory.share(POSITIONS_SHARE).count(position as u64));
        let zero = RegressionStats::zero(groups, entries, features / groups);
        let mut measured = Measured { training: zero.clone(), held_out: zero, variance: 0.0 };
        let mut spread = Spread::new(features);
        let mut steady = true;
        for (batch, range) in self.cx.samples.batches().iter().enumerate() {
            let found = match &mut reference {
                None => values.get(&layer.waypoint.0, range),
                Some(piece) => {
                    let found = self.dense.run(piece, batch, range, Vec::new())?.into_iter().next();
                    found.map(|found| values.keep(&layer.waypoint.0, range, found))
                }
            };
            steady &= found.as_ref().is_some_and(|f| self.is_steady(waypoint, f.shape(), range.len()));
            let real = self.real_positions(waypoint, range)?;
            let seed = self.cx.seed ^ ((number as u64) << 32) ^ batch as u64;
            let found = found.filter(|_| steady);
            let chosen = found.and_then(|f| choose(layer, &f, real.as_deref(), count, seed));
            steady &= chosen.is_some();
            // The pieces have to run through all batches, whatever becomes of this layer.
            let chosen = chosen.unwrap_or_else(|| Positions::first(features));
            if count < wanted && chosen.rows.len() == count {
                self.tight.insert(layer.name.clone(), count);
            }
            let feed = probe.feed(layer, &chosen);
            let results = self.pruned.run(&mut piece, batch, range, feed)?;
            let part = match self.cx.samples.contains(batch) {
                true => {
                    spread.add(&chosen.target);
                    &mut measured.held_out
                }
                false => &mut measured.training,
            };
            steady &= probe.collect(&results, part).is_some();
        }
        if let Some(reference) = reference {
            self.dense.advance(reference);
        }
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
        let observed = self.cx.view.facts.get(value).map_or(0, |f| f.shape.iter().product::<usize>());
        observed * samples == shape.iter().product::<usize>() * self.cx.view.facts.samples
    }

    /// For each position of a batch, whether it is no padding; `None` where there is none.
    fn real_positions(&self, value: ValueId, range: &Range<usize>) -> Result<Option<Vec<i64>>, RecoverError> {
        let Some(padding) = &self.padding else { return Ok(None) };
        if !padding.covers(self.cx.view.widths, value) {
            return Ok(None);
        }
        let inputs = self.cx.view.samples.batch(range.start, range.end)?;
        Ok(inputs.iter().find(|(name, _)| *name == padding.input).and_then(|(_, mask)| mask.to_ints()))
    }
}

/// Why the weights of a layer cannot be refitted, if its matrices are too large for that.
pub(super) fn too_large(layer: &Layer, memory: MemoryBudget) -> Option<String> {
    let bytes = moments_of(layer);
    if layer.entries > MOST_ENTRIES {
        Some(format!("it sums over {} entries, and at most {MOST_ENTRIES} are refitted", layer.entries))
    } else if memory.holds(bytes) {
        None
    } else {
        Some(format!("its moments take {}, more than the memory budget ({memory})", Bytes(bytes)))
    }
}

fn moments_of(layer: &Layer) -> u64 {
    let groups = layer.linear.groups;
    RegressionStats::bytes(groups, layer.entries, layer.gain.len() / groups.max(1))
}

/// Bytes of moments that are there at a time while some layers are recovered.
pub(super) fn largest<'a>(layers: impl Iterator<Item = &'a Layer>, memory: MemoryBudget) -> u64 {
    layers.filter(|layer| too_large(layer, memory).is_none()).map(moments_of).max().unwrap_or(0)
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

    fn add(&mut self, rows: &Array2<f32>) {
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
