//! What the program writes for other programs: its JSON is as the schemas in `docs/` say, and can be read back.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use optin_onnx::{
    compare::Comparison,
    inspect::Inspection,
    report::{Detail, RENDERERS, Report, Reportable, text},
    sweep::Sweep,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Holds files against a schema of `docs/` by a validator that is not ours, where the test set-up provides it.
fn validate(schema: &str, files: &[PathBuf]) {
    let Ok(python) = std::env::var("OPTIN_PYTHON") else { return };
    let script = "import json, sys, jsonschema\n\
                  schema, *files = [json.load(open(path)) for path in sys.argv[1:]]\n\
                  jsonschema.Draft202012Validator.check_schema(schema)\n\
                  for file in files: jsonschema.Draft202012Validator(schema).validate(file)";
    let schema = root().join(format!("docs/{schema}.schema.json"));
    let output = Command::new(python).args(["-c", script]).arg(schema).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs the program on a fixture, and returns what it prints.
fn run(folder: &Path, model: &str, flags: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
    command.current_dir(folder).args(flags.split(' ').map(|flag| match flag {
        "MODEL" => root().join("fixtures").join(model),
        "CALIB" => root().join("fixtures/calib.npz"),
        flag => flag.into(),
    }));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn reports_and_scores_are_as_their_schemas_say() {
    let folder = tempfile::tempdir().unwrap();
    let (mut reports, mut scores) = (Vec::new(), Vec::new());
    for (number, (model, flags)) in [
        ("vit.onnx", "--flops 0.5 --calib CALIB --samples 32"),
        ("vit.onnx", "--params 90% --calib CALIB --samples 4 --score wanda --recover bias --kinds neuron"),
        ("cnn.onnx", "--flops 9M --synthetic --score magnitude --keep stage1 --runtime tract"),
        (
            "cnn.onnx",
            "--flops 0.6 --calib CALIB --samples 16 --score magnitude --bench --serve image=2x1x28x28",
        ),
        ("cnn.onnx", "--dry-run --calib CALIB --samples 16 --score random --seed 3 --max-prune 90%"),
    ]
    .into_iter()
    .enumerate()
    {
        let files = format!("--report r{number}.json --save-scores s{number}.json");
        let output = if flags.contains("--dry-run") { "" } else { " -o out.onnx" };
        let said = run(folder.path(), model, &format!("MODEL{output} {flags} {files}"));
        let report = folder.path().join(format!("r{number}.json"));
        // A report can be read and rendered later, and says then what the program said.
        let read: Report = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(text(&read.document(), Detail::Brief), said.trim_end());
        assert_eq!(read.output_sha256.is_none(), flags.contains("--dry-run"));
        assert!(read.dimensions.iter().all(|d| d.units.len() == d.kept && d.units.is_sorted()));
        reports.push(report);
        scores.push(folder.path().join(format!("s{number}.json")));
    }
    validate("report", &reports);
    validate("scores", &scores);
}

#[test]
fn inspections_are_as_their_schema_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for model in ["vit.onnx", "cnn.onnx"] {
        let said = run(folder.path(), model, "inspect MODEL --json");
        let read: Inspection = serde_json::from_str(&said).unwrap();
        let json = RENDERERS.iter().find(|renderer| renderer.name == "json").unwrap();
        assert_eq!((json.render)(&read, Detail::Brief).unwrap(), said.trim_end());
        let file = folder.path().join(format!("{model}.json"));
        fs::write(&file, said).unwrap();
        files.push(file);
    }
    validate("inspect", &files);
}

#[test]
fn comparisons_and_sweeps_are_as_their_schemas_say() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(
        folder.path(),
        "vit.onnx",
        "sweep MODEL --budgets 0.8,0.5,0.01 --calib CALIB --samples 32 -o d --json",
    );
    let read: Sweep = serde_json::from_str(&said).unwrap();
    assert_eq!(read.json().unwrap(), said.trim_end());
    let file = folder.path().join("sweep.json");
    fs::write(&file, said).unwrap();
    validate("sweep", &[file]);
    let said =
        run(folder.path(), "vit.onnx", "compare MODEL d/vit-50.onnx --calib CALIB --samples 32 --json");
    let read: Comparison = serde_json::from_str(&said).unwrap();
    assert_eq!(read.json().unwrap(), said.trim_end());
    let file = folder.path().join("compare.json");
    fs::write(&file, said).unwrap();
    validate("compare", &[file]);
}
