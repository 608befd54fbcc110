//! How long models take, where they will run: timed, and not told from what they compute.

mod bench;
mod interleave;
mod serving;
mod stopwatch;

pub use bench::{Bench, Served, Timing};
pub use serving::{Serving, ServingError};
pub use stopwatch::{Effort, EngineStopwatch, Feed, Lap, MeasureError, Stopwatch};
