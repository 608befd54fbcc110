//! ONNX Runtime's mixtures of experts as one operator: MoE, and QMoE with quantised weights.

use super::schema::{OpSchema, float, microsoft, slots};
use super::{NodeTyper, Operator};
use crate::widths::PinReason;

slots! {
    moe:
    INPUT = float("input"),
    ROUTES = float("router_probs"),
    FC1 = float("fc1_experts_weights"),
    BIAS1 = float("fc1_experts_bias").optional(),
    FC2 = float("fc2_experts_weights"),
    BIAS2 = float("fc2_experts_bias").optional(),
    FC3 = float("fc3_experts_weights").optional(),
    BIAS3 = float("fc3_experts_bias").optional(),
}

slots! {
    qmoe:
    INPUT = float("input"),
    ROUTES = float("router_probs"),
    FC1 = number("fc1_experts_weights"),
    FC1_SCALES = float("fc1_scales").optional(),
    FC1_EXPERTS_BIAS = float("fc1_experts_bias").optional(),
    FC2 = number("fc2_experts_weights"),
    FC2_SCALES = float("fc2_scales").optional(),
    FC2_EXPERTS_BIAS = float("fc2_experts_bias").optional(),
    FC3 = number("fc3_experts_weights").optional(),
    FC3_SCALES = float("fc3_scales").optional(),
    FC3_EXPERTS_BIAS = float("fc3_experts_bias").optional(),
    FC1_ZERO_POINTS = number("fc1_zero_points").optional(),
    FC2_ZERO_POINTS = number("fc2_zero_points").optional(),
    FC3_ZERO_POINTS = number("fc3_zero_points").optional(),
    ROUTER_WEIGHTS = float("router_weights").optional(),
    FC1_GLOBAL_SCALE = float("fc1_global_scale").optional(),
    FC2_GLOBAL_SCALE = float("fc2_global_scale").optional(),
    FC1_ACT_SCALE = float("fc1_act_scale").optional(),
    FC2_ACT_SCALE = float("fc2_act_scale").optional(),
    FC1_ACT_BLOCK_SCALE = float("fc1_act_block_scale").optional(),
    FC2_ACT_BLOCK_SCALE = float("fc2_act_block_scale").optional(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    microsoft("MoE", &MixtureOfExperts { weights: [moe::FC1, moe::FC2, moe::FC3] }).reads(moe::ALL).makes(&[float("output")])
        .without_gradient(),
    microsoft("QMoE", &MixtureOfExperts { weights: [qmoe::FC1, qmoe::FC2, qmoe::FC3] }).reads(qmoe::ALL)
        .makes(&[float("output")])
        .without_gradient(),
];

/// Of each token, the experts that it is routed to: `x[…, D]`, `routes[tokens, experts]`, `weights[experts, …, …]`. The inner
/// extent of the experts ends inside the operator, where no mask can reach it, and so keeps its extent.
pub(super) struct MixtureOfExperts {
    /// Slots of the weights; the last one is only there where a gate has its own.
    pub weights: [usize; 3],
}

impl Operator for MixtureOfExperts {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let Some((&features, tokens)) = x.split_last() else {
            return Err(node.unsupported("a scalar operand"));
        };
        let reason = node.unsupported("experts that end inside it");
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
