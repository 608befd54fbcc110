//! Both engines on small models: they agree with the arithmetic and with each other, and refuse what does not fit.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::PathBuf;

use half::f16;
use ndarray::{ArrayD, IxDyn};
use optin_onnx::{
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
        TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
    },
    runtime::{Engine, Provider, RuntimeChoice, RuntimeError, RuntimeOptions, locate, open},
    tensor::{DType, Tensor},
};

const TOLERANCE: f32 = 1e-5;

// Models ----------------------------------------------------------------------------------------------------------

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&n| n.to_owned()).collect(),
        output: outputs.iter().map(|&n| n.to_owned()).collect(),
        ..Default::default()
    }
}

fn with_int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    let mut attribute = AttributeProto { name: Some(name.to_owned()), i: Some(value), ..Default::default() };
    attribute.set_type(AttributeType::Int);
    node.attribute.push(attribute);
    node
}

/// A tensor type; a negative extent is the symbol `N`.
fn value(name: &str, dtype: DType, shape: &[i64]) -> ValueInfoProto {
    let dim = |&extent: &i64| tensor_shape_proto::Dimension {
        value: Some(match extent {
            ..0 => tensor_shape_proto::dimension::Value::DimParam("N".to_owned()),
            _ => tensor_shape_proto::dimension::Value::DimValue(extent),
        }),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(dtype.onnx()),
        shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..Default::default() }
}

fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..Default::default() }
}

fn weights(name: &str, shape: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: shape.to_vec(),
        data_type: Some(DType::F32.onnx()),
        raw_data: Some(data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into()),
        ..Default::default()
    }
}

fn ints(name: &str, data: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: vec![data.len() as i64],
        data_type: Some(DType::I64.onnx()),
        int64_data: data.to_vec(),
        ..Default::default()
    }
}

fn model(
    inputs: Vec<ValueInfoProto>,
    initializers: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    outputs: Vec<ValueInfoProto>,
) -> ModelProto {
    let graph = GraphProto {
        name: Some("test".to_owned()),
        node: nodes,
        initializer: initializers,
        input: inputs,
        output: outputs,
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// `Relu(x W + b)` for `x [N, 3]`.
fn linear() -> ModelProto {
    model(
        vec![value("x", DType::F32, &[-1, 3])],
        vec![weights("w", &[3, 2], &[1.0, -1.0, 0.5, 2.0, -3.0, 0.25]), weights("b", &[2], &[0.5, -0.5])],
        vec![
            node("MatMul", &["x", "w"], &["xw"]),
            node("Add", &["xw", "b"], &["a"]),
            node("Relu", &["a"], &["y"]),
        ],
        vec![value("y", DType::F32, &[-1, 2])],
    )
}

fn batch(rows: usize) -> Tensor {
    Tensor::f32(&[rows, 3], (0..rows * 3).map(|i| i as f32 * 0.5 - 1.0).collect()).unwrap()
}

fn feed(name: &str, tensor: Tensor) -> Vec<(String, Tensor)> {
    vec![(name.to_owned(), tensor)]
}

// Engines ---------------------------------------------------------------------------------------------------------

fn options(runtime: RuntimeChoice) -> RuntimeOptions {
    RuntimeOptions { runtime, provider: Provider::Cpu, threads: 1, ort_lib: None }
}

/// ONNX Runtime where there is one; where OPTIN_REQUIRE_ORT is set, there must be.
fn onnx_runtime() -> Option<Box<dyn Engine>> {
    match open(&options(RuntimeChoice::Ort)) {
        Ok(engine) => Some(engine),
        Err(RuntimeError::NotFound { .. }) if std::env::var_os("OPTIN_REQUIRE_ORT").is_none() => None,
        Err(error) => panic!("{error}"),
    }
}

fn engines() -> Vec<Box<dyn Engine>> {
    let tract = open(&options(RuntimeChoice::Tract)).unwrap();
    onnx_runtime().into_iter().chain([tract]).collect()
}

/// Runs on every engine, each in one session with every feed, and asserts that all return the same.
fn run_all(model: &ModelProto, feeds: &[Vec<(String, Tensor)>]) -> Vec<Vec<Tensor>> {
    let results = engines().into_iter().map(|engine| {
        let mut session = engine.load(model).unwrap();
        let runs = feeds.iter().map(|feed| session.run(feed).unwrap_or_else(|e| panic!("{e}")));
        runs.collect::<Vec<_>>()
    });
    let results: Vec<_> = results.collect();
    for other in &results[1..] {
        for (a, b) in results[0].iter().flatten().zip(other.iter().flatten()) {
            assert_close(a, b);
        }
    }
    results.into_iter().next().unwrap()
}

fn run(model: &ModelProto, feed: Vec<(String, Tensor)>) -> Vec<Tensor> {
    run_all(model, &[feed]).remove(0)
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    match (a.to_f32(), b.to_f32()) {
        (Some(a), Some(b)) => assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= TOLERANCE), "{a} {b}"),
        _ => assert_eq!(a, b),
    }
}

#[test]
fn a_linear_layer_runs_at_any_batch_size() {
    let results = run_all(&linear(), &[1, 4, 4, 2].map(|rows| feed("x", batch(rows))));
    // Row 0 is [-1, -0.5, 0].
    let first = Tensor::f32(&[1, 2], vec![0.0, 0.0]).unwrap();
    assert_close(&results[0][0], &first);
    // Row 1 is [0.5, 1, 1.5].
    assert_close(&results[1][0].narrow(0, 1, 2), &Tensor::f32(&[1, 2], vec![0.0, 1.375]).unwrap());
    assert_eq!(results[3][0].shape(), [2, 2]);
}

#[test]
fn a_tensor_in_another_order_runs_as_its_values_stand() {
    let transposed = ArrayD::from_shape_vec(IxDyn(&[3, 2]), vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]).unwrap();
    let transposed = Tensor::F32(transposed.reversed_axes());
    let straight = Tensor::f32(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    assert_close(&run(&linear(), feed("x", transposed))[0], &run(&linear(), feed("x", straight))[0]);
}

#[test]
fn intermediate_values_can_be_untyped_outputs() {
    let mut model = linear();
    model.graph.as_mut().unwrap().output.extend(["xw", "a", "w", "x"].map(untyped));
    let outputs = run(&model, feed("x", batch(2)));
    assert_eq!(outputs.len(), 5);
    // An initializer and an input may be outputs too.
    assert_eq!(outputs[3].shape(), [3, 2]);
    assert_eq!(outputs[4], batch(2));
}

#[test]
fn every_element_type_goes_in_and_comes_out() {
    fn array<T>(data: Vec<T>) -> ArrayD<T> {
        ArrayD::from_shape_vec(IxDyn(&[2, data.len() / 2]), data).unwrap()
    }
    let tensors = [
        Tensor::F32(array(vec![1.5, -2.0])),
        Tensor::F64(array(vec![1.5, -2.0])),
        Tensor::F16(array(vec![f16::from_f32(1.5), f16::from_f32(-2.0)])),
        Tensor::I8(array(vec![1, -2])),
        Tensor::I16(array(vec![300, -2])),
        Tensor::I32(array(vec![1 << 20, -2])),
        Tensor::I64(array(vec![1 << 40, -2])),
        Tensor::U8(array(vec![1, 255])),
        Tensor::U16(array(vec![1, 65535])),
        Tensor::U32(array(vec![1, u32::MAX])),
        Tensor::U64(array(vec![1, u64::MAX])),
        Tensor::Bool(array(vec![true, false])),
        // No elements at all.
        Tensor::F32(array(vec![])),
    ];
    for tensor in tensors {
        let shape: Vec<_> = tensor.shape().iter().map(|&n| n as i64).collect();
        let model = model(
            vec![value("x", tensor.dtype(), &shape)],
            vec![],
            vec![node("Identity", &["x"], &["y"])],
            vec![value("y", tensor.dtype(), &shape)],
        );
        assert_eq!(run(&model, feed("x", tensor.clone())), [tensor]);
    }
}

#[test]
fn bfloat16_is_for_onnx_runtime_alone() {
    let tensor = batch(1).cast_float(DType::BF16).unwrap();
    let model = model(
        vec![value("x", DType::BF16, &[1, 3])],
        vec![],
        vec![node("Identity", &["x"], &["y"])],
        vec![untyped("y")],
    );
    if let Some(engine) = onnx_runtime() {
        let outputs = engine.load(&model).unwrap().run(&feed("x", tensor.clone())).unwrap();
        assert_eq!(outputs, std::slice::from_ref(&tensor));
    }
    let tract = open(&options(RuntimeChoice::Tract)).unwrap();
    let result = tract.load(&model).and_then(|mut session| session.run(&feed("x", tensor)));
    assert!(matches!(result, Err(RuntimeError::Load { .. } | RuntimeError::Run { .. })));
}

#[test]
fn half_precision_integers_and_truth_values_compute() {
    let model = model(
        vec![value("h", DType::F16, &[-1]), value("i", DType::I64, &[-1]), value("b", DType::Bool, &[-1])],
        vec![ints("one", &[1])],
        vec![
            node("Add", &["h", "h"], &["h2"]),
            node("Add", &["i", "one"], &["i1"]),
            node("Not", &["b"], &["not"]),
            node("Where", &["b", "i", "i1"], &["w"]),
        ],
        ["h2", "i1", "not", "w"].map(untyped).to_vec(),
    );
    let halves = |data: [f32; 2]| Tensor::f32(&[2], data.to_vec()).unwrap().cast_float(DType::F16).unwrap();
    let bools = |data: [bool; 2]| Tensor::Bool(ndarray::arr1(&data).into_dyn());
    let feeds = vec![
        ("h".to_owned(), halves([0.5, 2.0])),
        ("i".to_owned(), Tensor::ints(&[7, -7])),
        ("b".to_owned(), bools([true, false])),
    ];
    let expected = [halves([1.0, 4.0]), Tensor::ints(&[8, -6]), bools([false, true]), Tensor::ints(&[7, -6])];
    assert_eq!(run(&model, feeds), expected);
}

#[test]
fn shapes_computed_in_the_graph_work() {
    // Reshape(x, Concat(Shape(x)[0:1], [-1])), with the shape itself an output.
    let model = model(
        vec![value("x", DType::F32, &[-1, 2, 3])],
        vec![ints("start", &[0]), ints("end", &[1]), ints("rest", &[-1])],
        vec![
            node("Shape", &["x"], &["shape"]),
            node("Slice", &["shape", "start", "end"], &["rows"]),
            with_int(node("Concat", &["rows", "rest"], &["target"]), "axis", 0),
            node("Reshape", &["x", "target"], &["y"]),
        ],
        vec![untyped("y"), untyped("target"), untyped("shape")],
    );
    let x = |rows| Tensor::f32(&[rows, 2, 3], (0..rows * 6).map(|i| i as f32).collect()).unwrap();
    let results = run_all(&model, &[feed("x", x(2)), feed("x", x(5))]);
    assert_eq!(
        results[0],
        [x(2).reshape(&[2, 6]).unwrap(), Tensor::ints(&[2, -1]), Tensor::ints(&[2, 2, 3])]
    );
    assert_eq!(results[1][0].shape(), [5, 6]);
}

#[test]
fn stale_shapes_in_the_file_do_no_harm_to_tract() {
    let mut model = linear();
    model.graph.as_mut().unwrap().value_info = vec![value("xw", DType::F32, &[-1, -1])];
    run_all(&model, &[feed("x", batch(2)), feed("x", batch(3))]);
}

#[test]
fn unused_inputs_are_taken() {
    let mut model = linear();
    let graph = model.graph.as_mut().unwrap();
    graph.input.insert(0, value("unused", DType::I64, &[-1, -1]));
    let mut feeds = feed("x", batch(2));
    feeds.push(("unused".to_owned(), Tensor::ints(&[1, 2]).reshape(&[2, 1]).unwrap()));
    assert_close(&run(&model, feeds)[0], &run(&linear(), feed("x", batch(2)))[0]);
}

#[test]
fn initializers_listed_as_inputs_are_constants() {
    for ir_version in [3, 8] {
        let mut model = linear();
        model.ir_version = Some(ir_version);
        // IR version 3 goes with operator sets up to 8.
        model.opset_import[0].version = Some(if ir_version == 3 { 8 } else { 17 });
        let graph = model.graph.as_mut().unwrap();
        graph.input.push(value("w", DType::F32, &[3, 2]));
        graph.input.push(value("b", DType::F32, &[2]));
        assert_close(&run(&model, feed("x", batch(2)))[0], &run(&linear(), feed("x", batch(2)))[0]);
    }
}

#[test]
fn inputs_that_do_not_fit_are_told_apart() {
    for engine in engines() {
        let mut session = engine.load(&linear()).unwrap();
        let mut error = |feeds: Vec<(String, Tensor)>| session.run(&feeds).unwrap_err();
        assert!(matches!(error(vec![]), RuntimeError::MissingInput { name } if name == "x"));
        assert!(matches!(error(feed("z", batch(1))), RuntimeError::UnknownInput { name, .. } if name == "z"));
        let twice = [feed("x", batch(1)), feed("x", batch(1))].concat();
        assert!(matches!(error(twice), RuntimeError::RepeatedInput { .. }));
        let double = batch(1).cast_float(DType::F64).unwrap();
        assert!(matches!(
            error(feed("x", double)),
            RuntimeError::InputType { expected: DType::F32, found: DType::F64, .. }
        ));
        for wrong in [&[1, 4][..], &[3]] {
            let tensor = Tensor::f32(wrong, vec![0.0; wrong.iter().product()]).unwrap();
            let message = error(feed("x", tensor)).to_string();
            assert!(message.contains("[?, 3]") && message.contains(&format!("{wrong:?}")), "{message}");
        }
        // The session lives on.
        assert!(session.run(&feed("x", batch(1))).is_ok());
    }
}

#[test]
fn models_that_cannot_run_are_errors() {
    let mut unknown = linear();
    unknown.graph.as_mut().unwrap().node[2].op_type = Some("NoSuchOperator".to_owned());
    let mut dangling = linear();
    dangling.graph.as_mut().unwrap().output.push(untyped("nowhere"));
    let mut mismatched = linear();
    mismatched.graph.as_mut().unwrap().initializer[0] = weights("w", &[2, 3], &[0.0; 6]);
    let mut string = linear();
    let inputs = &mut string.graph.as_mut().unwrap().input;
    inputs.push(value("s", DType::F32, &[1]));
    if let Some(type_proto::Value::TensorType(tensor)) = &mut inputs[1].r#type.as_mut().unwrap().value {
        tensor.elem_type = Some(8);
    }
    for engine in engines() {
        for broken in [&unknown, &dangling, &mismatched, &string, &ModelProto::default()] {
            let result = engine.load(broken).and_then(|mut session| session.run(&feed("x", batch(1))));
            assert!(matches!(result, Err(RuntimeError::Load { .. } | RuntimeError::Run { .. })));
        }
    }
}

#[test]
fn tract_refuses_what_it_would_get_wrong() {
    let tract = open(&options(RuntimeChoice::Tract)).unwrap();
    let refused = |node: NodeProto| {
        let inputs = vec![value("x", DType::F32, &[1, 1, 2, 2])];
        let error = tract.load(&model(inputs, vec![], vec![node], vec![untyped("y")])).err().unwrap();
        assert!(matches!(error, RuntimeError::OperatorOnTract { .. }), "{error}");
        assert!(error.to_string().contains("use ONNX Runtime"));
    };
    refused(node("Attention", &["x", "x", "x"], &["y"]));
    refused(with_int(node("BatchNormalization", &["x"; 5], &["y"]), "training_mode", 1));
    // An operator of a foreign domain is not the standard one of that name.
    let mut foreign = node("Relu", &["x"], &["y"]);
    foreign.domain = Some("com.example".to_owned());
    refused(foreign);
    // Within a branch too.
    let branch = GraphProto {
        name: Some("branch".to_owned()),
        node: vec![node("LogSoftmax", &["x"], &["z"])],
        output: vec![untyped("z")],
        ..Default::default()
    };
    let mut attribute =
        AttributeProto { name: Some("then_branch".to_owned()), g: Some(branch), ..Default::default() };
    attribute.set_type(AttributeType::Graph);
    let mut conditional = node("If", &["x"], &["y"]);
    conditional.attribute.push(attribute);
    refused(conditional);
}

// Opening ---------------------------------------------------------------------------------------------------------

fn refusal(options: &RuntimeOptions) -> RuntimeError {
    open(options).err().unwrap()
}

#[test]
fn engines_describe_themselves() {
    assert_eq!(open(&options(RuntimeChoice::Tract)).unwrap().describe(), "tract 0.23.9 (embedded)");
    let auto = open(&RuntimeOptions::default()).unwrap().describe();
    match onnx_runtime() {
        Some(engine) => {
            let described = engine.describe();
            assert!(described.starts_with("ONNX Runtime ") && described.contains("(CPU, "), "{described}");
            assert!(auto.starts_with("ONNX Runtime "));
        }
        None => assert!(auto.starts_with("tract ")),
    }
}

#[test]
fn a_missing_library_is_an_error_even_when_any_engine_would_do() {
    let ort_lib = Some(PathBuf::from("no/such/libonnxruntime.so"));
    for runtime in [RuntimeChoice::Auto, RuntimeChoice::Ort] {
        let error = refusal(&RuntimeOptions { ort_lib: ort_lib.clone(), ..options(runtime) });
        assert!(
            matches!(error, RuntimeError::LibraryMissing { origin: locate::LibraryOrigin::Named, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_is_no_library_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let loaded = onnx_runtime().is_some();
    let named = RuntimeOptions { ort_lib: Some(file.path().to_path_buf()), ..options(RuntimeChoice::Ort) };
    match refusal(&named) {
        RuntimeError::AlreadyLoaded { .. } => assert!(loaded),
        RuntimeError::LibraryUnusable { .. } => assert!(!loaded),
        other => panic!("{other}"),
    }
}

#[test]
fn cuda_is_had_or_refused_never_replaced() {
    let on_tract = RuntimeOptions { provider: Provider::Cuda, ..options(RuntimeChoice::Tract) };
    assert!(matches!(refusal(&on_tract), RuntimeError::CudaOnTract));
    let asked = RuntimeOptions { provider: Provider::Cuda, ..options(RuntimeChoice::Auto) };
    match open(&asked) {
        Ok(engine) => assert!(engine.describe().contains("(CUDA, ")),
        Err(RuntimeError::CudaUnavailable { .. }) => assert!(onnx_runtime().is_some()),
        Err(RuntimeError::NotFound { .. }) => assert!(onnx_runtime().is_none()),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn threads_do_not_change_results() {
    if let Some(one) = onnx_runtime() {
        let all = open(&RuntimeOptions { threads: 0, ..options(RuntimeChoice::Ort) }).unwrap();
        let run = |engine: &dyn Engine| engine.load(&linear()).unwrap().run(&feed("x", batch(64))).unwrap();
        assert_eq!(run(&*one), run(&*all));
    }
}

#[test]
fn what_tract_panics_on_is_an_error_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    // Picks the eighth of four columns.
    let model = model(
        vec![value("x", DType::F32, &[-1, 4])],
        vec![ints("places", &[7])],
        vec![with_int(node("Gather", &["x", "places"], &["y"]), "axis", 1)],
        vec![untyped("y")],
    );
    optin_onnx::onnx::save(&model, &path, false).unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_optin-onnx"))
        .args([path.to_str().unwrap(), "--dry-run", "--synthetic", "--runtime", "tract"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success());
    assert!(said.contains("index out of bounds") && !said.contains("panicked"), "{said}");
}

/// ONNX Runtime folds the shape of the table only while it isn't returned, and else moves the Transpose behind the Resize.
#[test]
fn a_cubic_resize_runs_whatever_is_returned() {
    let Some(engine) = onnx_runtime() else { return };
    let file = include_str!("filetests/position_table.onnxtxt");
    let (mut model, _) = support::text::parse(file).unwrap();
    let image = Tensor::f32(&[2, 3, 8, 8], (0..384).map(|i| (i as f32).sin()).collect()).unwrap();
    let expected = engine.load(&model).unwrap().run(&feed("x", image.clone())).unwrap();
    model.graph.as_mut().unwrap().output.push(untyped("grid"));
    let found = engine.load(&model).unwrap().run(&feed("x", image)).unwrap();
    assert_eq!(found, [expected[0].clone(), Tensor::ints(&[1, 3, 3, 8])]);
}
