//! How long models take: what a session measures, and plans that are measured before they are carried out.

use std::cell::RefCell;

use super::{Progress, Pruner, Scored, planned};
use crate::{
    Error,
    latency::{
        Bench, EngineStopwatch, Feed, Latency, LatencyError, Round, Stopwatch, Surveyor, Table, WholeTimer,
    },
    onnx::proto::ModelProto,
    plan::{Bounds, Budget, Budgets, CostView, Costs, Plan},
    reduction,
    typing::Dimensions,
};

/// How often a plan is measured and made anew.
const ROUNDS: usize = 3;

/// By how much of it a budget may be missed in the end.
const MISSED: f64 = 0.05;

/// By how much of it plans may exceed a budget: less than what is missed in the end, since times vary.
const EXCEEDED: f64 = 0.01;

/// How often a file that seems to miss its budget is timed: what it misses it by may be what else the machine does.
const TRIALS: usize = 3;

/// What a session has measured.
pub(super) struct Timed {
    pub(super) latency: Latency,
    /// The model as it was in the file.
    dense: ModelProto,
    feed: Feed,
    table: RefCell<Table>,
}

impl Pruner {
    /// What times of this session hold for: [`Stopwatch::device`].
    pub fn device(&self) -> String {
        self.timing(|stopwatch| stopwatch.device())
    }

    fn timing<T>(&self, time: impl FnOnce(&dyn Stopwatch) -> T) -> T {
        match &self.stopwatch {
            Some(stopwatch) => time(&**stopwatch),
            None => time(&EngineStopwatch(&*self.engine)),
        }
    }

    /// Times a dense and a pruned model in turns, on calibration samples of the shapes that the session's settings say.
    ///
    /// # Errors
    /// When one does not run, or [`Error::Cancelled`].
    pub fn bench(&self, dense: &ModelProto, pruned: &ModelProto) -> Result<Bench, Error> {
        self.monitor.tell(Progress::Stage("bench"));
        let (samples, serving) = (&self.typed.samples, &self.settings.serving);
        let (batch, feed) = (serving.batch(samples)?, serving.feed(samples)?);
        let bench =
            self.clock.time("bench", || self.timing(|watch| Bench::of(watch, dense, pruned, &feed, batch)));
        self.monitor.unless_cancelled(bench)
    }

    /// Measures how long the model takes by the sizes of its dimensions, so that budgets of time can be planned to. `dense` is the
    /// model as it is deployed today, of whose time budgets can be shares; what `table` holds is not measured again.
    ///
    /// # Errors
    /// When the dense model does not run, nothing that can be pruned can be timed, or [`Error::Cancelled`].
    pub fn measure(&mut self, dense: ModelProto, mut table: Table) -> Result<(), Error> {
        self.monitor.tell(Progress::Stage("time"));
        if self.merges.is_some() {
            return Err(LatencyError::Merging.into());
        }
        let feed = self.settings.serving.feed(&self.typed.samples)?;
        let progress = |done, total| self.monitor.tell(Progress::Plans { done, total });
        let survey = |stopwatch: &dyn Stopwatch| {
            let surveyor = Surveyor {
                stopwatch,
                engine: &*self.engine,
                view: self.typed.view(),
                limits: &self.settings.limits,
                dense: &dense,
                feed: &feed,
                table: &mut table,
                progress: &progress,
            };
            surveyor.survey()
        };
        let latency = self.clock.time("time", || self.timing(survey));
        let latency = self.monitor.unless_cancelled(latency)?;
        self.timed = Some(Timed { latency, dense, feed, table: RefCell::new(table) });
        Ok(())
    }

    /// What was measured.
    pub fn latency(&self) -> Option<&Latency> {
        self.timed.as_ref().map(|timed| &timed.latency)
    }

    /// All times that are known by now, to be kept.
    pub fn table(&self) -> Option<Table> {
        self.timed.as_ref().map(|timed| timed.table.borrow().clone())
    }

    /// What the model costs, with how long it takes where that was measured.
    pub(super) fn costs<'a>(&'a self, dimensions: &'a Dimensions) -> Costs<'a> {
        let view = CostView::new(self.typed.view_of(dimensions), self.typed.source.bytes);
        let latency = self.timed.as_ref().map(|timed| timed.latency.cost(&view));
        self.typed.costs_of(dimensions, &self.settings.limits).and_latency(latency)
    }

    /// Whether a budget of time can be met, as far as anything was measured.
    pub(super) fn check_latency(&self, costs: &Costs<'_>, budgets: &Budgets) -> Result<(), LatencyError> {
        let Some((timed, target)) = self.timed.as_ref().zip(self.target(budgets)) else { return Ok(()) };
        let Latency { dense, least, .. } = timed.latency;
        if target >= dense && !costs.exceed(budgets) {
            return Err(LatencyError::Idle { asked_ms: ms(target), dense_ms: ms(dense) });
        }
        match least {
            Some(least) if is_missed(least, target) => Err(LatencyError::OutOfReach {
                asked_ms: ms(target),
                least_ms: ms(least),
                dense_ms: ms(dense),
            }),
            _ => Ok(()),
        }
    }

    /// The picoseconds that a model may take, once it is known how many the dense one does.
    pub(super) fn target(&self, budgets: &Budgets) -> Option<u64> {
        Some(budgets.latency()?.target(self.timed.as_ref()?.latency.dense))
    }

    /// Picoseconds that the model takes once a plan is carried out, unproven and with its weights as they are: that changes
    /// nothing about its time. `None` where it cannot be carried out as it is.
    fn time_plan(&self, timed: &Timed, plan: &Plan) -> Result<Option<u64>, LatencyError> {
        let typed = &self.typed;
        let (graph, facts, widths) = (&typed.graph, &typed.facts, &typed.widths);
        let dimensions = &typed.dimensions.prunable;
        let kept = plan.kept(&widths.table, dimensions);
        let Ok(model) = reduction::apply(&typed.source.model, graph, facts, widths, dimensions, &kept) else {
            return Ok(None);
        };
        let table = &mut *timed.table.borrow_mut();
        self.timing(|stopwatch| {
            let timer = WholeTimer { stopwatch, dense: &timed.dense, feed: &timed.feed };
            Ok(timer.times(&[model], table)?.first().copied().flatten())
        })
    }

    /// Times the file that is about to be written against the budget of time, if there is one.
    pub(super) fn check_written(
        &self,
        budgets: &Budgets,
        pruned: &ModelProto,
    ) -> Result<Option<Bench>, Error> {
        let Some((timed, budget)) = self.timed.as_ref().zip(budgets.latency()) else { return Ok(None) };
        // What of the budget a time takes.
        let taken = |bench: &Bench| match budget {
            Budget::Share(share) => bench.share / share,
            Budget::Absolute(picoseconds) => bench.pruned.quiet_ms * 1e9 / picoseconds,
        };
        let mut trials = Vec::with_capacity(TRIALS);
        while trials.len() < TRIALS {
            let bench = self.bench(&timed.dense, pruned)?;
            let holds = taken(&bench) <= 1.0 + MISSED;
            trials.push(bench);
            if holds && trials.len() == 1 {
                break;
            }
        }
        trials.sort_by(|a, b| taken(a).total_cmp(&taken(b)));
        let bench = trials.swap_remove(trials.len() / 2);
        if taken(&bench) <= 1.0 + MISSED {
            return Ok(Some(bench));
        }
        let asked_ms = match budget {
            Budget::Share(share) => share * bench.dense.quiet_ms,
            Budget::Absolute(picoseconds) => picoseconds / 1e9,
        };
        let (reached_ms, dense_ms) = (bench.pruned.quiet_ms, bench.dense.quiet_ms);
        Err(LatencyError::Missed { asked_ms, reached_ms, dense_ms }.into())
    }
}

/// A plan that was measured, how plans were measured on the way, and the bounds that it was made within.
pub(super) struct Measured {
    pub plan: Plan,
    pub bounds: Bounds,
    pub rounds: Vec<Round>,
}

/// Plans to a budget of time: each plan is measured, and the next made for what the prediction was wrong by. Of those that keep the
/// budget the one that takes longest, or else the one that comes nearest.
pub(super) fn plan(scored: &Scored<'_>, bounds: &Bounds, target: u64) -> Result<Measured, Error> {
    let pruner = scored.pruner;
    let timed = pruner.timed.as_ref().ok_or(LatencyError::Unmeasured)?;
    let dimensions = &pruner.typed.dimensions;
    let costs = pruner.costs(dimensions);
    let predict = |plan: &Plan| costs.latency().map_or(0, |cost| cost.total(&plan.sizes()));
    let mut at_most = target;
    let mut rounds: Vec<Round> = Vec::new();
    let mut tried: Vec<(u64, Plan, Bounds)> = Vec::new();
    while rounds.len() < ROUNDS {
        let bounds = bounds.clone().within(Some(at_most));
        let plan = planned::make(scored, dimensions, &bounds)?;
        if tried.iter().any(|(_, known, _)| *known == plan) {
            break;
        }
        let predicted = predict(&plan);
        let measured = pruner.clock.time("time", || pruner.time_plan(timed, &plan));
        let Some(measured) = pruner.monitor.unless_cancelled(measured)? else {
            // What is in the way is found when it is carried out.
            return Ok(Measured { plan, bounds, rounds });
        };
        rounds.push(Round { target_ms: ms(at_most), predicted_ms: ms(predicted), measured_ms: ms(measured) });
        tried.push((measured, plan, bounds));
        let ratio = measured as f64 / target as f64;
        if (1.0 - MISSED..=1.0 + EXCEEDED).contains(&ratio) {
            break;
        }
        at_most = (target as f64 * predicted as f64 / measured.max(1) as f64) as u64;
    }
    let keeps = |measured: u64| measured as f64 <= target as f64 * (1.0 + EXCEEDED);
    let best = tried.into_iter().max_by_key(|(measured, ..)| match keeps(*measured) {
        true => (true, *measured),
        false => (false, u64::MAX - measured),
    });
    let (_, plan, bounds) = best.ok_or(LatencyError::Unmeasured)?;
    Ok(Measured { plan, bounds, rounds })
}

/// Measures a plan that was made before.
pub(super) fn check(scored: &Scored<'_>, plan: &Plan, target: u64) -> Result<Vec<Round>, Error> {
    let pruner = scored.pruner;
    let timed = pruner.timed.as_ref().ok_or(LatencyError::Unmeasured)?;
    let costs = pruner.costs(&pruner.typed.dimensions);
    let measured = pruner.monitor.unless_cancelled(pruner.time_plan(timed, plan))?;
    let Some(measured) = measured else { return Ok(Vec::new()) };
    if is_missed(measured, target) {
        let dense_ms = ms(timed.latency.dense);
        return Err(LatencyError::Missed { asked_ms: ms(target), reached_ms: ms(measured), dense_ms }.into());
    }
    let predicted = costs.latency().map_or(0, |cost| cost.total(&plan.sizes()));
    Ok(vec![Round { target_ms: ms(target), predicted_ms: ms(predicted), measured_ms: ms(measured) }])
}

fn is_missed(found: u64, target: u64) -> bool {
    found as f64 > target as f64 * (1.0 + MISSED)
}

fn ms(picoseconds: u64) -> f64 {
    picoseconds as f64 / 1e9
}
