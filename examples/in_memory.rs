//! Prunes a model in memory, on samples and an engine of the program's own: `cargo run --release --example in_memory`.

#![allow(clippy::print_stdout)]

use ndarray::{Array, IxDyn};
use optin_onnx::{
    Pruner,
    plan::{Budgets, Flops},
    recover::RecoverOptions,
    runtime,
    runtime::RuntimeOptions,
    score::ScoreOptions,
    tensor::Tensor,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::fs::read("fixtures/vit.onnx")?;
    // Unlabelled samples, as many as there are: here stripes, in place of photographs.
    let stripes =
        Array::from_shape_fn(IxDyn(&[64, 1, 28, 28]), |i| ((i[0] + 1) as f32 * i[2] as f32 * 0.1).sin());
    let samples = vec![("image".to_owned(), Tensor::F32(stripes))];
    let engine = runtime::open(&RuntimeOptions::default())?;
    let pruner = Pruner::open(model, engine, samples)?;
    let scored = pruner.score(&ScoreOptions::default())?;
    let applied = scored.plan(&Budgets::one(&Flops, "50%".parse()?))?.apply()?;
    let (bytes, report) = applied.recover(&RecoverOptions::default())?.to_bytes()?;
    let flops = report.costs.get("flops").ok_or("FLOPs are always counted")?;
    println!("{} of {} FLOPs, {} bytes", flops.after, flops.before, bytes.len());
    Ok(())
}
