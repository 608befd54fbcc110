//! Constant folding: what depends on no input is computed once, so that weights which the file computes are weights.
//!
//! Exporters write transposed, reshaped, standardised or cast weights, and shapes computed from numbers. Folding is left to
//! the runtime, for which these nodes are a model without inputs. Weights stored in another element type stay as they
//! are: the file would grow.
//!
//! Constants can ask for results of any size. A node is only run when its results are known to be small before; where their
//! size follows from numbers that are computed themselves, those are computed first, in a run of their own.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{Graph, NodeId, ValueId, ValueOrigin},
    limits,
    onnx::{
        self,
        proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto},
        tensor::{bytes, from_tensor},
    },
    ops::{self, Known},
    runtime::{Engine, RuntimeError},
    tensor::Tensor,
};

/// Bytes that a folded value may add to the file, over the constants that it makes superfluous.
const GROWTH: usize = 1 << 16;

/// Runs of constant parts, each of which needs numbers of the one before. Exports take up to four.
const ROUNDS: usize = 8;

/// Values that all results of one run may be as large as together.
const TOGETHER: u128 = 8;

/// How many values are looked at for the constants that a value is made of.
const REACH: usize = 1 << 10;

/// A value that constants ask to be larger than any that is run.
#[derive(Debug, thiserror::Error)]
#[error(
    "node {node} ({op}) asks for a value of {bytes} bytes, which is more than the {limit} that are run: mend the numbers in the file that say so"
)]
pub struct TooLarge {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Bytes of its result, or more.
    pub bytes: u128,
    /// Bytes that are allowed.
    pub limit: u128,
}

/// The model with its constant parts computed. Parts whose results are not known to be small stay as they are.
///
/// # Errors
/// When the runtime does not run these parts.
pub fn fold(engine: &dyn Engine, model: &ModelProto) -> Result<ModelProto, RuntimeError> {
    let graph = Graph::new(model);
    let mut folding = Folding::new(model, &graph);
    for _ in 0..ROUNDS {
        if !folding.run(engine)? {
            break;
        }
    }
    Ok(folding.replaced())
}

/// Checks that no constant of the model, whatever its inputs, asks for a value that is larger than any that is run.
///
/// # Errors
/// When one does.
pub fn check_sizes(model: &ModelProto) -> Result<(), TooLarge> {
    let Some(graph) = &model.graph else { return Ok(()) };
    check_graph(graph, None, limits::stated_bytes(constant_bytes(graph)))
}

/// The values of a graph, as far as it was read: what is known of constants.
struct Scope<'a> {
    values: BTreeMap<&'a str, Option<Known>>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<&Known> {
        match self.values.get(name) {
            Some(known) => known.as_ref(),
            None => self.outer?.find(name),
        }
    }
}

fn check_graph(graph: &GraphProto, outer: Option<&Scope<'_>>, limit: u128) -> Result<(), TooLarge> {
    let mut scope = Scope { values: graph.input.iter().map(|input| (input.name(), None)).collect(), outer };
    let constants = graph.initializer.iter();
    scope.values.extend(constants.map(|tensor| (tensor.name(), Some(Known::of_constant(tensor)))));
    for node in &graph.node {
        let operands: Vec<_> = node.input.iter().map(|name| scope.find(name)).collect();
        let bytes =
            ops::stated(node, &operands).unwrap_or(0).saturating_mul(ops::element_bytes(node, &operands));
        if bytes > limit {
            let name = if node.name().is_empty() { node.output.first() } else { node.name.as_ref() };
            let (node, op) = (name.cloned().unwrap_or_default(), node.op_type().to_owned());
            return Err(TooLarge { node, op, bytes, limit });
        }
        for body in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            check_graph(body, Some(&scope), limit)?;
        }
        let constant = onnx::node_constant(node).map(|tensor| Known::of_constant(&tensor));
        scope.values.extend(node.output.iter().map(|name| (name.as_str(), constant.clone())));
    }
    Ok(())
}

fn constant_bytes(graph: &GraphProto) -> u128 {
    graph.initializer.iter().map(|tensor| bytes(tensor) as u128).sum()
}

/// The constant parts of a model while they are computed.
struct Folding<'a> {
    model: &'a ModelProto,
    graph: &'a Graph,
    /// Nodes that depend on no input and are not run yet, in order.
    left: Vec<NodeId>,
    /// Nodes that were run.
    ran: BTreeSet<NodeId>,
    /// Values that are known: constants, and what was computed for others.
    known: BTreeMap<ValueId, Known>,
    /// What was computed for others.
    results: BTreeMap<ValueId, Tensor>,
    /// Bytes that a value may take.
    limit: u128,
}

impl<'a> Folding<'a> {
    fn new(model: &'a ModelProto, graph: &'a Graph) -> Self {
        let left = foldable(graph);
        let read = left.iter().flat_map(|id| graph.node(*id).inputs.iter().flatten());
        let constants = read.filter_map(|v| Some((*v, graph.constant(*v)?)));
        let known = constants.map(|(v, tensor)| (v, Known::of_constant(tensor))).collect();
        let limit = limits::folded_bytes(model.graph.as_ref().map_or(0, constant_bytes));
        Self { model, graph, left, ran: BTreeSet::new(), known, results: BTreeMap::new(), limit }
    }

    /// Runs the nodes that may be run by what is known. Returns whether there were any.
    fn run(&mut self, engine: &dyn Engine) -> Result<bool, RuntimeError> {
        let nodes = self.admitted();
        let wanted = self.wanted(&nodes);
        if !wanted.is_empty() {
            let tensors = engine.load(&self.part(&nodes, &wanted))?.run(&[])?;
            for (value, tensor) in wanted.into_iter().zip(tensors) {
                self.known.insert(value, Known::of(&tensor));
                self.results.insert(value, tensor);
            }
        }
        self.left.retain(|id| !nodes.contains(id));
        self.ran.extend(&nodes);
        Ok(!nodes.is_empty())
    }

    /// Nodes all of whose operands are there, or are made by such a node, and whose results are small enough, each and all
    /// together.
    fn admitted(&self) -> BTreeSet<NodeId> {
        let mut admitted = BTreeSet::new();
        let mut expected: BTreeMap<ValueId, Known> = BTreeMap::new();
        let mut total = 0u128;
        for &id in &self.left {
            let node = self.graph.node(id);
            let known = |value: &ValueId| self.known.get(value).or_else(|| expected.get(value));
            let operands = node.inputs.iter().map(|value| match value {
                Some(value) => known(value).map(Some),
                None => Some(None),
            });
            let Some(operands) = operands.collect::<Option<Vec<_>>>() else { continue };
            let bound = ops::bound(&node.proto, &operands);
            let all = total.saturating_add(bound.size().saturating_mul(node.output_count() as u128));
            if bound.size() > self.limit || all > TOGETHER * self.limit {
                continue;
            }
            total = all;
            admitted.insert(id);
            for (slot, value) in node.outputs.iter().enumerate() {
                let shape = bound.shape.clone().filter(|_| slot == 0);
                let known = Known { shape, ..bound.clone() };
                expected.extend(value.map(|value| (value, known)));
            }
        }
        admitted
    }

    /// Values that these nodes compute for others.
    fn wanted(&self, nodes: &BTreeSet<NodeId>) -> Vec<ValueId> {
        let outside = |value: &ValueId| self.graph.uses(*value).iter().any(|at| !nodes.contains(&at.node));
        let is_read = |value: &ValueId| outside(value) || self.graph.is_captured(*value);
        let computed = nodes.iter().flat_map(|id| self.graph.node(*id).outputs.iter().flatten());
        computed.copied().filter(is_read).collect()
    }

    /// The nodes as a model without inputs.
    fn part(&self, nodes: &BTreeSet<NodeId>, outputs: &[ValueId]) -> ModelProto {
        let (model, graph) = (self.model, self.graph);
        let mut part = ModelProto {
            ir_version: Some(model.ir_version().max(4)),
            opset_import: model.opset_import.clone(),
            ..ModelProto::default()
        };
        let Some(whole) = model.graph.as_ref() else { return part };
        let read: BTreeSet<ValueId> =
            nodes.iter().flat_map(|id| graph.node(*id).inputs.iter().flatten()).copied().collect();
        let mut inner = GraphProto { name: whole.name.clone(), ..GraphProto::default() };
        let is_of_part = |(position, node): &(usize, &NodeProto)| {
            nodes.contains(&NodeId(*position as u32))
                || graph.named_constant(node).is_some_and(|v| read.contains(&v))
        };
        inner.node = whole.node.iter().enumerate().filter(is_of_part).map(|(_, node)| node.clone()).collect();
        let is_read = |name: &str| graph.find(name).is_some_and(|v| read.contains(&v));
        inner.initializer = whole.initializer.iter().filter(|t| is_read(t.name())).cloned().collect();
        let computed = self.results.iter().filter(|(value, _)| read.contains(value));
        inner.initializer.extend(computed.map(|(v, tensor)| from_tensor(&graph.value(*v).name, tensor)));
        let named = |v: &ValueId| ValueInfoProto {
            name: Some(graph.value(*v).name.clone()),
            ..ValueInfoProto::default()
        };
        inner.output = outputs.iter().map(named).collect();
        part.graph = Some(inner);
        part
    }

    /// The model with initializers in place of the nodes that nothing needs any more.
    fn replaced(&self) -> ModelProto {
        let mut model = self.model.clone();
        if self.ran.is_empty() {
            return model;
        }
        let kept = Account::new(self).kept_nodes();
        let is_gone = |id: &NodeId| self.ran.contains(id) && !kept.contains(id);
        let is_folded = |v: &ValueId| self.graph.producer(*v).is_some_and(|id| is_gone(&id));
        onnx::unlist_initializers(&mut model);
        let Some(inner) = model.graph.as_mut() else { return model };
        let mut position = 0u32;
        inner.node.retain(|_| {
            position += 1;
            !is_gone(&NodeId(position - 1))
        });
        let is_needed = |v: &ValueId| {
            let stays = |id: &NodeId| !is_gone(id);
            self.graph.is_captured(*v) || self.graph.uses(*v).iter().any(|at| stays(&at.node))
        };
        let constants = self.results.iter().filter(|(v, _)| is_folded(v) && is_needed(v));
        inner
            .initializer
            .extend(constants.map(|(v, tensor)| from_tensor(&self.graph.value(*v).name, tensor)));
        model
    }
}

/// Nodes that depend on no input, whose operators are known (so neither random nor with a body), and that do more than to
/// change an element type. What callers may override is an input.
fn foldable(graph: &Graph) -> Vec<NodeId> {
    let mut nodes = BTreeSet::new();
    for (id, node) in graph.nodes() {
        let computes = node.outputs.iter().flatten().any(|v| graph.producer(*v) == Some(id));
        let known = ops::find(&node.proto).is_some_and(|rule| !rule.is_cast());
        let constant = node.inputs.iter().flatten().all(|v| match graph.value(*v).origin {
            ValueOrigin::Constant(_) => !graph.is_default(*v),
            ValueOrigin::Node(producer) => nodes.contains(&producer),
            ValueOrigin::Input | ValueOrigin::Unknown => false,
        });
        if computes && known && constant && node.captures.is_empty() {
            nodes.insert(id);
        }
    }
    nodes.into_iter().collect()
}

/// What folding costs and saves: a value is stored when constants that nothing needs afterwards pay for it, each of whose bytes
/// pays once.
struct Account<'a> {
    folding: &'a Folding<'a>,
    /// Bytes of each value that are not paid for.
    debts: BTreeMap<ValueId, usize>,
    /// For each constant, the values that it pays for, and how many bytes of them.
    claims: BTreeMap<ValueId, Vec<(ValueId, usize)>>,
    /// Nodes that stay.
    kept: BTreeSet<NodeId>,
}

impl<'a> Account<'a> {
    fn new(folding: &'a Folding<'a>) -> Self {
        let mut account =
            Self { folding, debts: BTreeMap::new(), claims: BTreeMap::new(), kept: BTreeSet::new() };
        let mut credits: BTreeMap<ValueId, usize> = BTreeMap::new();
        for (value, tensor) in &folding.results {
            let mut debt = (tensor.len() * tensor.dtype().size()).saturating_sub(GROWTH);
            let sources = if debt > 0 { account.sources(*value) } else { BTreeSet::new() };
            for source in sources {
                let Some(tensor) = folding.graph.constant(source) else { continue };
                let credit = credits.entry(source).or_insert_with(|| bytes(tensor));
                let paid = debt.min(*credit);
                *credit -= paid;
                debt -= paid;
                account.claims.entry(source).or_default().push((*value, paid));
            }
            account.debts.insert(*value, debt);
        }
        account
    }

    /// Constants that a value is made of and that nothing else than constant parts needs. Those far off do not count.
    fn sources(&self, value: ValueId) -> BTreeSet<ValueId> {
        let (graph, ran) = (self.folding.graph, &self.folding.ran);
        let mut seen = BTreeSet::new();
        let mut pending = vec![value];
        while let Some(value) = pending.pop() {
            if seen.len() < REACH
                && seen.insert(value)
                && let Some(producer) = graph.producer(value)
            {
                pending.extend(graph.node(producer).inputs.iter().flatten());
            }
        }
        seen.retain(|value| {
            graph.constant(*value).is_some()
                && graph.is_read_only_where(*value, |at| ran.contains(&at.node))
                && !graph.is_default(*value)
        });
        seen
    }

    /// The nodes that stay: those that compute a graph output or a value that is not paid for, and what they need. A constant
    /// that they read pays for nothing.
    fn kept_nodes(mut self) -> BTreeSet<NodeId> {
        let graph = self.folding.graph;
        let is_owed = |(value, debt): (&ValueId, &usize)| (*debt > 0).then_some(*value);
        let owed: Vec<ValueId> = self.debts.iter().filter_map(is_owed).collect();
        // A graph output is computed by a node, as runtimes expect.
        let outputs = graph.outputs().iter().copied();
        let mut pending: Vec<NodeId> =
            owed.into_iter().chain(outputs).filter_map(|value| graph.producer(value)).collect();
        while let Some(id) = pending.pop() {
            if !self.folding.ran.contains(&id) || !self.kept.insert(id) {
                continue;
            }
            for value in graph.node(id).inputs.iter().flatten() {
                let unpaid = self.claims.remove(value).unwrap_or_default();
                for (value, bytes) in unpaid.into_iter().filter(|(_, bytes)| *bytes > 0) {
                    *self.debts.entry(value).or_default() += bytes;
                    pending.extend(graph.producer(value));
                }
                if !self.debts.contains_key(value) {
                    pending.extend(graph.producer(*value));
                }
            }
        }
        self.kept
    }
}
