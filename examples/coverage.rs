//! Writes COVERAGE.md: what is found and pruned in the models of some folders, and which operators have rules.
//!
//! `cargo run --release --example coverage -- [FOLDER…]` (or `make coverage MODELS=FOLDER`) takes every `.onnx` file of the
//! folders, and those of `fixtures`. Each is pruned on the calibration data beside it or on random inputs that are treated as
//! data, and timed against the dense model on one thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ndarray_npy::NpzWriter;
use optin_onnx::{
    Cancel, Options,
    calibration::{self, CalibrationOptions, Samples},
    inspect::{self, Inspection, inspect},
    onnx, ops,
    plan::{Budget, Budgets, Limits, PlanError, cost::Flops},
    runtime::{self, Engine, Provider, RuntimeOptions},
    tensor::Tensor,
    typing::{Granularity, Kind},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HEADER: &str = "\
# Coverage

Written by `make coverage`, not by hand. Each model is pruned to shares of its FLOPs as the program does by default: by sketched
scores, and with recovery, on the data beside it or else on random inputs that are treated as data. *Removable* is the share
of the FLOPs that goes when everything goes that may. At each share: the *FLOPs* that stay; the *error*, which is the largest
difference between the pruned model and the masked original, relative to the largest output; the *distance* of the outputs from
the dense model's on samples that recovery held out, before and after; the *size* of the file, which has passed the gate; and
the *speed-up*, dense over pruned time for one batch.
";

/// The shares of the FLOPs that stay.
const SHARES: [f64; 2] = [0.7, 0.5];

/// Samples that are drawn where there are no data.
const DRAWN: usize = 32;

/// How long two models run in turn, for the fastest run of each to count.
const TIMED: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let mut out = HEADER.to_owned();
    let engine = runtime::open(&runtime_options())?;
    let runtime = engine.describe();
    writeln!(out, "\nRuntime: {}, one CPU thread.\n", runtime.split(" (").next().unwrap_or(&runtime))?;
    let columns = SHARES.map(|share| {
        let share = 100.0 * share;
        format!(" {share} %: FLOPs | error | distance | size | speed-up |")
    });
    writeln!(out, "| model | found | removable |{}", columns.concat())?;
    writeln!(out, "|---|---|---|{}", "---|".repeat(5 * SHARES.len()))?;
    let mut unsupported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in models()? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let cells = match inspect(&inspection(&path)) {
            Ok(found) => {
                for operator in &found.unsupported {
                    unsupported.entry(operator.operator.clone()).or_default().insert(name.clone());
                }
                let pruned = SHARES.map(|share| {
                    let cells = pruned(&*engine, &path, share);
                    cells.unwrap_or_else(|error| format!("{} | | | | ", brief(&*error)))
                });
                format!("{} | {} | {}", dimensions(&found), removable(&found), pruned.join(" | "))
            }
            Err(error) => format!("{} {}", brief(&error), " | ".repeat(1 + 5 * SHARES.len())),
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
        calibration: CalibrationOptions::default().or_synthetic(),
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
    let left = found.costs.get("flops").map_or(1.0, |c| c.minimum as f64 / c.total.max(1) as f64);
    format!("{:.0} %", 100.0 * (1.0 - left))
}

/// What comes of pruning to a share of the FLOPs.
fn pruned(engine: &dyn Engine, path: &Path, share: f64) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("pruned.onnx");
    let (calibration, samples) = data(path, folder.path())?;
    let options = Options {
        input: path.to_owned(),
        output: Some(output.clone()),
        budgets: Budgets::one(&Flops, Budget::Share(share)),
        calibration,
        runtime: runtime_options(),
        batch: 8,
        ..Options::default()
    };
    let report = optin_onnx::run(&options, &Cancel::default(), drop)?;
    let percent = |id: &str| {
        let cost = report.costs.get(id);
        cost.map_or(100.0, |change| 100.0 * change.after as f64 / change.before.max(1) as f64)
    };
    let (flops, size) = (percent("flops"), percent("bytes"));
    let proof = report.proof.ok_or("no proof was made")?;
    let error = proof.outputs.iter().map(|o| o.difference).fold(0.0, f64::max);
    let distance = match &report.recovery {
        Some(recovery) if recovery.undone => format!("{:.1e}, undone", recovery.before),
        Some(recovery) => format!("{:.1e} → {:.1e}", recovery.before, recovery.after),
        None => String::new(),
    };
    let speed = speed_up(engine, path, &output, &samples)?;
    Ok(format!("{flops:.1} % | {error:.0e} | {distance} | {size:.0} % | {speed:.2}×"))
}

/// The data beside a model, or else random inputs by what the model does with them, written to a file in `folder`.
fn data(path: &Path, folder: &Path) -> Result<(CalibrationOptions, Samples)> {
    let model = onnx::load(path)?.model;
    let options = CalibrationOptions { samples: Some(DRAWN), ..CalibrationOptions::default() };
    if options.data(Some(path)).is_some() {
        let samples = calibration::load(&model, Some(path), &options)?;
        return Ok((options, samples));
    }
    let samples = calibration::load(&model, Some(path), &options.clone().or_synthetic())?;
    let file = folder.join("drawn.npz");
    let mut writer = NpzWriter::new(fs::File::create(&file)?);
    // All of them, whatever batches the model takes.
    let all: Vec<usize> = (0..samples.len()).collect();
    for (name, tensor) in &samples.select(&all)? {
        match tensor {
            Tensor::F32(x) => writer.add_array(name.as_str(), x)?,
            Tensor::F64(x) => writer.add_array(name.as_str(), x)?,
            Tensor::I32(x) => writer.add_array(name.as_str(), x)?,
            Tensor::I64(x) => writer.add_array(name.as_str(), x)?,
            Tensor::U8(x) => writer.add_array(name.as_str(), x)?,
            Tensor::Bool(x) => writer.add_array(name.as_str(), x)?,
            other => return Err(format!("{name} is {}", other.dtype()).into()),
        }
    }
    writer.finish()?;
    Ok((CalibrationOptions { calib: Some(file), ..options }, samples))
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
    let mut operators: Vec<_> = ops::schemas().collect();
    operators.sort_by_key(|(_, operator)| (operator.domain, operator.name));
    for (family, operator) in operators {
        let name = operator.name;
        let prefix = if operator.domain.is_empty() { String::new() } else { format!("{}.", operator.domain) };
        let gradient = if operator.has_gradient { "yes" } else { "" };
        writeln!(out, "| {prefix}{name} | [{family}](src/ops/{family}.rs) | {gradient} |")?;
    }
    Ok(())
}
