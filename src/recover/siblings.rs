//! Layers that read the same, such as query, key and value of an attention: one run measures them, and what they read is
//! multiplied out once.

use std::collections::BTreeSet;

use super::{layer::Layer, layerwise::Found};
use crate::{
    graph::{Graph, NodeId, ValueId},
    ops::Linear,
};

/// For each of the layers, the numbers of the later ones that can be measured together with it: they read the same entries of the same
/// positions, and nothing that they are compared with depends on a layer that is corrected before their turn.
pub(super) fn siblings(found: &[Found], graph: &Graph) -> Vec<Vec<usize>> {
    let layers: Vec<Option<(&Layer, Read<'_>)>> = found
        .iter()
        .map(|layer| layer.as_ref().ok().and_then(|layer| Some((layer, read(layer, graph)?))))
        .collect();
    let later = |(first, layer): (usize, &Option<(&Layer, Read<'_>)>)| {
        let Some((_, read)) = layer else { return Vec::new() };
        let others = layers.iter().enumerate().skip(first + 1);
        let alike = others.filter_map(|(i, other)| Some((i, other.as_ref().filter(|(_, of)| of == read)?.0)));
        let free = alike.filter(|(i, other)| {
            let before = layers.iter().take(*i).skip(first).flatten().map(|(_, read)| read.node);
            !depends_on_any(graph, other, &before.collect())
        });
        free.map(|(i, _)| i).collect()
    };
    layers.iter().enumerate().map(later).collect()
}

/// Which node a layer is, and what it reads.
struct Read<'l> {
    node: NodeId,
    value: ValueId,
    axis: usize,
    entries: usize,
    linear: &'l Linear,
}

impl PartialEq for Read<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.value, self.axis, self.entries) == (other.value, other.axis, other.entries)
            && (self.linear.groups, &self.linear.window) == (other.linear.groups, &other.linear.window)
    }
}

fn read<'l>(layer: &'l Layer, graph: &Graph) -> Option<Read<'l>> {
    let node = graph.producer(graph.find(&layer.result)?)?;
    let value = layer.read_value(graph)?;
    Some(Read { node, value, axis: layer.operand.1, entries: layer.entries, linear: &layer.linear })
}

/// Whether what the layer is compared with depends on one of these nodes.
fn depends_on_any(graph: &Graph, layer: &Layer, nodes: &BTreeSet<NodeId>) -> bool {
    let (Some(start), Some(first)) = (graph.find(&layer.waypoint.0), nodes.first()) else { return true };
    let mut stack: Vec<ValueId> = vec![start];
    let mut seen = BTreeSet::new();
    while let Some(producer) = stack.pop().map(|value| graph.producer(value)) {
        // Nodes are in topological order: before the first there is nothing to find.
        let Some(id) = producer.filter(|id| id >= first && seen.insert(*id)) else { continue };
        if nodes.contains(&id) {
            return true;
        }
        let node = graph.node(id);
        stack.extend(node.inputs.iter().flatten().chain(&node.captures));
    }
    false
}
