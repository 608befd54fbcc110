//! Walks over everything a graph contains, subgraphs included.

use super::{
    OnnxError,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto},
};

/// The graphs that the attributes of `node` hold: branches and loop bodies.
pub(super) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

/// As [`subgraphs`], mutable.
pub(super) fn subgraphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs))
}

/// The initializers of `graph`; the values of a sparse one carry its name.
pub(super) fn initializers(graph: &GraphProto) -> impl Iterator<Item = &TensorProto> {
    graph.initializer.iter().chain(graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()))
}

/// The values that `graph` itself defines.
pub(super) fn definitions(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|i| i.name());
    let outputs = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    inputs.chain(initializers(graph).map(|t| t.name())).chain(outputs)
}

/// Calls `visit` with each tensor of the model, wherever it is, until one fails.
pub(super) fn tensors(
    model: &mut ModelProto,
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    let training = model.training_info.iter_mut();
    let training = training.flat_map(|t| t.initialization.iter_mut().chain(&mut t.algorithm));
    for graph in model.graph.iter_mut().chain(training) {
        graph_tensors(graph, visit)?;
    }
    for function in &mut model.functions {
        function.attribute_proto.iter_mut().try_for_each(|a| attribute_tensors(a, visit))?;
        node_tensors(&mut function.node, visit)?;
    }
    Ok(())
}

fn graph_tensors(
    graph: &mut GraphProto,
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    sparse_tensors(&mut graph.sparse_initializer, visit)?;
    node_tensors(&mut graph.node, visit)
}

fn node_tensors(
    nodes: &mut [NodeProto],
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    nodes.iter_mut().flat_map(|n| &mut n.attribute).try_for_each(|a| attribute_tensors(a, visit))
}

fn attribute_tensors(
    attribute: &mut AttributeProto,
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
    sparse_tensors(attribute.sparse_tensor.as_mut_slice(), visit)?;
    sparse_tensors(&mut attribute.sparse_tensors, visit)?;
    attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|g| graph_tensors(g, visit))
}

fn sparse_tensors(
    tensors: &mut [SparseTensorProto],
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), OnnxError>,
) -> Result<(), OnnxError> {
    tensors.iter_mut().flat_map(|s| s.values.iter_mut().chain(&mut s.indices)).try_for_each(visit)
}
