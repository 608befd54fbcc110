//! What one run of a model showed of its values.

use super::ValueId;
use crate::{
    onnx::{proto::TensorProto, tensor::to_tensor},
    tensor::{DType, Tensor},
};

/// Integer tensors up to this many elements are remembered: shapes, axes, split points, index tables.
pub(crate) const REMEMBERED: usize = 1 << 14;

/// Type, shape and, for small integer tensors, contents of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Extent of every axis.
    pub shape: Vec<usize>,
    /// Row-major contents, if the value is integer (or bool) and small.
    pub ints: Option<Vec<i64>>,
}

impl Fact {
    /// What there is to know about `tensor`.
    pub fn of(tensor: &Tensor) -> Self {
        let ints = if tensor.len() <= REMEMBERED { tensor.to_ints() } else { None };
        Self { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), ints }
    }

    /// The same of a constant, whose contents are not copied unless they are remembered; `None` where it cannot be read.
    pub fn of_constant(tensor: &TensorProto) -> Option<Self> {
        let dtype = DType::from_onnx(tensor.data_type())?;
        let shape = tensor.dims.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<_>>>()?;
        let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n))?;
        if dtype.is_float() || elements > REMEMBERED {
            return Some(Self { dtype, shape, ints: None });
        }
        to_tensor(tensor).ok().map(|tensor| Self::of(&tensor))
    }
}

/// A fact per value, where one could be observed, and how many samples were in the batch that showed them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    facts: Vec<Option<Fact>>,
    /// Samples in the observed batch.
    pub samples: usize,
}

impl Facts {
    /// No facts yet about `values` values, for a run over `samples` samples.
    pub fn new(values: usize, samples: usize) -> Self {
        Self { facts: vec![None; values], samples }
    }

    /// Records a fact.
    pub fn insert(&mut self, value: ValueId, fact: Fact) {
        self.facts[value.index()] = Some(fact);
    }

    /// The same about a model whose numbers of 16 bits became such of 32.
    pub fn single(&self) -> Self {
        let single = |fact: &Fact| match fact.dtype.is_half() {
            true => Fact { dtype: DType::F32, ..fact.clone() },
            false => fact.clone(),
        };
        Self { facts: self.facts.iter().map(|f| f.as_ref().map(single)).collect(), samples: self.samples }
    }

    /// What is known about a value.
    pub fn get(&self, value: ValueId) -> Option<&Fact> {
        self.facts.get(value.index())?.as_ref()
    }
}
