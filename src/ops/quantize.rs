//! QuantizeLinear and DequantizeLinear.

use super::schema::{OpSchema, OperatorForm, any, float, microsoft, number, onnx, slots};
use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, IxDyn};

use super::{NodeTyper, Operator};
use crate::{
    onnx::{
        attr_int,
        proto::{ModelProto, NodeProto},
    },
    tensor::Tensor,
    widths::{PinReason, Width},
};

slots! {
    slot:
    X = number("x"),
    SCALE = float("x_scale"),
    ZERO = number("x_zero_point").optional(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("DequantizeLinear", &[10, 13, 19, 21, 23, 24, 25, 28], &Dequantize).reads(slot::ALL).makes(&[float("y")])
        .forms(&[OperatorForm::of("a scale for all"), OperatorForm::of("a scale for each entry of an axis").since(13)])
        .without_gradient(),
    onnx("QuantizeLinear", &[10, 13, 19, 21, 23, 24, 25, 28], &Quantize)
        .reads(&[number("x"), number("y_scale"), number("y_zero_point").optional()])
        .makes(&[number("y")])
        .forms(&[OperatorForm::of("a scale for all"), OperatorForm::of("a scale for each entry of an axis").since(13)])
        .without_gradient(),
    microsoft("DequantizeLinear", &Dequantize).reads(&[any("x"), float("x_scale"), any("x_zero_point").optional()])
        .makes(&[float("y")])
        .without_gradient(),
    microsoft("QuantizeLinear", &Quantize).reads(&[float("x"), float("y_scale"), any("y_zero_point").optional()])
        .makes(&[any("y")])
        .without_gradient(),
];

/// Whether an operator, called as [`super::operator_name`] has it, computes on quantised integers: then its weights are what is left
/// of the trained ones.
pub fn is_quantized(operator: &str) -> bool {
    let name = operator.rsplit('.').next().unwrap_or(operator);
    name.ends_with("Integer")
        || ["QLinear", "QGemm", "QAttention", "DynamicQuantize"].iter().any(|start| name.starts_with(start))
}

/// QuantizeLinear: each element by itself, by a scale and a zero point for the whole tensor or for each entry of one axis.
pub(super) struct Quantize;

impl Operator for Quantize {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        relate(node)
    }
}

/// DequantizeLinear: the way back. Of a constant, it is how the file stores a weight.
pub(super) struct Dequantize;

impl Operator for Dequantize {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        relate(node)
    }

    fn is_cast(&self) -> bool {
        true
    }

    fn decode(&self, node: &NodeProto, operands: &[Option<Tensor>]) -> Option<ArrayD<f32>> {
        let operand = |place: usize| operands.get(place)?.as_ref()?.as_numbers();
        let stored = operand(slot::X)?;
        // A scale for each entry of an axis stands along that axis.
        let aligned = |x: ArrayD<f32>| -> Option<ArrayD<f32>> {
            if x.len() == 1 {
                return x.into_shape_with_order(IxDyn(&[])).ok();
            }
            let rank = stored.ndim();
            let axis = attr_int(node, "axis").unwrap_or(1);
            let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
            let mut shape = vec![1; rank];
            *shape.get_mut(axis).filter(|_| x.ndim() == 1)? = x.len();
            x.into_shape_with_order(IxDyn(&shape)).ok()
        };
        let scale = aligned(operand(slot::SCALE)?)?.broadcast(stored.raw_dim())?.to_owned();
        let zero = operand(slot::ZERO).map_or(Some(ArrayD::zeros(IxDyn(&[]))), aligned)?;
        Some((&stored - &zero.broadcast(stored.raw_dim())?.to_owned()) * scale)
    }
}

fn relate(node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
    let x = node.axes(slot::X)?;
    for place in [slot::SCALE, slot::ZERO].into_iter().filter(|place| node.has(*place)).collect::<Vec<_>>() {
        match *node.axes(place)?.as_slice() {
            [] | [Width::ONE] => {}
            [own] => {
                let axis = node.axis(node.int("axis").unwrap_or(1), x.len())?;
                node.unify(x[axis], own);
            }
            _ => return Err(node.unsupported("a scale for each block")),
        }
    }
    node.set(0, x);
    Ok(())
}

/// The model without the rounding of activations: what is quantised and dequantised at once passes as it is. `None` when
/// there is no such rounding.
pub fn unrounded(model: &ModelProto) -> Option<ModelProto> {
    let mut model = model.clone();
    let graph = model.graph.as_mut()?;
    let stored: BTreeSet<String> = graph.initializer.iter().map(|t| t.name().to_owned()).collect();
    let quantized: BTreeMap<String, String> = (graph.node.iter())
        .filter(|node| node.op_type() == "QuantizeLinear")
        .filter_map(|node| Some((node.output.first()?.clone(), node.input.first()?.clone())))
        .filter(|(_, from)| !stored.contains(from))
        .collect();
    let mut any = false;
    for node in graph.node.iter_mut().filter(|node| node.op_type() == "DequantizeLinear") {
        if let Some(from) = node.input.first().and_then(|input| quantized.get(input)) {
            any = true;
            *node = NodeProto {
                op_type: Some("Identity".to_owned()),
                name: node.name.clone(),
                input: vec![from.clone()],
                output: node.output.clone(),
                ..Default::default()
            };
        }
    }
    any.then_some(model)
}
