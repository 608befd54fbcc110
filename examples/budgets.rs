//! Plans five budgets from one session: `cargo run --release --example budgets -- model.onnx calib.npz` (the fixture when nothing
//! is said). The files go to the folder for temporary files.

#![allow(clippy::print_stdout)]

use optin_onnx::{
    Pruner,
    calibration::CalibrationOptions,
    plan::{Budget, Budgets, Flops},
    recover::RecoverOptions,
    runtime,
    runtime::RuntimeOptions,
    score::ScoreOptions,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut said = std::env::args().skip(1);
    let model = said.next().unwrap_or_else(|| "fixtures/vit.onnx".to_owned());
    let calib = Some(said.next().unwrap_or_else(|| "fixtures/calib.npz".to_owned()).into());
    let engine = runtime::open(&RuntimeOptions::default())?;
    let samples = CalibrationOptions { calib, ..CalibrationOptions::default() };
    let pruner = Pruner::open(model.as_str(), engine, samples)?;
    let scored = pruner.score(&ScoreOptions::default())?;
    for share in [0.8, 0.7, 0.6, 0.5, 0.4] {
        let applied = scored.plan(&Budgets::one(&Flops, Budget::Share(share)))?.apply()?;
        let recovered = applied.recover(&RecoverOptions::default())?;
        let report = recovered.save(std::env::temp_dir().join(format!("pruned-{share}.onnx")))?;
        let distance = report.gate.and_then(|gate| gate.distance).unwrap_or(f64::NAN);
        let flops = report.costs.get("flops").ok_or("FLOPs are always counted")?;
        println!("{share}: {} FLOPs, distance {distance:.4}", flops.after);
    }
    Ok(())
}
