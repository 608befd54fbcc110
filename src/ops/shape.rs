//! Shape and Size, and operators that make tensors from shapes: ConstantOfShape, EyeLike, Range.

use super::schema::{OpSchema, any, int64, number, onnx, slots};
use super::{
    DataPropagation, EditError, ElementEdit, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator,
};
use crate::widths::{Element, PinReason};

slots! {
    range:
    START = number("start"),
    LIMIT = number("limit"),
    DELTA = number("delta"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("ConstantOfShape", &[9, 20, 21, 23, 24, 25], &ConstantOfShape).reads(&[int64("input").follows()])
        .makes(&[any("output")])
        .without_gradient(),
    onnx("EyeLike", &[9, 22], &EyeLike).reads(&[any("input")]).makes(&[any("output")]).without_gradient(),
    onnx("Range", &[11, 27], &Range).reads(range::ALL).makes(&[number("output")]),
    onnx("Shape", &[1, 13, 15, 19, 21, 23, 24, 25], &Shape).reads(&[any("data")])
        .makes(&[int64("shape")])
        .without_gradient(),
    onnx("Size", &[1, 13, 19, 21, 23, 24, 25], &Size).reads(&[any("data")])
        .makes(&[int64("size")])
        .without_gradient(),
];

/// The extents of its operand's axes.
pub(super) struct Shape;

impl Operator for Shape {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let read = &x[range(x.len(), node.int("start"), node.int("end"))];
        let elements = read.iter().map(|a| Element::Extent(*a)).collect();
        let axis = node.fixed(read.len(), PinReason::Counted);
        node.set(0, vec![axis]);
        node.set_sizes(0, elements);
        Ok(())
    }

    fn is_shape(&self) -> bool {
        true
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let x = node.axes(0);
        let read = x[range(x.len(), node.int("start"), node.int("end"))].iter();
        let shares = read.map(|&axis| {
            if node.restored(axis) {
                ElementEdit::Scale { new: node.old_size(axis) as i64, old: node.new_size(axis) as i64 }
            } else {
                ElementEdit::Keep
            }
        });
        let shares: Vec<ElementEdit> = shares.collect();
        if shares.iter().any(|s| *s != ElementEdit::Keep) {
            node.scale_result(&shares);
        }
        Ok(())
    }

    // The extents of an operand that itself says sizes do not depend on what it says.
    fn propagate_data(&self, _flow: &mut DataPropagation<'_>) -> Option<()> {
        Some(())
    }
}

/// The axes whose extents are read.
fn range(rank: usize, start: Option<i64>, end: Option<i64>) -> std::ops::Range<usize> {
    let rank = rank as i64;
    let clamp = |a: i64| if a < 0 { (a + rank).max(0) } else { a.min(rank) } as usize;
    let start = clamp(start.unwrap_or(0));
    start..clamp(end.unwrap_or(rank)).max(start)
}

/// A tensor of one value, of the shape that its operand says.
pub(super) struct ConstantOfShape;

impl Operator for ConstantOfShape {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
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
        // A shape of one number, of which there are as many as axes: the number is an attribute, the same for all inputs.
        if let Some(values) = node.result_contents(0).filter(|_| shape.len() == 1) {
            node.set_sizes(0, vec![Element::Constant; values.len()]);
        }
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let changes = node.shape_edits(0, node.result_axes(0));
        node.edit_operand(0, &changes)
    }
}

/// Numbers from a start to a limit: as many as the numbers say, which is nothing that shrinks.
pub(super) struct Range;

impl Operator for Range {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let size = node.result_shape(0)?.first().copied().unwrap_or(1);
        let axis = node.fixed(size, PinReason::Counted);
        node.set(0, vec![axis]);
        Ok(())
    }

    /// All numbers move with the start, and none with the limit.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        node.set_cotangent(range::START, node.g()?.sum(&[0], false));
        node.set_zero_cotangent(range::LIMIT);
        Ok(())
    }
}

/// The number of elements.
pub(super) struct Size;

impl Operator for Size {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let widths = node.axes(0)?.into_iter().collect();
        node.set(0, Vec::new());
        node.set_sizes(0, vec![Element::Computed(widths)]);
        Ok(())
    }
}

/// A diagonal of ones: rows and columns go together, which no width says.
pub(super) struct EyeLike;

impl Operator for EyeLike {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        for &axis in &x {
            node.pin(axis, PinReason::Rearranged(node.op_type().to_owned()));
        }
        node.set(0, x);
        Ok(())
    }
}
