//! Two models held against each other on the same samples: how often they say the same, how far their outputs are apart, and what
//! each costs.

mod latency;
mod measure;
mod sections;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    calibration::{CalibrationOptions, Origin, Samples},
    clock::Clock,
    model::{SampleInput, Typed},
    onnx::{self, Source, proto::ModelProto},
    paths::{Paths, Role},
    plan::{PerCost, cost::Pruned},
    report,
    runtime::{self, Engine, RuntimeOptions, Session},
    tensor::Tensor,
    trajectory::{OutputKind, SaidOutput, outputs},
    typing::Granularity,
    verify::VerifyError,
};
pub(crate) use latency::milliseconds;
use measure::Measured;

/// The version of the format of comparisons (`docs/compare.schema.json`). It is raised when a field changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// Samples that are named as those on which the models differ most.
const WORST: usize = 5;

/// What is compared, and on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model that the other is held against.
    pub reference: PathBuf,
    /// The other one, with the same inputs.
    pub other: PathBuf,
    /// The samples.
    pub calibration: CalibrationOptions,
    /// The runtime.
    pub runtime: RuntimeOptions,
    /// What outputs hold, where the model does not tell.
    pub said_outputs: Vec<SaidOutput>,
    /// Samples per run, at most.
    pub batch: usize,
    /// Where a report goes: as HTML if the name ends so, or else as JSON.
    pub report: Option<PathBuf>,
}

/// Why two models cannot be compared.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CompareError {
    /// One reads what the other does not.
    #[error(
        "the models do not read the same: the reference has the inputs {reference}, and the other {other}"
    )]
    Inputs { reference: String, other: String },
    /// They return different things.
    #[error("the other model has no output that is the counterpart of the reference's `{name}`: {why}")]
    Outputs { name: String, why: String },
}

/// One of the two models.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    /// Where it is.
    pub path: String,
    /// SHA-256 of the model, its weights included.
    pub sha256: String,
    /// What it costs; FLOPs are those of one sample.
    #[serde(flatten)]
    pub costs: PerCost<u64>,
    /// The median time of a run on [`Comparison::timed`] samples, in milliseconds, the other model running in turn with it.
    pub milliseconds: f64,
}

/// A sample, by its number in the data, and how far the models are apart on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Differing {
    /// Its number, from 0 on.
    pub sample: usize,
    /// As [`OutputComparison::distance`]; absent where it is not finite.
    pub distance: Option<f64>,
}

/// An output of both models. What is not finite is absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutputComparison {
    /// Its name in the reference.
    pub name: String,
    /// What it holds.
    pub kind: OutputKind,
    /// The share of samples, or of their positions, of which both models give the same class the highest score; absent for
    /// outputs without classes.
    pub agreement: Option<f64>,
    /// The Kullback-Leibler divergence of the other's classes from the reference's, in nats; absent for outputs without classes.
    pub divergence: Option<f64>,
    /// The cosine of the angle between both outputs of a sample, on average.
    pub cosine: Option<f64>,
    /// `‖a − b‖ / ‖a‖` of a sample, on average; `a` is the reference's.
    pub relative_error: Option<f64>,
    /// The distance that recovery is judged by: the squared relative error, to which class scores add their divergence.
    pub distance: Option<f64>,
    /// The samples with the largest distances.
    pub worst: Vec<Differing>,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The version of the format: [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The model that the other is held against.
    pub reference: Side,
    /// The other one.
    pub other: Side,
    /// The runtime that ran both.
    pub runtime: String,
    /// Where the samples came from.
    pub calibration: String,
    /// Whether they were made up.
    pub synthetic: bool,
    /// How many there were.
    pub samples: usize,
    /// How many of them each run that was timed had.
    pub timed: usize,
    /// Every floating-point output.
    pub outputs: Vec<OutputComparison>,
    /// What was done to the samples.
    pub notes: Vec<String>,
}

/// Compares two models.
///
/// # Errors
/// When one cannot be read or run, or they do not read and return the same.
pub fn compare(options: &Options) -> Result<Comparison, Error> {
    options.paths().check()?;
    let engine = runtime::open(&options.runtime)?;
    let (reference, other) = (onnx::load(&options.reference)?, onnx::load(&options.other)?);
    check_inputs(&reference.model, &other.model)?;
    let samples = SampleInput::Files(options.calibration.clone());
    let typed = Typed::new(
        &*engine,
        reference.clone(),
        Some(&options.reference),
        samples,
        options.batch,
        Granularity::default(),
        &Clock::default(),
    )?;
    let mut sessions = [engine.load_as_deployed(&reference.model)?, engine.load_as_deployed(&other.model)?];
    let outputs = measure_outputs(options, &typed, &other.model, &mut sessions)?;
    let range = typed.samples.ranges(1).next().unwrap_or(0..1);
    let feed = typed.samples.batch(range.start, range.end)?;
    let [first, second] = milliseconds(&mut sessions, &feed)?;
    drop(sessions);
    let side =
        |path: &Path, source: &Source, milliseconds| side(&*engine, path, source, &typed, milliseconds);
    let comparison = Comparison {
        schema_version: SCHEMA_VERSION,
        tool: format!("optin-onnx {}", env!("CARGO_PKG_VERSION")),
        reference: side(&options.reference, &reference, first)?,
        other: side(&options.other, &other, second)?,
        runtime: engine.describe(),
        calibration: typed.samples.origin().to_string(),
        synthetic: typed.is_synthetic(),
        samples: typed.samples.len(),
        timed: range.len(),
        outputs,
        notes: typed.samples.notes().iter().map(ToString::to_string).collect(),
    };
    if let Some(path) = &options.report {
        report::stage(&comparison, path)?.publish()?;
    }
    Ok(comparison)
}

impl Options {
    /// All that is read and written.
    fn paths(&self) -> Paths {
        let data = match self.calibration.data(Some(&self.reference)) {
            Some(Origin::File(path) | Origin::Folder(path)) => Some((Role::Calibration, path)),
            _ => None,
        };
        let models = [&self.reference, &self.other].map(|path| (Role::Model, path.clone()));
        Paths {
            reads: models.into_iter().chain(data).collect(),
            writes: self.report.iter().map(|path| (Role::Report, path.clone())).collect(),
            in_place: false,
        }
    }
}

fn side(
    engine: &dyn Engine,
    path: &Path,
    source: &Source,
    typed: &Typed,
    milliseconds: f64,
) -> Result<Side, Error> {
    let (samples, batch) = (&typed.samples, typed.facts.samples);
    let costs = Pruned { engine, model: &source.model, samples, batch, file_bytes: source.bytes }.recount();
    Ok(Side {
        path: path.display().to_string(),
        sha256: source.sha256.clone(),
        costs: costs.map_err(VerifyError::from)?,
        milliseconds,
    })
}

/// Runs both models on all samples, and holds each output of the one against its counterpart.
fn measure_outputs(
    options: &Options,
    typed: &Typed,
    other: &ModelProto,
    sessions: &mut [Box<dyn Session>; 2],
) -> Result<Vec<OutputComparison>, Error> {
    let (reference_names, other_names) = (output_names(&typed.source.model), output_names(other));
    let mut measured = Vec::new();
    for output in outputs(&typed.graph, &typed.facts, &options.said_outputs) {
        let Some(place) = typed.graph.outputs().iter().position(|value| *value == output.value) else {
            continue;
        };
        let name = typed.graph.value(output.value).name.clone();
        let by_place = (reference_names.len() == other_names.len()).then_some(place);
        let counterpart = other_names.iter().position(|other| *other == name).or(by_place);
        let counterpart = counterpart.ok_or_else(|| differs(&name, "it returns none of that name"))?;
        measured.push(Measured::new(name, output, place, counterpart));
    }
    for range in typed.samples.ranges(typed.batch) {
        let feed = typed.samples.batch(range.start, range.end)?;
        let [first, second] = sessions;
        let (first, second) = (first.run(&feed)?, second.run(&feed)?);
        for output in &mut measured {
            let (Some(a), Some(b)) = (output.of_first(&first), output.of_second(&second)) else { continue };
            if a.shape() != b.shape() {
                let why = format!("their shapes are {:?} and {:?}", a.shape(), b.shape());
                return Err(differs(output.name(), &why));
            }
            output.add(&a.view(), &b.view(), range.len());
        }
    }
    Ok(measured.into_iter().map(|output| output.summary(|place| number(&typed.samples, place))).collect())
}

/// The number in the data of the sample in this place.
fn number(samples: &Samples, place: usize) -> usize {
    samples.numbers().get(place).copied().unwrap_or(place)
}

fn differs(name: &str, why: &str) -> Error {
    CompareError::Outputs { name: name.to_owned(), why: why.to_owned() }.into()
}

fn output_names(model: &ModelProto) -> Vec<String> {
    model.graph.iter().flat_map(|graph| &graph.output).map(|output| output.name().to_owned()).collect()
}

/// Whether both models read inputs of the same names.
fn check_inputs(reference: &ModelProto, other: &ModelProto) -> Result<(), CompareError> {
    let names = |model: &ModelProto| {
        let mut names: Vec<String> =
            crate::calibration::input_roles(model).into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    };
    let (reference, other) = (names(reference), names(other));
    if reference == other {
        return Ok(());
    }
    Err(CompareError::Inputs { reference: reference.join(", "), other: other.join(", ") })
}

/// Tensors as numbers.
fn numbers(tensors: &[Tensor], place: usize) -> Option<ndarray::ArrayD<f32>> {
    tensors.get(place)?.to_f32()
}
