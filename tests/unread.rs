//! What no output reads is not computed: the same outputs at all lengths, and the FLOPs that are counted by hand.

#![allow(clippy::unwrap_used)]

mod support;

use optin_onnx::{
    Pruner,
    onnx::proto::ModelProto,
    plan::{CostModel, Flops, Limits},
    runtime::{RuntimeChoice, RuntimeOptions, open},
    session::Settings,
    tensor::Tensor,
};
use support::text;

/// Width, heads and hidden width of a layer.
const D: u64 = 8;
const H: u64 = 2;
const F: u64 = 12;
/// Observed positions.
const T: u64 = 6;

/// One layer of an encoder, whose `rows` are read by `head`, with `mask` on the attention.
fn encoder(mask: &str, head: &str) -> ModelProto {
    let graph = format!(
        "encoder (float[N, T, 8] x) => (float[N, 5] y)
        <float[8, 8] wq = random, float[8, 8] wk = random, float[8, 8] wv = random, float[8, 8] wo = random,
         float[8, 12] w1 = random, float[12, 8] w2 = random, float[8, 5] w3 = random, float[8] scale = random,
         float[8] shift = random, int64 zero = {{0}}, int64 one = {{1}}, int64[1] first = {{0}}, int64[1] second = {{1}},
         int64[1] third = {{2}}, int64[1] heads = {{2}}, int64[1] dim = {{4}}, int64[1] last = {{-1}},
         int64[1] end = {{9223372036854775807}}, float[1, 1, 12, 12] causal = random>
        {{
           n1 = LayerNormalization (x, scale, shift)
           q = MatMul (n1, wq)
           k = MatMul (n1, wk)
           v = MatMul (n1, wv)
           shape = Shape (q)
           n0 = Gather (shape, zero)
           t0 = Gather (shape, one)
           n = Unsqueeze (n0, first)
           t = Unsqueeze (t0, first)
           split = Concat <axis = 0> (n, t, heads, dim)
           q4 = Reshape (q, split)
           k4 = Reshape (k, split)
           v4 = Reshape (v, split)
           qh = Transpose <perm = [0, 2, 1, 3]> (q4)
           kh = Transpose <perm = [0, 2, 3, 1]> (k4)
           vh = Transpose <perm = [0, 2, 1, 3]> (v4)
           s = MatMul (qh, kh)
           {mask}
           p = Softmax <axis = -1> (sm)
           m = MatMul (p, vh)
           b = Transpose <perm = [0, 2, 1, 3]> (m)
           ms = Shape (b)
           mn0 = Gather (ms, zero)
           mt0 = Gather (ms, one)
           mn = Unsqueeze (mn0, first)
           mt = Unsqueeze (mt0, first)
           merge = Concat <axis = 0> (mn, mt, last)
           flat = Reshape (b, merge)
           o = MatMul (flat, wo)
           r1 = Add (x, o)
           n2 = LayerNormalization (r1, scale, shift)
           h1 = MatMul (n2, w1)
           h = Relu (h1)
           f = MatMul (h, w2)
           r2 = Add (r1, f)
           {head}
        }}"
    );
    text::parse(&graph).unwrap().0
}

const NO_MASK: &str = "sm = Identity (s)";
/// The mask is as large as the longest input, and cut to the length of this one.
const CAUSAL: &str = "fourth = Add (third, second)
    rows = Slice (causal, first, t, third)
    square = Slice (rows, first, t, fourth)
    sm = Add (s, square)";

/// FLOPs per sample of the layer and its head when its queries and all behind them have so many rows.
fn flops(rows: u64, read: u64) -> u64 {
    let keys = 2 * T * D * D;
    let queries = rows * D * D;
    let attention = 2 * H * rows * T * (D / H);
    let rest = rows * (D * D + 2 * D * F);
    2 * (keys + queries + attention + rest + read * D * 5)
}

fn feed(samples: usize, positions: usize) -> Vec<(String, Tensor)> {
    let shape = [samples, positions, D as usize];
    let numbers = (0..shape.iter().product::<usize>()).map(|i| ((i * i) as f32 * 0.37).sin());
    vec![("x".to_owned(), Tensor::f32(&shape, numbers.collect()).unwrap())]
}

/// Opens a model, and checks that what is left computes what it did, at the observed length and at others. Returns the FLOPs
/// before and after.
fn narrowed(model: &ModelProto, keep_unread: bool) -> (u64, u64, ModelProto) {
    let engine = || open(&RuntimeOptions { runtime: RuntimeChoice::Auto, threads: 1, ..Default::default() });
    let settings = {
        let mut settings = Settings::default();
        settings.keep_unread = keep_unread;
        settings.granularity = optin_onnx::typing::Granularity::Head;
        settings
    };
    let samples = feed(2, T as usize);
    let builder = Pruner::builder(engine().unwrap()).settings(settings);
    let pruner = builder.open(model.clone(), samples).unwrap();
    let (limits, narrowed) = (Limits::default(), pruner.typed().source.model.clone());
    let costs = pruner.typed().costs(&limits);
    let count = |costs: &optin_onnx::plan::PerCost<u64>| *costs.get(Flops.id()).unwrap();
    let engine = engine().unwrap();
    let (mut before, mut after) = (engine.load(model).unwrap(), engine.load(&narrowed).unwrap());
    for (samples, positions) in [(2, 6), (1, 6), (3, 9)] {
        let feed = feed(samples, positions);
        let (expected, found) = (before.run(&feed).unwrap(), after.run(&feed).unwrap());
        let (expected, found) = (expected[0].to_f32().unwrap(), found[0].to_f32().unwrap());
        assert_eq!(expected.shape(), found.shape());
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-5 * largest));
    }
    (count(&costs.dense()), count(&costs.whole()), narrowed)
}

fn saves(model: &ModelProto, rows: u64, read: u64) {
    let (before, after, _) = narrowed(model, false);
    assert_eq!((before, after), (flops(T, read), flops(rows, read)));
    let (before, after, _) = narrowed(model, true);
    assert_eq!((before, after), (flops(T, read), flops(T, read)));
}

#[test]
fn one_row_is_computed_for_a_class_token() {
    saves(&encoder(NO_MASK, "c = Gather <axis = 1> (r2, zero)\n y = MatMul (c, w3)"), 1, 1);
}

#[test]
fn the_last_position_counts_from_the_end_and_sees_its_row_of_the_mask() {
    let head = "l = Slice (r2, last, end, second)\n c = Squeeze (l, second)\n y = MatMul (c, w3)";
    saves(&encoder(CAUSAL, head), 1, 1);
}

#[test]
fn two_tokens_that_are_read_apart_are_computed_together() {
    let head = "c = Gather <axis = 1> (r2, zero)\n d = Gather <axis = 1> (r2, one)\n e = Add (c, d)
        y = MatMul (e, w3)";
    saves(&encoder(NO_MASK, head), 2, 1);
}

#[test]
fn what_is_read_whole_stays_whole() {
    for head in [
        "c = ReduceMean <keepdims = 0> (r2, second)\n y = MatMul (c, w3)",
        "c = Gather <axis = 1> (r2, zero)\n d = ReduceMax <keepdims = 0> (r2, second)\n e = Add (c, d)
         y = MatMul (e, w3)",
    ] {
        let (before, after, _) = narrowed(&encoder(NO_MASK, head), false);
        assert_eq!((before, after), (flops(T, 1), flops(T, 1)));
    }
}

#[test]
fn extents_that_are_read_elsewhere_stay_what_they_were() {
    // The number of positions is read off a value that is narrowed, and returned in disguise.
    let head =
        "c = Gather <axis = 1> (r2, zero)\n d = MatMul (c, w3)\n rs = Shape (r2)\n rt = Gather (rs, one)
        rf = Cast <to = 1> (rt)\n y = Mul (d, rf)";
    saves(&encoder(NO_MASK, head), 1, 1);
}
