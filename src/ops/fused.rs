//! What ONNX Runtime's optimizer fuses around products and normalisations (domain `com.microsoft`): FusedMatMul, FusedConv,
//! SkipLayerNormalization, EmbedLayerNormalization. FusedGemm is typed as Gemm is.

use super::{
    EditError, Ids, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator, conv::Conv,
    normalization::Norm,
};
use crate::{
    onnx::proto::NodeProto,
    widths::{Reason, Width},
};

/// `α·op(A)·op(B)`, where `op` permutes axes.
pub(super) struct FusedMatMul;

impl Operator for FusedMatMul {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (a, b) = (read(node, 0, "transBatchA", "transA")?, read(node, 1, "transBatchB", "transB")?);
        let (&[ref a_batch @ .., (_, m), (k_of_a, k)], &[ref b_batch @ .., (k_of_b, rows), (_, n)]) =
            (a.as_slice(), b.as_slice())
        else {
            return Err(node.form("operands of fewer than two axes"));
        };
        let widths = |axes: &[(usize, Width)]| axes.iter().map(|(_, width)| *width).collect::<Vec<_>>();
        let mut result = node.broadcast_axes(&[&widths(a_batch), &widths(b_batch)]);
        if node.is_dynamic(0) && node.is_dynamic(1) {
            for &axis in &result {
                node.batched(axis);
            }
            node.paired(n);
        }
        result.extend([m, n]);
        node.unify(k, rows);
        let cost: Vec<Width> = result.iter().copied().chain([k]).collect();
        node.macs(1, &cost);
        node.contract(k, (0, k_of_a), Some((1, k_of_b)), Some(result.len() - 1));
        node.set(0, result);
        Ok(())
    }
}

/// The axes of an operand in the order in which it is read, each with its place: `transBatch` makes the first axis the last
/// but one, `trans` swaps the last two.
fn read(node: &NodeTyper<'_>, slot: usize, batch: &str, matrix: &str) -> Result<Vec<(usize, Width)>, Reason> {
    let mut axes: Vec<_> = node.axes(slot)?.into_iter().enumerate().collect();
    let rank = axes.len();
    if rank >= 2 {
        if node.int(batch).unwrap_or(0) != 0 {
            axes[..rank - 1].rotate_left(1);
        }
        if node.int(matrix).unwrap_or(0) != 0 {
            axes.swap(rank - 2, rank - 1);
        }
    }
    Ok(axes)
}

/// A convolution, plus a fourth operand, through an activation.
pub(super) struct FusedConv;

impl Operator for FusedConv {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        Conv.infer(node)?;
        if let (true, Some(result)) = (node.has(3), node.result(0)) {
            let added = node.axes(3)?;
            node.broadcast_axes(&[&result, &added]);
        }
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        Conv.rewrite(node)
    }
}

/// Normalises the sum of two operands (and a bias) over the last axis. The fourth result is the sum itself.
pub(super) enum SkipNormalization {
    /// By mean and standard deviation.
    Layer,
    /// By the root mean square; there is no shift.
    RootMeanSquare,
}

impl Operator for SkipNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let present: Vec<usize> = (0..node.input_count()).filter(|slot| node.has(*slot)).collect();
        let axes = node.broadcast(&present)?;
        let Some((&features, outer)) = axes.split_last() else { return Err(node.form("scalar operands")) };
        node.pin(features, Reason::Normalised);
        let statistics: Vec<Width> = outer.iter().copied().chain([Width::ONE]).collect();
        node.set(0, axes.clone());
        node.set(1, statistics.clone());
        node.set(2, statistics);
        node.set(3, axes);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (bias, centred) = match self {
            Self::Layer => (4, true),
            Self::RootMeanSquare => (3, false),
        };
        let mut addends = vec![0, 1];
        addends.extend(node.has(bias).then_some(bias));
        let rank = node.result_shape(0)?.len();
        let mut passed = node.cotangent(3);
        if let Some(g) = node.cotangent(0) {
            let values = addends.iter().map(|slot| node.x(*slot)).collect::<Result<Vec<_>, _>>()?;
            let sum = values.into_iter().reduce(|a, b| a + b).unwrap_or(g);
            let norm =
                Norm::of(sum, &[rank.saturating_sub(1)], centred, node.float("epsilon").unwrap_or(1e-12));
            let own = norm.gradient(g * node.x(2)?);
            passed = Some(passed.map_or(own, |passed| passed + own));
        }
        let passed = passed.ok_or_else(|| node.none("the cotangent of a statistic"))?;
        for slot in addends.into_iter().filter(|slot| node.needs(*slot)) {
            node.give_broadcast(slot, passed)?;
        }
        Ok(())
    }
}

/// Sums embeddings of words, positions and segments, and normalises: `ids[B, S]` → `[B, S, D]`.
pub(super) struct EmbedLayerNormalization;

impl Operator for EmbedLayerNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let mut result = node.axes(0)?;
        let words = node.axes(2)?;
        let &[_, features] = words.as_slice() else { return Err(node.form("a table that is not a matrix")) };
        node.pin(features, Reason::Normalised);
        for slot in (2..7).filter(|slot| node.has(*slot)).collect::<Vec<_>>() {
            let axes = node.axes(slot)?;
            if let Some((&last, rows)) = axes.split_last() {
                node.unify(last, features);
                for &axis in rows {
                    node.pin(axis, Reason::Indexed);
                }
            }
        }
        node.set(1, result.first().copied().into_iter().collect());
        result.push(features);
        node.set(0, result.clone());
        node.set(2, result);
        Ok(())
    }

    fn ids(&self, _node: &NodeProto, slot: usize) -> Option<Ids> {
        // Words, segments and positions, each with a table of its own.
        let table = match slot {
            0 => 2,
            1 => 4,
            8 => 3,
            _ => return None,
        };
        Some(Ids::Indexes { table, axis: 0 })
    }
}
