//! The plan, carried out and proven.

use super::{Planned, Progress, Recovered, Scored, planned, recovered};
use crate::{
    Error,
    latency::Round,
    onnx::proto::ModelProto,
    plan::{Bounds, Budgets, Plan},
    recover::RecoverOptions,
    refusal::{Blame, Trial},
    ties::Ties,
    typing::Dimensions,
    verify::Proof,
    warning::{Warning, WarningCode},
};

/// How often a model is planned anew because it costs more than its plan says.
const CORRECTIONS: usize = 3;

/// A session with a pruned model, which is proven: it computes what the dense one does without the removed units.
pub struct Applied<'s> {
    pub(super) scored: &'s Scored<'s>,
    pub(super) budgets: Budgets,
    pub(super) bounds: Bounds,
    pub(super) plan: Plan,
    /// How plans were measured.
    pub(super) rounds: Vec<Round>,
    /// Of the session, without those that had to keep their extent.
    pub(super) dimensions: Dimensions,
    pub(super) model: ModelProto,
    pub(super) proof: Proof,
    pub(super) warnings: Vec<Warning>,
}

impl<'s> Applied<'s> {
    pub(super) fn new(planned: Planned<'s>) -> Result<Self, Error> {
        let Planned { scored, budgets, mut bounds, mut plan, rounds } = planned;
        let pruner = scored.pruner;
        let mut dimensions = pruner.typed.dimensions.clone();
        let mut warnings = Vec::new();
        let mut corrections = 0;
        // Each round but the last takes a dimension at least from those that can be pruned, or is one of few corrections.
        loop {
            pruner.monitor.tell(Progress::Stage("verify"));
            let costs = pruner.costs(&dimensions);
            let trial = Trial {
                engine: &*pruner.engine,
                view: pruner.typed.view_of(&dimensions),
                costs: costs.each(),
                source: &pruner.typed.source,
                file_bytes: &|model| recovered::file_bytes(scored, &budgets, model),
            };
            let refusal = match trial.carry_out(&plan, &pruner.clock) {
                Ok((model, proof)) => match bounds.check(&proof.costs) {
                    Ok(()) => {
                        return Ok(Self {
                            scored,
                            budgets,
                            bounds,
                            plan,
                            rounds,
                            dimensions,
                            model,
                            proof,
                            warnings,
                        });
                    }
                    Err(over) if corrections == CORRECTIONS => return Err(over.into()),
                    Err(_) => {
                        corrections += 1;
                        bounds.leave_room(&costs.at(&plan.sizes()), &proof.costs);
                        costs.check(&bounds)?;
                        plan = planned::make(scored, &dimensions, &bounds)?;
                        continue;
                    }
                },
                Err(refusal) => refusal,
            };
            let blame = trial.blame(&plan, &refusal, &pruner.clock);
            let Some(Blame { names, pin }) = pruner.monitor.unless_cancelled(Ok::<_, Error>(blame))? else {
                return Err(refusal.into());
            };
            let ties = Ties::of(&pruner.typed.graph, &dimensions.prunable, &pruner.settings.limits);
            let names = ties.with_tied(&dimensions.prunable, names);
            for name in dimensions.freeze(|d| names.contains(&d.name), |_| pin.clone()) {
                let message = format!("{name} keeps its extent, and the rest is planned anew: {pin}");
                let warning = Warning::new(WarningCode::FrozenDimension, message);
                pruner.monitor.warn(&warning);
                warnings.push(warning);
            }
            let costs = pruner.costs(&dimensions);
            bounds = pruner.bounds(&costs, &budgets).map_err(Error::Replan)?.within(bounds.latency());
            plan = planned::make(scored, &dimensions, &bounds).map_err(Error::Replan)?;
        }
    }

    /// What stays.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The pruned model, as it was proven.
    pub fn model(&self) -> &ModelProto {
        &self.model
    }

    /// What was proven of it.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Lets what stays take over what was removed, as far as that is nearer to the dense model on samples that were held out.
    /// A layer that cannot be corrected is left as it was proven, with a warning.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn recover(self, options: &RecoverOptions<'_>) -> Result<Recovered<'s>, Error> {
        Recovered::new(self, options)
    }

    /// The pruned model as it was proven, ready to be written.
    pub fn unrecovered(self) -> Recovered<'s> {
        Recovered::unrecovered(self)
    }
}
