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
    /// Unnormalised class scores on the last axis.
    Logits,
    /// Class probabilities on the last axis.
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

/// What each floating-point graph output holds: probabilities after a softmax, logits when it is a matrix, else features.
pub fn heads(graph: &Graph, facts: &Facts) -> Vec<(ValueId, Head)> {
    let outputs = graph.outputs().iter().filter_map(|v| Some((*v, facts.get(*v)?)));
    outputs
        .filter(|(_, fact)| fact.dtype.is_float())
        .map(|(value, fact)| {
            let rule = graph.producer(value).and_then(|id| ops::find(&graph.node(id).proto));
            let head = match fact.shape.last() {
                Some(classes) if *classes > 1 && rule.is_some_and(|r| r.normalises()) => Head::Probabilities,
                Some(classes) if *classes > 1 && fact.shape.len() == 2 => Head::Logits,
                _ => Head::Embedding,
            };
            (value, head)
        })
        .collect()
}
