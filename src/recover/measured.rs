//! What is measured of a layer on the calibration samples.

use ndarray::Array2;

use super::layer::Layer;
use crate::stats::RegressionStats;

/// What was measured of a layer.
pub(super) struct Measured {
    /// Of the samples that are not held out.
    pub training: RegressionStats,
    /// Of those that are.
    pub held_out: RegressionStats,
    /// Sum of squares of the dense waypoint about its mean, on samples that are held out.
    pub variance: f64,
}

/// What is measured of a layer, batch by batch.
pub(super) struct Sums {
    measured: Measured,
    /// Of what the dense model has, on samples that are held out.
    pub spread: Spread,
    /// Whether all batches had the positions that were observed.
    pub steady: bool,
}

impl Sums {
    pub fn new(layer: &Layer, entries: usize) -> Self {
        let (groups, features) = (layer.linear.groups, layer.gain.len());
        let zero = RegressionStats::zero(groups, entries, features / groups);
        let measured = Measured { training: zero.clone(), held_out: zero, variance: 0.0 };
        Self { measured, spread: Spread::new(features), steady: true }
    }

    /// The moments that a batch is added to.
    pub fn part(&mut self, held_out: bool) -> &mut RegressionStats {
        if held_out { &mut self.measured.held_out } else { &mut self.measured.training }
    }

    /// What came of it; nothing where positions vary among batches.
    pub fn measured(self) -> Option<Measured> {
        self.steady.then(|| Measured { variance: self.spread.total(), ..self.measured })
    }
}

/// Sums that give a variance.
pub(super) struct Spread {
    rows: f64,
    sums: Vec<f64>,
    squares: f64,
}

impl Spread {
    fn new(features: usize) -> Self {
        Self { rows: 0.0, sums: vec![0.0; features], squares: 0.0 }
    }

    pub fn add(&mut self, rows: &Array2<f32>) {
        self.rows += rows.nrows() as f64;
        for row in rows.outer_iter() {
            for (sum, x) in self.sums.iter_mut().zip(row) {
                *sum += f64::from(*x);
                self.squares += f64::from(*x).powi(2);
            }
        }
    }

    /// Sum of squares about the mean.
    fn total(&self) -> f64 {
        let means: f64 = self.sums.iter().map(|s| s * s / self.rows.max(1.0)).sum();
        (self.squares - means).max(0.0)
    }
}
