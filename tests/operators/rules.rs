//! Operators between, beside and behind products: which axes pass, and that pruned equals masked.

use optin_onnx::{
    reduction::{CHANNEL, NEURON},
    tensor::Tensor,
};

use crate::common::{self, Net};

/// `x [batch, 2, 4, 4]` through a convolution to `channels`, called `h`.
fn image(opset: i64, channels: usize) -> Net {
    let mut net = Net::new(opset, &[2, 4, 4]);
    net.conv("x", "h", &[channels, 2, 3, 3]);
    net
}

#[test]
fn blocks_of_channels_become_positions_and_back() {
    for mode in ["DCR", "CRD"] {
        let mut net = image(17, 12);
        net.node("DepthToSpace", &["h"], &["d"]).int("blocksize", 2).string("mode", mode);
        net.conv("d", "y", &[5, 3, 3, 3]);
        net.assert_prunes(&["y"], &[(CHANNEL, 3)]);
    }
    let mut net = image(17, 3);
    net.node("SpaceToDepth", &["h"], &["s"]).int("blocksize", 2);
    net.conv("s", "y", &[5, 12, 1, 1]);
    net.assert_prunes(&["y"], &[(CHANNEL, 3)]);
}

#[test]
fn sampled_positions_keep_their_channels() {
    let mut net = image(16, 4).input("grid", &[3, 3, 2]);
    net.node("GridSample", &["h", "grid"], &["s"]).string("mode", "bilinear");
    net.conv("s", "y", &[5, 4, 1, 1]);
    net.assert_prunes(&["y"], &[(CHANNEL, 4)]);
}

/// Rows `[batch, 6, 8]` with an operator on the first axis after the batch, between two products.
fn between(opset: i64, put: impl Fn(&mut Net)) -> Option<optin_onnx::onnx::proto::ModelProto> {
    let mut net = Net::new(opset, &[6, 8]);
    net.linear("x", "h", 8, 10);
    put(&mut net);
    net.linear("o", "y", 10, 5);
    net.assert_prunes(&["y"], &[(NEURON, 10)])
}

#[test]
fn operators_along_one_axis_pass_the_others() {
    between(17, |net| {
        net.constant("axis", &Tensor::int(1));
        net.node("CumSum", &["h", "axis"], &["o"]);
    });
    between(17, |net| {
        net.ints("k", &[3]);
        net.node("TopK", &["h", "k"], &["o", "places"]).int("axis", 1);
    });
    between(17, |net| {
        net.node("Hardmax", &["h"], &["o"]).int("axis", 1);
    });
    between(17, |net| {
        net.node("MeanVarianceNormalization", &["h"], &["o"]).ints("axes", &[1]);
    });
}

#[test]
fn picked_and_replaced_entries_keep_their_features() {
    between(17, |net| {
        net.constant("places", &Tensor::I64(ndarray::arr2(&[[0i64], [2], [5]]).into_dyn()));
        net.node("Transpose", &["h"], &["t"]).ints("perm", &[1, 0, 2]);
        net.node("GatherND", &["t", "places"], &["g"]);
        net.node("Transpose", &["g"], &["o"]).ints("perm", &[1, 0, 2]);
    });
    between(17, |net| {
        net.node("ReduceMax", &["x"], &["m"]).ints("axes", &[2]);
        net.ints("shape", &[0, 0, 1]);
        net.node("Shape", &["h"], &["extents"]);
        net.node("ArgMax", &["m"], &["first"]).int("axis", 1);
        net.node("Expand", &["first", "extents"], &["places"]);
        net.node("GatherElements", &["h", "places"], &["o"]).int("axis", 1);
    });
    between(17, |net| {
        net.node("Transpose", &["h"], &["t"]).ints("perm", &[1, 0, 2]);
        net.constant("places", &Tensor::I64(ndarray::arr2(&[[1i64], [4]]).into_dyn()));
        net.ints("start", &[0]);
        net.ints("end", &[2]);
        net.node("Slice", &["t", "start", "end", "start"], &["updates"]);
        net.node("ScatterND", &["t", "places", "updates"], &["s"]);
        net.node("Transpose", &["s"], &["o"]).ints("perm", &[1, 0, 2]);
    });
}

#[test]
fn constant_indices_take_intervals() {
    // One head of keys behind three of queries, as multi-query attention packs them.
    let mut net = Net::new(17, &[6, 8]);
    net.linear("x", "h", 8, 16);
    net.ints("split", &[0, 0, 4, 4]);
    net.node("Reshape", &["h", "split"], &["s"]);
    net.constant("last", &Tensor::int(-1));
    net.node("Gather", &["s", "last"], &["k"]).int("axis", 2);
    net.ints("start", &[0]);
    net.ints("end", &[-1]);
    net.ints("axis", &[2]);
    net.node("Slice", &["s", "start", "end", "axis"], &["q"]);
    net.ints("merge", &[0, 0, -1]);
    net.node("Reshape", &["q", "merge"], &["m"]);
    net.linear("m", "a", 12, 5);
    net.linear("k", "b", 4, 5);
    net.node("Add", &["a", "b"], &["y"]);
    net.assert_prunes(&["y"], &[(NEURON, 3), (NEURON, 4)]);
}

#[test]
fn extents_computed_with_the_batch_are_scaled_or_restored() {
    // [batch, 6, 3·4] → [batch·3, 6, 4], with the batch times a literal, and back by a division.
    let mut net = Net::new(17, &[6, 8]);
    net.linear("x", "h", 8, 12);
    net.ints("split", &[0, 0, 3, 4]);
    net.node("Reshape", &["h", "split"], &["s"]);
    net.node("Transpose", &["s"], &["t"]).ints("perm", &[0, 2, 1, 3]);
    net.node("Shape", &["x"], &["shape"]);
    for (name, index) in [("zero", 0), ("three", 3)] {
        net.ints(name, &[index]);
    }
    net.node("Gather", &["shape", "zero"], &["batch"]);
    net.node("Mul", &["batch", "three"], &["rows"]);
    net.ints("rest", &[6, 4]);
    net.node("Concat", &["rows", "rest"], &["joint"]).int("axis", 0);
    net.node("Reshape", &["t", "joint"], &["j"]);
    net.node("Shape", &["j"], &["inner"]);
    net.node("Gather", &["inner", "zero"], &["count"]);
    net.node("Div", &["count", "three"], &["again"]);
    net.ints("apart", &[3, 6, 4]);
    net.node("Concat", &["again", "apart"], &["back"]).int("axis", 0);
    net.node("Reshape", &["j", "back"], &["r"]);
    net.node("Transpose", &["r"], &["u"]).ints("perm", &[0, 2, 1, 3]);
    net.ints("merge", &[0, 0, -1]);
    net.node("Reshape", &["u", "merge"], &["m"]);
    net.linear("m", "y", 12, 5);
    net.assert_prunes(&["y"], &[(NEURON, 3), (NEURON, 4)]);
}

#[test]
fn repetitions_follow_what_they_are_added_to() {
    let mut net = image(17, 4);
    net.ints("repeats", &[1, 4, 1, 1]);
    net.node("ReduceMean", &["x"], &["mean"]).ints("axes", &[1]);
    net.node("Tile", &["mean", "repeats"], &["tiled"]);
    net.node("Add", &["h", "tiled"], &["a"]);
    net.node("Concat", &["mean", "mean", "mean", "mean"], &["stacked"]).int("axis", 1);
    net.node("Mul", &["a", "stacked"], &["m"]);
    net.conv("m", "y", &[5, 4, 1, 1]);
    net.assert_prunes(&["y"], &[(CHANNEL, 4)]);
}

#[test]
fn features_that_a_recurrent_layer_reads_go() {
    for (op, gates) in [("LSTM", 4), ("GRU", 3), ("RNN", 1)] {
        let mut net = Net::new(17, &[6, 8]);
        net.linear("x", "h", 8, 10);
        net.node("Transpose", &["h"], &["t"]).ints("perm", &[1, 0, 2]);
        net.weight("w", &[1, gates * 3, 10]);
        net.weight("r", &[1, gates * 3, 3]);
        net.node(op, &["t", "w", "r"], &["y"]).int("hidden_size", 3);
        net.assert_prunes(&["y"], &[(NEURON, 10)]);
    }
}

#[test]
fn weights_that_the_file_computes_are_weights() {
    // Standardised by a batch normalisation in training mode, transposed, and stored as half floats.
    let mut net = Net::new(17, &[2, 4, 4]);
    net.weight("raw", &[6, 2, 3, 3]);
    net.ints("flat", &[1, 6, -1]);
    net.ints("kernel", &[6, 2, 3, 3]);
    net.constant("ones", &Tensor::f32(&[6], vec![1.0; 6]).unwrap());
    net.constant("zeros", &Tensor::f32(&[6], vec![0.0; 6]).unwrap());
    net.node("Reshape", &["raw", "flat"], &["rows"]);
    net.node("BatchNormalization", &["rows", "ones", "zeros", "zeros", "ones"], &["even", "mean", "var"])
        .int("training_mode", 1);
    net.node("Reshape", &["even", "kernel"], &["standard"]);
    net.node("Conv", &["x", "standard"], &["h"]).ints("pads", &[1; 4]);
    net.node("GlobalAveragePool", &["h"], &["p"]);
    net.node("Flatten", &["p"], &["f"]);
    net.weight("turned", &[9, 6]);
    net.node("Transpose", &["turned"], &["w"]).ints("perm", &[1, 0]);
    net.node("MatMul", &["f", "w"], &["g"]);
    let last = common::Noise::new(3).tensor(&[9, 5]);
    net.constant("half", &last.cast_float(optin_onnx::tensor::DType::F16).unwrap());
    net.node("Cast", &["half"], &["full"]).int("to", 1);
    net.node("MatMul", &["g", "full"], &["y"]);
    let Some(pruned) = net.assert_prunes(&["y"], &[(CHANNEL, 6), (NEURON, 9)]) else { return };
    let nodes: Vec<String> = pruned.graph.unwrap().node.iter().map(|n| n.op_type().to_owned()).collect();
    assert_eq!(nodes, ["Conv", "GlobalAveragePool", "Flatten", "MatMul", "Cast", "MatMul"]);
}

#[test]
fn integer_weights_go_with_their_scales() {
    let mut net = Net::new(17, &[8]);
    let bytes = |rows: usize, columns: usize| {
        let data = (0..rows * columns).map(|i| (i * 37 % 255) as i16 as i8).collect();
        Tensor::I8(ndarray::ArrayD::from_shape_vec(vec![rows, columns], data).unwrap())
    };
    net.constant("w8", &bytes(8, 12));
    net.weight("scales", &[12]);
    net.node("DequantizeLinear", &["w8", "scales"], &["w"]).int("axis", 1);
    net.node("MatMul", &["x", "w"], &["h"]);
    net.constant("step", &Tensor::f32(&[], vec![0.5]).unwrap());
    net.constant("zero", &Tensor::I8(ndarray::arr0(0i8).into_dyn()));
    net.node("QuantizeLinear", &["h", "step", "zero"], &["q"]);
    net.node("DequantizeLinear", &["q", "step", "zero"], &["d"]);
    net.constant("v8", &bytes(12, 5));
    net.node("DequantizeLinear", &["v8", "step"], &["v"]);
    net.node("MatMul", &["d", "v"], &["y"]);
    net.assert_prunes(&["y"], &[(NEURON, 12)]);
}

#[test]
fn a_fused_convolution_adds_its_fourth_operand() {
    let mut net = image(17, 6);
    net.weight("w", &[6, 6, 1, 1]);
    net.weight("b", &[6]);
    net.node("com.microsoft:FusedConv", &["h", "w", "b", "h"], &["f"]).string("activation", "Relu");
    net.conv("f", "y", &[5, 6, 1, 1]);
    net.assert_prunes(&["y"], &[(CHANNEL, 6)]);
}
