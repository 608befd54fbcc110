//! Transpose.

use super::schema::{OpSchema, any, onnx};
use ndarray::ArrayD;

use super::{AxisFlow, IndexFlow, NoGradient, NodeCx, NodeGradient, NodeTyper, Operator, linear::uniform};
use crate::{onnx::proto::NodeProto, widths::PinReason};

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Transpose", &[1, 13, 21, 23, 24, 25], &Transpose).reads(&[any("data")]).makes(&[any("transposed")]),
];

/// Permutes axes; without `perm`, reverses them.
pub(super) struct Transpose;

impl Operator for Transpose {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let perm = node.ints("perm").unwrap_or_else(|| (0..x.len() as i64).rev().collect());
        let axes = perm.iter().map(|&p| node.axis(p, x.len()).map(|p| x[p])).collect::<Result<_, _>>()?;
        node.set(0, axes);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let rank = node.shape(0)?.len();
        let perm = node.ints("perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
        let perm = perm.iter().map(|&axis| node.axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        node.set_cotangent(0, node.g()?.transpose_back(&perm));
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, _slot: usize, axis: usize) -> Option<AxisFlow> {
        let rank = node.shape(0).ok()?.len();
        let perm = node.ints("perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
        Some(AxisFlow::Along(node.axis(*perm.get(axis)?, rank).ok()?))
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }

    fn gain(&self, _node: &NodeCx<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(1.0))
    }
}
