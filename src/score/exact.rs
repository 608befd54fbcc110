//! OPTIN's importance, one masked run per unit: `I(u) = Σ L_MD(Fᵢ, Fᵢᵘ) + λ · L_KL(z, zᵘ)` over all later waypoints
//! (OPTIN, algorithm 1).
//!
//! No run starts at the input: the graph is cut at the dimension's sums, what the suffix reads is cached, and the masks are
//! inputs, so that one session serves all units of a dimension.

use std::collections::BTreeSet;

use ndarray::{Array3, ArrayD, Axis, IxDyn};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

use super::{DimensionScores, ModelView, ScoreError};
use crate::{
    calibration::{InputRole, input_roles},
    graph::{Graph, Patch, ValueId, cut},
    masks,
    onnx::proto::ModelProto,
    runtime::{Engine, Session},
    tensor::{DType, Tensor},
    trajectory::{Head, Waypoint, heads, kullback_leibler, manifold, relative_l2, waypoints},
    typing::Dimension,
    widths::{Contraction, Kept},
};

/// Settings of exact scoring.
#[derive(Clone, Copy, Debug)]
pub struct ExactOptions {
    /// Weight of the divergence of the outputs against the manifold distance.
    pub lambda: f64,
    /// Positions per sample that the manifold distance looks at; more are subsampled.
    pub tokens: usize,
    /// Seed of the subsample.
    pub seed: u64,
}

impl Default for ExactOptions {
    fn default() -> Self {
        Self { lambda: 1.0, tokens: 64, seed: 0 }
    }
}

/// Scores every unit of every dimension.
pub fn exact(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &ExactOptions,
) -> Result<Vec<DimensionScores>, ScoreError> {
    let points = waypoints(view.graph, view.widths, view.dimensions);
    let outputs = heads(view.graph, view.facts);
    let scorer = Scorer { engine, view, options, points, outputs, padding: padding(view) };
    view.dimensions.iter().map(|d| Ok(DimensionScores::of(d, scorer.dimension(d)?))).collect()
}

/// The first input that is a mask `[batch, positions]`.
fn padding(view: ModelView<'_>) -> Option<(String, ValueId)> {
    let roles = input_roles(view.model);
    let masks = roles.into_iter().filter(|(_, role)| *role == InputRole::Mask);
    let masks = masks.filter_map(|(name, _)| view.graph.find(&name).map(|v| (name, v)));
    masks.into_iter().find(|(_, v)| view.facts.get(*v).is_some_and(|f| f.shape.len() == 2))
}

struct Scorer<'a> {
    engine: &'a dyn Engine,
    view: ModelView<'a>,
    options: &'a ExactOptions,
    points: Vec<Waypoint>,
    outputs: Vec<(ValueId, Head)>,
    padding: Option<(String, ValueId)>,
}

/// A dimension's suffix, ready to run with any mask.
struct Suffix<'a> {
    session: Box<dyn Session>,
    masks: Vec<(String, &'a Contraction)>,
    points: Vec<Waypoint>,
    outputs: Vec<(ValueId, Head)>,
    boundary: Vec<String>,
    reads: BTreeSet<String>,
}

impl<'a> Scorer<'a> {
    fn dimension(&self, dimension: &'a Dimension) -> Result<Vec<f64>, ScoreError> {
        let mut suffix = self.suffix(dimension)?;
        let mut prefix = self.prefix(&suffix.boundary)?;
        let mut scores = vec![0.0; dimension.size];
        for range in self.view.samples.ranges(self.view.batch) {
            let samples = range.len();
            let inputs = self.view.samples.batch(range.start, range.end)?;
            let mut feed: Vec<(String, Tensor)> =
                inputs.iter().filter(|(name, _)| suffix.reads.contains(name)).cloned().collect();
            if let Some(session) = prefix.as_mut() {
                feed.extend(suffix.boundary.iter().cloned().zip(session.run(&inputs)?));
            }
            let padding = self.padding.as_ref().and_then(|(name, _)| inputs.iter().find(|(n, _)| n == name));
            let padding = padding.and_then(|(_, mask)| mask.to_ints());
            let everything = Kept::default();
            let dense = suffix.run(self.view, &feed, &everything)?;
            let dense = self.features(&suffix, &dense, samples, padding.as_deref());
            for (unit, score) in scores.iter_mut().enumerate() {
                let mut kept = Kept::default();
                let others = (0..dimension.size).filter(|u| *u != unit).collect();
                kept.keep(&self.view.widths.table, dimension.width, others);
                let masked = suffix.run(self.view, &feed, &kept)?;
                let masked = self.features(&suffix, &masked, samples, padding.as_deref());
                *score += self.distance(&dense, &masked) * samples as f64;
            }
        }
        let count = self.view.samples.len().max(1) as f64;
        scores.iter_mut().for_each(|s| *s /= count);
        Ok(scores)
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
            .flat_map(|mask| whole.uses(mask).into_iter().map(|at| at.node))
            .collect();
        let reached = whole.descendants(start.iter().copied());
        let translate = |v: ValueId| whole.find(&graph.value(v).name);
        let downstream =
            |v: &ValueId| translate(*v).and_then(|v| whole.producer(v)).is_some_and(|n| reached.contains(&n));
        let points: Vec<_> = self.points.iter().filter(|p| downstream(&p.value)).cloned().collect();
        let outputs: Vec<_> = self.outputs.iter().filter(|(v, _)| downstream(v)).copied().collect();
        let fetched = points.iter().map(|p| p.value).chain(outputs.iter().map(|(v, _)| *v));
        let fetched: Vec<_> = unique(fetched).into_iter().filter_map(translate).collect();
        let dynamic = whole.dynamic();
        let fact = |v: ValueId| graph.find(&whole.value(v).name).and_then(|v| facts.get(v));
        let describe = |v: ValueId| {
            let (dtype, rank) = fact(v).map_or((DType::F32, 0), |f| (f.dtype, f.shape.len()));
            masks::value_info(&whole.value(v).name, dtype, rank)
        };
        let again = |v: ValueId| !dynamic[v.index()] || fact(v).is_some_and(|f| !f.dtype.is_float());
        let cut = cut(&masked, &whole, &start, &fetched, describe, again);
        let boundary: Vec<String> = cut.boundary.iter().map(|v| whole.value(*v).name.clone()).collect();
        let reads = input_names(&cut.model);
        let session = self.engine.load(&cut.model)?;
        Ok(Suffix { session, masks, points, outputs, boundary, reads })
    }

    /// A session that computes what the suffix reads; `None` when it reads graph inputs alone.
    fn prefix(&self, boundary: &[String]) -> Result<Option<Box<dyn Session>>, ScoreError> {
        if boundary.is_empty() {
            return Ok(None);
        }
        let mut patch = Patch::default();
        patch.only_exposed();
        boundary.iter().for_each(|name| patch.expose(name));
        Ok(Some(self.engine.load(&patch.apply(self.view.model))?))
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
            unique(suffix.points.iter().map(|p| p.value).chain(suffix.outputs.iter().map(|(v, _)| *v)));
        let value = |wanted: ValueId| {
            fetched.iter().position(|v| *v == wanted).and_then(|i| values.get(i)).and_then(Tensor::to_f32)
        };
        let tokens = suffix
            .points
            .iter()
            .filter_map(|p| tokens(&value(p.value)?, p.feature, samples).map(|t| (p.value, t)))
            .map(|(v, t)| self.select_tokens(v, &t, padding));
        let outputs = suffix.outputs.iter().filter_map(|(v, head)| Some((*head, value(*v)?)));
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

    /// Whether the value has the positions of the padding mask as an axis.
    fn is_padded(&self, value: ValueId) -> bool {
        let table = &self.view.widths.table;
        let positions = self.padding.as_ref().and_then(|(_, v)| self.view.widths.value(*v)?.get(1).copied());
        let axes = self.view.widths.value(value).unwrap_or_default();
        positions.is_some_and(|p| axes.iter().any(|a| table.contains(*a, p)))
    }

    fn distance(&self, dense: &Features, masked: &Features) -> f64 {
        let mut total = 0.0;
        for (a, b) in dense.tokens.iter().zip(&masked.tokens) {
            let sum: f64 = a.iter().zip(b).map(|(a, b)| manifold(a.view(), b.view())).sum();
            total += sum / a.len().max(1) as f64;
        }
        for ((head, a), (_, b)) in dense.outputs.iter().zip(&masked.outputs) {
            total += self.options.lambda
                * match head {
                    Head::Logits => kullback_leibler(a.view(), b.view(), false),
                    Head::Probabilities => kullback_leibler(a.view(), b.view(), true),
                    Head::Embedding => relative_l2(a.view(), b.view()),
                };
        }
        total
    }
}

struct Features {
    /// Per waypoint and sample: `[tokens, features]`.
    tokens: Vec<Vec<ndarray::Array2<f32>>>,
    outputs: Vec<(Head, ArrayD<f32>)>,
}

impl Suffix<'_> {
    fn run(
        &mut self,
        view: ModelView<'_>,
        feed: &[(String, Tensor)],
        kept: &Kept,
    ) -> Result<Vec<Tensor>, ScoreError> {
        let mut inputs = feed.to_vec();
        for (name, contraction) in &self.masks {
            let at = crate::graph::Use { node: contraction.node, slot: contraction.slot };
            let axes = view.widths.operand(view.graph, at).unwrap_or_default();
            let size = axes.get(contraction.axis).map_or(0, |w| view.widths.table.size(*w));
            let mask = masks::entries_mask(view.widths, view.graph, contraction, kept);
            let mask = mask.unwrap_or_else(|| vec![1.0; size]);
            if let Some(mask) = masks::shaped(view.graph, view.facts, contraction, &mask) {
                inputs.push((name.clone(), mask));
            }
        }
        Ok(self.session.run(&inputs)?)
    }
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
