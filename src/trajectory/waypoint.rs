//! Waypoints: the sums that prunable dimensions end in, after bias, scale and residual connection.

use std::collections::BTreeMap;

use ndarray::ArrayD;
use serde::{Deserialize, Serialize};

use crate::{
    graph::{Facts, Graph, NodeId, Use, ValueId},
    named::named,
    ops::{self, IndexFlow, Linear, NodeCx},
    typing::Dimension,
    widths::Widths,
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
pub enum OutputKind {
    /// Unnormalised class scores.
    Logits,
    /// Class probabilities.
    Probabilities,
    /// Anything else.
    Embedding,
}

named!(
    OutputKind,
    "a kind of output",
    [
        (Logits, "logits", "Unnormalised class scores."),
        (Probabilities, "probabilities", "Class probabilities."),
        (Embedding, "embedding", "Features, or anything else."),
    ]
);

/// What an output holds, as the caller says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaidOutput {
    /// The output.
    pub name: String,
    /// What it holds.
    pub kind: OutputKind,
}

impl std::fmt::Display for SaidOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.kind, self.name)
    }
}

/// The waypoints of all dimensions, in the order of the network.
pub fn waypoints(graph: &Graph, facts: &Facts, widths: &Widths, dimensions: &[Dimension]) -> Vec<Waypoint> {
    let dynamic = graph.dynamic();
    let mut found = BTreeMap::new();
    for contraction in dimensions.iter().flat_map(|d| d.contractions(widths)) {
        let (Some(feature), Some(value)) =
            (contraction.feature, graph.node(contraction.node).outputs.first().copied().flatten())
        else {
            continue;
        };
        if let Some(path) = after_residual(graph, facts, widths, &dynamic, Waypoint { value, feature }) {
            found.insert(path.end.value, path.end);
        }
    }
    found.into_values().collect()
}

/// The way from a sum to its waypoint: every step is affine, and does not mix features or positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// Where it ends: after the addition of a residual connection, or before anything that is not affine.
    pub end: Waypoint,
    /// Per feature: what a change of the sum is multiplied by until there.
    pub gain: Vec<f64>,
    /// The first constant that is added on the way.
    pub bias: Option<Addend>,
}

/// A constant that is added on a [`Path`].
#[derive(Clone, Debug, PartialEq)]
pub struct Addend {
    /// The operand.
    pub at: Use,
    /// Axes that follow the features where it is added.
    pub trailing: usize,
    /// Per feature: the gain until there.
    pub gain: Vec<f64>,
}

/// Follows a sum through the addition of a bias, a scale per feature and the like, up to and including a residual
/// connection. `None` where the sum was not observed. `dynamic` is [`Graph::dynamic`].
pub fn after_residual(
    graph: &Graph,
    facts: &Facts,
    widths: &Widths,
    dynamic: &[bool],
    start: Waypoint,
) -> Option<Path> {
    let features = *facts.get(start.value)?.shape.get(start.feature)?;
    let mut path = Path { end: start, gain: vec![1.0; features], bias: None };
    while graph.is_read_once(path.end.value)
        && let [at] = graph.uses(path.end.value)
        && let Some((end, gain)) = step(graph, facts, widths, &path.end, *at)
    {
        let node = graph.node(at.node);
        let adds = ops::find(&node.proto).is_some_and(|rule| rule.is_sum());
        let is_constant = |v: &Option<ValueId>| v.is_some_and(|v| graph.constant(v).is_some());
        if let Some(slot) = node.inputs.iter().position(is_constant).filter(|_| adds && path.bias.is_none()) {
            let rank = facts.get(path.end.value)?.shape.len();
            let trailing = rank - 1 - path.end.feature;
            let at = Use { node: at.node, slot };
            path.bias = Some(Addend { at, trailing, gain: path.gain.clone() });
        }
        path.gain.iter_mut().zip(gain).for_each(|(total, gain)| *total *= gain);
        path.end = end;
        if node.inputs.iter().flatten().filter(|v| dynamic[v.index()]).count() > 1 {
            break;
        }
    }
    Some(path)
}

/// One affine step: where the features are afterwards, and the gain of each.
fn step(
    graph: &Graph,
    facts: &Facts,
    widths: &Widths,
    from: &Waypoint,
    at: Use,
) -> Option<(Waypoint, Vec<f64>)> {
    let node = graph.node(at.node);
    let value = node.outputs.first().copied().flatten()?;
    let gain = ops::find(&node.proto)?.gain(&NodeCx::new(graph, facts, at.node), at.slot)?;
    let (before, after) = (widths.value(from.value)?, widths.value(value)?);
    let roots =
        |axes: &[crate::widths::Width]| -> Vec<_> { axes.iter().map(|a| widths.table.root(*a)).collect() };
    let (mut before, mut after) = (roots(before), roots(after));
    let rank = before.len();
    let width = before.remove(from.feature);
    let mut places = (0..after.len()).filter(|axis| after[*axis] == width);
    let (Some(feature), None) = (places.next(), places.next()) else { return None };
    after.remove(feature);
    let features = *facts.get(from.value)?.shape.get(from.feature)?;
    let gain = per_feature(&gain, rank, from.feature, features)?;
    (before == after).then_some((Waypoint { value, feature }, gain))
}

/// What broadcasts against a value of that rank, as one number per feature; `None` where it differs among positions.
fn per_feature(x: &ArrayD<f64>, rank: usize, feature: usize, features: usize) -> Option<Vec<f64>> {
    let missing = rank.checked_sub(x.ndim())?;
    let extent = |axis: usize| if axis < missing { 1 } else { x.shape()[axis - missing] };
    let flat = (0..rank).all(|axis| axis == feature || extent(axis) == 1);
    match extent(feature) {
        1 if flat => x.first().map(|factor| vec![*factor; features]),
        n if flat && n == features => Some(x.iter().copied().collect()),
        _ => None,
    }
}

/// A graph output on the trajectory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The value.
    pub value: ValueId,
    /// What it holds.
    pub kind: OutputKind,
    /// The axis that classes (or features) are on; all others but the batch are positions.
    pub classes: usize,
}

/// Parts of names that outputs of class scores bear.
const CLASSES: &[&str] = &["logit", "score", "class"];

/// Parts of names that outputs of features bear.
const FEATURES: &[&str] = &["embed", "feature", "hidden", "latent", "pool", "repr", "state", "vector"];

/// What each floating-point graph output holds: what is said of it, else probabilities after a softmax, logits where the rule for
/// class scores says so, else features. Classes are on the last axis, or on axis 1 of maps `[N, C, H, W]`.
pub fn outputs(graph: &Graph, facts: &Facts, said: &[SaidOutput]) -> Vec<Output> {
    let observed = graph.outputs().iter().filter_map(|v| Some((*v, facts.get(*v)?)));
    observed
        .filter(|(_, fact)| fact.dtype.is_float() && !fact.shape.is_empty())
        .map(|(value, fact)| {
            let rank = fact.shape.len();
            let classes = if rank >= 4 { 1 } else { rank - 1 };
            let rule = graph.producer(value).and_then(|id| ops::find(&graph.node(id).proto));
            let said = said.iter().rev().find(|said| said.name == graph.value(value).name);
            let kind = match fact.shape[classes] > 1 {
                true if said.is_some() => said.map_or(OutputKind::Embedding, |said| said.kind),
                true if rule.is_some_and(|r| r.is_softmax()) => OutputKind::Probabilities,
                true if rank == 2 && is_of_classes(graph, facts, value) => OutputKind::Logits,
                _ => OutputKind::Embedding,
            };
            Output { value, kind, classes }
        })
        .collect()
}

/// Whether a matrix of numbers looks like class scores: by its name ([`CLASSES`], and none of [`FEATURES`]); as a softmax or
/// a choice of the largest reads it, or a logarithm of a softmax makes it; or as it is a product with constant weights and a
/// bias for each class, as classifiers end in. Projections to a space of features come without a bias, or are normalised.
fn is_of_classes(graph: &Graph, facts: &Facts, value: ValueId) -> bool {
    let name = graph.value(value).name.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| name.contains(word));
    let rule = |id: NodeId| ops::find(&graph.node(id).proto);
    let compared = || {
        let readers = graph.uses(value).iter().filter_map(|at| rule(at.node));
        let maker = graph.producer(value).and_then(rule);
        readers.into_iter().any(|r| r.is_softmax() || r.is_selection())
            || maker.is_some_and(|r| r.is_log_softmax())
    };
    !says(FEATURES) && (says(CLASSES) || compared() || is_biased_product(graph, facts, value))
}

/// Whether a value is, but for moves of its elements, a product with constant weights plus a constant bias.
fn is_biased_product(graph: &Graph, facts: &Facts, mut value: ValueId) -> bool {
    let is_constant = |v: &Option<ValueId>| v.is_some_and(|v| graph.constant(v).is_some());
    while let Some(id) = graph.producer(value) {
        let node = graph.node(id);
        let Some(rule) = ops::find(&node.proto) else { return false };
        if let Some(product) = product(graph, facts, id) {
            return product.bias.is_some_and(|bias| node.inputs.get(bias.slot).is_some_and(is_constant));
        }
        let Some(operand) = node.inputs.iter().find(|v| v.is_some() && !is_constant(v)).copied().flatten()
        else {
            return false;
        };
        if rule.is_sum() && node.inputs.iter().any(is_constant) {
            return graph.producer(operand).is_some_and(|id| product(graph, facts, id).is_some());
        }
        if !matches!(rule.index_flow(&node.proto, 0), Some(IndexFlow::Passed)) {
            return false;
        }
        value = operand;
    }
    false
}

/// The node as a product with a constant operand.
fn product(graph: &Graph, facts: &Facts, id: NodeId) -> Option<Linear> {
    let node = graph.node(id);
    let weights =
        node.inputs.iter().enumerate().filter(|(_, v)| v.is_some_and(|v| graph.constant(v).is_some()));
    let rule = ops::find(&node.proto)?;
    weights.into_iter().find_map(|(weight, _)| rule.linear(&NodeCx::new(graph, facts, id), weight))
}
