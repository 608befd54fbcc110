//! Budgets of time, on stopwatches whose models take what a formula says.

#![allow(clippy::unwrap_used, clippy::result_large_err)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use optin_onnx::{
    Error, Pruner, Settings,
    calibration::CalibrationOptions,
    latency::{Feed, Lap, LatencyError, MeasureError, Serving, ServingError, Stopwatch, Table},
    onnx::{self, proto::ModelProto},
    plan::{Budget, Budgets, Flops},
    report::Report,
    runtime::{self, Provider, RuntimeOptions},
    score::{ScoreOptions, Scores},
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn open(model: &str, serving: Serving, stopwatch: Option<Formula>) -> Result<Pruner, Error> {
    let options = RuntimeOptions { provider: Provider::Cpu, threads: 1, ..RuntimeOptions::default() };
    let samples = CalibrationOptions {
        calib: Some(fixture("calib.npz")),
        samples: Some(16),
        ..CalibrationOptions::default()
    };
    let mut settings = Settings::default();
    settings.serving = serving;
    let mut builder = Pruner::builder(runtime::open(&options).unwrap()).settings(settings);
    if let Some(stopwatch) = stopwatch {
        builder = builder.stopwatch(Box::new(stopwatch));
    }
    builder.open(fixture(model).as_path(), samples)
}

/// A device whose kernels work on multiples of `step` channels: a weight takes a nanosecond for each number of it, where its first
/// two axes are filled up. What a whole model takes is that to the power of `whole`, in the same unit.
#[derive(Clone, Copy)]
struct Formula {
    step: usize,
    whole: f64,
}

impl Formula {
    fn nanoseconds(self, model: &ModelProto) -> f64 {
        let graph = model.graph.as_ref().unwrap();
        let filled = |(axis, extent): (usize, &i64)| {
            let extent = *extent as usize;
            (if axis < 2 { extent.next_multiple_of(self.step) } else { extent }) as f64
        };
        let weights = graph.initializer.iter().filter(|tensor| tensor.dims.len() >= 2);
        let sum: f64 =
            weights.map(|tensor| tensor.dims.iter().enumerate().map(filled).product::<f64>()).sum();
        let is_whole = graph.output.iter().any(|output| output.name() == "logits");
        (1.0 + sum).powf(if is_whole { self.whole } else { 1.0 })
    }
}

impl Stopwatch for Formula {
    fn device(&self) -> String {
        format!("a formula with steps of {}", self.step)
    }

    fn ready(&self, model: &ModelProto, _feed: Feed) -> Result<Box<dyn Lap + '_>, MeasureError> {
        Ok(Box::new(Fixed(Duration::from_secs_f64(self.nanoseconds(model) / 1e6))))
    }
}

struct Fixed(Duration);

impl Lap for Fixed {
    fn run(&mut self, times: usize) -> Result<Vec<Duration>, MeasureError> {
        Ok(vec![self.0; times])
    }
}

fn dense(model: &str) -> ModelProto {
    onnx::load(&fixture(model)).unwrap().model
}

fn latency(share: f64) -> Budgets {
    Budgets::default().and_latency(Budget::Share(share))
}

fn magnitudes() -> ScoreOptions {
    ScoreOptions { method: "magnitude".parse().unwrap(), ..ScoreOptions::default() }
}

/// A session that has timed its model.
fn measured(model: &str, formula: Formula) -> Pruner {
    let mut pruner = open(model, Serving::default(), Some(formula)).unwrap();
    let table = Table::new(pruner.device());
    pruner.measure(dense(model), table).unwrap();
    pruner
}

/// The share of the dense model's time that a pruned one takes, and the report.
fn pruned(
    pruner: &Pruner,
    scores: &Scores,
    budgets: &Budgets,
    formula: Formula,
    model: &str,
) -> (f64, Report) {
    let scored = pruner.with_scores(scores.clone());
    let applied = scored.plan(budgets).unwrap().apply().unwrap();
    let (bytes, report) = applied.unrecovered().to_bytes().unwrap();
    let file = onnx::read(bytes).unwrap().model;
    (formula.nanoseconds(&file) / formula.nanoseconds(&dense(model)), report)
}

#[test]
fn plans_keep_to_the_time_that_a_device_takes() {
    let formula = Formula { step: 16, whole: 1.0 };
    for model in ["cnn.onnx", "vit.onnx"] {
        let pruner = measured(model, formula);
        let scores = pruner.score(&magnitudes()).unwrap().scores().clone();
        for share in [0.8, 0.6, 0.4] {
            let (taken, report) = pruned(&pruner, &scores, &latency(share), formula, model);
            assert!(taken <= 1.01 * share && taken > 0.85 * share, "{model} {share}: {taken}");
            let told = report.latency.unwrap();
            assert!(told.survey.error.unwrap() < 0.05, "{model}: {:?}", told.survey.error);
            assert!((report.bench.unwrap().share - taken).abs() < 1e-6);
            // No budget of FLOPs is added to what was asked for.
            assert!(report.budgets.is_empty());
        }
    }
}

#[test]
fn steps_of_a_device_are_found_and_sizes_stop_at_them() {
    for step in [16, 32] {
        let formula = Formula { step, whole: 1.0 };
        let pruner = measured("vit.onnx", formula);
        let steps = &pruner.latency().unwrap().survey.steps;
        let neurons: Vec<_> = steps.iter().filter(|step| step.name.contains("mlp")).collect();
        assert!(neurons.len() == 4 && neurons.iter().all(|found| found.entries == step), "{step}: {steps:?}");
        let scored = pruner.score(&magnitudes()).unwrap();
        let planned = scored.plan(&latency(0.6)).unwrap();
        let sizes = planned.plan().dimensions.iter().filter(|d| d.name.contains("mlp")).map(|d| d.kept.len());
        let sizes: Vec<usize> = sizes.collect();
        // What is left of a step is given back.
        assert!(
            sizes.iter().all(|size| size.is_multiple_of(step)) && sizes.iter().any(|s| *s < 256),
            "{sizes:?}"
        );
    }
}

#[test]
fn what_a_prediction_was_wrong_by_is_planned_for() {
    // Small models gain less than their parts do.
    let formula = Formula { step: 8, whole: 0.6 };
    let pruner = measured("vit.onnx", formula);
    let scores = pruner.score(&magnitudes()).unwrap().scores().clone();
    let (taken, report) = pruned(&pruner, &scores, &latency(0.75), formula, "vit.onnx");
    let rounds = report.latency.unwrap().rounds;
    assert!((0.75 * 0.95..=0.75 * 1.01).contains(&taken), "{taken} after {rounds:?}");
    assert!(rounds.len() > 1, "{rounds:?}");
}

#[test]
fn budgets_of_time_hold_together_with_others() {
    let formula = Formula { step: 8, whole: 1.0 };
    let pruner = measured("vit.onnx", formula);
    let scores = pruner.score(&magnitudes()).unwrap().scores().clone();
    let budgets = latency(0.7).and(&Flops, Budget::Share(0.5));
    let (taken, report) = pruned(&pruner, &scores, &budgets, formula, "vit.onnx");
    let flops = report.costs.get("flops").unwrap();
    assert!(taken <= 0.707 && flops.after as f64 <= 0.5 * flops.before as f64);
    let told = report.latency.unwrap();
    assert_eq!((told.share, report.budgets.len()), (Some(0.7), 1));
}

#[test]
fn times_are_taken_from_a_table_and_asked_for_by_milliseconds() {
    let formula = Formula { step: 16, whole: 1.0 };
    let pruner = measured("cnn.onnx", formula);
    let dense_ms = pruner.latency().unwrap().dense as f64 / 1e9;
    let table = pruner.table().unwrap();
    assert!(!table.is_empty() && table.len() < 2000);

    let mut again = open("cnn.onnx", Serving::default(), Some(formula)).unwrap();
    again.measure(dense("cnn.onnx"), table.clone()).unwrap();
    assert_eq!(again.latency().unwrap().survey.measured, 0);
    let budgets = Budgets::default().and_latency(Budget::of_time(&format!("{}ms", 0.6 * dense_ms)).unwrap());
    let plans = [&pruner, &again].map(|pruner| {
        let scored = pruner.score(&magnitudes()).unwrap();
        scored.plan(&budgets).unwrap().plan().clone()
    });
    assert_eq!(plans[0], plans[1]);

    // A table of one device is no table of another.
    let file = tempfile::tempdir().unwrap().keep().join("t.json");
    table.stage(&file).unwrap().publish().unwrap();
    assert_eq!(Table::load(&file, formula.device()).unwrap(), table);
    assert!(Table::load(&file, "another".to_owned()).unwrap_err().to_string().contains("another"));
}

#[test]
fn budgets_of_time_that_make_no_sense_are_refused() {
    let pruner = open("vit.onnx", Serving::default(), None).unwrap();
    let scored = pruner.score(&magnitudes()).unwrap();
    let unmeasured = scored.plan(&latency(0.5)).err().unwrap();
    assert!(matches!(unmeasured, Error::Latency(LatencyError::Unmeasured)));
    let pruner = measured("vit.onnx", Formula { step: 8, whole: 1.0 });
    let check = |share| pruner.check(&latency(share)).unwrap_err();
    assert!(matches!(check(1.0), Error::Latency(LatencyError::Idle { .. })));
    let error = check(0.01);
    assert!(matches!(error, Error::Latency(LatencyError::OutOfReach { .. })) && error.ran());
    pruner.check(&latency(0.5)).unwrap();
}

#[test]
fn models_are_timed_at_the_shapes_that_they_are_served_at() {
    let model = dense("cnn.onnx");
    let serving = Serving(vec![("image".to_owned(), vec![3, 1, 28, 28])]);
    let bench = open("cnn.onnx", serving, None).unwrap().bench(&model, &model).unwrap();
    assert_eq!((bench.batch, bench.inputs[0].shape.as_slice()), (3, [3, 1, 28, 28].as_slice()));
    assert!(bench.dense.runs >= 5 && bench.dense.quiet_ms > 0.0 && bench.dense.p50_ms <= bench.dense.p95_ms);
    assert!((bench.share * bench.speedup - 1.0).abs() < 1e-9);
    let one = open("cnn.onnx", Serving::default(), None).unwrap();
    assert_eq!(one.bench(&model, &model).unwrap().batch, 1);
}

#[test]
fn shapes_that_do_not_suit_the_model_are_refused_before_any_work() {
    let check = |name: &str, shape: &[usize]| match open(
        "cnn.onnx",
        Serving(vec![(name.to_owned(), shape.to_vec())]),
        None,
    ) {
        Err(Error::Latency(LatencyError::Serving(error))) => Some(error),
        _ => None,
    };
    assert!(matches!(check("none", &[1]), Some(ServingError::NoInput { .. })));
    for shape in [[1, 28, 28].as_slice(), &[0, 1, 28, 28], &[1 << 31, 1 << 31, 4, 1]] {
        assert!(matches!(check("image", shape), Some(ServingError::Shape { .. })), "{shape:?}");
    }
    assert!(check("image", &[4, 1, 28, 28]).is_none());
}

/// Runs the program on the CNN, timed by a shell script.
fn program(folder: &Path, script: &str, flags: &str) -> Output {
    fs::write(folder.join("time.sh"), script).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
    command
        .current_dir(folder)
        .arg(fixture("cnn.onnx"))
        .arg("out.onnx")
        .arg("--calib")
        .arg(fixture("calib.npz"));
    command.args(["--samples", "8", "--score", "magnitude", "--recover", "off", "--report", "r.json"]);
    command.args(["--measure-with", "sh time.sh '{model}'"]).args(flags.split(' ')).output().unwrap()
}

/// Holds a file against a schema of `docs/` by a validator that is not ours, where the test set-up provides it.
fn validate(schema: &str, file: &Path) {
    let Ok(python) = std::env::var("OPTIN_PYTHON") else { return };
    let script = "import json, sys, jsonschema\n\
                  schema, file = [json.load(open(path)) for path in sys.argv[1:]]\n\
                  jsonschema.Draft202012Validator(schema).validate(file)";
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{schema}.schema.json"));
    let output = Command::new(python).args(["-c", script]).arg(schema).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Models take as many milliseconds as their files have bytes.
const BYTES: &str = "wc -c < \"$1\"\n";

#[cfg(unix)]
#[test]
fn programs_time_models() {
    let folder = tempfile::tempdir().unwrap();
    let run = |flags: &str| {
        let output = program(folder.path(), BYTES, flags);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report = fs::read(folder.path().join("r.json")).unwrap();
        let report: Report = serde_json::from_slice(&report).unwrap();
        (fs::read(folder.path().join("out.onnx")).unwrap(), report)
    };
    let (bytes, report) = run("--latency 0.6 --latency-table t.json");
    let share = bytes.len() as f64 / fs::metadata(fixture("cnn.onnx")).unwrap().len() as f64;
    assert!(share < 0.64, "{share}");
    let told = report.latency.unwrap();
    assert!(told.survey.measured > 10 && told.survey.device.contains("time.sh") && !told.rounds.is_empty());
    validate("report", &folder.path().join("r.json"));
    validate("latency-table", &folder.path().join("t.json"));
    // With the same table, the same file.
    let (again, report) = run("--latency 0.6 --latency-table t.json");
    assert!(again == bytes);
    assert_eq!(report.latency.unwrap().survey.measured, 0);
}

#[cfg(unix)]
#[test]
fn what_is_out_of_reach_is_exit_1_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |script: &str, flags: &str, code: i32, said: &str| {
        let output = program(folder.path(), script, flags);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
        assert!(!folder.path().join("out.onnx").exists() && !folder.path().join("r.json").exists());
    };
    refused(BYTES, "--latency 0.01", 1, "cannot be met");
    // Nothing that is removed makes it faster.
    refused("echo 7\n", "--latency 0.5", 1, "cannot be met");
    refused("echo no such device >&2; exit 4\n", "--latency 0.5", 1, "no such device");
    refused("echo fast\n", "--latency 0.5", 1, "no number of milliseconds");
    refused(BYTES, "--latency 2", 2, "such as 12ms");
    refused(BYTES, "--latency 150%", 2, "at most 1");
    fs::write(folder.path().join("t.json"), "{\"schema_version\": 1}").unwrap();
    refused(BYTES, "--latency 0.5 --latency-table t.json", 2, "does not hold a latency table");
    let foreign = "{\"schema_version\": 1, \"device\": \"a phone\", \"times\": {}}";
    fs::write(folder.path().join("t.json"), foreign).unwrap();
    refused(BYTES, "--latency 0.5 --latency-table t.json", 2, "a phone");
    // What is there stays.
    assert_eq!(fs::read_to_string(folder.path().join("t.json")).unwrap(), foreign);
}
