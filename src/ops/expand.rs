//! Expand and Tile: repeating entries.

use super::schema::{OpSchema, any, onnx, slots};
use super::{
    AxisFlow, EditError, ElementEdit, IndexFlow, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper,
    Operator,
};
use crate::{
    onnx::proto::NodeProto,
    widths::{Element, PinReason, Width},
};

slots! {
    expand:
    DATA = any("input"),
    SHAPE = int64("shape").follows(),
}

slots! {
    tile:
    DATA = any("input"),
    REPEATS = int64("repeats").follows(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Expand", &[8, 13], &Expand).reads(expand::ALL).makes(&[any("output")]),
    onnx("Tile", &[1, 6, 13], &Tile).reads(tile::ALL).makes(&[any("output")]),
];

/// Broadcasts to a shape.
pub(super) struct Expand;

impl Operator for Expand {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(expand::DATA)?;
        let shape = node.result_shape(0)?;
        let asked = node.contents(expand::SHAPE).map_or(0, <[i64]>::len);
        let start = shape.len() - x.len().min(shape.len());
        let mut result = Vec::with_capacity(shape.len());
        for (i, &size) in shape.iter().enumerate() {
            let own = i.checked_sub(start).map_or(Width::ONE, |j| x[j]);
            if own != Width::ONE {
                result.push(own);
                continue;
            }
            // An axis made by repetition is as wide as what its extent was read from.
            let place = (i + asked).checked_sub(shape.len());
            let element = place.and_then(|place| node.elements(expand::SHAPE)?.get(place).cloned());
            let axis = match element {
                Some(Element::Extent(width)) if node.size(width) == size => width,
                _ if place.is_some_and(|place| node.is_data_dependent(expand::SHAPE, place)) => {
                    node.fixed(size, PinReason::Indexed)
                }
                _ => node.fresh(size),
            };
            result.push(axis);
        }
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        node.contents(expand::SHAPE)?;
        if slot == expand::DATA { AxisFlow::broadcast(node, slot, axis) } else { Some(AxisFlow::Same) }
    }

    fn extent_element(&self, node: &NodeCx<'_>, axis: usize) -> Option<(usize, usize)> {
        let asked = node.contents(expand::SHAPE)?;
        let place = (axis + asked.len()).checked_sub(node.result_shape(0).ok()?.len())?;
        (*asked.get(place)? != 1).then_some((expand::SHAPE, place))
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        node.set_from_result_shape(expand::DATA, node.g()?)
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let axes = node.result_axes(0);
        let asked = node.contents(expand::SHAPE).unwrap_or_default();
        let mut changes = node.shape_edits(expand::SHAPE, &axes[axes.len().saturating_sub(asked.len())..]);
        for (change, asked) in changes.iter_mut().zip(asked) {
            // A one asks for no expansion: the operand's own extent holds.
            if *asked == 1 {
                *change = ElementEdit::Keep;
            }
        }
        node.edit_operand(expand::SHAPE, &changes)
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}

/// Repeats whole axes: the repetitions are the outer factor of the result.
pub(super) struct Tile;

impl Operator for Tile {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(tile::DATA)?;
        let Some(repeats) = node.contents(tile::REPEATS).filter(|r| r.len() == x.len()) else {
            return Err(node.unsupported("repeats that were not observed"));
        };
        let mut result = Vec::with_capacity(x.len());
        for (i, (&axis, &times)) in x.iter().zip(repeats).enumerate() {
            let times = usize::try_from(times).map_err(|_| node.unsupported("negative repeats"))?;
            let times = match node.elements(tile::REPEATS).and_then(|e| e.get(i)) {
                Some(&Element::Extent(width)) if node.size(width) == times => width,
                _ if node.is_data_dependent(tile::REPEATS, i) => node.fixed(times, PinReason::Indexed),
                _ => node.fresh(times),
            };
            result.push(node.product(&[times, axis]));
        }
        node.set(0, result);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let x = node.x(tile::DATA)?;
        let rank = node.shape(tile::DATA)?.len();
        // Each axis as its copies and what is copied: (times, extent) pairs, row by row.
        let pairs =
            node.tail().concat(&[node.x(tile::REPEATS)?.reshape(&[-1, 1]), x.shape().reshape(&[-1, 1])], 1);
        let shape = pairs.ok_or_else(|| node.unsupported("repeats that were not observed"))?.reshape(&[-1]);
        let copies: Vec<usize> = (0..rank).map(|axis| 2 * axis).collect();
        node.set_cotangent(tile::DATA, node.g()?.reshape_to(shape).sum(&copies, false));
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let (from, to) = (node.axes(tile::DATA), node.result_axes(0));
        let times = |repeated: usize, axis: usize| repeated.checked_div(axis).unwrap_or(1);
        let changes: Vec<_> = (from.iter().zip(to).enumerate())
            .map(|(i, (&axis, &repeated))| {
                let before = times(node.old_size(repeated), node.old_size(axis));
                let after = times(node.new_size(repeated), node.new_size(axis));
                node.element_edit(tile::REPEATS, i, (axis == Width::ONE).then_some(repeated), (before, after))
            })
            .collect();
        node.edit_operand(tile::REPEATS, &changes)
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}
