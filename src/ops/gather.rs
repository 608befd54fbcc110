//! Gather.

use super::{Ids, NodeTyper, Operator, SizeFlow};
use crate::{
    onnx::{attr_int, proto::NodeProto},
    widths::Reason,
};

/// Picks entries of one axis by index: embeddings, the CLS token, one of q, k and v.
pub(super) struct Gather;

impl Operator for Gather {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (data, indices) = (node.axes(0)?, node.axes(1)?);
        let axis = node.axis(node.int("axis").unwrap_or(0), data.len())?;
        node.pin(data[axis], Reason::Indexed);
        let mut result = data[..axis].to_vec();
        result.extend(indices);
        result.extend(&data[axis + 1..]);
        node.set(0, result);
        Ok(())
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        let elements = flow.elements_or_constants(0)?;
        let n = elements.len() as i64;
        let indices = flow.contents(1)?;
        let picked =
            indices.iter().map(|&i| elements.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?));
        let picked: Vec<_> = picked.map(|e| e.cloned()).collect::<Option<_>>()?;
        flow.set(picked)
    }

    fn ids(&self, node: &NodeProto, slot: usize) -> Option<Ids> {
        match slot {
            0 => Some(Ids::Passed),
            1 => Some(Ids::Indexes { table: 0, axis: attr_int(node, "axis").unwrap_or(0) }),
            _ => None,
        }
    }
}
