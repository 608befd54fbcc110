use optin_onnx::*;
use std::collections::BTreeSet;
fn main() {
    let path = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let calib = std::env::args().nth(2).map(Into::into);
    let src = onnx::load(&path).unwrap();
    let s = calibration::load(&src.model, &path, &calibration::CalibrationOptions { calib, samples: Some(2), ..Default::default() }).unwrap();
    let e = runtime::open(&runtime::RuntimeOptions { runtime: runtime::RuntimeChoice::Auto, provider: runtime::Provider::Cpu, threads: 0, ort_lib: None }).unwrap();
    let g = graph::Graph::new(&src.model);
    let r = s.ranges(2).next().unwrap();
    let n = r.end - r.start;
    let batch = s.batch(r.start, r.end).unwrap();
    let f = typing::observe(&*e, &src.model, &g, &batch, n).unwrap();
    let sym: BTreeSet<_> = if n > 1 { g.inputs().iter().copied().collect() } else { Default::default() };
    let w = typing::infer(&g, &f, &sym);
    let d = typing::dimensions(&g, &w);
    for x in &d.prunable { println!("{:8} {:3} {:5} {} consumers {}", x.kind.to_string(), x.layer, x.size, x.name, x.consumers.len()); }
    if std::env::var("PINS").is_ok() { for x in &d.pinned { println!("PIN {} {} {}", x.name, x.size, x.reasons.iter().map(|r| r.to_string()).collect::<Vec<_>>().join("; ")); } }
    println!("{} prunable {} pinned macs {}", d.prunable.len(), d.pinned.len(), w.macs.iter().map(|m| m.factor as f64 * m.widths.iter().map(|x| w.table.size(*x) as f64).product::<f64>()).sum::<f64>() / n as f64);
}
