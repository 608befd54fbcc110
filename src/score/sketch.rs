//! The trajectory sketch: all units of all layers from a few backward passes.
//!
//! To leading order, removing a unit costs the trajectory `δᵀ Q δ`, where `δ` is how the features move with the unit's mask.
//! A random cotangent `r` with `E[r rᵀ] = Q` at all waypoints at once, pulled back to the masks, gives `⟨r, δ⟩` for every
//! unit: its mean square over probes and samples is the importance that `exact.rs` computes one unit at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use ndarray::{Array2, Ix2};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    DimensionScores, ExactOptions, LAMBDA, Method, ScoreContext, ScoreError, Scored, Scorer, Stability,
    exact, stability::Tally,
};
use crate::{
    catalog::Entry,
    gradient::{self, Stop},
    graph::{Expr, Graph, Patch, Tail, Use, ValueId, ValueOrigin, live},
    memory::{Bytes, MemoryBudget},
    model::ModelView,
    onnx::{proto::ModelProto, single},
    runtime::{Engine, Session},
    settings::{self, Declared, Setting, SettingValues},
    tensor::{DType, Tensor},
    trajectory::{Padding, RandomCotangents, SaidOutput, Trajectory, outputs, padding, waypoints},
    typing::{Dimension, Kind, shapes},
    warning::{Warning, WarningCode},
    widths::{Contraction, Place},
};

/// OPTIN's trajectory importance to leading order.
pub const SKETCH: Method = Method::of(&SketchScorer);

/// The most probes per sample.
pub const PROBES: Setting<usize> = Setting {
    name: "probes",
    metavar: Some("N"),
    help: "Random probes per sample of a sketch, at most: fewer are drawn once the ranking is stable",
    default: 8,
    parse: settings::count,
    chooses: false,
};

pub(super) struct SketchScorer;

impl Entry for SketchScorer {
    fn id(&self) -> &'static str {
        "sketch"
    }

    fn about(&self) -> &'static str {
        "OPTIN's importance, estimated for all units at once by a few backward passes."
    }

    fn settings(&self) -> &'static [&'static dyn Declared] {
        &[&LAMBDA, &PROBES]
    }
}

impl Scorer for SketchScorer {
    fn orders(&self, _: &SettingValues) -> bool {
        true
    }

    /// By the sketch, and exactly where no gradient reaches or gradients are not finite.
    fn score(
        &self,
        cx: &ScoreContext<'_>,
        settings: &SettingValues,
        wanted: &dyn Fn(&Dimension) -> bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scored, ScoreError> {
        let &ScoreContext { engine, view, seed, memory, said_outputs } = cx;
        let (lambda, probes) = (settings.get(&LAMBDA), settings.get(&PROBES));
        let options = SketchOptions { probes, lambda, seed, said_outputs, memory };
        let sketch = sketch(engine, view, &options, wanted, progress)?;
        let reached: BTreeSet<String> = sketch.scores.iter().map(|d| d.name.clone()).collect();
        let missed = |d: &Dimension| wanted(d) && !reached.contains(&d.name);
        let mut scored = Scored { stability: sketch.stability, ..Scored::plain(sketch.scores) };
        scored.notes.extend(sketch.stops.iter().map(|stop| format!("no gradient beyond {stop}")));
        scored.notes.extend(sketch.notes);
        let unsound = sketch.unsound.as_ref();
        scored.warnings.extend(unsound.map(Unsound::warning));
        if view.dimensions.iter().any(missed) {
            let rest = exact(engine, view, &ExactOptions::by(cx, settings), &missed, progress)?;
            let unsound = |name: &String| unsound.is_some_and(|u| u.dimensions.contains(name));
            let why = |name| match unsound(name) {
                true => "its gradients are not finite",
                false => "no gradient reaches it",
            };
            let notes = rest.iter().map(|d| format!("{} was scored exactly: {}", d.name, why(&d.name)));
            scored.notes.extend(notes);
            scored.dimensions.extend(rest);
        }
        Ok(scored)
    }
}

/// SettingValues of the sketch.
#[derive(Clone, Copy, Debug)]
pub struct SketchOptions<'a> {
    /// The most probes per sample.
    pub probes: usize,
    /// Weight of the outputs' distance against the waypoints'.
    pub lambda: f64,
    /// Seed of the probes.
    pub seed: u64,
    /// What outputs hold, where that is said rather than told from the model.
    pub said_outputs: &'a [SaidOutput],
    /// What the values of a forward and a backward pass may take together; a smaller batch takes less.
    pub memory: MemoryBudget,
}

impl Default for SketchOptions<'_> {
    fn default() -> Self {
        Self { probes: 8, lambda: 1.0, seed: 0, said_outputs: &[], memory: MemoryBudget::default() }
    }
}

/// What the sketch found.
pub struct Sketch {
    /// Scores of the dimensions that a cotangent reached.
    pub scores: Vec<DimensionScores>,
    /// Where cotangents stopped.
    pub stops: Vec<Stop>,
    /// Dimensions that cotangents reached which are no finite numbers; they have no scores.
    pub unsound: Option<Unsound>,
    /// How sure the ranking is; `None` when no cotangent reached anything.
    pub stability: Option<Stability>,
    /// What else to know.
    pub notes: Vec<String>,
}

/// Cotangents that are no finite numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsound {
    /// The dimensions that they reached.
    pub dimensions: Vec<String>,
    /// The node where they arise, if that could be told: the one nearest the outputs whose operand has such a cotangent.
    pub node: Option<String>,
}

impl Unsound {
    fn warning(&self) -> Warning {
        let place = self.node.as_ref().map_or(String::new(), |node| format!(", first at {node}"));
        let count = self.dimensions.len();
        let message = format!(
            "gradients are not finite{place}: {count} of the dimensions were scored exactly, which takes longer; \
             see that the samples are what the model expects"
        );
        Warning::new(WarningCode::NonFiniteGradients, message)
    }
}

/// So many times the values of the forward pass are plenty for those of both passes: what they take need not be measured.
const PLENTY: u64 = 16;

/// Probes per sample before the ranking may be called stable.
const FEWEST: usize = 4;

/// Scores every unit of the dimensions that are `wanted`. The trajectory runs through all of them all the same.
///
/// Probes are drawn until two halves of them agree on the ranking, or there are [`SketchOptions::probes`] per sample.
/// Dimensions that no cotangent reaches are left out. `progress` is told how many samples are done, of how many at most.
pub fn sketch(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &SketchOptions<'_>,
    wanted: &dyn Fn(&Dimension) -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sketch, ScoreError> {
    // Squares and sums of cotangents leave the range of 16 bits.
    match single(view.model) {
        Some(mut model) => {
            engine.spill_weights(&mut model);
            let (graph, facts) = (Graph::new(&model), view.facts.single());
            let single = ModelView { model: &model, graph: &graph, facts: &facts, ..view };
            sketch_single(engine, single, options, wanted, progress)
        }
        None => sketch_single(engine, view, options, wanted, progress),
    }
}

fn sketch_single(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &SketchOptions<'_>,
    wanted: &dyn Fn(&Dimension) -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sketch, ScoreError> {
    let padding = padding(view.model, view.graph, view.facts, view.widths, view.samples);
    let trajectory = Trajectory {
        graph: view.graph,
        facts: view.facts,
        widths: view.widths,
        waypoints: &waypoints(view.graph, view.facts, view.widths, view.dimensions),
        outputs: &outputs(view.graph, view.facts, options.said_outputs),
        lambda: options.lambda,
        padding: padding.as_ref(),
    };
    let dimensions: Vec<&Dimension> = view.dimensions.iter().filter(|d| wanted(d)).collect();
    let contractions = || dimensions.iter().flat_map(|d| d.contractions(view.widths));
    let operands: BTreeSet<Use> = contractions().map(Contraction::operand).collect();
    let tail = Tail::new(view.graph.opset(), "sketch");
    let mut patch = Patch::default();
    patch.only_exposed();
    let probe = trajectory.probe(&tail, &mut patch);
    let backward = gradient::reverse(view.graph, view.facts, &tail, &probe.seeds, &operands);
    let mut taps: Vec<Tap> = Vec::new();
    for contraction in contractions() {
        let place = contraction.place();
        if taps.iter().any(|tap| tap.place == place) {
            continue;
        }
        let gradient =
            backward.operands.get(&place.at).and_then(|c| mask_gradient(view, &tail, contraction, *c));
        if let Some(gradient) = gradient {
            patch.expose(&gradient.name());
            taps.push(Tap::of(view, place, &dimensions));
        }
    }
    let mut tallies: Vec<Tally> = dimensions.iter().map(|d| Tally::new(d.size)).collect();
    let reached: BTreeSet<usize> = taps.iter().flat_map(|tap| tap.units.iter().map(|(d, _)| *d)).collect();
    let mut stability = None;
    let mut unsound = None;
    let mut notes = Vec::new();
    if !reached.is_empty() {
        tail.append_to(&mut patch);
        let model = patch.apply(view.model);
        let session = engine.load(&model)?;
        let padding = padding.as_ref();
        let seed = options.seed;
        let mut passes =
            Passes { session, view, probe: &probe, padding, seed, taps, unsound: None, batch: view.batch };
        notes.extend(passes.fit(engine, &model, options.memory)?);
        let kinds: Vec<_> = dimensions.iter().map(|d| d.kind).collect();
        stability = Some(passes.run(options, &kinds, &mut tallies, progress)?);
        if let Some(first) = passes.unsound.take() {
            let lost = dimensions.iter().zip(&tallies).filter(|(_, tally)| tally.is_discarded());
            let lost = lost.map(|(d, _)| d.name.clone()).collect();
            let node = origin(engine, &passes, &trajectory, &first).unwrap_or(None);
            unsound = Some(Unsound { dimensions: lost, node });
        }
    }
    let scored = dimensions.iter().zip(&tallies).enumerate();
    let scored = scored.filter(|(d, (_, tally))| reached.contains(d) && !tally.is_discarded());
    let scores = scored.map(|(_, (d, tally))| DimensionScores::of(d, tally.means())).collect();
    Ok(Sketch { scores, stops: backward.stops, unsound, stability, notes })
}

/// One output of the backward pass, `[samples, entries]`: the gradients of the masks at one operand of a sum.
struct Tap {
    place: Place,
    /// For each dimension that ends there, by its place: the unit of each entry.
    units: Vec<(usize, Vec<Option<usize>>)>,
}

impl Tap {
    fn of(view: ModelView<'_>, place: Place, dimensions: &[&Dimension]) -> Self {
        let ends = |d: &Dimension| d.contractions(view.widths).any(|c| c.place() == place);
        let units = dimensions.iter().enumerate().filter(|(_, d)| ends(d));
        let units = units.map(|(i, d)| (i, d.units(view.graph, view.widths, place)));
        Self { place, units: units.collect() }
    }
}

/// The gradient of a mask of ones on the operand of a sum, `[samples, entries]`: the operand times its cotangent, summed
/// over everything else. One row for all samples where no axis tells them apart: cross terms of their independent probes
/// vanish in expectation.
fn mask_gradient<'t>(
    view: ModelView<'_>,
    tail: &'t Tail,
    contraction: &Contraction,
    cotangent: Expr<'t>,
) -> Option<Expr<'t>> {
    let at = contraction.operand();
    let axes = view.widths.operand(view.graph, at)?;
    let operand = view.graph.node(at.node).inputs.get(at.slot).copied().flatten()?;
    let table = &view.widths.table;
    let sample = view.widths.samples_axis(axes).filter(|axis| *axis != contraction.axis);
    let others: Vec<usize> =
        (0..axes.len()).filter(|axis| *axis != contraction.axis && Some(*axis) != sample).collect();
    let product = tail.value(&view.graph.value(operand).name, cotangent.dtype()) * cotangent;
    let summed = product.sum(&others, false);
    let Some(sample) = sample else { return Some(summed.unsqueeze(&[0])) };
    let rows = if sample < contraction.axis { summed } else { summed.transpose(&[1, 0]) };
    let parts = table.size(axes[sample]) / view.facts.samples.max(1);
    let entries = table.size(*axes.get(contraction.axis)?);
    Some(match parts {
        0 | 1 => rows,
        // Windows and the like lie within their sample.
        _ => rows.reshape(&[-1, parts as i64, entries as i64]).sum(&[1], false),
    })
}

/// Runs of the forward and backward pass.
struct Passes<'a> {
    session: Box<dyn Session>,
    view: ModelView<'a>,
    probe: &'a RandomCotangents<'a>,
    padding: Option<&'a Padding>,
    seed: u64,
    taps: Vec<Tap>,
    /// The first probe and samples that gave no finite numbers.
    unsound: Option<(usize, Range<usize>)>,
    /// Samples per pass.
    batch: usize,
}

impl Passes<'_> {
    fn run(
        &mut self,
        options: &SketchOptions<'_>,
        kinds: &[Kind],
        tallies: &mut [Tally],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Stability, ScoreError> {
        let samples = self.view.samples.len();
        let mut stability = Stability::of(kinds, tallies, 0);
        for probe in 0..options.probes.max(1) {
            let mut seen = Vec::new();
            for range in self.view.samples.ranges(self.batch) {
                let end = range.end;
                seen.push((range.clone(), self.pass(probe, range, tallies)?));
                progress(probe * samples + end, options.probes * samples);
            }
            if let Some(range) = discard(&mut seen, tallies) {
                self.unsound.get_or_insert((probe, range));
            }
            clip(&mut seen);
            for (range, moved) in &seen {
                for (tally, moved) in tallies.iter_mut().zip(moved) {
                    let samples = range.len() / moved.len().max(1);
                    for (row, moved) in moved.iter().enumerate() {
                        tally.add(probe, range.start + row, moved, samples);
                    }
                }
            }
            stability = Stability::of(kinds, tallies, probe + 1);
            let nothing_left = tallies.iter().all(Tally::is_discarded);
            if nothing_left || (probe + 1 >= FEWEST && stability.is_stable()) {
                break;
            }
        }
        Ok(stability)
    }

    /// Takes as many samples per pass as the memory holds of the values of `model`, which is that of both directions; a note
    /// where one sample takes more.
    fn fit(
        &mut self,
        engine: &dyn Engine,
        model: &ModelProto,
        memory: MemoryBudget,
    ) -> Result<Option<String>, ScoreError> {
        let ModelView { graph, facts, samples, batch, .. } = self.view;
        let computed = graph.values().filter(|(_, v)| matches!(v.origin, ValueOrigin::Node(_)));
        let forward: u64 = computed.map(|(id, _)| facts.bytes(id)).sum();
        let all = forward / facts.samples.max(1) as u64 * batch as u64;
        if memory.holds(all.saturating_mul(PLENTY)) {
            return Ok(None);
        }
        // Backward values are known by their shapes in one run over as few samples as the facts are of.
        let range = samples.ranges(facts.samples).next().unwrap_or(0..1);
        let whole = Graph::new(model);
        let feed = self.feed(self.probe, 0, range.clone())?;
        let shapes: BTreeMap<ValueId, Vec<usize>> =
            shapes(engine, model, &whole, &feed)?.into_iter().collect();
        let bytes = |value: ValueId| {
            let elements = shapes.get(&value).map_or(0, |shape| shape.iter().product::<usize>());
            (elements * size_of::<f32>()) as u64
        };
        let sample = live(&whole, bytes).div_ceil(range.len().max(1) as u64).max(1);
        self.batch = memory.count(sample).min(batch);
        Ok((!memory.holds(sample)).then(|| {
            let needed = Bytes(sample);
            format!(
                "a forward and a backward pass over one sample take {needed}, more than the memory budget ({memory})"
            )
        }))
    }

    /// What one probe sees of some samples: of each dimension, [`Self::moved`].
    fn pass(
        &mut self,
        probe: usize,
        range: Range<usize>,
        tallies: &[Tally],
    ) -> Result<Vec<Moved>, ScoreError> {
        let results = self.session.run(&self.feed(self.probe, probe, range)?)?;
        let rows = |tensor: &Tensor| tensor.to_f32()?.into_dimensionality::<Ix2>().ok();
        let gradients: Vec<Option<Array2<f32>>> = results.iter().map(rows).collect();
        let dimensions = tallies.iter().enumerate();
        Ok(dimensions.map(|(d, tally)| self.moved(d, tally.units(), &gradients)).collect())
    }

    /// Some samples, and what is drawn for them as the inputs of `drawn` by the probe of this number.
    fn feed(
        &self,
        drawn: &RandomCotangents<'_>,
        probe: usize,
        range: Range<usize>,
    ) -> Result<Vec<(String, Tensor)>, ScoreError> {
        let count = self.view.samples.len();
        let mut feed = self.view.samples.batch(range.start, range.end)?;
        for (_, tensor) in feed.iter_mut().filter(|(_, t)| t.dtype().is_half()) {
            *tensor = tensor.cast_float(DType::F32).unwrap_or(tensor.clone());
        }
        let mask = self.padding.and_then(|p| feed.iter().find(|(name, _)| *name == p.input));
        let mask = mask.and_then(|(_, mask)| mask.to_ints());
        // Each probe of each sample has a stream of its own, so that the batch does not matter.
        let stream = |sample: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream((probe * count + sample) as u64);
            rng
        };
        let mut rngs: Vec<_> = range.map(stream).collect();
        feed.extend(drawn.draw(&mut rngs, mask.as_deref()));
        Ok(feed)
    }

    /// `⟨r, δ⟩` of each unit of a dimension, over all sums that it ends in: for each sample, or for all together where one of
    /// the sums does not tell them apart.
    fn moved(&self, dimension: usize, size: usize, gradients: &[Option<Array2<f32>>]) -> Moved {
        let ending = self.taps.iter().zip(gradients).filter_map(|(tap, gradient)| {
            let (_, units) = tap.units.iter().find(|(d, _)| *d == dimension)?;
            Some((units, gradient.as_ref()?))
        });
        let ending: Vec<_> = ending.collect();
        let rows = ending.iter().map(|(_, gradient)| gradient.nrows()).min().unwrap_or(0);
        let mut moved = vec![vec![0.0; size]; rows];
        for (units, gradient) in ending {
            for (row, entries) in gradient.outer_iter().enumerate() {
                let moved = &mut moved[if gradient.nrows() == rows { row } else { 0 }];
                for (unit, value) in units.iter().zip(entries) {
                    if let Some(unit) = unit {
                        moved[*unit] += f64::from(*value);
                    }
                }
            }
        }
        moved
    }
}

/// `⟨r, δ⟩` of the units of a dimension, a row per sample, or one for all.
type Moved = Vec<Vec<f64>>;

/// Gives up dimensions of which something was seen that is no finite number, and says in which samples, if there are new ones.
fn discard(seen: &mut [(Range<usize>, Vec<Moved>)], tallies: &mut [Tally]) -> Option<Range<usize>> {
    let mut first = None;
    for (range, moved) in seen.iter() {
        for (tally, rows) in tallies.iter_mut().zip(moved).filter(|(tally, _)| !tally.is_discarded()) {
            if !rows.iter().flatten().all(|x| x.is_finite()) {
                tally.discard();
                first.get_or_insert_with(|| range.clone());
            }
        }
    }
    for (_, moved) in seen {
        let lost = moved.iter_mut().zip(tallies.iter()).filter(|(_, tally)| tally.is_discarded());
        lost.for_each(|(rows, _)| rows.clear());
    }
    first
}

/// The node where cotangents cease to be finite, of one probe of some samples: the backward pass runs once more and says of
/// each operand whether what it gets is. `None` if all do, so that it was a sum of them that overflowed.
fn origin(
    engine: &dyn Engine,
    passes: &Passes<'_>,
    trajectory: &Trajectory<'_>,
    (number, range): &(usize, Range<usize>),
) -> Result<Option<String>, ScoreError> {
    let ModelView { model, graph, facts, .. } = passes.view;
    let slots = graph.nodes().flat_map(|(node, n)| (0..n.inputs.len()).map(move |slot| Use { node, slot }));
    let dynamic = graph.dynamic();
    let computed = |at: &Use| graph.node(at.node).input(at.slot).is_some_and(|v| dynamic[v.index()]);
    let tail = Tail::new(graph.opset(), "trace");
    let mut patch = Patch::default();
    patch.only_exposed();
    let probe = trajectory.probe(&tail, &mut patch);
    let backward = gradient::reverse(graph, facts, &tail, &probe.seeds, &slots.filter(computed).collect());
    for (at, cotangent) in &backward.operands {
        let rank = graph.node(at.node).input(at.slot).and_then(|v| facts.get(v)).map_or(0, |f| f.shape.len());
        // A number less itself is zero if it is finite, and else none; runtimes may take products with zero for zero.
        #[allow(clippy::eq_op)]
        let check = (*cotangent - *cotangent).sum(&(0..rank).collect::<Vec<_>>(), false);
        patch.expose(&check.name());
    }
    tail.append_to(&mut patch);
    let results = engine.load(&patch.apply(model))?.run(&passes.feed(&probe, *number, range.clone())?)?;
    let unsound = |check: &Tensor| check.to_f32().is_some_and(|x| x.iter().any(|x| !x.is_finite()));
    let found = backward.operands.keys().zip(&results).filter(|(_, check)| unsound(check));
    Ok(found.map(|(at, _)| at.node).max().map(|id| {
        let node = graph.node(id);
        format!("{} `{}`", node.op_type(), node.label())
    }))
}

/// How many times as sensitive as the median a sample may be.
const CLIP: f64 = 10.0;

/// Scales samples down whose squares, over all units, are beyond [`CLIP`] times the median. Losses are bounded, but not their
/// curvature: a few samples on which a deep model is chaotic would have all the say, and more samples make more of them.
fn clip(seen: &mut [(Range<usize>, Vec<Moved>)]) {
    let energies: Vec<Vec<f64>> = seen.iter().map(|(range, moved)| energies(range.len(), moved)).collect();
    let mut sorted = energies.concat();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    if median <= 0.0 {
        // Samples that move nothing are no measure of the others, such as those that say something at all.
        sorted.retain(|energy| *energy > 0.0);
    }
    let limit = CLIP * sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    for ((range, moved), energies) in seen.iter_mut().zip(energies) {
        for (sample, energy) in energies.into_iter().enumerate().filter(|(_, energy)| *energy > limit) {
            let scale = (limit / energy).sqrt();
            for rows in moved.iter_mut().filter(|rows| rows.len() == range.len()) {
                rows[sample].iter_mut().for_each(|m| *m *= scale);
            }
        }
    }
}

/// Sums of squares of each of so many samples, over the dimensions that tell them apart.
fn energies(samples: usize, moved: &[Moved]) -> Vec<f64> {
    let mut sums = vec![0.0; samples];
    for rows in moved.iter().filter(|rows| rows.len() == samples) {
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum += row.iter().map(|m| m * m).sum::<f64>();
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chaotic_sample_counts_as_much_as_the_most_sensitive_of_the_others_may() {
        let row = |x: f64| vec![x, 2.0 * x];
        let mut seen = vec![
            (0..2, vec![vec![row(1.0), row(1.0)], vec![vec![7.0]]]),
            (2..4, vec![vec![row(1e6), row(2.0)], vec![vec![7.0]]]),
        ];
        clip(&mut seen);
        assert_eq!(seen[0], (0..2, vec![vec![row(1.0), row(1.0)], vec![vec![7.0]]]));
        let energy: f64 = seen[1].1[0][0].iter().map(|m| m * m).sum();
        // Energies of 5, 5, 20 and very many: the upper median is 20.
        assert!((energy - CLIP * 20.0).abs() < 1e-6, "{energy}");
        assert_eq!(seen[1].1[0][1], row(2.0));
        assert_eq!(seen[1].1[1], vec![vec![7.0]]);
    }

    #[test]
    fn samples_that_move_nothing_do_not_silence_the_others() {
        let mut seen = vec![(0..3, vec![vec![vec![0.0], vec![0.0], vec![3.0]]])];
        clip(&mut seen);
        assert_eq!(seen[0].1[0], [vec![0.0], vec![0.0], vec![3.0]]);
    }

    #[test]
    fn what_is_not_finite_is_discarded_and_the_rest_counts() {
        let mut tallies = vec![Tally::new(1), Tally::new(1)];
        let nan = vec![vec![f64::NAN], vec![1.0]];
        let mut seen = vec![(0..2, vec![nan, vec![vec![2.0], vec![2.0]]])];
        assert_eq!(discard(&mut seen, &mut tallies), Some(0..2));
        assert_eq!(seen[0].1, [vec![], vec![vec![2.0], vec![2.0]]]);
        assert_eq!([0, 1].map(|d| tallies[d].is_discarded()), [true, false]);
        assert_eq!(discard(&mut seen, &mut tallies), None);
    }
}
