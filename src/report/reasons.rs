//! Reasons in reports: a code for programs beside the sentence for people.

use serde::{Deserialize, Serialize};

use crate::{
    recover::{self, LayerRecovery, Mode, Outcome},
    rotate,
    typing::Pinned,
    widths::{self, Pin},
};

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// For programs, in kebab-case.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Why an axis cannot be pruned, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReason {
    /// The node, input or output that it is due to.
    pub at: String,
    /// For programs, in kebab-case.
    pub code: String,
    /// For people.
    pub message: String,
}

/// An axis of weights that cannot be pruned, with every reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedAxis {
    /// After the layer that makes it.
    pub name: String,
    /// Its extent.
    pub size: usize,
    /// Why.
    pub reasons: Vec<PinReason>,
}

/// What became of the dimensions of attention heads before they were scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RotationReport {
    /// Dimensions that were rotated to their principal components.
    pub rotated: Vec<String>,
    /// Those that were not, and why.
    pub left: Vec<LeftDimension>,
    /// The largest difference between the outputs before and after, relative to the output's largest value; absent where nothing
    /// was rotated.
    pub difference: Option<f64>,
}

/// A dimension of heads that was not rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftDimension {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: Reason,
}

/// What recovery did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// What was allowed to change.
    pub mode: Mode,
    /// One entry per layer that pruning touches, in the order of the network.
    pub layers: Vec<LayerReport>,
    /// Samples that were held out.
    pub held_out: usize,
    /// Distance of the outputs from the dense model's before, over samples that were held out.
    #[serde(deserialize_with = "crate::numbers::number_or_null::deserialize")]
    pub before: f64,
    /// The same after recovery by the other samples.
    #[serde(deserialize_with = "crate::numbers::number_or_null::deserialize")]
    pub after: f64,
    /// Parameters of biases that layers were given.
    pub added: u64,
    /// Whether the recovered model came out worse, and was discarded.
    pub undone: bool,
}

/// How one layer fared. What was not measured is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// The layer's name.
    pub name: String,
    /// Entries that it sums over.
    pub entries: Option<usize>,
    /// Positions that were measured.
    pub positions: Option<usize>,
    /// Error on held-out samples before, relative to the variance of the dense model's values, with earlier layers corrected.
    pub before: Option<f64>,
    /// Error after.
    pub after: Option<f64>,
    /// What was done: `refitted`, `shifted` (the bias alone) or `left`.
    pub outcome: String,
    /// The ridge of a refit, relative to the mean variance of what the layer reads.
    pub ridge: Option<f64>,
    /// Why the layer was left as it was.
    pub reason: Option<Reason>,
}

impl From<&Pin> for PinReason {
    fn from(pin: &Pin) -> Self {
        let message = pin.reason.to_string();
        Self { at: pin.at.clone(), code: pin_code(&pin.reason).to_owned(), message }
    }
}

impl std::fmt::Display for PinReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.at)
    }
}

impl From<&Pinned> for PinnedAxis {
    fn from(pinned: &Pinned) -> Self {
        let reasons = pinned.reasons.iter().map(Into::into).collect();
        Self { name: pinned.name.clone(), size: pinned.size, reasons }
    }
}

impl From<&rotate::Rotation> for RotationReport {
    fn from(rotation: &rotate::Rotation) -> Self {
        let left = rotation.left.iter().map(|(name, reason)| {
            let reason = Reason { code: rotation_code(*reason).to_owned(), message: reason.to_string() };
            LeftDimension { name: name.clone(), reason }
        });
        Self {
            rotated: rotation.rotated.clone(),
            left: left.collect(),
            difference: (!rotation.rotated.is_empty()).then_some(rotation.difference),
        }
    }
}

impl From<&recover::RecoveryReport> for RecoveryReport {
    fn from(recovery: &recover::RecoveryReport) -> Self {
        let recover::RecoveryReport { mode, layers, held_out, before, after, added, undone, .. } = recovery;
        let layers = layers.iter().map(Into::into).collect();
        let (mode, held_out, added, undone) = (*mode, *held_out, *added, *undone);
        Self { mode, layers, held_out, before: *before, after: *after, added, undone }
    }
}

impl From<&LayerRecovery> for LayerReport {
    fn from(layer: &LayerRecovery) -> Self {
        // Every layer that was measured sums over something.
        let measured = layer.entries > 0;
        let (outcome, ridge, reason) = match &layer.outcome {
            Outcome::Refitted { ridge } => ("refitted", Some(*ridge), None),
            Outcome::Shifted => ("shifted", None, None),
            Outcome::Left(why) => {
                let reason = Reason { code: recovery_code(why).to_owned(), message: why.to_string() };
                ("left", None, Some(reason))
            }
        };
        Self {
            name: layer.name.clone(),
            entries: measured.then_some(layer.entries),
            positions: measured.then_some(layer.positions),
            before: measured.then_some(layer.before),
            after: measured.then_some(layer.after),
            outcome: outcome.to_owned(),
            ridge,
            reason,
        }
    }
}

fn pin_code(reason: &widths::PinReason) -> &'static str {
    use widths::PinReason as R;
    match reason {
        R::Input => "input",
        R::Output => "output",
        R::Normalised => "normalised",
        R::Reduced(_) => "reduced",
        R::Softmax => "softmax",
        R::Spatial => "spatial",
        R::Indexed => "indexed",
        R::Counted => "counted",
        R::Rearranged(_) => "rearranged",
        R::Conflict(..) => "conflict",
        R::Unsupported(_) => "unsupported",
        R::Version { .. } => "version",
        R::Form { .. } => "form",
        R::Unobserved => "unobserved",
        R::Uneditable(_) => "uneditable",
        R::Unproven(_) => "unproven",
        R::HeadDimension => "head-dimension",
    }
}

fn rotation_code(reason: rotate::RotateRefusal) -> &'static str {
    use rotate::RotateRefusal as R;
    match reason {
        R::Heads => "heads",
        R::Shared => "shared",
        R::Precision => "precision",
        R::Moments => "moments",
        R::Memory => "memory",
        R::Outputs => "outputs",
    }
}

fn recovery_code(reason: &recover::LeftReason) -> &'static str {
    use recover::LeftReason as R;
    match reason {
        R::Form { .. } => "form",
        R::Computed => "computed",
        R::Shared => "shared",
        R::Unobserved => "unobserved",
        R::Samples => "samples",
        R::Positions => "positions",
        R::NoGain => "no-gain",
        R::Failed { .. } => "failed",
    }
}
