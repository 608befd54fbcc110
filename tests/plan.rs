//! Plans against what they promise: budgets that are met with nothing to spare, and granules that are what hardware wants.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use optin_onnx::{
    onnx,
    plan::{Cost, Limits, Plan, plan},
    runtime::RuntimeChoice,
    score::{Scores, magnitude},
};
use support::{Subject, engine, text};

fn planned(subject: &Subject, limits: &Limits, share: f64) -> (Cost, Plan, u64) {
    let dimensions = &subject.dimensions.prunable;
    let cost = Cost::flops(&subject.widths, dimensions, subject.facts.samples);
    let scores = Scores {
        dimensions: magnitude(&subject.graph, &subject.widths, dimensions).unwrap(),
        ..Scores::default()
    };
    let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
    let target = (cost.total(&sizes) as f64 * share) as u64;
    let plan = plan(&cost, dimensions, &scores, limits, target).unwrap();
    (cost, plan, target)
}

#[test]
fn nothing_that_the_budget_leaves_room_for_goes() {
    for (name, granule) in [("vit.onnx", 8), ("cnn.onnx", 8)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        let subject = Subject::new(&*engine(RuntimeChoice::Tract), onnx::load(&path).unwrap().model).unwrap();
        for share in [0.9, 0.6, 0.4] {
            let (cost, plan, target) = planned(&subject, &Limits::default(), share);
            let sizes: Vec<usize> = plan.dimensions.iter().map(|d| d.kept.len()).collect();
            assert!(cost.total(&sizes) <= target);
            for (i, dimension) in subject.dimensions.prunable.iter().enumerate() {
                let step = if dimension.entries > 1 { 1 } else { granule };
                let mut more = sizes.clone();
                more[i] = (sizes[i] + step).min(dimension.size);
                assert!(more == sizes || cost.total(&more) > target, "{name} {share}: {}", dimension.name);
            }
        }
    }
}

#[test]
fn channels_that_go_in_groups_are_counted_as_channels() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        grouped (float[N, 3, 8, 8] x) => (float[N, 2, 6, 6] y)
        <float[16, 3, 3, 3] v = random, float[16] scale = random, float[16] bias = random, float[2, 16, 1, 1] w = random>
        { c = Conv (x, v) n = GroupNormalization <num_groups = 4> (c, scale, bias) r = Relu (n) y = Conv (r, w) }"#;
    let subject = Subject::new(&*engine(RuntimeChoice::Ort), text::parse(text).unwrap().0).unwrap();
    let [dimension] = subject.dimensions.prunable.as_slice() else { panic!("one dimension") };
    assert_eq!((dimension.size, dimension.entries), (4, 4));
    // Two groups are eight channels.
    let (_, plan, _) = planned(&subject, &Limits::default(), 0.6);
    assert_eq!(plan.dimensions[0].kept.len(), 2);
    assert_eq!(Limits { align: 4, ..Default::default() }.floor(dimension), 1);
    assert_eq!(Limits { align: 6, ..Default::default() }.floor(dimension), 3);
}

#[test]
fn units_of_unknown_importance_go_last() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join("cnn.onnx");
    let subject = Subject::new(&*engine(RuntimeChoice::Tract), onnx::load(&path).unwrap().model).unwrap();
    let dimensions = &subject.dimensions.prunable;
    let cost = Cost::flops(&subject.widths, dimensions, subject.facts.samples);
    let mut scored = magnitude(&subject.graph, &subject.widths, dimensions).unwrap();
    // Infinite, as files have it, and whatever else might come.
    scored[0].scores[0] = f64::INFINITY;
    let text = serde_json::to_string(&scored).unwrap();
    scored = serde_json::from_str(&text).unwrap();
    assert_eq!(scored[0].scores[0], f64::INFINITY);
    scored[0].scores[1] = -f64::NAN;
    scored[1].scores[2] = f64::NAN;
    let scores = Scores { dimensions: scored, ..Scores::default() };
    let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
    let target = cost.total(&sizes) / 2;
    let plan = plan(&cost, dimensions, &scores, &Limits { align: 1, ..Limits::default() }, target).unwrap();
    for (dimension, unit) in [(0, 0), (0, 1), (1, 2)] {
        assert!(plan.dimensions[dimension].kept.contains(&unit), "{dimension} {unit}");
    }
    assert!(plan.dimensions.iter().any(|d| d.kept.len() < d.size));
}
