//! The graph of a model: operators as vertices of a petgraph DAG, values as edges; constants are values without a producer.
//!
//! The protobuf model stays the source of truth: a [`Graph`] only says how its parts hang together, and a [`Patch`] says
//! what to change. So whatever nobody touched is written back as it was read.

mod cut;
mod dead;
mod facts;
mod live;
mod patch;
mod tail;

pub use cut::{Cut, between, cut};
pub use dead::{drop_dead, tidy};
pub(crate) use facts::REMEMBERED;
pub use facts::{Fact, Facts};
pub use live::live;
pub use patch::Patch;
pub use tail::{Attr, Expr, SliceRange, Tail};

use std::collections::{BTreeSet, HashMap, HashSet};

use petgraph::{Direction, graph::DiGraph};

use crate::onnx::{
    self,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto},
};

/// A node of the graph. Ids ascend in topological order, and number the nodes as `graph.node` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// Position in `graph.node`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value of the graph: a graph input, a constant or what a node computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// Position among the graph's values.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operand of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// The node that reads.
    pub node: NodeId,
    /// Which of its inputs.
    pub slot: usize,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum ValueOrigin {
    /// Fed by the caller.
    Input,
    /// An initializer or the value of a Constant node, which are treated alike.
    Constant(Box<TensorProto>),
    /// Computed by a node.
    Node(NodeId),
    /// A name that no node, input or initializer defines.
    Unknown,
}

/// A named value.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name in the file.
    pub name: String,
    /// Where it comes from.
    pub origin: ValueOrigin,
}

/// An operator and what it is wired to.
#[derive(Clone, Debug)]
pub struct Node {
    /// The node as the file has it.
    pub proto: NodeProto,
    /// Operands; `None` where an optional one is left out. Identity copies of constants are seen through.
    pub inputs: Vec<Option<ValueId>>,
    /// Values that subgraphs of this node (If, Loop, Scan) capture from outside.
    pub captures: Vec<ValueId>,
    /// Results; `None` where one is left out.
    pub outputs: Vec<Option<ValueId>>,
}

impl Node {
    /// The operator's name.
    pub fn op_type(&self) -> &str {
        self.proto.op_type()
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        onnx::attr_int(&self.proto, name)
    }

    /// An attribute of integers.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        onnx::attr_ints(&self.proto, name).map(<[i64]>::to_vec)
    }

    /// A floating-point attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        onnx::attr_float(&self.proto, name)
    }

    /// An attribute of floating-point numbers.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        onnx::attr_floats(&self.proto, name)
    }

    /// A string attribute.
    pub fn string(&self, name: &str) -> Option<&str> {
        onnx::attr_str(&self.proto, name)
    }

    /// An operand; `None` where it is left out.
    pub fn input(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    /// Whether the operand is there.
    pub fn has(&self, slot: usize) -> bool {
        self.input(slot).is_some()
    }

    /// Number of input slots, left-out ones included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Number of output slots, left-out ones included.
    pub fn output_count(&self) -> usize {
        self.outputs.len()
    }

    /// The node's name, or the name of its first result where it has none.
    pub fn label(&self) -> &str {
        match self.proto.name() {
            "" => self.proto.output.first().map_or(self.op_type(), String::as_str),
            name => name,
        }
    }
}

/// The readers of a value. An operand that reads an Identity of a constant counts as a reader of the constant.
#[derive(Clone, Debug, Default)]
struct Readers {
    /// Operands, in topological order.
    operands: Vec<Use>,
    /// Whether a subgraph captures it.
    captured: bool,
    /// Whether it is a graph output.
    returned: bool,
}

/// The dataflow graph of a model.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Vertices are nodes (index = [`NodeId`]), edges the values that flow between them.
    dag: DiGraph<Node, ValueId>,
    values: Vec<Value>,
    /// For each value, its readers.
    readers: Vec<Readers>,
    by_name: HashMap<String, ValueId>,
    /// Names that values of subgraphs have, at any depth.
    inner: HashSet<String>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    /// Initializers are the first values.
    initializers: usize,
    /// Initializers that callers may override.
    defaults: BTreeSet<ValueId>,
    opset: i64,
}

impl Graph {
    /// Wires up a model that [`onnx::load`] has checked: nodes in topological order, names unique and resolved.
    pub fn new(model: &ModelProto) -> Self {
        let empty = GraphProto::default();
        let proto = model.graph.as_ref().unwrap_or(&empty);
        let mut builder = Builder::default();
        for tensor in &proto.initializer {
            builder.define(tensor.name(), ValueOrigin::Constant(Box::new(tensor.clone())));
        }
        let initializers = builder.values.len();
        let inputs: Vec<ValueId> = proto
            .input
            .iter()
            .filter(|input| !builder.by_name.contains_key(input.name()))
            .map(|input| input.name().to_owned())
            .collect::<Vec<_>>()
            .iter()
            .map(|name| builder.define(name, ValueOrigin::Input))
            .collect();
        for (position, node) in proto.node.iter().enumerate() {
            builder.add(NodeId(position as u32), node);
        }
        let outputs: Vec<ValueId> =
            proto.output.iter().map(|output| builder.resolve(output.name())).collect();
        let Builder { dag, values, by_name, .. } = builder;
        let readers = readers(&dag, values.len(), &outputs);
        // Before version 4 of the format every initializer had to be listed as an input.
        let listed = proto.input.iter().filter(|_| model.ir_version() >= 4);
        let listed = listed.filter_map(|input| by_name.get(input.name()).copied());
        let defaults = listed.filter(|value| value.index() < initializers).collect();
        let opset = onnx::opset(model, "");
        let mut inner = HashSet::new();
        proto.node.iter().for_each(|node| inner_names(node, &mut inner));
        Self { dag, values, readers, by_name, inner, inputs, outputs, initializers, defaults, opset }
    }

    /// Brings the graph up to date with its model after `patch` was applied to it.
    pub fn update(&mut self, patch: &Patch, model: &ModelProto) {
        let changed: HashSet<&str> = patch.constants().collect();
        let initializers = || model.graph.iter().flat_map(|graph| &graph.initializer);
        let tensors = initializers().filter(|tensor| changed.contains(tensor.name()));
        let known = tensors.map(|tensor| Some((self.find(tensor.name())?, tensor)));
        match known.collect::<Option<Vec<_>>>() {
            Some(known) if patch.keeps_wiring() => known.into_iter().for_each(|(id, tensor)| {
                self.values[id.index()].origin = ValueOrigin::Constant(Box::new(tensor.clone()))
            }),
            _ => *self = Self::new(model),
        }
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[petgraph::graph::NodeIndex::new(id.index())]
    }

    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// All nodes in topological order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.dag.node_indices().map(|i| (NodeId(i.index() as u32), &self.dag[i]))
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// Graph inputs that the caller feeds (initializers that are also listed as inputs are constants here).
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Graph outputs.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The value with this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// Whether a value has this name, here or in a subgraph: names are unique over all of them.
    pub fn is_taken(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.inner.contains(name)
    }

    /// The tensor, when the value is constant.
    pub fn constant(&self, id: ValueId) -> Option<&TensorProto> {
        match &self.value(id).origin {
            ValueOrigin::Constant(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Whether the value is an initializer (and not the value of a Constant node).
    pub fn is_initializer(&self, id: ValueId) -> bool {
        self.constant(id).is_some() && id.index() < self.initializers
    }

    /// Whether the value is an initializer that is the default of a graph input: callers may override it.
    pub fn is_default(&self, id: ValueId) -> bool {
        self.defaults.contains(&id)
    }

    /// The constant that the node only names: a Constant node's own, or the one that an Identity node copies.
    pub fn named_constant(&self, node: &NodeProto) -> Option<ValueId> {
        let value = node.output.first().and_then(|name| self.find(name));
        value.filter(|v| self.constant(*v).is_some())
    }

    /// The node that computes the value, if one does.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        match self.value(id).origin {
            ValueOrigin::Node(node) => Some(node),
            _ => None,
        }
    }

    /// Nodes that read what `id` computes, each once, in topological order.
    pub fn successors(&self, id: NodeId) -> BTreeSet<NodeId> {
        let index = petgraph::graph::NodeIndex::new(id.index());
        self.dag.neighbors_directed(index, Direction::Outgoing).map(|n| NodeId(n.index() as u32)).collect()
    }

    /// Every operand that is `value`, in topological order.
    pub fn uses(&self, value: ValueId) -> &[Use] {
        self.readers.get(value.index()).map_or(&[], |readers| readers.operands.as_slice())
    }

    /// Whether these operands are all that reads the value: no other operand does, no subgraph, and it is no graph output.
    /// `operands` lists uses of it, each once.
    fn is_read_only_by(&self, value: ValueId, operands: &[Use]) -> bool {
        self.readers.get(value.index()).is_some_and(|readers| {
            readers.operands.len() == operands.len() && !readers.captured && !readers.returned
        })
    }

    /// Whether one operand alone reads the value.
    pub fn is_read_once(&self, value: ValueId) -> bool {
        matches!(self.uses(value), [only] if self.is_read_only_by(value, &[*only]))
    }

    /// Whether the value is an initializer that these operands alone read: what may be changed in place when they are to read
    /// something else. Everything else that reads a constant, under whichever name, must not see the change.
    ///
    /// `operands` lists uses of the value, each once.
    pub fn is_initializer_of(&self, value: ValueId, operands: &[Use]) -> bool {
        self.is_initializer(value) && self.is_read_only_by(value, operands)
    }

    /// Whether all readers of the value are operands for which `is` holds.
    pub fn is_read_only_where(&self, value: ValueId, is: impl Fn(&Use) -> bool) -> bool {
        self.readers
            .get(value.index())
            .is_some_and(|readers| !readers.captured && !readers.returned && readers.operands.iter().all(is))
    }

    /// Whether a subgraph of some node captures the value.
    pub fn is_captured(&self, value: ValueId) -> bool {
        self.readers.get(value.index()).is_some_and(|readers| readers.captured)
    }

    /// `start` and all nodes downstream of them, in topological order.
    pub fn descendants(&self, start: impl IntoIterator<Item = NodeId>) -> BTreeSet<NodeId> {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<NodeId> = start.into_iter().collect();
        while let Some(node) = stack.pop() {
            if seen.insert(node) {
                stack.extend(self.successors(node));
            }
        }
        seen
    }

    /// For each value, whether it depends on a graph input.
    pub fn dynamic(&self) -> Vec<bool> {
        let mut dynamic = vec![false; self.values.len()];
        for input in &self.inputs {
            dynamic[input.index()] = true;
        }
        for (_, node) in self.nodes() {
            let any = node.inputs.iter().flatten().chain(&node.captures).any(|v| dynamic[v.index()]);
            for output in node.outputs.iter().flatten() {
                dynamic[output.index()] = any;
            }
        }
        dynamic
    }
}

/// The readers of each value, by index.
fn readers(dag: &DiGraph<Node, ValueId>, values: usize, outputs: &[ValueId]) -> Vec<Readers> {
    let mut readers = vec![Readers::default(); values];
    for index in dag.node_indices() {
        let node = &dag[index];
        for (slot, value) in node.inputs.iter().enumerate() {
            if let Some(value) = value {
                readers[value.index()].operands.push(Use { node: NodeId(index.index() as u32), slot });
            }
        }
        node.captures.iter().for_each(|value| readers[value.index()].captured = true);
    }
    outputs.iter().for_each(|value| readers[value.index()].returned = true);
    readers
}

#[derive(Default)]
struct Builder {
    dag: DiGraph<Node, ValueId>,
    values: Vec<Value>,
    by_name: HashMap<String, ValueId>,
}

impl Builder {
    fn define(&mut self, name: &str, origin: ValueOrigin) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { name: name.to_owned(), origin });
        self.by_name.insert(name.to_owned(), id);
        id
    }

    fn resolve(&mut self, name: &str) -> ValueId {
        match self.by_name.get(name) {
            Some(&id) => id,
            None => self.define(name, ValueOrigin::Unknown),
        }
    }

    fn operand(&mut self, name: &str) -> Option<ValueId> {
        (!name.is_empty()).then(|| self.resolve(name))
    }

    fn add(&mut self, id: NodeId, proto: &NodeProto) {
        let inputs: Vec<_> = proto.input.iter().map(|name| self.operand(name)).collect();
        let names = captured_names(proto);
        let captures: Vec<_> =
            names.iter().filter(|name| self.by_name.contains_key(*name)).map(|n| self.by_name[n]).collect();
        let constant = onnx::node_constant(proto);
        let alias = self.aliased(proto, &inputs);
        let outputs: Vec<_> = proto
            .output
            .iter()
            .map(|name| match (&constant, alias) {
                _ if name.is_empty() => None,
                (Some(tensor), _) => Some(self.define(name, ValueOrigin::Constant(Box::new(tensor.clone())))),
                (None, Some(original)) => {
                    self.by_name.insert(name.clone(), original);
                    None
                }
                (None, None) => Some(self.define(name, ValueOrigin::Node(id))),
            })
            .collect();
        let edges: BTreeSet<(NodeId, ValueId)> = inputs
            .iter()
            .flatten()
            .chain(&captures)
            .filter_map(|&value| match self.values[value.index()].origin {
                ValueOrigin::Node(producer) => Some((producer, value)),
                _ => None,
            })
            .collect();
        let vertex = self.dag.add_node(Node { proto: proto.clone(), inputs, captures, outputs });
        for (producer, value) in edges {
            self.dag.add_edge(petgraph::graph::NodeIndex::new(producer.index()), vertex, value);
        }
    }

    /// The constant that an Identity node only renames: exporters write such copies where weights were merged.
    fn aliased(&self, proto: &NodeProto, inputs: &[Option<ValueId>]) -> Option<ValueId> {
        let input = inputs.first().copied().flatten()?;
        let renames = proto.op_type() == "Identity" && proto.domain().is_empty();
        (renames && matches!(self.values[input.index()].origin, ValueOrigin::Constant(_))).then_some(input)
    }
}

/// Names that the subgraphs of a node (If, Loop, Scan) read from outside.
pub fn captured_names(node: &NodeProto) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    captured(node, &mut names);
    names
}

fn captured(node: &NodeProto, names: &mut BTreeSet<String>) {
    for graph in node.attribute.iter().flat_map(subgraphs) {
        let mut inner = BTreeSet::new();
        for node in &graph.node {
            inner.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
            captured(node, &mut inner);
        }
        inner.extend(graph.output.iter().map(|output| output.name().to_owned()));
        for name in defined(graph) {
            inner.remove(name);
        }
        names.extend(inner);
    }
}

/// Adds the names of what the subgraphs of a node define.
fn inner_names(node: &NodeProto, names: &mut HashSet<String>) {
    for graph in node.attribute.iter().flat_map(subgraphs) {
        names.extend(defined(graph).map(str::to_owned));
        graph.node.iter().for_each(|node| inner_names(node, names));
    }
}

/// The names of what a graph defines itself.
fn defined(graph: &GraphProto) -> impl Iterator<Item = &str> {
    (graph.input.iter().map(|i| i.name()))
        .chain(graph.initializer.iter().map(|i| i.name()))
        .chain(graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)))
}

fn subgraphs(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}
