//! How long models take, where they will run: timed, and not told from what they compute.
//!
//! A model is split into parts whose time goes by what is pruned (`groups`). Each is timed at a grid of sizes beside what it is
//! with everything kept (`survey`), which gives curves by extent (`curve`) and so a [cost](crate::plan::Cost) that plans are made
//! by. A few whole models say what the sum of the parts misses (`calibrate`).

mod bench;
mod calibrate;
mod curve;
mod error;
mod external;
mod grid;
mod groups;
mod interleave;
mod part;
mod predict;
mod serving;
mod stopwatch;
mod survey;
mod table;
mod whole;

pub use bench::{Bench, Served, Timing};
pub use error::LatencyError;
pub use external::{ExternalCommand, ExternalError, ExternalStopwatch, ParseCommandError};
pub use predict::{Latency, Round, Step, Survey};
pub use serving::{Serving, ServingError};
pub use stopwatch::{Effort, EngineStopwatch, Feed, Lap, MeasureError, Stopwatch};
pub(crate) use survey::Surveyor;
pub use table::{Table, TableError};
pub(crate) use whole::WholeTimer;

fn picoseconds(seconds: f64) -> u64 {
    (seconds * 1e12).round() as u64
}

fn seconds(picoseconds: u64) -> f64 {
    picoseconds as f64 / 1e12
}
