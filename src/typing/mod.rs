//! Width inference: gives every axis of a model its width, and finds what can be pruned.
//!
//! Operators say how their axes relate; unification does the rest. What is free afterwards, unpinned and owned by weights is
//! a prunable [`Dimension`].

mod batch;
mod observe;
mod per_use;

pub use crate::reduction::{Dimension, Dimensions, Granularity, Kind, Pinned, dimensions};
pub use batch::{batched_inputs, fixed_batch};
pub use observe::{observe, shapes};

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{Facts, Graph, Node, NodeId, Use, ValueId},
    ops::{self, DataPropagation, NodeTyper},
    widths::{Pin, PinReason, Place, Width, Widths},
};
use per_use::{Factor, PerUseAxes};

/// Types every axis of a graph whose shapes `facts` holds.
///
/// `symbolic` says which graph inputs have a symbolic first axis.
pub fn infer(graph: &Graph, facts: &Facts, symbolic: &BTreeSet<ValueId>) -> Widths {
    let mut per_use = PerUseAxes::new();
    loop {
        let widths = relate(graph, facts, symbolic, &per_use);
        // Widths per use can show heads, and values that are shared by them.
        let found = per_use.len();
        per_use.extend(per_use::per_use_axes(graph, &widths));
        if per_use.len() == found {
            return widths;
        }
    }
}

/// Types every axis; the axes in `per_use` each get a width of their own.
fn relate(graph: &Graph, facts: &Facts, symbolic: &BTreeSet<ValueId>, per_use: &PerUseAxes) -> Widths {
    let mut widths = Widths::new(graph.values().count());
    type_inputs(graph, facts, symbolic, &mut widths);
    type_constants(graph, facts, &mut widths);
    let dynamic = graph.dynamic();
    for (id, node) in graph.nodes() {
        if is_constant(graph, node) {
            continue;
        }
        type_per_use(graph, &mut widths, id, per_use);
        NodeTyper::new(graph, facts, &dynamic, &mut widths, id).run();
        DataPropagation::new(graph, facts, &dynamic, &mut widths, id).run();
    }
    pin_outputs(graph, &mut widths);
    widths.table.compress();
    widths
}

/// Operators of the model that have no rule, and how many nodes each.
pub fn unsupported(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, node) in graph.nodes().filter(|(_, node)| !is_constant(graph, node)) {
        if ops::find(&node.proto).is_none() {
            *counts.entry(ops::operator_name(&node.proto)).or_default() += 1;
        }
    }
    counts
}

/// Whether a node only gives a constant a name.
fn is_constant(graph: &Graph, node: &Node) -> bool {
    node.outputs.iter().flatten().all(|v| graph.constant(*v).is_some())
}

fn type_inputs(graph: &Graph, facts: &Facts, symbolic: &BTreeSet<ValueId>, widths: &mut Widths) {
    for &input in graph.inputs() {
        let Some(fact) = facts.get(input) else { continue };
        let axes: Vec<Width> = fact.shape.iter().map(|&size| widths.table.fresh(size)).collect();
        let name = &graph.value(input).name;
        for axis in &axes {
            widths.table.pin(*axis, Pin::new(name, PinReason::Input));
        }
        if symbolic.contains(&input) && axes.first().is_some_and(|a| *a != Width::ONE) {
            match widths.batch {
                None => widths.batch = Some(axes[0]),
                Some(batch) if widths.table.size(batch) == widths.table.size(axes[0]) => {
                    widths.table.unify(batch, axes[0], |a, b| Pin::new(name, PinReason::Conflict(a, b)));
                }
                Some(_) => {}
            }
        }
        widths.values[input.index()] = Some(axes);
    }
}

fn type_constants(graph: &Graph, facts: &Facts, widths: &mut Widths) {
    for (id, node) in graph.nodes() {
        for (slot, value) in node.inputs.iter().enumerate() {
            let Some(value) = value.filter(|v| graph.constant(*v).is_some()) else { continue };
            let Some(fact) = facts.get(value) else { continue };
            let axes = fact.shape.iter().map(|&size| widths.table.fresh(size)).collect();
            widths.constants.insert(Use { node: id, slot }, axes);
        }
    }
}

fn type_per_use(graph: &Graph, widths: &mut Widths, id: NodeId, per_use: &PerUseAxes) {
    for (slot, value) in graph.node(id).inputs.iter().enumerate() {
        let Some(value) = value else { continue };
        let Some(mut axes) = widths.value(*value).map(<[Width]>::to_vec) else { continue };
        let at = Use { node: id, slot };
        let own: Vec<(usize, Factor)> =
            (0..axes.len()).filter_map(|axis| Some((axis, *per_use.get(&Place { at, axis })?))).collect();
        for &(axis, factor) in &own {
            axes[axis] =
                per_use::per_use_width(&mut widths.table, axes[axis], factor, graph.node(id).label());
        }
        if !own.is_empty() {
            widths.per_use.insert(at, axes);
        }
    }
}

fn pin_outputs(graph: &Graph, widths: &mut Widths) {
    for &output in graph.outputs() {
        let Some(axes) = widths.values[output.index()].clone() else { continue };
        for axis in axes {
            widths.table.pin(axis, Pin::new(&graph.value(output).name, PinReason::Output));
        }
    }
}
