//! Pins: why an axis is frozen.

use serde::Serialize;

/// A reason why a width keeps its extent, and the place that gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pin {
    /// The node, input or output that pins.
    pub at: String,
    /// Why.
    pub reason: PinReason,
}

impl Pin {
    /// A pin at the node, input or output called `at`.
    pub fn new(at: impl Into<String>, reason: PinReason) -> Self {
        Self { at: at.into(), reason }
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.at)
    }
}

/// Why a width keeps its extent; the text completes "it keeps its extent because …".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
pub enum PinReason {
    /// The axis is an axis of a graph input.
    #[error("it is an axis of a graph input")]
    Input,
    /// The axis is an axis of a graph output.
    #[error("it is an axis of a graph output")]
    Output,
    /// A normalisation computes statistics over the axis.
    #[error("a normalisation's statistics span it")]
    Normalised,
    /// A mean, maximum or other non-additive reduction runs over the axis.
    #[error("{0} reduces over it, and removed entries would change the result")]
    Reduced(String),
    /// A softmax runs over the axis.
    #[error("a softmax runs over it")]
    Softmax,
    /// The axis is a spatial or temporal one that a window slides over.
    #[error("a window slides over it")]
    Spatial,
    /// Computed indices pick from the axis.
    #[error("computed or reordering indices pick from it")]
    Indexed,
    /// Its extent is used as a number.
    #[error("its extent is used as a number")]
    Counted,
    /// The axis is sliced with a step, padded or repeated.
    #[error("{0} rearranges it")]
    Rearranged(String),
    /// Two structures of the axis have no common refinement.
    #[error("it is {0} here and {1} there")]
    Conflict(String, String),
    /// The operator has no typing rule.
    #[error("operator {0} has no typing rule")]
    Unsupported(String),
    /// The model's operator set has changed the operator in a way that its rule does not cover.
    #[error("operator set {since} changed {op} in a way that its rule does not cover")]
    Version {
        /// The operator.
        op: String,
        /// The version of the operator set that changed it.
        since: i64,
    },
    /// The operator's rule does not cover this form of it.
    #[error("{op}: {what}")]
    Form {
        /// The operator.
        op: String,
        /// What about it is not covered.
        what: String,
    },
    /// No shape was observed for a value.
    #[error("its shape could not be observed")]
    Unobserved,
    /// What reads or holds it cannot be rewritten for another extent.
    #[error("it cannot be rewritten: {0}")]
    Uneditable(String),
    /// A model without some of it is refused.
    #[error("without some of it, {0}")]
    Unproven(String),
    /// Only whole attention heads are removed.
    #[error("attention heads are removed whole")]
    HeadDimension,
}
