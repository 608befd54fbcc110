//! Parameters: the numbers in weights, each weight counted once.

use std::collections::BTreeSet;

use super::{Cost, CostModel, CostView, CountError, Pruned};
use crate::{
    graph::{Graph, Use},
    ops,
};

/// Parameters. Where layers that share a weight shrink differently, each gets a copy, which only the count on the pruned model
/// knows of.
#[derive(Debug)]
pub struct Parameters;

impl CostModel for Parameters {
    fn id(&self) -> &'static str {
        "params"
    }

    fn name(&self) -> &'static str {
        "parameters"
    }

    fn unit(&self) -> &'static str {
        "parameters"
    }

    fn about(&self) -> &'static str {
        "parameters, which are the numbers in weights"
    }

    fn cost(&self, view: &CostView<'_>) -> Cost {
        let mut seen = BTreeSet::new();
        let weights = view.widths.constants().filter(|(at, _)| {
            let value = view.graph.node(at.node).input(at.slot);
            value.is_some_and(|value| ops::holds_weights(view.graph, *at) && seen.insert(value))
        });
        Cost::sum(view, weights.map(|(_, axes)| (1, axes)))
    }

    /// Adds up what the shapes of the weights say.
    fn recount(&self, pruned: &Pruned<'_>) -> Result<u64, CountError> {
        let graph = Graph::new(pruned.model);
        let mut seen = BTreeSet::new();
        let mut total = 0u64;
        for (id, node) in graph.nodes() {
            for (slot, value) in node.inputs.iter().enumerate() {
                let weight = value.and_then(|value| Some((value, graph.constant(value)?)));
                let Some((value, tensor)) = weight else { continue };
                if ops::holds_weights(&graph, Use { node: id, slot }) && seen.insert(value) {
                    let extents = tensor.dims.iter().map(|extent| u64::try_from(*extent).unwrap_or(0));
                    total = total.saturating_add(extents.fold(1, u64::saturating_mul));
                }
            }
        }
        Ok(total)
    }
}
