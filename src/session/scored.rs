//! Scores of a session's units, from which many budgets can be planned.

use super::{Planned, Progress, Pruner};
use crate::{
    Error,
    graph::Graph,
    plan::{Budgets, Plan},
    score::{self, Provenance, ScoreOptions, Scores},
    ties::Ties,
    trajectory::SaidOutput,
    typing::Dimension,
    warning::Warning,
};

/// A session whose units are scored.
pub struct Scored<'p> {
    pub(super) pruner: &'p Pruner,
    /// As they were made, or saved.
    pub(super) scores: Scores,
    /// As they are planned by: in the order of elimination where weights will be refitted, and the same for layers that share a
    /// matrix.
    pub(super) planned_by: Scores,
    pub(super) warnings: Vec<Warning>,
}

impl<'p> Scored<'p> {
    pub(super) fn new(pruner: &'p Pruner, options: &ScoreOptions) -> Result<Self, Error> {
        check_outputs(&pruner.typed.graph, &options.said_outputs)?;
        pruner.monitor.tell(Progress::Stage("score"));
        let scores = pruner.clock.time("score", || new_scores(pruner, options));
        Ok(Self::of(pruner, pruner.monitor.unless_cancelled(scores)?))
    }

    pub(super) fn of(pruner: &'p Pruner, scores: Scores) -> Self {
        let mut warnings = scores.warnings.clone();
        warnings.extend(scores.stability.and_then(|stability| stability.warning()));
        warnings.iter().for_each(|warning| pruner.monitor.warn(warning));
        let mut planned_by = if pruner.refits() { scores.clone().with_recovery() } else { scores.clone() };
        let prunable = &pruner.typed.dimensions.prunable;
        Ties::of(&pruner.typed.graph, prunable, &pruner.settings.limits).share(prunable, &mut planned_by);
        Self { pruner, scores, planned_by, warnings }
    }

    /// The scores: plain data, which can be kept, and gone on from by [`Pruner::with_scores`].
    pub fn scores(&self) -> &Scores {
        &self.scores
    }

    /// Plans what goes, so that all budgets hold and the least is lost.
    ///
    /// # Errors
    /// When one cannot be met, or all leave nothing to prune.
    pub fn plan(&self, budgets: &Budgets) -> Result<Planned<'_>, Error> {
        Planned::new(self, budgets)
    }

    /// Goes on from a plan that was made before, of the same model and settings, for these budgets.
    ///
    /// # Errors
    /// When the plan is of other dimensions, or exceeds a budget.
    pub fn with_plan(&self, plan: Plan, budgets: &Budgets) -> Result<Planned<'_>, Error> {
        Planned::of(self, plan, budgets)
    }
}

impl Pruner {
    /// What scores of this session are made of. `hashed`: the calibration data as well, which may be large; only scores that are
    /// kept need that.
    pub fn provenance(&self, options: &ScoreOptions, hashed: bool) -> Provenance {
        let ScoreOptions { method, settings, seed, said_outputs, .. } = options;
        let samples = &self.typed.samples;
        Provenance {
            score: *method,
            settings: settings.resolved(method.settings()),
            said_outputs: said_outputs.clone(),
            granularity: self.settings.granularity,
            refit: self.refits(),
            model: self.typed.source.sha256.clone(),
            calibration: samples.origin().to_string(),
            calibration_sha256: if hashed { samples.sha256() } else { String::new() },
            samples: samples.len(),
            seed: *seed,
        }
    }
}

/// Checks that there are outputs of these names: a typing error would have the scores weigh something else.
fn check_outputs(graph: &Graph, said: &[SaidOutput]) -> Result<(), Error> {
    let outputs: Vec<String> = graph.outputs().iter().map(|v| graph.value(*v).name.clone()).collect();
    match said.iter().map(|said| &said.name).find(|name| !outputs.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::NoOutput { name: name.clone(), outputs }),
    }
}

fn new_scores(pruner: &Pruner, options: &ScoreOptions) -> Result<Scores, Error> {
    let Pruner { engine, typed, settings, monitor, .. } = pruner;
    // Scoring is dear: units that may not go need no scores.
    let wanted = |d: &Dimension| settings.limits.floor(d) < d.size;
    let mut tick = |done, total| monitor.tell(Progress::Units { done, total });
    let mut scored = score::score(&**engine, typed.view(), options, &wanted, &mut tick)?;
    if pruner.refits() {
        score::order(&**engine, typed.view(), options, &mut scored)?;
    }
    Ok(Scores {
        made: pruner.provenance(options, false),
        stability: scored.stability,
        notes: scored.notes,
        warnings: scored.warnings,
        dimensions: scored.dimensions,
    })
}
