//! Rotated heads: the model computes what it did, and can do without its last dimensions.

#![allow(clippy::unwrap_used)]

mod support;

use optin_onnx::{
    masks,
    memory::MemoryBudget,
    onnx::proto::ModelProto,
    reduction::HEAD_DIM,
    rotate::{RotateRefusal, Rotated, rotate},
    runtime::{Engine, RuntimeChoice},
    tensor::Tensor,
    trajectory::{output_distance, outputs},
    typing::Granularity,
    widths::Kept,
};
use support::{Subject, engine, text};

const MEMORY: MemoryBudget = MemoryBudget(1 << 20);

fn tract() -> Box<dyn Engine> {
    engine(RuntimeChoice::Tract)
}

/// The fixture ViT, whose queries, keys and values come from one weight.
fn vit() -> Subject {
    let Subject { model, samples, .. } = Subject::fixture(&*tract(), "vit.onnx", 32, |_| {});
    Subject::typed(&*tract(), model, samples, Granularity::HeadDim).unwrap()
}

fn rotated(subject: &Subject) -> Rotated {
    rotate(&*tract(), subject.view(16), MEMORY).unwrap()
}

fn run(model: &ModelProto, subject: &Subject) -> Vec<Tensor> {
    tract().load(model).unwrap().run(&subject.feed()).unwrap()
}

/// Attention with three heads of four dimensions, whose queries `scale` multiplies.
fn attention(scale: &str) -> Subject {
    let text = format!(
        "attention (float[N, 5, 6] x) => (float[N, 5, 6] y)
        <float[6, 12] wq = random, float[6, 12] wk = random, float[6, 9] wv = random, float[9, 6] wo = random,
         float[{scale}] scale = random, int64[4] keyed = {{0, 0, 3, 4}}, int64[4] valued = {{0, 0, 3, 3}},
         int64[3] merge = {{0, 0, -1}}>
        {{
           q = MatMul (x, wq)
           k = MatMul (x, wk)
           v = MatMul (x, wv)
           q4 = Reshape (q, keyed)
           k4 = Reshape (k, keyed)
           v4 = Reshape (v, valued)
           qs = Mul (q4, scale)
           qh = Transpose <perm = [0, 2, 1, 3]> (qs)
           kh = Transpose <perm = [0, 2, 3, 1]> (k4)
           vh = Transpose <perm = [0, 2, 1, 3]> (v4)
           s = MatMul (qh, kh)
           p = Softmax <axis = -1> (s)
           m = MatMul (p, vh)
           b = Transpose <perm = [0, 2, 1, 3]> (m)
           flat = Reshape (b, merge)
           y = MatMul (flat, wo)
        }}"
    );
    let (model, _) = text::parse(&text).unwrap();
    Subject::with(&*tract(), model, Granularity::HeadDim).unwrap()
}

#[test]
fn turned_heads_compute_what_the_model_did() {
    let subject = vit();
    let Rotated { model, report } = rotated(&subject);
    let dimensions = subject.dimensions.prunable.iter().filter(|d| d.kind == HEAD_DIM);
    assert_eq!(report.rotated, dimensions.map(|d| d.name.clone()).collect::<Vec<_>>());
    assert_eq!((report.rotated.len(), report.left.len()), (4, 0));
    assert_ne!(model, subject.model);
    let (before, after) = (run(&subject.model, &subject), run(&model, &subject));
    for (a, b) in before[0].to_f32().unwrap().iter().zip(&after[0].to_f32().unwrap()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn the_last_dimensions_of_turned_heads_are_the_ones_to_do_without() {
    let before = vit();
    let samples = before.samples.clone();
    let after = Subject::typed(&*tract(), rotated(&before).model, samples, Granularity::HeadDim).unwrap();
    let dense = run(&before.model, &before)[0].to_f32().unwrap();
    let output = outputs(&before.graph, &before.facts, &[])[0];
    let without_half = |subject: &Subject| {
        let mut kept = Kept::default();
        for dimension in subject.dimensions.prunable.iter().filter(|d| d.kind == HEAD_DIM) {
            kept.keep(&subject.widths.table, dimension.width, (0..dimension.size / 2).collect());
        }
        let masked = masks::constant(&subject.graph, &subject.facts, &subject.widths, &kept);
        let found = run(&masked.apply(&subject.model), subject)[0].to_f32().unwrap();
        output_distance(output, dense.view(), found.view())
    };
    let (before, after) = (without_half(&before), without_half(&after));
    assert!(after < before / 4.0, "{after} after, {before} before");
}

#[test]
fn each_head_has_axes_of_its_own() {
    let Rotated { report, .. } = rotated(&attention("1"));
    assert_eq!((report.rotated.len(), report.left), (2, Vec::new()));
    assert!(report.difference < 1e-5, "{}", report.difference);
}

#[test]
fn dimensions_that_something_works_on_singly_stay() {
    let subject = attention("4");
    let Rotated { model, report } = rotated(&subject);
    let name = |kind: &str| {
        let mut names = subject.dimensions.prunable.iter().filter(|d| d.kind == HEAD_DIM).map(|d| &d.name);
        names.find(|name| name.starts_with(kind)).unwrap().clone()
    };
    assert_eq!(report.left, [(name("q"), RotateRefusal::Outputs)]);
    assert_eq!(report.rotated, [name("v")]);
    assert_ne!(model, subject.model);
}
