//! Planning: which units stay, so that every budget is met and the least importance is lost.
//!
//! Costs are polynomials in the widths, or go by tables of them ([`cost`]), so they are known for any pruning. Removal is greedy by
//! importance per cost saved at the current widths, where steps of a table are taken whole. Savings only fall as other widths shrink,
//! so a stale entry of the queue is never too dear: popping, recomputing and pushing back finds the true minimum.

mod budget;
mod budgets;
pub mod cost;
mod search;

pub use budget::{Budget, ParseBudgetError};
pub use budgets::{Asked, Bounded, Bounds, Budgets, Costs, OverBudget};
pub use cost::{
    Bytes, COST_MODELS, Cost, CostModel, CostView, Curve, Flops, Parameters, PerCost, cost_model,
};
pub use search::plan;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{
    named::{Named, named},
    typing::{Dimension, Dimensions, Kind},
    widths::{Kept, WidthTable},
};

/// What may be removed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Neurons and channels go, and stay, in multiples of this.
    pub align: usize,
    /// The largest share of a dimension that may go.
    pub max_prune: f64,
    /// Kinds that may be pruned; empty: all.
    pub kinds: Vec<Kind>,
    /// Dimensions whose names match keep everything.
    pub keep: Vec<Regex>,
    /// If any are given, only dimensions whose names match are pruned.
    pub only: Vec<Regex>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { align: 8, max_prune: 1.0, kinds: Vec::new(), keep: Vec::new(), only: Vec::new() }
    }
}

impl Limits {
    /// Units that go at once.
    pub(crate) fn granule(&self, dimension: &Dimension) -> usize {
        dimension.kind.granule(dimension.entries, self.align.max(1))
    }

    /// The fewest units that a dimension keeps: as many as it has to, or what `max_prune` asks for, rounded up to whole granules.
    pub fn floor(&self, dimension: &Dimension) -> usize {
        let named = |list: &[Regex]| list.iter().any(|r| r.is_match(&dimension.name));
        let open = (self.kinds.is_empty() || self.kinds.contains(&dimension.kind))
            && !named(&self.keep)
            && (self.only.is_empty() || named(&self.only));
        if !open {
            return dimension.size;
        }
        let granule = self.granule(dimension);
        let asked = ((1.0 - self.max_prune) * dimension.size as f64).ceil() as usize;
        asked
            .max(dimension.least)
            .checked_next_multiple_of(granule)
            .map_or(dimension.size, |n| n.min(dimension.size))
    }
}

impl Limits {
    /// Checks that each of `keep` and `only` matches something: a typing error in the name of the layer that is to be protected
    /// is the dearest one. What may be kept is any axis, prunable or not.
    ///
    /// # Errors
    /// The first expression that matches nothing, with the names that are nearest to it.
    pub fn check_names(&self, dimensions: &Dimensions) -> Result<(), PlanError> {
        let prunable = || dimensions.prunable.iter().map(|d| d.name.as_str());
        let pinned = || dimensions.pinned.iter().map(|p| p.name.as_str());
        let unmatched = |list: &[Regex], names: &[&str]| {
            list.iter().find(|regex| !names.iter().any(|name| regex.is_match(name))).cloned()
        };
        let (limit, regex) = if let Some(regex) = unmatched(&self.only, &prunable().collect::<Vec<_>>()) {
            (Limit::Only, regex)
        } else if let Some(regex) = unmatched(&self.keep, &prunable().chain(pinned()).collect::<Vec<_>>()) {
            (Limit::Keep, regex)
        } else {
            return Ok(());
        };
        let pattern = regex.as_str().to_owned();
        Err(PlanError::Unmatched { limit, nearest: nearest(&pattern, prunable()), pattern })
    }

    /// The limits that keep `asked` out of reach: without all of them it is in reach, and each of them alone holds something.
    /// None if it is out of reach whatever the limits.
    pub fn held_by(&self, cost: &Cost, dimensions: &[Dimension], asked: u64) -> Vec<Limit> {
        // The alignment last: it always holds a little, and has a default.
        let limits: [Loosen; 5] = [
            (Limit::Only, |limits| limits.only.clear()),
            (Limit::Keep, |limits| limits.keep.clear()),
            (Limit::Kinds, |limits| limits.kinds.clear()),
            (Limit::MaxPrune, |limits| limits.max_prune = 1.0),
            (Limit::Align, |limits| limits.align = 1),
        ];
        // The least cost without these limits, but for one of them.
        let least = |loosened: &[Loosen], but: Option<usize>| {
            let mut limits = self.clone();
            let dropped = loosened.iter().enumerate().filter(|(i, _)| Some(*i) != but);
            dropped.for_each(|(_, (_, drop))| drop(&mut limits));
            minimum(cost, dimensions, &limits)
        };
        let reaching = [limits.len() - 1, limits.len()].map(|count| limits.get(..count).unwrap_or(&limits));
        let Some(limits) = reaching.into_iter().find(|limits| least(limits, None) <= asked) else {
            return Vec::new();
        };
        let free = least(limits, None);
        let holding = limits.iter().enumerate().filter(|(i, _)| least(limits, Some(*i)) > free);
        holding.map(|(_, (limit, _))| *limit).collect()
    }
}

/// One of the fields of [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Limit {
    Only,
    Keep,
    Kinds,
    MaxPrune,
    Align,
}

named!(
    Limit,
    "a limit",
    [
        (Only, "only", "The layers that may be pruned."),
        (Keep, "keep", "The layers that keep everything."),
        (Kinds, "kinds", "The kinds of units that may be pruned."),
        (MaxPrune, "max-prune", "The largest share of a layer that may go."),
        (Align, "align", "What sizes stay in multiples of."),
    ]
);

/// A limit, and what all of them are without it.
type Loosen = (Limit, fn(&mut Limits));

/// What keeps a budget out of reach: the limits, where they do, and otherwise what `pinned` says of the model.
fn holding(limits: &[Limit], pinned: &str) -> String {
    if limits.is_empty() {
        return format!("what keeps its extent does so because: {pinned}");
    }
    let names: Vec<&str> = limits.iter().map(|limit| limit.name()).collect();
    let noun = if names.len() == 1 { "the limit" } else { "the limits" };
    format!("what holds it is {noun} {}: loosen or drop that", names.join(", "))
}

/// The three names most like `pattern`, the nearest first.
fn nearest<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut ranked: Vec<(f64, &str)> =
        names.map(|name| (strsim::jaro_winkler(pattern, name), name)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    ranked.dedup();
    ranked.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Even with everything removed that may go, the budget is not met.
    #[error(
        "the budget of {asked} {unit} cannot be met: {minimum} ({share:.1} % of the model) is the least that is reachable; {}",
        holding(held_by, why)
    )]
    Infeasible {
        /// The budget.
        asked: u64,
        /// What it counts.
        unit: &'static str,
        /// The reachable minimum.
        minimum: u64,
        /// The minimum as a share of the dense model, in percent.
        share: f64,
        /// The limits without which it could be met.
        held_by: Vec<Limit>,
        /// Why the rest of the model cannot be pruned.
        why: String,
    },
    /// The model costs no more than it may, by any budget.
    #[error("{}", idle(.0))]
    Idle(Vec<Asked>),
    /// The name of a layer that there is not.
    #[error(
        "`{pattern}`, given for the limit {limit}, matches no layer{}",
        if nearest.is_empty() { String::new() } else { format!("; the nearest are {}", nearest.join(", ")) }
    )]
    Unmatched {
        /// Where it was given.
        limit: Limit,
        /// The regular expression.
        pattern: String,
        /// Names like it.
        nearest: Vec<String>,
    },
    /// A plan of another model, or of other settings.
    #[error("the plan is of other dimensions than the model has: plan anew")]
    Unfit,
    /// A sweep over no budget.
    #[error("no budget was given")]
    NoBudgets,
    /// Nothing in the model can be pruned.
    #[error("nothing in this model can be pruned: {0}")]
    Nothing(String),
    /// The scores are of another model.
    #[error("the scores do not fit the model: {0}; score it again")]
    Scores(String),
}

/// Why budgets that the dense model keeps are none.
fn idle(budgets: &[Asked]) -> String {
    if let [Asked { model, at_most, dense, .. }] = budgets {
        let unit = model.unit();
        return format!(
            "the budget of {at_most} {unit} leaves nothing to prune: the model has {dense}; give a smaller one, such as 50%"
        );
    }
    let joined = |number: fn(&Asked) -> u64| {
        let each = budgets.iter().map(|asked| format!("{} {}", number(asked), asked.model.unit()));
        each.collect::<Vec<_>>().join(" and ")
    };
    format!(
        "the budgets of {} leave nothing to prune: the model has {}; give a smaller one, such as 50%",
        joined(|asked| asked.at_most),
        joined(|asked| asked.dense)
    )
}

/// What stays of one dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DimensionPlan {
    /// The dimension's name.
    pub name: String,
    /// What its units are.
    pub kind: Kind,
    /// Units before.
    pub size: usize,
    /// Units that stay, ascending.
    pub kept: Vec<usize>,
}

/// What stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// One entry per prunable dimension.
    pub dimensions: Vec<DimensionPlan>,
}

impl Plan {
    /// How many units of each dimension stay.
    pub fn sizes(&self) -> Vec<usize> {
        self.dimensions.iter().map(|dimension| dimension.kept.len()).collect()
    }

    /// Checks that the plan is of these dimensions.
    ///
    /// # Errors
    /// [`PlanError::Unfit`].
    pub fn check(&self, dimensions: &[Dimension]) -> Result<(), PlanError> {
        let fits = |(plan, dimension): (&DimensionPlan, &Dimension)| {
            let ascending = plan.kept.is_sorted_by(|a, b| a < b);
            let inside = plan.kept.last().is_some_and(|last| *last < dimension.size);
            (&plan.name, plan.size) == (&dimension.name, dimension.size) && ascending && inside
        };
        let found =
            self.dimensions.len() == dimensions.len() && self.dimensions.iter().zip(dimensions).all(fits);
        if found { Ok(()) } else { Err(PlanError::Unfit) }
    }

    /// The plan in terms of widths. `dimensions` are those that it was made for.
    pub fn kept(&self, table: &WidthTable, dimensions: &[Dimension]) -> Kept {
        let mut kept = Kept::default();
        for (plan, dimension) in self.dimensions.iter().zip(dimensions) {
            kept.keep(table, dimension.width, plan.kept.clone());
        }
        kept
    }
}

/// The least cost that `limits` allow.
pub fn minimum(cost: &Cost, dimensions: &[Dimension], limits: &Limits) -> u64 {
    let floors: Vec<usize> = dimensions.iter().map(|d| limits.floor(d)).collect();
    cost.total(&floors)
}
