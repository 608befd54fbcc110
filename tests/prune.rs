//! The program as a user runs it, on the trained fixtures.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ndarray::{Array1, Array3};
use ndarray_npy::NpzReader;
use optin_onnx::{
    onnx::{
        self,
        proto::{GraphProto, ModelProto, NodeProto},
    },
    runtime::{self, RuntimeOptions},
    tensor::Tensor,
};
use prost::Message;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn optin(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optin-onnx")).args(args).output().unwrap()
}

struct Run {
    dir: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Prunes a fixture to `out.onnx`, and returns the report.
    fn prune(&self, model: &str, extra: &[&str]) -> Value {
        let (input, calib) = (fixture(model), fixture("calib.npz"));
        let (out, report) = (self.path("out.onnx"), self.path("report.json"));
        let mut args = vec![input.to_str().unwrap(), &out, "--report", &report];
        for default in [["--calib", calib.to_str().unwrap()], ["--samples", "32"]] {
            if !extra.contains(&default[0]) {
                args.extend(default);
            }
        }
        args.extend(extra);
        let output = optin(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap()
    }
}

/// ONNX's own checker, when the test set-up provides it.
fn check_with_onnx(path: &str) {
    let Ok(python) = std::env::var("OPTIN_PYTHON") else { return };
    let script = "import sys, onnx; onnx.checker.check_model(sys.argv[1], full_check=True)";
    let output = Command::new(python).args(["-c", script, path]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn fixtures_meet_the_budget_and_are_proven() {
    for (model, kinds) in [("vit.onnx", ["head", "neuron"].as_slice()), ("cnn.onnx", &["channel"])] {
        for method in ["magnitude", "wanda"] {
            let run = Run::new();
            let report = run.prune(model, &["--flops", "0.6", "--score", method]);
            let (before, after) =
                (report["flops"]["before"].as_u64().unwrap(), report["flops"]["after"].as_u64().unwrap());
            assert!(after * 10 <= before * 6, "{model}: {after} of {before}");
            assert_eq!(report["proof"]["flops"], report["flops"]["after"]);
            assert_eq!(report["proof"]["holds"], true);
            let dimensions = report["dimensions"].as_array().unwrap();
            for kind in kinds {
                assert!(dimensions.iter().any(|d| d["kind"] == *kind), "{model} has no {kind}");
            }
            check_with_onnx(&run.path("out.onnx"));
            assert!(
                fs::metadata(run.path("out.onnx")).unwrap().len()
                    < fs::metadata(fixture(model)).unwrap().len()
            );
        }
    }
}

#[test]
fn chance_is_drawn_anew_by_the_seed_and_proven_like_any_other_choice() {
    let kept = |seed: &str| {
        let run = Run::new();
        let report = run
            .prune("vit.onnx", &["--flops", "0.6", "--score", "random", "--recover", "off", "--seed", seed]);
        assert_eq!((&report["score"], &report["proof"]["holds"]), (&"random".into(), &true.into()));
        report["dimensions"].clone()
    };
    assert_eq!(kept("1"), kept("1"));
    assert_ne!(kept("1"), kept("2"));
}

/// Class scores of the first test images, row by row, and the images' classes.
fn predict(path: &Path) -> (Vec<Vec<f32>>, Vec<u8>) {
    const COUNT: usize = 500;
    let mut test = NpzReader::new(fs::File::open(fixture("test.npz")).unwrap()).unwrap();
    let images: Array3<u8> = test.by_name("image_u8").unwrap();
    let labels: Array1<u8> = test.by_name("labels").unwrap();
    let x = images.slice(ndarray::s![..COUNT, .., ..]).mapv(|p| (f32::from(p) / 255.0 - 0.286) / 0.353);
    let x = x.insert_axis(ndarray::Axis(1)).into_dyn();
    let model = onnx::load(path).unwrap().model;
    let mut session = runtime::open(&RuntimeOptions::default()).unwrap().load(&model).unwrap();
    let scores = session.run(&[("image".to_owned(), Tensor::F32(x))]).unwrap()[0].to_f32().unwrap();
    (scores.outer_iter().map(|row| row.iter().copied().collect()).collect(), labels.to_vec())
}

/// Share of the first test images that are classified right, and squared distance of the scores from others.
fn judge(path: &Path, dense: &[Vec<f32>]) -> (f64, f64) {
    let (scores, labels) = predict(path);
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let right = scores.iter().zip(&labels).filter(|(row, label)| best(row) == usize::from(**label)).count();
    let pairs = scores.iter().flatten().zip(dense.iter().flatten());
    (right as f64 / scores.len() as f64, pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum())
}

#[test]
fn recovery_helps_on_images_that_it_has_not_seen() {
    for model in ["vit.onnx", "cnn.onnx"] {
        let (dense, _) = predict(&fixture(model));
        let [off, bias, refit] = ["off", "bias", "refit"].map(|mode| {
            let run = Run::new();
            let report = run
                .prune(model, &["--flops", "0.5", "--score", "wanda", "--recover", mode, "--samples", "128"]);
            if mode == "refit" {
                let recovery = &report["recovery"];
                assert!(recovery["after"].as_f64() < recovery["before"].as_f64());
                let mut layers = recovery["layers"].as_array().unwrap().iter();
                assert!(layers.any(|layer| layer["outcome"] == "refitted"));
            }
            let undone = report["recovery"]["undone"] == true;
            let noted = onnx::load(Path::new(&run.path("out.onnx"))).unwrap().model.metadata_props;
            let noted = noted.iter().find(|p| p.key() == "optin-onnx.recover").unwrap();
            assert_eq!(noted.value(), if undone { "off" } else { mode });
            judge(Path::new(&run.path("out.onnx")), &dense)
        });
        assert!(bias.1 <= off.1, "{model}: {bias:?} after {off:?}");
        assert!(refit.1 < 0.5 * off.1, "{model}: {refit:?} after {off:?}");
        assert!(refit.0 > off.0 + 0.02, "{model}: {refit:?} after {off:?}");
    }
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let (a, b) = (Run::new(), Run::new());
    a.prune("cnn.onnx", &["--flops", "50%"]);
    b.prune("cnn.onnx", &["--flops", "0.5"]);
    assert_eq!(fs::read(a.path("out.onnx")).unwrap(), fs::read(b.path("out.onnx")).unwrap());
}

#[test]
fn both_runtimes_make_the_same_plan() {
    if std::env::var("ORT_DYLIB_PATH").is_err() {
        assert!(std::env::var("OPTIN_REQUIRE_ORT").is_err(), "ONNX Runtime is required");
        return;
    }
    // Scores differ by rounding.
    let plan = |report: &Value| -> Vec<Value> {
        let mut dimensions = report["dimensions"].as_array().unwrap().clone();
        dimensions.iter_mut().for_each(|d| d["score"] = Value::Null);
        dimensions
    };
    for model in ["vit.onnx", "cnn.onnx"] {
        let (a, b) = (Run::new(), Run::new());
        let ort = a.prune(model, &["--flops", "0.5", "--runtime", "ort"]);
        let tract = b.prune(model, &["--flops", "0.5", "--runtime", "tract"]);
        assert_eq!(plan(&ort), plan(&tract));
        assert_eq!(ort["flops"], tract["flops"]);
    }
}

#[test]
fn saved_scores_plan_any_budget() {
    let run = Run::new();
    let scores = run.path("scores.json");
    let first = run.prune("vit.onnx", &["--flops", "0.7", "--save-scores", &scores]);
    let again = run.prune("vit.onnx", &["--flops", "0.7", "--scores", &scores]);
    assert_eq!(first["dimensions"], again["dimensions"]);
    let smaller = run.prune("vit.onnx", &["--flops", "0.4", "--scores", &scores]);
    assert!(smaller["flops"]["after"].as_u64() < first["flops"]["after"].as_u64());
    // Other samples would have turned the heads otherwise.
    let (vit, calib, unwritten) = (fixture("vit.onnx"), fixture("calib.npz"), run.path("x.onnx"));
    let output = optin(&[
        vit.to_str().unwrap(),
        &unwritten,
        "--scores",
        &scores,
        "--calib",
        calib.to_str().unwrap(),
        "--samples",
        "8",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("the calibration data was 32 samples") && error.contains("is 8 samples"),
        "{error}"
    );
    let other = fixture("cnn.onnx");
    let output = optin(&[other.to_str().unwrap(), &run.path("x.onnx"), "--scores", &scores, "--synthetic"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the model (SHA-256)"));
}

#[test]
fn saved_scores_go_by_what_they_were_made_of_and_not_by_names() {
    let run = Run::new();
    let (scores, data) = (run.path("scores.json"), run.path("data.npz"));
    fs::copy(fixture("calib.npz"), &data).unwrap();
    let flags = ["--score", "wanda", "--recover", "off", "--granularity", "head", "--flops", "0.7"];
    run.prune("vit.onnx", &[&["--calib", data.as_str(), "--save-scores", &scores], &flags[..]].concat());
    let again = |extra: &[&str]| {
        let (vit, out) = (fixture("vit.onnx"), run.path("again.onnx"));
        let default = ["--calib", &data, "--samples", "32", "--recover", "off", "--granularity", "head"];
        // The last of two is an error for most flags: what `extra` gives is left out.
        let default = default.chunks(2).filter(|flag| !extra.contains(&flag[0])).flatten().copied();
        let args = [vit.to_str().unwrap(), &out, "--scores", &scores].into_iter().chain(default);
        let output = optin(&args.chain(extra.iter().copied()).collect::<Vec<_>>());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The same file by another path, and the same contents in another file.
    let roundabout = run.dir.path().join("../").join(run.dir.path().file_name().unwrap()).join("data.npz");
    for calib in [roundabout.to_str().unwrap(), fixture("calib.npz").to_str().unwrap()] {
        let (code, error) = again(&["--calib", calib]);
        assert_eq!(code, Some(0), "{error}");
    }
    for (extra, named) in [
        (["--score", "sketch"], "--score"),
        (["--lambda", "2"], "--lambda"),
        (["--probes", "3"], "--probes"),
        (["--seed", "3"], "--seed"),
        (["--logits", "logits"], "--logits"),
        (["--embedding", "logits"], "--embedding"),
        (["--granularity", "head-dim"], "--granularity"),
        (["--samples", "31"], "the calibration data"),
    ] {
        let (code, error) = again(&extra);
        assert_eq!(code, Some(2), "{extra:?}: {error}");
        assert!(error.contains(named) && error.contains("do not fit"), "{extra:?}: {error}");
    }
    // Other contents under the same name.
    let mut archive = ndarray_npy::NpzWriter::new(fs::File::create(&data).unwrap());
    archive.add_array("image", &ndarray::ArrayD::from_elem(vec![64, 1, 28, 28], 0.5f32)).unwrap();
    archive.finish().unwrap();
    let (code, error) = again(&[]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("the calibration data"), "{error}");
    // A file of an earlier version, and one of something else.
    for (contents, said) in [("{}", "format version 0"), ("[1]", "does not hold saved scores")] {
        fs::write(&scores, contents).unwrap();
        let (code, error) = again(&[]);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn scores_of_other_weights_in_the_same_graph_are_refused() {
    let run = Run::new();
    let (a, b, scores) = (run.path("a/m.onnx"), run.path("b/m.onnx"), run.path("s.json"));
    let mut model = onnx::load(&fixture("cnn.onnx")).unwrap().model;
    let save = |path: &str, model: &onnx::proto::ModelProto| {
        fs::create_dir(Path::new(path).parent().unwrap()).unwrap();
        // As exporters name it, so that both .onnx files are the same.
        onnx::save(model, path.as_ref(), true).unwrap();
        let mut raw =
            <onnx::proto::ModelProto as prost::Message>::decode(fs::read(path).unwrap().as_slice()).unwrap();
        let own = onnx::weight_files(path.as_ref()).remove(0);
        for tensor in &mut raw.graph.as_mut().unwrap().initializer {
            for entry in tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
                entry.value = Some("weights".into());
            }
        }
        fs::rename(own, Path::new(path).with_file_name("weights")).unwrap();
        fs::write(path, onnx::encode(&raw)).unwrap();
    };
    save(&a, &model);
    let weights =
        model.graph.as_mut().unwrap().initializer.iter_mut().find(|t| t.raw_data().len() >= 1024).unwrap();
    let mut bytes = weights.raw_data().to_vec();
    bytes[2] ^= 1;
    weights.raw_data = Some(bytes.into());
    save(&b, &model);
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    let plan = |model: &str, flag: &str| {
        let flags = ["--score", "magnitude", "--recover", "off", "--synthetic", "--dry-run", flag, &scores];
        optin(&[&[model], &flags[..]].concat())
    };
    assert!(plan(&a, "--save-scores").status.success());
    assert!(plan(&a, "--scores").status.success());
    let refused = plan(&b, "--scores");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the model (SHA-256)"));
}

#[test]
fn the_released_code_ranks_otherwise() {
    let ranking = |flag: &[&str]| {
        let run = Run::new();
        let scores = run.path("scores.json");
        let mut args = vec!["--samples", "4", "--kinds", "head", "--flops", "0.9", "--save-scores", &scores];
        args.extend(flag);
        run.prune("vit.onnx", &args);
        let scores: Value = serde_json::from_str(&fs::read_to_string(&scores).unwrap()).unwrap();
        assert_eq!(scores["score"], "exact");
        let heads = scores["dimensions"].as_array().unwrap().clone();
        assert!(heads.iter().all(|d| d["kind"] == "head" && d["scores"].as_array().unwrap().len() == 4));
        heads
    };
    assert_ne!(ranking(&["--score", "exact"]), ranking(&["--paper-quirks"]));
}

#[test]
fn layers_that_are_to_be_kept_stay() {
    let run = Run::new();
    let report = run.prune("vit.onnx", &["--flops", "0.8", "--keep", "blocks.0", "--kinds", "neuron"]);
    for d in report["dimensions"].as_array().unwrap() {
        let whole = d["kept"] == d["size"];
        let name = d["name"].as_str().unwrap();
        assert!(whole || (d["kind"] == "neuron" && !name.contains("blocks.0")), "{name}");
    }
}

#[test]
fn a_pruned_model_can_be_pruned_again() {
    for model in ["vit.onnx", "cnn.onnx"] {
        let (first, second) = (Run::new(), Run::new());
        first.prune(model, &["--flops", "0.8", "--samples", "2"]);
        let report = second.prune(&first.path("out.onnx"), &["--flops", "0.6", "--samples", "2"]);
        assert_eq!(report["proof"]["holds"], true);
        let pruned = optin_onnx::onnx::load(second.path("out.onnx").as_ref()).unwrap().model;
        let keys: Vec<_> = pruned.metadata_props.iter().map(|p| p.key().to_owned()).collect();
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len(), "{keys:?}");
        check_with_onnx(&second.path("out.onnx"));
    }
}

/// Initializers and constants that nothing in the file reads, counted without the program's own idea of it.
fn dead_weights(path: &str) -> Vec<String> {
    fn reads(graph: &GraphProto, read: &mut BTreeSet<String>) {
        read.extend(graph.output.iter().map(|output| output.name().to_owned()));
        for node in &graph.node {
            read.extend(node.input.iter().cloned());
            node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|g| reads(g, read));
        }
    }
    let graph = ModelProto::decode(fs::read(path).unwrap().as_slice()).unwrap().graph.unwrap();
    let mut read = BTreeSet::new();
    reads(&graph, &mut read);
    let constants = graph.node.iter().filter(|node| node.op_type() == "Constant");
    let names = graph.initializer.iter().map(|t| t.name()).chain(constants.map(|n| n.output[0].as_str()));
    names.filter(|name| !read.contains(*name)).map(str::to_owned).collect()
}

#[test]
fn no_dead_weights_are_written() {
    // The numbers of every weight but the first two are computed in the file, from constants that nothing needs afterwards.
    let mut model = onnx::load(&fixture("cnn.onnx")).unwrap().model;
    let graph = model.graph.as_mut().unwrap();
    let mut nodes = Vec::new();
    for tensor in graph.initializer.iter_mut().skip(2).filter(|t| onnx::is_float(t)) {
        let name = tensor.name().to_owned();
        tensor.name = Some(format!("{name}_stored"));
        nodes.push(NodeProto {
            op_type: Some("Neg".to_owned()),
            input: vec![format!("{name}_stored")],
            output: vec![name],
            ..Default::default()
        });
    }
    assert!(!nodes.is_empty());
    nodes.append(&mut graph.node);
    graph.node = nodes;
    // And one that nothing needed in the first place.
    graph
        .initializer
        .push(onnx::tensor::from_tensor("spare", &Tensor::f32(&[1000], vec![1.0; 1000]).unwrap()));
    let run = Run::new();
    let computed = run.path("computed.onnx");
    fs::write(&computed, onnx::encode(&model)).unwrap();
    assert_eq!(dead_weights(&computed), ["spare"]);
    for share in ["0.6", "0.99"] {
        let out = run.path("out.onnx");
        let output = optin(&[
            &computed,
            &out,
            "--flops",
            share,
            "--calib",
            fixture("calib.npz").to_str().unwrap(),
            "--samples",
            "16",
        ]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(dead_weights(&out), Vec::<String>::new(), "{share}");
        assert!(fs::metadata(&out).unwrap().len() < fs::metadata(&computed).unwrap().len(), "{share}");
    }
}

#[test]
fn failures_say_why_and_leave_the_old_output_alone() {
    let run = Run::new();
    let out = run.path("out.onnx");
    let old = fs::read(fixture("cnn.onnx")).unwrap();
    fs::write(&out, &old).unwrap();
    let vit = fixture("vit.onnx");
    let vit = vit.to_str().unwrap();
    let truncated = run.path("truncated.onnx");
    let bytes = fs::read(vit).unwrap();
    fs::write(&truncated, &bytes[..bytes.len() / 2]).unwrap();
    let text = run.path("text.onnx");
    fs::write(&text, "this is no model").unwrap();
    let labels = fixture("test.npz");
    let nowhere = run.path("missing/out.onnx");
    let cases: &[(&[&str], i32)] = &[
        (&[&truncated, &out], 2),
        (&[&text, &out], 2),
        (&[vit, &out, "--calib", labels.to_str().unwrap()], 2),
        (&[vit, &nowhere, "--samples", "2"], 2),
        (&[vit, &out, "--synthetic", "--samples", "2", "--flops", "0.001"], 2),
        (&[vit, vit], 2),
        (&[vit, &out, "--flops", "twice"], 2),
        (&[vit, &out, "--runtime", "ort", "--ort-lib", &nowhere], 2),
    ];
    for (args, code) in cases {
        let output = optin(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
        assert_eq!(fs::read(&out).unwrap(), old, "{args:?}");
    }
    let infeasible = optin(&[vit, &out, "--synthetic", "--samples", "2", "--flops", "0.001"]);
    assert!(String::from_utf8_lossy(&infeasible.stderr).contains("is the least that is reachable"));
}

/// The codes of the warnings of a report.
fn codes(report: &Value) -> Vec<&str> {
    report["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap()).collect()
}

#[test]
fn no_data_is_an_error_unless_made_up_inputs_are_asked_for() {
    let (run, vit) = (Run::new(), fixture("vit.onnx"));
    let (vit, out, report) = (vit.to_str().unwrap(), run.path("out.onnx"), run.path("report.json"));
    let output = optin(&[vit, &out, "-q"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    for part in ["--calib", "`image` float32 [batch, 1, 28, 28]", "vit.calib.npz", "--synthetic"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!Path::new(&out).exists());
    // Said, it is a warning that quiet does not hide. Weights alone need no data.
    for flags in [["--synthetic", "--runtime", "tract"], ["--score", "magnitude", "--threads=1"]] {
        let output =
            optin(&[&[vit, &out, "-q", "--recover", "off", "--report", &report], &flags[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        assert!(error.contains("warning[synthetic-data]"), "{error}");
        let report: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
        assert!(codes(&report).contains(&"synthetic-data"), "{report}");
    }
}

#[test]
fn data_beside_the_model_serve_the_bare_command() {
    let run = Run::new();
    let model = run.path("m.onnx");
    fs::copy(fixture("cnn.onnx"), &model).unwrap();
    fs::copy(fixture("calib.npz"), run.path("m.calib.npz")).unwrap();
    let output = optin(&[&model, &run.path("out.onnx")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("m.calib.npz"));
}

#[test]
fn data_that_cannot_tell_are_warned_of() {
    let run = Run::new();
    let write = |name: &str, images: ndarray::ArrayD<f32>| {
        let path = run.path(name);
        let mut archive = ndarray_npy::NpzWriter::new(fs::File::create(&path).unwrap());
        archive.add_array("image", &images).unwrap();
        archive.finish().unwrap();
        path
    };
    let zeros = write("zeros.npz", ndarray::ArrayD::zeros(vec![32, 1, 28, 28]));
    let huge = ndarray::ArrayD::from_shape_fn(vec![32, 1, 28, 28], |i| {
        if (i[0] + i[2] * i[3]) % 3 == 0 { 1e30 } else { -1e30 }
    });
    let huge = write("huge.npz", huge);
    for (calib, expected) in [(&zeros, "constant-samples"), (&huge, "constant-outputs")] {
        let report = run.prune("vit.onnx", &["--calib", calib, "--recover", "off", "--score", "wanda"]);
        assert!(codes(&report).contains(&expected), "{calib}: {report}");
    }
    let few = run.prune("vit.onnx", &["--samples", "2", "--recover", "off", "--score", "wanda"]);
    assert_eq!(codes(&few), ["few-samples"]);
}

/// Exit code and error of a run on the ViT with made-up inputs, which is not to get far.
fn refused(flags: &[&str]) -> String {
    let (run, vit) = (Run::new(), fixture("vit.onnx"));
    let output = optin(&[&[vit.to_str().unwrap(), &run.path("out.onnx"), "--synthetic"], flags].concat());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{flags:?}: {error}");
    assert_eq!(fs::read_dir(run.dir.path()).unwrap().count(), 0, "{flags:?}");
    error
}

#[test]
fn a_name_that_matches_no_layer_is_an_error_with_the_nearest_names() {
    for flag in ["--keep", "--only"] {
        let error = refused(&[flag, "blocks.1/atn/qkv$"]);
        assert!(error.contains(flag) && error.contains("blocks/blocks.1/attn/qkv"), "{error}");
    }
    let error = refused(&["--keep", "*head*"]);
    assert!(error.contains("did you mean `.*head.*`?"), "{error}");
    // An axis that cannot shrink anyway may be kept.
    let run = Run::new();
    run.prune("vit.onnx", &["--keep", "head", "--score", "magnitude", "--recover", "off", "--flops", "0.9"]);
}

#[test]
fn the_reason_for_an_unreachable_budget_names_the_flags_that_hold_it() {
    for (flags, named) in [
        (vec!["--only", "blocks.0"], vec!["--only"]),
        (vec!["--max-prune", "10%"], vec!["--max-prune"]),
        (vec!["--kinds", "head", "--keep", "blocks"], vec!["--keep", "--kinds"]),
    ] {
        let error = refused(&[&["--flops", "0.3"], flags.as_slice()].concat());
        assert!(error.contains("what holds it is"), "{error}");
        for flag in ["--only", "--max-prune", "--kinds", "--keep"] {
            assert_eq!(error.contains(flag), named.contains(&flag), "{flag}: {error}");
        }
    }
    let model_alone = refused(&["--flops", "0.001"]);
    assert!(model_alone.contains("what keeps its extent does so because"), "{model_alone}");
}

#[test]
fn a_budget_that_leaves_nothing_to_prune_is_an_error() {
    for budget in ["4.2G", "1", "100%"] {
        let error = refused(&["--flops", budget]);
        assert!(error.contains("leaves nothing to prune"), "{budget}: {error}");
    }
    for (budget, said) in
        [("1.5", "a share is at most 1"), ("50", "did you mean 50%?"), ("-0.5", "is not a budget")]
    {
        for flag in ["--flops", "--macs", "--params"] {
            let error = refused(&[flag, budget]);
            assert!(error.contains(said), "{budget}: {error}");
        }
    }
    for (budget, said) in [("-50%", "is not a budget"), ("150%", "at most 1"), ("0.7,0.5", "save its scores")]
    {
        let error = refused(&["--flops", budget]);
        assert!(error.contains(said), "{budget}: {error}");
    }
}

#[test]
fn multiply_accumulates_count_half_of_flops() {
    let (flops, macs) = (refused(&["--flops", "1000"]), refused(&["--macs", "500"]));
    assert_eq!(flops, macs);
    assert!(flops.contains("the budget of 1000 FLOPs"), "{flops}");
}

#[test]
fn what_an_output_is_said_to_hold_changes_the_scores() {
    let scores = |said: &[&str]| -> Value {
        let (run, vit, calib) = (Run::new(), fixture("vit.onnx"), fixture("calib.npz"));
        let saved = run.path("s.json");
        let args = [vit.to_str().unwrap(), "--dry-run", "--calib", calib.to_str().unwrap(), "--samples", "4"];
        let output = optin(&[&args, &["--probes", "2", "--save-scores", &saved][..], said].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let scores: Value = serde_json::from_str(&fs::read_to_string(saved).unwrap()).unwrap();
        scores["dimensions"].clone()
    };
    let found = scores(&[]);
    assert_eq!(found, scores(&["--logits", "logits"]));
    assert_ne!(found, scores(&["--embedding", "logits"]));
}

#[test]
fn an_output_that_there_is_not_holds_no_logits() {
    let error = refused(&["--logits", "logit"]);
    assert!(error.contains("`logit` is no output of the model; its outputs are logits"), "{error}");
}

#[test]
fn large_numbers_are_taken_as_they_are_or_refused() {
    for align in ["1000000000000", "18446744073709551615"] {
        let error = refused(&["--align", align]);
        assert!(error.contains("what holds it is --align"), "{error}");
    }
    for (flag, number) in [("--threads", "99999999"), ("--threads", "-1"), ("--seed", "-1")] {
        let error = refused(&[flag, number]);
        assert!(error.contains("is not a whole number from 0 to"), "{error}");
    }
    for flag in ["--max-prune", "--memory"] {
        let error = refused(&[flag, "-50%"]);
        assert!(error.contains("`-50%` is not a s"), "{error}");
    }
}

#[test]
fn names_that_other_tools_give_to_the_same_are_taken() {
    let error = refused(&["--budget", "0.3", "--exclude", "blocks", "--round-to", "1"]);
    assert!(error.contains("what holds it is --keep"), "{error}");
}

#[test]
fn numbers_that_ask_for_nothing_are_refused_and_not_rounded_up() {
    for flag in ["--align", "--batch", "--probes", "--samples"] {
        for number in ["0", "-1"] {
            let error = refused(&[flag, number]);
            assert!(error.contains("from 1 on"), "{flag} {number}: {error}");
        }
    }
    let error = refused(&["--samples", "1000000"]);
    assert!(error.contains("made-up samples"), "{error}");
}

#[test]
fn the_output_may_be_named_by_a_flag_and_pruning_by_a_word() {
    let run = Run::new();
    let (cnn, out) = (fixture("cnn.onnx"), run.path("out.onnx"));
    for args in [
        vec![cnn.to_str().unwrap(), "-o", &out],
        vec!["prune", cnn.to_str().unwrap(), "--output", &out],
        vec!["prune", cnn.to_str().unwrap(), &out, "--logits", "logits"],
    ] {
        let flags = ["--synthetic", "--score", "magnitude", "--recover", "off"];
        let output = optin(&[args.as_slice(), &flags].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn files_of_other_formats_are_recognised() {
    let run = Run::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = run.path(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    for (path, said) in [
        (file("a.pt", b"PK\x03\x04and the rest"), "torch.onnx.export"),
        (file("b.pt", b"\x80\x02}q\x00."), "torch.onnx.export"),
        (file("c.safetensors", &safetensors), "safetensors"),
        (file("d.h5", b"\x89HDF\r\n\x1a\n"), "tf2onnx"),
        (file("e.tflite", b"\x1c\0\0\0TFL3\0\0"), "tf2onnx"),
        (file("f.onnx.gz", b"\x1f\x8b\x08\0"), "gzip"),
    ] {
        let output = optin(&[&path, &run.path("out.onnx"), "--synthetic"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(said) && !error.contains("Protobuf"), "{path}: {error}");
    }
}

#[test]
fn budgets_of_several_costs_hold_together_on_the_written_file() {
    let flags = ["--flops", "0.7", "--params", "0.6", "--bytes", "230k", "--align", "1", "--score", "wanda"];
    for recover in ["off", "refit"] {
        let run = Run::new();
        let report = run.prune("cnn.onnx", &[&flags[..], &["--recover", recover]].concat());
        let [flops, params, bytes] = ["flops", "params", "bytes"].map(|id| {
            let after = report[id]["after"].as_u64().unwrap();
            assert_eq!(report["gate"][id], after, "{id}");
            (after as f64 / report[id]["before"].as_f64().unwrap(), after)
        });
        assert!(flops.0 <= 0.7 && params.0 <= 0.6 && bytes.1 <= 230_000, "{flops:?} {params:?} {bytes:?}");
        assert_eq!(fs::metadata(run.path("out.onnx")).unwrap().len(), bytes.1);
        // One of them is what holds the rest back.
        assert!(params.0 > 0.59 || bytes.1 > 227_000, "{params:?} {bytes:?}");
        let noted = onnx::load(Path::new(&run.path("out.onnx"))).unwrap().model.metadata_props;
        let budget = noted.iter().find(|p| p.key() == "optin-onnx.budget").unwrap();
        assert_eq!(budget.value(), "flops 70%, params 60%, bytes 230000");
    }
}

#[test]
fn a_budget_of_bytes_counts_external_data() {
    let run = Run::new();
    let (dense, out) = (run.path("dense.onnx"), run.path("out.onnx"));
    let model = onnx::load(&fixture("vit.onnx")).unwrap().model;
    onnx::save(&model, dense.as_ref(), true).unwrap();
    let flags = ["--bytes", "500k", "--score", "magnitude", "--recover", "off", "--synthetic"];
    let output = optin(&[&[&dense[..], &out], &flags[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = onnx::weight_files(out.as_ref()).into_iter().chain([PathBuf::from(&out)]);
    let bytes: Vec<u64> = files.map(|file| fs::metadata(file).unwrap().len()).collect();
    let total = bytes.iter().sum::<u64>();
    assert!(bytes.len() == 2 && (480_000..=500_000).contains(&total), "{bytes:?}");
}

#[test]
fn every_budget_that_cannot_be_met_is_named() {
    for (flags, unit) in [
        (["--flops", "0.5", "--params", "0.001"], "parameters"),
        (["--flops", "0.001", "--params", "0.5"], "FLOPs"),
        (["--flops", "0.5", "--bytes", "10k"], "bytes"),
    ] {
        let error = refused(&flags);
        assert!(error.contains(&format!("{unit} cannot be met")), "{error}");
    }
    let idle = refused(&["--flops", "1", "--bytes", "100%"]);
    assert!(idle.contains("leave nothing to prune") && idle.contains("872753 bytes"), "{idle}");
}

#[test]
fn a_dry_run_tells_what_is_planned() {
    let (run, input, calib) = (Run::new(), fixture("vit.onnx"), fixture("calib.npz"));
    let (input, calib) = (input.to_str().unwrap(), calib.to_str().unwrap());
    let flags = ["--calib", calib, "--score", "magnitude", "--samples", "16", "--recover", "off"];
    let output = optin(&[&[input, "--dry-run"], &flags[..]].concat());
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let row: Vec<_> =
        text.lines().find(|line| line.starts_with(" bytes")).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["bytes", "872.753", "k"], "{text}");
    // Of the file it tells nearly what it is: what is around the weights shrinks a little.
    let report = run.prune("vit.onnx", &flags);
    let (planned, found) = (row[3].parse::<f64>().unwrap() * 1e3, report["bytes"]["after"].as_f64().unwrap());
    assert!((planned - found).abs() < 0.01 * found, "{planned} {found}");
}

#[test]
fn the_number_of_samples_is_said() {
    let run = Run::new();
    let (cnn, calib, out) = (fixture("cnn.onnx"), fixture("calib.npz"), run.path("out.onnx"));
    let flags = ["--score", "magnitude", "--recover", "off", "--samples", "100000"];
    let args = [cnn.to_str().unwrap(), &out, "--calib", calib.to_str().unwrap()];
    let output = optin(&[&args, &flags[..]].concat());
    assert!(output.status.success());
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(err.contains("calibration: 128 samples"), "{err}");
    assert!(out.contains("100000 samples were asked for, and there are 128"), "{out}");
}
