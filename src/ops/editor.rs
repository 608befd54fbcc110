//! The view of a node that rewriting rules work on.

use std::{collections::BTreeSet, ops::Deref};

use super::{NodeCx, registry};
use crate::{
    graph::{Facts, Graph, Node, NodeId, Patch, Use},
    onnx::{
        self,
        proto::{AttributeProto, NodeProto},
        tensor::from_tensor,
    },
    tensor::{DType, Tensor},
    widths::{Element, Kept, Width, Widths},
};

/// Why a node could not follow the axes that shrink. Typing rules are written so that this does not happen.
#[derive(Debug, thiserror::Error)]
#[error("node {node} ({op}) cannot be rewritten: {what}")]
pub struct EditError {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What is in the way.
    pub what: String,
}

impl EditError {
    pub(super) fn new(node: &Node, what: impl Into<String>) -> Self {
        Self { node: node.label().to_owned(), op: node.op_type().to_owned(), what: what.into() }
    }
}

/// How an element of a shape operand changes when axes shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementEdit {
    /// It stays: it is right still, or computed from extents that shrink.
    Keep,
    /// It becomes this number.
    Set(i64),
    /// It is multiplied by `new` and divided by `old`.
    Scale {
        /// Numerator.
        new: i64,
        /// Denominator, which divides the element.
        old: i64,
    },
}

impl ElementEdit {
    fn apply(&self, value: i64) -> i64 {
        let (new, old) = self.ratio();
        self.known().unwrap_or(value * new / old)
    }

    fn known(&self) -> Option<i64> {
        if let Self::Set(value) = self { Some(*value) } else { None }
    }

    fn ratio(&self) -> (i64, i64) {
        if let Self::Scale { new, old } = *self { (new, old) } else { (1, 1) }
    }
}

/// One node under rewriting.
pub struct NodeEditor<'a> {
    cx: NodeCx<'a>,
    widths: &'a Widths,
    kept: &'a Kept,
    restored: &'a BTreeSet<Width>,
    patch: &'a mut Patch,
}

impl<'a> Deref for NodeEditor<'a> {
    type Target = NodeCx<'a>;

    fn deref(&self) -> &NodeCx<'a> {
        &self.cx
    }
}

impl<'a> NodeEditor<'a> {
    pub(crate) fn new(
        graph: &'a Graph,
        facts: &'a Facts,
        widths: &'a Widths,
        kept: &'a Kept,
        restored: &'a BTreeSet<Width>,
        patch: &'a mut Patch,
        id: NodeId,
    ) -> Self {
        Self { cx: NodeCx::new(graph, facts, id), widths, kept, restored, patch }
    }

    /// Brings the node up to date by its operator's rule. What no rule covers is pinned, and needs nothing.
    pub(crate) fn run(mut self) -> Result<(), EditError> {
        match registry::rule(self.cx.graph, self.cx.node) {
            Some(rule) => rule.rewrite(&mut self),
            None => Ok(()),
        }
    }

    /// An error about this node.
    pub fn error(&self, what: impl Into<String>) -> EditError {
        EditError::new(self.cx.node, what)
    }

    /// Axes of an operand; empty when it has none.
    pub fn axes(&self, slot: usize) -> &'a [Width] {
        self.widths.operand(self.cx.graph, Use { node: self.cx.id, slot }).unwrap_or_default()
    }

    /// Axes of a result; empty when it is left out.
    pub fn result_axes(&self, slot: usize) -> &'a [Width] {
        let value = self.cx.node.outputs.get(slot).copied().flatten();
        value.and_then(|v| self.widths.value(v)).unwrap_or_default()
    }

    /// Extent of a width before pruning.
    pub fn old_size(&self, width: Width) -> usize {
        self.widths.table.size(width)
    }

    /// Extent of a width after pruning.
    pub fn new_size(&self, width: Width) -> usize {
        self.kept.size(&self.widths.table, width)
    }

    /// Whether two widths are one.
    pub fn is_same_width(&self, a: Width, b: Width) -> bool {
        self.widths.table.root(a) == self.widths.table.root(b)
    }

    /// The entries of a width that stay; `None` when all do.
    pub fn kept_entries(&self, width: Width) -> Option<Vec<usize>> {
        self.kept.entries(&self.widths.table, width)
    }

    fn proto(&self) -> NodeProto {
        self.patch.replacement(self.cx.id).unwrap_or(&self.cx.node.proto).clone()
    }

    fn set_attribute(&mut self, attribute: AttributeProto) {
        let mut node = self.proto();
        match node.attribute.iter_mut().find(|a| a.name() == attribute.name()) {
            Some(old) => *old = attribute,
            None => node.attribute.push(attribute),
        }
        self.patch.replace(self.cx.id, node);
    }

    /// Sets an integer attribute.
    pub fn set_int(&mut self, name: &str, value: i64) {
        self.set_attribute(onnx::int_attribute(name, value));
    }

    /// Scales an integer attribute that counts a factor of `axis` (heads, groups) by the share of the axis that stays.
    pub fn scale_int(&mut self, name: &str, axis: Option<&Width>) {
        let (Some(count), Some(&axis)) = (self.int(name), axis) else { return };
        let (old, new) = (self.old_size(axis), self.new_size(axis));
        if old != new && old > 0 {
            self.set_int(name, count * new as i64 / old as i64);
        }
    }

    /// Sets an attribute of integers.
    pub fn set_ints(&mut self, name: &str, values: Vec<i64>) {
        self.set_attribute(onnx::ints_attribute(name, &values));
    }

    /// Removes an attribute.
    pub fn remove_attribute(&mut self, name: &str) {
        let mut node = self.proto();
        node.attribute.retain(|a| a.name() != name);
        self.patch.replace(self.cx.id, node);
    }

    /// Replaces an operand by a constant of integers, of the same rank: a scalar, a vector, or a column `[n, 1]`.
    pub fn set_indices(&mut self, slot: usize, values: &[i64]) -> Result<(), EditError> {
        let fact = self.input(slot).and_then(|v| self.cx.facts.get(v));
        let list = self.integers(slot, values);
        let tensor = match fact.map(|f| f.shape.as_slice()) {
            Some([]) => list.reshape(&[]),
            Some([_]) => Some(list),
            Some([_, 1]) => list.reshape(&[values.len(), 1]),
            _ => None,
        };
        let tensor = tensor.ok_or_else(|| self.error("its indices are of unexpected rank"))?;
        let name = self.constant("indices", &tensor);
        self.patch.rewire(Use { node: self.cx.id, slot }, name);
        Ok(())
    }

    /// Replaces an operand by a constant vector of integers.
    pub fn set_operand(&mut self, slot: usize, values: &[i64]) {
        let name = self.constant("shape", &self.integers(slot, values));
        self.patch.rewire(Use { node: self.cx.id, slot }, name);
    }

    /// A vector of integers of the type that an operand has; of int64, which all operands may have, where there is none yet.
    fn integers(&self, slot: usize, values: &[i64]) -> Tensor {
        let narrow = |value: &i64| (*value).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        match self.dtype(slot) {
            Some(DType::I32) => {
                Tensor::I32(values.iter().map(narrow).collect::<ndarray::Array1<_>>().into_dyn())
            }
            _ => Tensor::ints(values),
        }
    }

    fn constant(&mut self, hint: &str, tensor: &Tensor) -> String {
        let name = self.patch.fresh(self.cx.graph, hint);
        self.patch.constant(from_tensor(&name, tensor));
        name
    }

    /// Replaces elements of a list of integers that is an attribute in older operator sets and an operand in newer ones; `None`
    /// keeps an element.
    pub fn set_ints_or_elements(
        &mut self,
        name: &str,
        slot: usize,
        changes: &[Option<i64>],
    ) -> Result<(), EditError> {
        let Some(old) = self.ints(name) else { return self.set_elements(slot, changes) };
        if changes.iter().any(Option::is_some) {
            self.set_ints(name, old.iter().zip(changes).map(|(old, new)| new.unwrap_or(*old)).collect());
        }
        Ok(())
    }

    /// Replaces elements of an integer vector operand, keeping those that are `None`.
    pub fn set_elements(&mut self, slot: usize, changes: &[Option<i64>]) -> Result<(), EditError> {
        let changes: Vec<_> = changes.iter().map(|c| c.map_or(ElementEdit::Keep, ElementEdit::Set)).collect();
        self.edit_operand(slot, &changes)
    }

    /// Changes elements of an integer vector operand: in a copy, where the operand is a constant, and otherwise by arithmetic
    /// on what is computed.
    pub fn edit_operand(&mut self, slot: usize, changes: &[ElementEdit]) -> Result<(), EditError> {
        if changes.iter().all(|c| *c == ElementEdit::Keep) {
            return Ok(());
        }
        let old = self.contents(slot).ok_or_else(|| self.error("a shape operand was not observed"))?;
        if old.len() != changes.len() {
            return Err(self.error("a shape operand has an unexpected length"));
        }
        if self.is_constant(slot) {
            let values: Vec<i64> = old.iter().zip(changes).map(|(old, change)| change.apply(*old)).collect();
            self.set_operand(slot, &values);
            return Ok(());
        }
        let mut name = self.cx.node.proto.input.get(slot).cloned().unwrap_or_default();
        if changes.iter().any(|c| matches!(c, ElementEdit::Scale { .. })) {
            let ratios: Vec<_> = changes.iter().map(ElementEdit::ratio).collect();
            for (op, values) in [("Mul", 0), ("Div", 1)] {
                let factors: Vec<i64> = ratios.iter().map(|r| [r.0, r.1][values]).collect();
                let factors = self.constant("shape", &self.integers(slot, &factors));
                name = self.compute(op, vec![name, factors]);
            }
        }
        let known: Vec<Option<i64>> = changes.iter().map(ElementEdit::known).collect();
        if known.iter().any(Option::is_some) {
            let mask = ndarray::Array1::from_iter(known.iter().map(Option::is_some)).into_dyn();
            let mask = self.constant("where", &Tensor::Bool(mask));
            let values: Vec<i64> = known.iter().map(|k| k.unwrap_or(0)).collect();
            let values = self.constant("shape", &self.integers(slot, &values));
            name = self.compute("Where", vec![mask, values, name]);
        }
        self.patch.rewire(Use { node: self.cx.id, slot }, name);
        Ok(())
    }

    /// Adds a node before this one, and returns the name of its result.
    fn compute(&mut self, op: &str, input: Vec<String>) -> String {
        let name = self.patch.fresh(self.cx.graph, "shape");
        let node = NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("{name}_{}", op.to_lowercase())),
            input,
            output: vec![name.clone()],
            ..Default::default()
        };
        self.patch.insert(self.cx.id, node);
        name
    }

    /// How element `index` of a shape operand has to change when what it says goes from `old` to `new`; `axis` is the axis
    /// that it is the extent of, if it is.
    ///
    /// What is computed from restored extents ([`Self::restored`]) is what the dense model computes: a share of it remains.
    pub fn element_edit(
        &self,
        slot: usize,
        index: usize,
        axis: Option<Width>,
        (old, new): (usize, usize),
    ) -> ElementEdit {
        let value = self.input(slot);
        let element = value.and_then(|v| self.widths.sizes(v)).and_then(|e| e.get(index));
        let (share, of) = match element {
            None | Some(Element::Constant | Element::Varying) if old == new => return ElementEdit::Keep,
            None | Some(Element::Constant | Element::Varying) => return ElementEdit::Set(new as i64),
            Some(Element::Extent(width)) if !self.restored(*width) => {
                if axis.is_some_and(|axis| self.is_same_width(axis, *width)) {
                    return ElementEdit::Keep;
                }
                (new * self.old_size(*width), old * self.new_size(*width))
            }
            Some(_) => (new, old),
        };
        if share == of { ElementEdit::Keep } else { ElementEdit::Scale { new: share as i64, old: of as i64 } }
    }

    /// Whether the dense extent of a width that shrinks is restored where Shape reads it: something is computed from it.
    pub fn restored(&self, width: Width) -> bool {
        self.restored.contains(&self.widths.table.root(width))
    }

    /// Scales the elements of the result, an integer vector, by these shares.
    pub fn scale_result(&mut self, shares: &[ElementEdit]) {
        let [numerators, denominators] = [0, 1].map(|part| {
            let factors: Vec<i64> = shares.iter().map(|s| [s.ratio().0, s.ratio().1][part]).collect();
            self.constant("shape", &Tensor::ints(&factors))
        });
        self.insert_after("Mul", numerators, None);
        self.insert_after("Div", denominators, None);
    }

    /// Multiplies the first result, which holds numbers, by a factor.
    pub fn scale_first_result(&mut self, factor: f32) -> Result<(), EditError> {
        let result = self.cx.node.outputs.first().copied().flatten();
        let dtype = result.and_then(|v| self.cx.facts.get(v)).map(|f| f.dtype);
        let factor = Tensor::f32(&[], vec![factor]).zip(dtype).and_then(|(f, dtype)| f.cast_float(dtype));
        let factor = factor.ok_or_else(|| self.error("its result holds no numbers"))?;
        let factor = self.constant("factor", &factor);
        self.insert_after("Mul", factor, None);
        Ok(())
    }

    /// Appends a Gather, so that the first result has only these entries of the axis.
    pub fn select_result(&mut self, axis: usize, entries: &[usize]) {
        let entries: Vec<i64> = entries.iter().map(|e| *e as i64).collect();
        let entries = self.constant("indices", &Tensor::ints(&entries));
        self.insert_after("Gather", entries, Some(onnx::int_attribute("axis", axis as i64)));
    }

    /// Appends a node that computes the first result from what it was and a constant, under the result's name.
    fn insert_after(&mut self, op: &str, constant: String, attribute: Option<AttributeProto>) {
        let Some(result) = self.cx.node.proto.output.first().cloned() else { return };
        let raw = self.patch.fresh(self.cx.graph, "raw");
        let node = NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("{raw}_{}", op.to_lowercase())),
            input: vec![raw.clone(), constant],
            output: vec![result],
            attribute: attribute.into_iter().collect(),
            ..Default::default()
        };
        self.patch.insert_after(self.cx.id, node, raw);
    }

    /// How the elements of a shape operand that says the extents of `axes` have to change.
    pub fn shape_edits(&self, slot: usize, axes: &[Width]) -> Vec<ElementEdit> {
        let sizes = |a: &Width| (self.old_size(*a), self.new_size(*a));
        axes.iter().enumerate().map(|(i, a)| self.element_edit(slot, i, Some(*a), sizes(a))).collect()
    }
}
