//! What every later stage relies on, checked once.

use super::{
    OnnxError, endless, label, opset,
    proto::{GraphProto, ModelProto, NodeProto},
    tensor, visit,
};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    ops::RangeInclusive,
};

/// Versions of the file format: from the first that imports operator sets to the newest of the schema here.
const IR_VERSIONS: RangeInclusive<i64> = 3..=14;
/// Versions of the ai.onnx operator set.
const OPSETS: RangeInclusive<i64> = 7..=28;

/// Checks a model without functions, and sorts the nodes of each graph so that they follow what they depend on. Nodes
/// that are sorted already stay as they are.
///
/// Afterwards the format and operator versions are known ones; the data of each tensor fills its shape; initializers
/// have unique names; each value is produced once per graph; every input of a node is empty or names a value of its
/// graph or of one around it; and no Loop is endless by what the file says.
///
/// # Errors
/// When one of these cannot be had.
pub fn validate(model: &mut ModelProto) -> Result<(), OnnxError> {
    versions(model)?;
    visit::tensors(model, &mut |t| tensor::check(t))?;
    let graph = model.graph.as_mut().ok_or(OnnxError::NoGraph)?;
    sort(graph)?;
    check_references(graph, None)?;
    endless::check(graph)
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
    check_names(graph)?;
    let order = order(graph)?;
    if !order.is_sorted() {
        let mut nodes: Vec<_> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
        graph.node = order.into_iter().filter_map(|i| nodes[i].take()).collect();
    }
    Ok(())
}

/// Checks that `graph` itself names all its inputs and initializers, and defines each value once.
fn check_names(graph: &GraphProto) -> Result<(), OnnxError> {
    let unique = |names: &mut HashSet<String>, name: &str, kind| match name {
        "" => Err(OnnxError::Unnamed { graph: graph.name().into(), kind }),
        _ if !names.insert(name.to_owned()) => {
            Err(OnnxError::Redefined { graph: graph.name().into(), value: name.into() })
        }
        _ => Ok(()),
    };
    let (mut names, mut initializers) = (HashSet::new(), HashSet::new());
    graph.input.iter().try_for_each(|input| unique(&mut names, input.name(), "input"))?;
    let mut tensors = visit::initializers(graph);
    tensors.try_for_each(|tensor| unique(&mut initializers, tensor.name(), "initializer"))?;
    // An initializer may share its name with an input, whose default value it then is.
    names.extend(initializers);
    let mut outputs = graph.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty());
    outputs.try_for_each(|output| unique(&mut names, output, "output"))
}

/// The topological order of the nodes that keeps closest to the given one: of the nodes that can come next, always the
/// first (Kahn's algorithm over a heap).
fn order(graph: &GraphProto) -> Result<Vec<usize>, OnnxError> {
    let mut producer = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            producer.insert(output.as_str(), i);
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
fn reads(node: &NodeProto) -> BTreeSet<&str> {
    let mut names: BTreeSet<_> = node.input.iter().map(String::as_str).filter(|i| !i.is_empty()).collect();
    for graph in visit::subgraphs(node) {
        let outputs = graph.output.iter().map(|o| o.name());
        let mut used: BTreeSet<_> = graph.node.iter().flat_map(reads).chain(outputs).collect();
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

/// Checks that every input of a node in `graph`, whose nodes are sorted, and every result names a value in scope.
fn check_references(graph: &GraphProto, outer: Option<&Scope<'_>>) -> Result<(), OnnxError> {
    graph.sparse_initializer.iter().try_for_each(tensor::check_sparse)?;
    let inputs = graph.input.iter().map(|i| i.name());
    let names = visit::initializers(graph).map(|t| t.name()).chain(inputs).collect();
    let mut scope = Scope { names, outer };
    for node in &graph.node {
        if let Some(value) = node.input.iter().find(|i| !i.is_empty() && !scope.has(i)) {
            return Err(OnnxError::Unresolved { node: label(node), value: value.clone() });
        }
        check_attributes(node)?;
        visit::subgraphs(node).try_for_each(|g| check_references(g, Some(&scope)))?;
        scope.names.extend(node.output.iter().map(String::as_str).filter(|o| !o.is_empty()));
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
        attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors).try_for_each(tensor::check_sparse)?;
    }
    Ok(())
}
