//! Operators that depend on where an entry lies along an axis: CumSum, Trilu, ReverseSequence. They pin that axis, and pass
//! the others.

use super::schema::{OpSchema, any, int64, microsoft, number, onnx, slots};
use super::{NoGradient, NodeGradient, NodeTyper, Operator};
use crate::{graph::Attr, tensor::Tensor, widths::PinReason};

slots! {
    cum_sum:
    X = number("x"),
    AXIS = integer("axis"),
}

slots! {
    trilu:
    INPUT = any("input"),
    DIAGONAL = int64("k").optional(),
}

slots! {
    reverse_sequence:
    INPUT = any("input"),
    LENGTHS = int64("sequence_lens"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("CumSum", &[11, 14], &CumSum).reads(cum_sum::ALL).makes(&[number("y")]),
    onnx("ReverseSequence", &[10, 28], &ReverseSequence).reads(reverse_sequence::ALL).makes(&[any("Y")]),
    onnx("Trilu", &[14], &Trilu).reads(trilu::ALL).makes(&[any("output")]),
    microsoft("Trilu", &Trilu).reads(&[any("X"), int64("k").optional()]).makes(&[any("Y")]),
];

fn rearranged(node: &NodeTyper<'_>) -> PinReason {
    PinReason::Rearranged(node.op_type().to_owned())
}

/// Running sums along an axis, which the second operand says.
pub(super) struct CumSum;

impl Operator for CumSum {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(cum_sum::X)?;
        let Some(&[axis]) = node.contents(cum_sum::AXIS) else {
            return Err(node.unsupported("an axis that was not observed"));
        };
        let axis = node.axis(axis, x.len())?;
        node.pin(x[axis], rearranged(node));
        node.set(0, x);
        Ok(())
    }

    /// The sums run the other way.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let flag = |name| node.int(name).unwrap_or(0);
        let attributes =
            [Attr::Int("exclusive", flag("exclusive")), Attr::Int("reverse", 1 - flag("reverse"))];
        node.set_cotangent(cum_sum::X, node.g()?.apply("CumSum", &[node.x(cum_sum::AXIS)?], &attributes));
        Ok(())
    }
}

/// Zeroes a triangle of the last two axes.
pub(super) struct Trilu;

impl Operator for Trilu {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(trilu::INPUT)?;
        for &axis in x.iter().rev().take(2) {
            node.pin(axis, rearranged(node));
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        // tract wants the diagonal to be given.
        let diagonal = if node.has(trilu::DIAGONAL) {
            node.x(trilu::DIAGONAL)?
        } else {
            node.tail().constant(&Tensor::int(0))
        };
        node.set_cotangent(trilu::INPUT, node.reemit(&[Some(node.g()?), Some(diagonal)])?);
        Ok(())
    }
}

/// Reverses the start of each sequence of a batch.
pub(super) struct ReverseSequence;

impl Operator for ReverseSequence {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(reverse_sequence::INPUT)?;
        let lengths = node.axes(reverse_sequence::LENGTHS)?;
        let time = node.axis(node.int("time_axis").unwrap_or(0), x.len())?;
        let batch = node.axis(node.int("batch_axis").unwrap_or(1), x.len())?;
        node.pin(x[time], rearranged(node));
        if let Some(&lengths) = lengths.first() {
            node.unify(lengths, x[batch]);
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        node.set_cotangent(
            reverse_sequence::INPUT,
            node.reemit(&[Some(node.g()?), Some(node.x(reverse_sequence::LENGTHS)?)])?,
        );
        Ok(())
    }
}
