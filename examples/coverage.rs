//! Writes COVERAGE.md: what is found and pruned in the models of some folders, and which operators have rules.
//!
//! `cargo run --release --example coverage -- [FOLDER…]` (or `make coverage MODELS=FOLDER`) takes every `.onnx` file of the
//! folders, and those of `fixtures`. Each is pruned to half of its FLOPs, on the calibration data beside it or on made-up
//! inputs, and timed against the dense model on one thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use optin_onnx::{
    Options,
    calibration::{self, CalibrationOptions, Samples},
    inspect::{self, Inspection, inspect},
    onnx, ops,
    plan::{Budget, Limits, PlanError},
    recover::Mode,
    runtime::{self, Engine, Provider, RuntimeOptions},
    typing::{Granularity, Kind},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HEADER: &str = "\
# Coverage

Written by `make coverage`, not by hand. Each model is pruned to half of its FLOPs by its sketched scores, without
recovery. *Removable* is the share of the FLOPs that goes when everything goes that may. *Error* is the largest difference
between the pruned model and the masked original, relative to the largest output. *Speed-up* is dense over pruned time for
one batch.
";

/// How long two models run in turn, for the fastest run of each to count.
const TIMED: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let mut out = HEADER.to_owned();
    let engine = runtime::open(&runtime_options())?;
    let runtime = engine.describe();
    writeln!(out, "\nRuntime: {}, one CPU thread.\n", runtime.split(" (").next().unwrap_or(&runtime))?;
    writeln!(out, "| model | found | removable | FLOPs | error | speed-up |\n|---|---|---|---|---|---|")?;
    let mut unsupported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in models()? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let cells = match inspect(&inspection(&path)) {
            Ok(found) => {
                for operator in &found.unsupported {
                    unsupported.entry(operator.operator.clone()).or_default().insert(name.clone());
                }
                let pruned =
                    pruned(&*engine, &path).unwrap_or_else(|error| format!("{} | | ", brief(&*error)));
                format!("{} | {} | {pruned}", dimensions(&found), removable(&found))
            }
            Err(error) => format!("{} | | | |", brief(&error)),
        };
        writeln!(out, "| {name} | {cells} |")?;
    }
    write_operators(&mut out, &unsupported)?;
    Ok(fs::write("COVERAGE.md", out)?)
}

/// The models of the folders that the command line names, and the fixtures, by name.
fn models() -> Result<Vec<PathBuf>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut models = Vec::new();
    for folder in std::env::args_os().skip(1).map(PathBuf::from).chain([fixtures]) {
        let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
        let files = entries.into_iter().map(|entry| entry.path());
        models.extend(files.filter(|path| path.extension().is_some_and(|e| e == "onnx")));
    }
    models.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(models)
}

fn runtime_options() -> RuntimeOptions {
    RuntimeOptions { provider: Provider::Cpu, threads: 1, ..RuntimeOptions::default() }
}

fn inspection(path: &Path) -> inspect::Options {
    inspect::Options {
        input: path.to_owned(),
        calibration: CalibrationOptions::default(),
        runtime: runtime_options(),
        limits: Limits::default(),
        granularity: Granularity::default(),
    }
}

/// `4 × head, 4 × neuron`: layers by what their units are.
fn dimensions(found: &Inspection) -> String {
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    found.prunable.iter().for_each(|d| *counts.entry(d.kind).or_default() += 1);
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") }
}

fn removable(found: &Inspection) -> String {
    let left = found.flops.minimum as f64 / found.flops.total.max(1) as f64;
    format!("{:.0} %", 100.0 * (1.0 - left))
}

/// FLOPs, error and speed-up after pruning to half.
fn pruned(engine: &dyn Engine, path: &Path) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("pruned.onnx");
    let options = Options {
        input: path.to_owned(),
        output: Some(output.clone()),
        flops: Some(Budget::Share(0.5)),
        calibration: CalibrationOptions { samples: Some(8), ..CalibrationOptions::default() }.or_synthetic(),
        runtime: runtime_options(),
        recover: Mode::Off,
        batch: 8,
        ..Options::default()
    };
    let report = optin_onnx::run(&options, &mut |_| {})?;
    let share = 100.0 * report.flops.after as f64 / report.flops.before.max(1) as f64;
    let proof = report.proof.ok_or("no proof was made")?;
    let error = proof.outputs.iter().map(|o| o.difference).fold(0.0, f64::max);
    let samples = calibration::load(&onnx::load(path)?.model, path, &options.calibration)?;
    let speed = speed_up(engine, path, &output, &samples)?;
    Ok(format!("{share:.1} % | {error:.0e} | {speed:.2}×"))
}

/// How much faster the second model runs a batch: the fastest runs of both, taken in turn.
fn speed_up(engine: &dyn Engine, dense: &Path, pruned: &Path, samples: &Samples) -> Result<f64> {
    let range = samples.ranges(8).next().ok_or("no samples")?;
    let feed = samples.batch(range.start, range.end)?;
    let mut sessions = [engine.load(&onnx::load(dense)?.model)?, engine.load(&onnx::load(pruned)?.model)?];
    let mut best = [Duration::MAX; 2];
    let begin = Instant::now();
    while begin.elapsed() < TIMED {
        for (session, best) in sessions.iter_mut().zip(&mut best) {
            let start = Instant::now();
            session.run(&feed)?;
            *best = start.elapsed().min(*best);
        }
    }
    Ok(best[0].as_secs_f64() / best[1].as_secs_f64())
}

/// What was in the way, in a few words: an error's advice is the same for all.
fn brief(error: &(dyn Error + 'static)) -> String {
    if let Some(optin_onnx::Error::Plan(PlanError::Infeasible { share, .. })) = error.downcast_ref() {
        return format!("{share:.0} % is the least");
    }
    let text = error.to_string();
    text.split([';', ':']).next().unwrap_or(&text).replace('|', "/")
}

fn write_operators(out: &mut String, unsupported: &BTreeMap<String, BTreeSet<String>>) -> Result<()> {
    writeln!(
        out,
        "\n## Operators without a rule\n\nThey pin what they touch, and the rest is pruned all the same.\n"
    )?;
    writeln!(out, "| operator | models |\n|---|---|")?;
    for (operator, models) in unsupported {
        let models: Vec<&str> = models.iter().map(String::as_str).collect();
        writeln!(out, "| {operator} | {} |", models.join(", "))?;
    }
    writeln!(out, "\n## Operators with rules\n\n| operator | rules | gradient |\n|---|---|---|")?;
    let mut operators: Vec<_> = ops::contracts().collect();
    operators.sort_by_key(|(_, operator)| (operator.domain, operator.name));
    for (family, operator) in operators {
        let name = operator.name;
        let prefix = if operator.domain.is_empty() { String::new() } else { format!("{}.", operator.domain) };
        let gradient = if operator.has_gradient { "yes" } else { "" };
        writeln!(out, "| {prefix}{name} | [{family}](src/ops/{family}.rs) | {gradient} |")?;
    }
    Ok(())
}
