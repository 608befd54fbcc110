//! Uses of computed values that get widths of their own, as those of constants do; a Gather is put before a use that shrinks.
//!
//! - Values that layers share without being one: a position bias or a mask with an entry per head, computed once and added
//!   in every layer. Typed as one they would tie the heads of all layers.
//! - Groups that a grouped convolution reads of a value that keeps its extent. A group of results that goes needs its group
//!   of operands no longer, whoever else may (SqueezeBERT's heads).

use std::collections::{BTreeMap, BTreeSet};

use super::{Granularity, dimensions};
use crate::{
    graph::{Graph, NodeId, Use, ValueId},
    widths::{Contraction, Pin, PinReason, Place, Width, WidthForm, WidthTable, Widths},
};

/// The factor of an axis that has a width per use: `own` is its extent, `outer` that of all factors before it. The heads of an
/// axis `[3, 6, 64]` (flattened) are `outer` 3, `own` 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Factor {
    outer: usize,
    own: usize,
}

/// Axes that get a width per use, and which factor of them does.
pub(super) type PerUseAxes = BTreeMap<Place, Factor>;

/// The axes that need a width per use, by what the typed model shows.
pub(super) fn per_use_axes(graph: &Graph, widths: &Widths) -> PerUseAxes {
    let mut axes = group_axes(graph, widths);
    axes.extend(head_axes(graph, widths));
    axes.extend(normalised_head_axes(graph, widths));
    axes
}

/// A width that shares all factors of `whole` but `factor`, for which it gets a new width. Where `whole` has no such factors, it is
/// pinned in the name of node `at`.
pub(super) fn per_use_width(table: &mut WidthTable, whole: Width, factor: Factor, at: &str) -> Width {
    let Factor { outer, own } = factor;
    let inner = table.size(whole) / (outer * own).max(1);
    let [outer, own, other, inner] = [outer, own, own, inner].map(|size| table.fresh(size));
    let factors = table.product(&[outer, own, inner]);
    table.unify(whole, factors, |a, b| Pin::new(at, PinReason::Conflict(a, b)));
    table.product(&[outer, other, inner])
}

/// Operands of grouped convolutions that are pinned, where the results are not.
fn group_axes(graph: &Graph, widths: &Widths) -> PerUseAxes {
    let table = &widths.table;
    let pinned = |axis: Width| table.pins(axis).any(|p| !matches!(p.reason, PinReason::Conflict(..)));
    let groups = |sum: &Contraction| {
        let axis = widths.at(graph, sum.place())?;
        let result = graph.node(sum.node).outputs.first().copied().flatten()?;
        let feature = *widths.value(result)?.get(sum.feature?)?;
        let groups = table.size(axis) / table.size(sum.width).max(1);
        // Selecting costs about what a depthwise convolution does.
        let grouped = groups > 1 && sum.width != Width::ONE;
        (grouped && pinned(axis) && !table.is_pinned(feature))
            .then_some((sum.place(), Factor { outer: 1, own: groups }))
    };
    widths.contractions.iter().filter_map(groups).collect()
}

/// Axes of values that are computed without a product, are combined with activations at several places, and would tie heads.
fn head_axes(graph: &Graph, widths: &Widths) -> PerUseAxes {
    let found = dimensions(graph, widths, Granularity::Head);
    let heads: BTreeSet<Width> =
        found.prunable.iter().filter(|d| d.kind.splits_shared_values()).map(|d| d.width).collect();
    let products = depends_on_product(graph, widths);
    let is_product = |v: &ValueId| products[v.index()];
    let reads_product: Vec<bool> =
        graph.nodes().map(|(_, node)| node.inputs.iter().flatten().any(is_product)).collect();
    let ends = ends(graph, &reads_product);
    let mut axes = PerUseAxes::new();
    for (value, _) in graph.values().filter(|(v, _)| graph.producer(*v).is_some() && !is_product(v)) {
        let uses = graph.uses(value);
        let separable = || {
            let reached: BTreeSet<NodeId> = uses.iter().filter_map(|at| ends[at.node.index()]).collect();
            reached.len() >= 2 || uses.iter().any(|at| reads_product[at.node.index()])
        };
        if uses.len() < 2 || !separable() {
            continue;
        }
        for (axis, width) in widths.value(value).unwrap_or_default().iter().enumerate() {
            if let Some(factor) = factor(graph, widths, *width, &|w| heads.contains(&w)) {
                axes.extend(uses.iter().map(|at| (Place { at: *at, axis }, factor)));
            }
        }
    }
    axes
}

/// For each node, where its result gets to on the way through nodes that read nothing else: a node that reads an activation.
fn ends(graph: &Graph, reads_product: &[bool]) -> Vec<Option<NodeId>> {
    let mut ends = vec![None; reads_product.len()];
    // Readers come after what they read.
    for (id, node) in graph.nodes().rev() {
        let mut results = node.outputs.iter().flatten();
        ends[id.index()] = match (results.next(), results.next()) {
            _ if reads_product[id.index()] => Some(id),
            (Some(result), None) => match graph.uses(*result) {
                [only] => ends[only.node.index()],
                _ => None,
            },
            _ => None,
        };
    }
    ends
}

/// Axes that are pinned by statistics over them, and that attention splits into heads: OLMo's
/// normalised queries, or a stream that WavLM's gates read head by head. A head that goes is not selected any more.
fn normalised_head_axes(graph: &Graph, widths: &Widths) -> PerUseAxes {
    let table = &widths.table;
    let batched = widths.batched.iter().map(|(_, width)| width).chain(&widths.heads);
    let batched: BTreeSet<Width> = batched.flat_map(|width| table.atoms(*width)).collect();
    let statistics = |reason: &PinReason| matches!(reason, PinReason::Normalised | PinReason::Reduced(_));
    let normalised: BTreeSet<Width> =
        table.roots().filter(|root| table.pins(*root).any(|pin| statistics(&pin.reason))).collect();
    let normalised = |axis: Width| normalised.contains(&table.root(axis));
    let mut axes = PerUseAxes::new();
    for (value, _) in graph.values().filter(|(v, _)| graph.producer(*v).is_some()) {
        for (axis, width) in widths.value(value).unwrap_or_default().iter().enumerate() {
            let Some(factor) =
                factor(graph, widths, *width, &|w| batched.contains(&w)).filter(|_| normalised(*width))
            else {
                continue;
            };
            let WidthForm::Product(factors) = table.form(*width) else { continue };
            let own = |w: &Width| table.size(*w) == factor.own && *table.form(*w) == WidthForm::Free;
            let heads = |w: &Width| own(w) && factors.iter().any(|f| table.root(*f) == table.root(*w));
            let splits = |at: &&Use| {
                let results = graph.node(at.node).outputs.iter().flatten();
                results.filter_map(|r| widths.value(*r)).any(|axes| axes.iter().any(heads))
            };
            axes.extend(graph.uses(value).iter().filter(splits).map(|at| (Place { at: *at, axis }, factor)));
        }
    }
    axes
}

/// The factor of an axis that is one of these free widths. Of the batch, too, an axis may hold: outermost, so that what is
/// selected of each sample can be listed for all samples, by Range, which operator set 11 has.
fn factor(graph: &Graph, widths: &Widths, axis: Width, is: &dyn Fn(Width) -> bool) -> Option<Factor> {
    let table = &widths.table;
    let whole = [axis];
    let factors = match table.form(axis) {
        WidthForm::Free => &whole[..],
        WidthForm::Product(factors) => factors,
        WidthForm::Concat(_) => return None,
    };
    let at = factors.iter().position(|f| *table.form(*f) == WidthForm::Free && is(table.root(*f)))?;
    let batch = |w: &Width| widths.batch.is_some_and(|b| table.root(b) == table.root(*w));
    let samples = factors.iter().position(batch);
    let outer = factors[..at].iter().map(|f| table.size(*f)).product();
    let selects = samples.is_none_or(|place| place == 0 && at > 0 && graph.opset() >= 11);
    selects.then(|| Factor { outer, own: table.size(factors[at]) })
}

/// For each value, whether a product is among what it is computed from.
fn depends_on_product(graph: &Graph, widths: &Widths) -> Vec<bool> {
    let nodes: BTreeSet<_> = widths.macs.iter().map(|m| m.node).collect();
    let mut depends = vec![false; graph.values().count()];
    for (id, node) in graph.nodes() {
        let any = nodes.contains(&id) || node.inputs.iter().flatten().any(|v| depends[v.index()]);
        for output in node.outputs.iter().flatten() {
            // Reading an extent takes nothing of what was computed.
            depends[output.index()] = any && widths.sizes(*output).is_none();
        }
    }
    depends
}
