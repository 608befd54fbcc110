//! Weights as the file stores them: floating-point constants, and integers behind an operator that changes the element type.

use ndarray::ArrayD;

use super::find;
use crate::{
    graph::{Graph, Use},
    onnx::{self, OnnxError, tensor::to_tensor},
};

/// Whether an operand is a constant that holds weights.
pub fn holds_weights(graph: &Graph, at: Use) -> bool {
    let node = graph.node(at.node);
    let constant = node.inputs.get(at.slot).copied().flatten().and_then(|v| graph.constant(v));
    let recast = || at.slot == 0 && find(&node.proto).is_some_and(|rule| rule.is_cast());
    constant.is_some_and(|tensor| onnx::is_float(tensor) || recast())
}

/// The operand that reads a stored weight, behind casts and dequantisation.
pub fn reader(graph: &Graph, mut at: Use) -> Use {
    while at.slot == 0 && find(&graph.node(at.node).proto).is_some_and(|rule| rule.is_cast()) {
        let result = graph.node(at.node).outputs.first().copied().flatten();
        match result.and_then(|v| graph.uses(v).first().copied()) {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

/// The numbers that an operand holds, if it is a weight: seen through changes of its element type.
///
/// # Errors
/// When a constant cannot be read.
pub fn weight(graph: &Graph, at: Use) -> Result<Option<ArrayD<f32>>, OnnxError> {
    let node = graph.node(at.node);
    let Some(value) = node.inputs.get(at.slot).copied().flatten() else { return Ok(None) };
    if let Some(producer) = graph.producer(value) {
        let is_cast = find(&graph.node(producer).proto).is_some_and(|rule| rule.is_cast());
        return if is_cast { weight(graph, Use { node: producer, slot: 0 }) } else { Ok(None) };
    }
    let Some(constant) = graph.constant(value) else { return Ok(None) };
    let stored = to_tensor(constant)?;
    if let Some(floats) = stored.to_f32() {
        return Ok(Some(floats));
    }
    let operands = node.inputs.iter().map(|v| v.and_then(|v| graph.constant(v)).map(to_tensor).transpose());
    let operands = operands.collect::<Result<Vec<_>, _>>()?;
    Ok(find(&node.proto).filter(|_| at.slot == 0).and_then(|rule| rule.decode(&node.proto, &operands)))
}
