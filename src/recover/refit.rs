//! Least squares for weights and biases.

use super::{Corrected, Fit, Mode, RecoverContext, RecoverError, Recovery, layerwise, pass::LeastSquares};
use crate::{
    catalog::Entry,
    settings::{self, Declared, Setting, SettingValues},
};

/// Weights and biases take over.
pub const REFIT: Mode = Mode::of(&RefitRecovery);

/// The ridge, relative to the mean variance of what a layer reads; `None`: chosen per layer on held-out samples.
pub const RIDGE: Setting<Option<f64>> = Setting {
    name: "ridge",
    metavar: Some("auto|X"),
    help: "Ridge of the least squares, relative to the mean variance of what a layer reads; auto: chosen on held-out samples",
    default: None,
    parse: settings::auto_or_positive,
    chooses: false,
};

pub(super) struct RefitRecovery;

impl Entry for RefitRecovery {
    fn id(&self) -> &'static str {
        "refit"
    }

    fn about(&self) -> &'static str {
        "Weights and biases are refitted, layer by layer, by least squares on the calibration samples."
    }

    fn settings(&self) -> &'static [&'static dyn Declared] {
        &[&RIDGE]
    }
}

impl Recovery for RefitRecovery {
    fn refits(&self) -> bool {
        true
    }

    fn run(
        &self,
        cx: &RecoverContext<'_>,
        settings: &SettingValues,
        fit: Fit<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Corrected, RecoverError> {
        let ridge = settings.get(&RIDGE);
        layerwise::run(cx, LeastSquares { weights: true, ridge }, fit, progress)
    }
}
