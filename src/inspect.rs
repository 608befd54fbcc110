//! Inspection: what a model could lose and what it could not, before anything is scored or removed.

mod interface;

pub use interface::{Extent, Interface, Port};

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    calibration::CalibrationOptions,
    clock::Clock,
    model::{SampleInput, Typed},
    onnx,
    plan::{COST_MODELS, Costs, Limits, PerCost},
    positions::merge::Mergeable,
    report::{Block, Cell, Detail, Document, Holds, PinReason, PinnedAxis, Reportable, Section, Table},
    runtime::{self, RuntimeOptions},
    typing::{self, Dimension, Granularity, Kind},
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
    /// Of each cost of the model, the share that goes when this dimension alone shrinks to its floor.
    #[serde(flatten)]
    pub shares: PerCost<f64>,
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
    /// Where positions can be merged, or why they cannot.
    pub tokens: Mergeable,
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
        schema_version: SCHEMA_VERSION,
        source_sha256: typed.source.sha256.clone(),
        interface,
        runtime: engine.describe(),
        calibration: typed.samples.origin().to_string(),
        synthetic: typed.is_synthetic(),
        costs: dense.zip(&least, |&total, &minimum| Reach { total, minimum }),
        prunable: prunable(&costs, &typed.dimensions.prunable, &options.limits),
        tokens: Mergeable::of(&*engine, typed.view()),
        pinned: typed.dimensions.pinned.iter().map(Into::into).collect(),
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
            self.interface.section(),
            brief(
                "layers",
                match self.prunable.is_empty() {
                    true => Block::paragraph("nothing in this model can be pruned"),
                    false => Block::Table(self.layers()),
                },
            ),
            brief("totals", Block::Table(self.totals())),
            brief("tokens", Block::paragraph(self.tokens())),
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
        let mut columns = vec![
            ("name", Holds::Text),
            ("kind", Holds::Text),
            ("layer", Holds::Count),
            ("units", Holds::Count),
            ("least kept", Holds::Count),
        ];
        let saved: Vec<String> = COST_MODELS.iter().map(|cost| format!("{} saved", cost.name())).collect();
        columns.extend(saved.iter().map(|heading| (heading.as_str(), Holds::Share)));
        let mut rows = Table::new(columns);
        for d in &self.prunable {
            let (name, kind) = (d.name.clone().into(), d.kind.to_string().into());
            let numbers = [name, kind, d.layer.into(), d.units.into(), d.floor.into()];
            rows.push(numbers.into_iter().chain(d.shares.iter().map(|(_, share)| Cell::from(*share))));
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
        for (cost, Reach { total, minimum }) in self.costs.iter() {
            let share = *minimum as f64 / (*total).max(1) as f64;
            totals.push([cost.name().into(), (*total).into(), (*minimum).into(), share.into()]);
        }
        totals
    }

    fn tokens(&self) -> String {
        match &self.tokens {
            Mergeable::Behind { places, positions, protected } => {
                let alone = match protected {
                    0 => String::new(),
                    count => format!("; the first {count} are left alone"),
                };
                format!(
                    "tokens: {positions} positions, which can be merged behind {} layers{alone}",
                    places.len()
                )
            }
            Mergeable::Not { because } => format!("tokens: positions cannot be merged: {because}"),
        }
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
