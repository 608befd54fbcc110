//! LSTM, GRU and RNN.

use super::{NodeTyper, Operator};
use crate::widths::Reason;

/// `X[T, B, I]` (or `[B, T, I]`), `W[directions, gates·H, I]`: the input features end in a sum. The hidden state keeps its
/// extent, as it ends inside the operator, where no mask can reach it.
pub(super) struct Recurrent;

impl Operator for Recurrent {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (x, w) = (node.axes(0)?, node.axes(1)?);
        let (&[first, second, input], &[directions, gates, columns]) = (x.as_slice(), w.as_slice()) else {
            return Err(node.form("operands of unexpected rank"));
        };
        let own = Reason::Form { op: node.op_type().to_owned(), what: "a hidden state".to_owned() };
        for slot in 1..node.input_count() {
            for axis in node.axes(slot).unwrap_or_default().into_iter().filter(|a| *a != columns) {
                node.pin(axis, own.clone());
            }
        }
        node.pin(first, own.clone());
        node.pin(second, own.clone());
        node.unify(input, columns);
        node.macs(1, &[first, second, directions, gates, input]);
        if let Ok(&[_, _, hidden]) = node.shape(2) {
            node.macs(hidden as u64, &[first, second, directions, gates]);
        }
        node.contract(input, (0, 2), Some((1, 2)), None);
        for slot in 0..node.output_count() {
            if let Ok(shape) = node.result_shape(slot) {
                let axes = shape.iter().map(|&size| node.fixed(size, own.clone())).collect();
                node.set(slot, axes);
            }
        }
        Ok(())
    }
}
