//! Planning and rewriting: what a new budget costs once a model is scored.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::BTreeSet, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use optin_onnx::{
    calibration::{self, CalibrationOptions},
    graph::Graph,
    onnx,
    plan::{Bounded, CostModel, CostView, Limits, cost::Flops, plan},
    rewrite::rewrite,
    runtime::{self, Provider, RuntimeChoice, RuntimeOptions},
    score::{Scores, magnitude},
    typing::{self, Granularity},
};

fn replanning(c: &mut Criterion) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/vit.onnx");
    let source = onnx::load(&path).unwrap();
    let options = CalibrationOptions { samples: Some(2), ..Default::default() }.or_synthetic();
    let samples = calibration::load(&source.model, Some(&path), &options).unwrap();
    let choice =
        RuntimeOptions { runtime: RuntimeChoice::Tract, provider: Provider::Cpu, threads: 1, ort_lib: None };
    let engine = runtime::open(&choice).unwrap();
    let graph = Graph::new(&source.model);
    let facts = typing::observe(&*engine, &source.model, &graph, &samples.batch(0, 2).unwrap(), 2).unwrap();
    let batched: BTreeSet<_> = graph.inputs().iter().copied().collect();
    c.bench_function("type", |b| {
        b.iter(|| typing::dimensions(&graph, &typing::infer(&graph, &facts, &batched), Granularity::Head))
    });
    let widths = typing::infer(&graph, &facts, &batched);
    let dimensions = typing::dimensions(&graph, &widths, Granularity::Head).prunable;
    let scores = Scores { dimensions: magnitude(&graph, &widths, &dimensions).unwrap(), ..Scores::default() };
    let view = CostView {
        graph: &graph,
        facts: &facts,
        widths: &widths,
        dimensions: &dimensions,
        file_bytes: source.bytes,
    };
    let cost = Flops.cost(&view);
    let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
    let budgets = [Bounded { cost: &cost, at_most: cost.total(&sizes) / 2 }];
    c.bench_function("plan", |b| {
        b.iter(|| plan(&budgets, &dimensions, &scores, &Limits::default()).unwrap())
    });
    let kept =
        plan(&budgets, &dimensions, &scores, &Limits::default()).unwrap().kept(&widths.table, &dimensions);
    c.bench_function("rewrite", |b| {
        b.iter(|| rewrite(&source.model, &graph, &facts, &widths, &kept).unwrap())
    });
}

criterion_group!(benches, replanning);
criterion_main!(benches);
