//! Data propagation: which extents the elements of integer values hold.
//!
//! Graphs compute shapes: Shape → Gather → Concat → Reshape. An element that says the extent of a width is harmless where
//! it ends in a shape operand, which is rewritten by meaning. Where it becomes a floating-point number (a scale 1/√d computed
//! from Shape, say), that number stays the dense model's. Where it is used as a number otherwise, the width has to keep its
//! extent.

use std::{collections::BTreeSet, ops::Deref};

use super::{NodeCx, registry};
use crate::{
    graph::{Facts, Graph, NodeId},
    widths::{Element, Pin, PinReason, Width, Widths},
};

/// The integer operands and results of one node, while sizes are propagated through it.
pub struct DataPropagation<'a> {
    cx: NodeCx<'a>,
    dynamic: &'a [bool],
    widths: &'a mut Widths,
}

impl<'a> Deref for DataPropagation<'a> {
    type Target = NodeCx<'a>;

    fn deref(&self) -> &NodeCx<'a> {
        &self.cx
    }
}

impl<'a> DataPropagation<'a> {
    pub(crate) fn new(
        graph: &'a Graph,
        facts: &'a Facts,
        dynamic: &'a [bool],
        widths: &'a mut Widths,
        id: NodeId,
    ) -> Self {
        Self { cx: NodeCx::new(graph, facts, id), dynamic, widths }
    }

    /// Passes sizes through the node by its rule, or pins them where it has none or they are used as numbers.
    pub(crate) fn run(mut self) {
        let schema = registry::covering(self.cx.graph, self.cx.node);
        let follows = |slot| schema.is_some_and(|schema| schema.follows(self.opset(), slot));
        let say_sizes = |slot: &usize| self.elements(*slot).is_some() && !follows(*slot);
        let slots: Vec<usize> = (0..self.input_count()).filter(say_sizes).collect();
        if slots.is_empty() {
            return;
        }
        let passed = schema.is_some_and(|schema| schema.rule.propagate_data(&mut self).is_some());
        if !passed {
            slots.into_iter().for_each(|slot| self.pin(slot));
        }
    }

    fn pin(&mut self, slot: usize) {
        let widths: BTreeSet<Width> =
            self.elements(slot).into_iter().flatten().flat_map(Element::widths).collect();
        for width in widths {
            self.widths.table.pin(width, Pin::new(self.cx.node.label(), PinReason::Counted));
        }
    }

    /// What the elements of an operand hold, if some of them are extents; one entry per element, row-major.
    pub fn elements(&self, slot: usize) -> Option<&[Element]> {
        self.widths.sizes(self.input(slot)?)
    }

    /// As [`Self::elements`], with constants for operands that hold no extents; `None` when the operand is no small integer tensor.
    pub fn elements_or_constants(&self, slot: usize) -> Option<Vec<Element>> {
        if let Some(elements) = self.elements(slot) {
            return Some(elements.to_vec());
        }
        let number = if self.is_data_dependent(slot) { Element::Varying } else { Element::Constant };
        self.contents(slot).map(|ints| vec![number; ints.len()])
    }

    /// Whether an operand that holds no extents depends on the model's inputs.
    pub fn is_data_dependent(&self, slot: usize) -> bool {
        self.elements(slot).is_none() && self.input(slot).is_some_and(|v| self.dynamic[v.index()])
    }

    /// Sets what the elements of the first result hold. `None`, so that the sizes are pinned, unless there is one for each
    /// element of a small integer result.
    pub fn set(&mut self, elements: Vec<Element>) -> Option<()> {
        self.set_result(0, elements)
    }

    /// As [`Self::set`], for any result.
    pub fn set_result(&mut self, slot: usize, elements: Vec<Element>) -> Option<()> {
        let output = self.cx.node.outputs.get(slot).copied().flatten()?;
        let ints = self.cx.facts.get(output)?.ints.as_ref()?;
        if ints.len() != elements.len() {
            return None;
        }
        // A value that depends on inputs needs an entry even where all its elements are constant.
        if self.dynamic[output.index()] || elements.iter().any(|e| *e != Element::Constant) {
            self.widths.sizes[output.index()] = Some(elements);
        }
        Some(())
    }

    /// The elements of the first operand are those of the result, in the same order.
    pub fn copy_elements(&mut self) -> Option<()> {
        let elements = self.elements_or_constants(0)?;
        self.set(elements)
    }

    /// The result is a floating-point number (a scale `1/√d`). It has to stay what the dense model computes, so that the widths
    /// are restored where Shape reads them.
    pub fn to_float(&mut self) -> Option<()> {
        let elements = self.elements(0)?.iter().flat_map(Element::widths).collect::<Vec<_>>();
        let result = self.cx.facts.get(self.cx.node.outputs.first().copied().flatten()?)?;
        if !result.dtype.is_float() {
            return None;
        }
        self.widths.counted.extend(elements);
        Some(())
    }

    /// The only element of the result is computed from all of the first operand's.
    pub fn join_elements(&mut self) -> Option<()> {
        let elements = self.elements_or_constants(0)?;
        self.set(vec![Element::join(&elements.iter().collect::<Vec<_>>())])
    }

    /// The elements of the operand, distributed over the results in order.
    pub fn split_elements(&mut self) -> Option<()> {
        let mut elements = self.elements_or_constants(0)?;
        for slot in 0..self.cx.node.outputs.len() {
            let output = self.cx.node.outputs[slot]?;
            let count = self.cx.facts.get(output)?.shape.iter().product();
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
    pub fn combine_elements(&mut self) -> Option<()> {
        let operands = (0..self.input_count())
            .filter(|slot| self.has(*slot))
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
}
