//! Softmax and LogSoftmax.

use super::schema::{OpSchema, float, onnx};
use super::{AxisFlow, NoGradient, NodeCx, NodeGradient, NodeTyper, Operator};
use crate::widths::PinReason;

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Hardmax", &[1, 11, 13], &SoftmaxFamily::Hardmax).reads(&[float("input")]).makes(&[float("output")]),
    onnx("LogSoftmax", &[1, 11, 13], &SoftmaxFamily::LogSoftmax).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Softmax", &[1, 11, 13], &SoftmaxFamily::Softmax).reads(&[float("input")]).makes(&[float("output")]),
];

/// Softmax, LogSoftmax and Hardmax: all entries along the axis depend on each other, so that it is pinned.
pub(super) enum SoftmaxFamily {
    /// `exp(x) / Σ exp(x)`.
    Softmax,
    /// `x − log Σ exp(x)`.
    LogSoftmax,
    /// One at the largest entry, else zero: piecewise constant.
    Hardmax,
}

impl Operator for SoftmaxFamily {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let first = node.axis(default_axis(node.opset(), node.int("axis")), x.len())?;
        for &axis in &x[competing(node.opset(), first, x.len())] {
            node.pin(axis, PinReason::Softmax);
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (g, y) = (node.g()?, node.y(0)?);
        let rank = node.shape(0)?.len();
        let first = node.axis(default_axis(node.opset(), node.int("axis")), rank)?;
        let axes: Vec<usize> = competing(node.opset(), first, rank).collect();
        let cotangent = match self {
            Self::Softmax => y * (g - (y * g).sum(&axes, true)),
            Self::Hardmax => {
                node.set_zero_cotangent(0);
                return Ok(());
            }
            Self::LogSoftmax => g - y.map("Exp") * g.sum(&axes, true),
        };
        node.set_cotangent(0, cotangent);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, _slot: usize, axis: usize) -> Option<AxisFlow> {
        let rank = node.shape(0).ok()?.len();
        let first = node.axis(default_axis(node.opset(), node.int("axis")), rank).ok()?;
        (!competing(node.opset(), first, rank).contains(&axis)).then_some(AxisFlow::Along(axis))
    }

    fn is_softmax(&self) -> bool {
        matches!(self, Self::Softmax)
    }

    fn is_log_softmax(&self) -> bool {
        matches!(self, Self::LogSoftmax)
    }
}

fn default_axis(opset: i64, axis: Option<i64>) -> i64 {
    axis.unwrap_or(if opset < 13 { 1 } else { -1 })
}

/// Before operator set 13 the input is flattened to two axes first, and all from `axis` on compete.
fn competing(opset: i64, axis: usize, rank: usize) -> std::ops::Range<usize> {
    if opset < 13 { axis..rank } else { axis..axis + 1 }
}
