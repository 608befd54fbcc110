//! Candidates for reduction: free widths that own slices of weights.

use std::collections::{BTreeMap, BTreeSet};

use super::names::producer_name;
use crate::{
    graph::{Graph, NodeId, Use},
    named::named,
    ops,
    widths::{Contraction, Pin, PinReason, Place, Width, Widths},
};

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
    Granularity,
    "a granularity of attention",
    [
        (Head, "head", "Attention loses whole heads alone."),
        (HeadDim, "head-dim", "Attention loses whole heads, and dimensions of all heads of a layer."),
    ]
);

/// What a reduction may shrink: a width, and what hangs on it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The width.
    pub width: Width,
    /// The fewest entries that it can keep.
    pub least: usize,
    /// Axes of constants along which its units own slices.
    pub owned: Vec<Place>,
    /// Sums that its units end in: indices into [`Widths::contractions`], ascending.
    pub consumers: Vec<usize>,
    /// Why it may not shrink; empty where it may.
    pub reasons: Vec<Pin>,
    /// Weighted nodes whose results have the width as (part of) an axis, ascending: it is named after them.
    pub producers: Vec<NodeId>,
}

impl Candidate {
    /// What candidates are ordered by: the first node that they own slices at, then the width.
    pub(super) fn place(&self) -> (Option<NodeId>, Width) {
        (self.owned.first().map(|place| place.at.node), self.width)
    }
}

/// The free widths that weights own, and what typing said of them. Reductions take from it what is theirs.
pub struct Candidates<'a> {
    graph: &'a Graph,
    widths: &'a Widths,
    /// The units that attention loses.
    granularity: Granularity,
    /// The widths that no reduction has claimed, with the constant slices that each owns, in the order of the network.
    unclaimed: Vec<(Width, Vec<Place>)>,
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

impl<'a> Candidates<'a> {
    /// All of them.
    pub(super) fn new(graph: &'a Graph, widths: &'a Widths, granularity: Granularity) -> Self {
        let table = &widths.table;
        let atoms = |whole: &mut dyn Iterator<Item = Width>| -> BTreeSet<Width> {
            whole.flat_map(|width| table.atoms(width)).collect()
        };
        let owners = owners(graph, widths);
        let pins = effective_pins(widths, &owners);
        let mut unclaimed: Vec<(Width, Vec<Place>)> = owners.into_iter().collect();
        unclaimed.sort_by_key(|(width, owned)| (owned.first().map(|place| place.at.node), *width));
        let convolves = |c: &&Contraction| {
            let positions = widths.operand(graph, c.operand()).is_some_and(|axes| axes.len() >= 3);
            (c.axis, c.feature) == (1, Some(1)) && positions
        };
        Self {
            graph,
            widths,
            granularity,
            unclaimed,
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
            .filter_map(Contraction::weight_place)
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

    /// Takes the widths for which `is` holds. Its second argument are the constant slices that the width owns.
    pub fn claim(&mut self, is: impl Fn(&Self, Width, &[Place]) -> bool) -> Vec<Candidate> {
        let unclaimed = std::mem::take(&mut self.unclaimed);
        let (claimed, others) = unclaimed.into_iter().partition(|(width, owned)| is(self, *width, owned));
        self.unclaimed = others;
        let claimed: Vec<(Width, Vec<Place>)> = claimed;
        claimed.into_iter().map(|(width, owned)| self.candidate(width, owned)).collect()
    }

    fn candidate(&mut self, width: Width, owned: Vec<Place>) -> Candidate {
        let producers = self.producers(width, &owned);
        let reasons = self.pins.remove(&width).unwrap_or_default();
        let consumers = self.ends.remove(&width).unwrap_or_default();
        let least = if self.at_least_two.contains(&width) { 2 } else { 1 };
        Candidate { width, least, owned, consumers, reasons, producers }
    }

    /// Why dimensions of heads keep their extent, where attention is to lose whole heads alone.
    pub fn whole_heads(&self, candidate: &Candidate) -> Option<Pin> {
        let name = || producer_name(self.graph, &candidate.producers);
        (self.granularity == Granularity::Head).then(|| Pin::new(name(), PinReason::HeadDimension))
    }

    /// Whether an attention operator calls the width heads.
    pub fn is_called_heads(&self, width: Width) -> bool {
        self.heads.contains(&width)
    }

    /// Whether a product of two activations runs for each entry by itself.
    pub fn is_batched(&self, width: Width) -> bool {
        self.batched.contains(&width)
    }

    /// Whether a softmax runs for each entry by itself.
    pub fn is_under_softmax(&self, width: Width) -> bool {
        self.under_softmax.contains(&width)
    }

    /// Whether the width is summed or made between two activations, as dimensions inside heads are.
    pub fn is_inside_heads(&self, width: Width) -> bool {
        self.inner.contains(&width)
    }

    /// Whether a convolution reads one of these slices.
    pub fn is_convolved(&self, owned: &[Place]) -> bool {
        owned.iter().any(|o| self.convolving.contains(&ops::reader(self.graph, o.at).node))
    }

    /// Whether one of these slices has several entries for each of the width's.
    pub fn is_of_groups(&self, width: Width, owned: &[Place]) -> bool {
        let mut axes = owned.iter().filter_map(|o| self.widths.at(self.graph, *o));
        axes.any(|axis| self.widths.table.root(axis) != width)
    }
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
