//! Models held against each other, many budgets from one session, and pages to look at.

#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use optin_onnx::{
    Cancel, Error, Options,
    calibration::CalibrationOptions,
    compare::{self, CompareError, Comparison, compare},
    plan::{Budget, Budgets, Flops, PlanError},
    report::{Detail, RENDERERS, Report, Reportable},
    run,
    sweep::{Sweep, sweep},
};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn data(samples: usize) -> CalibrationOptions {
    CalibrationOptions { calib: Some(fixture("calib.npz")), samples: Some(samples), ..Default::default() }
}

fn compared(reference: &Path, other: &Path) -> Result<Comparison, Error> {
    compare(&compare::Options {
        reference: reference.into(),
        other: other.into(),
        calibration: data(32),
        runtime: Default::default(),
        said_outputs: Vec::new(),
        batch: 5,
        report: None,
    })
}

fn swept(budgets: &[f64], folder: Option<&Path>) -> Result<Sweep, Error> {
    let options = Options { input: fixture("vit.onnx"), calibration: data(48), ..Options::default() };
    let budgets: Vec<Budget> = budgets.iter().map(|share| Budget::Share(*share)).collect();
    sweep(&options, &budgets, folder, &Cancel::default(), drop)
}

fn program(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optin-onnx")).current_dir(folder).args(args).output().unwrap()
}

#[test]
fn a_model_is_as_far_from_itself_as_nothing() {
    let found = compared(&fixture("cnn.onnx"), &fixture("cnn.onnx")).unwrap();
    let [output] = found.outputs.as_slice() else { panic!("{:?}", found.outputs) };
    assert_eq!((output.agreement, output.divergence, output.distance), (Some(1.0), Some(0.0), Some(0.0)));
    assert!((output.cosine.unwrap() - 1.0).abs() < 1e-9 && output.relative_error == Some(0.0));
    assert_eq!(found.reference.costs, found.other.costs);
    assert!(found.reference.milliseconds > 0.0 && found.other.milliseconds > 0.0);
    assert_eq!((found.samples, found.timed, output.worst.len()), (32, 1, 5));
}

#[test]
fn worst_samples_bear_their_numbers_in_the_data() {
    let found = compared(&fixture("vit.onnx"), &fixture("cnn.onnx")).unwrap();
    let worst = &found.outputs[0].worst;
    assert!(worst.is_sorted_by(|a, b| a.distance >= b.distance), "{worst:?}");
    // 32 of 128 are chosen, so that places are no numbers.
    assert!(
        worst.iter().any(|worst| worst.sample >= 32) && worst.iter().all(|worst| worst.sample < 128),
        "{worst:?}"
    );
    // Alone, the worst is as far.
    let all = compare(&compare::Options {
        reference: fixture("vit.onnx"),
        other: fixture("cnn.onnx"),
        calibration: CalibrationOptions { samples: None, ..data(1) },
        runtime: Default::default(),
        said_outputs: Vec::new(),
        batch: 64,
        report: None,
    });
    let all = all.unwrap();
    assert!(all.outputs[0].worst[0].distance >= worst[0].distance);
    assert_eq!(all.samples, 128);
}

#[test]
fn models_that_do_not_read_the_same_are_refused() {
    let folder = TempDir::new().unwrap();
    let mut model = optin_onnx::onnx::load(&fixture("cnn.onnx")).unwrap().model;
    let graph = model.graph.as_mut().unwrap();
    let name = graph.input[0].name.replace("other".into()).unwrap();
    for slot in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|slot| **slot == name) {
        *slot = "other".into();
    }
    let path = folder.path().join("other.onnx");
    fs::write(&path, optin_onnx::onnx::encode(&model)).unwrap();
    let error = compared(&fixture("cnn.onnx"), &path).unwrap_err();
    assert!(
        matches!(&error, Error::Compare(CompareError::Inputs { .. })) && error.to_string().contains("other")
    );
}

#[test]
fn a_sweep_gives_the_models_that_runs_of_their_own_give() {
    let folder = TempDir::new().unwrap();
    let found = swept(&[0.9, 0.5], Some(folder.path())).unwrap();
    let one = folder.path().join("one.onnx");
    let options = Options {
        input: fixture("vit.onnx"),
        output: Some(one.clone()),
        calibration: data(48),
        budgets: Budgets::one(&Flops, Budget::Share(0.5)),
        ..Options::default()
    };
    let report = run(&options, &Cancel::default(), drop).unwrap();
    let point = &found.points[1];
    assert_eq!((point.budget.as_str(), &point.sha256), ("50%", &report.output_sha256));
    assert_eq!(fs::read(folder.path().join("vit-50.onnx")).unwrap(), fs::read(one).unwrap());
    let gate = report.gate.unwrap();
    assert_eq!((point.distance, point.agreement), (gate.distance, gate.agreement));
    assert!(folder.path().join("vit-90.onnx").exists());
}

#[test]
fn what_is_lost_grows_as_budgets_shrink() {
    let found = swept(&[0.9, 0.7, 0.5, 0.3], None).unwrap();
    let distances: Vec<f64> = found.points.iter().map(|point| point.distance.unwrap()).collect();
    assert!(distances.is_sorted() && distances[3] > 2.0 * distances[1], "{distances:?}");
    let dense = *found.dense.get("flops").unwrap() as f64;
    for (point, share) in found.points.iter().zip([0.9, 0.7, 0.5, 0.3]) {
        let flops = *point.costs.as_ref().unwrap().get("flops").unwrap() as f64;
        assert!(flops <= share * dense && flops > (share - 0.05) * dense, "{}: {flops}", point.budget);
        assert!(point.path.is_none() && point.milliseconds.unwrap() > 0.0);
    }
    let knee = found.knee.unwrap();
    assert!((1..4).contains(&knee), "{knee}: {distances:?}");
}

#[test]
fn budgets_that_cannot_be_met_are_points_without_a_model() {
    let found = swept(&[0.001, 0.8], None).unwrap();
    assert!(
        found.points[0].costs.is_none() && found.points[0].error.as_ref().unwrap().contains("cannot be met")
    );
    assert!(found.points[1].costs.is_some() && found.points[1].error.is_none() && found.knee.is_none());
    assert!(matches!(swept(&[0.001], None), Err(Error::Plan(PlanError::Infeasible { .. }))));
}

/// Whether a page is well-formed, by a parser that is not ours, and needs nothing beside itself.
fn check_page(page: &str) {
    for foreign in ["http", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let (first, rest) = page.split_once('\n').unwrap();
    assert_eq!(first, "<!doctype html>");
    let Ok(python) = std::env::var("OPTIN_PYTHON") else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rest).unwrap();
    let script = "import sys, xml.etree.ElementTree as x; x.parse(sys.argv[1])";
    let parsed = Command::new(python).args(["-c", script]).arg(file.path()).output().unwrap();
    assert!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
}

#[test]
fn pages_hold_all_that_is_reported_and_need_nothing_else() {
    let folder = TempDir::new().unwrap();
    let (model, calib) = (fixture("vit.onnx"), fixture("calib.npz"));
    let (model, calib) = (model.to_str().unwrap(), calib.to_str().unwrap());
    let args = [model, "o.onnx", "--calib", calib, "--samples", "32", "--keep", "blocks.0.*mlp", "-q"];
    for report in ["r.html", "r.json", "r.html"] {
        let done = program(folder.path(), &[args.as_slice(), &["--report", report]].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let page = fs::read_to_string(folder.path().join("r.html")).unwrap();
    check_page(&page);
    for held in [
        "blocks/blocks.1/mlp/fc1",
        "<svg",
        "<polyline",
        "FLOPs",
        "recovery",
        "proof",
        "--keep 'blocks.0.*mlp'",
    ] {
        assert!(page.contains(held), "{held}");
    }
    // The same report is the same page.
    let report: Report = serde_json::from_slice(&fs::read(folder.path().join("r.json")).unwrap()).unwrap();
    let html = RENDERERS.iter().find(|renderer| renderer.name == "html").unwrap();
    let again = |what: &dyn Reportable| (html.render)(what, Detail::Measured).unwrap();
    assert_eq!(again(&report), again(&report));
    // What is no page is not replaced by one.
    fs::write(folder.path().join("notes.html"), "my notes").unwrap();
    let refused = program(folder.path(), &[args.as_slice(), &["--report", "notes.html"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not an HTML page"));

    let sweep = [
        "sweep",
        model,
        "--budgets",
        "0.8,0.6,0.4",
        "--calib",
        calib,
        "--samples",
        "32",
        "--report",
        "s.html",
    ];
    let done = program(folder.path(), &sweep);
    assert!(done.status.success() && String::from_utf8_lossy(&done.stdout).contains("60%"));
    let page = fs::read_to_string(folder.path().join("s.html")).unwrap();
    check_page(&page);
    assert!(
        page.contains("share of FLOPs")
            && page.contains("sweep of budgets")
            && page.contains("--budgets 0.8,0.6,0.4")
    );

    let done = program(folder.path(), &["compare", model, "o.onnx", "--calib", calib, "--report", "c.html"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    check_page(&fs::read_to_string(folder.path().join("c.html")).unwrap());
    let same = program(folder.path(), &["compare", model, "o.onnx", "--calib", calib, "--report", "o.onnx"]);
    assert_eq!(same.status.code(), Some(2), "{}", String::from_utf8_lossy(&same.stdout));
}
