//! Pad.

use super::{Ids, NodeTyper, Operator};
use crate::{onnx::proto::NodeProto, widths::Reason};

/// Adds entries around an axis.
pub(super) struct Pad;

impl Operator for Pad {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let mut axes = node.axes(0)?;
        let result = node.result_shape(0)?;
        let pads = node.ints_or_operand("pads", 1).ok_or_else(|| node.form("pads that were not observed"))?;
        let padded: Vec<i64> = match node.contents(3) {
            Some(listed) => listed.to_vec(),
            None => (0..axes.len() as i64).collect(),
        };
        if pads.len() != 2 * padded.len() || result.len() != axes.len() {
            return Err(node.form("pads that do not fit its operand"));
        }
        for (i, &axis) in padded.iter().enumerate() {
            let axis = node.axis(axis, axes.len())?;
            if pads[i] != 0 || pads[i + padded.len()] != 0 {
                let reason = Reason::Rearranged("Pad".to_owned());
                node.pin(axes[axis], reason.clone());
                axes[axis] = node.fixed(result[axis], reason);
            }
        }
        node.set(0, axes);
        Ok(())
    }

    // Axes that shrink are not padded, so the pads stay as they are.
    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn ids(&self, _node: &NodeProto, slot: usize) -> Option<Ids> {
        Ids::moved(slot)
    }
}
