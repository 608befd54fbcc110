//! OPTIN's importance, one masked run per unit: `I(u) = Σ L_MD(Fᵢ, Fᵢᵘ) + λ · L_KL(z, zᵘ)` over all later waypoints
//! (OPTIN, algorithm 1).
//!
//! No run starts at the input: the graph is cut at the dimension's sums, what the suffix reads is cached, and the masks are
//! inputs, so that one session serves all units of a dimension.

use std::collections::BTreeSet;

use ndarray::{Array3, ArrayD, Axis, IxDyn};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

use super::{DimensionScores, Method, ScoreContext, ScoreError, Scored, Scorer, quirks};
use crate::{
    catalog::Entry,
    graph::{Graph, Patch, ValueId, cut},
    masks,
    memory::MemoryBudget,
    model::ModelView,
    onnx::{build, proto::ModelProto},
    runtime::{Engine, Session},
    settings::{self, Declared, Setting, SettingValues},
    tensor::{DType, Tensor},
    trajectory::{
        self, Output, Padding, SaidOutput, Waypoint, manifold, output_distance, outputs, padding, waypoints,
    },
    typing::{Dimension, Kind},
    widths::{Contraction, Kept},
};

/// OPTIN's trajectory importance, one masked run per unit.
pub const EXACT: Method = Method::of(&ExactScorer);

/// Weight of the outputs' distance against that of the waypoints. The waypoints are many and the outputs few, so that at equal
/// weights layers that only the outputs see are emptied: a text recogniser loses twice as much. From 30 on the ranking hardly
/// changes any more.
pub const LAMBDA: Setting<f64> = Setting {
    name: "lambda",
    metavar: Some("X"),
    help: "Weight of the outputs against the features of all layers, in sketched and exact scores; the paper has 1",
    default: 30.0,
    parse: settings::weight,
    chooses: false,
};

/// Whether to compute what the released code computes instead of the formula: see `quirks.rs`.
pub const PAPER_QUIRKS: Setting<bool> = Setting {
    name: "paper-quirks",
    metavar: None,
    help: "Score exactly, but with the quirks of the paper's released code, for comparison",
    default: false,
    parse: settings::switch,
    chooses: true,
};

pub(super) struct ExactScorer;

impl Entry for ExactScorer {
    fn id(&self) -> &'static str {
        "exact"
    }

    fn about(&self) -> &'static str {
        "OPTIN's importance as published, by one run of the model per unit: slow."
    }

    fn settings(&self) -> &'static [&'static dyn Declared] {
        &[&LAMBDA, &PAPER_QUIRKS]
    }
}

impl Scorer for ExactScorer {
    fn orders(&self, settings: &SettingValues) -> bool {
        !settings.get(&PAPER_QUIRKS)
    }

    fn score(
        &self,
        cx: &ScoreContext<'_>,
        settings: &SettingValues,
        wanted: &dyn Fn(&Dimension) -> bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scored, ScoreError> {
        let paper_quirks = settings.get(&PAPER_QUIRKS);
        let options = ExactOptions { paper_quirks, ..ExactOptions::by(cx, settings) };
        exact(cx.engine, cx.view, &options, wanted, progress).map(Scored::plain)
    }
}

/// SettingValues of exact scoring.
#[derive(Clone, Copy, Debug)]
pub struct ExactOptions<'a> {
    /// What outputs hold, where that is said rather than told from the model.
    pub said_outputs: &'a [SaidOutput],
    /// Weight of the divergence of the outputs against the manifold distance.
    pub lambda: f64,
    /// Positions per sample that the manifold distance looks at; more are subsampled.
    pub tokens: usize,
    /// Seed of the subsample.
    pub seed: u64,
    /// What the values of a run may take: fewer masks at once take less.
    pub memory: MemoryBudget,
    /// Score only that many units of each dimension, chosen by the seed, to compare with; the others' scores are NaN.
    pub units: Option<usize>,
    /// Compute what the released code computes instead of the formula: see `quirks.rs`.
    pub paper_quirks: bool,
}

impl Default for ExactOptions<'_> {
    fn default() -> Self {
        Self {
            said_outputs: &[],
            lambda: 1.0,
            tokens: 64,
            seed: 0,
            units: None,
            paper_quirks: false,
            memory: MemoryBudget::default(),
        }
    }
}

impl<'a> ExactOptions<'a> {
    /// By the formula, as a context and the weight among the settings have it.
    pub(super) fn by(cx: &ScoreContext<'a>, settings: &SettingValues) -> Self {
        let &ScoreContext { seed, memory, said_outputs, .. } = cx;
        Self { lambda: settings.get(&LAMBDA), seed, said_outputs, memory, ..Self::default() }
    }
}

/// Scores every unit of every dimension that is `wanted`. The trajectory runs through all of them all the same.
///
/// `progress` is told how many units are done, of how many.
pub fn exact(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &ExactOptions<'_>,
    wanted: &dyn Fn(&Dimension) -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<DimensionScores>, ScoreError> {
    let points = waypoints(view.graph, view.facts, view.widths, view.dimensions);
    let outputs = outputs(view.graph, view.facts, options.said_outputs);
    let padding = if options.paper_quirks {
        None
    } else {
        padding(view.model, view.graph, view.facts, view.widths, view.samples)
    };
    let runs = MaskedRuns { engine, view, options, points, outputs, padding };
    let total: usize = view.dimensions.iter().filter(|d| wanted(d)).map(|d| d.size).sum();
    let batches = view.samples.ranges(view.batch).count().max(1);
    let mut done = 0;
    let mut scores = Vec::with_capacity(view.dimensions.len());
    for dimension in view.dimensions.iter().filter(|d| wanted(d)) {
        let mut masked = 0;
        let mut tick = |units: usize| {
            masked += units;
            progress(done + masked / batches, total);
        };
        scores.push(DimensionScores::of(dimension, runs.dimension(dimension, &mut tick)?));
        done += dimension.size;
    }
    Ok(scores)
}

/// Samples, over all masks, that one run of a suffix holds.
const MASKED_BATCH: usize = 32;

struct MaskedRuns<'a> {
    engine: &'a dyn Engine,
    view: ModelView<'a>,
    options: &'a ExactOptions<'a>,
    points: Vec<Waypoint>,
    outputs: Vec<Output>,
    padding: Option<Padding>,
}

/// A dimension's suffix, ready to run with any mask.
struct Suffix<'a> {
    session: Box<dyn Session>,
    masks: Vec<(String, &'a Contraction)>,
    points: Vec<Waypoint>,
    outputs: Vec<Output>,
    boundary: Vec<String>,
    reads: BTreeSet<String>,
}

impl<'a> MaskedRuns<'a> {
    fn dimension(
        &self,
        dimension: &'a Dimension,
        tick: &mut dyn FnMut(usize),
    ) -> Result<Vec<f64>, ScoreError> {
        let mut suffix = self.suffix(dimension)?;
        let mut prefix = self.prefix(dimension, &suffix.boundary)?;
        let mut meter = Meter::new(self.options, dimension);
        let chosen = self.chosen(dimension);
        for range in self.view.samples.ranges(self.view.batch) {
            let samples = range.len();
            let inputs = self.view.samples.batch(range.start, range.end)?;
            let mut feed: Vec<(String, Tensor)> =
                inputs.iter().filter(|(name, _)| suffix.reads.contains(name)).cloned().collect();
            if let Some(session) = prefix.dense.as_mut() {
                feed.extend(suffix.boundary.iter().cloned().zip(session.run(&inputs)?));
            }
            let padding =
                self.padding.as_ref().and_then(|p| inputs.iter().find(|(name, _)| *name == p.input));
            let padding = padding.and_then(|(_, mask)| mask.to_ints());
            let dense = suffix.run(self.view, &feed, &[Kept::default()], None)?;
            let dense = self.features(&suffix, &dense, samples, padding.as_deref());
            if let Some(session) = prefix.masked.as_mut() {
                feed.retain(|(name, _)| !suffix.boundary.contains(name));
                feed.extend(suffix.boundary.iter().cloned().zip(session.run(&inputs)?));
            }
            let batching = self.batching(&suffix, &feed, samples);
            let most = MASKED_BATCH.min(self.options.memory.count(self.sample_bytes()));
            let at_once = batching.as_ref().map_or(1, |_| (most / samples).max(1));
            for units in chosen.chunks(at_once) {
                let kept: Vec<Kept> = units.iter().map(|unit| self.without(dimension, *unit)).collect();
                let values = suffix.run(self.view, &feed, &kept, batching.as_ref())?;
                for (k, unit) in units.iter().enumerate() {
                    let values: Vec<Tensor> = values.iter().map(|v| share(v, k, units.len())).collect();
                    let masked = self.features(&suffix, &values, samples, padding.as_deref());
                    meter.add(*unit, &dense, &masked, samples);
                }
                tick(units.len());
            }
        }
        let mut scores = meter.finish(self.view.samples.len(), self.is_last(dimension));
        for (unit, score) in scores.iter_mut().enumerate() {
            if chosen.binary_search(&unit).is_err() {
                *score = f64::NAN;
            }
        }
        Ok(scores)
    }

    /// Bytes that one sample needs in a run: what is computed on the way, and what is compared afterwards.
    fn sample_bytes(&self) -> u64 {
        let ModelView { graph, facts, .. } = self.view;
        let compared: u64 = self.points.iter().map(|point| facts.bytes(point.value)).sum();
        facts.live_per_sample(graph) + compared / facts.samples.max(1) as u64
    }

    /// The units to score, ascending.
    fn chosen(&self, dimension: &Dimension) -> Vec<usize> {
        let count = self.options.units.unwrap_or(dimension.size).min(dimension.size);
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        let mut chosen = index::sample(&mut rng, dimension.size, count).into_vec();
        chosen.sort_unstable();
        chosen
    }

    /// Everything but one unit.
    fn without(&self, dimension: &Dimension, unit: usize) -> Kept {
        let mut kept = Kept::default();
        let others = (0..dimension.size).filter(|u| *u != unit).collect();
        kept.keep(&self.view.widths.table, dimension.width, others);
        kept
    }

    fn is_last(&self, dimension: &Dimension) -> bool {
        self.view.dimensions.iter().filter(|d| d.kind == dimension.kind).all(|d| d.layer <= dimension.layer)
    }

    /// How several masks run as one batch, if they can: each fed value has one axis led by the batch or none that depends
    /// on it, and all results start with the batch.
    fn batching(&self, suffix: &Suffix<'_>, feed: &[(String, Tensor)], samples: usize) -> Option<Batching> {
        let ModelView { graph, facts, widths, .. } = self.view;
        let batch = widths.batch.filter(|_| self.view.samples.fixed_batch().is_none())?;
        let table = &widths.table;
        let leads = |value: ValueId| -> Option<Option<usize>> {
            let axes = widths.value(value)?;
            let places: Vec<usize> = (0..axes.len()).filter(|i| table.contains(axes[*i], batch)).collect();
            match places.as_slice() {
                [] => Some(None),
                [axis] if table.leads(axes[*axis], batch) => Some(Some(*axis)),
                _ => None,
            }
        };
        let axes = feed.iter().map(|(name, _)| leads(graph.find(name)?)).collect::<Option<Vec<_>>>()?;
        let mut results = suffix.points.iter().map(|p| p.value).chain(suffix.outputs.iter().map(|o| o.value));
        let masks = suffix.masks.iter().map(|(_, contraction)| {
            let value = graph.node(contraction.node).inputs.get(contraction.slot).copied().flatten()?;
            let axis = leads(value)??;
            let extent = facts.get(value)?.shape.get(axis)? * samples / facts.samples.max(1);
            (axis != contraction.axis).then_some((axis, extent))
        });
        let masks = masks.collect::<Option<Vec<_>>>()?;
        results.all(|v| leads(v) == Some(Some(0))).then_some(Batching { axes, masks })
    }

    fn suffix(&self, dimension: &'a Dimension) -> Result<Suffix<'a>, ScoreError> {
        let ModelView { model, graph, facts, widths, .. } = self.view;
        let mut patch = Patch::default();
        let masks: Vec<_> =
            dimension.contractions(widths).map(|c| (masks::input(&mut patch, graph, facts, c), c)).collect();
        let masked = patch.apply(model);
        let whole = Graph::new(&masked);
        let start: BTreeSet<_> = masks
            .iter()
            .filter_map(|(name, _)| whole.find(name))
            .flat_map(|mask| whole.uses(mask).iter().map(|at| at.node))
            .collect();
        let reached = whole.descendants(start.iter().copied());
        let translate = |v: ValueId| whole.find(&graph.value(v).name);
        let downstream =
            |v: &ValueId| translate(*v).and_then(|v| whole.producer(v)).is_some_and(|n| reached.contains(&n));
        let points: Vec<_> = self.points.iter().filter(|p| downstream(&p.value)).cloned().collect();
        let outputs: Vec<_> = self.outputs.iter().filter(|o| downstream(&o.value)).copied().collect();
        let fetched = points.iter().map(|p| p.value).chain(outputs.iter().map(|o| o.value));
        let fetched: Vec<_> = unique(fetched).into_iter().filter_map(translate).collect();
        let dynamic = whole.dynamic();
        let fact = |v: ValueId| graph.find(&whole.value(v).name).and_then(|v| facts.get(v));
        let describe = |v: ValueId| {
            let (dtype, rank) = fact(v).map_or((DType::F32, 0), |f| (f.dtype, f.shape.len()));
            build::value_info(&whole.value(v).name, dtype, rank)
        };
        let again = |v: ValueId| !dynamic[v.index()] || fact(v).is_some_and(|f| !f.dtype.is_float());
        let cut = cut(&masked, &whole, &start, &fetched, describe, again);
        let boundary: Vec<String> = cut.boundary.iter().map(|v| whole.value(*v).name.clone()).collect();
        let reads = input_names(&cut.model);
        let session = self.engine.load(&cut.model)?;
        Ok(Suffix { session, masks, points, outputs, boundary, reads })
    }

    /// Sessions that compute what the suffix reads.
    fn prefix(&self, dimension: &Dimension, boundary: &[String]) -> Result<Prefix, ScoreError> {
        if boundary.is_empty() {
            return Ok(Prefix { dense: None, masked: None });
        }
        let ModelView { model, graph, facts, widths, .. } = self.view;
        let mut contaminated = Kept::default();
        if self.options.paper_quirks && dimension.kind.paper_prior().masks_earlier {
            let earlier =
                |d: &&Dimension| d.kind == dimension.kind && d.layer < dimension.layer && d.size > 1;
            for other in self.view.dimensions.iter().filter(earlier) {
                contaminated.keep(&widths.table, other.width, (0..other.size - 1).collect());
            }
        }
        let masked = match contaminated.is_everything() {
            true => None,
            false => {
                Some(self.tap(&masks::constant(graph, facts, widths, &contaminated).apply(model), boundary)?)
            }
        };
        Ok(Prefix { dense: Some(self.tap(model, boundary)?), masked })
    }

    /// A session of `model` that returns the named values.
    fn tap(&self, model: &ModelProto, boundary: &[String]) -> Result<Box<dyn Session>, ScoreError> {
        let mut patch = Patch::default();
        patch.only_exposed();
        boundary.iter().for_each(|name| patch.expose(name));
        Ok(self.engine.load(&patch.apply(model))?)
    }

    /// What the distance compares: tokens per waypoint and sample, and the outputs.
    fn features(
        &self,
        suffix: &Suffix<'_>,
        values: &[Tensor],
        samples: usize,
        padding: Option<&[i64]>,
    ) -> Features {
        let fetched =
            unique(suffix.points.iter().map(|p| p.value).chain(suffix.outputs.iter().map(|o| o.value)));
        let value = |wanted: ValueId| {
            fetched.iter().position(|v| *v == wanted).and_then(|i| values.get(i)).and_then(Tensor::to_f32)
        };
        let tokens = suffix
            .points
            .iter()
            .filter_map(|p| tokens(&value(p.value)?, p.feature, samples).map(|t| (p.value, t)))
            .map(|(v, t)| self.select_tokens(v, &t, padding));
        let outputs = suffix.outputs.iter().filter_map(|o| Some((*o, value(o.value)?)));
        Features { tokens: tokens.collect(), outputs: outputs.collect() }
    }

    /// Drops padding, and subsamples positions where there are many.
    fn select_tokens(
        &self,
        value: ValueId,
        tokens: &Array3<f32>,
        padding: Option<&[i64]>,
    ) -> Vec<ndarray::Array2<f32>> {
        let count = tokens.len_of(Axis(1));
        let padded =
            padding.filter(|mask| mask.len() == tokens.len_of(Axis(0)) * count && self.is_padded(value));
        let chosen = if count > self.options.tokens {
            let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
            let mut chosen = index::sample(&mut rng, count, self.options.tokens).into_vec();
            chosen.sort_unstable();
            chosen
        } else {
            (0..count).collect()
        };
        let samples = tokens.axis_iter(Axis(0)).enumerate();
        samples
            .map(|(sample, tokens)| {
                let real = |t: &usize| padded.is_none_or(|mask| mask[sample * count + t] != 0);
                let chosen: Vec<usize> = chosen.iter().copied().filter(real).collect();
                tokens.select(Axis(0), &chosen)
            })
            .collect()
    }

    fn is_padded(&self, value: ValueId) -> bool {
        self.padding.as_ref().is_some_and(|padding| padding.covers(self.view.widths, value))
    }
}

/// Sessions of the model up to a cut.
struct Prefix {
    /// What the dense model computes; `None` when the suffix reads graph inputs alone.
    dense: Option<Box<dyn Session>>,
    /// The same with the last head of all earlier layers masked: a quirk of the released code.
    masked: Option<Box<dyn Session>>,
}

/// How several masks run as one batch.
struct Batching {
    /// Per fed value, the axis to repeat it along.
    axes: Vec<Option<usize>>,
    /// Per mask, the batch axis of what it multiplies, and that axis' extent.
    masks: Vec<(usize, usize)>,
}

/// Collects the distances of a dimension's units.
enum Meter<'a> {
    Formula { options: &'a ExactOptions<'a>, totals: Vec<f64> },
    Paper { rng: Box<ChaCha8Rng>, kind: Kind, manifold: Vec<f64>, divergence: Vec<f64> },
}

impl<'a> Meter<'a> {
    fn new(options: &'a ExactOptions<'a>, dimension: &Dimension) -> Self {
        let zeros = vec![0.0; dimension.size];
        if !options.paper_quirks {
            return Self::Formula { options, totals: zeros };
        }
        let rng = Box::new(ChaCha8Rng::seed_from_u64(options.seed));
        Self::Paper { rng, kind: dimension.kind, manifold: zeros.clone(), divergence: zeros }
    }

    fn add(&mut self, unit: usize, dense: &Features, masked: &Features, samples: usize) {
        match self {
            Self::Formula { options, totals } => {
                totals[unit] += distance(options, dense, masked) * samples as f64;
            }
            Self::Paper { rng, manifold, divergence, .. } => {
                let pairs = dense.tokens.iter().zip(&masked.tokens);
                manifold[unit] += pairs.filter_map(|(a, b)| quirks::manifold_sum(a, b, rng)).sum::<f64>();
                // The sum over rows, where the formula takes the mean.
                let rows = |output: &Output, z: &ArrayD<f32>| {
                    z.len() / z.shape().get(output.classes).copied().unwrap_or(1).max(1)
                };
                for ((output, a), (_, b)) in dense.outputs.iter().zip(&masked.outputs) {
                    divergence[unit] +=
                        trajectory::divergence(*output, a.view(), b.view()) * rows(output, a) as f64;
                }
            }
        }
    }

    fn finish(self, samples: usize, last: bool) -> Vec<f64> {
        match self {
            Self::Formula { totals, .. } => totals.into_iter().map(|t| t / samples.max(1) as f64).collect(),
            Self::Paper { kind, manifold, divergence, .. } => {
                let mut balance = quirks::Balance::default();
                let count = manifold.len();
                let units = manifold.into_iter().zip(divergence).enumerate();
                units.map(|(u, (m, d))| balance.total(m, d) * quirks::prior(kind, u, count, last)).collect()
            }
        }
    }
}

/// `Σ L_MD + λ · L_out`, averaged over the samples of a batch.
fn distance(options: &ExactOptions<'_>, dense: &Features, masked: &Features) -> f64 {
    let mut total = 0.0;
    for (a, b) in dense.tokens.iter().zip(&masked.tokens) {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| manifold(a.view(), b.view())).sum();
        total += sum / a.len().max(1) as f64;
    }
    for ((output, a), (_, b)) in dense.outputs.iter().zip(&masked.outputs) {
        total += options.lambda * output_distance(*output, a.view(), b.view());
    }
    total
}

/// The `k`-th of `parts` equal parts of a value along its first axis; the whole of it when there is one part.
fn share(value: &Tensor, k: usize, parts: usize) -> Tensor {
    if parts == 1 {
        return value.clone();
    }
    let extent = value.shape().first().map_or(0, |n| n / parts);
    value.narrow(0, k * extent, (k + 1) * extent)
}

struct Features {
    /// Per waypoint and sample: `[tokens, features]`.
    tokens: Vec<Vec<ndarray::Array2<f32>>>,
    outputs: Vec<(Output, ArrayD<f32>)>,
}

impl Suffix<'_> {
    /// Runs with one mask, or with several as one batch.
    fn run(
        &mut self,
        view: ModelView<'_>,
        feed: &[(String, Tensor)],
        kept: &[Kept],
        batching: Option<&Batching>,
    ) -> Result<Vec<Tensor>, ScoreError> {
        let batching = batching.filter(|_| kept.len() > 1);
        let repeated = |(i, (name, value)): (usize, &(String, Tensor))| {
            let axis = batching.and_then(|b| b.axes[i]);
            (name.clone(), axis.map_or_else(|| value.clone(), |axis| value.tile(axis, kept.len())))
        };
        let mut inputs: Vec<(String, Tensor)> = feed.iter().enumerate().map(repeated).collect();
        for (i, (name, contraction)) in self.masks.iter().enumerate() {
            let mut masks = kept.iter().filter_map(|kept| mask_of(view, contraction, kept));
            let mask = match batching.map(|b| b.masks[i]) {
                None => masks.next(),
                Some((axis, extent)) => {
                    Tensor::concat(&masks.map(|m| m.tile(axis, extent)).collect::<Vec<_>>(), axis)
                }
            };
            inputs.extend(mask.map(|mask| (name.clone(), mask)));
        }
        Ok(self.session.run(&inputs)?)
    }
}

/// What multiplies the operand of a sum: zero for the units that are left out, else one.
fn mask_of(view: ModelView<'_>, contraction: &Contraction, kept: &Kept) -> Option<Tensor> {
    let axis = view.widths.at(view.graph, contraction.place())?;
    let mask = masks::entries_mask(view.widths, view.graph, contraction, kept);
    let mask = mask.unwrap_or_else(|| vec![1.0; view.widths.table.size(axis)]);
    masks::shaped(view.graph, view.facts, contraction, &mask)
}

/// `[samples, positions, features]` of a value whose first axis is led by the batch.
fn tokens(value: &ArrayD<f32>, feature: usize, samples: usize) -> Option<Array3<f32>> {
    let rank = value.ndim();
    let order: Vec<usize> = (0..rank).filter(|a| *a != feature).chain([feature]).collect();
    let features = *value.shape().get(feature)?;
    let moved = value.view().permuted_axes(IxDyn(&order));
    let moved = moved.as_standard_layout().into_owned();
    let positions = moved.len() / features.max(1) / samples.max(1);
    moved.into_shape_with_order((samples, positions, features)).ok()
}

fn unique(values: impl Iterator<Item = ValueId>) -> Vec<ValueId> {
    let mut seen = BTreeSet::new();
    values.filter(|v| seen.insert(*v)).collect()
}

fn input_names(model: &ModelProto) -> BTreeSet<String> {
    model.graph.iter().flat_map(|g| &g.input).map(|i| i.name().to_owned()).collect()
}
