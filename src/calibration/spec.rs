//! What the model asks of its inputs: names, types, shapes, and which axis counts samples.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    calibration::{
        CalibrationError,
        roles::{InputRole, input_roles, runtime_inputs, tensor_type},
    },
    onnx::proto::{ModelProto, TensorShapeProto, ValueInfoProto, tensor_shape_proto::dimension},
    tensor::DType,
};

/// The extent of an axis, as far as the model or the user fixes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    Fixed(usize),
    /// The same for all axes that bear the name.
    Symbol(String),
    Free,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Symbol(name) => f.write_str(name),
            Self::Free => f.write_str("?"),
        }
    }
}

/// One input of the model.
#[derive(Clone, Debug)]
pub(super) struct InputSpec {
    pub name: String,
    pub dtype: DType,
    pub dims: Vec<Dim>,
    pub role: InputRole,
    /// Whether axis 0 counts samples.
    pub batched: bool,
}

impl InputSpec {
    /// The shape as written in the model, for people.
    pub fn declared(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(Dim::to_string).collect();
        format!("[{}]", dims.join(", "))
    }

    /// Name, type and shape, for people.
    pub fn described(&self) -> String {
        format!("`{}` {} {}", self.name, self.dtype, self.declared())
    }
}

/// All inputs of the model, in graph order.
#[derive(Clone, Debug)]
pub(super) struct InputSpecs {
    pub inputs: Vec<InputSpec>,
    /// The batch size built into the model, if there is one.
    pub fixed_batch: Option<usize>,
}

impl InputSpecs {
    /// Reads the inputs off the model. `shapes` fix dynamic axes, and with them all axes of the same symbol; what they say
    /// of a dynamic batch axis is not used, since the number of samples decides it.
    pub fn new(model: &ModelProto, shapes: &[(String, Vec<usize>)]) -> Result<Self, CalibrationError> {
        let graph = model.graph.as_ref().ok_or(CalibrationError::NoInputs)?;
        let roles = input_roles(model);
        let values = runtime_inputs(graph);
        if values.is_empty() {
            return Err(CalibrationError::NoInputs);
        }
        check_names(&values, shapes)?;
        let mut inputs = values
            .into_iter()
            .zip(roles)
            .map(|(value, (name, role))| {
                let (dtype, shape) = tensor_type(value)
                    .ok_or_else(|| CalibrationError::UnsupportedInput { input: name.clone() })?;
                let dims = match (shape, given(shapes, &name)) {
                    (Some(shape), _) => dims(shape),
                    (None, Some(shape)) => vec![Dim::Free; shape.len()],
                    (None, None) => return Err(CalibrationError::UnknownRank { input: name }),
                };
                Ok(InputSpec { name, dtype, dims, role, batched: false })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let fixed_batch = find_batch(&mut inputs);
        fix_shapes(&mut inputs, shapes)?;
        Ok(Self { inputs, fixed_batch })
    }

    /// Names, types and shapes, for people.
    pub fn declared(&self) -> String {
        self.inputs.iter().map(InputSpec::described).collect::<Vec<_>>().join(", ")
    }

    /// Names in graph order.
    pub fn names(&self) -> Vec<String> {
        self.inputs.iter().map(|input| input.name.clone()).collect()
    }
}

/// Extents that are no positive number, and the placeholder `?` of some exporters, tell nothing.
fn dims(shape: &TensorShapeProto) -> Vec<Dim> {
    let dim = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(n)) => match usize::try_from(*n) {
            Ok(n) if n > 0 => Dim::Fixed(n),
            _ => Dim::Free,
        },
        Some(dimension::Value::DimParam(name)) if !matches!(name.as_str(), "" | "?") => {
            Dim::Symbol(name.clone())
        }
        _ => Dim::Free,
    };
    shape.dim.iter().map(|d| dim(&d.value)).collect()
}

/// Marks the inputs that have a batch axis and returns the batch size if the model fixes it.
///
/// Axis 0 may count samples unless its symbol names an inner axis of some input too: in `ids [batch, seq]`,
/// `positions [seq]` the second input has no batch axis. The first input with such an axis decides for all. If its extent
/// is dynamic, every input with a dynamic one is batched, whatever the symbol: exporters name the batch anew for each
/// input. If it is `n`, those with extent `n` are batched too. All others are fed whole with every batch.
fn find_batch(inputs: &mut [InputSpec]) -> Option<usize> {
    let inner: BTreeSet<String> = inputs
        .iter()
        .flat_map(|input| input.dims.iter().skip(1))
        .filter_map(|dim| if let Dim::Symbol(name) = dim { Some(name.clone()) } else { None })
        .collect();
    let leading = |input: &InputSpec| match input.dims.first()? {
        Dim::Symbol(name) if inner.contains(name) => None,
        Dim::Fixed(n) => Some(Some(*n)),
        _ => Some(None),
    };
    let batch = inputs.iter().find_map(leading)?;
    for input in inputs {
        input.batched = match leading(input) {
            Some(Some(n)) => batch == Some(n),
            Some(None) => true,
            None => false,
        };
    }
    batch
}

fn given<'a>(shapes: &'a [(String, Vec<usize>)], name: &str) -> Option<&'a [usize]> {
    shapes.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.as_slice())
}

fn check_names(values: &[&ValueInfoProto], shapes: &[(String, Vec<usize>)]) -> Result<(), CalibrationError> {
    match shapes.iter().find(|(name, _)| values.iter().all(|value| value.name() != name)) {
        None => Ok(()),
        Some((name, _)) => Err(CalibrationError::UnknownShape {
            name: name.clone(),
            inputs: values.iter().map(|value| value.name().to_owned()).collect(),
        }),
    }
}

/// Replaces dynamic axes by the extents in `shapes`: first of the named inputs, then of all that share a symbol with them.
fn fix_shapes(inputs: &mut [InputSpec], shapes: &[(String, Vec<usize>)]) -> Result<(), CalibrationError> {
    let mut symbols = BTreeMap::new();
    for input in inputs.iter_mut() {
        let Some(shape) = given(shapes, &input.name) else { continue };
        let fits = shape.len() == input.dims.len()
            && shape.iter().zip(&input.dims).all(|(&n, dim)| match dim {
                Dim::Fixed(expected) => n == *expected,
                _ => n > 0,
            });
        if !fits {
            let (input, given, declared) = (input.name.clone(), shape.to_vec(), input.declared());
            return Err(CalibrationError::ShapeConflict { input, given, declared });
        }
        for (dim, &n) in input.dims.iter_mut().zip(shape).skip(usize::from(input.batched)) {
            if let Dim::Symbol(name) = std::mem::replace(dim, Dim::Fixed(n)) {
                symbols.insert(name, n);
            }
        }
    }
    for input in inputs {
        for dim in input.dims.iter_mut().skip(usize::from(input.batched)) {
            if let Dim::Symbol(name) = dim
                && let Some(&n) = symbols.get(name)
            {
                *dim = Dim::Fixed(n);
            }
        }
    }
    Ok(())
}
