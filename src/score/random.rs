//! The baseline that any score has to beat: chance.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DimensionScores, Method, ScoreContext, ScoreError, Scored, Scorer};
use crate::{catalog::Entry, settings::SettingValues, typing::Dimension};

/// Scores by chance.
pub const RANDOM: Method = Method::of(&RandomScorer);

pub(super) struct RandomScorer;

impl Entry for RandomScorer {
    fn id(&self) -> &'static str {
        "random"
    }

    fn about(&self) -> &'static str {
        "Chance, drawn anew by another seed; the least that any way has to beat."
    }
}

impl Scorer for RandomScorer {
    fn needs_data(&self) -> bool {
        false
    }

    fn score(
        &self,
        cx: &ScoreContext<'_>,
        _: &SettingValues,
        _: &dyn Fn(&Dimension) -> bool,
        _: &mut dyn FnMut(usize, usize),
    ) -> Result<Scored, ScoreError> {
        Ok(Scored::plain(random(cx.view.dimensions, cx.seed)))
    }
}

/// Scores drawn uniformly from 0 to 1, the same for the same seed.
pub fn random(dimensions: &[Dimension], seed: u64) -> Vec<DimensionScores> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |d: &Dimension| DimensionScores::of(d, (0..d.size).map(|_| rng.random()).collect());
    dimensions.iter().map(&mut draw).collect()
}
