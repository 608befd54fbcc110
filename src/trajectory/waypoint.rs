//! Waypoints: the sums that prunable dimensions end in, after bias and residual connection.

use std::collections::BTreeMap;

use crate::{
    graph::{Facts, Graph, ValueId},
    ops,
    typing::Dimension,
    widths::{Width, Widths},
};

/// A value on the trajectory.
#[derive(Clone, Debug, PartialEq)]
pub struct Waypoint {
    /// The value.
    pub value: ValueId,
    /// The axis that holds features; all others but the batch are positions.
    pub feature: usize,
}

/// What a graph output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Unnormalised class scores.
    Logits,
    /// Class probabilities.
    Probabilities,
    /// Anything else.
    Embedding,
}

/// The waypoints of all dimensions, in the order of the network.
pub fn waypoints(graph: &Graph, widths: &Widths, dimensions: &[Dimension]) -> Vec<Waypoint> {
    let dynamic = graph.dynamic();
    let mut found = BTreeMap::new();
    for contraction in dimensions.iter().flat_map(|d| d.contractions(widths)) {
        let (Some(feature), Some(value)) =
            (contraction.feature, graph.node(contraction.node).outputs.first().copied().flatten())
        else {
            continue;
        };
        let value = after_residual(graph, &dynamic, value);
        let rank = widths.value(value).map_or(0, <[Width]>::len);
        if feature < rank {
            found.insert(value, Waypoint { value, feature });
        }
    }
    found.into_values().collect()
}

/// Follows a value through the additions of a bias and of a residual connection.
fn after_residual(graph: &Graph, dynamic: &[bool], mut value: ValueId) -> ValueId {
    loop {
        let uses = graph.uses(value);
        let [only] = uses.as_slice() else { return value };
        let node = graph.node(only.node);
        let adds = ops::find(&node.proto).is_some_and(|rule| rule.adds());
        let (true, Some(sum)) = (adds, node.outputs.first().copied().flatten()) else { return value };
        value = sum;
        if node.inputs.iter().flatten().filter(|v| dynamic[v.index()]).count() > 1 {
            return value;
        }
    }
}

/// A graph output on the trajectory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The value.
    pub value: ValueId,
    /// What it holds.
    pub head: Head,
    /// The axis that classes (or features) are on; all others but the batch are positions.
    pub classes: usize,
}

/// What each floating-point graph output holds: probabilities after a softmax, logits when it is a matrix or named by the
/// user, else features. Classes are on the last axis, or on axis 1 of maps `[N, C, H, W]`.
pub fn outputs(graph: &Graph, facts: &Facts, logits: &[String]) -> Vec<Output> {
    let observed = graph.outputs().iter().filter_map(|v| Some((*v, facts.get(*v)?)));
    observed
        .filter(|(_, fact)| fact.dtype.is_float() && !fact.shape.is_empty())
        .map(|(value, fact)| {
            let rank = fact.shape.len();
            let classes = if rank >= 4 { 1 } else { rank - 1 };
            let rule = graph.producer(value).and_then(|id| ops::find(&graph.node(id).proto));
            let named = logits.contains(&graph.value(value).name);
            let head = match fact.shape[classes] > 1 {
                true if named => Head::Logits,
                true if rule.is_some_and(|r| r.normalises()) => Head::Probabilities,
                true if rank == 2 => Head::Logits,
                _ => Head::Embedding,
            };
            Output { value, head, classes }
        })
        .collect()
}
