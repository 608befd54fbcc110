//! What every later stage relies on, checked once.

use super::{
    OnnxError, label, opset,
    proto::{GraphProto, ModelProto, NodeProto},
    tensor, visit,
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    ops::RangeInclusive,
};

/// Versions of the file format: from the first that imports operator sets to the newest of the schema here.
const IR_VERSIONS: RangeInclusive<i64> = 3..=14;
/// Versions of the ai.onnx operator set.
const OPSETS: RangeInclusive<i64> = 7..=26;

/// Checks a model without functions, and sorts the nodes of each graph so that they follow what they depend on. Nodes
/// that are sorted already stay as they are.
///
/// Afterwards the format and operator versions are known ones; the data of each tensor fills its shape; initializers
/// have unique names; each value is produced once per graph; and every input of a node is empty or names a value of its
/// graph or of one around it.
///
/// # Errors
/// When one of these cannot be had.
pub fn validate(model: &mut ModelProto) -> Result<(), OnnxError> {
    versions(model)?;
    visit::tensors(model, &mut |t| tensor::check(t))?;
    let graph = model.graph.as_mut().ok_or(OnnxError::NoGraph)?;
    sort(graph)?;
    check(graph, None)
}

/// Checks that the format and the standard operators are of a version known here.
pub(super) fn versions(model: &ModelProto) -> Result<(), OnnxError> {
    if !IR_VERSIONS.contains(&model.ir_version()) {
        let (oldest, newest) = IR_VERSIONS.into_inner();
        return Err(OnnxError::IrVersion { found: model.ir_version(), oldest, newest });
    }
    match opset(model, "") {
        0 => Err(OnnxError::NoOpset),
        found if !OPSETS.contains(&found) => {
            let (oldest, newest) = OPSETS.into_inner();
            Err(OnnxError::Opset { found, oldest, newest })
        }
        _ => Ok(()),
    }
}

/// Sorts the nodes of `graph`, and of the graphs inside it.
fn sort(graph: &mut GraphProto) -> Result<(), OnnxError> {
    graph.node.iter_mut().flat_map(visit::subgraphs_mut).try_for_each(sort)?;
    let order = order(graph)?;
    if !order.is_sorted() {
        let mut nodes: Vec<_> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
        graph.node = order.into_iter().filter_map(|i| nodes[i].take()).collect();
    }
    Ok(())
}

/// The topological order of the nodes that keeps closest to the given one: of the nodes that can come next, always the
/// first (Kahn's algorithm over a heap).
fn order(graph: &GraphProto) -> Result<Vec<usize>, OnnxError> {
    let mut producer = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if producer.insert(output.as_str(), i).is_some() {
                return Err(redefined(graph, output));
            }
        }
    }
    let mut waits_for = vec![0usize; graph.node.len()];
    let mut consumers = vec![Vec::new(); graph.node.len()];
    for (i, node) in graph.node.iter().enumerate() {
        for value in reads(node) {
            if let Some(&p) = producer.get(value) {
                waits_for[i] += 1;
                consumers[p].push(i);
            }
        }
    }
    let free = (0..graph.node.len()).filter(|&i| waits_for[i] == 0);
    let mut ready: BinaryHeap<_> = free.map(Reverse).collect();
    let mut order = Vec::with_capacity(graph.node.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &consumer in &consumers[i] {
            waits_for[consumer] -= 1;
            if waits_for[consumer] == 0 {
                ready.push(Reverse(consumer));
            }
        }
    }
    match graph.node.iter().zip(&waits_for).find(|(_, n)| **n > 0) {
        Some((node, _)) => Err(OnnxError::Cycle { node: label(node) }),
        None => Ok(order),
    }
}

/// The values that `node` needs from its graph or those around it: its inputs, and what its subgraphs capture.
fn reads(node: &NodeProto) -> HashSet<&str> {
    let mut names: HashSet<_> = node.input.iter().map(String::as_str).filter(|i| !i.is_empty()).collect();
    for graph in visit::subgraphs(node) {
        let outputs = graph.output.iter().map(|o| o.name());
        let mut used: HashSet<_> = graph.node.iter().flat_map(reads).chain(outputs).collect();
        for defined in visit::definitions(graph) {
            used.remove(defined);
        }
        names.extend(used);
    }
    names
}

/// The values that can be read at some point of a graph.
struct Scope<'a> {
    names: HashSet<&'a str>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.outer.is_some_and(|outer| outer.has(name))
    }
}

/// Checks names and references in `graph`, whose nodes are sorted, and in the graphs inside it.
fn check(graph: &GraphProto, outer: Option<&Scope<'_>>) -> Result<(), OnnxError> {
    let named = |name: &str, kind| match name {
        "" => Err(OnnxError::Unnamed { graph: graph.name().into(), kind }),
        _ => Ok(()),
    };
    let mut scope = Scope { names: HashSet::new(), outer };
    for input in &graph.input {
        named(input.name(), "input")?;
        if !scope.names.insert(input.name()) {
            return Err(redefined(graph, input.name()));
        }
    }
    // An initializer may share its name with an input, whose default value it then is.
    let mut initializers = HashSet::new();
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    for tensor in graph.initializer.iter().chain(sparse) {
        named(tensor.name(), "initializer")?;
        if !initializers.insert(tensor.name()) {
            return Err(redefined(graph, tensor.name()));
        }
    }
    scope.names.extend(initializers);
    for node in &graph.node {
        if let Some(value) = node.input.iter().find(|i| !i.is_empty() && !scope.has(i)) {
            return Err(OnnxError::Unresolved { node: label(node), value: value.clone() });
        }
        check_attributes(node)?;
        visit::subgraphs(node).try_for_each(|g| check(g, Some(&scope)))?;
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if !scope.names.insert(output) {
                return Err(redefined(graph, output));
            }
        }
    }
    match graph.output.iter().find(|o| !scope.has(o.name())) {
        Some(output) => Err(OnnxError::NoOutput { graph: graph.name().into(), value: output.name().into() }),
        None => Ok(()),
    }
}

fn check_attributes(node: &NodeProto) -> Result<(), OnnxError> {
    let mut names = HashSet::new();
    for attribute in &node.attribute {
        if !names.insert(attribute.name()) {
            return Err(OnnxError::TwoAttributes { node: label(node), attribute: attribute.name().into() });
        }
        if !attribute.ref_attr_name().is_empty() {
            let attribute = attribute.ref_attr_name().into();
            return Err(OnnxError::AttributeReference { node: label(node), attribute });
        }
    }
    Ok(())
}

fn redefined(graph: &GraphProto, value: &str) -> OnnxError {
    OnnxError::Redefined { graph: graph.name().into(), value: value.into() }
}
