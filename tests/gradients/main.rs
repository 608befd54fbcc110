//! Backward passes against finite differences: every operator with a gradient rule in its forms, random graphs, and
//! trained models.
//!
//! Backward passes are written from what a batch of two showed, and run on a batch of three. Where an engine computes in
//! float64, so do these tests. A failure names its seed, which determines all of its case.

// Cases are shared with the test of operators.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

mod case;
mod cases;
mod check;
mod graphs;
mod models;

use case::{Case, any_direction, compare};
use check::{Check, Problem};
use optin_onnx::{
    runtime::{self, Engine, Provider, RuntimeChoice, RuntimeOptions},
    tensor::DType,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const SEEDS: u64 = 16;

/// Both engines, or tract alone on a machine without ONNX Runtime.
fn engines() -> Vec<(&'static str, Box<dyn Engine>)> {
    let open = |runtime| {
        let options = RuntimeOptions { runtime, provider: Provider::Cpu, threads: 1, ort_lib: None };
        runtime::open(&options).unwrap()
    };
    let mut engines = vec![("tract", open(RuntimeChoice::Tract))];
    match std::env::var("ORT_DYLIB_PATH") {
        Ok(_) => engines.push(("ONNX Runtime", open(RuntimeChoice::Ort))),
        Err(_) => assert!(std::env::var("OPTIN_REQUIRE_ORT").is_err(), "ONNX Runtime is required"),
    }
    engines
}

#[test]
fn rules_agree_with_finite_differences() {
    let engines = engines();
    let mut failures = Vec::new();
    for (name, form) in cases::all() {
        for seed in 0..SEEDS {
            for (engine_name, engine) in &engines {
                let mut case = form(Case::new(seed));
                let what = format!("{name}, seed {seed}, {engine_name}: {}", case.describe());
                match compare(&**engine, &mut case) {
                    Ok((difference, tolerance)) if difference <= tolerance => {}
                    Ok((difference, _)) => failures.push(format!("{what}: off by {difference:e}")),
                    // tract knows fewer operators, and fewer forms of them.
                    Err(Problem::Forward(_)) if *engine_name == "tract" => {}
                    Err(problem) => failures.push(format!("{what}: {problem}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn equal_operands_of_an_extremum_share_its_cotangent() {
    for (engine_name, engine) in engines() {
        for op in ["Max", "Min"] {
            let mut case = Case::new(3).op(op, 13).x(&[case::B, 3]).x(&[case::B, 3]);
            let model = case.model(DType::F64);
            let (mut observed, mut run) = (case.feed(DType::F64, 2), case.feed(DType::F64, 3));
            for feed in [&mut observed, &mut run] {
                feed[1].1 = feed[0].1.clone();
            }
            let wanted = case.wanted(&model);
            let check =
                Check { engine: &*engine, model: &model, observed: &observed, run: &run, wanted: &wanted };
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let difference = check.difference(&mut rng, 1e-3, |_, value, rng| any_direction(value, rng));
            let difference = difference.unwrap_or_else(|e| panic!("{op}, {engine_name}: {e}"));
            assert!(difference <= 1e-6, "{op}, {engine_name}: off by {difference:e}");
        }
    }
}

#[test]
fn cotangents_add_up_in_random_graphs() {
    for (engine_name, engine) in engines() {
        for seed in 0..24 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let model = graphs::random(&mut rng);
            let wanted = graphs::some_uses(&model, &mut rng);
            let mut feed = |batch| graphs::feed(batch, &mut rng);
            let (observed, run) = (feed(2), feed(3));
            let check =
                Check { engine: &*engine, model: &model, observed: &observed, run: &run, wanted: &wanted };
            let difference = check.difference(&mut rng, 1e-3, |_, value, rng| any_direction(value, rng));
            let difference = match difference {
                // tract's optimiser stumbles over what it has merged.
                Err(Problem::Forward(e) | Problem::Backward(e)) if e.to_string().contains("Dummy") => {
                    continue;
                }
                other => other.unwrap_or_else(|e| panic!("seed {seed}, {engine_name}: {e}")),
            };
            assert!(difference <= 1e-6, "seed {seed}, {engine_name}: off by {difference:e}");
        }
    }
}
