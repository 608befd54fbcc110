//! The view of a node that typing rules work on.

use std::ops::Deref;

use super::{NodeCx, OpSchema, registry};
use crate::{
    graph::{Facts, Graph, NodeId, Use},
    widths::{Contraction, Element, Macs, Pin, PinReason, SlotAxis, Width, Widths},
};

/// One node under typing.
pub struct NodeTyper<'a> {
    cx: NodeCx<'a>,
    dynamic: &'a [bool],
    widths: &'a mut Widths,
}

impl<'a> Deref for NodeTyper<'a> {
    type Target = NodeCx<'a>;

    fn deref(&self) -> &NodeCx<'a> {
        &self.cx
    }
}

impl<'a> NodeTyper<'a> {
    pub(crate) fn new(
        graph: &'a Graph,
        facts: &'a Facts,
        dynamic: &'a [bool],
        widths: &'a mut Widths,
        id: NodeId,
    ) -> Self {
        Self { cx: NodeCx::new(graph, facts, id), dynamic, widths }
    }

    /// Types the results by the operator's rule; where there is none for it in this version, pins all that it touches.
    pub(crate) fn run(self) {
        let schema = registry::schema(&self.cx.node.proto);
        self.run_by(schema);
    }

    fn run_by(mut self, schema: Option<&OpSchema>) {
        let typed = match schema {
            None => Err(PinReason::Unsupported(registry::operator_name(&self.cx.node.proto))),
            Some(schema) => match schema.unsupported_since(self.opset()) {
                Some(since) => Err(PinReason::Version { op: schema.name.to_owned(), since }),
                None => schema.rule.infer(&mut self),
            },
        };
        match typed {
            Ok(()) => self.check_results(),
            Err(reason) => self.pin_everything(&reason),
        }
    }

    /// Whether the operand depends on a graph input.
    pub fn is_dynamic(&self, slot: usize) -> bool {
        self.input(slot).is_some_and(|v| self.dynamic[v.index()])
    }

    /// Whether an element of an integer operand has the observed value for all inputs of the model: it depends neither on their
    /// contents nor on their extents.
    pub fn is_input_invariant(&self, slot: usize, index: usize) -> bool {
        match self.elements(slot).and_then(|elements| elements.get(index)) {
            None | Some(Element::Varying) => !self.is_dynamic(slot),
            Some(element) => !element.widths().iter().any(|width| self.is_of_inputs(*width)),
        }
    }

    /// Whether an element of an integer operand depends on the contents of the model's inputs, and not only on extents.
    pub fn is_data_dependent(&self, slot: usize, index: usize) -> bool {
        let element = self.elements(slot).and_then(|elements| elements.get(index));
        matches!(element, None | Some(Element::Varying)) && self.is_dynamic(slot)
    }

    fn is_of_inputs(&self, width: Width) -> bool {
        let mut pins = self.widths.table.pins(width);
        pins.any(|pin| matches!(pin.reason, PinReason::Input | PinReason::Spatial))
    }

    /// Axes of an operand.
    pub fn axes(&self, slot: usize) -> Result<Vec<Width>, PinReason> {
        let axes = self.widths.operand(self.cx.graph, Use { node: self.cx.id, slot });
        axes.map(<[Width]>::to_vec).ok_or(PinReason::Unobserved)
    }

    /// The extents that the elements of an integer operand hold, if data propagation knows; one entry per element, row-major.
    pub fn elements(&self, slot: usize) -> Option<&[Element]> {
        self.widths.sizes(self.input(slot)?)
    }

    /// The reason to pin for a form of the operator that its rule does not cover; `what` completes "operator: …".
    pub fn unsupported(&self, what: &str) -> PinReason {
        PinReason::Form { op: self.op_type().to_owned(), what: what.to_owned() }
    }

    /// Extent of a width, as observed.
    pub fn size(&self, width: Width) -> usize {
        self.widths.table.size(width)
    }

    /// A new width.
    pub fn fresh(&mut self, size: usize) -> Width {
        self.widths.table.fresh(size)
    }

    /// A new width that keeps its extent.
    pub fn fixed(&mut self, size: usize, reason: PinReason) -> Width {
        let width = self.fresh(size);
        self.pin(width, reason);
        width
    }

    /// A new width that is a product of others.
    pub fn product(&mut self, factors: &[Width]) -> Width {
        self.widths.table.product(factors)
    }

    /// A new width that is a concatenation of others.
    pub fn concat(&mut self, segments: &[Width]) -> Width {
        self.widths.table.concat(segments)
    }

    /// Unifies two widths: their axes shrink together. Where their structures cannot be reconciled, both are pinned.
    pub fn unify(&mut self, a: Width, b: Width) {
        let label = self.cx.node.label();
        self.widths.table.unify(a, b, |a, b| Pin::new(label, PinReason::Conflict(a, b)));
    }

    /// Splits a width into outer and inner factors; the extents must multiply to its own.
    pub fn split_product(&mut self, width: Width, sizes: &[usize]) -> Vec<Width> {
        let factors: Vec<_> = sizes.iter().map(|&s| self.fresh(s)).collect();
        let product = self.product(&factors);
        self.unify(width, product);
        factors
    }

    /// Splits a width into segments; the extents must add up to its own.
    pub fn split_concat(&mut self, width: Width, sizes: &[usize]) -> Vec<Width> {
        let segments: Vec<_> = sizes.iter().map(|&s| self.fresh(s)).collect();
        let concat = self.concat(&segments);
        self.unify(width, concat);
        segments
    }

    /// Forbids a width to shrink.
    pub fn pin(&mut self, width: Width, reason: PinReason) {
        self.widths.table.pin(width, Pin::new(self.cx.node.label(), reason));
    }

    /// Whether the width itself is pinned already.
    pub fn is_pinned(&self, width: Width) -> bool {
        self.widths.table.is_pinned(width)
    }

    /// Sets the axes of a result.
    pub fn set(&mut self, slot: usize, axes: Vec<Width>) {
        if let Some(value) = self.cx.node.outputs.get(slot).copied().flatten() {
            self.widths.values[value.index()] = Some(axes);
        }
    }

    /// Axes of a result, once they are set.
    pub fn result(&self, slot: usize) -> Option<Vec<Width>> {
        let value = self.cx.node.outputs.get(slot).copied().flatten()?;
        self.widths.value(value).map(<[Width]>::to_vec)
    }

    /// Sets the extents that the elements of an integer result hold; one entry per element, row-major.
    pub fn set_sizes(&mut self, slot: usize, elements: Vec<Element>) {
        if let Some(value) = self.cx.node.outputs.get(slot).copied().flatten() {
            self.widths.sizes[value.index()] = Some(elements);
        }
    }

    /// Axes of the result of broadcasting operands against each other (ONNX "multidirectional broadcasting").
    pub fn broadcast(&mut self, slots: &[usize]) -> Result<Vec<Width>, PinReason> {
        let operands = slots.iter().map(|s| self.axes(*s)).collect::<Result<Vec<_>, _>>()?;
        let operands: Vec<&[Width]> = operands.iter().map(Vec::as_slice).collect();
        Ok(self.broadcast_axes(&operands))
    }

    /// As [`Self::broadcast`], for lists of axes.
    pub fn broadcast_axes(&mut self, operands: &[&[Width]]) -> Vec<Width> {
        let rank = operands.iter().map(|axes| axes.len()).max().unwrap_or(0);
        let mut result = vec![Width::ONE; rank];
        for axes in operands {
            let start = rank - axes.len();
            for (i, &axis) in axes.iter().enumerate() {
                if result[start + i] == Width::ONE {
                    result[start + i] = axis;
                } else if axis != Width::ONE {
                    self.unify(result[start + i], axis);
                }
            }
        }
        result
    }

    /// Declares a [`Contraction`]: the node sums over `width`, on the axis `summed` of one operand and, if it sums products, on the
    /// axis `other` of the other operand. `feature` is the axis of the first result that holds the output features.
    ///
    /// Of two operands, the one that depends on the graph's inputs is summed and a constant one is its weight; where both depend
    /// on them (`Q·Kᵀ`), there is no weight. Where neither does, nothing is declared.
    pub fn contraction(
        &mut self,
        width: Width,
        summed: SlotAxis,
        other: Option<SlotAxis>,
        feature: Option<usize>,
    ) {
        let mut ends = [Some(summed), other];
        if !self.is_dynamic(summed.slot) {
            ends.reverse();
        }
        let Some(SlotAxis { slot, axis }) = ends[0].filter(|end| self.is_dynamic(end.slot)) else { return };
        let weight = ends[1].filter(|end| !self.is_dynamic(end.slot));
        if weight.is_none() && other.is_some() {
            self.widths.paired.insert(width);
        }
        self.widths.contractions.push(Contraction { node: self.cx.id, slot, axis, width, weight, feature });
    }

    /// Marks an axis as attention heads, where the operator itself has heads.
    pub fn heads(&mut self, width: Width) {
        self.widths.heads.insert(width);
    }

    /// Marks a batch axis of a product of two activations (`Q·Kᵀ`): attention heads are among these.
    pub fn batched(&mut self, width: Width) {
        self.widths.batched.insert((self.cx.id, width));
    }

    /// Marks an axis that a product of two activations takes from its second operand: the dimensions of values in `P·V`.
    pub fn paired(&mut self, width: Width) {
        self.widths.paired.insert(width);
    }

    /// Requires an axis to keep two entries: the operator treats axes of extent one differently (Squeeze without axes).
    pub fn keep_at_least_two(&mut self, width: Width) {
        self.widths.at_least_two.insert(width);
    }

    /// Adds to the cost of the node: `factor` times the product of `widths`, in multiply-accumulates.
    pub fn macs(&mut self, factor: u64, widths: &[Width]) {
        self.widths.macs.push(Macs { node: self.cx.id, factor, widths: widths.to_vec() });
    }

    /// Checks what the rule set: results that it left out, or whose extents differ from the observed ones, get pinned widths.
    fn check_results(&mut self) {
        for (slot, value) in self.cx.node.outputs.iter().enumerate() {
            let Some(value) = value else { continue };
            let Some(fact) = self.cx.facts.get(*value) else {
                self.widths.values[value.index()] = None;
                continue;
            };
            let typed = self.widths.values[value.index()].clone();
            let fits = typed.as_ref().is_some_and(|axes| {
                axes.len() == fact.shape.len()
                    && axes.iter().zip(&fact.shape).all(|(a, s)| self.size(*a) == *s)
            });
            if !fits {
                let reason = self.unsupported("result typed otherwise than observed");
                for axis in typed.into_iter().flatten() {
                    self.pin(axis, reason.clone());
                }
                self.set_fixed(slot, &fact.shape, &reason);
            }
        }
    }

    fn set_fixed(&mut self, slot: usize, shape: &[usize], reason: &PinReason) {
        let axes = shape.iter().map(|&s| self.fixed(s, reason.clone())).collect();
        self.set(slot, axes);
    }

    /// Pins every axis of every operand and result.
    fn pin_everything(&mut self, reason: &PinReason) {
        for slot in 0..self.input_count() {
            for axis in self.axes(slot).unwrap_or_default() {
                self.pin(axis, reason.clone());
            }
        }
        for &value in &self.cx.node.captures {
            for axis in self.widths.values[value.index()].clone().unwrap_or_default() {
                self.pin(axis, reason.clone());
            }
        }
        for slot in 0..self.output_count() {
            if let Ok(shape) = self.result_shape(slot) {
                self.set_fixed(slot, shape, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::Fact,
        onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto},
        tensor::DType,
    };

    #[test]
    fn an_operator_that_was_changed_beyond_its_rule_pins_with_that_reason() {
        let node = NodeProto {
            op_type: Some("Relu".to_owned()),
            input: vec!["x".to_owned()],
            output: vec!["y".to_owned()],
            ..Default::default()
        };
        let x = ValueInfoProto { name: Some("x".to_owned()), ..Default::default() };
        let opset = OperatorSetIdProto { domain: None, version: Some(14) };
        let model = ModelProto {
            opset_import: vec![opset],
            graph: Some(GraphProto { node: vec![node], input: vec![x], ..Default::default() }),
            ..Default::default()
        };
        let graph = Graph::new(&model);
        let mut facts = Facts::new(2, 1);
        for (value, _) in graph.values() {
            facts.insert(value, Fact { dtype: DType::F32, shape: vec![3], ints: None });
        }
        let id = graph.nodes().next().unwrap().0;
        let known = *registry::schema(&graph.node(id).proto).unwrap();
        let type_by = |changed| {
            let mut widths = Widths::new(2);
            let x = widths.table.fresh(3);
            widths.values[graph.node(id).inputs[0].unwrap().index()] = Some(vec![x]);
            let dynamic = graph.dynamic();
            let schema = OpSchema { changed, ..known };
            NodeTyper::new(&graph, &facts, &dynamic, &mut widths, id).run_by(Some(&schema));
            widths.table.pins(x).map(|pin| pin.reason.clone()).collect::<Vec<_>>()
        };
        assert_eq!(type_by(None), []);
        assert_eq!(type_by(Some(15)), []);
        assert_eq!(type_by(Some(14)), [PinReason::Version { op: "Relu".to_owned(), since: 14 }]);
    }
}
