//! How long models take: the median of runs in turn.

use std::time::{Duration, Instant};

use crate::{
    runtime::{RuntimeError, Session},
    tensor::Tensor,
};

/// Runs of each model before any is timed.
const WARM: usize = 3;
/// Rounds that are timed at least, and at most.
const ROUNDS: std::ops::RangeInclusive<usize> = 5..=200;
/// Rounds go on so long, and end after so long however few there were.
const ENOUGH: Duration = Duration::from_secs(1);

/// The median time of a run of each of some models on `feed`, in milliseconds. They run in turn, each round in the other order, so
/// that what else the machine does slows all of them alike.
///
/// # Errors
/// When one does not run.
pub(crate) fn milliseconds<const N: usize>(
    sessions: &mut [Box<dyn Session>; N],
    feed: &[(String, Tensor)],
) -> Result<[f64; N], RuntimeError> {
    for _ in 0..WARM {
        for session in sessions.iter_mut() {
            session.run(feed)?;
        }
    }
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    let start = Instant::now();
    for round in 0..*ROUNDS.end() {
        if round >= *ROUNDS.start() && start.elapsed() >= ENOUGH {
            break;
        }
        for turn in 0..N {
            let place = if round % 2 == 0 { turn } else { N - 1 - turn };
            let (Some(session), Some(times)) = (sessions.get_mut(place), times.get_mut(place)) else {
                continue;
            };
            let start = Instant::now();
            session.run(feed)?;
            times.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    Ok(times.map(median))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let (low, high) = (times.get(times.len().saturating_sub(1) / 2), times.get(times.len() / 2));
    low.zip(high).map_or(f64::NAN, |(low, high)| (low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }
}
