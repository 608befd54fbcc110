//! MatMul and Gemm.

use super::{Linear, NodeTyper, NodeView, Operator};
use crate::widths::Reason;

/// `[…, M, K] · […, K, N] → […, M, N]`, with NumPy's treatment of vectors.
pub(super) struct MatMul;

impl Operator for MatMul {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (a, b) = (node.axes(0)?, node.axes(1)?);
        let Some((&k, a_outer)) = a.split_last() else { return Err(node.form("scalar operand")) };
        // A vector on the right is a column without a column axis.
        let (k_axis, n) = match b.as_slice() {
            [] => return Err(node.form("scalar operand")),
            [_] => (0, None),
            [.., n] => (b.len() - 2, Some(*n)),
        };
        let (m, a_batch) = match a_outer.split_last() {
            Some((m, batch)) => (Some(*m), batch),
            None => (None, &[][..]),
        };
        let b_batch = if b.len() > 2 { &b[..b.len() - 2] } else { &[] };
        let mut result = node.broadcast_axes(&[a_batch, b_batch]);
        let paired = node.is_dynamic(0) && node.is_dynamic(1);
        for axis in result.clone().into_iter().filter(|_| paired) {
            node.batched(axis);
        }
        for axis in n.into_iter().filter(|_| paired) {
            node.paired(axis);
        }
        result.extend(m);
        result.extend(n);
        node.unify(k, b[k_axis]);
        let mut cost = result.clone();
        cost.push(k);
        node.macs(1, &cost);
        // Features are on the axis that comes from the constant, if one operand is constant.
        let feature = match (m, n) {
            (Some(_), _) if !node.is_dynamic(0) => Some(result.len() - 1 - usize::from(n.is_some())),
            _ => n.map(|_| result.len() - 1),
        };
        node.contract(k, (0, a.len() - 1), Some((1, k_axis)), feature);
        node.set(0, result);
        Ok(())
    }

    fn linear(&self, node: &NodeView<'_>, weight: usize) -> Option<Linear> {
        // The weight is `[K, N]` on the right, `[M, K]` on the left.
        let matrices = node.shape(weight)?.len() == 2 && node.shape(1 - weight)?.len() >= 2;
        matrices.then(|| Linear::matrix(if weight == 1 { [0, 1, 2, 3] } else { [0, 1, 3, 2] }))
    }
}

/// `α·op(A)·op(B) + β·C` on matrices.
pub(super) struct Gemm;

impl Operator for Gemm {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (a, b) = (node.axes(0)?, node.axes(1)?);
        if a.len() != 2 || b.len() != 2 {
            return Err(node.form("operands that are not matrices"));
        }
        let k_of_a = if node.int("transA").unwrap_or(0) != 0 { 0 } else { 1 };
        let k_of_b = if node.int("transB").unwrap_or(0) != 0 { 1 } else { 0 };
        let (m, k, n) = (a[1 - k_of_a], a[k_of_a], b[1 - k_of_b]);
        node.unify(k, b[k_of_b]);
        let mut result = vec![m, n];
        if node.has(2) {
            let c = node.axes(2)?;
            result = node.broadcast_axes(&[&result, &c]);
        }
        node.macs(1, &[m, n, k]);
        let feature = usize::from(node.is_dynamic(0));
        node.contract(k, (0, k_of_a), Some((1, k_of_b)), Some(feature));
        node.set(0, result);
        Ok(())
    }

    fn linear(&self, node: &NodeView<'_>, weight: usize) -> Option<Linear> {
        let transposed = |name: &str| node.int(name).unwrap_or(0) != 0;
        let inner_first = if weight == 1 { !transposed("transB") } else { transposed("transA") };
        let order = if inner_first { [0, 1, 2, 3] } else { [0, 1, 3, 2] };
        let factor = |name: &str| f64::from(node.float(name).unwrap_or(1.0));
        // The bias broadcasts along the last axis, which holds the features of a weight on the right.
        let bias = (weight == 1 && factor("beta") != 0.0).then(|| (2, factor("beta")));
        let scale = factor("alpha");
        (scale != 0.0).then(|| Linear { scale, bias, ..Linear::matrix(order) })
    }
}
