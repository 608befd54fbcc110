//! Inspection: what a model could lose and what it could not, before anything is scored or removed.

mod interface;

pub use interface::{Extent, Interface, Port};

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use serde::Serialize;

use crate::{
    Error,
    calibration::CalibrationOptions,
    clock::Clock,
    model::{SampleInput, Typed},
    onnx,
    plan::{COST_MODELS, Costs, Limits, PerCost},
    report::{metric, table},
    runtime::{self, RuntimeOptions},
    typing::{self, Dimension, Granularity, Kind, Pinned},
    widths::Pin,
};

/// What the user asks about.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model.
    pub input: PathBuf,
    /// Calibration data; two samples are run to observe shapes.
    pub calibration: CalibrationOptions,
    /// The runtime.
    pub runtime: RuntimeOptions,
    /// What may be removed.
    pub limits: Limits,
    /// The units that attention loses.
    pub granularity: Granularity,
}

/// A quantity of the dense model, and the least that pruning can reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reach {
    /// In the dense model.
    pub total: u64,
    /// With everything removed that may go.
    pub minimum: u64,
}

/// A prunable dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prunable {
    /// Its name.
    pub name: String,
    /// What its units are.
    pub kind: Kind,
    /// Its place among the dimensions of its kind, from the input on.
    pub layer: usize,
    /// Number of units.
    pub units: usize,
    /// The fewest units that it keeps.
    pub floor: usize,
    /// Of each cost of the model, the share that goes when this dimension alone shrinks to its floor.
    #[serde(flatten)]
    pub shares: PerCost<f64>,
}

/// An operator without a typing rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unsupported {
    /// The operator, with its domain unless that is ONNX's own.
    pub operator: String,
    /// How many nodes of it the model has.
    pub nodes: usize,
}

/// Everything that is known about a model before it is scored.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// SHA-256 of the file.
    pub source_sha256: String,
    /// Inputs, outputs and operators, as the file has them.
    #[serde(flatten)]
    pub interface: Interface,
    /// The runtime that observed the shapes.
    pub runtime: String,
    /// Where the inputs came from.
    pub calibration: String,
    /// Whether the inputs were made up, for want of data.
    pub synthetic: bool,
    /// What the model costs.
    #[serde(flatten)]
    pub costs: PerCost<Reach>,
    /// What can be pruned, in the order of the network.
    pub prunable: Vec<Prunable>,
    /// What keeps its extent, with every reason.
    pub pinned: Vec<Pinned>,
    /// Operators that pin all they touch, for want of a rule.
    pub unsupported: Vec<Unsupported>,
}

/// Loads, observes and types a model, and says what was found.
///
/// # Errors
/// As [`crate::run`], up to and including typing. A model in which nothing can be pruned is no error.
pub fn inspect(options: &Options) -> Result<Inspection, Error> {
    let engine = runtime::open(&options.runtime)?;
    let source = onnx::load(&options.input)?;
    let interface = Interface::of(&source.model);
    let Options { input, calibration, granularity, .. } = options;
    // Shapes are the same whatever the inputs hold.
    let calibration = calibration.clone().or_synthetic();
    let samples = SampleInput::Files(calibration);
    let typed = Typed::new(&*engine, source, Some(input), samples, 2, *granularity, &Clock::default())?;
    options.limits.check_names(&typed.dimensions)?;
    let costs = typed.costs(&options.limits);
    let (dense, least) = (costs.dense(), costs.least());
    Ok(Inspection {
        source_sha256: typed.source.sha256.clone(),
        interface,
        runtime: engine.describe(),
        calibration: typed.samples.origin().to_string(),
        synthetic: typed.is_synthetic(),
        costs: dense.zip(&least, |&total, &minimum| Reach { total, minimum }),
        prunable: prunable(&costs, &typed.dimensions.prunable, &options.limits),
        pinned: typed.dimensions.pinned.clone(),
        unsupported: unsupported(typing::unsupported(&typed.graph)),
    })
}

fn prunable(costs: &Costs<'_>, dimensions: &[Dimension], limits: &Limits) -> Vec<Prunable> {
    let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
    let dense = costs.dense();
    let rows = dimensions.iter().enumerate().map(|(i, d)| {
        let floor = limits.floor(d);
        let mut smaller = sizes.clone();
        smaller[i] = floor;
        let saved = |dense: &u64, left: &u64| (dense - left) as f64 / (*dense).max(1) as f64;
        Prunable {
            name: d.name.clone(),
            kind: d.kind,
            layer: d.layer,
            units: d.size,
            floor,
            shares: dense.zip(&costs.at(&smaller), saved),
        }
    });
    rows.collect()
}

fn unsupported(counts: BTreeMap<String, usize>) -> Vec<Unsupported> {
    counts.into_iter().map(|(operator, nodes)| Unsupported { operator, nodes }).collect()
}

/// Every reason once, a line each, with the first place that gives it.
fn because(pins: &[Pin]) -> String {
    let mut reasons: Vec<(&Pin, usize)> = Vec::new();
    for pin in pins {
        match reasons.iter_mut().find(|(first, _)| first.reason == pin.reason) {
            Some((_, places)) => *places += 1,
            None => reasons.push((pin, 1)),
        }
    }
    let lines = reasons.iter().map(|(pin, places)| match places {
        1 => pin.to_string(),
        n => format!("{} ({} and {} more)", pin.reason, pin.at, n - 1),
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl Inspection {
    /// Tables for the terminal.
    pub fn text(&self) -> String {
        let mut out = self.interface_text();
        let mut totals = table(&["", "dense", "least", "share"]);
        for (cost, reach) in self.costs.iter() {
            let share = 100.0 * reach.minimum as f64 / reach.total.max(1) as f64;
            totals.add_row([
                cost.name(),
                &metric(reach.total),
                &metric(reach.minimum),
                &format!("{share:.1} %"),
            ]);
        }
        if self.prunable.is_empty() {
            let _ = writeln!(out, "nothing in this model can be pruned");
        } else {
            let _ = writeln!(out, "{}", self.prunable_table());
        }
        let _ = writeln!(out, "\n{totals}");
        if !self.pinned.is_empty() {
            let mut pinned = table(&["keeps its extent", "size", "because"]);
            for p in &self.pinned {
                pinned.add_row([p.name.clone(), p.size.to_string(), because(&p.reasons)]);
            }
            let _ = writeln!(out, "\n{pinned}");
        }
        if !self.unsupported.is_empty() {
            let mut operators = table(&["operator without a rule", "nodes"]);
            for u in &self.unsupported {
                operators.add_row([u.operator.clone(), u.nodes.to_string()]);
            }
            let _ = writeln!(out, "\n{operators}");
        }
        if self.synthetic {
            let _ =
                writeln!(out, "\nnote: shapes were observed on made-up inputs, for want of calibration data");
        }
        out
    }

    /// What goes in and comes out, and what the model is made of.
    fn interface_text(&self) -> String {
        let Interface { inputs, outputs, opsets, operators } = &self.interface;
        let mut ports = table(&["", "name", "type", "shape"]);
        let inputs = inputs.iter().map(|port| ("input", port));
        for (role, port) in inputs.chain(outputs.iter().map(|port| ("output", port))) {
            let dtype = port.dtype.as_deref().unwrap_or("?");
            ports.add_row([role, &port.name, dtype, &port.shape_text()]);
        }
        let sets: Vec<String> = opsets.iter().map(|(set, version)| format!("{set} {version}")).collect();
        let mut counts: Vec<_> = operators.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        format!("{ports}\n\noperators ({}): {}\n\n", sets.join(", "), counts.join(", "))
    }

    fn prunable_table(&self) -> impl std::fmt::Display {
        let header = ["name", "kind", "layer", "units", "least"].into_iter();
        let header: Vec<&str> = header.chain(COST_MODELS.iter().map(|cost| cost.name())).collect();
        let mut rows = table(&header);
        for d in &self.prunable {
            let numbers = [d.layer, d.units, d.floor].map(|n| n.to_string());
            let row = [d.name.clone(), d.kind.to_string()].into_iter().chain(numbers);
            let shares = d.shares.iter().map(|(_, share)| format!("{:.1} %", 100.0 * share));
            rows.add_row(row.chain(shares));
        }
        rows
    }
}
