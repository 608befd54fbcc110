//! Exact scores against a naive implementation: one full forward pass per head, masks as constants, distances by hand.

#![allow(clippy::unwrap_used)]

mod support;

use ndarray::{Array2, Axis};
use optin_onnx::{
    graph::Patch,
    masks,
    model::ModelView,
    reduction::HEAD,
    runtime::RuntimeChoice,
    score::{ExactOptions, exact},
    trajectory::waypoints,
    widths::Kept,
};
use support::{Subject, engine};

fn gram(tokens: &Array2<f32>) -> Array2<f64> {
    let x = tokens.mapv(f64::from);
    let norms = x.map_axis(Axis(1), |row| row.dot(&row).sqrt());
    let unit = &x / &norms.insert_axis(Axis(1));
    unit.dot(&unit.t())
}

fn softmax(z: &[f32]) -> Vec<f64> {
    let e: Vec<f64> = z.iter().map(|x| f64::from(*x).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|x| x / sum).collect()
}

#[test]
fn heads_of_the_fixture_rank_as_full_forward_passes_do() {
    let engine = engine(RuntimeChoice::Auto);
    let fixture = Subject::fixture(&*engine, "vit.onnx", 4, |_| {});
    let Subject { model, graph, facts, widths, dimensions, .. } = &fixture;
    let feed = fixture.feed();
    let heads: Vec<_> = dimensions.prunable.iter().filter(|d| d.kind == HEAD).cloned().collect();
    assert_eq!(heads.iter().map(|h| h.size).collect::<Vec<_>>(), [4, 4, 4, 4]);

    let points = waypoints(graph, facts, widths, &heads);
    let output = model.graph.as_ref().unwrap().output[0].name().to_owned();
    let run = |kept: &Kept| {
        let masked = masks::constant(graph, facts, widths, kept).apply(model);
        let mut taps = Patch::default();
        taps.only_exposed();
        points.iter().for_each(|p| taps.expose(&graph.value(p.value).name));
        taps.expose(&output);
        engine.load(&taps.apply(&masked)).unwrap().run(&feed).unwrap()
    };
    let dense = run(&Kept::default());
    let view = ModelView { dimensions: &heads, ..fixture.view(4) };
    let scored = exact(&*engine, view, &ExactOptions::default(), &|_| true, &mut |_, _| {}).unwrap();
    for (head, scores) in heads.iter().zip(&scored) {
        let mut naive = Vec::new();
        for unit in 0..head.size {
            let mut kept = Kept::default();
            kept.keep(&widths.table, head.width, (0..head.size).filter(|u| *u != unit).collect());
            let masked = run(&kept);
            let mut total = 0.0;
            for (a, b) in dense.iter().zip(&masked).take(points.len()) {
                let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
                for (a, b) in a.outer_iter().zip(b.outer_iter()) {
                    let a = gram(&a.into_dimensionality().unwrap().to_owned());
                    let b = gram(&b.into_dimensionality().unwrap().to_owned());
                    total += (&a - &b).mapv(|x| x * x).mean().unwrap() / 4.0;
                }
            }
            let (z, w) = (dense[points.len()].to_f32().unwrap(), masked[points.len()].to_f32().unwrap());
            for (z, w) in z.outer_iter().zip(w.outer_iter()) {
                let (p, q) = (
                    softmax(&z.iter().copied().collect::<Vec<_>>()),
                    softmax(&w.iter().copied().collect::<Vec<_>>()),
                );
                total += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>() / 4.0;
                let (z, w) = (z.mapv(f64::from), w.mapv(f64::from));
                let (z, w) = (&z - z.mean().unwrap(), &w - w.mean().unwrap());
                total += (&z - &w).mapv(|x| x * x).sum() / z.mapv(|x| x * x).sum() / 4.0;
            }
            naive.push(total);
        }
        let order = |s: &[f64]| {
            let mut order: Vec<usize> = (0..s.len()).collect();
            order.sort_by(|a, b| s[*a].total_cmp(&s[*b]));
            order
        };
        assert_eq!(order(&naive), order(&scores.scores), "{}", head.name);
        for (n, s) in naive.iter().zip(&scores.scores) {
            assert!((n - s).abs() <= 1e-4 * n.abs(), "{}: {n} {s}", head.name);
        }
    }
}
