//! Softmax and LogSoftmax.

use super::{NodeTyper, Operator};
use crate::widths::Reason;

/// Entries along the axis compete: none can go without changing the others.
pub(super) struct Softmax;

impl Operator for Softmax {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        // Before operator set 13 the input is flattened to two axes first, and all from `axis` on compete.
        let flattens = node.opset() < 13;
        let first = node.axis(node.int("axis").unwrap_or(if flattens { 1 } else { -1 }), x.len())?;
        let last = if flattens { x.len() } else { first + 1 };
        for &axis in &x[first..last] {
            node.pin(axis, Reason::Softmax);
        }
        node.set(0, x);
        Ok(())
    }

    fn normalises(&self) -> bool {
        true
    }
}
