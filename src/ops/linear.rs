//! Operators as matrix products: how a node that sums over a constant weight reads its operand, position by position.

use std::ops::Deref;

use ndarray::{ArrayD, IxDyn};

use super::window::Window;
use crate::{
    graph::{Facts, Graph, Node, NodeId},
    onnx::{self, tensor::to_tensor},
    tensor::Tensor,
};

/// What a rule sees of a typed node whose graph has been observed.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    node: &'a Node,
}

impl Deref for NodeView<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node
    }
}

impl<'a> NodeView<'a> {
    pub(crate) fn new(graph: &'a Graph, facts: &'a Facts, id: NodeId) -> Self {
        Self { graph, facts, node: graph.node(id) }
    }

    /// An attribute of non-negative integers, `count` of them; `default` each where it is left out.
    pub fn extents(&self, name: &str, count: usize, default: usize) -> Option<Vec<usize>> {
        let Some(ints) = onnx::attr_ints(&self.node.proto, name) else { return Some(vec![default; count]) };
        let ints = ints.iter().map(|i| usize::try_from(*i).ok()).collect::<Option<Vec<_>>>()?;
        (ints.len() == count).then_some(ints)
    }

    /// Observed extents of an operand.
    pub fn shape(&self, slot: usize) -> Option<&'a [usize]> {
        Some(&self.facts.get(self.input(slot)?)?.shape)
    }

    /// Observed extents of the first result.
    pub fn result_shape(&self) -> Option<&'a [usize]> {
        Some(&self.facts.get(self.node.outputs.first().copied().flatten()?)?.shape)
    }

    /// The numbers of a floating-point operand that is a constant of the file.
    pub fn constant(&self, slot: usize) -> Option<ArrayD<f64>> {
        let value = self.input(slot)?;
        match to_tensor(self.graph.constant(value)?).ok()?.cast_float(crate::tensor::DType::F64)? {
            Tensor::F64(numbers) => Some(numbers),
            _ => None,
        }
    }
}

/// A node as a matrix product per group: `Y[position, group, out] = Σ X[read(position, tap), group, inner] ·
/// W[group, tap, inner, out]`, plus a bias, times a scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Groups that do not mix.
    pub groups: usize,
    /// What each position of the result reads; `None` where it reads the operand's position of the same number.
    pub window: Option<Window>,
    /// Where the weight keeps the axes (group, tap, inner, out): the weight is that array with its axes in this order,
    /// neighbours merged.
    pub order: [usize; 4],
    /// Factor of the product.
    pub scale: f64,
    /// The operand slot that takes a bias per feature, if the operator has one, and the bias' factor.
    pub bias: Option<(usize, f64)>,
}

impl Linear {
    /// A plain product of matrices.
    pub(super) fn matrix(order: [usize; 4]) -> Self {
        Self { groups: 1, window: None, order, scale: 1.0, bias: None }
    }

    /// Positions of the operand that each position of the result reads.
    pub fn taps(&self) -> usize {
        self.window.as_ref().map_or(1, |w| w.kernel.iter().product())
    }
}

/// A factor that is the same for all elements.
pub(super) fn uniform(factor: f64) -> ArrayD<f64> {
    ArrayD::from_elem(IxDyn(&[]), factor)
}
