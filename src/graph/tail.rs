//! Nodes that are appended to a model, written as formulas: `g * (1.0 - y * y)` appends three nodes and a constant.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ops::{Add, Div, Mul, Neg, Sub},
};

use super::Patch;
use crate::{
    onnx::{
        proto::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType},
        tensor::from_tensor,
    },
    tensor::{DType, Tensor},
};

/// A builder of nodes that are appended to a model. Expressions borrow it, so that they can be copied and nested.
pub struct Tail {
    opset: i64,
    prefix: &'static str,
    names: RefCell<Vec<String>>,
    nodes: RefCell<Vec<NodeProto>>,
    constants: RefCell<Vec<TensorProto>>,
    scalars: RefCell<HashMap<(u32, DType), u32>>,
    count: Cell<usize>,
}

/// A value of the model, or one that a formula computes.
#[derive(Clone, Copy)]
pub struct Expr<'t> {
    tail: &'t Tail,
    name: u32,
    dtype: DType,
}

/// An attribute of an appended node.
pub enum Attr<'a> {
    /// An integer.
    Int(&'a str, i64),
    /// Integers.
    Ints(&'a str, &'a [i64]),
    /// A number.
    Float(&'a str, f32),
    /// A string.
    Str(&'a str, &'a str),
}

/// The entries `start`, `start + step`, … below `end` of an axis.
#[derive(Clone, Copy, Debug)]
pub struct SliceRange {
    /// The axis.
    pub axis: usize,
    /// The first entry.
    pub start: usize,
    /// The entry after the last.
    pub end: usize,
    /// The distance between entries, at least one.
    pub step: usize,
}

impl Tail {
    /// Nothing appended yet to a model of this version of the default operator set. `prefix` begins the names of new values
    /// and must be one that no other edit of the model uses.
    pub fn new(opset: i64, prefix: &'static str) -> Self {
        Self {
            opset,
            prefix,
            names: RefCell::default(),
            nodes: RefCell::default(),
            constants: RefCell::default(),
            scalars: RefCell::default(),
            count: Cell::new(0),
        }
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// A value that the model already has.
    pub fn value(&self, name: &str, dtype: DType) -> Expr<'_> {
        let mut names = self.names.borrow_mut();
        names.push(name.to_owned());
        Expr { tail: self, name: names.len() as u32 - 1, dtype }
    }

    /// A constant.
    pub fn constant(&self, tensor: &Tensor) -> Expr<'_> {
        let name = self.fresh("constant");
        self.constants.borrow_mut().push(from_tensor(&name, tensor));
        self.value(&name, tensor.dtype())
    }

    /// A constant of floating-point numbers, in row-major order; `None` when they do not fill `shape`.
    pub fn numbers(&self, shape: &[usize], values: Vec<f32>, dtype: DType) -> Option<Expr<'_>> {
        let tensor = Tensor::f32(shape, values)?;
        Some(self.constant(&tensor.cast_float(dtype).unwrap_or(tensor)))
    }

    /// A floating-point scalar; equal ones are one constant.
    pub fn scalar(&self, value: f32, dtype: DType) -> Expr<'_> {
        if let Some(&name) = self.scalars.borrow().get(&(value.to_bits(), dtype)) {
            return Expr { tail: self, name, dtype };
        }
        let tensor = Tensor::F32(ndarray::arr0(value).into_dyn());
        let expr = self.constant(&tensor.cast_float(dtype).unwrap_or(tensor));
        self.scalars.borrow_mut().insert((value.to_bits(), dtype), expr.name);
        expr
    }

    /// Appends a node with one result of type `dtype`. Operands left out are `None`.
    pub fn node<'t>(
        &'t self,
        op: &str,
        operands: &[Option<Expr<'t>>],
        attributes: &[Attr<'_>],
        dtype: DType,
    ) -> Expr<'t> {
        let result = self.fresh(&op.to_lowercase());
        let input = operands.iter().map(|o| o.map_or_else(String::new, |o| o.name())).collect();
        self.nodes.borrow_mut().push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(result.clone()),
            input,
            output: vec![result.clone()],
            attribute: attributes.iter().map(Attr::proto).collect(),
            ..Default::default()
        });
        self.value(&result, dtype)
    }

    /// Appends a copy of `node` on other operands, and returns its first result.
    pub fn reemit<'t>(&'t self, node: &NodeProto, operands: &[Option<Expr<'t>>], dtype: DType) -> Expr<'t> {
        let result = self.fresh(&node.op_type().to_lowercase());
        let input = operands.iter().map(|o| o.map_or_else(String::new, |o| o.name())).collect();
        self.nodes.borrow_mut().push(NodeProto {
            name: Some(result.clone()),
            input,
            output: vec![result.clone()],
            ..node.clone()
        });
        self.value(&result, dtype)
    }

    /// Operands concatenated along an axis; `None` without operands.
    pub fn concat<'t>(&'t self, parts: &[Expr<'t>], axis: usize) -> Option<Expr<'t>> {
        let dtype = parts.first()?.dtype;
        let operands: Vec<_> = parts.iter().copied().map(Some).collect();
        Some(self.node("Concat", &operands, &[Attr::Int("axis", axis as i64)], dtype))
    }

    /// Number of nodes so far.
    pub fn len(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// Whether there is no node yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `Some` that `found` returns for the nodes from number `start` on.
    pub fn find_from<T>(&self, start: usize, found: impl Fn(&NodeProto) -> Option<T>) -> Option<T> {
        self.nodes.borrow().iter().skip(start).find_map(found)
    }

    /// Removes the nodes from number `start` on. Nothing may use their results any more.
    pub fn truncate(&self, start: usize) {
        self.nodes.borrow_mut().truncate(start);
    }

    /// Moves what was written to a patch.
    pub fn append_to(&self, patch: &mut Patch) {
        self.constants.take().into_iter().for_each(|tensor| patch.constant(tensor));
        self.nodes.take().into_iter().for_each(|node| patch.append(node));
    }

    fn fresh(&self, hint: &str) -> String {
        self.count.set(self.count.get() + 1);
        format!("optin_{}_{}_{hint}", self.prefix, self.count.get())
    }
}

impl Attr<'_> {
    fn proto(&self) -> AttributeProto {
        let (name, kind) = match self {
            Self::Int(name, _) => (name, AttributeType::Int),
            Self::Ints(name, _) => (name, AttributeType::Ints),
            Self::Float(name, _) => (name, AttributeType::Float),
            Self::Str(name, _) => (name, AttributeType::String),
        };
        let mut proto = AttributeProto { name: Some((*name).to_owned()), ..Default::default() };
        proto.set_type(kind);
        match self {
            Self::Int(_, value) => proto.i = Some(*value),
            Self::Ints(_, values) => proto.ints = values.to_vec(),
            Self::Float(_, value) => proto.f = Some(*value),
            Self::Str(_, value) => proto.s = Some(value.as_bytes().to_vec().into()),
        }
        proto
    }
}

impl<'t> Expr<'t> {
    /// The value's name.
    pub fn name(&self) -> String {
        self.tail.names.borrow()[self.name as usize].clone()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What the expression is appended to.
    pub fn tail(&self) -> &'t Tail {
        self.tail
    }

    /// Appends a node that reads this value alone and keeps its type.
    pub fn map(self, op: &str) -> Self {
        self.apply(op, &[], &[])
    }

    /// Appends a node that reads this value and then `others`, and keeps its type.
    pub fn apply(self, op: &str, others: &[Expr<'t>], attributes: &[Attr<'_>]) -> Self {
        let operands: Vec<_> = std::iter::once(self).chain(others.iter().copied()).map(Some).collect();
        self.tail.node(op, &operands, attributes, self.dtype)
    }

    /// A scalar of this value's type.
    pub fn scalar(self, value: f32) -> Self {
        self.tail.scalar(value, self.dtype)
    }

    /// `self` to a constant power.
    pub fn powf(self, exponent: f32) -> Self {
        // Runtimes take long for a power, whatever the exponent.
        if exponent == 1.0 {
            return self;
        } else if exponent == 2.0 {
            return self * self;
        }
        self.apply("Pow", &[self.scalar(exponent)], &[])
    }

    /// Elements converted to another type.
    pub fn cast(self, dtype: DType) -> Self {
        if self.dtype == dtype {
            return self;
        }
        self.tail.node("Cast", &[Some(self)], &[Attr::Int("to", i64::from(dtype.onnx()))], dtype)
    }

    /// Where this is greater.
    pub fn greater(self, other: Self) -> Self {
        self.tail.node("Greater", &[Some(self), Some(other)], &[], DType::Bool)
    }

    /// Where the two are equal.
    pub fn equals(self, other: Self) -> Self {
        if self.tail.opset >= 11 || !self.dtype.is_float() {
            return self.tail.node("Equal", &[Some(self), Some(other)], &[], DType::Bool);
        }
        // Equal knew integers alone.
        self.greater(other).apply("Or", &[other.greater(self)], &[]).map("Not")
    }

    /// `yes` where this holds, else `no`.
    pub fn select(self, yes: Self, no: Self) -> Self {
        self.tail.node("Where", &[Some(self), Some(yes), Some(no)], &[], yes.dtype)
    }

    /// Matrix product.
    pub fn matmul(self, other: Self) -> Self {
        self.apply("MatMul", &[other], &[])
    }

    /// Probabilities over an axis, which must be the last.
    pub fn softmax(self, axis: usize) -> Self {
        self.apply("Softmax", &[], &[Attr::Int("axis", axis as i64)])
    }

    /// Axes in another order.
    pub fn transpose(self, perm: &[usize]) -> Self {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return self;
        }
        let perm: Vec<i64> = perm.iter().map(|p| *p as i64).collect();
        self.apply("Transpose", &[], &[Attr::Ints("perm", &perm)])
    }

    /// Axes back from the order that [`Self::transpose`] by `perm` put them in.
    pub fn transpose_back(self, perm: &[usize]) -> Self {
        let mut inverse: Vec<usize> = (0..perm.len()).collect();
        inverse.sort_by_key(|axis| perm[*axis]);
        self.transpose(&inverse)
    }

    /// The last two of `rank` axes exchanged.
    pub fn matrix_transpose(self, rank: usize) -> Self {
        let mut perm: Vec<usize> = (0..rank).collect();
        if rank >= 2 {
            perm.swap(rank - 2, rank - 1);
        }
        self.transpose(&perm)
    }

    /// Sum over axes, which stay with extent one if `keep`.
    pub fn sum(self, axes: &[usize], keep: bool) -> Self {
        self.reduce("ReduceSum", axes, keep, 13)
    }

    /// Mean over axes, which stay with extent one.
    pub fn mean(self, axes: &[usize]) -> Self {
        self.reduce("ReduceMean", axes, true, 18)
    }

    /// A reduction whose axes became an operand in version `since`.
    fn reduce(self, op: &str, axes: &[usize], keep: bool, since: i64) -> Self {
        if axes.is_empty() {
            return self;
        }
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        let keep = Attr::Int("keepdims", i64::from(keep));
        if self.tail.opset >= since {
            self.apply(op, &[self.tail.constant(&Tensor::ints(&axes))], &[keep])
        } else {
            self.apply(op, &[], &[Attr::Ints("axes", &axes), keep])
        }
    }

    /// The extents, as integers.
    pub fn shape(self) -> Self {
        self.tail.node("Shape", &[Some(self)], &[], DType::I64)
    }

    /// The number of elements, as a scalar of this value's type.
    pub fn num_elements(self) -> Self {
        self.tail.node("Size", &[Some(self)], &[], DType::I64).cast(self.dtype)
    }

    /// The same elements under the shape that `shape` holds.
    pub fn reshape_to(self, shape: Self) -> Self {
        self.apply("Reshape", &[shape], &[])
    }

    /// The same elements under another shape, where `0` copies an extent and `-1` is inferred.
    pub fn reshape(self, shape: &[i64]) -> Self {
        self.reshape_to(self.tail.constant(&Tensor::ints(shape)))
    }

    /// The same elements under the shape of `other`.
    pub fn reshape_like(self, other: Self) -> Self {
        self.reshape_to(other.shape())
    }

    /// Repeated to the shape of `other`.
    pub fn expand_like(self, other: Self) -> Self {
        self.apply("Expand", &[other.shape()], &[])
    }

    /// Zeros of this value's shape.
    pub fn zeros(self) -> Self {
        let zeros = self.tail.node("ConstantOfShape", &[Some(self.shape())], &[], DType::F32);
        zeros.cast(self.dtype)
    }

    /// This value with `updates` at the places of an axis that `indices` lists: in place of what is there, or added to it.
    pub fn scatter(self, axis: i64, indices: Self, updates: Self, add: bool) -> Self {
        let added = add.then_some(Attr::Str("reduction", "add"));
        let attributes: Vec<_> = std::iter::once(Attr::Int("axis", axis)).chain(added).collect();
        let scattered = self.apply("ScatterElements", &[indices, updates], &attributes);
        // tract takes the result for one of a wider type.
        let same = Attr::Int("to", i64::from(self.dtype.onnx()));
        self.tail.node("Cast", &[Some(scattered)], &[same], self.dtype)
    }

    /// New axes of extent one, at these places of the result.
    pub fn unsqueeze(self, axes: &[usize]) -> Self {
        self.squeezing("Unsqueeze", axes)
    }

    /// Without these axes, which have extent one.
    pub fn squeeze(self, axes: &[usize]) -> Self {
        self.squeezing("Squeeze", axes)
    }

    fn squeezing(self, op: &str, axes: &[usize]) -> Self {
        if axes.is_empty() {
            return self;
        }
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        if self.tail.opset >= 13 {
            self.apply(op, &[self.tail.constant(&Tensor::ints(&axes))], &[])
        } else {
            self.apply(op, &[], &[Attr::Ints("axes", &axes)])
        }
    }

    /// The entries `start..end` of an axis.
    pub fn slice(self, axis: usize, start: usize, end: usize) -> Self {
        self.slices(&[SliceRange { axis, start, end, step: 1 }])
    }

    /// Entries of several axes. Steps other than one need operator set 10.
    pub fn slices(self, ranges: &[SliceRange]) -> Self {
        let each =
            |of: fn(&SliceRange) -> usize| ranges.iter().map(|range| of(range) as i64).collect::<Vec<_>>();
        let [axes, starts, ends, steps] =
            [each(|r| r.axis), each(|r| r.start), each(|r| r.end), each(|r| r.step)];
        if self.tail.opset < 10 {
            let attributes =
                [Attr::Ints("starts", &starts), Attr::Ints("ends", &ends), Attr::Ints("axes", &axes)];
            return self.apply("Slice", &[], &attributes);
        }
        let mut operands = vec![starts, ends, axes];
        operands.extend(steps.iter().any(|s| *s != 1).then_some(steps));
        let operands: Vec<_> = operands.iter().map(|list| self.tail.constant(&Tensor::ints(list))).collect();
        self.apply("Slice", &operands, &[])
    }

    /// Zeros before and after the entries of each axis.
    pub fn pad(self, before: &[usize], after: &[usize]) -> Self {
        self.pad_with(0.0, before, after)
    }

    /// Copies of a number before and after the entries of each axis.
    pub fn pad_with(self, value: f32, before: &[usize], after: &[usize]) -> Self {
        let pads: Vec<i64> = before.iter().chain(after).map(|n| *n as i64).collect();
        if pads.iter().all(|n| *n == 0) {
            return self;
        }
        if self.tail.opset < 11 {
            return self.apply("Pad", &[], &[Attr::Ints("pads", &pads), Attr::Float("value", value)]);
        }
        let pads = self.tail.constant(&Tensor::ints(&pads));
        let value = (value != 0.0).then(|| self.scalar(value));
        self.apply("Pad", &std::iter::once(pads).chain(value).collect::<Vec<_>>(), &[])
    }

    /// A linear map along one of `rank` axes: `matrix` is `[extent before, extent after]`, row-major.
    pub fn apply_matrix(self, axis: usize, rank: usize, matrix: &[Vec<f32>]) -> Self {
        let columns = matrix.first().map_or(0, Vec::len);
        let flat = matrix.iter().flatten().copied().collect();
        match self.tail.numbers(&[matrix.len(), columns], flat, self.dtype) {
            Some(matrix) => self.apply_computed_matrix(axis, rank, matrix),
            None => self,
        }
    }

    /// As [`Self::apply_matrix`], by a matrix that is computed.
    pub fn apply_computed_matrix(self, axis: usize, rank: usize, matrix: Self) -> Self {
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(axis, rank - 1);
        self.transpose(&perm).matmul(matrix).transpose(&perm)
    }
}

macro_rules! arithmetic {
    ($($operator:ident, $method:ident, $op:literal);* $(;)?) => {$(
        impl<'t> $operator for Expr<'t> {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                self.apply($op, &[other], &[])
            }
        }

        impl<'t> $operator<f32> for Expr<'t> {
            type Output = Self;

            fn $method(self, other: f32) -> Self {
                self.$method(self.scalar(other))
            }
        }

        impl<'t> $operator<Expr<'t>> for f32 {
            type Output = Expr<'t>;

            fn $method(self, other: Expr<'t>) -> Expr<'t> {
                other.scalar(self).$method(other)
            }
        }
    )*};
}

arithmetic! {
    Add, add, "Add";
    Sub, sub, "Sub";
    Mul, mul, "Mul";
    Div, div, "Div";
}

impl Neg for Expr<'_> {
    type Output = Self;

    fn neg(self) -> Self {
        self.map("Neg")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_becomes_nodes_and_shared_constants() {
        let tail = Tail::new(17, "test");
        let (g, y) = (tail.value("g", DType::F32), tail.value("y", DType::F32));
        let _ = g * (1.0 - y * y) + 1.0;
        let ops: Vec<_> = tail.nodes.borrow().iter().map(|n| n.op_type().to_owned()).collect();
        assert_eq!(ops, ["Mul", "Sub", "Mul", "Add"]);
        assert_eq!(tail.constants.borrow().len(), 1);
    }

    #[test]
    fn axes_are_attributes_before_they_became_operands() {
        let inputs = |opset| {
            let tail = Tail::new(opset, "test");
            let _ = tail.value("x", DType::F32).mean(&[1]);
            let nodes = tail.nodes.borrow();
            (nodes[0].input.len(), nodes[0].attribute.len())
        };
        assert_eq!((inputs(17), inputs(18)), ((1, 2), (2, 1)));
    }
}
