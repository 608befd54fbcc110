//! Dimensions of attention heads, which all heads of a layer lose alike.

use super::{Candidate, Candidates, Kind, Reduction};
use crate::catalog::Entry;

/// Dimensions of all heads of a layer: what queries and keys are compared by, and what values hold.
pub const HEAD_DIM: Kind = Kind::of(&HeadDims);

pub(super) struct HeadDims;

impl Entry for HeadDims {
    fn id(&self) -> &'static str {
        "head-dim"
    }

    fn about(&self) -> &'static str {
        "Dimensions of attention heads, of which all heads of a layer lose as many."
    }
}

impl Reduction for HeadDims {
    fn find(&self, typed: &mut Candidates<'_>) -> Vec<Candidate> {
        let mut found = typed.claim(|typed, width, _| typed.is_inside_heads(width));
        for candidate in &mut found {
            candidate.reasons.extend(typed.whole_heads(candidate));
        }
        found
    }

    fn granule(&self, _: usize, align: usize) -> usize {
        // Kernels of attention are made for head sizes that are multiples.
        align
    }

    /// Heads keep the name of their layer.
    fn name(&self, layer: &str) -> String {
        format!("{layer}/dim")
    }

    fn is_rotated(&self) -> bool {
        true
    }
}
