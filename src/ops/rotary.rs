//! RotaryEmbedding, of the standard (operator set 23) and of ONNX Runtime.

use super::schema::{OpSchema, float, microsoft, onnx, slots};
use super::{
    EditError, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator, attention::split_heads_axis,
};
use crate::widths::PinReason;

slots! {
    standard:
    X = float("X"),
    COSINES = float("cos_cache"),
    SINES = float("sin_cache"),
    POSITIONS = int64("position_ids").optional(),
}

slots! {
    microsoft:
    X = float("input"),
    POSITIONS = int64("position_ids"),
    COSINES = float("cos_cache"),
    SINES = float("sin_cache"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("RotaryEmbedding", &[23], &RotaryEmbedding { tables: [standard::COSINES, standard::SINES] })
        .reads(standard::ALL).makes(&[float("Y")]),
    microsoft("RotaryEmbedding", &RotaryEmbedding { tables: [microsoft::COSINES, microsoft::SINES] })
        .reads(microsoft::ALL).makes(&[float("output")]),
];

/// Turns pairs of entries within each head, `[B, H, S, E]` or `[B, S, H·E]`. The two forms list the tables of cosines and
/// sines in different slots.
pub(super) struct RotaryEmbedding {
    /// Slots of the tables, whose last axis has an entry per pair.
    pub tables: [usize; 2],
}

impl Operator for RotaryEmbedding {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let rotated = PinReason::Rearranged(node.op_type().to_owned());
        for slot in self.tables {
            for axis in node.axes(slot)? {
                node.pin(axis, rotated.clone());
            }
        }
        // How far entries turn depends on their position in the sequence.
        match *x.as_slice() {
            [_, _, length, inner] => {
                node.pin(length, rotated.clone());
                node.pin(inner, rotated);
            }
            [_, length, merged] => {
                node.pin(length, rotated.clone());
                let inner = match node.int("num_heads").unwrap_or(0) {
                    // Without a head count the tables say the extent of a head.
                    0 => {
                        let pairs = node.shape(self.tables[0])?.last().copied().unwrap_or(0);
                        let heads = node.size(merged).checked_div(2 * pairs).unwrap_or(0);
                        split_heads_axis(node, merged, heads as i64)?.1
                    }
                    heads => split_heads_axis(node, merged, heads)?.1,
                };
                node.pin(inner, rotated);
            }
            _ => return Err(node.unsupported("an operand of unexpected rank")),
        }
        node.set(0, x);
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        if node.axes(0).len() == 3 {
            node.scale_int("num_heads", node.axes(0).last());
        }
        Ok(())
    }

    /// Cotangents turn the other way: by sines of the other sign.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let mut operands = Vec::with_capacity(node.input_count());
        for slot in 0..node.input_count() {
            operands.push(match node.has(slot) {
                _ if slot == 0 => Some(node.g()?),
                true if slot == self.tables[1] => Some(-node.x(slot)?),
                true => Some(node.x(slot)?),
                false => None,
            });
        }
        node.set_cotangent(0, node.reemit(&operands)?);
        Ok(())
    }
}
