//! Second moments: sums over calibration samples that say all that axes, orders of elimination and least squares need to know.

mod dense;
mod gram;
mod regression;
mod strips;

pub use dense::DenseValues;
pub(crate) use gram::{GramStats, Sum, measure, square};
pub use regression::{Correction, RegressionStats};
pub(crate) use strips::strips;
