//! Budgets of time, on stopwatches whose models take what a formula says.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use optin_onnx::{
    Error, Pruner,
    calibration::CalibrationOptions,
    latency::{Serving, ServingError},
    onnx,
    runtime::{self, Provider, RuntimeOptions},
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn open(model: &str) -> Pruner {
    let options = RuntimeOptions { provider: Provider::Cpu, threads: 1, ..RuntimeOptions::default() };
    let samples = CalibrationOptions {
        calib: Some(fixture("calib.npz")),
        samples: Some(16),
        ..CalibrationOptions::default()
    };
    Pruner::open(fixture(model).as_path(), runtime::open(&options).unwrap(), samples).unwrap()
}

#[test]
fn models_are_timed_at_the_shapes_that_they_are_served_at() {
    let (pruner, model) = (open("cnn.onnx"), onnx::load(&fixture("cnn.onnx")).unwrap().model);
    let serving = Serving(vec![("image".to_owned(), vec![3, 1, 28, 28])]);
    let bench = pruner.bench(&model, &model, &serving).unwrap();
    assert_eq!((bench.batch, bench.inputs[0].shape.as_slice()), (3, [3, 1, 28, 28].as_slice()));
    assert!(bench.dense.runs >= 5 && bench.dense.quiet_ms > 0.0 && bench.dense.p50_ms <= bench.dense.p95_ms);
    assert!((bench.share * bench.speedup - 1.0).abs() < 1e-9);
    assert_eq!(pruner.bench(&model, &model, &Serving::default()).unwrap().batch, 1);
}

#[test]
fn shapes_that_do_not_suit_the_model_are_refused_before_any_work() {
    let pruner = open("cnn.onnx");
    let check = |name: &str, shape: &[usize]| match pruner
        .check_serving(&Serving(vec![(name.to_owned(), shape.to_vec())]))
    {
        Err(Error::Serving(error)) => Some(error),
        _ => None,
    };
    assert!(matches!(check("none", &[1]), Some(ServingError::NoInput { .. })));
    for shape in [[1, 28, 28].as_slice(), &[0, 1, 28, 28], &[1 << 31, 1 << 31, 4, 1]] {
        assert!(matches!(check("image", shape), Some(ServingError::Shape { .. })), "{shape:?}");
    }
    assert!(check("image", &[4, 1, 28, 28]).is_none());
}
