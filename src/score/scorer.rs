//! Ways to score units: the trait, and the list of those that there are.

use super::{
    ScoreError, Scored, exact::ExactScorer, magnitude::MagnitudeScorer, random::RandomScorer,
    sketch::SketchScorer, wanda::WandaScorer,
};
use crate::{
    catalog::{Catalog, Choice, Entry},
    memory::MemoryBudget,
    model::ModelView,
    runtime::Engine,
    settings::SettingValues,
    trajectory::SaidOutput,
    typing::Dimension,
};

/// All scorers; the first is the default.
static SCORERS: &[&dyn Scorer] =
    &[&SketchScorer, &ExactScorer, &MagnitudeScorer, &WandaScorer, &RandomScorer];

/// A way to score units.
pub type Method = Choice<dyn Scorer>;

/// What a scorer may look at.
#[derive(Clone, Copy)]
pub struct ScoreContext<'a> {
    /// What runs the model.
    pub engine: &'a dyn Engine,
    /// The typed model, and its samples.
    pub view: ModelView<'a>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Bytes that may be held beside the model.
    pub memory: MemoryBudget,
    /// Names of outputs that hold logits, beside those that can be told.
    pub said_outputs: &'a [SaidOutput],
}

/// Gives every unit a number: the larger, the more the model loses without it.
pub trait Scorer: Entry {
    /// Whether the scores depend on what the model is run on. Where not, made-up inputs do.
    fn needs_data(&self) -> bool {
        true
    }

    /// Whether, by these settings, the order is found beside the scores in which units go when the weights are refitted
    /// (`score/elimination`). Baselines stay what they are.
    fn orders(&self, settings: &SettingValues) -> bool {
        let _ = settings;
        false
    }

    /// Scores the units of the dimensions that are `wanted`, at least: one entry for each, in the order of the network as far as
    /// possible, with a score for each of its [`size`](Dimension::size) units. Scores are compared across dimensions of all
    /// kinds; those that are no finite numbers count as the most important. `progress` is told how much is done, of how much.
    ///
    /// # Errors
    /// When the model does not run, or a weight cannot be read.
    fn score(
        &self,
        cx: &ScoreContext<'_>,
        settings: &SettingValues,
        wanted: &dyn Fn(&Dimension) -> bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scored, ScoreError>;
}

impl Catalog for dyn Scorer {
    const ENTRY: &'static str = "a way to score";

    fn entries() -> &'static [&'static Self] {
        SCORERS
    }
}

impl Default for Method {
    fn default() -> Self {
        Self::of(&SketchScorer)
    }
}
