//! Whole models: the derivatives of masks on the units of all sums, which is where scoring by gradients puts them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use ndarray::ArrayD;
use optin_onnx::{
    calibration::{self, CalibrationError, CalibrationOptions},
    graph::{Graph, Use},
    onnx::{
        self, Source,
        proto::{tensor_shape_proto::dimension, type_proto},
    },
    runtime::Engine,
    typing,
};
use rand::{SeedableRng, seq::IteratorRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    case::any_direction,
    check::{Check, Feed, Problem},
    engines,
};

/// A model with samples for it, and the operands that it sums over with the axes of the sums.
struct Subject {
    source: Source,
    observed: Feed,
    run: Feed,
    sums: BTreeMap<Use, usize>,
}

impl Subject {
    fn new(engine: &dyn Engine, path: &Path, options: &CalibrationOptions) -> Result<Self, String> {
        let source = onnx::load(path).map_err(|e| e.to_string())?;
        let samples = calibration::load(&source.model, Some(path), options).map_err(|e| e.to_string())?;
        let batch = |start, end| samples.batch(start, end);
        // Some models run on one sample at a time only.
        let pair =
            batch(0, 2).and_then(|a| Ok((a, batch(2, 5)?))).or_else(|_| Ok((batch(0, 1)?, batch(1, 2)?)));
        let (observed, run) = pair.map_err(|e: CalibrationError| e.to_string())?;
        let graph = Graph::new(&source.model);
        let facts =
            typing::observe(engine, &source.model, &graph, &observed, 2).map_err(|e| e.to_string())?;
        let widths = typing::infer(&graph, &facts, &graph.inputs().iter().copied().collect());
        let computed =
            |at: &Use| graph.node(at.node).inputs[at.slot].is_some_and(|v| graph.producer(v).is_some());
        let sums = widths.contractions.iter().map(|c| (c.operand(), c.axis));
        let sums = sums.filter(|(at, _)| computed(at)).collect();
        Ok(Self { source, observed, run, sums })
    }

    fn check<'a>(&'a self, engine: &'a dyn Engine, wanted: &'a BTreeSet<Use>) -> Check<'a> {
        Check { engine, model: &self.source.model, observed: &self.observed, run: &self.run, wanted }
    }

    /// The largest difference for masks that scale the units of the `wanted` operands up or down by `step`.
    fn difference(&self, engine: &dyn Engine, wanted: &BTreeSet<Use>, step: f64) -> Result<f64, Problem> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        self.check(engine, wanted).difference(&mut rng, step, |at, value, rng| {
            let axis = self.sums[&at];
            let mut shape = vec![1; value.ndim()];
            shape[axis] = value.shape()[axis];
            value * &any_direction(&ArrayD::zeros(shape), rng)
        })
    }
}

#[test]
fn masks_of_trained_models_have_the_derivatives_that_the_backward_pass_says() {
    for name in ["vit.onnx", "cnn.onnx"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        let calib = Some(path.with_file_name("calib.npz"));
        let options = CalibrationOptions { calib, samples: Some(5), ..Default::default() };
        for (engine_name, engine) in engines() {
            let subject = Subject::new(&*engine, &path, &options).unwrap();
            assert!(subject.sums.len() >= 4, "{name}");
            let wanted = subject.sums.keys().copied().collect();
            let difference = subject.difference(&*engine, &wanted, 1e-2);
            let difference = difference.unwrap_or_else(|e| panic!("{name}, {engine_name}: {e}"));
            assert!(difference <= 1e-2, "{name}, {engine_name}: off by {difference:e}");
        }
    }
}

/// As above for the models in the folder that `OPTIN_GRADIENT_MODELS` names, with random inputs and at a few sums. Prints
/// per model what stops cotangents.
#[test]
fn models_of_a_folder() {
    let Ok(folder) = std::env::var("OPTIN_GRADIENT_MODELS") else { return };
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let models = entries.filter(|path| path.extension().is_some_and(|e| e == "onnx"));
    let models: BTreeSet<PathBuf> = models.collect();
    let (_, engine) = engines().pop().unwrap();
    let mut wrong = 0;
    for path in models {
        let (verdict, right) = match compare(&*engine, &path) {
            Ok(difference) => (format!("off by {difference:e}"), difference <= 1e-2),
            Err(reason) => (reason, true),
        };
        println!("{}: {verdict}", path.file_name().unwrap().display());
        wrong += usize::from(!right);
    }
    assert_eq!(wrong, 0, "models with wrong cotangents");
}

fn compare(engine: &dyn Engine, path: &Path) -> Result<f64, String> {
    let shapes = shapes(&onnx::load(path).map_err(|e| e.to_string())?);
    let options = CalibrationOptions { samples: Some(5), shapes, ..Default::default() }.or_synthetic();
    let subject = Subject::new(engine, path, &options)?;
    let all = subject.sums.keys().copied().collect();
    let stops = subject.check(engine, &all).stops().map_err(|e| e.to_string())?;
    if !stops.is_empty() {
        return Err(format!("{} stops, {}", stops.len(), stops.into_iter().collect::<Vec<_>>().join("; ")));
    }
    let some = all.iter().copied().sample(&mut ChaCha8Rng::seed_from_u64(0), 6).into_iter().collect();
    // Large steps cross kinks, and small ones drown in rounding: a right cotangent is right by one of them.
    let mut least = f64::INFINITY;
    for step in [2e-1, 2e-2, 1e-3] {
        least = least.min(subject.difference(engine, &some, step).map_err(|e| e.to_string())?);
    }
    Ok(least)
}

/// Extents for the inputs that leave more open than the batch.
fn shapes(source: &Source) -> Vec<(String, Vec<usize>)> {
    let inputs = source.model.graph.iter().flat_map(|graph| &graph.input);
    let shaped = inputs.filter_map(|input| {
        let Some(type_proto::Value::TensorType(tensor)) = &input.r#type.as_ref()?.value else { return None };
        let extent = |(axis, dim): (usize, &dimension::Value)| match dim {
            dimension::Value::DimValue(n) => *n as usize,
            dimension::Value::DimParam(_) => {
                if axis == 0 {
                    1
                } else {
                    16
                }
            }
        };
        let dims = tensor.shape.as_ref()?.dim.iter().map(|d| d.value.as_ref()).collect::<Option<Vec<_>>>()?;
        let open = dims.iter().skip(1).any(|d| matches!(d, dimension::Value::DimParam(_)));
        open.then(|| (input.name().to_owned(), dims.into_iter().enumerate().map(extent).collect()))
    });
    shaped.collect()
}
