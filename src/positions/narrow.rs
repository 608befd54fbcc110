//! The edit that computes no more entries than are read.

use std::collections::BTreeMap;

use super::{
    demand::{Demands, Entries},
    edit::{Edit, Extent, gather},
};
use crate::{
    graph::{Facts, Graph, NodeId, Patch, Use, ValueId},
    onnx::proto::NodeProto,
    ops::{self, NodeCx},
    tensor::Tensor,
};

/// The edit; `None` where a node has no form for the entries that are left.
pub(super) fn patch(graph: &Graph, facts: &Facts, demands: &Demands) -> Option<Patch> {
    let mut narrow =
        Narrow { edit: Edit::new(graph, facts), demands, picked: BTreeMap::new(), origins: BTreeMap::new() };
    for (id, node) in graph.nodes() {
        for slot in (0..node.input_count()).filter(|slot| node.has(*slot)) {
            narrow.operand(Use { node: id, slot })?;
        }
        if demands.result(id).is_some() {
            narrow.result(id)?;
        }
    }
    Some(narrow.edit.patch)
}

struct Narrow<'a> {
    edit: Edit<'a>,
    demands: &'a Demands,
    /// What entries of values are called that were picked already.
    picked: BTreeMap<(ValueId, Entries), String>,
    /// For each node with less to compute, a value outside that has the axis whole, and where.
    origins: BTreeMap<NodeId, (ValueId, usize)>,
}

impl Narrow<'_> {
    fn operand(&mut self, at: Use) -> Option<()> {
        let (graph, demands) = (self.edit.graph, self.demands);
        let value = graph.node(at.node).input(at.slot)?;
        let there = demands.value(graph, value);
        if demands.reads_extents(at) {
            let Some(there) = there else { return Some(()) };
            let whole = *self.origins.get(&graph.producer(value)?)?;
            return self.edit.restore_extent(at.node, (value, there.axis), whole);
        }
        let Some(read) = demands.read(at) else { return Some(()) };
        if demands.result(at.node).is_none() {
            // The node that selects.
            return there.map_or(Some(()), |there| self.select_again(at.node, value, there));
        }
        let list = match there {
            Some(there) if there.list == read.list => return Some(()),
            Some(there) => there.places(&read.list)?,
            None => read.list.clone(),
        };
        let name = self.pick(at.node, value, Entries { axis: read.axis, list });
        self.edit.patch.rewire(at, name);
        Some(())
    }

    /// Lets a node that selects find its entries among those that are there.
    fn select_again(&mut self, id: NodeId, value: ValueId, there: &Entries) -> Option<()> {
        let node = self.edit.graph.node(id);
        let selected =
            ops::find(&node.proto)?.selection(&NodeCx::new(self.edit.graph, self.edit.facts, id))?;
        let places = there.places(&selected.entries)?;
        let indices = match (selected.squeezed, places.as_slice()) {
            (true, &[place]) => Tensor::int(place),
            (true, _) => return None,
            (false, places) => Tensor::ints(places),
        };
        let indices = self.edit.constant("entries", &indices);
        let input = vec![self.edit.graph.value(value).name.clone(), indices];
        let node = NodeProto { input, output: node.proto.output.clone(), ..gather(there.axis) };
        self.edit.patch.replace(id, NodeProto { name: self.edit.graph.node(id).proto.name.clone(), ..node });
        Some(())
    }

    /// Entries of a value, for the node with id `before` and later ones.
    fn pick(&mut self, before: NodeId, value: ValueId, entries: Entries) -> String {
        let key = (value, entries);
        if let Some(name) = self.picked.get(&key) {
            return name.clone();
        }
        let indices = self.edit.constant("entries", &Tensor::ints(&key.1.list));
        let input = vec![self.edit.graph.value(value).name.clone(), indices];
        let name = self.edit.insert(before, "read", NodeProto { input, ..gather(key.1.axis) });
        self.picked.insert(key, name.clone());
        name
    }

    /// Notes where the axis is whole, and brings an operand that says its extent up to date.
    fn result(&mut self, id: NodeId) -> Option<()> {
        let (graph, demands) = (self.edit.graph, self.demands);
        let (node, entries) = (graph.node(id), demands.result(id)?);
        let operands = (0..node.input_count()).map(|slot| Use { node: id, slot });
        let origin = operands.filter_map(|at| Some((node.input(at.slot)?, demands.read(at)?.axis)));
        let mut origins = origin.map(|(value, axis)| {
            let known = graph.producer(value).and_then(|producer| self.origins.get(&producer));
            known.copied().unwrap_or((value, axis))
        });
        let origin = origins.next()?;
        self.origins.insert(id, origin);
        let cx = NodeCx::new(graph, self.edit.facts, id);
        let Some((slot, place)) = ops::find(&node.proto)?.extent_element(&cx, entries.axis) else {
            return Some(());
        };
        let extent = Extent::Known(entries.list.len() as i64);
        self.edit.set_extent(Use { node: id, slot }, place, &extent)
    }
}
