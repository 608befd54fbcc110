//! Sessions as programs that embed the library use them.

#![allow(clippy::unwrap_used, clippy::result_large_err)]

use std::{cell::RefCell, fs, path::PathBuf, rc::Rc};

use optin_onnx::{
    Cancel, Error, Progress, Pruner,
    calibration::CalibrationOptions,
    onnx::{self, proto::tensor_proto::DataLocation},
    plan::{Budget, Budgets, Flops, Parameters, PlanError},
    recover::RecoverOptions,
    report::Report,
    runtime::{self, Engine, Provider, RuntimeOptions},
    score::{ScoreOptions, Scores},
    session::{Planned, Scored},
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn engine() -> Box<dyn Engine> {
    runtime::open(&RuntimeOptions { provider: Provider::Cpu, threads: 1, ..RuntimeOptions::default() })
        .unwrap()
}

fn samples() -> CalibrationOptions {
    CalibrationOptions {
        calib: Some(fixture("calib.npz")),
        samples: Some(32),
        ..CalibrationOptions::default()
    }
}

fn open(model: &str) -> Pruner {
    Pruner::open(fixture(model).as_path(), engine(), samples()).unwrap()
}

fn flops(share: f64) -> Budgets {
    Budgets::one(&Flops, Budget::Share(share))
}

fn finish(planned: Planned<'_>) -> (Vec<u8>, Report) {
    planned.apply().unwrap().recover(&RecoverOptions::default()).unwrap().to_bytes().unwrap()
}

fn pruned(scored: &Scored<'_>, share: f64) -> (Vec<u8>, Report) {
    finish(scored.plan(&flops(share)).unwrap())
}

#[test]
fn many_budgets_of_one_session_give_what_sessions_of_their_own_do() {
    let pruner = open("vit.onnx");
    let scored = pruner.score(&ScoreOptions::default()).unwrap();
    let mut last = u64::MAX;
    for share in [0.8, 0.5] {
        let (bytes, report) = pruned(&scored, share);
        let alone = open("vit.onnx");
        assert!(bytes == pruned(&alone.score(&ScoreOptions::default()).unwrap(), share).0, "{share}");
        let count = report.costs.get("flops").unwrap().after;
        assert!(count < last);
        last = count;
    }
}

#[test]
fn models_in_memory_are_pruned_as_files_are() {
    let folder = tempfile::tempdir().unwrap();
    let pruner = open("cnn.onnx");
    let scored = pruner.score(&ScoreOptions::default()).unwrap();
    let applied = scored.plan(&flops(0.6)).unwrap().apply().unwrap();
    let path = folder.path().join("out.onnx");
    let report = applied.recover(&RecoverOptions::default()).unwrap().save(&path).unwrap();
    assert_eq!(report.costs.get("bytes").unwrap().after, fs::metadata(&path).unwrap().len());

    let bytes = fs::read(fixture("cnn.onnx")).unwrap();
    let pruner = Pruner::open(bytes, engine(), samples()).unwrap();
    let found = pruned(&pruner.score(&ScoreOptions::default()).unwrap(), 0.6).0;
    assert!(found == fs::read(&path).unwrap());
}

#[test]
fn scores_and_plans_are_gone_on_from() {
    let pruner = open("cnn.onnx");
    let scored = pruner.score(&ScoreOptions::default()).unwrap();
    let planned = scored.plan(&flops(0.6)).unwrap();
    let (scores, plan) = (serde_json::to_string(scored.scores()), serde_json::to_string(planned.plan()));
    let whole = finish(planned).0;

    let other = open("cnn.onnx");
    let scores: Scores = serde_json::from_str(&scores.unwrap()).unwrap();
    let again = other.with_scores(scores);
    let plan: optin_onnx::plan::Plan = serde_json::from_str(&plan.unwrap()).unwrap();
    let planned = again.with_plan(plan.clone(), &flops(0.6)).unwrap();
    assert!(finish(planned).0 == whole);

    // A plan that leaves more than the budget allows, and one of another model.
    assert!(matches!(again.with_plan(plan.clone(), &flops(0.3)).err().unwrap(), Error::OverBudget(_)));
    let vit = open("vit.onnx");
    let of_vit =
        vit.score(&ScoreOptions { method: "random".parse().unwrap(), ..ScoreOptions::default() }).unwrap();
    assert!(matches!(of_vit.with_plan(plan, &flops(0.6)).err().unwrap(), Error::Plan(PlanError::Unfit)));
}

#[test]
fn a_session_stops_when_it_is_asked_to() {
    // At each stage in turn.
    for stage in ["type", "rotate", "score", "verify", "recover", "gate"] {
        let cancel = Cancel::default();
        let (heard, asked) = (Rc::new(RefCell::new(Vec::new())), cancel.clone());
        let listener = heard.clone();
        let builder = Pruner::builder(engine()).cancel(cancel).on_progress(move |event| {
            if let Progress::Stage(begun) = event {
                listener.borrow_mut().push(begun);
                if begun == stage {
                    asked.cancel();
                }
            }
        });
        let run = || -> Result<(), Error> {
            let pruner = builder.open(fixture("vit.onnx").as_path(), samples())?;
            let options = ScoreOptions { method: "wanda".parse().unwrap(), ..ScoreOptions::default() };
            let scored = pruner.score(&options)?;
            scored.plan(&flops(0.6))?.apply()?.recover(&RecoverOptions::default())?.to_bytes()?;
            Ok(())
        };
        assert!(matches!(run(), Err(Error::Cancelled)), "{stage}");
        assert_eq!(heard.borrow().last(), Some(&stage));
    }
}

#[test]
fn what_cannot_be_met_is_told_before_anything_is_scored() {
    let pruner = open("cnn.onnx");
    let tight = flops(0.5).and(&Parameters, Budget::Absolute(3.0));
    assert!(matches!(pruner.check(&tight).unwrap_err(), Error::Plan(PlanError::Infeasible { .. })));
    assert!(matches!(pruner.check(&flops(1.0)).unwrap_err(), Error::Plan(PlanError::Idle(_))));
    pruner.check(&flops(0.5)).unwrap();
}

#[test]
fn bytes_have_no_external_data() {
    let mut model = onnx::load(&fixture("cnn.onnx")).unwrap().model;
    let weight = &mut model.graph.as_mut().unwrap().initializer[0];
    weight.raw_data = None;
    weight.data_location = Some(DataLocation::External.into());
    assert!(matches!(Pruner::open(model, engine(), samples()).err().unwrap(), Error::Onnx(_)));
}
