//! Prunable dimensions: free widths that weights own, with the names that people know them by.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    graph::{Graph, NodeId, Use},
    named::named,
    ops,
    widths::{Contraction, Pin, PinReason, Place, Width, Widths},
};

/// What people call a dimension's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Attention heads: a batch axis of a product of activations beside a softmax, or what an attention operator calls so.
    Head,
    /// Neurons between two projections.
    Neuron,
    /// Channels of convolutions.
    Channel,
    /// Dimensions of all heads of a layer: what queries and keys are compared by, and what values hold.
    HeadDim,
}

/// The units that attention loses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Granularity {
    /// Whole heads.
    Head,
    /// Whole heads, and dimensions that all heads of a layer lose alike.
    #[default]
    HeadDim,
}

named!(
    Kind,
    "a kind of units",
    [
        (Head, "head", "Attention heads."),
        (Neuron, "neuron", "Neurons between two linear layers, as in feed-forward blocks."),
        (Channel, "channel", "Channels of convolutions."),
        (HeadDim, "head-dim", "Dimensions of attention heads, of which all heads of a layer lose as many."),
    ]
);

named!(
    Granularity,
    "a granularity of attention",
    [
        (Head, "head", "Attention loses whole heads alone."),
        (HeadDim, "head-dim", "Attention loses whole heads, and dimensions of all heads of a layer."),
    ]
);

/// A free width that can be pruned.
#[derive(Clone, Debug)]
pub struct Dimension {
    /// Unique; after the layer that makes it.
    pub name: String,
    /// What its units are.
    pub kind: Kind,
    /// Its place among the dimensions of its kind, from the input on.
    pub layer: usize,
    /// The free width.
    pub width: Width,
    /// Number of units.
    pub size: usize,
    /// The fewest units that it can keep.
    pub least: usize,
    /// The fewest entries that a unit has along an axis of a weight: more than one for heads, and for channels that go in
    /// groups.
    pub entries: usize,
    /// Axes of constants along which its units own slices.
    pub owned: Vec<Place>,
    /// Sums that its units end in: indices into [`Widths::contractions`].
    pub consumers: Vec<usize>,
}

impl Dimension {
    /// For each entry at a place, the unit that it belongs to; `None` where it belongs to none.
    pub fn units(&self, graph: &Graph, widths: &Widths, place: Place) -> Vec<Option<usize>> {
        widths.at(graph, place).map(|width| widths.table.units(width, self.width)).unwrap_or_default()
    }

    /// The sums that the units end in.
    pub fn contractions<'a>(&'a self, widths: &'a Widths) -> impl Iterator<Item = &'a Contraction> {
        self.consumers.iter().filter_map(|i| widths.contractions.get(*i))
    }
}

/// A width that weights own and that keeps its extent, with every reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pinned {
    /// After the layer that makes it.
    pub name: String,
    /// Its extent.
    pub size: usize,
    /// Why it keeps its extent.
    pub reasons: Vec<Pin>,
}

/// What can be pruned, in the order of the network, and what cannot and why.
#[derive(Clone, Debug, Default)]
pub struct Dimensions {
    /// Prunable dimensions.
    pub prunable: Vec<Dimension>,
    /// Widths of weights that keep their extent.
    pub pinned: Vec<Pinned>,
}

impl Dimensions {
    /// Freezes the dimensions for which `which` holds: they keep their extent, for the reason that `pin` gives. Returns their
    /// names.
    pub fn freeze(
        &mut self,
        which: impl Fn(&Dimension) -> bool,
        pin: impl Fn(&Dimension) -> Pin,
    ) -> Vec<String> {
        let mut names = Vec::new();
        for dimension in self.prunable.extract_if(.., |dimension| which(dimension)) {
            names.push(dimension.name.clone());
            let reasons = vec![pin(&dimension)];
            self.pinned.push(Pinned { name: dimension.name, size: dimension.size, reasons });
        }
        names
    }
}

/// Finds the prunable dimensions of a typed model.
pub fn dimensions(graph: &Graph, widths: &Widths, granularity: Granularity) -> Dimensions {
    let mut index = Index::new(graph, widths);
    let mut names = Names::default();
    let mut found = Dimensions::default();
    let owners = std::mem::take(&mut index.owners);
    let mut candidates: Vec<(Width, Vec<Place>)> = owners.into_iter().collect();
    candidates.sort_by_key(|(width, owned)| (owned.first().map(|place| place.at.node), *width));
    for (width, owned) in candidates {
        let producers = index.producers(width, &owned);
        let mut reasons = index.pins.remove(&width).unwrap_or_default();
        let ends = index.ends.remove(&width).unwrap_or_default();
        let kind = index.kind(width, &owned);
        if kind == Kind::HeadDim && granularity == Granularity::Head {
            reasons.push(Pin::new(producer_name(graph, &producers), PinReason::HeadDimension));
        }
        // A width that no sum ends is of no use to the result: nothing to score it by.
        // Nor is an empty axis, which a file may well have.
        let size = widths.table.size(width);
        if size == 0 || producers.is_empty() || (ends.is_empty() && reasons.is_empty()) {
            continue;
        }
        let name = producer_name(graph, &producers);
        if reasons.is_empty() {
            let name = names.unique(&name, kind);
            let entries = entries(widths, width, &owned);
            let least = if index.at_least_two.contains(&width) { 2 } else { 1 };
            let (layer, consumers) = (0, ends);
            let dimension = Dimension { name, kind, layer, width, size, least, entries, owned, consumers };
            found.prunable.push(dimension);
        } else {
            found.pinned.push(Pinned { name, size, reasons });
        }
    }
    found
        .prunable
        .sort_by_cached_key(|d| (d.consumers.iter().map(|c| widths.contractions[*c].node).min(), d.width));
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for dimension in &mut found.prunable {
        let count = counts.entry(dimension.kind).or_default();
        dimension.layer = *count;
        *count += 1;
    }
    found
}

/// What typing said, by the free width that it is about.
struct Index<'a> {
    graph: &'a Graph,
    widths: &'a Widths,
    /// The constant slices that each width owns.
    owners: BTreeMap<Width, Vec<Place>>,
    /// The sums that each width ends in: indices into [`Widths::contractions`].
    ends: BTreeMap<Width, Vec<usize>>,
    /// Why widths that own slices may not shrink.
    pins: BTreeMap<Width, Vec<Pin>>,
    /// Widths that an attention operator calls heads.
    heads: BTreeSet<Width>,
    /// Widths of batch axes of products of two activations.
    batched: BTreeSet<Width>,
    /// Widths inside attention heads: summed or made between two activations.
    inner: BTreeSet<Width>,
    /// Widths for each entry of which a softmax runs by itself.
    under_softmax: BTreeSet<Width>,
    /// Widths that have to keep two entries.
    at_least_two: BTreeSet<Width>,
    /// Nodes that cost something.
    costly: BTreeSet<NodeId>,
    /// Nodes that convolve: that sum over the second axis of an operand with positions.
    convolving: BTreeSet<NodeId>,
}

impl<'a> Index<'a> {
    fn new(graph: &'a Graph, widths: &'a Widths) -> Self {
        let table = &widths.table;
        let atoms = |whole: &mut dyn Iterator<Item = Width>| -> BTreeSet<Width> {
            whole.flat_map(|width| table.atoms(width)).collect()
        };
        let owners = owners(graph, widths);
        let pins = effective_pins(widths, &owners);
        let convolves = |c: &&Contraction| {
            let positions = widths.operand(graph, c.operand()).is_some_and(|axes| axes.len() >= 3);
            (c.axis, c.feature) == (1, Some(1)) && positions
        };
        Self {
            graph,
            widths,
            owners,
            ends: ends(widths),
            pins,
            heads: atoms(&mut widths.heads.iter().copied()),
            batched: atoms(&mut widths.batched.iter().map(|(_, width)| *width)),
            inner: atoms(&mut widths.paired.iter().copied()),
            under_softmax: atoms(&mut normalised_axes(graph, widths)),
            at_least_two: atoms(&mut widths.at_least_two.iter().copied()),
            costly: widths.macs.iter().map(|m| m.node).collect(),
            convolving: widths.contractions.iter().filter(convolves).map(|c| c.node).collect(),
        }
    }

    /// Weighted nodes whose results have the width as (part of) an axis: those that own it on an axis they do not sum over.
    fn producers(&self, width: Width, owned: &[Place]) -> Vec<NodeId> {
        let ends = self.ends.get(&width).into_iter().flatten();
        let summed: BTreeSet<Place> = ends
            .filter_map(|index| self.widths.contractions.get(*index))
            .filter_map(|c| c.weight.map(|(slot, axis)| Place { at: Use { node: c.node, slot }, axis }))
            .collect();
        let read = owned.iter().map(|o| Place { at: ops::reader(self.graph, o.at), axis: o.axis });
        let matrices = read.filter(|o| {
            let rank = self.widths.operand(self.graph, o.at).map_or(0, <[Width]>::len);
            rank >= 2 && !summed.contains(o)
        });
        let mut nodes: Vec<NodeId> = matrices.map(|o| o.at.node).collect();
        if nodes.iter().any(|n| self.costly.contains(n)) {
            nodes.retain(|n| self.costly.contains(n));
        }
        nodes.sort();
        nodes.dedup();
        nodes
    }

    fn kind(&self, width: Width, owned: &[Place]) -> Kind {
        if self.heads.contains(&width) {
            return Kind::Head;
        }
        // One product is enough: queries may be constant, as those of a decoder's first layer are.
        let softmax = self.under_softmax.contains(&width);
        if softmax && self.batched.contains(&width) {
            return Kind::Head;
        }
        if self.inner.contains(&width) {
            return Kind::HeadDim;
        }
        if owned.iter().any(|o| self.convolving.contains(&ops::reader(self.graph, o.at).node)) {
            return Kind::Channel;
        }
        // Deformable attention weighs sampled values without a product of matrices: there, too, heads are groups of features.
        let groups = || {
            let mut axes = owned.iter().filter_map(|o| self.widths.at(self.graph, *o));
            axes.any(|axis| self.widths.table.root(axis) != width)
        };
        if softmax && groups() { Kind::Head } else { Kind::Neuron }
    }
}

/// The fewest entries that a unit of a width has along an axis that it owns slices of.
fn entries(widths: &Widths, width: Width, owned: &[Place]) -> usize {
    let table = &widths.table;
    let axes = owned.iter().filter_map(|o| widths.constants.get(&o.at)?.get(o.axis));
    let counts = axes.map(|axis| table.units(*axis, width).iter().flatten().count());
    (counts.min().unwrap_or(1) / table.size(width).max(1)).max(1)
}

/// The constant slices that each free width owns.
fn owners(graph: &Graph, widths: &Widths) -> BTreeMap<Width, Vec<Place>> {
    let mut owners: BTreeMap<Width, Vec<Place>> = BTreeMap::new();
    for (at, axes) in widths.constants() {
        if !ops::holds_weights(graph, at) {
            continue;
        }
        for (axis, width) in axes.iter().enumerate() {
            for atom in widths.table.atoms(*width) {
                owners.entry(atom).or_default().push(Place { at, axis });
            }
        }
    }
    owners
}

/// The sums that each free width ends in.
fn ends(widths: &Widths) -> BTreeMap<Width, Vec<usize>> {
    let mut ends: BTreeMap<Width, Vec<usize>> = BTreeMap::new();
    for (index, contraction) in widths.contractions.iter().enumerate() {
        for atom in widths.table.atoms(contraction.width) {
            ends.entry(atom).or_default().push(index);
        }
    }
    ends
}

/// Reasons why free widths that own slices may not shrink: their own, and those of every width that they are a part of, each
/// once.
fn effective_pins(widths: &Widths, owners: &BTreeMap<Width, Vec<Place>>) -> BTreeMap<Width, Vec<Pin>> {
    let mut pins: BTreeMap<Width, (BTreeSet<&Pin>, Vec<Pin>)> = BTreeMap::new();
    for root in widths.table.roots().filter(|root| widths.table.is_pinned(*root)) {
        for atom in widths.table.atoms(root).into_iter().filter(|atom| owners.contains_key(atom)) {
            let (seen, list) = pins.entry(atom).or_default();
            list.extend(widths.table.pins(root).filter(|pin| seen.insert(pin)).cloned());
        }
    }
    pins.into_iter().map(|(atom, (_, list))| (atom, list)).collect()
}

/// The axes that softmaxes run over or beside.
fn normalised_axes(graph: &Graph, widths: &Widths) -> impl Iterator<Item = Width> {
    let softmaxes = graph
        .nodes()
        .filter(|(_, node)| ops::find(&node.proto).is_some_and(|rule| rule.is_softmax()))
        .map(|(id, _)| Use { node: id, slot: 0 });
    softmaxes.filter_map(|at| widths.operand(graph, at)).flatten().copied()
}

/// The path that the producers' names share, as exporters write module paths; the first one's name when they share none.
fn producer_name(graph: &Graph, producers: &[NodeId]) -> String {
    let labels: Vec<Vec<&str>> = producers
        .iter()
        .map(|id| graph.node(*id).label().split('/').filter(|part| !part.is_empty()).collect())
        .collect();
    let Some((first, rest)) = labels.split_first() else { return String::new() };
    let shared = rest
        .iter()
        .fold(first.len(), |n, label| first.iter().zip(label).take(n).take_while(|(a, b)| a == b).count());
    let path = match shared {
        0 => first.as_slice(),
        n if n == first.len() && n > 1 => &first[..n - 1],
        n => &first[..n],
    };
    path.join("/")
}

/// Hands out names that are unique.
#[derive(Default)]
struct Names {
    taken: BTreeSet<String>,
    /// The last number that was tried behind each name.
    last: BTreeMap<String, usize>,
}

impl Names {
    fn unique(&mut self, wanted: &str, kind: Kind) -> String {
        let base = match (wanted, kind) {
            ("", _) => kind.to_string(),
            // Heads keep the name of their layer.
            (_, Kind::HeadDim) => format!("{wanted}/dim"),
            _ => wanted.to_owned(),
        };
        let mut name = base.clone();
        while !self.taken.insert(name.clone()) {
            let last = self.last.entry(base.clone()).or_insert(1);
            *last += 1;
            name = format!("{base}#{last}");
        }
        name
    }
}
