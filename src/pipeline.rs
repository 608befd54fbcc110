//! The whole run: load → type → rotate → score → plan → rewrite → verify → recover → gate → save.

mod finish;

use finish::Finish;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    calibration::{self, CalibrationError, CalibrationOptions, Origin, Samples, Variation},
    fold,
    gate::GateError,
    graph::{Facts, Graph, drop_dead},
    memory::{self, MemoryBudget},
    model::ModelView,
    onnx::{
        self, OnnxError, Packed, Source, Staged,
        proto::{ModelProto, StringStringEntryProto},
    },
    ops,
    paths::{PathError, Paths, Role},
    plan::{self, Budget, Cost, Limits, Plan, PlanError},
    recover::{Mode, RecoverOptions},
    replan::{Blame, Pruner, Refusal},
    report::{Change, Clock, Memory, Report},
    rotate::{self, RotateError, Rotation},
    runtime::{self, Engine, RuntimeError, RuntimeOptions},
    score::{self, Method, Provenance, SavedError, SavedScores, ScoreError, ScoreOptions, Scores},
    settings::Settings,
    staging::{StagedFile, WriteError},
    tensor::Tensor,
    ties::Ties,
    typing::{self, Dimension, Dimensions, Granularity},
    verify::VerifyError,
    warning::{Warning, WarningCode},
    widths::{Pin, Reason, Widths},
};

/// What the user asks for. The default prunes to half of the FLOPs, by sketched scores, with recovery.
#[derive(Clone, Debug)]
pub struct Options {
    /// The dense model.
    pub input: PathBuf,
    /// Where the pruned model goes; `None` for a dry run.
    pub output: Option<PathBuf>,
    /// Whether the pruned model may replace the dense one.
    pub in_place: bool,
    /// Where the report goes, as JSON.
    pub report: Option<PathBuf>,
    /// FLOPs budget.
    pub flops: Option<Budget>,
    /// Parameter budget; used when there is no FLOPs budget.
    pub params: Option<Budget>,
    /// Calibration data.
    pub calibration: CalibrationOptions,
    /// The runtime.
    pub runtime: RuntimeOptions,
    /// How units are scored.
    pub score: ScoreOptions,
    /// What may be removed.
    pub limits: Limits,
    /// The recovery; `None`: nothing is corrected.
    pub recover: Option<Mode>,
    /// Its settings.
    pub recover_settings: Settings,
    /// Scores of an earlier run to plan from.
    pub scores: Option<SavedScores>,
    /// Where scores are saved.
    pub save_scores: Option<PathBuf>,
    /// Samples per run of the model.
    pub batch: usize,
    /// The units that attention loses.
    pub granularity: Granularity,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            input: PathBuf::new(),
            output: None,
            in_place: false,
            report: None,
            flops: None,
            params: None,
            calibration: CalibrationOptions::default(),
            runtime: RuntimeOptions::default(),
            score: ScoreOptions::default(),
            limits: Limits::default(),
            recover: Some(Mode::default()),
            recover_settings: Settings::default(),
            scores: None,
            save_scores: None,
            batch: 16,
            granularity: Granularity::default(),
        }
    }
}

/// Which model, and what it is run on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelOptions<'a> {
    /// The file.
    pub(crate) input: &'a Path,
    /// Calibration data.
    pub(crate) calibration: &'a CalibrationOptions,
    /// Samples per run.
    pub(crate) batch: usize,
    /// The units that attention loses.
    pub(crate) granularity: Granularity,
}

impl Options {
    /// What samples to take. Where nothing is learnt from them, made-up ones do: they show shapes, and prove the result.
    fn data(&self, method: Method) -> CalibrationOptions {
        let options = self.calibration.clone();
        if method.needs_data() { options } else { options.or_synthetic() }
    }

    /// All that is read and written.
    fn paths(&self) -> Paths {
        let data = match self.calibration.data(&self.input) {
            Some(Origin::File(path) | Origin::TestData(path)) => Some((Role::Calibration, path)),
            _ => None,
        };
        let scores = self.scores.iter().map(|saved| (Role::Scores, saved.path.clone()));
        let writes = [
            (Role::Output, &self.output),
            (Role::SavedScores, &self.save_scores),
            (Role::Report, &self.report),
        ];
        Paths {
            reads: [(Role::Model, self.input.clone())].into_iter().chain(data).chain(scores).collect(),
            writes: writes.into_iter().filter_map(|(role, path)| Some((role, path.clone()?))).collect(),
            in_place: self.in_place,
        }
    }

    /// Whether the budget is one of parameters.
    fn counts_params(&self) -> bool {
        self.flops.is_none() && self.params.is_some()
    }

    /// The recovery: none on made-up inputs, which say nothing of what removed units did.
    fn recover_on(&self, typed: &Typed) -> Option<Mode> {
        self.recover.filter(|_| !typed.is_synthetic())
    }

    fn recovery(&self, mode: Mode) -> RecoverOptions<'_> {
        RecoverOptions {
            logits: &self.score.logits,
            mode,
            settings: self.recover_settings.clone(),
            // A budget of parameters leaves no room for new ones.
            grow: !self.counts_params(),
            seed: self.calibration.seed,
            memory: self.score.memory,
        }
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    #[error(transparent)]
    TooLarge(#[from] fold::TooLarge),
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Rotate(#[from] RotateError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("{0}; nothing was written")]
    Refused(#[from] Refusal),
    #[error("{0}; nothing was written")]
    Gate(#[from] GateError),
    /// Once dimensions had to keep their extent, there was no plan any more.
    #[error("with the dimensions left whole that could not be pruned, {0}")]
    Replan(PlanError),
    /// The model could not be run on synthetic inputs.
    #[error(
        "{0}; the inputs were made up for want of calibration data: give data by --calib, or shapes by --shape"
    )]
    Synthetic(RuntimeError),
    /// The model could not be run on the samples that were given.
    #[error("the model does not run on the calibration data, of which it was fed {fed}: {source}")]
    Unfit { fed: String, source: RuntimeError },
    /// A path leads to what may not be written.
    #[error(transparent)]
    Paths(#[from] PathError),
    /// Saved scores do not fit.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// Scores or a report could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Error {
    /// Whether the job ran and was not done (exit code 1), rather than being refused because of what was asked (2): the model, the
    /// data, the budget, the paths or the runtime.
    pub fn ran(&self) -> bool {
        match self {
            Self::Onnx(error) => error.is_of_writing(),
            Self::Runtime(error) => error.is_of_running(),
            Self::Calibration(_)
            | Self::Plan(_)
            | Self::TooLarge(_)
            | Self::Synthetic(_)
            | Self::Unfit { .. }
            | Self::Paths(_)
            | Self::Saved(_) => false,
            Self::Score(_)
            | Self::Rotate(_)
            | Self::Verify(_)
            | Self::Refused(_)
            | Self::Gate(_)
            | Self::Replan(_)
            | Self::Write(_) => true,
        }
    }
}

/// A loaded and typed model, with all that later stages need.
pub struct Typed {
    /// The file.
    pub source: Source,
    /// Its graph.
    pub graph: Graph,
    /// What one run showed.
    pub facts: Facts,
    /// The width of every axis.
    pub widths: Widths,
    /// What can be pruned.
    pub dimensions: Dimensions,
    /// Calibration samples.
    pub samples: Samples,
    /// Samples per run.
    pub batch: usize,
}

/// What a run tells while it goes on.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A stage begins.
    Stage(&'static str),
    /// So much of the scoring is done: units of an exact score, samples of a sketch.
    Units {
        /// Done.
        done: usize,
        /// In all.
        total: usize,
    },
    /// So many layers have been recovered, of so many.
    Layers {
        /// Recovered.
        done: usize,
        /// In all.
        total: usize,
    },
    /// Something to know before the result is there.
    Say(String),
    /// Something that the user has to know, quiet or not.
    Warn(Warning),
}

/// Prunes a model.
pub fn run(options: &Options, tell: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    let mut warnings = Vec::new();
    let (mut report, model) = prune_file(options, &mut |event| {
        if let Progress::Warn(warning) = &event {
            warnings.push(warning.clone());
        }
        tell(event);
    })?;
    report.warnings = warnings;
    // Both are complete before either replaces what was there.
    let file = options.report.as_ref().map(|path| report.stage(path)).transpose()?;
    model.map(Staged::publish).transpose()?;
    file.map(StagedFile::publish).transpose()?;
    Ok(report)
}

/// Makes the pruned model ready; it is not in its place yet. There is none in a dry run.
fn prune_file(
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Report, Option<Staged>), Error> {
    options.paths().check()?;
    let saved =
        options.scores.as_ref().map(|saved| Ok::<_, SavedError>((saved, saved.read()?))).transpose()?;
    let method = saved.as_ref().map_or(options.score.method, |(_, scores)| scores.made.score);
    let engine = runtime::open(&options.runtime)?;
    let mut clock = Clock::default();
    progress(Progress::Stage("load"));
    let source = clock.time("load", || onnx::load(&options.input))?;
    progress(Progress::Stage("type"));
    let Options { input, batch, granularity, .. } = options;
    let model =
        ModelOptions { input, calibration: &options.data(method), batch: *batch, granularity: *granularity };
    let mut typed = type_model(&*engine, source, model, &mut clock)?;
    let tight = typed.fit_batch(options.score.memory);
    progress(Progress::Say(format!(
        "calibration: {} samples, {}",
        typed.samples.len(),
        typed.samples.origin()
    )));
    typed.samples.warnings().into_iter().for_each(|warning| progress(Progress::Warn(warning)));
    options.limits.check_names(&typed.dimensions)?;
    let (typed, rotation) = turn_heads(&*engine, typed, options, &mut clock, progress)?;
    if let Some(warning) = measure_forward(&*engine, &typed, &mut clock)?.warning() {
        progress(Progress::Warn(warning));
    }
    let mut target = Costs::new(&typed, options).target(progress)?;
    let refit = options.recover_on(&typed).is_some_and(|recovery| recovery.refits());
    progress(Progress::Stage("score"));
    let made = provenance(&typed, options, refit);
    let scores = match saved {
        Some((saved, scores)) => {
            let rotated = rotation.as_ref().is_some_and(|rotation| !rotation.rotated.is_empty());
            saved.check(&scores.made, &made, rotated)?;
            scores
        }
        None => clock.time("score", || new_scores(&*engine, &typed, options, made, progress))?,
    };
    scores.warnings.iter().cloned().for_each(|warning| progress(Progress::Warn(warning)));
    if let Some(warning) = scores.stability.and_then(|stability| stability.warning()) {
        progress(Progress::Warn(warning));
    }
    let scores = if refit { scores.with_recovery() } else { scores };
    let (mut typed, mut scores) = (typed, scores);
    Ties::of(&typed.graph, &typed.dimensions.prunable, &options.limits)
        .share(&typed.dimensions.prunable, &mut scores);
    // Each round but the last takes a dimension at least from those that can be pruned.
    let (plan, proven) = loop {
        progress(Progress::Stage("plan"));
        let costs = Costs::new(&typed, options);
        let (cost, prunable) = (costs.budgeted().0, &typed.dimensions.prunable);
        let ties = Ties::of(&typed.graph, prunable, &options.limits);
        let mut plan = clock.time("plan", || plan::plan(cost, prunable, &scores, &options.limits, target))?;
        ties.level(&mut plan);
        if options.output.is_none() {
            break (plan, None);
        }
        progress(Progress::Stage("verify"));
        let pruner = Pruner { engine: &*engine, view: typed.view(), flops: &costs.flops };
        let refusal = match pruner.carry_out(&plan, &mut clock) {
            Ok(proven) => break (plan, Some(proven)),
            Err(refusal) => refusal,
        };
        let Some(Blame { names, pin }) = pruner.blame(&plan, &refusal, &mut clock) else {
            return Err(refusal.into());
        };
        let names = ties.with_tied(prunable, names);
        for name in typed.dimensions.freeze(|d| names.contains(&d.name), |_| pin.clone()) {
            let message = format!("{name} keeps its extent, and the rest is planned anew: {pin}");
            progress(Progress::Warn(Warning::new(WarningCode::FrozenDimension, message)));
        }
        target = Costs::new(&typed, options).target(progress).map_err(Error::Replan)?;
    };
    let costs = Costs::new(&typed, options);
    let mut report = report(&*engine, &typed, &costs, scores, &plan);
    report.rotation = rotation;
    report.notes.extend(tight);
    let mut staged = None;
    if let (Some(output), Some((proven, proof))) = (&options.output, proven) {
        report.proof = Some(proof);
        let kept = plan.kept(&typed.widths.table, &typed.dimensions.prunable);
        let budget = costs.budget.to_string();
        let finish = Finish { engine: &*engine, typed: &typed, options, output, budget };
        staged = Some(finish.run(&kept, &proven, &mut report, &mut clock, progress)?);
    }
    report.stages = clock.stages("forward");
    report.memory = Memory { budget: options.score.memory.0, peak: memory::peak() };
    Ok((report, staged))
}

/// What a model costs, and what it may cost.
struct Costs<'a> {
    typed: &'a Typed,
    limits: &'a Limits,
    flops: Cost,
    params: Cost,
    budget: Budget,
    /// Whether the budget is one of parameters.
    counts_params: bool,
}

impl<'a> Costs<'a> {
    fn new(typed: &'a Typed, options: &'a Options) -> Self {
        let prunable = &typed.dimensions.prunable;
        Self {
            typed,
            limits: &options.limits,
            flops: Cost::flops(&typed.widths, prunable, typed.facts.samples),
            params: Cost::parameters(&typed.graph, &typed.widths, prunable),
            budget: options.flops.or(options.params).unwrap_or(Budget::Share(0.5)),
            counts_params: options.counts_params(),
        }
    }

    /// The cost that has a budget, and what it counts.
    fn budgeted(&self) -> (&Cost, &'static str) {
        if self.counts_params { (&self.params, "parameters") } else { (&self.flops, "FLOPs") }
    }

    /// What it comes to when the dimensions keep so many units; `None`: all.
    fn change(&self, cost: &Cost, kept: Option<&[usize]>) -> Change {
        let prunable = &self.typed.dimensions.prunable;
        let sizes: Vec<usize> = prunable.iter().map(|d| d.size).collect();
        Change {
            before: cost.total(&sizes),
            after: cost.total(kept.unwrap_or(&sizes)),
            minimum: plan::minimum(cost, prunable, self.limits),
        }
    }

    /// Whether the dense model costs more than it may.
    fn exceed(&self) -> bool {
        let Change { before, .. } = self.change(self.budgeted().0, None);
        self.budget.target(before) < before
    }

    /// The most that the pruned model may cost, if that can be reached.
    fn target(&self, progress: &mut dyn FnMut(Progress)) -> Result<u64, PlanError> {
        let dimensions = &self.typed.dimensions;
        if dimensions.prunable.is_empty() {
            return Err(PlanError::Nothing(why_pinned(dimensions)));
        }
        let (cost, unit) = self.budgeted();
        let Change { before, minimum, .. } = self.change(cost, None);
        let asked = self.budget.target(before);
        progress(Progress::Say(format!("reachable: {minimum} to {before} {unit}; asked: {asked}")));
        if asked >= before {
            return Err(PlanError::Idle { asked, unit, before });
        }
        if minimum <= asked {
            return Ok(asked);
        }
        let share = 100.0 * minimum as f64 / before.max(1) as f64;
        let flags = self.limits.held_by(cost, &dimensions.prunable, asked);
        let why = match flags.as_slice() {
            [] => format!("what keeps its extent does so because: {}", why_pinned(dimensions)),
            flags => format!("what holds it is {}: loosen or drop that", flags.join(", ")),
        };
        Err(PlanError::Infeasible { asked, unit, minimum, share, why })
    }
}

/// What is known once there is a plan.
fn report(engine: &dyn Engine, typed: &Typed, costs: &Costs<'_>, scores: Scores, plan: &Plan) -> Report {
    let kept: Vec<usize> = plan.dimensions.iter().map(|d| d.kept.len()).collect();
    let mut notes: Vec<String> = typed.samples.notes().iter().map(ToString::to_string).collect();
    notes.extend(scores.notes);
    Report {
        tool: format!("optin-onnx {}", env!("CARGO_PKG_VERSION")),
        source_sha256: typed.source.sha256.clone(),
        runtime: engine.describe(),
        calibration: typed.samples.origin().to_string(),
        synthetic: typed.is_synthetic(),
        samples: typed.samples.len(),
        score: scores.made.score.to_string(),
        stability: scores.stability,
        stages: Vec::new(),
        memory: Memory::default(),
        flops: costs.change(&costs.flops, Some(&kept)),
        params: costs.change(&costs.params, Some(&kept)),
        bytes: Change { before: typed.source.bytes, after: 0, minimum: 0 },
        rotation: None,
        dimensions: Report::dimensions_of(plan),
        pinned: typed.dimensions.pinned.clone(),
        proof: None,
        gate: None,
        recovery: None,
        warnings: Vec::new(),
        notes,
    }
}

/// Folds a model's constants, loads its calibration data, and types it.
pub(crate) fn type_model(
    engine: &dyn Engine,
    mut source: Source,
    ModelOptions { input, calibration, batch, granularity }: ModelOptions<'_>,
    clock: &mut Clock,
) -> Result<Typed, Error> {
    source.packed = Packed::pack(&mut source.model);
    // What the runtime cannot fold stays computed, and is observed with everything else.
    if let Ok(folded) = clock.time("fold", || fold::fold(engine, &source.model)) {
        source.model = folded;
    }
    fold::check_sizes(&source.model)?;
    // What no output needs costs nothing, as runtimes leave it out.
    drop_dead(&mut source.model);
    let mut samples = calibration::load(&source.model, input, calibration)?;
    if let Some(batch) = clock.time("batch", || typing::fixed_batch(engine, &source.model, &samples)) {
        samples.fix_batch(batch)?;
    }
    Typed::infer(engine, source, samples, batch, granularity, clock)
}

/// Turns the dimensions of heads to principal axes, if any may be removed. Those that cannot be turned stay: in each head
/// another one would be the least important.
fn turn_heads(
    engine: &dyn Engine,
    typed: Typed,
    options: &Options,
    clock: &mut Clock,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Typed, Option<Rotation>), Error> {
    let may_go = |d: &Dimension| d.kind.is_rotated() && options.limits.floor(d) < d.size;
    if !typed.dimensions.prunable.iter().any(may_go) || !Costs::new(&typed, options).exceed() {
        return Ok((typed, None));
    }
    progress(Progress::Stage("rotate"));
    let rotated = clock.time("rotate", || rotate::rotate(engine, typed.view(), options.score.memory))?;
    let Typed { source, samples, batch, .. } = typed;
    let source = Source { model: rotated.model, ..source };
    let mut typed = Typed::infer(engine, source, samples, batch, options.granularity, clock)?;
    let names = &rotated.report.rotated;
    typed.dimensions.freeze(
        |d| d.kind.is_rotated() && !names.contains(&d.name),
        |d| Pin::new(&d.name, Reason::HeadDimension),
    );
    Ok((typed, Some(rotated.report)))
}

/// One forward pass over all samples: the unit that the time of the stages is given in. What it shows is whether the outputs
/// vary.
fn measure_forward(engine: &dyn Engine, typed: &Typed, clock: &mut Clock) -> Result<Variation, Error> {
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

fn why_pinned(dimensions: &Dimensions) -> String {
    let first = || dimensions.pinned.iter().flat_map(|p| p.reasons.first()).map(|pin| &pin.reason);
    let reasons: BTreeSet<String> = first().map(ToString::to_string).collect();
    if reasons.is_empty() {
        return "no weight has an axis that could shrink".to_owned();
    }
    let quantized = first().any(|reason| matches!(reason, Reason::Unsupported(op) if ops::is_quantized(op)));
    let hint = if quantized { "; prune the model first, then quantise it" } else { "" };
    reasons.into_iter().collect::<Vec<_>>().join("; ") + hint
}

/// What scores of this run are made of.
fn provenance(typed: &Typed, options: &Options, refit: bool) -> Provenance {
    let ScoreOptions { method, settings, seed, logits, .. } = &options.score;
    // Only a file needs the hash, and data may be large.
    let hashed = options.scores.is_some() || options.save_scores.is_some();
    Provenance {
        score: *method,
        settings: settings.resolved(method.settings()),
        logits: logits.clone(),
        granularity: options.granularity,
        refit,
        model: typed.source.sha256.clone(),
        calibration: typed.samples.origin().to_string(),
        calibration_sha256: if hashed { typed.samples.sha256() } else { String::new() },
        samples: typed.samples.len(),
        seed: *seed,
    }
}

fn new_scores(
    engine: &dyn Engine,
    typed: &Typed,
    options: &Options,
    made: Provenance,
    progress: &mut dyn FnMut(Progress),
) -> Result<Scores, Error> {
    // Scoring is dear: units that may not go need no scores.
    let wanted = |d: &Dimension| options.limits.floor(d) < d.size;
    let mut tick = |done, total| progress(Progress::Units { done, total });
    let mut scored = score::score(engine, typed.view(), &options.score, &wanted, &mut tick)?;
    if made.refit {
        score::order(engine, typed.view(), &options.score, &mut scored)?;
    }
    let scores = Scores {
        made,
        stability: scored.stability,
        notes: scored.notes,
        warnings: scored.warnings,
        dimensions: scored.dimensions,
    };
    if let Some(path) = &options.save_scores {
        score::save(&scores, path)?;
    }
    Ok(scores)
}

impl Typed {
    /// Observes a model on two samples, and types it.
    fn infer(
        engine: &dyn Engine,
        source: Source,
        samples: Samples,
        batch: usize,
        granularity: Granularity,
        clock: &mut Clock,
    ) -> Result<Self, Error> {
        let graph = Graph::new(&source.model);
        // Two samples tell the batch axis from axes of extent one.
        let first = samples.ranges(2).next().unwrap_or(0..1);
        let feed = samples.batch(first.start, first.end)?;
        let observed =
            clock.time("observe", || typing::observe(engine, &source.model, &graph, &feed, first.len()));
        let facts = observed.map_err(|error| match samples.origin() {
            calibration::Origin::Synthetic => Error::Synthetic(error),
            _ if matches!(error, RuntimeError::Run { .. }) => {
                Error::Unfit { fed: shapes(&feed), source: error }
            }
            _ => Error::Runtime(error),
        })?;
        let batched = typing::batched_inputs(&graph, &samples);
        let (widths, dimensions) = clock.time("type", || {
            let widths = typing::infer(&graph, &facts, &batched);
            let dimensions = typing::dimensions(&graph, &widths, granularity);
            (widths, dimensions)
        });
        Ok(Self { source, graph, facts, widths, dimensions, samples, batch })
    }

    /// Takes at most as many samples per run as half the memory holds of their values, the other half being for what is made of
    /// them; a note where one sample takes more.
    fn fit_batch(&mut self, memory: MemoryBudget) -> Option<String> {
        let (half, sample) = (memory.share(2), self.facts.live_per_sample(&self.graph));
        self.batch = half.count(sample).min(self.batch);
        (!half.holds(sample)).then(|| {
            let needed = memory::Bytes(sample);
            format!("the values of one sample take {needed}, more than half of --memory ({memory})")
        })
    }

    /// Whether the samples are made up.
    pub fn is_synthetic(&self) -> bool {
        matches!(self.samples.origin(), calibration::Origin::Synthetic)
    }

    /// What scoring needs to see.
    pub fn view(&self) -> ModelView<'_> {
        ModelView {
            model: &self.source.model,
            graph: &self.graph,
            facts: &self.facts,
            widths: &self.widths,
            dimensions: &self.dimensions.prunable,
            samples: &self.samples,
            batch: self.batch,
        }
    }
}

/// Names and shapes of what a model is fed.
fn shapes(feed: &[(String, Tensor)]) -> String {
    let shapes = feed.iter().map(|(name, tensor)| format!("`{name}` {:?}", tensor.shape()));
    shapes.collect::<Vec<_>>().join(", ")
}

/// Notes in the model how it was made.
fn describe(model: &mut ModelProto, report: &Report, budget: &str, options: &Options) {
    let recovery = report.recovery.as_ref().filter(|r| !r.undone).map_or("off", |r| r.mode.id());
    // Keys have to be distinct, and the model may have been pruned before.
    model.metadata_props.retain(|entry| !entry.key().starts_with("optin-onnx."));
    for (key, value) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("source_sha256", &report.source_sha256),
        ("budget", budget),
        ("score", &report.score),
        ("recover", recovery),
        ("calibration", if report.synthetic { "synthetic (noise)" } else { "data" }),
        ("seed", &options.calibration.seed.to_string()),
    ] {
        model.metadata_props.push(StringStringEntryProto {
            key: Some(format!("optin-onnx.{key}")),
            value: Some(value.to_owned()),
        });
    }
}
