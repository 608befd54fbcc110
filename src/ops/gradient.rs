//! The view of a node that gradient rules work on.

use std::{cell::RefCell, ops::Deref};

use super::{Missing, NodeCx, node::MissingKind, registry};
use crate::{
    graph::{Expr, Facts, Graph, Node, NodeId, Tail, ValueId},
    onnx::proto::NodeProto,
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

impl NoGradient {
    fn new(node: &Node, what: &str) -> Self {
        Self { op: node.op_type().to_owned(), what: what.to_owned() }
    }
}

impl From<Missing<'_>> for NoGradient {
    fn from(missing: Missing<'_>) -> Self {
        let what = match missing.what {
            MissingKind::Operand => "an operand that was not observed",
            MissingKind::Result => "a result that was not observed",
            MissingKind::Axis => "an axis out of range",
        };
        Self::new(missing.node, what)
    }
}

fn for_what(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" for {what}") }
}

/// One node of a backward pass: the vector-Jacobian product of what it computes.
///
/// Given the cotangents of the results, a rule sets the cotangent of each operand that needs one, as formulas over the values
/// of the forward pass: `x(slot)` is an operand, `y(slot)` a result, and `g()` the cotangent of the first result.
pub struct NodeGradient<'a> {
    cx: NodeCx<'a>,
    tail: &'a Tail,
    cotangents: Vec<Option<Expr<'a>>>,
    needed: Vec<bool>,
    given: RefCell<Vec<(usize, Option<Expr<'a>>)>>,
}

impl<'a> Deref for NodeGradient<'a> {
    type Target = NodeCx<'a>;

    fn deref(&self) -> &NodeCx<'a> {
        &self.cx
    }
}

impl<'a> NodeGradient<'a> {
    /// `cotangents` are those of the results; `needed` says which operands want one.
    pub(crate) fn new(
        graph: &'a Graph,
        facts: &'a Facts,
        tail: &'a Tail,
        id: NodeId,
        cotangents: Vec<Option<Expr<'a>>>,
        needed: Vec<bool>,
    ) -> Self {
        let cx = NodeCx::new(graph, facts, id);
        Self { cx, tail, cotangents, needed, given: RefCell::default() }
    }

    /// The cotangents of operands that the operator's rule gives, by slot.
    pub(crate) fn run(self) -> Result<Vec<(usize, Expr<'a>)>, NoGradient> {
        let Some(rule) = registry::rule(self.graph, self.node) else { return Err(self.no_rule()) };
        let (tail, start) = (self.tail, self.tail.len());
        let given = rule.gradient(&self).and_then(|()| self.known(start)).and_then(|()| self.given());
        if given.is_err() {
            tail.truncate(start);
        }
        given
    }

    /// Checks that the model's operator set has the operators of the formulas from number `start` on.
    fn known(&self, start: usize) -> Result<(), NoGradient> {
        let newer = |node: &NodeProto| {
            let schema = registry::schema(node).filter(|schema| schema.domain.is_empty())?;
            let since = *schema.since.first()?;
            (since > self.opset()).then_some((schema.name, since))
        };
        match self.tail.find_from(start, newer) {
            Some((name, since)) => {
                Err(self.unsupported(&format!("operator sets before {since}, which lack {name}")))
            }
            None => Ok(()),
        }
    }

    /// What the rule gave: an error where it gave an operand nothing that needs a cotangent.
    fn given(&self) -> Result<Vec<(usize, Expr<'a>)>, NoGradient> {
        let given = self.given.borrow();
        let left_out = |slot: &usize| self.needs(*slot) && given.iter().all(|(s, _)| s != slot);
        match (0..self.input_count()).find(left_out) {
            Some(slot) => Err(self.unsupported(&format!("its operand {slot} when that is computed"))),
            None => Ok(given.iter().filter_map(|(slot, g)| Some((*slot, (*g)?))).collect()),
        }
    }

    /// The error for a form of the operator that its rule does not cover; `what` completes "has no gradient rule for …".
    pub fn unsupported(&self, what: &str) -> NoGradient {
        NoGradient::new(self.node, what)
    }

    /// That there is no rule for any form of the operator.
    pub(super) fn no_rule(&self) -> NoGradient {
        self.unsupported("")
    }

    /// Values concatenated along an axis.
    pub fn concat(&self, parts: &[Expr<'a>], axis: usize) -> Result<Expr<'a>, NoGradient> {
        self.tail.concat(parts, axis).ok_or_else(|| self.unsupported("operands without extent"))
    }

    /// Appends a copy of the node, with its attributes, on other operands; returns its first result.
    pub fn reemit(&self, operands: &[Option<Expr<'a>>]) -> Result<Expr<'a>, NoGradient> {
        Ok(self.tail.reemit(&self.node.proto, operands, self.y(0)?.dtype()))
    }

    /// What formulas are appended to.
    pub fn tail(&self) -> &'a Tail {
        self.tail
    }

    /// Whether the operand wants a cotangent.
    pub fn needs(&self, slot: usize) -> bool {
        self.needed.get(slot).copied().unwrap_or(false)
    }

    /// The cotangent of the first result.
    pub fn g(&self) -> Result<Expr<'a>, NoGradient> {
        self.cotangent(0).ok_or_else(|| self.unsupported("a cotangent of another result than the first"))
    }

    /// The cotangent of the first result, when nothing depends on the others.
    pub fn sole_g(&self) -> Result<Expr<'a>, NoGradient> {
        if (1..self.output_count()).any(|result| self.cotangent(result).is_some()) {
            Err(self.unsupported("cotangents of several results"))
        } else {
            self.g()
        }
    }

    /// The cotangent of a result, if anything depends on it.
    pub fn cotangent(&self, result: usize) -> Option<Expr<'a>> {
        self.cotangents.get(result).copied().flatten()
    }

    /// An operand.
    pub fn x(&self, slot: usize) -> Result<Expr<'a>, NoGradient> {
        self.expr(self.input(slot)).ok_or_else(|| self.unsupported("a missing operand"))
    }

    /// A result.
    pub fn y(&self, slot: usize) -> Result<Expr<'a>, NoGradient> {
        let value = self.output(slot);
        self.expr(value).ok_or_else(|| self.unsupported("a missing result"))
    }

    fn expr(&self, value: Option<ValueId>) -> Option<Expr<'a>> {
        let value = value?;
        let dtype = self.facts.get(value)?.dtype;
        Some(self.tail.value(&self.graph.value(value).name, dtype))
    }

    /// Sets the cotangent of an operand; it has the operand's shape.
    pub fn set_cotangent(&self, slot: usize, cotangent: Expr<'a>) {
        self.given.borrow_mut().push((slot, Some(cotangent)));
    }

    /// Sets the cotangent of an operand to zero: the results do not depend on it, or are piecewise constant in it.
    pub fn set_zero_cotangent(&self, slot: usize) {
        self.given.borrow_mut().push((slot, None));
    }

    /// As [`Self::set_cotangent`], for a cotangent of shape `shape`, which the operand was broadcast to: the sum over the
    /// broadcast axes is set.
    pub fn set_unbroadcast(
        &self,
        slot: usize,
        cotangent: Expr<'a>,
        shape: &[usize],
    ) -> Result<(), NoGradient> {
        self.set_cotangent(slot, unbroadcast(cotangent, shape, self.shape(slot)?));
        Ok(())
    }

    /// As [`Self::set_unbroadcast`], for an operand that was broadcast to the first result's shape.
    pub fn set_from_result_shape(&self, slot: usize, cotangent: Expr<'a>) -> Result<(), NoGradient> {
        self.set_unbroadcast(slot, cotangent, self.result_shape(0)?)
    }
}

/// Undoes broadcasting: sums a cotangent of shape `shape` over the axes that broadcasting added to an operand of shape `own`, or
/// stretched from extent one.
pub(super) fn unbroadcast<'a>(cotangent: Expr<'a>, shape: &[usize], own: &[usize]) -> Expr<'a> {
    let added = shape.len().saturating_sub(own.len());
    let stretched = |axis: &usize| own.get(axis - added) == Some(&1) && shape[*axis] != 1;
    let axes: Vec<usize> = (added..shape.len()).filter(stretched).collect();
    let leading: Vec<usize> = (0..added).collect();
    cotangent.sum(&axes, true).sum(&leading, false)
}

/// A vector of `extent` zeros with a one at `place`.
pub(super) fn one_hot(place: usize, extent: usize) -> Vec<f32> {
    (0..extent).map(|i| if i == place { 1.0 } else { 0.0 }).collect()
}
