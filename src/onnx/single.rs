//! Models of half precision in single precision, for what would overflow or drown otherwise.

use super::{
    proto::{GraphProto, ModelProto, ValueInfoProto, attribute_proto::AttributeType, type_proto::Value},
    tensor::{from_tensor, to_tensor},
    visit,
};
use crate::tensor::DType;

/// The attributes that name an element type.
const TYPE_ATTRIBUTES: &[&str] = &["to", "dtype", "output_dtype"];

/// The model with numbers of 32 bits wherever it has such of 16, node by node the same; `None` when it has none.
pub fn single(model: &ModelProto) -> Option<ModelProto> {
    let mut model = model.clone();
    let mut changed = false;
    let tensors = visit::tensors(&mut model, &mut |tensor| {
        if is_half(tensor.data_type()) {
            let numbers = to_tensor(tensor)?;
            let name = tensor.name().to_owned();
            *tensor = from_tensor(&name, &numbers.cast_float(DType::F32).unwrap_or(numbers));
            changed = true;
        }
        Ok(())
    });
    tensors.ok()?;
    if let Some(graph) = &mut model.graph {
        changed |= graph_types(graph);
    }
    changed.then_some(model)
}

fn is_half(element_type: i32) -> bool {
    DType::from_onnx(element_type).is_some_and(DType::is_half)
}

/// Retypes inputs, outputs and what nodes convert to; says whether there was anything to.
fn graph_types(graph: &mut GraphProto) -> bool {
    let infos = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    let mut changed = infos.fold(false, |changed, info| changed | value_type(info));
    for node in &mut graph.node {
        for attribute in &mut node.attribute {
            let names_type =
                TYPE_ATTRIBUTES.contains(&attribute.name()) && attribute.r#type() == AttributeType::Int;
            if names_type && is_half(attribute.i() as i32) {
                attribute.i = Some(i64::from(DType::F32.onnx()));
                changed = true;
            }
        }
        for body in visit::subgraphs_mut(node) {
            changed |= graph_types(body);
        }
    }
    changed
}

fn value_type(info: &mut ValueInfoProto) -> bool {
    let Some(Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
        return false;
    };
    let half = tensor.elem_type.is_some_and(is_half);
    if half {
        tensor.elem_type = Some(DType::F32.onnx());
    }
    half
}
