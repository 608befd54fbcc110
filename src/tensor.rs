//! Dense tensors on the host: what the runtimes are fed, what they return, and what initializers hold.

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn};

/// Element types a [`Tensor`] can hold; names and codes follow `TensorProto.DataType` of the ONNX specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F64,
    F16,
    BF16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl DType {
    /// The type with this `TensorProto.DataType` code, if tensors can hold it.
    pub fn from_onnx(code: i32) -> Option<Self> {
        Some(match code {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            16 => Self::BF16,
            _ => return None,
        })
    }

    /// The `TensorProto.DataType` code.
    pub fn onnx(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I8 => 3,
            Self::U16 => 4,
            Self::I16 => 5,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::Bool => 9,
            Self::F16 => 10,
            Self::F64 => 11,
            Self::U32 => 12,
            Self::U64 => 13,
            Self::BF16 => 16,
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }

    /// Whether elements are floating-point numbers of 16 bits.
    pub fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::BF16)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
        })
    }
}

/// A dense tensor of one of the types in [`DType`], in row-major order.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Tensor {
    F32(ArrayD<f32>),
    F64(ArrayD<f64>),
    F16(ArrayD<f16>),
    BF16(ArrayD<bf16>),
    I8(ArrayD<i8>),
    I16(ArrayD<i16>),
    I32(ArrayD<i32>),
    I64(ArrayD<i64>),
    U8(ArrayD<u8>),
    U16(ArrayD<u16>),
    U32(ArrayD<u32>),
    U64(ArrayD<u64>),
    Bool(ArrayD<bool>),
}

/// Evaluates `$body` with `$a` bound to the array of whichever type the tensor holds.
#[macro_export]
#[doc(hidden)]
macro_rules! for_each_dtype {
    ($tensor:expr, $a:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Tensor::F32($a) => $body,
            $crate::tensor::Tensor::F64($a) => $body,
            $crate::tensor::Tensor::F16($a) => $body,
            $crate::tensor::Tensor::BF16($a) => $body,
            $crate::tensor::Tensor::I8($a) => $body,
            $crate::tensor::Tensor::I16($a) => $body,
            $crate::tensor::Tensor::I32($a) => $body,
            $crate::tensor::Tensor::I64($a) => $body,
            $crate::tensor::Tensor::U8($a) => $body,
            $crate::tensor::Tensor::U16($a) => $body,
            $crate::tensor::Tensor::U32($a) => $body,
            $crate::tensor::Tensor::U64($a) => $body,
            $crate::tensor::Tensor::Bool($a) => $body,
        }
    };
}

/// As [`for_each_dtype`], rebuilding a tensor of the same type from the array that `$body` returns.
macro_rules! map_dtype {
    ($tensor:expr, $a:ident => $body:expr) => {
        match $tensor {
            Tensor::F32($a) => Tensor::F32($body),
            Tensor::F64($a) => Tensor::F64($body),
            Tensor::F16($a) => Tensor::F16($body),
            Tensor::BF16($a) => Tensor::BF16($body),
            Tensor::I8($a) => Tensor::I8($body),
            Tensor::I16($a) => Tensor::I16($body),
            Tensor::I32($a) => Tensor::I32($body),
            Tensor::I64($a) => Tensor::I64($body),
            Tensor::U8($a) => Tensor::U8($body),
            Tensor::U16($a) => Tensor::U16($body),
            Tensor::U32($a) => Tensor::U32($body),
            Tensor::U64($a) => Tensor::U64($body),
            Tensor::Bool($a) => Tensor::Bool($body),
        }
    };
}

impl Tensor {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::I8(_) => DType::I8,
            Self::I16(_) => DType::I16,
            Self::I32(_) => DType::I32,
            Self::I64(_) => DType::I64,
            Self::U8(_) => DType::U8,
            Self::U16(_) => DType::U16,
            Self::U32(_) => DType::U32,
            Self::U64(_) => DType::U64,
            Self::Bool(_) => DType::Bool,
        }
    }

    /// Extent of every axis.
    pub fn shape(&self) -> &[usize] {
        for_each_dtype!(self, a => a.shape())
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        for_each_dtype!(self, a => a.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A float32 tensor from row-major data; `None` when `data` does not fill `shape`.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Option<Self> {
        ArrayD::from_shape_vec(IxDyn(shape), data).ok().map(Self::F32)
    }

    /// An int64 vector.
    pub fn ints(data: &[i64]) -> Self {
        Self::I64(ndarray::Array1::from(data.to_vec()).into_dyn())
    }

    /// An int64 scalar.
    pub fn int(value: i64) -> Self {
        Self::I64(ndarray::arr0(value).into_dyn())
    }

    /// The elements as float32 when they are floating-point, in row-major order; `None` otherwise.
    pub fn to_f32(&self) -> Option<ArrayD<f32>> {
        Some(match self {
            Self::F32(a) => a.clone(),
            Self::F64(a) => a.mapv(|x| x as f32),
            Self::F16(a) => a.mapv(f32::from),
            Self::BF16(a) => a.mapv(f32::from),
            _ => return None,
        })
    }

    /// A view of float32 data; `None` for any other type.
    pub fn view_f32(&self) -> Option<ArrayViewD<'_, f32>> {
        match self {
            Self::F32(a) => Some(a.view()),
            _ => None,
        }
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        match self {
            Self::F32(a) => a.iter().all(|x| x.is_finite()),
            Self::F64(a) => a.iter().all(|x| x.is_finite()),
            Self::F16(a) => a.iter().all(|x| x.is_finite()),
            Self::BF16(a) => a.iter().all(|x| x.is_finite()),
            _ => true,
        }
    }

    /// The elements as int64 when they are integers or truth values, in row-major order; `None` otherwise.
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        Some(match self {
            Self::I8(a) => a.iter().map(|&x| x.into()).collect(),
            Self::I16(a) => a.iter().map(|&x| x.into()).collect(),
            Self::I32(a) => a.iter().map(|&x| x.into()).collect(),
            Self::I64(a) => a.iter().copied().collect(),
            Self::U8(a) => a.iter().map(|&x| x.into()).collect(),
            Self::U16(a) => a.iter().map(|&x| x.into()).collect(),
            Self::U32(a) => a.iter().map(|&x| x.into()).collect(),
            Self::U64(a) => a.iter().map(|&x| i64::try_from(x).ok()).collect::<Option<_>>()?,
            Self::Bool(a) => a.iter().map(|&x| x.into()).collect(),
            _ => return None,
        })
    }

    /// The elements as float32, integers and truth values too (large ones rounded).
    pub fn as_numbers(&self) -> Option<ArrayD<f32>> {
        match self.to_f32() {
            Some(floats) => Some(floats),
            None => {
                let numbers = self.to_ints()?.into_iter().map(|x| x as f32).collect();
                ArrayD::from_shape_vec(IxDyn(self.shape()), numbers).ok()
            }
        }
    }

    /// The same elements converted to `dtype`, each rounded once, when both are floating-point; `None` otherwise.
    pub fn cast_float(&self, dtype: DType) -> Option<Self> {
        if let Self::F64(x) = self {
            return Some(match dtype {
                DType::F32 => Self::F32(x.mapv(|x| x as f32)),
                DType::F64 => Self::F64(x.clone()),
                DType::F16 => Self::F16(x.mapv(f16::from_f64)),
                DType::BF16 => Self::BF16(x.mapv(bf16::from_f64)),
                _ => return None,
            });
        }
        let x = self.to_f32()?;
        Some(match dtype {
            DType::F32 => Self::F32(x),
            DType::F64 => Self::F64(x.mapv(f64::from)),
            DType::F16 => Self::F16(x.mapv(f16::from_f32)),
            DType::BF16 => Self::BF16(x.mapv(bf16::from_f32)),
            _ => return None,
        })
    }

    /// The entries at `indices` along `axis`, in that order. Indices and axis must be in range.
    pub fn select(&self, axis: usize, indices: &[usize]) -> Self {
        map_dtype!(self, a => a.select(Axis(axis), indices))
    }

    /// The entries `start..end` along `axis`; bounds are clipped to the extent.
    pub fn narrow(&self, axis: usize, start: usize, end: usize) -> Self {
        let end = end.min(self.shape()[axis]);
        map_dtype!(self, a => a.slice_axis(Axis(axis), (start.min(end)..end).into()).to_owned())
    }

    /// The tensor repeated `times` along `axis`: all of it, then all of it again.
    pub fn tile(&self, axis: usize, times: usize) -> Self {
        let n = self.shape()[axis];
        let indices: Vec<usize> = (0..n * times).map(|i| i % n).collect();
        self.select(axis, &indices)
    }

    /// The same elements under another shape; `None` when the element counts differ.
    pub fn reshape(&self, shape: &[usize]) -> Option<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return None;
        }
        Some(map_dtype!(self, a => {
            a.as_standard_layout().into_owned().into_shape_with_order(IxDyn(shape)).ok()?
        }))
    }

    /// Tensors of one type laid one after another along `axis`; `None` when types or other extents differ.
    pub fn concat(parts: &[Self], axis: usize) -> Option<Self> {
        macro_rules! join {
            ($($variant:ident),*) => {
                match parts.first()? {
                    $(Self::$variant(_) => {
                        let views = parts.iter().map(|p| match p {
                            Self::$variant(a) => Some(a.view()),
                            _ => None,
                        }).collect::<Option<Vec<_>>>()?;
                        Self::$variant(ndarray::concatenate(Axis(axis), &views).ok()?)
                    })*
                }
            };
        }
        Some(join!(F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, Bool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tile_repeats_the_whole() {
        let t = Tensor::ints(&[1, 2, 3]).tile(0, 2);
        assert_eq!(t.to_ints().unwrap(), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn double_precision_is_kept() {
        let third = Tensor::F64(ndarray::arr0(1.0 / 3.0).into_dyn());
        assert_eq!(third.cast_float(DType::F64), Some(third.clone()));
        assert_eq!(third.cast_float(DType::F32), Tensor::f32(&[], vec![1.0 / 3.0]));
    }

    #[test]
    fn concat_refuses_mixed_types() {
        let f = Tensor::f32(&[1], vec![0.0]).unwrap();
        assert_eq!(Tensor::concat(&[f, Tensor::ints(&[1])], 0), None);
    }
}
