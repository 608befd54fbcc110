//! Removing what pruning left without a reader. What had none in the dense model stays: it is not ours to tidy up.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::captured_names,
    onnx::proto::{
        GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto,
    },
};

/// Drops the nodes and initializers of `pruned` that nobody reads any more, and brings the inputs that list initializers,
/// as old files do, up to date.
pub fn drop(dense: &ModelProto, pruned: &mut ModelProto) {
    let (Some(before), Some(graph)) = (&dense.graph, pruned.graph.as_mut()) else { return };
    let read_before = reads(before);
    let read = drop_nodes(before, &read_before, graph);
    graph.initializer.retain(|t| read.contains(t.name()) || !read_before.contains(t.name()));
    restate_inputs(before, graph);
    // Since version 4 of the format initializers need not be inputs; copies that were made for single uses are not.
    let initializers = by_name(before);
    let copied = graph.initializer.iter().any(|t| !initializers.contains_key(t.name()));
    if copied && pruned.ir_version() < 4 {
        pruned.ir_version = Some(4);
    }
}

/// Drops the nodes from which no output of the model can be reached, and the initializers that only they read.
pub fn drop_dead(model: &mut ModelProto) {
    let Some(graph) = model.graph.as_mut() else { return };
    let mut read: BTreeSet<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let mut live: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    let mut before = read.clone();
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        before.extend(node_reads(&node));
        if node.output.iter().any(|name| read.contains(name)) {
            read.extend(node_reads(&node));
            live.push(node);
        }
    }
    live.reverse();
    graph.node = live;
    let is_dead = |name: &str| before.contains(name) && !read.contains(name);
    // Old files list initializers as inputs as well.
    let listed: BTreeSet<String> = graph.initializer.iter().map(|t| t.name().to_owned()).collect();
    graph.initializer.retain(|t| !is_dead(t.name()));
    graph.input.retain(|i| !(listed.contains(i.name()) && is_dead(i.name())));
}

/// Every name that a node reads, or that is a graph output.
fn reads(graph: &GraphProto) -> BTreeSet<String> {
    let outputs = graph.output.iter().map(|o| o.name().to_owned());
    outputs.chain(graph.node.iter().flat_map(node_reads)).collect()
}

fn node_reads(node: &NodeProto) -> impl Iterator<Item = String> + use<> {
    // An empty name stands for an operand, or a result, that is left out.
    node.input.clone().into_iter().filter(|name| !name.is_empty()).chain(captured_names(node))
}

/// Drops nodes from which no output of the graph and no node that was unread before can be reached. Returns all names that
/// are still read.
fn drop_nodes(
    before: &GraphProto,
    read_before: &BTreeSet<String>,
    graph: &mut GraphProto,
) -> BTreeSet<String> {
    let is_read = |read: &BTreeSet<String>, node: &NodeProto| node.output.iter().any(|o| read.contains(o));
    let ends = before.node.iter().filter(|node| !is_read(read_before, node));
    let mut wanted: BTreeSet<String> = ends.flat_map(|node| node.output.iter().cloned()).collect();
    wanted.extend(graph.output.iter().map(|o| o.name().to_owned()));
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if is_read(&wanted, &node) || node.output.is_empty() {
            wanted.extend(node_reads(&node));
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    wanted
}

fn by_name(graph: &GraphProto) -> BTreeMap<&str, &TensorProto> {
    graph.initializer.iter().map(|t| (t.name(), t)).collect()
}

/// Inputs that list initializers go with them, and have their new shapes.
fn restate_inputs(before: &GraphProto, graph: &mut GraphProto) {
    let (old, new) = (by_name(before), graph.initializer.iter().map(|t| (t.name(), t)));
    let new: BTreeMap<&str, &TensorProto> = new.collect();
    graph.input.retain(|i| !old.contains_key(i.name()) || new.contains_key(i.name()));
    for input in &mut graph.input {
        if let (Some(old), Some(new)) = (old.get(input.name()), new.get(input.name()))
            && old.dims != new.dims
        {
            restate_shape(input, &new.dims);
        }
    }
}

fn restate_shape(info: &mut ValueInfoProto, dims: &[i64]) {
    let value = info.r#type.as_mut().and_then(|t| t.value.as_mut());
    let Some(type_proto::Value::TensorType(tensor)) = value else { return };
    let Some(shape) = tensor.shape.as_mut() else { return };
    for (dim, size) in shape.dim.iter_mut().zip(dims) {
        dim.value = Some(tensor_shape_proto::dimension::Value::DimValue(*size));
    }
}
