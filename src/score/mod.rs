//! Importance of every unit, as plain data that can be saved and planned from again.

mod elimination;
mod exact;
mod magnitude;
mod quirks;
mod random;
mod saved;
mod scorer;
mod sketch;
mod stability;
mod units;
mod wanda;

pub use exact::{EXACT, ExactOptions, LAMBDA, PAPER_QUIRKS, exact};
pub use magnitude::{MAGNITUDE, magnitude};
pub use random::{RANDOM, random};
pub(crate) use saved::write as save;
pub use saved::{Provenance, SavedError, SavedScores, ScoreInput};
pub use scorer::{Method, ScoreContext, Scorer};
pub use sketch::{PROBES, SKETCH, Sketch, SketchOptions, Unsound, sketch};
pub use stability::{Stability, spearman};
pub use wanda::{WANDA, wanda};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    memory::MemoryBudget,
    model::ModelView,
    numbers::{finite_or_null, importance},
    runtime::Engine,
    settings::SettingValues,
    trajectory::SaidOutput,
    typing::{Dimension, Kind},
    warning::Warning,
};

/// How units are scored.
#[derive(Clone, Debug, Default)]
pub struct ScoreOptions {
    /// The scorer.
    pub method: Method,
    /// Its settings; others are ignored.
    pub settings: SettingValues,
    /// Seed of every random choice.
    pub seed: u64,
    /// Bytes that may be held beside the model.
    pub memory: MemoryBudget,
    /// Names of outputs that hold logits, beside those that can be told.
    pub said_outputs: Vec<SaidOutput>,
}

/// Scores, and what to know about them.
#[derive(Clone, Debug, Default)]
pub struct Scored {
    /// One entry per dimension that was wanted.
    pub dimensions: Vec<DimensionScores>,
    /// How sure a sketched ranking is.
    pub stability: Option<Stability>,
    /// Where cotangents stopped, and what was scored otherwise.
    pub notes: Vec<String>,
    /// What the user has to know about them.
    pub warnings: Vec<Warning>,
}

/// Scores every unit of the dimensions that are `wanted`. `progress` is told how much is done, of how much.
pub fn score(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &ScoreOptions,
    wanted: &dyn Fn(&Dimension) -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Scored, ScoreError> {
    let ScoreOptions { method, settings, seed, memory, said_outputs } = options;
    let cx = ScoreContext { engine, view, seed: *seed, memory: *memory, said_outputs };
    let mut scored = method.score(&cx, settings, wanted, progress)?;
    for dimension in &mut scored.dimensions {
        let unknown = dimension.scores.iter().filter(|score| !score.is_finite()).count();
        if unknown > 0 {
            let DimensionScores { name, scores, .. } = dimension;
            let note =
                format!("{name}: the scores of {unknown} of {} units are no finite numbers", scores.len());
            scored.notes.push(format!("{note}; they count as the most important"));
            scores.iter_mut().for_each(|score| *score = importance(*score));
        }
    }
    Ok(scored)
}

/// Finds, beside the scores, the order in which units go when those that stay will be refitted to make up for them.
pub fn order(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &ScoreOptions,
    scored: &mut Scored,
) -> Result<(), ScoreError> {
    if !options.method.orders(&options.settings) {
        return Ok(());
    }
    let notes = elimination::order(engine, view, options.memory, &mut scored.dimensions)?;
    scored.notes.extend(notes);
    Ok(())
}

/// Why units could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
    /// A weight could not be read.
    #[error(transparent)]
    Onnx(#[from] crate::onnx::OnnxError),
    /// Samples could not be batched.
    #[error(transparent)]
    Calibration(#[from] crate::calibration::CalibrationError),
}

/// Scores of one dimension's units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DimensionScores {
    /// The dimension's name.
    pub name: String,
    /// What its units are.
    pub kind: Kind,
    /// Its place among the dimensions of its kind.
    pub layer: usize,
    /// One per unit; the larger, the more the model loses without the unit. Infinite where it could not be computed.
    #[serde(deserialize_with = "finite_or_null::deserialize")]
    pub scores: Vec<f64>,
    /// The units in the order in which they go if those that stay take over what they can, where that is known.
    #[serde(default)]
    pub order: Option<Vec<usize>>,
    /// What losing the cheaper half of them costs then, as a share of what they cost one by one, where that is known.
    #[serde(default)]
    pub left: Option<f64>,
}

/// Scores of all units of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// What they were made of.
    #[serde(flatten)]
    pub made: Provenance,
    /// How sure a sketched ranking is.
    #[serde(default)]
    pub stability: Option<Stability>,
    /// What to know about them.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the user has to know about them.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// One entry per prunable dimension.
    pub dimensions: Vec<DimensionScores>,
}

impl Scores {
    /// The scores to plan by when what stays will take over what it can. Which units of a dimension go is what the order of
    /// elimination says. How many go of each kind is a matter of what a refit leaves of their cost: next to nothing of neurons,
    /// all of what queries and keys are compared by, as no weight is there to be refitted. That share is the mean over the
    /// dimensions of a kind, since between layers the scores know better.
    pub fn with_recovery(mut self) -> Self {
        let mut shares: BTreeMap<Kind, (f64, f64)> = BTreeMap::new();
        for (kind, left) in self.dimensions.iter().filter_map(|d| Some((d.kind, d.left?))) {
            let (sum, count) = shares.entry(kind).or_default();
            *sum += left;
            *count += 1.0;
        }
        for dimension in &mut self.dimensions {
            let order = dimension.order.take().filter(|order| order.len() == dimension.scores.len());
            let mut ascending = dimension.scores.clone();
            ascending.sort_by(f64::total_cmp);
            for (unit, score) in order.into_iter().flatten().zip(ascending) {
                if let Some(own) = dimension.scores.get_mut(unit) {
                    *own = score;
                }
            }
            if let (Some(_), Some((sum, count))) = (dimension.left, shares.get(&dimension.kind)) {
                dimension.scores.iter_mut().for_each(|score| *score = importance(*score * (sum / count)));
            }
        }
        self
    }
}

impl Scored {
    /// Scores that there is nothing more to know about.
    pub fn plain(dimensions: Vec<DimensionScores>) -> Self {
        Self { dimensions, ..Self::default() }
    }
}

impl DimensionScores {
    /// The scores under the name of the dimension they belong to.
    pub fn of(dimension: &Dimension, scores: Vec<f64>) -> Self {
        Self {
            name: dimension.name.clone(),
            kind: dimension.kind,
            layer: dimension.layer,
            scores,
            order: None,
            left: None,
        }
    }
}
