//! ONNX Runtime's mixtures of experts as one operator: MoE, and QMoE with quantised weights.

use super::{NodeTyper, Operator};
use crate::widths::Reason;

/// Of each token, the experts that it is routed to: `x[…, D]`, `routes[tokens, experts]`, `weights[experts, …, …]`. The inner
/// extent of the experts ends inside the operator, where no mask can reach it, and so keeps its extent.
pub(super) struct Experts {
    /// Slots of the weights; the last one is only there where a gate has its own.
    pub weights: [usize; 3],
}

impl Operator for Experts {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let Some((&features, tokens)) = x.split_last() else { return Err(node.form("a scalar operand")) };
        let reason = node.form("experts that end inside it");
        for slot in 1..node.input_count() {
            for axis in node.axes(slot).unwrap_or_default() {
                node.pin(axis, reason.clone());
            }
        }
        node.pin(features, reason);
        // Quantised weights are packed into bytes.
        let packed = 8 / node.int("expert_weight_bits").unwrap_or(8).clamp(1, 8) as u64;
        let experts = node.int("k").unwrap_or(1).max(1) as u64;
        for slot in self.weights {
            if let Ok(&[_, rows, columns]) = node.axes(slot).as_deref() {
                node.macs(experts * packed, &[tokens, &[rows, columns]].concat());
            }
        }
        node.set(0, x);
        Ok(())
    }
}
