//! The parts of a model whose time depends on what is pruned: nodes that are timed together.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{NodeId, Use, ValueId},
    model::ModelView,
    widths::{Width, WidthForm},
};

/// Dimensions that one layer can have: more than heads, and dimensions of their queries and values, chain over layers.
const OF_ONE_LAYER: usize = 4;

/// Nodes that are timed together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The widths by whose extents its time goes.
    pub axes: Vec<Width>,
    /// Dimensions that these are made of, by their places in the list.
    pub dimensions: BTreeSet<usize>,
    /// Names of the values that its nodes read and that are computed elsewhere.
    pub inputs: Vec<String>,
    /// Names of the values that it computes and that are read elsewhere.
    pub outputs: Vec<String>,
}

/// The groups of a model, in the order of the network. Each node whose axes shrink with a dimension is in one of them.
///
/// Nodes that hang together by dimensions are a group where these are of one layer, as heads and their dimensions are. Where they
/// chain over layers, as channels do, a group is a node that sums, and what follows it: what runtimes fuse.
pub(super) fn groups(view: ModelView<'_>) -> Vec<Group> {
    let typed = Typed::new(view);
    let mut groups = Vec::new();
    for nodes in typed.components() {
        if let Some(dimensions) = typed.layer(&nodes) {
            let axes = dimensions.iter().filter_map(|d| view.dimensions.get(*d)).map(|d| d.width).collect();
            groups.push(typed.group(&nodes, axes));
        } else {
            let parts = typed.parts(&nodes);
            groups.extend(parts.iter().map(|part| typed.group(part, typed.axes_of(part))));
        }
    }
    groups.retain(|group| !group.axes.is_empty() && !group.outputs.is_empty());
    groups
}

/// A model, and which dimensions its nodes shrink with.
struct Typed<'a> {
    view: ModelView<'a>,
    dimension_of: BTreeMap<Width, usize>,
    /// Nodes that shrink with any.
    touched: BTreeMap<NodeId, BTreeSet<usize>>,
}

impl<'a> Typed<'a> {
    fn new(view: ModelView<'a>) -> Self {
        let table = &view.widths.table;
        let dimension_of =
            view.dimensions.iter().enumerate().map(|(i, d)| (table.root(d.width), i)).collect();
        let mut typed = Self { view, dimension_of, touched: BTreeMap::new() };
        let nodes = view.graph.nodes().map(|(id, _)| (id, typed.touching(id)));
        let touched = nodes.filter(|(_, dimensions)| !dimensions.is_empty()).collect();
        typed.touched = touched;
        typed
    }

    /// Whether a value holds sizes: small whole numbers, which are computed beside the work.
    fn is_size(&self, value: ValueId) -> bool {
        self.view.facts.get(value).is_some_and(|fact| fact.ints.is_some())
    }

    /// The axes of a node's operands and results.
    fn axes(&self, id: NodeId) -> Vec<&'a [Width]> {
        let ModelView { graph, widths, .. } = self.view;
        let node = graph.node(id);
        let operands = node.inputs.iter().enumerate().filter_map(|(slot, value)| {
            value
                .filter(|value| !self.is_size(*value))
                .and_then(|_| widths.operand(graph, Use { node: id, slot }))
        });
        let results = node.outputs.iter().flatten().filter(|value| !self.is_size(**value));
        operands.chain(results.filter_map(|value| widths.value(*value))).collect()
    }

    fn dimensions_in(&self, width: Width) -> BTreeSet<usize> {
        let atoms = self.view.widths.table.atoms(width);
        atoms.into_iter().filter_map(|atom| self.dimension_of.get(&atom).copied()).collect()
    }

    fn touching(&self, id: NodeId) -> BTreeSet<usize> {
        let results = &self.view.graph.node(id).outputs;
        if results.iter().flatten().all(|value| self.is_size(*value)) {
            return BTreeSet::new();
        }
        self.axes(id).into_iter().flatten().flat_map(|width| self.dimensions_in(*width)).collect()
    }

    /// Nodes that compute operands of `id` which shrink with a dimension, in the order of the operands.
    fn feeding(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let ModelView { graph, widths, .. } = self.view;
        let slots = graph.node(id).inputs.iter().enumerate();
        slots.filter_map(move |(slot, value)| {
            let producer = graph.producer((*value)?)?;
            let axes = widths.operand(graph, Use { node: id, slot })?;
            let shrinks = axes.iter().any(|width| !self.dimensions_in(*width).is_empty());
            (shrinks && self.touched.contains_key(&producer)).then_some(producer)
        })
    }

    /// Nodes that hang together by values that shrink.
    fn components(&self) -> Vec<BTreeSet<NodeId>> {
        let mut components: Vec<BTreeSet<NodeId>> = Vec::new();
        let mut place: BTreeMap<NodeId, usize> = BTreeMap::new();
        for &id in self.touched.keys() {
            let own = components.len();
            components.push(BTreeSet::from([id]));
            place.insert(id, own);
            for producer in self.feeding(id) {
                let (Some(&a), Some(&b)) = (place.get(&id), place.get(&producer)) else { continue };
                if a == b {
                    continue;
                }
                // The smaller goes into the larger.
                let (from, to) = if components[a].len() < components[b].len() { (a, b) } else { (b, a) };
                let moved = std::mem::take(&mut components[from]);
                moved.iter().for_each(|node| _ = place.insert(*node, to));
                components[to].extend(moved);
            }
        }
        components.retain(|nodes| !nodes.is_empty());
        components.sort_by_key(|nodes| nodes.first().copied());
        components
    }

    /// The dimensions of nodes that are of one layer: they come together in axes, as heads and their dimensions do.
    fn layer(&self, nodes: &BTreeSet<NodeId>) -> Option<BTreeSet<usize>> {
        let mut together: Vec<BTreeSet<usize>> = Vec::new();
        for width in nodes.iter().flat_map(|id| self.axes(*id)).flatten() {
            let found = self.dimensions_in(*width);
            if !found.is_empty() && !together.iter().any(|known| found.is_subset(known)) {
                let (joined, apart): (Vec<_>, Vec<_>) =
                    together.into_iter().partition(|known| !known.is_disjoint(&found));
                together = apart;
                together.push(joined.into_iter().flatten().chain(found).collect());
            }
        }
        match <[_; 1]>::try_from(together) {
            Ok([dimensions]) if dimensions.len() <= OF_ONE_LAYER => Some(dimensions),
            _ => None,
        }
    }

    /// Nodes that sum, each with what follows it and shrinks with nothing else.
    fn parts(&self, nodes: &BTreeSet<NodeId>) -> Vec<BTreeSet<NodeId>> {
        let costly: BTreeSet<NodeId> = self.view.widths.macs.iter().map(|macs| macs.node).collect();
        let mut parts: Vec<(BTreeSet<NodeId>, BTreeSet<usize>)> = Vec::new();
        let mut place: BTreeMap<NodeId, usize> = BTreeMap::new();
        for &id in nodes {
            let Some(touched) = self.touched.get(&id) else { continue };
            let mut followed = self.feeding(id).filter_map(|producer| place.get(&producer).copied());
            let known = followed.find(|part| !costly.contains(&id) && touched.is_subset(&parts[*part].1));
            let part = known.unwrap_or_else(|| {
                parts.push((BTreeSet::new(), touched.clone()));
                parts.len() - 1
            });
            parts[part].0.insert(id);
            place.insert(id, part);
        }
        parts.into_iter().map(|(nodes, _)| nodes).collect()
    }

    /// The widths by whose extents the time of a part goes: those that multiply what it computes, or else those of its results.
    fn axes_of(&self, nodes: &BTreeSet<NodeId>) -> Vec<Width> {
        let ModelView { graph, widths, .. } = self.view;
        let macs = widths.macs.iter().filter(|macs| nodes.contains(&macs.node));
        let mut whole: Vec<Width> = macs.flat_map(|macs| macs.widths.iter().copied()).collect();
        if whole.is_empty() {
            let results = nodes.iter().flat_map(|id| graph.node(*id).outputs.iter().flatten());
            whole = results.filter_map(|value| widths.value(*value)).flatten().copied().collect();
        }
        let mut axes = Vec::new();
        whole.into_iter().for_each(|width| self.shrinking(width, &mut axes));
        axes
    }

    /// Adds the factors of a width that shrink, each once.
    fn shrinking(&self, width: Width, found: &mut Vec<Width>) {
        let table = &self.view.widths.table;
        match table.form(width) {
            WidthForm::Product(factors) => factors.iter().for_each(|factor| self.shrinking(*factor, found)),
            WidthForm::Free | WidthForm::Concat(_) => {
                let root = table.root(width);
                if !self.dimensions_in(root).is_empty() && !found.contains(&root) {
                    found.push(root);
                }
            }
        }
    }

    fn group(&self, nodes: &BTreeSet<NodeId>, axes: Vec<Width>) -> Group {
        let graph = self.view.graph;
        let inside =
            |value: &ValueId| graph.producer(*value).is_some_and(|producer| nodes.contains(&producer));
        let read = nodes.iter().flat_map(|id| {
            let node = graph.node(*id);
            node.inputs.iter().flatten().chain(&node.captures)
        });
        let inputs: BTreeSet<ValueId> =
            read.filter(|value| !inside(value) && graph.constant(**value).is_none()).copied().collect();
        let made = nodes.iter().flat_map(|id| graph.node(*id).outputs.iter().flatten());
        let outputs = made.filter(|v| !graph.is_read_only_where(**v, |at| nodes.contains(&at.node)));
        let name = |value: &ValueId| graph.value(*value).name.clone();
        Group {
            dimensions: axes.iter().flat_map(|width| self.dimensions_in(*width)).collect(),
            axes,
            inputs: inputs.iter().map(name).collect(),
            outputs: outputs.map(name).collect(),
        }
    }
}
