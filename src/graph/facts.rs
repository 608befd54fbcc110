//! Types, shapes and small contents of the values of a model, as one run showed them.

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
    /// Type and shape of `tensor`, and its contents where they are small.
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
    /// An empty table for a graph of `values` values and a run on `samples` samples.
    pub fn new(values: usize, samples: usize) -> Self {
        Self { facts: vec![None; values], samples }
    }

    /// Records a fact.
    pub fn insert(&mut self, value: ValueId, fact: Fact) {
        self.facts[value.index()] = Some(fact);
    }

    /// The facts of the same model with half precision replaced by single.
    pub fn single(&self) -> Self {
        let single = |fact: &Fact| {
            if fact.dtype.is_half() { Fact { dtype: DType::F32, ..fact.clone() } } else { fact.clone() }
        };
        Self { facts: self.facts.iter().map(|f| f.as_ref().map(single)).collect(), samples: self.samples }
    }

    /// The fact about a value; `None` where it was not observed.
    pub fn get(&self, value: ValueId) -> Option<&Fact> {
        self.facts.get(value.index())?.as_ref()
    }
}
