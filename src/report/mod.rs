//! What was done, for people and for programs.

use std::{fmt::Write, io, path::Path};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{
    clock::Stage,
    gate::Gate,
    memory::Bytes,
    plan::{COST_MODELS, PerCost, Plan},
    recover::{Outcome, Recovery},
    rotate::Rotation,
    score::Stability,
    staging::{self, StagedFile, WriteError},
    typing::{Kind, Pinned},
    verify::{Extent, Proof},
    warning::Warning,
};

/// What the run held in memory, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// What the work might take beside the weights.
    pub budget: u64,
    /// The most that the process held at a time, pages of mapped files included; absent where the system does not tell.
    pub peak: Option<u64>,
}

/// A quantity before and after, and the least that was reachable.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Change {
    /// In the dense model.
    pub before: u64,
    /// In the pruned model.
    pub after: u64,
    /// With everything removed that may go.
    pub minimum: u64,
}

/// How much of a dimension stays.
#[derive(Clone, Debug, Serialize)]
pub struct DimensionReport {
    /// Its name.
    pub name: String,
    /// What its units are.
    pub kind: Kind,
    /// Units before.
    pub size: usize,
    /// Units that stay.
    pub kept: usize,
}

/// Everything there is to say about a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name and version of this program.
    pub tool: String,
    /// SHA-256 of the dense file.
    pub source_sha256: String,
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
    /// Which heads were turned before their dimensions were scored; absent where none were to be.
    pub rotation: Option<Rotation>,
    /// What could be pruned, and what stays.
    pub dimensions: Vec<DimensionReport>,
    /// What could not be pruned, and why.
    pub pinned: Vec<Pinned>,
    /// The proof; absent for a dry run.
    pub proof: Option<Proof>,
    /// What the written file has shown; absent for a dry run.
    pub gate: Option<Gate>,
    /// What recovery did; absent where there was none.
    pub recovery: Option<Recovery>,
    /// What the user has to know.
    pub warnings: Vec<Warning>,
    /// Things the user may want to know.
    pub notes: Vec<String>,
}

impl Report {
    /// Writes the report as JSON beside `path`, to be put there by [`StagedFile::publish`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn stage(&self, path: &Path) -> Result<StagedFile, WriteError> {
        let failed = |error| WriteError::Io { path: path.into(), source: io::Error::other(error) };
        staging::stage(path, &serde_json::to_vec_pretty(self).map_err(failed)?)
    }

    /// Kept and total units per dimension.
    pub fn dimensions_of(plan: &Plan) -> Vec<DimensionReport> {
        let rows = plan.dimensions.iter();
        rows.map(|d| DimensionReport { name: d.name.clone(), kind: d.kind, size: d.size, kept: d.kept.len() })
            .collect()
    }

    /// Tables for the terminal. `verbose` adds what was pinned and the time per stage.
    pub fn text(&self, verbose: bool) -> String {
        let mut out = format!("{}\n\n{}\n", self.layer_table(), self.totals_table());
        if verbose {
            let _ = writeln!(out, "\n{}\n\n{}", self.pinned_table(), self.stage_table());
        } else if !self.pinned.is_empty() {
            let _ = writeln!(out, "\n{} axes of weights keep their extent; -v says why", self.pinned.len());
        }
        if let Some(rotation) = &self.rotation {
            let _ = writeln!(out, "\n{}", rotation_text(rotation));
        }
        if let Some(stability) = &self.stability {
            let _ = writeln!(out, "\nscores: {stability}");
        }
        if let Some(proof) = &self.proof {
            let _ = writeln!(out, "\n{}", proof_text(proof));
        }
        if let Some(recovery) = &self.recovery {
            let _ = writeln!(out, "\n{}", recovery_text(recovery, verbose));
        }
        if let Some(gate) = &self.gate {
            let _ = writeln!(out, "\n{}", gate_text(gate));
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }

    fn layer_table(&self) -> Table {
        let mut layers = table(&["layer", "kind", "kept", "of"]);
        for d in &self.dimensions {
            layers.add_row([d.name.clone(), d.kind.to_string(), d.kept.to_string(), d.size.to_string()]);
        }
        layers
    }

    fn totals_table(&self) -> Table {
        let mut totals = table(&["", "before", "after", "share", "least"]);
        for (cost, change) in self.costs.iter() {
            let share = 100.0 * change.after as f64 / change.before.max(1) as f64;
            totals.add_row([
                cost.name().to_owned(),
                metric(change.before),
                metric(change.after),
                format!("{share:.1} %"),
                metric(change.minimum),
            ]);
        }
        totals
    }

    fn pinned_table(&self) -> Table {
        let mut pinned = table(&["not pruned", "size", "because"]);
        for p in &self.pinned {
            let more = p.reasons.len().saturating_sub(1);
            let first = p.reasons.first().map_or(String::new(), ToString::to_string);
            let because = if more > 0 { format!("{first}, and {more} more") } else { first };
            pinned.add_row([p.name.clone(), p.size.to_string(), because]);
        }
        pinned
    }

    /// Time per stage, as a table, and the peak of memory.
    pub fn stage_table(&self) -> String {
        let mut stages = table(&["stage", "seconds", "forwards"]);
        for s in &self.stages {
            let forwards = s.forwards.map_or(String::new(), |f| format!("{f:.1}"));
            stages.add_row([s.name.to_owned(), format!("{:.2}", s.seconds), forwards]);
        }
        let peak = self.memory.peak.map_or_else(String::new, |peak| {
            format!(
                "\n\npeak memory: {} (budget beside the weights: {})",
                Bytes(peak),
                Bytes(self.memory.budget)
            )
        });
        format!("{stages}{peak}")
    }
}

fn rotation_text(rotation: &Rotation) -> String {
    let Rotation { turned, left, difference } = rotation;
    let mut text = format!(
        "heads: dimensions of {} of {} turned to principal axes",
        turned.len(),
        turned.len() + left.len()
    );
    if !turned.is_empty() {
        let _ = write!(text, "; outputs as before within {difference:.1e} (relative)");
    }
    for (name, reason) in left {
        let _ = write!(text, "\n  {name} stays as it is: {reason}");
    }
    text
}

fn proof_text(proof: &Proof) -> String {
    let worst = proof.outputs.iter().map(|o| o.difference).fold(0.0, f64::max);
    let batches = proof.batches.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let extents = extents_text(&proof.extents);
    format!(
        "proof: pruned = masked original within {worst:.1e} (relative), at batch sizes {batches}{extents}; {}",
        recounted(&proof.costs)
    )
}

/// The costs of which the plan was exact, and what was counted.
fn recounted(costs: &PerCost<u64>) -> String {
    let exact = costs.iter().filter(|(cost, _)| cost.is_exact());
    let each = exact.map(|(cost, count)| format!("{} recounted: {}", cost.name(), metric(*count)));
    each.collect::<Vec<_>>().join("; ")
}

/// Extents of open axes beside those of the samples.
fn extents_text(extents: &[Extent]) -> String {
    let extents: Vec<String> = extents.iter().map(|e| format!("{} = {}", e.axis, e.extent)).collect();
    if extents.is_empty() { String::new() } else { format!(" and at {}", extents.join(", ")) }
}

fn gate_text(gate: &Gate) -> String {
    let batches = gate.batches.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let exact = COST_MODELS.iter().filter(|cost| cost.is_exact()).map(|cost| cost.name());
    let mut text = format!(
        "written file: read back and run at batch sizes {batches}{}: finite, of the shapes that it declares, {} as planned",
        extents_text(&gate.extents),
        exact.collect::<Vec<_>>().join(" and ")
    );
    if let Some(far) = gate.distance {
        let _ = write!(text, "; distance on the same samples: {}", distance(far));
    }
    if !gate.fixed.is_empty() {
        let _ = write!(
            text,
            "\n  open in the file, but the dense model takes one extent only: {}",
            gate.fixed.join(", ")
        );
    }
    if !gate.branches.is_empty() {
        let _ = write!(
            text,
            "\n  only the branches that the samples lead to were run at: {}",
            gate.branches.join(", ")
        );
    }
    text
}

/// What recovery did: a table of layers if `verbose`, and the sum of it.
fn recovery_text(recovery: &Recovery, verbose: bool) -> String {
    let mut out = String::new();
    if verbose {
        let mut layers = table(&["recovered", "entries", "positions", "error", "after", "by"]);
        for l in &recovery.layers {
            let by = match &l.outcome {
                Outcome::Refitted { ridge } => format!("refit, ridge {ridge}"),
                Outcome::Shifted => "bias".to_owned(),
                Outcome::Left(reason) => format!("left: {reason}"),
            };
            layers.add_row([
                l.name.clone(),
                l.entries.to_string(),
                l.positions.to_string(),
                format!("{:.4}", l.before),
                format!("{:.4}", l.after),
                by,
            ]);
        }
        let _ = writeln!(out, "{layers}\n");
    }
    let left = recovery.layers.iter().filter(|l| matches!(l.outcome, Outcome::Left(_))).count();
    let (count, undone) =
        (recovery.layers.len(), if recovery.undone { ": no improvement, so it was undone" } else { "" });
    let _ = write!(
        out,
        "recovery ({}): {} of {count} layers; distance of the outputs from the dense model's, on {} held-out samples: {} → {}{undone}",
        recovery.mode,
        count - left,
        recovery.held_out,
        distance(recovery.before),
        distance(recovery.after)
    );
    out
}

/// A small number, to a few digits.
fn distance(x: f64) -> String {
    if x == 0.0 || x >= 1e-3 { format!("{x:.4}") } else { format!("{x:.1e}") }
}

/// A table without lines, as all output uses.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

/// A count with a metric prefix.
pub(crate) fn metric(count: u64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let x = count as f64;
    match steps.iter().find(|(scale, _)| x >= *scale) {
        Some((scale, unit)) => format!("{:.3} {unit}", x / scale),
        None => count.to_string(),
    }
}
