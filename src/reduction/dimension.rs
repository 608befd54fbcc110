//! Prunable dimensions: free widths that weights own, with the names that people know them by.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Kind,
    candidates::{Candidate, Candidates, Granularity},
    names::{Names, producer_name},
};
use crate::{
    graph::Graph,
    widths::{Contraction, Pin, Place, Width, Widths},
};

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

/// Finds the prunable dimensions of a typed model: what the reductions find, in the order of the network.
pub fn dimensions(graph: &Graph, widths: &Widths, granularity: Granularity) -> Dimensions {
    let mut typed = Candidates::new(graph, widths, granularity);
    let mut candidates: Vec<(Kind, Candidate)> = Vec::new();
    for kind in Kind::all() {
        candidates.extend(kind.find(&mut typed).into_iter().map(|candidate| (kind, candidate)));
    }
    candidates.sort_by_key(|(_, candidate)| candidate.place());
    let mut names = Names::default();
    let mut found = Dimensions::default();
    for (kind, Candidate { width, least, owned, consumers, reasons, producers }) in candidates {
        // A width that no sum ends is of no use to the result: nothing to score it by.
        // Nor is an empty axis, which a file may well have.
        let size = widths.table.size(width);
        if size == 0 || producers.is_empty() || (consumers.is_empty() && reasons.is_empty()) {
            continue;
        }
        let name = producer_name(graph, &producers);
        if reasons.is_empty() {
            let name = names.unique(&name, kind);
            let entries = entries(widths, width, &owned);
            let layer = 0;
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

/// The fewest entries that a unit of a width has along an axis that it owns slices of.
fn entries(widths: &Widths, width: Width, owned: &[Place]) -> usize {
    let table = &widths.table;
    let axes = owned.iter().filter_map(|o| widths.constants.get(&o.at)?.get(o.axis));
    let counts = axes.map(|axis| table.units(*axis, width).iter().flatten().count());
    (counts.min().unwrap_or(1) / table.size(width).max(1)).max(1)
}
