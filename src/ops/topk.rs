//! TopK, ArgMax and ArgMin: the extreme entries along an axis, and where they are.

use super::schema::{OpSchema, OperatorForm, int64, number, onnx, slots};
use super::{NoGradient, NodeGradient, NodeTyper, Operator};
use crate::widths::{PinReason, Width};

slots! {
    top_k:
    X = number("X"),
    K = int64("K").since(10),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("ArgMax", &[1, 11, 12, 13], &ArgMaxMin).reads(&[number("data")])
        .makes(&[int64("reduced")])
        .without_gradient(),
    onnx("ArgMin", &[1, 11, 12, 13], &ArgMaxMin).reads(&[number("data")])
        .makes(&[int64("reduced")])
        .without_gradient(),
    onnx("TopK", &[1, 10, 11, 24], &TopK).reads(top_k::ALL).makes(&[number("Values"), int64("Indices")])
        .forms(&[OperatorForm::of("count as an attribute").until(9), OperatorForm::of("count as an operand").since(10)]),
];

/// The largest entries along an axis, and where they are.
pub(super) struct TopK;

impl Operator for TopK {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let mut x = node.axes(top_k::X)?;
        let axis = node.axis(node.int("axis").unwrap_or(-1), x.len())?;
        node.pin(x[axis], PinReason::Indexed);
        let count = (0..2).find_map(|slot| node.result_shape(slot).ok()?.get(axis).copied()).unwrap_or(0);
        x[axis] = node.fixed(count, PinReason::Indexed);
        node.set(0, x.clone());
        node.set(1, x);
        Ok(())
    }

    /// Entries that were picked take the cotangents of where they went.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        if node.opset() < 11 {
            return Err(node.unsupported("operator sets before 11, where nothing scatters elements"));
        }
        let axis = node.int("axis").unwrap_or(-1);
        node.set_cotangent(top_k::X, node.x(top_k::X)?.zeros().scatter(axis, node.y(1)?, node.g()?, false));
        Ok(())
    }

    fn is_selection(&self) -> bool {
        true
    }
}

/// Where the largest or the smallest entry along an axis is.
pub(super) struct ArgMaxMin;

impl Operator for ArgMaxMin {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let mut x = node.axes(0)?;
        let axis = node.axis(node.int("axis").unwrap_or(0), x.len())?;
        node.pin(x[axis], PinReason::Indexed);
        if node.int("keepdims").unwrap_or(1) != 0 {
            x[axis] = Width::ONE;
        } else {
            x.remove(axis);
        }
        node.set(0, x);
        Ok(())
    }

    fn is_selection(&self) -> bool {
        true
    }
}
