//! Layers that share a matrix lose the same units: were they to lose different ones, each would need a copy of its own, and the
//! file would grow where it is meant to shrink.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::Graph,
    plan::{Limits, Plan},
    score::Scores,
    typing::Dimension,
};

/// Groups of dimensions, by their places in the list, that own the same slices of one constant.
pub(crate) struct Ties(Vec<BTreeSet<usize>>);

impl Ties {
    /// Those of dimensions of one size, which `limits` treat alike.
    pub fn of(graph: &Graph, dimensions: &[Dimension], limits: &Limits) -> Self {
        let mut groups: Vec<BTreeSet<usize>> = Vec::new();
        let mut owners = BTreeMap::new();
        for (index, dimension) in dimensions.iter().enumerate() {
            let mut group = BTreeSet::from([index]);
            for place in &dimension.owned {
                let Some(value) = graph.node(place.at.node).input(place.at.slot) else { continue };
                let is_matrix = graph.constant(value).is_some_and(|tensor| tensor.dims.len() > 1);
                let first = *owners.entry((value, place.axis)).or_insert(index);
                let other = &dimensions[first];
                let alike = (other.size, other.kind) == (dimension.size, dimension.kind)
                    && limits.floor(other) == limits.floor(dimension);
                if is_matrix && alike {
                    group.insert(first);
                }
            }
            let (joined, others): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|known| !known.is_disjoint(&group));
            groups = others;
            groups.push(joined.into_iter().flatten().chain(group).collect());
        }
        Self(groups.into_iter().filter(|group| group.len() > 1).collect())
    }

    /// The names of dimensions, and of all that are tied to them.
    pub fn with_tied(&self, dimensions: &[Dimension], names: BTreeSet<String>) -> BTreeSet<String> {
        let named = |index: &usize| names.contains(&dimensions[*index].name);
        let groups = self.0.iter().filter(|group| group.iter().any(named));
        let tied: Vec<String> = groups.flatten().map(|index| dimensions[*index].name.clone()).collect();
        names.into_iter().chain(tied).collect()
    }

    /// Gives the units of tied dimensions the mean of their scores, so that they go in one order.
    pub fn share(&self, dimensions: &[Dimension], scores: &mut Scores) {
        for group in &self.0 {
            let names: BTreeSet<&str> = group.iter().map(|index| dimensions[*index].name.as_str()).collect();
            let mut scored: Vec<_> =
                scores.dimensions.iter_mut().filter(|d| names.contains(d.name.as_str())).collect();
            let units = scored.iter().map(|d| d.scores.len()).min().unwrap_or(0);
            let mean = |unit: usize| scored.iter().map(|d| d.scores[unit]).sum::<f64>() / scored.len() as f64;
            let means: Vec<f64> = (0..units).map(mean).collect();
            scored.iter_mut().for_each(|d| d.scores.clone_from(&means));
        }
    }

    /// Lets tied dimensions keep what the one keeps that keeps the least.
    pub fn level(&self, plan: &mut Plan) {
        for group in &self.0 {
            let kept = group.iter().filter_map(|index| plan.dimensions.get(*index)).map(|d| d.kept.clone());
            let Some(least) = kept.min_by_key(Vec::len) else { continue };
            for index in group {
                if let Some(dimension) = plan.dimensions.get_mut(*index) {
                    dimension.kept.clone_from(&least);
                }
            }
        }
    }
}
