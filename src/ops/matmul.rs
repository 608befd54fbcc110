//! MatMul and Gemm.

use super::schema::{OpSchema, OperatorForm, number, onnx, slots};
use super::{AxisFlow, BiasOperand, Linear, NoGradient, NodeCx, NodeGradient, NodeTyper, Operator};
use crate::{
    graph::Expr,
    widths::{PinReason, SlotAxis},
};

slots! {
    gemm:
    A = number("A"),
    B = number("B"),
    C = number("C").optional(),
}

slots! {
    slot:
    A = number("A"),
    B = number("B"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Gemm", &[1, 6, 7, 9, 11, 13], &Gemm).reads(gemm::ALL).makes(&[number("Y")])
        .forms(&[OperatorForm::of(""), OperatorForm::of("transposed operands")]),
    onnx("MatMul", &[1, 9, 13], &MatMul).reads(slot::ALL).makes(&[number("Y")]),
];

/// `[…, M, K] · […, K, N] → […, M, N]`, with NumPy's treatment of vectors.
pub(super) struct MatMul;

impl Operator for MatMul {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (a, b) = (node.axes(slot::A)?, node.axes(slot::B)?);
        let Some((&k, a_outer)) = a.split_last() else { return Err(node.unsupported("scalar operand")) };
        // A vector on the right is a column without a column axis.
        let (k_axis, n) = match b.as_slice() {
            [] => return Err(node.unsupported("scalar operand")),
            [_] => (0, None),
            [.., n] => (b.len() - 2, Some(*n)),
        };
        let (m, a_batch) = match a_outer.split_last() {
            Some((m, batch)) => (Some(*m), batch),
            None => (None, &[][..]),
        };
        let b_batch = if b.len() > 2 { &b[..b.len() - 2] } else { &[] };
        let mut result = node.broadcast_axes(&[a_batch, b_batch]);
        let paired = node.is_dynamic(slot::A) && node.is_dynamic(slot::B);
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
            (Some(_), _) if !node.is_dynamic(slot::A) => Some(result.len() - 1 - usize::from(n.is_some())),
            _ => n.map(|_| result.len() - 1),
        };
        node.contraction(
            k,
            SlotAxis::new(slot::A, a.len() - 1),
            Some(SlotAxis::new(slot::B, k_axis)),
            feature,
        );
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let (operand, result) = (node.shape(slot).ok()?, node.result_shape(0).ok()?);
        let (rank, own) = (result.len(), operand.len());
        if rank < 2 || own < 2 || result.len() < node.shape(1 - slot).ok()?.len() {
            return None;
        }
        match (rank - axis, slot) {
            (2, slot::A) => Some(AxisFlow::Along(own - 2)),
            (1, slot::B) => Some(AxisFlow::Along(own - 1)),
            (1 | 2, _) => Some(AxisFlow::Same),
            // Before the matrices operands are broadcast.
            _ => AxisFlow::aligned(operand.get(..own - 2)?, result.get(..rank - 2)?, axis),
        }
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (a, b) = (node.x(slot::A)?, node.x(slot::B)?);
        let (a_shape, b_shape) = (node.shape(slot::A)?, node.shape(slot::B)?);
        // Vectors take part as a row on the left and as a column on the right.
        let (row, column) = (a_shape.len() == 1, b_shape.len() == 1);
        let (a, b) = (if row { a.unsqueeze(&[0]) } else { a }, if column { b.unsqueeze(&[1]) } else { b });
        let (a_rank, b_rank) = (a_shape.len().max(2), b_shape.len().max(2));
        let rank = a_rank.max(b_rank);
        let g = node.g()?;
        let g = if column { g.unsqueeze(&[rank - 1 - usize::from(row)]) } else { g };
        let g = if row { g.unsqueeze(&[rank - 2]) } else { g };
        let batch = |i: usize| {
            let of = |shape: &[usize]| (i + shape.len()).checked_sub(rank).map_or(1, |j| shape[j]);
            of(a_shape).max(of(b_shape))
        };
        let batch: Vec<usize> = (0..rank - 2).map(batch).collect();
        let whole = |tail: [usize; 2]| batch.iter().copied().chain(tail).collect::<Vec<_>>();
        let (k, m) = (a_shape[a_shape.len() - 1], if row { 1 } else { a_shape[a_rank - 2] });
        let n = if column { 1 } else { b_shape[b_rank - 1] };
        if node.needs(slot::A) {
            let cotangent = g.matmul(b.matrix_transpose(b_rank));
            if row {
                node.set_unbroadcast(slot::A, cotangent.squeeze(&[rank - 2]), &[&batch[..], &[k]].concat())?
            } else {
                node.set_unbroadcast(slot::A, cotangent, &whole([m, k]))?
            }
        }
        if node.needs(slot::B) {
            let cotangent = a.matrix_transpose(a_rank).matmul(g);
            if column {
                node.set_unbroadcast(slot::B, cotangent.squeeze(&[rank - 1]), &[&batch[..], &[k]].concat())?
            } else {
                node.set_unbroadcast(slot::B, cotangent, &whole([k, n]))?
            }
        }
        Ok(())
    }

    fn linear(&self, node: &NodeCx<'_>, weight: usize) -> Option<Linear> {
        // The weight is `[K, N]` on the right, `[M, K]` on the left.
        let matrices =
            node.shape(weight).ok()?.len() == 2 && node.shape(slot::A + slot::B - weight).ok()?.len() >= 2;
        matrices.then(|| Linear::matrix(if weight == slot::B { [0, 1, 2, 3] } else { [0, 1, 3, 2] }))
    }
}

/// `α·op(A)·op(B) + β·C` on matrices.
pub(super) struct Gemm;

impl Operator for Gemm {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (a, b) = (node.axes(gemm::A)?, node.axes(gemm::B)?);
        if a.len() != 2 || b.len() != 2 {
            return Err(node.unsupported("operands that are not matrices"));
        }
        let k_of_a = if node.int("transA").unwrap_or(0) != 0 { 0 } else { 1 };
        let k_of_b = if node.int("transB").unwrap_or(0) != 0 { 1 } else { 0 };
        let (m, k, n) = (a[1 - k_of_a], a[k_of_a], b[1 - k_of_b]);
        node.unify(k, b[k_of_b]);
        let mut result = vec![m, n];
        if node.has(gemm::C) {
            let c = node.axes(gemm::C)?;
            result = node.broadcast_axes(&[&result, &c]);
        }
        node.macs(1, &[m, n, k]);
        let feature = usize::from(node.is_dynamic(gemm::A));
        node.contraction(
            k,
            SlotAxis::new(gemm::A, k_of_a),
            Some(SlotAxis::new(gemm::B, k_of_b)),
            Some(feature),
        );
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let transposed = |name: &str| usize::from(node.int(name).unwrap_or(0) != 0);
        match (slot, axis) {
            (gemm::A, 0) => Some(AxisFlow::Along(transposed("transA"))),
            (gemm::B, 1) => Some(AxisFlow::Along(1 - transposed("transB"))),
            (gemm::A | gemm::B, _) => Some(AxisFlow::Same),
            _ => AxisFlow::broadcast(node, slot, axis),
        }
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        Self::pull_back(node, node.g()?)
    }

    fn linear(&self, node: &NodeCx<'_>, weight: usize) -> Option<Linear> {
        let transposed = |name: &str| node.int(name).unwrap_or(0) != 0;
        let inner_first = if weight == gemm::B { !transposed("transB") } else { transposed("transA") };
        let order = if inner_first { [0, 1, 2, 3] } else { [0, 1, 3, 2] };
        let factor = |name: &str| f64::from(node.float(name).unwrap_or(1.0));
        // The bias broadcasts along the last axis, which holds the features of a weight on the right.
        let bias = (weight == gemm::B && factor("beta") != 0.0)
            .then(|| BiasOperand { slot: gemm::C, factor: factor("beta") });
        let scale = factor("alpha");
        (scale != 0.0).then(|| Linear { scale, bias, ..Linear::matrix(order) })
    }
}

impl Gemm {
    /// Gives the operands their cotangents, where `g` is that of the product and its bias.
    pub fn pull_back<'a>(node: &NodeGradient<'a>, g: Expr<'a>) -> Result<(), NoGradient> {
        let (a, b) = (node.x(gemm::A)?, node.x(gemm::B)?);
        let flag = |name| node.int(name).unwrap_or(0) != 0;
        let scaled = g * node.float("alpha").unwrap_or(1.0);
        if node.needs(gemm::A) {
            // op(A) has the cotangent g · op(B)ᵀ.
            node.set_cotangent(
                gemm::A,
                transpose_if(scaled.matmul(transpose_if(b, !flag("transB"))), flag("transA")),
            );
        }
        if node.needs(gemm::B) {
            node.set_cotangent(
                gemm::B,
                transpose_if(transpose_if(a, !flag("transA")).matmul(scaled), flag("transB")),
            );
        }
        if node.needs(gemm::C) {
            node.set_from_result_shape(gemm::C, g * node.float("beta").unwrap_or(1.0))?;
        }
        Ok(())
    }
}

fn transpose_if<'a>(x: Expr<'a>, transpose: bool) -> Expr<'a> {
    if transpose { x.matrix_transpose(2) } else { x }
}
