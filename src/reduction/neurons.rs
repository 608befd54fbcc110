//! Neurons: whatever else weights own.

use super::{Candidate, Candidates, Kind, Reduction, aligned};
use crate::catalog::Entry;

/// Neurons between two projections.
pub const NEURON: Kind = Kind::of(&Neurons);

pub(super) struct Neurons;

impl Entry for Neurons {
    fn id(&self) -> &'static str {
        "neuron"
    }

    fn about(&self) -> &'static str {
        "Neurons between two linear layers, as in feed-forward blocks."
    }
}

impl Reduction for Neurons {
    fn find(&self, typed: &mut Candidates<'_>) -> Vec<Candidate> {
        typed.claim(|_, _, _| true)
    }

    fn granule(&self, entries: usize, align: usize) -> usize {
        aligned(entries, align)
    }
}
