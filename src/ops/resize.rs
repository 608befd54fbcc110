//! Resize.

use super::{EditError, NodeEditor, NodeTyper, Operator};
use crate::widths::Reason;

/// Interpolates along the axes whose extent changes; the others pass.
pub(super) struct Resize;

const SIZES: usize = 3;

impl Operator for Resize {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let shape = node.result_shape(0)?;
        if shape.len() != x.len() {
            return Err(node.form("result of another rank"));
        }
        let mut result = Vec::with_capacity(x.len());
        for (i, (&axis, &size)) in x.iter().zip(shape).enumerate() {
            // Batch and channels come first; positions may keep their extent and be shifted all the same.
            if i < 2 && node.size(axis) == size {
                result.push(axis);
                continue;
            }
            node.pin(axis, Reason::Spatial);
            let axis = node.fixed(size, Reason::Spatial);
            result.push(axis);
        }
        node.set(0, result);
        Ok(())
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[SIZES]
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        if node.contents(SIZES).is_none_or(<[i64]>::is_empty) {
            return Ok(());
        }
        let mut axes = node.result_axes(0).to_vec();
        if let Some(listed) = node.ints("axes") {
            let listed = listed.iter().map(|&a| node.axis(a, axes.len()).map(|a| axes[a]));
            axes = listed.collect::<Result<_, _>>()?;
        }
        let changes = node.changes(SIZES, &axes);
        node.change_operand(SIZES, &changes)
    }
}
