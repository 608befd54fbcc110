//! How long a model of any sizes takes, told from what was measured.

use serde::{Deserialize, Serialize};

use crate::{
    plan::{Cost, CostView, Curve},
    widths::Width,
};

/// Parts that take the same time.
#[derive(Clone, Debug)]
pub(super) struct Term {
    /// What they take when everything is kept, in picoseconds, without what no size changes.
    pub picoseconds: u64,
    /// The widths by whose extents that goes.
    pub axes: Vec<(Width, Curve)>,
}

/// How long the models of a session take, by the sizes of their dimensions.
#[derive(Clone, Debug)]
pub struct Latency {
    pub(super) terms: Vec<Term>,
    /// The model as it was in the file, in picoseconds.
    pub dense: u64,
    /// The model that is pruned, with everything kept.
    pub whole: u64,
    /// The same with everything removed that may go; `None` where that could not be made.
    pub least: Option<u64>,
    /// What was learnt on the way.
    pub survey: Survey,
}

/// What was timed, and how well that predicts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// What the times hold for.
    pub device: String,
    /// Parts of the model whose time goes by sizes.
    pub parts: usize,
    /// Of these, such that differ.
    pub distinct: usize,
    /// Times that were measured, beside those that were known.
    pub measured: usize,
    /// The median error of predictions of whole models, each told from the others, as a share of their time; absent where none
    /// could be timed.
    pub error: Option<f64>,
    /// Dimensions whose times step by more entries than they would be pruned in.
    pub steps: Vec<Step>,
}

/// A plan that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// What it was planned to take at most, in milliseconds.
    pub target_ms: f64,
    /// What it was predicted to take.
    pub predicted_ms: f64,
    /// What it takes.
    pub measured_ms: f64,
}

/// A dimension whose times fall in steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Entries in a step.
    pub entries: usize,
}

impl Latency {
    /// The cost in picoseconds, for what can be pruned of the model that was timed.
    pub(crate) fn cost(&self, view: &CostView<'_>) -> Cost {
        let terms = self.terms.iter().map(|term| (term.picoseconds, term.axes.as_slice()));
        Cost::measured(view, terms, self.whole)
    }
}
