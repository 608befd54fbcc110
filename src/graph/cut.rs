//! Parts of a model as models of their own: what lies downstream of some nodes, or between some values and others.

use std::collections::{BTreeMap, BTreeSet};

use super::{Graph, NodeId, ValueId, ValueOrigin};
use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};

/// A suffix of a model.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The suffix: its inputs are graph inputs of the whole that it still reads, then the boundary.
    pub model: ModelProto,
    /// Values of the whole model, computed before the cut, that the suffix reads.
    pub boundary: Vec<ValueId>,
}

/// Cuts out what lies downstream of `start` and is needed for `outputs`.
///
/// `describe` gives a boundary value its type and rank. Values for which `recompute` holds are not fed across the cut: the
/// suffix computes them itself. These are integers that hold sizes, which must follow the batch that the suffix is run with, and
/// constants.
pub fn cut(
    model: &ModelProto,
    graph: &Graph,
    start: &BTreeSet<NodeId>,
    outputs: &[ValueId],
    describe: impl Fn(ValueId) -> ValueInfoProto,
    recompute: impl Fn(ValueId) -> bool,
) -> Cut {
    let mut nodes = upstream(graph, outputs, &graph.descendants(start.iter().copied()));
    let mut boundary = BTreeSet::new();
    let mut kept = BTreeSet::new();
    let mut pending: Vec<NodeId> = nodes.iter().copied().collect();
    while let Some(id) = pending.pop() {
        let node = graph.node(id);
        for &value in node.inputs.iter().flatten().chain(&node.captures) {
            match &graph.value(value).origin {
                ValueOrigin::Node(producer) if nodes.contains(producer) => {}
                ValueOrigin::Node(producer) if recompute(value) => {
                    nodes.insert(*producer);
                    pending.push(*producer);
                }
                ValueOrigin::Node(_) => {
                    boundary.insert(value);
                }
                _ => {
                    kept.insert(value);
                }
            }
        }
    }
    let names: BTreeSet<&str> = kept.iter().map(|v| graph.value(*v).name.as_str()).collect();
    let model = extract(model, graph, &nodes, &names, &boundary, outputs, describe);
    Cut { model, boundary: boundary.into_iter().collect() }
}

/// The subgraph that computes `outputs` and `reads` from `known` values and graph inputs. `reads` are values that nodes will read
/// which the caller appends; they need not be outputs.
///
/// `describe` gives a known value its type and rank. No output may itself be known.
pub fn between(
    model: &ModelProto,
    graph: &Graph,
    known: &BTreeSet<ValueId>,
    (outputs, reads): (&[ValueId], &[ValueId]),
    describe: impl Fn(ValueId) -> ValueInfoProto,
) -> Cut {
    let (mut nodes, mut boundary, mut kept) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut pending: Vec<NodeId> = outputs.iter().filter_map(|v| graph.producer(*v)).collect();
    let mut read = |value: ValueId, pending: &mut Vec<NodeId>| match graph.producer(value) {
        Some(_) if known.contains(&value) => {
            boundary.insert(value);
        }
        Some(producer) => pending.push(producer),
        None => {
            kept.insert(value);
        }
    };
    reads.iter().for_each(|value| read(*value, &mut pending));
    while let Some(id) = pending.pop() {
        if nodes.insert(id) {
            let node = graph.node(id);
            node.inputs.iter().flatten().chain(&node.captures).for_each(|value| read(*value, &mut pending));
        }
    }
    let names: BTreeSet<&str> = kept.iter().map(|v| graph.value(*v).name.as_str()).collect();
    let model = extract(model, graph, &nodes, &names, &boundary, outputs, describe);
    Cut { model, boundary: boundary.into_iter().collect() }
}

/// The nodes of `within` on a path to one of `outputs`.
fn upstream(graph: &Graph, outputs: &[ValueId], within: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let mut needed = BTreeSet::new();
    let mut stack: Vec<NodeId> = outputs.iter().filter_map(|v| graph.producer(*v)).collect();
    while let Some(id) = stack.pop() {
        if within.contains(&id) && needed.insert(id) {
            let node = graph.node(id);
            stack.extend(
                node.inputs.iter().flatten().chain(&node.captures).filter_map(|v| graph.producer(*v)),
            );
        }
    }
    needed
}

fn extract(
    model: &ModelProto,
    graph: &Graph,
    nodes: &BTreeSet<NodeId>,
    names: &BTreeSet<&str>,
    boundary: &BTreeSet<ValueId>,
    outputs: &[ValueId],
    describe: impl Fn(ValueId) -> ValueInfoProto,
) -> ModelProto {
    // All but the graph, which is large, and functions, which loading has inlined.
    let mut cut = ModelProto {
        ir_version: model.ir_version,
        opset_import: model.opset_import.clone(),
        producer_name: model.producer_name.clone(),
        producer_version: model.producer_version.clone(),
        domain: model.domain.clone(),
        model_version: model.model_version,
        ..Default::default()
    };
    let Some(whole) = model.graph.as_ref() else { return cut };
    let mut part = GraphProto { name: whole.name.clone(), ..Default::default() };
    let infos: BTreeMap<&str, &ValueInfoProto> = whole.output.iter().map(|o| (o.name(), o)).collect();
    // The graph sees through nodes that only name constants, yet the names have to be defined.
    part.node = whole
        .node
        .iter()
        .enumerate()
        .filter(|(i, node)| {
            nodes.contains(&NodeId(*i as u32))
                || graph.named_constant(node).is_some_and(|v| names.contains(graph.value(v).name.as_str()))
        })
        .map(|(_, node)| node.clone())
        .collect();
    part.initializer = whole.initializer.iter().filter(|t| names.contains(t.name())).cloned().collect();
    part.input = whole.input.iter().filter(|i| names.contains(i.name())).cloned().collect();
    part.input.extend(boundary.iter().map(|v| describe(*v)));
    part.output = outputs
        .iter()
        .map(|v| graph.value(*v).name.as_str())
        .map(|name| match infos.get(name) {
            Some(info) => (*info).clone(),
            None => ValueInfoProto { name: Some(name.to_owned()), ..Default::default() },
        })
        .collect();
    cut.graph = Some(part);
    cut
}
