//! Edits of a model, described first and applied at once.

use std::collections::BTreeMap;

use super::{NodeId, Use};
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};

/// What to change in a model. Node ids are those of the model's [`super::Graph`].
#[derive(Clone, Debug, Default)]
pub struct Patch {
    before: BTreeMap<NodeId, Vec<NodeProto>>,
    appended: Vec<NodeProto>,
    replaced: BTreeMap<NodeId, NodeProto>,
    rewired: BTreeMap<Use, String>,
    initializers: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<String>,
    only_outputs: bool,
    names: usize,
}

impl Patch {
    /// A value name that no model uses: `hint` with a prefix of ours and a number.
    pub fn fresh(&mut self, hint: &str) -> String {
        self.names += 1;
        format!("optin_{}_{hint}", self.names)
    }

    /// Inserts `node` right before the node with id `before`, after what was inserted there already.
    pub fn insert(&mut self, before: NodeId, node: NodeProto) {
        self.before.entry(before).or_default().push(node);
    }

    /// Adds `node` after all others.
    pub fn append(&mut self, node: NodeProto) {
        self.appended.push(node);
    }

    /// Puts `node` in the place of another; what was rewired stays rewired.
    pub fn replace(&mut self, id: NodeId, node: NodeProto) {
        self.replaced.insert(id, node);
    }

    /// Makes an operand read the value called `name`.
    pub fn rewire(&mut self, at: Use, name: String) {
        self.rewired.insert(at, name);
    }

    /// The name that an operand was rewired to, if it was.
    pub fn rewired(&self, at: Use) -> Option<&str> {
        self.rewired.get(&at).map(String::as_str)
    }

    /// The node that another was replaced by, if it was.
    pub fn replacement(&self, id: NodeId) -> Option<&NodeProto> {
        self.replaced.get(&id)
    }

    /// Adds an initializer, or replaces the one of the same name.
    pub fn constant(&mut self, tensor: TensorProto) {
        self.initializers.push(tensor);
    }

    /// Adds a graph input.
    pub fn input(&mut self, info: ValueInfoProto) {
        self.inputs.push(info);
    }

    /// Exposes a value as a graph output. It gets no type: runtimes infer it.
    pub fn expose(&mut self, name: &str) {
        self.outputs.push(name.to_owned());
    }

    /// Drops the model's own outputs: only exposed values are returned.
    pub fn only_exposed(&mut self) {
        self.only_outputs = true;
    }

    /// The edited model. Shape annotations of inner values are dropped: they may be stale.
    pub fn apply(&self, model: &ModelProto) -> ModelProto {
        let mut model = model.clone();
        let graph = model.graph.get_or_insert_default();
        graph.value_info.clear();
        let nodes = std::mem::take(&mut graph.node);
        for (position, node) in nodes.into_iter().enumerate() {
            let id = NodeId(position as u32);
            graph.node.extend(self.before.get(&id).into_iter().flatten().cloned());
            graph.node.push(self.replaced.get(&id).cloned().unwrap_or(node));
            let Some(placed) = graph.node.last_mut() else { continue };
            let slots = Use { node: id, slot: 0 }..=Use { node: id, slot: usize::MAX };
            for (at, name) in self.rewired.range(slots) {
                if placed.input.len() <= at.slot {
                    placed.input.resize(at.slot + 1, String::new());
                }
                placed.input[at.slot] = name.clone();
            }
        }
        graph.node.extend(self.appended.iter().cloned());
        for tensor in &self.initializers {
            match graph.initializer.iter_mut().find(|old| old.name() == tensor.name()) {
                Some(old) => *old = tensor.clone(),
                None => graph.initializer.push(tensor.clone()),
            }
        }
        graph.input.extend(self.inputs.iter().cloned());
        if self.only_outputs {
            graph.output.clear();
        }
        let exposed = self.outputs.iter().filter(|name| graph.output.iter().all(|o| o.name() != *name));
        let exposed: Vec<_> =
            exposed.map(|name| ValueInfoProto { name: Some(name.clone()), ..Default::default() }).collect();
        graph.output.extend(exposed);
        model
    }
}
