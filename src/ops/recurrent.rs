//! LSTM, GRU and RNN.

use super::schema::{OpSchema, float, onnx, slots};
use super::{NodeTyper, Operator};
use crate::widths::{PinReason, SlotAxis};

slots! {
    lstm:
    X = float("X"),
    WEIGHT = float("W"),
    RECURRENCE = float("R"),
    BIAS = float("B").optional(),
    LENGTHS = any("sequence_lens").optional(),
    INITIAL_H = float("initial_h").optional(),
    INITIAL_C = float("initial_c").optional(),
    PEEPHOLES = float("P").optional(),
}

slots! {
    slot:
    X = float("X"),
    WEIGHT = float("W"),
    RECURRENCE = float("R"),
    BIAS = float("B").optional(),
    LENGTHS = any("sequence_lens").optional(),
    INITIAL_H = float("initial_h").optional(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("GRU", &[1, 3, 7, 14, 22], &Recurrent).reads(slot::ALL)
        .makes(&[float("Y").optional(), float("Y_h").optional()])
        .without_gradient(),
    onnx("LSTM", &[1, 7, 14, 22], &Recurrent).reads(lstm::ALL)
        .makes(&[float("Y").optional(), float("Y_h").optional(), float("Y_c").optional()])
        .without_gradient(),
    onnx("RNN", &[1, 7, 14, 22], &Recurrent).reads(slot::ALL).makes(&[float("Y").optional(), float("Y_h").optional()])
        .without_gradient(),
];

/// `X[T, B, I]` (or `[B, T, I]`), `W[directions, gates·H, I]`: the input features end in a sum. The hidden state keeps its
/// extent, as it ends inside the operator, where no mask can reach it.
pub(super) struct Recurrent;

impl Operator for Recurrent {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (x, w) = (node.axes(slot::X)?, node.axes(slot::WEIGHT)?);
        let (&[first, second, input], &[directions, gates, columns]) = (x.as_slice(), w.as_slice()) else {
            return Err(node.unsupported("operands of unexpected rank"));
        };
        let own = PinReason::Form { op: node.op_type().to_owned(), what: "a hidden state".to_owned() };
        for slot in slot::WEIGHT..node.input_count() {
            for axis in node.axes(slot).unwrap_or_default().into_iter().filter(|a| *a != columns) {
                node.pin(axis, own.clone());
            }
        }
        node.pin(first, own.clone());
        node.pin(second, own.clone());
        node.unify(input, columns);
        node.macs(1, &[first, second, directions, gates, input]);
        if let Ok(&[_, _, hidden]) = node.shape(slot::RECURRENCE) {
            node.macs(hidden as u64, &[first, second, directions, gates]);
        }
        node.contraction(input, SlotAxis::new(slot::X, 2), Some(SlotAxis::new(slot::WEIGHT, 2)), None);
        for slot in 0..node.output_count() {
            if let Ok(shape) = node.result_shape(slot) {
                let axes = shape.iter().map(|&size| node.fixed(size, own.clone())).collect();
                node.set(slot, axes);
            }
        }
        Ok(())
    }
}
