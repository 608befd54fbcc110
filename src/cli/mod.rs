//! The command line: flags, progress, exit codes.

mod inspect;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use indicatif::ProgressBar;
use regex::Regex;

use crate::{
    Error, Options, Progress,
    calibration::{CalibrationOptions, Synthetic},
    memory::MemoryBudget,
    plan::{Budget, Limits},
    recover::Mode,
    runtime::{self, Provider, RuntimeChoice, RuntimeOptions, locate},
    score::{Method, ScoreOptions},
    typing::{Granularity, Kind},
};

/// Prune a trained ONNX model to a FLOPs budget: no retraining, no labels, no PyTorch.
#[derive(Debug, Parser)]
#[command(
    name = "optin-onnx",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    prune: Prune,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what a model could lose, and why it could not lose the rest.
    Inspect(Box<inspect::Inspect>),
    /// Show or install ONNX Runtime.
    Runtime {
        #[command(subcommand)]
        action: RuntimeAction,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum RuntimeAction {
    /// Download ONNX Runtime's library from PyPI (needs python3 with pip).
    Install,
    /// Say which library would be used, and where it was looked for.
    Which,
}

#[derive(Debug, Args)]
struct Prune {
    /// The trained model.
    #[arg(required = true)]
    input: Option<PathBuf>,
    /// Where the pruned model goes (not needed for --dry-run).
    output: Option<PathBuf>,
    /// FLOPs to keep: a share (0.5, 50%) or a number (4.2G). FLOPs count two per multiply-accumulate [default: 0.5].
    #[arg(long, value_name = "BUDGET", conflicts_with = "params")]
    flops: Option<Budget>,
    /// Parameters to keep, instead of FLOPs.
    #[arg(long, value_name = "BUDGET")]
    params: Option<Budget>,
    #[command(flatten)]
    data: DataFlags,
    /// Samples per run of the model.
    #[arg(long, default_value_t = 16, value_name = "N")]
    batch: usize,
    /// How units are scored.
    #[arg(long, value_enum, default_value_t = Method::Sketch)]
    score: Method,
    /// Weight of the outputs against the features of all layers, in sketched and exact scores; the paper has 1.
    #[arg(long, default_value_t = ScoreOptions::default().lambda, value_name = "X", value_parser = parse_weight)]
    lambda: f64,
    /// Random probes per sample of a sketch, at most: fewer are drawn once the ranking is stable.
    #[arg(long, default_value_t = 8, value_name = "N")]
    probes: usize,
    /// Memory that the work may take beside the weights, in all stages: batches, groups of matrices and kept values are cut down
    /// to it, and what takes more all the same is said. Weights of large models lie in TMPDIR, which needs room for them.
    #[arg(long, default_value_t = MemoryBudget::default(), value_name = "BYTES")]
    memory: MemoryBudget,
    /// Say that an output holds logits, where its shape does not tell.
    #[arg(long = "output", value_name = "logits=NAME", value_parser = parse_output)]
    output_kind: Vec<String>,
    /// Score exactly, but with the quirks of the paper's released code, for comparison.
    #[arg(long)]
    paper_quirks: bool,
    #[command(flatten)]
    limits: LimitFlags,
    /// What takes over for the removed units: nothing, biases, or weights and biases by least squares.
    #[arg(long, value_enum, default_value_t = Mode::Refit, value_name = "WHAT")]
    recover: Mode,
    /// Ridge of the least squares, relative to the mean variance of what a layer reads; auto: chosen on held-out samples.
    #[arg(long, default_value = "auto", value_name = "auto|X", value_parser = parse_ridge)]
    ridge: Ridge,
    /// Plan from the scores of an earlier run.
    #[arg(long, value_name = "FILE", conflicts_with = "save_scores")]
    scores: Option<PathBuf>,
    /// Save the scores.
    #[arg(long, value_name = "FILE")]
    save_scores: Option<PathBuf>,
    /// Plan, but write no model.
    #[arg(long)]
    dry_run: bool,
    /// Allow the output to replace the input.
    #[arg(long)]
    in_place: bool,
    /// Write a report as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    engine: RuntimeFlags,
    /// Print the time of each stage.
    #[arg(long)]
    timings: bool,
    /// Print nothing but errors.
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say what was not pruned, and why.
    #[arg(short, long)]
    verbose: bool,
}

/// What the model is run on.
#[derive(Debug, Args)]
struct DataFlags {
    /// Calibration samples: .npz by input name, .npy, or a folder of test_data_set_N/input_I.pb.
    #[arg(long, value_name = "PATH")]
    calib: Option<PathBuf>,
    /// Shape of an input where the model leaves it open.
    #[arg(long, value_name = "NAME=1x3x224x224", value_parser = parse_shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// Use that many samples.
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Make inputs up. They are good for shapes alone: scores of them mean nothing.
    #[arg(long, conflicts_with = "calib")]
    synthetic: bool,
    /// Seed of every random choice.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl DataFlags {
    fn options(&self) -> CalibrationOptions {
        CalibrationOptions {
            calib: self.calib.clone(),
            shapes: self.shape.clone(),
            samples: self.samples,
            seed: self.seed,
            synthetic: if self.synthetic { Synthetic::Always } else { Synthetic::Never },
        }
    }
}

/// What may be removed.
#[derive(Debug, Args)]
struct LimitFlags {
    /// What attention loses: whole heads alone, or dimensions of all heads of a layer as well, which are turned to principal axes
    /// first. Some fused attention kernels know certain head sizes only.
    #[arg(long, value_enum, default_value_t = Granularity::default(), value_name = "UNITS")]
    granularity: Granularity,
    /// Prune only these kinds.
    #[arg(long, value_enum, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Neurons, channels and dimensions of heads stay in multiples of this.
    #[arg(long, default_value_t = 8, value_name = "N")]
    align: usize,
    /// The largest share of a layer that may go.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", value_parser = parse_share)]
    max_prune: f64,
    /// Layers whose names match keep everything.
    #[arg(long, value_name = "REGEX")]
    keep: Vec<Regex>,
    /// Prune only layers whose names match.
    #[arg(long, value_name = "REGEX")]
    only: Vec<Regex>,
}

impl LimitFlags {
    fn options(&self) -> Limits {
        Limits {
            align: self.align.max(1),
            max_prune: self.max_prune,
            kinds: self.kinds.clone(),
            keep: self.keep.clone(),
            only: self.only.clone(),
        }
    }
}

/// What runs the model.
#[derive(Debug, Args)]
struct RuntimeFlags {
    /// Runtime for calibration and proof.
    #[arg(long, value_enum, default_value_t = RuntimeChoice::Auto)]
    runtime: RuntimeChoice,
    /// Where ONNX Runtime computes.
    #[arg(long, value_enum, default_value_t = Provider::Auto)]
    provider: Provider,
    /// ONNX Runtime's library.
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// Threads; 0 takes all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl RuntimeFlags {
    fn options(&self) -> RuntimeOptions {
        RuntimeOptions {
            runtime: self.runtime,
            provider: self.provider,
            threads: self.threads,
            ort_lib: self.ort_lib.clone(),
        }
    }
}

fn parse_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let wrong = || format!("`{text}` is not NAME=1x3x224x224");
    let (name, sizes) = text.rsplit_once('=').ok_or_else(wrong)?;
    let sizes = sizes.split('x').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    Ok((name.to_owned(), sizes))
}

/// A ridge, or none to have it chosen.
#[derive(Clone, Copy, Debug)]
struct Ridge(Option<f64>);

fn parse_ridge(text: &str) -> Result<Ridge, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Ridge(None)),
        Ok(ridge) if ridge > 0.0 && f64::is_finite(ridge) => Ok(Ridge(Some(ridge))),
        _ => Err(format!("`{text}` is neither auto nor a positive number")),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a number from 0 to 1")),
    }
}

fn parse_weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok(weight),
        _ => Err(format!("`{text}` is not a number from 0 on")),
    }
}

fn parse_output(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("logits", name)) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(format!("`{text}` is not logits=NAME")),
    }
}

/// Runs the program: exit code 0 when the job was done, 1 when it ran and was not done, 2 when it could not start.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Inspect(inspect)) => inspect.run(),
        Some(Command::Runtime { action }) => runtime_command(action),
        None => prune_command(&cli.prune),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_error(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

struct Failure {
    message: String,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: if error.ran() { 1 } else { 2 }, message: error.to_string() }
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), code: 2 }
}

fn runtime_command(action: RuntimeAction) -> Result<(), Failure> {
    match action {
        RuntimeAction::Install => {
            let path = runtime::install().map_err(|e| usage(e.to_string()))?;
            print(&format!("installed {}", path.display()));
        }
        RuntimeAction::Which => {
            let search = locate::find(None).map_err(|e| usage(e.to_string()))?;
            print(&search.to_string());
        }
    }
    Ok(())
}

fn prune_command(prune: &Prune) -> Result<(), Failure> {
    let Some(input) = &prune.input else {
        return Err(usage("name a model: optin-onnx in.onnx out.onnx --flops 0.5"));
    };
    let output = match (&prune.output, prune.dry_run) {
        (_, true) => None,
        (Some(output), false) => Some(output.clone()),
        (None, false) => return Err(usage("name the output file, or say --dry-run")),
    };
    if let Some(output) = output.as_ref().filter(|_| !prune.in_place)
        && same_file(input, output)
    {
        return Err(Error::InPlace(output.clone()).into());
    }
    let options = Options {
        input: input.clone(),
        output,
        flops: prune.flops,
        params: prune.params,
        calibration: prune.data.options(),
        runtime: prune.engine.options(),
        score: ScoreOptions {
            method: if prune.paper_quirks { Method::Exact } else { prune.score },
            seed: prune.data.seed,
            lambda: prune.lambda,
            probes: prune.probes.max(1),
            memory: prune.memory,
            logits: prune.output_kind.clone(),
            paper_quirks: prune.paper_quirks,
        },
        limits: prune.limits.options(),
        recover: prune.recover,
        ridge: prune.ridge.0,
        scores: prune.scores.clone(),
        save_scores: prune.save_scores.clone(),
        batch: prune.batch.max(1),
        granularity: prune.limits.granularity,
    };
    let spinner = if prune.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let report = crate::run(&options, &mut |event| match event {
        Progress::Stage(stage) => spinner.set_message(stage),
        Progress::Units { done, total } => spinner.set_message(format!("score {done}/{total}")),
        Progress::Layers { done, total } => spinner.set_message(format!("recover {done}/{total}")),
        Progress::Say(text) if prune.quiet => drop(text),
        Progress::Say(text) => spinner.suspend(|| print_note(&text)),
        Progress::Warn(warning) => spinner.suspend(|| print_note(&warning.to_string())),
    });
    spinner.finish_and_clear();
    let report = report?;
    if let Some(path) = &prune.report {
        let text = serde_json::to_string_pretty(&report).map_err(|e| usage(e.to_string()))?;
        std::fs::write(path, text).map_err(|e| usage(format!("{}: {e}", path.display())))?;
    }
    if !prune.quiet {
        print(&report.text(prune.verbose));
        if prune.timings && !prune.verbose {
            print(&report.stage_table());
        }
    }
    Ok(())
}

fn same_file(a: &std::path::Path, b: &std::path::Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// Prints to the terminal; a reader that went away is no error of ours.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn print_error(text: &str) {
    print_note(&format!("error: {text}"));
}

fn print_note(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "optin-onnx: {text}");
}
