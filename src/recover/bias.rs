//! Least squares for biases alone.

use super::{Corrected, Fit, Mode, RecoverContext, RecoverError, Recovery, layerwise, pass::LeastSquares};
use crate::{catalog::Entry, settings::SettingValues};

/// Biases take over.
pub const BIAS: Mode = Mode::of(&BiasRecovery);

pub(super) struct BiasRecovery;

impl Entry for BiasRecovery {
    fn id(&self) -> &'static str {
        "bias"
    }

    fn about(&self) -> &'static str {
        "Biases alone are corrected: they take over the mean of what was removed."
    }
}

impl Recovery for BiasRecovery {
    fn run(
        &self,
        cx: &RecoverContext<'_>,
        _: &SettingValues,
        fit: Fit<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Corrected, RecoverError> {
        layerwise::run(cx, LeastSquares { weights: false, ridge: None }, fit, progress)
    }
}
