//! What can be removed from a model: the trait, and the list of the kinds of units that there are.

mod candidates;
mod channels;
mod dimension;
mod head_dims;
mod heads;
mod names;
mod neurons;
mod removal;

pub use candidates::{Candidate, Candidates, Granularity};
pub use channels::CHANNEL;
pub use dimension::{Dimension, Dimensions, Pinned, dimensions};
pub use head_dims::HEAD_DIM;
pub use heads::HEAD;
pub use neurons::NEURON;
pub use removal::{Removal, WidthRemoval, apply, mask};

use crate::catalog::{Catalog, Choice, Entry};

/// All kinds of units. Each takes what is its own of what those before it have left.
static REDUCTIONS: &[&dyn Reduction] =
    &[&heads::Heads, &head_dims::HeadDims, &channels::Channels, &neurons::Neurons];

/// What the units of a dimension are.
pub type Kind = Choice<dyn Reduction>;

/// A kind of units that a model can lose.
///
/// An implementation has to provide
///
/// * [`find`](Self::find): where the typed graph has such units, and why they may not go where they may not;
/// * [`removal`](Self::removal): a mask, which makes the model compute at its full shapes what it computes without some units,
///   and an edit that removes them. The proof compares the two. Units of weights share [`WidthRemoval`]: they are zero
///   before the sums that they end in, and constants are sliced. Something else, such as fewer positions, brings its own;
/// * [`granule`](Self::granule): how many go at once.
///
/// What remains has a default. Costs need nothing: they are polynomials in widths, and count whatever shrinks. Scorers watch the
/// sums that units end in ([`Dimension::consumers`]); units that end in none have to be scored by what knows them.
pub trait Reduction: Entry {
    /// The units of this kind in a typed graph. What is found here is claimed: kinds later in the list do not see it.
    fn find(&self, typed: &mut Candidates<'_>) -> Vec<Candidate>;

    /// How units are masked and removed.
    fn removal(&self) -> &'static dyn Removal {
        &WidthRemoval
    }

    /// How many units go at once, where extents are to be multiples of `align` (at least 1) and a unit has `entries`
    /// ([`Dimension::entries`]).
    fn granule(&self, entries: usize, align: usize) -> usize;

    /// The name of a dimension whose layer is called `layer`. Kinds that share layers have to differ.
    fn name(&self, layer: &str) -> String {
        layer.to_owned()
    }

    /// Whether the units are rotated to principal axes before they are scored, and only go where that succeeds.
    fn is_rotated(&self) -> bool {
        false
    }

    /// Whether an order of elimination says which units go, where there is one, and not their scores.
    fn goes_by_elimination(&self) -> bool {
        true
    }

    /// Whether values that several layers read beside their activations, such as a position bias for each unit, are typed
    /// anew at each use, so that layers can lose different units.
    fn splits_shared_values(&self) -> bool {
        false
    }

    /// How the released code of OPTIN treats such units.
    fn paper_prior(&self) -> PaperPrior {
        PaperPrior { span: 100.0, weight: 1.0, masks_earlier: false }
    }
}

/// What the released code of OPTIN does to units of a kind, beyond its formula.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperPrior {
    /// By how much the first unit of a layer is favoured over the last.
    pub span: f64,
    /// What all scores are multiplied by.
    pub weight: f64,
    /// Whether the last unit of all earlier layers of the kind stays masked.
    pub masks_earlier: bool,
}

impl Catalog for dyn Reduction {
    const ENTRY: &'static str = "a kind of units";

    fn entries() -> &'static [&'static Self] {
        REDUCTIONS
    }
}

/// The fewest units whose entries are a multiple of `align`.
fn aligned(entries: usize, align: usize) -> usize {
    align / gcd(align, entries)
}

/// The greatest common divisor (Euclid).
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_are_of_the_fewest_units_whose_entries_are_aligned() {
        let granules =
            |kind: Kind| [(1, 8), (6, 8), (16, 8), (3, 1)].map(|(n, align)| kind.granule(n, align));
        assert_eq!(granules(NEURON), [8, 4, 1, 1]);
        assert_eq!(granules(CHANNEL), granules(NEURON));
        assert_eq!(granules(HEAD_DIM), [8, 8, 8, 1]);
        assert_eq!(granules(HEAD), [1; 4]);
    }
}
