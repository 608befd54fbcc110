//! Importance of every unit, as plain data that can be saved and planned from again.

mod elimination;
mod exact;
mod quirks;
mod random;
mod saved;
mod sketch;
mod stability;
mod weights;

pub use exact::{ExactOptions, exact};
pub use random::random;
pub(crate) use saved::write as save;
pub use saved::{Provenance, SavedError, SavedScores, Setting};
pub use sketch::{Sketch, SketchOptions, Unsound, sketch};
pub use stability::{Stability, spearman};
pub use weights::{magnitude, wanda};

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    memory::MemoryBudget,
    model::ModelView,
    named::named,
    numbers::{finite_or_null, importance},
    runtime::Engine,
    typing::{Dimension, Kind},
    warning::{Warning, WarningCode},
};

/// How units are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// OPTIN's trajectory importance to leading order, all units from a few backward passes.
    #[default]
    Sketch,
    /// OPTIN's trajectory importance, one masked run per unit.
    Exact,
    /// Norm of the weights that make the unit (a baseline).
    Magnitude,
    /// Norm of the weights that read the unit, times the norm of its activation (a baseline).
    Wanda,
    /// Chance (the baseline of baselines); another seed draws anew.
    Random,
}

impl Method {
    /// Whether the scores depend on what the model is run on.
    pub fn needs_data(self) -> bool {
        !matches!(self, Self::Magnitude | Self::Random)
    }

    /// Whether the order is found in which units go when the weights are refitted. Baselines stay what they are.
    pub fn orders(self) -> bool {
        matches!(self, Self::Sketch | Self::Exact)
    }
}

named!(
    Method,
    "a way to score",
    [
        (Sketch, "sketch", "OPTIN's importance, estimated for all units at once by a few backward passes."),
        (Exact, "exact", "OPTIN's importance as published, by one run of the model per unit: slow."),
        (Magnitude, "magnitude", "Size of the weights that make a unit; a baseline that needs no data."),
        (
            Wanda,
            "wanda",
            "Size of the weights that read a unit, times the size of its activation; a baseline."
        ),
        (Random, "random", "Chance, drawn anew by another seed; the least that any way has to beat."),
    ]
);

/// Settings of all ways to score.
#[derive(Clone, Debug)]
pub struct ScoreOptions {
    /// How units are scored.
    pub method: Method,
    /// Seed of every random choice.
    pub seed: u64,
    /// Weight of the outputs' distance against that of the waypoints.
    pub lambda: f64,
    /// The most probes per sample of the sketch.
    pub probes: usize,
    /// What may be held beside the model.
    pub memory: MemoryBudget,
    /// Outputs that hold logits, beside those that can be told.
    pub logits: Vec<String>,
    /// Score as the released code does, for comparison (exact scoring only).
    pub paper_quirks: bool,
}

/// The waypoints are many and the outputs few, so that at equal weights layers that only the outputs see are emptied: a
/// text recogniser loses twice as much. From 30 on the ranking hardly changes any more.
const LAMBDA: f64 = 30.0;

impl Default for ScoreOptions {
    fn default() -> Self {
        let SketchOptions { probes, memory, .. } = SketchOptions::default();
        Self {
            method: Method::Sketch,
            seed: 0,
            lambda: LAMBDA,
            probes,
            memory,
            logits: Vec::new(),
            paper_quirks: false,
        }
    }
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
    let mut scored = score_by(engine, view, options, wanted, progress)?;
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

fn score_by(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &ScoreOptions,
    wanted: &dyn Fn(&Dimension) -> bool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Scored, ScoreError> {
    let plain = |dimensions| Scored { dimensions, ..Default::default() };
    let exactly = ExactOptions {
        lambda: options.lambda,
        seed: options.seed,
        logits: &options.logits,
        paper_quirks: options.paper_quirks,
        memory: options.memory,
        ..Default::default()
    };
    match options.method {
        Method::Magnitude => magnitude(view.graph, view.widths, view.dimensions).map(plain),
        Method::Wanda => wanda(engine, view).map(plain),
        Method::Random => Ok(plain(random(view.dimensions, options.seed))),
        Method::Exact => exact(engine, view, &exactly, wanted, progress).map(plain),
        Method::Sketch => {
            let settings = SketchOptions {
                lambda: options.lambda,
                probes: options.probes,
                seed: options.seed,
                logits: &options.logits,
                memory: options.memory,
            };
            let sketch = sketch(engine, view, &settings, wanted, progress)?;
            let reached: BTreeSet<String> = sketch.scores.iter().map(|d| d.name.clone()).collect();
            let missed = |d: &Dimension| wanted(d) && !reached.contains(&d.name);
            let mut scored = Scored { stability: sketch.stability, ..plain(sketch.scores) };
            scored.notes.extend(sketch.stops.iter().map(|stop| format!("no gradient beyond {stop}")));
            scored.notes.extend(sketch.notes);
            let unsound = sketch.unsound.as_ref();
            scored.warnings.extend(unsound.map(Unsound::warning));
            if view.dimensions.iter().any(missed) {
                let rest = exact(engine, view, &exactly, &missed, progress)?;
                let why = |name: &String| match unsound.is_some_and(|u| u.dimensions.contains(name)) {
                    true => "its gradients are not finite",
                    false => "no gradient reaches it",
                };
                let notes = rest.iter().map(|d| format!("{} was scored exactly: {}", d.name, why(&d.name)));
                scored.notes.extend(notes);
                scored.dimensions.extend(rest);
            }
            Ok(scored)
        }
    }
}

impl Unsound {
    fn warning(&self) -> Warning {
        let place = self.node.as_ref().map_or(String::new(), |node| format!(", first at {node}"));
        let count = self.dimensions.len();
        let message = format!(
            "gradients are not finite{place}: {count} of the dimensions were scored exactly, which takes longer; \
             see that the samples are what the model expects"
        );
        Warning::new(WarningCode::NonFiniteGradients, message)
    }
}

/// Finds, beside the scores, the order in which units go when those that stay will be refitted to make up for them.
pub fn order(
    engine: &dyn Engine,
    view: ModelView<'_>,
    options: &ScoreOptions,
    scored: &mut Scored,
) -> Result<(), ScoreError> {
    if !options.method.orders() || options.paper_quirks {
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
