//! `optin-onnx inspect` as a user runs it.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn inspect(model: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_optin-onnx")).arg("inspect").arg(model).args(flags).output().unwrap()
}

fn json(model: &str, flags: &[&str]) -> Value {
    let output = inspect(&fixture(model), &[&["--json", "--runtime", "tract"], flags].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_layer_of_the_fixtures_is_found() {
    let found = |flags: &[&str]| -> Vec<(String, u64)> {
        let vit = json("vit.onnx", flags);
        let layers = vit["prunable"].as_array().unwrap().iter();
        layers.map(|d| (d["kind"].as_str().unwrap().to_owned(), d["units"].as_u64().unwrap())).collect()
    };
    let four = |kinds: &[(&str, u64)]| -> Vec<(String, u64)> {
        kinds.repeat(4).into_iter().map(|(kind, units)| (kind.to_owned(), units)).collect()
    };
    assert_eq!(found(&[]), four(&[("head-dim", 16), ("head", 4), ("neuron", 256)]));
    assert_eq!(found(&["--granularity", "head"]), four(&[("head", 4), ("neuron", 256)]));
    let vit = json("vit.onnx", &["--granularity", "head"]);
    let layers = vit["prunable"].as_array().unwrap();
    assert!(layers.iter().all(|d| d["flops"].as_f64().is_some_and(|share| share > 0.0 && share < 1.0)));
    let (total, least) = (vit["flops"]["total"].as_u64().unwrap(), vit["flops"]["minimum"].as_u64().unwrap());
    let saved: f64 = layers.iter().map(|d| d["flops"].as_f64().unwrap()).sum();
    // No two of its layers share a product, so that what they save adds up.
    assert!((total as f64 * (1.0 - saved) - least as f64).abs() < 1.0, "{total} {least} {saved}");
    let pinned = vit["pinned"].as_array().unwrap();
    assert!(pinned.iter().any(|p| p["size"] == 10 && p["reasons"][0]["code"] == "output"));
    assert!(vit["unsupported"].as_array().unwrap().is_empty());
}

#[test]
fn inputs_outputs_opset_and_operators_are_shown() {
    let vit = json("vit.onnx", &[]);
    let image = serde_json::json!({ "name": "image", "dtype": "float32", "shape": ["batch", 1, 28, 28] });
    assert_eq!(vit["inputs"], serde_json::json!([image]));
    assert_eq!((&vit["outputs"][0]["name"], &vit["outputs"][0]["shape"][1]), (&"logits".into(), &10.into()));
    assert_eq!(vit["operators"]["Softmax"], 4);
    let opset = vit["opsets"]["ai.onnx"].as_u64().unwrap();
    let text = String::from_utf8(inspect(&fixture("vit.onnx"), &["--runtime", "tract"]).stdout).unwrap();
    for expected in
        ["image", "float32", "[batch, 1, 28, 28]", "logits", &format!("ai.onnx {opset}"), "4 Softmax"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn the_flags_that_limit_pruning_limit_what_is_reachable() {
    let least = |flags: &[&str]| json("cnn.onnx", flags)["flops"]["minimum"].as_u64().unwrap();
    assert!(least(&["--max-prune", "0.25"]) > least(&[]));
    assert!(least(&["--align", "1"]) < least(&[]));
    let nothing = json("cnn.onnx", &["--kinds", "head"]);
    assert_eq!(nothing["flops"]["minimum"], nothing["flops"]["total"]);
}

#[test]
fn a_model_in_which_nothing_can_be_pruned_is_no_error() {
    let text = "rounded (float[N, 4] x) => (float[N, 2] y) <float[4, 3] v = random, float[3, 2] w = random>
        { a = MatMul (x, v) b, scale, zero = DynamicQuantizeLinear (a) c = DequantizeLinear (b, scale, zero) y = MatMul (c, w) }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rounded.onnx");
    optin_onnx::onnx::save(&support::text::parse(text).unwrap().0, &path, false).unwrap();
    let output = inspect(&path, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["prunable"], Value::Array(Vec::new()));
    assert_eq!(found["flops"]["total"], found["flops"]["minimum"]);
    assert_eq!(
        found["unsupported"],
        serde_json::json!([{ "operator": "DynamicQuantizeLinear", "nodes": 1 }])
    );
    let text = String::from_utf8(inspect(&path, &[]).stdout).unwrap();
    assert!(
        text.contains("\nnothing in this model can be pruned") && text.contains("DynamicQuantizeLinear"),
        "{text}"
    );
}

#[test]
fn the_table_says_what_and_why() {
    let calib = fixture("calib.npz");
    let output = inspect(&fixture("vit.onnx"), &["--calib", calib.to_str().unwrap(), "--samples", "2"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in ["blocks/blocks.0/attn/qkv", "neuron", "parameters", "it is an axis of a graph output"] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(!text.contains("note:"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    for missing in [fixture("missing.onnx"), fixture("calib.npz")] {
        let output = inspect(&missing, &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}
