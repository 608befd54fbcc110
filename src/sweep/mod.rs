//! Many budgets from one session: what is lost at each, and where it begins to be much.

mod knee;
mod sections;

use std::path::{Path, PathBuf};

pub use knee::knee;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    compare::milliseconds,
    onnx::{self, Source},
    paths::{Paths, Role},
    plan::{Budget, Budgets, Flops, PerCost, PlanError},
    report::{self, Report},
    run::{Opened, Options},
    session::{Applied, Cancel, Progress, Pruner, Scored},
    staging::WriteError,
    warning::Warning,
};

/// The version of the format of sweeps (`docs/sweep.schema.json`). It is raised when a field changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// A model that was pruned to one of the budgets, or why there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The budget of FLOPs, as `50%` or a number.
    pub budget: String,
    /// Where the model is; absent where none was written.
    pub path: Option<String>,
    /// SHA-256 of the model, its weights included; absent without one.
    pub sha256: Option<String>,
    /// What it costs; absent without one.
    pub costs: Option<PerCost<u64>>,
    /// Distance of its outputs from the dense model's on samples that were held out; absent without recovery.
    pub distance: Option<f64>,
    /// The share of these samples to which both give the same class; absent for models without classes.
    pub agreement: Option<f64>,
    /// The median time of a run in milliseconds, the dense model running in turn with it.
    pub milliseconds: Option<f64>,
    /// The same of the dense model.
    pub dense_milliseconds: Option<f64>,
    /// What has to be known of it.
    pub warnings: Vec<Warning>,
    /// Why there is no model.
    pub error: Option<String>,
}

/// What is known after all budgets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sweep {
    /// The version of the format: [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The command that was given; absent where there was none.
    pub command: Option<String>,
    /// SHA-256 of the dense model, its weights included.
    pub source_sha256: String,
    /// What the dense model costs.
    pub dense: PerCost<u64>,
    /// The least that it can be brought to.
    pub least: PerCost<u64>,
    /// The runtime.
    pub runtime: String,
    /// Where the samples came from.
    pub calibration: String,
    /// How many there were.
    pub samples: usize,
    /// The models, in the order of the budgets.
    pub points: Vec<Point>,
    /// The place among them of the one behind which further savings cost more than they did so far; absent where the curve does not
    /// bend.
    pub knee: Option<usize>,
}

/// Scores a model once, and prunes it to each of some budgets of FLOPs. Those that cannot be met are points without a model.
/// With a `folder`, each model is written there, as `NAME-50%.onnx` without the sign. Of `options`, output and budgets do not count.
///
/// # Errors
/// When the model cannot be opened or scored, when no budget at all can be met, and when files cannot be written.
pub fn sweep(
    options: &Options,
    budgets: &[Budget],
    folder: Option<&Path>,
    cancel: &Cancel,
    listener: impl FnMut(Progress) + 'static,
) -> Result<Sweep, Error> {
    let files: Vec<Option<PathBuf>> =
        budgets.iter().map(|budget| folder.map(|folder| file(folder, &options.input, *budget))).collect();
    check_paths(options, folder, &files)?;
    let opened = Opened::new(options, cancel, listener)?;
    let (pruner, scored) = (&opened.pruner, opened.score(options)?);
    let (mut points, mut first) = (Vec::new(), None);
    for (budget, file) in budgets.iter().zip(&files) {
        pruner.tell(Progress::Say(format!("budget: {budget}")));
        let found = point(options, pruner, &scored, *budget, file.as_deref());
        let (point, report) = match found {
            Ok(found) => found,
            Err(
                error @ (Error::Plan(_)
                | Error::Replan(_)
                | Error::Refused(_)
                | Error::Gate(_)
                | Error::OverBudget(_)),
            ) => {
                pruner.tell(Progress::Say(format!("{budget}: {error}")));
                points.push(Point::failed(*budget, &error));
                first.get_or_insert(Err(error));
                continue;
            }
            Err(error) => return Err(error),
        };
        points.push(point);
        if !matches!(first, Some(Ok(_))) {
            first = Some(Ok(report));
        }
    }
    let report: Report = match first {
        Some(report) => report?,
        None => return Err(PlanError::NoBudgets.into()),
    };
    let dense = report.costs.map(|change| change.before);
    let knee = knee_of(&dense, &points);
    let sweep = Sweep {
        schema_version: SCHEMA_VERSION,
        tool: report.tool,
        command: options.command.clone(),
        source_sha256: report.source_sha256,
        least: report.costs.map(|change| change.minimum),
        dense,
        runtime: report.runtime,
        calibration: report.calibration,
        samples: report.samples,
        points,
        knee,
    };
    if let Some(path) = &options.report {
        report::stage(&sweep, path)?.publish()?;
    }
    Ok(sweep)
}

/// Prunes to one budget.
fn point(
    options: &Options,
    pruner: &Pruner,
    scored: &Scored<'_>,
    budget: Budget,
    file: Option<&Path>,
) -> Result<(Point, Report), Error> {
    let budgets = Budgets::one(&Flops, budget);
    let applied: Applied<'_> = scored.plan(&budgets)?.apply()?;
    let recovery = options.recovery();
    let recovered = match &recovery {
        Some(recovery) => applied.recover(recovery)?,
        None => applied.unrecovered(),
    };
    let (source, report): (Source, Report) = match file {
        Some(file) => {
            let report = recovered.save(file)?;
            (onnx::load(file)?, report)
        }
        None => {
            let (bytes, report) = recovered.to_bytes()?;
            (onnx::read(bytes)?, report)
        }
    };
    let [dense, milliseconds] = times(options, pruner, &source)?;
    let gate = report.gate.as_ref();
    let point = Point {
        budget: budget.to_string(),
        path: file.map(|file| file.display().to_string()),
        sha256: report.output_sha256.clone(),
        costs: Some(report.costs.map(|change| change.after)),
        distance: gate.and_then(|gate| gate.distance),
        agreement: gate.and_then(|gate| gate.agreement),
        milliseconds: Some(milliseconds),
        dense_milliseconds: Some(dense),
        warnings: report.warnings.clone(),
        error: None,
    };
    Ok((point, report))
}

impl Point {
    fn failed(budget: Budget, error: &Error) -> Self {
        Self {
            budget: budget.to_string(),
            path: None,
            sha256: None,
            costs: None,
            distance: None,
            agreement: None,
            milliseconds: None,
            dense_milliseconds: None,
            warnings: Vec::new(),
            error: Some(error.to_string()),
        }
    }
}

/// How long the dense model and a pruned one take for a sample.
fn times(options: &Options, pruner: &Pruner, pruned: &Source) -> Result<[f64; 2], Error> {
    let (engine, typed) = (pruner.engine(), pruner.typed());
    let range = typed.samples.ranges(1).next().unwrap_or(0..1);
    let feed = typed.samples.batch(range.start, range.end)?;
    let mut sessions = [
        engine.load_as_deployed(&onnx::load(&options.input)?.model)?,
        engine.load_as_deployed(&pruned.model)?,
    ];
    Ok(milliseconds(&mut sessions, &feed)?)
}

/// The knee of the curve of distances over FLOPs, to which the dense model belongs.
fn knee_of(dense: &PerCost<u64>, points: &[Point]) -> Option<usize> {
    let flops = |costs: &PerCost<u64>| costs.get("flops").map(|flops| *flops as f64);
    let measured = points
        .iter()
        .enumerate()
        .filter_map(|(place, point)| Some((Some(place), (flops(point.costs.as_ref()?)?, point.distance?))));
    let all: Vec<(Option<usize>, (f64, f64))> = measured.chain([(None, (flops(dense)?, 0.0))]).collect();
    let curve: Vec<(f64, f64)> = all.iter().map(|(_, point)| *point).collect();
    all.get(knee(&curve)?)?.0
}

/// Where the model of a budget goes.
fn file(folder: &Path, input: &Path, budget: Budget) -> PathBuf {
    let stem = input.file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
    folder.join(format!("{stem}-{}.onnx", budget.to_string().trim_end_matches('%')))
}

/// Checks what is read and written, and makes the folder.
fn check_paths(options: &Options, folder: Option<&Path>, files: &[Option<PathBuf>]) -> Result<(), Error> {
    if let Some(folder) = folder {
        let failed = |source| WriteError::Io { path: folder.into(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let outputs = files.iter().flatten().map(|file| (Role::Output, file.clone()));
    let paths = options.paths();
    Ok(Paths { writes: paths.writes.into_iter().chain(outputs).collect(), ..paths }.check()?)
}
