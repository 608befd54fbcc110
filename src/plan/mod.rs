//! Planning: which units stay, so that every budget is met and the least importance is lost.
//!
//! Costs are polynomials in the widths ([`cost`]), so they are known for any pruning. Removal is greedy by importance per cost saved
//! at the current widths. Savings only fall as widths shrink, so a stale entry of the queue is never too dear: popping,
//! recomputing and pushing back finds the true minimum.

mod budget;
mod budgets;
pub mod cost;
mod search;

pub use budget::{Budget, ParseBudgetError};
pub use budgets::{Asked, Bounded, Bounds, Budgets, Costs, OverBudget};
pub use cost::{COST_MODELS, Cost, CostModel, CostView, PerCost, cost_model};
pub use search::plan;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{
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
    /// Units that go at once: the fewest whose entries are a multiple of `align`.
    fn granule(&self, dimension: &Dimension) -> usize {
        match dimension.kind {
            Kind::Head => 1,
            // Kernels of attention are made for head sizes that are multiples.
            Kind::HeadDim => self.align.max(1),
            Kind::Neuron | Kind::Channel => {
                let align = self.align.max(1);
                (1..align).find(|n| (n * dimension.entries).is_multiple_of(align)).unwrap_or(align)
            }
        }
    }

    /// The fewest units that a dimension keeps: one granule, or what `max_prune` asks for, rounded up to whole granules.
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
        asked.max(1).next_multiple_of(granule).min(dimension.size)
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
        let (flag, regex) = if let Some(regex) = unmatched(&self.only, &prunable().collect::<Vec<_>>()) {
            ("--only", regex)
        } else if let Some(regex) = unmatched(&self.keep, &prunable().chain(pinned()).collect::<Vec<_>>()) {
            ("--keep", regex)
        } else {
            return Ok(());
        };
        let pattern = regex.as_str().to_owned();
        Err(PlanError::Unmatched { flag, nearest: nearest(&pattern, prunable()), pattern })
    }

    /// The flags that keep `asked` out of reach: without all of them it is in reach, and each of them alone holds something.
    /// None if it is out of reach whatever the flags.
    pub fn held_by(&self, cost: &Cost, dimensions: &[Dimension], asked: u64) -> Vec<&'static str> {
        // The alignment last: it always holds a little, and has a default.
        let flags: [Loosen; 5] = [
            ("--only", |limits| limits.only.clear()),
            ("--keep", |limits| limits.keep.clear()),
            ("--kinds", |limits| limits.kinds.clear()),
            ("--max-prune", |limits| limits.max_prune = 1.0),
            ("--align", |limits| limits.align = 1),
        ];
        // The least cost without these flags, but for one of them.
        let least = |flags: &[Loosen], but: Option<usize>| {
            let mut limits = self.clone();
            let dropped = flags.iter().enumerate().filter(|(i, _)| Some(*i) != but);
            dropped.for_each(|(_, (_, drop))| drop(&mut limits));
            minimum(cost, dimensions, &limits)
        };
        let reaching = [flags.len() - 1, flags.len()].map(|count| flags.get(..count).unwrap_or(&flags));
        let Some(flags) = reaching.into_iter().find(|flags| least(flags, None) <= asked) else {
            return Vec::new();
        };
        let free = least(flags, None);
        let holding = flags.iter().enumerate().filter(|(i, _)| least(flags, Some(*i)) > free);
        holding.map(|(_, (flag, _))| *flag).collect()
    }
}

/// A flag, and what limits are without it.
type Loosen = (&'static str, fn(&mut Limits));

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
        "the budget of {asked} {unit} cannot be met: {minimum} ({share:.1} % of the model) is the least that is reachable; {why}"
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
        /// What holds the rest.
        why: String,
    },
    /// The model costs no more than it may, by any budget.
    #[error("{}", idle(.0))]
    Idle(Vec<Asked>),
    /// The name of a layer that there is not.
    #[error(
        "{flag} `{pattern}` matches no layer{}; `optin-onnx inspect` lists all",
        if nearest.is_empty() { String::new() } else { format!("; the nearest are {}", nearest.join(", ")) }
    )]
    Unmatched {
        /// Where it was given.
        flag: &'static str,
        /// The regular expression.
        pattern: String,
        /// Names like it.
        nearest: Vec<String>,
    },
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
