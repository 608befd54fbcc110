//! Conversions of elements that keep their meaning.

use ndarray::{ArrayD, IxDyn};

use crate::tensor::{DType, Tensor};

/// The integers as a tensor of `dtype`, an integer type or bool; `None` when one of them is outside its range.
pub(super) fn from_ints(shape: &[usize], ints: Vec<i64>, dtype: DType) -> Option<Tensor> {
    fn array<T: TryFrom<i64>>(shape: &[usize], ints: Vec<i64>) -> Option<ArrayD<T>> {
        let data = ints.into_iter().map(|i| T::try_from(i).ok()).collect::<Option<_>>()?;
        ArrayD::from_shape_vec(IxDyn(shape), data).ok()
    }
    Some(match dtype {
        DType::I8 => Tensor::I8(array(shape, ints)?),
        DType::I16 => Tensor::I16(array(shape, ints)?),
        DType::I32 => Tensor::I32(array(shape, ints)?),
        DType::I64 => Tensor::I64(array(shape, ints)?),
        DType::U8 => Tensor::U8(array(shape, ints)?),
        DType::U16 => Tensor::U16(array(shape, ints)?),
        DType::U32 => Tensor::U32(array(shape, ints)?),
        DType::U64 => Tensor::U64(array(shape, ints)?),
        DType::Bool => {
            let bytes = array::<u8>(shape, ints)?;
            if bytes.iter().any(|&x| x > 1) {
                return None;
            }
            Tensor::Bool(bytes.mapv(|x| x == 1))
        }
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => return None,
    })
}

/// Number of the first NaN or infinity in row-major order, with its value.
pub(super) fn first_non_finite(tensor: &Tensor) -> Option<(usize, f64)> {
    fn find<T: Copy + Into<f64>>(array: &ArrayD<T>) -> Option<(usize, f64)> {
        array.iter().map(|&x| x.into()).enumerate().find(|(_, x)| !x.is_finite())
    }
    match tensor {
        Tensor::F32(a) => find(a),
        Tensor::F64(a) => find(a),
        Tensor::F16(a) => find(a),
        Tensor::BF16(a) => find(a),
        _ => None,
    }
}

/// The index of the element number `flat` in row-major order.
pub(super) fn position(shape: &[usize], mut flat: usize) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&n| {
            let i = flat % n.max(1);
            flat /= n.max(1);
            i
        })
        .collect();
    index.reverse();
    index
}

/// The tensor with its elements converted to `dtype`: between floating-point types rounded, between integer types (bool
/// among them) only when all values fit; `None` otherwise.
pub(super) fn cast(tensor: Tensor, dtype: DType) -> Option<Tensor> {
    if tensor.dtype() == dtype {
        return Some(tensor);
    }
    match tensor.to_ints() {
        Some(ints) => from_ints(tensor.shape(), ints, dtype),
        None => tensor.cast_float(dtype),
    }
}
