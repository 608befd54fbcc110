//! Plans against what they promise: budgets that are met with nothing to spare, and granules that are what hardware wants.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use optin_onnx::{
    onnx,
    plan::{
        Bounded, Bounds, Budget, Budgets, Cost, CostView, Costs, Limits, Plan, PlanError,
        cost::{Bytes, Flops, Parameters, Pruned},
        plan,
    },
    runtime::RuntimeChoice,
    score::{Scores, magnitude},
};
use support::{Subject, engine, text};

fn fixture(name: &str) -> Subject {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    Subject::new(&*engine(RuntimeChoice::Tract), onnx::load(&path).unwrap().model).unwrap()
}

fn magnitudes(subject: &Subject) -> Scores {
    let dimensions = &subject.dimensions.prunable;
    Scores {
        dimensions: magnitude(&subject.graph, &subject.widths, dimensions).unwrap(),
        ..Scores::default()
    }
}

/// What a model costs, in a file of its own.
fn costs<'a>(subject: &'a Subject, limits: &'a Limits) -> Costs<'a> {
    let file_bytes = onnx::encode(&subject.model).len() as u64;
    Costs::new(&CostView::new(subject.view(2), file_bytes), &subject.dimensions, limits)
}

fn planned(subject: &Subject, limits: &Limits, share: f64) -> (Cost, Plan, u64) {
    let dimensions = &subject.dimensions.prunable;
    let cost = subject.cost("flops");
    let scores = Scores {
        dimensions: magnitude(&subject.graph, &subject.widths, dimensions).unwrap(),
        ..Scores::default()
    };
    let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
    let target = (cost.total(&sizes) as f64 * share) as u64;
    let budgets = [Bounded { cost: &cost, at_most: target }];
    let plan = plan(&budgets, dimensions, &scores, limits).unwrap();
    (cost, plan, target)
}

#[test]
fn nothing_that_the_budget_leaves_room_for_goes() {
    for (name, granule) in [("vit.onnx", 8), ("cnn.onnx", 8)] {
        let subject = fixture(name);
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
    let subject = fixture("cnn.onnx");
    let dimensions = &subject.dimensions.prunable;
    let cost = subject.cost("flops");
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
    let budgets = [Bounded { cost: &cost, at_most: target }];
    let plan = plan(&budgets, dimensions, &scores, &Limits { align: 1, ..Limits::default() }).unwrap();
    for (dimension, unit) in [(0, 0), (0, 1), (1, 2)] {
        assert!(plan.dimensions[dimension].kept.contains(&unit), "{dimension} {unit}");
    }
    assert!(plan.dimensions.iter().any(|d| d.kept.len() < d.size));
}

/// Budgets of FLOPs and parameters, as shares.
fn both(flops: f64, params: f64) -> Budgets {
    Budgets::one(&Flops, Budget::Share(flops)).and(&Parameters, Budget::Share(params))
}

#[test]
fn budgets_that_pull_apart_both_hold_with_nothing_to_spare() {
    // The first layers of a CNN have the FLOPs, and the last have the parameters.
    let (subject, limits) = (fixture("cnn.onnx"), Limits { align: 1, ..Limits::default() });
    let (costs, scores) = (costs(&subject, &limits), magnitudes(&subject));
    let dimensions = &subject.dimensions.prunable;
    let found = |budgets: &Budgets| {
        let bounds = costs.bounds(budgets).unwrap();
        let plan = plan(&costs.bounded(&bounds), dimensions, &scores, &limits).unwrap();
        (bounds.check(&costs.at(&plan.sizes())).is_ok(), plan.sizes())
    };
    let alone = [Budgets::one(&Flops, Budget::Share(0.5)), Budgets::one(&Parameters, Budget::Share(0.5))];
    let [flops, params] = alone.each_ref().map(|budgets| found(budgets).1);
    // Neither plan keeps the other's budget.
    let bounds = costs.bounds(&both(0.5, 0.5)).unwrap();
    assert!(bounds.check(&costs.at(&flops)).is_err() && bounds.check(&costs.at(&params)).is_err());
    for (flops, params) in [(0.5, 0.5), (0.7, 0.3), (0.4, 0.6), (0.5, 1.0)] {
        let budgets = both(flops, params);
        let (holds, sizes) = found(&budgets);
        assert!(holds, "{flops} {params}: {sizes:?}");
        let bounds = costs.bounds(&budgets).unwrap();
        for (i, dimension) in dimensions.iter().enumerate().filter(|(i, d)| sizes[*i] < d.size) {
            let mut more = sizes.clone();
            more[i] += 1;
            assert!(bounds.check(&costs.at(&more)).is_err(), "{flops} {params}: {}", dimension.name);
        }
    }
    // What asks for nothing changes nothing, and the order in which budgets are given does not matter.
    assert_eq!(found(&both(0.5, 1.0)).1, flops);
    let reversed = Budgets::one(&Parameters, Budget::Share(0.3)).and(&Flops, Budget::Share(0.7));
    assert_eq!(found(&reversed).1, found(&both(0.7, 0.3)).1);
}

#[test]
fn what_is_planned_is_what_is_counted() {
    let engine = engine(RuntimeChoice::Tract);
    for name in ["vit.onnx", "cnn.onnx"] {
        let (subject, limits) = (fixture(name), Limits::default());
        let (costs, dimensions) = (costs(&subject, &limits), &subject.dimensions.prunable);
        let bounds = costs.bounds(&both(0.6, 0.5).and(&Bytes, Budget::Share(0.6))).unwrap();
        let plan = plan(&costs.bounded(&bounds), dimensions, &magnitudes(&subject), &limits).unwrap();
        let pruned = subject.prune(&plan.kept(&subject.widths.table, dimensions)).unwrap();
        let file = tempfile::tempdir().unwrap().path().join("out.onnx");
        let file_bytes = onnx::written_bytes(&pruned, &file, false);
        let samples = &subject.samples;
        let counted = Pruned { engine: &*engine, model: &pruned, samples, batch: 2, file_bytes }.recount();
        let (planned, counted) = (costs.at(&plan.sizes()), counted.unwrap());
        for ((model, planned), (_, found)) in planned.iter().zip(counted.iter()) {
            // Around the weights, sizes take fewer digits, and annotations of what shrinks go.
            let spare = if model.id() == "bytes" { planned / 100 } else { 0 };
            assert!(*found <= *planned && planned - found <= spare, "{name}: {found} {planned} {model:?}");
        }
        let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
        assert_eq!(costs.at(&sizes).get("bytes"), Some(&(onnx::encode(&subject.model).len() as u64)));
    }
}

#[test]
fn files_are_as_large_as_was_said_before() {
    let model = fixture("vit.onnx").model;
    let folder = tempfile::tempdir().unwrap();
    for external in [false, true] {
        let path = folder.path().join(format!("{external}.onnx"));
        let said = onnx::written_bytes(&model, &path, external);
        assert_eq!(onnx::save(&model, &path, external).unwrap(), said);
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap());
        let mine = files.filter(|f| f.file_name().to_str().unwrap().starts_with(&external.to_string()));
        assert_eq!(mine.map(|file| file.metadata().unwrap().len()).sum::<u64>(), said);
    }
}

#[test]
fn errors_name_the_budget_that_is_to_blame() {
    let (subject, limits) = (fixture("vit.onnx"), Limits::default());
    let costs = costs(&subject, &limits);
    let refused = |budgets: &Budgets| costs.bounds(budgets).unwrap_err().to_string();
    for (budgets, unit) in [
        (both(0.5, 0.001), "parameters"),
        (both(0.001, 0.5), "FLOPs"),
        (both(0.5, 0.5).and(&Bytes, Budget::Absolute(1000.0)), "bytes"),
    ] {
        let error = refused(&budgets);
        assert!(error.contains(&format!("{unit} cannot be met")), "{error}");
    }
    let idle = refused(&both(1.0, 1.0));
    assert!(idle.contains("FLOPs and") && idle.contains("parameters leave nothing to prune"), "{idle}");
    assert!(matches!(costs.bounds(&Budgets::one(&Flops, Budget::Share(1.0))), Err(PlanError::Idle(_))));
    assert!(costs.bounds(&both(1.0, 0.5)).is_ok());
    // Nothing was asked for.
    let asked = costs.asked(&Budgets::default());
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].model.id(), asked[0].at_most), ("flops", asked[0].dense / 2));
}

#[test]
fn room_is_left_for_what_plans_do_not_count() {
    let (subject, limits) = (fixture("cnn.onnx"), Limits::default());
    let costs = costs(&subject, &limits);
    let mut bounds = costs.bounds(&Budgets::one(&Bytes, Budget::Share(0.6))).unwrap();
    let at_most = |bounds: &Bounds| costs.bounded(bounds)[0].at_most;
    let (asked, planned) = (at_most(&bounds), costs.dense());
    let larger = planned.map(|count| count + 500);
    bounds.leave_room(&planned, &larger);
    bounds.leave_room(&planned, &planned);
    assert_eq!(at_most(&bounds), asked - 500);
    // Whatever plans are held to, the budget is what was asked for.
    let over = bounds.check(&costs.dense()).unwrap_err();
    assert_eq!((over.unit, over.asked), ("bytes", asked));
    bounds.leave_room(&planned, &planned.map(|count| count + asked));
    assert!(matches!(costs.check(&bounds), Err(PlanError::Infeasible { unit: "bytes", .. })));
}
