//! What a rewriting rule sees of its node, and changes about it.

use crate::{
    graph::{Facts, Graph, Node, NodeId, Patch, Use},
    onnx::{
        self,
        proto::{AttributeProto, NodeProto},
        tensor::from_tensor,
    },
    tensor::Tensor,
    widths::{Kept, Reason, Width, Widths},
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

/// One node under rewriting.
pub struct NodeEditor<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    widths: &'a Widths,
    kept: &'a Kept,
    patch: &'a mut Patch,
    id: NodeId,
    node: &'a Node,
}

impl<'a> NodeEditor<'a> {
    pub(crate) fn new(
        graph: &'a Graph,
        facts: &'a Facts,
        widths: &'a Widths,
        kept: &'a Kept,
        patch: &'a mut Patch,
        id: NodeId,
    ) -> Self {
        Self { graph, facts, widths, kept, patch, id, node: graph.node(id) }
    }

    /// An error about this node.
    pub fn error(&self, what: impl Into<String>) -> EditError {
        EditError {
            node: self.node.label().to_owned(),
            op: self.node.op_type().to_owned(),
            what: what.into(),
        }
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.graph.opset()
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        onnx::attr_int(&self.node.proto, name)
    }

    /// An attribute of integers.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        onnx::attr_ints(&self.node.proto, name).map(<[i64]>::to_vec)
    }

    /// Whether the operand is there.
    pub fn has(&self, slot: usize) -> bool {
        self.node.inputs.get(slot).is_some_and(Option::is_some)
    }

    /// Number of output slots.
    pub fn output_count(&self) -> usize {
        self.node.outputs.len()
    }

    /// Axes of an operand; empty when it has none.
    pub fn axes(&self, slot: usize) -> &'a [Width] {
        self.widths.operand(self.graph, Use { node: self.id, slot }).unwrap_or_default()
    }

    /// Axes of a result; empty when it is left out.
    pub fn result_axes(&self, slot: usize) -> &'a [Width] {
        let value = self.node.outputs.get(slot).copied().flatten();
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
    pub fn same(&self, a: Width, b: Width) -> bool {
        self.widths.table.root(a) == self.widths.table.root(b)
    }

    /// The entries of a width that stay; `None` when all do.
    pub fn entries(&self, width: Width) -> Option<Vec<usize>> {
        self.kept.entries(&self.widths.table, width)
    }

    /// Observed contents of a small integer operand.
    pub fn contents(&self, slot: usize) -> Option<&'a [i64]> {
        self.facts.get(self.node.inputs.get(slot).copied().flatten()?)?.ints.as_deref()
    }

    /// Whether the operand is a constant of the file.
    pub fn is_constant(&self, slot: usize) -> bool {
        let value = self.node.inputs.get(slot).copied().flatten();
        value.is_some_and(|v| self.graph.constant(v).is_some())
    }

    /// An axis number with negative ones counted from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, EditError> {
        let wrapped = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(wrapped).ok().filter(|a| *a < rank).ok_or_else(|| self.error("axis out of range"))
    }

    /// The reason type of typing rules, as an error of this node.
    pub fn because(&self, reason: &Reason) -> EditError {
        self.error(reason.to_string())
    }

    fn proto(&self) -> NodeProto {
        self.patch.replacement(self.id).unwrap_or(&self.node.proto).clone()
    }

    fn set_attribute(&mut self, attribute: AttributeProto) {
        let mut node = self.proto();
        match node.attribute.iter_mut().find(|a| a.name() == attribute.name()) {
            Some(old) => *old = attribute,
            None => node.attribute.push(attribute),
        }
        self.patch.replace(self.id, node);
    }

    /// Sets an integer attribute.
    pub fn set_int(&mut self, name: &str, value: i64) {
        self.set_attribute(onnx::int_attribute(name, value));
    }

    /// Sets an attribute of integers.
    pub fn set_ints(&mut self, name: &str, values: Vec<i64>) {
        self.set_attribute(onnx::ints_attribute(name, &values));
    }

    /// Removes an attribute.
    pub fn remove_attribute(&mut self, name: &str) {
        let mut node = self.proto();
        node.attribute.retain(|a| a.name() != name);
        self.patch.replace(self.id, node);
    }

    /// Makes an operand a constant vector of integers.
    pub fn set_operand(&mut self, slot: usize, values: &[i64]) {
        let name = self.constant("shape", &Tensor::ints(values));
        self.patch.rewire(Use { node: self.id, slot }, name);
    }

    fn constant(&mut self, hint: &str, tensor: &Tensor) -> String {
        let name = self.patch.fresh(hint);
        self.patch.constant(from_tensor(&name, tensor));
        name
    }

    /// Replaces elements of an integer vector operand, keeping those that are `None`: in a copy, where the operand is a
    /// constant, and otherwise by selecting between what is computed and what we know.
    pub fn adjust_operand(&mut self, slot: usize, changes: &[Option<i64>]) -> Result<(), EditError> {
        if changes.iter().all(Option::is_none) {
            return Ok(());
        }
        let old = self.contents(slot).ok_or_else(|| self.error("a shape operand was not observed"))?;
        if old.len() != changes.len() {
            return Err(self.error("a shape operand has an unexpected length"));
        }
        if self.is_constant(slot) {
            let values: Vec<i64> = old.iter().zip(changes).map(|(old, new)| new.unwrap_or(*old)).collect();
            self.set_operand(slot, &values);
            return Ok(());
        }
        let mask = ndarray::Array1::from_iter(changes.iter().map(Option::is_some)).into_dyn();
        let mask = self.constant("where", &Tensor::Bool(mask));
        let known: Vec<i64> = changes.iter().map(|c| c.unwrap_or(0)).collect();
        let known = self.constant("shape", &Tensor::ints(&known));
        let computed = self.node.proto.input.get(slot).cloned().unwrap_or_default();
        let name = self.patch.fresh("shape");
        self.patch.insert(
            self.id,
            NodeProto {
                op_type: Some("Where".to_owned()),
                name: Some(format!("{name}_where")),
                input: vec![mask, known, computed],
                output: vec![name.clone()],
                ..Default::default()
            },
        );
        self.patch.rewire(Use { node: self.id, slot }, name);
        Ok(())
    }

    /// The new extents of a result's axes where they differ from the old ones.
    pub fn changed_sizes(&self, axes: &[Width]) -> Vec<Option<i64>> {
        let new = axes.iter().map(|a| (self.old_size(*a), self.new_size(*a)));
        new.map(|(old, new)| (old != new).then_some(new as i64)).collect()
    }
}
