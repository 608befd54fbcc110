//! Loops that never end by what the file itself says. Those that do not end for what is fed cannot be told from long ones.

use super::{
    OnnxError, label, node_constant,
    proto::{GraphProto, NodeProto, TensorProto},
    tensor, visit,
};
use crate::limits;
use std::collections::HashMap;

/// The values of a graph that are constants of one element, with that element.
struct Constants<'a> {
    /// `None` for what is computed or fed, which hides a constant of the same name outside.
    own: HashMap<&'a str, Option<i64>>,
    /// Those of the graph around it.
    outer: Option<&'a Constants<'a>>,
}

impl<'a> Constants<'a> {
    fn of(graph: &'a GraphProto, outer: Option<&'a Constants<'a>>) -> Self {
        let unknown = visit::definitions(graph).map(|name| (name, None));
        let initializers = graph.initializer.iter().map(|t| (t.name(), number(t)));
        let nodes = graph
            .node
            .iter()
            .filter_map(|node| Some((node.output.first()?.as_str(), number(&node_constant(node)?))));
        Self { own: unknown.chain(initializers).chain(nodes).collect(), outer }
    }

    fn get(&self, name: &str) -> Option<i64> {
        match self.own.get(name) {
            Some(number) => *number,
            None => self.outer?.get(name),
        }
    }
}

/// The only element of a tensor of integers or truth values.
fn number(proto: &TensorProto) -> Option<i64> {
    // Before its data are copied.
    if tensor::elements(proto).ok()? != 1 {
        return None;
    }
    tensor::to_tensor(proto).ok()?.to_ints()?.first().copied()
}

/// Refuses a graph with an endless Loop, in its subgraphs too.
pub(super) fn check(graph: &GraphProto) -> Result<(), OnnxError> {
    check_graph(graph, None)
}

fn check_graph(graph: &GraphProto, outer: Option<&Constants<'_>>) -> Result<(), OnnxError> {
    if graph.node.iter().all(|node| visit::subgraphs(node).next().is_none()) {
        return Ok(());
    }
    let constants = Constants::of(graph, outer);
    for node in &graph.node {
        if is_endless(node, &constants) {
            return Err(OnnxError::EndlessLoop { node: label(node) });
        }
        visit::subgraphs(node).try_for_each(|body| check_graph(body, Some(&constants)))?;
    }
    Ok(())
}

/// Whether `node` is a Loop without a bound whose condition is true at first and ever after. Its inputs are the number of
/// iterations, the first condition and the values carried; the body takes the number of the iteration, the condition and
/// the values, and gives the next condition first.
fn is_endless(node: &NodeProto, constants: &Constants<'_>) -> bool {
    let operand = |slot: usize| node.input.get(slot).map(String::as_str).filter(|name| !name.is_empty());
    let Some(body) = visit::subgraphs(node).next().filter(|_| node.op_type() == "Loop") else { return false };
    let bounded =
        operand(0).is_some_and(|trips| constants.get(trips).is_none_or(|n| n <= limits::ITERATIONS));
    let starts = operand(1).is_none_or(|condition| constants.get(condition).is_some_and(|c| c != 0));
    !bounded && starts && stays_true(body, constants)
}

fn stays_true(body: &GraphProto, outer: &Constants<'_>) -> bool {
    let Some(next) = body.output.first().map(|output| output.name()) else { return false };
    let carried = body.input.get(1).map_or("", |input| input.name());
    let copied = body.node.iter().any(|node| {
        let copies = node.op_type() == "Identity" && node.output.iter().any(|output| output == next);
        copies && node.input.first().is_some_and(|input| input == carried)
    });
    let constant = Constants::of(body, Some(outer)).get(next);
    next == carried || copied || constant.is_some_and(|c| c != 0)
}
