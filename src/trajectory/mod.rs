//! The trajectory of features: where it is watched, and how far two runs lie apart on it.

mod distance;
mod padding;
mod probe;
mod waypoint;

pub use distance::{divergence, manifold, output_distance, relative_l2, unit_gram};
pub use padding::{Padding, padding};
pub use probe::{Probe, Trajectory};
pub use waypoint::{Addend, Head, Output, Path, Waypoint, after_residual, outputs, waypoints};
