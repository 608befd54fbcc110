//! Several budgets that hold together, and what a model that is to keep them costs.

use std::{collections::BTreeSet, fmt};

use super::{
    Budget, Limits, PlanError,
    cost::{COST_MODELS, Cost, CostModel, CostView, Flops, PerCost},
    minimum,
};
use crate::{ops, typing::Dimensions};

/// What a pruned model may cost, all of it at once. Empty, it stands for half of the FLOPs.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    each: Vec<(&'static dyn CostModel, Budget)>,
    latency: Option<Budget>,
}

impl Budgets {
    /// These, and another one; of a cost that has a budget already, in place of that.
    pub fn and(mut self, model: &'static dyn CostModel, budget: Budget) -> Self {
        self.each.retain(|(known, _)| known.id() != model.id());
        self.each.push((model, budget));
        self
    }

    /// These, and how long the model may take: a share, or picoseconds. The session has to measure that.
    pub fn and_latency(self, budget: Budget) -> Self {
        Self { latency: Some(budget), ..self }
    }

    /// How long the model may take.
    pub fn latency(&self) -> Option<Budget> {
        self.latency
    }

    /// A single budget.
    pub fn one(model: &'static dyn CostModel, budget: Budget) -> Self {
        Self::default().and(model, budget)
    }

    /// Every budget of a cost that is told from the model alone, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&'static dyn CostModel, Budget)> {
        let default = COST_MODELS.first().filter(|_| self.each.is_empty() && self.latency.is_none());
        self.each.iter().copied().chain(default.map(|model| (*model, Budget::Share(0.5))))
    }

    /// Whether recovery may add weights: no budget counts them.
    pub fn leave_room_for_weights(&self) -> bool {
        self.iter().all(|(model, _)| !model.counts_weights())
    }
}

/// A single budget as it is, several by the ids of their costs.
impl fmt::Display for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budgets: Vec<_> = self.iter().collect();
        if let ([(_, budget)], None) = (budgets.as_slice(), self.latency) {
            return budget.fmt(f);
        }
        let named = budgets.iter().map(|(model, budget)| format!("{} {budget}", model.id()));
        let latency = self.latency.map(|budget| match budget {
            Budget::Share(_) => format!("latency {budget}"),
            Budget::Absolute(picoseconds) => format!("latency {}ms", picoseconds / 1e9),
        });
        f.write_str(&named.chain(latency).collect::<Vec<_>>().join(", "))
    }
}

/// What one budget asks for, and what there is.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What is counted.
    pub model: &'static dyn CostModel,
    /// The most that the pruned model may cost.
    pub at_most: u64,
    /// What the dense model costs.
    pub dense: u64,
    /// What it costs with everything removed that may go.
    pub least: u64,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, at_most, dense, least } = self;
        write!(f, "reachable: {least} to {dense} {}; asked: {at_most}", model.unit())
    }
}

/// More than a budget allows.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "the pruned model has {found} {unit} where the budget is {asked}, as it needs more than was planned; ask for less"
)]
pub struct OverBudget {
    /// What is counted.
    pub unit: &'static str,
    /// What the pruned model was found to have.
    pub found: u64,
    /// The budget.
    pub asked: u64,
}

/// The most that a pruned model may cost.
#[derive(Clone, Copy, Debug)]
struct Bound {
    model: &'static dyn CostModel,
    at_most: u64,
    /// What models were counted to cost beyond what was planned.
    beyond: u64,
}

/// The most that a pruned model may cost, by every budget.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    each: Vec<Bound>,
    /// Of what is measured: the most that plans may come to, in picoseconds.
    latency: Option<u64>,
}

impl Bounds {
    /// Holds what was counted against the budgets.
    ///
    /// # Errors
    /// The first budget that is exceeded.
    pub fn check(&self, counted: &PerCost<u64>) -> Result<(), OverBudget> {
        let over = self.each.iter().find_map(|Bound { model, at_most, .. }| {
            let found = *counted.get(model.id())?;
            (found > *at_most).then_some(OverBudget { unit: model.unit(), found, asked: *at_most })
        });
        over.map_or(Ok(()), Err)
    }

    /// The most that a model may cost by one cost.
    pub fn at_most(&self, id: &str) -> Option<u64> {
        self.each.iter().find(|bound| bound.model.id() == id).map(|bound| bound.at_most)
    }

    /// The same, where plans may come to so many picoseconds.
    #[must_use]
    pub fn within(self, latency: Option<u64>) -> Self {
        Self { latency, ..self }
    }

    /// The picoseconds that plans may come to.
    pub fn latency(&self) -> Option<u64> {
        self.latency
    }

    /// Lets later plans leave room for what a model was counted to cost beyond its plan.
    pub fn leave_room(&mut self, planned: &PerCost<u64>, counted: &PerCost<u64>) {
        for bound in &mut self.each {
            let id = bound.model.id();
            if let (Some(planned), Some(counted)) = (planned.get(id), counted.get(id)) {
                bound.beyond = bound.beyond.max(counted.saturating_sub(*planned));
            }
        }
    }
}

/// A cost, and the most that a plan may come to.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<'a> {
    /// The cost.
    pub cost: &'a Cost,
    /// The most.
    pub at_most: u64,
}

/// What a typed model costs, by every cost model, and the least that it can be brought to.
pub struct Costs<'a> {
    dimensions: &'a Dimensions,
    limits: &'a Limits,
    costs: PerCost<Cost>,
    /// How long the model takes, where that was measured.
    latency: Option<Cost>,
    /// What the file's model costs, where the typed one does with less.
    input: Option<PerCost<u64>>,
    /// Whether operators compute with quantised weights.
    quantized: bool,
}

impl<'a> Costs<'a> {
    /// `view` is of the prunable among `dimensions`.
    pub fn new(view: &CostView<'_>, dimensions: &'a Dimensions, limits: &'a Limits) -> Self {
        // Weights of integers are none that are pruned: nothing but the operator says what they are.
        let mut operators = view.graph.nodes().map(|(_, node)| ops::operator_name(&node.proto));
        let quantized = operators.any(|operator| ops::is_quantized(&operator));
        let costs = PerCost::of(|model| model.cost(view));
        Self { dimensions, limits, costs, latency: None, input: None, quantized }
    }

    /// The same, of a model that was made of one that costs `input`: shares are shares of that.
    #[must_use]
    pub fn of_input(self, input: Option<PerCost<u64>>) -> Self {
        Self { input, ..self }
    }

    /// The same, and how long the model takes, in picoseconds.
    #[must_use]
    pub fn and_latency(self, latency: Option<Cost>) -> Self {
        Self { latency, ..self }
    }

    /// How long the model takes, where that was measured.
    pub fn latency(&self) -> Option<&Cost> {
        self.latency.as_ref()
    }

    /// Each cost, as a polynomial.
    pub fn each(&self) -> &PerCost<Cost> {
        &self.costs
    }

    /// What the model costs when its dimensions have these sizes.
    pub fn at(&self, sizes: &[usize]) -> PerCost<u64> {
        self.costs.map(|cost| cost.total(sizes))
    }

    /// What the dense model costs, as it was in the file.
    pub fn dense(&self) -> PerCost<u64> {
        self.input.clone().unwrap_or_else(|| self.whole())
    }

    /// What the typed model costs with all its dimensions whole.
    pub fn whole(&self) -> PerCost<u64> {
        self.at(&self.dimensions.prunable.iter().map(|d| d.size).collect::<Vec<_>>())
    }

    /// The least that each can be brought to. One plan brings all of them there: that which removes everything that may go.
    pub fn least(&self) -> PerCost<u64> {
        self.costs.map(|cost| minimum(cost, &self.dimensions.prunable, self.limits))
    }

    /// What each budget asks for.
    pub fn asked(&self, budgets: &Budgets) -> Vec<Asked> {
        let (dense, least) = (self.dense(), self.least());
        let asked = budgets.iter().filter_map(|(model, budget)| {
            let (&dense, &least) = (dense.get(model.id())?, least.get(model.id())?);
            Some(Asked { model, at_most: budget.target(dense), dense, least })
        });
        asked.collect()
    }

    /// Whether the dense model costs more than it may.
    pub fn exceed(&self, budgets: &Budgets) -> bool {
        self.asked(budgets).iter().any(|asked| asked.at_most < asked.dense)
    }

    /// The most that the pruned model may cost.
    ///
    /// # Errors
    /// When nothing can be pruned, when the dense model keeps all budgets, and when one cannot be met.
    pub fn bounds(&self, budgets: &Budgets) -> Result<Bounds, PlanError> {
        if self.dimensions.prunable.is_empty() {
            return Err(PlanError::Nothing(self.why_pinned()));
        }
        let asked = self.asked(budgets);
        if budgets.latency.is_none() && asked.iter().all(|asked| asked.at_most >= asked.dense) {
            return Err(PlanError::Idle(asked));
        }
        let bounds = self.ceilings(budgets);
        self.check(&bounds)?;
        Ok(bounds)
    }

    /// Whether all can be met, room for what plans do not count included.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self, bounds: &Bounds) -> Result<(), PlanError> {
        let (dense, least) = (self.dense(), self.least());
        for Bound { model, at_most, beyond } in &bounds.each {
            let known = (self.costs.get(model.id()), dense.get(model.id()), least.get(model.id()));
            let (Some(cost), Some(dense), Some(least)) = known else { continue };
            let minimum = least.saturating_add(*beyond);
            if minimum > *at_most {
                let share = 100.0 * minimum as f64 / (*dense).max(1) as f64;
                let asked = at_most.saturating_sub(*beyond);
                let held_by = self.limits.held_by(cost, &self.dimensions.prunable, asked);
                let why = self.why_pinned();
                return Err(PlanError::Infeasible {
                    asked: *at_most,
                    unit: model.unit(),
                    minimum,
                    share,
                    held_by,
                    why,
                });
            }
        }
        Ok(())
    }

    /// The budgets that widths are pruned to where positions are merged afterwards: of the FLOPs, `share_of_widths` of the share
    /// that is asked for.
    pub fn for_widths(&self, budgets: &Budgets, share_of_widths: impl Fn(f64) -> f64) -> Budgets {
        self.asked(budgets).iter().zip(budgets.iter()).fold(
            Budgets::default(),
            |all, (asked, (model, budget))| {
                let share = asked.at_most as f64 / asked.dense.max(1) as f64;
                let relaxed = model.id() == Flops.id();
                all.and(model, if relaxed { Budget::Share(share_of_widths(share.min(1.0))) } else { budget })
            },
        )
    }

    /// The most that the pruned model may cost, whether widths alone can bring it there or not.
    pub fn ceilings(&self, budgets: &Budgets) -> Bounds {
        let bound = |asked: &Asked| Bound { model: asked.model, at_most: asked.at_most, beyond: 0 };
        Bounds { each: self.asked(budgets).iter().map(bound).collect(), latency: None }
    }

    /// What the plan has to keep to.
    pub fn bounded(&self, bounds: &Bounds) -> Vec<Bounded<'_>> {
        let bounded = bounds.each.iter().filter_map(|bound| {
            let cost = self.costs.get(bound.model.id())?;
            Some(Bounded { cost, at_most: bound.at_most.saturating_sub(bound.beyond) })
        });
        let latency = self.latency.as_ref().zip(bounds.latency);
        bounded.chain(latency.map(|(cost, at_most)| Bounded { cost, at_most })).collect()
    }

    /// Every reason for which an axis of a weight keeps its extent, once.
    fn why_pinned(&self) -> String {
        let first = self.dimensions.pinned.iter().flat_map(|p| p.reasons.first());
        let mut reasons: BTreeSet<String> = first.map(|pin| pin.reason.to_string()).collect();
        if reasons.is_empty() {
            reasons.insert("no weight has an axis that could shrink".to_owned());
        }
        let hint = if self.quantized { "; prune the model first, then quantise it" } else { "" };
        reasons.into_iter().collect::<Vec<_>>().join("; ") + hint
    }
}
