//! The baseline that any score has to beat: chance.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::DimensionScores;
use crate::typing::Dimension;

/// Scores drawn uniformly from 0 to 1, the same for the same seed.
pub fn random(dimensions: &[Dimension], seed: u64) -> Vec<DimensionScores> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |d: &Dimension| DimensionScores::of(d, (0..d.size).map(|_| rng.random()).collect());
    dimensions.iter().map(&mut draw).collect()
}
