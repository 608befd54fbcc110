//! A plan that keeps to some budgets.

use super::{Applied, Progress, Scored, recovered};
use crate::{
    Error,
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
}

impl<'s> Planned<'s> {
    pub(super) fn new(scored: &'s Scored<'s>, budgets: &Budgets) -> Result<Self, Error> {
        let pruner = scored.pruner;
        let dimensions = &pruner.typed.dimensions;
        let bounds = pruner.bounds(&pruner.typed.costs(&pruner.settings.limits), budgets)?;
        let plan = make(scored, dimensions, &bounds)?;
        Ok(Self { scored, budgets: budgets.clone(), bounds, plan })
    }

    pub(super) fn of(scored: &'s Scored<'s>, plan: Plan, budgets: &Budgets) -> Result<Self, Error> {
        let pruner = scored.pruner;
        plan.check(&pruner.typed.dimensions.prunable)?;
        let costs = pruner.typed.costs(&pruner.settings.limits);
        let bounds = pruner.bounds(&costs, budgets)?;
        bounds.check(&costs.at(&plan.sizes()))?;
        Ok(Self { scored, budgets: budgets.clone(), bounds, plan })
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
        recovered::report(self.scored, &self.budgets, &self.plan, &self.scored.pruner.typed.dimensions)
    }
}

/// A plan for what is left of the dimensions.
pub(super) fn make(scored: &Scored<'_>, dimensions: &Dimensions, bounds: &Bounds) -> Result<Plan, PlanError> {
    let pruner = scored.pruner;
    pruner.monitor.tell(Progress::Stage("plan"));
    let limits = &pruner.settings.limits;
    let costs = pruner.typed.costs_of(dimensions, limits);
    let (prunable, scores) = (&dimensions.prunable, &scored.planned_by);
    let mut plan =
        pruner.clock.time("plan", || plan::plan(&costs.bounded(bounds), prunable, scores, limits))?;
    Ties::of(&pruner.typed.graph, prunable, limits).level(&mut plan);
    Ok(plan)
}
