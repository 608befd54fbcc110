//! Expand and Tile: repeating entries.

use super::{EditError, Ids, NodeEditor, NodeTyper, Operator};
use crate::{
    onnx::proto::NodeProto,
    widths::{Element, Reason, Width},
};

/// Broadcasts to a shape.
pub(super) struct Expand;

impl Operator for Expand {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let shape = node.result_shape(0)?;
        let asked = node.contents(1).map_or(0, <[i64]>::len);
        let start = shape.len() - x.len().min(shape.len());
        let mut result = Vec::with_capacity(shape.len());
        for (i, &size) in shape.iter().enumerate() {
            let own = i.checked_sub(start).map_or(Width::ONE, |j| x[j]);
            if own != Width::ONE {
                result.push(own);
                continue;
            }
            // An axis made by repetition is as wide as what its extent was read from.
            let element =
                (i + asked).checked_sub(shape.len()).and_then(|j| node.elements(1)?.get(j).cloned());
            let axis = match element {
                Some(Element::Extent(width)) if node.size(width) == size => width,
                _ => node.fresh(size),
            };
            result.push(axis);
        }
        node.set(0, result);
        Ok(())
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let changed = node.changed_sizes(node.result_axes(0));
        let asked = node.contents(1).map_or(changed.len(), <[i64]>::len);
        let skip = changed.len().saturating_sub(asked);
        // A one asks for no expansion: the operand's own extent holds.
        let ones: Vec<bool> = node.contents(1).map_or(Vec::new(), |c| c.iter().map(|x| *x == 1).collect());
        let changes: Vec<_> = changed[skip..]
            .iter()
            .enumerate()
            .map(|(i, change)| change.filter(|_| !ones.get(i).copied().unwrap_or(false)))
            .collect();
        node.adjust_operand(1, &changes)
    }

    fn ids(&self, _node: &NodeProto, slot: usize) -> Option<Ids> {
        Ids::moved(slot)
    }
}

/// Repeats whole axes: the repetitions are the outer factor of the result.
pub(super) struct Tile;

impl Operator for Tile {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let Some(repeats) = node.contents(1).filter(|r| r.len() == x.len()) else {
            return Err(node.form("repeats that were not observed"));
        };
        let mut result = Vec::with_capacity(x.len());
        for (i, (&axis, &times)) in x.iter().zip(repeats).enumerate() {
            let times = usize::try_from(times).map_err(|_| node.form("negative repeats"))?;
            let times = match node.elements(1).and_then(|e| e.get(i)) {
                Some(&Element::Extent(width)) if node.size(width) == times => width,
                _ => node.fresh(times),
            };
            result.push(node.product(&[times, axis]));
        }
        node.set(0, result);
        Ok(())
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let (from, to) = (node.axes(0), node.result_axes(0));
        let repeats: Vec<_> = (from.iter().zip(to))
            .map(|(&axis, &repeated)| {
                let before = node.old_size(repeated).checked_div(node.old_size(axis));
                let after = node.new_size(repeated).checked_div(node.new_size(axis));
                after.filter(|_| before != after).map(|times| times as i64)
            })
            .collect();
        node.adjust_operand(1, &repeats)
    }

    fn ids(&self, _node: &NodeProto, slot: usize) -> Option<Ids> {
        Ids::moved(slot)
    }
}
