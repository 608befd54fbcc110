//! The walk through the network, layer by layer.

use std::{collections::BTreeMap, ops::Range, rc::Rc};

use ndarray::Array2;

use super::{
    LayerRecovery, Outcome, RecoverContext, RecoverError,
    layer::{Layer, LeftReason},
    layer_probe::{LayerProbe, choose, positions, targets},
    measured::{Measured, Sums},
    ridge::{Chosen, Form, choose_form, fit},
    stream::{Piece, Stream, Wanted},
    write,
};
use crate::{
    graph::{Facts, Graph, NodeId, Value, ValueId},
    memory::{Bytes, MemoryBudget},
    model::ModelView,
    onnx::proto::ModelProto,
    stats::{Correction, RegressionStats},
    tensor::{DType, Tensor},
    trajectory::{Padding, padding},
};

/// Positions per summed entry that least squares are given, if the samples have as many.
const POSITIONS_PER_ENTRY: usize = 32;

/// Positions that are measured at least, if the samples have as many.
const FEWEST_POSITIONS: usize = 8192;

/// The part of the memory that measured positions of one batch may take: one in so many.
const POSITIONS_SHARE: u64 = 4;

/// The part of the memory that the moments of layers may take that are measured together: one in so many.
const FAMILY_SHARE: u64 = 4;

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
    /// What was measured of layers whose turn has not come, by their results.
    ahead: BTreeMap<String, Option<Measured>>,
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
            ahead: BTreeMap::new(),
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

    /// Chooses how a layer is corrected by its error on samples that are held out, and corrects it by the others. `siblings` may be
    /// measured with it.
    pub fn choose(
        &mut self,
        layer: &Layer,
        siblings: &[&Layer],
        number: usize,
    ) -> Result<LayerRecovery, RecoverError> {
        let name = layer.name.clone();
        if self.cx.samples.batches().len() < 2 {
            return Ok(LayerRecovery::left(name, LeftReason::Samples));
        }
        let Some(Measured { training, held_out, variance }) =
            self.measured(layer, siblings, self.entries(layer), number)?
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

    /// Corrects a layer in the form that was chosen, by all samples. `siblings` may be measured with it.
    pub fn apply(
        &mut self,
        layer: &Layer,
        siblings: &[&Layer],
        number: usize,
        form: Form,
    ) -> Result<(), RecoverError> {
        let entries = if form == Form::Bias { 0 } else { self.entries(layer) };
        let measured = self.measured(layer, siblings, entries, number)?;
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

    /// What is known of a layer, with so many entries (none: of the errors alone); `None` where positions vary among batches. What
    /// is not known yet is measured, of as many of its siblings as well as there is memory for.
    fn measured(
        &mut self,
        layer: &Layer,
        siblings: &[&Layer],
        entries: usize,
        number: usize,
    ) -> Result<Option<Measured>, RecoverError> {
        if let Some(known) = self.ahead.remove(&layer.result) {
            return Ok(known);
        }
        let refit = |sibling: &&&Layer| self.entries(sibling) == self.entries(layer);
        let family = family(layer, siblings.iter().filter(refit).copied(), self.cx.memory);
        let mut found = self.measure(&family, entries, number)?.into_iter();
        let own = found.next().flatten();
        let others = family.iter().skip(1).map(|sibling| sibling.result.clone());
        self.ahead.extend(others.zip(found));
        Ok(own)
    }

    /// Measures layers that read the same, with so many entries.
    fn measure(
        &mut self,
        layers: &[&Layer],
        entries: usize,
        number: usize,
    ) -> Result<Vec<Option<Measured>>, RecoverError> {
        let none = || Ok(layers.iter().map(|_| None).collect());
        let types = &self.types;
        let probe = LayerProbe::new(&self.graph, layers, entries > 0, |name| types.get(name).copied());
        let dense = self.cx.view.graph;
        let waypoints = layers.iter().map(|layer| dense.find(&layer.waypoint.0));
        let waypoints: Option<Vec<ValueId>> = waypoints.collect();
        let (Some(mut probe), Some(waypoints)) = (probe, waypoints) else { return none() };
        let Some(first) = layers.first() else { return none() };
        let settled = self.settled.as_deref();
        let places = self.places(&self.graph, settled, first);
        let wanted = std::mem::take(&mut probe.wanted);
        let mut piece = self.pruned.piece(&self.model, &self.graph, &[], wanted, places)?;
        let mut reference = self.reference(first, &waypoints)?;
        let count = self.count(layers, entries);
        let mut sums: Vec<Sums> = layers.iter().map(|layer| Sums::new(layer, entries)).collect();
        for (batch, range) in self.cx.samples.batches().iter().enumerate() {
            let found = self.dense_values(&mut reference, &waypoints, batch, range)?;
            let real = self.real_positions(waypoints[0], range)?;
            let seed = self.cx.seed ^ ((number as u64) << 32) ^ batch as u64;
            let shape = found.first().and_then(Option::as_ref).map(|found| found.shape());
            let positions = shape.map_or(1, |shape| positions(first, shape));
            let rows = choose(positions, real.as_deref(), count.affordable, seed);
            if rows.len() == count.affordable && count.affordable < count.wanted {
                self.tight.insert(first.name.clone(), count.affordable);
            }
            let targets = layers.iter().zip(found).zip(&mut sums).map(|((layer, found), sums)| {
                let target = found.and_then(|found| targets(layer, &found, positions, &rows));
                sums.steady &= target.is_some();
                // The pieces have to run through all batches, whatever becomes of this layer.
                target.unwrap_or_else(|| Array2::zeros((rows.len(), layer.gain.len())))
            });
            let targets: Vec<Array2<f32>> = targets.collect();
            let held_out = self.cx.samples.contains(batch);
            if held_out {
                sums.iter_mut().zip(&targets).for_each(|(sums, target)| sums.spread.add(target));
            }
            let feed = probe.feed(first, &rows, targets);
            let results = self.pruned.run(&mut piece, batch, range, feed)?;
            let parts = sums.iter_mut().map(|sums| sums.part(held_out));
            let collected = probe.collect(&results, parts).is_some();
            sums.iter_mut().for_each(|sums| sums.steady &= collected);
        }
        if let Some(reference) = reference {
            self.dense.advance(reference);
        }
        self.pruned.advance(piece);
        Ok(sums.into_iter().map(Sums::measured).collect())
    }

    /// The piece of the dense model that computes waypoints; `None` where their values are known.
    fn reference(&self, first: &Layer, waypoints: &[ValueId]) -> Result<Option<Piece>, RecoverError> {
        let ModelView { model, graph, values, .. } = self.cx.view;
        let known = |v: &ValueId| values.has_all(&graph.value(*v).name, self.cx.samples.batches());
        if waypoints.iter().all(known) {
            return Ok(None);
        }
        let places = self.places(graph, self.settled.as_deref(), first);
        self.dense.piece(model, graph, waypoints, Wanted::default(), places).map(Some)
    }

    /// What the dense model has at waypoints, for the samples of one batch; nothing where it has not the positions that were
    /// observed.
    fn dense_values(
        &mut self,
        reference: &mut Option<Piece>,
        waypoints: &[ValueId],
        batch: usize,
        range: &Range<usize>,
    ) -> Result<Vec<Option<Rc<Tensor>>>, RecoverError> {
        let ModelView { graph, values, .. } = self.cx.view;
        let names = waypoints.iter().map(|v| graph.value(*v).name.as_str());
        let found: Vec<Option<Rc<Tensor>>> = match reference {
            None => names.map(|name| values.get(name, range)).collect(),
            Some(piece) => {
                let mut found = self.dense.run(piece, batch, range, Vec::new())?.into_iter();
                names.map(|name| found.next().map(|found| values.keep(name, range, found))).collect()
            }
        };
        let steady = waypoints.iter().zip(found);
        let steady = steady.map(|(v, found)| found.filter(|x| self.is_steady(*v, x.shape(), range.len())));
        Ok(steady.collect())
    }

    /// How many positions of a batch are measured.
    fn count(&self, layers: &[&Layer], entries: usize) -> Count {
        let batches = self.cx.samples.batches().len();
        let wanted = (POSITIONS_PER_ENTRY * entries).max(FEWEST_POSITIONS).div_ceil(batches);
        let groups = layers.first().map_or(1, |layer| layer.linear.groups);
        let features: usize = layers.iter().map(|layer| layer.gain.len()).sum();
        // What positions read is there as gathered, by group, extended, and transposed; what they lack, three times.
        let position = (4 * (groups * entries) + 3 * features) * size_of::<f32>();
        let room = self.cx.memory.share(POSITIONS_SHARE).count(position as u64);
        Count { wanted, affordable: wanted.min(room) }
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

/// How many positions of a batch are to be measured, and for how many of them there is memory.
struct Count {
    wanted: usize,
    affordable: usize,
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

/// A layer and as many of its siblings as there is memory for the moments of.
pub(super) fn family<'l>(
    layer: &'l Layer,
    siblings: impl Iterator<Item = &'l Layer>,
    memory: MemoryBudget,
) -> Vec<&'l Layer> {
    let room = memory.share(FAMILY_SHARE);
    let mut moments = moments_of(layer);
    let fits = |sibling: &&Layer| {
        moments = moments.saturating_add(moments_of(sibling));
        room.holds(moments)
    };
    std::iter::once(layer).chain(siblings.take_while(fits)).collect()
}

/// Bytes of moments that are there at a time while families of layers are recovered.
pub(super) fn largest<'l>(families: impl Iterator<Item = Vec<&'l Layer>>, memory: MemoryBudget) -> u64 {
    let refitted = |layer: &&&Layer| too_large(layer, memory).is_none();
    families
        .map(|family| family.iter().filter(refitted).map(|layer| moments_of(layer)).sum())
        .max()
        .unwrap_or(0)
}
