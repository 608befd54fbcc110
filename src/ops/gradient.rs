//! What a gradient rule sees of its node, and gives to its operands.

use std::{cell::RefCell, ops::Deref};

use super::{Operator, wrapped};
use crate::{
    graph::{Expr, Facts, Graph, Node, Tail, ValueId},
    onnx::{
        self,
        proto::{ModelProto, NodeProto},
    },
    tensor::{DType, Tensor},
};

/// Why a cotangent stops at a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{op} has no gradient rule{}", for_what(.what))]
pub struct NoGradient {
    /// The operator.
    pub op: String,
    /// The form of the operator that the rule does not cover; empty when there is no rule.
    pub what: String,
}

fn for_what(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" for {what}") }
}

/// One node of a backward pass: the vector-Jacobian product of what it computes.
///
/// Given the cotangents of the results, a rule gives each operand that needs one its cotangent, as formulas over the values
/// of the forward pass.
pub struct NodeGradient<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    tail: &'a Tail,
    node: &'a Node,
    cotangents: Vec<Option<Expr<'a>>>,
    needed: Vec<bool>,
    given: RefCell<Vec<(usize, Option<Expr<'a>>)>>,
}

impl Deref for NodeGradient<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node
    }
}

impl<'a> NodeGradient<'a> {
    /// `cotangents` are those of the results; `needed` says which operands want one.
    pub(crate) fn new(
        graph: &'a Graph,
        facts: &'a Facts,
        tail: &'a Tail,
        node: &'a Node,
        cotangents: Vec<Option<Expr<'a>>>,
        needed: Vec<bool>,
    ) -> Self {
        Self { graph, facts, tail, node, cotangents, needed, given: RefCell::default() }
    }

    /// What the rule gave, per slot: an error where it gave an operand nothing that needs a cotangent.
    pub(crate) fn finish(self) -> Result<Vec<(usize, Expr<'a>)>, NoGradient> {
        let given = self.given.borrow();
        let left_out = |slot: &usize| self.needs(*slot) && given.iter().all(|(s, _)| s != slot);
        match (0..self.input_count()).find(left_out) {
            Some(slot) => Err(self.none(&format!("its operand {slot} when that is computed"))),
            None => Ok(given.iter().filter_map(|(slot, g)| Some((*slot, (*g)?))).collect()),
        }
    }

    /// Why the rule does not cover a form of the operator.
    pub fn none(&self, what: &str) -> NoGradient {
        NoGradient { op: self.node.op_type().to_owned(), what: what.to_owned() }
    }

    /// Values laid end to end.
    pub fn laid(&self, parts: &[Expr<'a>], axis: usize) -> Result<Expr<'a>, NoGradient> {
        self.tail.concat(parts, axis).ok_or_else(|| self.none("operands without extent"))
    }

    /// The node once more, on other operands, for its first result: its attributes hold.
    pub fn again(&self, operands: &[Option<Expr<'a>>]) -> Result<Expr<'a>, NoGradient> {
        Ok(self.tail.again(&self.node.proto, operands, self.y(0)?.dtype()))
    }

    /// What formulas are appended to.
    pub fn tail(&self) -> &'a Tail {
        self.tail
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.tail.opset()
    }

    /// Whether the operand wants a cotangent.
    pub fn needs(&self, slot: usize) -> bool {
        self.needed.get(slot).copied().unwrap_or(false)
    }

    /// The cotangent of the first result.
    pub fn g(&self) -> Result<Expr<'a>, NoGradient> {
        self.cotangent(0).ok_or_else(|| self.none("a cotangent of another result than the first"))
    }

    /// The cotangent of the first result, when nothing depends on the others.
    pub fn only_g(&self) -> Result<Expr<'a>, NoGradient> {
        match (1..self.output_count()).any(|result| self.cotangent(result).is_some()) {
            true => Err(self.none("cotangents of several results")),
            false => self.g(),
        }
    }

    /// The cotangent of a result, if anything depends on it.
    pub fn cotangent(&self, result: usize) -> Option<Expr<'a>> {
        self.cotangents.get(result).copied().flatten()
    }

    /// An operand.
    pub fn x(&self, slot: usize) -> Result<Expr<'a>, NoGradient> {
        self.expr(self.input(slot)).ok_or_else(|| self.none("a missing operand"))
    }

    /// A result.
    pub fn y(&self, slot: usize) -> Result<Expr<'a>, NoGradient> {
        let value = self.node.outputs.get(slot).copied().flatten();
        self.expr(value).ok_or_else(|| self.none("a missing result"))
    }

    fn expr(&self, value: Option<ValueId>) -> Option<Expr<'a>> {
        let value = value?;
        let dtype = self.facts.get(value)?.dtype;
        Some(self.tail.value(&self.graph.value(value).name, dtype))
    }

    /// Observed extents of an operand. The batch of a run may differ from the observed one.
    pub fn shape(&self, slot: usize) -> Result<&'a [usize], NoGradient> {
        let fact = self.input(slot).and_then(|v| self.facts.get(v));
        fact.map(|f| f.shape.as_slice()).ok_or_else(|| self.none("an operand that was not observed"))
    }

    /// Observed extents of a result.
    pub fn result_shape(&self, slot: usize) -> Result<&'a [usize], NoGradient> {
        let fact = self.node.outputs.get(slot).copied().flatten().and_then(|v| self.facts.get(v));
        fact.map(|f| f.shape.as_slice()).ok_or_else(|| self.none("a result that was not observed"))
    }

    /// Element type of an operand.
    pub fn dtype(&self, slot: usize) -> Option<DType> {
        self.facts.get(self.input(slot)?).map(|f| f.dtype)
    }

    /// Observed contents of a small integer operand.
    pub fn contents(&self, slot: usize) -> Option<&'a [i64]> {
        self.facts.get(self.input(slot)?)?.ints.as_deref()
    }

    /// The operand's value, when it is a constant of the file.
    pub fn constant(&self, slot: usize) -> Option<Tensor> {
        onnx::tensor::to_tensor(self.graph.constant(self.input(slot)?)?).ok()
    }

    /// Integers given by an attribute in older operator sets and by an operand in newer ones.
    pub fn ints_or_operand(&self, name: &str, slot: usize) -> Option<Vec<i64>> {
        self.ints(name).or_else(|| self.contents(slot).map(<[i64]>::to_vec))
    }

    /// An axis number with negative ones counted from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, NoGradient> {
        wrapped(axis, rank).ok_or_else(|| self.none("an axis out of range"))
    }

    /// Gives an operand its cotangent, which has the operand's shape.
    pub fn give(&self, slot: usize, cotangent: Expr<'a>) {
        self.given.borrow_mut().push((slot, Some(cotangent)));
    }

    /// Says that the results do not depend on the operand, or only by steps.
    pub fn give_zero(&self, slot: usize) {
        self.given.borrow_mut().push((slot, None));
    }

    /// Gives an operand its cotangent as it is before broadcasting is undone: of shape `shape`.
    pub fn give_summed(&self, slot: usize, cotangent: Expr<'a>, shape: &[usize]) -> Result<(), NoGradient> {
        self.give(slot, summed(cotangent, shape, self.shape(slot)?));
        Ok(())
    }

    /// As [`Self::give_summed`], for a cotangent of the first result's shape.
    pub fn give_broadcast(&self, slot: usize, cotangent: Expr<'a>) -> Result<(), NoGradient> {
        self.give_summed(slot, cotangent, self.result_shape(0)?)
    }
}

/// Whether an operator has a gradient rule, be it for some of its forms only.
pub fn has_gradient(operator: &dyn Operator) -> bool {
    let (graph, facts, tail) = (Graph::new(&ModelProto::default()), Facts::default(), Tail::new(0, "none"));
    let node =
        Node { proto: NodeProto::default(), inputs: Vec::new(), captures: Vec::new(), outputs: Vec::new() };
    let bare = NodeGradient::new(&graph, &facts, &tail, &node, Vec::new(), Vec::new());
    // A rule says what it lacks of a node without operands; where there is no rule, nothing is said.
    !operator.gradient(&bare).is_err_and(|reason| reason.what.is_empty())
}

/// Undoes broadcasting: sums a cotangent of shape `shape` to what the operand has, of shape `own`.
pub(super) fn summed<'a>(cotangent: Expr<'a>, shape: &[usize], own: &[usize]) -> Expr<'a> {
    let added = shape.len().saturating_sub(own.len());
    let stretched = |axis: &usize| own.get(axis - added) == Some(&1) && shape[*axis] != 1;
    let axes: Vec<usize> = (added..shape.len()).filter(stretched).collect();
    let leading: Vec<usize> = (0..added).collect();
    cotangent.sum(&axes, true).sum(&leading, false)
}

/// A row of a matrix that copies entries: one at `place`, else zeros.
pub(super) fn one_hot(place: usize, extent: usize) -> Vec<f32> {
    (0..extent).map(|i| if i == place { 1.0 } else { 0.0 }).collect()
}
