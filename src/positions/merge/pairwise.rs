//! What pairs of positions are given: a mask of padding is the same for all that attend, a causal mask or a relative bias is not.

use std::collections::BTreeMap;

use ndarray::{ArrayViewD, Axis};

use super::region::{MergeRefusal, Pairwise};
use crate::{
    graph::{Patch, ValueId},
    model::ModelView,
    runtime::{Engine, RuntimeError},
};

/// Looks whether values are the same for all positions that attend, on all samples. Exporters spread a mask of padding over pairs by
/// comparisons of indices that are always true, which a graph does not show.
pub(super) fn check(
    engine: &dyn Engine,
    view: ModelView<'_>,
    given: &[Pairwise],
) -> Result<(), MergeRefusal> {
    let mut values: BTreeMap<ValueId, &Pairwise> = BTreeMap::new();
    for pairwise in given {
        values.entry(pairwise.value).or_insert(pairwise);
    }
    let varies = |pairwise: &Pairwise| {
        let node = view.graph.node(pairwise.at.node);
        MergeRefusal::Pairwise { node: node.label().to_owned(), op: node.op_type().to_owned() }
    };
    let Some((_, first)) = values.first_key_value() else { return Ok(()) };
    let found = varying(engine, view, &values).map_err(|_| varies(first))?;
    found.map_or(Ok(()), |pairwise| Err(varies(pairwise)))
}

/// The first of these values that is not the same for all that attend.
fn varying<'v>(
    engine: &dyn Engine,
    view: ModelView<'_>,
    values: &BTreeMap<ValueId, &'v Pairwise>,
) -> Result<Option<&'v Pairwise>, RuntimeError> {
    let mut patch = Patch::default();
    patch.only_exposed();
    values.keys().for_each(|value| patch.expose(&view.graph.value(*value).name));
    let mut session = engine.load(&patch.apply(view.model))?;
    for range in view.samples.ranges(view.batch) {
        let Ok(feed) = view.samples.batch(range.start, range.end) else { continue };
        for (found, pairwise) in session.run(&feed)?.iter().zip(values.values()) {
            if found.to_f32().is_none_or(|found| !is_same(found.view(), pairwise.rows)) {
                return Ok(Some(pairwise));
            }
        }
    }
    Ok(None)
}

/// Whether all entries of an axis are alike.
fn is_same(x: ArrayViewD<'_, f32>, axis: usize) -> bool {
    let mut entries = x.axis_iter(Axis(axis));
    let Some(first) = entries.next() else { return true };
    entries.all(|entry| entry == first)
}
