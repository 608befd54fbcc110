//! Whether an array suits an input of the model.

use crate::{
    calibration::{
        CalibrationError,
        cast::{cast, first_non_finite, position},
        roles::InputRole,
        spec::{Dim, InputSpec},
    },
    tensor::Tensor,
};

/// Whether an array of this shape is one for the input.
pub(super) fn shape(spec: &InputSpec, found: &[usize]) -> Result<(), CalibrationError> {
    let input = || spec.name.clone();
    if found.len() != spec.dims.len() {
        let (rank, expected) = (spec.dims.len(), spec.declared());
        return Err(CalibrationError::Rank { input: input(), rank, expected, found: found.to_vec() });
    }
    for (axis, (dim, &n)) in spec.dims.iter().zip(found).enumerate().skip(usize::from(spec.batched)) {
        if let Dim::Fixed(expected) = *dim
            && n != expected
        {
            return Err(CalibrationError::Extent { input: input(), axis, expected, found: found.to_vec() });
        }
    }
    if found.contains(&0) {
        return Err(CalibrationError::Empty { input: input(), found: found.to_vec() });
    }
    Ok(())
}

/// The array with elements of the input's type.
pub(super) fn convert(spec: &InputSpec, array: Tensor) -> Result<Tensor, CalibrationError> {
    let (input, expected, found) = (spec.name.clone(), spec.dtype, array.dtype());
    if expected.is_float() != found.is_float() {
        return Err(CalibrationError::ElementType { input, expected, found });
    }
    cast(array, expected).ok_or(CalibrationError::DoesNotFit { input, expected, found })
}

/// Whether all elements may be fed; `start` is the number of the first sample.
pub(super) fn values(spec: &InputSpec, tensor: &Tensor, start: usize) -> Result<(), CalibrationError> {
    let numbered = |flat| {
        let mut position = position(tensor.shape(), flat);
        if let Some(sample) = position.first_mut().filter(|_| spec.batched) {
            *sample += start;
        }
        position
    };
    let input = || spec.name.clone();
    if let Some((flat, value)) = first_non_finite(tensor) {
        return Err(CalibrationError::NotFinite { input: input(), value, position: numbered(flat) });
    }
    let InputRole::Ids { rows: Some(rows) } = spec.role else { return Ok(()) };
    // Negative indices count from the end (ONNX specification of Gather).
    let valid = -(rows as i64)..rows as i64;
    let mut ids = tensor.to_ints().unwrap_or_default().into_iter().enumerate();
    match ids.find(|(_, id)| !valid.contains(id)) {
        None => Ok(()),
        Some((flat, id)) => {
            Err(CalibrationError::IdOutOfRange { input: input(), rows, id, position: numbered(flat) })
        }
    }
}
