//! The view of a node that all kinds of rules share: its wiring, and the observed types and shapes of its values.

use std::ops::Deref;

use ndarray::ArrayD;

use super::EditError;
use crate::{
    graph::{Fact, Facts, Graph, Node, NodeId, ValueId},
    onnx::tensor::to_tensor,
    tensor::{DType, Tensor},
    widths::PinReason,
};

/// A node with its graph and the observed facts. A slot is the index of an operand (or result), in the order of its [`OpSchema`](super::OpSchema) lists them.
#[derive(Clone, Copy)]
pub struct NodeCx<'a> {
    pub(super) graph: &'a Graph,
    pub(super) facts: &'a Facts,
    pub(super) id: NodeId,
    pub(super) node: &'a Node,
}

impl Deref for NodeCx<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node
    }
}

/// A fact or an axis that a rule asked for and that is not there. Converts to a reason to pin (typing), to stop (gradients) or
/// to fail (rewriting).
#[derive(Clone, Copy)]
pub struct Missing<'a> {
    pub(super) node: &'a Node,
    pub(super) what: MissingKind,
}

/// What is missing.
#[derive(Clone, Copy)]
pub(super) enum MissingKind {
    /// A fact about an operand.
    Operand,
    /// A fact about a result.
    Result,
    /// The axis of a number.
    Axis,
}

impl From<Missing<'_>> for PinReason {
    fn from(missing: Missing<'_>) -> Self {
        match missing.what {
            MissingKind::Operand | MissingKind::Result => Self::Unobserved,
            MissingKind::Axis => {
                Self::Form { op: missing.node.op_type().to_owned(), what: "axis out of range".to_owned() }
            }
        }
    }
}

impl From<Missing<'_>> for EditError {
    fn from(missing: Missing<'_>) -> Self {
        let what = match missing.what {
            MissingKind::Operand => "an operand was not observed",
            MissingKind::Result => "a result was not observed",
            MissingKind::Axis => "axis out of range",
        };
        Self::new(missing.node, what)
    }
}

impl<'a> NodeCx<'a> {
    /// A node, among what was observed.
    pub(crate) fn new(graph: &'a Graph, facts: &'a Facts, id: NodeId) -> Self {
        Self { graph, facts, id, node: graph.node(id) }
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.graph.opset()
    }

    fn missing(&self, what: MissingKind) -> Missing<'a> {
        Missing { node: self.node, what }
    }

    /// A result; `None` where it is left out.
    pub fn output(&self, slot: usize) -> Option<ValueId> {
        self.node.outputs.get(slot).copied().flatten()
    }

    fn fact(&self, slot: usize) -> Option<&'a Fact> {
        self.facts.get(self.node.input(slot)?)
    }

    fn result_fact(&self, slot: usize) -> Option<&'a Fact> {
        self.facts.get(self.output(slot)?)
    }

    /// Observed extents of an operand. The batch of a run may differ from the observed one.
    pub fn shape(&self, slot: usize) -> Result<&'a [usize], Missing<'a>> {
        self.fact(slot).map(|f| f.shape.as_slice()).ok_or(self.missing(MissingKind::Operand))
    }

    /// Observed extents of a result.
    pub fn result_shape(&self, slot: usize) -> Result<&'a [usize], Missing<'a>> {
        self.result_fact(slot).map(|f| f.shape.as_slice()).ok_or(self.missing(MissingKind::Result))
    }

    /// Element type of an operand.
    pub fn dtype(&self, slot: usize) -> Option<DType> {
        self.fact(slot).map(|f| f.dtype)
    }

    /// Element type of a result.
    pub fn result_dtype(&self, slot: usize) -> Option<DType> {
        self.result_fact(slot).map(|f| f.dtype)
    }

    /// Observed contents of a small integer operand.
    pub fn contents(&self, slot: usize) -> Option<&'a [i64]> {
        self.fact(slot)?.ints.as_deref()
    }

    /// Observed contents of a small integer result.
    pub fn result_contents(&self, slot: usize) -> Option<&'a [i64]> {
        self.result_fact(slot)?.ints.as_deref()
    }

    /// Integers given by an attribute in older operator sets and by an operand in newer ones.
    pub fn ints_or_operand(&self, name: &str, slot: usize) -> Option<Vec<i64>> {
        self.node.ints(name).or_else(|| self.contents(slot).map(<[i64]>::to_vec))
    }

    /// Whether the operand is a constant of the file.
    pub fn is_constant(&self, slot: usize) -> bool {
        self.node.input(slot).is_some_and(|v| self.graph.constant(v).is_some())
    }

    /// The operand's value, when it is a constant of the file.
    pub fn constant(&self, slot: usize) -> Option<Tensor> {
        to_tensor(self.graph.constant(self.node.input(slot)?)?).ok()
    }

    /// The numbers of a floating-point operand that is a constant of the file.
    pub fn numbers(&self, slot: usize) -> Option<ArrayD<f64>> {
        match self.constant(slot)?.cast_float(DType::F64)? {
            Tensor::F64(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// An attribute of `count` non-negative integers; `default` for each where the attribute is left out. `None` if it does not
    /// fit.
    pub fn extents(&self, name: &str, count: usize, default: usize) -> Option<Vec<usize>> {
        let Some(ints) = self.node.ints(name) else { return Some(vec![default; count]) };
        let ints = ints.iter().map(|i| usize::try_from(*i).ok()).collect::<Option<Vec<_>>>()?;
        (ints.len() == count).then_some(ints)
    }

    /// An axis attribute as an index: ONNX counts negative axes from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, Missing<'a>> {
        let wrapped = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        let wrapped = wrapped.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < rank);
        wrapped.ok_or(self.missing(MissingKind::Axis))
    }
}
