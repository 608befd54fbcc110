//! `ValueInfoProto` of values for models that this crate builds.

use super::proto::{TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto};
use crate::tensor::DType;

/// A value's type with a symbol of its own for every axis.
pub fn value_info(name: &str, dtype: DType, rank: usize) -> ValueInfoProto {
    let symbol = |axis| tensor_shape_proto::dimension::Value::DimParam(format!("{name}_{axis}"));
    info(name, dtype, (0..rank).map(symbol))
}

/// A value's type and extents.
pub fn fixed_info(name: &str, dtype: DType, shape: &[usize]) -> ValueInfoProto {
    let extent = |n: &usize| tensor_shape_proto::dimension::Value::DimValue(*n as i64);
    info(name, dtype, shape.iter().map(extent))
}

fn info(
    name: &str,
    dtype: DType,
    axes: impl Iterator<Item = tensor_shape_proto::dimension::Value>,
) -> ValueInfoProto {
    let dim = axes.map(|value| tensor_shape_proto::Dimension { value: Some(value), ..Default::default() });
    let shape = TensorShapeProto { dim: dim.collect() };
    let tensor = type_proto::Tensor { elem_type: Some(dtype.onnx()), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}
