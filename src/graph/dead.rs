//! Dead weights: nodes from whose results no output can be reached, and constants that nothing reads.

use std::collections::{HashMap, HashSet};

use super::captured_names;
use crate::onnx::{
    self,
    proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto, tensor_shape_proto, type_proto},
};

/// The first version of the format in which initializers need not be inputs. Those that are have a default value from then
/// on, which callers may override.
const DEFAULTS: i64 = 4;

/// Drops what no output of the model needs: nodes, initializers, and those of subgraphs.
///
/// The default value of an input stays, as it is part of what callers see.
pub fn drop_dead(model: &mut ModelProto) {
    let defaults = model.ir_version() >= DEFAULTS;
    model.graph.iter_mut().for_each(|graph| drop_from(graph, defaults));
}

/// Cleans an edited model up: drops dead nodes and weights, and gives inputs that list initializers, as old files do, the shapes
/// of those.
pub fn tidy(model: &mut ModelProto) {
    drop_dead(model);
    model.graph.iter_mut().for_each(restate_inputs);
    let unlisted = |graph: &GraphProto| {
        let listed: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
        graph.initializer.iter().any(|tensor| !listed.contains(tensor.name()))
    };
    if model.graph.as_ref().is_some_and(unlisted) {
        onnx::unlist_initializers(model);
    }
}

fn drop_from(graph: &mut GraphProto, defaults: bool) {
    let mut read: HashSet<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let annotations = graph.quantization_annotation.iter().flat_map(|a| &a.quant_parameter_tensor_names);
    read.extend(annotations.map(|entry| entry.value().to_owned()));
    let mut live: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|name| !name.is_empty() && read.contains(name)) {
            let bodies = node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs));
            bodies.for_each(|body| drop_from(body, true));
            read.extend(node.input.iter().cloned());
            read.extend(captured_names(&node));
            live.push(node);
        }
    }
    live.reverse();
    graph.node = live;
    let listed: HashSet<String> = graph.input.iter().map(|input| input.name().to_owned()).collect();
    let stays = |name: &str| read.contains(name) || (defaults && listed.contains(name));
    let dead = graph.initializer.iter().map(|tensor| tensor.name().to_owned());
    let dead: HashSet<String> = dead.filter(|name| !stays(name)).collect();
    graph.initializer.retain(|tensor| !dead.contains(tensor.name()));
    graph.sparse_initializer.retain(|tensor| tensor.values.as_ref().is_none_or(|v| stays(v.name())));
    graph.input.retain(|input| !dead.contains(input.name()));
}

fn restate_inputs(graph: &mut GraphProto) {
    let dims: HashMap<&str, &[i64]> =
        graph.initializer.iter().map(|tensor| (tensor.name(), tensor.dims.as_slice())).collect();
    for input in &mut graph.input {
        if let Some(dims) = dims.get(input.name()) {
            restate_shape(input, dims);
        }
    }
}

/// Replaces fixed extents of the shape by `dims`; symbolic ones stay.
fn restate_shape(info: &mut ValueInfoProto, dims: &[i64]) {
    use tensor_shape_proto::dimension::Value;
    let value = info.r#type.as_mut().and_then(|t| t.value.as_mut());
    let Some(type_proto::Value::TensorType(tensor)) = value else { return };
    let Some(shape) = tensor.shape.as_mut() else { return };
    for (dim, size) in shape.dim.iter_mut().zip(dims) {
        if matches!(dim.value, Some(Value::DimValue(old)) if old != *size) {
            dim.value = Some(Value::DimValue(*size));
        }
    }
}
