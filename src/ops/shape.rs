//! Shape, and what makes tensors from shapes: ConstantOfShape, Range.

use super::{EditError, NodeEditor, NodeTyper, Operator, SizeFlow};
use crate::widths::{Element, Reason};

/// The extents of its operand's axes.
pub(super) struct Shape;

impl Operator for Shape {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let rank = x.len() as i64;
        let clamp = |a: i64| if a < 0 { (a + rank).max(0) } else { a.min(rank) } as usize;
        let start = clamp(node.int("start").unwrap_or(0));
        let end = clamp(node.int("end").unwrap_or(rank)).max(start);
        let elements = x[start..end].iter().map(|a| Element::Extent(*a)).collect();
        let axis = node.fixed(end - start, Reason::Counted);
        node.set(0, vec![axis]);
        node.set_sizes(0, elements);
        Ok(())
    }

    // The extents of an operand that itself says sizes do not depend on what it says.
    fn sizes(&self, _flow: &mut SizeFlow<'_>) -> Option<()> {
        Some(())
    }
}

/// A tensor of one value, of the shape that its operand says.
pub(super) struct ConstantOfShape;

impl Operator for ConstantOfShape {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let shape = node.result_shape(0)?;
        let mut axes = Vec::with_capacity(shape.len());
        for (i, &size) in shape.iter().enumerate() {
            let axis = match node.elements(0).and_then(|e| e.get(i)) {
                Some(Element::Extent(width)) if node.size(*width) == size => *width,
                _ => node.fresh(size),
            };
            axes.push(axis);
        }
        node.set(0, axes);
        Ok(())
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[0]
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let changes = node.changes(0, node.result_axes(0));
        node.change_operand(0, &changes)
    }
}

/// Numbers from a start to a limit: as many as the numbers say, which is nothing that shrinks.
pub(super) struct Range;

impl Operator for Range {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let size = node.result_shape(0)?.first().copied().unwrap_or(1);
        let axis = node.fixed(size, Reason::Counted);
        node.set(0, vec![axis]);
        Ok(())
    }
}
