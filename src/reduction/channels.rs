//! Channels of convolutions.

use super::{Candidate, Candidates, Kind, Reduction, aligned};
use crate::catalog::Entry;

/// Channels of convolutions.
pub const CHANNEL: Kind = Kind::of(&Channels);

pub(super) struct Channels;

impl Entry for Channels {
    fn id(&self) -> &'static str {
        "channel"
    }

    fn about(&self) -> &'static str {
        "Channels of convolutions."
    }
}

impl Reduction for Channels {
    fn find(&self, typed: &mut Candidates<'_>) -> Vec<Candidate> {
        typed.claim(|typed, _, owned| typed.is_convolved(owned))
    }

    fn granule(&self, entries: usize, align: usize) -> usize {
        aligned(entries, align)
    }
}
