//! The flags, and the options that they stand for.

use std::path::PathBuf;

use clap::Args;
use regex::Regex;

use super::{
    budgets::BudgetFlags,
    declared::{self, OrOff, SettingFlags},
    parse,
};
use crate::{
    Options,
    calibration::{self, CalibrationOptions, Preprocessing, Synthetic},
    latency::{ExternalCommand, Serving},
    memory::MemoryBudget,
    plan::Limits,
    positions::Reduce,
    recover::{Mode, Recovery},
    reduction::{Kind, Reduction},
    runtime::{Provider, RuntimeChoice, RuntimeOptions},
    score::{Method, SavedScores, ScoreOptions, Scorer},
    trajectory::{OutputKind, SaidOutput},
    typing::Granularity,
};

const DATA: &str = "Calibration data";
const LIMITS: &str = "What may go";
const SCORES: &str = "Scores";
const RECOVERY: &str = "Recovery";
pub(super) const FILES: &str = "Files";
const SPEED: &str = "Speed";
const ENGINE: &str = "Runtime";
pub(super) const TOLD: &str = "What is said";

/// What the pruning of a model is told.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// The trained model.
    #[arg(required = true)]
    pub(super) input: Option<PathBuf>,
    /// Where the pruned model goes (not needed for --dry-run).
    output: Option<PathBuf>,
    /// The same, by a flag.
    #[arg(short = 'o', long = "output", value_name = "FILE", conflicts_with = "output", help_heading = FILES)]
    output_flag: Option<PathBuf>,
    #[command(flatten)]
    budgets: BudgetFlags,
    #[command(flatten)]
    session: SessionFlags,
    /// Plan, but write no model.
    #[arg(long, help_heading = FILES)]
    dry_run: bool,
    /// Allow the output to replace the input.
    #[arg(long, help_heading = FILES)]
    in_place: bool,
    #[command(flatten)]
    speed: SpeedFlags,
    /// Print the time of each stage.
    #[arg(long, help_heading = TOLD)]
    pub(super) timings: bool,
    /// Print nothing but errors and warnings.
    #[arg(short, long, conflicts_with = "verbose", help_heading = TOLD)]
    pub(super) quiet: bool,
    /// Say what was not pruned, and why.
    #[arg(short, long, help_heading = TOLD)]
    pub(super) verbose: bool,
}

/// What a session is told, however many budgets there are.
#[derive(Debug, Args)]
pub(super) struct SessionFlags {
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    scoring: ScoreFlags,
    #[command(flatten)]
    recovery: RecoverFlags,
    /// Write a report: a page to look at if the name ends in .html, else JSON.
    #[arg(long, value_name = "FILE", help_heading = FILES)]
    report: Option<PathBuf>,
    #[command(flatten)]
    engine: RuntimeFlags,
}

impl SessionFlags {
    /// What was asked of a model, but for what becomes of it.
    pub(super) fn options(&self, input: PathBuf) -> Options {
        Options {
            input,
            report: self.report.clone(),
            command: Some(parse::command(std::env::args())),
            calibration: self.data.options(),
            runtime: self.engine.options(),
            score: self.scoring.options(self.data.seed.unwrap_or_default()),
            limits: self.limits.options(),
            recover: self.recovery.recover.0,
            recover_settings: self.recovery.settings.given.clone(),
            scores: self.scoring.saved(self.data.seed),
            save_scores: self.scoring.save_scores.clone(),
            batch: self.data.batch,
            granularity: self.limits.granularity,
            keep_unread: self.limits.keep_unread,
            reduce: self.limits.reduce,
            ..Options::default()
        }
    }
}

impl Prune {
    /// What was asked for, or why it is not enough.
    pub(super) fn options(&self) -> Result<Options, &'static str> {
        let input = self.input.clone().ok_or("name a model: optin-onnx in.onnx out.onnx --flops 0.5")?;
        let output = match self.output.as_ref().or(self.output_flag.as_ref()) {
            _ if self.dry_run => None,
            Some(output) => Some(output.clone()),
            None => return Err("name the output file, or say --dry-run"),
        };
        Ok(Options {
            output,
            in_place: self.in_place,
            budgets: self.budgets.0.clone(),
            bench: self.speed.bench,
            serving: Serving(self.speed.serve.clone()),
            latency_table: self.speed.latency_table.clone(),
            measure_with: self.speed.measure_with.clone(),
            ..self.session.options(input)
        })
    }
}

/// How long models take.
#[derive(Debug, Args)]
#[command(next_help_heading = SPEED)]
struct SpeedFlags {
    /// Time the dense and the pruned file in turns, where --runtime, --provider and --threads say.
    #[arg(long, conflicts_with = "dry_run")]
    bench: bool,
    /// Shape of an input when models are timed [default: one sample, as long as the calibration data].
    #[arg(long, value_name = "NAME=1x3x224x224", value_parser = parse::shape)]
    serve: Vec<(String, Vec<usize>)>,
    /// Keep times that were measured in this file, and measure nothing that it holds; with the same file, plans are the same.
    #[arg(long, value_name = "FILE")]
    latency_table: Option<PathBuf>,
    /// Time models by a program: it is given the path of a model in place of {model}, and prints milliseconds.
    #[arg(long, value_name = "COMMAND {model}")]
    measure_with: Option<ExternalCommand>,
}

/// What takes over for what was removed.
#[derive(Debug, Args)]
#[command(next_help_heading = RECOVERY)]
struct RecoverFlags {
    /// What takes over for the removed units.
    #[arg(
        long,
        default_value = Mode::default().id(),
        value_name = "WHAT",
        value_parser = declared::choice_or_off::<dyn Recovery>()
    )]
    recover: OrOff<Mode>,
    #[command(flatten)]
    settings: SettingFlags<dyn Recovery>,
}

/// What the model is run on.
#[derive(Debug, Args)]
#[command(next_help_heading = DATA)]
pub(super) struct DataFlags {
    // What the readers say of themselves.
    #[arg(long, value_name = "PATH", help = format!("Calibration samples: {}", calibration::accepted()))]
    calib: Option<PathBuf>,
    /// How images become the model's input: a preset (imagenet, clip, inception, yolo, raw), a preprocessor_config.json, or
    /// settings such as size=224,fit=crop,mean=0.5/0.5/0.5,std=0.5,scale=1/255,order=rgb; those behind a preset go before it.
    #[arg(long, value_name = "HOW", value_parser = parse::preprocessing)]
    preprocess: Option<Preprocessing>,
    /// The tokenizer.json that splits text [default: the one beside the model or the text].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The most tokens of a text [default: the model's length, or 128].
    #[arg(long, value_name = "N", value_parser = parse::count, allow_negative_numbers = true)]
    max_length: Option<usize>,
    /// Make inputs up. They are good for shapes alone: scores of them mean nothing.
    #[arg(long, conflicts_with = "calib")]
    synthetic: bool,
    /// Shape of an input where the model leaves it open.
    #[arg(long, value_name = "NAME=1x3x224x224", value_parser = parse::shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// Use that many samples.
    #[arg(long, value_name = "N", value_parser = parse::count, allow_negative_numbers = true)]
    samples: Option<usize>,
    /// Samples per run of the model.
    #[arg(
        long,
        default_value_t = Options::default().batch,
        value_name = "N",
        value_parser = parse::count,
        allow_negative_numbers = true
    )]
    pub(super) batch: usize,
    /// Seed of every random choice [default: 0].
    #[arg(long, value_name = "N", value_parser = parse::seed, allow_negative_numbers = true)]
    seed: Option<u64>,
}

impl DataFlags {
    pub(super) fn options(&self) -> CalibrationOptions {
        CalibrationOptions {
            calib: self.calib.clone(),
            shapes: self.shape.clone(),
            samples: self.samples,
            seed: self.seed.unwrap_or_default(),
            preprocess: self.preprocess.clone(),
            tokenizer: self.tokenizer.clone(),
            max_length: self.max_length,
            synthetic: if self.synthetic { Synthetic::Always } else { Synthetic::Never },
        }
    }
}

/// How units are scored.
#[derive(Debug, Args)]
#[command(next_help_heading = SCORES)]
struct ScoreFlags {
    /// How units are scored [default: sketch].
    #[arg(long, value_name = "HOW", value_parser = declared::choice::<dyn Scorer>())]
    score: Option<Method>,
    #[command(flatten)]
    settings: SettingFlags<dyn Scorer>,
    /// Memory that each stage may take beside the model; batches are cut down to fit.
    #[arg(long, default_value_t = MemoryBudget::default(), value_name = "BYTES", allow_hyphen_values = true)]
    memory: MemoryBudget,
    #[command(flatten)]
    outputs: OutputFlags,
    /// Plan from the scores of an earlier run.
    #[arg(long, value_name = "FILE", conflicts_with = "save_scores")]
    scores: Option<PathBuf>,
    /// Save the scores.
    #[arg(long, value_name = "FILE")]
    save_scores: Option<PathBuf>,
}

impl ScoreFlags {
    /// How units are to be scored, where that is said.
    fn method(&self) -> Option<Method> {
        self.settings.chosen().or(self.score)
    }

    fn options(&self, seed: u64) -> ScoreOptions {
        ScoreOptions {
            method: self.method().unwrap_or_default(),
            settings: self.settings.given.clone(),
            seed,
            memory: self.memory,
            said_outputs: self.outputs.said(),
        }
    }

    /// The scores that are read, and what is said of them.
    fn saved(&self, seed: Option<u64>) -> Option<SavedScores> {
        let path = self.scores.clone()?;
        Some(SavedScores { path, method: self.method(), seed, settings: self.settings.given.clone() })
    }
}

/// What outputs hold.
#[derive(Debug, Args)]
pub(super) struct OutputFlags {
    /// This output holds logits (class scores before a softmax), where the model does not tell.
    #[arg(long, value_name = "NAME")]
    logits: Vec<String>,
    /// This output holds an embedding, though it looks like logits: its values are compared, not classes by them.
    #[arg(long, value_name = "NAME")]
    embedding: Vec<String>,
}

impl OutputFlags {
    /// What outputs are said to hold.
    pub(super) fn said(&self) -> Vec<SaidOutput> {
        let of = |names: &[String], kind| -> Vec<SaidOutput> {
            names.iter().map(|name| SaidOutput { name: name.clone(), kind }).collect()
        };
        [of(&self.logits, OutputKind::Logits), of(&self.embedding, OutputKind::Embedding)].concat()
    }
}

/// What may be removed.
#[derive(Debug, Args)]
#[command(next_help_heading = LIMITS)]
pub(super) struct LimitFlags {
    /// What attention loses: whole heads alone, or dimensions of all heads of a layer as well, which are rotated to principal
    /// components first. Some fused attention kernels know certain head sizes only.
    #[arg(
        long,
        value_parser = parse::named::<Granularity>(),
        default_value_t = Granularity::default(),
        value_name = "UNITS"
    )]
    pub(super) granularity: Granularity,
    /// Compute what no output reads, such as the last layer's tokens beside the class token. It is left out else, which changes
    /// nothing.
    #[arg(long)]
    pub(super) keep_unread: bool,
    /// What is reduced: the widths of layers, or their positions (tokens) as well, of which those that say the same are merged.
    #[arg(long, value_parser = parse::named::<Reduce>(), default_value_t = Reduce::default(), value_name = "WHAT")]
    pub(super) reduce: Reduce,
    /// Prune only these kinds.
    #[arg(long, value_parser = declared::choice::<dyn Reduction>(), value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Neurons, channels and dimensions of heads stay in multiples of this.
    #[arg(
        long,
        alias = "round-to",
        default_value_t = Limits::default().align,
        value_name = "N",
        value_parser = parse::count,
        allow_negative_numbers = true
    )]
    align: usize,
    /// The largest share of a layer that may go.
    #[arg(
        long,
        default_value_t = Limits::default().max_prune,
        value_name = "SHARE",
        value_parser = parse::share,
        allow_hyphen_values = true
    )]
    max_prune: f64,
    /// Layers whose names match keep everything.
    #[arg(long, aliases = ["exclude", "ignore"], value_name = "REGEX", value_parser = parse::pattern)]
    keep: Vec<Regex>,
    /// Prune only layers whose names match.
    #[arg(long, value_name = "REGEX", value_parser = parse::pattern)]
    only: Vec<Regex>,
}

impl LimitFlags {
    pub(super) fn options(&self) -> Limits {
        Limits {
            align: self.align,
            max_prune: self.max_prune,
            kinds: self.kinds.clone(),
            keep: self.keep.clone(),
            only: self.only.clone(),
        }
    }
}

/// What runs the model.
#[derive(Debug, Args)]
#[command(next_help_heading = ENGINE)]
pub(super) struct RuntimeFlags {
    /// Runtime for calibration and proof.
    #[arg(long, value_parser = parse::named::<RuntimeChoice>(), default_value_t = RuntimeChoice::Auto)]
    runtime: RuntimeChoice,
    /// Where ONNX Runtime computes.
    #[arg(long, value_parser = parse::named::<Provider>(), default_value_t = Provider::Auto)]
    provider: Provider,
    /// ONNX Runtime's library.
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// Threads; 0 takes all cores.
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        value_parser = parse::threads,
        allow_negative_numbers = true
    )]
    threads: usize,
}

impl RuntimeFlags {
    pub(super) fn options(&self) -> RuntimeOptions {
        RuntimeOptions {
            runtime: self.runtime,
            provider: self.provider,
            threads: self.threads,
            ort_lib: self.ort_lib.clone(),
        }
    }
}
