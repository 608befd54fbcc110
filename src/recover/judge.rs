//! Judging a recovery on samples that it was not fitted to.

use std::{ops::Range, rc::Rc};

use super::{Corrected, Fit, Mode, RecoverContext, RecoverError, Recovered, RecoveryReport};
use crate::{
    graph::{Graph, tidy},
    memory::MemoryBudget,
    model::ModelView,
    onnx::{is_float, proto::ModelProto},
    runtime::{Engine, Session},
    settings::SettingValues,
    tensor::Tensor,
    trajectory::{Output, SaidOutput, agreement, output_distance, outputs},
    typing::observe,
    widths::Kept,
};

/// One batch in so many is held out of a trial.
const PARTS: usize = 4;

/// SettingValues of a recovery and its judge.
#[derive(Clone, Debug)]
pub struct RecoverOptions<'a> {
    /// Names of outputs that hold logits, beside those that can be told.
    pub said_outputs: &'a [SaidOutput],
    /// The recovery.
    pub mode: Mode,
    /// Its settings; others are ignored.
    pub settings: SettingValues,
    /// Whether layers without a bias may be given one.
    pub grow: bool,
    /// Seed of the choice of positions.
    pub seed: u64,
    /// Bytes that may be held beside the models: values that are kept on the host, and moments.
    pub memory: MemoryBudget,
}

impl Default for RecoverOptions<'_> {
    fn default() -> Self {
        Self {
            said_outputs: &[],
            mode: Mode::default(),
            settings: SettingValues::default(),
            grow: true,
            seed: 0,
            memory: MemoryBudget::default(),
        }
    }
}

/// The batches that samples come in, and which of them are held out.
#[derive(Clone, Debug)]
pub struct HeldOut {
    batches: Vec<Range<usize>>,
}

impl HeldOut {
    /// Of all samples of a model, in batches that are small enough for one to be held out.
    fn new(view: ModelView<'_>) -> Self {
        let batch = view.batch.min(view.samples.len().div_ceil(PARTS)).max(1);
        Self { batches: view.samples.ranges(batch).collect() }
    }

    /// All batches, as ranges of samples.
    pub fn batches(&self) -> &[Range<usize>] {
        &self.batches
    }

    /// Whether a batch, by its number, is held out.
    pub fn contains(&self, batch: usize) -> bool {
        let count = self.batches.len();
        batch % PARTS == PARTS - 1 || (count < PARTS && batch + 1 == count)
    }

    /// The batches that are held out.
    fn ranges(&self) -> Vec<Range<usize>> {
        let batches = self.batches.iter().enumerate();
        batches.filter(|(number, _)| self.contains(*number)).map(|(_, range)| range.clone()).collect()
    }
}

/// Recovers `pruned`, which is the dense model of `view` without what `kept` leaves out.
///
/// A trial, of which some samples are held out, is judged on these: where its outputs are farther from the dense model's than
/// those of the pruned model are, recovery is undone. Otherwise the model is corrected once more, by all samples. `progress` is told
/// how much of both is done, of how much.
///
/// # Errors
/// When a model does not run, or the recovery fails as a whole.
pub fn recover(
    engine: &dyn Engine,
    view: ModelView<'_>,
    kept: &Kept,
    pruned: &ModelProto,
    options: &RecoverOptions<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Recovered, RecoverError> {
    let &RecoverOptions { mode, grow, seed, memory, .. } = options;
    let graph = Graph::new(pruned);
    let first = view.samples.ranges(view.facts.samples).next().unwrap_or(0..1);
    let feed = view.samples.batch(first.start, first.end)?;
    let facts = observe(engine, pruned, &graph, &feed, first.len())?;
    let samples = &HeldOut::new(view);
    let cx = RecoverContext {
        engine,
        view,
        kept,
        pruned,
        graph: &graph,
        facts: &facts,
        samples,
        grow,
        seed,
        memory,
    };
    let trial = mode.run(&cx, &options.settings, Fit::Trial, &mut |done, total| progress(done, 2 * total))?;
    let Corrected { model: tried, mut layers, notes } = trial;
    let held_out = samples.ranges();
    let judged = nearness(engine, view, options.said_outputs, &[pruned, &tried], &held_out)?;
    drop(tried);
    let (before, after) = (judged[0].distance, judged[1].distance);
    // A distance that is no number is no improvement.
    let undone = after.partial_cmp(&before).is_none_or(std::cmp::Ordering::is_gt);
    let mut model = None;
    if !undone {
        let mut tick = |done, total| progress(total + done, 2 * total);
        let mut corrected = mode.run(&cx, &options.settings, Fit::All(&layers), &mut tick)?;
        tidy(&mut corrected.model);
        layers = corrected.layers;
        model = Some(corrected.model);
    }
    let model = model.unwrap_or_else(|| pruned.clone());
    let added = parameters(&model).saturating_sub(parameters(pruned));
    let count = held_out.iter().map(ExactSizeIterator::len).sum();
    let report = RecoveryReport { mode, layers, held_out: count, before, after, added, undone, notes };
    Ok(Recovered { model, report, held_out })
}

/// Floating-point numbers in the constants of a model.
fn parameters(model: &ModelProto) -> u64 {
    let graph = Graph::new(model);
    let constants = graph.values().filter_map(|(id, _)| graph.constant(id)).filter(|tensor| is_float(tensor));
    constants.map(|tensor| tensor.dims.iter().map(|d| d.unsigned_abs()).product::<u64>()).sum()
}

/// The outputs of the dense model on a batch: those that are kept, or else those of a session, which is loaded when it is needed.
fn dense_outputs(
    engine: &dyn Engine,
    view: ModelView<'_>,
    session: &mut Option<Box<dyn Session>>,
    range: &Range<usize>,
    feed: &[(String, Tensor)],
) -> Result<Vec<Rc<Tensor>>, RecoverError> {
    // Beside the values of the graph, as outputs may be values that recovery has met in other pieces of the model.
    let names = view.graph.outputs().iter().map(|v| format!("output {}", view.graph.value(*v).name));
    let kept: Option<Vec<Rc<Tensor>>> = names.clone().map(|name| view.values.get(&name, range)).collect();
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let session = match session {
        Some(session) => session,
        None => session.insert(engine.load(view.model)?),
    };
    let outputs = names.zip(session.run(feed)?);
    Ok(outputs.map(|(name, output)| view.values.keep(&name, range, output)).collect())
}

/// How near the outputs of a model are to the dense model's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nearness {
    /// As [`output_distance`] has it, all outputs together.
    pub distance: f64,
    /// The share of samples, or of their positions, to which both give the same class, on the average of the outputs with classes.
    pub agreement: Option<f64>,
}

/// How near the outputs of each of some models are to the dense model's, over some batches.
fn nearness(
    engine: &dyn Engine,
    view: ModelView<'_>,
    said_outputs: &[SaidOutput],
    others: &[&ModelProto],
    batches: &[Range<usize>],
) -> Result<Vec<Nearness>, RecoverError> {
    let mut others = others.iter().map(|model| engine.load(model)).collect::<Result<Vec<_>, _>>()?;
    nearness_of(engine, view, said_outputs, &mut others, batches)
}

/// The same, of models that are loaded already.
pub(crate) fn nearness_of(
    engine: &dyn Engine,
    view: ModelView<'_>,
    said_outputs: &[SaidOutput],
    others: &mut [Box<dyn Session>],
    batches: &[Range<usize>],
) -> Result<Vec<Nearness>, RecoverError> {
    let places: Vec<(usize, Output)> = outputs(view.graph, view.facts, said_outputs)
        .into_iter()
        .filter_map(|output| Some((view.graph.outputs().iter().position(|o| *o == output.value)?, output)))
        .collect();
    let mut dense = None;
    let mut totals = vec![Nearness::default(); others.len()];
    for range in batches {
        let feed = view.samples.batch(range.start, range.end)?;
        let dense = dense_outputs(engine, view, &mut dense, range, &feed)?;
        for (total, other) in totals.iter_mut().zip(others.iter_mut()) {
            let other = other.run(&feed)?;
            let (mut distance, mut agreements) = (0.0, Vec::new());
            for (i, output) in &places {
                let pair = dense.get(*i).and_then(|a| a.to_f32()).zip(other.get(*i).and_then(|b| b.to_f32()));
                let Some((a, b)) = pair else { continue };
                distance += output_distance(*output, a.view(), b.view());
                agreements.extend(agreement(*output, a.view(), b.view()));
            }
            let samples = range.len() as f64;
            total.distance += distance * samples;
            if !agreements.is_empty() {
                let mean = agreements.iter().sum::<f64>() / agreements.len() as f64;
                *total.agreement.get_or_insert(0.0) += mean * samples;
            }
        }
    }
    let samples = batches.iter().map(ExactSizeIterator::len).sum::<usize>().max(1) as f64;
    let mean = |total: Nearness| Nearness {
        distance: total.distance / samples,
        agreement: total.agreement.map(|agreement| agreement / samples),
    };
    Ok(totals.into_iter().map(mean).collect())
}
