//! The command line: what is run, what is printed, and how it ends.

mod budgets;
mod compare;
mod declared;
mod flags;
mod hints;
mod inspect;
mod parse;
mod sweep;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::ProgressBar;

use crate::{
    Cancel, Error, Progress,
    report::{self, Detail, RENDERERS, Report, Reportable},
    runtime::{self, RuntimeError, locate},
};
use flags::Prune;

const EXAMPLES: &str = "\
Examples:
  optin-onnx in.onnx out.onnx --flops 0.5 --calib samples.npz
  optin-onnx in.onnx out.onnx --calib images/ --preprocess imagenet --report out.html
  optin-onnx in.onnx out.onnx --calib texts.txt --tokenizer tokenizer.json
  optin-onnx in.onnx -o out.onnx                with in.calib.npz or test_data_set_0/ beside in.onnx
  optin-onnx inspect in.onnx";

const INSPECT_EXAMPLES: &str = "\
Examples:
  optin-onnx inspect in.onnx
  optin-onnx inspect in.onnx --max-prune 50% --align 32
  optin-onnx inspect in.onnx --json > in.json   as docs/inspect.schema.json says";

const COMPARE_EXAMPLES: &str = "\
Examples:
  optin-onnx compare in.onnx out.onnx --calib samples.npz
  optin-onnx compare in.onnx out.onnx --calib images/ --preprocess imagenet --report compared.html";

const SWEEP_EXAMPLES: &str = "\
Examples:
  optin-onnx sweep in.onnx --budgets 0.9,0.7,0.5 --calib samples.npz
  optin-onnx sweep in.onnx --budgets 0.9..0.3 --calib samples.npz -o pruned/ --report sweep.html";

/// Prune a trained ONNX model to a FLOPs budget: no retraining, no labels, no PyTorch.
#[derive(Debug, Parser)]
#[command(
    name = "optin-onnx",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    after_help = EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    prune: Prune,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prune a model; the same without the word.
    Prune(Box<Prune>),
    /// Show what a model could lose, and why it could not lose the rest.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(Box<inspect::Inspect>),
    /// Hold one model against another: how often they agree, how far apart their outputs are, and what each costs.
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(Box<compare::Compare>),
    /// Prune a model to many budgets, with a table of what is lost at each.
    #[command(after_help = SWEEP_EXAMPLES)]
    Sweep(Box<sweep::Sweep>),
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

/// Runs the program: exit code 0 when the job was done, 1 when it ran and was not done, 2 when it could not start.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Prune(prune)) => prune_command(&prune),
        Some(Command::Inspect(inspect)) => inspect.run(),
        Some(Command::Compare(compare)) => compare.run(),
        Some(Command::Sweep(sweep)) => sweep.run(),
        Some(Command::Runtime { action }) => runtime_command(action),
        None => prune_command(&cli.prune),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_note(&format!("error: {}", failure.message));
            print_hint(failure.hint.as_deref());
            ExitCode::from(failure.code)
        }
    }
}

/// The command line as clap knows it.
#[cfg(test)]
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: if error.ran() { 1 } else { 2 },
            message: error.to_string(),
            hint: hints::of_error(&error),
        }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Error::from(error).into()
    }
}

/// What is asked for is not enough, or contradicts itself.
fn usage(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), hint: None, code: 2 }
}

fn runtime_command(action: RuntimeAction) -> Result<(), Failure> {
    match action {
        RuntimeAction::Install => print(&format!("installed {}", runtime::install()?.display())),
        RuntimeAction::Which => print(&locate::find(None)?.to_string()),
    }
    Ok(())
}

fn prune_command(prune: &Prune) -> Result<(), Failure> {
    let options = prune.options().map_err(usage)?;
    let spinner = spinner(prune.quiet);
    let report = crate::run(&options, &Cancel::default(), listener(&spinner, prune.quiet));
    spinner.finish_and_clear();
    let report = report?;
    if !prune.quiet {
        print_report(prune, &report);
    }
    Ok(())
}

/// What turns while the work goes on.
fn spinner(quiet: bool) -> ProgressBar {
    let spinner = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}

/// Shows how the work goes on.
fn listener(spinner: &ProgressBar, quiet: bool) -> impl FnMut(Progress) + 'static {
    let shown = spinner.clone();
    move |event| match event {
        Progress::Stage(stage) => shown.set_message(stage),
        Progress::Units { done, total } => shown.set_message(format!("score {done}/{total}")),
        Progress::Plans { done, total } => shown.set_message(format!("time {done}/{total}")),
        Progress::Layers { done, total } => shown.set_message(format!("recover {done}/{total}")),
        Progress::Say(text) if quiet => drop(text),
        Progress::Say(text) => shown.suspend(|| print_line(&text)),
        Progress::Warn(warning) => shown.suspend(|| {
            print_note(&warning.to_string());
            print_hint(hints::of_warning(warning.code));
        }),
    }
}

/// Prints the report with as much detail as was asked for.
fn print_report(prune: &Prune, report: &Report) {
    let mut document = report.document();
    document.sections.retain(|section| match section.detail {
        Detail::Brief => true,
        Detail::Full => prune.verbose,
        Detail::Measured => prune.verbose || prune.timings,
    });
    print(&report::text(&document, Detail::Measured));
    if !prune.verbose && !report.pinned.is_empty() {
        print_hint(Some("-v lists what cannot be pruned, and why"));
    }
}

/// What is reported, written by the renderer of this name.
fn write(renderer: &str, what: &dyn Reportable, detail: Detail) -> Result<String, Failure> {
    let found = RENDERERS.iter().find(|known| known.name == renderer);
    let renderer = found.ok_or_else(|| usage(format!("there is no report as {renderer}")))?;
    (renderer.render)(what, detail).map_err(|error| usage(error.to_string()))
}

/// Prints to the terminal; a reader that went away is no error of ours.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn print_hint(hint: Option<&str>) {
    if let Some(hint) = hint {
        print_line(&format!("hint: {hint}"));
    }
}

/// What is wrong, or might be: with the name of the program, which may be one of many in a script.
fn print_note(text: &str) {
    print_line(&format!("optin-onnx: {text}"));
}

/// A line of what goes on, beside the result.
fn print_line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
