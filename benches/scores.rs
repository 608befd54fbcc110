//! Compares the ways to score on one model and its data: rank correlation with exact scores over randomly chosen units, and
//! cost as a multiple of one forward pass over the same samples.
//!
//! `cargo bench --bench scores -- model.onnx calib.npz [samples [probes [units [lambda [seed]]]]]` (the fixture when nothing is
//! said)

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use optin_onnx::{
    calibration::{self, CalibrationOptions},
    graph::Graph,
    model::ModelView,
    onnx,
    runtime::{self, Provider, RuntimeChoice, RuntimeOptions},
    score::{
        DimensionScores, ExactOptions, LAMBDA, SketchOptions, exact, magnitude, sketch, spearman, wanda,
    },
    stats::DenseValues,
    typing::{self, Granularity, Kind},
};

fn main() {
    let said: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let path = said.first().map_or_else(|| fixtures.join("vit.onnx"), PathBuf::from);
    let calib = said.get(1).map_or_else(|| fixtures.join("calib.npz"), PathBuf::from);
    let number = |i: usize, default: usize| said.get(i).map_or(default, |n| n.parse().unwrap());
    let (count, probes, units) = (number(2, 32), number(3, 8), number(4, 32));
    let lambda = said.get(5).map_or(LAMBDA.default, |lambda| lambda.parse().unwrap());
    let seed = number(6, 0) as u64;

    let engine = runtime::open(&RuntimeOptions {
        runtime: RuntimeChoice::Auto,
        provider: Provider::Auto,
        threads: 0,
        ort_lib: None,
    })
    .unwrap();
    let source = onnx::load(&path).unwrap();
    let options = CalibrationOptions { calib: Some(calib), samples: Some(count), ..Default::default() };
    let samples = calibration::load(&source.model, Some(&path), &options).unwrap();
    let graph = Graph::new(&source.model);
    let first = samples.ranges(2).next().unwrap();
    let feed = samples.batch(first.start, first.end).unwrap();
    let facts = typing::observe(&*engine, &source.model, &graph, &feed, first.len()).unwrap();
    let widths = typing::infer(&graph, &facts, &graph.inputs().iter().copied().collect());
    let dimensions = typing::dimensions(&graph, &widths, Granularity::Head).prunable;
    let view = ModelView {
        model: &source.model,
        graph: &graph,
        facts: &facts,
        widths: &widths,
        dimensions: &dimensions,
        samples: &samples,
        batch: 16,
        values: &DenseValues::default(),
    };
    let mut session = engine.load(&source.model).unwrap();
    let run = |session: &mut dyn runtime::Session| {
        for range in samples.ranges(16) {
            session.run(&samples.batch(range.start, range.end).unwrap()).unwrap();
        }
    };
    run(&mut *session);
    let start = Instant::now();
    run(&mut *session);
    let forward = start.elapsed().as_secs_f64();
    println!(
        "{}: {} samples, one forward {forward:.2} s, {}",
        path.display(),
        samples.len(),
        engine.describe()
    );

    let timed = |score: &dyn Fn() -> Vec<DimensionScores>| {
        let start = Instant::now();
        let scores = score();
        (scores, start.elapsed().as_secs_f64() / forward)
    };
    // All positions of a ViT: what is compared with should not itself be an estimate.
    let exact_options = ExactOptions { units: Some(units), tokens: 256, lambda, seed, ..Default::default() };
    let exactly = |quirks: bool| {
        let options = ExactOptions { paper_quirks: quirks, ..exact_options };
        exact(&*engine, view, &options, &|_| true, &mut |_, _| {}).unwrap()
    };
    let sketch_options = SketchOptions { probes, lambda, seed, ..Default::default() };
    let sketched = || {
        let sketch = sketch(&*engine, view, &sketch_options, &|_| true, &mut |_, _| {}).unwrap();
        sketch.stops.iter().for_each(|stop| println!("stops at {stop}"));
        println!("{:?}", sketch.stability.unwrap());
        sketch.scores
    };
    let (reference, cost) = timed(&|| exactly(false));
    let share: f64 = dimensions.iter().map(|d| d.size.min(units)).sum::<usize>() as f64
        / dimensions.iter().map(|d| d.size).sum::<usize>() as f64;
    println!("exact: {cost:.0} forwards for {:.1} % of the units\n", 100.0 * share);
    println!("{:10} {:>8}  Spearman with exact", "score", "forwards");
    for (name, (scores, cost)) in [
        ("sketch", timed(&sketched)),
        ("quirks", timed(&|| exactly(true))),
        ("wanda", timed(&|| wanda(&*engine, view).unwrap())),
        ("magnitude", timed(&|| magnitude(&graph, &widths, &dimensions).unwrap())),
    ] {
        println!("{name:10} {cost:8.1}  {}", agreement(&reference, &scores));
    }
}

/// Rank correlation per kind, over the units that the reference scored.
fn agreement(reference: &[DimensionScores], scores: &[DimensionScores]) -> String {
    let mut pairs: BTreeMap<Kind, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for (a, b) in reference.iter().zip(scores) {
        let (x, y) = pairs.entry(a.kind).or_default();
        for (a, b) in a.scores.iter().zip(&b.scores).filter(|(a, _)| !a.is_nan()) {
            x.push(*a);
            y.push(*b);
        }
    }
    let of = |(kind, (a, b)): (&Kind, &(Vec<f64>, Vec<f64>))| {
        format!("{kind}s {:.3} ({})", spearman(a, b).unwrap_or(f64::NAN), a.len())
    };
    pairs.iter().map(of).collect::<Vec<_>>().join("  ")
}
