//! What tells how long models take.

use std::time::Duration;

use super::ExternalError;
use crate::{
    onnx::proto::ModelProto,
    runtime::{Engine, RuntimeError, Session},
    tensor::Tensor,
};

/// Tensors by the names of inputs.
pub type Feed = Vec<(String, Tensor)>;

/// How much is worth knowing how long a model takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Runs before those that count: memory is allocated, kernels are chosen, caches are filled.
    pub warm_up: usize,
    /// Blocks of runs of each model, at least.
    pub least: usize,
    /// Blocks of runs of each model, at most.
    pub most: usize,
    /// Once the least is done, no block begins when the runs have taken as long.
    pub time: Duration,
    /// A block is of as many runs as take about this.
    pub block: Duration,
    /// Bytes that are read before each run, so that caches hold what they would where other work of that size goes on in between.
    pub evict: usize,
}

/// Something that times models: an engine in this process, a program that runs them elsewhere.
pub trait Stopwatch {
    /// What times hold for: processor, runtime with version, device and threads. Times of one device say nothing of another.
    fn device(&self) -> String;

    /// Whether times drift while it measures, by what else the machine does: then only models that take turns are compared.
    fn drifts(&self) -> bool {
        true
    }

    /// What is worth doing of this, where runs are dear.
    fn worth(&self, effort: Effort) -> Effort {
        effort
    }

    /// Makes a model ready to be timed on inputs that fit it.
    ///
    /// # Errors
    /// When it cannot be loaded.
    fn ready(&self, model: &ModelProto, feed: Feed) -> Result<Box<dyn Lap + '_>, MeasureError>;
}

/// A model that is ready to be timed.
pub trait Lap {
    /// Runs so often, and says how long each run took.
    ///
    /// # Errors
    /// When it does not run.
    fn run(&mut self, times: usize) -> Result<Vec<Duration>, MeasureError>;
}

/// Why it is not known how long a model takes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A program that times models did not.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// A run took no time at all.
    #[error("the time of the model could not be told: its runs took no time")]
    Instant,
}

impl MeasureError {
    /// Whether no other model could be timed either.
    pub(super) fn is_of_the_stopwatch(&self) -> bool {
        match self {
            Self::Runtime(error) => matches!(error, RuntimeError::Cancelled),
            Self::External(error) => matches!(error, ExternalError::Start { .. } | ExternalError::Write(_)),
            Self::Instant => false,
        }
    }
}

/// An engine in this process.
pub struct EngineStopwatch<'e>(pub &'e dyn Engine);

impl Stopwatch for EngineStopwatch<'_> {
    fn device(&self) -> String {
        format!("{}, {}", processor(), self.0.speed_class())
    }

    fn ready(&self, model: &ModelProto, feed: Feed) -> Result<Box<dyn Lap + '_>, MeasureError> {
        Ok(Box::new(Ready { session: self.0.load_to_time(model)?, feed }))
    }
}

struct Ready {
    session: Box<dyn Session>,
    feed: Feed,
}

impl Lap for Ready {
    fn run(&mut self, times: usize) -> Result<Vec<Duration>, MeasureError> {
        Ok(self.session.time(&self.feed, times)?)
    }
}

/// The model of the processor, as far as the system tells.
fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    named.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
