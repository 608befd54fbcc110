//! Attention heads.

use super::{Candidate, Candidates, Kind, PaperPrior, Reduction};
use crate::catalog::Entry;

/// Attention heads.
pub const HEAD: Kind = Kind::of(&Heads);

pub(super) struct Heads;

impl Entry for Heads {
    fn id(&self) -> &'static str {
        "head"
    }

    fn about(&self) -> &'static str {
        "Attention heads."
    }
}

impl Reduction for Heads {
    fn find(&self, typed: &mut Candidates<'_>) -> Vec<Candidate> {
        typed.claim(|typed, width, owned| {
            // One product is enough: queries may be constant, as those of a decoder's first layer are.
            let in_product = || typed.is_under_softmax(width) && typed.is_batched(width);
            // Deformable attention weighs sampled values without a product of matrices: there, too, heads are groups of
            // features.
            let in_groups = || {
                typed.is_under_softmax(width)
                    && !typed.is_inside_heads(width)
                    && !typed.is_convolved(owned)
                    && typed.is_of_groups(width, owned)
            };
            typed.is_called_heads(width) || in_product() || in_groups()
        })
    }

    fn granule(&self, _: usize, _: usize) -> usize {
        1
    }

    /// Heads are few and wide: they go by their scores.
    fn goes_by_elimination(&self) -> bool {
        false
    }

    fn splits_shared_values(&self) -> bool {
        true
    }

    fn paper_prior(&self) -> PaperPrior {
        PaperPrior { span: 10.0, weight: 0.5, masks_earlier: true }
    }
}
