//! What ONNX Runtime's optimizer fuses around products and normalisations (domain `com.microsoft`): FusedMatMul, FusedConv,
//! FusedGemm, SkipLayerNormalization, EmbedLayerNormalization.

use super::schema::{OpSchema, OperatorForm, any, float, microsoft, number, slots};
use super::{
    AxisFlow, EditError, IndexFlow, Linear, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper,
    Operator, conv::Conv, gradient::unbroadcast, matmul::Gemm, normalization::Norm,
};
use crate::{
    graph::{Expr, Node},
    onnx::proto::NodeProto,
    widths::{PinReason, SlotAxis, Width},
};

slots! {
    product:
    A = float("A"),
    B = float("B"),
}

slots! {
    conv:
    X = float("X"),
    WEIGHT = float("W"),
    BIAS = float("B").optional(),
    ADDED = float("Z").optional(),
}

slots! {
    skip:
    INPUT = float("input"),
    SKIP = float("skip"),
    SCALE = float("gamma"),
    SHIFT = float("beta").optional(),
    BIAS = float("bias").optional(),
}

slots! {
    skip_rms:
    INPUT = float("input"),
    SKIP = float("skip"),
    SCALE = float("gamma"),
    BIAS = float("bias").optional(),
}

slots! {
    embed:
    WORD_IDS = any("input_ids"),
    SEGMENT_IDS = any("segment_ids").optional(),
    WORDS = float("word_embedding"),
    POSITIONS = float("position_embedding"),
    SEGMENTS = float("segment_embedding").optional(),
    SCALE = float("gamma"),
    SHIFT = float("beta"),
    MASK = any("mask").optional(),
    POSITION_IDS = any("position_ids").optional(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    microsoft("EmbedLayerNormalization", &EmbedLayerNormalization).reads(embed::ALL)
        .makes(&[float("output"), any("mask_index").optional(), float("embedding_sum").optional()])
        .without_gradient(),
    microsoft("FusedConv", &FusedConv).reads(conv::ALL).makes(&[float("Y")])
        .forms(&[OperatorForm::of(""), OperatorForm::of("a sum")]),
    microsoft("FusedGemm", &FusedGemm).reads(&[number("A"), number("B"), number("C").optional()])
        .makes(&[number("Y")]),
    microsoft("FusedMatMul", &FusedMatMul).reads(product::ALL).makes(&[float("Y")]),
    microsoft("SkipLayerNormalization", &SkipNormalization::Layer).reads(skip::ALL)
        .makes(&[
            float("output"), float("mean").optional(), float("inv_std_var").optional(),
            float("input_skip_bias_sum").optional(),
        ]),
    microsoft("SkipSimplifiedLayerNormalization", &SkipNormalization::RootMeanSquare).reads(skip_rms::ALL)
        .makes(&[
            float("output"), float("mean").optional(), float("inv_std_var").optional(),
            float("input_skip_bias_sum").optional(),
        ]),
    microsoft("TransposeMatMul", &FusedMatMul).reads(product::ALL).makes(&[float("Y")]),
];

/// `α·op(A)·op(B)`, where `op` permutes axes.
pub(super) struct FusedMatMul;

impl Operator for FusedMatMul {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (a, b) = (read(node, product::A, A)?, read(node, product::B, B)?);
        let (&[ref a_batch @ .., (_, m), (k_of_a, k)], &[ref b_batch @ .., (k_of_b, rows), (_, n)]) =
            (a.as_slice(), b.as_slice())
        else {
            return Err(node.unsupported("operands of fewer than two axes"));
        };
        let widths = |axes: &[(usize, Width)]| axes.iter().map(|(_, width)| *width).collect::<Vec<_>>();
        let mut result = node.broadcast_axes(&[&widths(a_batch), &widths(b_batch)]);
        if node.is_dynamic(product::A) && node.is_dynamic(product::B) {
            for &axis in &result {
                node.batched(axis);
            }
            node.paired(n);
        }
        result.extend([m, n]);
        node.unify(k, rows);
        let cost: Vec<Width> = result.iter().copied().chain([k]).collect();
        node.macs(1, &cost);
        node.contraction(
            k,
            SlotAxis::new(product::A, k_of_a),
            Some(SlotAxis::new(product::B, k_of_b)),
            Some(result.len() - 1),
        );
        node.set(0, result);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (a, b) =
            (order(node, A, node.shape(product::A)?.len()), order(node, B, node.shape(product::B)?.len()));
        let (left, right) = (node.x(product::A)?.transpose(&a), node.x(product::B)?.transpose(&b));
        let g = node.g()? * node.float("alpha").unwrap_or(1.0);
        if node.needs(product::A) {
            set_product_cotangent(node, product::A, &a, g.matmul(right.matrix_transpose(b.len())))?;
        }
        if node.needs(product::B) {
            set_product_cotangent(node, product::B, &b, left.matrix_transpose(a.len()).matmul(g))?;
        }
        Ok(())
    }
}

/// Gives an operand that is read in the order `order` a product over the batch of the result.
fn set_product_cotangent<'a>(
    node: &NodeGradient<'a>,
    slot: usize,
    order: &[usize],
    product: Expr<'a>,
) -> Result<(), NoGradient> {
    let (stored, result) = (node.shape(slot)?, node.result_shape(0)?);
    let own: Vec<usize> = order.iter().filter_map(|axis| stored.get(*axis).copied()).collect();
    let batch = result.len().saturating_sub(2);
    let whole = [&result[..batch], &own[own.len().saturating_sub(2)..]].concat();
    node.set_cotangent(slot, unbroadcast(product, &whole, &own).transpose_back(order));
    Ok(())
}

/// The attributes that say how the left operand is read.
const A: [&str; 2] = ["transBatchA", "transA"];
/// The attributes that say how the right operand is read.
const B: [&str; 2] = ["transBatchB", "transB"];

/// The axes of an operand in the order in which it is read: `transBatch` makes the first axis the last but one, `trans` swaps
/// the last two.
fn order(node: &Node, [batch, matrix]: [&str; 2], rank: usize) -> Vec<usize> {
    let mut axes: Vec<usize> = (0..rank).collect();
    if rank >= 2 {
        if node.int(batch).unwrap_or(0) != 0 {
            axes[..rank - 1].rotate_left(1);
        }
        if node.int(matrix).unwrap_or(0) != 0 {
            axes.swap(rank - 2, rank - 1);
        }
    }
    axes
}

/// The axes of an operand in that order, each with its place.
fn read(node: &NodeTyper<'_>, slot: usize, flags: [&str; 2]) -> Result<Vec<(usize, Width)>, PinReason> {
    let axes = node.axes(slot)?;
    Ok(order(node, flags, axes.len()).into_iter().map(|place| (place, axes[place])).collect())
}

/// A convolution, plus a fourth operand, through an activation.
pub(super) struct FusedConv;

impl Operator for FusedConv {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        Conv.infer(node)?;
        if let (true, Some(result)) = (node.has(conv::ADDED), node.result(0)) {
            let added = node.axes(conv::ADDED)?;
            node.broadcast_axes(&[&result, &added]);
        }
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        Conv.rewrite(node)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let parameters = node.floats("activation_params").unwrap_or(&[]);
        let g = before_activation(node, &|i| parameters.get(i).copied())?;
        if node.needs(conv::ADDED) {
            node.set_cotangent(conv::ADDED, g);
        }
        Conv::pull_back(node, g)
    }
}

/// A product of matrices, plus a third operand, through an activation.
pub(super) struct FusedGemm;

impl Operator for FusedGemm {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        Gemm.infer(node)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let names = ["activation_alpha", "activation_beta"];
        Gemm::pull_back(node, before_activation(node, &|i| node.float(names.get(i)?))?)
    }

    fn linear(&self, node: &NodeCx<'_>, weight: usize) -> Option<Linear> {
        node.string("activation").is_none().then(|| Gemm.linear(node, weight)).flatten()
    }
}

/// The cotangent of what a fused activation was given. Its slope is a formula of what came out.
fn before_activation<'a>(
    node: &NodeGradient<'a>,
    parameter: &dyn Fn(usize) -> Option<f32>,
) -> Result<Expr<'a>, NoGradient> {
    let (g, y) = (node.g()?, node.y(0)?);
    let inside = |low: f32, high: f32| {
        y.greater(y.scalar(low)).apply("And", &[y.scalar(high).greater(y)], &[]).cast(y.dtype())
    };
    let slope = match node.string("activation") {
        None => return Ok(g),
        Some("Relu") => y.greater(y.scalar(0.0)).cast(y.dtype()),
        Some("Sigmoid") => y - y * y,
        Some("Tanh") => y.scalar(1.0) - y * y,
        Some("LeakyRelu") => {
            y.greater(y.scalar(0.0)).select(y.scalar(1.0), y.scalar(parameter(0).unwrap_or(0.01)))
        }
        Some("Clip") => inside(parameter(0).unwrap_or(f32::MIN), parameter(1).unwrap_or(f32::MAX)),
        Some("HardSigmoid") => inside(0.0, 1.0) * parameter(0).unwrap_or(0.2),
        Some(other) => return Err(node.unsupported(&format!("the activation {other}"))),
    };
    Ok(g * slope)
}

/// The result of [`SkipNormalization`] that is the sum itself.
const SUM: usize = 3;

/// Normalises the sum of two operands (and a bias) over the last axis.
pub(super) enum SkipNormalization {
    /// By mean and standard deviation.
    Layer,
    /// By the root mean square; there is no shift.
    RootMeanSquare,
}

impl Operator for SkipNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let present: Vec<usize> = (0..node.input_count()).filter(|slot| node.has(*slot)).collect();
        let axes = node.broadcast(&present)?;
        let Some((&features, outer)) = axes.split_last() else {
            return Err(node.unsupported("scalar operands"));
        };
        node.pin(features, PinReason::Normalised);
        let statistics: Vec<Width> = outer.iter().copied().chain([Width::ONE]).collect();
        node.set(0, axes.clone());
        node.set(1, statistics.clone());
        node.set(2, statistics);
        node.set(SUM, axes);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let features = node.shape(skip::INPUT).ok()?.len().checked_sub(1)?;
        if axis == features { None } else { AxisFlow::broadcast(node, slot, axis) }
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (bias, centred) = match self {
            Self::Layer => (skip::BIAS, true),
            Self::RootMeanSquare => (skip_rms::BIAS, false),
        };
        if node.cotangent(1).or(node.cotangent(2)).is_some() {
            return Err(node.unsupported("cotangents of its statistics"));
        }
        let mut addends = vec![skip::INPUT, skip::SKIP];
        addends.extend(node.has(bias).then_some(bias));
        let rank = node.result_shape(0)?.len();
        let mut passed = node.cotangent(SUM);
        if let Some(g) = node.cotangent(0) {
            let values = addends.iter().map(|slot| node.x(*slot)).collect::<Result<Vec<_>, _>>()?;
            let sum = values.into_iter().reduce(|a, b| a + b).unwrap_or(g);
            let norm =
                Norm::of(sum, &[rank.saturating_sub(1)], centred, node.float("epsilon").unwrap_or(1e-12));
            let own = norm.gradient(g * node.x(skip::SCALE)?);
            passed = Some(passed.map_or(own, |passed| passed + own));
        }
        let passed = passed.ok_or_else(|| node.unsupported("the cotangent of a statistic"))?;
        for slot in addends.into_iter().filter(|slot| node.needs(*slot)) {
            node.set_from_result_shape(slot, passed)?;
        }
        Ok(())
    }
}

/// Sums embeddings of words, positions and segments, and normalises: `ids[B, S]` → `[B, S, D]`.
pub(super) struct EmbedLayerNormalization;

impl Operator for EmbedLayerNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let mut result = node.axes(embed::WORD_IDS)?;
        // Ids of tokens, segments and positions, and the mask, are all `[B, S]`; the length counts positions.
        for slot in [embed::SEGMENT_IDS, embed::MASK, embed::POSITION_IDS] {
            for (&axis, own) in result.iter().zip(node.axes(slot).unwrap_or_default()) {
                if axis != Width::ONE && own != Width::ONE {
                    node.unify(axis, own);
                }
            }
        }
        for &axis in result.iter().skip(1) {
            node.pin(axis, PinReason::Indexed);
        }
        let words = node.axes(embed::WORDS)?;
        let &[_, features] = words.as_slice() else {
            return Err(node.unsupported("a table that is not a matrix"));
        };
        node.pin(features, PinReason::Normalised);
        for slot in (embed::WORDS..=embed::SHIFT).filter(|slot| node.has(*slot)).collect::<Vec<_>>() {
            let axes = node.axes(slot)?;
            if let Some((&last, rows)) = axes.split_last() {
                node.unify(last, features);
                for &axis in rows {
                    node.pin(axis, PinReason::Indexed);
                }
            }
        }
        node.set(1, result.first().copied().into_iter().collect());
        result.push(features);
        node.set(0, result.clone());
        node.set(2, result);
        Ok(())
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        // Words, segments and positions, each with a table of its own.
        let table = match slot {
            embed::WORD_IDS => embed::WORDS,
            embed::SEGMENT_IDS => embed::SEGMENTS,
            embed::POSITION_IDS => embed::POSITIONS,
            _ => return None,
        };
        Some(IndexFlow::Indexes { table, axis: 0 })
    }
}
