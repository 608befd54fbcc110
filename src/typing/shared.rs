//! Values that layers share without being one: a position bias or a mask with an entry per head, computed once and added in
//! every layer. Typed as one they would tie the heads of all layers, so their uses are typed apart, as those of constants
//! are; a use that shrinks selects its entries.

use std::collections::BTreeSet;

use super::{Kind, dimensions};
use crate::{
    graph::{Graph, ValueId},
    widths::{Form, Width, Widths},
};

/// Axes of values that are computed without a product, are read at several places beside activations, and would tie heads.
pub(super) fn head_axes(graph: &Graph, widths: &Widths) -> BTreeSet<(ValueId, usize)> {
    let found = dimensions(graph, widths);
    let heads: BTreeSet<Width> =
        found.prunable.iter().filter(|d| d.kind == Kind::Head).map(|d| d.width).collect();
    let heavy = heavy(graph, widths);
    let is_heavy = |v: &ValueId| heavy[v.index()];
    let mut axes = BTreeSet::new();
    for (value, _) in graph.values().filter(|(v, _)| graph.producer(*v).is_some() && !is_heavy(v)) {
        let uses = graph.uses(value);
        let beside = |node| graph.node(node).inputs.iter().flatten().any(is_heavy);
        if uses.len() < 2 || !uses.iter().any(|at| beside(at.node)) {
            continue;
        }
        for (axis, width) in widths.value(value).unwrap_or_default().iter().enumerate() {
            let free = *widths.table.form(*width) == Form::Free;
            if free && heads.contains(&widths.table.root(*width)) {
                axes.insert((value, axis));
            }
        }
    }
    axes
}

/// For each value, whether a product is among what it is computed from.
fn heavy(graph: &Graph, widths: &Widths) -> Vec<bool> {
    let products: BTreeSet<_> = widths.macs.iter().map(|m| m.node).collect();
    let mut heavy = vec![false; graph.values().count()];
    for (id, node) in graph.nodes() {
        let any = products.contains(&id) || node.inputs.iter().flatten().any(|v| heavy[v.index()]);
        for output in node.outputs.iter().flatten() {
            // Reading an extent takes nothing of what was computed.
            heavy[output.index()] = any && widths.sizes(*output).is_none();
        }
    }
    heavy
}
