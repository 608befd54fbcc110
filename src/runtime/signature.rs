//! What a model takes and returns, and whether what it is fed fits.

use std::collections::{HashMap, HashSet};

use super::RuntimeError;
use crate::{
    onnx::proto::{ModelProto, TypeProto, tensor_shape_proto::dimension, type_proto},
    tensor::{DType, Tensor},
};

/// A tensor type as the file declares it.
pub(super) struct Declared {
    pub name: String,
    pub dtype: Option<DType>,
    /// `None` when the rank is unknown; an inner `None` is an extent that may vary.
    shape: Option<Vec<Option<usize>>>,
}

/// The inputs that must be fed (those without an initializer) and the outputs, in the order of the file.
pub(super) struct Signature {
    pub inputs: Vec<Declared>,
    pub outputs: Vec<Declared>,
}

impl Signature {
    /// Reads the signature of `model`; the error says why no host tensors could stand for it.
    pub fn of(model: &ModelProto) -> Result<Self, String> {
        let graph = model.graph.as_ref().ok_or("the file holds no graph")?;
        let initialized: HashSet<&str> = graph
            .initializer
            .iter()
            .map(|t| t.name())
            .chain(graph.sparse_initializer.iter().filter_map(|t| Some(t.values.as_ref()?.name())))
            .collect();
        let inputs = graph.input.iter().filter(|i| !initialized.contains(i.name()));
        let inputs = inputs.map(|i| declared(i.name(), i.r#type.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if let Some(untyped) = inputs.iter().find(|i| i.dtype.is_none()) {
            return Err(format!("the input `{}` has no element type", untyped.name));
        }
        let outputs = graph.output.iter().map(|o| declared(o.name(), o.r#type.as_ref()));
        Ok(Self { inputs, outputs: outputs.collect::<Result<_, _>>()? })
    }

    /// The tensors in the order of the model's inputs, once each is known to fit.
    pub fn arrange<'t>(&self, fed: &'t [(String, Tensor)]) -> Result<Vec<&'t Tensor>, RuntimeError> {
        let mut by_name = HashMap::new();
        for (name, tensor) in fed {
            if !self.inputs.iter().any(|i| i.name == *name) {
                return Err(RuntimeError::UnknownInput { name: name.clone(), expected: self.input_names() });
            }
            if by_name.insert(name.as_str(), tensor).is_some() {
                return Err(RuntimeError::RepeatedInput { name: name.clone() });
            }
        }
        self.inputs
            .iter()
            .map(|input| {
                let tensor = by_name
                    .get(input.name.as_str())
                    .ok_or_else(|| RuntimeError::MissingInput { name: input.name.clone() })?;
                input.check(tensor)?;
                Ok(*tensor)
            })
            .collect()
    }

    fn input_names(&self) -> String {
        self.inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Declared {
    fn check(&self, tensor: &Tensor) -> Result<(), RuntimeError> {
        if let Some(expected) = self.dtype.filter(|&d| d != tensor.dtype()) {
            return Err(RuntimeError::InputType { name: self.name.clone(), expected, found: tensor.dtype() });
        }
        let Some(shape) = &self.shape else { return Ok(()) };
        let fits = shape.len() == tensor.rank()
            && shape.iter().zip(tensor.shape()).all(|(declared, found)| declared.is_none_or(|d| d == *found));
        if fits {
            return Ok(());
        }
        let extents: Vec<_> =
            shape.iter().map(|d| d.map_or_else(|| "?".to_owned(), |d| d.to_string())).collect();
        Err(RuntimeError::InputShape {
            name: self.name.clone(),
            expected: format!("[{}]", extents.join(", ")),
            found: tensor.shape().to_vec(),
        })
    }
}

fn declared(name: &str, r#type: Option<&TypeProto>) -> Result<Declared, String> {
    let tensor = match r#type.and_then(|t| t.value.as_ref()) {
        None => return Ok(Declared { name: name.to_owned(), dtype: None, shape: None }),
        Some(type_proto::Value::TensorType(tensor)) => tensor,
        Some(_) => return Err(format!("`{name}` is not a tensor, and only tensors can be fed and returned")),
    };
    let dtype = match tensor.elem_type() {
        0 => None,
        code => Some(DType::from_onnx(code).ok_or_else(|| {
            format!("`{name}` has the element type {code} of TensorProto.DataType, which is not supported")
        })?),
    };
    let shape = tensor.shape.as_ref().map(|shape| {
        let extents = shape.dim.iter().map(|d| match d.value {
            Some(dimension::Value::DimValue(extent)) => usize::try_from(extent).ok(),
            _ => None,
        });
        extents.collect()
    });
    Ok(Declared { name: name.to_owned(), dtype, shape })
}
