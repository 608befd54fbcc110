//! The time that stages take.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Time of one stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// The same as a multiple of one forward pass over the samples; absent where no forward pass was measured.
    pub forwards: Option<f64>,
}

/// Collects the time of stages.
#[derive(Debug, Default)]
pub struct Clock {
    stages: RefCell<Vec<(&'static str, Duration)>>,
}

impl Clock {
    /// Runs a stage and remembers how long it took; what runs twice, together.
    pub fn time<T>(&self, name: &'static str, stage: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = stage();
        let took = start.elapsed();
        let mut stages = self.stages.borrow_mut();
        match stages.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total += took,
            None => stages.push((name, took)),
        }
        result
    }

    /// The stages, as multiples of the one called `forward`.
    pub fn stages(&self, forward: &str) -> Vec<Stage> {
        let stages = self.stages.borrow();
        let unit = stages.iter().find(|(name, _)| *name == forward).map(|(_, d)| d.as_secs_f64());
        let unit = unit.filter(|u| *u > 0.0);
        let rows = stages.iter().map(|(name, duration)| {
            let seconds = duration.as_secs_f64();
            Stage { name: (*name).to_owned(), seconds, forwards: unit.map(|u| seconds / u) }
        });
        rows.collect()
    }
}
