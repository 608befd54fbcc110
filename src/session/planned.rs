//! A plan for one budget.

use super::{Applied, Goal, Progress, Scored, costs::Costs};
use crate::{
    Error,
    plan::{self, Plan, PlanError},
    report::Report,
    ties::Ties,
    typing::Dimensions,
};

/// A session with a plan: which units stay.
pub struct Planned<'s> {
    pub(super) scored: &'s Scored<'s>,
    pub(super) goal: Goal,
    pub(super) plan: Plan,
}

impl<'s> Planned<'s> {
    pub(super) fn new(scored: &'s Scored<'s>, goal: &Goal) -> Result<Self, Error> {
        let plan = make(scored, &scored.pruner.typed.dimensions, goal)?;
        Ok(Self { scored, goal: *goal, plan })
    }

    pub(super) fn of(scored: &'s Scored<'s>, plan: Plan, goal: &Goal) -> Result<Self, Error> {
        let pruner = scored.pruner;
        let dimensions = &pruner.typed.dimensions;
        plan.check(&dimensions.prunable)?;
        let costs = Costs::new(&pruner.typed, dimensions, &pruner.settings.limits, goal);
        let asked = costs.target()?;
        let found = costs.change(costs.budgeted().0, Some(&plan.sizes())).after;
        if found > asked {
            let unit = costs.budgeted().1;
            return Err(PlanError::Missed { found, asked, unit }.into());
        }
        Ok(Self { scored, goal: *goal, plan })
    }

    /// The plan: plain data, which can be kept, and gone on from by [`Scored::with_plan`].
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Removes what the plan leaves out, and proves that the result computes what the model does with those units zeroed. A
    /// dimension that cannot be removed so keeps its extent, with a warning, and the rest is planned anew.
    ///
    /// # Errors
    /// When the plan is refused and no dimension is to blame, when what is left cannot meet the goal, or [`Error::Cancelled`].
    pub fn apply(self) -> Result<Applied<'s>, Error> {
        Applied::new(self)
    }

    /// What is known of a model that is not made: a dry run.
    pub fn report(&self) -> Report {
        super::recovered::report(self.scored, &self.goal, &self.plan, &self.scored.pruner.typed.dimensions)
    }
}

/// A plan for what is left of the dimensions.
pub(super) fn make(scored: &Scored<'_>, dimensions: &Dimensions, goal: &Goal) -> Result<Plan, PlanError> {
    let pruner = scored.pruner;
    pruner.monitor.tell(Progress::Stage("plan"));
    let limits = &pruner.settings.limits;
    let costs = Costs::new(&pruner.typed, dimensions, limits, goal);
    let target = costs.target()?;
    let prunable = &dimensions.prunable;
    let (cost, scores) = (costs.budgeted().0, &scored.planned_by);
    let mut plan = pruner.clock.time("plan", || plan::plan(cost, prunable, scores, limits, target))?;
    Ties::of(&pruner.typed.graph, prunable, limits).level(&mut plan);
    Ok(plan)
}
