//! What a model costs, and what it may cost.

use std::collections::BTreeSet;

use super::{Goal, Typed};
use crate::{
    ops,
    plan::{self, Budget, Cost, Limits, PlanError},
    report::Change,
    typing::Dimensions,
    widths::Reason,
};

/// What a model costs, and what it may cost.
pub(super) struct Costs<'a> {
    dimensions: &'a Dimensions,
    limits: &'a Limits,
    pub flops: Cost,
    pub params: Cost,
    pub budget: Budget,
    /// Whether the budget is one of parameters.
    pub counts_params: bool,
}

impl<'a> Costs<'a> {
    /// Those of a model of which `dimensions` can be pruned.
    pub fn new(typed: &Typed, dimensions: &'a Dimensions, limits: &'a Limits, goal: &Goal) -> Self {
        let prunable = &dimensions.prunable;
        Self {
            dimensions,
            limits,
            flops: Cost::flops(&typed.widths, prunable, typed.facts.samples),
            params: Cost::parameters(&typed.graph, &typed.widths, prunable),
            budget: goal.budget,
            counts_params: goal.counts_params,
        }
    }

    /// The cost that has a budget, and what it counts.
    pub fn budgeted(&self) -> (&Cost, &'static str) {
        if self.counts_params { (&self.params, "parameters") } else { (&self.flops, "FLOPs") }
    }

    /// What it comes to when the dimensions keep so many units; `None`: all.
    pub fn change(&self, cost: &Cost, kept: Option<&[usize]>) -> Change {
        let prunable = &self.dimensions.prunable;
        let sizes: Vec<usize> = prunable.iter().map(|d| d.size).collect();
        Change {
            before: cost.total(&sizes),
            after: cost.total(kept.unwrap_or(&sizes)),
            minimum: plan::minimum(cost, prunable, self.limits),
        }
    }

    /// The most that the pruned model may cost, if that can be reached.
    pub fn target(&self) -> Result<u64, PlanError> {
        let dimensions = self.dimensions;
        if dimensions.prunable.is_empty() {
            return Err(PlanError::Nothing(why_pinned(dimensions)));
        }
        let (cost, unit) = self.budgeted();
        let Change { before, minimum, .. } = self.change(cost, None);
        let asked = self.budget.target(before);
        if asked >= before {
            return Err(PlanError::Idle { asked, unit, before });
        }
        if minimum <= asked {
            return Ok(asked);
        }
        let share = 100.0 * minimum as f64 / before.max(1) as f64;
        let held_by = self.limits.held_by(cost, &dimensions.prunable, asked);
        let why = why_pinned(dimensions);
        Err(PlanError::Infeasible { asked, unit, minimum, share, held_by, why })
    }
}

fn why_pinned(dimensions: &Dimensions) -> String {
    let first = || dimensions.pinned.iter().flat_map(|p| p.reasons.first()).map(|pin| &pin.reason);
    let reasons: BTreeSet<String> = first().map(ToString::to_string).collect();
    if reasons.is_empty() {
        return "no weight has an axis that could shrink".to_owned();
    }
    let quantized = first().any(|reason| matches!(reason, Reason::Unsupported(op) if ops::is_quantized(op)));
    let hint = if quantized { "; prune the model first, then quantise it" } else { "" };
    reasons.into_iter().collect::<Vec<_>>().join("; ") + hint
}
