//! Why a budget of time is not kept.

use super::{MeasureError, ServingError, TableError};

/// Why a budget of time is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LatencyError {
    /// Something could not be timed.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The model cannot be served at the shapes that were asked for.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// The file of times is not used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A plan was asked for before anything was timed.
    #[error("a budget of time was asked for, and nothing was timed: time the model before it is planned")]
    Unmeasured,
    /// Merged positions are not timed.
    #[error("a budget of time and merged positions do not go together: ask for the one or the other")]
    Merging,
    /// No part of the model whose time goes by what can be pruned.
    #[error("nothing that can be pruned of the model could be timed; give a budget of another cost")]
    Nothing,
    /// The dense model takes no longer than it may.
    #[error(
        "the budget of {asked_ms:.3} ms leaves nothing to prune: the model takes {dense_ms:.3} ms; give a smaller one"
    )]
    Idle {
        /// The budget, in milliseconds.
        asked_ms: f64,
        /// What the model takes.
        dense_ms: f64,
    },
    /// Even with everything removed that may go, the model takes longer.
    #[error(
        "the budget of {asked_ms:.3} ms cannot be met: with everything removed that may go, the model takes {least_ms:.3} ms, and \
         {dense_ms:.3} ms as it is; ask for more, or let more go"
    )]
    OutOfReach {
        /// The budget, in milliseconds.
        asked_ms: f64,
        /// What the smallest model takes.
        least_ms: f64,
        /// What the dense one takes.
        dense_ms: f64,
    },
    /// The pruned model takes longer than it may.
    #[error(
        "the budget of {asked_ms:.3} ms is not met: the pruned model takes {reached_ms:.3} ms, where the dense one takes \
         {dense_ms:.3} ms; nothing was written; ask for less, or measure again on a machine that does nothing else"
    )]
    Missed {
        /// The budget, in milliseconds.
        asked_ms: f64,
        /// What the pruned model takes.
        reached_ms: f64,
        /// What the dense one takes.
        dense_ms: f64,
    },
}

impl LatencyError {
    /// Whether something was tried and not reached, rather than being refused because of what was asked.
    pub(crate) fn ran(&self) -> bool {
        match self {
            Self::Measure(_) | Self::OutOfReach { .. } | Self::Missed { .. } | Self::Nothing => true,
            Self::Serving(_) | Self::Table(_) | Self::Unmeasured | Self::Merging | Self::Idle { .. } => false,
        }
    }
}
