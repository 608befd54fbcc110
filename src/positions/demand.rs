//! Which entries of each value are read.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{Facts, Graph, Node, NodeId, Use, ValueId},
    ops::{self, AxisFlow, NodeCx},
    tensor::DType,
};

/// Some entries of an axis, none twice, in order: all count from its beginning, or all (negative ones) from its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entries {
    pub axis: usize,
    pub list: Vec<i64>,
}

impl Entries {
    /// For each of some entries its place among these; `None` where one is not among them.
    pub fn places(&self, entries: &[i64]) -> Option<Vec<i64>> {
        let place = |entry| self.list.binary_search(entry).ok().map(|place| place as i64);
        entries.iter().map(place).collect()
    }

    /// Whether they are some of an axis of this extent, and not all.
    fn are_part_of(&self, extent: usize) -> bool {
        let extent = extent as i64;
        let (first, last) = (self.list.first().copied().unwrap_or(0), self.list.last().copied().unwrap_or(0));
        (self.list.len() as i64) < extent && -extent <= first && last < extent && (first >= 0 || last < 0)
    }
}

/// What an operand is read for.
enum Read {
    /// These entries.
    Some(Entries),
    /// Its extents.
    Extents,
}

/// Which entries of values are read, where these are not all.
pub(super) struct Demands {
    /// Of operands whose nodes read no others.
    reads: BTreeMap<Use, Read>,
    /// Of the results of nodes that can do without the others.
    results: BTreeMap<NodeId, Entries>,
}

impl Demands {
    /// From the outputs back to the inputs.
    pub fn of(graph: &Graph, facts: &Facts) -> Self {
        let mut demands = Self { reads: BTreeMap::new(), results: BTreeMap::new() };
        for (id, node) in graph.nodes().rev() {
            demands.visit(graph, facts, id, node);
        }
        demands
    }

    /// Whether no node can do with less.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Entries of an operand that its node reads.
    pub fn read(&self, at: Use) -> Option<&Entries> {
        match self.reads.get(&at)? {
            Read::Some(entries) => Some(entries),
            Read::Extents => None,
        }
    }

    /// Whether the extents of an operand are read and nothing else of it.
    pub fn reads_extents(&self, at: Use) -> bool {
        matches!(self.reads.get(&at), Some(Read::Extents))
    }

    /// Entries of a node's results that are computed, where these are not all.
    pub fn result(&self, id: NodeId) -> Option<&Entries> {
        self.results.get(&id)
    }

    /// Entries of a value that are computed, where these are not all.
    pub fn value(&self, graph: &Graph, value: ValueId) -> Option<&Entries> {
        self.result(graph.producer(value)?)
    }

    /// What a node reads, when all that reads its results is known.
    fn visit(&mut self, graph: &Graph, facts: &Facts, id: NodeId, node: &Node) {
        let Some(rule) = ops::find(&node.proto).filter(|_| node.captures.is_empty()) else { return };
        let cx = NodeCx::new(graph, facts, id);
        let first = Use { node: id, slot: 0 };
        let is_inner = |value: &ValueId| !graph.outputs().contains(value) && !graph.is_captured(*value);
        if rule.is_shape() {
            if node.outputs.iter().flatten().all(is_inner) {
                self.reads.insert(first, Read::Extents);
            }
            return;
        }
        if let Some(selected) = rule.selection(&cx) {
            let list: BTreeSet<i64> = selected.entries.into_iter().collect();
            let entries = Entries { axis: selected.axis, list: list.into_iter().collect() };
            self.reads.insert(first, Read::Some(entries));
            return;
        }
        let Some(entries) = self.demanded(graph, facts, node) else { return };
        let present = (0..node.input_count()).filter(|slot| node.has(*slot));
        let flows = present.map(|slot| Some((slot, rule.axis_flow(&cx, slot, entries.axis)?)));
        let Some(flows) = flows.collect::<Option<Vec<_>>>() else { return };
        let mut follows = false;
        for (slot, flow) in flows {
            if let AxisFlow::Along(axis) = flow {
                follows = true;
                let entries = Entries { axis, list: entries.list.clone() };
                self.reads.insert(Use { node: id, slot }, Read::Some(entries));
            }
        }
        if follows {
            self.results.insert(id, entries);
        }
    }

    /// Entries of a node's results that are read; `None` where these are all, or differ among the results.
    fn demanded(&self, graph: &Graph, facts: &Facts, node: &Node) -> Option<Entries> {
        let mut demanded: Option<Entries> = None;
        for value in node.outputs.iter().flatten() {
            if graph.outputs().contains(value) || graph.is_captured(*value) {
                return None;
            }
            if graph.uses(*value).is_empty() {
                continue;
            }
            let read = self.demanded_of(graph, facts, *value)?;
            if demanded.as_ref().is_some_and(|known| *known != read) {
                return None;
            }
            demanded = Some(read);
        }
        demanded
    }

    /// Entries of a value that anything reads. Integers are left alone: they are ids and extents, and cost nothing.
    fn demanded_of(&self, graph: &Graph, facts: &Facts, value: ValueId) -> Option<Entries> {
        let fact = facts.get(value).filter(|fact| fact.dtype.is_float() || fact.dtype == DType::Bool)?;
        let mut axis = None;
        let mut list = BTreeSet::new();
        for at in graph.uses(value) {
            match self.reads.get(at)? {
                Read::Extents => {}
                Read::Some(entries) if *axis.get_or_insert(entries.axis) == entries.axis => {
                    list.extend(&entries.list);
                }
                Read::Some(_) => return None,
            }
        }
        let entries = Entries { axis: axis?, list: list.into_iter().collect() };
        entries.are_part_of(*fact.shape.get(entries.axis)?).then_some(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_count_from_one_end() {
        let entries = |list: &[i64]| Entries { axis: 1, list: list.to_vec() };
        assert!(entries(&[0, 2]).are_part_of(3));
        assert!(entries(&[-1]).are_part_of(3));
        assert!(!entries(&[-1, 0]).are_part_of(3));
        assert!(!entries(&[0, 1, 2]).are_part_of(3));
        assert!(!entries(&[3]).are_part_of(3));
        assert_eq!(entries(&[0, 4, 7]).places(&[7, 0]), Some(vec![2, 0]));
        assert_eq!(entries(&[0, 4, 7]).places(&[1]), None);
    }
}
