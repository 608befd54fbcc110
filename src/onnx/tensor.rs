//! Between [`TensorProto`] and [`Tensor`].

use super::{
    OnnxError,
    proto::{SparseTensorProto, TensorProto, tensor_proto::DataType},
};
use crate::limits;
use crate::tensor::{DType, Tensor};
use bytes::Bytes;
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

/// Copies a tensor out of the protobuf, from whichever field holds its data.
///
/// # Errors
/// When the element type is not one of [`DType`], or the data does not fill the shape.
pub fn to_tensor(proto: &TensorProto) -> Result<Tensor, OnnxError> {
    let unreadable = || OnnxError::ElementType { tensor: proto.name().into(), code: proto.data_type() };
    let dtype = DType::from_onnx(proto.data_type()).ok_or_else(unreadable)?;
    check(proto)?;
    let raw = proto.raw_data.as_deref().filter(|raw| !raw.is_empty());

    /// `$kind` from the raw bytes, or else from the elements of `$field`.
    macro_rules! read {
        ($variant:ident, $kind:ty, $field:ident, $convert:expr) => {{
            let data: Vec<$kind> = match raw {
                Some(raw) => {
                    let (elements, _) = raw.as_chunks::<{ size_of::<$kind>() }>();
                    elements.iter().map(|&bytes| <$kind>::from_le_bytes(bytes)).collect()
                }
                None => proto.$field.iter().map($convert).collect(),
            };
            Tensor::$variant(array(proto, data)?)
        }};
    }
    Ok(match dtype {
        DType::F32 => read!(F32, f32, float_data, |&x| x),
        DType::F64 => read!(F64, f64, double_data, |&x| x),
        DType::F16 => read!(F16, f16, int32_data, |&x| f16::from_bits(x as u16)),
        DType::BF16 => read!(BF16, bf16, int32_data, |&x| bf16::from_bits(x as u16)),
        DType::I8 => read!(I8, i8, int32_data, |&x| x as i8),
        DType::I16 => read!(I16, i16, int32_data, |&x| x as i16),
        DType::I32 => read!(I32, i32, int32_data, |&x| x),
        DType::I64 => read!(I64, i64, int64_data, |&x| x),
        DType::U8 => read!(U8, u8, int32_data, |&x| x as u8),
        DType::U16 => read!(U16, u16, int32_data, |&x| x as u16),
        DType::U32 => read!(U32, u32, uint64_data, |&x| x as u32),
        DType::U64 => read!(U64, u64, uint64_data, |&x| x),
        DType::Bool => {
            let data = match raw {
                Some(raw) => raw.iter().map(|&x| x != 0).collect(),
                None => proto.int32_data.iter().map(|&x| x != 0).collect(),
            };
            Tensor::Bool(array(proto, data)?)
        }
    })
}

/// An array of the shape of `proto`, whose data has been checked to fill it.
fn array<T>(proto: &TensorProto, data: Vec<T>) -> Result<ArrayD<T>, OnnxError> {
    let shape: Vec<usize> = proto.dims.iter().map(|&d| d as usize).collect();
    ArrayD::from_shape_vec(IxDyn(&shape), data)
        .map_err(|_| OnnxError::Dims { tensor: proto.name().into(), dims: proto.dims.clone() })
}

/// The protobuf of a tensor, its elements in `raw_data`.
pub fn from_tensor(name: &str, tensor: &Tensor) -> TensorProto {
    let mut raw = Vec::with_capacity(tensor.len() * tensor.dtype().size());
    macro_rules! write {
        ($($variant:ident),*) => {
            match tensor {
                $(Tensor::$variant(a) => a.iter().for_each(|x| raw.extend_from_slice(&x.to_le_bytes())),)*
                Tensor::Bool(a) => raw.extend(a.iter().map(|&x| u8::from(x))),
            }
        };
    }
    write!(F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64);
    TensorProto {
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(tensor.dtype().onnx()),
        name: Some(name.into()),
        raw_data: Some(Bytes::from(raw)),
        ..TensorProto::default()
    }
}

/// The number of elements that the shape of `proto` asks for.
pub(super) fn elements(proto: &TensorProto) -> Result<usize, OnnxError> {
    let product = proto.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
    product.ok_or_else(|| OnnxError::Dims { tensor: proto.name().into(), dims: proto.dims.clone() })
}

/// How many bytes of `raw_data` the shape and type of `proto` ask for.
pub(super) fn raw_len(proto: &TensorProto) -> Result<usize, OnnxError> {
    use DataType::*;
    let bits: usize = match DataType::try_from(proto.data_type()).unwrap_or(Undefined) {
        Uint2 | Int2 => 2,
        Uint4 | Int4 | Float4e2m1 => 4,
        Float6e2m3 | Float6e3m2 => 6,
        Uint8 | Int8 | Bool | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz | Float8e8m0 => 8,
        Uint16 | Int16 | Float16 | Bfloat16 => 16,
        Float | Int32 | Uint32 => 32,
        Double | Int64 | Uint64 | Complex64 => 64,
        Complex128 => 128,
        Undefined | String => {
            return Err(OnnxError::ElementType { tensor: proto.name().into(), code: proto.data_type() });
        }
    };
    let bits = elements(proto)?.checked_mul(bits);
    let bits =
        bits.ok_or_else(|| OnnxError::Dims { tensor: proto.name().into(), dims: proto.dims.clone() })?;
    Ok(bits.div_ceil(8))
}

/// The field that holds the data of `proto` when it is not raw: how many entries it has, and how many it should.
fn typed_len(proto: &TensorProto) -> Result<(usize, usize), OnnxError> {
    use DataType::*;
    let n = elements(proto)?;
    Ok(match DataType::try_from(proto.data_type()).unwrap_or(Undefined) {
        String => (proto.string_data.len(), n),
        Float => (proto.float_data.len(), n),
        Complex64 => (proto.float_data.len(), n.saturating_mul(2)),
        Double => (proto.double_data.len(), n),
        Complex128 => (proto.double_data.len(), n.saturating_mul(2)),
        Int64 => (proto.int64_data.len(), n),
        Uint32 | Uint64 => (proto.uint64_data.len(), n),
        Uint4 | Int4 | Float4e2m1 => (proto.int32_data.len(), n.div_ceil(2)),
        Uint2 | Int2 => (proto.int32_data.len(), n.div_ceil(4)),
        Undefined => {
            return Err(OnnxError::ElementType { tensor: proto.name().into(), code: proto.data_type() });
        }
        _ => (proto.int32_data.len(), n),
    })
}

/// How many bytes the elements of `proto` take.
pub fn bytes(proto: &TensorProto) -> usize {
    raw_len(proto).unwrap_or(0)
}

/// Checks that a sparse tensor can be written out in full, as runtimes do.
pub(super) fn check_sparse(proto: &SparseTensorProto) -> Result<(), OnnxError> {
    let Some(values) = &proto.values else { return Ok(()) };
    let dense =
        TensorProto { dims: proto.dims.clone(), data_type: values.data_type, ..TensorProto::default() };
    match raw_len(&dense) {
        Err(OnnxError::ElementType { .. }) if elements(&dense)? <= limits::SPARSE_BYTES => Ok(()),
        Ok(bytes) if bytes <= limits::SPARSE_BYTES => Ok(()),
        _ => Err(OnnxError::SparseDims { tensor: values.name().into(), dims: proto.dims.clone() }),
    }
}

/// Checks that the data of `proto` fills its shape exactly, and is in one field only.
pub(super) fn check(proto: &TensorProto) -> Result<(), OnnxError> {
    let fields = [
        proto.raw_data.as_ref().map_or(0, Bytes::len),
        proto.float_data.len(),
        proto.double_data.len(),
        proto.int32_data.len(),
        proto.int64_data.len(),
        proto.uint64_data.len(),
        proto.string_data.len(),
    ];
    if fields.iter().filter(|&&len| len > 0).count() > 1 {
        return Err(OnnxError::TwoData { tensor: proto.name().into() });
    }
    let (found, expected, unit) = match fields[0] {
        0 => typed_len(proto).map(|(found, expected)| (found, expected, "elements"))?,
        raw => (raw, raw_len(proto)?, "bytes"),
    };
    if found != expected {
        let (tensor, dims) = (proto.name().into(), proto.dims.clone());
        return Err(OnnxError::Length { tensor, dims, expected, found, unit });
    }
    Ok(())
}
