//! The whole run: load → type → rotate → score → plan → rewrite → verify → recover → save.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    calibration::{self, CalibrationError, CalibrationOptions, Samples, Variation},
    fold,
    graph::{Facts, Graph},
    masks,
    memory::{self, MemoryBudget},
    onnx::{
        self, OnnxError, Source,
        proto::{ModelProto, StringStringEntryProto},
    },
    plan::{self, Budget, Cost, Limits, Plan, PlanError},
    recover::{self, Mode, RecoverError, RecoverOptions},
    report::{Change, Clock, Memory, Report},
    rewrite::{self, RewriteError},
    rotate::{self, RotateError, Rotation},
    runtime::{self, Engine, RuntimeError, RuntimeOptions},
    score::{self, ScoreError, ScoreOptions, Scores},
    tensor::Tensor,
    typing::{self, Dimension, Dimensions, Granularity, Kind},
    verify::{self, Proof, VerifyError},
    warning::Warning,
    widths::{Kept, Pin, Reason, Widths},
};

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The dense model.
    pub input: PathBuf,
    /// Where the pruned model goes; `None` for a dry run.
    pub output: Option<PathBuf>,
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
    /// What recovery may change.
    pub recover: Mode,
    /// The ridge of recovery; `None`: chosen per layer on held-out samples.
    pub ridge: Option<f64>,
    /// Scores of an earlier run to plan from.
    pub scores: Option<PathBuf>,
    /// Where scores are saved.
    pub save_scores: Option<PathBuf>,
    /// Samples per run of the model.
    pub batch: usize,
    /// The units that attention loses.
    pub granularity: Granularity,
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
    fn data(&self) -> CalibrationOptions {
        let options = self.calibration.clone();
        if self.score.method.needs_data() { options } else { options.or_synthetic() }
    }

    /// Whether the budget is one of parameters.
    fn counts_params(&self) -> bool {
        self.flops.is_none() && self.params.is_some()
    }

    fn recovery(&self) -> RecoverOptions<'_> {
        RecoverOptions {
            logits: &self.score.logits,
            mode: self.recover,
            ridge: self.ridge,
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
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The model could not be run on synthetic inputs.
    #[error(
        "{0}; the inputs were made up for want of calibration data: give data by --calib, or shapes by --shape"
    )]
    Synthetic(RuntimeError),
    /// The model could not be run on the samples that were given.
    #[error("the model does not run on the calibration data, of which it was fed {fed}: {source}")]
    Unfit { fed: String, source: RuntimeError },
    /// Output and input are one file.
    #[error("the output {0} is the input; say --in-place if it is to be replaced")]
    InPlace(PathBuf),
    /// The proof failed: nothing is written.
    #[error(
        "the pruned model differs from the masked original by {difference:.1e} on output {output}; nothing was written"
    )]
    Disproved { output: String, difference: f64 },
    /// The counted FLOPs are not the planned ones.
    #[error("the pruned model needs {found} FLOPs where {planned} were planned; nothing was written")]
    Miscounted { found: u64, planned: u64 },
    /// A scores or report file.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
}

impl Error {
    /// Whether the job ran and was not done (exit code 1), rather than not being understood (2).
    pub fn ran(&self) -> bool {
        matches!(
            self,
            Self::Disproved { .. }
                | Self::Miscounted { .. }
                | Self::Verify(_)
                | Self::Rotate(_)
                | Self::Rewrite(_)
                | Self::Recover(_)
        ) || matches!(self, Self::Plan(PlanError::Nothing(_)))
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
    let mut report = prune_file(options, &mut |event| {
        if let Progress::Warn(warning) = &event {
            warnings.push(warning.clone());
        }
        tell(event);
    })?;
    report.warnings = warnings;
    Ok(report)
}

fn prune_file(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    let engine = runtime::open(&options.runtime)?;
    let mut clock = Clock::default();
    progress(Progress::Stage("load"));
    let source = clock.time("load", || onnx::load(&options.input))?;
    progress(Progress::Stage("type"));
    let Options { input, batch, granularity, .. } = options;
    let model =
        ModelOptions { input, calibration: &options.data(), batch: *batch, granularity: *granularity };
    let mut typed = type_model(&*engine, source, model, &mut clock)?;
    let tight = typed.fit_batch(options.score.memory);
    progress(Progress::Say(format!(
        "calibration: {} samples, {}",
        typed.samples.len(),
        typed.samples.origin()
    )));
    typed.samples.warnings().into_iter().for_each(|warning| progress(Progress::Warn(warning)));
    let (typed, rotation) = turn_heads(&*engine, typed, options, &mut clock, progress)?;
    if let Some(warning) = measure_forward(&*engine, &typed, &mut clock)?.warning() {
        progress(Progress::Warn(warning));
    }
    let costs = Costs::new(&typed, options);
    let target = costs.target(progress)?;
    // Made-up inputs say nothing of what removed units did.
    let recover = if typed.is_synthetic() { Mode::Off } else { options.recover };
    progress(Progress::Stage("score"));
    let scores = clock.time("score", || match &options.scores {
        Some(path) => saved_scores(path, &typed, options.score.seed, rotation.as_ref()),
        None => new_scores(&*engine, &typed, options, recover, progress),
    })?;
    scores.warnings.iter().cloned().for_each(|warning| progress(Progress::Warn(warning)));
    if let Some(warning) = scores.stability.and_then(|stability| stability.warning()) {
        progress(Progress::Warn(warning));
    }
    let scores = if recover == Mode::Refit { scores.with_recovery() } else { scores };
    progress(Progress::Stage("plan"));
    let prunable = &typed.dimensions.prunable;
    let (cost, _) = costs.budgeted();
    let plan = clock.time("plan", || plan::plan(cost, prunable, &scores, &options.limits, target))?;
    let mut report = report(&*engine, &typed, &costs, scores, &plan);
    report.rotation = rotation;
    report.notes.extend(tight);
    if let Some(output) = &options.output {
        let kept = plan.kept(&typed.widths.table, prunable);
        let (mut pruned, proof) = prune(&*engine, &typed, &kept, report.flops.after, &mut clock, progress)?;
        report.proof = Some(proof);
        if recover != Mode::Off {
            progress(Progress::Stage("recover"));
            let settings = RecoverOptions { mode: recover, ..options.recovery() };
            let mut tick = |done, total| progress(Progress::Layers { done, total });
            let recovered = clock.time("recover", || {
                recover::recover(&*engine, typed.view(), &kept, &pruned, &settings, &mut tick)
            })?;
            pruned = recovered.model;
            report.params.after += recovered.report.added;
            report.notes.extend(recovered.report.notes.iter().cloned());
            report.recovery = Some(recovered.report);
        }
        describe(&mut pruned, &report, &costs.budget.to_string(), options);
        progress(Progress::Stage("save"));
        report.bytes.after = clock.time("save", || onnx::save(&pruned, output, typed.source.external))?;
    }
    report.stages = clock.stages("forward");
    report.memory = Memory { budget: options.score.memory.0, peak: memory::peak() };
    Ok(report)
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
        if minimum <= asked {
            return Ok(asked);
        }
        let share = 100.0 * minimum as f64 / before.max(1) as f64;
        let why = format!("what keeps its extent does so because: {}", why_pinned(dimensions));
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
        score: scores.score.to_string(),
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
    // What the runtime cannot fold stays computed, and is observed with everything else.
    if let Ok(folded) = clock.time("fold", || fold::fold(engine, &source.model)) {
        source.model = folded;
    }
    // What no output needs costs nothing, as runtimes leave it out.
    rewrite::drop_dead(&mut source.model);
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
    if !typed.dimensions.prunable.iter().any(may_go) || !Costs::new(&typed, options).exceed() {
        return Ok((typed, None));
    }
    progress(Progress::Stage("rotate"));
    let rotated = clock.time("rotate", || rotate::rotate(engine, typed.view(), options.score.memory))?;
    let Typed { source, samples, batch, .. } = typed;
    let mut source = Source { model: rotated.model, ..source };
    engine.settle(&mut source.model);
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

fn why_pinned(dimensions: &Dimensions) -> String {
    let reasons: BTreeSet<String> =
        dimensions.pinned.iter().flat_map(|p| p.reasons.first()).map(|pin| pin.reason.to_string()).collect();
    match reasons.is_empty() {
        true => "no weight has an axis that could shrink".to_owned(),
        false => reasons.into_iter().collect::<Vec<_>>().join("; "),
    }
}

fn saved_scores(path: &Path, typed: &Typed, seed: u64, rotation: Option<&Rotation>) -> Result<Scores, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| file_error(path, e))?;
    let scores: Scores = serde_json::from_str(&text).map_err(|e| file_error(path, e))?;
    if scores.model != typed.source.sha256 {
        return Err(PlanError::Scores("they are of another file".to_owned()).into());
    }
    let data = (typed.samples.origin().to_string(), typed.samples.len(), seed);
    let turned = rotation.is_some_and(|rotation| !rotation.turned.is_empty());
    if turned && data != (scores.calibration.clone(), scores.samples, scores.seed) {
        let reason =
            "they are of heads that other samples turned: give the same --calib, --samples and --seed";
        return Err(PlanError::Scores(reason.to_owned()).into());
    }
    Ok(scores)
}

fn new_scores(
    engine: &dyn Engine,
    typed: &Typed,
    options: &Options,
    recover: Mode,
    progress: &mut dyn FnMut(Progress),
) -> Result<Scores, Error> {
    // Scoring is dear: units that may not go need no scores.
    let wanted = |d: &Dimension| options.limits.floor(d) < d.size;
    let mut tick = |done, total| progress(Progress::Units { done, total });
    let mut scored = score::score(engine, typed.view(), &options.score, &wanted, &mut tick)?;
    if recover == Mode::Refit {
        score::order(engine, typed.view(), &options.score, &mut scored)?;
    }
    let scores = Scores {
        score: options.score.method,
        model: typed.source.sha256.clone(),
        calibration: typed.samples.origin().to_string(),
        samples: typed.samples.len(),
        seed: options.score.seed,
        stability: scored.stability,
        notes: scored.notes,
        warnings: scored.warnings,
        dimensions: scored.dimensions,
    };
    if let Some(path) = &options.save_scores {
        let text = serde_json::to_string(&scores).map_err(|e| file_error(path, e))?;
        std::fs::write(path, text).map_err(|e| file_error(path, e))?;
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
    pub fn view(&self) -> score::ModelView<'_> {
        score::ModelView {
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

fn file_error(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::File { path: path.to_owned(), reason: error.to_string() }
}

/// The pruned model, and the proof that it computes what the masked original does.
fn prune(
    engine: &dyn Engine,
    typed: &Typed,
    kept: &Kept,
    flops: u64,
    clock: &mut Clock,
    progress: &mut dyn FnMut(Progress),
) -> Result<(ModelProto, Proof), Error> {
    let model = &typed.source.model;
    progress(Progress::Stage("rewrite"));
    let mut pruned =
        clock.time("rewrite", || rewrite::rewrite(model, &typed.graph, &typed.facts, &typed.widths, kept))?;
    engine.settle(&mut pruned);
    progress(Progress::Stage("verify"));
    let masked = masks::constant(&typed.graph, &typed.facts, &typed.widths, kept).apply(model);
    let first = typed.samples.ranges(2).next().map_or(1, |r| r.len());
    let proof = clock.time("verify", || verify::verify(engine, &masked, &pruned, &typed.samples, first))?;
    if let Some(worst) =
        proof.outputs.iter().find(|o| o.difference > verify::TOLERANCE || o.difference.is_nan())
    {
        return Err(Error::Disproved { output: worst.name.clone(), difference: worst.difference });
    }
    if proof.flops != flops {
        return Err(Error::Miscounted { found: proof.flops, planned: flops });
    }
    Ok((pruned, proof))
}

/// Notes in the model how it was made.
fn describe(model: &mut ModelProto, report: &Report, budget: &str, options: &Options) {
    let recovery = report.recovery.as_ref().filter(|r| !r.undone).map_or(Mode::Off, |r| r.mode);
    // Keys have to be distinct, and the model may have been pruned before.
    model.metadata_props.retain(|entry| !entry.key().starts_with("optin-onnx."));
    for (key, value) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("source_sha256", &report.source_sha256),
        ("budget", budget),
        ("score", &report.score),
        ("recover", &recovery.to_string()),
        ("calibration", if report.synthetic { "synthetic (noise)" } else { "data" }),
        ("seed", &options.calibration.seed.to_string()),
    ] {
        model.metadata_props.push(StringStringEntryProto {
            key: Some(format!("optin-onnx.{key}")),
            value: Some(value.to_owned()),
        });
    }
}
