//! Constant folding: what depends on no input is computed once, so that weights which the file computes are weights.
//!
//! Exporters write transposed, reshaped, standardised or cast weights, and shapes computed from numbers. Folding is left to
//! the runtime, for which these nodes are a model without inputs. Weights stored in another element type stay as they
//! are: the file would grow.

use std::collections::BTreeSet;

use crate::{
    graph::{Graph, NodeId, Origin, ValueId},
    onnx::{
        proto::{ModelProto, ValueInfoProto},
        tensor::from_tensor,
    },
    ops,
    runtime::{Engine, RuntimeError},
    tensor::Tensor,
};

/// Bytes that a folded value may add to the file, over the constants that it makes superfluous.
const GROWTH: usize = 1 << 16;

/// The model with its constant parts computed.
///
/// # Errors
/// When the runtime does not run these parts.
pub fn fold(engine: &dyn Engine, model: &ModelProto) -> Result<ModelProto, RuntimeError> {
    let graph = Graph::new(model);
    let nodes = foldable(&graph);
    let frontier = frontier(&graph, &nodes);
    if frontier.is_empty() {
        return Ok(model.clone());
    }
    let tensors = engine.load(&part(model, &graph, &nodes, &frontier))?.run(&[])?;
    let results: Vec<(ValueId, Tensor)> = frontier.into_iter().zip(tensors).collect();
    Ok(replace(model, &graph, &nodes, &results))
}

/// Nodes that depend on no input, whose operators are known (so neither random nor with a body), and that do more than to
/// change an element type.
fn foldable(graph: &Graph) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for (id, node) in graph.nodes() {
        let computes = node.outputs.iter().flatten().any(|v| graph.producer(*v) == Some(id));
        let known = ops::find(&node.proto).is_some_and(|rule| !rule.recasts());
        let constant = node.inputs.iter().flatten().all(|v| match graph.value(*v).origin {
            Origin::Constant(_) => true,
            Origin::Node(producer) => nodes.contains(&producer),
            Origin::Input | Origin::Unknown => false,
        });
        if computes && known && constant && node.captures.is_empty() {
            nodes.insert(id);
        }
    }
    nodes
}

/// Values that these nodes compute for others.
fn frontier(graph: &Graph, nodes: &BTreeSet<NodeId>) -> Vec<ValueId> {
    let others = graph.nodes().filter(|(id, _)| !nodes.contains(id));
    let read: BTreeSet<ValueId> =
        others.flat_map(|(_, node)| node.inputs.iter().flatten().chain(&node.captures)).copied().collect();
    let computed = nodes.iter().flat_map(|id| graph.node(*id).outputs.iter().flatten());
    // A graph output is computed by a node, as runtimes expect.
    computed.copied().filter(|v| read.contains(v) && !graph.outputs().contains(v)).collect()
}

/// The nodes as a model without inputs.
fn part(model: &ModelProto, graph: &Graph, nodes: &BTreeSet<NodeId>, outputs: &[ValueId]) -> ModelProto {
    let mut part = model.clone();
    let Some(inner) = part.graph.as_mut() else { return part };
    let read: BTreeSet<ValueId> =
        nodes.iter().flat_map(|id| graph.node(*id).inputs.iter().flatten()).copied().collect();
    let mut position = 0u32;
    inner.node.retain(|node| {
        let id = NodeId(position);
        position += 1;
        nodes.contains(&id) || graph.named_constant(node).is_some_and(|v| read.contains(&v))
    });
    inner.initializer.retain(|t| graph.find(t.name()).is_some_and(|v| read.contains(&v)));
    inner.sparse_initializer.clear();
    inner.input.clear();
    inner.value_info.clear();
    let named = |v: &ValueId| ValueInfoProto {
        name: Some(graph.value(*v).name.clone()),
        ..ValueInfoProto::default()
    };
    inner.output = outputs.iter().map(named).collect();
    part
}

/// Whether the file does not grow by the value: the constants that it is made of are of no other use, or it is small.
fn pays(graph: &Graph, nodes: &BTreeSet<NodeId>, value: ValueId, tensor: &Tensor) -> bool {
    let mut made_of = BTreeSet::new();
    let mut pending: Vec<ValueId> = vec![value];
    while let Some(value) = pending.pop() {
        if made_of.insert(value)
            && let Some(producer) = graph.producer(value)
        {
            pending.extend(graph.node(producer).inputs.iter().flatten());
        }
    }
    let freed: usize = made_of
        .into_iter()
        .filter(|v| graph.uses(*v).iter().all(|at| nodes.contains(&at.node)))
        .filter_map(|v| graph.constant(v))
        .map(crate::onnx::tensor::bytes)
        .sum();
    tensor.len() * tensor.dtype().size() <= freed + GROWTH
}

/// The model with initializers in place of the nodes that nothing needs any more.
fn replace(
    model: &ModelProto,
    graph: &Graph,
    nodes: &BTreeSet<NodeId>,
    results: &[(ValueId, Tensor)],
) -> ModelProto {
    let read: BTreeSet<ValueId> =
        results.iter().map(|(v, _)| *v).chain(graph.outputs().iter().copied()).collect();
    let pays = results.iter().filter(|(v, tensor)| pays(graph, nodes, *v, tensor));
    let mut folded: BTreeSet<ValueId> = pays.map(|(v, _)| *v).collect();
    // A node stays when one of its values is read and not folded; then it computes them all.
    let mut kept = BTreeSet::new();
    for &id in nodes.iter().rev() {
        let values = || graph.node(id).outputs.iter().flatten();
        let needed = |v: &ValueId| {
            let by_kept = || graph.uses(*v).iter().any(|at| kept.contains(&at.node));
            !folded.contains(v) && (read.contains(v) || by_kept())
        };
        if values().any(needed) {
            kept.insert(id);
            values().for_each(|v| _ = folded.remove(v));
        }
    }
    let mut model = model.clone();
    // Since version 4 of the format initializers need not be inputs.
    model.ir_version = Some(model.ir_version().max(4));
    let Some(inner) = model.graph.as_mut() else { return model };
    let mut position = 0u32;
    inner.node.retain(|_| {
        let id = NodeId(position);
        position += 1;
        !nodes.contains(&id) || kept.contains(&id)
    });
    let constants = results.iter().filter(|(v, _)| folded.contains(v));
    inner.initializer.extend(constants.map(|(v, tensor)| from_tensor(&graph.value(*v).name, tensor)));
    model
}
