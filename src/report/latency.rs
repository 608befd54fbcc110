//! What a budget of time came to.

use serde::{Deserialize, Serialize};

use crate::{
    latency::{Latency, Round, Survey},
    plan::{Budget, Budgets},
};

/// What a budget of time came to, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// The share of the dense model's time that was asked for; absent where a time was.
    pub share: Option<f64>,
    /// What the pruned model may take.
    pub target_ms: f64,
    /// What the dense model takes.
    pub dense_ms: f64,
    /// What it takes with everything removed that may go; absent where that could not be measured.
    pub least_ms: Option<f64>,
    /// What the plan was predicted to take.
    pub predicted_ms: f64,
    /// The plans that were measured, in turn.
    pub rounds: Vec<Round>,
    /// What was timed, and how well that predicts.
    #[serde(flatten)]
    pub survey: Survey,
}

impl LatencyReport {
    /// Of a plan that is predicted to take so many picoseconds; `None` where no budget was of time, or nothing was measured.
    pub(crate) fn of(
        budgets: &Budgets,
        latency: Option<&Latency>,
        predicted: Option<u64>,
        rounds: &[Round],
    ) -> Option<Self> {
        let (budget, latency, predicted) = (budgets.latency()?, latency?, predicted?);
        let ms = |picoseconds: u64| picoseconds as f64 / 1e9;
        Some(Self {
            share: match budget {
                Budget::Share(share) => Some(share),
                Budget::Absolute(_) => None,
            },
            target_ms: ms(budget.target(latency.dense)),
            dense_ms: ms(latency.dense),
            least_ms: latency.least.map(ms),
            predicted_ms: ms(predicted),
            rounds: rounds.to_vec(),
            survey: latency.survey.clone(),
        })
    }
}
