//! Reverse-mode differentiation as a graph-to-graph pass: given cotangents of some values, appends the nodes that compute
//! the cotangents of operands upstream. The backward pass is ONNX like the forward one, and runs wherever it runs.
//!
//! Only activations are differentiated. How each operator passes cotangents on is its own rule: [`Operator::gradient`].
//!
//! [`Operator::gradient`]: crate::ops::Operator::gradient

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{Expr, Facts, Graph, NodeId, Tail, Use, ValueId},
    ops::{NoGradient, NodeGradient},
};

/// What a backward pass computes.
pub struct Backward<'t> {
    /// The cotangents of the wanted operands. Each is the derivative by that use of the value, not by the value.
    pub operands: BTreeMap<Use, Expr<'t>>,
    /// Where cotangents stopped.
    pub stops: Vec<Stop>,
}

/// A node that passes no cotangent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The node's name, or that of its first result.
    pub node: String,
    /// Why.
    pub reason: NoGradient,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.node, self.reason)
    }
}

/// Appends to `tail` the backward pass from `seeds`, values and their cotangents, to the operands that are `wanted`.
pub fn reverse<'t>(
    graph: &'t Graph,
    facts: &'t Facts,
    tail: &'t Tail,
    seeds: &[(ValueId, Expr<'t>)],
    wanted: &BTreeSet<Use>,
) -> Backward<'t> {
    let active = graph.descendants(wanted.iter().map(|at| at.node));
    let mut cotangents: BTreeMap<ValueId, Expr<'t>> = BTreeMap::new();
    for (value, seed) in seeds {
        accumulate(&mut cotangents, *value, *seed);
    }
    let mut backward = Backward { operands: BTreeMap::new(), stops: Vec::new() };
    for (id, node) in graph.nodes().rev().filter(|(id, _)| active.contains(id)) {
        let arrived: Vec<_> =
            node.outputs.iter().map(|v| v.and_then(|v| cotangents.get(&v).copied())).collect();
        let is_active = |v: ValueId| graph.producer(v).is_some_and(|n| active.contains(&n));
        let is_number = |v: ValueId| facts.get(v).is_some_and(|f| f.dtype.is_float());
        let inputs = node.inputs.iter().enumerate();
        let needed: Vec<bool> = inputs
            .map(|(slot, v)| {
                v.is_some_and(|v| is_number(v) && (is_active(v) || wanted.contains(&Use { node: id, slot })))
            })
            .collect();
        if arrived.iter().all(Option::is_none) || !needed.contains(&true) {
            continue;
        }
        let given = match pull_back(graph, facts, tail, id, arrived, needed.clone()) {
            Ok(given) => given,
            Err(reason) => {
                backward.stops.push(Stop { node: node.label().to_owned(), reason });
                continue;
            }
        };
        for (slot, cotangent) in given.into_iter().filter(|(slot, _)| needed.get(*slot) == Some(&true)) {
            let at = Use { node: id, slot };
            if wanted.contains(&at) {
                backward.operands.insert(at, cotangent);
            }
            if let Some(value) = node.inputs[slot].filter(|v| is_active(*v)) {
                accumulate(&mut cotangents, value, cotangent);
            }
        }
    }
    backward
}

/// Cotangents add up where a value is used more than once.
fn accumulate<'t>(cotangents: &mut BTreeMap<ValueId, Expr<'t>>, value: ValueId, cotangent: Expr<'t>) {
    cotangents.entry(value).and_modify(|sum| *sum = *sum + cotangent).or_insert(cotangent);
}

fn pull_back<'t>(
    graph: &'t Graph,
    facts: &'t Facts,
    tail: &'t Tail,
    node: NodeId,
    arrived: Vec<Option<Expr<'t>>>,
    needed: Vec<bool>,
) -> Result<Vec<(usize, Expr<'t>)>, NoGradient> {
    NodeGradient::new(graph, facts, tail, node, arrived, needed).run()
}
