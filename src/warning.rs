//! Warnings: what a user has to know although the job was done.
//!
//! A warning has a code, which programs can rely on, and a sentence for people. It goes to stderr as soon as it is known,
//! quiet or not, and into the report.

use serde::{Deserialize, Serialize};

use crate::named::named;

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WarningCode {
    /// The calibration inputs are made up: scores come from noise.
    SyntheticData,
    /// There are too few calibration samples to rank units by.
    FewSamples,
    /// Samples are the same over and over, or hold the same number everywhere.
    ConstantSamples,
    /// The outputs of the dense model do not vary with the sample, so that nothing can be judged by them.
    ConstantOutputs,
    /// Two halves of the evidence rank units differently: the ranking is little better than chance.
    UnstableScores,
    /// Gradients were not finite somewhere; what they would have scored was scored otherwise.
    NonFiniteGradients,
    /// A node could not follow a removal, so that its dimension keeps its extent.
    FrozenDimension,
    /// Layers could not be refitted, and stay as they were proven.
    RecoveryFailed,
    /// Positions were to be merged and cannot be.
    PositionsNotMerged,
    /// Nothing said how images are preprocessed, and a guess was made.
    AssumedPreprocessing,
}

named!(
    WarningCode,
    "the code of a warning",
    [
        (SyntheticData, "synthetic-data", "The calibration inputs are made up."),
        (FewSamples, "few-samples", "There are too few calibration samples."),
        (ConstantSamples, "constant-samples", "Samples are the same over and over."),
        (ConstantOutputs, "constant-outputs", "The outputs of the dense model do not vary with the sample."),
        (UnstableScores, "unstable-scores", "The ranking of units is little better than chance."),
        (NonFiniteGradients, "non-finite-gradients", "Gradients were not finite somewhere."),
        (FrozenDimension, "frozen-dimension", "A dimension could not be pruned after all."),
        (RecoveryFailed, "recovery-failed", "Layers could not be refitted."),
        (PositionsNotMerged, "positions-not-merged", "Positions were to be merged and cannot be."),
        (AssumedPreprocessing, "assumed-preprocessing", "Nothing said how images are preprocessed."),
    ]
);

/// One thing that the user has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What it is about.
    pub code: WarningCode,
    /// A sentence for people, which says what to do.
    pub message: String,
}

impl Warning {
    /// A warning of this kind.
    pub fn new(code: WarningCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "warning[{}]: {}", self.code, self.message)
    }
}
