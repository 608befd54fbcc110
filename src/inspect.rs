//! Inspection: what a model could lose and what it could not, before anything is scored or removed.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    calibration::CalibrationOptions,
    clock::Clock,
    model::{SampleInput, Typed},
    onnx,
    plan::{self, Cost, Limits},
    report::{Block, Detail, Document, Holds, PinReason, PinnedAxis, Reportable, Section, Table},
    runtime::{self, RuntimeOptions},
    typing::{self, Granularity, Kind},
};

/// The version of the format of inspections (`docs/inspect.schema.json`). It is raised when a field changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    /// In the dense model.
    pub total: u64,
    /// With everything removed that may go.
    pub minimum: u64,
}

/// A prunable dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The share of the model's FLOPs that go when this dimension alone shrinks to its floor.
    pub flops: f64,
}

/// An operator without a typing rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unsupported {
    /// The operator, with its domain unless that is ONNX's own.
    pub operator: String,
    /// How many nodes of it the model has.
    pub nodes: usize,
}

/// Everything that is known about a model before it is scored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspection {
    /// The version of the format: [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// SHA-256 of the model, its weights included.
    pub source_sha256: String,
    /// The runtime that observed the shapes.
    pub runtime: String,
    /// Where the inputs came from.
    pub calibration: String,
    /// Whether the inputs were made up, for want of data.
    pub synthetic: bool,
    /// FLOPs (two per multiply-accumulate) of one sample.
    pub flops: Reach,
    /// Floating-point parameters.
    pub params: Reach,
    /// What can be pruned, in the order of the network.
    pub prunable: Vec<Prunable>,
    /// What cannot be pruned, with every reason.
    pub pinned: Vec<PinnedAxis>,
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
    let Options { input, calibration, granularity, .. } = options;
    // Shapes are the same whatever the inputs hold.
    let calibration = calibration.clone().or_synthetic();
    let samples = SampleInput::Files(calibration);
    let typed = Typed::new(&*engine, source, Some(input), samples, 2, *granularity, &Clock::default())?;
    options.limits.check_names(&typed.dimensions)?;
    let prunable = &typed.dimensions.prunable;
    let flops = Cost::flops(&typed.widths, prunable, typed.facts.samples);
    let params = Cost::parameters(&typed.graph, &typed.widths, prunable);
    Ok(Inspection {
        schema_version: SCHEMA_VERSION,
        source_sha256: typed.source.sha256.clone(),
        runtime: engine.describe(),
        calibration: typed.samples.origin().to_string(),
        synthetic: typed.is_synthetic(),
        flops: reach(&flops, &typed, &options.limits),
        params: reach(&params, &typed, &options.limits),
        prunable: shares(&flops, &typed, &options.limits),
        pinned: typed.dimensions.pinned.iter().map(Into::into).collect(),
        unsupported: unsupported(typing::unsupported(&typed.graph)),
    })
}

fn reach(cost: &Cost, typed: &Typed, limits: &Limits) -> Reach {
    let prunable = &typed.dimensions.prunable;
    let sizes: Vec<usize> = prunable.iter().map(|d| d.size).collect();
    Reach { total: cost.total(&sizes), minimum: plan::minimum(cost, prunable, limits) }
}

fn shares(flops: &Cost, typed: &Typed, limits: &Limits) -> Vec<Prunable> {
    let prunable = &typed.dimensions.prunable;
    let sizes: Vec<usize> = prunable.iter().map(|d| d.size).collect();
    let total = flops.total(&sizes);
    let rows = prunable.iter().enumerate().map(|(i, d)| {
        let floor = limits.floor(d);
        let mut smaller = sizes.clone();
        smaller[i] = floor;
        let saved = total - flops.total(&smaller);
        Prunable {
            name: d.name.clone(),
            kind: d.kind,
            layer: d.layer,
            units: d.size,
            floor,
            flops: saved as f64 / total.max(1) as f64,
        }
    });
    rows.collect()
}

fn unsupported(counts: BTreeMap<String, usize>) -> Vec<Unsupported> {
    counts.into_iter().map(|(operator, nodes)| Unsupported { operator, nodes }).collect()
}

/// Every reason once, a line each, with the first place that gives it.
fn because(pins: &[PinReason]) -> String {
    let mut reasons: Vec<(&PinReason, usize)> = Vec::new();
    for pin in pins {
        match reasons.iter_mut().find(|(first, _)| first.message == pin.message) {
            Some((_, places)) => *places += 1,
            None => reasons.push((pin, 1)),
        }
    }
    let lines = reasons.iter().map(|(pin, places)| match places {
        1 => pin.to_string(),
        n => format!("{} ({} and {} more)", pin.message, pin.at, n - 1),
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl Reportable for Inspection {
    fn document(&self) -> Document {
        let brief = |name, block| Section::new(name, Detail::Brief, vec![block]);
        let mut sections = vec![
            brief(
                "layers",
                match self.prunable.is_empty() {
                    true => Block::paragraph("nothing in this model can be pruned"),
                    false => Block::Table(self.layers()),
                },
            ),
            brief("totals", Block::Table(self.totals())),
        ];
        if !self.pinned.is_empty() {
            sections.push(brief("not prunable", Block::Table(self.not_prunable())));
        }
        if !self.unsupported.is_empty() {
            let mut operators =
                Table::new([("operator that is not supported", Holds::Text), ("nodes", Holds::Count)]);
            for u in &self.unsupported {
                operators.push([u.operator.clone().into(), u.nodes.into()]);
            }
            sections.push(brief("unsupported", Block::Table(operators)));
        }
        if self.synthetic {
            let note = "note: shapes were observed on made-up inputs, for want of calibration data";
            sections.push(brief("notes", Block::paragraph(note)));
        }
        Document { title: "what can be pruned".to_owned(), sections }
    }

    fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl Inspection {
    fn layers(&self) -> Table {
        let mut rows = Table::new([
            ("name", Holds::Text),
            ("kind", Holds::Text),
            ("layer", Holds::Count),
            ("units", Holds::Count),
            ("least kept", Holds::Count),
            ("share of FLOPs that can go", Holds::Share),
        ]);
        for d in &self.prunable {
            let (name, kind) = (d.name.clone().into(), d.kind.to_string().into());
            rows.push([name, kind, d.layer.into(), d.units.into(), d.floor.into(), d.flops.into()]);
        }
        rows
    }

    fn totals(&self) -> Table {
        let mut totals = Table::new([
            ("", Holds::Text),
            ("dense", Holds::Quantity),
            ("least possible", Holds::Quantity),
            ("share", Holds::Share),
        ]);
        for (name, Reach { total, minimum }) in [("FLOPs", self.flops), ("parameters", self.params)] {
            let share = minimum as f64 / total.max(1) as f64;
            totals.push([name.into(), total.into(), minimum.into(), share.into()]);
        }
        totals
    }

    fn not_prunable(&self) -> Table {
        let mut axes =
            Table::new([("cannot be pruned", Holds::Text), ("size", Holds::Count), ("because", Holds::Text)]);
        for axis in &self.pinned {
            axes.push([axis.name.clone().into(), axis.size.into(), because(&axis.reasons).into()]);
        }
        axes
    }
}
