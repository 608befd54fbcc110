//! A run from file to file: what the program does.

use std::path::PathBuf;

use crate::{
    Error,
    calibration::{CalibrationOptions, Origin},
    latency::{ExternalCommand, ExternalStopwatch, Serving, Table},
    onnx::{self, Staged},
    paths::{Paths, Role},
    plan::{Budgets, Limits},
    positions::Reduce,
    recover::{Mode, RecoverOptions},
    report::{self, Report},
    runtime::{self, RuntimeOptions},
    score::{self, Method, SavedError, SavedScores, ScoreOptions, Scores},
    session::{Cancel, Progress, Pruner, Scored, Settings},
    settings::SettingValues,
    staging::StagedFile,
    typing::Granularity,
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
    /// Where the report goes: as HTML if the name ends so, or else as JSON.
    pub report: Option<PathBuf>,
    /// The command that was given, for the report; `None`: none was.
    pub command: Option<String>,
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
    /// The recovery; `None`: nothing is corrected.
    pub recover: Option<Mode>,
    /// Its settings.
    pub recover_settings: SettingValues,
    /// Scores of an earlier run to plan from.
    pub scores: Option<SavedScores>,
    /// Where scores are saved.
    pub save_scores: Option<PathBuf>,
    /// Samples per run of the model.
    pub batch: usize,
    /// The units that attention loses.
    pub granularity: Granularity,
    /// Whether positions that no output reads are computed as before.
    pub keep_unread: bool,
    /// What is reduced.
    pub reduce: Reduce,
    /// Whether the dense and the pruned file are timed.
    pub bench: bool,
    /// The shapes at which models are timed.
    pub serving: Serving,
    /// Where times are kept from run to run.
    pub latency_table: Option<PathBuf>,
    /// The program that times models, in place of the runtime.
    pub measure_with: Option<ExternalCommand>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            input: PathBuf::new(),
            output: None,
            in_place: false,
            report: None,
            command: None,
            budgets: Budgets::default(),
            calibration: CalibrationOptions::default(),
            runtime: RuntimeOptions::default(),
            score: ScoreOptions::default(),
            limits: Limits::default(),
            recover: Some(Mode::default()),
            recover_settings: SettingValues::default(),
            scores: None,
            save_scores: None,
            batch: 16,
            granularity: Granularity::default(),
            keep_unread: false,
            reduce: Reduce::default(),
            bench: false,
            serving: Serving::default(),
            latency_table: None,
            measure_with: None,
        }
    }
}

impl Options {
    /// What samples to take. Where nothing is learnt from them, made-up ones do: they show shapes, and prove the result.
    fn data(&self, method: Method) -> CalibrationOptions {
        let options = self.calibration.clone();
        if method.needs_data() { options } else { options.or_synthetic() }
    }

    /// All that is read and written.
    pub(crate) fn paths(&self) -> Paths {
        let data = match self.calibration.data(Some(&self.input)) {
            Some(Origin::File(path) | Origin::Folder(path)) => Some((Role::Calibration, path)),
            _ => None,
        };
        let scores = self.scores.iter().map(|saved| (Role::Scores, saved.path.clone()));
        let writes = [
            (Role::Output, &self.output),
            (Role::SavedScores, &self.save_scores),
            (Role::LatencyTable, &self.latency_table),
            (Role::Report, &self.report),
        ];
        Paths {
            reads: [(Role::Model, self.input.clone())].into_iter().chain(data).chain(scores).collect(),
            writes: writes.into_iter().filter_map(|(role, path)| Some((role, path.clone()?))).collect(),
            in_place: self.in_place,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            limits: self.limits.clone(),
            granularity: self.granularity,
            batch: self.batch,
            memory: self.score.memory,
            keep_unread: self.keep_unread,
            reduce: self.reduce,
            refit: self.recover.is_some_and(|recovery| recovery.refits()),
            serving: self.serving.clone(),
        }
    }

    pub(crate) fn recovery(&self) -> Option<RecoverOptions<'_>> {
        Some(RecoverOptions {
            said_outputs: &self.score.said_outputs,
            mode: self.recover?,
            settings: self.recover_settings.clone(),
            grow: self.budgets.leave_room_for_weights(),
            seed: self.calibration.seed,
            memory: self.score.memory,
        })
    }
}

/// Prunes a model. `listener` is told how the work goes on, and `cancel` ends it.
///
/// # Errors
/// When what was asked for cannot be done. What was there before is still there then.
pub fn run(
    options: &Options,
    cancel: &Cancel,
    listener: impl FnMut(Progress) + 'static,
) -> Result<Report, Error> {
    let (mut report, model) = prune_file(options, cancel, listener)?;
    report.asked = report.asked.with(&options.calibration, &options.runtime);
    report.seeds.data = Some(options.calibration.seed);
    report.command = options.command.clone();
    // Both are complete before either replaces what was there.
    let file = options.report.as_ref().map(|path| report::stage(&report, path)).transpose()?;
    model.map(Staged::publish).transpose()?;
    file.map(StagedFile::publish).transpose()?;
    Ok(report)
}

/// Makes the pruned model ready; it is not in its place yet. There is none in a dry run.
fn prune_file(
    options: &Options,
    cancel: &Cancel,
    listener: impl FnMut(Progress) + 'static,
) -> Result<(Report, Option<Staged>), Error> {
    options.paths().check()?;
    let mut opened = Opened::new(options, cancel, listener)?;
    opened.pruner.check(&options.budgets)?;
    if options.budgets.latency().is_some() {
        measure(&mut opened.pruner, options)?;
        opened.pruner.check(&options.budgets)?;
    }
    let scored = opened.score(options)?;
    let planned = scored.plan(&options.budgets);
    // Times of plans are kept, too, whether they keep the budget or not.
    save_table(&opened.pruner, options)?;
    let planned = planned?;
    let Some(output) = &options.output else { return Ok((planned.report(), None)) };
    let applied = planned.apply()?;
    let recovered = match options.recovery() {
        Some(recovery) => applied.recover(&recovery)?,
        None => applied.unrecovered(),
    };
    let (staged, mut report) = recovered.stage(output)?;
    if options.bench && report.bench.is_none() {
        let [dense, pruned] = [options.input.clone(), staged.path()].map(|path| onnx::load(&path));
        report.bench = Some(opened.pruner.bench(&dense?.model, &pruned?.model)?);
    }
    Ok((report, Some(staged)))
}

/// Measures how long the model takes, as far as the table does not say.
fn measure(pruner: &mut Pruner, options: &Options) -> Result<(), Error> {
    let table = match &options.latency_table {
        Some(path) => Table::load(path, pruner.device())?,
        None => Table::new(pruner.device()),
    };
    pruner.measure(onnx::load(&options.input)?.model, table)?;
    save_table(pruner, options)
}

/// Saves the times that are known.
fn save_table(pruner: &Pruner, options: &Options) -> Result<(), Error> {
    if let Some((table, path)) = pruner.table().zip(options.latency_table.as_ref()) {
        table.stage(path)?.publish()?;
    }
    Ok(())
}

/// A session of a file, and the scores that were saved for it.
pub(crate) struct Opened {
    pub pruner: Pruner,
    saved: Option<Scores>,
}

impl Opened {
    /// Opens the model, and reads saved scores where there are to be any.
    pub fn new(
        options: &Options,
        cancel: &Cancel,
        listener: impl FnMut(Progress) + 'static,
    ) -> Result<Self, Error> {
        let saved = options.scores.as_ref().map(|saved| Ok::<_, SavedError>((saved, saved.read()?)));
        let saved = saved.transpose()?;
        let method = saved.as_ref().map_or(options.score.method, |(_, scores)| scores.made.score);
        let engine = runtime::open(&options.runtime)?;
        let mut builder =
            Pruner::builder(engine).settings(options.settings()).on_progress(listener).cancel(cancel.clone());
        if let Some(command) = &options.measure_with {
            builder = builder.stopwatch(Box::new(ExternalStopwatch(command.clone())));
        }
        let pruner = builder.open(options.input.as_path(), options.data(method))?;
        if let Some((saved, scores)) = &saved {
            saved.check(&scores.made, &pruner.provenance(&options.score, true), pruner.is_rotated())?;
        }
        Ok(Self { pruner, saved: saved.map(|(_, scores)| scores) })
    }

    /// The scores that were saved, or new ones, which are saved where that is asked for.
    pub fn score(&self, options: &Options) -> Result<Scored<'_>, Error> {
        let scored = match &self.saved {
            Some(scores) => self.pruner.with_scores(scores.clone()),
            None => self.pruner.score(&options.score)?,
        };
        if let Some(path) = &options.save_scores {
            // With the hash of the data that they were made of.
            let made = self.pruner.provenance(&options.score, true);
            score::save(&Scores { made, ..scored.scores().clone() }, path)?;
        }
        Ok(scored)
    }
}
