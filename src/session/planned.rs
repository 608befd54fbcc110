//! A plan that keeps to some budgets.

use super::{Applied, Progress, Scored, recovered, timed};
use crate::{
    Error,
    latency::{LatencyError, Round},
    plan::{self, Bounds, Budgets, Plan, PlanError},
    report::Report,
    ties::Ties,
    typing::Dimensions,
};

/// A session with a plan: which units stay.
pub struct Planned<'s> {
    pub(super) scored: &'s Scored<'s>,
    pub(super) budgets: Budgets,
    pub(super) bounds: Bounds,
    pub(super) plan: Plan,
    /// How plans were measured, where a budget of time was asked for.
    pub(super) rounds: Vec<Round>,
}

impl<'s> Planned<'s> {
    pub(super) fn new(scored: &'s Scored<'s>, budgets: &Budgets) -> Result<Self, Error> {
        let pruner = scored.pruner;
        let dimensions = &pruner.typed.dimensions;
        let bounds = pruner.bounds(&pruner.costs(dimensions), budgets)?;
        let budgets = budgets.clone();
        if let Some(target) = target(scored, &budgets)? {
            let timed::Measured { plan, bounds, rounds } = timed::plan(scored, &bounds, target)?;
            return Ok(Self { scored, budgets, bounds, plan, rounds });
        }
        let plan = make(scored, dimensions, &bounds)?;
        Ok(Self { scored, budgets, bounds, plan, rounds: Vec::new() })
    }

    pub(super) fn of(scored: &'s Scored<'s>, plan: Plan, budgets: &Budgets) -> Result<Self, Error> {
        let pruner = scored.pruner;
        plan.check(&pruner.typed.dimensions.prunable)?;
        let costs = pruner.costs(&pruner.typed.dimensions);
        let bounds = pruner.bounds(&costs, budgets)?;
        bounds.check(&costs.at(&plan.sizes()))?;
        let target = target(scored, budgets)?;
        let rounds = target.map_or(Ok(Vec::new()), |target| timed::check(scored, &plan, target))?;
        Ok(Self { scored, budgets: budgets.clone(), bounds: bounds.within(target), plan, rounds })
    }

    /// The plan: plain data, which can be kept, and gone on from by [`Scored::with_plan`].
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Removes what the plan leaves out, and proves that the result computes what the model does with those units zeroed. A
    /// dimension that cannot be removed so keeps its extent, with a warning, and the rest is planned anew.
    ///
    /// # Errors
    /// When the plan is refused and no dimension is to blame, when what is left cannot keep to the budgets, or
    /// [`Error::Cancelled`].
    pub fn apply(self) -> Result<Applied<'s>, Error> {
        Applied::new(self)
    }

    /// What is known of a model that is not made: a dry run.
    pub fn report(&self) -> Report {
        let dimensions = &self.scored.pruner.typed.dimensions;
        recovered::report(self.scored, &self.budgets, &self.plan, dimensions, &self.rounds)
    }
}

/// The picoseconds that the model may take, if a budget says so.
fn target(scored: &Scored<'_>, budgets: &Budgets) -> Result<Option<u64>, LatencyError> {
    let pruner = scored.pruner;
    pruner.check_latency(&pruner.costs(&pruner.typed.dimensions), budgets)?;
    match (budgets.latency(), pruner.target(budgets)) {
        (Some(_), None) => Err(LatencyError::Unmeasured),
        (_, target) => Ok(target),
    }
}

/// A plan for what is left of the dimensions.
pub(super) fn make(scored: &Scored<'_>, dimensions: &Dimensions, bounds: &Bounds) -> Result<Plan, PlanError> {
    let pruner = scored.pruner;
    pruner.monitor.tell(Progress::Stage("plan"));
    let limits = &pruner.settings.limits;
    let costs = pruner.costs(dimensions);
    let (prunable, scores) = (&dimensions.prunable, &scored.planned_by);
    let mut plan =
        pruner.clock.time("plan", || plan::plan(&costs.bounded(bounds), prunable, scores, limits))?;
    Ties::of(&pruner.typed.graph, prunable, limits).level(&mut plan);
    Ok(plan)
}
