//! Operators that work on each element by itself, broadcasting their operands against each other: activations, arithmetic,
//! comparisons, Where, Clip, Dropout and the like.

use ndarray::ArrayD;

use super::{Ids, NodeTyper, Operator, SizeFlow};
use crate::{
    onnx::{attr_int, proto::NodeProto},
    tensor::{DType, Tensor},
    widths::Reason,
};

/// Any elementwise operator. Scalars such as Clip's bounds or Dropout's ratio are operands like all others.
pub(super) struct Elementwise;

impl Operator for Elementwise {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }

    fn ids(&self, node: &NodeProto, slot: usize) -> Option<Ids> {
        Ids::elementwise(node, slot)
    }
}

/// Add and Sum.
pub(super) struct Add;

impl Operator for Add {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }

    fn adds(&self) -> bool {
        true
    }

    fn ids(&self, _node: &NodeProto, slot: usize) -> Option<Ids> {
        match slot {
            0 => Some(Ids::Plus(1)),
            1 => Some(Ids::Plus(0)),
            _ => None,
        }
    }
}

/// Identity and Cast: the same elements under another name or type.
pub(super) struct Rename;

impl Operator for Rename {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.pass()
    }

    fn ids(&self, node: &NodeProto, slot: usize) -> Option<Ids> {
        let to = attr_int(node, "to").and_then(|code| DType::from_onnx(i32::try_from(code).ok()?));
        let keeps = to.is_none_or(|dtype| !dtype.is_float() && dtype != DType::Bool);
        (slot == 0 && keeps).then_some(Ids::Passed)
    }

    fn recasts(&self) -> bool {
        true
    }

    fn decode(&self, _node: &NodeProto, operands: &[Option<Tensor>]) -> Option<ArrayD<f32>> {
        operands.first()?.as_ref()?.as_numbers()
    }
}

fn relate(node: &mut NodeTyper<'_>) -> Result<(), Reason> {
    let present: Vec<usize> = (0..node.input_count()).filter(|slot| node.has(*slot)).collect();
    let axes = node.broadcast(&present)?;
    for slot in 0..node.output_count() {
        node.set(slot, axes.clone());
    }
    Ok(())
}
