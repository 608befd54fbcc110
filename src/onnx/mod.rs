//! ONNX files: reading, writing and the protobuf types between.
//!
//! [`load`] maps a file, resolves external data, inlines model-local functions and checks once what every later stage
//! relies on: each tensor holds as many bytes as its shape says, each value is produced once, and nodes stand after the
//! nodes they depend on. [`save`] writes a model so that the file before it survives every failure.

pub mod build;
mod endless;
mod error;
mod external;
mod footprint;
mod inline;
mod load;
mod packed;
pub(crate) mod pages;
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto;
pub(crate) mod regular;
mod save;
mod single;
pub mod tensor;
mod validate;
mod visit;

pub use error::OnnxError;
pub(crate) use footprint::check_decoded_tensor;
pub use inline::inline_functions;
pub use load::{Source, load, read};
pub use packed::Packed;
pub(crate) use save::stored_bytes;
pub use save::{Staged, encode, is_model, own_weight_files, save, stage, weight_files, written_bytes};
pub use single::single;
pub use validate::validate;

use std::collections::HashSet;

use crate::tensor::Tensor;
use proto::{
    AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
    type_proto,
};

/// The attribute of `node` with this name.
pub fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

/// The attribute of `node` with this name, if it has this type.
fn typed<'a>(node: &'a NodeProto, name: &str, kind: AttributeType) -> Option<&'a AttributeProto> {
    attribute(node, name).filter(|a| a.r#type() == kind)
}

/// An integer attribute.
pub fn int_attribute(name: &str, value: i64) -> AttributeProto {
    let mut attribute = AttributeProto { name: Some(name.to_owned()), i: Some(value), ..Default::default() };
    attribute.set_type(AttributeType::Int);
    attribute
}

/// An attribute of integers.
pub fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    let mut attribute =
        AttributeProto { name: Some(name.to_owned()), ints: values.to_vec(), ..Default::default() };
    attribute.set_type(AttributeType::Ints);
    attribute
}

/// An attribute that is a tensor.
pub fn tensor_attribute(name: &str, value: proto::TensorProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(value),
        ..Default::default()
    }
}

/// The integer attribute with this name.
pub fn attr_int(node: &NodeProto, name: &str) -> Option<i64> {
    typed(node, name, AttributeType::Int).map(|a| a.i())
}

/// The attribute with this name that is a list of integers.
pub fn attr_ints<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    typed(node, name, AttributeType::Ints).map(|a| a.ints.as_slice())
}

/// The attribute with this name that is a list of floating-point numbers.
pub fn attr_floats<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [f32]> {
    typed(node, name, AttributeType::Floats).map(|a| a.floats.as_slice())
}

/// The floating-point attribute with this name.
pub fn attr_float(node: &NodeProto, name: &str) -> Option<f32> {
    typed(node, name, AttributeType::Float).map(|a| a.f())
}

/// The string attribute with this name, if it is valid UTF-8.
pub fn attr_str<'a>(node: &'a NodeProto, name: &str) -> Option<&'a str> {
    let attribute = typed(node, name, AttributeType::String)?;
    std::str::from_utf8(attribute.s.as_deref().unwrap_or_default()).ok()
}

/// The tensor attribute with this name.
pub fn attr_tensor<'a>(node: &'a NodeProto, name: &str) -> Option<&'a TensorProto> {
    typed(node, name, AttributeType::Tensor)?.t.as_ref()
}

/// Lets a value be of any shape.
pub(crate) fn forget_shape(info: &mut ValueInfoProto) {
    if let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.shape = None;
    }
}

/// What a value is declared as, if as a tensor.
pub(crate) fn tensor_type(info: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor),
        _ => None,
    }
}

/// Whether the tensor's elements are floating-point numbers.
pub fn is_float(tensor: &TensorProto) -> bool {
    crate::tensor::DType::from_onnx(tensor.data_type()).is_some_and(crate::tensor::DType::is_float)
}

/// The version of an operator set that `model` imports, 0 if it does not. The standard domain goes by two names, the
/// empty one and `ai.onnx`.
pub fn opset(model: &ModelProto, domain: &str) -> i64 {
    let wanted = canonical_domain(domain);
    let import = model.opset_import.iter().find(|o| canonical_domain(o.domain()) == wanted);
    import.map_or(0, |o| o.version())
}

/// Lets initializers be none of the inputs, which the format does since version 4. Files before that list each of them as an
/// input. From then on, such an input has a default value that callers may override, which was not meant: those go.
pub(crate) fn unlist_initializers(model: &mut ModelProto) {
    if model.ir_version() >= 4 {
        return;
    }
    model.ir_version = Some(4);
    let Some(graph) = model.graph.as_mut() else { return };
    let initializers: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    graph.input.retain(|input| !initializers.contains(input.name()));
}

/// The one spelling of an operator domain that comparisons use.
pub(crate) fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The value of a Constant node, whichever attribute holds it, under the name of the node's output. `None` for other
/// nodes, and for constants of strings or sparse tensors. No weights are copied.
pub fn node_constant(node: &NodeProto) -> Option<TensorProto> {
    if node.op_type() != "Constant" || !canonical_domain(node.domain()).is_empty() {
        return None;
    }
    let name = node.output.first()?;
    if let Some(value) = attr_tensor(node, "value") {
        return Some(TensorProto { name: Some(name.clone()), ..value.clone() });
    }
    let value = if let Some(x) = attr_float(node, "value_float") {
        Tensor::f32(&[], vec![x])?
    } else if let Some(floats) = typed(node, "value_floats", AttributeType::Floats) {
        Tensor::f32(&[floats.floats.len()], floats.floats.clone())?
    } else if let Some(i) = attr_int(node, "value_int") {
        Tensor::int(i)
    } else {
        Tensor::ints(attr_ints(node, "value_ints")?)
    };
    Some(tensor::from_tensor(name, &value))
}

/// What to call a node in a message: its name, or what it makes when it has none.
fn label(node: &NodeProto) -> String {
    match (node.name(), node.output.first()) {
        ("", Some(output)) => format!("{} that makes `{output}`", node.op_type()),
        ("", None) => format!("{} without outputs", node.op_type()),
        (name, _) => format!("{} `{name}`", node.op_type()),
    }
}
