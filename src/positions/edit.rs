//! Edits of a graph in which an axis gets another extent.

use std::collections::BTreeMap;

use crate::{
    graph::{Facts, Graph, NodeId, Patch, Use, ValueId},
    onnx::{int_attribute, proto::NodeProto, tensor::from_tensor},
    ops::{self, NodeCx},
    tensor::Tensor,
};

/// How far an axis extends.
pub(super) enum Extent {
    /// So far.
    Known(i64),
    /// As the value of this name says, a vector of one number.
    Computed(String),
}

/// A patch, and what is needed to describe it.
pub(super) struct Edit<'a> {
    pub graph: &'a Graph,
    pub facts: &'a Facts,
    pub patch: Patch,
    /// Integers that were added, by shape and contents.
    constants: BTreeMap<(Vec<usize>, Vec<i64>), String>,
}

impl<'a> Edit<'a> {
    /// Nothing changed yet.
    pub fn new(graph: &'a Graph, facts: &'a Facts) -> Self {
        Self { graph, facts, patch: Patch::default(), constants: BTreeMap::new() }
    }

    /// Lets an element of an operand that says extents say this one.
    pub fn set_extent(&mut self, at: Use, place: usize, extent: &Extent) -> Option<()> {
        let graph = self.graph;
        let cx = NodeCx::new(graph, self.facts, at.node);
        let shape = graph.node(at.node).input(at.slot)?;
        if let (Extent::Known(extent), true) = (extent, cx.is_constant(at.slot)) {
            let mut asked = cx.contents(at.slot)?.to_vec();
            *asked.get_mut(place)? = *extent;
            let tensor = Tensor::ints(&asked);
            self.patch.constant_operand(graph, at, &tensor, |patch| patch.fresh(graph, "shape"));
            return Some(());
        }
        let element = match extent {
            Extent::Known(extent) => self.constant("extent", &Tensor::ints(&[*extent])),
            Extent::Computed(name) => name.clone(),
        };
        match self.listed(shape, place) {
            Some(operand) => self.patch.rewire(operand, element),
            None => {
                let (name, count) = (graph.value(shape).name.clone(), cx.contents(at.slot)?.len());
                let name = self.with_extent(at.node, &name, count, place, element);
                self.patch.rewire(at, name);
            }
        }
        Some(())
    }

    /// Where the node that lists the elements of a shape reads one of them, if nothing else reads the shape.
    fn listed(&self, shape: ValueId, place: usize) -> Option<Use> {
        let graph = self.graph;
        let producer = graph.producer(shape).filter(|_| graph.is_read_once(shape))?;
        let rule = ops::find(&graph.node(producer).proto)?;
        let slot = rule.listed(&NodeCx::new(graph, self.facts, producer), place)?;
        Some(Use { node: producer, slot })
    }

    /// Lets those that read an extent of a changed value have it as it was: that of another value, along an axis. The node with id
    /// `id` makes a shape of the changed one.
    pub fn restore_extent(
        &mut self,
        id: NodeId,
        (value, changed): (ValueId, usize),
        (whole, axis): (ValueId, usize),
    ) -> Option<()> {
        let (graph, node) = (self.graph, self.graph.node(id));
        let rank = self.facts.get(value)?.shape.len() as i64;
        let start = node.int("start").unwrap_or(0);
        let start = if start < 0 { start + rank } else { start }.clamp(0, rank);
        let result = node.outputs.first().copied().flatten()?;
        let extents = *self.facts.get(result)?.shape.first()?;
        let place = changed.checked_sub(usize::try_from(start).ok()?);
        let Some(place) = place.filter(|p| *p < extents) else { return Some(()) };
        let reads: Vec<Use> =
            graph.uses(result).iter().filter(|at| self.may_read(**at, place)).copied().collect();
        let Some(reader) = reads.iter().map(|at| at.node).min() else { return Some(()) };
        let extent = self.extent(reader, &graph.value(whole).name, axis);
        let name = graph.value(result).name.clone();
        let restored = self.with_extent(reader, &name, extents, place, extent);
        for at in reads {
            self.patch.rewire(at, restored.clone());
        }
        Some(())
    }

    /// Whether a node may read this element of a vector: not if it selects others.
    fn may_read(&self, at: Use, place: usize) -> bool {
        let node = &self.graph.node(at.node).proto;
        let selected =
            ops::find(node).and_then(|r| r.selection(&NodeCx::new(self.graph, self.facts, at.node)));
        selected.is_none_or(|s| s.entries.iter().any(|entry| *entry < 0 || *entry == place as i64))
    }

    /// How far a value extends along an axis, for the node with id `before` and later ones.
    pub fn extent(&mut self, before: NodeId, value: &str, axis: usize) -> String {
        let shape = NodeProto {
            op_type: Some("Shape".to_owned()),
            input: vec![value.to_owned()],
            ..Default::default()
        };
        let shape = self.insert(before, "whole_shape", shape);
        let indices = self.constant("axis", &Tensor::ints(&[axis as i64]));
        self.insert(before, "extent", NodeProto { input: vec![shape, indices], ..gather(0) })
    }

    /// `count` extents with another at `place`, for the node with id `before` and later ones.
    fn with_extent(
        &mut self,
        before: NodeId,
        shape: &str,
        count: usize,
        place: usize,
        extent: String,
    ) -> String {
        let mut part = |range: std::ops::Range<usize>| {
            if range.is_empty() {
                return None;
            }
            let indices: Vec<i64> = range.map(|i| i as i64).collect();
            let indices = self.constant("extents", &Tensor::ints(&indices));
            let input = vec![shape.to_owned(), indices];
            Some(self.insert(before, "extents", NodeProto { input, ..gather(0) }))
        };
        let parts = [part(0..place), Some(extent), part(place + 1..count)];
        let joined = NodeProto {
            op_type: Some("Concat".to_owned()),
            input: parts.into_iter().flatten().collect(),
            attribute: vec![int_attribute("axis", 0)],
            ..Default::default()
        };
        self.insert(before, "shape", joined)
    }

    /// A constant; equal ones are one.
    pub fn constant(&mut self, hint: &str, tensor: &Tensor) -> String {
        let key = (tensor.shape().to_vec(), tensor.to_ints().unwrap_or_default());
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.patch.fresh(self.graph, hint);
        self.patch.constant(from_tensor(&name, tensor));
        self.constants.insert(key, name.clone());
        name
    }

    pub fn insert(&mut self, before: NodeId, hint: &str, node: NodeProto) -> String {
        let name = self.patch.fresh(self.graph, hint);
        let named = NodeProto { name: Some(name.clone()), output: vec![name.clone()], ..node };
        self.patch.insert(before, named);
        name
    }
}

/// A node that picks entries of an axis.
pub(super) fn gather(axis: usize) -> NodeProto {
    NodeProto {
        op_type: Some("Gather".to_owned()),
        attribute: vec![int_attribute("axis", axis as i64)],
        ..Default::default()
    }
}
