//! The search for a plan.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::{Bounded, DimensionPlan, Limits, Plan, PlanError, cost::Running};
use crate::{numbers::importance, score::Scores, typing::Dimension};

/// The first plan on the greedy path that keeps all of `budgets`, and to it what went last of what they leave room for. Where no plan
/// keeps them, the one that removes everything that may go.
///
/// # Errors
/// When the scores are not those of the dimensions.
pub fn plan(
    budgets: &[Bounded<'_>],
    dimensions: &[Dimension],
    scores: &Scores,
    limits: &Limits,
) -> Result<Plan, PlanError> {
    let mut search = Search::new(budgets, dimensions, scores, limits)?;
    let mut removals = Vec::new();
    while search.is_over()
        && let Some(removal) = search.remove_next()
    {
        removals.push(removal);
    }
    search.give_back(removals);
    Ok(search.finish())
}

/// A dimension that lost units, and how many it had before.
type Removal = (usize, usize);

/// A budget while units go.
struct Tracked<'a> {
    /// What the model costs with what is left of each dimension.
    cost: Running<'a>,
    at_most: u64,
    /// What a saving counts for, against one of the first budget that was exceeded.
    weight: f64,
}

impl Tracked<'_> {
    fn is_over(&self) -> bool {
        self.cost.total() > self.at_most
    }
}

struct Search<'a> {
    budgets: Vec<Tracked<'a>>,
    /// Units that are left of each dimension.
    sizes: Vec<usize>,
    dimensions: &'a [Dimension],
    /// The granule and the floor of each dimension.
    steps: Vec<(usize, usize)>,
    /// Units of each dimension, the least important first.
    orders: Vec<Vec<usize>>,
    scores: Vec<&'a [f64]>,
    queue: BinaryHeap<Reverse<(Priority, usize)>>,
    /// Whether a cost falls in steps.
    stepped: bool,
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

/// Follows budgets from the dense sizes on.
fn tracked<'a>(budgets: &[Bounded<'a>], sizes: &[usize]) -> Vec<Tracked<'a>> {
    let mut first = None;
    let each = budgets.iter().map(|&Bounded { cost, at_most }| {
        let cost = Running::new(cost, sizes.to_vec());
        // Savings are told before the division.
        let excess = cost.total().saturating_sub(at_most) as f64 * cost.divisor() as f64;
        let weight = if excess > 0.0 { *first.get_or_insert(excess) / excess } else { 0.0 };
        Tracked { cost, at_most, weight }
    });
    each.collect()
}

impl<'a> Search<'a> {
    fn new(
        budgets: &[Bounded<'a>],
        dimensions: &'a [Dimension],
        scores: &'a Scores,
        limits: &Limits,
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
        let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
        let stepped = budgets.iter().any(|budget| budget.cost.is_stepped());
        let (budgets, queue) = (tracked(budgets, &sizes), BinaryHeap::new());
        let mut search = Self { budgets, sizes, dimensions, steps, orders, scores: values, queue, stepped };
        for dimension in 0..dimensions.len() {
            search.enqueue(dimension);
        }
        Ok(search)
    }

    /// Sizes that a dimension can have after its next removal, descending: one granule less, and where a cost falls in steps, any
    /// number of granules, as the way to the next step saves nothing.
    fn next_sizes(&self, dimension: usize) -> impl Iterator<Item = usize> + use<> {
        let (granule, floor) = self.steps[dimension];
        let first = (self.sizes[dimension] - 1) / granule * granule;
        let count = if self.stepped { usize::MAX } else { 1 };
        (0..=first).rev().step_by(granule).take_while(move |next| *next >= floor).take(count)
    }

    /// The removal from a dimension that loses the least per cost saved, and its priority: the next corner of the lower convex hull
    /// of what is lost by what is saved, which is where greedy choices among several sizes go (Sinha & Zoltners, 1979). `None` at
    /// its floor.
    fn next_removal(&self, dimension: usize) -> Option<(Priority, usize)> {
        let (mut size, mut lost, mut best) = (self.sizes[dimension], 0.0, None);
        for next in self.next_sizes(dimension) {
            lost += self.lost(dimension, size, next);
            size = next;
            let priority = self.priority(dimension, next, lost);
            if best.is_none_or(|(least, _)| priority < least) {
                best = Some((priority, next));
            }
        }
        best
    }

    /// The importance of the units that go when a dimension of `size` units shrinks to `next`.
    fn lost(&self, dimension: usize, size: usize, next: usize) -> f64 {
        let order = &self.orders[dimension];
        let removed = &order[order.len() - size..order.len() - next];
        removed.iter().map(|u| importance(self.scores[dimension][*u])).sum()
    }

    /// Whether any budget is exceeded.
    fn is_over(&self) -> bool {
        self.budgets.iter().any(Tracked::is_over)
    }

    /// Importance lost per cost saved, where several budgets are exceeded per sum of what is saved of each as a share of its
    /// excess in the dense model.
    ///
    /// This is the greedy rule for covering problems with several demands (Dobson, 1982; Wolsey, 1982): the demands are the
    /// excesses, which that scaling makes one each, so that the units of costs do not matter, and what is met counts no more. Of
    /// one budget it is importance per cost. The excesses are those at the start: as budgets only drop out of the sum,
    /// priorities only rise, which the queue relies on. Savings beyond an excess, which those authors do not count, are
    /// undone by [`Self::give_back`].
    fn priority(&self, dimension: usize, next: usize, lost: f64) -> Priority {
        let over = self.budgets.iter().filter(|budget| budget.is_over());
        let saved: f64 = over.map(|b| b.weight * b.cost.saving(dimension, next) as f64).sum();
        Priority(if saved == 0.0 { f64::INFINITY } else { importance(lost / saved) })
    }

    /// Gives a dimension another size, and returns the one that it had.
    fn resize(&mut self, dimension: usize, size: usize) -> usize {
        self.budgets.iter_mut().for_each(|budget| budget.cost.resize(dimension, size));
        std::mem::replace(&mut self.sizes[dimension], size)
    }

    fn enqueue(&mut self, dimension: usize) {
        if let Some((priority, _)) = self.next_removal(dimension) {
            self.queue.push(Reverse((priority, dimension)));
        }
    }

    fn remove_next(&mut self) -> Option<Removal> {
        while let Some(Reverse((stale, dimension))) = self.queue.pop() {
            let Some((current, next)) = self.next_removal(dimension) else { continue };
            if current > stale {
                self.queue.push(Reverse((current, dimension)));
                continue;
            }
            let before = self.resize(dimension, next);
            self.enqueue(dimension);
            return Some((dimension, before));
        }
        None
    }

    /// Takes removals back, the last first, as far as all budgets are met without them: a large one may have met them by far.
    fn give_back(&mut self, removals: Vec<Removal>) {
        let mut settled = vec![false; self.dimensions.len()];
        for (dimension, before) in removals.into_iter().rev() {
            let granule = self.steps[dimension].0;
            while !settled[dimension] && self.sizes[dimension] < before {
                let more = (self.sizes[dimension] / granule + 1).saturating_mul(granule).min(before);
                let after = self.resize(dimension, more);
                if self.is_over() {
                    self.resize(dimension, after);
                    settled[dimension] = true;
                }
            }
        }
    }

    fn finish(self) -> Plan {
        let kept = self.orders.iter().zip(&self.sizes).map(|(order, size)| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{
            Cost, Curve,
            cost::{polynomial, stepped},
        },
        reduction::NEURON,
        score::DimensionScores,
        widths::WidthTable,
    };
    use proptest::prelude::*;

    fn dimension(index: usize, size: usize, table: &mut WidthTable) -> Dimension {
        Dimension {
            name: format!("d{index}"),
            kind: NEURON,
            layer: index,
            width: table.fresh(size),
            size,
            least: 1,
            entries: 1,
            owned: Vec::new(),
            consumers: Vec::new(),
        }
    }

    /// Terms of a polynomial, its divisor, and how much of what can be saved of it may stay.
    type Asked = (Vec<(u64, Vec<usize>)>, usize, f64);

    /// Scores of the units of each dimension, and costs.
    fn cases() -> impl Strategy<Value = (Vec<Vec<f64>>, Vec<Asked>)> {
        let scores = prop::collection::vec(prop::collection::vec(0.0..1.0f64, 2..12), 1..6);
        scores.prop_flat_map(|scores| {
            let count = scores.len();
            let term = (1..1000u64, prop::collection::vec(0..count, 1..4));
            let cost = (prop::collection::vec(term, 1..8), 1..4usize, 0.0..1.0f64);
            (Just(scores), prop::collection::vec(cost, 1..4))
        })
    }

    /// Scores of units.
    fn scores_of(dimensions: &[Dimension], scores: &[Vec<f64>]) -> Scores {
        let scored = dimensions.iter().zip(scores).map(|(dimension, scores)| DimensionScores {
            name: dimension.name.clone(),
            kind: dimension.kind,
            layer: dimension.layer,
            scores: scores.clone(),
            order: None,
            left: None,
        });
        Scores { dimensions: scored.collect(), ..Scores::default() }
    }

    #[test]
    fn nothing_goes_between_two_steps() {
        let mut table = WidthTable::default();
        let dimensions = [dimension(0, 64, &mut table), dimension(1, 64, &mut table)];
        let steps = Curve::new((0..=64_usize).map(|x| x.next_multiple_of(16) as f64 / 64.0));
        let cost = stepped(2, &[(1000, vec![(0, steps.clone())]), (1000, vec![(1, steps)])]);
        let scores = scores_of(&dimensions, &[vec![1.0; 64], vec![1.5; 64]]);
        let limits = Limits { align: 8, ..Limits::default() };
        for (at_most, expected) in [(1999, [48, 64]), (1300, [16, 64]), (1100, [16, 48])] {
            let budgets = [Bounded { cost: &cost, at_most }];
            assert_eq!(plan(&budgets, &dimensions, &scores, &limits).unwrap().sizes(), expected, "{at_most}");
        }
    }

    /// Tables for the dimensions of a cost: how much of each measured extent is a rise.
    fn curve(size: usize, rises: &[u8]) -> Curve {
        let sum: u32 = rises.iter().cycle().take(size).map(|rise| u32::from(*rise)).sum();
        let mut total = 0;
        let steps = rises.iter().cycle().take(size).map(|rise| {
            total += u32::from(*rise);
            f64::from(total) / f64::from(sum.max(1))
        });
        Curve::new(std::iter::once(0.0).chain(steps.collect::<Vec<_>>()))
    }

    proptest! {
        #[test]
        fn plans_by_tables_hold_with_nothing_to_spare(
            (scores, costs) in cases(),
            rises in prop::collection::vec(0..4u8, 1..7),
            align in 1..4usize,
        ) {
            let mut table = WidthTable::default();
            let dimensions: Vec<Dimension> =
                scores.iter().enumerate().map(|(i, s)| dimension(i, s.len(), &mut table)).collect();
            let limits = Limits { align, ..Limits::default() };
            let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
            let floors: Vec<usize> = dimensions.iter().map(|d| limits.floor(d)).collect();
            let with_curves = |terms: &[(u64, Vec<usize>)]| -> Vec<(u64, Vec<(usize, Curve)>)> {
                let of = |d: &usize| (*d, curve(sizes[*d], &rises));
                terms.iter().map(|(factor, dims)| (factor * 1000, dims.iter().map(of).collect())).collect()
            };
            let costs: Vec<(Cost, f64)> =
                costs.iter().map(|(terms, _, share)| (stepped(sizes.len(), &with_curves(terms)), *share)).collect();
            let budgets: Vec<Bounded<'_>> = costs
                .iter()
                .map(|(cost, share)| {
                    let (least, dense) = (cost.total(&floors), cost.total(&sizes));
                    Bounded { cost, at_most: least + (share * (dense - least) as f64) as u64 }
                })
                .collect();
            let kept = plan(&budgets, &dimensions, &scores_of(&dimensions, &scores), &limits).unwrap().sizes();
            let holds = |sizes: &[usize]| budgets.iter().all(|b| b.cost.total(sizes) <= b.at_most);
            prop_assert!(holds(&kept));
            for (i, dimension) in dimensions.iter().enumerate().filter(|(i, d)| kept[*i] < d.size) {
                let mut more = kept.clone();
                more[i] = (kept[i] / align * align + align).min(dimension.size);
                prop_assert!(!holds(&more), "{} of {:?}", dimension.name, kept);
            }
        }

        #[test]
        fn all_budgets_hold_and_nothing_is_to_spare((scores, costs) in cases(), align in 1..4usize) {
            let mut table = WidthTable::default();
            let dimensions: Vec<Dimension> =
                scores.iter().enumerate().map(|(i, s)| dimension(i, s.len(), &mut table)).collect();
            let limits = Limits { align, ..Limits::default() };
            let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
            let floors: Vec<usize> = dimensions.iter().map(|d| limits.floor(d)).collect();
            let costs: Vec<(Cost, f64)> = costs
                .iter()
                .map(|(terms, divisor, share)| (polynomial(sizes.len(), terms).per(*divisor), *share))
                .collect();
            let budgets: Vec<Bounded<'_>> = costs
                .iter()
                .map(|(cost, share)| {
                    let (least, dense) = (cost.total(&floors), cost.total(&sizes));
                    Bounded { cost, at_most: least + (share * (dense - least) as f64) as u64 }
                })
                .collect();
            let scores = scores_of(&dimensions, &scores);
            let plan = plan(&budgets, &dimensions, &scores, &limits).unwrap();
            let holds = |sizes: &[usize]| budgets.iter().all(|b| b.cost.total(sizes) <= b.at_most);
            let kept = plan.sizes();
            prop_assert!(holds(&kept));
            for (i, dimension) in dimensions.iter().enumerate().filter(|(i, d)| kept[*i] < d.size) {
                let mut more = kept.clone();
                more[i] = (kept[i] / align * align + align).min(dimension.size);
                prop_assert!(!holds(&more), "{} of {:?}", dimension.name, kept);
            }
        }
    }
}
