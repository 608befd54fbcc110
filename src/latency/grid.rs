//! The sizes at which dimensions are timed.

use std::collections::BTreeSet;

use super::groups::Group;
use crate::{plan::Limits, typing::Dimension};

/// Dimensions that can have so few sizes are timed at all of them.
const FEW: usize = 12;

/// Steps of the coarse grid.
const COARSE: usize = 8;

/// A row of sizes that tells steps of two, four and eight granules: how many granules they are below a multiple of eight.
const ROW: [usize; 7] = [0, 1, 2, 3, 4, 7, 8];

/// Granules in the largest step that is told.
const LARGEST_STEP: usize = 8;

/// The sizes at which a dimension is timed, descending, without its full one.
pub(super) fn sizes(dimension: &Dimension, limits: &Limits) -> Vec<usize> {
    let (granule, floor, size) = (limits.granule(dimension), limits.floor(dimension), dimension.size);
    let legal: BTreeSet<usize> = (floor..size).filter(|n| *n == floor || n.is_multiple_of(granule)).collect();
    if legal.len() <= FEW {
        return legal.into_iter().rev().collect();
    }
    let step = granule * LARGEST_STEP;
    // Multiples of the largest step, where the dimension has room for that.
    let round =
        |n: usize| if size >= COARSE * step { n.next_multiple_of(step) } else { n.next_multiple_of(granule) };
    let coarse = (0..COARSE).map(|k| round(size * k / COARSE));
    let middle = (size / 2).next_multiple_of(step);
    let row = ROW.iter().filter_map(|below| middle.checked_sub(below * granule));
    let wanted: BTreeSet<usize> = coarse.chain(row).chain([floor]).filter(|n| legal.contains(n)).collect();
    wanted.into_iter().rev().collect()
}

/// Colours of dimensions, such that those by which the time of one group goes along different axes differ: sizes of one colour can
/// be changed together, and each group sees one of its axes change. `axes_of` are the dimensions of each axis of a group.
pub(super) fn colours<'g>(
    dimensions: usize,
    groups: impl Iterator<Item = &'g Group>,
    axes_of: impl Fn(&Group) -> Vec<BTreeSet<usize>>,
) -> Vec<usize> {
    let mut apart = vec![BTreeSet::new(); dimensions];
    for group in groups {
        let axes = axes_of(group);
        for (i, axis) in axes.iter().enumerate() {
            for other in axes.iter().skip(i + 1) {
                for (&a, &b) in axis.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
                    if a != b {
                        apart[a].insert(b);
                        apart[b].insert(a);
                    }
                }
            }
        }
    }
    let mut colours: Vec<usize> = Vec::with_capacity(dimensions);
    for others in &apart {
        let taken: BTreeSet<usize> = others.iter().filter_map(|other| colours.get(*other).copied()).collect();
        colours.push((0..).find(|colour| !taken.contains(colour)).unwrap_or(0));
    }
    colours
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reduction::NEURON, widths::WidthTable};

    fn of(size: usize) -> Vec<usize> {
        let width = WidthTable::default().fresh(size);
        let dimension = Dimension {
            name: "d".into(),
            kind: NEURON,
            layer: 0,
            width,
            size,
            least: 1,
            entries: 1,
            owned: Vec::new(),
            consumers: Vec::new(),
        };
        sizes(&dimension, &Limits::default())
    }

    #[test]
    fn small_dimensions_are_timed_at_every_size_and_large_ones_at_some() {
        assert_eq!(of(60), [56, 48, 40, 32, 24, 16, 8]);
        let large = of(1536);
        assert!(large.len() <= COARSE + ROW.len() + 1 && large.is_sorted_by(|a, b| a > b), "{large:?}");
        for size in [8, 192, 768, 760, 752, 744, 736, 712, 704, 1344] {
            assert!(large.contains(&size), "{size} of {large:?}");
        }
    }

    #[test]
    fn axes_of_one_group_have_different_colours() {
        let group =
            Group { axes: Vec::new(), dimensions: BTreeSet::new(), inputs: Vec::new(), outputs: Vec::new() };
        let axes = [
            vec![BTreeSet::from([0, 1]), BTreeSet::from([2])],
            vec![BTreeSet::from([2]), BTreeSet::from([3])],
        ];
        let groups = [group.clone(), group];
        let count = std::cell::Cell::new(0);
        let found = colours(4, groups.iter(), |_| {
            count.set(count.get() + 1);
            axes[count.get() - 1].clone()
        });
        assert_eq!(found, [0, 0, 1, 0]);
    }
}
