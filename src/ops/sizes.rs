//! Sizes as data: which widths the elements of integer values speak of.
//!
//! Graphs compute shapes: Shape → Gather → Concat → Reshape. An element that says the extent of a width is harmless where
//! it ends in a shape operand, which is rewritten by meaning. Where it becomes a floating-point number (a scale 1/√d computed
//! from Shape, say), that number stays the dense model's. Where it is used as a number otherwise, the width has to keep its
//! extent.

use std::{collections::BTreeSet, ops::Deref};

use super::Operator;
use crate::{
    graph::{Facts, Graph, Node, NodeId, ValueId},
    widths::{Element, Pin, Reason, Width, Widths},
};

/// The integer values around one node, while sizes flow through it.
pub struct SizeFlow<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    widths: &'a mut Widths,
    id: NodeId,
    node: &'a Node,
}

impl Deref for SizeFlow<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node
    }
}

impl<'a> SizeFlow<'a> {
    pub(crate) fn new(graph: &'a Graph, facts: &'a Facts, widths: &'a mut Widths, id: NodeId) -> Self {
        Self { graph, facts, widths, id, node: graph.node(id) }
    }

    /// Passes sizes through the node by its rule, or pins them where it has none or they are used as numbers.
    pub(crate) fn run(mut self, rule: Option<&dyn Operator>) {
        let shapes = rule.map_or(&[][..], |rule| rule.shape_operands());
        let speaks = |flow: &Self, slot: usize| !shapes.contains(&slot) && flow.elements(slot).is_some();
        if !(0..self.node.inputs.len()).any(|slot| speaks(&self, slot)) {
            return;
        }
        let passed = rule.is_some_and(|rule| rule.sizes(&mut self).is_some());
        if !passed {
            let slots: Vec<_> = (0..self.node.inputs.len()).filter(|slot| speaks(&self, *slot)).collect();
            for slot in slots {
                self.pin(slot);
            }
        }
    }

    fn pin(&mut self, slot: usize) {
        let widths: BTreeSet<Width> =
            self.elements(slot).into_iter().flatten().flat_map(Element::widths).collect();
        for width in widths {
            self.widths.table.pin(width, Pin::new(self.node.label(), Reason::Counted));
        }
    }

    fn value(&self, slot: usize) -> Option<ValueId> {
        self.input(slot)
    }

    /// What the elements of an operand say, if it says sizes.
    pub fn elements(&self, slot: usize) -> Option<&[Element]> {
        self.widths.sizes(self.value(slot)?)
    }

    /// As [`Self::elements`], with plain constants for operands that say nothing; `None` when the operand is not a small
    /// integer.
    pub fn elements_or_constants(&self, slot: usize) -> Option<Vec<Element>> {
        if let Some(elements) = self.elements(slot) {
            return Some(elements.to_vec());
        }
        self.contents(slot).map(|ints| vec![Element::Constant; ints.len()])
    }

    /// Observed contents of a small integer operand.
    pub fn contents(&self, slot: usize) -> Option<&'a [i64]> {
        self.facts.get(self.value(slot)?)?.ints.as_deref()
    }

    /// Says what the elements of the first result say. `None`, so that the sizes are pinned, unless there is one for each
    /// element of a small integer result.
    pub fn set(&mut self, elements: Vec<Element>) -> Option<()> {
        self.set_result(0, elements)
    }

    /// As [`Self::set`], for any result.
    pub fn set_result(&mut self, slot: usize, elements: Vec<Element>) -> Option<()> {
        let output = self.node.outputs.get(slot).copied().flatten()?;
        let ints = self.facts.get(output)?.ints.as_ref()?;
        if ints.len() != elements.len() {
            return None;
        }
        if elements.iter().any(|e| *e != Element::Constant) {
            self.widths.sizes[output.index()] = Some(elements);
        }
        Some(())
    }

    /// Elements pass unchanged, in order.
    pub fn pass(&mut self) -> Option<()> {
        let elements = self.elements_or_constants(0)?;
        self.set(elements)
    }

    /// The result is of floating-point numbers, which say no sizes any more. They have to be what the dense model computes.
    pub fn count(&mut self) -> Option<()> {
        let elements = self.elements(0)?.iter().flat_map(Element::widths).collect::<Vec<_>>();
        let result = self.facts.get(self.node.outputs.first().copied().flatten()?)?;
        if !result.dtype.is_float() {
            return None;
        }
        self.widths.counted.extend(elements);
        Some(())
    }

    /// The only element of the result is computed from all of the first operand's.
    pub fn reduce(&mut self) -> Option<()> {
        let elements = self.elements_or_constants(0)?;
        self.set(vec![Element::join(&elements.iter().collect::<Vec<_>>())])
    }

    /// The elements of the operand, dealt out to the results in order.
    pub fn deal(&mut self) -> Option<()> {
        let mut elements = self.elements_or_constants(0)?;
        for slot in 0..self.node.outputs.len() {
            let output = self.node.outputs[slot]?;
            let count = self.facts.get(output)?.shape.iter().product();
            if count > elements.len() {
                return None;
            }
            let rest = elements.split_off(count);
            self.set_result(slot, elements)?;
            elements = rest;
        }
        Some(())
    }

    /// Each element of the result is computed from those of the operands at its place; operands of one element are
    /// broadcast.
    pub fn combine(&mut self) -> Option<()> {
        let operands = (0..self.input_count())
            .filter(|slot| self.value(*slot).is_some())
            .map(|slot| self.elements_or_constants(slot))
            .collect::<Option<Vec<_>>>()?;
        let count = operands.iter().map(Vec::len).max()?;
        let elements = (0..count)
            .map(|i| {
                let parts: Option<Vec<_>> =
                    operands.iter().map(|o| if o.len() == 1 { o.first() } else { o.get(i) }).collect();
                parts.map(|parts| Element::join(&parts))
            })
            .collect::<Option<Vec<_>>>()?;
        self.set(elements)
    }

    /// The node that sizes flow through, for reasons.
    pub fn label(&self) -> &str {
        self.graph.node(self.id).label()
    }
}
