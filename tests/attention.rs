//! Attention in its fused forms: what the rules find, and that pruned equals masked.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Net, attribute};
use optin_onnx::{
    reduction::{HEAD, NEURON},
    tensor::Tensor,
};

/// Queries, keys and values of these extents from `x [batch, 6, 8]`.
fn projected(opset: i64, extents: [usize; 3]) -> Net {
    let mut net = Net::new(opset, &[6, 8]);
    for (name, extent) in ["q", "k", "v"].into_iter().zip(extents) {
        net.linear("x", name, 8, extent);
    }
    net
}

#[test]
fn the_standards_attention_on_merged_heads() {
    let mut net = projected(23, [12, 12, 12]);
    net.weight("mask", &[1, 4, 6, 6]);
    net.node("Attention", &["q", "k", "v", "mask"], &["a"]).int("q_num_heads", 4).int("kv_num_heads", 4);
    net.linear("a", "y", 12, 5);
    let Some(pruned) = net.assert_prunes(&["y"], &[(HEAD, 4)]) else { return };
    let heads = attribute(&pruned, "Attention", "q_num_heads").unwrap();
    assert!(heads < 4 && attribute(&pruned, "Attention", "kv_num_heads") == Some(heads));
}

#[test]
fn groups_of_queries_go_with_their_keys_or_evenly() {
    let mut net = projected(23, [24, 8, 12]);
    net.node("Attention", &["q", "k", "v"], &["a"]).int("q_num_heads", 6).int("kv_num_heads", 2);
    net.linear("a", "y", 36, 5);
    net.assert_prunes(&["y"], &[(HEAD, 2), (HEAD, 3)]);
}

#[test]
fn the_standards_attention_on_separate_heads() {
    let mut net = projected(23, [12, 12, 12]);
    net.ints("split", &[0, 0, 3, 4]);
    net.ints("merge", &[0, 0, -1]);
    for name in ["q", "k", "v"] {
        let (split, apart) = (format!("{name}s"), format!("{name}h"));
        net.node("Reshape", &[name, "split"], &[&split]);
        net.node("Transpose", &[&split], &[&apart]).ints("perm", &[0, 2, 1, 3]);
    }
    net.node("Attention", &["qh", "kh", "vh"], &["a"]).int("is_causal", 1);
    net.node("Transpose", &["a"], &["t"]).ints("perm", &[0, 2, 1, 3]);
    net.node("Reshape", &["t", "merge"], &["m"]);
    net.linear("m", "y", 12, 5);
    net.assert_prunes(&["y"], &[(HEAD, 3)]);
}

#[test]
fn heads_of_a_cache_stay_and_query_heads_beside_them_go() {
    let mut net = projected(23, [16, 8, 8]).input("past_k", &[2, 3, 4]).input("past_v", &[2, 3, 4]);
    net.node("Attention", &["q", "k", "v", "", "past_k", "past_v"], &["a", "present_k", "present_v"])
        .int("q_num_heads", 4)
        .int("kv_num_heads", 2);
    net.linear("a", "y", 16, 5);
    net.assert_prunes(&["y", "present_k", "present_v"], &[(HEAD, 2)]);
}

#[test]
fn multi_head_attention_with_biases() {
    let mut net = projected(17, [12, 12, 20]);
    net.weight("bias", &[44]);
    net.weight("position", &[1, 4, 6, 6]);
    net.node("com.microsoft:MultiHeadAttention", &["q", "k", "v", "bias", "", "position"], &["a"])
        .int("num_heads", 4);
    net.linear("a", "y", 20, 5);
    let Some(pruned) = net.assert_prunes(&["y"], &[(HEAD, 4)]) else { return };
    assert!(attribute(&pruned, "MultiHeadAttention", "num_heads").unwrap() < 4);
}

#[test]
fn attention_that_projects_itself() {
    let mut net = Net::new(17, &[6, 8]);
    net.weight("w", &[8, 44]);
    net.weight("b", &[44]);
    net.weight("position", &[1, 4, 6, 6]);
    net.node("com.microsoft:Attention", &["x", "w", "b", "", "", "position"], &["a"])
        .int("num_heads", 4)
        .ints("qkv_hidden_sizes", &[12, 12, 20]);
    net.linear("a", "y", 20, 5);
    net.assert_prunes(&["y"], &[(HEAD, 4)]);
}

#[test]
fn group_query_attention_on_packed_projections() {
    let mut net = Net::new(17, &[6, 8]);
    net.linear("x", "qkv", 8, 64);
    net.constant("total", &Tensor::I32(ndarray::arr1(&[6]).into_dyn()));
    net.ints("zero", &[0]);
    net.node("Shape", &["x"], &["shape"]);
    net.node("Gather", &["shape", "zero"], &["batch"]);
    net.ints("five", &[5]);
    net.node("Cast", &["five"], &["five32"]).int("to", 6);
    net.node("Expand", &["five32", "batch"], &["seqlens"]);
    net.node(
        "com.microsoft:GroupQueryAttention",
        &["qkv", "", "", "", "", "seqlens", "total"],
        &["a", "present_k", "present_v"],
    )
    .int("num_heads", 4)
    .int("kv_num_heads", 2);
    net.linear("a", "y", 32, 5);
    let Some(pruned) = net.assert_prunes(&["y"], &[(HEAD, 2), (HEAD, 2)]) else { return };
    let count = |name| attribute(&pruned, "GroupQueryAttention", name).unwrap();
    assert!(count("num_heads") < 4 && count("num_heads") % count("kv_num_heads") == 0);
}

#[test]
fn rotary_embeddings_of_both_domains() {
    for (op, opset, slots) in [
        ("RotaryEmbedding", 23, ["q", "cos", "sin", "ids"]),
        ("com.microsoft:RotaryEmbedding", 17, ["q", "ids", "cos", "sin"]),
    ] {
        let mut net = projected(opset, [12, 12, 12]);
        net.weight("cos", &[6, 2]);
        net.weight("sin", &[6, 2]);
        net.ints("zero", &[0]);
        net.ints("six", &[6]);
        net.node("Shape", &["x"], &["shape"]);
        net.node("Gather", &["shape", "zero"], &["batch"]);
        net.node("Concat", &["batch", "six"], &["places"]).int("axis", 0);
        net.ints("positions", &[0, 1, 2, 3, 4, 5]);
        net.node("Expand", &["positions", "places"], &["ids"]);
        net.node(op, &slots, &["turned"]).int("num_heads", 3);
        net.node("com.microsoft:MultiHeadAttention", &["turned", "k", "v"], &["a"]).int("num_heads", 3);
        net.linear("a", "y", 12, 5);
        net.assert_prunes(&["y"], &[(HEAD, 3)]);
    }
}

#[test]
fn a_position_bias_that_layers_share_does_not_tie_their_heads() {
    let mut net = Net::new(17, &[6, 8]);
    net.weight("table", &[9, 3]);
    // Positions that depend on the input keep the bias from being folded.
    net.node("Shape", &["x"], &["shape"]);
    net.ints("one", &[1]);
    net.node("Gather", &["shape", "one"], &["length"]);
    net.ints("zero", &[0]);
    net.node("Squeeze", &["length", "zero"], &["n"]);
    net.constant("from", &Tensor::int(0));
    net.constant("step", &Tensor::int(1));
    net.node("Range", &["from", "n", "step"], &["ids"]);
    net.node("Gather", &["table", "ids"], &["rows"]);
    net.node("Transpose", &["rows"], &["columns"]).ints("perm", &[1, 0]);
    net.ints("axis", &[1]);
    net.node("Unsqueeze", &["columns", "axis"], &["bias"]);
    net.ints("split", &[0, 0, 3, 4]);
    net.ints("merge", &[0, 0, -1]);
    let mut stream = "x".to_owned();
    for layer in ["a", "b"] {
        let name = |n: &str| format!("{layer}{n}");
        for (projection, perm) in [("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])] {
            let (whole, split, apart) =
                (name(projection), name(&format!("{projection}s")), name(&format!("{projection}h")));
            net.linear(&stream, &whole, 8, 12);
            net.node("Reshape", &[&whole, "split"], &[&split]);
            net.node("Transpose", &[&split], &[&apart]).ints("perm", &perm);
        }
        net.node("MatMul", &[&name("qh"), &name("kh")], &[&name("scores")]);
        net.node("Add", &[&name("scores"), "bias"], &[&name("biased")]);
        net.node("Softmax", &[&name("biased")], &[&name("p")]);
        net.node("MatMul", &[&name("p"), &name("vh")], &[&name("mixed")]);
        net.node("Transpose", &[&name("mixed")], &[&name("t")]).ints("perm", &[0, 2, 1, 3]);
        net.node("Reshape", &[&name("t"), "merge"], &[&name("m")]);
        net.linear(&name("m"), &name("o"), 12, 8);
        net.node("Add", &[&stream, &name("o")], &[&name("stream")]);
        stream = name("stream");
    }
    net.assert_prunes(&[&stream], &[(HEAD, 3), (HEAD, 3)]);
}

#[test]
fn normalisations_and_activations_of_the_optimizer() {
    let mut net = Net::new(17, &[6, 8]);
    for (name, extent) in [("gamma", 8), ("beta", 8), ("hidden", 12), ("out", 8)] {
        net.weight(name, &[extent]);
    }
    net.node(
        "com.microsoft:SkipLayerNormalization",
        &["x", "x", "gamma", "beta", "out"],
        &["n", "", "", "sum"],
    );
    net.linear("n", "h", 8, 12);
    net.node("com.microsoft:BiasGelu", &["h", "hidden"], &["g"]);
    net.linear("g", "o", 12, 8);
    net.node("com.microsoft:SkipSimplifiedLayerNormalization", &["o", "sum", "gamma"], &["s"]);
    net.linear("s", "u", 8, 10);
    net.node("com.microsoft:QuickGelu", &["u"], &["w"]);
    net.linear("w", "y", 10, 8);
    net.assert_prunes(&["y"], &[(NEURON, 12), (NEURON, 10)]);
}

#[test]
fn fused_products() {
    let mut net = Net::new(17, &[6, 8]);
    net.weight("wide", &[12, 8]);
    net.weight("narrow", &[10, 12]);
    net.weight("last", &[10, 5]);
    net.node("com.microsoft:FusedMatMul", &["x", "wide"], &["h"]).int("transB", 1);
    net.node("Transpose", &["h"], &["t"]).ints("perm", &[0, 2, 1]);
    net.node("com.microsoft:FusedMatMul", &["t", "narrow"], &["n"]).int("transA", 1).int("transB", 1);
    net.node("Relu", &["n"], &["r"]);
    net.node("MatMul", &["r", "last"], &["y"]);
    net.assert_prunes(&["y"], &[(NEURON, 12), (NEURON, 10)]);
}
