//! Calibration data: formats, checks, batches and synthetic inputs.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use half::f16;
use ndarray::{Array, Array1, Array2, Array4, ArrayD, Ix2, ShapeBuilder};
use ndarray_npy::{NpzWriter, WritableElement, write_npy};
use optin_onnx::{
    WarningCode,
    calibration::{
        CalibrationError, CalibrationOptions, InputRole, Note, Origin, Samples, Synthetic, Variation,
        input_roles, load,
    },
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
        TensorShapeProto, TypeProto, ValueInfoProto,
        attribute_proto::AttributeType,
        tensor_shape_proto::{Dimension, dimension::Value as DimValue},
        type_proto,
    },
    tensor::{DType, Tensor},
};
use prost::Message;
use tempfile::TempDir;

// Models.

/// `dims` as in `batch,3,?,224`.
fn input(name: &str, dtype: DType, dims: &str) -> ValueInfoProto {
    let dim = |text: &str| Dimension {
        value: match text.parse() {
            Ok(n) => Some(DimValue::DimValue(n)),
            Err(_) if text == "?" => None,
            Err(_) => Some(DimValue::DimParam(text.into())),
        },
        ..Default::default()
    };
    let dim = dims.split(',').filter(|d| !d.is_empty()).map(dim).collect();
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx()), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(i),
        ..Default::default()
    }
}

fn floats(name: &str, shape: &[usize]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DType::F32.onnx()),
        dims: shape.iter().map(|&n| n as i64).collect(),
        float_data: (0..shape.iter().product()).map(|i: usize| i as f32).collect(),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DType::I64.onnx()),
        dims: vec![values.len() as i64],
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn model(inputs: Vec<ValueInfoProto>, initializer: Vec<TensorProto>, node: Vec<NodeProto>) -> ModelProto {
    let graph = GraphProto { input: inputs, initializer, node, ..Default::default() };
    ModelProto { graph: Some(graph), ..Default::default() }
}

fn image() -> ModelProto {
    model(vec![input("x", DType::F32, "batch,2,3")], vec![], vec![node("Relu", &["x"], "y")])
}

/// Ids index a table of 10 rows; the mask is compared with zero.
fn text() -> ModelProto {
    model(
        vec![
            input("a", DType::I64, "batch,seq"),
            input("b", DType::I64, "b2,s2"),
            input("table", DType::F32, "10,4"),
        ],
        vec![floats("table", &[10, 4]), ints("zero", &[0])],
        vec![node("Gather", &["table", "a"], "e"), node("Equal", &["b", "zero"], "m")],
    )
}

fn roles(model: &ModelProto) -> Vec<InputRole> {
    input_roles(model).into_iter().map(|(_, role)| role).collect()
}

const IDS10: InputRole = InputRole::Ids { rows: Some(10) };

// Files.

struct Npz(NpzWriter<std::fs::File>, PathBuf);

impl Npz {
    fn create(dir: &TempDir, name: &str) -> Self {
        let path = dir.path().join(name);
        Self(NpzWriter::new_compressed(std::fs::File::create(&path).unwrap()), path)
    }

    fn add<T: WritableElement, D: ndarray::Dimension>(mut self, name: &str, array: Array<T, D>) -> Self {
        self.0.add_array(name, &array).unwrap();
        self
    }

    fn finish(self) -> PathBuf {
        self.0.finish().unwrap();
        self.1
    }
}

fn counting(samples: usize) -> ArrayD<f32> {
    Array::from_shape_vec((samples, 2, 3), (0..samples * 6).map(|i| i as f32).collect()).unwrap().into_dyn()
}

fn write_set(folder: &Path, tensors: &[TensorProto]) {
    std::fs::create_dir_all(folder).unwrap();
    for (i, tensor) in tensors.iter().enumerate() {
        std::fs::write(folder.join(format!("input_{i}.pb")), tensor.encode_to_vec()).unwrap();
    }
}

fn from(model: &ModelProto, calib: &Path) -> Result<Samples, CalibrationError> {
    load(
        model,
        Some(Path::new("absent/m.onnx")),
        &CalibrationOptions { calib: Some(calib.into()), ..Default::default() },
    )
}

fn synthetic(model: &ModelProto, shapes: &[(&str, &[usize])], samples: Option<usize>, seed: u64) -> Samples {
    let shapes = shapes.iter().map(|(name, shape)| ((*name).into(), shape.to_vec())).collect();
    let options = CalibrationOptions {
        calib: None,
        shapes,
        samples,
        seed,
        synthetic: Synthetic::Always,
        ..Default::default()
    };
    load(model, Some(Path::new("absent/m.onnx")), &options).unwrap()
}

/// All samples of every input.
fn fed(samples: &Samples) -> Vec<(String, Tensor)> {
    samples.select(&(0..samples.len()).collect::<Vec<_>>()).unwrap()
}

fn shapes(samples: &Samples) -> Vec<Vec<usize>> {
    samples.inputs().into_iter().map(|input| input.shape).collect()
}

/// The error that `Unsuitable` wraps.
fn problem<T: std::fmt::Debug>(result: Result<T, CalibrationError>) -> CalibrationError {
    match result.unwrap_err() {
        CalibrationError::Unsuitable { problem, .. } => *problem,
        error => panic!("not about unsuitable data: {error}"),
    }
}

// Formats.

#[test]
fn npz_gives_the_inputs_and_notes_the_rest() {
    let dir = TempDir::new().unwrap();
    let path =
        Npz::create(&dir, "c.npz").add("labels", Array1::<i64>::zeros(4)).add("x", counting(4)).finish();
    let samples = from(&image(), &path).unwrap();
    assert_eq!(fed(&samples), [("x".into(), Tensor::F32(counting(4)))]);
    assert_eq!((samples.len(), samples.fixed_batch()), (4, None));
    assert_eq!(*samples.origin(), Origin::File(path));
    assert_eq!(samples.notes(), [Note::Ignored { array: "labels".into() }]);
}

#[test]
fn npy_serves_a_model_with_one_input() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.npy");
    write_npy(&path, &counting(2)).unwrap();
    assert_eq!(fed(&from(&image(), &path).unwrap())[0].1, Tensor::F32(counting(2)));
    assert!(
        matches!(from(&text(), &path), Err(CalibrationError::Unnamed { inputs, .. }) if inputs == ["a", "b"])
    );
}

#[test]
fn fortran_order_is_turned() {
    let dir = TempDir::new().unwrap();
    let mut fortran = Array::zeros((2, 2, 3).f());
    fortran.assign(&counting(2));
    let path = Npz::create(&dir, "c.npz").add("x", fortran).finish();
    let samples = from(&image(), &path).unwrap();
    let values = fed(&samples)[0].1.to_f32().unwrap();
    assert_eq!(values.as_slice().unwrap(), counting(2).as_slice().unwrap());
}

#[test]
fn half_precision_is_read_in_both_byte_orders() {
    let dir = TempDir::new().unwrap();
    let values: Vec<f16> = (0..6).map(|i| f16::from_f32(i as f32 / 4.0)).collect();
    for (order, bytes) in [('<', f16::to_le_bytes as fn(f16) -> [u8; 2]), ('>', f16::to_be_bytes)] {
        let header = format!("{{'descr': '{order}f2', 'fortran_order': False, 'shape': (1, 2, 3), }}");
        let header = format!("{header:<117}\n");
        let mut file = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes()].concat();
        file.extend(header.bytes().chain(values.iter().flat_map(|&x| bytes(x))));
        let path = dir.path().join("c.npy");
        std::fs::write(&path, file).unwrap();
        let samples = from(&image(), &path).unwrap();
        assert_eq!(
            fed(&samples)[0].1.to_f32().unwrap().into_raw_vec_and_offset().0,
            values.iter().map(|x| x.to_f32()).collect::<Vec<_>>()
        );
        assert_eq!(
            samples.notes(),
            [Note::Converted { input: "x".into(), from: DType::F16, to: DType::F32 }]
        );
    }
}

#[test]
fn test_data_sets_are_joined_in_numeric_order() {
    let dir = TempDir::new().unwrap();
    // Set 10 comes after set 9, and a set may hold more than one sample.
    for (n, samples) in [(10, 2), (9, 1)] {
        let mut tensor = floats("anything", &[samples, 2, 3]);
        tensor.float_data.fill(n as f32);
        write_set(&dir.path().join(format!("test_data_set_{n}")), &[tensor]);
    }
    let samples = from(&image(), dir.path()).unwrap();
    let values = fed(&samples)[0].1.to_f32().unwrap();
    assert_eq!(values.iter().step_by(6).copied().collect::<Vec<_>>(), [9.0, 10.0, 10.0]);
    assert_eq!(*samples.origin(), Origin::Folder(dir.path().into()));
}

#[test]
fn test_data_go_by_name_before_position() {
    let dir = TempDir::new().unwrap();
    let row = |name, value| TensorProto { dims: vec![1, 2], ..ints(name, &[value, value]) };
    for (names, first) in [(["b", "a"], 8), (["q", "r"], 7)] {
        write_set(dir.path(), &[row(names[0], 7), row(names[1], 8)]);
        let samples = from(&text(), dir.path()).unwrap();
        assert_eq!(fed(&samples)[0].1.to_ints().unwrap(), [first, first]);
    }
}

#[test]
fn test_data_that_do_not_agree_are_refused() {
    let dir = TempDir::new().unwrap();
    let set = |n: usize| dir.path().join(format!("test_data_set_{n}"));
    let model = model(vec![input("x", DType::F32, "n,w")], vec![], vec![]);
    write_set(&set(0), &[floats("x", &[1, 2])]);
    write_set(&set(1), &[floats("x", &[1, 3])]);
    let error = from(&model, dir.path()).unwrap_err();
    assert!(
        matches!(&error, CalibrationError::SetsDiffer { first, second, .. } if first.set == set(0) && second.set == set(1))
    );
    assert!(error.to_string().contains("[1, 2]") && error.to_string().contains("[1, 3]"), "{error}");
}

#[test]
fn test_data_without_a_batch_axis_must_be_the_same_in_all_sets() {
    let dir = TempDir::new().unwrap();
    let model = model(vec![input("x", DType::F32, "n,w"), input("scale", DType::F32, "")], vec![], vec![]);
    let scale = |value| TensorProto { float_data: vec![value], ..floats("scale", &[]) };
    let write = |n: usize, value| {
        write_set(&dir.path().join(format!("test_data_set_{n}")), &[floats("x", &[1, 2]), scale(value)]);
    };
    write(0, 1.0);
    write(1, 1.0);
    assert_eq!(shapes(&from(&model, dir.path()).unwrap()), [&[2, 2][..], &[]]);
    write(1, 2.0);
    assert!(
        matches!(from(&model, dir.path()), Err(CalibrationError::WholeDiffers { input, .. }) if input == "scale")
    );
}

#[test]
fn damaged_test_data_are_refused() {
    let dir = TempDir::new().unwrap();
    let error = from(&image(), dir.path()).unwrap_err().to_string();
    assert!(error.contains("no known format") && error.contains("test_data_set_N"), "{error}");
    std::fs::create_dir(dir.path().join("test_data_set_0")).unwrap();
    assert!(matches!(from(&image(), dir.path()), Err(CalibrationError::NoTestData { .. })));
    std::fs::remove_dir(dir.path().join("test_data_set_0")).unwrap();
    std::fs::write(dir.path().join("input_0.pb"), b"\xff\xff").unwrap();
    assert!(matches!(from(&image(), dir.path()), Err(CalibrationError::Protobuf { .. })));
    let mut short = floats("x", &[1, 2, 3]);
    short.float_data.pop();
    write_set(dir.path(), &[short]);
    assert!(matches!(from(&image(), dir.path()), Err(CalibrationError::Tensor { .. })));
    write_set(dir.path(), &[floats("p", &[1, 2, 3]), floats("q", &[1])]);
    assert!(matches!(
        from(&image(), dir.path()),
        Err(CalibrationError::SurplusInput { index: 1, inputs: 1, .. })
    ));
}

#[test]
fn damaged_files_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.npz");
    assert!(matches!(from(&image(), &path), Err(CalibrationError::Io { .. })));
    std::fs::write(&path, "no archive").unwrap();
    let error = from(&image(), &path).unwrap_err().to_string();
    assert!(error.contains("another format") && error.contains("numpy.savez"), "{error}");
    let whole = std::fs::read(Npz::create(&dir, "whole.npz").add("x", counting(4)).finish()).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 30]).unwrap();
    let error = from(&image(), &path).unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
    let path = dir.path().join("c.npy");
    for short in ["", "hello"] {
        std::fs::write(&path, short).unwrap();
        let error = from(&image(), &path).unwrap_err().to_string();
        assert!(error.contains("empty or cut short"), "{error}");
    }
    write_npy(&path, &counting(2)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(from(&image(), &path), Err(CalibrationError::Array { .. })));
    let objects = String::from_utf8_lossy(&bytes[..128]).replace("<f4", "|O8").into_bytes();
    std::fs::write(&path, [&bytes[..10], &objects[objects.len() - 118..]].concat()).unwrap();
    assert!(
        matches!(from(&image(), &path), Err(CalibrationError::ArrayType { found, .. }) if found == "|O8")
    );
    let path = dir.path().join("c.dat");
    std::fs::write(&path, "1,2").unwrap();
    assert!(matches!(from(&image(), &path), Err(CalibrationError::UnknownFormat { .. })));
}

/// A `.npy` file of version 2 with this header and data.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{header}\n");
    [b"\x93NUMPY\x02\x00", (header.len() as u32).to_le_bytes().as_slice(), header.as_bytes(), data].concat()
}

fn described(shape: &str) -> String {
    format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")
}

#[test]
fn headers_of_arrays_are_read_as_numpy_writes_them_and_in_no_other_form() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.npy");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        from(&image(), &path)
    };
    let data = [1.0f32; 12].map(f32::to_le_bytes).concat();
    for header in [
        described("(2, 2, 3)"),
        described("(2L,2L,3L,)"),
        "{\"shape\":(2,2,3),\"fortran_order\":True,\"descr\":\"<f4\"}   ".to_owned(),
    ] {
        assert_eq!(shapes(&read(&npy(&header, &data)).unwrap()), [[2, 2, 3]], "{header}");
    }
    let deep = |open: &str| format!("{{'descr': {}", open.repeat(30_000));
    for header in [
        deep("("),
        deep("["),
        deep("{'a':"),
        "{".repeat(60_000),
        described(&"(".repeat(60_000)),
        described("(2, -2, 3)"),
        described("(2, 2.0, 3)"),
        described("(2, 99999999999999999999999, 3)"),
        described("2"),
        described("(2, 2, 3), 'shape"),
        String::new(),
        "{'descr': __import__('os').system('true')}".to_owned(),
        "{'descr': '<f4'}".to_owned(),
    ] {
        let error = read(&npy(&header, &data)).unwrap_err();
        let refused = matches!(error, CalibrationError::Array { .. } | CalibrationError::ArrayType { .. });
        assert!(refused, "{}: {error}", &header[..header.len().min(80)]);
    }
    // Four gigabytes of header, and none of it there.
    let endless = [&b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..], &data].concat();
    assert!(matches!(read(&endless), Err(CalibrationError::Array { .. })));
    let later = [&b"\x93NUMPY\x04\x00\x10\x00"[..], &data].concat();
    assert!(matches!(read(&later), Err(CalibrationError::Array { .. })));
}

#[test]
fn pickled_arrays_are_not_unpickled() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.npy");
    for descriptor in
        ["'|O'", "'O'", "'|O8'", "[('a', '<f4'), ('b', '|O')]", "'<U8'", "'|V12'", "'<M8[ns]'", "'<c8'"]
    {
        let header = described("(2, 2, 3)").replace("'<f4'", descriptor);
        std::fs::write(&path, npy(&header, b"cos\nsystem\n(S'true'\ntR.")).unwrap();
        let error = from(&image(), &path).unwrap_err();
        assert!(matches!(error, CalibrationError::ArrayType { .. }), "{descriptor}: {error}");
    }
}

#[test]
fn arrays_take_memory_for_what_is_there_and_not_for_what_the_header_says() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.npy");
    let data = [1.0f32; 12].map(f32::to_le_bytes).concat();
    for shape in [
        "(1152921504606846976, 2, 3)",
        "(18446744073709551615, 2, 3)",
        "(4611686018427387904, 4, 1)",
        "(0, 18446744073709551615, 18446744073709551615)",
        "(1000000000, 2, 3)",
        "(100000000, 2, 3)",
    ] {
        std::fs::write(&path, npy(&described(shape), &data)).unwrap();
        let error = from(&image(), &path).unwrap_err();
        assert!(matches!(error, CalibrationError::Array { .. }), "{shape}: {error}");
    }
    // In an archive, whose entries say a size of their own.
    let path = dir.path().join("c.npz");
    for (shape, zeros) in [("(1152921504606846976, 2, 3)", 1 << 20), ("(2, 2, 3)", 1 << 27)] {
        let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        archive.start_file("x.npy", zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut archive, &npy(&described(shape), &vec![0; zeros])).unwrap();
        archive.finish().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
        let error = from(&image(), &path).unwrap_err();
        assert!(matches!(error, CalibrationError::Array { .. }), "{shape}: {error}");
    }
}

#[test]
fn hostile_tensors_of_test_data_are_refused() {
    let dir = TempDir::new().unwrap();
    let refused = |tensor: &TensorProto| {
        write_set(dir.path(), std::slice::from_ref(tensor));
        let error = from(&image(), dir.path()).unwrap_err();
        assert!(matches!(error, CalibrationError::Tensor { .. }), "{error}");
    };
    let tensor = floats("x", &[1, 2, 3]);
    for dims in [vec![1 << 40, 2, 3], vec![-1, 2, 3], vec![i64::MAX, i64::MAX], vec![]] {
        refused(&TensorProto { dims, ..tensor.clone() });
    }
    let entry =
        |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    refused(&TensorProto {
        float_data: Vec::new(),
        data_location: Some(1),
        external_data: vec![entry("location", "/etc/passwd"), entry("length", "24")],
        ..tensor.clone()
    });
    refused(&TensorProto { data_type: Some(8), string_data: vec!["a".into(); 6], ..tensor });
    // Two bytes for each entry, which takes some eighty in memory.
    std::fs::write(dir.path().join("input_0.pb"), [0x6a, 0x00].repeat(1 << 22)).unwrap();
    let error = from(&image(), dir.path()).unwrap_err();
    assert!(error.to_string().contains("once decoded"), "{error}");
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_no_data() {
    let dir = TempDir::new().unwrap();
    for name in ["c.npz", "c.npy", "input_0.pb"] {
        let path = dir.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo is needed");
        let calib = if name.ends_with("pb") { dir.path() } else { &path };
        assert!(matches!(from(&image(), calib), Err(CalibrationError::NotAFile { .. })), "{name}");
    }
}

#[test]
fn data_beside_the_model_are_found() {
    let dir = TempDir::new().unwrap();
    let origin = || {
        let options = CalibrationOptions::default().or_synthetic();
        load(&image(), Some(&dir.path().join("m.onnx")), &options).unwrap().origin().clone()
    };
    assert_eq!(origin(), Origin::Synthetic);
    let path = Npz::create(&dir, "m.calib.npz").add("x", counting(2)).finish();
    assert_eq!(origin(), Origin::File(path));
    write_set(&dir.path().join("test_data_set_0"), &[floats("x", &[1, 2, 3])]);
    assert_eq!(origin(), Origin::Folder(dir.path().into()));
}

#[test]
fn without_data_there_is_an_error_that_says_how_to_give_some() {
    let error = load(&image(), Some(Path::new("no/m.onnx")), &CalibrationOptions::default()).unwrap_err();
    assert!(matches!(error, CalibrationError::NoData { .. }));
    let text = error.to_string();
    for part in ["`x` float32 [batch, 2, 3]", "no/m.calib.npz"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_wrong_name_lists_the_arrays_and_the_inputs() {
    let dir = TempDir::new().unwrap();
    let two = Npz::create(&dir, "two.npz")
        .add("images", counting(4))
        .add("labels", Array1::<i64>::zeros(4))
        .finish();
    let text = problem(from(&image(), &two)).to_string();
    for part in ["`x`", "images, labels", "`x` float32 [batch, 2, 3]"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // One array and one input just fit.
    let one = Npz::create(&dir, "one.npz").add("images", counting(4)).finish();
    let samples = from(&image(), &one).unwrap();
    assert_eq!(fed(&samples)[0], ("x".into(), Tensor::F32(counting(4))));
    assert_eq!(samples.notes(), [Note::Renamed { array: "images".into(), input: "x".into() }]);
}

#[test]
fn an_array_takes_memory_for_what_is_there_and_not_for_what_its_header_says() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.npy");
    for descr in ["<f4", "<f2", "|u1", "|b1"] {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (4000000000, 1000, 3), }}");
        let header = format!("{header:<117}\n");
        let mut file = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes()].concat();
        file.extend(header.bytes().chain([0; 24]));
        std::fs::write(&path, file).unwrap();
        assert!(matches!(from(&image(), &path), Err(CalibrationError::Array { .. })), "{descr}");
    }
}

// Checks.

#[test]
fn integers_and_floats_are_converted_within_their_kind() {
    let model = model(
        vec![
            input("x", DType::F32, "n"),
            input("i", DType::I32, "n"),
            input("j", DType::I64, "n"),
            input("m", DType::Bool, "n"),
        ],
        vec![],
        vec![],
    );
    let arrays = |mask: i64| {
        vec![
            ("x".into(), Tensor::F64(ndarray::arr1(&[0.5, 1.5]).into_dyn())),
            ("i".into(), Tensor::ints(&[3, -4])),
            ("j".into(), Tensor::Bool(ndarray::arr1(&[true, false]).into_dyn())),
            ("m".into(), Tensor::ints(&[0, mask])),
        ]
    };
    let samples = Samples::new(&model, arrays(1)).unwrap();
    let converted: Vec<Tensor> = fed(&samples).into_iter().map(|(_, tensor)| tensor).collect();
    assert_eq!(converted[0], Tensor::f32(&[2], vec![0.5, 1.5]).unwrap());
    assert_eq!(converted[1], Tensor::I32(ndarray::arr1(&[3, -4]).into_dyn()));
    assert_eq!(converted[2], Tensor::ints(&[1, 0]));
    assert_eq!(converted[3], Tensor::Bool(ndarray::arr1(&[false, true]).into_dyn()));
    assert_eq!(samples.notes().len(), 4);
    assert!(
        matches!(Samples::new(&model, arrays(2)), Err(CalibrationError::DoesNotFit { input, .. }) if input == "m")
    );
}

#[test]
fn bytes_are_not_taken_for_features() {
    let dir = TempDir::new().unwrap();
    let path = Npz::create(&dir, "c.npz").add("x", Array::<u8, _>::zeros((1, 2, 3))).finish();
    let error = from(&image(), &path).unwrap_err().to_string();
    assert!(
        error.contains("must be float32, but the array is uint8") && error.contains("preprocessing"),
        "{error}"
    );
    assert!(error.starts_with(path.to_str().unwrap()), "{error}");
}

#[test]
fn unsuitable_arrays_are_refused() {
    let dir = TempDir::new().unwrap();
    let refused = |array: ArrayD<f32>| {
        let path = Npz::create(&dir, "c.npz").add("x", array).finish();
        problem(from(&image(), &path))
    };
    let zeros = |shape: &[usize]| ArrayD::zeros(shape);
    assert!(
        matches!(refused(zeros(&[2, 3])), CalibrationError::Rank { rank: 3, expected, .. } if expected == "[batch, 2, 3]")
    );
    assert!(matches!(refused(zeros(&[5, 2, 4])), CalibrationError::Extent { axis: 2, expected: 3, .. }));
    assert!(matches!(refused(zeros(&[0, 2, 3])), CalibrationError::Empty { .. }));
    let mut array = counting(2);
    array[[1, 0, 2]] = f32::NEG_INFINITY;
    array[[1, 1, 0]] = f32::NAN;
    assert!(
        matches!(refused(array), CalibrationError::NotFinite { value: f64::NEG_INFINITY, position, .. } if position == [1, 0, 2])
    );
    let path = Npz::create(&dir, "c.npz").add("y", counting(1)).add("z", counting(1)).finish();
    let error = from(&image(), &path).unwrap_err();
    assert!(
        matches!(problem(Err::<(), _>(error)), CalibrationError::MissingInput { input, .. } if input == "x")
    );
}

#[test]
fn ids_must_be_rows_of_their_table() {
    let ids = |last| {
        let ids = Array2::from_shape_vec((1, 3), vec![0, -10, last]).unwrap().into_dyn();
        let mask = Array2::ones((1, 3)).into_dyn();
        Samples::new(&text(), vec![("a".into(), Tensor::I64(ids)), ("b".into(), Tensor::I64(mask))])
    };
    assert!(ids(9).is_ok());
    let error = ids(10).unwrap_err();
    assert!(
        matches!(&error, CalibrationError::IdOutOfRange { rows: 10, id: 10, position, .. } if *position == [0, 2]),
        "{error}"
    );
}

#[test]
fn inputs_must_have_equally_many_samples() {
    let array = |n| Tensor::I64(Array2::ones((n, 3)).into_dyn());
    let error = Samples::new(&text(), vec![("a".into(), array(2)), ("b".into(), array(3))]).unwrap_err();
    assert!(matches!(error, CalibrationError::Counts { first_count: 2, second_count: 3, .. }));
}

#[test]
fn the_options_are_checked() {
    let load = |model: &ModelProto, options: CalibrationOptions| {
        load(model, Some(Path::new("m.onnx")), &options.or_synthetic())
    };
    let shape = |name: &str, shape: &[usize]| CalibrationOptions {
        shapes: vec![(name.into(), shape.to_vec())],
        ..Default::default()
    };
    let zero = CalibrationOptions { samples: Some(0), ..Default::default() };
    assert!(matches!(load(&image(), zero), Err(CalibrationError::ZeroSamples)));
    assert!(
        matches!(load(&image(), shape("y", &[1])), Err(CalibrationError::UnknownShape { inputs, .. }) if inputs == ["x"])
    );
    for wrong in [[1, 2].as_slice(), &[1, 2, 4], &[0, 2, 3]] {
        assert!(
            matches!(load(&image(), shape("x", wrong)), Err(CalibrationError::ShapeConflict { .. })),
            "{wrong:?}"
        );
    }
    let huge = model(vec![input("x", DType::F32, "n,w")], vec![], vec![]);
    assert!(matches!(load(&huge, shape("x", &[1, usize::MAX / 2])), Err(CalibrationError::TooLarge { .. })));
    assert!(matches!(load(&model(vec![], vec![], vec![]), shape("x", &[])), Err(CalibrationError::NoInputs)));
}

#[test]
fn inputs_that_cannot_be_fed_are_named() {
    let load = |model: &ModelProto, shapes| {
        let options = CalibrationOptions { shapes, ..Default::default() };
        load(model, Some(Path::new("m.onnx")), &options.or_synthetic())
    };
    let retyped = |elem_type, shape| {
        let mut x = input("x", DType::F32, "");
        let tensor = type_proto::Tensor { elem_type: Some(elem_type), shape };
        x.r#type =
            Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
        model(vec![x], vec![], vec![])
    };
    const STRING: i32 = 8;
    let strings = retyped(STRING, Some(TensorShapeProto::default()));
    assert!(
        matches!(load(&strings, vec![]), Err(CalibrationError::UnsupportedInput { input }) if input == "x")
    );
    let unranked = retyped(DType::F32.onnx(), None);
    assert!(matches!(load(&unranked, vec![]), Err(CalibrationError::UnknownRank { input }) if input == "x"));
    let samples = load(&unranked, vec![("x".into(), vec![1, 5])]).unwrap();
    assert_eq!(shapes(&samples), [[8, 5]]);
}

// Batches.

#[test]
fn batches_cover_the_samples() {
    let samples = Samples::new(&image(), vec![("x".into(), Tensor::F32(counting(5)))]).unwrap();
    let ranges: Vec<_> = samples.ranges(2).collect();
    assert_eq!(ranges, [0..2, 2..4, 4..5]);
    let batch = samples.batch(2, 4).unwrap();
    assert_eq!(batch, [("x".into(), Tensor::F32(counting(5)).narrow(0, 2, 4))]);
    for (start, end) in [(4, 6), (3, 3), (3, 2)] {
        assert!(matches!(samples.batch(start, end), Err(CalibrationError::NoSuchBatch { .. })));
    }
}

#[test]
fn a_static_batch_is_kept_to() {
    let model = model(vec![input("x", DType::F32, "2,2,3")], vec![], vec![]);
    let samples = Samples::new(&model, vec![("x".into(), Tensor::F32(counting(7)))]).unwrap();
    assert_eq!((samples.len(), samples.fixed_batch()), (6, Some(2)));
    assert_eq!(samples.notes(), [Note::Remainder { dropped: 1, batch: 2 }]);
    assert_eq!(samples.ranges(100).count(), 3);
    assert!(samples.batch(0, 2).is_ok());
    assert!(matches!(samples.batch(0, 4), Err(CalibrationError::NoSuchBatch { fixed: Some(2), .. })));
    assert_eq!(samples.clone().take(5, 0).len(), 4);
    assert_eq!(samples.take(1, 0).len(), 2);
    let error = Samples::new(&model, vec![("x".into(), Tensor::F32(counting(1)))]).unwrap_err();
    assert!(matches!(error, CalibrationError::LessThanABatch { batch: 2, count: 1 }));
    assert_eq!(synthetic(&model, &[], Some(3), 0).len(), 4);
}

#[test]
fn inputs_without_a_batch_axis_are_fed_whole() {
    let model = model(
        vec![
            input("scale", DType::F32, ""),
            input("x", DType::F32, "n,t"),
            input("positions", DType::I64, "t"),
            input("size", DType::I64, "2"),
        ],
        vec![],
        vec![],
    );
    let samples = synthetic(&model, &[], Some(3), 0);
    assert_eq!(shapes(&samples), [&[][..], &[3, 32], &[32], &[2]]);
    let batch = samples.batch(1, 2).unwrap();
    assert_eq!(batch.iter().map(|(_, t)| t.shape()).collect::<Vec<_>>(), [&[][..], &[1, 32], &[32], &[2]]);
    assert_eq!(shapes(&samples.take(2, 0))[1], [2, 32]);
}

#[test]
fn a_larger_choice_contains_the_smaller() {
    let samples = Samples::new(&image(), vec![("x".into(), Tensor::F32(counting(50)))]).unwrap();
    let chosen = |n, seed| -> Vec<f32> {
        let taken = samples.clone().take(n, seed);
        assert_eq!(taken.len(), n);
        fed(&taken)[0].1.to_f32().unwrap().iter().step_by(6).copied().collect()
    };
    let (few, many) = (chosen(5, 1), chosen(20, 1));
    assert!(few.iter().all(|x| many.contains(x)));
    assert!(many.is_sorted());
    assert_ne!(many, chosen(20, 2));
    assert_eq!(samples.clone().take(80, 1).len(), 50);
}

#[test]
fn the_number_of_samples_of_a_file_can_be_limited() {
    let dir = TempDir::new().unwrap();
    let calib = Some(Npz::create(&dir, "c.npz").add("x", counting(9)).finish());
    let options = CalibrationOptions { calib, samples: Some(4), ..Default::default() };
    assert_eq!(load(&image(), Some(Path::new("m.onnx")), &options).unwrap().len(), 4);
    // More than there are: all, and a note.
    let samples =
        load(&image(), Some(Path::new("m.onnx")), &CalibrationOptions { samples: Some(10), ..options });
    let samples = samples.unwrap();
    assert_eq!((samples.len(), samples.notes()), (9, [Note::Fewer { asked: 10, used: 9 }].as_slice()));
}

#[test]
fn made_up_samples_are_bounded() {
    let draw = |shape: &[usize], samples| {
        let options = CalibrationOptions {
            shapes: vec![("x".into(), shape.to_vec())],
            samples: Some(samples),
            synthetic: Synthetic::Always,
            ..Default::default()
        };
        let model = model(vec![input("x", DType::F32, "n,w")], vec![], vec![]);
        load(&model, Some(Path::new("m.onnx")), &options)
    };
    assert_eq!(draw(&[1, 4], 1024).unwrap().len(), 1024);
    assert!(matches!(draw(&[1, 4], 1_000_000), Err(CalibrationError::TooMany { asked: 1_000_000, .. })));
    assert!(matches!(draw(&[1, 1 << 28], 2), Err(CalibrationError::TooLarge { .. })));
}

// Warnings.

/// What the samples of this one input are warned of.
fn warned(array: ArrayD<f32>) -> Vec<WarningCode> {
    let samples = Samples::new(&image(), vec![("x".into(), Tensor::F32(array))]).unwrap();
    samples.warnings().iter().map(|warning| warning.code).collect()
}

#[test]
fn samples_that_cannot_tell_are_warned_of() {
    assert_eq!(warned(counting(16)), []);
    assert_eq!(warned(counting(15)), [WarningCode::FewSamples]);
    // Zeros, one number per sample, one sample over and over; a few repeats are no harm.
    assert_eq!(warned(ArrayD::zeros(vec![32, 2, 3])), [WarningCode::ConstantSamples]);
    let flat = ArrayD::from_shape_fn(vec![32, 2, 3], |i| i[0] as f32);
    assert_eq!(warned(flat), [WarningCode::ConstantSamples]);
    let repeated =
        |period: usize| ArrayD::from_shape_fn(vec![32, 2, 3], |i| (i[0] % period * 6 + i[2]) as f32);
    assert_eq!(warned(repeated(1)), [WarningCode::ConstantSamples]);
    assert_eq!(warned(repeated(16)), [WarningCode::ConstantSamples]);
    assert_eq!(warned(repeated(17)), []);
    let made_up = synthetic(&image(), &[], None, 0).warnings();
    assert_eq!(made_up.iter().map(|w| w.code).collect::<Vec<_>>(), [WarningCode::SyntheticData]);
}

#[test]
fn outputs_that_do_not_vary_are_warned_of() {
    let rows = |rows: &[[f32; 2]]| Tensor::f32(&[rows.len(), 2], rows.concat()).unwrap();
    let code = |runs: &[Tensor]| {
        let mut variation = Variation::default();
        runs.iter().for_each(|run| variation.add(std::slice::from_ref(run), run.shape()[0]));
        variation.warning().map(|warning| warning.code)
    };
    let same = [1e30, -2e30];
    assert_eq!(code(&[rows(&[same, same]), rows(&[same])]), Some(WarningCode::ConstantOutputs));
    assert_eq!(code(&[rows(&[same, same]), rows(&[[1e30, 3e30]])]), None);
    assert_eq!(code(&[rows(&[[f32::NAN, 1.0], [f32::NAN, 1.0]])]), Some(WarningCode::ConstantOutputs));
    assert_eq!(code(&[rows(&[[f32::NAN, 1.0], [0.0, 1.0]])]), None);
    // One sample says nothing, nor does an output that is not by sample.
    assert_eq!(code(&[rows(&[same])]), None);
    let mut whole = Variation::default();
    whole.add(&[rows(&[same, same, same])], 2);
    assert_eq!(whole.warning(), None);
}

#[test]
fn the_hash_of_samples_is_that_of_their_contents() {
    let hash =
        |array: ArrayD<f32>| Samples::new(&image(), vec![("x".into(), Tensor::F32(array))]).unwrap().sha256();
    let mut other = counting(4);
    other[[3, 1, 2]] += 1.0;
    assert_eq!(hash(counting(4)), hash(counting(4)));
    assert_ne!(hash(counting(4)), hash(other));
    assert_ne!(hash(counting(4)), hash(counting(5)));
    // A folder and an archive with the same numbers.
    let dir = TempDir::new().unwrap();
    let archive = Npz::create(&dir, "c.npz").add("x", counting(4)).finish();
    write_npy(dir.path().join("c.npy"), &counting(4)).unwrap();
    let hashes = ["c.npz", "c.npy"].map(|name| from(&image(), &dir.path().join(name)).unwrap().sha256());
    assert_eq!(hashes[0], hashes[1]);
    drop(archive);
}

// Roles.

#[test]
fn ids_and_masks_are_told_apart_by_structure() {
    assert_eq!(roles(&text()), [IDS10, InputRole::Mask]);
    assert_eq!(roles(&image()), [InputRole::Feature]);
    let bytes = model(vec![input("x", DType::U8, "1,8,8,3"), input("m", DType::Bool, "1,8")], vec![], vec![]);
    assert_eq!(roles(&bytes), [InputRole::Feature, InputRole::Mask]);
}

#[test]
fn ids_are_followed_through_operators_that_keep_integers() {
    let chain = |nodes: Vec<NodeProto>| {
        let constants = vec![
            floats("table", &[4, 10]),
            ints("two", &[2, 0]),
            floats("small", &[5, 1]),
            ints("depth", &[10]),
        ];
        roles(&model(vec![input("i", DType::I32, "n,t")], constants, nodes))[0]
    };
    let axis1 = |mut gather: NodeProto| {
        gather.attribute.push(int("axis", -1));
        gather
    };
    let to = |dtype: DType| int("to", dtype.onnx().into());
    let cast = |dtype| with(node("Cast", &["i"], "c"), to(dtype));
    let gather = |indices| axis1(node("Gather", &["table", indices], "e"));
    assert_eq!(chain(vec![gather("i")]), IDS10);
    assert_eq!(chain(vec![cast(DType::I64), node("Unsqueeze", &["c", "two"], "u"), gather("u")]), IDS10);
    assert_eq!(chain(vec![node("OneHot", &["i", "depth", "two"], "h")]), IDS10);
    // Positions shifted by two: the last two rows are out of reach.
    assert_eq!(chain(vec![node("Add", &["two", "i"], "a"), gather("a")]), InputRole::Ids { rows: Some(8) });
    // The smallest of several tables counts, but not tables that ids are only compared for.
    assert_eq!(
        chain(vec![gather("i"), node("Gather", &["small", "i"], "s")]),
        InputRole::Ids { rows: Some(5) }
    );
    assert_eq!(
        chain(vec![gather("i"), node("Equal", &["i", "two"], "q"), node("Gather", &["small", "q"], "s")]),
        IDS10
    );
    assert_eq!(chain(vec![cast(DType::Bool), node("Not", &["c"], "b"), gather("b")]), InputRole::Mask);
    assert_eq!(chain(vec![cast(DType::F32), gather("c")]), InputRole::Mask);
    // A table behind an alias, and one that is computed.
    let alias = node("Identity", &["table"], "alias");
    assert_eq!(chain(vec![alias, axis1(node("Gather", &["alias", "i"], "e"))]), IDS10);
    let computed = vec![node("Relu", &["table"], "r"), node("Gather", &["r", "i"], "e")];
    assert_eq!(chain(computed), InputRole::Ids { rows: None });
}

#[test]
fn ids_are_found_in_fused_embeddings_and_in_subgraphs() {
    let tables = || vec![floats("w", &[10, 2]), floats("p", &[6, 2]), floats("s", &[2, 2])];
    let inputs =
        || vec![input("i", DType::I32, "n,t"), input("j", DType::I32, "n,t"), input("m", DType::I32, "n,t")];
    let fused = NodeProto {
        domain: Some("com.microsoft".into()),
        ..node("EmbedLayerNormalization", &["i", "j", "w", "p", "s", "g", "b", "m"], "e")
    };
    let two = InputRole::Ids { rows: Some(2) };
    assert_eq!(roles(&model(inputs(), tables(), vec![fused])), [IDS10, two, InputRole::Mask]);
    let body = GraphProto { node: vec![node("Gather", &["w", "i"], "e")], ..Default::default() };
    let branch = AttributeProto { name: Some("then_branch".into()), g: Some(body), ..Default::default() };
    let outer = with(node("If", &["cond"], "y"), branch);
    assert_eq!(roles(&model(inputs(), tables(), vec![outer])), [IDS10, InputRole::Mask, InputRole::Mask]);
}

// Synthetic inputs.

#[test]
fn synthetic_ids_are_valid_and_masks_are_ones() {
    let samples = synthetic(&text(), &[], None, 0);
    assert_eq!((samples.origin(), samples.len()), (&Origin::Synthetic, 8));
    assert_eq!(shapes(&samples), [[8, 32], [8, 32]]);
    let ids = fed(&samples)[0].1.to_ints().unwrap();
    assert!((0..10).all(|id| ids.contains(&id)) && ids.iter().all(|id| (0..10).contains(id)));
    assert!(fed(&samples)[1].1.to_ints().unwrap().iter().all(|&x| x == 1));
}

#[test]
fn synthetic_features_are_standard_normal() {
    let samples = synthetic(&model(vec![input("x", DType::F16, "n,3,?,w")], vec![], vec![]), &[], Some(1), 0);
    assert_eq!((shapes(&samples)[0].clone(), fed(&samples)[0].1.dtype()), (vec![1, 3, 224, 224], DType::F16));
    let x = fed(&samples)[0].1.to_f32().unwrap();
    let mean = x.mean().unwrap();
    let variance = x.mapv(|v| (v - mean).powi(2)).mean().unwrap();
    assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
}

#[test]
fn dynamic_extents_have_defaults_and_can_be_given() {
    let inputs = || {
        vec![
            input("a", DType::F32, "n,t,8"),
            input("b", DType::I64, "n,t"),
            input("c", DType::F32, "n,h,w,3"),
        ]
    };
    let model = model(inputs(), vec![], vec![]);
    assert_eq!(shapes(&synthetic(&model, &[], Some(2), 0)), [&[2, 32, 8][..], &[2, 32], &[2, 224, 224, 3]]);
    // An extent given for one input holds wherever its symbol stands.
    let given: [(&str, &[usize]); 2] = [("b", &[1, 5]), ("c", &[1, 6, 7, 3])];
    assert_eq!(shapes(&synthetic(&model, &given, Some(2), 0)), [&[2, 5, 8][..], &[2, 5], &[2, 6, 7, 3]]);
}

#[test]
fn synthetic_inputs_depend_on_the_seed_alone() {
    let model = model(vec![input("x", DType::F32, "n,4"), input("y", DType::F32, "n,4")], vec![], vec![]);
    let draw = |samples, seed| -> Vec<Array2<f32>> {
        let samples = synthetic(&model, &[], Some(samples), seed);
        fed(&samples).iter().map(|(_, t)| t.to_f32().unwrap().into_dimensionality::<Ix2>().unwrap()).collect()
    };
    let (three, two) = (draw(3, 7), draw(2, 7));
    assert_eq!(three, draw(3, 7));
    assert_ne!(three, draw(3, 8));
    assert_ne!(three[0], three[1]);
    assert_eq!(three[1].slice(ndarray::s![..2, ..]), two[1]);
    // Pinned, so that a change of the generator is noticed.
    assert_eq!(three[0].row(0).to_vec(), [-0.7753719, -1.3834218, 0.889713, 0.35977906]);
}

#[test]
fn synthetic_bytes_span_their_range() {
    let samples = synthetic(&model(vec![input("x", DType::U8, "1,h,w,3")], vec![], vec![]), &[], Some(1), 0);
    let Tensor::U8(bytes) = &fed(&samples)[0].1 else { panic!("wrong type") };
    let bytes: &Array4<u8> = &bytes.clone().into_dimensionality().unwrap();
    assert_eq!((bytes.iter().min(), bytes.iter().max()), (Some(&0), Some(&255)));
}
