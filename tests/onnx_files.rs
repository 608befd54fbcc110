//! Reading and writing ONNX files: what must come back unchanged, and what must be refused.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use optin_onnx::{
    onnx::{
        self, OnnxError, inline_functions, load, node_constant, opset,
        proto::{
            AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
            StringStringEntryProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
        },
        save, validate,
    },
    staging::WriteError,
    tensor::{DType, Tensor},
};
use proptest::prelude::*;
use std::{fs, path::Path};
use tempfile::{TempDir, tempdir};

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("{op}_{}", outputs.join("_"))),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: outputs.iter().map(|&o| o.into()).collect(),
        ..NodeProto::default()
    }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind.into()), ..AttributeProto::default() }
}

fn with_graph(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    node.attribute.push(AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) });
    node
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

fn graph(inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("g".into()),
        node: nodes,
        input: inputs.iter().map(|n| value(n)).collect(),
        output: outputs.iter().map(|n| value(n)).collect(),
        ..GraphProto::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", 17)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// y = x W + b, with W of 2 KiB and b of 64 bytes.
fn linear() -> ModelProto {
    let mut g =
        graph(&["x"], vec![node("MatMul", &["x", "w"], &["h"]), node("Add", &["h", "b"], &["y"])], &["y"]);
    let w = Tensor::f32(&[32, 16], (0..512).map(|i| i as f32).collect()).unwrap();
    let b = Tensor::f32(&[16], vec![1.5; 16]).unwrap();
    g.initializer = vec![onnx::tensor::from_tensor("w", &w), onnx::tensor::from_tensor("b", &b)];
    model(g)
}

fn graph_of(model: &ModelProto) -> &GraphProto {
    model.graph.as_ref().unwrap()
}

/// Writes the bytes of `model` as they are, valid or not.
fn write(directory: &TempDir, model: &ModelProto) -> std::path::PathBuf {
    let path = directory.path().join("m.onnx");
    fs::write(&path, onnx::encode(model)).unwrap();
    path
}

/// The one file of weights in the directory.
fn data_file(directory: &TempDir) -> std::path::PathBuf {
    let files = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let data: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "data")).collect();
    assert_eq!(data.len(), 1, "{data:?}");
    data[0].clone()
}

fn load_model(model: &ModelProto) -> Result<ModelProto, OnnxError> {
    let directory = tempdir().unwrap();
    load(&write(&directory, model)).map(|source| source.model)
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}

/// [`linear`] with W described as external data by these entries.
fn external(entries: &[(&str, &str)]) -> ModelProto {
    let mut model = linear();
    let w = &mut model.graph.as_mut().unwrap().initializer[0];
    w.raw_data = None;
    w.data_location = Some(1);
    w.external_data = entries.iter().map(|(k, v)| entry(k, v)).collect();
    model
}

fn weights() -> Bytes {
    graph_of(&linear()).initializer[0].raw_data.clone().unwrap()
}

mod round_trip {
    use super::*;

    #[test]
    fn unchanged_models_keep_their_bytes() {
        let directory = tempdir().unwrap();
        let path = write(&directory, &linear());
        let source = load(&path).unwrap();
        let copy = directory.path().join("copy.onnx");
        let written = save(&source.model, &copy, false).unwrap();
        let (before, after) = (fs::read(&path).unwrap(), fs::read(&copy).unwrap());
        assert_eq!(before, after);
        assert_eq!((written, source.bytes), (before.len() as u64, before.len() as u64));
        assert!(!source.external);
    }

    #[test]
    fn hash_is_that_of_the_file() {
        let directory = tempdir().unwrap();
        let path = write(&directory, &linear());
        let expected = sha2_hex(&fs::read(&path).unwrap());
        assert_eq!(load(&path).unwrap().sha256, expected);
    }

    #[test]
    fn the_hash_covers_external_data() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        save(&linear(), &path, true).unwrap();
        let hash = || load(&path).unwrap().sha256;
        let before = hash();
        let file = [fs::read(&path).unwrap(), fs::read(data_file(&directory)).unwrap()].concat();
        assert_eq!(before, sha2_hex(&file));
        let mut weights = fs::read(data_file(&directory)).unwrap();
        *weights.last_mut().unwrap() ^= 1;
        fs::write(data_file(&directory), weights).unwrap();
        assert_ne!(hash(), before);
    }

    fn sha2_hex(bytes: &[u8]) -> String {
        use sha2::Digest;
        sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn saving_over_the_mapped_source_is_safe() {
        let directory = tempdir().unwrap();
        let path = write(&directory, &linear());
        let mut source = load(&path).unwrap();
        source.model.producer_name = Some("a longer header moves all data".into());
        save(&source.model, &path, false).unwrap();
        assert_eq!(load(&path).unwrap().model, source.model);
    }

    #[test]
    fn external_data_goes_out_and_comes_back() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        let written = save(&linear(), &path, true).unwrap();
        let data = fs::read(data_file(&directory)).unwrap();
        assert_eq!(data, weights());
        assert_eq!(written, fs::metadata(&path).unwrap().len() + data.len() as u64);
        let source = load(&path).unwrap();
        assert!(source.external);
        assert_eq!(source.bytes, written);
        assert_eq!(source.model, linear());
    }

    #[test]
    fn external_offsets_are_pages() {
        let mut model = linear();
        let g = model.graph.as_mut().unwrap();
        let w2 = Tensor::f32(&[300], vec![2.0; 300]).unwrap();
        g.initializer.push(onnx::tensor::from_tensor("w2", &w2));
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        save(&model, &path, true).unwrap();
        assert_eq!(fs::metadata(data_file(&directory)).unwrap().len(), 4096 + 1200);
        assert_eq!(load(&path).unwrap().model, model);
        // Over its own mapped source, and then back into one file.
        let loaded = load(&path).unwrap().model;
        save(&loaded, &path, true).unwrap();
        assert_eq!(load(&path).unwrap().model, model);
        save(&loaded, &path, false).unwrap();
        assert_eq!(load(&path).unwrap().model, model);
    }

    #[test]
    fn weights_that_view_the_same_bytes_are_written_once() {
        let mut model = linear();
        let first = onnx::tensor::from_tensor("w2", &Tensor::f32(&[300], vec![2.0; 300]).unwrap());
        let second = TensorProto { name: Some("w3".into()), dims: vec![20, 15], ..first.clone() };
        model.graph.as_mut().unwrap().initializer.extend([first, second]);
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        for _ in 0..2 {
            save(&model, &path, true).unwrap();
            assert_eq!(fs::metadata(data_file(&directory)).unwrap().len(), 4096 + 1200);
            let loaded = load(&path).unwrap().model;
            assert_eq!(loaded, model);
            // They share a stretch of the file now, and go on to do so.
            model = loaded;
        }
    }

    #[test]
    fn external_data_of_subgraphs_and_typed_fields() {
        let mut inner = graph(&[], vec![node("Identity", &["big"], &["r"])], &["r"]);
        inner.initializer = vec![TensorProto {
            name: Some("big".into()),
            dims: vec![400],
            data_type: Some(1),
            float_data: vec![0.5; 400],
            ..TensorProto::default()
        }];
        let branch = with_graph(node("If", &["c"], &["y"]), "then_branch", inner);
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        save(&model(graph(&["c"], vec![branch], &["y"])), &path, true).unwrap();
        let loaded = load(&path).unwrap();
        let inner = graph_of(&loaded.model).node[0].attribute[0].g.as_ref().unwrap();
        assert_eq!(inner.initializer[0].raw_data.as_deref().unwrap(), 0.5f32.to_le_bytes().repeat(400));
    }
}

mod writing {
    use super::*;

    #[test]
    fn unrelated_data_files_are_not_replaced() {
        let directory = tempdir().unwrap();
        let path = write(&directory, &linear());
        let plain = directory.path().join("m.onnx.data");
        fs::write(&plain, "precious").unwrap();
        // Not in the way, and no model refers to it.
        save(&linear(), &path, true).unwrap();
        assert_eq!(fs::read(&plain).unwrap(), b"precious");

        // In the way: it has the name of the weights, other contents, and does not belong to what is replaced.
        fs::remove_file(&plain).unwrap();
        let data = data_file(&directory);
        fs::write(&path, onnx::encode(&linear())).unwrap();
        fs::write(&data, "precious").unwrap();
        let error = save(&linear(), &path, true).unwrap_err();
        assert!(matches!(error, OnnxError::WouldOverwrite { .. }), "{error}");
        assert_eq!(fs::read(&data).unwrap(), b"precious");
        assert_eq!(load(&path).unwrap().model, linear());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn other_weights_go_to_another_file_and_those_of_the_replaced_model_go() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        save(&linear(), &path, true).unwrap();
        let first = data_file(&directory);
        let mut other = linear();
        other.graph.as_mut().unwrap().initializer[0].raw_data = Some(1.5f32.to_le_bytes().repeat(512).into());
        save(&other, &path, true).unwrap();
        let second = data_file(&directory);
        assert_ne!(first, second);
        assert_eq!(load(&path).unwrap().model, other);
        // The same weights again; then what an exporter calls its weights; then one file.
        save(&other, &path, true).unwrap();
        assert_eq!(data_file(&directory), second);
        fs::rename(&second, directory.path().join("m.onnx.data")).unwrap();
        let mut raw = <ModelProto as prost::Message>::decode(fs::read(&path).unwrap().as_slice()).unwrap();
        raw.graph.as_mut().unwrap().initializer[0].external_data[0].value = Some("m.onnx.data".into());
        fs::write(&path, onnx::encode(&raw)).unwrap();
        save(&linear(), &path, true).unwrap();
        assert_eq!(data_file(&directory), first);
        save(&linear(), &path, false).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_staged_model_can_be_opened_and_leaves_nothing_behind_when_dropped() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        save(&linear(), &path, true).unwrap();
        let before = fs::read(&path).unwrap();
        for external in [false, true] {
            let mut other = linear();
            other.producer_name = Some("another".into());
            let staged = onnx::stage(&other, &path, external).unwrap();
            let source = load(&staged.path()).unwrap();
            assert_eq!((source.model, source.bytes, source.external), (other, staged.bytes(), external));
            drop(staged);
            assert_eq!(fs::read(&path).unwrap(), before);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
            assert_eq!(load(&path).unwrap().model, linear());
        }
    }

    #[test]
    fn locations_of_the_input_do_not_say_where_to_write() {
        let directory = tempdir().unwrap();
        let inside = directory.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let mut model = external(&[("location", "../victim")]);
        model.graph.as_mut().unwrap().initializer[0].raw_data = Some(weights());
        save(&model, &inside.join("m.onnx"), true).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_replaced_not_followed() {
        let directory = tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let path = directory.path().join("m.onnx");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        save(&linear(), &path, true).unwrap();
        let data = data_file(&directory);
        fs::remove_file(&data).unwrap();
        std::os::unix::fs::symlink(&victim, &data).unwrap();
        // The model refers to it, but a link is not what this program wrote.
        assert!(matches!(save(&linear(), &path, true), Err(OnnxError::WouldOverwrite { .. })));
        save(&linear(), &path, false).unwrap();
        assert!(!path.is_symlink());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn directories_and_nothing_are_refused() {
        let directory = tempdir().unwrap();
        let error = save(&linear(), directory.path(), false).unwrap_err();
        assert!(matches!(error, OnnxError::Write(WriteError::NotAFile { .. })), "{error}");
        let error = save(&linear(), &directory.path().join("no/m.onnx"), false).unwrap_err();
        assert!(matches!(error, OnnxError::Write(WriteError::NoFolder { .. })), "{error}");
        assert!(save(&linear(), Path::new(""), false).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_left_behind_by_a_failure() {
        let directory = tempdir().unwrap();
        let path = write(&directory, &linear());
        // Too long a name for the temporary file, whatever the rights of the user.
        let long = directory.path().join("n".repeat(255));
        assert!(save(&linear(), &long, false).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(load(&path).unwrap().model, linear());
    }

    #[cfg(unix)]
    #[test]
    fn files_are_as_readable_as_any() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempdir().unwrap();
        let plain = write(&directory, &linear());
        let saved = directory.path().join("saved.onnx");
        save(&linear(), &saved, false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&plain), mode(&saved));
    }
}

mod hostile_files {
    use super::*;

    fn load_bytes(bytes: &[u8]) -> OnnxError {
        let directory = tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        fs::write(&path, bytes).unwrap();
        load(&path).unwrap_err()
    }

    #[test]
    fn what_is_not_a_model() {
        let directory = tempdir().unwrap();
        let absent = load(&directory.path().join("absent.onnx")).unwrap_err();
        assert!(matches!(absent, OnnxError::NotFound { .. }), "{absent}");
        let folder = load(directory.path()).unwrap_err();
        assert!(matches!(folder, OnnxError::NotAFile { .. }), "{folder}");
        assert!(matches!(load_bytes(b""), OnnxError::Empty { .. }));
        assert!(
            matches!(load_bytes(b"<!DOCTYPE html>\n<html>"), OnnxError::Text { begins, .. } if begins == "<!DOCTYPE html>")
        );
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert!(matches!(load_bytes(pointer), OnnxError::LfsPointer { .. }));
        assert!(matches!(load_bytes(b"PK\x03\x04\x14\x00\x06\x00\x08\x00"), OnnxError::OtherFormat { .. }));
        assert!(matches!(load_bytes(b"\x08\x07\x12"), OnnxError::Decode { .. }));
        assert!(matches!(load_model(&ModelProto { graph: None, ..linear() }), Err(OnnxError::NoGraph)));
    }

    #[test]
    fn every_prefix_of_a_model_is_refused() {
        let bytes = onnx::encode(&linear());
        for end in 0..bytes.len() {
            load_bytes(&bytes[..end]);
        }
    }

    #[test]
    fn versions_out_of_range() {
        let with = |ir, opset| ModelProto {
            ir_version: Some(ir),
            opset_import: vec![import("ai.onnx", opset)],
            ..linear()
        };
        for (ir, opset) in [(3, 7), (14, 28)] {
            load_model(&with(ir, opset)).unwrap();
        }
        for ir in [i64::MIN, 0, 2, 15, i64::MAX] {
            assert!(
                matches!(load_model(&with(ir, 17)), Err(OnnxError::IrVersion { found, .. }) if found == ir)
            );
        }
        for opset in [-1, 6, 29, i64::MAX] {
            assert!(
                matches!(load_model(&with(8, opset)), Err(OnnxError::Opset { found, .. }) if found == opset)
            );
        }
        let none = ModelProto { opset_import: vec![import("com.microsoft", 1)], ..linear() };
        assert!(matches!(load_model(&none), Err(OnnxError::NoOpset)));
    }

    #[test]
    fn nesting_beyond_the_limit_of_protobuf() {
        let mut inner = graph(&[], vec![node("Identity", &["c"], &["y"])], &["y"]);
        for _ in 0..60 {
            inner = graph(&[], vec![with_graph(node("If", &["c"], &["y"]), "then_branch", inner)], &["y"]);
        }
        inner.input = vec![value("c")];
        let error = load_model(&model(inner)).unwrap_err();
        assert!(error.to_string().contains("recursion limit"), "{error}");
    }

    /// The key and the length of a field that is a message, and what it holds.
    fn message(field: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn masses_of_empty_messages_are_refused_before_they_are_decoded() {
        // Two bytes each, which would take some hundred times as much in memory.
        const GRAPH: u32 = 7;
        let (mut node, mut attribute) = (message(1, &[]).repeat(1 << 21), message(5, &[]).repeat(1 << 21));
        let mut bombs = vec![std::mem::take(&mut node)];
        for (field, content) in [(5, &[][..]), (11, &[]), (15, &[0x0a, 0x00]), (13, &[0x12, 0x00])] {
            bombs.push(message(field, content).repeat(1 << 21));
        }
        bombs.push(message(1, &std::mem::take(&mut attribute)));
        for graph in bombs {
            let bytes = [b"\x08\x08".to_vec(), message(GRAPH, &graph)].concat();
            let error = load_bytes(&bytes);
            assert!(matches!(error, OnnxError::DecodedSize { .. }), "{error}");
        }
        // Ten thousand nodes of an honest model are far from it.
        let nodes = (0..10_000).map(node_in_chain).collect();
        load_model(&model(graph(&["v0"], nodes, &["v10000"]))).unwrap();
    }

    fn node_in_chain(i: usize) -> NodeProto {
        node("Relu", &[&format!("v{i}")], &[&format!("v{}", i + 1)])
    }

    #[test]
    fn extremely_many_nodes_and_extremely_long_names_are_read_in_time() {
        let start = std::time::Instant::now();
        let many = (0..100_000).rev().map(node_in_chain).collect();
        load_model(&model(graph(&["v0"], many, &["v100000"]))).unwrap();
        let long = "n".repeat(1 << 22);
        let names = vec![node("Relu", &["x"], &[&long]), node("Relu", &[&long], &["y"])];
        load_model(&model(graph(&["x"], names, &["y"]))).unwrap();
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }

    #[test]
    fn sparse_tensors_that_cannot_be_written_out_are_refused() {
        use optin_onnx::onnx::proto::SparseTensorProto;
        let sparse = |dims: &[i64]| {
            let mut model = linear();
            let values = Tensor::f32(&[1], vec![1.0]).unwrap();
            let values = onnx::tensor::from_tensor("s", &values);
            let indices = onnx::tensor::from_tensor("", &Tensor::ints(&[0]));
            model.graph.as_mut().unwrap().sparse_initializer =
                vec![SparseTensorProto { values: Some(values), indices: Some(indices), dims: dims.to_vec() }];
            load_model(&model)
        };
        sparse(&[1000, 1000]).unwrap();
        for dims in [&[1 << 40][..], &[i64::MAX, i64::MAX], &[-1]] {
            let error = sparse(dims).unwrap_err();
            assert!(matches!(error, OnnxError::SparseDims { .. }), "{error}");
        }
    }

    /// A Loop over `trips` with `condition`, whose body gives `next` as its next condition.
    fn looping(trips: &str, condition: &str, next: &str) -> Result<ModelProto, OnnxError> {
        let constant = |name: &str, tensor: &Tensor| onnx::tensor::from_tensor(name, tensor);
        let truth =
            |b: bool| constant(if b { "true" } else { "false" }, &Tensor::Bool(ndarray::arr0(b).into_dyn()));
        let nodes = vec![
            node("Identity", &["go"], &["copied"]),
            node("Not", &["go"], &["computed"]),
            node("Relu", &["v"], &["w"]),
        ];
        let mut body = graph(&["i", "go", "v"], nodes, &[next, "w"]);
        body.initializer = vec![constant("inner", &Tensor::Bool(ndarray::arr0(true).into_dyn()))];
        let outer = node("Loop", &[trips, condition, "x"], &["y"]);
        let mut g = graph(&["x", "n", "c"], vec![with_graph(outer, "body", body)], &["y"]);
        g.initializer = vec![
            truth(true),
            truth(false),
            constant("few", &Tensor::int(8)),
            constant("all", &Tensor::int(i64::MAX)),
        ];
        load_model(&model(g))
    }

    #[test]
    fn loops_that_never_end_are_refused() {
        for trips in ["", "all"] {
            for condition in ["", "true"] {
                for next in ["go", "copied", "true", "inner"] {
                    let error = looping(trips, condition, next).unwrap_err();
                    assert!(
                        matches!(error, OnnxError::EndlessLoop { .. }),
                        "{trips} {condition} {next}: {error}"
                    );
                }
            }
        }
        // Bounded, or ended by what is computed or fed.
        for (trips, condition, next) in [
            ("few", "true", "go"),
            ("n", "", "go"),
            ("all", "c", "go"),
            ("", "false", "true"),
            ("", "true", "computed"),
            ("all", "", "false"),
        ] {
            looping(trips, condition, next).unwrap();
        }
    }

    fn with_tensor(change: impl Fn(&mut TensorProto)) -> Result<ModelProto, OnnxError> {
        let mut model = linear();
        change(&mut model.graph.as_mut().unwrap().initializer[0]);
        load_model(&model)
    }

    #[test]
    fn tensors_that_do_not_fill_their_shape() {
        let dims = |dims: &[i64]| {
            let dims = dims.to_vec();
            with_tensor(move |t| t.dims = dims.clone()).unwrap_err()
        };
        assert!(matches!(dims(&[32, 17]), OnnxError::Length { expected: 2176, found: 2048, .. }));
        assert!(matches!(dims(&[]), OnnxError::Length { expected: 4, .. }));
        assert!(matches!(dims(&[0]), OnnxError::Length { expected: 0, .. }));
        for impossible in [&[-1][..], &[i64::MIN, 2], &[i64::MAX, i64::MAX], &[1 << 32, 1 << 32], &[i64::MAX]]
        {
            assert!(matches!(dims(impossible), OnnxError::Dims { .. }), "{impossible:?}");
        }
        let missing = with_tensor(|t| t.raw_data = None).unwrap_err();
        assert!(matches!(missing, OnnxError::Length { found: 0, unit: "elements", .. }), "{missing}");
        let twice = with_tensor(|t| t.float_data = vec![0.0; 512]).unwrap_err();
        assert!(matches!(twice, OnnxError::TwoData { .. }), "{twice}");
    }

    #[test]
    fn element_types_that_do_not_exist() {
        for code in [0, 99, -1, i32::MAX] {
            let error = with_tensor(|t| t.data_type = Some(code)).unwrap_err();
            assert!(matches!(error, OnnxError::ElementType { .. }), "{error}");
        }
    }

    #[test]
    fn packed_types_round_up_to_bytes() {
        for (code, bytes) in [(22, 3), (21, 3), (23, 3), (25, 2), (26, 2), (27, 4), (17, 5)] {
            let packed = |bytes| {
                with_tensor(|t| {
                    (t.dims, t.data_type) = (vec![5], Some(code));
                    t.raw_data = Some(vec![0; bytes].into());
                })
            };
            packed(bytes).unwrap();
            assert!(packed(bytes + 1).is_err());
        }
    }

    #[test]
    fn names_that_are_not_unique() {
        let changed = |change: &dyn Fn(&mut GraphProto)| {
            let mut model = linear();
            change(model.graph.as_mut().unwrap());
            load_model(&model)
        };
        let initializer = changed(&|g| g.initializer.push(g.initializer[0].clone()));
        assert!(matches!(initializer, Err(OnnxError::Redefined { value, .. }) if value == "w"));
        let output = changed(&|g| g.node.push(node("Relu", &["x"], &["y"])));
        assert!(matches!(output, Err(OnnxError::Redefined { value, .. }) if value == "y"));
        let over_input = changed(&|g| g.node.push(node("Relu", &["h"], &["x"])));
        assert!(matches!(over_input, Err(OnnxError::Redefined { value, .. }) if value == "x"));
        let input = changed(&|g| g.input.push(value("x")));
        assert!(matches!(input, Err(OnnxError::Redefined { value, .. }) if value == "x"));
        assert!(matches!(changed(&|g| g.input.push(value(""))), Err(OnnxError::Unnamed { .. })));
        assert!(matches!(changed(&|g| g.initializer[1].name = None), Err(OnnxError::Unnamed { .. })));
        // An initializer may be the default of an input.
        changed(&|g| g.input.push(value("w"))).unwrap();
        let attribute = changed(&|g| {
            g.node[0].attribute = vec![attribute("a", AttributeType::Int); 2];
        });
        assert!(matches!(attribute, Err(OnnxError::TwoAttributes { .. })));
    }

    #[test]
    fn references_to_nothing() {
        let nodes = vec![node("Relu", &["nothing"], &["y"])];
        let error = load_model(&model(graph(&["x"], nodes, &["y"]))).unwrap_err();
        assert_eq!(error.to_string(), "node Relu `Relu_y` reads `nothing`, which nothing before it makes");
        let error = load_model(&model(graph(&["x"], vec![], &["y"]))).unwrap_err();
        assert!(matches!(error, OnnxError::NoOutput { .. }), "{error}");
        let mut reference = node("Relu", &["x"], &["y"]);
        reference.attribute =
            vec![AttributeProto { ref_attr_name: Some("a".into()), ..attribute("a", AttributeType::Int) }];
        let error = load_model(&model(graph(&["x"], vec![reference], &["y"]))).unwrap_err();
        assert!(matches!(error, OnnxError::AttributeReference { .. }), "{error}");
    }

    #[test]
    fn cycles() {
        let circle = vec![node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"])];
        let error = load_model(&model(graph(&["x"], circle, &["b"]))).unwrap_err();
        assert!(matches!(error, OnnxError::Cycle { .. }), "{error}");
        // Through a subgraph that captures the result of its own node.
        let inner = graph(&[], vec![node("Relu", &["y"], &["r"])], &["r"]);
        let captured = with_graph(node("If", &["x"], &["y"]), "then_branch", inner);
        let error = load_model(&model(graph(&["x"], vec![captured], &["y"]))).unwrap_err();
        assert!(matches!(error, OnnxError::Cycle { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            load_bytes(&bytes);
        }

        #[test]
        fn damaged_models_do_not_panic(at in 0usize..2400, byte in any::<u8>()) {
            let directory = tempdir().unwrap();
            let mut bytes = onnx::encode(&linear());
            let at = at % bytes.len();
            bytes[at] = byte;
            let path = directory.path().join("m.onnx");
            fs::write(&path, bytes).unwrap();
            if let Ok(source) = load(&path) {
                for tensor in &graph_of(&source.model).initializer {
                    onnx::tensor::to_tensor(tensor).ok();
                }
            }
        }
    }
}

mod external_data {
    use super::*;

    /// Loads [`external`] from a directory that holds `w.bin`, inside one that holds `outside.bin`.
    fn load_with(entries: &[(&str, &str)]) -> Result<onnx::Source, OnnxError> {
        let outer = tempdir().unwrap();
        let inner = outer.path().join("inner");
        fs::create_dir_all(inner.join("sub")).unwrap();
        for path in [outer.path().join("outside.bin"), inner.join("w.bin"), inner.join("sub/w.bin")] {
            fs::write(path, weights()).unwrap();
        }
        let path = inner.join("m.onnx");
        fs::write(&path, onnx::encode(&external(entries))).unwrap();
        load(&path)
    }

    #[test]
    fn downward_paths_are_read() {
        for location in ["w.bin", "./w.bin", "sub/w.bin"] {
            let source = load_with(&[("location", location), ("offset", "0"), ("length", "2048")]).unwrap();
            assert_eq!(source.model, linear());
        }
    }

    #[test]
    fn length_and_offset_may_be_absent_and_unknown_keys_are_ignored() {
        let entries = [("location", "w.bin"), ("checksum", "0"), ("__class__", "x"), ("basepath", "/etc")];
        assert_eq!(load_with(&entries).unwrap().model, linear());
    }

    #[test]
    fn paths_that_leave_the_directory_are_refused() {
        // CVE-2022-25882, CVE-2024-27318
        let backslashes = ["..\\outside.bin", "sub\\w.bin", "C:\\w.bin"];
        let slashes = [
            "../outside.bin",
            "sub/../../outside.bin",
            "sub/../w.bin",
            "/etc/passwd",
            "//etc/passwd",
            "..",
            "sub/..",
        ];
        for location in slashes.into_iter().chain(backslashes).chain(["w.bin\0", "\0", ""]) {
            let error = load_with(&[("location", location)]).unwrap_err();
            assert!(matches!(error, OnnxError::Location { .. }), "{location}: {error}");
        }
        assert!(matches!(load_with(&[]), Err(OnnxError::Location { .. })));
        assert!(matches!(load_with(&[("location", "absent")]), Err(OnnxError::ExternalMissing { .. })));
        assert!(matches!(load_with(&[("location", "sub")]), Err(OnnxError::NotAFile { .. })));
    }

    #[test]
    fn ranges_beyond_the_file_are_refused() {
        // CVE-2024-27319, CVE-2026-34445
        let max = u64::MAX.to_string();
        for (offset, length) in [("0", "2049"), ("1", "2048"), ("2049", "0"), (&max, "2048"), ("2048", &max)]
        {
            let entries = [("location", "w.bin"), ("offset", offset), ("length", length)];
            let error = load_with(&entries).unwrap_err();
            assert!(matches!(error, OnnxError::ExternalRange { .. }), "{offset} {length}: {error}");
        }
        for bad in ["-1", "1e3", "99999999999999999999", "0x10", ""] {
            for key in ["offset", "length"] {
                let error = load_with(&[("location", "w.bin"), (key, bad)]).unwrap_err();
                assert!(matches!(error, OnnxError::ExternalNumber { .. }), "{key} {bad}: {error}");
            }
        }
        for huge in ["18446744073709551616", "-9223372036854775808", "inf", "NaN", "1_000", " 1", "1\0"] {
            let error = load_with(&[("location", "w.bin"), ("offset", huge)]).unwrap_err();
            assert!(matches!(error, OnnxError::ExternalNumber { .. }), "{huge}: {error}");
        }
        // In range, but not the size of the tensor.
        let error = load_with(&[("location", "w.bin"), ("length", "1024")]).unwrap_err();
        assert!(matches!(error, OnnxError::Length { .. }), "{error}");
    }

    #[test]
    fn shapes_that_ask_for_more_than_the_file_are_refused() {
        // CVE-2026-34445: no length is given, so the shape tells it.
        for dims in [vec![1 << 40], vec![1 << 20, 1 << 20, 1 << 20], vec![-1], vec![i64::MAX]] {
            let directory = tempdir().unwrap();
            fs::write(directory.path().join("w.bin"), weights()).unwrap();
            let mut model = external(&[("location", "w.bin")]);
            model.graph.as_mut().unwrap().initializer[0].dims = dims;
            let error = load(&write(&directory, &model)).unwrap_err();
            assert!(matches!(error, OnnxError::ExternalRange { .. } | OnnxError::Dims { .. }), "{error}");
        }
    }

    #[test]
    fn masses_of_tensors_cannot_share_the_same_few_bytes() {
        let directory = tempdir().unwrap();
        fs::File::create(directory.path().join("w.bin")).unwrap().set_len(1 << 24).unwrap();
        let sharing = |count: usize| {
            let mut model = linear();
            let graph = model.graph.as_mut().unwrap();
            graph.initializer.extend((0..count).map(|i| TensorProto {
                name: Some(format!("shared{i}")),
                dims: vec![1 << 22],
                data_type: Some(1),
                data_location: Some(1),
                external_data: vec![entry("location", "w.bin")],
                ..TensorProto::default()
            }));
            load(&write(&directory, &model))
        };
        sharing(24).unwrap();
        let error = sharing(65).unwrap_err();
        assert!(matches!(error, OnnxError::ExternalSharing { .. }), "{error}");
    }

    #[cfg(unix)]
    mod links {
        use super::*;
        use std::os::unix::fs::symlink;

        #[test]
        fn that_are_hard_are_refused() {
            // CVE-2026-34446: a second name of a file elsewhere is no link that could be resolved.
            let outer = tempdir().unwrap();
            let inner = outer.path().join("inner");
            fs::create_dir(&inner).unwrap();
            fs::write(outer.path().join("outside.bin"), weights()).unwrap();
            fs::hard_link(outer.path().join("outside.bin"), inner.join("w.bin")).unwrap();
            fs::write(inner.join("m.onnx"), onnx::encode(&external(&[("location", "w.bin")]))).unwrap();
            let error = load(&inner.join("m.onnx")).unwrap_err();
            assert!(error.to_string().contains("hard link"), "{error}");
            // As the message says.
            fs::rename(inner.join("w.bin"), inner.join("link")).unwrap();
            fs::copy(inner.join("link"), inner.join("w.bin")).unwrap();
            assert_eq!(load(&inner.join("m.onnx")).unwrap().model, linear());
        }

        #[test]
        fn to_devices_and_pipes_are_refused_and_not_waited_for() {
            let directory = tempdir().unwrap();
            let pipe = directory.path().join("w.bin");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.is_ok_and(|status| status.success()), "mkfifo is needed");
            let error = load(&write(&directory, &external(&[("location", "w.bin")]))).unwrap_err();
            assert!(matches!(error, OnnxError::NotAFile { .. }), "{error}");
            assert!(matches!(load(&pipe), Err(OnnxError::NotAFile { .. })));
            fs::remove_file(&pipe).unwrap();
            symlink("/dev/zero", &pipe).unwrap();
            let error = load(&write(&directory, &external(&[("location", "w.bin")]))).unwrap_err();
            assert!(matches!(error, OnnxError::Location { .. }), "{error}");
            assert!(matches!(load(Path::new("/dev/zero")), Err(OnnxError::NotAFile { .. })));
        }

        #[test]
        fn out_of_the_directory_are_refused() {
            // CVE-2026-27489, by a file and by a directory
            let outer = tempdir().unwrap();
            let inner = outer.path().join("inner");
            fs::create_dir(&inner).unwrap();
            fs::write(outer.path().join("outside.bin"), weights()).unwrap();
            symlink(outer.path().join("outside.bin"), inner.join("link.bin")).unwrap();
            symlink(outer.path(), inner.join("dir")).unwrap();
            for location in ["link.bin", "dir/outside.bin"] {
                let path = inner.join("m.onnx");
                fs::write(&path, onnx::encode(&external(&[("location", location)]))).unwrap();
                let error = load(&path).unwrap_err();
                assert!(matches!(error, OnnxError::Location { .. }), "{location}: {error}");
            }
        }

        #[test]
        fn of_a_hugging_face_cache_are_followed() {
            let cache = tempdir().unwrap();
            let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/main/onnx"));
            fs::create_dir_all(&blobs).unwrap();
            fs::create_dir_all(&snapshot).unwrap();
            fs::write(blobs.join("aaaa"), onnx::encode(&external(&[("location", "model.onnx_data")])))
                .unwrap();
            fs::write(blobs.join("bbbb"), weights()).unwrap();
            symlink("../../../blobs/aaaa", snapshot.join("model.onnx")).unwrap();
            symlink("../../../blobs/bbbb", snapshot.join("model.onnx_data")).unwrap();
            assert_eq!(load(&snapshot.join("model.onnx")).unwrap().model, linear());
        }

        #[test]
        fn to_a_model_find_the_data_beside_it() {
            let outer = tempdir().unwrap();
            let inner = outer.path().join("inner");
            fs::create_dir(&inner).unwrap();
            fs::write(inner.join("m.onnx"), onnx::encode(&external(&[("location", "w.bin")]))).unwrap();
            fs::write(inner.join("w.bin"), weights()).unwrap();
            symlink("inner/m.onnx", outer.path().join("link.onnx")).unwrap();
            assert_eq!(load(&outer.path().join("link.onnx")).unwrap().model, linear());
        }
    }
}

mod order_of_nodes {
    use super::*;

    fn names(graph: &GraphProto) -> Vec<&str> {
        graph.node.iter().map(|n| n.output[0].as_str()).collect()
    }

    #[test]
    fn sorted_nodes_stay_and_others_are_sorted() {
        let a = || node("Relu", &["x"], &["a"]);
        let b = || node("Relu", &["x"], &["b"]);
        let c = || node("Add", &["b", "a"], &["c"]);
        let sorted = |nodes| load_model(&model(graph(&["x"], nodes, &["c"]))).unwrap();
        assert_eq!(names(graph_of(&sorted(vec![b(), a(), c()]))), ["b", "a", "c"]);
        assert_eq!(names(graph_of(&sorted(vec![c(), b(), a()]))), ["b", "a", "c"]);
        assert_eq!(names(graph_of(&sorted(vec![b(), c(), a()]))), ["b", "a", "c"]);
    }

    #[test]
    fn what_subgraphs_capture_comes_before_them() {
        let inner = graph(&[], vec![node("Relu", &["p"], &["q"]), node("Relu", &["late"], &["p"])], &["q"]);
        let branch = with_graph(node("If", &["x"], &["y"]), "then_branch", inner);
        let nodes = vec![branch, node("Relu", &["x"], &["late"])];
        let loaded = load_model(&model(graph(&["x"], nodes, &["y"]))).unwrap();
        assert_eq!(names(graph_of(&loaded)), ["late", "y"]);
        assert_eq!(names(graph_of(&loaded).node[1].attribute[0].g.as_ref().unwrap()), ["p", "q"]);
    }

    proptest! {
        #[test]
        fn any_shuffle_of_a_chain_is_put_in_order(order in Just((0..20usize).collect::<Vec<_>>()).prop_shuffle()) {
            let link = |&i: &usize| node("Relu", &[&format!("v{i}")], &[&format!("v{}", i + 1)]);
            let mut shuffled = model(graph(&["v0"], order.iter().map(link).collect(), &["v20"]));
            validate(&mut shuffled).unwrap();
            let expected: Vec<_> = (0..20).map(|i| link(&i)).collect();
            prop_assert_eq!(&graph_of(&shuffled).node, &expected);
        }
    }
}

mod functions {
    use super::*;

    fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
        FunctionProto {
            name: Some(name.into()),
            domain: Some("local".into()),
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: outputs.iter().map(|&o| o.into()).collect(),
            node: nodes,
            opset_import: vec![import("", 17)],
            ..FunctionProto::default()
        }
    }

    fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto { domain: Some("local".into()), name: Some("".into()), ..node(name, inputs, outputs) }
    }

    fn with_functions(graph: GraphProto, functions: Vec<FunctionProto>) -> ModelProto {
        ModelProto { functions, ..model(graph) }
    }

    /// One line per node: outputs = op(inputs).
    fn listing(graph: &GraphProto) -> Vec<String> {
        let line =
            |n: &NodeProto| format!("{} = {}({})", n.output.join(", "), n.op_type(), n.input.join(", "));
        graph.node.iter().map(line).collect()
    }

    fn inlined(model: &ModelProto) -> Vec<String> {
        let loaded = load_model(model).unwrap();
        assert!(loaded.functions.is_empty());
        listing(graph_of(&loaded))
    }

    #[test]
    fn bodies_replace_calls_under_new_names() {
        let body = vec![node("Relu", &["a"], &["t"]), node("Add", &["t", "b"], &["r"])];
        let f = function("f", &["a", "b"], &["r"], body);
        // `f/t` is taken; `a` and `t` of the model are not those of the function.
        let nodes = vec![
            node("Neg", &["x"], &["f/t"]),
            call("f", &["x", "f/t"], &["a"]),
            call("f", &["a", "x"], &["t"]),
        ];
        let model = with_functions(graph(&["x"], nodes, &["t"]), vec![f]);
        let expected = [
            "f/t = Neg(x)",
            "f/t_2 = Relu(x)",
            "a = Add(f/t_2, f/t)",
            "f/t_3 = Relu(a)",
            "t = Add(f/t_3, x)",
        ];
        assert_eq!(inlined(&model), expected);
    }

    #[test]
    fn functions_call_functions() {
        let inner = function("inner", &["a"], &["r"], vec![node("Relu", &["a"], &["r"])]);
        let body = vec![call("inner", &["a"], &["m"]), call("inner", &["m"], &["r"])];
        let outer = function("outer", &["a"], &["r"], body);
        let model =
            with_functions(graph(&["x"], vec![call("outer", &["x"], &["y"])], &["y"]), vec![inner, outer]);
        assert_eq!(inlined(&model), ["outer/m = Relu(x)", "y = Relu(outer/m)"]);
    }

    #[test]
    fn missing_inputs_stay_missing_and_missing_outputs_get_names() {
        let body = vec![node("Clip", &["a", "low", "high"], &["r"]), node("Neg", &["a"], &["s"])];
        let f = function("f", &["a", "low", "high"], &["r", "s"], body);
        let nodes = vec![call("f", &["x", "", "c"], &["y"]), call("f", &["x"], &["", "z"])];
        let model = with_functions(graph(&["x", "c"], nodes, &["y", "z"]), vec![f]);
        let expected = ["y = Clip(x, , c)", "f/s = Neg(x)", "f/r = Clip(x, , )", "z = Neg(x)"];
        assert_eq!(inlined(&model), expected);
    }

    #[test]
    fn results_that_are_inputs_are_copied() {
        let f = function("f", &["a"], &["a"], vec![]);
        let model = with_functions(graph(&["x"], vec![call("f", &["x"], &["y"])], &["y"]), vec![f]);
        assert_eq!(inlined(&model), ["y = Identity(x)"]);
    }

    #[test]
    fn attributes_come_from_the_call_or_the_default_or_not_at_all() {
        let reference = |name: &str, of: &str| AttributeProto {
            ref_attr_name: Some(of.into()),
            ..attribute(name, AttributeType::Int)
        };
        let int = |name: &str, i| AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) };
        let mut inner_node = node("Op", &["a"], &["r"]);
        inner_node.attribute = vec![reference("p", "alpha"), reference("q", "beta"), reference("r", "gamma")];
        let mut inner = function("inner", &["a"], &["r"], vec![inner_node]);
        inner.attribute = vec!["alpha".into(), "gamma".into()];
        inner.attribute_proto = vec![int("beta", 7)];
        // The outer function hands its own attribute on.
        let mut inner_call = call("inner", &["a"], &["r"]);
        inner_call.attribute = vec![reference("alpha", "outer_alpha")];
        let mut outer = function("outer", &["a"], &["r"], vec![inner_call]);
        outer.attribute = vec!["outer_alpha".into()];
        let mut outer_call = call("outer", &["x"], &["y"]);
        outer_call.attribute = vec![int("outer_alpha", 3)];
        let model = with_functions(graph(&["x"], vec![outer_call], &["y"]), vec![inner, outer]);
        let loaded = load_model(&model).unwrap();
        assert_eq!(graph_of(&loaded).node[0].attribute, [int("p", 3), int("q", 7)]);
    }

    #[test]
    fn subgraphs_capture_and_shadow() {
        // The branch reads the input `a` of the function from outside, and calls a function itself.
        let g = function("g", &["v"], &["w"], vec![node("Neg", &["v"], &["w"])]);
        let mut inner = graph(&[], vec![node("Add", &["a", "k"], &["t"]), call("g", &["t"], &["u"])], &["u"]);
        inner.initializer = vec![onnx::tensor::from_tensor("k", &Tensor::int(1))];
        let body = vec![with_graph(node("If", &["c"], &["r"]), "then_branch", inner)];
        let f = function("f", &["c", "a"], &["r"], body);
        let nodes = vec![node("Relu", &["x"], &["t"]), call("f", &["x", "t"], &["y"])];
        let loaded = load_model(&with_functions(graph(&["x"], nodes, &["y"]), vec![f, g])).unwrap();
        let branch = graph_of(&loaded).node[1].attribute[0].g.as_ref().unwrap();
        assert_eq!(listing(branch), ["f/t = Add(t, f/k)", "f/u = Neg(f/t)"]);
        assert_eq!((branch.initializer[0].name(), branch.output[0].name()), ("f/k", "f/u"));
    }

    #[test]
    fn calls_in_subgraphs_of_the_model_are_inlined() {
        let f =
            function("f", &["a"], &["r"], vec![node("Relu", &["a"], &["m"]), node("Neg", &["m"], &["r"])]);
        let inner = graph(&[], vec![call("f", &["x"], &["u"])], &["u"]);
        let nodes = vec![with_graph(node("If", &["x"], &["y"]), "then_branch", inner)];
        let loaded = load_model(&with_functions(graph(&["x"], nodes, &["y"]), vec![f])).unwrap();
        let branch = graph_of(&loaded).node[0].attribute[0].g.as_ref().unwrap();
        assert_eq!(listing(branch), ["f/m = Relu(x)", "u = Neg(f/m)"]);
    }

    #[test]
    fn overloads_are_told_apart() {
        let overload = |overload: &str, op: &str| FunctionProto {
            overload: Some(overload.into()),
            ..function("f", &["a"], &["r"], vec![node(op, &["a"], &["r"])])
        };
        let nodes = vec![NodeProto { overload: Some("two".into()), ..call("f", &["x"], &["y"]) }];
        let model = with_functions(
            graph(&["x"], nodes, &["y"]),
            vec![overload("one", "Relu"), overload("two", "Neg")],
        );
        assert_eq!(inlined(&model), ["y = Neg(x)"]);
    }

    #[test]
    fn recursion_is_refused() {
        // GHSA-7w46-vvrh-m8q5: directly, through another function, through a subgraph
        let direct = function("f", &["a"], &["r"], vec![call("f", &["a"], &["r"])]);
        let through = vec![
            function("f", &["a"], &["r"], vec![call("g", &["a"], &["r"])]),
            function("g", &["a"], &["r"], vec![call("f", &["a"], &["r"])]),
        ];
        let inner = graph(&[], vec![call("f", &["a"], &["u"])], &["u"]);
        let branch = with_graph(node("If", &["a"], &["r"]), "then_branch", inner);
        let subgraph = function("f", &["a"], &["r"], vec![branch]);
        for functions in [vec![direct], through, vec![subgraph]] {
            let model = with_functions(graph(&["x"], vec![call("f", &["x"], &["y"])], &["y"]), functions);
            let error = load_model(&model).unwrap_err();
            assert!(matches!(error, OnnxError::RecursiveFunction { .. }), "{error}");
        }
    }

    #[test]
    fn growth_is_bounded() {
        // f0 calls f1 twice, f1 calls f2 twice, ...
        let twice = |i: usize| {
            let next = format!("f{}", i + 1);
            let body = vec![call(&next, &["a"], &["m"]), call(&next, &["m"], &["r"])];
            function(&format!("f{i}"), &["a"], &["r"], body)
        };
        for (depth, limit) in [(100, "30 deep"), (28, "256 MiB")] {
            let mut functions: Vec<_> = (0..depth).map(twice).collect();
            functions.push(function(
                &format!("f{depth}"),
                &["a"],
                &["r"],
                vec![node("Relu", &["a"], &["r"])],
            ));
            let mut model =
                with_functions(graph(&["x"], vec![call("f0", &["x"], &["y"])], &["y"]), functions);
            let error = inline_functions(&mut model).unwrap_err();
            assert!(matches!(error, OnnxError::FunctionExpansion { .. }), "{error}");
            assert!(error.to_string().ends_with(limit), "{error}");
        }
    }

    #[test]
    fn names_and_attributes_count_as_growth() {
        let long = "n".repeat(1 << 20);
        let many = |count: usize, make: &dyn Fn(usize) -> NodeProto| (0..count).map(make).collect::<Vec<_>>();
        let relu = |i: usize| node("Relu", &["a"], &[&format!("r{i}")]);
        let long_call = || NodeProto { name: Some(long.clone()), ..call("f", &["x"], &["y"]) };
        // New names begin with that of the call.
        let results = (long_call(), function("f", &["a"], &["r0"], many(1000, &relu)));
        // Operands get the name that the call gives them.
        let operands = node("Concat", &["a"; 1000], &["r"]);
        let operands = (call("f", &[&long], &["y"]), function("f", &["a"], &["r"], vec![operands]));
        // So do what subgraphs define.
        let inner = graph(&[], many(1000, &relu), &["r0"]);
        let branch = with_graph(node("If", &["a"], &["r"]), "then_branch", inner);
        let branches = (long_call(), function("f", &["a"], &["r"], vec![branch]));
        // Attributes are copied wherever they are referred to.
        let mut given = call("f", &["x"], &["y"]);
        given.attribute =
            vec![AttributeProto { ints: vec![1; 1 << 20], ..attribute("axes", AttributeType::Ints) }];
        let mut reader = node("Relu", &["a"], &["r"]);
        reader.attribute = (0..1000)
            .map(|i| AttributeProto {
                ref_attr_name: Some("axes".into()),
                ..attribute(&format!("k{i}"), AttributeType::Ints)
            })
            .collect();
        let attributes = (given, function("f", &["a"], &["r"], vec![reader]));
        for (call, function) in [results, operands, branches, attributes] {
            let inputs = ["x", &long];
            let mut model = with_functions(graph(&inputs, vec![call], &["y"]), vec![function]);
            let error = inline_functions(&mut model).unwrap_err();
            assert!(matches!(error, OnnxError::FunctionExpansion { .. }), "{error}");
        }
    }

    #[test]
    fn functions_with_many_subgraphs_or_many_calls_are_inlined_in_time() {
        let start = std::time::Instant::now();
        let branch = |i: usize| {
            let inner = graph(&[], vec![node("Relu", &["a"], &["u"])], &["u"]);
            with_graph(node("If", &["a"], &[&format!("r{i}")]), "then_branch", inner)
        };
        let subgraphs = function("f", &["a"], &["r0"], (0..20_000).map(branch).collect());
        load_model(&with_functions(graph(&["x"], vec![call("f", &["x"], &["y"])], &["y"]), vec![subgraphs]))
            .unwrap();
        let name = |i: usize| format!("f{i}");
        let one = |i: usize| FunctionProto {
            opset_import: vec![import("ai.onnx", 17), import(&name(i), 1)],
            ..function(&name(i), &["a"], &["r"], vec![node("Relu", &["a"], &["r"])])
        };
        let calls = (0..20_000).map(|i| call(&name(i), &["x"], &[&format!("y{i}")])).collect();
        load_model(&with_functions(graph(&["x"], calls, &["y0"]), (0..20_000).map(one).collect())).unwrap();
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }

    #[test]
    fn operator_sets_are_merged_or_refused() {
        let f = |version| FunctionProto {
            opset_import: vec![import("ai.onnx", version), import("com.microsoft", 1)],
            ..function("f", &["a"], &["r"], vec![node("Relu", &["a"], &["r"])])
        };
        let model = |f| with_functions(graph(&["x"], vec![call("f", &["x"], &["y"])], &["y"]), vec![f]);
        let merged = load_model(&model(f(17))).unwrap();
        assert_eq!((opset(&merged, ""), opset(&merged, "com.microsoft")), (17, 1));
        let error = load_model(&model(f(18))).unwrap_err();
        let expected = "function `local::f` imports ai.onnx opset 18, but the model imports 17";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn calls_and_definitions_are_checked() {
        let f = || function("f", &["a"], &["r"], vec![node("Relu", &["a"], &["r"])]);
        let twice = with_functions(graph(&["x"], vec![call("f", &["x"], &["y"])], &["y"]), vec![f(), f()]);
        assert!(matches!(load_model(&twice), Err(OnnxError::TwoFunctions { .. })));
        for nodes in [call("f", &["x", "x"], &["y"]), call("f", &["x"], &["y", "z"])] {
            let error =
                load_model(&with_functions(graph(&["x"], vec![nodes], &["y"]), vec![f()])).unwrap_err();
            assert!(matches!(error, OnnxError::FunctionArity { found: 2, expected: 1, .. }), "{error}");
        }
    }
}

mod tensors {
    use super::*;
    use half::{bf16, f16};
    use ndarray::arr1;
    use onnx::tensor::{from_tensor, to_tensor};

    /// Every element type, from raw bytes and from the field that the specification names for it.
    #[test]
    fn every_type_from_either_field() {
        let typed = |code, change: &dyn Fn(&mut TensorProto)| {
            let mut proto = TensorProto { dims: vec![2], data_type: Some(code), ..TensorProto::default() };
            change(&mut proto);
            proto
        };
        let cases = [
            (Tensor::F32(arr1(&[1.5, -2.0]).into_dyn()), typed(1, &|t| t.float_data = vec![1.5, -2.0])),
            (Tensor::F64(arr1(&[1.5, -2.0]).into_dyn()), typed(11, &|t| t.double_data = vec![1.5, -2.0])),
            (
                Tensor::F16(arr1(&[f16::ONE, f16::NEG_ONE]).into_dyn()),
                typed(10, &|t| t.int32_data = vec![0x3c00, 0xbc00]),
            ),
            (
                Tensor::BF16(arr1(&[bf16::ONE, bf16::NEG_ONE]).into_dyn()),
                typed(16, &|t| t.int32_data = vec![0x3f80, 0xbf80]),
            ),
            (Tensor::I8(arr1(&[1, -2]).into_dyn()), typed(3, &|t| t.int32_data = vec![1, -2])),
            (Tensor::I16(arr1(&[1, -2]).into_dyn()), typed(5, &|t| t.int32_data = vec![1, -2])),
            (Tensor::I32(arr1(&[1, -2]).into_dyn()), typed(6, &|t| t.int32_data = vec![1, -2])),
            (Tensor::I64(arr1(&[1, -2]).into_dyn()), typed(7, &|t| t.int64_data = vec![1, -2])),
            (Tensor::U8(arr1(&[1, 255]).into_dyn()), typed(2, &|t| t.int32_data = vec![1, 255])),
            (Tensor::U16(arr1(&[1, 65535]).into_dyn()), typed(4, &|t| t.int32_data = vec![1, 65535])),
            (
                Tensor::U32(arr1(&[1, u32::MAX]).into_dyn()),
                typed(12, &|t| t.uint64_data = vec![1, u32::MAX.into()]),
            ),
            (Tensor::U64(arr1(&[1, u64::MAX]).into_dyn()), typed(13, &|t| t.uint64_data = vec![1, u64::MAX])),
            (Tensor::Bool(arr1(&[true, false]).into_dyn()), typed(9, &|t| t.int32_data = vec![1, 0])),
        ];
        for (tensor, proto) in cases {
            assert_eq!(to_tensor(&proto).unwrap(), tensor);
            let raw = from_tensor("t", &tensor);
            assert_eq!(raw.raw_data.as_ref().unwrap().len(), 2 * tensor.dtype().size());
            assert_eq!(to_tensor(&raw).unwrap(), tensor);
        }
    }

    #[test]
    fn data_is_row_major_and_little_endian() {
        let transposed = ndarray::arr2(&[[1i16, 2], [3, 4]]).reversed_axes().into_dyn();
        let proto = from_tensor("t", &Tensor::I16(transposed));
        assert_eq!(proto.raw_data.as_deref().unwrap(), [1, 0, 3, 0, 2, 0, 4, 0]);
        assert_eq!(proto.dims, [2, 2]);
    }

    #[test]
    fn scalars_and_empty_tensors() {
        for shape in [&[][..], &[0], &[2, 0, 3]] {
            let n = shape.iter().product::<usize>();
            let tensor = Tensor::f32(shape, vec![1.0; n]).unwrap();
            assert_eq!(to_tensor(&from_tensor("t", &tensor)).unwrap(), tensor);
        }
    }

    #[test]
    fn types_that_tensors_cannot_hold_are_refused() {
        for code in [0, 8, 14, 17, 22, 99] {
            let proto = TensorProto { data_type: Some(code), ..TensorProto::default() };
            assert!(matches!(to_tensor(&proto), Err(OnnxError::ElementType { .. })));
        }
    }

    #[test]
    fn constants_in_every_form() {
        let constant = |change: AttributeProto| {
            let mut constant = node("Constant", &[], &["k"]);
            constant.attribute = vec![change];
            node_constant(&constant).map(|t| (t.name().to_owned(), to_tensor(&t).unwrap()))
        };
        let k = |tensor| Some(("k".to_owned(), tensor));
        let ints = AttributeProto { ints: vec![1, 2], ..attribute("value_ints", AttributeType::Ints) };
        assert_eq!(constant(ints), k(Tensor::ints(&[1, 2])));
        let int = AttributeProto { i: Some(5), ..attribute("value_int", AttributeType::Int) };
        assert_eq!(constant(int), k(Tensor::int(5)));
        let float = AttributeProto { f: Some(0.5), ..attribute("value_float", AttributeType::Float) };
        assert_eq!(constant(float), k(Tensor::f32(&[], vec![0.5]).unwrap()));
        let floats = AttributeProto { floats: vec![0.5], ..attribute("value_floats", AttributeType::Floats) };
        assert_eq!(constant(floats), k(Tensor::f32(&[1], vec![0.5]).unwrap()));
        let tensor = Tensor::F16(arr1(&[f16::ONE]).into_dyn());
        assert_eq!(tensor.dtype(), DType::F16);
        let value = AttributeProto {
            t: Some(from_tensor("other", &tensor)),
            ..attribute("value", AttributeType::Tensor)
        };
        assert_eq!(constant(value), k(tensor));
        let string = AttributeProto {
            s: Some(Bytes::from_static(b"s")),
            ..attribute("value_string", AttributeType::String)
        };
        assert_eq!(constant(string), None);
        assert_eq!(node_constant(&node("Relu", &["x"], &["y"])), None);
    }
}
