//! Two models timed against each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Effort, Feed, MeasureError, Stopwatch,
    interleave::{Track, quantile, race},
};
use crate::onnx::proto::ModelProto;

/// How long one model takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Half of the runs took at most so many milliseconds.
    pub p50_ms: f64,
    /// 95 of 100 runs took at most so many milliseconds.
    pub p95_ms: f64,
    /// What a run takes where nothing else goes on, in milliseconds: the median over blocks of runs of the least of each.
    pub quiet_ms: f64,
    /// Samples per second, at the first of these times.
    pub samples_per_second: f64,
    /// Runs that were timed.
    pub runs: usize,
}

/// The dense and the pruned model, timed in turns on the same inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// What the times hold for: processor, runtime, device and threads.
    pub device: String,
    /// The shapes of the inputs.
    pub inputs: Vec<Served>,
    /// Samples per run.
    pub batch: usize,
    /// The dense model.
    pub dense: Timing,
    /// The pruned model.
    pub pruned: Timing,
    /// How long the pruned model takes as a share of what the dense one does: the median over blocks that stand side by side.
    pub share: f64,
    /// One over that.
    pub speedup: f64,
}

/// An input, and the shape at which it was served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
}

/// How much a whole model is worth: some seconds, and five blocks of those that take longer.
pub(super) const WHOLE: Effort = Effort {
    warm_up: 2,
    evict: 0,
    least: 5,
    most: 400,
    time: Duration::from_secs(5),
    block: Duration::from_millis(80),
};

impl Bench {
    /// Times a dense and a pruned model on `feed`, which holds `batch` samples.
    ///
    /// # Errors
    /// When one does not load or run.
    pub fn of(
        stopwatch: &dyn Stopwatch,
        dense: &ModelProto,
        pruned: &ModelProto,
        feed: &Feed,
        batch: usize,
    ) -> Result<Self, MeasureError> {
        let laps = [dense, pruned].map(|model| stopwatch.ready(model, feed.clone()));
        let mut laps = laps.into_iter().collect::<Result<Vec<_>, _>>()?;
        let [dense, pruned] = laps.as_mut_slice() else { return Err(MeasureError::Instant) };
        let tracks = race(&mut [&mut **dense, &mut **pruned], stopwatch.worth(WHOLE))?;
        let [dense, pruned] = tracks.as_slice() else { return Err(MeasureError::Instant) };
        let share = pruned.relative_to(dense);
        let served =
            feed.iter().map(|(name, tensor)| Served { name: name.clone(), shape: tensor.shape().to_vec() });
        Ok(Self {
            device: stopwatch.device(),
            inputs: served.collect(),
            batch,
            dense: Timing::of(dense, batch),
            pruned: Timing::of(pruned, batch),
            share,
            speedup: 1.0 / share,
        })
    }
}

impl Timing {
    fn of(track: &Track, batch: usize) -> Self {
        let p50 = quantile(&track.runs, 0.5);
        Self {
            p50_ms: 1e3 * p50,
            p95_ms: 1e3 * quantile(&track.runs, 0.95),
            quiet_ms: 1e3 * track.quiet(),
            samples_per_second: batch as f64 / p50,
            runs: track.runs.len(),
        }
    }
}
