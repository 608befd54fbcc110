//! The whole run: load → type → rotate → score → plan → rewrite → verify → recover → gate → save.

mod finish;

use finish::{Finish, Packaging};

use std::path::{Path, PathBuf};

use crate::{
    calibration::{self, CalibrationError, CalibrationOptions, Origin, Samples, Variation},
    fold,
    gate::GateError,
    graph::{Facts, Graph, drop_dead},
    memory::{self, MemoryBudget},
    model::ModelView,
    onnx::{self, OnnxError, Packed, Source, Staged, proto::ModelProto},
    paths::{PathError, Paths, Role},
    plan::{self, Bounds, Budgets, CostView, Costs, Limits, OverBudget, Plan, PlanError},
    recover::{Mode, RecoverOptions},
    replan::{Blame, Pruner, Refusal},
    report::{Change, Clock, Memory, Report},
    rotate::{self, RotateError, Rotation},
    runtime::{self, Engine, RuntimeError, RuntimeOptions},
    score::{self, Method, Provenance, SavedError, SavedScores, ScoreError, ScoreOptions, Scores},
    staging::{StagedFile, WriteError},
    tensor::Tensor,
    ties::Ties,
    typing::{self, Dimension, Dimensions, Granularity, Kind},
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
    /// What the pruned model may cost.
    pub budgets: Budgets,
    /// Calibration data.
    pub calibration: CalibrationOptions,
    /// The runtime.
    pub runtime: RuntimeOptions,
    /// How units are scored.
    pub score: ScoreOptions,
    /// What may be removed.
    pub limits: Limits,
    /// What recovery may change.
    pub recover: Mode,
    /// The ridge of recovery; `None`: chosen per layer on held-out samples.
    pub ridge: Option<f64>,
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
            budgets: Budgets::default(),
            calibration: CalibrationOptions::default(),
            runtime: RuntimeOptions::default(),
            score: ScoreOptions::default(),
            limits: Limits::default(),
            recover: Mode::default(),
            ridge: None,
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

    /// What recovery may change: nothing on made-up inputs, which say nothing of what removed units did.
    fn recover_on(&self, typed: &Typed) -> Mode {
        if typed.is_synthetic() { Mode::Off } else { self.recover }
    }

    fn recovery(&self) -> RecoverOptions<'_> {
        RecoverOptions {
            logits: &self.score.logits,
            mode: self.recover,
            ridge: self.ridge,
            grow: self.budgets.leave_room_for_weights(),
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
    /// However much room was left for what plans do not count, the pruned model took more.
    #[error("{0}; nothing was written")]
    OverBudget(#[from] OverBudget),
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
            | Self::OverBudget(_)
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
    let mut bounds = bounds(&typed, options, progress)?;
    let recover = options.recover_on(&typed);
    progress(Progress::Stage("score"));
    let made = provenance(&typed, options, recover);
    let scores = match saved {
        Some((saved, scores)) => {
            let turned = rotation.as_ref().is_some_and(|rotation| !rotation.turned.is_empty());
            saved.check(&scores.made, &made, turned)?;
            scores
        }
        None => clock.time("score", || new_scores(&*engine, &typed, options, made, progress))?,
    };
    scores.warnings.iter().cloned().for_each(|warning| progress(Progress::Warn(warning)));
    if let Some(warning) = scores.stability.and_then(|stability| stability.warning()) {
        progress(Progress::Warn(warning));
    }
    let scores = if recover == Mode::Refit { scores.with_recovery() } else { scores };
    let (mut typed, mut scores) = (typed, scores);
    Ties::of(&typed.graph, &typed.dimensions.prunable, &options.limits)
        .share(&typed.dimensions.prunable, &mut scores);
    let packaging = Packaging {
        source: &typed.source,
        synthetic: typed.is_synthetic(),
        options,
        score: scores.made.score.to_string(),
    };
    let mut corrections = 0;
    // Each round but the last takes a dimension at least from those that can be pruned, or is one of few corrections.
    let (plan, proven) = loop {
        progress(Progress::Stage("plan"));
        let (costs, prunable) = (typed.costs(&options.limits), &typed.dimensions.prunable);
        let ties = Ties::of(&typed.graph, prunable, &options.limits);
        let mut plan =
            clock.time("plan", || plan::plan(&costs.bounded(&bounds), prunable, &scores, &options.limits))?;
        ties.level(&mut plan);
        let Some(output) = &options.output else { break (plan, None) };
        progress(Progress::Stage("verify"));
        let file_bytes = |model: &ModelProto| packaging.file_bytes(model, output);
        let (view, costs_of) = (typed.view(), costs.each());
        let pruner = Pruner { engine: &*engine, view, costs: costs_of, file_bytes: &file_bytes };
        let refusal = match pruner.carry_out(&plan, &mut clock) {
            Ok((proven, proof)) => match bounds.check(&proof.costs) {
                Ok(()) => break (plan, Some((proven, proof))),
                Err(over) if corrections == CORRECTIONS => return Err(over.into()),
                Err(_) => {
                    corrections += 1;
                    bounds.leave_room(&costs.at(&plan.sizes()), &proof.costs);
                    costs.check(&bounds)?;
                    continue;
                }
            },
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
        bounds = self::bounds(&typed, options, progress).map_err(Error::Replan)?;
    };
    let costs = typed.costs(&options.limits);
    let mut report = report(&*engine, &typed, &costs, scores, &plan);
    report.rotation = rotation;
    report.notes.extend(tight);
    let mut staged = None;
    if let (Some(output), Some((proven, proof))) = (&options.output, proven) {
        report.proof = Some(proof);
        let kept = plan.kept(&typed.widths.table, &typed.dimensions.prunable);
        let planned = costs.at(&plan.sizes());
        let finish = Finish { engine: &*engine, typed: &typed, packaging, output, planned, bounds };
        staged = Some(finish.run(&kept, &proven, &mut report, &mut clock, progress)?);
    }
    report.stages = clock.stages("forward");
    report.memory = Memory { budget: options.score.memory.0, peak: memory::peak() };
    Ok((report, staged))
}

/// How often a model is planned anew because it costs more than its plan says.
const CORRECTIONS: usize = 3;

/// The most that the pruned model may cost, if that can be reached.
fn bounds(typed: &Typed, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Bounds, PlanError> {
    let costs = typed.costs(&options.limits);
    if !typed.dimensions.prunable.is_empty() {
        let asked = costs.asked(&options.budgets);
        asked.iter().for_each(|asked| progress(Progress::Say(asked.to_string())));
    }
    costs.bounds(&options.budgets)
}

/// What is known once there is a plan.
fn report(engine: &dyn Engine, typed: &Typed, costs: &Costs<'_>, scores: Scores, plan: &Plan) -> Report {
    let change = |&before: &u64, &minimum: &u64| Change { before, after: before, minimum };
    let planned = |change: &Change, &after: &u64| Change { after, ..*change };
    let changes = costs.dense().zip(&costs.least(), change).zip(&costs.at(&plan.sizes()), planned);
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
        costs: changes,
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
    let may_go = |d: &Dimension| d.kind == Kind::HeadDim && options.limits.floor(d) < d.size;
    if !typed.dimensions.prunable.iter().any(may_go) || !typed.costs(&options.limits).exceed(&options.budgets)
    {
        return Ok((typed, None));
    }
    progress(Progress::Stage("rotate"));
    let rotated = clock.time("rotate", || rotate::rotate(engine, typed.view(), options.score.memory))?;
    let Typed { source, samples, batch, .. } = typed;
    let source = Source { model: rotated.model, ..source };
    let mut typed = Typed::infer(engine, source, samples, batch, options.granularity, clock)?;
    let turned = &rotated.report.turned;
    typed.dimensions.freeze(
        |d| d.kind == Kind::HeadDim && !turned.contains(&d.name),
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

/// What scores of this run are made of.
fn provenance(typed: &Typed, options: &Options, recover: Mode) -> Provenance {
    let ScoreOptions { method, seed, lambda, probes, logits, paper_quirks, .. } = &options.score;
    // Only a file needs the hash, and data may be large.
    let hashed = options.scores.is_some() || options.save_scores.is_some();
    Provenance {
        score: *method,
        paper_quirks: *paper_quirks,
        lambda: *lambda,
        probes: *probes,
        logits: logits.clone(),
        granularity: options.granularity,
        refit: recover == Mode::Refit,
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

    /// What the model costs, and the least that `limits` let it be brought to.
    pub fn costs<'a>(&'a self, limits: &'a Limits) -> Costs<'a> {
        Costs::new(&CostView::new(self.view(), self.source.bytes), &self.dimensions, limits)
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
