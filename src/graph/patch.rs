//! Edits of a model, described first and applied at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Graph, NodeId, Use};
use crate::{
    onnx::{
        proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto},
        tensor::from_tensor,
    },
    tensor::Tensor,
};

/// What to change in a model. Node ids are those of the model's [`super::Graph`].
#[derive(Clone, Debug, Default)]
pub struct Patch {
    before: BTreeMap<NodeId, Vec<NodeProto>>,
    replaced: BTreeMap<NodeId, NodeProto>,
    after: BTreeMap<NodeId, Vec<(NodeProto, String)>>,
    rewired: BTreeMap<Use, String>,
    appended: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<String>,
    only_outputs: bool,
    annotated: BTreeSet<String>,
    names: usize,
}

impl Patch {
    /// A name that no value of `graph` or its subgraphs has: `hint` with a prefix of ours and a number. A model that was pruned before
    /// has such names already.
    pub fn fresh(&mut self, graph: &Graph, hint: &str) -> String {
        loop {
            self.names += 1;
            let name = format!("optin_{}_{hint}", self.names);
            if !graph.is_taken(&name) {
                return name;
            }
        }
    }

    /// Inserts `node` right before the node with id `before`, after what was inserted there already.
    pub fn insert(&mut self, before: NodeId, node: NodeProto) {
        self.before.entry(before).or_default().push(node);
    }

    /// Adds `node` after all others.
    pub fn append(&mut self, node: NodeProto) {
        self.appended.push(node);
    }

    /// Inserts `node`, which makes the first result of the node with id `after` from what is called `raw` from now on: the
    /// result so far.
    pub fn insert_after(&mut self, after: NodeId, node: NodeProto, raw: String) {
        self.after.entry(after).or_default().push((node, raw));
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

    /// Gives the constant operand `at` other contents: in place where it is an initializer that nothing else reads, else as a
    /// copy of its own, under the name that `copy` gives.
    pub fn constant_operand(
        &mut self,
        graph: &Graph,
        at: Use,
        tensor: &Tensor,
        copy: impl FnOnce(&mut Self) -> String,
    ) {
        let own = graph.node(at.node).input(at.slot);
        match own.filter(|value| graph.is_initializer_of(*value, &[at])) {
            Some(value) => self.constant(from_tensor(&graph.value(value).name, tensor)),
            None => {
                let name = copy(self);
                self.constant(from_tensor(&name, tensor));
                self.rewire(at, name);
            }
        }
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

    /// Keeps the shape annotation of an inner value, which the edits leave true.
    pub fn keep_annotation(&mut self, name: &str) {
        self.annotated.insert(name.to_owned());
    }

    /// The edited model. Other shape annotations of inner values than those kept are dropped: they may be stale.
    pub fn apply(&self, model: &ModelProto) -> ModelProto {
        let mut model = model.clone();
        self.edit(&mut model);
        model
    }

    /// Whether constants alone change, and nothing reads others than before.
    pub(super) fn keeps_wiring(&self) -> bool {
        let Self { before, replaced, after, rewired, appended, inputs, outputs, .. } = self;
        before.is_empty()
            && replaced.is_empty()
            && after.is_empty()
            && rewired.is_empty()
            && appended.is_empty()
            && inputs.is_empty()
            && outputs.is_empty()
            && !self.only_outputs
    }

    /// Names of the initializers that are added or replaced.
    pub(super) fn constants(&self) -> impl Iterator<Item = &str> {
        self.initializers.iter().map(TensorProto::name)
    }

    /// As [`Self::apply`], where the model is not needed as it was.
    pub fn edit(&self, model: &mut ModelProto) {
        let graph = model.graph.get_or_insert_default();
        graph.value_info.retain(|info| self.annotated.contains(info.name()));
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
            for (node, raw) in self.after.get(&id).into_iter().flatten() {
                if let Some(result) = graph.node.last_mut().and_then(|placed| placed.output.first_mut()) {
                    result.clone_from(raw);
                }
                graph.node.push(node.clone());
            }
        }
        graph.node.extend(self.appended.iter().cloned());
        let positions = graph.initializer.iter().enumerate().map(|(i, old)| (old.name().to_owned(), i));
        let mut positions: HashMap<String, usize> = positions.collect();
        for tensor in &self.initializers {
            match positions.get(tensor.name()) {
                Some(&position) => graph.initializer[position] = tensor.clone(),
                None => {
                    positions.insert(tensor.name().to_owned(), graph.initializer.len());
                    graph.initializer.push(tensor.clone());
                }
            }
        }
        graph.input.extend(self.inputs.iter().cloned());
        if self.only_outputs {
            graph.output.clear();
        }
        let own: HashSet<&str> = graph.output.iter().map(|o| o.name()).collect();
        let exposed = self.outputs.iter().filter(|name| !own.contains(name.as_str()));
        let exposed: Vec<_> =
            exposed.map(|name| ValueInfoProto { name: Some(name.clone()), ..Default::default() }).collect();
        graph.output.extend(exposed);
    }
}
