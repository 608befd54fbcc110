//! Planning: which units stay, so that a budget is met and the least importance is lost.
//!
//! Costs are polynomials in the widths, so they are exact after any pruning. Removal is greedy by importance per cost saved
//! at the current widths. Savings only fall as widths shrink, so a stale entry of the queue is never too dear: popping,
//! recomputing and pushing back finds the true minimum.

mod budget;
mod cost;

pub use budget::{Budget, ParseBudgetError};
pub use cost::Cost;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use cost::Running;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{
    numbers::importance,
    score::Scores,
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
    fn granule(&self, dimension: &Dimension) -> usize {
        dimension.kind.granule(dimension.entries, self.align.max(1))
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
        /// FLOPs or parameters.
        unit: &'static str,
        /// The reachable minimum.
        minimum: u64,
        /// The minimum as a share of the dense model, in percent.
        share: f64,
        /// What holds the rest.
        why: String,
    },
    /// The model costs no more than it may.
    #[error(
        "the budget of {asked} {unit} leaves nothing to prune: the model has {before}; give a smaller one, such as 50%"
    )]
    Idle {
        /// The budget.
        asked: u64,
        /// FLOPs or parameters.
        unit: &'static str,
        /// What the model costs.
        before: u64,
    },
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

/// The first plan on the greedy path whose cost is at most `target`, and to it what went last of what `target` leaves room for.
pub fn plan(
    cost: &Cost,
    dimensions: &[Dimension],
    scores: &Scores,
    limits: &Limits,
    target: u64,
) -> Result<Plan, PlanError> {
    let mut search = Search::new(cost, dimensions, scores, limits)?;
    let mut removals = Vec::new();
    while search.cost.total() > target
        && let Some(removal) = search.remove_next()
    {
        removals.push(removal);
    }
    search.give_back(removals, target);
    Ok(search.finish())
}

/// A dimension that lost units, and how many it had before.
type Removal = (usize, usize);

struct Search<'a> {
    /// What the model costs with what is left of each dimension.
    cost: Running<'a>,
    dimensions: &'a [Dimension],
    /// The granule and the floor of each dimension.
    steps: Vec<(usize, usize)>,
    /// Units of each dimension, the least important first.
    orders: Vec<Vec<usize>>,
    scores: Vec<&'a [f64]>,
    queue: BinaryHeap<Reverse<(Priority, usize)>>,
}

/// Importance per cost saved; ordered like the number.
#[derive(Clone, Copy, PartialEq)]
struct Priority(f64);

impl Eq for Priority {}

impl Ord for Priority {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Priority {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Search<'a> {
    fn new(
        cost: &'a Cost,
        dimensions: &'a [Dimension],
        scores: &'a Scores,
        limits: &'a Limits,
    ) -> Result<Self, PlanError> {
        let mut orders = Vec::with_capacity(dimensions.len());
        let mut values = Vec::with_capacity(dimensions.len());
        let steps: Vec<_> = dimensions.iter().map(|d| (limits.granule(d), limits.floor(d))).collect();
        let mut by_name = HashMap::new();
        for scores in &scores.dimensions {
            by_name.entry(scores.name.as_str()).or_insert(scores);
        }
        for (dimension, (_, floor)) in dimensions.iter().zip(&steps) {
            let found = by_name.get(dimension.name.as_str()).copied();
            if found.is_none() && *floor == dimension.size {
                orders.push((0..dimension.size).collect());
                values.push([].as_slice());
                continue;
            }
            let found =
                found.ok_or_else(|| PlanError::Scores(format!("{} has no scores", dimension.name)))?;
            if found.scores.len() != dimension.size {
                let (name, size, n) = (&dimension.name, dimension.size, found.scores.len());
                return Err(PlanError::Scores(format!("{name} has {size} units and {n} scores")));
            }
            let mut order: Vec<usize> = (0..dimension.size).collect();
            let important = |unit: &usize| importance(found.scores[*unit]);
            order.sort_by(|a, b| important(a).total_cmp(&important(b)));
            orders.push(order);
            values.push(found.scores.as_slice());
        }
        let cost = Running::new(cost, dimensions.iter().map(|d| d.size).collect());
        let queue = BinaryHeap::new();
        let mut search = Self { cost, dimensions, steps, orders, scores: values, queue };
        for dimension in 0..dimensions.len() {
            search.enqueue(dimension);
        }
        Ok(search)
    }

    /// Units that a dimension has after its next removal; `None` at its floor.
    fn next_size(&self, dimension: usize) -> Option<usize> {
        let (granule, floor) = self.steps[dimension];
        let next = (self.cost.sizes()[dimension] - 1) / granule * granule;
        (next >= floor).then_some(next)
    }

    fn priority(&self, dimension: usize, next: usize) -> Priority {
        let (order, size) = (&self.orders[dimension], self.cost.sizes()[dimension]);
        let removed = &order[order.len() - size..order.len() - next];
        let lost: f64 = removed.iter().map(|u| importance(self.scores[dimension][*u])).sum();
        let saved = self.cost.saving(dimension, next);
        Priority(if saved == 0 { f64::INFINITY } else { importance(lost / saved as f64) })
    }

    fn enqueue(&mut self, dimension: usize) {
        if let Some(next) = self.next_size(dimension) {
            self.queue.push(Reverse((self.priority(dimension, next), dimension)));
        }
    }

    fn remove_next(&mut self) -> Option<Removal> {
        while let Some(Reverse((stale, dimension))) = self.queue.pop() {
            let Some(next) = self.next_size(dimension) else { continue };
            let current = self.priority(dimension, next);
            if current > stale {
                self.queue.push(Reverse((current, dimension)));
                continue;
            }
            let before = self.cost.resize(dimension, next);
            self.enqueue(dimension);
            return Some((dimension, before));
        }
        None
    }

    /// Takes removals back, the last first, where the budget is met without them: a large one may have met it by far.
    fn give_back(&mut self, removals: Vec<Removal>, target: u64) {
        let mut settled = vec![false; self.dimensions.len()];
        for (dimension, before) in removals.into_iter().rev() {
            if settled[dimension] {
                continue;
            }
            let after = self.cost.resize(dimension, before);
            if self.cost.total() > target {
                self.cost.resize(dimension, after);
                settled[dimension] = true;
            }
        }
    }

    fn finish(self) -> Plan {
        let kept = self.orders.iter().zip(self.cost.sizes()).map(|(order, size)| {
            let mut kept = order[order.len() - size..].to_vec();
            kept.sort_unstable();
            kept
        });
        let dimensions = self.dimensions.iter().zip(kept);
        let dimensions = dimensions
            .map(|(d, kept)| DimensionPlan { name: d.name.clone(), kind: d.kind, size: d.size, kept })
            .collect();
        Plan { dimensions }
    }
}
