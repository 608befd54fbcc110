//! Picking and replacing entries at places: GatherElements, GatherND, ScatterElements, ScatterND, OneHot, Compress,
//! NonZero.

use super::schema::{OpSchema, any, boolean, int64, onnx, slots};
use super::{
    EditError, IndexFlow, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator,
    gather::{follow, segment},
};
use crate::{
    graph::{Attr, Expr},
    onnx::proto::NodeProto,
    widths::{PinReason, Width},
};

slots! {
    pick:
    DATA = any("data"),
    INDICES = integer("indices"),
}

slots! {
    replace:
    DATA = any("data"),
    INDICES = integer("indices"),
    UPDATES = any("updates"),
}

slots! {
    one_hot:
    INDICES = number("indices"),
    DEPTH = number("depth"),
    VALUES = any("values"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Compress", &[9, 11, 28], &Compress).reads(&[any("input"), boolean("condition")])
        .makes(&[any("output")])
        .without_gradient(),
    onnx("GatherElements", &[11, 13], &GatherElements).reads(pick::ALL).makes(&[any("output")]),
    onnx("GatherND", &[11, 12, 13], &GatherNd).reads(&[any("data"), int64("indices")]).makes(&[any("output")]),
    onnx("NonZero", &[9, 13], &NonZero).reads(&[any("X")]).makes(&[int64("Y")]).without_gradient(),
    onnx("OneHot", &[9, 11, 28], &OneHot).reads(one_hot::ALL).makes(&[any("output")]).without_gradient(),
    onnx("ScatterElements", &[11, 13, 16, 18], &ScatterElements).reads(replace::ALL).makes(&[any("output")]),
    onnx("ScatterND", &[11, 13, 16, 18], &ScatterNd).reads(&[any("data"), int64("indices"), any("updates")])
        .makes(&[any("output")]),
];

/// Picks along one axis, at every place of the others by itself.
pub(super) struct GatherElements;

impl Operator for GatherElements {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (data, indices) = (node.axes(pick::DATA)?, node.axes(pick::INDICES)?);
        relate_indices(node, &data, &indices)?;
        node.set(0, indices);
        Ok(())
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        adds_at_indices(node)?;
        let axis = node.int("axis").unwrap_or(0);
        node.set_cotangent(
            pick::DATA,
            node.x(pick::DATA)?.zeros().scatter(axis, node.x(pick::INDICES)?, node.g()?, true),
        );
        Ok(())
    }
}

/// Replaces along one axis, at every place of the others by itself.
pub(super) struct ScatterElements;

impl Operator for ScatterElements {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (data, indices, updates) =
            (node.axes(replace::DATA)?, node.axes(replace::INDICES)?, node.axes(replace::UPDATES)?);
        relate_indices(node, &data, &indices)?;
        relate_indices(node, &data, &updates)?;
        let axis = node.axis(node.int("axis").unwrap_or(0), data.len())?;
        if let (Some(&a), Some(&b)) = (indices.get(axis), updates.get(axis)) {
            node.unify(a, b);
        }
        node.set(0, data);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let axis = node.int("axis").unwrap_or(0);
        replaced(node, |g, indices| g.apply("GatherElements", &[indices], &[Attr::Int("axis", axis)]))
    }
}

/// Unifies the axes of `data` and `other`, but for the one that indices run along; that, and axes of different extents, are
/// pinned.
fn relate_indices(node: &mut NodeTyper<'_>, data: &[Width], other: &[Width]) -> Result<(), PinReason> {
    if data.len() != other.len() {
        return Err(node.unsupported("operands of different ranks"));
    }
    let axis = node.axis(node.int("axis").unwrap_or(0), data.len())?;
    for (i, (&a, &b)) in data.iter().zip(other).enumerate() {
        if i != axis && node.size(a) == node.size(b) {
            node.unify(a, b);
        } else {
            node.pin(a, PinReason::Indexed);
            node.pin(b, PinReason::Indexed);
        }
    }
    Ok(())
}

/// Picks slices by tuples of indices: `data[B…, I…, R…]`, `indices[B…, P…, tuple]` → `[B…, P…, R…]`.
pub(super) struct GatherNd;

impl Operator for GatherNd {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (data, indices) = (node.axes(pick::DATA)?, node.axes(pick::INDICES)?);
        let batch = usize::try_from(node.int("batch_dims").unwrap_or(0)).unwrap_or(0);
        // A list of indices into the first axis, as PyTorch's exporter writes advanced indexing.
        if let ([first, rest @ ..], [_, tuple]) = (data.as_slice(), indices.as_slice())
            && batch == 0
            && *tuple == Width::ONE
            && let Some(taken) = segment(node, *first)
        {
            node.set(0, std::iter::once(&taken).chain(rest).copied().collect());
            return Ok(());
        }
        let (places, slice) = indexed(node, &data, &indices, batch)?;
        for (&a, &b) in data.iter().zip(&indices).take(batch) {
            node.unify(a, b);
        }
        node.set(0, places.iter().chain(&slice).copied().collect());
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        match node.axes(pick::DATA).first() {
            Some(&first) if node.is_constant(pick::INDICES) => follow(node, first),
            _ => Ok(()),
        }
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        if node.int("batch_dims").unwrap_or(0) != 0 {
            return Err(node.unsupported("batch axes"));
        }
        adds_at_indices(node)?;
        let add = Attr::Str("reduction", "add");
        node.set_cotangent(
            pick::DATA,
            node.x(pick::DATA)?.zeros().apply("ScatterND", &[node.x(pick::INDICES)?, node.g()?], &[add]),
        );
        Ok(())
    }
}

/// Replaces slices at tuples of indices: `data[I…, R…]`, `indices[P…, tuple]`, `updates[P…, R…]`.
pub(super) struct ScatterNd;

impl Operator for ScatterNd {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (data, indices, updates) =
            (node.axes(replace::DATA)?, node.axes(replace::INDICES)?, node.axes(replace::UPDATES)?);
        let (places, slice) = indexed(node, &data, &indices, 0)?;
        let expected: Vec<Width> = places.iter().chain(&slice).copied().collect();
        if expected.len() != updates.len() {
            return Err(node.unsupported("updates of unexpected rank"));
        }
        for (&a, &b) in expected.iter().zip(&updates) {
            node.unify(a, b);
        }
        node.set(0, data);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        replaced(node, |g, indices| g.apply("GatherND", &[indices], &[]))
    }
}

/// Pins what tuples of indices count, and returns the axes of the tuples and those of the slices they point to.
fn indexed(
    node: &mut NodeTyper<'_>,
    data: &[Width],
    indices: &[Width],
    batch: usize,
) -> Result<(Vec<Width>, Vec<Width>), PinReason> {
    let Some((&tuple, places)) = indices.split_last() else { return Err(node.unsupported("scalar indices")) };
    let end = batch + node.size(tuple);
    if end > data.len() {
        return Err(node.unsupported("more indices than axes"));
    }
    for &axis in data[batch..end].iter().chain([&tuple]) {
        node.pin(axis, PinReason::Indexed);
    }
    Ok((places.to_vec(), data[end..].to_vec()))
}

/// Where several picked one entry, their cotangents add up.
pub(super) fn adds_at_indices(node: &NodeGradient<'_>) -> Result<(), NoGradient> {
    if node.opset() < 16 {
        Err(node.unsupported("operator sets before 16, where nothing adds at indices"))
    } else {
        Ok(())
    }
}

/// Entries that were replaced pass their cotangent to what replaced them.
fn replaced<'a>(
    node: &NodeGradient<'a>,
    picked: impl Fn(Expr<'a>, Expr<'a>) -> Expr<'a>,
) -> Result<(), NoGradient> {
    if node.string("reduction").unwrap_or("none") != "none" {
        return Err(node.unsupported("a reduction"));
    }
    let (g, indices) = (node.g()?, node.x(replace::INDICES)?);
    node.set_cotangent(
        replace::DATA,
        node.reemit(&[Some(g), Some(indices), Some(node.x(replace::UPDATES)?.zeros())])?,
    );
    node.set_cotangent(replace::UPDATES, picked(g, indices));
    Ok(())
}

/// Adds an axis with a one at the place that an index says.
pub(super) struct OneHot;

impl Operator for OneHot {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let mut result = node.axes(one_hot::INDICES)?;
        let axis = node.axis(node.int("axis").unwrap_or(-1), result.len() + 1)?;
        let depth = node.result_shape(0)?.get(axis).copied().unwrap_or(0);
        let depth = node.fixed(depth, PinReason::Indexed);
        result.insert(axis, depth);
        node.set(0, result);
        Ok(())
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        (slot == one_hot::INDICES).then_some(IndexFlow::Below { depth: one_hot::DEPTH })
    }
}

/// Keeps the entries of one axis for which a condition holds.
pub(super) struct Compress;

impl Operator for Compress {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let mut x = node.axes(0)?;
        let Some(axis) = node.int("axis") else { return Err(node.unsupported("a flattened operand")) };
        let axis = node.axis(axis, x.len())?;
        node.pin(x[axis], PinReason::Indexed);
        let size = node.result_shape(0)?.get(axis).copied().unwrap_or(0);
        x[axis] = node.fixed(size, PinReason::Indexed);
        node.set(0, x);
        Ok(())
    }
}

/// Where entries are not zero: as many as there happen to be.
pub(super) struct NonZero;

impl Operator for NonZero {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        for axis in node.axes(0)? {
            node.pin(axis, PinReason::Indexed);
        }
        let shape = node.result_shape(0)?;
        let result = shape.iter().map(|&size| node.fixed(size, PinReason::Indexed)).collect();
        node.set(0, result);
        Ok(())
    }
}
