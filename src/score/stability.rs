//! How sure a ranking of units is.

use serde::{Deserialize, Serialize};

use crate::{
    typing::Kind,
    warning::{Warning, WarningCode},
};

/// How much two halves of what a ranking was estimated from agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// Probes per sample.
    pub probes: usize,
    /// Spearman's rank correlation of the two halves' scores: the least over the kinds of units.
    #[serde(deserialize_with = "crate::numbers::number_or_null::deserialize")]
    pub agreement: f64,
    /// Standard error of a score relative to it: the median over all units.
    pub standard_error: f64,
}

/// Halves that agree this far make a whole that agrees with the truth to `√(2r / (1 + r))`, more than 0.99 (Spearman-Brown).
const STABLE: f64 = 0.98;
/// Halves that agree less make a whole that is little better than chance.
const CHANCE: f64 = 0.5;

impl Stability {
    /// That of tallies, one per dimension, whose kinds are `kinds`.
    pub(super) fn of(kinds: &[Kind], tallies: &[Tally], probes: usize) -> Self {
        let sound = || kinds.iter().zip(tallies).filter(|(_, tally)| !tally.is_discarded());
        let mut present: Vec<Kind> = sound().map(|(kind, _)| *kind).collect();
        present.sort();
        present.dedup();
        let agreement = present.iter().filter_map(|kind| {
            let of_kind = || sound().filter(|(k, _)| *k == kind).map(|(_, tally)| tally);
            let half = |h: usize| of_kind().flat_map(|tally| tally.half_means(h)).collect::<Vec<_>>();
            spearman(&half(0), &half(1))
        });
        let mut errors: Vec<f64> = sound().flat_map(|(_, tally)| tally.relative_errors()).collect();
        errors.sort_by(f64::total_cmp);
        Self {
            probes,
            agreement: agreement.fold(1.0, f64::min),
            standard_error: errors.get(errors.len() / 2).copied().unwrap_or(0.0),
        }
    }

    /// Whether more probes would hardly change the ranking.
    pub fn is_stable(&self) -> bool {
        self.agreement >= STABLE
    }

    /// The warning that the ranking is little better than chance.
    pub fn warning(&self) -> Option<Warning> {
        let message = format!(
            "two halves of the evidence rank units with a correlation of {:.3}, which is little better than chance: give more or \
             better samples, or draw more probes",
            self.agreement
        );
        (self.agreement.is_nan() || self.agreement < CHANCE)
            .then(|| Warning::new(WarningCode::UnstableScores, message))
    }
}

/// Mean squares of one dimension's units, over probes and samples.
pub(super) struct Tally {
    /// Sum of squares, per half.
    squares: [Vec<f64>; 2],
    /// Samples, per half.
    samples: [usize; 2],
    /// Sum of fourth powers, for the standard error.
    fourths: Vec<f64>,
    /// How many squares were added.
    count: usize,
    /// Whether something was seen that is no number, so that nothing of it counts.
    discarded: bool,
}

impl Tally {
    pub fn new(units: usize) -> Self {
        let zeros = vec![0.0; units];
        Self {
            squares: [zeros.clone(), zeros.clone()],
            samples: [0; 2],
            fourths: zeros,
            count: 0,
            discarded: false,
        }
    }

    /// Gives up what was and will be seen.
    pub fn discard(&mut self) {
        self.discarded = true;
    }

    pub fn is_discarded(&self) -> bool {
        self.discarded
    }

    pub fn units(&self) -> usize {
        self.fourths.len()
    }

    /// Adds what one probe saw of `samples` samples, the first of which is `sample`. Halves take every other sample, in turns.
    pub fn add(&mut self, probe: usize, sample: usize, moved: &[f64], samples: usize) {
        let half = (probe + sample) % 2;
        for (unit, m) in moved.iter().enumerate() {
            self.squares[half][unit] += m * m;
            self.fourths[unit] += m.powi(4);
        }
        self.samples[half] += samples;
        self.count += 1;
    }

    /// Mean square of each unit, per sample.
    pub fn means(&self) -> Vec<f64> {
        let samples = self.samples.iter().sum::<usize>().max(1) as f64;
        self.squares[0].iter().zip(&self.squares[1]).map(|(a, b)| (a + b) / samples).collect()
    }

    fn half_means(&self, half: usize) -> Vec<f64> {
        let samples = self.samples[half].max(1) as f64;
        self.squares[half].iter().map(|s| s / samples).collect()
    }

    /// Standard error over mean, per unit that has a mean.
    fn relative_errors(&self) -> Vec<f64> {
        let n = self.count.max(1) as f64;
        let squares = self.squares[0].iter().zip(&self.squares[1]).map(|(a, b)| (a + b) / n);
        let moments = squares.zip(&self.fourths).filter(|(mean, _)| *mean > 0.0);
        moments.map(|(mean, fourth)| ((fourth / n - mean * mean).max(0.0) / n).sqrt() / mean).collect()
    }
}

/// Spearman's rank correlation; `None` for fewer than two values, when all are equal, and when one is not a number.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.iter().chain(b).any(|x| x.is_nan()) {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        both += (x - mean_a) * (y - mean_b);
        of_a += (x - mean_a).powi(2);
        of_b += (y - mean_b).powi(2);
    }
    (of_a > 0.0 && of_b > 0.0).then(|| both / (of_a * of_b).sqrt())
}

/// Ranks in the total order of IEEE 754, where equal values share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        // Equal in the order that they are sorted by: anything is equal to itself then, and the loop ends.
        let equal = |i: &&usize| values[**i].total_cmp(&values[order[start]]).is_eq();
        let ties = order[start..].iter().take_while(equal).count();
        for &i in &order[start..start + ties] {
            ranks[i] = start as f64 + (ties - 1) as f64 / 2.0;
        }
        start += ties;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_sees_order_alone_and_shares_ties() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[1.0, 10.0, 100.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(ranks(&[5.0, 1.0, 5.0]), [1.5, 0.0, 1.5]);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn ranking_ends_whatever_is_ranked() {
        let nan = f64::NAN;
        assert_eq!(ranks(&[nan, 1.0, nan, f64::INFINITY]), [2.5, 0.0, 2.5, 1.0]);
        assert_eq!(ranks(&[-nan, f64::NEG_INFINITY]), [0.0, 1.0]);
        assert_eq!(spearman(&[nan, 1.0, 2.0], &[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn equal_squares_leave_no_error() {
        let mut tally = Tally::new(1);
        (0..4).for_each(|i| tally.add(0, i, &[2.0], 1));
        assert_eq!(tally.means(), [4.0]);
        assert_eq!(tally.relative_errors(), [0.0]);
    }

    #[test]
    fn a_ranking_by_chance_is_warned_of() {
        let code = |agreement| {
            let stability = Stability { probes: 8, agreement, standard_error: 0.1 };
            stability.warning().map(|warning| warning.code)
        };
        assert_eq!(code(0.5), None);
        for chance in [0.49, -0.429, f64::NAN] {
            assert_eq!(code(chance), Some(WarningCode::UnstableScores));
        }
    }
}
