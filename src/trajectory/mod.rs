//! The trajectory of features: where it is watched, and how far two runs lie apart on it.

mod distance;
mod waypoint;

pub use distance::{kullback_leibler, manifold, output_distance, relative_l2, unit_gram};
pub use waypoint::{Addend, Head, Path, Waypoint, after_residual, heads, waypoints};
