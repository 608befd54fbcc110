//! Finds out how long a model takes by the sizes of its dimensions: its parts are timed at a grid of sizes, each beside what it is
//! with everything kept, and a few whole models tell what the sum of the parts misses.
//!
//! Tables of layer times that a search plans by are HALP's (Shen et al., 2021), SPDY's (Frantar & Alistarh, 2022) and ZipLM's
//! (Kurtić et al., 2023).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Effort, Feed, LatencyError, MeasureError, Stopwatch, Table, WholeTimer,
    calibrate::{self, Observation},
    curve::Samples,
    grid,
    groups::{Group, groups},
    interleave::{quantile, race},
    part::{Part, structure, values, weight_bytes},
    picoseconds,
    predict::{Latency, Step, Survey, Term},
    seconds,
    stopwatch::Lap,
    whole::{OrNone, running},
};
use crate::{
    graph::Graph,
    model::ModelView,
    onnx::proto::ModelProto,
    plan::{DimensionPlan, Limits, Plan},
    reduction,
    rewrite::RewriteError,
    runtime::Engine,
    tensor::Tensor,
    ties::Ties,
    widths::Width,
};

/// Whole models that are timed to calibrate by.
const WHOLE_MODELS: usize = 6;

/// About how long all parts are timed.
const ALL_PARTS: Duration = Duration::from_secs(40);

/// What the parts with everything kept are worth, of all of which one race is made.
const KEPT: Effort = Effort {
    warm_up: 2,
    least: 5,
    most: 100,
    time: Duration::from_secs(4),
    block: Duration::from_millis(2),
    evict: 0,
};

/// Who times a model of one session.
pub(crate) struct Surveyor<'a> {
    pub stopwatch: &'a dyn Stopwatch,
    /// What models are run on to see their values.
    pub engine: &'a dyn Engine,
    pub view: ModelView<'a>,
    pub limits: &'a Limits,
    /// The model as it was in the file.
    pub dense: &'a ModelProto,
    pub feed: &'a Feed,
    pub table: &'a mut Table,
    /// Is told how many plans are done, of how many.
    pub progress: &'a dyn Fn(usize, usize),
}

/// Bytes that are read before each run of a part, at most: more than what caches hold that a core has for itself.
const MOST_EVICTED: usize = 8 << 20;

/// A group that stands for all that are like it.
struct Kind<'l> {
    group: Group,
    /// Of the part with everything kept.
    structure: String,
    part: Part,
    /// The part with everything kept, once it was needed.
    twin: Option<Box<dyn Lap + 'l>>,
    /// Extents of the axes and times, as shares of the time with everything kept.
    samples: Vec<(Vec<usize>, f64)>,
}

/// Every group with the kind that it is of, the kinds, and how many bytes of weights a run of the whole model reads between two
/// runs of one part: these are in no cache any more then.
type Kinds<'l> = (Vec<(Group, usize)>, Vec<Kind<'l>>, usize);

/// A group as a term of the sum.
struct Fitted {
    /// Kinds of units that it shrinks with.
    class: String,
    axes: Vec<Width>,
    curves: Vec<Samples>,
    /// The share of its time that no size changes.
    fixed: f64,
    /// Seconds with everything kept.
    seconds: f64,
}

impl Fitted {
    /// The time as a share of that with everything kept.
    fn share(&self, extents: &[usize]) -> f64 {
        let varying =
            self.curves.iter().zip(extents).map(|(curve, extent)| over(curve.at(*extent), self.fixed));
        self.fixed + (1.0 - self.fixed) * varying.product::<f64>()
    }
}

/// A share of the time without the part that is fixed.
fn over(share: f64, fixed: f64) -> f64 {
    ((share - fixed) / (1.0 - fixed)).max(0.0)
}

impl<'a> Surveyor<'a> {
    /// Times what is not in the table yet.
    ///
    /// # Errors
    /// When nothing that could be pruned can be timed, or the dense model cannot.
    pub fn survey(mut self) -> Result<Latency, LatencyError> {
        let known = self.table.len();
        let (groups, mut kinds, evict) = self.kinds()?;
        if kinds.is_empty() {
            return Err(LatencyError::Nothing);
        }
        self.time_kept(&mut kinds, evict)?;
        let plans = self.plans(&kinds);
        let effort = self.effort(&plans, &kinds, evict);
        for (done, sizes) in plans.iter().enumerate() {
            (self.progress)(done, plans.len() + 1);
            self.sample(sizes, &mut kinds, effort)?;
        }
        let fitted: Vec<Fitted> =
            groups.iter().filter_map(|(group, kind)| self.fit(group, kinds.get(*kind)?)).collect();
        // They hold models in memory.
        let (parts, distinct) = (groups.len(), kinds.len());
        drop(kinds);
        let whole = self.whole_models(&fitted, plans.len())?;
        let classes: BTreeSet<&str> = fitted.iter().map(|group| group.class.as_str()).collect();
        let scales = calibrate::scales(&whole.observations, classes.len());
        let scale = |group: &Fitted| {
            let class = classes.iter().position(|class| *class == group.class);
            class.and_then(|class| scales.get(class)).copied().unwrap_or(1.0)
        };
        let terms = fitted.iter().map(|group| Term {
            picoseconds: picoseconds(scale(group) * group.seconds * (1.0 - group.fixed)),
            axes: group
                .axes
                .iter()
                .zip(&group.curves)
                .map(|(w, curve)| (*w, curve.without(group.fixed)))
                .collect(),
        });
        let errors = calibrate::errors(&whole.observations, classes.len());
        let survey = Survey {
            device: self.stopwatch.device(),
            parts,
            distinct,
            measured: self.table.len() - known,
            error: (errors.len() > 1).then(|| quantile(&errors, 0.5)),
            steps: self.steps(&fitted),
        };
        Ok(Latency {
            terms: terms.collect(),
            dense: whole.dense,
            whole: whole.whole,
            least: whole.least,
            survey,
        })
    }

    /// What is to be timed.
    fn kinds(&self) -> Result<Kinds<'a>, LatencyError> {
        let groups = groups(self.view);
        let names = groups.iter().flat_map(|group| &group.inputs).map(String::as_str).collect();
        let found = values(self.engine, self.view.model, &names, self.feed).map_err(MeasureError::from)?;
        let (mut members, mut kinds, mut known) = (Vec::new(), Vec::<Kind<'a>>::new(), BTreeMap::new());
        let mut weights = 0usize;
        for group in groups {
            let ends = (group.inputs.as_slice(), group.outputs.as_slice());
            let Some(part) = Part::cut(self.view.model, self.view.graph, ends, &found) else { continue };
            let structure = structure(&part.model, &part.feed);
            weights = weights.saturating_add(weight_bytes(&part.model));
            // What can go of the one must be able to go of the other.
            let reach: Vec<_> = group.dimensions.iter().map(|d| self.reach(*d)).collect();
            let key = (structure.clone(), self.extents(&group.axes, &self.full()), reach);
            let kind = *known.entry(key).or_insert_with(|| {
                let (group, samples) = (group.clone(), Vec::new());
                kinds.push(Kind { group, structure, part, twin: None, samples });
                kinds.len() - 1
            });
            members.push((group, kind));
        }
        let evict = weights.min(MOST_EVICTED).next_multiple_of(1 << 20);
        let evict = self.stopwatch.worth(Effort { evict, ..KEPT }).evict;
        kinds.iter_mut().for_each(|kind| kind.structure = among(&kind.structure, evict));
        Ok((members, kinds, evict))
    }

    fn reach(&self, dimension: usize) -> (usize, usize) {
        self.view.dimensions.get(dimension).map_or((0, 0), |d| (self.limits.granule(d), self.limits.floor(d)))
    }

    fn full(&self) -> Vec<usize> {
        self.view.dimensions.iter().map(|dimension| dimension.size).collect()
    }

    /// The extents of axes when dimensions have these sizes.
    fn extents(&self, axes: &[Width], sizes: &[usize]) -> Vec<usize> {
        let table = &self.view.widths.table;
        let size_of = |root: Width| {
            let place = self.view.dimensions.iter().position(|d| table.root(d.width) == root);
            place.and_then(|place| sizes.get(place).copied()).unwrap_or_else(|| table.size(root))
        };
        axes.iter().map(|width| table.size_with(*width, &size_of)).collect()
    }

    /// The dimensions of each axis of a group.
    fn dimensions_of_axes(&self, group: &Group) -> Vec<BTreeSet<usize>> {
        let table = &self.view.widths.table;
        let of = |width: &Width| {
            let atoms = table.atoms(*width);
            let dimensions = self.view.dimensions.iter().enumerate();
            dimensions.filter(|(_, d)| atoms.contains(&table.root(d.width))).map(|(i, _)| i).collect()
        };
        group.axes.iter().map(of).collect()
    }

    /// Times the parts with everything kept, those that are not known yet against each other. A kind that cannot be timed is
    /// dropped: what it would save is not counted.
    fn time_kept(&mut self, kinds: &mut [Kind<'a>], evict: usize) -> Result<(), LatencyError> {
        let mut laps = Vec::new();
        for (place, kind) in kinds.iter().enumerate() {
            if self.table.get(&kind.structure).is_none()
                && let Some(lap) = self.stopwatch.ready(&kind.part.model, kind.part.feed.clone()).or_none()?
                && let Some(lap) = running(lap)?
            {
                laps.push((place, lap));
            }
        }
        let effort = self.stopwatch.worth(Effort { evict, ..KEPT });
        let mut racing: Vec<&mut dyn Lap> =
            laps.iter_mut().map(|(_, lap)| &mut **lap as &mut dyn Lap).collect();
        let tracks = race(&mut racing, effort)?;
        for ((place, lap), track) in laps.into_iter().zip(tracks) {
            let kind = &mut kinds[place];
            self.table.insert(kind.structure.clone(), picoseconds(track.quiet()));
            kind.twin = Some(lap);
        }
        Ok(())
    }

    /// Sizes of all dimensions, for each plan whose parts are timed: one colour at a time goes through its grid, and once all are in
    /// the middle of theirs.
    fn plans(&self, kinds: &[Kind<'a>]) -> Vec<Vec<usize>> {
        let full = self.full();
        let grids: Vec<Vec<usize>> =
            self.view.dimensions.iter().map(|dimension| grid::sizes(dimension, self.limits)).collect();
        let axes_of = |group: &Group| self.dimensions_of_axes(group);
        let colours = grid::colours(full.len(), kinds.iter().map(|kind| &kind.group), axes_of);
        let mut plans = BTreeSet::new();
        for colour in colours.iter().copied().collect::<BTreeSet<usize>>() {
            let longest = (0..full.len()).filter(|d| colours[*d] == colour).map(|d| grids[d].len()).max();
            for k in 0..longest.unwrap_or(0) {
                let size = |d: usize| {
                    let chosen =
                        (colours[d] == colour).then(|| grids[d].get(k).or(grids[d].last())).flatten();
                    chosen.copied().unwrap_or(full[d])
                };
                plans.insert((0..full.len()).map(size).collect::<Vec<usize>>());
            }
        }
        let middle = |d: usize| grids[d].get(grids[d].len() / 2).copied().unwrap_or(full[d]);
        plans.insert((0..full.len()).map(middle).collect());
        plans.remove(&full);
        // Large ones first, which are the likelier to run.
        plans.into_iter().rev().collect()
    }

    /// What one part is worth, so that all take about as long as they may.
    fn effort(&self, plans: &[Vec<usize>], kinds: &[Kind<'a>], evict: usize) -> Effort {
        let full = self.full();
        let changed = |sizes: &Vec<usize>| {
            let changes = |kind: &&Kind<'_>| kind.group.dimensions.iter().any(|d| sizes[*d] != full[*d]);
            kinds.iter().filter(changes).count()
        };
        let count: usize = plans.iter().map(changed).sum();
        let time = ALL_PARTS / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let time = time.clamp(Duration::from_millis(25), Duration::from_millis(250));
        self.stopwatch.worth(Effort { least: 3, time, evict, ..KEPT })
    }

    /// The model when dimensions have these sizes, and the sizes that they then do have.
    fn pruned(&self, sizes: &[usize]) -> Result<(ModelProto, Vec<usize>), RewriteError> {
        let ModelView { model, graph, facts, widths, dimensions, .. } = self.view;
        let entry = |(d, size): (&crate::typing::Dimension, &usize)| DimensionPlan {
            name: d.name.clone(),
            kind: d.kind,
            size: d.size,
            kept: (0..*size).collect(),
        };
        let mut plan = Plan { dimensions: dimensions.iter().zip(sizes).map(entry).collect() };
        Ties::of(graph, dimensions, self.limits).level(&mut plan);
        let kept = plan.kept(&widths.table, dimensions);
        Ok((reduction::apply(model, graph, facts, widths, dimensions, &kept)?, plan.sizes()))
    }

    /// Times the parts that shrink when dimensions have these sizes. What cannot be pruned so, or does not run, is passed over.
    fn sample(
        &mut self,
        sizes: &[usize],
        kinds: &mut [Kind<'a>],
        effort: Effort,
    ) -> Result<(), LatencyError> {
        let Ok((model, sizes)) = self.pruned(sizes) else { return Ok(()) };
        let full = self.full();
        let changed: Vec<usize> = kinds
            .iter()
            .enumerate()
            .filter(|(_, kind)| {
                self.extents(&kind.group.axes, &sizes) != self.extents(&kind.group.axes, &full)
            })
            .map(|(place, _)| place)
            .collect();
        let graph = Graph::new(&model);
        let read = changed.iter().flat_map(|place| &kinds[*place].group.inputs);
        let names = read.map(String::as_str).filter(|name| graph.find(name).is_some()).collect();
        let Some(found) =
            values(self.engine, &model, &names, self.feed).map_err(MeasureError::from).or_none()?
        else {
            return Ok(());
        };
        for place in changed {
            let extents = self.extents(&kinds[place].group.axes, &sizes);
            if let Some(share) = self.share(&model, &graph, &found, &mut kinds[place], effort)? {
                kinds[place].samples.push((extents, share));
            }
        }
        Ok(())
    }

    /// How long a part of a pruned model takes, as a share of the part with everything kept.
    fn share(
        &mut self,
        model: &ModelProto,
        graph: &Graph,
        found: &BTreeMap<String, Tensor>,
        kind: &mut Kind<'a>,
        effort: Effort,
    ) -> Result<Option<f64>, LatencyError> {
        let Some(whole) = self.table.get(&kind.structure) else { return Ok(None) };
        let ends = (kind.group.inputs.as_slice(), kind.group.outputs.as_slice());
        let Some(part) = Part::cut(model, graph, ends, found) else { return Ok(None) };
        let structure = among(&structure(&part.model, &part.feed), effort.evict);
        if let Some(known) = self.table.get(&structure) {
            return Ok(Some(known as f64 / whole as f64));
        }
        let Some(mut lap) = self.stopwatch.ready(&part.model, part.feed).or_none()? else { return Ok(None) };
        let tracks = if self.stopwatch.drifts() {
            let twin = match &mut kind.twin {
                Some(twin) => twin,
                none => none.insert(self.stopwatch.ready(&kind.part.model, kind.part.feed.clone())?),
            };
            race(&mut [&mut **twin, &mut *lap], effort).or_none()?
        } else {
            race(&mut [&mut *lap], effort).or_none()?
        };
        let share = match tracks.as_deref() {
            Some([twin, own]) => own.relative_to(twin),
            Some([own]) => own.quiet() / seconds(whole),
            _ => return Ok(None),
        };
        self.table.insert(structure, (share * whole as f64) as u64);
        Ok(Some(share))
    }

    /// What was learnt of a kind, for a group of that kind.
    fn fit(&self, group: &Group, kind: &Kind<'_>) -> Option<Fitted> {
        let whole = seconds(self.table.get(&kind.structure)?);
        let full = self.extents(&group.axes, &self.full());
        let granules: Vec<usize> = self
            .dimensions_of_axes(group)
            .iter()
            .map(|axis| axis.first().map_or(1, |d| self.reach(*d).0.max(1)))
            .collect();
        let alone = |axis: usize| -> Vec<(usize, f64)> {
            let others = |extents: &[usize]| {
                extents.iter().zip(&full).enumerate().all(|(i, (x, f))| i == axis || x == f)
            };
            kind.samples.iter().filter(|(x, _)| others(x)).map(|(x, share)| (x[axis], *share)).collect()
        };
        let curve = |axis: usize| {
            let granule = granules[axis];
            Samples::new(full[axis], &alone(axis), &[granule, 2 * granule, 4 * granule, 8 * granule])
        };
        let curves: Vec<Samples> = (0..full.len()).map(curve).collect();
        let kinds: BTreeSet<String> = group
            .dimensions
            .iter()
            .filter_map(|d| Some(self.view.dimensions.get(*d)?.kind.to_string()))
            .collect();
        let class = kinds.into_iter().collect::<Vec<_>>().join(" ");
        let mut fitted = Fitted { class, axes: group.axes.clone(), curves, fixed: 0.0, seconds: whole };
        let joint: Vec<&(Vec<usize>, f64)> = kind
            .samples
            .iter()
            .filter(|(x, _)| x.iter().zip(&full).filter(|(x, f)| x != f).count() > 1)
            .collect();
        if !joint.is_empty() {
            fitted.fixed = fixed_share(&mut fitted, &joint);
        }
        Some(fitted)
    }

    /// The dimensions along which times step.
    fn steps(&self, fitted: &[Fitted]) -> Vec<Step> {
        let table = &self.view.widths.table;
        let mut found: BTreeMap<usize, usize> = BTreeMap::new();
        for (width, curve) in fitted.iter().flat_map(|group| group.axes.iter().zip(&group.curves)) {
            let place = self.view.dimensions.iter().position(|d| table.root(d.width) == table.root(*width));
            if let Some(place) = place.filter(|place| curve.granule() > self.reach(*place).0) {
                let granule = found.entry(place).or_default();
                *granule = curve.granule().max(*granule);
            }
        }
        let step = |(place, granule): (usize, usize)| {
            let d = self.view.dimensions.get(place)?;
            Some(Step { name: d.name.clone(), entries: granule })
        };
        found.into_iter().filter_map(step).collect()
    }

    /// Times the dense model, and the model that is pruned at full size, at the least, and at random sizes.
    fn whole_models(&mut self, fitted: &[Fitted], done: usize) -> Result<Whole, LatencyError> {
        let classes: Vec<&str> = {
            let classes: BTreeSet<&str> = fitted.iter().map(|group| group.class.as_str()).collect();
            classes.into_iter().collect()
        };
        let timer = WholeTimer { stopwatch: self.stopwatch, dense: self.dense, feed: self.feed };
        let floors: Vec<usize> = self.view.dimensions.iter().map(|d| self.limits.floor(d)).collect();
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let levels = (0..WHOLE_MODELS).map(|n| 0.4 + 0.52 * n as f64 / (WHOLE_MODELS - 1) as f64);
        let sizes =
            levels.map(|level| (0..floors.len()).map(|d| self.random_size(d, level, &mut random)).collect());
        let sizes: Vec<Vec<usize>> = sizes.collect();
        // What cannot be pruned so is told nothing of.
        let (mut models, mut of) = (vec![self.view.model.clone()], vec![self.full()]);
        let reachable = self.pruned(&floors).is_ok();
        for (model, sizes) in
            std::iter::once(&floors).chain(&sizes).filter_map(|sizes| self.pruned(sizes).ok())
        {
            models.push(model);
            of.push(sizes);
        }
        (self.progress)(done, done + 1);
        let dense = timer.dense(self.table)?;
        let mut times = of.iter().zip(timer.times(&models, self.table)?);
        let whole = times.next().and_then(|(_, time)| time).unwrap_or(dense);
        let least = times.by_ref().take(usize::from(reachable)).find_map(|(_, time)| time);
        let observe = |(sizes, time): (&Vec<usize>, Option<u64>)| {
            let saved = |class: &&str| {
                let own = fitted.iter().filter(|group| group.class == **class);
                own.map(|group| group.seconds * (1.0 - group.share(&self.extents(&group.axes, sizes)))).sum()
            };
            let (whole, time) = (seconds(whole), seconds(time?));
            Some(Observation { saved: classes.iter().map(saved).collect(), found: whole - time, time })
        };
        let observations = times.filter_map(observe).collect();
        Ok(Whole { dense, whole, least, observations })
    }

    /// A size that a dimension may have, about this share of it.
    fn random_size(&self, dimension: usize, level: f64, random: &mut ChaCha8Rng) -> usize {
        let share = level.powf(random.random_range(0.5..1.5));
        let (granule, floor) = self.reach(dimension);
        let full = self.view.dimensions.get(dimension).map_or(0, |d| d.size);
        let size = ((share * full as f64).round() as usize).next_multiple_of(granule.max(1));
        size.clamp(floor.min(full), full)
    }
}

/// Whole models that were timed.
struct Whole {
    dense: u64,
    whole: u64,
    least: Option<u64>,
    observations: Vec<Observation>,
}

/// The name in a table of a part that is run among others, whose weights take so many bytes.
fn among(structure: &str, evict: usize) -> String {
    format!("{structure}-among-{}", evict >> 20)
}

/// The share of a group's time that no size changes, by which the product of its curves comes nearest to what was found where
/// several axes were shorter.
fn fixed_share(fitted: &mut Fitted, joint: &[&(Vec<usize>, f64)]) -> f64 {
    const STEPS: u32 = 100;
    let mut best = (f64::INFINITY, 0.0);
    for step in 0..STEPS {
        fitted.fixed = f64::from(step) / f64::from(STEPS);
        let error = joint.iter().map(|(extents, share)| (fitted.share(extents) - share).powi(2)).sum::<f64>();
        if error < best.0 {
            best = (error, fitted.fixed);
        }
    }
    best.1
}
