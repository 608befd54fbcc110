//! A session: one model on one engine, pruned stage by stage. Each stage is a value, and none reaches back.
//!
//! ```text
//! Pruner::open ─► score ─► plan ─► apply ─► recover ─► save
//! type, rotate    Scored   Planned Applied  Recovered  gate, Report
//! ```
//!
//! A stage can be gone on from as often as one likes: many budgets from one scoring, which is what takes the time. [`Scores`]
//! and [`Plan`] are plain data that can be kept and returned to ([`Pruner::with_scores`], [`Scored::with_plan`]).

mod applied;
mod event;
mod planned;
mod recovered;
mod scored;
mod timed;

pub use applied::Applied;
pub use event::{Cancel, Progress};
pub use planned::Planned;
pub use recovered::Recovered;
pub use scored::Scored;

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{
    Error,
    calibration::Variation,
    clock::Clock,
    gate::Gatekeeper,
    latency::{Serving, Stopwatch},
    memory::MemoryBudget,
    model::{SampleInput, Typed},
    onnx::{self, OnnxError, Source, proto::ModelProto},
    plan::{Bounds, Budgets, CostModel, Costs, Flops, Limits, PerCost, PlanError},
    positions::{
        Reduce,
        merge::{self, MergeRefusal},
        unread::{self, Unread},
    },
    rotate::{self, Rotation},
    runtime::Engine,
    score::{ScoreOptions, Scores},
    typing::{Dimension, Granularity},
    verify::{Runs, VerifyError},
    warning::{Warning, WarningCode},
    widths::{Pin, PinReason},
};
use event::{Cancellable, Monitor};

#[cfg(doc)]
use crate::plan::Plan;

/// A model to be pruned.
#[derive(Clone, Debug)]
pub enum ModelInput {
    /// A file. Calibration data that lie beside it can be found.
    File(PathBuf),
    /// The bytes of a file, without external data.
    Bytes(Vec<u8>),
    /// A message, without external data.
    Message(Box<ModelProto>),
}

impl From<&Path> for ModelInput {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<&str> for ModelInput {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<Vec<u8>> for ModelInput {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<ModelProto> for ModelInput {
    fn from(message: ModelProto) -> Self {
        Self::Message(Box::new(message))
    }
}

impl ModelInput {
    fn load(&self) -> Result<Source, OnnxError> {
        match self {
            Self::File(path) => onnx::load(path),
            Self::Bytes(bytes) => onnx::read(bytes.clone()),
            Self::Message(message) => onnx::read(onnx::encode(message)),
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Bytes(_) | Self::Message(_) => None,
        }
    }
}

/// What holds for a whole session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// What may be removed.
    pub limits: Limits,
    /// The units that attention loses.
    pub granularity: Granularity,
    /// Samples per run of the model, at most.
    pub batch: usize,
    /// What each stage may hold beside the model.
    pub memory: MemoryBudget,
    /// Whether positions that no output reads are computed as before.
    pub keep_unread: bool,
    /// What is reduced.
    pub reduce: Reduce,
    /// Whether weights are going to be refitted: then scoring finds, too, in which order units go best.
    pub refit: bool,
    /// The shapes at which models are timed.
    pub serving: Serving,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            granularity: Granularity::default(),
            batch: 16,
            memory: MemoryBudget::default(),
            keep_unread: false,
            reduce: Reduce::default(),
            refit: true,
            serving: Serving::default(),
        }
    }
}

/// The part of the memory that values of the dense model may take, which all budgets are held against: one in so many.
const VALUES_SHARE: u64 = 4;

/// Settings on the way to a [`Pruner`].
pub struct Builder {
    engine: Box<dyn Engine>,
    stopwatch: Option<Box<dyn Stopwatch>>,
    settings: Settings,
    monitor: Monitor,
}

impl Builder {
    /// What holds for the whole session.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Tells `listener` how the work goes on.
    #[must_use]
    pub fn on_progress(mut self, listener: impl FnMut(Progress) + 'static) -> Self {
        self.monitor.listen(listener);
        self
    }

    /// Times models by `stopwatch`, in place of the engine that all else runs on.
    #[must_use]
    pub fn stopwatch(mut self, stopwatch: Box<dyn Stopwatch>) -> Self {
        self.stopwatch = Some(stopwatch);
        self
    }

    /// Ends the work with [`Error::Cancelled`], at the next run of a model, once `cancel` is set.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.engine = Box::new(Cancellable::new(self.engine, cancel.clone()));
        self.monitor.watch(cancel);
        self
    }

    /// Loads a model and its samples, types every axis, and turns the dimensions of heads if any may be removed.
    ///
    /// # Errors
    /// When the model cannot be read, the samples do not suit it, or it does not run on them.
    pub fn open(
        self,
        model: impl Into<ModelInput>,
        samples: impl Into<SampleInput>,
    ) -> Result<Pruner, Error> {
        let Self { engine, stopwatch, settings, monitor } = self;
        let model = model.into();
        let clock = Clock::default();
        monitor.tell(Progress::Stage("load"));
        let source = clock.time("load", || model.load())?;
        monitor.tell(Progress::Stage("type"));
        let typed = Typed::new(
            &*engine,
            source,
            model.path(),
            samples.into(),
            settings.batch,
            settings.granularity,
            &clock,
        );
        let mut typed = monitor.unless_cancelled(typed)?;
        let notes: Vec<String> = typed.fit_batch(settings.memory).into_iter().collect();
        let (count, origin) = (typed.samples.len(), typed.samples.origin());
        monitor.tell(Progress::Say(format!("calibration: {count} samples, {origin}")));
        let mut warnings = typed.samples.warnings();
        warnings.iter().for_each(|warning| monitor.warn(warning));
        settings.limits.check_names(&typed.dimensions)?;
        settings.serving.batch(&typed.samples)?;
        let (typed, unread) =
            monitor.unless_cancelled(leave_out_unread(&*engine, typed, &settings, &clock, &monitor))?;
        let (mut typed, rotation) =
            monitor.unless_cancelled(turn_heads(&*engine, typed, &settings, &clock, &monitor))?;
        let variation = monitor.unless_cancelled(measure_forward(&*engine, &typed, &clock))?;
        if let Some(warning) = variation.warning() {
            monitor.warn(&warning);
            warnings.push(warning);
        }
        let merges = match settings.reduce {
            Reduce::Widths => None,
            Reduce::WidthsAndTokens => {
                let reach = monitor.unless_cancelled(reach_of_merging(&*engine, &typed))?;
                if let Err(reason) = &reach {
                    let message = format!("positions are not merged: {reason}");
                    let warning = Warning::new(WarningCode::PositionsNotMerged, message);
                    monitor.warn(&warning);
                    warnings.push(warning);
                }
                reach.ok()
            }
        };
        typed.keep_values(settings.memory.share(VALUES_SHARE));
        Ok(Pruner {
            engine,
            stopwatch,
            timed: None,
            typed,
            unread,
            merges,
            rotation,
            settings,
            monitor,
            clock,
            runs: OnceCell::new(),
            notes,
            warnings,
        })
    }
}

/// A model that has been typed and can be pruned.
pub struct Pruner {
    engine: Box<dyn Engine>,
    /// What times models, where that is not the engine.
    stopwatch: Option<Box<dyn Stopwatch>>,
    /// How long models take, once that was measured.
    timed: Option<timed::Timed>,
    typed: Typed,
    /// What leaving out positions that no output reads came to; `None` where none were left out.
    unread: Option<Unread>,
    /// Where positions are merged once widths are pruned: what that can be relied on to leave of the FLOPs, as a share.
    merges: Option<f64>,
    /// Which heads were turned; `None` where none were to be.
    rotation: Option<Rotation>,
    settings: Settings,
    monitor: Monitor,
    clock: Clock,
    /// What the dense model gives on what models are tried on before they are written.
    runs: OnceCell<Rc<Runs>>,
    notes: Vec<String>,
    warnings: Vec<Warning>,
}

impl Pruner {
    /// Opens a model with the default settings: [`Builder::open`].
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open(
        model: impl Into<ModelInput>,
        engine: Box<dyn Engine>,
        samples: impl Into<SampleInput>,
    ) -> Result<Self, Error> {
        Self::builder(engine).open(model, samples)
    }

    /// Settings to be made before a model is opened. All models run on `engine`.
    pub fn builder(engine: Box<dyn Engine>) -> Builder {
        Builder { engine, stopwatch: None, settings: Settings::default(), monitor: Monitor::default() }
    }

    /// The model and what is known of its axes: the widths that can shrink, and why the others cannot.
    pub fn typed(&self) -> &Typed {
        &self.typed
    }

    /// What runs models.
    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Tells whoever listens how the work goes on.
    pub(crate) fn tell(&self, event: Progress) {
        self.monitor.tell(event);
    }

    /// Whether budgets can be met at all: before anything is scored, which takes the time. Tells how far they reach.
    ///
    /// # Errors
    /// When one cannot, or all leave nothing to prune.
    pub fn check(&self, budgets: &Budgets) -> Result<(), Error> {
        let costs = self.costs(&self.typed.dimensions);
        if !self.typed.dimensions.prunable.is_empty() {
            let asked = costs.asked(budgets);
            asked.iter().for_each(|asked| self.monitor.tell(Progress::Say(asked.to_string())));
        }
        self.bounds(&costs, budgets)?;
        Ok(self.check_latency(&costs, budgets)?)
    }

    /// The most that a model of pruned widths may cost: more than the budgets, where merging positions does the rest.
    fn bounds(&self, costs: &Costs<'_>, budgets: &Budgets) -> Result<Bounds, PlanError> {
        match self.merges {
            Some(reach) => {
                costs.bounds(&costs.for_widths(budgets, |share| merge::share_of_widths(share, reach)))
            }
            None => costs.bounds(budgets),
        }
    }

    /// Scores every unit that may go.
    ///
    /// # Errors
    /// When the engine fails, or [`Error::Cancelled`].
    pub fn score(&self, options: &ScoreOptions) -> Result<Scored<'_>, Error> {
        Scored::new(self, options)
    }

    /// Goes on from scores that were made before, of the same model, samples and settings.
    pub fn with_scores(&self, scores: Scores) -> Scored<'_> {
        Scored::of(self, scores)
    }

    /// Who holds models against the dense one before they are written.
    fn gatekeeper(&self) -> Result<Gatekeeper<'_>, VerifyError> {
        let (view, samples) = (self.typed.view(), self.typed.facts.samples);
        let runs = match self.runs.get() {
            Some(runs) => runs.clone(),
            None => {
                let runs = Rc::new(Gatekeeper::runs(&*self.engine, view, samples)?);
                self.runs.get_or_init(|| runs).clone()
            }
        };
        Ok(Gatekeeper::with(&*self.engine, view, runs, samples))
    }

    /// Whether heads were turned, which depends on the samples.
    pub fn is_rotated(&self) -> bool {
        self.rotation.as_ref().is_some_and(|rotation| !rotation.rotated.is_empty())
    }

    /// Whether weights are going to be refitted: not on made-up inputs, which say nothing of what removed units did.
    fn refits(&self) -> bool {
        self.settings.refit && !self.typed.is_synthetic()
    }
}

/// Leaves out what no output reads, where that saves operations and changes nothing.
fn leave_out_unread(
    engine: &dyn Engine,
    typed: Typed,
    settings: &Settings,
    clock: &Clock,
    monitor: &Monitor,
) -> Result<(Typed, Option<Unread>), Error> {
    if settings.keep_unread {
        return Ok((typed, None));
    }
    let Some(model) = unread::narrowed(typed.view()) else { return Ok((typed, None)) };
    monitor.tell(Progress::Stage("unread"));
    let difference = clock.time("unread", || unread::difference(engine, typed.view(), &model));
    // What does not run or gives something else stays as it is: nothing is lost by it but operations.
    let Ok(Some(difference)) = difference else { return Ok((typed, None)) };
    let input = typed.costs(&settings.limits).whole();
    let narrowed = typed.clone().replaced(engine, model, clock)?;
    let flops = |costs: &PerCost<u64>| costs.get(Flops.id()).copied().unwrap_or_default();
    let (before, after) = (flops(&input), flops(&narrowed.costs(&settings.limits).whole()));
    if after >= before {
        return Ok((typed, None));
    }
    Ok((narrowed.made_of(input), Some(Unread { before, after, difference })))
}

/// What merging positions can be relied on to leave of the FLOPs, or why they cannot be merged.
fn reach_of_merging(engine: &dyn Engine, typed: &Typed) -> Result<Result<f64, MergeRefusal>, Error> {
    let plan = match merge::Plan::of(engine, typed.view()) {
        Ok(plan) => plan,
        Err(reason) => return Ok(Err(reason)),
    };
    let reach = plan.reach(engine, typed.view()).map_err(VerifyError::from)?;
    Ok(reach.ok_or(MergeRefusal::Few))
}

/// Turns the dimensions of heads to principal axes, if any may be removed. Those that cannot be turned stay: in each head
/// another one would be the least important.
fn turn_heads(
    engine: &dyn Engine,
    typed: Typed,
    settings: &Settings,
    clock: &Clock,
    monitor: &Monitor,
) -> Result<(Typed, Option<Rotation>), Error> {
    let may_go = |d: &Dimension| d.kind.is_rotated() && settings.limits.floor(d) < d.size;
    if !typed.dimensions.prunable.iter().any(may_go) {
        return Ok((typed, None));
    }
    monitor.tell(Progress::Stage("rotate"));
    let rotated = clock.time("rotate", || rotate::rotate(engine, typed.view(), settings.memory))?;
    let mut typed = typed.replaced(engine, rotated.model, clock)?;
    let names = &rotated.report.rotated;
    typed.dimensions.freeze(
        |d| d.kind.is_rotated() && !names.contains(&d.name),
        |d| Pin::new(&d.name, PinReason::HeadDimension),
    );
    Ok((typed, Some(rotated.report)))
}

/// One forward pass over all samples: the unit that the time of the stages is given in. What it shows is whether the outputs
/// vary.
fn measure_forward(engine: &dyn Engine, typed: &Typed, clock: &Clock) -> Result<Variation, Error> {
    let (samples, mut session) = (&typed.samples, engine.load(&typed.source.model)?);
    let mut variation = Variation::default();
    clock.time("forward", || {
        samples.ranges(typed.batch).try_for_each(|r| {
            variation.add(&session.run(&samples.batch(r.start, r.end)?)?, r.len());
            Ok::<_, Error>(())
        })
    })?;
    Ok(variation)
}
