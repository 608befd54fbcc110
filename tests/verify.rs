//! What counts as the same model, and what does not.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzWriter;
use optin_onnx::{
    calibration::Samples,
    gate::{GateError, Gatekeeper},
    graph::{Graph, Patch},
    onnx::{
        self,
        proto::{ModelProto, tensor_shape_proto::dimension, type_proto},
        tensor::{from_tensor, to_tensor},
    },
    plan::{Bounds, Budget, Budgets, CostView, Costs, Limits, PerCost, cost::Bytes},
    runtime::RuntimeChoice,
    tensor::Tensor,
    typing::Granularity,
    verify::{TOLERANCE, verify},
};
use support::{Subject, engine, text};

/// Picks the entries of the two largest of four sums, of which the first lies `ahead` of the second.
fn chooses(ahead: &str, output: &str) -> Subject {
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : 17]>
        chooses (float[N, 4] x) => ({output})
        <float[4] none = {{0.0, 0.0, 0.0, 0.0}}, float[4] sums = {{{ahead}, 1.0, 2.0, 0.0}}, int64[1] two = {{2}}>
        {{
            nothing = Mul (x, none)
            s = Add (nothing, sums)
            values, places = TopK <axis = 1> (s, two)
            y = GatherElements <axis = 1> (x, places)
        }}"#
    );
    Subject::new(&*engine(RuntimeChoice::Tract), text::parse(&text).unwrap().0).unwrap()
}

/// The largest difference of an output between models in which one or the other sum is the larger.
fn difference(a: &str, b: &str, output: &str) -> f64 {
    let engine = engine(RuntimeChoice::Tract);
    let (masked, pruned) = (chooses(a, output), chooses(b, output));
    let proof = verify(&*engine, &masked.model, &pruned.model, &masked.samples, 2, 0).unwrap();
    proof.outputs.iter().map(|o| o.difference).fold(0.0, f64::max)
}

#[test]
fn rounding_may_tip_a_choice_but_not_what_is_chosen_from() {
    for output in ["float[N, 2] y", "int64[N, 2] places"] {
        assert_eq!(difference("1.000001", "1.000001", output), 0.0);
        assert!(difference("1.000001", "0.999999", output) <= TOLERANCE);
        assert!(difference("1.01", "0.99", output) > TOLERANCE);
    }
}

/// Numbers that look random.
fn noise(shape: &[usize]) -> ArrayD<f32> {
    let mut state = 1u32;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// A model of sequences on noise.
fn sequences(nodes: &str, length: usize) -> Subject {
    let zeros = vec!["0.0"; 6 * length].join(", ");
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : 17]>
        sequences (float[N, S, 6] x) => (float[N, S, 6] y)
        <float[6, 16] w1 = random, float[16, 6] w2 = random, float[{length}, 6] positions = {{{zeros}}}>
        {{
            {nodes}
        }}"#
    );
    let mut model = text::parse(&text).unwrap().0;
    onnx::validate(&mut model).unwrap();
    let samples = vec![("x".to_owned(), Tensor::F32(noise(&[4, length, 6])))];
    let samples = Samples::new(&model, samples).unwrap();
    Subject::typed(&*engine(RuntimeChoice::Tract), model, samples, Granularity::Head).unwrap()
}

const PLAIN: &str = "f = Identity (x)  a = MatMul (f, w1)  r = Relu (a)  y = MatMul (r, w2)";

/// The same at the length of the samples, and at no other.
const FIXED: &str = "f = Add (x, positions)  a = MatMul (f, w1)  r = Relu (a)  y = MatMul (r, w2)";

#[test]
fn a_constant_that_holds_for_one_length_alone_is_found_out() {
    let engine = engine(RuntimeChoice::Tract);
    let masked = sequences(PLAIN, 8);
    let same = verify(&*engine, &masked.model, &masked.model, &masked.samples, 2, 0).unwrap();
    assert!(same.holds);
    assert_eq!(same.extents.iter().map(|e| (e.axis.as_str(), e.extent)).collect::<Vec<_>>(), [("S", 4)]);
    assert_eq!(same.fixed, [""; 0]);
    let fixed = sequences(FIXED, 8);
    let found = verify(&*engine, &masked.model, &fixed.model, &masked.samples, 2, 0);
    assert!(!found.is_ok_and(|proof| proof.holds));
    // Where the original takes one length only, the axis is fixed in practice.
    let proof = verify(&*engine, &fixed.model, &fixed.model, &masked.samples, 2, 0).unwrap();
    assert!(proof.holds);
    assert_eq!((proof.extents.len(), proof.fixed), (0, vec!["S".to_owned()]));
}

/// The gate's word on a dense model as `edit` leaves it.
fn tried(
    subject: &Subject,
    edit: impl Fn(&mut ModelProto),
    flops: i64,
) -> Result<optin_onnx::gate::Gate, GateError> {
    tried_within(subject, edit, flops, &Bounds::default())
}

/// The same, where it may not cost more than `bounds`.
fn tried_within(
    subject: &Subject,
    edit: impl Fn(&mut ModelProto),
    flops: i64,
    bounds: &Bounds,
) -> Result<optin_onnx::gate::Gate, GateError> {
    let engine = engine(RuntimeChoice::Tract);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, "old").unwrap();
    let mut model = subject.model.clone();
    edit(&mut model);
    let staged = onnx::stage(&model, &path, false).unwrap();
    let sizes: Vec<usize> = subject.dimensions.prunable.iter().map(|d| d.size).collect();
    let planned = PerCost::of(|model| {
        let count = subject.cost(model.id()).total(&sizes);
        if model.is_exact() { count.checked_add_signed(flops).unwrap() } else { count }
    });
    let keeper = Gatekeeper::new(&*engine, subject.view(2), 2).unwrap();
    let all: Vec<_> = subject.samples.ranges(2).collect();
    let read = onnx::load(&staged.path()).map_err(GateError::Onnx);
    let gate = read.and_then(|read| keeper.check(&read.model, staged.bytes(), &planned, bounds, &[], &all));
    drop(staged);
    // Nothing has come or gone.
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    gate
}

fn weight(model: &mut ModelProto, name: &str, edit: impl Fn(&mut ArrayD<f32>)) {
    let tensors = &mut model.graph.as_mut().unwrap().initializer;
    let tensor = tensors.iter_mut().find(|t| t.name() == name).unwrap();
    let mut numbers = to_tensor(tensor).unwrap().to_f32().unwrap();
    edit(&mut numbers);
    *tensor = from_tensor(name, &Tensor::F32(numbers));
}

#[test]
fn nothing_passes_the_gate_but_what_was_planned() {
    let subject = sequences(PLAIN, 8);
    let gate = tried(&subject, |_| {}, 0).unwrap();
    assert_eq!((gate.batches, gate.outputs, gate.distance), (vec![1, 2], 1, Some(0.0)));
    assert_eq!(gate.extents.iter().map(|e| e.extent).collect::<Vec<_>>(), [4]);

    let nan = |model: &mut ModelProto| weight(model, "w2", |w| w[[0, 0]] = f32::NAN);
    let found = tried(&subject, nan, 0);
    assert!(matches!(&found, Err(GateError::NotFinite { output, .. }) if output == "y"), "{found:?}");

    let wider = |model: &mut ModelProto| weight(model, "w2", |w| *w = noise(&[16, 7]));
    let found = tried(&subject, wider, 0);
    assert!(matches!(&found, Err(GateError::Shape { output, .. }) if output == "y"), "{found:?}");

    let misdeclared = |model: &mut ModelProto| {
        let output = &mut model.graph.as_mut().unwrap().output[0];
        let Some(type_proto::Value::TensorType(tensor)) = output.r#type.as_mut().unwrap().value.as_mut()
        else {
            panic!("no tensor")
        };
        tensor.shape.as_mut().unwrap().dim[2].value = Some(dimension::Value::DimValue(5));
    };
    let found = tried(&subject, misdeclared, 0);
    assert!(matches!(&found, Err(GateError::Declared { .. })), "{found:?}");

    let found = tried(&subject, |_| {}, 2);
    assert!(matches!(&found, Err(GateError::Cost { unit: "FLOPs", .. })), "{found:?}");

    let bytes = onnx::encode(&subject.model).len() as u64;
    let (view, limits) = (CostView::new(subject.view(2), bytes), Limits { align: 1, ..Limits::default() });
    let costs = Costs::new(&view, &subject.dimensions, &limits);
    let bounds = costs.bounds(&Budgets::one(&Bytes, Budget::Absolute(bytes as f64 - 1.0))).unwrap();
    let found = tried_within(&subject, |_| {}, 0, &bounds).unwrap_err();
    assert!(matches!(found, GateError::OverBudget(over) if (over.unit, over.found) == ("bytes", bytes)));
    assert!(found.to_string().contains(&format!("where the budget is {}", bytes - 1)), "{found}");

    let fixed = sequences(FIXED, 8).model;
    let found = tried(&subject, |model| *model = fixed.clone(), 0);
    assert!(matches!(&found, Err(GateError::Runtime(_) | GateError::Shape { .. })), "{found:?}");

    let unknown = |model: &mut ModelProto| model.graph.as_mut().unwrap().node[0].input[0] = "gone".to_owned();
    assert!(tried(&subject, unknown, 0).is_err());
}

/// Runs the program on a model and samples, and returns how it ended and the folder with `out.onnx` and `report.json`.
fn run(text: &str, x: &ArrayD<f32>, flags: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut model = text::parse(text).unwrap().0;
    onnx::validate(&mut model).unwrap();
    onnx::save(&model, Path::new(&path("in.onnx")), false).unwrap();
    let mut samples = NpzWriter::new(fs::File::create(path("x.npz")).unwrap());
    samples.add_array("x", x).unwrap();
    samples.finish().unwrap();
    let [input, output, calib, report] = ["in.onnx", "out.onnx", "x.npz", "report.json"].map(path);
    let run = Command::new(env!("CARGO_BIN_EXE_optin-onnx"))
        .args([&input, &output, "--calib", &calib, "--report", &report, "--align", "1"])
        .args(flags)
        .output()
        .unwrap();
    (run, folder)
}

/// Runs the program to its end, and returns its report, what it said, and the folder with `out.onnx`.
fn pruned(text: &str, x: &ArrayD<f32>, flags: &[&str]) -> (serde_json::Value, String, tempfile::TempDir) {
    let (run, folder) = run(text, x, flags);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{said}");
    let report = fs::read_to_string(folder.path().join("report.json")).unwrap();
    (serde_json::from_str(&report).unwrap(), said, folder)
}

#[test]
fn a_dimension_that_cannot_be_proven_is_frozen_and_the_rest_is_planned_anew() {
    // The sine of a large number is another one as soon as rounding changes: no proof holds without some of what is added up.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        chaos (float[N, S, 6] x) => (float[N, S, 5] y)
        <float[6, 64] w1 = random, float[6, 48] w2 = random, float[48, 5] w3 = random,
         float large = {10000000.0}, int64[1] two = {2}>
        {
            h = MatMul (x, w1)
            sum = ReduceSum <keepdims = 1> (h, two)
            scaled = Mul (sum, large)
            wild = Sin (scaled)
            g = MatMul (x, w2)
            r = Relu (g)
            o = MatMul (r, w3)
            y = Add (o, wild)
        }"#;
    let (report, said, _folder) =
        pruned(text, &noise(&[32, 4, 6]), &["--flops", "0.6", "--score", "magnitude"]);
    assert_eq!(report["proof"]["holds"], true);
    let pinned = report["pinned"].as_array().unwrap();
    let frozen: Vec<_> = pinned.iter().filter(|p| p.to_string().contains("unproven")).collect();
    assert_eq!(frozen.len(), 1, "{pinned:?} {said}");
    assert!(said.contains("warning[frozen-dimension]"), "{said}");
    assert!(report["warnings"].to_string().contains("frozen-dimension"));
    let flops = &report["flops"];
    assert!(flops["after"].as_u64().unwrap() * 10 <= flops["before"].as_u64().unwrap() * 6);
    assert_eq!(report["gate"]["flops"], flops["after"]);
}

#[test]
fn layers_that_share_a_matrix_lose_the_same_units_and_share_it_still() {
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        shared (float[N, 16] x) => (float[N, 16] y)
        <float[16, 64] up = random, float[64, 16] down = random>
        {
            a = MatMul (x, up)
            b = Relu (a)
            c = MatMul (b, down)
            d = Add (x, c)
            e = MatMul (d, up)
            f = Relu (e)
            g = MatMul (f, down)
            y = Add (d, g)
        }"#;
    let flags = ["--flops", "0.6", "--score", "magnitude", "--recover", "off"];
    let (report, said, folder) = pruned(text, &noise(&[32, 16]), &flags);
    assert_eq!(report["proof"]["holds"], true, "{said}");
    let written = onnx::load(&folder.path().join("out.onnx")).unwrap().model;
    let kept: Vec<_> = report["dimensions"].as_array().unwrap().iter().map(|d| d["kept"].as_u64()).collect();
    assert!(kept.len() == 2 && kept[0] == kept[1], "{kept:?}");
    assert_eq!(written.graph.unwrap().initializer.len(), 2, "each is there once");
    assert!(report["bytes"]["after"].as_u64() < report["bytes"]["before"].as_u64());
}

#[test]
fn a_model_that_would_grow_is_not_written() {
    // The one matrix loses columns where it comes first and rows where it comes last: two of 64 × 48 take more than one of 64 × 64.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        twice (float[N, 64] x) => (float[N, 64] y)
        <float[64, 64] w = random>
        {
            a = MatMul (x, w)
            b = Relu (a)
            y = MatMul (b, w)
        }"#;
    let flags = ["--flops", "0.8", "--score", "magnitude", "--recover", "off"];
    let (output, folder) = run(text, &noise(&[32, 64]), &flags);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("where the dense one takes"), "{said}");
    assert!(!folder.path().join("out.onnx").exists());
}

#[test]
fn a_dimension_that_would_make_the_model_larger_is_frozen_and_the_rest_is_planned_anew() {
    // The one matrix is an output too, so that pruning needs a copy of it.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        returned (float[N, 16] x) => (float[N, 4] y, float[16, 256] w)
        <float[16, 256] v = random, float[256, 4] v2 = random, float[16, 256] u = random, float[256, 4] u2 = random>
        {
            w = Identity (v)
            a = MatMul (x, v)
            b = Relu (a)
            c = MatMul (b, v2)
            d = MatMul (x, u)
            e = Relu (d)
            f = MatMul (e, u2)
            y = Add (c, f)
        }"#;
    let flags = ["--flops", "0.7", "--score", "magnitude", "--recover", "off"];
    let (report, said, folder) = pruned(text, &noise(&[32, 16]), &flags);
    assert!(said.contains("warning[frozen-dimension]: a keeps its extent"), "{said}");
    assert!(said.contains("where the dense one takes"), "{said}");
    assert!(report["bytes"]["after"].as_u64() < report["bytes"]["before"].as_u64());
    let extents = |name: &str| {
        let model = onnx::load(&folder.path().join("out.onnx")).unwrap().model;
        let tensor = model.graph.unwrap().initializer.into_iter().find(|t| t.name() == name);
        tensor.unwrap().dims
    };
    assert_eq!(extents("v"), [16, 256]);
    assert!(extents("u")[1] < 128, "{said}");
}

#[test]
fn a_model_of_a_few_weights_is_no_larger_for_its_description() {
    let text = "few (float[N, 8] x) => (float[N, 4] y) <float[8, 8] v = random, float[8, 4] w = random>
        { a = MatMul (x, v) b = Relu (a) y = MatMul (b, w) }";
    let flags = ["--flops", "0.9", "--score", "magnitude", "--recover", "off"];
    let (report, _, folder) = pruned(text, &noise(&[32, 8]), &flags);
    assert!(report["bytes"]["after"].as_u64() <= report["bytes"]["before"].as_u64(), "{}", report["bytes"]);
    assert_eq!(onnx::load(&folder.path().join("out.onnx")).unwrap().model.metadata_props, []);
}

#[test]
fn a_recovery_that_does_not_pass_the_gate_is_undone() {
    // The bias that recovery would add takes more than the one unit that goes.
    let text = "few (float[N, 8] x) => (float[N, 2] y) <float[8, 16] v = random, float[16, 2] w = random>
        { a = MatMul (x, v) b = Relu (a) y = MatMul (b, w) }";
    let (report, said, folder) = pruned(text, &noise(&[64, 8]), &["--flops", "0.94"]);
    assert!(said.contains("warning[recovery-failed]: recovery was undone"), "{said}");
    assert_eq!((&report["recovery"]["undone"], &report["recovery"]["added"]), (&true.into(), &0.into()));
    // What is written and reported is the model as it was proven.
    let graph = onnx::load(&folder.path().join("out.onnx")).unwrap().model.graph.unwrap();
    assert_eq!(graph.node.len(), 3);
    assert_eq!(report["params"]["after"], 15 * 10);
    assert_eq!(report["gate"]["distance"], report["recovery"]["before"]);
    assert!(report["bytes"]["after"].as_u64() <= report["bytes"]["before"].as_u64());
}

#[test]
fn an_axis_that_squeeze_would_take_away_keeps_two_entries() {
    // Without a list Squeeze takes the batch too, where that is one.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        squeezed (float[N, 1, 16] x) => (float[N, 4] y)
        <float[16, 6] v = random, float[6, 4] w = random>
        {
            a = MatMul (x, v)
            b = Relu (a)
            s = Squeeze (b)
            y = MatMul (s, w)
        }"#;
    let x = noise(&[32, 1, 16]);
    let (report, said, _folder) = pruned(text, &x, &["--flops", "0.34", "--score", "magnitude"]);
    assert_eq!(report["dimensions"][0]["kept"], 2, "{said}");
    assert_eq!(report["gate"]["batches"], serde_json::json!([1, 2]));
    let (output, _) = run(text, &x, &["--flops", "0.3", "--score", "magnitude"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn outputs_without_samples_do_not_keep_the_others_from_being_scored() {
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        tables (float[N, S, 16] x) => (float[N, S, 4] y, float[K, L] table, float[S, 8] positions, float[4, 4] gram)
        <float[16, 64] v = random, float[64, 4] w = random, float[6, 10] k = random, float[1, 8] p = random,
         int64 zero = {0}, int64 one = {1}, int64[1] last = {1}, int64[2] rows = {-1, 4}>
        {
            a = MatMul (x, v)
            b = Relu (a)
            y = MatMul (b, w)
            table = Mul (k, k)
            extents = Shape (x)
            length = Gather (extents, one)
            counted = Range (zero, length, one)
            numbers = Cast <to = 1> (counted)
            column = Unsqueeze (numbers, last)
            positions = MatMul (column, p)
            flat = Reshape (y, rows)
            turned = Transpose <perm = [1, 0]> (flat)
            gram = MatMul (turned, flat)
        }"#;
    // As many positions as samples are observed at once.
    for length in [2, 5] {
        let (report, said, _folder) = pruned(text, &noise(&[32, length, 16]), &["--flops", "0.7"]);
        assert_eq!(report["proof"]["holds"], true, "{said}");
        assert_eq!(report["score"], "sketch");
    }
}

#[test]
fn new_values_have_no_name_that_a_subgraph_has() {
    let text = r#"named (float[N, 2] x, bool c) => (float[N, 2] y)
        <float[2, 2] w = random>
        {
            h = MatMul (x, w)
            y = If <
                then_branch = yes () => (float[N, 2] t) {
                    t = If <
                        then_branch = inner () => (float[N, 2] optin_1_shape) { optin_1_shape = Relu (h) },
                        else_branch = other () => (float[N, 2] v) { v = Exp (h) }
                    > (c)
                },
                else_branch = no () => (float[N, 2] optin_2_shape) { optin_2_shape = Tanh (h) }
            > (c)
        }"#;
    let graph = Graph::new(&text::parse(text).unwrap().0);
    assert_eq!(Patch::default().fresh(&graph, "shape"), "optin_3_shape");
}

#[test]
fn half_precision_is_pruned_proven_and_recovered() {
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        half (float16[N, 24] x) => (float16[N, 10] logits)
        <float16[24, 96] w1 = random, float16[96] b1 = random, float16[96, 64] w2 = random, float16[64, 10] w3 = random>
        {
            a = MatMul (x, w1)
            c = Add (a, b1)
            d = Relu (c)
            e = MatMul (d, w2)
            f = Relu (e)
            logits = MatMul (f, w3)
        }"#;
    let (report, said, folder) = pruned(text, &noise(&[64, 24]), &["--flops", "0.5"]);
    assert_eq!(report["proof"]["holds"], true, "{said}");
    assert_eq!(
        (&report["recovery"]["undone"], report["recovery"]["mode"].as_str()),
        (&false.into(), Some("refit"))
    );
    let distance = report["gate"]["distance"].as_f64().unwrap();
    assert!(distance < report["recovery"]["before"].as_f64().unwrap());
    let model = onnx::load(&folder.path().join("out.onnx")).unwrap().model;
    let types = model.graph.as_ref().unwrap().initializer.iter().map(|t| t.data_type()).collect::<Vec<_>>();
    assert!(types.iter().all(|code| *code == 10), "{types:?}");
}
