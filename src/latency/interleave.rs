//! Timing several models on a machine that does other things as well.
//!
//! What disturbs a run makes it longer, and comes and goes: other programs, the clock of the processor. So models take turns, in
//! blocks of a few runs, and what is compared are blocks that stand side by side. The least of a block is what disturbed it least
//! (Chen & Revels, Robust benchmarking in noisy environments, 2016); the median over blocks drops those that were disturbed
//! throughout.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use super::{Effort, Lap, MeasureError};

/// Runs in a block, at most.
const BLOCK: usize = 100;

/// The same where caches are cleared before each run.
const COLD_BLOCK: usize = 4;

/// Bytes of a line of a cache.
const LINE: usize = 64;

/// How long the runs of one model took, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// Of each run.
    pub runs: Vec<f64>,
    /// The least of each block of runs.
    pub blocks: Vec<f64>,
}

impl Track {
    /// What a run takes where nothing else goes on: the median over blocks of the least run.
    pub fn quiet(&self) -> f64 {
        quantile(&self.blocks, 0.5)
    }

    /// How long it takes as a multiple of what another model takes, that took turns with it: the median over pairs of blocks.
    pub fn relative_to(&self, other: &Self) -> f64 {
        let pairs = self.blocks.iter().zip(&other.blocks);
        quantile(&pairs.map(|(own, other)| own / other).collect::<Vec<_>>(), 0.5)
    }
}

/// The value below which this share of `values` lies; between two, in proportion. 0 where there are none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * sorted.len().saturating_sub(1) as f64;
    let at = |index: usize| sorted.get(index).or(sorted.last()).copied().unwrap_or(0.0);
    let below = at(place as usize);
    below + place.fract() * (at(place as usize + 1) - below)
}

/// Times models in turns.
///
/// # Errors
/// When one does not run.
pub fn race(laps: &mut [&mut (dyn Lap + '_)], effort: Effort) -> Result<Vec<Track>, MeasureError> {
    let mut tracks = vec![Track::default(); laps.len()];
    let mut runs = Vec::with_capacity(laps.len());
    for lap in laps.iter_mut() {
        let warm = lap.run(effort.warm_up)?;
        let took = warm.iter().min().map_or(f64::INFINITY, Duration::as_secs_f64);
        let most = if effort.evict > 0 { COLD_BLOCK } else { BLOCK };
        runs.push(((effort.block.as_secs_f64() / took).ceil() as usize).clamp(1, most));
    }
    let other_work = vec![1u8; effort.evict];
    let start = Instant::now();
    let mut spent = Duration::ZERO;
    for block in 0..effort.most.max(effort.least) {
        // Runs of a stopwatch that only tells times take none here.
        if block >= effort.least && spent.max(start.elapsed()) >= effort.time {
            break;
        }
        // There and back, so that none always comes first.
        let forth = 0..laps.len();
        let order: Vec<usize> = if block % 2 == 0 { forth.collect() } else { forth.rev().collect() };
        for index in order {
            let took = match effort.evict {
                0 => laps[index].run(runs[index])?,
                _ => cold_runs(laps[index], runs[index], &other_work)?,
            };
            let least = took.iter().min().ok_or(MeasureError::Instant)?.as_secs_f64();
            if least <= 0.0 {
                return Err(MeasureError::Instant);
            }
            tracks[index].blocks.push(least);
            tracks[index].runs.extend(took.iter().map(Duration::as_secs_f64));
            spent += took.iter().sum::<Duration>();
        }
    }
    Ok(tracks)
}

/// Runs so often, each time after other bytes were read.
fn cold_runs(
    lap: &mut (dyn Lap + '_),
    times: usize,
    other_work: &[u8],
) -> Result<Vec<Duration>, MeasureError> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        black_box(other_work.iter().step_by(LINE).fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
        took.extend(lap.run(1)?);
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes these times, over and over.
    struct Scripted(Vec<u64>, usize);

    impl Lap for Scripted {
        fn run(&mut self, times: usize) -> Result<Vec<Duration>, MeasureError> {
            let next = |_| {
                self.1 += 1;
                Duration::from_micros(self.0[(self.1 - 1) % self.0.len()])
            };
            Ok((0..times).map(next).collect())
        }
    }

    fn effort(time: u64) -> Effort {
        Effort {
            warm_up: 2,
            evict: 0,
            least: 5,
            most: 50,
            time: Duration::from_millis(time),
            block: Duration::from_millis(2),
        }
    }

    #[test]
    fn disturbed_runs_do_not_count() {
        // Of two runs in three, one is disturbed.
        let noisy = |quiet: u64| Scripted(vec![quiet, 3 * quiet, 2 * quiet], 0);
        let tracks = race(&mut [&mut noisy(600), &mut noisy(300)], effort(1000)).unwrap();
        assert_eq!(tracks[0].quiet(), 600e-6);
        assert!((tracks[1].relative_to(&tracks[0]) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn slow_models_are_timed_a_few_times_and_fast_ones_in_blocks() {
        let (mut slow, mut fast) = (Scripted(vec![900_000], 0), Scripted(vec![100], 0));
        let tracks = race(&mut [&mut slow, &mut fast], effort(10)).unwrap();
        assert_eq!((tracks[0].runs.len(), tracks[1].runs.len()), (5, 100));
        assert_eq!((tracks[0].blocks.len(), tracks[1].blocks.len()), (5, 5));
    }

    #[test]
    fn caches_are_cleared_before_each_of_a_few_runs() {
        let cold = Effort { evict: 1 << 20, ..effort(10) };
        let tracks = race(&mut [&mut Scripted(vec![100], 0)], cold).unwrap();
        assert_eq!(tracks[0].runs.len(), COLD_BLOCK * tracks[0].blocks.len());
    }

    #[test]
    fn models_that_take_no_time_are_an_error() {
        let raced = race(&mut [&mut Scripted(vec![0], 0)], effort(1));
        assert!(matches!(raced, Err(MeasureError::Instant)));
    }

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.95), 1.95);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
