//! The trajectory of features: where it is observed, and the distance of two runs on it.

mod cotangents;
mod distance;
mod padding;
mod waypoint;

pub use cotangents::{RandomCotangents, Trajectory};
pub use distance::{agreement, divergence, manifold, output_distance, relative_l2, unit_gram};
pub use padding::{Padding, padding};
pub use waypoint::{
    Addend, Output, OutputKind, Path, SaidOutput, Waypoint, after_residual, outputs, waypoints,
};
