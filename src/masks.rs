//! Masks: removing units without removing anything, by zeroing them where they end.
//!
//! A unit's entries are zeroed right before each sum over its width. By the typing rules nothing else sees them, so the
//! masked model computes what the pruned model must compute.

use ndarray::{ArrayD, IxDyn};

use crate::{
    graph::{Facts, Graph, Patch},
    onnx::{build::value_info, proto::NodeProto, tensor::from_tensor},
    tensor::{DType, Tensor},
    widths::{Contraction, Kept, Widths},
};

/// A model edit that zeroes, before every sum, the entries that `kept` leaves out.
pub fn constant(graph: &Graph, facts: &Facts, widths: &Widths, kept: &Kept) -> Patch {
    let mut patch = Patch::default();
    zero(graph, facts, widths, kept, &mut patch);
    patch
}

/// Adds the same to a patch.
pub(crate) fn zero(graph: &Graph, facts: &Facts, widths: &Widths, kept: &Kept, patch: &mut Patch) {
    for contraction in &widths.contractions {
        let Some(mask) = entries_mask(widths, graph, contraction, kept) else { continue };
        let Some(mask) = shaped(graph, facts, contraction, &mask) else { continue };
        // Without the axes before its own: an operand that Squeeze took the batch from, as it was one, is not to get it back.
        let own = mask.shape().get(contraction.axis..).unwrap_or_default().to_vec();
        let Some(mask) = mask.reshape(&own) else { continue };
        let name = patch.fresh(graph, "mask");
        patch.constant(from_tensor(&name, &mask));
        multiply(patch, graph, contraction, name);
    }
}

/// Adds a mask as a graph input before a sum, and returns its name. It is fed with what [`shaped`] makes.
pub fn input(patch: &mut Patch, graph: &Graph, facts: &Facts, contraction: &Contraction) -> String {
    let name = patch.fresh(graph, "mask");
    let fact = operand(graph, contraction).and_then(|v| facts.get(v));
    let rank = fact.map_or(0, |f| f.shape.len());
    patch.input(value_info(&name, fact.map_or(DType::F32, |f| f.dtype), rank));
    multiply(patch, graph, contraction, name.clone());
    name
}

/// One per entry of the contraction's axis: 0 where `kept` leaves a unit of the summed width out. `None` when all stay.
///
/// Only the summed width counts: in a grouped convolution the groups themselves pass, and end elsewhere.
pub fn entries_mask(
    widths: &Widths,
    graph: &Graph,
    contraction: &Contraction,
    kept: &Kept,
) -> Option<Vec<f32>> {
    let axis = widths.at(graph, contraction.place())?;
    let summed = kept.within(&widths.table, contraction.width);
    let entries = summed.entries(&widths.table, axis)?;
    let mut mask = vec![0.0; widths.table.size(axis)];
    for entry in entries {
        mask[entry] = 1.0;
    }
    Some(mask)
}

/// The mask of one axis as a tensor that multiplies the contraction's operand.
pub fn shaped(graph: &Graph, facts: &Facts, contraction: &Contraction, mask: &[f32]) -> Option<Tensor> {
    let fact = facts.get(operand(graph, contraction)?)?;
    let mut shape = vec![1; fact.shape.len()];
    *shape.get_mut(contraction.axis)? = mask.len();
    Tensor::F32(ArrayD::from_shape_vec(IxDyn(&shape), mask.to_vec()).ok()?).cast_float(fact.dtype)
}

fn operand(graph: &Graph, contraction: &Contraction) -> Option<crate::graph::ValueId> {
    graph.node(contraction.node).inputs.get(contraction.slot).copied().flatten()
}

fn multiply(patch: &mut Patch, graph: &Graph, contraction: &Contraction, mask: String) {
    let Some(value) = operand(graph, contraction) else { return };
    let masked = patch.fresh(graph, "masked");
    // An operand that several axes are summed of has a mask for each.
    let whole = patch.rewired(contraction.operand()).unwrap_or(&graph.value(value).name).to_owned();
    let node = NodeProto {
        op_type: Some("Mul".to_owned()),
        name: Some(masked.clone()),
        input: vec![whole, mask],
        output: vec![masked.clone()],
        ..Default::default()
    };
    patch.insert(contraction.node, node);
    patch.rewire(contraction.operand(), masked);
}
