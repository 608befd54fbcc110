//! Merged positions: what is merged stands for all that it was made of, so that merging equal positions changes nothing; and
//! models whose positions mean something by where they are are left alone.

#![allow(clippy::unwrap_used)]

mod support;

use optin_onnx::{
    onnx::proto::ModelProto,
    positions::merge::{MergeRefusal, Plan},
    runtime::{Engine, RuntimeChoice},
    tensor::Tensor,
};
use support::{Subject, engine, text};

/// A layer of an encoder in which each position attends to all, from the value `x` to `x` with the layer's number.
fn layer(number: usize, x: &str, masked: bool) -> String {
    let (l, scores) = (number, if masked { "sm" } else { "s" });
    let mask = if masked { format!("sm{l} = Add (s{l}, bias)") } else { String::new() };
    format!(
        "n{l} = LayerNormalization ({x}, scale, shift)
        q{l} = MatMul (n{l}, wq{l})
        k{l} = MatMul (n{l}, wk{l})
        v{l} = MatMul (n{l}, wv{l})
        qs{l} = Reshape (q{l}, split)
        ks{l} = Reshape (k{l}, split)
        vs{l} = Reshape (v{l}, split)
        qh{l} = Transpose <perm = [0, 2, 1, 3]> (qs{l})
        kh{l} = Transpose <perm = [0, 2, 3, 1]> (ks{l})
        vh{l} = Transpose <perm = [0, 2, 1, 3]> (vs{l})
        s{l} = MatMul (qh{l}, kh{l})
        {mask}
        p{l} = Softmax <axis = -1> ({scores}{l})
        m{l} = MatMul (p{l}, vh{l})
        b{l} = Transpose <perm = [0, 2, 1, 3]> (m{l})
        flat{l} = Reshape (b{l}, join)
        o{l} = MatMul (flat{l}, wo{l})
        r{l} = Add ({x}, o{l})
        f{l} = LayerNormalization (r{l}, scale, shift)
        g{l} = MatMul (f{l}, w{l})
        h{l} = Relu (g{l})
        i{l} = MatMul (h{l}, u{l})
        x{l} = Add (r{l}, i{l})\n"
    )
}

/// Two layers. Shapes are computed from those of `x` where `computed`, and else left to the runtime.
fn encoder(inputs: &str, masked: bool, computed: bool, before: &str, head: &str) -> ModelProto {
    encoder_to("float[N, 5] y", inputs, masked, computed, before, head)
}

/// The same with other outputs.
fn encoder_to(
    outputs: &str,
    inputs: &str,
    masked: bool,
    computed: bool,
    before: &str,
    head: &str,
) -> ModelProto {
    let weights: Vec<String> = (1..=2)
        .flat_map(|l| {
            let square = ["wq", "wk", "wv", "wo"].map(|w| format!("float[8, 8] {w}{l} = random"));
            let wide = [format!("float[8, 12] w{l} = random"), format!("float[12, 8] u{l} = random")];
            square.into_iter().chain(wide)
        })
        .collect();
    let shapes = if computed {
        "shape = Shape (x)
        n0 = Gather (shape, first)
        t0 = Gather (shape, second)
        split = Concat <axis = 0> (n0, t0, heads, dim)
        join = Concat <axis = 0> (n0, t0, last)"
    } else {
        ""
    };
    let constants = if computed { "" } else { "int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}," };
    let graph = format!(
        "encoder (float[N, T, 8] x{inputs}) => ({outputs})
        <{}, float[8] scale = random, float[8] shift = random, float[8, 5] out = random, float[5, 8, 3] kernel = random, {constants}
         int64 zero = {{0}}, int64[1] first = {{0}}, int64[1] second = {{1}}, int64[1] third = {{2}}, int64[1] heads = {{2}},
         int64[1] dim = {{4}}, int64[1] last = {{-1}}, int64[2] middle = {{1, 2}},
         int64[1] end = {{9223372036854775807}}, float big = {{10000.0}}, float unit = {{1.0}}>
        {{
           {shapes}
           {before}
           {}{}
           {head}
        }}",
        weights.join(", "),
        layer(1, "x", masked),
        layer(2, "x1", masked)
    );
    text::parse(&graph).unwrap().0
}

const MEAN: &str = "c = ReduceMean <keepdims = 0> (x2, second)\n y = MatMul (c, out)";

fn subject(engine: &dyn Engine, model: ModelProto) -> Subject {
    Subject::new(engine, model).unwrap()
}

/// Rows of features, one after another, for two samples.
fn rows(samples: [&[u32]; 2]) -> Tensor {
    let row = |id: u32| (0..8).map(move |j| ((id * 31 + j * 7 + id * j) as f32 * 0.71).sin());
    let numbers = samples.iter().flat_map(|ids| ids.iter().copied().flat_map(row)).collect();
    Tensor::f32(&[2, samples[0].len(), 8], numbers).unwrap()
}

fn assert_same(engine: &dyn Engine, model: &ModelProto, merged: &ModelProto, feed: &[(String, Tensor)]) {
    let run = |model| engine.load(model).unwrap().run(feed).unwrap();
    let (expected, found) = (run(model), run(merged));
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected.shape(), found.shape());
        let (expected, found) = (expected.to_f32().unwrap(), found.to_f32().unwrap());
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * largest;
        assert!(expected.iter().zip(&found).all(same), "{expected} {found}");
    }
}

/// The model with so many of the positions that were observed merged behind its first layer, and none behind its second.
fn merged(engine: &dyn Engine, subject: &Subject, pairs: usize) -> ModelProto {
    let plan = Plan::of(engine, subject.view(2)).unwrap();
    assert_eq!(plan.places(), 2);
    plan.with_pairs(subject.view(2), &[pairs, 0]).unwrap()
}

fn observed(subject: &Subject) -> usize {
    subject.feed()[0].1.shape()[1]
}

#[test]
fn equal_positions_are_merged_without_loss() {
    let engine = engine(RuntimeChoice::Auto);
    for computed in [false, true] {
        let model = encoder("", false, computed, "", MEAN);
        let subject = subject(&*engine, model.clone());
        // A third of the positions is merged into others.
        let observed = observed(&subject);
        let merged = merged(&*engine, &subject, observed / 3);
        // Of nine positions then three: of each sample, the equal ones.
        let x = rows([&[1, 2, 1, 3, 2, 4, 5, 6, 3], &[7, 7, 1, 2, 3, 8, 3, 8, 5]]);
        assert_same(&*engine, &model, &merged, &[("x".to_owned(), x)]);
    }
}

#[test]
fn sizes_add_up_where_several_go_to_one() {
    let engine = engine(RuntimeChoice::Auto);
    let model = encoder("", false, false, "", MEAN);
    let subject = subject(&*engine, model.clone());
    let plan = Plan::of(&*engine, subject.view(2)).unwrap();
    let third = observed(&subject) / 4;
    let merged = plan.with_pairs(subject.view(2), &[third, third]).unwrap();
    let feed = [("x".to_owned(), rows([&[1, 1, 1, 1, 2, 2, 2, 2], &[3, 4, 3, 4, 4, 3, 4, 3]]))];
    assert_same(&*engine, &model, &merged, &feed);
    assert_same(&*self::engine(RuntimeChoice::Tract), &model, &merged, &feed);
}

#[test]
fn positions_that_are_read_by_their_place_are_left_alone() {
    let engine = engine(RuntimeChoice::Auto);
    // The first, and the mean of the others.
    let head = "c = Gather <axis = 1> (x2, zero)\n others = Slice (x2, second, end, second)
        m = ReduceMean <keepdims = 0> (others, second)\n d = Add (c, m)\n y = MatMul (d, out)";
    let model = encoder("", false, true, "", head);
    let subject = subject(&*engine, model.clone());
    let merged = merged(&*engine, &subject, (observed(&subject) - 1) / 3);
    // The first is like another, and stays.
    let x = rows([&[1, 1, 2, 2, 3, 3, 4], &[5, 6, 5, 6, 7, 8, 8]]);
    assert_same(&*engine, &model, &merged, &[("x".to_owned(), x)]);
}

#[test]
fn padding_is_merged_with_padding_alone() {
    let engine = engine(RuntimeChoice::Auto);
    let row =
        "wide = Unsqueeze (attention_mask, middle)\n real = Cast <to = 1> (wide)\n none = Sub (unit, real)
        far = Mul (none, big)";
    // For each that is attended to, or spread over pairs.
    let spread =
        "square = Concat <axis = 0> (n0, second, t0, t0)\n low = Neg (far)\n bias = Expand (low, square)";
    for before in [format!("{row}\n bias = Neg (far)"), format!("{row}\n {spread}")] {
        let head =
        "cells = Unsqueeze (attention_mask, third)\n real2 = Cast <to = 1> (cells)\n kept = Mul (x2, real2)
        sum = ReduceSum <keepdims = 0> (kept, second)\n count = ReduceSum <keepdims = 0> (real2, second)
        c = Div (sum, count)\n y = MatMul (c, out)";
        let model = encoder(", int64[N, T] attention_mask", true, true, &before, head);
        let subject = subject(&*engine, model.clone());
        let merged = merged(&*engine, &subject, observed(&subject) / 3);
        // The second has three positions of padding, which are like real ones, and a pair of equal ones.
        let x = rows([&[1, 2, 1, 3, 2, 3], &[7, 8, 8, 7, 9, 7]]);
        let mask = Tensor::I64(
            ndarray::Array2::from_shape_vec((2, 6), vec![1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
                .unwrap()
                .into_dyn(),
        );
        let feed = [("x".to_owned(), x), ("attention_mask".to_owned(), mask)];
        assert_same(&*engine, &model, &merged, &feed);
    }
}

#[test]
fn outputs_have_all_positions_again() {
    let engine = engine(RuntimeChoice::Auto);
    // What is returned is read by another node as well.
    let head = "y = MatMul (x2, out)\n z = ReduceMean <keepdims = 0> (y, second)";
    for outputs in ["float[N, T, 5] y, float[N, 5] z", "float[N, T, 8] x1, float[N, T, 5] y, float[N, 5] z"] {
        let model = encoder_to(outputs, "", false, true, "", head);
        let subject = subject(&*engine, model.clone());
        let plan = Plan::of(&*engine, subject.view(2)).unwrap();
        let quarter = observed(&subject) / 4;
        let x = rows([&[1, 2, 1, 3, 2, 3, 1, 2], &[3, 4, 3, 4, 4, 3, 4, 3]]);
        let feed = [("x".to_owned(), x)];
        for pairs in [[quarter, 0], [quarter, quarter]] {
            let merged = plan.with_pairs(subject.view(2), &pairs).unwrap();
            assert_same(&*engine, &model, &merged, &feed);
        }
        let merged = plan.with_pairs(subject.view(2), &[quarter, quarter]).unwrap();
        assert_same(&*self::engine(RuntimeChoice::Tract), &model, &merged, &feed);
        // Too few to merge any.
        let merged = plan.with_pairs(subject.view(2), &[quarter, quarter]).unwrap();
        assert_same(&*engine, &model, &merged, &[("x".to_owned(), rows([&[1], &[2]]))]);
    }
}

#[test]
fn a_window_behind_the_layers_slides_over_all_positions() {
    let engine = engine(RuntimeChoice::Auto);
    let head = "grid = Transpose <perm = [0, 2, 1]> (x2)
        y = Conv <kernel_shape = [3], pads = [1, 1]> (grid, kernel)";
    let others =
        "c = Gather <axis = 1> (x2, zero)\n z = MatMul (c, out)\n others = Slice (x2, second, end, second)
        grid = Transpose <perm = [0, 2, 1]> (others)
        y = Conv <kernel_shape = [3], pads = [1, 1]> (grid, kernel)";
    let x = rows([&[1, 2, 1, 3, 2, 3, 1, 2], &[3, 4, 3, 4, 4, 3, 4, 3]]);
    for (outputs, head) in [("float[N, 5, T] y", head), ("float[N, 5] z, float[N, 5, U] y", others)] {
        let model = encoder_to(outputs, "", false, true, "", head);
        let subject = subject(&*engine, model.clone());
        let plan = Plan::of(&*engine, subject.view(2)).unwrap();
        let quarter = observed(&subject) / 4;
        let merged = plan.with_pairs(subject.view(2), &[quarter, quarter]).unwrap();
        assert_same(&*engine, &model, &merged, &[("x".to_owned(), x.clone())]);
    }
}

#[test]
fn what_goes_by_places_is_refused() {
    let engine = engine(RuntimeChoice::Auto);
    let refusal = |model| Plan::of(&*engine, subject(&*engine, model).view(2)).unwrap_err();
    let returned = "y = MatMul (p2, vh2)";
    let returned = encoder_to("float[N, 2, T, T] p2, float[N, 2, T, 4] y", "", false, true, "", returned);
    assert!(matches!(refusal(returned), MergeRefusal::Output { .. }));
    let pairs = "bias0 = MatMul (x, back)\n bias = Unsqueeze (bias0, second)";
    let pairs = format!("back = Transpose <perm = [0, 2, 1]> (x)\n {pairs}");
    assert!(matches!(refusal(encoder("", true, true, &pairs, MEAN)), MergeRefusal::Pairwise { .. }));
}
