//! Uses of computed values that are typed apart, as those of constants are; a use that shrinks selects its entries.
//!
//! - Values that layers share without being one: a position bias or a mask with an entry per head, computed once and added
//!   in every layer. Typed as one they would tie the heads of all layers.
//! - Groups that a grouped convolution reads of a value that keeps its extent. A group of results that goes needs its group
//!   of operands no longer, whoever else may (SqueezeBERT's heads).

use std::collections::{BTreeMap, BTreeSet};

use super::{Granularity, Kind, dimensions};
use crate::{
    graph::{Graph, Use, ValueId},
    widths::{Contraction, Form, Pin, Reason, Width, WidthTable, Widths},
};

/// Axes of uses that are typed apart: the extent of the outer factor that is, which is the whole axis for a head axis.
pub(super) type Apart = BTreeMap<(Use, usize), usize>;

/// The uses that are typed apart, found in a model whose uses of each value were typed as one.
pub(super) fn apart(graph: &Graph, widths: &Widths) -> Apart {
    let mut apart = group_axes(graph, widths);
    apart.extend(head_axes(graph, widths));
    apart
}

/// A width beside `whole`: their inner factors are one, their outer factors, of extent `outer`, are not. Where `whole` has no
/// such factors, the node called `at` pins it.
pub(super) fn beside(table: &mut WidthTable, whole: Width, outer: usize, at: &str) -> Width {
    let size = table.size(whole);
    let [own, other, inner] = [outer, outer, size / outer.max(1)].map(|size| table.fresh(size));
    let factors = table.product(&[own, inner]);
    table.unify(whole, factors, |a, b| Pin::new(at, Reason::Conflict(a, b)));
    table.product(&[other, inner])
}

/// Operands of grouped convolutions that are pinned, where the results are not.
fn group_axes(graph: &Graph, widths: &Widths) -> Apart {
    let table = &widths.table;
    let pinned = |axis: Width| table.pins(axis).iter().any(|p| !matches!(p.reason, Reason::Conflict(..)));
    let groups = |sum: &Contraction| {
        let axis = widths.at(graph, sum.place())?;
        let result = graph.node(sum.node).outputs.first().copied().flatten()?;
        let feature = *widths.value(result)?.get(sum.feature?)?;
        let groups = table.size(axis) / table.size(sum.width).max(1);
        // Selecting costs about what a depthwise convolution does.
        let grouped = groups > 1 && sum.width != Width::ONE;
        (grouped && pinned(axis) && table.pins(feature).is_empty())
            .then_some(((sum.operand(), sum.axis), groups))
    };
    widths.contractions.iter().filter_map(groups).collect()
}

/// Axes of values that are computed without a product, are read at several places beside activations, and would tie heads.
fn head_axes(graph: &Graph, widths: &Widths) -> Apart {
    let found = dimensions(graph, widths, Granularity::Head);
    let heads: BTreeSet<Width> =
        found.prunable.iter().filter(|d| d.kind == Kind::Head).map(|d| d.width).collect();
    let heavy = heavy(graph, widths);
    let is_heavy = |v: &ValueId| heavy[v.index()];
    let mut axes = Apart::new();
    for (value, _) in graph.values().filter(|(v, _)| graph.producer(*v).is_some() && !is_heavy(v)) {
        let uses = graph.uses(value);
        let beside = |node| graph.node(node).inputs.iter().flatten().any(is_heavy);
        if uses.len() < 2 || !uses.iter().any(|at| beside(at.node)) {
            continue;
        }
        for (axis, width) in widths.value(value).unwrap_or_default().iter().enumerate() {
            let free = *widths.table.form(*width) == Form::Free;
            if free && heads.contains(&widths.table.root(*width)) {
                axes.extend(uses.iter().map(|at| ((*at, axis), widths.table.size(*width))));
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
