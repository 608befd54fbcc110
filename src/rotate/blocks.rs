//! Which entries of some axes are the dimensions of one head.

use std::collections::BTreeMap;

use crate::{
    graph::Use,
    model::ModelView,
    stats::Sum,
    typing::Dimension,
    widths::{Place, Width},
};

/// Entries by head: for each head its blocks, such as its queries and its keys in one weight, and of each block the entries in
/// the order of the dimension's units.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Blocks(BTreeMap<Vec<usize>, Vec<Vec<usize>>>);

impl Blocks {
    /// `units` holds the unit of each entry, `heads` by which numbers its head goes. `None` where a head is not whole.
    fn new(units: &[Option<usize>], heads: &[Vec<Option<usize>>], size: usize) -> Option<Self> {
        let mut found: BTreeMap<Vec<usize>, Vec<Vec<usize>>> = BTreeMap::new();
        for (entry, unit) in units.iter().enumerate() {
            let Some(unit) = unit else { continue };
            let head = heads.iter().map(|h| h.get(entry).copied().flatten()).collect::<Option<Vec<_>>>()?;
            found.entry(head).or_insert_with(|| vec![Vec::new(); size]).get_mut(*unit)?.push(entry);
        }
        let blocks = |by_unit: &Vec<Vec<usize>>| {
            let count = by_unit.first()?.len();
            let alike = by_unit.iter().all(|entries| entries.len() == count);
            alike.then(|| (0..count).map(|b| by_unit.iter().map(|entries| entries[b]).collect()).collect())
        };
        let blocks = found.iter().map(|(head, by_unit)| Some((head.clone(), blocks(by_unit)?)));
        Some(Self(blocks.collect::<Option<_>>()?))
    }

    /// The blocks of each head.
    pub fn iter(&self) -> impl Iterator<Item = (&Vec<usize>, &Vec<Vec<usize>>)> {
        self.0.iter()
    }

    /// The blocks of one head.
    pub fn get(&self, head: &[usize]) -> Option<&[Vec<usize>]> {
        self.0.get(head).map(Vec::as_slice)
    }

    /// The least extent of equal parts of so many entries that cut no block.
    fn extent(&self, entries: usize) -> usize {
        let blocks = || self.0.values().flatten();
        let longest = blocks().map(Vec::len).max().unwrap_or(entries).max(1);
        let cuts = |extent: usize| {
            blocks().any(|block| block.iter().any(|entry| entry / extent != block[0] / extent))
        };
        let extents = (longest..entries).filter(|extent| entries.is_multiple_of(*extent));
        extents.into_iter().find(|extent| !cuts(*extent)).unwrap_or(entries)
    }

    /// How many heads there are.
    pub fn heads(&self) -> usize {
        self.0.len()
    }

    /// How many blocks the first head has.
    pub fn per_head(&self) -> usize {
        self.0.values().next().map_or(0, Vec::len)
    }
}

/// The widths that tell the heads of a dimension apart: those that every weight has beside it, for all its entries.
pub(super) fn heads(view: ModelView<'_>, dimension: &Dimension) -> Vec<Width> {
    let table = &view.widths.table;
    let mut shared: Option<Vec<Width>> = None;
    for place in &dimension.owned {
        let Some(axis) = view.widths.at(view.graph, *place) else { continue };
        let own = table.units(axis, dimension.width);
        let beside = |atom: &Width| {
            let units = table.units(axis, *atom);
            *atom != dimension.width
                && own.iter().zip(&units).all(|(own, unit)| own.is_none() || unit.is_some())
        };
        let atoms: Vec<Width> = table.atoms(axis).into_iter().filter(beside).collect();
        shared = Some(match shared {
            None => atoms,
            Some(shared) => shared.into_iter().filter(|w| atoms.contains(w)).collect(),
        });
    }
    shared.unwrap_or_default()
}

/// Axes of an operand that hold the dimensions of its heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axes {
    /// The axis with the dimensions.
    pub place: Place,
    /// The axis that tells the heads apart, where the other does not.
    pub outer: Option<usize>,
    /// Entries of a sample along both.
    pub entries: usize,
    /// Entries of which those of one block are neighbours.
    pub inner: usize,
}

impl Axes {
    /// The products of the dimensions of each head.
    pub fn sum(&self) -> Sum {
        Sum { place: self.place, outer: self.outer, entries: self.entries, block: self.inner }
    }

    /// Where an operand has the heads of a dimension, and its entries by head; `None` where it does not tell them apart.
    pub fn of(
        view: ModelView<'_>,
        dimension: &Dimension,
        heads: &[Width],
        place: Place,
    ) -> Option<(Self, Blocks)> {
        let table = &view.widths.table;
        let axes = view.widths.operand(view.graph, place.at)?;
        let inner = *axes.get(place.axis)?;
        let own = table.units(inner, dimension.width);
        let tells = |axis: Width| heads.iter().all(|head| table.contains(axis, *head));
        let outer = match tells(inner) {
            true => None,
            false => Some((0..axes.len()).find(|axis| tells(axes[*axis]))?),
        };
        let Some(outer) = outer else {
            let heads: Vec<_> = heads.iter().map(|head| table.units(inner, *head)).collect();
            let blocks = Blocks::new(&own, &heads, dimension.size)?;
            let inner = blocks.extent(own.len());
            return Some((Self { place, outer: None, entries: own.len(), inner }, blocks));
        };
        let samples = match view.widths.batch {
            Some(batch) if table.leads(axes[outer], batch) => view.facts.samples.max(1),
            _ => 1,
        };
        let count = table.size(axes[outer]) / samples;
        let spread = |head: &Width| {
            let units = table.units(axes[outer], *head);
            units[..count].iter().flat_map(|unit| vec![*unit; own.len()]).collect()
        };
        let heads: Vec<Vec<Option<usize>>> = heads.iter().map(spread).collect();
        let units: Vec<Option<usize>> = own.iter().copied().cycle().take(count * own.len()).collect();
        let blocks = Blocks::new(&units, &heads, dimension.size)?;
        Some((
            Self { place, outer: Some(outer), entries: units.len(), inner: blocks.extent(units.len()) },
            blocks,
        ))
    }
}

/// The operand that a product of two activations multiplies with the one at `place`, and its axis that is summed.
pub(super) fn partner(view: ModelView<'_>, place: Place, summed: Width) -> Option<Place> {
    let table = &view.widths.table;
    let slot = 1_usize.checked_sub(place.at.slot)?;
    let at = Use { node: place.at.node, slot };
    let axes = view.widths.operand(view.graph, at)?;
    // The head's dimensions lie among the last two axes of a matrix.
    let axis = (0..axes.len()).rev().find(|axis| table.root(axes[*axis]) == table.root(summed))?;
    Some(Place { at, axis })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_owns_its_block_of_queries_and_its_block_of_keys() {
        // Queries of two heads of two dimensions, their keys, and something else.
        let units: Vec<_> = [0, 1, 0, 1, 0, 1, 0, 1].map(Some).into_iter().chain([None]).collect();
        let heads: Vec<_> = [0, 0, 1, 1, 0, 0, 1, 1].map(Some).into_iter().chain([None]).collect();
        let blocks = Blocks::new(&units, &[heads], 2).unwrap();
        assert_eq!(blocks.get(&[0]).unwrap(), [vec![0, 1], vec![4, 5]]);
        assert_eq!(blocks.get(&[1]).unwrap(), [vec![2, 3], vec![6, 7]]);
        assert_eq!((blocks.heads(), blocks.per_head()), (2, 2));
        assert_eq!(blocks.extent(8), 2);
        assert_eq!(blocks.extent(9), 9);
    }

    #[test]
    fn a_head_that_lacks_a_dimension_is_none() {
        let units = [Some(0), Some(1), Some(0)];
        let heads = [Some(0), Some(0), Some(1)].to_vec();
        assert_eq!(Blocks::new(&units, &[heads], 2), None);
        assert_eq!(Blocks::new(&units, &[vec![None; 3]], 2), None);
    }
}
