//! What was done, for people and for programs.

mod asked;
mod document;
mod html;
mod json;
mod latency;
mod reasons;
mod render;
mod sections;
#[cfg(feature = "cli")]
mod text;

pub use asked::{Asked, AskedBudget, Seeds};
pub(crate) use document::quantity;
pub use document::{Block, Cell, Column, Detail, Document, Holds, Section, Series, Table};
pub use latency::LatencyReport;
pub use reasons::{
    LayerReport, LeftDimension, PinReason, PinnedAxis, Reason, RecoveryReport, RotationReport,
};
pub use render::{RENDERERS, Renderer, Reportable, renderer_of};
#[cfg(feature = "cli")]
pub use text::text;

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Stage,
    gate::Gate,
    latency::Bench,
    plan::{CostModel, Costs, Flops, PerCost, Plan},
    positions::{merge::Merging, unread::Unread},
    score::{Scores, Stability},
    staging::{self, StagedFile, WriteError},
    typing::Kind,
    verify::Proof,
    warning::Warning,
};

/// The version of the format of reports (`docs/report.schema.json`). It is raised when a field changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// What the run held in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// What the work might take beside the weights.
    pub budget: u64,
    /// The most that the process held at a time, pages of mapped files included; absent where the system does not tell.
    pub peak: Option<u64>,
}

/// A quantity before and after, and the least that was reachable.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Change {
    /// In the dense model.
    pub before: u64,
    /// In the pruned model.
    pub after: u64,
    /// With everything removed that may go.
    pub minimum: u64,
}

/// How much of a dimension stays.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DimensionReport {
    /// Its name.
    pub name: String,
    /// What its units are.
    pub kind: Kind,
    /// Units before.
    pub size: usize,
    /// How many units stay.
    pub kept: usize,
    /// Which units stay: their numbers in the dense model, from 0 on, ascending.
    pub units: Vec<usize>,
    /// The share of the model's FLOPs that goes with those that go, if all other layers keep theirs.
    #[serde(default)]
    pub saved: Option<f64>,
    /// The mean score of its units; absent where they were not scored.
    #[serde(default)]
    pub score: Option<f64>,
}

/// Everything there is to say about a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of the format: [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The command that was given; absent where there was none.
    #[serde(default)]
    pub command: Option<String>,
    /// The budgets that were asked for.
    pub budgets: Vec<AskedBudget>,
    /// What else was asked for.
    pub asked: Asked,
    /// The seeds of random choices.
    pub seeds: Seeds,
    /// SHA-256 of the dense model, its weights included.
    pub source_sha256: String,
    /// SHA-256 of the pruned model, its weights included; absent for a dry run.
    pub output_sha256: Option<String>,
    /// SHA-256 of what the calibration samples hold.
    pub calibration_sha256: String,
    /// The runtime that was used.
    pub runtime: String,
    /// Where the samples came from.
    pub calibration: String,
    /// Whether the samples are noise, for want of data.
    pub synthetic: bool,
    /// Number of samples.
    pub samples: usize,
    /// How units were scored.
    pub score: String,
    /// How sure a sketched ranking is.
    pub stability: Option<Stability>,
    /// Time per stage.
    pub stages: Vec<Stage>,
    /// What was held in memory.
    pub memory: Memory,
    /// What the model costs: as counted on the written file, or in a dry run, as planned.
    #[serde(flatten)]
    pub costs: PerCost<Change>,
    /// What leaving out positions that no output reads came to; absent where none were left out.
    #[serde(default)]
    pub unread: Option<Unread>,
    /// Which positions are merged; absent where none are.
    #[serde(default)]
    pub merging: Option<Merging>,
    /// Which head dimensions were rotated before they were scored; absent where none were to be.
    pub rotation: Option<RotationReport>,
    /// What could be pruned, and what stays.
    pub dimensions: Vec<DimensionReport>,
    /// What could not be pruned, and why.
    pub pinned: Vec<PinnedAxis>,
    /// The proof; absent for a dry run.
    pub proof: Option<Proof>,
    /// What the written file has shown; absent for a dry run.
    pub gate: Option<Gate>,
    /// What a budget of time came to; absent where none was asked for.
    #[serde(default)]
    pub latency: Option<LatencyReport>,
    /// How long the dense and the written file take; absent where that was not measured.
    #[serde(default)]
    pub bench: Option<Bench>,
    /// What recovery did; absent where there was none.
    pub recovery: Option<RecoveryReport>,
    /// What the user has to know.
    pub warnings: Vec<Warning>,
    /// Things the user may want to know.
    pub notes: Vec<String>,
}

/// Writes what is reported beside `path`, to be put there by [`StagedFile::publish`]: as the renderer of which `path` has the name
/// at its end, such as `.html`, or else as JSON.
///
/// # Errors
/// When it cannot be written.
pub fn stage(what: &dyn Reportable, path: &Path) -> Result<StagedFile, WriteError> {
    let failed = |error| WriteError::Io { path: path.into(), source: io::Error::other(error) };
    let text = (renderer_of(path).render)(what, Detail::Measured).map_err(failed)?;
    staging::stage(path, text.as_bytes())
}

impl Report {
    /// Kept and total units per dimension, with what those that go save by `costs`, and what `scores` say of them.
    pub fn dimensions_of(plan: &Plan, costs: &Costs<'_>, scores: &Scores) -> Vec<DimensionReport> {
        let whole: Vec<usize> = plan.dimensions.iter().map(|d| d.size).collect();
        let flops = |sizes: &[usize]| costs.at(sizes).get(Flops.id()).map(|flops| *flops as f64);
        let dense = flops(&whole);
        let rows = plan.dimensions.iter().enumerate();
        let report = rows.map(|(place, d)| {
            let mut sizes = whole.clone();
            sizes.iter_mut().skip(place).take(1).for_each(|size| *size = d.kept.len());
            let scored = scores.dimensions.iter().find(|scored| scored.name == d.name);
            let mean =
                scored.map(|scored| scored.scores.iter().sum::<f64>() / scored.scores.len().max(1) as f64);
            DimensionReport {
                name: d.name.clone(),
                kind: d.kind,
                size: d.size,
                kept: d.kept.len(),
                units: d.kept.clone(),
                saved: dense.zip(flops(&sizes)).map(|(dense, left)| (dense - left) / dense.max(1.0)),
                score: mean.filter(|mean| mean.is_finite()),
            }
        });
        report.collect()
    }
}
